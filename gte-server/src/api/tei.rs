//! The routes of text-embeddings-inference, as in its OpenAPI document.

use std::collections::BTreeMap;

use gte_core::TruncationSide;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::vectors::OutputType;
use super::{EncodingFormat, Input, Texts, TruncationDirection};
use crate::error::Error;

/// `POST /embed` and `POST /`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct EmbedRequest {
    /// The texts to embed.
    pub inputs: Input,
    /// Whether long texts are truncated. Default: true.
    #[serde(default)]
    pub truncate: Option<bool>,
    /// The side on which long texts are truncated. Default: as in the model's files, or else
    /// `right`.
    #[serde(default, deserialize_with = "super::truncation_direction")]
    #[schema(value_type = Option<TruncationDirection>)]
    pub truncation_direction: Option<TruncationSide>,
    /// The name of the prompt to put before each text. Default: the model's default prompt.
    #[serde(default)]
    pub prompt_name: Option<String>,
    /// A text to put before each text exactly as it is, instead of a prompt of the model.
    #[serde(default)]
    pub prompt: Option<String>,
    /// `query` or `document`: the model's prompt for this kind of text is put before each text, if
    /// it has one. The name of a prompt also works.
    #[serde(default)]
    pub input_type: Option<String>,
    /// The model's name or id, if the server has several models.
    #[serde(default)]
    pub model: Option<String>,
    /// Whether vectors have unit length. Default: true.
    #[serde(default)]
    pub normalize: Option<bool>,
    /// Length of the vectors, for Matryoshka models.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub dimensions: Option<usize>,
    /// The type of the values; fewer bits take less space. As in Voyage's API, not that of
    /// text-embeddings-inference.
    #[serde(default, deserialize_with = "super::vectors::output_type")]
    #[schema(value_type = Option<OutputType>)]
    pub output_dtype: Option<OutputType>,
    /// Hugging Face's clients send this field to all servers. Only `float` is supported here;
    /// base64 is available at `/v1/embeddings`.
    #[serde(default, deserialize_with = "super::encoding_format")]
    #[schema(value_type = Option<EncodingFormat>)]
    pub encoding_format: Option<EncodingFormat>,
}

/// `POST /embed_all` and `POST /embed_sparse`
#[derive(Debug, Deserialize, ToSchema)]
pub struct EmbedAllRequest {
    /// The texts to embed.
    pub inputs: Input,
    /// Whether long texts are truncated. Default: true.
    #[serde(default)]
    pub truncate: Option<bool>,
    /// The side on which long texts are truncated. Default: as in the model's files, or else
    /// `right`.
    #[serde(default, deserialize_with = "super::truncation_direction")]
    #[schema(value_type = Option<TruncationDirection>)]
    pub truncation_direction: Option<TruncationSide>,
    /// The name of the prompt to put before each text. Default: the model's default prompt.
    #[serde(default)]
    pub prompt_name: Option<String>,
    /// A text to put before each text exactly as it is, instead of a prompt of the model.
    #[serde(default)]
    pub prompt: Option<String>,
    /// `query` or `document`: the model's prompt for this kind of text is put before each text, if
    /// it has one. The name of a prompt also works.
    #[serde(default)]
    pub input_type: Option<String>,
    /// The model's name or id, if the server has several models.
    #[serde(default)]
    pub model: Option<String>,
}

/// A token id and its weight.
#[derive(Debug, Serialize, ToSchema)]
pub struct SparseValue {
    /// The token id.
    pub index: u32,
    /// Its weight, above 0.
    pub value: f32,
}

/// `POST /similarity`
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = TeiSimilarityRequest)]
pub struct SimilarityRequest {
    /// The texts.
    #[serde(deserialize_with = "crate::json::object")]
    pub inputs: SimilarityInputs,
    /// How the texts are read.
    #[serde(default, deserialize_with = "crate::json::maybe_object")]
    pub parameters: Option<SimilarityParameters>,
}

/// The texts to compare.
#[derive(Debug, Deserialize, ToSchema)]
pub struct SimilarityInputs {
    /// The sentence that is compared with the others.
    pub source_sentence: String,
    /// The other sentences.
    #[schema(min_items = 1, max_items = 2047)]
    pub sentences: Vec<String>,
}

/// How the texts of a comparison are read.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct SimilarityParameters {
    /// Whether long texts are truncated. Default: true.
    #[serde(default)]
    pub truncate: Option<bool>,
    /// The side on which long texts are truncated. Default: as in the model's files, or else
    /// `right`.
    #[serde(default, deserialize_with = "super::truncation_direction")]
    #[schema(value_type = Option<TruncationDirection>)]
    pub truncation_direction: Option<TruncationSide>,
    /// The name of the prompt to put before each text. Default: the model's default prompt.
    #[serde(default)]
    pub prompt_name: Option<String>,
    /// The model's name or id, if the server has several models.
    #[serde(default)]
    pub model: Option<String>,
}

/// `POST /` and `POST /invocations`: texts to embed, or a comparison if `inputs` is an object.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "read by the macro, for the OpenAPI document")]
pub(crate) enum AnyRequest {
    Embed(EmbedRequest),
    Similarity(SimilarityRequest),
}

/// Tells whether a request is one or the other.
#[derive(Deserialize)]
pub(crate) struct Kind {
    pub(crate) inputs: Shape,
}

