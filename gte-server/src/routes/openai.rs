//! OpenAI's API.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use gte_core::Outputs;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use crate::api::openai::{Embedding, EmbeddingsRequest, EmbeddingsResponse, Model, Models, Usage};
use crate::api::vectors::{bytes, wants_bytes, written};
use crate::api::{ErrorBody, Refused, prompt_choice};
use crate::body::Checked;
use crate::error::Error;
use crate::reading::Reading;
use crate::registry::Need;
use crate::service::Service;

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new()
        .routes(routes!(embeddings))
        .routes(routes!(models))
        .routes(routes!(model))
        // For clients whose base URL has no /v1.
        .route("/embeddings", post(embeddings))
        .route("/models", get(models))
        .route("/models/{*id}", get(model))
}

/// Embeds texts, as in OpenAI's API. With `Accept: application/octet-stream` the response is raw
/// little-endian bytes, with their shape and type in the headers `x-embedding-shape` and
/// `x-embedding-type`.
#[utoipa::path(post, path = "/v1/embeddings", tag = "OpenAI", request_body = EmbeddingsRequest, responses((status = 200, description = "OK", content((EmbeddingsResponse = "application/json"), (String = "application/octet-stream"))), Refused), security(("bearer" = []), ()))]
async fn embeddings(
    State(service): Shared,
    headers: HeaderMap,
    Checked(request): Checked<EmbeddingsRequest>,
) -> Result<Response, Error> {
    let EmbeddingsRequest { input, prompt_name, prompt, input_type, truncate, truncation_direction: side, .. } =
        request;
    let model = service.pick(request.model.as_deref(), Need::Vectors)?;
    let reading = Reading { prompt: prompt_choice(prompt_name, prompt, input_type)?, truncate, side };
    let computed = service.embed(&model, input, reading, Outputs::DENSE, "input").await?;
    let vectors = computed.vectors(&model, request.dimensions)?;
    let (kind, tokens) = (request.output_dtype.unwrap_or_default(), computed.tokens);
    if wants_bytes(&headers) {
        return Ok((computed.headers, bytes(&vectors, kind)).into_response());
    }
    let rows = written(&vectors, kind, request.encoding_format.unwrap_or_default());
    let item = |(index, embedding)| Embedding { object: "embedding", index, embedding };
    let data = rows.into_iter().enumerate().map(item).collect();
    let usage = Usage { prompt_tokens: tokens, total_tokens: tokens };
    let model = &model.name;
    Ok((computed.headers, Json(EmbeddingsResponse { object: "list", data, model, usage })).into_response())
}

/// Lists the models, as in OpenAI's API.
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI", responses((status = 200, description = "OK", body = Models), (status = 401, description = "A valid API key is required", body = ErrorBody)), security(("bearer" = []), ()))]
async fn models(State(service): Shared) -> Json<Models> {
    Json(Models { object: "list", data: service.registry.loaded().map(|model| described(model)).collect() })
}

/// Describes a model. Its name may contain a slash.
#[utoipa::path(get, path = "/v1/models/{*id}", tag = "OpenAI", params(("id" = String, Path, description = "The model's name")), responses((status = 200, description = "OK", body = Model), (status = 401, description = "A valid API key is required", body = ErrorBody), (status = 404, description = "No such model", body = ErrorBody), (status = 503, description = "The model is still loading", body = ErrorBody)), security(("bearer" = []), ()))]
async fn model(State(service): Shared, id: Result<Path<String>, PathRejection>) -> Result<Json<Model>, Error> {
    let Path(id) = id?;
    service.registry.named(&id).map(|model| Json(described(model)))
}

fn described(model: &crate::registry::Model) -> Model {
    Model { id: model.name.clone(), object: "model", created: 0, owned_by: "gte-server" }
}
