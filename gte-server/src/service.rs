//! What the handlers share, and the one way from a request's texts to what is made of them: read → find
//! what is known → admit → compute.

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

/// What the handlers share.
pub struct Service {
    /// The models.
    pub(crate) registry: Registry,
    /// Their queue.
    pub(crate) scheduler: Scheduler,
    /// What was computed before.
    pub(crate) cache: Cache,
    /// Numbers.
    pub metrics: Arc<Metrics>,
    /// Settings.
    pub config: Config,
    /// Keys that open the service; none: it is open.
    pub keys: RwLock<Vec<String>>,
    /// The broker of jobs, if there is one.
    pub(crate) jobs: Option<Jobs>,
    /// Set when shutdown begins.
    pub draining: AtomicBool,
    /// The pool that all models compute on.
    pub(crate) threads: Threads,
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

/// A request's tokens.
pub(crate) struct Read {
    pub(crate) tokens: Vec<Tokens>,
    /// How long tokenizing took.
    took: Duration,
}

/// Token vectors in one answer, at most: a hundred megabytes of JSON at 1024 dimensions.
const MAX_STATES: usize = 8192;

impl Read {
    /// Refuses more tokens than an answer has room for, where it has a vector per token.
    pub(crate) fn check_states(&self) -> Result<(), Error> {
        let count: usize = self.tokens.iter().map(Tokens::len).sum();
        match count > MAX_STATES {
            true => Err(Error::too_much(format_args!("{count} tokens"), "token vectors per answer", MAX_STATES)),
            false => Ok(()),
        }
    }
}

/// Bytes that stand before each text of a request, times the texts: a core tokenizes them in some
/// seconds.
const MAX_REPEATED: usize = 16 << 20;

/// Refuses a long query, prompt or instruction before many texts: it is tokenized with each of them,
/// so a small request would take minutes.
pub(crate) fn check_repeated(bytes: usize, texts: usize) -> Result<(), Error> {
    match bytes.saturating_mul(texts) > MAX_REPEATED {
        true => {
            let found = format_args!("{bytes} bytes before each of {texts} texts");
            Err(Error::too_much(found, "bytes before a text, times texts", MAX_REPEATED))
        }
        false => Ok(()),
    }
}

/// What was made of a request's texts, and what there is to tell of it.
pub(crate) struct Computed {
    /// One of each text, in order.
    pub(crate) made: Vec<Arc<TextOutput>>,
    /// Tokens of the request.
    pub(crate) tokens: usize,
    /// Texts that were cut.
    pub(crate) truncated: usize,
    /// The same and the times in milliseconds, in the headers of text-embeddings-inference.
    pub(crate) headers: HeaderMap,
}

impl Service {
    /// The first model, if it is an embedder.
    pub fn embedder(&self) -> Option<&Embedder> {
        self.registry.loaded().next().and_then(|model| model.embedder().ok())
    }

    /// The model of a request: see [`Registry::pick`].
    pub(crate) fn pick(&self, name: Option<&str>, need: Need) -> Result<Arc<Model>, Error> {
        self.registry.pick(name, need).cloned()
    }

    /// `outputs` of the texts in `field` of a request.
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

    /// The vectors of pairs of texts in `field` of a request, first all the one side, then all the other.
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

    /// `outputs` of texts that are read. What another text of the request is equal to, and what the cache has, is not
    /// computed.
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

    /// The tokens of the texts in `field` of a request.
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

    /// As [`read`](Self::read), however many texts there are.
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
            let options = TokenizeOptions { prompt, truncation_side: reading.side };
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

    /// Tokenizes by `work`, on a thread for blocking work: neither the compute thread nor the reactor waits
    /// for it, nor it for them. With `truncate` false a text that was cut is refused, as one of `field`.
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

impl Model {
    /// The prompt that a request means.
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
            true => format!("{name:?} is not known: this model has no prompts"),
            false => format!("{name:?} is not known: this model has the prompts {}", known.join(", ")),
        };
        Err(Error::field(field, reason))
    }

    /// Refuses ids that the model does not have.
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

/// Token ids that the caller made: checked and cut as a text's would be.
fn given(model: &Model, ids: Vec<u32>, options: &TokenizeOptions<'_>, field: &'static str) -> Result<Tokens, Error> {
    if options.prompt != Prompt::Default {
        let reason = "no prompt can be put before token ids: they are taken as they are";
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

/// langchain-openai sends ids of another vocabulary unless it is told otherwise: most of them are
/// valid here, and mean other words.
const NO_TOKEN_IDS: &str = "token ids are not taken, send text: ids of another vocabulary, such as tiktoken's, would give \
     wrong vectors. In LangChain: OpenAIEmbeddings(…, check_embedding_ctx_length=False). For ids of this model's own \
     vocabulary, start the server with --token-ids";

impl Computed {
    /// Unit vectors, or their first `dimensions` values, of unit length again.
    pub(crate) fn vectors(&self, model: &Model, dimensions: Option<usize>) -> Result<Embeddings, Error> {
        let pooled = self.made.iter().flat_map(|text| &text.dense).copied().collect();
        let embeddings = model.embedder()?.normalize(pooled)?;
        match dimensions {
            None => Ok(embeddings),
            Some(n) => Ok(embeddings.truncate(n)?),
        }
    }

    /// Vectors as the model gives them, or their first `dimensions` values.
    pub(crate) fn raw(&self, model: &Model, dimensions: Option<usize>) -> Result<Vec<&[f32]>, Error> {
        let dim = model.embedder()?.dim();
        let shorter = dimensions.unwrap_or(dim);
        if !(1..=dim).contains(&shorter) {
            return Err(Error::field("dimensions", format_args!("{shorter}, expected 1 to {dim}")));
        }
        Ok(self.made.iter().map(|text| &text.dense[..shorter]).collect())
    }

    /// Logits, text after text.
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

/// What an answer tells in its headers.
pub(crate) const HEADERS: [HeaderName; 6] =
    [TOKENS, TRUNCATED, TOTAL_TIME, TOKENIZATION_TIME, QUEUE_TIME, INFERENCE_TIME];
