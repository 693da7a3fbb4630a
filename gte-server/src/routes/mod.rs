//! `app`: the routes, by API. A handler has about ten lines: parse the request, call the service,
//! build the response.

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

/// The head of the OpenAPI document. Each route adds itself.
#[derive(OpenApi)]
#[openapi(
    info(description = "Text embeddings and reranking: the APIs of OpenAI, Cohere, Jina, vLLM and \
        text-embeddings-inference, and some routes of its own."),
    // A schema that only error responses use is not found automatically.
    components(schemas(crate::api::AnyErrorBody)),
    tags(
        (name = "own", description = "This server's own API: a vector, a ranking, and all outputs of one forward pass"),
        (name = "OpenAI", description = "As in OpenAI's API reference"),
        (name = "Cohere", description = "As in Cohere's API reference; its reranking is under rerank"),
        (name = "rerank", description = "As in the APIs of Cohere, Jina and vLLM; with `texts`, as in text-embeddings-inference"),
        (name = "text-embeddings-inference", description = "As in its OpenAPI document"),
        (name = "jobs", description = "Large jobs, computed by workers behind a broker, if the server has one"),
        (name = "operation", description = "For probes and monitoring; no API key is required"),
    )
)]
struct Document;

/// The routes that require an API key, if keys are configured, and those for probes, monitoring and
/// browsers, which never do.
pub fn app(service: Arc<Service>) -> Router {
    let jobs = if service.jobs.is_some() { jobs::routes::routes() } else { OpenApiRouter::new() };
    let authorize = || from_fn_with_state(service.clone(), guard::authorize);
    let keyed = native::routes()
        .merge(openai::routes())
        .merge(cohere::routes())
        .merge(rerank::routes())
        .merge(jobs)
        .route_layer(authorize());
    // The outermost layer, so that a missing key is reported in this API's form too.
    let tei = tei::routes().merge(rerank::tei_routes()).route_layer(authorize()).merge(tei::open_routes());
    let tei = tei.route_layer(map_response(refusal::as_tei_writes));
    let all = OpenApiRouter::with_openapi(Document::openapi()).merge(keyed).merge(tei).merge(operation::routes());
    let (router, mut document) = all.split_for_parts();
    // OpenAPI has no notation for a path parameter that may contain a slash.
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
