//! Reranking, scores of pairs, and classification.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use gte_core::{Outputs, PairOptions, Tokens, TruncationSide};
use serde::de::IgnoredAny;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use crate::api::openai::Usage;
use crate::api::rerank::*;
use crate::api::{Refused, RerankRefused, TeiRefused, Texts};
use crate::body::{Checked, RawBody};
use crate::error::Error;
use crate::json;
use crate::reading::Reading;
use crate::refusal;
use crate::registry::{Model, Need};
use crate::service::{Computed, Service, check_repeated};

/// The routes whose errors have the form of Cohere and OpenAI.
pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new()
        .routes(routes!(rerank))
        .routes(routes!(score))
        // Further paths, which the clients of Jina, Cohere and vLLM use.
        .route("/v1/rerank", post(rerank))
        .route("/v2/rerank", post(rerank))
        .route("/v1/score", post(score))
}

/// The routes whose errors have the form of text-embeddings-inference.
pub(super) fn tei_routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new().routes(routes!(predict))
}

/// Ranks documents by how well they answer a query, best first. Also at `/v1/rerank` and
/// `/v2/rerank`.
#[utoipa::path(post, path = "/rerank", tag = "rerank", request_body = RerankRequest, responses((status = 200, description = "OK", body = AnyRanking), RerankRefused), security(("bearer" = []), ()))]
async fn rerank(State(service): Shared, RawBody(body): RawBody) -> Response {
    let request: RerankRequest = match json::parse(&body) {
        Ok(request) => request,
        Err(e) if has_texts(&body) => return refusal::as_tei_writes(e.into_response()).await,
        Err(e) => return e.into_response(),
    };
    match (&request.documents, &request.texts) {
        (Some(_), None) => rerank_documents(service, request).await.into_response(),
        (None, Some(_)) => refusal::as_tei_writes(rerank_texts(service, request).await.into_response()).await,
        (None, None) => Error::field("documents", "the field is missing").into_response(),
        (Some(_), Some(_)) => {
            Error::field("texts", "both `texts` and `documents` are given: send only one of them").into_response()
        }
    }
}

/// Whether an invalid body was meant as a request of text-embeddings-inference.
fn has_texts(body: &[u8]) -> bool {
    let fields: Option<std::collections::HashMap<String, IgnoredAny>> = serde_json::from_slice(body).ok();
    fields.is_some_and(|fields| fields.contains_key("texts") && !fields.contains_key("documents"))
}

async fn rerank_documents(service: Arc<Service>, mut request: RerankRequest) -> Result<Response, Error> {
    let documents = request.documents.take().unwrap_or_default().into_iter().map(Document::into_text).collect();
    let (top_n, return_documents) = (request.top_n, request.return_documents == Some(true));
    let (ranked, mut documents, model) = ranked(&service, request, documents, "documents").await?;
    let Ranked { ranking, computed } = ranked;
    let most = top_n.and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0).unwrap_or(usize::MAX);
    let mut result = |(index, relevance_score): (usize, f32)| {
        let text = |documents: &mut Vec<String>| DocumentText { text: std::mem::take(&mut documents[index]) };
        RerankResult { index, relevance_score, document: return_documents.then(|| text(&mut documents)) }
    };
    let body = RerankResponse {
        id: new_id("rerank"),
        object: "rerank",
        created: now(),
        model: model.name.clone(),
        results: ranking.into_iter().take(most).map(&mut result).collect(),
        usage: Usage { prompt_tokens: computed.tokens, total_tokens: computed.tokens },
        meta: Meta::new(computed.truncated),
    };
    Ok((computed.headers, Json(body)).into_response())
}

async fn rerank_texts(service: Arc<Service>, mut request: RerankRequest) -> Result<Response, Error> {
    let texts = request.texts.take().unwrap_or_default();
    let return_text = request.return_text == Some(true);
    let (Ranked { ranking, computed }, mut texts, _) = ranked(&service, request, texts, "texts").await?;
    let rank = |(index, score): (usize, f32)| Rank {
        index,
        score,
        text: return_text.then(|| std::mem::take(&mut texts[index])),
    };
    let body: Vec<Rank> = ranking.into_iter().map(rank).collect();
    Ok((computed.headers, Json(body)).into_response())
}

/// Indices of documents with their scores, best first; equal scores keep their order.
struct Ranked {
    ranking: Vec<(usize, f32)>,
    computed: Computed,
}

