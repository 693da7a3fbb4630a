//! `Embedder`: text in, unit vectors out. The only file that knows all the others.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

use ndarray::Array2;

use crate::batch::{Budget, PackedBatch, plan};
use crate::config::{ModelConfig, Pooling};
use crate::convert::sample;
use crate::device::{Device, Precision, not_on, resolve};
use crate::embedding::Embeddings;
use crate::encoder::Encoder;
use crate::files::{HubOptions, ModelFiles, OnProgress};
use crate::kernels::{Format, Isa, Kernels};
use crate::ops::Ops;
use crate::ops::cpu::Cpu;
use crate::profile::Profile;
use crate::threads::Threads;
use crate::tokens::{Tokenizer, Tokens};
use crate::weights::Weights;
use crate::{Error, Result};

/// Settings of an [`Embedder`]. Each has a default that serves.
pub struct Builder {
    model: Model,
    hub: HubOptions,
    device: Device,
    precision: Precision,
    threads: Option<usize>,
    isa: Option<Isa>,
    max_length: Option<usize>,
    budget: Budget,
    pooling: Option<Pooling>,
}

enum Model {
    Named(String),
    Files(ModelFiles),
}

impl Builder {
    fn new(model: Model) -> Self {
        Self {
            model,
            hub: HubOptions::from_env(),
            device: Device::default(),
            precision: Precision::default(),
            threads: None,
            isa: None,
            max_length: None,
            budget: Budget::DEFAULT,
            pooling: None,
        }
    }

    /// Where the forward pass runs: the CPU.
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// The type of the matrix products: f32.
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Threads of the embedder's pool: `GTE_THREADS`, else what the process may use by its affinity and cgroup. Where they are as many as
    /// the CPUs that it may run on, each is kept on one of them (Linux).
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// The instruction set of the kernels: `GTE_ISA`, else the widest that the CPU has.
    pub fn isa(mut self, isa: Isa) -> Self {
        self.isa = Some(isa);
        self
    }

    /// Where texts are cut, in tokens, special tokens included: what the model's files say, at most 512. Up to the model's
    /// number of positions.
    pub fn max_length(mut self, tokens: usize) -> Self {
        self.max_length = Some(tokens);
        self
    }

    /// Tokens that are computed at once, which bounds the memory of activations: [`Budget::DEFAULT`].
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Overrides the pooling that the model's files, or its name, say.
    pub fn pooling(mut self, pooling: Pooling) -> Self {
        self.pooling = Some(pooling);
        self
    }

    /// All settings of hubs and caches: [`HubOptions::from_env`].
    pub fn hub(mut self, options: HubOptions) -> Self {
        self.hub = options;
        self
    }

    /// The commit, branch or tag on the hub: its main branch.
    pub fn revision(mut self, revision: impl Into<String>) -> Self {
        self.hub.revision = Some(revision.into());
        self
    }

    /// No request to a hub at all.
    pub fn offline(mut self, offline: bool) -> Self {
        self.hub.offline = offline;
        self
    }

    /// Called as downloads proceed.
    pub fn progress(mut self, progress: OnProgress) -> Self {
        self.hub.progress = Some(progress);
        self
    }

