//! `Builder`: the settings for opening a model of any kind, and how a model is loaded with them.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use crate::backend::cpu::Cpu;
use crate::batch::MaxBatchTokens;
use crate::calibration::calibrate;
use crate::config::{ModelConfig, ModelTask, Wishes};
use crate::dense::{Dense, Residual};
use crate::device::{Device, Precision, kernels, not_on, resolve};
use crate::engine::{Engine, Forward, HeadSizes, Pass, Turns};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::files::{DownloadProgress, HubOptions, ModelFiles};
use crate::heads::{HeadLayers, PooledLayer};
use crate::kernels::{Isa, Kernels, NumberFormat};
use crate::models::{HeadActivation, Pooling, Task};
use crate::modules::{Activation, DenseSettings};
use crate::threads::Threads;
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;

/// Settings for opening a model as a `D`: [`Embedder`](crate::Embedder),
/// [`Reranker`](crate::Reranker) or [`SparseEmbedder`](crate::SparseEmbedder). Every setting has a
/// sensible default.
///
/// ```
/// use gte_core::{Builder, Embedder, ModelFiles, Precision};
///
/// // By name it is Builder::new("thenlper/gte-large-zh"), or Embedder::builder("…").
/// let embedder: Embedder = Builder::from_files(ModelFiles::bundled())
///     .precision(Precision::F32)
///     .threads(2)
///     .max_length(128)
///     .build()?;
/// assert_eq!((embedder.max_length(), embedder.threads()), (128, 2));
/// # Ok::<(), gte_core::Error>(())
/// ```
#[must_use = "a builder does nothing until `build`"]
pub struct Builder<D> {
    model: Model,
    hub: Result<HubOptions>,
    device: Device,
    precision: Precision,
    threads: Option<usize>,
    shared_threads: Option<Threads>,
    loading: Option<Threads>,
    isa: Option<Isa>,
    max_batch_tokens: Option<MaxBatchTokens>,
    cpu_max_batch_tokens: Option<MaxBatchTokens>,
    wishes: Wishes,
    door: PhantomData<fn() -> D>,
}

impl<D> std::fmt::Debug for Builder<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let model = match &self.model {
            Model::Named(name) => name,
            Model::Files(files) => files.name(),
        };
        f.debug_struct("Builder")
            .field("model", &model)
            .field("device", &self.device)
            .field("precision", &self.precision)
            .finish_non_exhaustive()
    }
}

enum Model {
    Named(String),
    Files(ModelFiles),
}

/// What a [`Builder`] can build.
pub trait Door: Sized + sealed::Open {}

pub(crate) mod sealed {
    use crate::engine::Engine;
    use crate::error::Result;

    pub trait Open: Sized {
        /// Whether the caller wants scores.
        const SCORES: bool;
        /// Wraps a loaded model.
        fn open(engine: Engine) -> Result<Self>;
    }
}

impl<D: Door> Builder<D> {
    /// A model by its directory or hub id.
    pub fn new(model: impl Into<String>) -> Self {
        Self::of(Model::Named(model.into()))
    }

    /// A model whose files are already open.
    pub fn from_files(files: ModelFiles) -> Self {
        Self::of(Model::Files(files))
    }

    fn of(model: Model) -> Self {
        Self {
            model,
            hub: HubOptions::from_env(),
            device: Device::default(),
            precision: Precision::default(),
            threads: None,
            shared_threads: None,
            loading: None,
            isa: None,
            max_batch_tokens: None,
            cpu_max_batch_tokens: None,
            wishes: Wishes { scores: D::SCORES, ..Wishes::default() },
            door: PhantomData,
        }
    }

    /// Where the forward pass runs. Default: [`Device::Cpu`].
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// The number type of matrix multiplications. Default: [`Precision::Auto`].
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Number of threads in the model's pool. Default: `GTE_THREADS`, or else as many as the CPU
    /// affinity and the cgroup of the process allow. If there are as many threads as CPUs on which
    /// the process may run, each thread is pinned to one of them (Linux).
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// A pool that other models compute on too, instead of a pool of its own, so that several
    /// models in one process have no more threads than there are CPUs.
    pub fn share_threads(mut self, threads: &Threads) -> Self {
        self.shared_threads = Some(threads.clone());
        self
    }

    /// The threads on which the model is loaded. Default: the pool on which it computes.
    /// [`Threads::background`] leaves the CPUs to models that are already in use.
    pub fn load_on(mut self, threads: &Threads) -> Self {
        self.loading = Some(threads.clone());
        self
    }

    /// The instruction set of the kernels. Default: `GTE_ISA`, or else the best that the CPU has.
    pub fn isa(mut self, isa: Isa) -> Self {
        self.isa = Some(isa);
        self
    }

