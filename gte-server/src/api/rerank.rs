//! Reranking in three forms: that of Cohere and Jina, which vLLM, infinity and the gateways of
//! Chinese clouds use too; that of text-embeddings-inference; and vLLM's scores.

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use gte_core::TruncationSide;

use super::{Texts, TruncationDirection};
use crate::json;

/// `POST /rerank`, `/v1/rerank` and `/v2/rerank`. With `documents` the response has Cohere's form,
/// with `texts` that of text-embeddings-inference.
#[derive(Debug, Deserialize, ToSchema)]
pub struct RerankRequest {
    /// The model's name or id, if the server has several models.
    #[serde(default)]
    pub model: Option<String>,
    /// The query that the documents should answer. The default prompt of the model's files, if
    /// there is one, is put before it.
    pub query: String,
    /// The documents to rank: strings, or objects with `text`.
    #[serde(default)]
    #[schema(min_items = 1, max_items = 2048)]
    pub documents: Option<Vec<Document>>,
    /// The same, under the name that text-embeddings-inference uses.
    #[serde(default)]
    #[schema(min_items = 1, max_items = 2048)]
    pub texts: Option<Vec<String>>,
    /// The response contains this many of the best documents. Default: all, as for null, 0 and
    /// negative numbers. With `texts` the response always contains all of them.
    #[serde(default)]
    pub top_n: Option<i64>,
    /// Whether each result contains its document as `{"text": …}`. Default: false. With `texts`,
    /// use `return_text` instead.
    #[serde(default, deserialize_with = "json::lenient_bool")]
    pub return_documents: Option<bool>,
    /// Whether each result contains its text. Default: false.
    #[serde(default, deserialize_with = "json::lenient_bool")]
    pub return_text: Option<bool>,
    /// Whether scores are the model's logits rather than values from 0 to 1 (their sigmoid).
    /// Default: false.
    #[serde(default, deserialize_with = "json::lenient_bool")]
    pub raw_scores: Option<bool>,
    /// Tells a language model such as Qwen3-Reranker what counts as an answer. Default: the model's
    /// own instruction.
    #[serde(default, alias = "instruct")]
    pub instruction: Option<String>,
    /// Whether pairs that are too long are truncated, at the end of the longer text. Default: true.
    #[serde(default, deserialize_with = "json::lenient_bool")]
    pub truncate: Option<bool>,
    /// The side on which long texts are truncated. Default: as in the model's files, or else
    /// `right`.
    #[serde(default, deserialize_with = "super::truncation_direction")]
    #[schema(value_type = Option<TruncationDirection>)]
    pub truncation_direction: Option<TruncationSide>,
    /// Length in tokens at which a document is truncated before it is paired with the query.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub max_tokens_per_doc: Option<usize>,
    /// A document that is longer than the model's limit is split into at most this many pieces, and
    /// its score is that of its best piece. Default: 1.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub max_chunks_per_doc: Option<usize>,
    /// Number of tokens that a piece shares with the one before it, at most half of the piece.
    /// Default: 0.
    #[serde(default)]
    pub overlap_tokens: Option<usize>,
    /// The field of the documents to read, if they are objects. Only `["text"]` is supported.
    #[serde(default)]
    pub rank_fields: Option<Vec<String>>,
}

/// A document to rank.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string, or an object with `text`")]
pub enum Document {
    /// Text.
    Text(String),
    /// An object with a text.
    Object {
        /// The text.
        text: String,
    },
    /// The parts of a message, as in vLLM's API.
    Content {
        /// The parts.
        content: Vec<MessagePart>,
    },
}

/// A part of a message. Only text is supported.
#[derive(Debug, Deserialize, ToSchema)]
pub struct MessagePart {
    /// The text.
    pub text: String,
}

impl Document {
    /// The document's text.
    pub fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Object { text } => text,
            Self::Content { content } => content.into_iter().map(|part| part.text).collect(),
        }
    }
}

/// The response to a request with `documents`, best document first.
#[derive(Debug, Serialize, ToSchema)]
pub struct RerankResponse {
    /// The response's id.
    pub id: String,
    /// `rerank`
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model that ranked the documents.
    pub model: String,
    /// The documents, best first; equal scores keep their order.
    pub results: Vec<RerankResult>,
    /// Number of tokens computed.
    pub usage: super::openai::Usage,
    /// Further information, as in Cohere's API.
    pub meta: Meta,
}

/// A document's position in the ranking.
#[derive(Debug, Serialize, ToSchema)]
pub struct RerankResult {
    /// The document's index in the request.
    pub index: usize,
    /// How well it answers the query.
    pub relevance_score: f32,
    /// The document, if it was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<DocumentText>,
}

/// A document in the response.
#[derive(Debug, Serialize, ToSchema)]
pub struct DocumentText {
    /// Its text.
    pub text: String,
}

