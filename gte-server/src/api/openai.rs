//! OpenAI's embeddings and models.

use gte_core::TruncationSide;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::vectors::{OutputType, Vector};
use super::{EncodingFormat, Input, TruncationDirection};

/// `POST /v1/embeddings`, OpenAI's.
#[derive(Debug, Deserialize, ToSchema)]
pub struct EmbeddingsRequest {
    /// The texts to embed.
    pub input: Input,
    /// The model's name or id. Any name is accepted if the server has only one model.
    #[serde(default)]
    pub model: Option<String>,
    /// `float` for a list of numbers, or `base64`. Default: `float`.
    #[serde(default, deserialize_with = "super::encoding_format")]
    #[schema(value_type = Option<EncodingFormat>)]
    pub encoding_format: Option<EncodingFormat>,
    /// The type of the values; fewer bits take less space. As in Voyage's API, not OpenAI's.
    #[serde(default, deserialize_with = "super::vectors::output_type")]
    #[schema(value_type = Option<OutputType>)]
    pub output_dtype: Option<OutputType>,
    /// Length of the vectors, for Matryoshka models.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub dimensions: Option<usize>,
    /// The end user of the request. It has no effect on the response.
    #[serde(default)]
    pub user: Option<String>,
    /// The name of the prompt to put before each text. Default: the model's default prompt. Not in
    /// OpenAI's API.
    #[serde(default)]
    pub prompt_name: Option<String>,
    /// A text to put before each text exactly as it is, instead of a prompt of the model. Not in
    /// OpenAI's API.
    #[serde(default)]
    pub prompt: Option<String>,
    /// `query` or `document`, or their synonyms `passage`, `search_query` and `search_document`:
    /// the model's prompt for this kind of text is put before each text, if it has one. The name of
    /// a prompt also works. Not in OpenAI's API. Jina's `task` means the same: `retrieval.query`,
    /// `retrieval.passage`, or the name of a prompt.
    #[serde(default, alias = "task")]
    pub input_type: Option<String>,
    /// Whether long texts are truncated. Default: true. Not in OpenAI's API.
    #[serde(default)]
    pub truncate: Option<bool>,
    /// The side on which long texts are truncated. Default: as in the model's files, or else
    /// `right`. Not in OpenAI's API.
    #[serde(default, deserialize_with = "super::truncation_direction")]
    #[schema(value_type = Option<TruncationDirection>)]
    pub truncation_direction: Option<TruncationSide>,
}

/// The response of `POST /v1/embeddings`.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmbeddingsResponse<'a> {
    /// `list`
    pub object: &'static str,
    /// One vector per text, in order.
    pub data: Vec<Embedding>,
    /// The model's name.
    pub model: &'a str,
    /// Number of tokens computed.
    pub usage: Usage,
}

/// A vector in OpenAI's form.
#[derive(Debug, Serialize, ToSchema)]
pub struct Embedding {
    /// `embedding`
    pub object: &'static str,
    /// The text's index in the request.
    pub index: usize,
    /// The vector.
    pub embedding: Vector,
}

/// Number of tokens of a request.
#[derive(Debug, Serialize, ToSchema)]
pub struct Usage {
    /// Number of tokens computed.
    pub prompt_tokens: usize,
    /// The same number, because an embedding has no completion.
    pub total_tokens: usize,
}

/// `GET /v1/models`, OpenAI's.
#[derive(Debug, Serialize, ToSchema)]
pub struct Models {
    /// `list`
    pub object: &'static str,
    /// The models of this server.
    pub data: Vec<Model>,
}

/// A model in OpenAI's list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Model {
    /// The model's name.
    pub id: String,
    /// `model`
    pub object: &'static str,
    /// Seconds since 1970. Not known, so it is always 0.
    pub created: u64,
    /// The owner of the model, as OpenAI's API requires.
    pub owned_by: &'static str,
}
