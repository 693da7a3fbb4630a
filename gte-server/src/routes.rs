//! `app`: the routes. Handlers are about ten lines: take apart, call, put together.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use gte_core::{Embedder, Embeddings, Tokens};
use serde::de::DeserializeOwned;
use subtle::{Choice, ConstantTimeEq};

use crate::api::*;
use crate::batcher::{Answer, Batcher};
use crate::config::Config;
use crate::error::Error;
use crate::metrics::{Metrics, RequestLabels};

/// What the handlers share.
pub struct Service {
    /// The model.
    pub embedder: Arc<Embedder>,
    /// Its queue.
    pub batcher: Batcher,
    /// Its numbers.
    pub metrics: Arc<Metrics>,
    /// Settings.
    pub config: Config,
    /// Keys that open the service; none: it is open.
    pub keys: std::sync::RwLock<Vec<String>>,
    /// Set when shutdown begins.
    pub draining: AtomicBool,
}

type Shared = State<Arc<Service>>;

/// The routes that need a key where there are keys, and those of probes and monitoring, which do not.
pub fn app(service: Arc<Service>) -> Router {
    let limit = service.config.body_limit;
    let keyed = Router::new()
        .route("/v1/embedding", post(embedding))
        .route("/v1/similarity", post(similarity))
        .route("/v1/embeddings", post(openai))
        .route("/embeddings", post(openai))
        .route("/embed", post(tei_embed))
        .route("/embed_all", post(tei_embed_all))
        .route("/similarity", post(tei_similarity))
        .route("/tokenize", post(tokenize))
        .route("/decode", post(decode))
        .route("/info", get(info))
        .route_layer(axum::middleware::from_fn_with_state(service.clone(), authorize));
    let open = Router::new()
        .route("/health", get(live))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics));
    keyed
        .merge(open)
        .fallback(|uri: Uri| async move { Error::NotFound(uri.path().to_owned()) })
        .method_not_allowed_fallback(|method: Method| async move { Error::Method(method.to_string()) })
        .layer(axum::extract::DefaultBodyLimit::max(limit))
        .layer(axum::middleware::from_fn_with_state(service.clone(), observe))
        .with_state(service)
}

/// Counts and times every request, and gives it an id.
async fn observe(State(service): Shared, request: Request, next: Next) -> Response {
    const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let start = Instant::now();
    // The caller's id if it is a sane one, so that its logs and ours meet.
    let id = request.headers().get(&REQUEST_ID).filter(|id| id.len() <= 128).cloned().unwrap_or_else(|| {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        HeaderValue::from_str(&format!("{:x}-{number:x}", std::process::id())).unwrap_or(HeaderValue::from_static("-"))
    });
    let route = request.extensions().get::<MatchedPath>().map_or("none", |path| static_route(path.as_str()));
    service.metrics.in_flight.inc();
    let mut response = next.run(request).await;
    service.metrics.in_flight.dec();
    let status = response.status().as_u16();
    service.metrics.requests.get_or_create(&RequestLabels { route, status }).inc();
    service.metrics.request_seconds.observe(start.elapsed().as_secs_f64());
    tracing::debug!(route, status, id = ?id, ms = start.elapsed().as_secs_f64() * 1e3, "request");
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// A route's pattern as a label: there are as many as routes.
fn static_route(path: &str) -> &'static str {
    const ROUTES: [&str; 14] = [
        "/v1/embedding",
        "/v1/similarity",
        "/v1/embeddings",
        "/embeddings",
        "/embed",
        "/embed_all",
        "/similarity",
        "/tokenize",
        "/decode",
        "/info",
        "/health",
        "/livez",
        "/readyz",
        "/metrics",
    ];
    ROUTES.into_iter().find(|&route| route == path).unwrap_or("none")
}

