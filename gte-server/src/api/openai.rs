//! OpenAI's embeddings and models.

use gte_core::TruncationSide;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::vectors::{OutputType, Vector};
use super::{EncodingFormat, Input, TruncationDirection};

/// `POST /v1/embeddings`, OpenAI's.
#[derive(Debug, Deserialize, ToSchema)]
pub struct EmbeddingsRequest {
    /// What is embedded.
    pub input: Input,
    /// The model's name or id; any, where the server has one model alone.
    #[serde(default)]
    pub model: Option<String>,
    /// Numbers or base64.
    #[serde(default, deserialize_with = "super::encoding_format")]
    #[schema(value_type = Option<EncodingFormat>)]
    pub encoding_format: Option<EncodingFormat>,
    /// The type of the values: fewer bits take less room. Not OpenAI's: Voyage's.
    #[serde(default, deserialize_with = "super::vectors::output_type")]
    #[schema(value_type = Option<OutputType>)]
    pub output_dtype: Option<OutputType>,
    /// Length of the vectors, for Matryoshka models.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub dimensions: Option<usize>,
    /// Whom the request is for; no answer depends on it.
    #[serde(default)]
    pub user: Option<String>,
    /// The prompt to put before each text, by its name; the model's default if left out. Not
    /// OpenAI's.
    #[serde(default)]
    pub prompt_name: Option<String>,
    /// What to put before each text, letter for letter, in place of a prompt of the model. Not OpenAI's.
    #[serde(default)]
    pub prompt: Option<String>,
    /// `query` or `document`, also as `passage`, `search_query` or `search_document`: the model's prompt for such
    /// texts is put before them, if it has one; or the name of a prompt. Not OpenAI's. Jina's `task` is the same:
    /// `retrieval.query`, `retrieval.passage`, or the name of a prompt.
    #[serde(default, alias = "task")]
    pub input_type: Option<String>,
    /// Whether long texts are cut: they are, unless this is false. Not OpenAI's.
    #[serde(default)]
    pub truncate: Option<bool>,
    /// The side that a long text loses. Not OpenAI's.
    #[serde(default, deserialize_with = "super::truncation_direction")]
    #[schema(value_type = Option<TruncationDirection>)]
    pub truncation_direction: Option<TruncationSide>,
}

/// The answer to `POST /v1/embeddings`.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmbeddingsResponse<'a> {
    /// `list`
    pub object: &'static str,
    /// One a text, in order.
    pub data: Vec<Embedding>,
    /// The model.
    pub model: &'a str,
    /// Tokens computed.
    pub usage: Usage,
}

/// A vector in OpenAI's answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct Embedding {
    /// `embedding`
    pub object: &'static str,
    /// The text's place in the request.
    pub index: usize,
    /// The vector.
    pub embedding: Vector,
}

/// Tokens of a request.
#[derive(Debug, Serialize, ToSchema)]
pub struct Usage {
    /// Tokens computed.
    pub prompt_tokens: usize,
    /// The same: an embedding has no completion.
    pub total_tokens: usize,
}

/// `GET /v1/models`, OpenAI's.
#[derive(Debug, Serialize, ToSchema)]
pub struct Models {
    /// `list`
    pub object: &'static str,
    /// Those that are served.
    pub data: Vec<Model>,
}

/// A model in OpenAI's list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Model {
    /// Its name.
    pub id: String,
    /// `model`
    pub object: &'static str,
    /// Seconds since 1970; not known, so zero.
    pub created: u64,
    /// Who serves it.
    pub owned_by: &'static str,
}
