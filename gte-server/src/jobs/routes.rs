//! The routes of jobs; there where the server was given a broker.

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

/// Texts in one job, at most.
const MAX_TEXTS: usize = 100_000;

/// What a client calls its request, so that asking again makes no second job.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// `POST /v1/jobs` as JSON. As `application/x-ndjson` or `application/jsonl`: a line a text, a JSON string or `{"text": "…"}`.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct JobRequest {
    /// The texts.
    #[schema(min_items = 1, max_items = 100_000)]
    texts: Vec<String>,
    /// The model's name or id, where the server has several; a JSONL body has it in the query, `?model=NAME`.
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

/// A job that was taken.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobAccepted {
    /// Its id.
    id: String,
    /// How many texts it has.
    texts: usize,
}

/// `GET /v1/jobs/{id}`
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobStatus {
    /// Its id.
    id: String,
    /// `running` or `done`
    status: &'static str,
    /// How many texts it has.
    texts: usize,
    /// Of how many the outcome is known.
    done: usize,
}

/// A line of `GET /v1/jobs/{id}/results`: a vector, or an error.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobResult {
    /// The text's place in the job.
    index: usize,
    /// The unit vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<Vec<f32>>,
    /// Tokens that were computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<usize>,
    /// Whether the text was longer than the model's limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<bool>,
    /// Why there is no vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The routes, for a service with a broker.
pub(crate) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new().routes(routes!(submit)).routes(routes!(status, cancel)).routes(routes!(results))
}

fn jobs(service: &Service) -> Result<&Jobs, Error> {
    service.jobs.as_ref().ok_or(Error::Broker)
}

/// Puts texts into the workers' queue, all or none.
#[utoipa::path(post, path = "/v1/jobs", tag = "jobs", request_body = JobRequest, params(("model" = Option<String>, Query, description = "The model's name or id, where the server has several"), ("Idempotency-Key" = Option<String>, Header, description = "The same key and texts are one job, however often they are sent")), responses((status = 202, description = "Taken", body = JobAccepted), Refused), security(("bearer" = []), ()))]
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
    // Named in the message, also where it is the only one: the workers may have others beside it.
    let named = model.or(query.model);
    let model = service.pick(named.as_deref(), Need::Vectors)?;
    if !(1..=MAX_TEXTS).contains(&texts.len()) {
        return Err(Error::field("texts", format_args!("{} texts, and a job has 1 to {MAX_TEXTS}", texts.len())));
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

/// The texts of a JSONL body; empty lines are none.
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

/// How far a job is.
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path, description = "The job")), responses(Refused, (status = 200, description = "OK", body = JobStatus), (status = 404, description = "No such job", body = ErrorBody)), security(("bearer" = []), ()))]
async fn status(State(service): State<Arc<Service>>, id: Id) -> Result<Json<JobStatus>, Error> {
    let Path(id) = id?;
    let progress = jobs(&service)?.progress(checked(&id)?).await?;
    let status = if progress.done >= progress.texts { "done" } else { "running" };
    Ok(Json(JobStatus { id, status, texts: progress.texts, done: progress.done }))
}

/// Takes a job out of the queue, and its results away.
#[utoipa::path(delete, path = "/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path, description = "The job")), responses(Refused, (status = 204, description = "It is gone"), (status = 404, description = "No such job", body = ErrorBody)), security(("bearer" = []), ()))]
async fn cancel(State(service): State<Arc<Service>>, id: Id) -> Result<StatusCode, Error> {
    jobs(&service)?.cancel(checked(&id?.0)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The results as JSONL, as they come, each once and in no order; ends when all are there.
#[utoipa::path(get, path = "/v1/jobs/{id}/results", tag = "jobs", params(("id" = String, Path, description = "The job")), responses(Refused, (status = 200, description = "A JSON object a line", body = JobResult, content_type = "application/x-ndjson"), (status = 404, description = "No such job", body = ErrorBody)), security(("bearer" = []), ()))]
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

/// An id as [`Jobs::submit`] makes it: nothing else reaches a subject.
fn checked(id: &str) -> Result<&str, Error> {
    match id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()) {
        true => Ok(id),
        false => Err(Error::NotFound("/v1/jobs/…: an id has 32 hexadecimal digits".into())),
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
