//! Our own two routes.

use gte_core::TruncationSide;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::openai::Usage;
use super::{Input, TruncationDirection};

/// `POST /v1/embedding`
#[derive(Debug, Deserialize, ToSchema)]
pub struct EmbeddingRequest {
    /// The text.
    pub text: String,
    /// The model's name or id, where the server has several.
    #[serde(default)]
    pub model: Option<String>,
}

/// The answer to `POST /v1/embedding`.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmbeddingResponse<'a> {
    /// The unit vector.
    pub embedding: &'a [f32],
    /// Its length.
    pub dimension: usize,
    /// The model that made it.
    pub model: &'a str,
    /// Tokens that were computed.
    pub tokens: usize,
    /// Whether the text was longer than the model's limit.
    pub truncated: bool,
}

/// `POST /v1/similarity`
#[derive(Debug, Deserialize, ToSchema)]
pub struct SimilarityRequest {
    /// What is compared.
    pub source_text: String,
    /// With what.
    #[schema(min_items = 1, max_items = 2047)]
    pub candidate_texts: Vec<String>,
    /// How many indices `ranking` has; all if left out.
    #[serde(default)]
    pub top_k: Option<usize>,
    /// The model's name or id, where the server has several.
    #[serde(default)]
    pub model: Option<String>,
}

/// The answer to `POST /v1/similarity`.
#[derive(Debug, Serialize, ToSchema)]
pub struct SimilarityResponse {
    /// Cosine of the source with each candidate, in their order.
    pub scores: Vec<f32>,
    /// Candidates by falling score, equal ones in their order.
    pub ranking: Vec<usize>,
}

/// `POST /v1/outputs`
#[derive(Debug, Deserialize, ToSchema)]
pub struct OutputsRequest {
    /// The model's name or id, where the server has several.
    #[serde(default)]
    pub model: Option<String>,
    /// What is embedded.
    pub input: Input,
    /// Which outputs: `dense`, `sparse`, `colbert`. Default: all that the model has.
    #[serde(default)]
    pub outputs: Option<Vec<Output>>,
    /// Length of the dense vectors, for Matryoshka models.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub dimensions: Option<usize>,
    /// The prompt to put before each text, by its name; the model's default if left out.
    #[serde(default)]
    pub prompt_name: Option<String>,
    /// What to put before each text, letter for letter, in place of a prompt of the model.
    #[serde(default)]
    pub prompt: Option<String>,
    /// `query` or `document`: the model's prompt for such texts is put before them, if it has one.
    #[serde(default)]
    pub input_type: Option<String>,
    /// Whether long texts are cut: they are, unless this is false.
    #[serde(default)]
    pub truncate: Option<bool>,
    /// The side that a long text loses.
    #[serde(default, deserialize_with = "super::truncation_direction")]
    #[schema(value_type = Option<TruncationDirection>)]
    pub truncation_direction: Option<TruncationSide>,
}

/// An output of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    /// A unit vector per text.
    Dense,
    /// Weights of token ids.
    Sparse,
    /// A unit vector per token but the first.
    Colbert,
}

/// The answer to `POST /v1/outputs`.
#[derive(Debug, Serialize, ToSchema)]
pub struct OutputsResponse<'a> {
    /// The model that made them.
    pub model: &'a str,
    /// One per text, in order.
    pub data: Vec<TextOutputs>,
    /// Tokens computed.
    pub usage: Usage,
}

/// The outputs of one text; what was not asked for is absent.
#[derive(Debug, Serialize, ToSchema)]
pub struct TextOutputs {
    /// The text's place in the request.
    pub index: usize,
    /// The unit vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense: Option<Vec<f32>>,
    /// Weights of token ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparse: Option<SparseVector>,
    /// A unit vector per token but the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub colbert: Option<Vec<Vec<f32>>>,
}

/// A sparse vector, as Qdrant, Milvus and Pinecone take it.
#[derive(Debug, Serialize, ToSchema)]
pub struct SparseVector {
    /// Token ids in rising order.
    pub indices: Vec<u32>,
    /// As many weights, each above 0.
    pub values: Vec<f32>,
}
