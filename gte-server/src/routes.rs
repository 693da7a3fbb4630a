//! `app`: the routes. Handlers are about ten lines: take apart, call, put together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use base64::Engine;
use gte_core::{Embedder, Embeddings, Tokens};
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::*;
use crate::batcher::{Answer, Batcher};
use crate::config::Config;
use crate::error::Error;
use crate::guard::{self, Checked};
use crate::jobs::{self, Jobs};
use crate::metrics::Metrics;
use crate::pages;

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
    /// The broker of jobs, if there is one.
    pub(crate) jobs: Option<Jobs>,
    /// Set when shutdown begins.
    pub draining: AtomicBool,
}

type Shared = State<Arc<Service>>;

/// The head of the OpenAPI document; the routes add themselves.
#[derive(OpenApi)]
#[openapi(
    info(description = "Text embeddings: OpenAI's API, text-embeddings-inference's, and two routes of its own."),
    tags(
        (name = "own", description = "A vector, and a ranking"),
        (name = "OpenAI", description = "As in OpenAI's API reference"),
        (name = "text-embeddings-inference", description = "As its clients expect them"),
        (name = "jobs", description = "Texts for workers behind a broker, where the server has one"),
        (name = "operation", description = "For probes and monitoring; never behind a key"),
    )
)]
struct Document;

/// The routes that need a key where there are keys, and those of probes, monitoring and people, which do not.
pub fn app(service: Arc<Service>) -> Router {
    let jobs = if service.jobs.is_some() { jobs::routes::routes() } else { OpenApiRouter::new() };
    let keyed = OpenApiRouter::new()
        .routes(routes!(embedding))
        .routes(routes!(similarity))
        .routes(routes!(openai))
        .routes(routes!(tei_embed))
        .routes(routes!(tei_embed_all))
        .routes(routes!(tei_similarity))
        .routes(routes!(tokenize))
        .routes(routes!(decode))
        .routes(routes!(info))
        .routes(routes!(models))
        .merge(jobs)
        // The same as /v1/embeddings, for clients whose base address has no /v1.
        .route("/embeddings", axum::routing::post(openai))
        .route_layer(axum::middleware::from_fn_with_state(service.clone(), guard::authorize));
    let open = OpenApiRouter::new()
        .routes(routes!(health))
        .routes(routes!(live))
        .routes(routes!(ready))
        .routes(routes!(metrics));
    let all = OpenApiRouter::with_openapi(Document::openapi()).merge(keyed).merge(open);
    let (router, mut document) = all.split_for_parts();
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    document.components.get_or_insert_default().add_security_scheme("bearer", bearer);
    let router = router
        .merge(pages::pages(document))
        .fallback(|uri: Uri| async move { Error::NotFound(uri.path().to_owned()) })
        .method_not_allowed_fallback(|method: Method| async move { Error::Method(method.to_string()) });
    guard::guarded(router, &service).with_state(service)
}