    /// Fetches what is missing, loads the weights, and packs them for the device.
    ///
    /// # Errors
    /// Whatever is wrong with the options, the model's files or the device; see [`Error`].
    pub fn build(self) -> Result<Embedder> {
        let threads = Threads::new(self.threads)?;
        let kernels = kernels(self.isa)?;
        let files = match self.model {
            Model::Named(name) => ModelFiles::open(&name, &self.hub)?,
            Model::Files(files) => files,
        };
        let mut config = ModelConfig::read(&files, self.pooling)?;
        if let Some(max_length) = self.max_length {
            if !(3..=config.max_positions).contains(&max_length) {
                return Err(Error::InvalidOption {
                    option: "max_length",
                    value: max_length.to_string(),
                    expected: format!("3 to {}, the model's positions", config.max_positions),
                });
            }
            config.max_length = max_length;
        }
        let precision = resolve(self.precision, self.device, kernels);
        let read = || Tokenizer::read(&files, &config);
        let load = |sample: Option<&PackedBatch>| -> Result<Box<dyn Forward>> {
            let weights = Weights::open(&files, &config)?;
            match self.device {
                Device::Cpu => {
                    let format = match precision {
                        Precision::Bf16 => Some(Format::Bf16),
                        Precision::Int8 => Some(Format::Int8),
                        Precision::F32 | Precision::Auto => None,
                        Precision::F16 => return Err(not_on("f32, bf16, int8 or auto on the CPU", precision)),
                    };
                    Pass::load(Cpu::new(kernels, format, threads.count()), &weights, &config, sample)
                }
                #[cfg(feature = "candle")]
                device => Pass::load(candle_device(device, precision)?, &weights, &config, sample),
            }
        };
        let (tokenizer, forward) = threads.run(|| -> Result<_> {
            if precision == Precision::Int8 {
                let tokenizer = read()?;
                let forward = load(Some(&sample(&tokenizer)?))?;
                return Ok((tokenizer, forward));
            }
            // A small model's tokenizer takes as long as its weights.
            let (tokenizer, forward) = rayon::join(read, || load(None));
            Ok((tokenizer?, forward?))
        })?;
        tracing::info!(
            model = files.name(), dim = config.hidden, layers = config.layers, pooling = %config.pooling, precision = %precision,
            isa = %kernels.isa, threads = threads.count(), max_length = config.max_length, "model loaded"
        );
        Ok(Embedder {
            name: files.name().to_owned(),
            config,
            tokenizer,
            forward: Turns { pass: forward, batch: Mutex::default() },
            threads,
            budget: self.budget,
            kernels,
            precision,
        })
    }
}

/// The kernels to use: those asked for, those of `GTE_ISA`, the best.
fn kernels(isa: Option<Isa>) -> Result<&'static Kernels> {
    let wanted = match (isa, std::env::var("GTE_ISA")) {
        (Some(isa), _) => isa,
        (None, Ok(name)) if !name.is_empty() => Isa::from_name(&name).ok_or_else(|| not_here("GTE_ISA", name))?,
        (None, _) => return Ok(Kernels::best()),
    };
    Kernels::of(wanted).ok_or_else(|| not_here("isa", wanted.to_string()))
}

fn not_here(option: &'static str, value: String) -> Error {
    let here: Vec<_> = Kernels::available().map(|k| k.isa.name()).collect();
    Error::InvalidOption { option, value, expected: format!("one that this CPU has: {}", here.join(", ")) }
}

#[cfg(feature = "candle")]
fn candle_device(device: Device, precision: Precision) -> Result<crate::ops::candle::Candle> {
    use candle_core::{DType, Device as Candle};
    let on = match device {
        Device::Cpu | Device::CandleCpu => Candle::Cpu,
        #[cfg(feature = "cuda")]
        Device::Cuda(number) => Candle::new_cuda(number)?,
        #[cfg(feature = "metal")]
        Device::Metal(number) => Candle::new_metal(number)?,
    };
    let dtype = match precision {
        Precision::F32 => DType::F32,
        Precision::F16 => DType::F16,
        Precision::Bf16 => DType::BF16,
        Precision::Int8 | Precision::Auto => return Err(not_on("f32, f16 or bf16 on this device", precision)),
    };
    Ok(crate::ops::candle::Candle::new(on, dtype))
}

/// A loaded model on some device.
trait Forward: Send + Sync {
    /// Computes the pooled vectors of `batch` into `out`: (texts × hidden). `between` is called between two layers.
    fn pooled(&self, batch: &PackedBatch, out: &mut [f32], between: &dyn Fn()) -> Result<()>;
    /// Where the time went.
    fn profile(&self) -> Profile;
    /// Computes the hidden states of `batch` into `out`: (tokens × hidden).
    fn hidden(&self, batch: &PackedBatch, out: &mut [f32]) -> Result<()>;
}

/// An encoder with the device that holds it.
struct Pass<O: Ops> {
    ops: O,
    encoder: Encoder<O>,
}

impl<O: Ops + 'static> Pass<O> {
    fn load(ops: O, weights: &Weights, config: &ModelConfig, sample: Option<&PackedBatch>) -> Result<Box<dyn Forward>> {
        let encoder = Encoder::load(&ops, weights, config, sample)?;
        Ok(Box::new(Self { ops, encoder }))
    }
}

