//! What the handlers share, and the one way from a request's texts to their vectors: read → admit →
//! compute → scale.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use gte_core::{Embedder, Embeddings, Prompt, TokenizeOptions, Tokens, TruncationSide};

use crate::api::{Input, MAX_TEXTS, Text};
use crate::batcher::{Answer, Batcher};
use crate::config::Config;
use crate::error::Error;
use crate::jobs::Jobs;
use crate::metrics::Metrics;

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
    pub keys: RwLock<Vec<String>>,
    /// The broker of jobs, if there is one.
    pub(crate) jobs: Option<Jobs>,
    /// Set when shutdown begins.
    pub draining: AtomicBool,
    /// Texts of ordinary length that a request may have: what `/info` promises.
    pub(crate) promised_texts: usize,
}

/// Tokens that a text of ordinary length has: some sentences, and more than most passages of a
/// knowledge base.
const ORDINARY_TEXT: usize = 256;

/// How many texts of ordinary length a request may have: as the limits allow, and such that they
/// are computed in half of a request's time at the speed that was measured. A power of two, so that
/// replicas say the same.
pub(crate) fn promised_texts(config: &Config, max_length: usize, tokens_per_second: f64) -> usize {
    let in_time = (config.timeout().as_secs_f64() / 2.0 * tokens_per_second) as usize;
    let texts = config.queue_tokens.min(in_time) / ORDINARY_TEXT.min(max_length);
    let texts = texts.min(config.queue_texts).clamp(1, MAX_TEXTS);
    1 << texts.ilog2()
}

/// How a request wants its texts read.
#[derive(Default)]
pub(crate) struct Reading {
    /// The prompt, by its name; the model's default if there is none.
    pub(crate) prompt_name: Option<String>,
    /// Whether long texts are cut: they are, unless this is false.
    pub(crate) truncate: Option<bool>,
    /// Where.
    pub(crate) side: Option<TruncationSide>,
}

/// A request's tokens.
pub(crate) struct Read {
    pub(crate) tokens: Vec<Tokens>,
    /// How long tokenizing took.
    took: Duration,
}

/// A request's pooled vectors, and what there is to tell of them.
pub(crate) struct Embedded {
    pooled: Vec<f32>,
    /// Tokens that were computed.
    pub(crate) tokens: usize,
    /// Texts that were cut.
    pub(crate) truncated: usize,
    /// The same and the times in milliseconds, in the headers of text-embeddings-inference.
    pub(crate) headers: HeaderMap,
}

impl Service {
    /// The vectors of the texts in `field` of a request.
    pub(crate) async fn embed(
        self: &Arc<Self>,
        input: Input,
        reading: Reading,
        field: &'static str,
    ) -> Result<Embedded, Error> {
        let Read { tokens, took } = self.read(input, reading, field).await?;
        let count = tokens.iter().map(Tokens::len).sum();
        let truncated = tokens.iter().filter(|t| t.truncated()).count();
        let answer = self.batcher.embed(tokens).await?;
        let headers = headers(count, truncated, took, &answer);
        Ok(Embedded { pooled: answer.pooled, tokens: count, truncated, headers })
    }

    /// The tokens of the texts in `field` of a request.
    pub(crate) async fn read(
        self: &Arc<Self>,
        input: Input,
        reading: Reading,
        field: &'static str,
    ) -> Result<Read, Error> {
        let texts = input.into_texts();
        self.check_count(texts.len(), field)?;
        let max = self.embedder.max_length();
        let truncate = reading.truncate;
        let read = self.tokenize(texts, reading, field).await?;
        match read.tokens.iter().position(|t| t.truncated()) {
            Some(i) if truncate == Some(false) => Err(Error::field(
                field,
                format_args!("`{field}` must have less than {max} tokens. Given: {}", read.tokens[i].full_len),
            )),
            _ => Ok(read),
        }
    }

    /// Tokenizes on a thread for blocking work: neither the compute thread nor the reactor waits
    /// for it, nor it for them.
    async fn tokenize(
        self: &Arc<Self>,
        texts: Vec<Text>,
        reading: Reading,
        field: &'static str,
    ) -> Result<Read, Error> {
        let service = self.clone();
        let span = tracing::info_span!("tokenize", texts = texts.len());
        let work = move || {
            let _entered = span.entered();
            let start = Instant::now();
            let prompt = service.prompt(reading.prompt_name.as_deref())?;
            let options = TokenizeOptions { prompt, truncation_side: reading.side };
            let tokens = texts.into_iter().map(|text| match text {
                Text::Text(text) => Ok(service.embedder.tokenize_one(&text, &options)?),
                Text::Ids(ids) => service.given(ids, &options, field),
            });
            let tokens = tokens.collect::<Result<Vec<_>, Error>>()?;
            let took = start.elapsed();
            service.metrics.tokenize_seconds.observe(took.as_secs_f64());
            service.metrics.truncated_texts.inc_by(tokens.iter().filter(|t| t.truncated()).count() as u64);
            Ok(Read { tokens, took })
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| Error::Engine(e.to_string()))?
    }

