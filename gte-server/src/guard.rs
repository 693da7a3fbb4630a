//! What happens to every request on the way to its handler, and to every response on the way back:
//! request id, span, counts and time, API keys, CORS, security headers.

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

/// The request's id, given by the client or else by the server.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Wraps `router` in all of these layers.
pub(crate) fn guarded(router: Router<Arc<Service>>, service: &Arc<Service>) -> Router<Arc<Service>> {
    // Sets a header unless the handler has set it.
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
    // CORS is the outermost layer: it answers preflight requests, and lets the calling page read
    // error responses.
    let cors = CorsLayer::new()
        .allow_origin(match service.config.cors_origin.iter().any(|origin| origin == "*") {
            true => AllowOrigin::any(),
            false => AllowOrigin::list(service.config.cors_origin.iter().cloned()),
        })
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        // Any header is allowed: OpenAI's client sends ten of its own, tracing adds others, and `*`
        // does not cover `authorization`.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(
            [REQUEST_ID, header::RETRY_AFTER, header::LOCATION].into_iter().chain(HEADERS).collect::<Vec<_>>(),
        )
        .max_age(std::time::Duration::from_secs(600));
    router.layer(cors)
}

/// Counts, times and logs every request, and gives it an id and a span.
async fn observe(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let start = Instant::now();
    // A client's id is used if it has a sensible length, so that logs of client and server can be
    // matched.
    let id = request.headers().get(&REQUEST_ID).filter(|id| id.len() <= 128).cloned().unwrap_or_else(|| {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        HeaderValue::from_str(&format!("{:x}-{number:x}", std::process::id())).unwrap_or(HeaderValue::from_static("-"))
    });
    // The route's pattern, of which there is a fixed number; never the requested path.
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("none", MatchedPath::as_str);
    let span = tracing::info_span!(
        "request", otel.name = route, otel.kind = "server", id = ?id, http.route = route,
        http.request.method = %request.method(), http.response.status_code = tracing::field::Empty,
    );
    let parent = opentelemetry::global::get_text_map_propagator(|p| p.extract(&HeaderExtractor(request.headers())));
    // Without tracing there is no parent span.
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
    let ms = (seconds * 1e6).round() / 1e3;
    span.in_scope(|| match route {
        // Load balancers request these every second.
        "/livez" | "/readyz" | "/health" | "/ping" | "/metrics" => {
            tracing::debug!(status = status.as_u16(), ms, "answered")
        }
        _ if status.is_server_error() => tracing::warn!(status = status.as_u16(), ms, "failed"),
        _ if status.is_success() => tracing::info!(status = status.as_u16(), ms, "answered"),
        // Refused requests are counted but not logged at `info`: a flood of them would fill the
        // disk.
        _ => tracing::debug!(status = status.as_u16(), ms, "refused"),
    });
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// Lets a request pass if it has a valid key, or if no keys are configured.
pub(crate) async fn authorize(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let given =
        request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(bearer).unwrap_or("");
    let allowed = {
        // A lock that was poisoned by a panic still guards the keys: a panic must not open the
        // service.
        let keys = service.keys.read().unwrap_or_else(PoisonError::into_inner);
        // Every key is compared, each in constant time, so that the response time reveals neither
        // which key matches nor how much of it.
        let known = keys.iter().fold(Choice::from(0), |known, key| known | key.as_bytes().ct_eq(given.as_bytes()));
        keys.is_empty() || bool::from(known)
    };
    if allowed { next.run(request).await } else { Error::Unauthorized.into_response() }
}

/// The key in `Bearer KEY`: the scheme in upper or lower case, then one space or more (RFC 9110,
/// 11.1 and 11.4).
fn bearer(credentials: &str) -> Option<&str> {
    let (scheme, key) = credentials.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim_matches(' '))
}