impl<O: Ops> Forward for Pass<O> {
    fn pooled(&self, batch: &PackedBatch, out: &mut [f32], between: &dyn Fn()) -> Result<()> {
        self.encoder.pooled(&self.ops, batch, out, between)
    }

    fn profile(&self) -> Profile {
        self.ops.profile()
    }

    fn hidden(&self, batch: &PackedBatch, out: &mut [f32]) -> Result<()> {
        self.encoder.hidden(&self.ops, batch, out)
    }
}

/// A model that is ready. Every method takes `&self` and may be called from many threads at once.
///
/// A text's vector is the same to the bit alone, in any batch, in any order and at any number of threads.
pub struct Embedder {
    name: String,
    config: ModelConfig,
    tokenizer: Tokenizer,
    forward: Turns,
    threads: Threads,
    budget: Budget,
    kernels: &'static Kernels,
    precision: Precision,
}

/// The forward pass, one batch at a time: each uses all threads, and the memory of activations is that of one.
struct Turns {
    pass: Box<dyn Forward>,
    batch: Mutex<PackedBatch>,
}

/// A forward pass that has paused between two layers: see [`Embedder::pool_tokens_pausing`].
pub struct Pause<'a> {
    embedder: &'a Embedder,
    layers: usize, // that are done
}