    /// The prompt of a name, or the model's default.
    pub(crate) fn prompt<'a>(&self, name: Option<&'a str>) -> Result<Prompt<'a>, Error> {
        let Some(name) = name else { return Ok(Prompt::Default) };
        let prompts = self.embedder.prompts();
        if prompts.get(name).is_some() {
            return Ok(Prompt::Named(name));
        }
        let known: Vec<_> = prompts.names().collect();
        let reason = match known.is_empty() {
            true => format!("{name:?} is not known: this model has no prompts"),
            false => format!("{name:?} is not known: this model has the prompts {}", known.join(", ")),
        };
        Err(Error::field("prompt_name", reason))
    }

    /// Token ids that the caller made: checked and cut as a text's would be.
    fn given(&self, ids: Vec<u32>, options: &TokenizeOptions<'_>, field: &'static str) -> Result<Tokens, Error> {
        if !self.config.token_ids {
            return Err(Error::field(field, NO_TOKEN_IDS));
        }
        if options.prompt != Prompt::Default {
            return Err(Error::field(
                "prompt_name",
                "no prompt can be put before token ids: they are taken as they are",
            ));
        }
        if ids.is_empty() {
            return Err(Error::Empty(field.to_owned()));
        }
        self.check_ids(&ids, field)?;
        let side = options.truncation_side.unwrap_or(self.embedder.tokenizer().truncation_side());
        Ok(Tokens::cut(ids, self.embedder.max_length(), side))
    }

    /// Refuses ids that the model does not have.
    pub(crate) fn check_ids(&self, ids: &[u32], field: &str) -> Result<(), Error> {
        let vocab = self.embedder.config().vocab;
        match ids.iter().find(|&&id| id as usize >= vocab) {
            Some(id) => {
                Err(Error::field(field, format_args!("token id {id} is outside the vocabulary of {vocab} tokens")))
            }
            None => Ok(()),
        }
    }

    /// Refuses no texts, and more than a request may have.
    pub(crate) fn check_count(&self, texts: usize, field: &str) -> Result<(), Error> {
        let limits = [("texts per request", MAX_TEXTS), ("--queue-texts", self.config.queue_texts)];
        match limits.into_iter().find(|&(_, limit)| texts > limit) {
            _ if texts == 0 => Err(Error::Empty(field.to_owned())),
            Some((what, limit)) => Err(Error::too_much(format_args!("{texts} texts"), what, limit)),
            None => Ok(()),
        }
    }
}

/// langchain-openai sends ids of another vocabulary unless it is told otherwise: most of them are
/// valid here, and mean other words.
const NO_TOKEN_IDS: &str = "token ids are not taken, send text: ids of another vocabulary, such as tiktoken's, would give \
     wrong vectors. In LangChain: OpenAIEmbeddings(…, check_embedding_ctx_length=False). For ids of this model's own \
     vocabulary, start the server with --token-ids";

impl Embedded {
    /// Unit vectors, or their first `dimensions` values, of unit length again.
    pub(crate) fn vectors(self, service: &Service, dimensions: Option<usize>) -> Result<Embeddings, Error> {
        let embeddings = service.embedder.normalize(self.pooled)?;
        match dimensions {
            None => Ok(embeddings),
            Some(n) => Ok(embeddings.truncate(n)?),
        }
    }

    /// Vectors as the model gives them, or their first `dimensions` values.
    pub(crate) fn raw(&self, service: &Service, dimensions: Option<usize>) -> Result<Vec<&[f32]>, Error> {
        let dim = service.embedder.dim();
        let shorter = dimensions.unwrap_or(dim);
        if !(1..=dim).contains(&shorter) {
            return Err(Error::field("dimensions", format_args!("{shorter}, expected 1 to {dim}")));
        }
        Ok(self.pooled.chunks_exact(dim).map(|row| &row[..shorter]).collect())
    }
}

fn headers(tokens: usize, truncated: usize, tokenized: Duration, answer: &Answer) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let ms = |d: Duration| HeaderValue::from(d.as_millis() as u64);
    let total = tokenized + answer.queued + answer.computed;
    for (name, value) in [
        (TOKENS, HeaderValue::from(tokens)),
        (TRUNCATED, HeaderValue::from(truncated)),
        (TOTAL_TIME, ms(total)),
        (TOKENIZATION_TIME, ms(tokenized)),
        (QUEUE_TIME, ms(answer.queued)),
        (INFERENCE_TIME, ms(answer.computed)),
    ] {
        headers.insert(name, value);
    }
    headers
}

const TOKENS: HeaderName = HeaderName::from_static("x-compute-tokens");
const TRUNCATED: HeaderName = HeaderName::from_static("x-truncated");
const TOTAL_TIME: HeaderName = HeaderName::from_static("x-total-time");
const TOKENIZATION_TIME: HeaderName = HeaderName::from_static("x-tokenization-time");
const QUEUE_TIME: HeaderName = HeaderName::from_static("x-queue-time");
const INFERENCE_TIME: HeaderName = HeaderName::from_static("x-inference-time");

/// What an answer tells in its headers.
pub(crate) const HEADERS: [HeaderName; 6] =
    [TOKENS, TRUNCATED, TOTAL_TIME, TOKENIZATION_TIME, QUEUE_TIME, INFERENCE_TIME];
