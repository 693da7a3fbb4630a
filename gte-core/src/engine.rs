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
use crate::heads::{HeadLayers, Heads};
use crate::kernels::{Isa, Kernels};
use crate::models::{Architecture, Pooling};
use crate::outputs::Outputs;
use crate::profile::{KernelTime, Profile, Stage, begin_trace, end_trace};
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
    pub(crate) heads: HeadSizes,
    pub(crate) threads: Threads,
    pub(crate) max_batch_tokens: Mutex<MaxBatchTokens>,
    pub(crate) kernels: &'static Kernels,
    pub(crate) device: Device,
    pub(crate) precision: Precision,
    pub(crate) forward: Turns,
}

/// What comes of the layers after the encoder.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeadSizes {
    /// Number of values per text: of the vector, or logits.
    pub(crate) pooled: usize,
    /// The token ids without a weight, in a model with sparse vectors: those of the special tokens.
    pub(crate) sparse: Option<Vec<u32>>,
    /// Number of values per token vector.
    pub(crate) colbert: Option<usize>,
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

/// The requested outputs of a batch, row after row. Others are empty.
#[derive(Default)]
pub(crate) struct BatchOutputs {
    pub(crate) pooled: Vec<f32>,  // (texts × width)
    pub(crate) sparse: Vec<f32>,  // (tokens)
    pub(crate) colbert: Vec<f32>, // (tokens × dim)
    pub(crate) states: Vec<f32>,  // (tokens × hidden)
}

/// A loaded model on some device.
pub(crate) trait Forward: Send + Sync {
    /// Loads the layers after the encoder.
    fn load_heads(&mut self, weights: &Weights, architecture: &Architecture, layers: HeadLayers) -> Result<()>;
    /// Computes the pooled vectors of `batch` with the layers after pooling. The texts continue
    /// `shared`. Writes them to `out`: (texts × width), not scaled to unit length. `between` is
    /// called between two layers of the encoder.
    fn pooled(
        &self,
        batch: &PackedBatch,
        pooling: Pooling,
        shared: Option<&Shared>,
        out: &mut [f32],
        between: &dyn Fn(),
    ) -> Result<()>;
    /// Computes several outputs of `batch`, which the model must have.
    fn outputs(
        &self,
        batch: &PackedBatch,
        pooling: Pooling,
        wanted: Outputs,
        sizes: &HeadSizes,
        between: &dyn Fn(),
    ) -> Result<BatchOutputs>;
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

/// A model and the device on which it runs.
pub(crate) struct Pass<B: Backend> {
    backend: B,
    encoder: Encoder<B>,
    heads: Heads<B>,
    hidden: usize,
}

impl<B: Backend + 'static> Pass<B> {
    pub(crate) fn load(backend: B, weights: &Weights, architecture: &Architecture) -> Result<Box<dyn Forward>> {
        let encoder = Encoder::load(&backend, weights, architecture)?;
        Ok(Box::new(Self { backend, encoder, heads: Heads::default(), hidden: architecture.hidden }))
    }

    /// The rows of `x`, which has `width` values for each token of `batch`, or for each text.
    fn read(&self, x: &[B::Hidden], rows: impl Iterator<Item = usize>, width: usize) -> Result<Vec<f32>> {
        let rows: Vec<usize> = rows.collect();
        let mut all = vec![0.0; rows.iter().sum::<usize>() * width];
        let mut left = &mut all[..];
        for (x, rows) in x.iter().zip(rows) {
            self.backend.read(x, left.split_off_mut(..rows * width).expect("a row for each"))?;
        }
        Ok(all)
    }
}

impl<B: Backend + 'static> Forward for Pass<B> {
    fn load_heads(&mut self, weights: &Weights, architecture: &Architecture, layers: HeadLayers) -> Result<()> {
        self.heads = Heads::load(&self.backend, weights, architecture, layers)?;
        Ok(())
    }

    fn pooled(
        &self,
        batch: &PackedBatch,
        pooling: Pooling,
        shared: Option<&Shared>,
        out: &mut [f32],
        between: &dyn Fn(),
    ) -> Result<()> {
        let prefix = shared.and_then(|shared| shared.0.downcast_ref::<Prefix<B>>());
        let mut pass = |out: &mut [f32]| {
            let pooled = self.encoder.pooled(&self.backend, batch, pooling, prefix, between)?;
            self.backend.read(&self.heads.of_pooled(&self.backend, pooled)?, out)
        };
        match prefix {
            Some(_) => pass(out),
            None => self.backend.repeat(batch.all(), pooling, out, &mut pass),
        }
    }

    fn outputs(
        &self,
        batch: &PackedBatch,
        pooling: Pooling,
        wanted: Outputs,
        sizes: &HeadSizes,
        between: &dyn Fn(),
    ) -> Result<BatchOutputs> {
        let backend = &self.backend;
        let parts = self.encoder.hidden(backend, batch, between)?;
        let tokens = || parts.iter().map(|(_, texts)| texts.tokens());
        let of_tokens = |wanted: bool, layer: Option<&B::Dense>| -> Result<Vec<B::Hidden>> {
            let layer = layer.filter(|_| wanted);
            parts.iter().filter_map(|(x, _)| Some(backend.dense(x, layer?))).collect()
        };
        // A device has all of its work before the first result is waited for.
        let pooled = match wanted.dense {
            true => vec![self.heads.of_pooled(backend, backend.pool(&parts, pooling)?)?],
            false => Vec::new(),
        };
        let sparse = of_tokens(wanted.sparse, self.heads.sparse.as_ref())?;
        let colbert = of_tokens(wanted.colbert, self.heads.colbert.as_ref())?;
        let mut made = BatchOutputs {
            pooled: self.read(&pooled, pooled.iter().map(|_| batch.texts()), sizes.pooled)?,
            sparse: self.read(&sparse, tokens().take(sparse.len()), 1)?,
            colbert: self.read(&colbert, tokens().take(colbert.len()), sizes.colbert.unwrap_or(0))?,
            states: Vec::new(),
        };
        if wanted.states {
            let (count, states): (Vec<usize>, Vec<B::Hidden>) =
                parts.into_iter().map(|(x, texts)| (texts.tokens(), x)).unzip();
            made.states = self.read(&states, count.into_iter(), self.hidden)?;
        }
        Ok(made)
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

    /// Splits all work as for `threads` threads while `f` runs, on the only thread of this model,
    /// and returns how long each piece took. It is for measurements.
    #[doc(hidden)]
    pub fn trace<R>(&self, threads: usize, f: impl FnOnce() -> R) -> (R, Vec<Stage>) {
        assert_eq!(self.threads.count(), 1, "only the work of one thread is recorded");
        self.threads.run(|| begin_trace(threads));
        let result = f();
        (result, self.threads.run(end_trace))
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