async fn authorize(State(service): Shared, request: Request, next: Next) -> Response {
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
struct Checked<T>(T);

impl<T: DeserializeOwned> axum::extract::FromRequest<Arc<Service>> for Checked<T> {
    type Rejection = Error;

    async fn from_request(request: Request<Body>, service: &Arc<Service>) -> Result<Self, Error> {
        let limit = service.config.body_limit;
        let bytes = Bytes::from_request(request, service).await.map_err(|e| match e.status() {
            axum::http::StatusCode::PAYLOAD_TOO_LARGE => Error::TooLarge { limit },
            _ => Error::Syntax(e.body_text()),
        })?;
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        let value = serde_path_to_error::deserialize(&mut json).map_err(|e| {
            let field = e.path().to_string();
            let inner = e.into_inner();
            if inner.is_data() { Error::field(field, inner) } else { Error::Syntax(inner.to_string()) }
        })?;
        json.end().map_err(|e| Error::Syntax(e.to_string()))?;
        Ok(Self(value))
    }
}

impl Service {
    /// Tokenizes on a thread for blocking work: neither the compute thread nor the reactor waits for it.
    async fn tokenize(self: &Arc<Self>, texts: Vec<String>) -> Result<(Vec<Tokens>, Duration), Error> {
        let service = self.clone();
        let work = move || {
            let start = Instant::now();
            let tokenizer = service.embedder.tokenizer();
            let tokens = texts.iter().map(|text| tokenizer.encode_one(text)).collect::<gte_core::Result<Vec<_>>>()?;
            let took = start.elapsed();
            service.metrics.tokenize_seconds.observe(took.as_secs_f64());
            service.metrics.truncated_texts.inc_by(tokens.iter().filter(|t| t.truncated()).count() as u64);
            Ok((tokens, took))
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| Error::Engine(e.to_string()))?
    }

    /// Tokens of an input in any form.
    async fn tokens(self: &Arc<Self>, input: Input, field: &str) -> Result<(Vec<Tokens>, Duration), Error> {
        let texts = match input {
            Input::Text(text) => vec![text],
            Input::Texts(texts) => texts,
            Input::Ids(ids) => return Ok((vec![self.given(ids, field)?], Duration::ZERO)),
            Input::ManyIds(many) => {
                check_count(many.len(), field)?;
                let tokens = many.into_iter().map(|ids| self.given(ids, field)).collect::<Result<_, _>>()?;
                return Ok((tokens, Duration::ZERO));
            }
        };
        check_count(texts.len(), field)?;
        self.tokenize(texts).await
    }

    /// Token ids that the caller made: checked and cut as a text's would be.
    fn given(&self, mut ids: Vec<u32>, field: &str) -> Result<Tokens, Error> {
        let vocab = self.embedder.config().vocab;
        if ids.is_empty() {
            return Err(Error::field(field, "a list of no tokens is no text"));
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::field(field, format_args!("token id {id} is outside the vocabulary of {vocab} tokens")));
        }
        let full_len = ids.len();
        ids.truncate(self.embedder.max_length());
        Ok(Tokens { ids, full_len })
    }

    async fn embed(&self, tokens: Vec<Tokens>) -> Result<Answer, Error> {
        self.batcher.embed(tokens).await
    }
}

fn check_count(texts: usize, field: &str) -> Result<(), Error> {
    match texts {
        0 => Err(Error::field(field, "no text is given")),
        1..=MAX_TEXTS => Ok(()),
        _ => Err(Error::field(field, format_args!("{texts} texts in one request, at most {MAX_TEXTS}"))),
    }
}

fn shortened(embeddings: Embeddings, dimensions: Option<usize>) -> Result<Embeddings, Error> {
    match dimensions {
        None => Ok(embeddings),
        Some(n) => Ok(embeddings.truncate(n)?),
    }
}

/// What is left to tell of a request's tokens when the queue has taken them.
struct Counts {
    tokens: usize,
    truncated: usize,
}

impl Counts {
    fn of(tokens: &[Tokens]) -> Self {
        Self {
            tokens: tokens.iter().map(Tokens::len).sum(),
            truncated: tokens.iter().filter(|t| t.truncated()).count(),
        }
    }
}

/// The times of a request, in milliseconds, as text-embeddings-inference gives them.
fn timing(counts: &Counts, tokenized: Duration, answer: &Answer) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let ms = |d: Duration| HeaderValue::from(d.as_millis() as u64);
    let total = tokenized + answer.queued + answer.computed;
    for (name, value) in [
        ("x-compute-tokens", HeaderValue::from(counts.tokens)),
        ("x-truncated", HeaderValue::from(counts.truncated)),
        ("x-total-time", ms(total)),
        ("x-tokenization-time", ms(tokenized)),
        ("x-queue-time", ms(answer.queued)),
        ("x-inference-time", ms(answer.computed)),
    ] {
        headers.insert(HeaderName::from_static(name), value);
    }
    headers
}

