//! `app`: the routes, by API. Handlers are about ten lines: take apart, call, put together.

mod cohere;
mod native;
mod openai;
mod operation;
mod rerank;
mod tei;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{Method, Uri};
use axum::middleware::{from_fn_with_state, map_response};
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;

use crate::error::Error;
use crate::guard;
use crate::jobs;
use crate::pages;
use crate::refusal;
pub use crate::service::Service;

pub use operation::metrics;

type Shared = State<Arc<Service>>;

/// The head of the OpenAPI document; the routes add themselves.
#[derive(OpenApi)]
#[openapi(
    info(description = "Text embeddings and reranking: the APIs of OpenAI, Cohere, Jina, vLLM and \
        text-embeddings-inference, and some routes of its own."),
    // What only refusals name is not found by itself.
    components(schemas(crate::api::AnyErrorBody)),
    tags(
        (name = "own", description = "A vector, a ranking, and all outputs of one pass"),
        (name = "OpenAI", description = "As in OpenAI's API reference"),
        (name = "Cohere", description = "As in Cohere's API reference; its reranking is under rerank"),
        (name = "rerank", description = "As Cohere, Jina and vLLM answer; with `texts`, as text-embeddings-inference"),
        (name = "text-embeddings-inference", description = "As its clients expect them"),
        (name = "jobs", description = "Texts for workers behind a broker, where the server has one"),
        (name = "operation", description = "For probes and monitoring; never behind a key"),
    )
)]
struct Document;

/// The routes that need a key where there are keys, and those of probes, monitoring and people,
/// which do not.
pub fn app(service: Arc<Service>) -> Router {
    let jobs = if service.jobs.is_some() { jobs::routes::routes() } else { OpenApiRouter::new() };
    let authorize = || from_fn_with_state(service.clone(), guard::authorize);
    let keyed = native::routes()
        .merge(openai::routes())
        .merge(cohere::routes())
        .merge(rerank::routes())
        .merge(jobs)
        .route_layer(authorize());
    // Outermost, so that a missing key too is told as these clients read it.
    let tei = tei::routes().merge(rerank::tei_routes()).route_layer(authorize()).merge(tei::open_routes());
    let tei = tei.route_layer(map_response(refusal::as_tei_writes));
    let all = OpenApiRouter::with_openapi(Document::openapi()).merge(keyed).merge(tei).merge(operation::routes());
    let (router, mut document) = all.split_for_parts();
    // OpenAPI has no sign for a parameter that may hold a slash.
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths = paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    document.components.get_or_insert_default().add_security_scheme("bearer", bearer);
    let router = router
        .merge(pages::pages(document))
        .fallback(|uri: Uri| async move { Error::NotFound(format!("no such route: {}", uri.path())) })
        .method_not_allowed_fallback(|method: Method| async move { Error::Method(method.to_string()) });
    guard::guarded(router, &service).with_state(service)
}
