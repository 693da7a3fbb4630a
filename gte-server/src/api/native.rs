//! The routes of this server's own API.

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
    /// The model's name or id, if the server has several models.
    #[serde(default)]
    pub model: Option<String>,
}

/// The response of `POST /v1/embedding`.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmbeddingResponse<'a> {
    /// The unit vector.
    pub embedding: &'a [f32],
    /// The number of values in the vector.
    pub dimension: usize,
    /// The model that computed it.
    pub model: &'a str,
    /// Number of tokens computed.
    pub tokens: usize,
    /// Whether the text was truncated because it was longer than the model's limit.
    pub truncated: bool,
}

/// `POST /v1/similarity`
#[derive(Debug, Deserialize, ToSchema)]
pub struct SimilarityRequest {
    /// The text that is compared with the candidates.
    pub source_text: String,
    /// The candidates.
    #[schema(min_items = 1, max_items = 2047)]
    pub candidate_texts: Vec<String>,
    /// Number of indices in `ranking`. Default: all.
    #[serde(default)]
    pub top_k: Option<usize>,
    /// The model's name or id, if the server has several models.
    #[serde(default)]
    pub model: Option<String>,
}

/// The response of `POST /v1/similarity`.
#[derive(Debug, Serialize, ToSchema)]
pub struct SimilarityResponse {
    /// The cosine of the source and each candidate, in the order of the candidates.
    pub scores: Vec<f32>,
    /// Indices of the candidates by descending score; equal scores keep their order.
    pub ranking: Vec<usize>,
}

/// `POST /v1/outputs`
#[derive(Debug, Deserialize, ToSchema)]
pub struct OutputsRequest {
    /// The model's name or id, if the server has several models.
    #[serde(default)]
    pub model: Option<String>,
    /// The texts to embed.
    pub input: Input,
    /// Which outputs: `dense`, `sparse`, `colbert`. Default: all that the model has.
    #[serde(default)]
    pub outputs: Option<Vec<Output>>,
    /// Length of the dense vectors, for Matryoshka models.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub dimensions: Option<usize>,
    /// The name of the prompt to put before each text. Default: the model's default prompt.
    #[serde(default)]
    pub prompt_name: Option<String>,
    /// A text to put before each text exactly as it is, instead of a prompt of the model.
    #[serde(default)]
    pub prompt: Option<String>,
    /// `query` or `document`: the model's prompt for this kind of text is put before each text, if
    /// it has one.
    #[serde(default)]
    pub input_type: Option<String>,
    /// Whether long texts are truncated. Default: true.
    #[serde(default)]
    pub truncate: Option<bool>,
    /// The side on which long texts are truncated. Default: as in the model's files, or else
    /// `right`.
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
    /// A unit vector per token, except the first token.
    Colbert,
}

/// The response of `POST /v1/outputs`.
#[derive(Debug, Serialize, ToSchema)]
pub struct OutputsResponse<'a> {
    /// The model that computed them.
    pub model: &'a str,
    /// One per text, in order.
    pub data: Vec<TextOutputs>,
    /// Number of tokens computed.
    pub usage: Usage,
}

/// The outputs of one text. Outputs that were not requested are absent.
#[derive(Debug, Serialize, ToSchema)]
pub struct TextOutputs {
    /// The text's index in the request.
    pub index: usize,
    /// The unit vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense: Option<Vec<f32>>,
    /// Weights of token ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparse: Option<SparseVector>,
    /// A unit vector per token, except the first token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub colbert: Option<Vec<Vec<f32>>>,
}

/// A sparse vector in the form that Qdrant, Milvus and Pinecone accept.
#[derive(Debug, Serialize, ToSchema)]
pub struct SparseVector {
    /// Token ids in ascending order.
    pub indices: Vec<u32>,
    /// One weight per token id, each above 0.
    pub values: Vec<f32>,
}