    /// Length in tokens at which texts are truncated, including special tokens, up to the model's
    /// positions. Default: as in the model's files.
    pub fn max_length(mut self, tokens: usize) -> Self {
        self.wishes.max_length = Some(tokens);
        self
    }

    /// Maximum number of tokens computed together, which limits the memory for activations.
    /// Default: [`MaxBatchTokens::for_threads`]; on a GPU what is found to be fast when the model
    /// is loaded.
    pub fn max_batch_tokens(mut self, max_batch_tokens: MaxBatchTokens) -> Self {
        self.max_batch_tokens = Some(max_batch_tokens);
        self
    }

    /// The same for a model on the CPU, used if [`max_batch_tokens`](Self::max_batch_tokens) is not
    /// given.
    pub fn cpu_max_batch_tokens(mut self, max_batch_tokens: MaxBatchTokens) -> Self {
        self.cpu_max_batch_tokens = Some(max_batch_tokens);
        self
    }

    /// Overrides the pooling of an embedder, which its files or its name determine.
    pub fn pooling(mut self, pooling: Pooling) -> Self {
        self.wishes.pooling = Some(pooling);
        self
    }

    /// Whether a token of a decoder only attends to the tokens before it. Default: as in the
    /// model's files. For Qwen2 models, either the files or this setting must say so.
    pub fn causal(mut self, causal: bool) -> Self {
        self.wishes.causal = Some(causal);
        self
    }

    /// All settings of hubs and caches. Default: [`HubOptions::from_env`].
    pub fn hub(mut self, options: HubOptions) -> Self {
        self.hub = Ok(options);
        self
    }

    /// The commit, branch or tag on the hub. Default: the main branch.
    pub fn revision(mut self, revision: impl Into<String>) -> Self {
        self.hub = self.hub.map(|hub| HubOptions { revision: Some(revision.into()), ..hub });
        self
    }

    /// Whether to work without contacting a hub. Default: `HF_HUB_OFFLINE`.
    pub fn offline(mut self, offline: bool) -> Self {
        self.hub = self.hub.map(|hub| HubOptions { offline, ..hub });
        self
    }

