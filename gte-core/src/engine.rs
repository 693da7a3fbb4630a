//! `Engine`: a loaded model, and what it reports about itself. Its computation is in `compute.rs`.

use std::any::Any;
use std::sync::Mutex;

use crate::backend::Backend;
use crate::batch::{Budget, PackedBatch, Sequence, plan};
use crate::config::ModelConfig;
use crate::device::Precision;
use crate::encoder::{Encoder, Prefix};
use crate::error::{Error, Result};
use crate::files::ModelFiles;
use crate::heads::{Classifier, Dense, Sparse};
use crate::kernels::{Isa, Kernels};
use crate::models::{Architecture, Pooling};
use crate::profile::Profile;
use crate::prompts::Prompt;
use crate::threads::Threads;
use crate::tokenizer::{TokenizeOptions, Tokenizer, Tokens};
use crate::weights::Weights;

/// A loaded model of any task, as a scheduler of several models sees it. Every method takes `&self`
/// and may be called from many threads at once.
///
/// ```
/// use gte_core::{Embedder, Outputs, Work};
///
/// let embedder = Embedder::bundled()?;
/// let tokens = embedder.tokenize(&["怎么退货？", "今天天气真好"])?;
/// let made = embedder.engine().compute(&tokens, &Work::DENSE.with_outputs(Outputs::DENSE))?;
/// assert_eq!((made.len(), made[0].dense.len()), (2, embedder.dim()));
/// # Ok::<(), gte_core::Error>(())
/// ```
pub struct Engine {
    pub(crate) name: String,
    pub(crate) files: ModelFiles,
    pub(crate) config: ModelConfig,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) heads: Heads,
    pub(crate) threads: Threads,
    pub(crate) budget: Budget,
    pub(crate) kernels: &'static Kernels,
    pub(crate) precision: Precision,
    pub(crate) forward: Turns,
}

/// The layers after the encoder.
#[derive(Default)]
pub(crate) struct Heads {
    pub(crate) dense: Vec<Dense>,
    pub(crate) classifier: Option<Classifier>,
    pub(crate) sparse: Option<Sparse>,
    pub(crate) colbert: Option<Dense>,
}

/// Runs forward passes one batch at a time: each pass uses all threads, and the activations of only
/// one batch are in memory.
pub(crate) struct Turns {
    pub(crate) pass: Box<dyn Forward>,
    pub(crate) batch: Mutex<PackedBatch>,
}

impl Turns {
    pub(crate) fn new(pass: Box<dyn Forward>) -> Self {
        Self { pass, batch: Mutex::default() }
    }
}

/// A loaded encoder on some device.
pub(crate) trait Forward: Send + Sync {
    /// Computes the pooled vectors of `batch`, whose texts continue `shared`, and writes them to
    /// `out`: (texts × hidden). `between` is called between two layers.
    fn pooled(
        &self,
        batch: &PackedBatch,
        pooling: Pooling,
        shared: Option<&Shared>,
        out: &mut [f32],
        between: &dyn Fn(),
    ) -> Result<()>;
    /// Computes the hidden states of `batch` and writes them to `out`: (tokens × hidden).
    fn hidden(&self, batch: &PackedBatch, out: &mut [f32], between: &dyn Fn()) -> Result<()>;
    /// Computes tokens with which texts will begin.
    fn shared(&self, ids: &[u32]) -> Result<Shared>;
    /// Where the time was spent.
    fn profile(&self) -> Profile;
}

/// The computed beginning of texts: a [`Prefix`] in the device's own type.
pub(crate) struct Shared(Box<dyn Any + Send + Sync>);

/// An encoder and the device on which it runs.
pub(crate) struct Pass<B: Backend> {
    backend: B,
    encoder: Encoder<B>,
}

impl<B: Backend + 'static> Pass<B> {
    pub(crate) fn load(backend: B, weights: &Weights, architecture: &Architecture) -> Result<Box<dyn Forward>> {
        let encoder = Encoder::load(&backend, weights, architecture)?;
        Ok(Box::new(Self { backend, encoder }))
    }
}