async fn ranked(
    service: &Arc<Service>,
    request: RerankRequest,
    documents: Vec<String>,
    field: &'static str,
) -> Result<(Ranked, Vec<String>, Arc<Model>), Error> {
    check_fields(&request)?;
    service.check_count(documents.len(), field)?;
    let told = request.instruction.as_ref().map_or(0, String::len);
    check_repeated(told + request.query.len(), documents.len())?;
    let model = service.pick(request.model.as_deref(), Need::Ranking)?;
    let (reranker, raw) = (model.clone(), request.raw_scores == Some(true));
    let texts = Arc::new(documents);
    let (read, truncate) = (texts.clone(), request.truncate);
    // The index of the document of each pair. A document may have several pairs.
    let owners = Arc::new(std::sync::OnceLock::new());
    let (owned, limit) = (owners.clone(), service.config.queue_tokens);
    let work = move || {
        let (pairs, owners) = pairs(&reranker, &request, &read, limit)?;
        let _ = owned.set(owners);
        Ok(pairs)
    };
    let computed =
        service.compute(&model, service.tokenize(&model, truncate, field, work).await?, Outputs::DENSE).await?;
    let logits = computed.logits();
    let scores = if raw { logits } else { model.reranker()?.scores_from(&logits)? };
    let mut best = vec![f32::NEG_INFINITY; texts.len()];
    let owners = owners.get().map_or(&[][..], Vec::as_slice);
    owners.iter().zip(&scores).for_each(|(&owner, &score)| best[owner] = best[owner].max(score));
    let mut ranking: Vec<(usize, f32)> = best.into_iter().enumerate().collect();
    ranking.sort_by(|a, b| b.1.total_cmp(&a.1));
    let documents = Arc::try_unwrap(texts).unwrap_or_else(|shared| (*shared).clone());
    Ok((Ranked { ranking, computed }, documents, model))
}

/// Refuses fields with values that are not supported.
fn check_fields(request: &RerankRequest) -> Result<(), Error> {
    let fields = request.rank_fields.as_deref().unwrap_or_default();
    if let Some(other) = fields.iter().find(|field| *field != "text") {
        return Err(Error::field("rank_fields", format_args!("{other:?} is not supported, expected only \"text\"")));
    }
    let positive =
        [("max_tokens_per_doc", request.max_tokens_per_doc), ("max_chunks_per_doc", request.max_chunks_per_doc)];
    match positive.into_iter().find(|&(_, value)| value == Some(0)) {
        Some((field, _)) => Err(Error::field(field, "0, expected at least 1")),
        None => Ok(()),
    }
}

/// A request may have this many times the tokens that may wait, because some pairs may be cached,
/// and the tokens that all pairs share may be computed once.
const MAX_OVER_QUEUE: usize = 8;

/// Refuses pairs with more tokens than can be computed, before all of them are in memory.
fn check_pairs(tokens: usize, limit: usize) -> Result<(), Error> {
    match tokens > limit.saturating_mul(MAX_OVER_QUEUE) {
        true => Err(Error::too_much("the tokens of the query with each document", "--queue-tokens", limit)),
        false => Ok(()),
    }
}

/// The tokens of the query with each document, or with each piece of it, and the index of each
/// pair's document. A request with far more tokens than `limit` is refused while it is read.
fn pairs(
    model: &Model,
    request: &RerankRequest,
    documents: &[String],
    limit: usize,
) -> Result<(Vec<Tokens>, Vec<usize>), Error> {
    let reranker = model.reranker()?;
    let options = PairOptions::default().with_instruction(request.instruction.as_deref());
    let options = options.with_truncation_side(request.truncation_direction);
    let tokenize = |document: &str| reranker.tokenize_one(&request.query, document, &options);
    let (mut pairs, mut owners) = (Vec::with_capacity(documents.len()), Vec::with_capacity(documents.len()));
    let mut tokens = 0;
    let mut add = |pairs: &mut Vec<Tokens>, pair: Tokens| {
        tokens += pair.len();
        pairs.push(pair);
        check_pairs(tokens, limit)
    };
    for (owner, document) in documents.iter().enumerate() {
        let document = match request.max_tokens_per_doc {
            Some(most) => first_tokens(model, document, most)?,
            None => document,
        };
        let whole = tokenize(document)?;
        let chunks = request.max_chunks_per_doc.unwrap_or(1);
        let pieces = match whole.truncated() && chunks > 1 {
            true => pieces(model, document, &whole, chunks, request.overlap_tokens.unwrap_or(0))?,
            false => Vec::new(),
        };
        match pieces.is_empty() {
            true => add(&mut pairs, whole)?,
            false => pieces.into_iter().try_for_each(|piece| add(&mut pairs, tokenize(piece)?))?,
        }
        owners.resize(pairs.len(), owner);
    }
    Ok((pairs, owners))
}