impl Pause<'_> {
    /// How much of the pass is still to be done: a share of its layers, between 0 and 1.
    pub fn left(&self) -> f64 {
        1.0 - self.layers as f64 / self.embedder.config.layers as f64
    }

    /// As [`Embedder::pool_tokens`], before the pass goes on. It pauses too, for what is shorter still.
    ///
    /// # Errors
    /// As [`Embedder::embed_tokens`].
    pub fn pool_tokens_pausing<T: AsRef<[u32]> + Sync>(
        &self,
        texts: &[T],
        pause: &(dyn Fn(&Pause<'_>) + Sync),
    ) -> Result<Vec<f32>> {
        let dim = self.embedder.config.hidden;
        let mut values = vec![0.0; texts.len() * dim];
        for texts_in_batch in self.embedder.batches(texts)? {
            let out = &mut values[texts_in_batch.start * dim..texts_in_batch.end * dim];
            // The turn, and the batch that goes with it, belong to the pass that has paused; the pool's thread is this one.
            let batch = PackedBatch::new(texts[texts_in_batch].iter().map(AsRef::as_ref))?;
            self.embedder.pass(&batch, out, pause)?;
        }
        Ok(values)
    }
}

impl Embedder {
    /// A model by directory or hub id, with settings.
    pub fn builder(model: impl Into<String>) -> Builder {
        Builder::new(Model::Named(model.into()))
    }

    /// A model whose files are open, with settings.
    pub fn from_files(files: ModelFiles) -> Builder {
        Builder::new(Model::Files(files))
    }

    /// A model in a local directory, with default settings.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn from_dir(dir: impl AsRef<std::path::Path>) -> Result<Self> {
        Self::from_files(ModelFiles::from_dir(dir)?).build()
    }

    /// The small model that comes with this crate: 384 dimensions, Chinese and English, for trying and testing. For production,
    /// `thenlper/gte-large-zh`.
    ///
    /// # Errors
    /// As [`Builder::build`], for want of threads.
    #[cfg(feature = "bundled")]
    pub fn bundled() -> Result<Self> {
        Self::from_files(ModelFiles::bundled()).build()
    }

    /// A model by its hub id, `thenlper/gte-large-zh` or `modelscope:iic/nlp_gte_sentence-embedding_chinese-large`, with
    /// default settings.
    ///
    /// # Errors
    /// As [`Builder::build`].
    #[cfg(feature = "hub")]
    pub fn from_hub(id: &str) -> Result<Self> {
        Self::from_files(ModelFiles::from_hub(id, &HubOptions::from_env())?).build()
    }

    /// The unit vector of each text, in order: (texts × dim). No texts, no vectors; an empty text has the vector of its
    /// special tokens. Texts beyond `max_length` are cut; [`tokenize`](Self::tokenize) tells which.
    ///
    /// # Errors
    /// [`Error::Tokenize`], [`Error::Device`].
    pub fn embed<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Embeddings> {
        self.embed_tokens(&self.tokenize(texts)?)
    }

    /// The token ids of each text, in order, cut at `max_length`, with the number of tokens before the cut.
    ///
    /// # Errors
    /// [`Error::Tokenize`] with the text's position.
    pub fn tokenize<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Tokens>> {
        self.threads.run(|| self.tokenizer.encode(texts))
    }

    /// The unit vector of each list of token ids, in order: (texts × dim). The ids are taken as they are: special tokens
    /// belong to them.
    ///
    /// # Errors
    /// [`Error::TokenCount`] for an empty list and one beyond the model's positions, [`Error::TokenId`] for an id outside the
    /// vocabulary, [`Error::Device`].
    pub fn embed_tokens<T: AsRef<[u32]> + Sync>(&self, texts: &[T]) -> Result<Embeddings> {
        self.normalize(self.pool_tokens(texts)?)
    }

    /// The pooled vector of each list of token ids, as the model gives it, not of unit length: (texts × dim), row after row.
    ///
    /// # Errors
    /// As [`embed_tokens`](Self::embed_tokens).
    pub fn pool_tokens<T: AsRef<[u32]> + Sync>(&self, texts: &[T]) -> Result<Vec<f32>> {
        self.pool_tokens_pausing(texts, &|_| ())
    }

    /// As [`pool_tokens`](Self::pool_tokens); between two layers of the model, `pause` is called, and may compute something short: a
    /// query need not wait for a long text to the end. Results do not depend on it.
    ///
    /// # Errors
    /// As [`embed_tokens`](Self::embed_tokens).
    pub fn pool_tokens_pausing<T: AsRef<[u32]> + Sync>(
        &self,
        texts: &[T],
        pause: &(dyn Fn(&Pause<'_>) + Sync),
    ) -> Result<Vec<f32>> {
        let mut values = vec![0.0; texts.len() * self.config.hidden];
        self.pool_into(texts, &mut values, pause)?;
        Ok(values)
    }

    /// As [`embed_tokens`](Self::embed_tokens), into `out`: (texts × dim), row after row. For who has a place for the vectors already.
    ///
    /// # Errors
    /// As [`embed_tokens`](Self::embed_tokens); [`Error::Dimensions`] if `out` has not just as many values.
    pub fn embed_tokens_into<T: AsRef<[u32]> + Sync>(&self, texts: &[T], out: &mut [f32]) -> Result<()> {
        self.pool_into(texts, out, &|_| ())?;
        out.chunks_exact_mut(self.config.hidden).for_each(self.kernels.normalize);
        Ok(())
    }

    /// Which of `texts` are computed together, in order: for who wants to do something between two forward passes.
    ///
    /// # Errors
    /// As [`embed_tokens`](Self::embed_tokens).
    pub fn batches<T: AsRef<[u32]>>(&self, texts: &[T]) -> Result<Vec<std::ops::Range<usize>>> {
        let lengths: Vec<usize> = texts.iter().map(|ids| self.checked(ids.as_ref())).collect::<Result<_>>()?;
        Ok(plan(&lengths, self.budget).collect())
    }

    fn pool_into<T: AsRef<[u32]> + Sync>(
        &self,
        texts: &[T],
        out: &mut [f32],
        pause: &(dyn Fn(&Pause<'_>) + Sync),
    ) -> Result<()> {
        let dim = self.config.hidden;
        if out.len() != texts.len() * dim {
            return Err(Error::Dimensions { left: out.len(), right: texts.len() * dim });
        }
        for texts_in_batch in self.batches(texts)? {
            let out = &mut out[texts_in_batch.start * dim..texts_in_batch.end * dim];
            // Taken before entering the pool: a thread of the pool that waited here could not work for the one that has it.
            let mut batch = self.forward.batch.lock().unwrap_or_else(PoisonError::into_inner);
            batch.clear();
            for ids in &texts[texts_in_batch] {
                batch.push(ids.as_ref())?;
            }
            self.threads.run(|| self.pass(&batch, out, pause))?;
        }
        Ok(())
    }

    /// One forward pass, on a thread of the pool.
    fn pass(&self, batch: &PackedBatch, out: &mut [f32], pause: &dyn Fn(&Pause<'_>)) -> Result<()> {
        let layers = Cell::new(0);
        self.forward.pass.pooled(batch, out, &|| {
            layers.set(layers.get() + 1);
            pause(&Pause { embedder: self, layers: layers.get() });
        })
    }

    /// Pooled vectors, row after row, scaled to unit length: the second half of [`embed_tokens`](Self::embed_tokens).
    ///
    /// # Errors
    /// [`Error::Dimensions`] if `pooled` is no whole number of rows.
    pub fn normalize(&self, mut pooled: Vec<f32>) -> Result<Embeddings> {
        pooled.chunks_exact_mut(self.config.hidden).for_each(self.kernels.normalize);
        Embeddings::from_unit_rows(pooled, self.config.hidden)
    }

    /// The hidden state of every token of `batch` after the last layer, before pooling: (tokens × dim), the texts end to end.
    /// The batch is computed at once, whatever the budget.
    ///
    /// # Errors
    /// As [`embed_tokens`](Self::embed_tokens).
    pub fn hidden_states(&self, batch: &PackedBatch) -> Result<Array2<f32>> {
        for range in batch.ranges() {
            self.checked(&batch.ids()[range])?;
        }
        let mut out = Array2::zeros((batch.tokens(), self.dim()));
        if let Some(values) = out.as_slice_mut().filter(|values| !values.is_empty()) {
            let _turn = self.forward.batch.lock().unwrap_or_else(PoisonError::into_inner);
            self.threads.run(|| self.forward.pass.hidden(batch, values))?;
        }
        Ok(out)
    }

    fn checked(&self, ids: &[u32]) -> Result<usize> {
        let max = self.config.max_positions;
        if ids.is_empty() || ids.len() > max {
            return Err(Error::TokenCount { found: ids.len(), max });
        }
        match ids.iter().find(|&&id| id as usize >= self.config.vocab) {
            Some(&id) => Err(Error::TokenId { id, vocab: self.config.vocab }),
            None => Ok(ids.len()),
        }
    }

    /// The vectors of a corpus that need not fit into memory: texts are drawn as they are needed, vectors come in their order,
    /// in pieces of up to 1024 texts.
    pub fn embed_iter<I>(&self, texts: I) -> impl Iterator<Item = Result<Embeddings>> + use<'_, I>
    where
        I: IntoIterator<Item: AsRef<str> + Sync>,
    {
        let mut texts = texts.into_iter();
        std::iter::from_fn(move || {
            let piece: Vec<_> = texts.by_ref().take(1024).collect();
            (!piece.is_empty()).then(|| self.embed(&piece))
        })
    }

    /// The hub id, or the directory's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Values a vector.
    pub fn dim(&self) -> usize {
        self.config.hidden
    }

    /// What the model is.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Where texts are cut, in tokens.
    pub fn max_length(&self) -> usize {
        self.tokenizer.max_length()
    }

    /// Where the time of forward passes went since the model was loaded; of [`Device::Cpu`] alone.
    pub fn profile(&self) -> Profile {
        self.forward.pass.profile()
    }

    /// Multiply-adds a second that one thread of this CPU makes at most with the instructions that the linear layers are computed with:
    /// measured in registers alone, in some tenths of a second. None where there is no probe.
    pub fn peak(&self) -> Option<f64> {
        self.kernels.peak(match self.precision {
            Precision::Bf16 => Some(Format::Bf16),
            Precision::Int8 => Some(Format::Int8),
            _ => None,
        })
    }

    /// The type of the matrix products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The instruction set of the kernels.
    pub fn isa(&self) -> Isa {
        self.kernels.isa
    }

    /// Threads of its pool.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }

    /// Tokens that are computed at once.
    pub fn budget(&self) -> Budget {
        self.budget
    }
}

impl std::fmt::Debug for Embedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Embedder({}, {} dimensions, {}, {}, {} threads)",
            self.name,
            self.config.hidden,
            self.precision,
            self.kernels.isa,
            self.threads.count()
        )
    }
}