async fn embedding(State(service): Shared, Checked(request): Checked<EmbeddingRequest>) -> Result<Response, Error> {
    let (tokens, took) = service.tokenize(vec![request.text]).await?;
    let counts = Counts::of(&tokens);
    let answer = service.embed(tokens).await?;
    let embedding = answer.embeddings.as_slice();
    let model = service.embedder.name();
    let body = EmbeddingResponse {
        embedding,
        dimension: embedding.len(),
        model,
        tokens: counts.tokens,
        truncated: counts.truncated > 0,
    };
    Ok((timing(&counts, took, &answer), Json(body)).into_response())
}

/// Cosines of the first text with the others.
async fn compare(
    service: &Arc<Service>,
    source: String,
    others: Vec<String>,
    field: &str,
) -> Result<(Vec<f32>, HeaderMap), Error> {
    check_count(others.len(), field)?;
    let texts = std::iter::once(source).chain(others).collect();
    let (tokens, took) = service.tokenize(texts).await?;
    let counts = Counts::of(&tokens);
    let answer = service.embed(tokens).await?;
    let mut rows = answer.embeddings.rows();
    let source = rows.next().unwrap_or_default();
    let scores = rows.map(|row| gte_core::similarity::cosine(source, row)).collect::<gte_core::Result<_>>()?;
    Ok((scores, timing(&counts, took, &answer)))
}

async fn similarity(State(service): Shared, Checked(request): Checked<SimilarityRequest>) -> Result<Response, Error> {
    let (scores, headers) = compare(&service, request.source_text, request.candidate_texts, "candidate_texts").await?;
    let mut ranking: Vec<usize> = (0..scores.len()).collect();
    ranking.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    ranking.truncate(request.top_k.unwrap_or(usize::MAX));
    Ok((headers, Json(SimilarityResponse { scores, ranking })).into_response())
}

async fn openai(State(service): Shared, Checked(request): Checked<OpenAiRequest>) -> Result<Response, Error> {
    let (tokens, took) = service.tokens(request.input, "input").await?;
    let counts = Counts::of(&tokens);
    let answer = service.embed(tokens).await?;
    let headers = timing(&counts, took, &answer);
    let embeddings = shortened(answer.embeddings, request.dimensions)?;
    let vector = |row| match request.encoding_format.unwrap_or_default() {
        EncodingFormat::Float => Vector::Float(row),
        EncodingFormat::Base64 => {
            let bytes: Vec<u8> = row.iter().flat_map(|v: &f32| v.to_le_bytes()).collect();
            Vector::Base64(base64::engine::general_purpose::STANDARD.encode(bytes))
        }
    };
    let data = embeddings.rows().enumerate().map(|(index, row)| OpenAiEmbedding {
        object: "embedding",
        index,
        embedding: vector(row),
    });
    let usage = Usage { prompt_tokens: counts.tokens, total_tokens: counts.tokens };
    Ok((headers, Json(OpenAiResponse { object: "list", data: data.collect(), model: service.embedder.name(), usage }))
        .into_response())
}

/// Refuses what text-embeddings-inference would cut only when asked to.
fn check_truncate(tokens: &[Tokens], truncate: Option<bool>, max: usize) -> Result<(), Error> {
    match tokens.iter().find(|t| t.truncated() && truncate == Some(false)) {
        Some(long) => Err(Error::field(
            "inputs",
            format_args!("`inputs` must have less than {max} tokens. Given: {}", long.full_len),
        )),
        None => Ok(()),
    }
}