impl Service {
    /// Tokenizes on a thread for blocking work: neither the compute thread nor the reactor waits for it.
    pub(crate) async fn tokenize(self: &Arc<Self>, texts: Vec<String>) -> Result<(Vec<Tokens>, Duration), Error> {
        let service = self.clone();
        let span = tracing::info_span!("tokenize", texts = texts.len());
        let work = move || {
            let _entered = span.entered();
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
}

fn check_count(texts: usize, field: &str) -> Result<(), Error> {
    match texts {
        0 => Err(Error::field(field, "no text is given")),
        1..=MAX_TEXTS => Ok(()),
        _ => Err(Error::field(field, format_args!("{texts} texts in one request, at most {MAX_TEXTS}"))),
    }
}

impl Service {
    /// The unit vectors of an answer, or their first `dimensions` values, of unit length again.
    fn vectors(&self, pooled: Vec<f32>, dimensions: Option<usize>) -> Result<Embeddings, Error> {
        let embeddings = self.embedder.normalize(pooled)?;
        match dimensions {
            None => Ok(embeddings),
            Some(n) => Ok(embeddings.truncate(n)?),
        }
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

/// The vector of a text.
#[utoipa::path(post, path = "/v1/embedding", tag = "own", request_body = EmbeddingRequest, responses((status = 200, description = "OK", body = EmbeddingResponse), Refused), security(("bearer" = []), ()))]
async fn embedding(State(service): Shared, Checked(request): Checked<EmbeddingRequest>) -> Result<Response, Error> {
    let (tokens, took) = service.tokenize(vec![request.text]).await?;
    let counts = Counts::of(&tokens);
    let answer = service.batcher.embed(tokens).await?;
    let headers = timing(&counts, took, &answer);
    let vectors = service.vectors(answer.pooled, None)?;
    let embedding = vectors.as_slice();
    let model = service.embedder.name();
    let body = EmbeddingResponse {
        embedding,
        dimension: embedding.len(),
        model,
        tokens: counts.tokens,
        truncated: counts.truncated > 0,
    };
    Ok((headers, Json(body)).into_response())
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
    let answer = service.batcher.embed(tokens).await?;
    let headers = timing(&counts, took, &answer);
    let vectors = service.vectors(answer.pooled, None)?;
    let mut rows = vectors.rows();
    let source = rows.next().unwrap_or_default();
    let scores = rows.map(|row| gte_core::similarity::cosine(source, row)).collect::<gte_core::Result<_>>()?;
    Ok((scores, headers))
}

/// How similar each candidate is to a text, and their ranking.
#[utoipa::path(post, path = "/v1/similarity", tag = "own", request_body = SimilarityRequest, responses((status = 200, description = "OK", body = SimilarityResponse), Refused), security(("bearer" = []), ()))]
async fn similarity(State(service): Shared, Checked(request): Checked<SimilarityRequest>) -> Result<Response, Error> {
    let (scores, headers) = compare(&service, request.source_text, request.candidate_texts, "candidate_texts").await?;
    let mut ranking: Vec<usize> = (0..scores.len()).collect();
    ranking.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    ranking.truncate(request.top_k.unwrap_or(usize::MAX));
    Ok((headers, Json(SimilarityResponse { scores, ranking })).into_response())
}

/// The vectors of texts or token ids, as OpenAI answers.
#[utoipa::path(post, path = "/v1/embeddings", tag = "OpenAI", request_body = OpenAiRequest, responses((status = 200, description = "OK", body = OpenAiResponse), Refused), security(("bearer" = []), ()))]
async fn openai(State(service): Shared, Checked(request): Checked<OpenAiRequest>) -> Result<Response, Error> {
    let (tokens, took) = service.tokens(request.input, "input").await?;
    let counts = Counts::of(&tokens);
    let answer = service.batcher.embed(tokens).await?;
    let headers = timing(&counts, took, &answer);
    let embeddings = service.vectors(answer.pooled, request.dimensions)?;
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

/// The vectors of texts or token ids.
#[utoipa::path(post, path = "/embed", tag = "text-embeddings-inference", request_body = TeiRequest, responses((status = 200, description = "OK", body = Vec<Vec<f32>>), Refused), security(("bearer" = []), ()))]
async fn tei_embed(State(service): Shared, Checked(request): Checked<TeiRequest>) -> Result<Response, Error> {
    let (tokens, took) = service.tokens(request.inputs, "inputs").await?;
    check_truncate(&tokens, request.truncate, service.embedder.max_length())?;
    let counts = Counts::of(&tokens);
    let answer = service.batcher.embed(tokens).await?;
    let headers = timing(&counts, took, &answer);
    let dim = service.embedder.dim();
    if request.normalize == Some(false) {
        let shorter = request.dimensions.unwrap_or(dim);
        if !(1..=dim).contains(&shorter) {
            return Err(Error::field("dimensions", format_args!("{shorter} is not 1 to {dim}")));
        }
        let rows: Vec<_> = answer.pooled.chunks_exact(dim).map(|row| &row[..shorter]).collect();
        return Ok((headers, Json(rows)).into_response());
    }
    let embeddings = service.vectors(answer.pooled, request.dimensions)?;
    Ok((headers, Json(embeddings.rows().collect::<Vec<_>>())).into_response())
}

/// The vector of each token, before pooling.
#[utoipa::path(post, path = "/embed_all", tag = "text-embeddings-inference", request_body = TeiRequest, responses((status = 200, description = "OK", body = Vec<Vec<Vec<f32>>>), Refused), security(("bearer" = []), ()))]
async fn tei_embed_all(State(service): Shared, Checked(request): Checked<TeiRequest>) -> Result<Response, Error> {
    let (tokens, _) = service.tokens(request.inputs, "inputs").await?;
    check_truncate(&tokens, request.truncate, service.embedder.max_length())?;
    let states = service.batcher.hidden_states(tokens).await?;
    Ok(Json(states).into_response())
}

/// The cosine of each sentence with the source.
#[utoipa::path(post, path = "/similarity", tag = "text-embeddings-inference", request_body = TeiSimilarityRequest, responses((status = 200, description = "OK", body = Vec<f32>), Refused), security(("bearer" = []), ()))]
async fn tei_similarity(
    State(service): Shared,
    Checked(request): Checked<TeiSimilarityRequest>,
) -> Result<Response, Error> {
    let TeiSimilarityInputs { source_sentence, sentences } = request.inputs;
    let (scores, headers) = compare(&service, source_sentence, sentences, "inputs.sentences").await?;
    Ok((headers, Json(scores)).into_response())
}

/// The tokens of texts, uncut, with their places.
#[utoipa::path(post, path = "/tokenize", tag = "text-embeddings-inference", request_body = TokenizeRequest, responses((status = 200, description = "OK", body = Vec<Vec<Token>>), Refused), security(("bearer" = []), ()))]
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

/// The texts of token ids.
#[utoipa::path(post, path = "/decode", tag = "text-embeddings-inference", request_body = DecodeRequest, responses((status = 200, description = "OK", body = Vec<String>), Refused), security(("bearer" = []), ()))]
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

/// The model and the limits.
#[utoipa::path(get, path = "/info", tag = "text-embeddings-inference", responses((status = 200, description = "OK", body = Info), (status = 401, description = "A valid key is needed", body = ErrorBody)), security(("bearer" = []), ()))]
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
        note: config.note(),
    })
}

/// The one model, as OpenAI lists models.
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI", responses((status = 200, description = "OK", body = Models), (status = 401, description = "A valid key is needed", body = ErrorBody)), security(("bearer" = []), ()))]
async fn models(State(service): Shared) -> Json<Models> {
    let model = Model { id: service.embedder.name().to_owned(), object: "model", created: 0, owned_by: "gte-server" };
    Json(Models { object: "list", data: vec![model] })
}

/// Alive: forward passes succeed. An idle server computes one, of a tiny text, to find out.
#[utoipa::path(get, path = "/livez", tag = "operation", responses((status = 200, description = "OK", body = String, content_type = "text/plain"), (status = 503, description = "Not ready", body = ErrorBody)))]
async fn live(State(service): Shared) -> Result<&'static str, Error> {
    service.batcher.alive(service.config.live_timeout()).await.map(|()| "ok")
}

/// As `/livez`, where text-embeddings-inference's clients look.
#[utoipa::path(get, path = "/health", tag = "operation", responses((status = 200, description = "OK", body = String, content_type = "text/plain"), (status = 503, description = "Not ready", body = ErrorBody)))]
async fn health(service: Shared) -> Result<&'static str, Error> {
    live(service).await
}

/// Ready: the model is warm and the server is not draining.
#[utoipa::path(get, path = "/readyz", tag = "operation", responses((status = 200, description = "OK", body = String, content_type = "text/plain"), (status = 503, description = "Not ready", body = ErrorBody)))]
async fn ready(State(service): Shared) -> Result<&'static str, Error> {
    if service.draining.load(Ordering::Relaxed) { Err(Error::Unavailable("shutting down")) } else { Ok("ready") }
}

/// The metrics, up to date.
#[utoipa::path(get, path = "/metrics", tag = "operation", responses((status = 200, description = "OK", body = String, content_type = "application/openmetrics-text")))]
pub async fn metrics(State(service): Shared) -> Response {
    service.batcher.refresh_metrics();
    const TEXT: (HeaderName, &str) =
        (header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([TEXT], service.metrics.text()).into_response()
}
