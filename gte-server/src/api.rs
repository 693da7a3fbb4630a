//! Every JSON type on the wire, with its limits. OpenAI's as in its API reference (`/v1/embeddings`), the native ones of
//! text-embeddings-inference as in its OpenAPI file, and two of our own.

use serde::{Deserialize, Serialize};

/// Texts in one request, at most.
pub const MAX_TEXTS: usize = 2048;

/// `POST /v1/embedding`
#[derive(Debug, Deserialize)]
pub struct EmbeddingRequest {
    /// The text.
    pub text: String,
}

/// The answer to `POST /v1/embedding`.
#[derive(Debug, Serialize)]
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
#[derive(Debug, Deserialize)]
pub struct SimilarityRequest {
    /// What is compared.
    pub source_text: String,
    /// With what.
    pub candidate_texts: Vec<String>,
    /// How many indices `ranking` has; all if left out.
    pub top_k: Option<usize>,
}

/// The answer to `POST /v1/similarity`.
#[derive(Debug, Serialize)]
pub struct SimilarityResponse {
    /// Cosine of the source with each candidate, in their order.
    pub scores: Vec<f32>,
    /// Candidates by falling score, equal ones in their order.
    pub ranking: Vec<usize>,
}

/// Text or token ids, one or many.
#[derive(Debug, Deserialize)]
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
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum EncodingFormat {
    /// A list of numbers.
    #[default]
    Float,
    /// Little-endian f32 values in base64.
    Base64,
}

/// `POST /v1/embeddings`, OpenAI's.
#[derive(Debug, Deserialize)]
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
    pub dimensions: Option<usize>,
    /// Whom the request is for; not used.
    #[serde(default)]
    pub user: Option<String>,
}

/// The answer to `POST /v1/embeddings`.
#[derive(Debug, Serialize)]
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
#[derive(Debug, Serialize)]
pub struct OpenAiEmbedding<'a> {
    /// `embedding`
    pub object: &'static str,
    /// The text's place in the request.
    pub index: usize,
    /// The vector.
    pub embedding: Vector<'a>,
}

/// A vector, written either way.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Vector<'a> {
    /// Numbers.
    Float(&'a [f32]),
    /// Base64.
    Base64(String),
}

/// Tokens of a request.
#[derive(Debug, Serialize)]
pub struct Usage {
    /// Tokens computed.
    pub prompt_tokens: usize,
    /// The same: an embedding has no completion.
    pub total_tokens: usize,
}

/// `POST /embed`, text-embeddings-inference's.
#[derive(Debug, Deserialize)]
pub struct TeiRequest {
    /// What is embedded.
    pub inputs: Input,
    /// Whether long texts are cut; without it, the server's default: they are.
    #[serde(default)]
    pub truncate: Option<bool>,
    /// Whether vectors are of unit length: they are.
    #[serde(default)]
    pub normalize: Option<bool>,
    /// Length of the vectors, for Matryoshka models.
    #[serde(default)]
    pub dimensions: Option<usize>,
}

/// `POST /similarity`, text-embeddings-inference's.
#[derive(Debug, Deserialize)]
pub struct TeiSimilarityRequest {
    /// The texts.
    pub inputs: TeiSimilarityInputs,
}

/// What is compared.
#[derive(Debug, Deserialize)]
pub struct TeiSimilarityInputs {
    /// The one.
    pub source_sentence: String,
    /// The others.
    pub sentences: Vec<String>,
}

/// `POST /tokenize`, text-embeddings-inference's.
#[derive(Debug, Deserialize)]
pub struct TokenizeRequest {
    /// One text or many.
    pub inputs: Texts,
}

/// One text or many.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub enum Texts {
    /// One.
    One(String),
    /// Many.
    Many(Vec<String>),
}

/// A token in the answer to `POST /tokenize`.
#[derive(Debug, Serialize)]
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
#[derive(Debug, Deserialize)]
pub struct DecodeRequest {
    /// Token ids of one text or of many.
    pub ids: Ids,
    /// Whether special tokens are left out: they are.
    #[serde(default)]
    pub skip_special_tokens: Option<bool>,
}

/// Token ids of one text or of many.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a list of token ids or a list of lists")]
pub enum Ids {
    /// Of one.
    One(Vec<u32>),
    /// Of many.
    Many(Vec<Vec<u32>>),
}

/// `GET /info`
#[derive(Debug, Serialize)]
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
}

/// The kind of model, as text-embeddings-inference writes it.
#[derive(Debug, Serialize)]
pub struct ModelType {
    /// An embedding model.
    pub embedding: PoolingInfo,
}

/// How vectors are pooled.
#[derive(Debug, Serialize)]
pub struct PoolingInfo {
    /// cls, mean …
    pub pooling: &'static str,
}
