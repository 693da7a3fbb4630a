//! What the handlers share, and the one path from a request's texts to their outputs: tokenize →
//! look up known outputs → admit → compute.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use gte_core::{Embedder, Embeddings, Outputs, Prompt, TextOutput, Threads, TokenizeOptions, Tokens};

use crate::api::{Input, MAX_TEXTS, Text};
use crate::cache::{Cache, Distinct};
use crate::config::Config;
use crate::error::Error;
use crate::jobs::Jobs;
use crate::metrics::Metrics;
use crate::reading::{PromptChoice, Reading};
use crate::registry::{Model, Need, Registry};
use crate::scheduler::{Answer, Scheduler};

/// The state that the handlers share.
pub struct Service {
    /// The models.
    pub(crate) registry: Registry,
    /// The queue of all models.
    pub(crate) scheduler: Scheduler,
    /// Outputs that were computed before.
    pub(crate) cache: Cache,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The configuration.
    pub config: Config,
    /// Valid API keys. If there are none, no key is required.
    pub keys: RwLock<Vec<String>>,
    /// The broker of jobs, if there is one.
    pub(crate) jobs: Option<Jobs>,
    /// Set when shutdown begins.
    pub draining: AtomicBool,
    /// The thread pool on which all models compute.
    pub(crate) threads: Threads,
}

/// Number of tokens in a text of ordinary length: some sentences, and more than most passages of a
/// knowledge base.
const ORDINARY_TEXT: usize = 256;

/// How many texts of ordinary length a request may have: as many as the limits allow and as are
/// computed in half of the request timeout, at the measured speed. It is rounded down to a power of
/// two, so that all replicas return the same number.
pub(crate) fn promised_texts(config: &Config, max_length: usize, tokens_per_second: f64) -> usize {
    let in_time = (config.timeout().as_secs_f64() / 2.0 * tokens_per_second) as usize;
    let texts = config.queue_tokens.min(in_time) / ORDINARY_TEXT.min(max_length);
    let texts = texts.min(config.queue_texts).clamp(1, MAX_TEXTS);
    1 << texts.ilog2()
}

/// A request's tokens.
pub(crate) struct Read {
    pub(crate) tokens: Vec<Tokens>,
    /// Time spent on tokenizing.
    took: Duration,
}

/// Maximum number of token vectors in one response: at 1024 dimensions, about a hundred megabytes
/// of JSON.
const MAX_STATES: usize = 8192;

impl Read {
    /// Refuses a request with more tokens than a response may have vectors, if every token gets a
    /// vector.
    pub(crate) fn check_states(&self) -> Result<(), Error> {
        let count: usize = self.tokens.iter().map(Tokens::len).sum();
        match count > MAX_STATES {
            true => Err(Error::too_much(format_args!("{count} tokens"), "token vectors per answer", MAX_STATES)),
            false => Ok(()),
        }
    }
}

/// Maximum number of bytes before each text of a request, times the number of texts. One core
/// tokenizes them in a few seconds.
const MAX_REPEATED: usize = 16 << 20;

/// Refuses a long query, prompt or instruction before many texts: it is tokenized with each of
/// them, so a small request would take minutes.
pub(crate) fn check_repeated(bytes: usize, texts: usize) -> Result<(), Error> {
    match bytes.saturating_mul(texts) > MAX_REPEATED {
        true => {
            let found = format_args!("{bytes} bytes before each of {texts} texts");
            Err(Error::too_much(found, "bytes before a text, times texts", MAX_REPEATED))
        }
        false => Ok(()),
    }
}

/// The outputs of a request's texts, and what the response reports about them.
pub(crate) struct Computed {
    /// One output per text, in order.
    pub(crate) made: Vec<Arc<TextOutput>>,
    /// Number of tokens in the request.
    pub(crate) tokens: usize,
    /// Number of texts that were truncated.
    pub(crate) truncated: usize,
    /// The same numbers, and times in milliseconds, as headers of text-embeddings-inference.
    pub(crate) headers: HeaderMap,
}

impl Service {
    /// The first model, if it is an embedder.
    pub fn embedder(&self) -> Option<&Embedder> {
        self.registry.loaded().next().and_then(|model| model.embedder().ok())
    }

    /// The model for a request: see [`Registry::pick`].
    pub(crate) fn pick(&self, name: Option<&str>, need: Need) -> Result<Arc<Model>, Error> {
        self.registry.pick(name, need).cloned()
    }

    /// Computes `outputs` of the texts in `field` of a request.
    pub(crate) async fn embed(
        self: &Arc<Self>,
        model: &Arc<Model>,
        input: Input,
        reading: Reading,
        outputs: Outputs,
        field: &'static str,
    ) -> Result<Computed, Error> {
        let read = self.read(model, input, reading, field).await?;
        self.compute(model, read, outputs).await
    }

