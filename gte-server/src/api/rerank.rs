//! Reranking: Cohere's and Jina's shape, which vLLM, infinity and the gateways of Chinese clouds have too;
//! text-embeddings-inference's; and vLLM's scores.

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use gte_core::TruncationSide;

use super::{Texts, TruncationDirection};
use crate::json;

/// `POST /rerank`, `/v1/rerank` and `/v2/rerank`. With `documents` the answer is Cohere's, with `texts` it is
/// text-embeddings-inference's.
#[derive(Debug, Deserialize, ToSchema)]
pub struct RerankRequest {
    /// The model's name or id, where the server has several.
    #[serde(default)]
    pub model: Option<String>,
    /// What the documents should answer.
    pub query: String,
    /// What is ranked: strings, or objects with `text`.
    #[serde(default)]
    #[schema(min_items = 1, max_items = 2048)]
    pub documents: Option<Vec<Document>>,
    /// The same, as text-embeddings-inference names them.
    #[serde(default)]
    #[schema(min_items = 1, max_items = 2048)]
    pub texts: Option<Vec<String>>,
    /// How many of the best are in the answer; all if left out, null, 0 or less. With `texts`, all always.
    #[serde(default)]
    pub top_n: Option<i64>,
    /// Whether each result has its document as `{"text": …}`: it has not, unless this is true. With `texts`:
    /// `return_text`.
    #[serde(default, deserialize_with = "json::lenient_bool")]
    pub return_documents: Option<bool>,
    /// Whether each result has its text: it has not, unless this is true.
    #[serde(default, deserialize_with = "json::lenient_bool")]
    pub return_text: Option<bool>,
    /// Whether scores are the model's logits: they are between 0 and 1 by the sigmoid, unless this is true.
    #[serde(default, deserialize_with = "json::lenient_bool")]
    pub raw_scores: Option<bool>,
    /// What an answer is, to a language model such as Qwen3-Reranker; the model's own if left out.
    #[serde(default, alias = "instruct")]
    pub instruction: Option<String>,
    /// Whether pairs that are too long are cut, at the end of the longer text: they are, unless this is false.
    #[serde(default, deserialize_with = "json::lenient_bool")]
    pub truncate: Option<bool>,
    /// The side that a long text loses.
    #[serde(default, deserialize_with = "super::truncation_direction")]
    #[schema(value_type = Option<TruncationDirection>)]
    pub truncation_direction: Option<TruncationSide>,
    /// Tokens at which a document is cut before it is paired with the query.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub max_tokens_per_doc: Option<usize>,
    /// In how many pieces a document is read that is longer than the model: its score is that of its best piece. One
    /// if left out.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub max_chunks_per_doc: Option<usize>,
    /// Tokens that a piece has in common with the one before it, at most half of them. Default: 0.
    #[serde(default)]
    pub overlap_tokens: Option<usize>,
    /// The fields of documents that are objects: `["text"]`, which is what is read.
    #[serde(default)]
    pub rank_fields: Option<Vec<String>>,
}

/// A document to rank.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string, or an object with `text`")]
pub enum Document {
    /// Text.
    Text(String),
    /// An object with text.
    Object {
        /// The text.
        text: String,
    },
    /// Parts of a message, as vLLM has them.
    Content {
        /// The parts.
        content: Vec<Part>,
    },
}

/// A part of a message: text alone is read.
#[derive(Debug, Deserialize, ToSchema)]
pub struct Part {
    /// The text.
    pub text: String,
}

impl Document {
    /// Its text.
    pub fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Object { text } => text,
            Self::Content { content } => content.into_iter().map(|part| part.text).collect(),
        }
    }
}

/// The answer to documents, best first.
#[derive(Debug, Serialize, ToSchema)]
pub struct RerankResponse {
    /// Its id.
    pub id: String,
    /// `rerank`
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model that ranked.
    pub model: String,
    /// The documents, best first; equal ones in their order.
    pub results: Vec<RerankResult>,
    /// Tokens computed.
    pub usage: super::openai::Usage,
    /// As Cohere has it.
    pub meta: Meta,
}

/// A document's place.
#[derive(Debug, Serialize, ToSchema)]
pub struct RerankResult {
    /// The document's place in the request.
    pub index: usize,
    /// How well it answers the query.
    pub relevance_score: f32,
    /// The document, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<DocumentText>,
}

/// A document in an answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct DocumentText {
    /// Its text.
    pub text: String,
}

