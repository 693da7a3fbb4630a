//! One `match`: error → status and body. Bodies are JSON, always.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::api::{ErrorBody, ErrorDetail};

/// What a request may end in.
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
    /// The body is larger than allowed.
    #[error("the body is larger than {limit} bytes, the limit of --body-limit")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The body did not arrive in time.
    #[error("the body did not arrive within {0} s, the limit of --body-timeout")]
    SlowBody(u64),
    /// No valid key.
    #[error("a valid API key is needed: Authorization: Bearer …")]
    Unauthorized,
    /// No such route.
    #[error("no such route: {0}")]
    NotFound(String),
    /// The route exists for other methods.
    #[error("this route does not take {0}")]
    Method(String),
    /// The queue is full.
    #[error("the queue is full ({what}): try again in {retry_after_s} s")]
    Overloaded {
        /// Which limit.
        what: &'static str,
        /// By measured speed, when there will be room.
        retry_after_s: u64,
    },
    /// The request waited longer than its deadline; it was not computed.
    #[error("not computed within {0} s, the limit of --request-timeout")]
    Deadline(u64),
    /// The server is shutting down or not ready.
    #[error("the server is {0}")]
    Unavailable(&'static str),
    /// The broker of jobs cannot be reached, or refuses.
    #[error("the broker does not answer: try again")]
    Broker,
    /// The engine failed.
    #[error("the engine failed: {0}")]
    Engine(String),
}

impl Error {
    /// Status, OpenAI's type, text-embeddings-inference's type.
    fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Syntax(_) => (StatusCode::BAD_REQUEST, "invalid_request_error", "Validation"),
            Self::Field { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_request_error", "Validation"),
            Self::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", "Validation"),
            Self::SlowBody(_) => (StatusCode::REQUEST_TIMEOUT, "invalid_request_error", "Validation"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "authentication_error", "Validation"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "invalid_request_error", "Validation"),
            Self::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "Validation"),
            Self::Overloaded { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "Overloaded"),
            Self::Deadline(_) => (StatusCode::GATEWAY_TIMEOUT, "timeout_error", "Overloaded"),
            Self::Unavailable(_) | Self::Broker => (StatusCode::SERVICE_UNAVAILABLE, "server_error", "Unhealthy"),
            Self::Engine(_) => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", "Backend"),
        }
    }

    /// A field that is wrong.
    pub fn field(field: impl Into<String>, reason: impl ToString) -> Self {
        Self::Field { field: field.into(), reason: reason.to_string() }
    }
}

impl From<gte_core::Error> for Error {
    fn from(e: gte_core::Error) -> Self {
        use gte_core::Error as Core;
        match e {
            Core::TokenId { .. } | Core::TokenCount { .. } => Self::field("input", e),
            Core::InvalidOption { option, .. } => Self::field(option, e),
            e => Self::Engine(e.to_string()),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, kind, error_type) = self.kind();
        let message = self.to_string();
        let param = match &self {
            Self::Field { field, .. } => Some(field.clone()),
            _ => None,
        };
        let error = ErrorDetail { message: message.clone(), kind, param, code: status.as_u16() };
        let body = ErrorBody { error, message, error_type };
        let mut response = (status, Json(body)).into_response();
        if let Self::Overloaded { retry_after_s, .. } = self {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after_s));
        }
        if matches!(self, Self::Unauthorized) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
