//! Every JSON type on the wire, with its limits. OpenAI's as in its API reference (`/v1/embeddings`), the native ones of
//! text-embeddings-inference as in its OpenAPI file, and two of our own.

use serde::{Deserialize, Serialize};
use utoipa::{IntoResponses, ToSchema};

/// Texts in one request, at most.
pub const MAX_TEXTS: usize = 2048;

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

/// Text or token ids, one or many.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "expected a string, a list of strings, a list of token ids, or a list of lists of token ids"
)]
pub enum Input {
    /// One text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// One text as token ids.
    Ids(Vec<u32>),
    /// Texts as token ids.
    ManyIds(Vec<Vec<u32>>),
}

/// How a vector is written.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncodingFormat {
    /// A list of numbers.
    #[default]
    Float,
    /// Little-endian f32 values in base64.
    Base64,
}

/// `POST /v1/embeddings`, OpenAI's.
#[derive(Debug, Deserialize, ToSchema)]
pub struct OpenAiRequest {
    /// What is embedded.
    pub input: Input,
    /// Echoed by no one: this server has one model.
    #[serde(default)]
    pub model: Option<String>,
    /// Numbers or base64.
    #[serde(default)]
    pub encoding_format: Option<EncodingFormat>,
    /// Length of the vectors, for Matryoshka models.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub dimensions: Option<usize>,
    /// Whom the request is for; not used.
    #[serde(default)]
    pub user: Option<String>,
}

/// The answer to `POST /v1/embeddings`.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenAiResponse<'a> {
    /// `list`
    pub object: &'static str,
    /// One a text, in order.
    pub data: Vec<OpenAiEmbedding<'a>>,
    /// The model.
    pub model: &'a str,
    /// Tokens computed.
    pub usage: Usage,
}

/// A vector in OpenAI's answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenAiEmbedding<'a> {
    /// `embedding`
    pub object: &'static str,
    /// The text's place in the request.
    pub index: usize,
    /// The vector.
    pub embedding: Vector<'a>,
}

/// A vector, written either way.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Vector<'a> {
    /// Numbers.
    Float(&'a [f32]),
    /// Base64.
    Base64(String),
}

/// Tokens of a request.
#[derive(Debug, Serialize, ToSchema)]
pub struct Usage {
    /// Tokens computed.
    pub prompt_tokens: usize,
    /// The same: an embedding has no completion.
    pub total_tokens: usize,
}

/// `POST /embed`, text-embeddings-inference's.
#[derive(Debug, Deserialize, ToSchema)]
pub struct TeiRequest {
    /// What is embedded.
    pub inputs: Input,
    /// Whether long texts are cut; without it, the server's default: they are.
    #[serde(default)]
    pub truncate: Option<bool>,
    /// Whether vectors are of unit length: they are unless this is false.
    #[serde(default)]
    pub normalize: Option<bool>,
    /// Length of the vectors, for Matryoshka models.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub dimensions: Option<usize>,
}

/// `POST /similarity`, text-embeddings-inference's.
#[derive(Debug, Deserialize, ToSchema)]
pub struct TeiSimilarityRequest {
    /// The texts.
    pub inputs: TeiSimilarityInputs,
}

/// What is compared.
#[derive(Debug, Deserialize, ToSchema)]
pub struct TeiSimilarityInputs {
    /// The one.
    pub source_sentence: String,
    /// The others.
    #[schema(min_items = 1, max_items = 2047)]
    pub sentences: Vec<String>,
}

/// `POST /tokenize`, text-embeddings-inference's.
#[derive(Debug, Deserialize, ToSchema)]
pub struct TokenizeRequest {
    /// One text or many.
    pub inputs: Texts,
}

/// One text or many.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub enum Texts {
    /// One.
    One(String),
    /// Many.
    Many(Vec<String>),
}

