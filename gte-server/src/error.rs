//! The ways in which a request can fail, and the HTTP status for each. `refusal.rs` writes the
//! response.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::http::StatusCode;

/// The ways in which a request can fail.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The body is not JSON.
    #[error("the body is not JSON: {0}")]
    Syntax(String),
    /// A field is missing, of the wrong type or out of range.
    #[error("{field}: {reason}")]
    Field {
        /// Path of the field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No texts, or a text without tokens.
    #[error("{0} is empty, expected at least one text")]
    Empty(String),
    /// The request exceeds a fixed limit: repeating it is useless.
    #[error("{found} in one request exceed the limit: {limit}")]
    TooMuch {
        /// The amount in the request.
        found: String,
        /// The limit, with its name.
        limit: String,
    },
    /// The body is compressed by an unsupported method.
    #[error("Content-Encoding {0} is not supported, expected gzip or none")]
    Encoding(String),
    /// The model cannot do what the request asks for.
    #[error("{model} is {}: it cannot {not}", with_article(.is))]
    Task {
        /// The model's name.
        model: String,
        /// What kind of model it is.
        is: &'static str,
        /// What the request asked for.
        not: &'static str,
    },
    /// The model is not loaded yet.
    #[error("the model {0} is still loading, try again later")]
    Loading(String),
    /// The body is larger than the limit.
    #[error("the body is larger than {limit} bytes, the limit of --body-limit")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The body did not arrive in time.
    #[error("the body did not arrive within {0} s, the limit of --body-timeout")]
    SlowBody(u64),
    /// No valid API key.
    #[error("a valid API key is required: send the header Authorization: Bearer <key>")]
    Unauthorized,
    /// There is no such route, model or job.
    #[error("{0}")]
    NotFound(String),
    /// The route exists, but not for this method.
    #[error("this route does not support {0}")]
    Method(String),
    /// The queue is full.
    #[error("the queue is full ({what}): try again in {retry_after_s} s")]
    Overloaded {
        /// The limit that was reached.
        what: &'static str,
        /// When there will be room, estimated from the measured speed.
        retry_after_s: u64,
    },
    /// The request waited until its deadline and was not computed.
    #[error("not computed within {0} s, the limit of --request-timeout")]
    Deadline(u64),
    /// The server is shutting down or not ready.
    #[error("the server is {0}")]
    Unavailable(&'static str),
    /// The broker of jobs cannot be reached, or refuses.
    #[error("the broker does not answer, try again later")]
    Broker,
    /// The engine failed.
    #[error("the engine failed: {0}")]
    Engine(String),
}

fn with_article(noun: &str) -> String {
    format!("{} {noun}", if noun.starts_with('e') { "an" } else { "a" })
}

impl Error {
    /// The HTTP status, the error type of OpenAI, and that of text-embeddings-inference.
    pub(crate) fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Syntax(_) => (StatusCode::BAD_REQUEST, "invalid_request_error", "Validation"),
            Self::Field { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_request_error", "Validation"),
            Self::Empty(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_request_error", "Empty"),
            Self::Encoding(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", "Validation"),
            Self::Task { .. } => (StatusCode::FAILED_DEPENDENCY, "invalid_request_error", "Backend"),
            Self::TooLarge { .. } | Self::TooMuch { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", "Validation")
            }
            Self::SlowBody(_) => (StatusCode::REQUEST_TIMEOUT, "invalid_request_error", "Validation"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "authentication_error", "Validation"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "invalid_request_error", "Validation"),
            Self::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "Validation"),
            Self::Overloaded { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "Overloaded"),
            Self::Deadline(_) => (StatusCode::GATEWAY_TIMEOUT, "timeout_error", "Overloaded"),
            Self::Unavailable(_) | Self::Loading(_) | Self::Broker => {
                (StatusCode::SERVICE_UNAVAILABLE, "server_error", "Unhealthy")
            }
            Self::Engine(_) => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", "Backend"),
        }
    }

    /// Path of the wrong field, if the error is about a field.
    pub(crate) fn param(&self) -> Option<String> {
        match self {
            Self::Field { field, .. } | Self::Empty(field) => Some(field.clone()),
            _ => None,
        }
    }

    /// The request has more than `limit`, and `what` names the limit.
    pub(crate) fn too_much(found: impl ToString, what: &str, limit: impl std::fmt::Display) -> Self {
        Self::TooMuch { found: found.to_string(), limit: format!("{limit}, the limit of {what}") }
    }

    /// A wrong field.
    pub fn field(field: impl Into<String>, reason: impl ToString) -> Self {
        Self::Field { field: field.into(), reason: reason.to_string() }
    }
}

impl From<QueryRejection> for Error {
    fn from(e: QueryRejection) -> Self {
        Self::field("the query", e.body_text())
    }
}

impl From<PathRejection> for Error {
    fn from(e: PathRejection) -> Self {
        Self::NotFound(e.body_text())
    }
}

impl From<gte_core::Error> for Error {
    fn from(e: gte_core::Error) -> Self {
        use gte_core::Error as Core;
        match e {
            Core::TokenId { .. } | Core::TokenCount { .. } => Self::field("input", e),
            Core::InvalidOption { option, value, expected } => {
                Self::field(option, format_args!("{value}, expected {expected}"))
            }
            e => Self::Engine(e.to_string()),
        }
    }
}