    /// Embeds pairs of texts in `field` of a request: first all left texts, then all right ones.
    pub(crate) async fn embed_pairs(
        self: &Arc<Self>,
        model: &Arc<Model>,
        texts: Vec<String>,
        reading: Reading,
        field: &'static str,
    ) -> Result<Computed, Error> {
        let input: Input = texts.into();
        let read = self.read_any(model, input.into_texts(), reading, field).await?;
        self.compute(model, read, Outputs::DENSE).await
    }

    /// Computes `outputs` of tokenized texts. Repeated texts of the request and cached outputs are
    /// not computed again.
    pub(crate) async fn compute(&self, model: &Arc<Model>, read: Read, outputs: Outputs) -> Result<Computed, Error> {
        let Read { tokens, took } = read;
        let count = tokens.iter().map(Tokens::len).sum();
        let truncated = tokens.iter().filter(|t| t.truncated()).count();
        let distinct = Distinct::new(&self.cache, model, outputs, tokens);
        let missing = distinct.missing();
        let answer = match missing.is_empty() {
            true => Answer::default(),
            false => self.scheduler.compute(model.number, outputs, missing).await?,
        };
        let headers = headers(count, truncated, took, &answer);
        let made = distinct.complete(&self.cache, model, answer.made);
        Ok(Computed { made, tokens: count, truncated, headers })
    }

    /// Tokenizes the texts in `field` of a request.
    pub(crate) async fn read(
        self: &Arc<Self>,
        model: &Arc<Model>,
        input: Input,
        reading: Reading,
        field: &'static str,
    ) -> Result<Read, Error> {
        let texts = input.into_texts();
        self.check_count(texts.len(), field)?;
        self.read_any(model, texts, reading, field).await
    }

    /// As [`read`](Self::read), without a limit on the number of texts.
    async fn read_any(
        self: &Arc<Self>,
        model: &Arc<Model>,
        texts: Vec<Text>,
        reading: Reading,
        field: &'static str,
    ) -> Result<Read, Error> {
        if let PromptChoice::Text(prompt) = &reading.prompt {
            check_repeated(prompt.len(), texts.len())?;
        }
        let token_ids = self.config.token_ids;
        let of = model.clone();
        let truncate = reading.truncate;
        let work = move || {
            let prompt = of.prompt(&reading.prompt)?;
            let options = TokenizeOptions::default().with_prompt(prompt).with_truncation_side(reading.side);
            let embedder = of.embedder()?;
            let tokens = texts.into_iter().map(|text| match text {
                Text::Text(text) => Ok(embedder.tokenize_one(&text, &options)?),
                Text::Ids(_) if !token_ids => Err(Error::field(field, NO_TOKEN_IDS)),
                Text::Ids(ids) => given(&of, ids, &options, field),
            });
            tokens.collect()
        };
        self.tokenize(model, truncate, field, work).await
    }

    /// Runs `work`, which tokenizes, on a thread for blocking work, so that neither the compute
    /// thread nor the async runtime waits for it. If `truncate` is false, a text that would be
    /// truncated is refused, with an error about `field`.
    pub(crate) async fn tokenize(
        &self,
        model: &Arc<Model>,
        truncate: Option<bool>,
        field: &'static str,
        work: impl FnOnce() -> Result<Vec<Tokens>, Error> + Send + 'static,
    ) -> Result<Read, Error> {
        let span = tracing::info_span!("tokenize");
        let of = model.clone();
        let counted = move || {
            let _entered = span.entered();
            let start = Instant::now();
            let tokens = work()?;
            let took = start.elapsed();
            of.metrics.tokenize_seconds.observe(took.as_secs_f64());
            of.metrics.truncated_texts.inc_by(tokens.iter().filter(|t| t.truncated()).count() as u64);
            Ok::<_, Error>(Read { tokens, took })
        };
        let read = tokio::task::spawn_blocking(counted).await.map_err(|e| Error::Engine(e.to_string()))??;
        match read.tokens.iter().find(|tokens| tokens.truncated()) {
            Some(long) if truncate == Some(false) => {
                let max = model.engine().tokenizer().max_length();
                let reason = format_args!("`{field}` must have less than {max} tokens. Given: {}", long.full_len);
                Err(Error::field(field, reason))
            }
            _ => Ok(read),
        }
    }

