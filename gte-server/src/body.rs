//! Reads the body of a request within the limits of size and time, and parses it.

use std::io::Read;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use flate2::read::MultiGzDecoder;
use serde::de::DeserializeOwned;
use utoipa::PartialSchema;

use crate::error::Error;
use crate::json;
use crate::service::Service;

/// A JSON body. An error contains the path of the wrong field.
pub(crate) struct Checked<T>(pub(crate) T);

impl<T: DeserializeOwned + PartialSchema> FromRequest<Arc<Service>> for Checked<T> {
    type Rejection = Error;

    async fn from_request(request: Request<Body>, service: &Arc<Service>) -> Result<Self, Error> {
        let RawBody(bytes) = RawBody::from_request(request, service).await?;
        json::parse(&bytes).map(Self)
    }
}

/// The bytes of a body that is within the limits, decompressed if it was sent as gzip.
pub(crate) struct RawBody(pub(crate) Bytes);

impl FromRequest<Arc<Service>> for RawBody {
    type Rejection = Error;

    async fn from_request(request: Request<Body>, service: &Arc<Service>) -> Result<Self, Error> {
        let (limit, timeout) = (service.config.body_limit, service.config.body_timeout());
        let packed = is_gzip(request.headers())?;
        let body = tokio::time::timeout(timeout, Bytes::from_request(request, service));
        let bytes = body.await.map_err(|_| Error::SlowBody(timeout.as_secs()))?.map_err(|e| match e.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Error::TooLarge { limit },
            _ => Error::Syntax(e.body_text()),
        })?;
        match packed {
            false => Ok(Self(bytes)),
            true => {
                let work = tokio::task::spawn_blocking(move || unpack(&bytes, limit));
                work.await.map_err(|e| Error::Engine(e.to_string()))?.map(Self)
            }
        }
    }
}

/// Whether a body is compressed. Only gzip is supported (RFC 9110, 8.4).
fn is_gzip(headers: &HeaderMap) -> Result<bool, Error> {
    let values = headers.get_all(header::CONTENT_ENCODING).iter().map(|value| value.to_str().unwrap_or("?"));
    let names = values.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase());
    let names: Vec<_> = names.filter(|name| !name.is_empty() && name != "identity").collect();
    match &names[..] {
        [] => Ok(false),
        [name] if name == "gzip" || name == "x-gzip" => Ok(true),
        _ => Err(Error::Encoding(names.join(", "))),
    }
}

/// Decompresses a body to at most `limit` bytes, because a small body can unpack to a very large
/// one.
fn unpack(bytes: &[u8], limit: usize) -> Result<Bytes, Error> {
    let mut unpacked = Vec::new();
    let size = MultiGzDecoder::new(bytes).take(limit as u64 + 1).read_to_end(&mut unpacked);
    match size.map_err(|e| Error::Syntax(format!("not valid gzip, though Content-Encoding says so: {e}")))? {
        size if size > limit => Err(Error::TooLarge { limit }),
        _ => Ok(unpacked.into()),
    }
}