    /// Called during downloads.
    pub fn progress(mut self, progress: impl Fn(DownloadProgress<'_>) + Send + Sync + 'static) -> Self {
        self.hub = self.hub.map(|hub| HubOptions { progress: Some(Arc::new(progress)), ..hub });
        self
    }

    /// Downloads missing files, loads the weights, and packs them for the device.
    ///
    /// # Errors
    /// Anything that is wrong with the options, the model's files or the device;
    /// [`Error::WrongTask`] if the model cannot be opened as a `D`.
    pub fn build(self) -> Result<D> {
        D::open(self.engine()?)
    }

    fn engine(self) -> Result<Engine> {
        self.device.check_built()?;
        let threads = self.shared_threads.map_or_else(|| Threads::new(self.threads), Ok)?;
        let kernels = kernels(self.isa, &Env::process())?;
        let files = match self.model {
            Model::Named(name) => ModelFiles::open(&name, &self.hub?)?,
            Model::Files(files) => files,
        };
        let config = ModelConfig::read_as(&files, &self.wishes)?;
        if D::SCORES == (config.task == ModelTask::Embed) {
            return Err(Error::WrongTask { model: files.name().to_owned(), found: config.task.name() });
        }
        let placed = Placed::new(self.device, self.precision, &config, kernels)?;
        let (device, precision) = (placed.device, placed.precision);
        let read = || Tokenizer::read(&files, &config);
        let open = || Weights::open(&files, &config);
        let load = |weights: &Weights| placed.load(weights, &config, kernels, threads.count());
        let loading = self.loading.as_ref().unwrap_or(&threads);
        let (tokenizer, weights, mut pass) = loading.run(|| -> Result<_> {
            if precision == Precision::Int8 && device == Device::Cpu {
                let (tokenizer, mut weights) = (read()?, open()?);
                calibrate(&mut weights, &config.architecture, &tokenizer, kernels)?;
                let pass = load(&weights)?;
                return Ok((tokenizer, weights, pass));
            }
            // Loading a small model's tokenizer takes as long as loading its weights.
            let (tokenizer, loaded) = rayon::join(read, || {
                let weights = open()?;
                let pass = load(&weights)?;
                Ok::<_, Error>((weights, pass))
            });
            let (weights, pass) = loaded?;
            Ok((tokenizer?, weights, pass))
        })?;
        let layers = head_layers(&files, &config, &weights, &tokenizer)?;
        let heads = HeadSizes {
            pooled: layers.width(config.hidden),
            sparse: layers.sparse.as_ref().map(|_| tokenizer.unused_in_sparse().to_vec()),
            colbert: layers.colbert.as_ref().map(Dense::outputs),
        };
        pass.load_heads(&weights, &config.architecture, layers)?;
        tracing::info!(
            model = files.name(), task = config.task.name(), dim = config.dim, layers = config.layers,
            pooling = %config.pooling, pooling_from = config.pooling_source, %device, %precision, isa = %kernels.isa, threads = threads.count(),
            max_length = config.max_length, "model loaded"
        );
        let turns = if matches!(device, Device::Cuda(_)) { 2 } else { 1 };
        let max_batch_tokens = self.max_batch_tokens.or(self.cpu_max_batch_tokens);
        let max_batch_tokens = max_batch_tokens.unwrap_or_else(|| MaxBatchTokens::for_threads(threads.count()));
        let engine = Engine {
            name: files.name().to_owned(),
            files,
            config,
            tokenizer,
            heads,
            threads,
            max_batch_tokens: Mutex::new(max_batch_tokens),
            kernels,
            device,
            precision,
            forward: Turns::new(pass, turns),
        };
        if turns > 1 && self.max_batch_tokens.is_none() {
            let found = engine.find_max_batch_tokens()?;
            return Ok(Engine { max_batch_tokens: Mutex::new(found), ..engine });
        }
        Ok(engine)
    }
}

/// The layers after the encoder, according to the model's files.
fn head_layers(
    files: &ModelFiles,
    config: &ModelConfig,
    weights: &Weights,
    tokenizer: &Tokenizer,
) -> Result<HeadLayers> {
    match (config.task, config.architecture.task) {
        (ModelTask::Classify { .. }, Task::Classify(spec)) => HeadLayers::classifier(weights, &spec),
        (ModelTask::YesNo, Task::Language { tied }) => {
            let (yes, no) = yes_and_no(files, config, tokenizer)?;
            HeadLayers::yes_no(weights, tied, yes, no)
        }
        (ModelTask::Embed, task) => {
            let mut heads = HeadLayers::default();
            let own = files.within(&config.transformer)?;
            let relu = |weights: &Weights, name| Dense::load(weights, name, true, HeadActivation::Relu);
            if task == (Task::Embed { sparse: true }) {
                heads.sparse = Some(relu(weights, weights.spelling().head_out)?);
            }
            if let Some(head) = head_of(&own, "sparse_linear.pt", 1, weights)? {
                heads.sparse = Some(relu(&head, "head")?);
            }
            if let Some(head) = head_of(&own, "colbert_linear.pt", config.hidden, weights)? {
                let head = Dense::load(&head, "head", true, HeadActivation::Identity)?;
                heads.colbert = Some(head.into_unit());
            }
            for dense in &config.dense {
                heads.pooled.push(PooledLayer::Dense(dense_of(files, dense, weights)?));
            }
            Ok(heads)
        }
        _ => Ok(HeadLayers::default()),
    }
}

/// The token ids of a language model's yes and no: those of its LogitScore, or else those in its
/// vocabulary.
fn yes_and_no(files: &ModelFiles, config: &ModelConfig, tokenizer: &Tokenizer) -> Result<(u32, Option<u32>)> {
    let (yes, no) = match config.logit_score {
        Some(score) => (score.true_id, score.false_id),
        None => {
            let id = |token: &str| {
                tokenizer.id_of(token).ok_or_else(|| {
                    let reason = format!("the vocabulary has no `{token}`, whose logit is the score");
                    Error::invalid(files.label("tokenizer.json"), reason)
                })
            };
            (id("yes")?, Some(id("no")?))
        }
    };
    match [Some(yes), no].into_iter().flatten().find(|&id| id as usize >= config.vocab) {
        Some(id) => Err(Error::TokenId { id, vocab: config.vocab }),
        None => Ok((yes, no)),
    }
}

/// The linear layer in one of bge-m3's small files, under the name `head`; `None` if there is no
/// such file.
fn head_of(own: &ModelFiles, file: &str, outputs: usize, weights: &Weights) -> Result<Option<Weights>> {
    if own.open_data(file)?.is_none() {
        return Ok(None);
    }
    let inputs = weights.width();
    let table = [("head.weight".to_owned(), vec![outputs, inputs]), ("head.bias".to_owned(), vec![outputs])];
    Weights::open_small(own, &[file], &table, "head.", weights.spelling(), "it existed a moment ago").map(Some)
}

/// Loads a Dense module of sentence-transformers.
fn dense_of(files: &ModelFiles, settings: &DenseSettings, weights: &Weights) -> Result<Dense> {
    let shape = vec![settings.outputs, settings.inputs];
    let mut table = vec![("linear.weight".to_owned(), shape.clone())];
    if settings.bias {
        table.push(("linear.bias".to_owned(), vec![settings.outputs]));
    }
    let projected = settings.residual && settings.inputs != settings.outputs;
    if projected {
        table.push(("residual.weight".to_owned(), shape));
    }
    let candidates = ["model.safetensors", "pytorch_model.bin"];
    let hint = "modules.json names a Dense, and this file contains its weights";
    let own = Weights::open_small(&files.within(&settings.folder)?, &candidates, &table, "", weights.spelling(), hint)?;
    let activation = match settings.activation {
        Activation::Identity => HeadActivation::Identity,
        Activation::Tanh => HeadActivation::Tanh,
        Activation::Relu => HeadActivation::Relu,
        Activation::Gelu => HeadActivation::Gelu,
        Activation::Silu => HeadActivation::Silu,
        Activation::Sigmoid => HeadActivation::Sigmoid,
    };
    Ok(Dense::load(&own, "linear", settings.bias, activation)?.with(match (settings.residual, projected) {
        (false, _) => Residual::Nothing,
        (true, false) => Residual::Input,
        (true, true) => Residual::Projected(own.read("residual.weight")?.into_f32()),
    }))
}

/// Where a model is computed, and in what.
struct Placed {
    device: Device,
    precision: Precision,
    #[cfg(feature = "cuda")]
    gpu: Mutex<Option<crate::backend::cuda::Cuda>>,
}

impl Placed {
    /// # Errors
    /// What stands against `device` or `precision`. `Device::Auto` is the CPU where something does.
    fn new(device: Device, precision: Precision, config: &ModelConfig, kernels: &Kernels) -> Result<Self> {
        #[cfg(feature = "cuda")]
        {
            use crate::backend::cuda::{Cuda, is_here};
            let number = match device {
                Device::Cuda(number) => Some(number),
                Device::Auto if precision != Precision::Int8 && is_here() => Some(0),
                _ => None,
            };
            let gpu = number.map(|number| Cuda::new(number, precision, &config.architecture));
            match (gpu, device) {
                (Some(Err(error)), Device::Auto) => {
                    tracing::warn!(%error, "there is a GPU, but the model is computed on the CPU");
                }
                (Some(gpu), _) => {
                    let (gpu, precision) = gpu?;
                    let device = Device::Cuda(number.unwrap_or(0));
                    return Ok(Self { device, precision, gpu: Mutex::new(Some(gpu)) });
                }
                (None, _) => {}
            }
        }
        let _ = config;
        let device = if device == Device::Auto { Device::Cpu } else { device };
        Ok(Self {
            device,
            precision: resolve(precision, device, kernels),
            #[cfg(feature = "cuda")]
            gpu: Mutex::default(),
        })
    }

