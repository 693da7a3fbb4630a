//! text-embeddings-inference's routes, as its OpenAPI file has them.

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
    /// What is embedded.
    pub inputs: Input,
    /// Whether long texts are cut: they are, unless this is false.
    #[serde(default)]
    pub truncate: Option<bool>,
    /// The side that a long text loses.
    #[serde(default, deserialize_with = "super::truncation_direction")]
    #[schema(value_type = Option<TruncationDirection>)]
    pub truncation_direction: Option<TruncationSide>,
    /// The prompt to put before each text, by its name; the model's default if left out.
    #[serde(default)]
    pub prompt_name: Option<String>,
    /// What to put before each text, letter for letter, in place of a prompt of the model.
    #[serde(default)]
    pub prompt: Option<String>,
    /// `query` or `document`: the model's prompt for such texts is put before them, if it has one; or the name of a
    /// prompt.
    #[serde(default)]
    pub input_type: Option<String>,
    /// The model's name or id, where the server has several.
    #[serde(default)]
    pub model: Option<String>,
    /// Whether vectors are of unit length: they are unless this is false.
    #[serde(default)]
    pub normalize: Option<bool>,
    /// Length of the vectors, for Matryoshka models.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub dimensions: Option<usize>,
    /// The type of the values: fewer bits take less room. Not text-embeddings-inference's: Voyage's.
    #[serde(default, deserialize_with = "super::vectors::output_type")]
    #[schema(value_type = Option<OutputType>)]
    pub output_dtype: Option<OutputType>,
    /// Hugging Face's clients have this field for all servers: `float` here, base64 is on
    /// `/v1/embeddings`.
    #[serde(default, deserialize_with = "super::encoding_format")]
    #[schema(value_type = Option<EncodingFormat>)]
    pub encoding_format: Option<EncodingFormat>,
}

/// `POST /embed_all` and `POST /embed_sparse`
#[derive(Debug, Deserialize, ToSchema)]
pub struct EmbedAllRequest {
    /// What is embedded.
    pub inputs: Input,
    /// Whether long texts are cut: they are, unless this is false.
    #[serde(default)]
    pub truncate: Option<bool>,
    /// The side that a long text loses.
    #[serde(default, deserialize_with = "super::truncation_direction")]
    #[schema(value_type = Option<TruncationDirection>)]
    pub truncation_direction: Option<TruncationSide>,
    /// The prompt to put before each text, by its name; the model's default if left out.
    #[serde(default)]
    pub prompt_name: Option<String>,
    /// What to put before each text, letter for letter, in place of a prompt of the model.
    #[serde(default)]
    pub prompt: Option<String>,
    /// `query` or `document`: the model's prompt for such texts is put before them, if it has one; or the name of a
    /// prompt.
    #[serde(default)]
    pub input_type: Option<String>,
    /// The model's name or id, where the server has several.
    #[serde(default)]
    pub model: Option<String>,
}

/// A token id's weight.
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
    /// How they are read.
    #[serde(default, deserialize_with = "crate::json::maybe_object")]
    pub parameters: Option<SimilarityParameters>,
}

/// What is compared.
#[derive(Debug, Deserialize, ToSchema)]
pub struct SimilarityInputs {
    /// The one.
    pub source_sentence: String,
    /// The others.
    #[schema(min_items = 1, max_items = 2047)]
    pub sentences: Vec<String>,
}

/// How texts that are compared are read.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct SimilarityParameters {
    /// Whether long texts are cut: they are, unless this is false.
    #[serde(default)]
    pub truncate: Option<bool>,
    /// The side that a long text loses.
    #[serde(default, deserialize_with = "super::truncation_direction")]
    #[schema(value_type = Option<TruncationDirection>)]
    pub truncation_direction: Option<TruncationSide>,
    /// The prompt to put before each text, by its name; the model's default if left out.
    #[serde(default)]
    pub prompt_name: Option<String>,
    /// The model's name or id, where the server has several.
    #[serde(default)]
    pub model: Option<String>,
}

