//! Our own two routes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /v1/embedding`
#[derive(Debug, Deserialize, ToSchema)]
pub struct EmbeddingRequest {
    /// The text.
    pub text: String,
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
}

/// The answer to `POST /v1/similarity`.
#[derive(Debug, Serialize, ToSchema)]
pub struct SimilarityResponse {
    /// Cosine of the source with each candidate, in their order.
    pub scores: Vec<f32>,
    /// Candidates by falling score, equal ones in their order.
    pub ranking: Vec<usize>,
}
