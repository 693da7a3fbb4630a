//! What every request passes on its way to a handler, and its answer on the way back: the request's id, span, count and time; keys;
//! CORS; security headers; and the body, read within limits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequest, MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use opentelemetry_http::HeaderExtractor;
use serde::de::DeserializeOwned;
use subtle::{Choice, ConstantTimeEq};
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::set_header::SetResponseHeaderLayer;
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::error::Error;
use crate::metrics::RequestLabels;
use crate::routes::Service;

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
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, REQUEST_ID])
        .expose_headers([REQUEST_ID, header::RETRY_AFTER]);
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
    let mut response = next.run(request).instrument(span.clone()).await;
    service.metrics.in_flight.dec();
    let (status, seconds) = (response.status(), start.elapsed().as_secs_f64());
    let labels = RequestLabels { route: route.to_owned(), status: status.as_u16() };
    service.metrics.requests.get_or_create(&labels).inc();
    service.metrics.request_seconds.get_or_create(&[("route", labels.route)]).observe(seconds);
    span.record("http.response.status_code", status.as_u16());
    let ms = seconds * 1e3;
    span.in_scope(|| match route {
        // What a load balancer asks every second.
        "/livez" | "/readyz" | "/health" | "/metrics" => tracing::debug!(status = status.as_u16(), ms, "answered"),
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
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("Bearer "))
        .unwrap_or("");
    let allowed = {
        // A lock that a panic has poisoned still guards the keys: the door must not open by it.
        let keys = service.keys.read().unwrap_or_else(PoisonError::into_inner);
        // Every key is compared, each in constant time: the answer's time tells neither how many match nor how far.
        let known = keys.iter().fold(Choice::from(0), |known, key| known | key.as_bytes().ct_eq(given.as_bytes()));
        keys.is_empty() || bool::from(known)
    };
    if allowed { next.run(request).await } else { Error::Unauthorized.into_response() }
}

/// A JSON body, with the path of the field that is wrong.
pub(crate) struct Checked<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<Service>> for Checked<T> {
    type Rejection = Error;

    async fn from_request(request: Request<Body>, service: &Arc<Service>) -> Result<Self, Error> {
        let RawBody(bytes) = RawBody::from_request(request, service).await?;
        parse(&bytes).map(Self)
    }
}

/// A value from JSON, or the path of the field that is wrong.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let field = e.path().to_string();
        let inner = e.into_inner();
        if inner.is_data() { Error::field(field, inner) } else { Error::Syntax(inner.to_string()) }
    })?;
    json.end().map_err(|e| Error::Syntax(e.to_string()))?;
    Ok(value)
}

/// A body, within the limits of size and time.
pub(crate) struct RawBody(pub(crate) Bytes);

impl FromRequest<Arc<Service>> for RawBody {
    type Rejection = Error;

    async fn from_request(request: Request<Body>, service: &Arc<Service>) -> Result<Self, Error> {
        let (limit, timeout) = (service.config.body_limit, service.config.body_timeout());
        let body = tokio::time::timeout(timeout, Bytes::from_request(request, service));
        let bytes = body.await.map_err(|_| Error::SlowBody(timeout.as_secs()))?.map_err(|e| match e.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Error::TooLarge { limit },
            _ => Error::Syntax(e.body_text()),
        })?;
        Ok(Self(bytes))
    }
}
