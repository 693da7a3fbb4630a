//! Every JSON type on the wire, with its limits, by API: OpenAI's as in its API reference, the
//! native ones of text-embeddings-inference as in its OpenAPI file, and our own. Here is what
//! several of them share.

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

/// Texts in one request, at most.
pub const MAX_TEXTS: usize = 2048;

/// One text or many, each as text or as token ids.
#[derive(Debug)]
pub enum Input {
    /// A string or a list of token ids.
    One(Text),
    /// A list of them.
    Many(Vec<Text>),
}

/// A text, or the token ids that it is.
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

// By hand and not `untagged`, so that an error tells which of the texts is wrong.
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
                            "a list of texts and single token ids, expected one or the other",
                        ));
                    }
                }
                Ok(if ids.is_empty() { Input::Many(texts) } else { Input::One(Text::Ids(ids)) })
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// What an input's list holds.
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
                let id = u32::try_from(id).map_err(|_| E::custom(format_args!("{id} is no token id")))?;
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
            .description(Some("Text, one or many; where the server was started with --token-ids, also token ids"))
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

/// How a vector is written.
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

/// What a request may say of the prompt before its texts: at most one of the three.
pub(crate) fn prompt_choice(
    name: Option<String>,
    text: Option<String>,
    input_type: Option<String>,
) -> Result<PromptChoice, Error> {
    let both = |a: &str, b| Err(Error::field(b, format_args!("it says what stands before the texts, as `{a}` does")));
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

/// The side that a long text loses, `right` unless it is said, as text-embeddings-inference spells
/// it.
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

/// What is sent in place of an answer, as OpenAI's clients read it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// As OpenAI nests it.
    pub error: ErrorDetail,
    /// The same message, for Cohere's clients.
    pub message: String,
    /// The same message, for clients of servers that are written with FastAPI.
    pub detail: Detail,
}

/// The message as FastAPI writes it: clients of servers that are written with it, such as infinity's,
/// fail on another shape.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Detail {
    /// Of every other status.
    Message(String),
    /// Of status 422.
    Fields(Vec<FieldDetail>),
}

/// A field that is wrong, as FastAPI tells it.
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
    /// OpenAI's kind of error.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Path of the field that is wrong, where it is one.
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

/// How a request may be refused, with a body as an API's clients read it.
macro_rules! refusals {
    ($name:ident, $body:ty) => {
        #[derive(IntoResponses)]
        #[allow(dead_code, reason = "read by the macro, for the OpenAPI document")]
        pub(crate) enum $name {
            /// The body is not JSON
            #[response(status = 400)]
            Syntax(#[to_schema] $body),
            /// A valid key is needed
            #[response(status = 401)]
            Unauthorized(#[to_schema] $body),
            /// No such model
            #[response(status = 404)]
            NotFound(#[to_schema] $body),
            /// The body did not arrive in time
            #[response(status = 408)]
            SlowBody(#[to_schema] $body),
            /// The body, or what it asks for, is larger than a limit; asking again is in vain
            #[response(status = 413)]
            TooLarge(#[to_schema] $body),
            /// The body has a content encoding other than gzip
            #[response(status = 415)]
            Encoding(#[to_schema] $body),
            /// A field is missing, of the wrong type or out of range
            #[response(status = 422)]
            Field(#[to_schema] $body),
            /// The model is one for something else
            #[response(status = 424)]
            Task(#[to_schema] $body),
            /// The queue is full; `Retry-After` says when there will be room
            #[response(status = 429)]
            Overloaded(#[to_schema] $body),
            /// The engine failed
            #[response(status = 500)]
            Engine(#[to_schema] $body),
            /// Shutting down, or the model is still being loaded
            #[response(status = 503)]
            Unavailable(#[to_schema] $body),
            /// Not computed before the deadline
            #[response(status = 504)]
            Deadline(#[to_schema] $body),
        }
    };
}

refusals!(Refused, ErrorBody);
refusals!(TeiRefused, tei::ErrorBody);
refusals!(RerankRefused, AnyErrorBody);

/// What is sent in place of a ranking: to `documents` as OpenAI's clients read it, to `texts` as
/// text-embeddings-inference's do.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "read by the macro, for the OpenAPI document")]
pub(crate) enum AnyErrorBody {
    Documents(ErrorBody),
    Texts(tei::ErrorBody),
}
