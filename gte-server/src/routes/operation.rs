//! Routes for probes and monitoring.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use crate::api::ErrorBody;
use crate::error::Error;
use crate::service::Service;

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new().routes(routes!(live)).routes(routes!(ready)).routes(routes!(metrics))
}

/// Liveness: forward passes succeed. An idle server computes one tiny text to find out.
#[utoipa::path(get, path = "/livez", tag = "operation", responses((status = 200, description = "OK", body = String, content_type = "text/plain"), (status = 503, description = "A forward pass failed or takes too long", body = ErrorBody)))]
pub(super) async fn live(State(service): Shared) -> Result<&'static str, Error> {
    service.scheduler.alive(service.config.live_timeout()).await.map(|()| "ok")
}

/// Readiness: all models are warmed up, and the server is not shutting down.
#[utoipa::path(get, path = "/readyz", tag = "operation", responses((status = 200, description = "OK", body = String, content_type = "text/plain"), (status = 503, description = "Not ready", body = ErrorBody)))]
async fn ready(State(service): Shared) -> Result<&'static str, Error> {
    if service.draining.load(Ordering::Relaxed) {
        return Err(Error::Unavailable("shutting down"));
    }
    match &service.registry.loading()[..] {
        [] => Ok("ready"),
        loading => Err(Error::Loading(loading.join(", "))),
    }
}

/// The metrics of the server.
#[utoipa::path(get, path = "/metrics", tag = "operation", responses((status = 200, description = "OK", body = String, content_type = "application/openmetrics-text")))]
pub async fn metrics(State(service): Shared) -> Response {
    service.scheduler.refresh_metrics();
    service.metrics.cache_bytes.set(service.cache.bytes() as i64);
    const TEXT: (HeaderName, &str) =
        (header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([TEXT], service.metrics.text()).into_response()
}
