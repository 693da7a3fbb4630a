//! The page and its three questions: what is in the index, which passages answer, what a document
//! says. A refresh runs beside it, on a connection of its own.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};

use crate::error::{Error, Result};
use crate::index::{self, IndexProgress, Report};
use crate::models::Models;
use crate::search::{self, Hit, Mode};
use crate::store::{self, Counts, Document, Store};
use crate::terms;

/// What the handlers share.
pub struct App {
    folder: PathBuf,
    database: String,
    piece_tokens: usize,
    models: Models,
    /// The connection of searches; none until it is needed, and after an error.
    reader: Mutex<Option<Box<dyn Store>>>,
    refresh: Mutex<Refresh>,
}

/// The refresh that runs, or how the last one ended.
#[derive(Clone, Debug, Default, serde::Serialize)]
struct Refresh {
    running: Option<IndexProgress>,
    report: Option<Report>,
    error: Option<String>,
}

/// Questions are sentences; a longer one is a mistake.
const QUERY_CHARACTERS: usize = 1000;
const MOST_HITS: usize = 50;

impl App {
    /// An index that is ready.
    pub fn new(folder: PathBuf, database: String, piece_tokens: usize, models: Models) -> Arc<Self> {
        let (reader, refresh) = (Mutex::default(), Mutex::default());
        Arc::new(Self { folder, database, piece_tokens, models, reader, refresh })
    }

    /// The routes of the page.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/", get(|| asset("text/html; charset=utf-8", include_str!("../page/index.html"))))
            .route("/page.css", get(|| asset("text/css; charset=utf-8", include_str!("../page/page.css"))))
            .route("/page.js", get(|| asset("text/javascript; charset=utf-8", include_str!("../page/page.js"))))
            .route("/api/status", get(status))
            .route("/api/search", get(answer))
            .route("/api/documents/{id}", get(document))
            .route("/api/refresh", post(start_refresh))
            .with_state(Arc::clone(self))
    }

    /// Brings the index up to the folder, unless that is under way already. Blocks.
    pub fn refresh(&self) {
        if self.begin_refresh() {
            self.finish_refresh();
        }
    }

    /// Whether no other refresh was under way; then this one is.
    fn begin_refresh(&self) -> bool {
        let mut refresh = lock(&self.refresh);
        let is_first = refresh.running.is_none();
        refresh.running.get_or_insert_default();
        is_first
    }

    fn finish_refresh(&self) {
        let mut progress = |progress| lock(&self.refresh).running = Some(progress);
        let done = store::open(&self.database).and_then(|mut store| {
            index::refresh(&self.folder, &self.models, self.piece_tokens, &mut *store, &mut progress)
        });
        let mut refresh = lock(&self.refresh);
        refresh.running = None;
        refresh.error = done.as_ref().err().map(Error::to_string);
        refresh.report = done.ok();
    }

    /// Asks the database. A connection that fails is left; a question that failed on one that had
    /// served before is asked once more on a new one, for the database's server may have been
    /// restarted.
    fn with_store<T>(&self, ask: impl Fn(&mut dyn Store) -> Result<T>) -> Result<T> {
        let mut reader = lock(&self.reader);
        let (mut store, is_new) = match reader.take() {
            Some(store) => (store, false),
            None => (store::open(&self.database)?, true),
        };
        let mut answer = ask(&mut *store);
        if matches!(answer, Err(Error::Postgres(_))) && !is_new {
            store = store::open(&self.database)?;
            answer = ask(&mut *store);
        }
        if answer.is_ok() {
            *reader = Some(store);
        }
        answer
    }
}

/// What is behind a lock; no code panics in the middle of a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn asset(kind: &'static str, content: &'static str) -> Response {
    // All that the page loads is its own; a document's text is shown as text.
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                  base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
    (
        [(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, policy), (header::CACHE_CONTROL, "no-cache")],
        content,
    )
        .into_response()
}

/// An error as JSON: `{"error": "…"}`.
struct Failure(StatusCode, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(serde_json::json!({ "error": self.1 }))).into_response()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::result::Result<T, Failure> + Send + 'static,
) -> std::result::Result<Json<T>, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Failure(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?.map(Json)
}

