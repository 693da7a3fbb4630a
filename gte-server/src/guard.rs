//! What every request passes on its way to a handler, and its answer on the way back: the request's id, span, count and time; keys;
//! CORS; security headers.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use opentelemetry_http::HeaderExtractor;
use subtle::{Choice, ConstantTimeEq};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tower_http::set_header::SetResponseHeaderLayer;
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::error::Error;
use crate::metrics::{MODEL, RequestLabels, RouteLabels};
use crate::service::{HEADERS, Service};

/// The caller's name for its request, or ours.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// `router` behind all of it.
pub(crate) fn guarded(router: Router<Arc<Service>>, service: &Arc<Service>) -> Router<Arc<Service>> {
    // If one is not set by the handler.
    let set = |name: HeaderName, value: &'static str| {
        SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
    };
    let router = router
        .layer(DefaultBodyLimit::max(service.config.body_limit))
        .layer(set(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(set(header::X_FRAME_OPTIONS, "DENY"))
        .layer(set(header::REFERRER_POLICY, "no-referrer"))
        .layer(from_fn_with_state(service.clone(), observe));
    if service.config.cors_origin.is_empty() {
        return router;
    }
    // Outermost: a preflight request is answered here, and a refusal of the service is readable for the page that asked.
    let cors = CorsLayer::new()
        .allow_origin(match service.config.cors_origin.iter().any(|origin| origin == "*") {
            true => AllowOrigin::any(),
            false => AllowOrigin::list(service.config.cors_origin.iter().cloned()),
        })
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        // Whatever the client sends: OpenAI's has ten of its own, tracing adds others, and `*`
        // leaves out `authorization`.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(
            [REQUEST_ID, header::RETRY_AFTER, header::LOCATION].into_iter().chain(HEADERS).collect::<Vec<_>>(),
        )
        .max_age(std::time::Duration::from_secs(600));
    router.layer(cors)
}

/// Counts and times every request, gives it an id and a span, and logs it.
async fn observe(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let start = Instant::now();
    // The caller's id if it is a sane one, so that its logs and ours meet.
    let id = request.headers().get(&REQUEST_ID).filter(|id| id.len() <= 128).cloned().unwrap_or_else(|| {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        HeaderValue::from_str(&format!("{:x}-{number:x}", std::process::id())).unwrap_or(HeaderValue::from_static("-"))
    });
    // The route's pattern, of which there are as many as routes; never the path that was asked for.
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("none", MatchedPath::as_str);
    let span = tracing::info_span!(
        "request", otel.name = route, otel.kind = "server", id = ?id, http.route = route,
        http.request.method = %request.method(), http.response.status_code = tracing::field::Empty,
    );
    let parent = opentelemetry::global::get_text_map_propagator(|p| p.extract(&HeaderExtractor(request.headers())));
    // Without tracing there is nothing to be a child of.
    let _ = span.set_parent(parent);

    service.metrics.in_flight.inc();
    let answered = async { (next.run(request).instrument(span.clone()).await, MODEL.with(RefCell::take)) };
    let (mut response, model) = MODEL.scope(RefCell::default(), answered).await;
    service.metrics.in_flight.dec();
    let (status, seconds) = (response.status(), start.elapsed().as_secs_f64());
    let labels = RouteLabels { route: route.to_owned(), model };
    service.metrics.request_seconds.get_or_create(&labels).observe(seconds);
    let RouteLabels { route: pattern, model } = labels;
    let labels = RequestLabels { route: pattern, status: status.as_u16(), model };
    service.metrics.requests.get_or_create(&labels).inc();
    span.record("http.response.status_code", status.as_u16());
    let ms = seconds * 1e3;
    span.in_scope(|| match route {
        // What a load balancer asks every second.
        "/livez" | "/readyz" | "/health" | "/ping" | "/metrics" => {
            tracing::debug!(status = status.as_u16(), ms, "answered")
        }
        _ if status.is_server_error() => tracing::warn!(status = status.as_u16(), ms, "failed"),
        _ if status.is_success() => tracing::info!(status = status.as_u16(), ms, "answered"),
        // A storm of these would fill the disk; they are counted.
        _ => tracing::debug!(status = status.as_u16(), ms, "refused"),
    });
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// Lets those pass who have a key, where there are keys.
pub(crate) async fn authorize(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let given =
        request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(bearer).unwrap_or("");
    let allowed = {
        // A lock that a panic has poisoned still guards the keys: the door must not open by it.
        let keys = service.keys.read().unwrap_or_else(PoisonError::into_inner);
        // Every key is compared, each in constant time: the answer's time tells neither how many match nor how far.
        let known = keys.iter().fold(Choice::from(0), |known, key| known | key.as_bytes().ct_eq(given.as_bytes()));
        keys.is_empty() || bool::from(known)
    };
    if allowed { next.run(request).await } else { Error::Unauthorized.into_response() }
}

/// The key in `Bearer KEY`: the scheme in any case, one space or more behind it (RFC 9110, 11.1 and
/// 11.4).
fn bearer(credentials: &str) -> Option<&str> {
    let (scheme, key) = credentials.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim_matches(' '))
}
