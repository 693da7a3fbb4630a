//! OpenAI's API.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use crate::api::openai::{Embedding, EmbeddingsRequest, EmbeddingsResponse, Model, Models, Usage, Vector};
use crate::api::{EncodingFormat, ErrorBody, Refused};
use crate::body::Checked;
use crate::error::Error;
use crate::service::{Reading, Service};

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new()
        .routes(routes!(embeddings))
        .routes(routes!(models))
        .routes(routes!(model))
        // For clients whose base address has no /v1.
        .route("/embeddings", post(embeddings))
        .route("/models", get(models))
        .route("/models/{*id}", get(model))
}

/// The vectors of texts, as OpenAI answers.
#[utoipa::path(post, path = "/v1/embeddings", tag = "OpenAI", request_body = EmbeddingsRequest, responses((status = 200, description = "OK", body = EmbeddingsResponse), Refused), security(("bearer" = []), ()))]
async fn embeddings(State(service): Shared, Checked(request): Checked<EmbeddingsRequest>) -> Result<Response, Error> {
    let EmbeddingsRequest { prompt_name, truncate, truncation_direction: side, .. } = request;
    let embedded = service.embed(request.input, Reading { prompt_name, truncate, side }, "input").await?;
    let (headers, tokens) = (embedded.headers.clone(), embedded.tokens);
    let vectors = embedded.vectors(&service, request.dimensions)?;
    let written = |row| match request.encoding_format.unwrap_or_default() {
        EncodingFormat::Float => Vector::Float(row),
        EncodingFormat::Base64 => {
            let bytes: Vec<u8> = row.iter().flat_map(|v: &f32| v.to_le_bytes()).collect();
            Vector::Base64(base64::engine::general_purpose::STANDARD.encode(bytes))
        }
    };
    let item = |(index, row)| Embedding { object: "embedding", index, embedding: written(row) };
    let data = vectors.rows().enumerate().map(item).collect();
    let usage = Usage { prompt_tokens: tokens, total_tokens: tokens };
    let model = service.embedder.name();
    Ok((headers, Json(EmbeddingsResponse { object: "list", data, model, usage })).into_response())
}

/// The one model, as OpenAI lists models.
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI", responses((status = 200, description = "OK", body = Models), (status = 401, description = "A valid key is needed", body = ErrorBody)), security(("bearer" = []), ()))]
async fn models(State(service): Shared) -> Json<Models> {
    Json(Models { object: "list", data: vec![described(&service)] })
}

/// A model by its name, which may hold a slash.
#[utoipa::path(get, path = "/v1/models/{*id}", tag = "OpenAI", params(("id" = String, Path, description = "The model's name")), responses((status = 200, description = "OK", body = Model), (status = 401, description = "A valid key is needed", body = ErrorBody), (status = 404, description = "No such model", body = ErrorBody)), security(("bearer" = []), ()))]
async fn model(State(service): Shared, Path(id): Path<String>) -> Result<Json<Model>, Error> {
    match service.embedder.name() {
        name if name == id => Ok(Json(described(&service))),
        name => Err(Error::NotFound(format!("no such model: {id}; this server has {name}"))),
    }
}

fn described(service: &Service) -> Model {
    Model { id: service.embedder.name().to_owned(), object: "model", created: 0, owned_by: "gte-server" }
}