    fn load(
        &self,
        weights: &Weights,
        config: &ModelConfig,
        kernels: &'static Kernels,
        threads: usize,
    ) -> Result<Box<dyn Forward>> {
        let architecture = &config.architecture;
        match self.device {
            Device::Auto | Device::Cpu => {
                Pass::load(Cpu::new(kernels, format(self.precision)?, threads), weights, architecture)
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => {
                let gpu = self.gpu.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
                Pass::load(gpu.ok_or_else(|| self.device.not_built())?, weights, architecture)
            }
            #[cfg(feature = "candle")]
            device => Pass::load(candle_device(device, self.precision)?, weights, architecture),
            #[cfg(not(feature = "candle"))]
            device => Err(device.not_built()),
        }
    }
}

/// The number format of linear layers on the CPU.
fn format(precision: Precision) -> Result<Option<NumberFormat>> {
    match precision {
        Precision::Bf16 => Ok(Some(NumberFormat::Bf16)),
        Precision::Int8 => Ok(Some(NumberFormat::Int8)),
        Precision::F32 | Precision::Auto => Ok(None),
        Precision::F16 => Err(not_on("f32, bf16, int8 or auto on the CPU", precision)),
        Precision::Fp8 => Err(not_on(
            "f32, bf16, int8 or auto on the CPU: fp8 is for GPUs of compute capability 8.9 or newer",
            precision,
        )),
    }
}

#[cfg(feature = "candle")]
fn candle_device(device: Device, precision: Precision) -> Result<crate::backend::candle::Candle> {
    use candle_core::{DType, Device as Candle};
    let on = match device {
        Device::CandleCpu => Candle::Cpu,
        #[cfg(feature = "metal")]
        Device::Metal(number) => Candle::new_metal(number)?,
        _ => return Err(device.not_built()),
    };
    let dtype = match precision {
        Precision::F32 => DType::F32,
        Precision::F16 => DType::F16,
        Precision::Bf16 => DType::BF16,
        Precision::Fp8 | Precision::Int8 | Precision::Auto => {
            return Err(not_on("f32, f16 or bf16 on this device", precision));
        }
    };
    Ok(crate::backend::candle::Candle::new(on, dtype))
}
