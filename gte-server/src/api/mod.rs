//! Every JSON type of the HTTP API with its limits, by API: those of OpenAI as in its API
//! reference, those of text-embeddings-inference as in its OpenAPI document, and our own. This file
//! contains the types that several APIs share.

pub mod cohere;
pub mod native;
pub mod openai;
pub mod rerank;
pub mod tei;
pub mod vectors;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::schema::{ArrayBuilder, Object, ObjectBuilder, OneOfBuilder, SchemaType, Type};
use utoipa::openapi::{KnownFormat, RefOr, Schema, SchemaFormat};
use utoipa::{IntoResponses, PartialSchema, ToSchema};

use gte_core::TruncationSide;

use crate::error::Error;
use crate::json;
use crate::reading::{InputKind, PromptChoice};

/// Maximum number of texts in one request.
pub const MAX_TEXTS: usize = 2048;

/// One text or many, each as a string or as token ids.
#[derive(Debug)]
pub enum Input {
    /// A string or a list of token ids.
    One(Text),
    /// A list of texts.
    Many(Vec<Text>),
}

/// A text, as a string or as its token ids.
#[derive(Debug)]
pub enum Text {
    /// Text.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
}

impl Input {
    /// The texts, in order.
    pub fn into_texts(self) -> Vec<Text> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

impl From<String> for Input {
    fn from(text: String) -> Self {
        Self::One(Text::Text(text))
    }
}

impl From<Vec<String>> for Input {
    fn from(texts: Vec<String>) -> Self {
        Self::Many(texts.into_iter().map(Text::Text).collect())
    }
}

// Written by hand rather than with `untagged`, so that an error names the wrong text.
impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Input;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string, a list of strings, a list of token ids, or a list of lists of token ids")
            }

            fn visit_str<E>(self, text: &str) -> Result<Input, E> {
                Ok(text.to_owned().into())
            }

            fn visit_string<E>(self, text: String) -> Result<Input, E> {
                Ok(text.into())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Input, A::Error> {
                let (mut texts, mut ids) = (Vec::new(), Vec::new());
                while let Some(element) = list.next_element()? {
                    match element {
                        Element::Id(id) => ids.push(id),
                        Element::Text(text) => texts.push(text),
                    }
                    if !texts.is_empty() && !ids.is_empty() {
                        return Err(A::Error::custom(
                            "a list that mixes texts and single token ids, expected only one of them",
                        ));
                    }
                }
                Ok(if ids.is_empty() { Input::Many(texts) } else { Input::One(Text::Ids(ids)) })
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// An element of the input's list.
enum Element {
    Id(u32),
    Text(Text),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Element;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string, a token id, or a list of token ids")
            }

            fn visit_str<E>(self, text: &str) -> Result<Element, E> {
                Ok(Element::Text(Text::Text(text.to_owned())))
            }

            fn visit_string<E>(self, text: String) -> Result<Element, E> {
                Ok(Element::Text(Text::Text(text)))
            }

            fn visit_u64<E: serde::de::Error>(self, id: u64) -> Result<Element, E> {
                let id = u32::try_from(id).map_err(|_| E::custom(format_args!("{id} is not a token id")))?;
                Ok(Element::Id(id))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Element, A::Error> {
                let mut ids = Vec::with_capacity(list.size_hint().unwrap_or(0));
                while let Some(id) = list.next_element()? {
                    ids.push(id);
                }
                Ok(Element::Text(Text::Ids(ids)))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

impl PartialSchema for Input {
    fn schema() -> RefOr<Schema> {
        let text = || Object::with_type(SchemaType::Type(Type::String));
        let id = || {
            ObjectBuilder::new()
                .schema_type(SchemaType::Type(Type::Integer))
                .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int32)))
                .minimum(Some(0))
        };
        let ids = || ArrayBuilder::new().items(id());
        let one_of = OneOfBuilder::new()
            .description(Some("One text or many; also token ids if the server was started with --token-ids"))
            .item(text())
            .item(ArrayBuilder::new().items(text()).min_items(Some(1)).max_items(Some(MAX_TEXTS)))
            .item(ids())
            .item(ArrayBuilder::new().items(ids()));
        RefOr::T(Schema::OneOf(one_of.build()))
    }
}

impl ToSchema for Input {}

/// One string or many.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub enum Texts {
    /// One.
    One(String),
    /// Many.
    Many(Vec<String>),
}

/// The format of a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum EncodingFormat {
    /// A list of numbers.
    #[default]
    Float,
    /// Little-endian f32 values in base64.
    Base64,
}

/// For `deserialize_with`.
pub(crate) fn encoding_format<'de, D: Deserializer<'de>>(d: D) -> Result<Option<EncodingFormat>, D::Error> {
    json::word(d, &[("float", EncodingFormat::Float), ("base64", EncodingFormat::Base64)])
}