/// The shape of `inputs`.
#[derive(PartialEq, Eq)]
pub(crate) enum Shape {
    Object,
    Other,
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Shape;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("texts")
            }

            fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
                Ok(Shape::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Shape::Other)
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Shape, M::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Shape::Object)
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// `POST /tokenize`
#[derive(Debug, Deserialize, ToSchema)]
pub struct TokenizeRequest {
    /// One text or many.
    pub inputs: Texts,
    /// Whether special tokens are included. Default: true.
    #[serde(default)]
    pub add_special_tokens: Option<bool>,
    /// The name of the prompt to put before each text. Default: the model's default prompt.
    #[serde(default)]
    pub prompt_name: Option<String>,
    /// The model's name or id, if the server has several models.
    #[serde(default)]
    pub model: Option<String>,
}

/// A token in the response of `POST /tokenize`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The part of the text that the token covers, without the prompt; the name of a special token.
    pub text: String,
    /// Whether the token covers no part of the text.
    pub special: bool,
    /// Position of its first byte in the text; null for special tokens.
    pub start: Option<usize>,
    /// Position after its last byte; null for special tokens.
    pub stop: Option<usize>,
}

/// `POST /decode`
#[derive(Debug, Deserialize, ToSchema)]
pub struct DecodeRequest {
    /// Token ids of one text or of many.
    pub ids: Ids,
    /// Whether special tokens are left out. Default: true.
    #[serde(default)]
    pub skip_special_tokens: Option<bool>,
    /// The model's name or id, if the server has several models.
    #[serde(default)]
    pub model: Option<String>,
}

/// Token ids of one text or of many.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a list of token ids or a list of lists")]
pub enum Ids {
    /// For one text.
    One(Vec<u32>),
    /// For many texts.
    Many(Vec<Vec<u32>>),
}

/// The query of `GET /info`.
#[derive(Debug, Deserialize)]
pub(crate) struct InfoQuery {
    /// The model's name or id.
    pub(crate) model: Option<String>,
}

/// `GET /info`
#[derive(Debug, Serialize, ToSchema)]
pub struct Info {
    /// The model.
    pub model_id: String,
    /// The commit of the model's files; always null here.
    pub model_sha: Option<String>,
    /// The precision in use: f32, bf16 …
    pub model_dtype: &'static str,
    /// The model's name in `/v1/models`.
    pub served_model_name: String,
    /// How vectors are pooled.
    pub model_type: ModelType,
    /// Length in tokens at which a text is truncated.
    pub max_input_length: usize,
    /// Maximum number of tokens computed together.
    pub max_batch_tokens: usize,
    /// Maximum number of texts computed together: always null, as only their tokens are limited.
    pub max_batch_requests: Option<usize>,
    /// How many texts of ordinary length one request may have, according to the limits and the
    /// speed measured at the start. At most 2048 short texts.
    pub max_client_batch_size: usize,
    /// Number of requests that may wait.
    pub max_concurrent_requests: usize,
    /// Maximum number of threads that tokenize; each request uses one.
    pub tokenization_workers: usize,
    /// Whether long texts are truncated unless a request says otherwise.
    pub auto_truncate: bool,
    /// Version of the server.
    pub version: &'static str,
    /// Number of values in a vector, or number of labels of a classifier.
    pub dimension: usize,
    /// Names of the model's prompts.
    pub prompts: Vec<String>,
    /// The prompt that is used if a request names none.
    pub default_prompt_name: Option<String>,
    /// Instruction set of the kernels.
    pub isa: &'static str,
    /// The device that computes the model: cpu, cuda:0 …
    pub device: String,
    /// The GPU's name, if the device is a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
    /// Compute threads.
    pub threads: usize,
    /// Whether the model computes sparse vectors, at `/embed_sparse`.
    pub sparse: bool,
    /// Whether the model computes a vector per token.
    pub colbert: bool,
    /// The names of all models of this server. `/info?model=NAME` describes each of them.
    pub models: Vec<String>,
    /// Advice about this model, if there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<&'static str>,
}

/// The kind of model, as an object with a single key.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModelType {
    /// An embedding model.
    Embedding(PoolingInfo),
    /// A reranker: a classifier with one label.
    Reranker(LabelInfo),
    /// A classifier with several labels.
    Classifier(LabelInfo),
}

/// How vectors are pooled.
#[derive(Debug, Serialize, ToSchema)]
pub struct PoolingInfo {
    /// cls, mean …
    pub pooling: &'static str,
}

/// The labels of a classifier.
#[derive(Debug, Serialize, ToSchema)]
pub struct LabelInfo {
    /// Label names by number.
    pub id2label: BTreeMap<String, String>,
    /// Label numbers by name.
    pub label2id: BTreeMap<String, usize>,
}

impl LabelInfo {
    /// The labels with these names, in the order of their numbers.
    pub(crate) fn new(names: &[String]) -> Self {
        Self {
            id2label: names.iter().enumerate().map(|(i, name)| (i.to_string(), name.clone())).collect(),
            label2id: names.iter().enumerate().map(|(i, name)| (name.clone(), i)).collect(),
        }
    }
}

/// The response when a request fails.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TeiErrorBody)]
pub struct ErrorBody {
    /// What is wrong and what to do.
    pub error: String,
    /// Unhealthy, Backend, Overloaded, Validation, Tokenizer or Empty.
    pub error_type: &'static str,
}

impl From<&Error> for ErrorBody {
    fn from(e: &Error) -> Self {
        let (_, _, error_type) = e.kind();
        Self { error: e.to_string(), error_type }
    }
}

/// The response of `POST /`: vectors or cosines.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "read by the macro, for the OpenAPI document")]
pub(crate) enum AnyResponse {
    Vectors(Vec<Vec<f32>>),
    Cosines(Vec<f32>),
}
