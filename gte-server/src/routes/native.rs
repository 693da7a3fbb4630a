//! Our own two routes: a vector, and a ranking.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use crate::api::Refused;
use crate::api::native::{EmbeddingRequest, EmbeddingResponse, SimilarityRequest, SimilarityResponse};
use crate::body::Checked;
use crate::error::Error;
use crate::service::{Reading, Service};

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new().routes(routes!(embedding)).routes(routes!(similarity))
}

/// The vector of a text.
#[utoipa::path(post, path = "/v1/embedding", tag = "own", request_body = EmbeddingRequest, responses((status = 200, description = "OK", body = EmbeddingResponse), Refused), security(("bearer" = []), ()))]
async fn embedding(State(service): Shared, Checked(request): Checked<EmbeddingRequest>) -> Result<Response, Error> {
    let embedded = service.embed(request.text.into(), Reading::default(), "text").await?;
    let (headers, tokens, truncated) = (embedded.headers.clone(), embedded.tokens, embedded.truncated > 0);
    let vectors = embedded.vectors(&service, None)?;
    let embedding = vectors.as_slice();
    let model = service.embedder.name();
    let body = EmbeddingResponse { embedding, dimension: embedding.len(), model, tokens, truncated };
    Ok((headers, Json(body)).into_response())
}

/// How similar each candidate is to a text, and their ranking.
#[utoipa::path(post, path = "/v1/similarity", tag = "own", request_body = SimilarityRequest, responses((status = 200, description = "OK", body = SimilarityResponse), Refused), security(("bearer" = []), ()))]
async fn similarity(State(service): Shared, Checked(request): Checked<SimilarityRequest>) -> Result<Response, Error> {
    let SimilarityRequest { source_text, candidate_texts, top_k } = request;
    let (scores, headers) =
        compare(&service, source_text, candidate_texts, Reading::default(), "candidate_texts").await?;
    let mut ranking: Vec<usize> = (0..scores.len()).collect();
    ranking.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    ranking.truncate(top_k.unwrap_or(usize::MAX));
    Ok((headers, Json(SimilarityResponse { scores, ranking })).into_response())
}

/// Cosines of a text with the others, which are in `field`.
pub(super) async fn compare(
    service: &Arc<Service>,
    source: String,
    others: Vec<String>,
    reading: Reading,
    field: &'static str,
) -> Result<(Vec<f32>, HeaderMap), Error> {
    service.check_count(others.len(), field)?;
    let texts: Vec<_> = std::iter::once(source).chain(others).collect();
    let embedded = service.embed(texts.into(), reading, field).await?;
    let headers = embedded.headers.clone();
    let vectors = embedded.vectors(service, None)?;
    let mut rows = vectors.rows();
    let source = rows.next().unwrap_or_default();
    let scores = rows.map(|row| gte_core::similarity::cosine(source, row)).collect::<gte_core::Result<_>>()?;
    Ok((scores, headers))
}