impl<B: Backend + 'static> Forward for Pass<B> {
    fn pooled(
        &self,
        batch: &PackedBatch,
        pooling: Pooling,
        shared: Option<&Shared>,
        out: &mut [f32],
        between: &dyn Fn(),
    ) -> Result<()> {
        let prefix = shared.and_then(|shared| shared.0.downcast_ref::<Prefix<B>>());
        self.encoder.pooled(&self.backend, batch, pooling, prefix, out, between)
    }

    fn hidden(&self, batch: &PackedBatch, out: &mut [f32], between: &dyn Fn()) -> Result<()> {
        self.encoder.hidden(&self.backend, batch, out, between)
    }

    fn shared(&self, ids: &[u32]) -> Result<Shared> {
        Ok(Shared(Box::new(self.encoder.prefix(&self.backend, ids)?)))
    }

    fn profile(&self) -> Profile {
        self.backend.profile()
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let task = self.config.task.name();
        write!(f, "Engine({}, {task}, {}, {})", self.name, self.precision, self.kernels.isa)
    }
}

impl Engine {
    /// The model's id on a hub, or its directory's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the model is.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The number type of matrix multiplications.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The instruction set of the kernels.
    pub fn isa(&self) -> Isa {
        self.kernels.isa
    }

    /// The thread pool.
    pub fn threads(&self) -> &Threads {
        &self.threads
    }

    /// Maximum number of tokens computed together.
    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// The token ids of each text, in order, with the number of tokens before truncation.
    pub(crate) fn tokenize<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        options: &TokenizeOptions<'_>,
    ) -> Result<Vec<Tokens>> {
        self.threads.run(|| self.tokens(texts, options))
    }

    /// As [`tokenize`](Self::tokenize), for one text on this thread.
    pub(crate) fn tokenize_one(&self, text: &str, options: &TokenizeOptions<'_>) -> Result<Tokens> {
        let prompt = self.config.prompts.resolve(options.prompt)?;
        let side = options.truncation_side.unwrap_or(self.tokenizer.truncation_side());
        self.tokenizer.encode_one_prompted(text, prompt, side)
    }

    fn tokens<S: AsRef<str> + Sync>(&self, texts: &[S], options: &TokenizeOptions<'_>) -> Result<Vec<Tokens>> {
        let prompt = self.config.prompts.resolve(options.prompt)?;
        let side = options.truncation_side.unwrap_or(self.tokenizer.truncation_side());
        self.tokenizer.encode_prompted(texts, prompt, side)
    }

    /// Tokenizes texts as the model's files describe.
    pub(crate) fn tokenize_plain<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Tokens>> {
        self.tokenize(texts, &TokenizeOptions { prompt: Prompt::Default, truncation_side: None })
    }

    /// Which of `texts` are computed together, in order.
    pub(crate) fn batches<T: Sequence>(&self, texts: &[T]) -> Result<Vec<std::ops::Range<usize>>> {
        Ok(plan(&self.lengths(texts)?, self.budget).collect())
    }

    pub(crate) fn lengths<T: Sequence>(&self, texts: &[T]) -> Result<Vec<usize>> {
        texts.iter().map(|text| self.checked(text.ids(), text.types()).map(|_| self.end(text))).collect()
    }

    /// Checks that the model can compute these tokens, and returns their number.
    pub(crate) fn checked(&self, ids: &[u32], types: &[u8]) -> Result<usize> {
        let (max, vocab) = (self.config.max_positions, self.config.vocab);
        if ids.is_empty() || ids.len() > max {
            return Err(Error::TokenCount { found: ids.len(), max });
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::TokenId { id, vocab });
        }
        let rows = self.config.architecture.token_types;
        match types.iter().find(|&&kind| usize::from(kind) >= rows && rows > 1) {
            Some(kind) => Err(Error::InvalidOption {
                option: "types",
                value: kind.to_string(),
                expected: format!("less than the model's {rows} token types"),
            }),
            None => Ok(ids.len()),
        }
    }

    /// Where the time of forward passes was spent.
    pub(crate) fn profile(&self) -> Profile {
        self.forward.pass.profile()
    }
}
