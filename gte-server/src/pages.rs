//! What people see in a browser: the page at `/` and the API documentation. All of it is embedded
//! in the binary.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderName, header};
use axum::response::IntoResponse;
use axum::routing::get;
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::SwaggerUi;

use crate::service::Service;

/// The page loads nothing from elsewhere, and no other page can embed it in a frame.
const POLICY: (HeaderName, &str) = (
    header::CONTENT_SECURITY_POLICY,
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; \
     form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
);

/// `/`, `/docs` and `/openapi.json`.
pub(crate) fn pages(document: OpenApi) -> Router<Arc<Service>> {
    let file = |kind: &'static str, content: &'static str| {
        get(move || async move { ([(header::CONTENT_TYPE, kind), POLICY], content).into_response() })
    };
    Router::new()
        .route("/", file("text/html; charset=utf-8", include_str!("../assets/index.html")))
        .route("/page.css", file("text/css; charset=utf-8", include_str!("../assets/page.css")))
        .route("/page.js", file("text/javascript; charset=utf-8", include_str!("../assets/page.js")))
        .merge(SwaggerUi::new("/docs").url("/openapi.json", document))
}