    /// Refuses a request without texts or with too many.
    pub(crate) fn check_count(&self, texts: usize, field: &str) -> Result<(), Error> {
        let limits = [("texts per request", MAX_TEXTS), ("--queue-texts", self.config.queue_texts)];
        match limits.into_iter().find(|&(_, limit)| texts > limit) {
            _ if texts == 0 => Err(Error::Empty(field.to_owned())),
            Some((what, limit)) => Err(Error::too_much(format_args!("{texts} texts"), what, limit)),
            None => Ok(()),
        }
    }
}

impl Model {
    /// The prompt that a request asks for.
    pub(crate) fn prompt<'a>(&self, choice: &'a PromptChoice) -> Result<Prompt<'a>, Error> {
        let prompts = &self.engine().config().prompts;
        let (name, field) = match choice {
            PromptChoice::Default => return Ok(Prompt::Default),
            PromptChoice::Text(text) => return Ok(Prompt::Text(text)),
            PromptChoice::For(kind) => {
                let has = |name: &&str| prompts.get(name).is_some_and(|prompt| !prompt.is_empty());
                return Ok(kind.names().into_iter().find(has).map_or(Prompt::None, Prompt::Named));
            }
            PromptChoice::Name(name) => (name, "prompt_name"),
            PromptChoice::NameOrKind(name) => (name, "input_type"),
        };
        if prompts.resolve(Prompt::Named(name)).is_ok() {
            return Ok(Prompt::Named(name));
        }
        let known: Vec<_> = prompts.names().collect();
        let reason = match known.is_empty() {
            true => format!("unknown prompt {name:?}: this model has no prompts"),
            false => format!("unknown prompt {name:?}: this model has the prompts {}", known.join(", ")),
        };
        Err(Error::field(field, reason))
    }

    /// Refuses token ids that are not in the model's vocabulary.
    pub(crate) fn check_ids(&self, ids: &[u32], field: &str) -> Result<(), Error> {
        let vocab = self.engine().config().vocab;
        match ids.iter().find(|&&id| id as usize >= vocab) {
            Some(id) => {
                Err(Error::field(field, format_args!("token id {id} is outside the vocabulary of {vocab} tokens")))
            }
            None => Ok(()),
        }
    }
}

/// Tokens from the ids of a request, checked and truncated like a text.
fn given(model: &Model, ids: Vec<u32>, options: &TokenizeOptions<'_>, field: &'static str) -> Result<Tokens, Error> {
    if options.prompt != Prompt::Default {
        let reason = "a prompt cannot be put before token ids, which are used as they are";
        return Err(Error::field("prompt_name", reason));
    }
    if ids.is_empty() {
        return Err(Error::Empty(field.to_owned()));
    }
    model.check_ids(&ids, field)?;
    let tokenizer = model.engine().tokenizer();
    let side = options.truncation_side.unwrap_or(tokenizer.truncation_side());
    Ok(Tokens::cut(ids, tokenizer.max_length(), side))
}

/// Without configuration, langchain-openai sends ids of another vocabulary. Most of these are valid
/// ids here, but stand for other words.
const NO_TOKEN_IDS: &str = "token ids are not accepted, send text: ids of another vocabulary, such as tiktoken's, would give \
     wrong vectors. In LangChain: OpenAIEmbeddings(…, check_embedding_ctx_length=False). For ids of this model's own \
     vocabulary, start the server with --token-ids";

impl Computed {
    /// Unit vectors, or their first `dimensions` values, scaled to unit length again.
    pub(crate) fn vectors(&self, model: &Model, dimensions: Option<usize>) -> Result<Embeddings, Error> {
        let pooled = self.made.iter().flat_map(|text| &text.dense).copied().collect();
        let embeddings = model.embedder()?.normalize(pooled)?;
        match dimensions {
            None => Ok(embeddings),
            Some(n) => Ok(embeddings.truncate(n)?),
        }
    }

    /// Vectors as the model computed them, or their first `dimensions` values.
    pub(crate) fn raw(&self, model: &Model, dimensions: Option<usize>) -> Result<Vec<&[f32]>, Error> {
        let dim = model.embedder()?.dim();
        let shorter = dimensions.unwrap_or(dim);
        if !(1..=dim).contains(&shorter) {
            return Err(Error::field("dimensions", format_args!("{shorter}, expected 1 to {dim}")));
        }
        Ok(self.made.iter().map(|text| &text.dense[..shorter]).collect())
    }

    /// The logits of all texts, in order.
    pub(crate) fn logits(&self) -> Vec<f32> {
        self.made.iter().flat_map(|text| &text.dense).copied().collect()
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

/// The headers that a response may have.
pub(crate) const HEADERS: [HeaderName; 6] =
    [TOKENS, TRUNCATED, TOTAL_TIME, TOKENIZATION_TIME, QUEUE_TIME, INFERENCE_TIME];
