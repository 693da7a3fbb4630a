//! `Engine`: a loaded model, and what it reports about itself. Its computation is in `compute.rs`.

use std::any::Any;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::backend::Backend;
use crate::batch::{MaxBatchTokens, PackedBatch, Sequence, plan};
use crate::config::ModelConfig;
use crate::device::{Device, DeviceState, Precision};
use crate::encoder::{Encoder, Prefix};
use crate::error::{Error, Result};
use crate::files::ModelFiles;
use crate::heads::{Classifier, Dense, Sparse};
use crate::kernels::{Isa, Kernels};
use crate::models::{Architecture, Pooling};
use crate::profile::{KernelTime, Profile};
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
    pub(crate) max_batch_tokens: Mutex<MaxBatchTokens>,
    pub(crate) kernels: &'static Kernels,
    pub(crate) device: Device,
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

/// The forward pass, and whose turn it is. On the CPU one batch is computed at a time: each uses
/// all threads, and the memory of activations is that of one. On a GPU it is two: while one is
/// computed, the next one is on its way.
pub(crate) struct Turns {
    pub(crate) pass: Box<dyn Forward>,
    count: usize,
    free: Mutex<Vec<PackedBatch>>,
    freed: Condvar,
}

/// One turn, or all of them, with a batch to be filled.
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    taken: usize,
    pub(crate) batch: PackedBatch,
}

impl Turns {
    pub(crate) fn new(pass: Box<dyn Forward>, count: usize) -> Self {
        Self { pass, count, free: Mutex::new(vec![PackedBatch::default(); count]), freed: Condvar::new() }
    }

    /// Batches that may be on the device at once.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    fn free(&self) -> MutexGuard<'_, Vec<PackedBatch>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn; `alone`: until nobody else has one.
    pub(crate) fn take(&self, alone: bool) -> Turn<'_> {
        let taken = if alone { self.count } else { 1 };
        let mut free = self.free();
        while free.len() < taken {
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        let mut batch = free.pop().unwrap_or_default();
        free.truncate(self.count - taken);
        batch.clear();
        Turn { turns: self, taken, batch }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut free = self.turns.free();
        free.push(std::mem::take(&mut self.batch));
        for _ in 1..self.taken {
            free.push(PackedBatch::default());
        }
        self.turns.freed.notify_all();
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
    /// Gives memory of the device back that no pass uses.
    fn shrink(&self);
    /// Whether passes are recorded and repeated.
    fn record(&self, on: bool);
    /// What the device says of itself, where it is not the CPU.
    fn state(&self) -> Option<DeviceState>;
    /// Whether each kernel is timed from here on.
    fn time_kernels(&self, on: bool);
    /// How long each kernel took since they were last asked for.
    fn kernel_times(&self) -> Vec<KernelTime>;
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
        let mut pass = |out: &mut [f32]| self.encoder.pooled(&self.backend, batch, pooling, prefix, out, between);
        match prefix {
            Some(_) => pass(out),
            None => self.backend.repeat(batch.all(), pooling, out, &mut pass),
        }
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

    fn shrink(&self) {
        self.backend.shrink();
    }

    fn record(&self, on: bool) {
        self.backend.record(on);
    }

    fn state(&self) -> Option<DeviceState> {
        self.backend.state()
    }

    fn time_kernels(&self, on: bool) {
        self.backend.time_kernels(on);
    }

    fn kernel_times(&self) -> Vec<KernelTime> {
        self.backend.kernel_times()
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

    /// Where it is computed; never [`Device::Auto`].
    pub fn device(&self) -> Device {
        self.device
    }

    /// What computes it, in a word: the CPU's instruction set, or another device.
    pub(crate) fn place(&self) -> String {
        match self.device {
            Device::Cpu => self.kernels.isa.to_string(),
            device => device.to_string(),
        }
    }

    /// What its GPU says of itself; `None` on the CPU.
    pub fn device_state(&self) -> Option<DeviceState> {
        self.forward.pass.state()
    }

    /// Batches that may be computed at once: two on a GPU, else one.
    pub fn batches_at_once(&self) -> usize {
        self.forward.count()
    }

    /// Whether a GPU repeats recorded passes of small batches (CUDA graphs) from here on, as it
    /// does unless it is told otherwise. Results do not depend on it: it is for measurements.
    #[doc(hidden)]
    pub fn record_passes(&self, on: bool) {
        self.forward.pass.record(on);
    }

    /// Whether each kernel of a GPU is timed from here on. It takes time itself, and passes are not
    /// repeated by graphs meanwhile: it is for measurements.
    #[doc(hidden)]
    pub fn time_kernels(&self, on: bool) {
        self.forward.pass.time_kernels(on);
    }

    /// How long each kernel of a GPU took since they were last asked for, or since
    /// [`time_kernels`](Self::time_kernels); empty on the CPU.
    #[doc(hidden)]
    pub fn kernel_times(&self) -> Vec<KernelTime> {
        self.forward.pass.kernel_times()
    }

    /// The instruction set of the kernels.
    pub fn isa(&self) -> Isa {
        self.kernels.isa
    }

    /// The thread pool.
    pub fn threads(&self) -> &Threads {
        &self.threads
    }

    /// Tokens that are computed at once. On a GPU without room for as many it becomes less while
    /// texts are computed.
    pub fn max_batch_tokens(&self) -> MaxBatchTokens {
        *self.max_batch_tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lowers the limit to half of `tokens`, for which there was no room.
    pub(crate) fn lower_max_batch_tokens(&self, tokens: usize) {
        let mut max_batch_tokens = self.max_batch_tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let half = (tokens / 2).max(1);
        if half < max_batch_tokens.tokens() {
            tracing::warn!(
                tokens,
                max_batch_tokens = half,
                "the device has no room for a batch: from here on they are smaller"
            );
            *max_batch_tokens = MaxBatchTokens::new(half).unwrap_or(*max_batch_tokens);
        }
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
        Ok(plan(&self.lengths(texts)?, self.max_batch_tokens()).collect())
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
