//! Cohere's `POST /v2/embed` and `/v1/embed`, as in its API reference.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::rerank::Meta;
use super::vectors::Vector;

/// `POST /v2/embed` and `/v1/embed`
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CohereEmbedRequest)]
pub struct EmbedRequest {
    /// The model's name or id. Any name is accepted if the server has only one model.
    #[serde(default)]
    pub model: Option<String>,
    /// The texts to embed.
    #[serde(default)]
    #[schema(min_items = 1, max_items = 2048)]
    pub texts: Option<Vec<String>>,
    /// The texts to embed, as content objects. Only text is supported; images are refused.
    #[serde(default)]
    pub inputs: Option<Vec<EmbedInput>>,
    /// Refused: these models read text, not images.
    #[serde(default)]
    pub images: Option<Vec<String>>,
    /// `search_query`, `search_document`, `query` or `document`: the model's prompt for this kind
    /// of text is put before each text, if it has one. `classification` and `clustering`: the
    /// model's prompt of that name, or else its default prompt.
    #[serde(default)]
    pub input_type: Option<String>,
    /// The formats of the vectors, one or several of `float`, `int8`, `uint8`, `binary`, `ubinary`,
    /// `base64`. Default: `float`.
    #[serde(default)]
    #[schema(value_type = Option<Vec<EmbeddingType>>, min_items = 1)]
    pub embedding_types: Option<Vec<String>>,
    /// `END` or `START`: the side on which a long text is truncated. `NONE`: a long text is
    /// refused. Default: `END`.
    #[serde(default)]
    #[schema(value_type = Option<Truncate>)]
    pub truncate: Option<String>,
    /// Length of the vectors, for Matryoshka models.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub output_dimension: Option<usize>,
    /// Length in tokens at which texts are truncated. Only the model's own length is supported, so
    /// a smaller value is refused.
    #[serde(default)]
    pub max_tokens: Option<usize>,
}

/// The format of a vector.
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

/// The side on which a long text is truncated.
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

/// A part of the content.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CohereEmbedPart)]
pub struct EmbedPart {
    /// `text`. Anything else is refused.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    #[serde(default)]
    pub text: Option<String>,
}

/// The response of `POST /v2/embed`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CohereEmbedResponse)]
pub struct EmbedResponse {
    /// The response's id.
    pub id: String,
    /// `embeddings_by_type`
    pub response_type: &'static str,
    /// The vectors of the texts, in order, in each of the requested formats.
    pub embeddings: ByType,
    /// The texts.
    pub texts: Vec<String>,
    /// Further information, as in Cohere's API.
    pub meta: EmbedMeta,
}

/// The response of `POST /v1/embed` if no formats were requested.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CohereEmbedFloatsResponse)]
pub struct EmbedFloatsResponse {
    /// The response's id.
    pub id: String,
    /// `embeddings_floats`
    pub response_type: &'static str,
    /// The vectors of the texts, in order.
    pub embeddings: Vec<Vector>,
    /// The texts.
    pub texts: Vec<String>,
    /// Further information, as in Cohere's API.
    pub meta: EmbedMeta,
}

/// The response of `/v1/embed`.
#[derive(Serialize, ToSchema)]
#[schema(as = CohereAnyEmbedResponse)]
#[serde(untagged)]
#[allow(dead_code, reason = "read by the macro, for the OpenAPI document")]
pub(crate) enum AnyEmbedResponse {
    ByType(EmbedResponse),
    Floats(EmbedFloatsResponse),
}

/// Vectors in each of the requested formats.
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
    /// One bit per value; eight of them form a number from −128 to 127.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binary: Option<Vec<Vector>>,
    /// One bit per value; eight of them form a number from 0 to 255.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ubinary: Option<Vec<Vector>>,
    /// f32, little-endian, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base64: Option<Vec<Vector>>,
}

/// Further information, as in Cohere's API.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CohereEmbedMeta)]
pub struct EmbedMeta {
    /// The API's version and warnings.
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
