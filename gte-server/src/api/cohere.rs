//! Cohere's `POST /v2/embed` and `/v1/embed`, as its API reference has them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::rerank::Meta;
use super::vectors::Vector;

/// `POST /v2/embed` and `/v1/embed`
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CohereEmbedRequest)]
pub struct EmbedRequest {
    /// The model's name or id; any, where the server has one model alone.
    #[serde(default)]
    pub model: Option<String>,
    /// What is embedded.
    #[serde(default)]
    #[schema(min_items = 1, max_items = 2048)]
    pub texts: Option<Vec<String>>,
    /// The same as content: text alone is read, images are refused.
    #[serde(default)]
    pub inputs: Option<Vec<EmbedInput>>,
    /// Images: refused, for these models read text.
    #[serde(default)]
    pub images: Option<Vec<String>>,
    /// `search_query`, `search_document`, `query` or `document`: the model's prompt for such texts is put before them,
    /// if it has one. `classification` and `clustering`: the model's prompt of that name, if it has one, else its own
    /// default.
    #[serde(default)]
    pub input_type: Option<String>,
    /// How vectors are written: `float`, `int8`, `uint8`, `binary`, `ubinary`, `base64`, one or several. Default:
    /// `float`.
    #[serde(default)]
    #[schema(value_type = Option<Vec<EmbeddingType>>, min_items = 1)]
    pub embedding_types: Option<Vec<String>>,
    /// `END` or `START`: where a long text is cut; `NONE`: it is refused. Default: `END`.
    #[serde(default)]
    #[schema(value_type = Option<Truncate>)]
    pub truncate: Option<String>,
    /// Length of the vectors, for Matryoshka models.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub output_dimension: Option<usize>,
    /// Tokens at which texts are cut: no more than the model takes anyway, so it is refused where it is less.
    #[serde(default)]
    pub max_tokens: Option<usize>,
}

/// How a vector is written.
#[derive(ToSchema)]
#[schema(as = CohereEmbeddingType, rename_all = "lowercase")]
#[allow(dead_code, reason = "read by the macro, for the OpenAPI document")]
pub(crate) enum EmbeddingType {
    Float,
    Int8,
    Uint8,
    Binary,
    Ubinary,
    Base64,
}

/// Where a long text is cut.
#[derive(ToSchema)]
#[schema(as = CohereTruncate, rename_all = "UPPERCASE")]
#[allow(dead_code, reason = "read by the macro, for the OpenAPI document")]
pub(crate) enum Truncate {
    None,
    Start,
    End,
}

/// Content to embed.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CohereEmbedInput)]
pub struct EmbedInput {
    /// Its parts.
    pub content: Vec<EmbedPart>,
}

/// A part of content.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CohereEmbedPart)]
pub struct EmbedPart {
    /// `text`; anything else is refused.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    #[serde(default)]
    pub text: Option<String>,
}

/// The answer to `POST /v2/embed`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CohereEmbedResponse)]
pub struct EmbedResponse {
    /// Its id.
    pub id: String,
    /// `embeddings_by_type`
    pub response_type: &'static str,
    /// The vectors of the texts, in order, by the types that were asked for.
    pub embeddings: ByType,
    /// The texts.
    pub texts: Vec<String>,
    /// What Cohere tells besides.
    pub meta: EmbedMeta,
}

/// The answer to `POST /v1/embed` where no types were asked for.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CohereEmbedFloatsResponse)]
pub struct EmbedFloatsResponse {
    /// Its id.
    pub id: String,
    /// `embeddings_floats`
    pub response_type: &'static str,
    /// The vectors of the texts, in order.
    pub embeddings: Vec<Vector>,
    /// The texts.
    pub texts: Vec<String>,
    /// What Cohere tells besides.
    pub meta: EmbedMeta,
}

/// What `/v1/embed` answers.
#[derive(Serialize, ToSchema)]
#[schema(as = CohereAnyEmbedResponse)]
#[serde(untagged)]
#[allow(dead_code, reason = "read by the macro, for the OpenAPI document")]
pub(crate) enum AnyEmbedResponse {
    ByType(EmbedResponse),
    Floats(EmbedFloatsResponse),
}

/// Vectors by type.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ByType {
    /// f32
    #[serde(skip_serializing_if = "Option::is_none")]
    pub float: Option<Vec<Vector>>,
    /// Integers from −127 to 127.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub int8: Option<Vec<Vector>>,
    /// Integers from 1 to 255.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uint8: Option<Vec<Vector>>,
    /// A bit per value, eight to a number from −128 to 127.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binary: Option<Vec<Vector>>,
    /// A bit per value, eight to a number from 0 to 255.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ubinary: Option<Vec<Vector>>,
    /// f32, little-endian, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base64: Option<Vec<Vector>>,
}

/// What Cohere tells besides vectors.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CohereEmbedMeta)]
pub struct EmbedMeta {
    /// The version of the API, and warnings.
    #[serde(flatten)]
    pub meta: Meta,
    /// What Cohere would bill.
    pub billed_units: BilledUnits,
}

/// What Cohere would bill.
#[derive(Debug, Serialize, ToSchema)]
pub struct BilledUnits {
    /// Tokens of the texts.
    pub input_tokens: usize,
}