/// The byte positions in a text at which its tokens begin, and at which the last one ends.
fn bounds(model: &Model, text: &str) -> Result<Vec<usize>, Error> {
    let pieces = model.engine().tokenizer().pieces(text)?;
    let mut bounds: Vec<usize> = pieces.iter().filter(|piece| !piece.special).map(|piece| piece.start).collect();
    bounds.push(text.len());
    bounds.retain(|&at| text.is_char_boundary(at));
    Ok(bounds)
}

/// The beginning of a text, with at most `most` tokens.
fn first_tokens<'a>(model: &Model, text: &'a str, most: usize) -> Result<&'a str, Error> {
    // A token has at least one byte.
    if text.len() <= most {
        return Ok(text);
    }
    let end = bounds(model, text)?.get(most).copied().unwrap_or(text.len());
    Ok(&text[..end])
}

/// Splits a long document into at most `chunks` pieces that fit beside the query. Each piece shares
/// `overlap` tokens with the one before.
fn pieces<'a>(
    model: &Model,
    document: &'a str,
    whole: &Tokens,
    chunks: usize,
    overlap: usize,
) -> Result<Vec<&'a str>, Error> {
    let bounds = bounds(model, document)?;
    let tokens = bounds.len() - 1;
    // The other tokens are those of the query and the special tokens.
    let beside = whole.full_len.saturating_sub(tokens);
    // A piece that is tokenized by itself may have one or two more tokens at its ends.
    let room = model.engine().tokenizer().max_length().saturating_sub(beside + 2);
    if room == 0 || tokens <= room {
        return Ok(Vec::new());
    }
    // The overlap is at most half of a piece, so that a small request cannot become very many
    // pieces.
    let starts = (0..tokens).step_by(room - overlap.min(room / 2)).take(chunks);
    let mut pieces = Vec::new();
    for start in starts {
        let end = (start + room).min(tokens);
        pieces.push(&document[bounds[start]..bounds[end]]);
        if end == tokens {
            break;
        }
    }
    Ok(pieces)
}

/// Scores pairs of texts, in their order: from 0 to 1 with a reranker, by cosine with an embedder.
/// Also at `/v1/score`.
#[utoipa::path(post, path = "/score", tag = "rerank", request_body = ScoreRequest, responses((status = 200, description = "OK", body = ScoreResponse), Refused), security(("bearer" = []), ()))]
async fn score(State(service): Shared, Checked(request): Checked<ScoreRequest>) -> Result<Response, Error> {
    let ScoreRequest { model, queries, documents, instruction, raw_scores, truncate } = request;
    let (queries, documents) = (queries.into_vec(), documents.into_vec());
    service.check_count(queries.len(), "queries")?;
    service.check_count(documents.len(), "documents")?;
    if queries.len() != 1 && queries.len() != documents.len() {
        let reason = format_args!("{} texts for {} queries, expected the same number", documents.len(), queries.len());
        return Err(Error::field("documents", reason));
    }
    let told = instruction.as_ref().map_or(0, String::len);
    check_repeated(if let [query] = &queries[..] { told + query.len() } else { told }, documents.len())?;
    // Cosines are used if there is no reranker, or if the request names an embedder.
    let model = match service.pick(model.as_deref(), Need::Ranking) {
        Err(Error::Task { .. }) => service.pick(model.as_deref(), Need::Scores)?,
        picked => picked?,
    };
    let (scores, computed, scoring) = match model.reranker() {
        Ok(_) => {
            let of = model.clone();
            let work = move || {
                let reranker = of.reranker()?;
                let options = PairOptions::default().with_instruction(instruction.as_deref());
                let pair = |(q, d): (&String, &String)| Ok(reranker.tokenize_one(q, d, &options)?);
                queries.iter().cycle().zip(&documents).map(pair).collect()
            };
            let read = service.tokenize(&model, truncate, "documents", work).await?;
            let computed = service.compute(&model, read, Outputs::DENSE).await?;
            let logits = computed.logits();
            match raw_scores {
                Some(true) => (logits, computed, "logit"),
                _ => (model.reranker()?.scores_from(&logits)?, computed, "sigmoid"),
            }
        }
        Err(_) => {
            if instruction.is_some() {
                let reason = "an embedder has no instruction: it is for language models that rerank";
                return Err(Error::field("instruction", reason));
            }
            let (scores, computed) = cosines(&service, &model, queries, documents, truncate).await?;
            (scores, computed, "cosine")
        }
    };
    let item = |(index, score)| Score { index, object: "score", score };
    let body = ScoreResponse {
        id: new_id("score"),
        object: "list",
        created: now(),
        model: model.name.clone(),
        scoring,
        data: scores.into_iter().enumerate().map(item).collect(),
        usage: Usage { prompt_tokens: computed.tokens, total_tokens: computed.tokens },
    };
    Ok((computed.headers, Json(body)).into_response())
}

