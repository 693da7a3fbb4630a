//! The routes of this server's own API: a vector, a ranking, and all outputs of one forward pass.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use gte_core::{Outputs, TextOutput};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use crate::api::native::*;
use crate::api::openai::Usage;
use crate::api::{Refused, prompt_choice};
use crate::body::Checked;
use crate::error::Error;
use crate::reading::Reading;
use crate::registry::{Model, Need};
use crate::service::Service;

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new().routes(routes!(embedding)).routes(routes!(similarity)).routes(routes!(outputs))
}

/// Embeds a text.
#[utoipa::path(post, path = "/v1/embedding", tag = "own", request_body = EmbeddingRequest, responses((status = 200, description = "OK", body = EmbeddingResponse), Refused), security(("bearer" = []), ()))]
async fn embedding(State(service): Shared, Checked(request): Checked<EmbeddingRequest>) -> Result<Response, Error> {
    let model = service.pick(request.model.as_deref(), Need::Vectors)?;
    let computed = service.embed(&model, request.text.into(), Reading::default(), Outputs::DENSE, "text").await?;
    let vectors = computed.vectors(&model, None)?;
    let (headers, tokens, truncated) = (computed.headers, computed.tokens, computed.truncated > 0);
    let (embedding, model) = (vectors.as_slice(), &*model.name);
    let body = EmbeddingResponse { embedding, dimension: embedding.len(), model, tokens, truncated };
    Ok((headers, Json(body)).into_response())
}

/// Compares a text with candidates, and ranks them.
#[utoipa::path(post, path = "/v1/similarity", tag = "own", request_body = SimilarityRequest, responses((status = 200, description = "OK", body = SimilarityResponse), Refused), security(("bearer" = []), ()))]
async fn similarity(State(service): Shared, Checked(request): Checked<SimilarityRequest>) -> Result<Response, Error> {
    let SimilarityRequest { source_text, candidate_texts, top_k, model } = request;
    let model = service.pick(model.as_deref(), Need::Vectors)?;
    let (scores, headers) =
        compare(&service, &model, source_text, candidate_texts, Reading::default(), "candidate_texts").await?;
    let mut ranking: Vec<usize> = (0..scores.len()).collect();
    ranking.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    ranking.truncate(top_k.unwrap_or(usize::MAX));
    Ok((headers, Json(SimilarityResponse { scores, ranking })).into_response())
}

/// Computes dense, sparse and ColBERT vectors of texts in one forward pass, as far as the model has
/// them.
#[utoipa::path(post, path = "/v1/outputs", tag = "own", request_body = OutputsRequest, responses((status = 200, description = "OK", body = OutputsResponse), Refused), security(("bearer" = []), ()))]
async fn outputs(State(service): Shared, Checked(request): Checked<OutputsRequest>) -> Result<Response, Error> {
    let OutputsRequest { input, prompt_name, prompt, input_type, truncate, truncation_direction: side, .. } = request;
    let asked = |output| request.outputs.as_ref().is_some_and(|outputs| outputs.contains(&output));
    let need = match (asked(Output::Sparse), asked(Output::Colbert)) {
        (_, true) => Need::ColBert,
        (true, _) => Need::Sparse,
        _ => Need::Vectors,
    };
    let model = service.pick(request.model.as_deref(), need)?;
    let has = model.engine().outputs();
    let wanted = match request.outputs {
        None => has.with_states(false),
        Some(ref all) if all.is_empty() => {
            return Err(Error::field("outputs", "it is empty, expected at least one of dense, sparse and colbert"));
        }
        Some(_) if asked(Output::Sparse) && !has.sparse => return Err(model.not(Need::Sparse.name())),
        Some(_) => Outputs::NONE
            .with_dense(asked(Output::Dense))
            .with_sparse(asked(Output::Sparse))
            .with_colbert(asked(Output::Colbert)),
    };
    let reading = Reading { prompt: prompt_choice(prompt_name, prompt, input_type)?, truncate, side };
    let read = service.read(&model, input, reading, "input").await?;
    if wanted.colbert {
        read.check_states()?;
    }
    let computed = service.compute(&model, read, wanted).await?;
    let dense = wanted.dense.then(|| computed.vectors(&model, request.dimensions)).transpose()?;
    let row = |index: usize| dense.as_ref().and_then(|rows| rows.get(index)).map(<[f32]>::to_vec);
    let width = model.engine().colbert_dim().unwrap_or(1);
    let item = |(index, made): (usize, &Arc<TextOutput>)| TextOutputs {
        index,
        dense: row(index),
        sparse: wanted.sparse.then(|| {
            let (indices, values) = made.sparse.iter().copied().unzip();
            SparseVector { indices, values }
        }),
        colbert: wanted.colbert.then(|| made.colbert.chunks_exact(width).map(<[f32]>::to_vec).collect()),
    };
    let data = computed.made.iter().enumerate().map(item).collect();
    let usage = Usage { prompt_tokens: computed.tokens, total_tokens: computed.tokens };
    let body = OutputsResponse { model: &model.name, data, usage };
    Ok((computed.headers.clone(), Json(body)).into_response())
}

/// The cosines of a text and the candidates, which are in the request's `field`.
pub(super) async fn compare(
    service: &Arc<Service>,
    model: &Arc<Model>,
    source: String,
    others: Vec<String>,
    reading: Reading,
    field: &'static str,
) -> Result<(Vec<f32>, HeaderMap), Error> {
    service.check_count(others.len(), field)?;
    let texts: Vec<_> = std::iter::once(source).chain(others).collect();
    let computed = service.embed(model, texts.into(), reading, Outputs::DENSE, field).await?;
    let vectors = computed.vectors(model, None)?;
    let headers = computed.headers;
    let mut rows = vectors.rows();
    let source = rows.next().unwrap_or_default();
    let scores = rows.map(|row| gte_core::similarity::cosine(source, row)).collect::<gte_core::Result<_>>()?;
    Ok((scores, headers))
}
