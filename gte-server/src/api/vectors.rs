//! How vectors are written: as numbers or in base64, in full or with fewer bits, in JSON or as raw
//! bytes.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use gte_core::Embeddings;
use serde::{Deserializer, Serialize};
use utoipa::openapi::schema::OneOfBuilder;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::EncodingFormat;
use crate::json;

/// The type of a vector's values, under the names of Voyage's and Cohere's APIs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum OutputType {
    /// f32
    #[default]
    Float,
    /// Integers from −127 to 127. Each vector is scaled by its largest magnitude, so cosines stay
    /// about the same.
    Int8,
    /// The same plus 128.
    Uint8,
    /// One bit per value, set if the value is positive. Eight bits form a number from −128 to 127,
    /// which is the number of `ubinary` minus 128.
    Binary,
    /// One bit per value, set if the value is positive. Eight bits form a number from 0 to 255,
    /// with the first value in the highest bit.
    Ubinary,
}

const WORDS: [(&str, OutputType); 5] = [
    ("float", OutputType::Float),
    ("int8", OutputType::Int8),
    ("uint8", OutputType::Uint8),
    ("binary", OutputType::Binary),
    ("ubinary", OutputType::Ubinary),
];

/// For `deserialize_with`.
pub(crate) fn output_type<'de, D: Deserializer<'de>>(d: D) -> Result<Option<OutputType>, D::Error> {
    json::word(d, &WORDS)
}

/// A vector in one of the formats.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Vector {
    /// f32
    Float(Vec<f32>),
    /// Signed integers.
    Signed(Vec<i8>),
    /// Unsigned integers.
    Unsigned(Vec<u8>),
    /// The bytes of any of these, little-endian, in base64.
    Base64(String),
}

// Written by hand: a list of integers would match several of the variants, and `oneOf` requires
// exactly one.
impl PartialSchema for Vector {
    fn schema() -> RefOr<Schema> {
        let one_of = OneOfBuilder::new()
            .description(Some("Numbers of the requested type; or their bytes, little-endian, in base64"))
            .item(Vec::<f32>::schema())
            .item(String::schema());
        RefOr::T(Schema::OneOf(one_of.build()))
    }
}

impl ToSchema for Vector {}

impl Vector {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Float(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::Signed(values) => values.iter().map(|value| value.cast_unsigned()).collect(),
            Self::Unsigned(values) => values.clone(),
            Self::Base64(text) => text.clone().into_bytes(),
        }
    }
}

/// The vectors as values of type `kind`.
pub(crate) fn typed(vectors: &Embeddings, kind: OutputType) -> Vec<Vector> {
    let int8 = || {
        let small = vectors.to_int8();
        small.values.chunks_exact(small.dim).map(<[i8]>::to_vec).collect::<Vec<_>>()
    };
    let bits = || {
        let small = vectors.to_binary();
        small.values.chunks_exact(small.dim.div_ceil(8)).map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    let up = |row: Vec<i8>| Vector::Unsigned(row.into_iter().map(|v| v.cast_unsigned().wrapping_add(128)).collect());
    let down = |row: Vec<u8>| Vector::Signed(row.into_iter().map(|v| v.wrapping_sub(128).cast_signed()).collect());
    match kind {
        OutputType::Float => vectors.rows().map(|row| Vector::Float(row.to_vec())).collect(),
        OutputType::Int8 => int8().into_iter().map(Vector::Signed).collect(),
        OutputType::Uint8 => int8().into_iter().map(up).collect(),
        OutputType::Ubinary => bits().into_iter().map(Vector::Unsigned).collect(),
        OutputType::Binary => bits().into_iter().map(down).collect(),
    }
}

/// The vectors as values of type `kind`, as numbers or in base64.
pub(crate) fn written(vectors: &Embeddings, kind: OutputType, format: EncodingFormat) -> Vec<Vector> {
    let rows = typed(vectors, kind);
    let base64 = |row: Vector| Vector::Base64(base64::engine::general_purpose::STANDARD.encode(row.bytes()));
    match format {
        EncodingFormat::Float => rows,
        EncodingFormat::Base64 => rows.into_iter().map(base64).collect(),
    }
}

/// Whether the client prefers raw bytes: `Accept` names them, and does not name JSON before them.
pub(crate) fn wants_bytes(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = accepted.flat_map(|value| value.split(',')).map(|kind| kind.split(';').next().unwrap_or("").trim());
    kinds.find(|&kind| kind == BYTES || kind == JSON) == Some(BYTES)
}

const JSON: &str = "application/json";

const BYTES: &str = "application/octet-stream";

/// The number of vectors and the number of values per vector: `rows,values`.
pub(crate) const SHAPE: HeaderName = HeaderName::from_static("x-embedding-shape");
/// The type of the values: `float32`, `int8` or `uint8`, little-endian.
pub(crate) const TYPE: HeaderName = HeaderName::from_static("x-embedding-type");

/// The bytes of all vectors in sequence; the headers describe them.
pub(crate) fn bytes(vectors: &Embeddings, kind: OutputType) -> Response {
    let rows = typed(vectors, kind);
    let (values, name) = match rows.first() {
        Some(Vector::Signed(row)) => (row.len(), "int8"),
        Some(Vector::Unsigned(row)) => (row.len(), "uint8"),
        _ => (vectors.dim(), "float32"),
    };
    described(rows.iter().flat_map(Vector::bytes).collect(), rows.len(), values, name)
}

/// The same for vectors that are not of unit length.
pub(crate) fn raw_bytes(rows: &[&[f32]]) -> Response {
    let body = rows.iter().flat_map(|row| row.iter()).flat_map(|value| value.to_le_bytes()).collect();
    described(body, rows.len(), rows.first().map_or(0, |row| row.len()), "float32")
}

fn described(body: Vec<u8>, rows: usize, values: usize, name: &'static str) -> Response {
    let shape = HeaderValue::from_str(&format!("{rows},{values}"));
    let kinds = [(header::CONTENT_TYPE, HeaderValue::from_static(BYTES)), (TYPE, HeaderValue::from_static(name))];
    let mut response = (kinds, Body::from(body)).into_response();
    response.headers_mut().extend(shape.ok().map(|shape| (SHAPE, shape)));
    response
}