/// A token in the answer to `POST /tokenize`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The vocabulary's entry.
    pub text: String,
    /// Whether it stands for no part of the text.
    pub special: bool,
    /// First byte in the text; null for special tokens.
    pub start: Option<usize>,
    /// The byte behind the last; null for special tokens.
    pub stop: Option<usize>,
}

/// `POST /decode`, text-embeddings-inference's.
#[derive(Debug, Deserialize, ToSchema)]
pub struct DecodeRequest {
    /// Token ids of one text or of many.
    pub ids: Ids,
    /// Whether special tokens are left out: they are.
    #[serde(default)]
    pub skip_special_tokens: Option<bool>,
}

/// Token ids of one text or of many.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a list of token ids or a list of lists")]
pub enum Ids {
    /// Of one.
    One(Vec<u32>),
    /// Of many.
    Many(Vec<Vec<u32>>),
}

/// `GET /info`
#[derive(Debug, Serialize, ToSchema)]
pub struct Info {
    /// The model.
    pub model_id: String,
    /// f32 …
    pub model_dtype: &'static str,
    /// How vectors are pooled.
    pub model_type: ModelType,
    /// Where a text is cut, in tokens.
    pub max_input_length: usize,
    /// Tokens computed at once.
    pub max_batch_tokens: usize,
    /// Texts in one request.
    pub max_client_batch_size: usize,
    /// Requests that may wait.
    pub max_concurrent_requests: usize,
    /// Whether long texts are cut unless a request says otherwise.
    pub auto_truncate: bool,
    /// Version of the server.
    pub version: &'static str,
    /// Length of the vectors.
    pub dimension: usize,
    /// Instruction set of the kernels.
    pub isa: &'static str,
    /// Compute threads.
    pub threads: usize,
    /// What to know of this model, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<&'static str>,
}

/// `GET /v1/models`, OpenAI's.
#[derive(Debug, Serialize, ToSchema)]
pub struct Models {
    /// `list`
    pub object: &'static str,
    /// The one that is served.
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

/// The kind of model, as text-embeddings-inference writes it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelType {
    /// An embedding model.
    pub embedding: PoolingInfo,
}

/// How vectors are pooled.
#[derive(Debug, Serialize, ToSchema)]
pub struct PoolingInfo {
    /// cls, mean …
    pub pooling: &'static str,
}

/// What is sent in place of an answer: OpenAI's nested form, with text-embeddings-inference's two fields beside it, so that
/// clients of either find what they look for.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// As OpenAI nests it.
    pub error: ErrorDetail,
    /// The same message, where text-embeddings-inference has it.
    pub message: String,
    /// text-embeddings-inference's kind of error.
    pub error_type: &'static str,
}

/// OpenAI's error object.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// What is wrong and what to do.
    pub message: String,
    /// OpenAI's kind of error.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Path of the field that is wrong, where it is one.
    pub param: Option<String>,
    /// HTTP status.
    pub code: u16,
}

/// How a request may be refused.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "read by the macro, for the OpenAPI document")]
pub(crate) enum Refused {
    /// The body is not JSON
    #[response(status = 400)]
    Syntax(#[to_schema] ErrorBody),
    /// A valid key is needed
    #[response(status = 401)]
    Unauthorized(#[to_schema] ErrorBody),
    /// The body did not arrive in time
    #[response(status = 408)]
    SlowBody(#[to_schema] ErrorBody),
    /// The body is too large
    #[response(status = 413)]
    TooLarge(#[to_schema] ErrorBody),
    /// A field is missing, of the wrong type or out of range
    #[response(status = 422)]
    Field(#[to_schema] ErrorBody),
    /// The queue is full; `Retry-After` says when there will be room
    #[response(status = 429)]
    Overloaded(#[to_schema] ErrorBody),
    /// The engine failed
    #[response(status = 500)]
    Engine(#[to_schema] ErrorBody),
    /// Shutting down
    #[response(status = 503)]
    Unavailable(#[to_schema] ErrorBody),
    /// Not computed before the deadline
    #[response(status = 504)]
    Deadline(#[to_schema] ErrorBody),
}
