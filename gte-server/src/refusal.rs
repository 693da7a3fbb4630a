//! Turns an error into a response: the status, the headers, and a body in the form that the API's
//! clients expect. Bodies are always JSON.

use axum::Json;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::api::{ErrorBody, tei};
use crate::error::Error;

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let body = ErrorBody::from(&self);
        with_body(self, body)
    }
}

fn with_body(error: Error, body: impl Serialize) -> Response {
    let (status, ..) = error.kind();
    let mut response = (status, Json(body)).into_response();
    let header = match &error {
        Error::Overloaded { retry_after_s, .. } => Some((header::RETRY_AFTER, HeaderValue::from(*retry_after_s))),
        Error::Loading(_) => Some((header::RETRY_AFTER, HeaderValue::from(5))),
        Error::Unauthorized => Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        Error::Encoding(_) => Some((header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"))),
        _ => None,
    };
    response.headers_mut().extend(header);
    // For routes that write the error in another form.
    response.extensions_mut().insert(error);
    response
}

/// Rewrites an error as clients of text-embeddings-inference expect it.
pub(crate) async fn as_tei_writes(mut response: Response) -> Response {
    match response.extensions_mut().remove::<Error>() {
        Some(error) => {
            let body = tei::ErrorBody::from(&error);
            with_body(error, body)
        }
        None => response,
    }
}