/// The prompt that a request asks for. A request may use at most one of the three fields.
pub(crate) fn prompt_choice(
    name: Option<String>,
    text: Option<String>,
    input_type: Option<String>,
) -> Result<PromptChoice, Error> {
    let both =
        |a: &str, b| Err(Error::field(b, format_args!("it sets the prompt, and so does `{a}`: send only one of them")));
    match (name, text, input_type) {
        (None, None, None) => Ok(PromptChoice::Default),
        (Some(name), None, None) => Ok(PromptChoice::Name(name)),
        (None, Some(text), None) => Ok(PromptChoice::Text(text)),
        (None, None, Some(kind)) => Ok(match kind.to_ascii_lowercase().as_str() {
            "query" | "search_query" | "retrieval.query" => PromptChoice::For(InputKind::Query),
            "document" | "passage" | "search_document" | "retrieval.passage" => PromptChoice::For(InputKind::Document),
            _ => PromptChoice::NameOrKind(kind),
        }),
        (Some(_), Some(_), _) => both("prompt_name", "prompt"),
        (Some(_), None, Some(_)) => both("prompt_name", "input_type"),
        (None, Some(_), Some(_)) => both("prompt", "input_type"),
    }
}

/// The side on which a long text is truncated, as in text-embeddings-inference.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code, reason = "read by the macro, for the OpenAPI document")]
pub(crate) enum TruncationDirection {
    Right,
    Left,
}

/// For `deserialize_with`.
pub(crate) fn truncation_direction<'de, D: Deserializer<'de>>(d: D) -> Result<Option<TruncationSide>, D::Error> {
    json::word(d, &[("right", TruncationSide::Right), ("left", TruncationSide::Left)])
}

/// The response when a request fails, in the form of OpenAI's errors.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// The error as OpenAI's clients expect it.
    pub error: ErrorDetail,
    /// The same message, for Cohere's clients.
    pub message: String,
    /// The same message, for clients of servers written with FastAPI.
    pub detail: Detail,
}

/// The message as FastAPI writes it. Clients of such servers, infinity for example, fail on any
/// other form.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Detail {
    /// Of every other status.
    Message(String),
    /// For status 422.
    Fields(Vec<FieldDetail>),
}

/// A wrong field, as FastAPI reports it.
#[derive(Debug, Serialize, ToSchema)]
pub struct FieldDetail {
    /// `body`, then the path of the field.
    pub loc: Vec<String>,
    /// What is wrong and what to do.
    pub msg: String,
    /// `value_error`
    #[serde(rename = "type")]
    pub kind: &'static str,
}

/// OpenAI's error object.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// What is wrong and what to do.
    pub message: String,
    /// OpenAI's type of error.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Path of the wrong field, if the error is about a field.
    pub param: Option<String>,
    /// HTTP status.
    pub code: u16,
}

impl From<&Error> for ErrorBody {
    fn from(e: &Error) -> Self {
        let (status, kind, _) = e.kind();
        let (message, param) = (e.to_string(), e.param());
        let detail = match &param {
            Some(field) => {
                let loc = vec!["body".to_owned(), field.clone()];
                Detail::Fields(vec![FieldDetail { loc, msg: message.clone(), kind: "value_error" }])
            }
            None => Detail::Message(message.clone()),
        };
        let error = ErrorDetail { message: message.clone(), kind, param, code: status.as_u16() };
        Self { error, message, detail }
    }
}

/// The responses with which a request may be refused, with the API's own type of body.
macro_rules! refusals {
    ($name:ident, $body:ty) => {
        #[derive(IntoResponses)]
        #[allow(dead_code, reason = "read by the macro, for the OpenAPI document")]
        pub(crate) enum $name {
            /// The body is not valid JSON.
            #[response(status = 400)]
            Syntax(#[to_schema] $body),
            /// A valid API key is required.
            #[response(status = 401)]
            Unauthorized(#[to_schema] $body),
            /// There is no such model.
            #[response(status = 404)]
            NotFound(#[to_schema] $body),
            /// The body did not arrive in time.
            #[response(status = 408)]
            SlowBody(#[to_schema] $body),
            /// The body, or the work it asks for, exceeds a limit. Repeating the request is
            /// useless.
            #[response(status = 413)]
            TooLarge(#[to_schema] $body),
            /// The body has a content encoding other than gzip.
            #[response(status = 415)]
            Encoding(#[to_schema] $body),
            /// A field is missing, has the wrong type, or is out of range.
            #[response(status = 422)]
            Field(#[to_schema] $body),
            /// The model cannot do what the request asks for.
            #[response(status = 424)]
            Task(#[to_schema] $body),
            /// The queue is full. The header `Retry-After` says when there will be room.
            #[response(status = 429)]
            Overloaded(#[to_schema] $body),
            /// The engine failed.
            #[response(status = 500)]
            Engine(#[to_schema] $body),
            /// The server is shutting down, or the model is still loading.
            #[response(status = 503)]
            Unavailable(#[to_schema] $body),
            /// The request was not computed before its deadline.
            #[response(status = 504)]
            Deadline(#[to_schema] $body),
        }
    };
}

refusals!(Refused, ErrorBody);
refusals!(TeiRefused, tei::ErrorBody);
refusals!(RerankRefused, AnyErrorBody);

/// The response when a ranking fails: in OpenAI's form for a request with `documents`, in the form
/// of text-embeddings-inference for a request with `texts`.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "read by the macro, for the OpenAPI document")]
pub(crate) enum AnyErrorBody {
    Documents(ErrorBody),
    Texts(tei::ErrorBody),
}