async fn tei_embed(State(service): Shared, Checked(request): Checked<TeiRequest>) -> Result<Response, Error> {
    if request.normalize == Some(false) {
        return Err(Error::field("normalize", "vectors are always of unit length here: leave it out"));
    }
    let (tokens, took) = service.tokens(request.inputs, "inputs").await?;
    check_truncate(&tokens, request.truncate, service.embedder.max_length())?;
    let counts = Counts::of(&tokens);
    let answer = service.embed(tokens).await?;
    let headers = timing(&counts, took, &answer);
    let embeddings = shortened(answer.embeddings, request.dimensions)?;
    Ok((headers, Json(embeddings.rows().collect::<Vec<_>>())).into_response())
}

async fn tei_embed_all(State(service): Shared, Checked(request): Checked<TeiRequest>) -> Result<Response, Error> {
    let (tokens, _) = service.tokens(request.inputs, "inputs").await?;
    check_truncate(&tokens, request.truncate, service.embedder.max_length())?;
    let states = service.batcher.hidden_states(tokens).await?;
    Ok(Json(states).into_response())
}

async fn tei_similarity(
    State(service): Shared,
    Checked(request): Checked<TeiSimilarityRequest>,
) -> Result<Response, Error> {
    let TeiSimilarityInputs { source_sentence, sentences } = request.inputs;
    let (scores, headers) = compare(&service, source_sentence, sentences, "inputs.sentences").await?;
    Ok((headers, Json(scores)).into_response())
}

async fn tokenize(
    State(service): Shared,
    Checked(request): Checked<TokenizeRequest>,
) -> Result<Json<Vec<Vec<Token>>>, Error> {
    let texts = match request.inputs {
        Texts::One(text) => vec![text],
        Texts::Many(texts) => texts,
    };
    check_count(texts.len(), "inputs")?;
    let work = move || {
        let pieces = |text: &String| {
            let tokens = service.embedder.tokenizer().pieces(text)?.into_iter();
            let place = |special, at| if special { None } else { Some(at) };
            Ok(tokens
                .map(|p| Token {
                    id: p.id,
                    text: p.text,
                    special: p.special,
                    start: place(p.special, p.start),
                    stop: place(p.special, p.stop),
                })
                .collect())
        };
        texts.iter().map(pieces).collect::<gte_core::Result<Vec<Vec<Token>>>>()
    };
    Ok(Json(tokio::task::spawn_blocking(work).await.map_err(|e| Error::Engine(e.to_string()))??))
}

async fn decode(State(service): Shared, Checked(request): Checked<DecodeRequest>) -> Result<Json<Vec<String>>, Error> {
    let many = match request.ids {
        Ids::One(ids) => vec![ids],
        Ids::Many(many) => many,
    };
    check_count(many.len(), "ids")?;
    let skip = request.skip_special_tokens.unwrap_or(true);
    let texts = many.iter().map(|ids| service.embedder.tokenizer().decode(ids, skip));
    Ok(Json(texts.collect::<gte_core::Result<_>>()?))
}

async fn info(State(service): Shared) -> Json<Info> {
    let (embedder, config) = (&service.embedder, &service.config);
    Json(Info {
        model_id: embedder.name().to_owned(),
        model_dtype: embedder.precision().name(),
        model_type: ModelType { embedding: PoolingInfo { pooling: embedder.config().pooling.name() } },
        max_input_length: embedder.max_length(),
        max_batch_tokens: embedder.budget().tokens(),
        max_client_batch_size: MAX_TEXTS,
        max_concurrent_requests: config.queue_requests,
        auto_truncate: true,
        version: env!("CARGO_PKG_VERSION"),
        dimension: embedder.dim(),
        isa: embedder.isa().name(),
        threads: embedder.threads(),
    })
}

/// Alive: a real forward pass of a tiny text, in front of the queue. While a batch runs it is given that batch's time.
async fn live(State(service): Shared) -> Result<&'static str, Error> {
    service.batcher.probe(Duration::from_secs(30)).await.map(|()| "ok")
}

async fn ready(State(service): Shared) -> Result<&'static str, Error> {
    if service.draining.load(Ordering::Relaxed) { Err(Error::Unavailable("shutting down")) } else { Ok("ready") }
}

/// The metrics, up to date.
pub async fn metrics(State(service): Shared) -> Response {
    service.batcher.refresh_metrics();
    const TEXT: (HeaderName, &str) =
        (header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([TEXT], service.metrics.text()).into_response()
}