/// `POST /` and `POST /invocations`: texts to embed, or to compare where `inputs` is an object.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "read by the macro, for the OpenAPI document")]
pub(crate) enum AnyRequest {
    Embed(EmbedRequest),
    Similarity(SimilarityRequest),
}

/// Which of the two a request is.
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
    /// Whether special tokens are among the tokens: they are, unless this is false.
    #[serde(default)]
    pub add_special_tokens: Option<bool>,
    /// The prompt to put before each text, by its name; the model's default if left out.
    #[serde(default)]
    pub prompt_name: Option<String>,
    /// The model's name or id, where the server has several.
    #[serde(default)]
    pub model: Option<String>,
}

/// A token in the answer to `POST /tokenize`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The part of the text, behind its prompt, that it stands for; of a special token, its name.
    pub text: String,
    /// Whether it stands for no part of the text.
    pub special: bool,
    /// First byte in the text; null for special tokens.
    pub start: Option<usize>,
    /// The byte behind the last; null for special tokens.
    pub stop: Option<usize>,
}

/// `POST /decode`
#[derive(Debug, Deserialize, ToSchema)]
pub struct DecodeRequest {
    /// Token ids of one text or of many.
    pub ids: Ids,
    /// Whether special tokens are left out: they are, unless this is false.
    #[serde(default)]
    pub skip_special_tokens: Option<bool>,
    /// The model's name or id, where the server has several.
    #[serde(default)]
    pub model: Option<String>,
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
    /// The commit of the model's files; not known here.
    pub model_sha: Option<String>,
    /// The type of the matrix products that is used: f32, bf16 …
    pub model_dtype: &'static str,
    /// The model's name in `/v1/models`.
    pub served_model_name: String,
    /// How vectors are pooled.
    pub model_type: ModelType,
    /// Where a text is cut, in tokens.
    pub max_input_length: usize,
    /// Tokens computed at once.
    pub max_batch_tokens: usize,
    /// Texts computed at once: as many as their tokens allow.
    pub max_batch_requests: Option<usize>,
    /// Texts of ordinary length that one request may have, by the limits and by the speed measured
    /// at start. Of short texts, 2048.
    pub max_client_batch_size: usize,
    /// Requests that may wait.
    pub max_concurrent_requests: usize,
    /// Texts are tokenized by as many threads as there are requests, up to this.
    pub tokenization_workers: usize,
    /// Whether long texts are cut unless a request says otherwise.
    pub auto_truncate: bool,
    /// Version of the server.
    pub version: &'static str,
    /// Length of the vectors; labels of a classifier.
    pub dimension: usize,
    /// Names of the model's prompts.
    pub prompts: Vec<String>,
    /// The prompt of texts for which none is named.
    pub default_prompt_name: Option<String>,
    /// Instruction set of the kernels.
    pub isa: &'static str,
    /// Compute threads.
    pub threads: usize,
    /// Whether the model makes sparse vectors, on `/embed_sparse`.
    pub sparse: bool,
    /// Whether the model makes a vector per token.
    pub colbert: bool,
    /// The names of all models of this server; `/info?model=NAME` tells of each.
    pub models: Vec<String>,
    /// What to know of this model, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<&'static str>,
}

/// The kind of model, by the one key that there is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModelType {
    /// An embedding model.
    Embedding(PoolingInfo),
    /// A reranker: a classifier of one label.
    Reranker(LabelInfo),
    /// A classifier of several labels.
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
    /// Names by number.
    pub id2label: BTreeMap<String, String>,
    /// Numbers by name.
    pub label2id: BTreeMap<String, usize>,
}

impl LabelInfo {
    /// Of names in the order of their numbers.
    pub(crate) fn new(names: &[String]) -> Self {
        Self {
            id2label: names.iter().enumerate().map(|(i, name)| (i.to_string(), name.clone())).collect(),
            label2id: names.iter().enumerate().map(|(i, name)| (name.clone(), i)).collect(),
        }
    }
}

/// What is sent in place of an answer.
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

/// What `POST /` answers: vectors, or cosines.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "read by the macro, for the OpenAPI document")]
pub(crate) enum AnyResponse {
    Vectors(Vec<Vec<f32>>),
    Cosines(Vec<f32>),
}