#[derive(serde::Serialize)]
struct Status {
    folder: String,
    model: String,
    reranker: Option<String>,
    counts: Counts,
    refresh: Refresh,
}

async fn status(State(app): State<Arc<App>>) -> std::result::Result<Json<Status>, Failure> {
    blocking(move || {
        let counts = app.with_store(|store| store.counts())?;
        Ok(Status {
            folder: app.folder.display().to_string(),
            model: app.models.embedder.name().to_owned(),
            reranker: app.models.reranker.as_ref().map(|reranker| reranker.name().to_owned()),
            counts,
            refresh: lock(&app.refresh).clone(),
        })
    })
    .await
}

#[derive(serde::Deserialize)]
struct Question {
    q: String,
    #[serde(default)]
    mode: Mode,
    #[serde(default = "ten")]
    k: usize,
}

fn ten() -> usize {
    10
}

#[derive(serde::Serialize)]
struct Answer {
    /// Words of the query, to be marked in the passages.
    terms: Vec<String>,
    hits: Vec<FoundPassage>,
}

/// A [`Hit`] as the page reads it. Positions count characters, that is code points.
#[derive(serde::Serialize)]
struct FoundPassage {
    document: i64,
    path: String,
    title: String,
    text: String,
    start: usize,
    stop: usize,
    /// The sentence of the first passage that is nearest to the question: positions in `text`.
    sentence: Option<(usize, usize)>,
    /// Its rank by cosine, and the cosine.
    dense: Option<(usize, f32)>,
    /// Its rank by BM25, and the score.
    words: Option<(usize, f32)>,
    reranked: Option<f32>,
}

impl From<Hit> for FoundPassage {
    fn from(hit: Hit) -> Self {
        let Hit { passage, dense, words, reranked } = hit;
        Self {
            document: passage.document,
            path: passage.path,
            title: passage.title,
            text: passage.text,
            start: passage.characters.start,
            stop: passage.characters.end,
            sentence: None,
            dense,
            words,
            reranked,
        }
    }
}

async fn answer(
    State(app): State<Arc<App>>,
    question: std::result::Result<Query<Question>, axum::extract::rejection::QueryRejection>,
) -> std::result::Result<Json<Answer>, Failure> {
    let refused = |message: String| Failure(StatusCode::BAD_REQUEST, message);
    let Query(Question { q, mode, k }) = question.map_err(|e| refused(e.body_text()))?;
    let query = q.trim().to_owned();
    if query.is_empty() {
        return Err(refused("q: an empty question has no answer".into()));
    }
    if query.chars().count() > QUERY_CHARACTERS {
        return Err(refused(format!("q: a question has at most {QUERY_CHARACTERS} characters")));
    }
    if !(1..=MOST_HITS).contains(&k) {
        return Err(refused(format!("k: from 1 to {MOST_HITS}")));
    }
    blocking(move || {
        let options = search::SearchOptions { mode, rerank: true, k };
        let hits = app.with_store(|store| search::search(&app.models, store, &query, options))?;
        let mut hits: Vec<FoundPassage> = hits.into_iter().map(FoundPassage::from).collect();
        if let Some(first) = hits.first_mut() {
            let sentence = search::best_sentence(&app.models, &query, &first.text)?;
            first.sentence = sentence.map(|sentence| (sentence.start, sentence.end));
        }
        Ok(Answer { terms: terms::of_query(&query), hits })
    })
    .await
}

async fn document(State(app): State<Arc<App>>, Path(id): Path<i64>) -> std::result::Result<Json<Document>, Failure> {
    blocking(move || {
        let document = app.with_store(|store| store.document(id))?;
        document.ok_or(Failure(StatusCode::NOT_FOUND, "the document is no longer in the index".into()))
    })
    .await
}

async fn start_refresh(State(app): State<Arc<App>>) -> StatusCode {
    // It has begun when the answer is read.
    if app.begin_refresh() {
        tokio::task::spawn_blocking(move || app.finish_refresh());
    }
    StatusCode::ACCEPTED
}