/// Further information, as in Cohere's API.
#[derive(Debug, Serialize, ToSchema)]
pub struct Meta {
    /// The version of the API.
    pub api_version: ApiVersion,
    /// Warnings, for example that texts were truncated.
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
    /// Adds a warning if `truncated` is not 0.
    pub(crate) fn new(truncated: usize) -> Self {
        let warning = || format!("{truncated} of the texts were longer than the model's limit and were truncated");
        let warnings = (truncated > 0).then(warning).into_iter().collect();
        Self { api_version: ApiVersion { version: "2" }, warnings }
    }
}

/// A text's position in the ranking, in the form of text-embeddings-inference.
#[derive(Debug, Serialize, ToSchema)]
pub struct Rank {
    /// The text's index in the request.
    pub index: usize,
    /// How well it answers the query.
    pub score: f32,
    /// The text, if it was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// The response of `/rerank`: an object for `documents`, a list for `texts`.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "read by the macro, for the OpenAPI document")]
pub(crate) enum AnyRanking {
    Documents(RerankResponse),
    Texts(Vec<Rank>),
}

/// vLLM's `POST /score` and `/v1/score`. One text is paired with each of many, or as many texts
/// with as many, pair by pair.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ScoreRequest {
    /// The model's name or id, if the server has several models.
    #[serde(default)]
    pub model: Option<String>,
    /// One text or many. Also accepted as `text_1`.
    #[serde(alias = "text_1", alias = "data_1")]
    pub queries: Texts,
    /// One text or many. Also accepted as `text_2`.
    #[serde(alias = "text_2", alias = "data_2")]
    pub documents: Texts,
    /// Tells a language model what counts as an answer. Default: the model's own instruction.
    #[serde(default, alias = "instruct")]
    pub instruction: Option<String>,
    /// Whether scores are the model's logits. Default: false.
    #[serde(default, deserialize_with = "json::lenient_bool")]
    pub raw_scores: Option<bool>,
    /// Whether pairs that are too long are truncated. Default: true.
    #[serde(default, deserialize_with = "json::lenient_bool")]
    pub truncate: Option<bool>,
}

/// The response of `POST /score`, in the order of the request.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScoreResponse {
    /// The response's id.
    pub id: String,
    /// `list`
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model that computed the scores.
    pub model: String,
    /// How the scores were computed: `sigmoid` or `logit` of a reranker's output, `cosine` of an
    /// embedder's vectors.
    pub scoring: &'static str,
    /// One score per pair.
    pub data: Vec<Score>,
    /// Number of tokens computed.
    pub usage: super::openai::Usage,
}

/// The score of a pair.
#[derive(Debug, Serialize, ToSchema)]
pub struct Score {
    /// The pair's index in the request.
    pub index: usize,
    /// `score`
    pub object: &'static str,
    /// The score.
    pub score: f32,
}

/// `POST /predict` of text-embeddings-inference.
#[derive(Debug, Deserialize, ToSchema)]
pub struct PredictRequest {
    /// One text; a pair, as a list of two texts; or many, as a list of lists of one or two texts.
    pub inputs: PredictInput,
    /// The model's name or id, if the server has several models.
    #[serde(default)]
    pub model: Option<String>,
    /// Whether long inputs are truncated. Default: true.
    #[serde(default, deserialize_with = "json::lenient_bool")]
    pub truncate: Option<bool>,
    /// The side on which long texts are truncated. Default: as in the model's files, or else
    /// `right`.
    #[serde(default, deserialize_with = "super::truncation_direction")]
    #[schema(value_type = Option<TruncationDirection>)]
    pub truncation_direction: Option<TruncationSide>,
    /// Whether scores are logits rather than probabilities. A probability is the sigmoid of a
    /// single label, or the softmax of several. Default: false.
    #[serde(default, deserialize_with = "json::lenient_bool")]
    pub raw_scores: Option<bool>,
}

/// The texts or pairs to classify.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string, a pair of strings, or a list of lists of one or two strings")]
pub enum PredictInput {
    /// One text.
    Text(String),
    /// One text or pair, as a list.
    One(#[serde(deserialize_with = "one_or_two")] Vec<String>),
    /// Many texts or pairs.
    Many(Vec<OneOrTwo>),
}

/// A text, or a pair of texts.
#[derive(Debug, Deserialize, ToSchema)]
pub struct OneOrTwo(#[serde(deserialize_with = "one_or_two")] pub Vec<String>);

fn one_or_two<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    let texts = Vec::<String>::deserialize(d)?;
    match texts.len() {
        1 | 2 => Ok(texts),
        n => Err(serde::de::Error::custom(format_args!("{n} texts, expected one or two"))),
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

/// The response of `/predict`: a list of labels for one text, a list of such lists for many; best
/// label first.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum Predictions {
    /// For one text.
    One(Vec<Prediction>),
    /// For many texts.
    Many(Vec<Vec<Prediction>>),
}
