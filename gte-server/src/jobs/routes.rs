//! The routes of jobs. They exist if the server has a broker.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Jobs, Outcome};
use crate::api::{ErrorBody, Refused};
use crate::body::RawBody;
use crate::error::Error;
use crate::json::{self, Object};
use crate::registry::Need;
use crate::service::Service;

/// Maximum number of texts in a job.
const MAX_TEXTS: usize = 100_000;

/// The client's name for its request. Repeating the request with the same name does not create a
/// second job.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// `POST /v1/jobs` as JSON. As `application/x-ndjson` or `application/jsonl` it has one line per
/// text: a JSON string or `{"text": "…"}`.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct JobRequest {
    /// The texts.
    #[schema(min_items = 1, max_items = 100_000)]
    texts: Vec<String>,
    /// The model's name or id, if the server has several models. With a JSONL body it is in the
    /// query string, `?model=NAME`.
    #[serde(default)]
    model: Option<String>,
}

/// The query of `POST /v1/jobs`.
#[derive(Deserialize)]
struct JobQuery {
    model: Option<String>,
}

/// The id in a path, if it is UTF-8.
type Id = Result<Path<String>, PathRejection>;

/// A line of JSONL.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a JSON string or an object with the field `text`")]
enum Line {
    Text(String),
    Object(Object<LineObject>),
}

#[derive(Deserialize)]
struct LineObject {
    text: String,
}

/// The response when a job is accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobAccepted {
    /// The job's id.
    id: String,
    /// Number of texts in the job.
    texts: usize,
}

/// `GET /v1/jobs/{id}`
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobStatus {
    /// The job's id.
    id: String,
    /// `running` or `done`
    status: &'static str,
    /// Number of texts in the job.
    texts: usize,
    /// Number of texts with a result.
    done: usize,
}

/// A line of `GET /v1/jobs/{id}/results`: a vector or an error.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobResult {
    /// The text's index in the job.
    index: usize,
    /// The unit vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<Vec<f32>>,
    /// Number of tokens computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<usize>,
    /// Whether the text was truncated because it was longer than the model's limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<bool>,
    /// Why there is no vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The routes for a service with a broker.
pub(crate) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new().routes(routes!(submit)).routes(routes!(status, cancel)).routes(routes!(results))
}

fn jobs(service: &Service) -> Result<&Jobs, Error> {
    service.jobs.as_ref().ok_or(Error::Broker)
}

/// Puts texts into the workers' queue: all of them, or none.
#[utoipa::path(post, path = "/v1/jobs", tag = "jobs", request_body = JobRequest, params(("model" = Option<String>, Query, description = "The model's name or id, if the server has several models"), ("Idempotency-Key" = Option<String>, Header, description = "A request that is repeated with the same key and texts is the same job")), responses((status = 202, description = "The job is accepted", body = JobAccepted), Refused), security(("bearer" = []), ()))]
async fn submit(
    State(service): State<Arc<Service>>,
    query: Result<Query<JobQuery>, QueryRejection>,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Response, Error> {
    let Query(query) = query?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    let JobRequest { texts, model } = match kind.split(';').next().unwrap_or("").trim() {
        "application/x-ndjson" | "application/jsonl" | "application/jsonlines" => {
            JobRequest { texts: lines(&body)?, model: None }
        }
        _ => json::parse(&body)?,
    };
    // The message always names the model, even if this server has only one, because workers may
    // have others.
    let named = model.or(query.model);
    let model = service.pick(named.as_deref(), Need::Vectors)?;
    if !(1..=MAX_TEXTS).contains(&texts.len()) {
        return Err(Error::field("texts", format_args!("{} texts, expected 1 to {MAX_TEXTS}", texts.len())));
    }
    let key = match headers.get(IDEMPOTENCY_KEY) {
        None => None,
        Some(key) => Some(key.to_str().map_err(|_| Error::field("Idempotency-Key", "not ASCII"))?),
    };
    let count = texts.len();
    let id = jobs(&service)?.submit(texts, named.is_some().then_some(&*model.name), key).await?;
    let place = [(header::LOCATION, format!("/v1/jobs/{id}"))];
    Ok((StatusCode::ACCEPTED, place, Json(JobAccepted { id, texts: count })).into_response())
}

/// The texts of a JSONL body. Empty lines are ignored.
fn lines(body: &Bytes) -> Result<Vec<String>, Error> {
    let body =
        std::str::from_utf8(body).map_err(|e| Error::Syntax(format!("byte {} is not UTF-8", e.valid_up_to())))?;
    let mut texts = Vec::new();
    for (i, line) in body.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let line = json::parse_any(line.as_bytes()).map_err(|e| Error::field(format!("line {}", i + 1), e))?;
        texts.push(match line {
            Line::Text(text) | Line::Object(Object(LineObject { text })) => text,
        });
    }
    Ok(texts)
}

/// The progress of a job.
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path, description = "The job's id")), responses(Refused, (status = 200, description = "OK", body = JobStatus), (status = 404, description = "No such job", body = ErrorBody)), security(("bearer" = []), ()))]
async fn status(State(service): State<Arc<Service>>, id: Id) -> Result<Json<JobStatus>, Error> {
    let Path(id) = id?;
    let progress = jobs(&service)?.progress(checked(&id)?).await?;
    let status = if progress.done >= progress.texts { "done" } else { "running" };
    Ok(Json(JobStatus { id, status, texts: progress.texts, done: progress.done }))
}

/// Removes a job from the queue, and deletes its results.
#[utoipa::path(delete, path = "/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path, description = "The job's id")), responses(Refused, (status = 204, description = "The job is removed"), (status = 404, description = "No such job", body = ErrorBody)), security(("bearer" = []), ()))]
async fn cancel(State(service): State<Arc<Service>>, id: Id) -> Result<StatusCode, Error> {
    jobs(&service)?.cancel(checked(&id?.0)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The results as JSONL, as soon as they are known, each once and in any order. The response ends
/// when all of them are sent.
#[utoipa::path(get, path = "/v1/jobs/{id}/results", tag = "jobs", params(("id" = String, Path, description = "The job's id")), responses(Refused, (status = 200, description = "One JSON object per line", body = JobResult, content_type = "application/x-ndjson"), (status = 404, description = "No such job", body = ErrorBody)), security(("bearer" = []), ()))]
async fn results(State(service): State<Arc<Service>>, id: Id) -> Result<Response, Error> {
    let (_, outcomes) = jobs(&service)?.follow(checked(&id?.0)?).await?;
    let lines = outcomes.map_ok(|outcome| {
        let mut line = serde_json::to_vec(&JobResult::from(outcome)).unwrap_or_default();
        line.push(b'\n');
        Bytes::from(line)
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(lines)).into_response())
}

/// Checks that an id has the form of [`Jobs::submit`]: nothing else may become part of a subject.
fn checked(id: &str) -> Result<&str, Error> {
    match id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()) {
        true => Ok(id),
        false => Err(Error::NotFound("/v1/jobs/…: expected an id of 32 hexadecimal digits".into())),
    }
}

impl From<Outcome> for JobResult {
    fn from(outcome: Outcome) -> Self {
        let Outcome { index, result } = outcome;
        match result {
            Ok(c) => Self {
                index,
                embedding: Some(c.vector),
                tokens: Some(c.tokens),
                truncated: Some(c.truncated),
                error: None,
            },
            Err(error) => Self { index, embedding: None, tokens: None, truncated: None, error: Some(error) },
        }
    }
}