/// What Cohere tells besides its answers.
#[derive(Debug, Serialize, ToSchema)]
pub struct Meta {
    /// The version of the API.
    pub api_version: ApiVersion,
    /// What the caller should know: that texts were cut.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A version of Cohere's API.
#[derive(Debug, Serialize, ToSchema)]
pub struct ApiVersion {
    /// `2`
    pub version: &'static str,
}

impl Meta {
    /// With a warning where `truncated` of the texts were cut.
    pub(crate) fn new(truncated: usize) -> Self {
        let warning = || format!("{truncated} of the texts were longer than the model takes, and were cut");
        let warnings = (truncated > 0).then(warning).into_iter().collect();
        Self { api_version: ApiVersion { version: "2" }, warnings }
    }
}

/// A text's place, as text-embeddings-inference answers.
#[derive(Debug, Serialize, ToSchema)]
pub struct Rank {
    /// The text's place in the request.
    pub index: usize,
    /// How well it answers the query.
    pub score: f32,
    /// The text, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What `/rerank` answers: to `documents` an object, to `texts` a list.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "read by the macro, for the OpenAPI document")]
pub(crate) enum AnyRanking {
    Documents(RerankResponse),
    Texts(Vec<Rank>),
}

/// `POST /score` and `/v1/score`, vLLM's. One text with one or with many, or as many with as many, pair by pair.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ScoreRequest {
    /// The model's name or id, where the server has several.
    #[serde(default)]
    pub model: Option<String>,
    /// One text or many. Also as `text_1`.
    #[serde(alias = "text_1", alias = "data_1")]
    pub queries: Texts,
    /// One text or many. Also as `text_2`.
    #[serde(alias = "text_2", alias = "data_2")]
    pub documents: Texts,
    /// What an answer is, to a language model; the model's own if left out.
    #[serde(default, alias = "instruct")]
    pub instruction: Option<String>,
    /// Whether scores are the model's logits.
    #[serde(default, deserialize_with = "json::lenient_bool")]
    pub raw_scores: Option<bool>,
    /// Whether pairs that are too long are cut: they are, unless this is false.
    #[serde(default, deserialize_with = "json::lenient_bool")]
    pub truncate: Option<bool>,
}

/// The answer to `POST /score`, in the order of the request.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScoreResponse {
    /// Its id.
    pub id: String,
    /// `list`
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model that scored.
    pub model: String,
    /// How: `sigmoid` or `logit` of a reranker, `cosine` of an embedder's vectors.
    pub scoring: &'static str,
    /// One per pair.
    pub data: Vec<Score>,
    /// Tokens computed.
    pub usage: super::openai::Usage,
}

/// A pair's score.
#[derive(Debug, Serialize, ToSchema)]
pub struct Score {
    /// The pair's place in the request.
    pub index: usize,
    /// `score`
    pub object: &'static str,
    /// The score.
    pub score: f32,
}

/// `POST /predict`, text-embeddings-inference's.
#[derive(Debug, Deserialize, ToSchema)]
pub struct PredictRequest {
    /// A text; a pair of texts, as a list of two; or a list of lists of one or two texts.
    pub inputs: PredictInput,
    /// The model's name or id, where the server has several.
    #[serde(default)]
    pub model: Option<String>,
    /// Whether what is too long is cut: it is, unless this is false.
    #[serde(default, deserialize_with = "json::lenient_bool")]
    pub truncate: Option<bool>,
    /// The side that a long text loses.
    #[serde(default, deserialize_with = "super::truncation_direction")]
    #[schema(value_type = Option<TruncationDirection>)]
    pub truncation_direction: Option<TruncationSide>,
    /// Whether scores are logits: they are probabilities, by the sigmoid of one label and the softmax of several,
    /// unless this is true.
    #[serde(default, deserialize_with = "json::lenient_bool")]
    pub raw_scores: Option<bool>,
}

/// What is classified.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string, a pair of strings, or a list of lists of one or two strings")]
pub enum PredictInput {
    /// One text.
    Text(String),
    /// One text or pair, as a list.
    One(#[serde(deserialize_with = "one_or_two")] Vec<String>),
    /// Many of them.
    Many(Vec<OneOrTwo>),
}

/// A text, or a pair of texts.
#[derive(Debug, Deserialize, ToSchema)]
pub struct OneOrTwo(#[serde(deserialize_with = "one_or_two")] pub Vec<String>);

fn one_or_two<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    let texts = Vec::<String>::deserialize(d)?;
    match texts.len() {
        1 | 2 => Ok(texts),
        n => Err(serde::de::Error::custom(format_args!("{n} texts, expected one or a pair"))),
    }
}

/// A label with its score.
#[derive(Debug, Serialize, ToSchema)]
pub struct Prediction {
    /// The score.
    pub score: f32,
    /// The label.
    pub label: String,
}

/// What `/predict` answers: of one text its labels, of many a list of those, best first.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum Predictions {
    /// Of one.
    One(Vec<Prediction>),
    /// Of many.
    Many(Vec<Vec<Prediction>>),
}