/// The cosine of each query and its document, or of a single query and each document.
async fn cosines(
    service: &Arc<Service>,
    model: &Arc<Model>,
    queries: Vec<String>,
    documents: Vec<String>,
    truncate: Option<bool>,
) -> Result<(Vec<f32>, Computed), Error> {
    let (first, pairs) = (queries.len(), documents.len());
    let texts = queries.into_iter().chain(documents).collect();
    let reading = Reading { truncate, ..Reading::default() };
    let computed = service.embed_pairs(model, texts, reading, "documents").await?;
    let vectors = computed.vectors(model, None)?;
    let row = |i: usize| vectors.get(i).unwrap_or_default();
    let cosine = |i: usize| gte_core::similarity::cosine(row(i % first), row(first + i));
    Ok(((0..pairs).map(cosine).collect::<gte_core::Result<_>>()?, computed))
}

/// Classifies texts or pairs of texts: their labels with scores, best first.
#[utoipa::path(post, path = "/predict", tag = "text-embeddings-inference", request_body = PredictRequest, responses((status = 200, description = "OK", body = Predictions), TeiRefused), security(("bearer" = []), ()))]
async fn predict(State(service): Shared, Checked(request): Checked<PredictRequest>) -> Result<Response, Error> {
    let (inputs, many) = match request.inputs {
        PredictInput::Text(text) => (vec![vec![text]], false),
        PredictInput::One(texts) => (vec![texts], false),
        PredictInput::Many(all) => (all.into_iter().map(|OneOrTwo(texts)| texts).collect(), true),
    };
    service.check_count(inputs.len(), "inputs")?;
    let model = service.pick(request.model.as_deref(), Need::Labels)?;
    let (of, side) = (model.clone(), request.truncation_direction);
    let work = move || inputs.iter().map(|texts| tokens_of(&of, texts, side)).collect();
    let read = service.tokenize(&model, request.truncate, "inputs", work).await?;
    let computed = service.compute(&model, read, Outputs::DENSE).await?;
    let names = model.reranker()?.label_names();
    let raw = request.raw_scores == Some(true);
    let mut all = computed.made.iter().map(|made| predictions(&made.dense, &names, raw));
    let body = match many {
        false => Predictions::One(all.next().unwrap_or_default()),
        true => Predictions::Many(all.collect()),
    };
    let headers: HeaderMap = computed.headers.clone();
    Ok((headers, Json(body)).into_response())
}

fn tokens_of(model: &Model, texts: &[String], side: Option<TruncationSide>) -> Result<Tokens, Error> {
    let reranker = model.reranker()?;
    match texts {
        [text] if !reranker.takes_instruction() => Ok(reranker.tokenize_text(text, side)?),
        [query, document] => {
            Ok(reranker.tokenize_one(query, document, &PairOptions::default().with_truncation_side(side))?)
        }
        _ => Err(Error::field("inputs", "this model expects pairs of a query and a document")),
    }
}

/// The labels of one text, best first.
fn predictions(logits: &[f32], names: &[String], raw: bool) -> Vec<Prediction> {
    let scores: Vec<f32> = match logits {
        _ if raw => logits.to_vec(),
        [logit] => vec![(1.0 / (1.0 + (-f64::from(*logit)).exp())) as f32],
        _ => softmax(logits),
    };
    let item = |(score, name): (f32, &String)| Prediction { score, label: name.clone() };
    let mut all: Vec<Prediction> = scores.into_iter().zip(names).map(item).collect();
    all.sort_by(|a, b| b.score.total_cmp(&a.score));
    all
}

/// exp(xᵢ) ÷ Σ exp(xⱼ)
fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|&x| f64::from(x - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| (power / sum) as f32).collect()
}

/// An id for a response, unique in this process.
pub(super) fn new_id(kind: &str) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(1);
    format!("{kind}-{:x}-{:x}", now(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Texts {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}
