//! The models of this process: how they are loaded, and which of them a request gets.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use gte_core::{Builder, Embedder, Engine, HubOptions, MaxBatchTokens, ModelFiles, ModelTask, Reranker, Threads};

use crate::config::{Config, ModelSettings};
use crate::error::Error;
use crate::metrics::{Metrics, ModelInfo, ModelMetrics, note_model};

/// A loaded model.
pub(crate) struct Model {
    /// The model's index, by which the scheduler knows it.
    pub(crate) number: usize,
    /// The model's name in requests.
    pub(crate) name: String,
    loaded_model: LoadedModel,
    /// The model's metrics.
    pub(crate) metrics: ModelMetrics,
    /// Advice to users of the model.
    pub(crate) note: Option<&'static str>,
    /// How many texts of ordinary length a request may have, as `/info` reports.
    pub(crate) promised_texts: OnceLock<usize>,
}

/// A model by what it does.
enum LoadedModel {
    Embedder(Box<Embedder>),
    Reranker(Box<Reranker>),
}

impl Model {
    /// Loads a model that will compute on `threads`. It is loaded on the threads `loading`, if they
    /// are given.
    ///
    /// # Errors
    /// One line that says what is wrong.
    pub(crate) fn load(
        number: usize,
        settings: &ModelSettings,
        config: &Config,
        metrics: &Metrics,
        threads: &Threads,
        loading: Option<&Threads>,
    ) -> Result<Self, String> {
        let start = Instant::now();
        let loaded_model = open(settings, config, threads, loading).map_err(|e| e.to_string())?;
        let engine = loaded_model.engine();
        let name = settings.name.clone().unwrap_or_else(|| engine.name().to_owned());
        let metrics = metrics.of_model(ModelInfo {
            model: name.clone(),
            name: engine.name().to_owned(),
            task: engine.config().task.name().to_owned(),
            dimensions: loaded_model.dimensions(),
            precision: engine.precision().to_string(),
            isa: engine.isa().to_string(),
            device: engine.device().to_string(),
        });
        metrics.model_load.set(start.elapsed().as_secs_f64());
        Ok(Self { number, name, loaded_model, metrics, note: settings.note(), promised_texts: OnceLock::new() })
    }

    /// The loaded model.
    pub(crate) fn engine(&self) -> &Engine {
        self.loaded_model.engine()
    }

    /// The model's id on a hub, or its directory's name.
    pub(crate) fn id(&self) -> &str {
        self.engine().name()
    }

    /// Number of values per vector, or number of labels of a reranker or classifier.
    pub(crate) fn dimensions(&self) -> usize {
        self.loaded_model.dimensions()
    }

    /// The model's task.
    pub(crate) fn task(&self) -> ModelTask {
        self.engine().config().task
    }

    /// Maximum number of tokens computed together.
    pub(crate) fn max_batch_tokens(&self) -> usize {
        self.engine().max_batch_tokens().tokens()
    }

    /// The model as an embedder.
    ///
    /// # Errors
    /// [`Error::Task`] if it is not one.
    pub(crate) fn embedder(&self) -> Result<&Embedder, Error> {
        match &self.loaded_model {
            LoadedModel::Embedder(embedder) => Ok(embedder),
            LoadedModel::Reranker(_) => Err(self.not("make vectors")),
        }
    }

    /// The model as a reranker or classifier.
    ///
    /// # Errors
    /// [`Error::Task`] if it is not one.
    pub(crate) fn reranker(&self) -> Result<&Reranker, Error> {
        match &self.loaded_model {
            LoadedModel::Reranker(reranker) => Ok(reranker),
            LoadedModel::Embedder(_) => Err(self.not("rerank")),
        }
    }

    /// An error that says that the model cannot do something.
    pub(crate) fn not(&self, what: &'static str) -> Error {
        Error::Task { model: self.name.clone(), is: self.task().name(), not: what }
    }
}

impl LoadedModel {
    fn engine(&self) -> &Engine {
        match self {
            Self::Embedder(embedder) => embedder.engine(),
            Self::Reranker(reranker) => reranker.engine(),
        }
    }

    fn dimensions(&self) -> usize {
        match self {
            Self::Embedder(embedder) => embedder.dim(),
            Self::Reranker(reranker) => reranker.labels(),
        }
    }
}

/// Opens a model for the task that its files describe.
fn open(
    settings: &ModelSettings,
    config: &Config,
    threads: &Threads,
    loading: Option<&Threads>,
) -> gte_core::Result<LoadedModel> {
    let files = ModelFiles::open(&settings.id, &hub(settings, config)?)?;
    match ModelTask::of(&files, settings.pooling)? {
        ModelTask::Embed => {
            let builder = with_settings(Embedder::from_files(files), settings, config, threads, loading)?;
            builder.build().map(Box::new).map(LoadedModel::Embedder)
        }
        _ => {
            if let Some(pooling) = settings.pooling {
                return Err(gte_core::Error::InvalidOption {
                    option: "pooling",
                    value: pooling.name().to_owned(),
                    expected: format!(
                        "no pooling: {} is a reranker or classifier, whose files determine its pooling",
                        files.name()
                    ),
                });
            }
            let builder = with_settings(Reranker::from_files(files), settings, config, threads, loading)?;
            builder.build().map(Box::new).map(LoadedModel::Reranker)
        }
    }
}

/// Tokens that the CPU computes at once, where none are given: one part for each thread, and at
/// least 256. A query waits for a batch, which should not take longer on more threads.
fn cpu_max_batch_tokens(threads: &Threads) -> usize {
    (128 * threads.count()).max(256)
}

/// How files of a model are requested from its hub.
pub(crate) fn hub(settings: &ModelSettings, config: &Config) -> gte_core::Result<HubOptions> {
    let mut options = HubOptions::from_env()?;
    options.revision = settings.revision.clone().or(options.revision);
    options.offline |= config.offline;
    Ok(options)
}

fn with_settings<D: gte_core::Door>(
    mut builder: Builder<D>,
    settings: &ModelSettings,
    config: &Config,
    threads: &Threads,
    loading: Option<&Threads>,
) -> gte_core::Result<Builder<D>> {
    builder =
        builder.device(config.device).precision(settings.precision.unwrap_or(config.precision)).share_threads(threads);
    builder = match config.max_batch_tokens {
        Some(tokens) => builder.max_batch_tokens(MaxBatchTokens::new(tokens)?),
        None => builder.cpu_max_batch_tokens(MaxBatchTokens::new(cpu_max_batch_tokens(threads))?),
    };
    if let Some(loading) = loading {
        builder = builder.load_on(loading);
    }
    if let Some(tokens) = settings.max_length {
        builder = builder.max_length(tokens);
    }
    if let Some(pooling) = settings.pooling {
        builder = builder.pooling(pooling);
    }
    if let Some(causal) = settings.causal {
        builder = builder.causal(causal);
    }
    Ok(builder)
}

/// The name that infinity's client sends if its caller names no model.
const UNNAMED: &str = "default/not-specified";

/// The models by name. Some may still be loading.
pub(crate) struct Registry {
    slots: Vec<Slot>,
}

struct Slot {
    settings: ModelSettings,
    model: OnceLock<Arc<Model>>,
}

impl Slot {
    /// The model's name, as far as it is known.
    fn name(&self) -> &str {
        self.model.get().map_or_else(|| self.settings.label(), |model| &model.name)
    }

    /// Whether a request may use `name` for this model.
    fn is(&self, name: &str) -> bool {
        self.name() == name || self.settings.id == name || self.model.get().is_some_and(|model| model.id() == name)
    }
}

/// The ability that a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Vectors.
    Vectors,
    /// Weights of tokens.
    Sparse,
    /// A vector per token.
    ColBert,
    /// Scores of documents.
    Ranking,
    /// Labels.
    Labels,
    /// Scores, of a reranker or by the cosine of vectors.
    Scores,
    /// No particular ability.
    Anything,
}

impl Need {
    fn is_met_by(self, model: &Model) -> bool {
        let (task, outputs) = (model.task(), model.engine().outputs());
        match self {
            Self::Vectors => task == ModelTask::Embed,
            Self::Sparse => outputs.sparse,
            Self::ColBert => outputs.colbert,
            Self::Ranking => matches!(task, ModelTask::Classify { labels: 1 } | ModelTask::YesNo),
            Self::Labels => task != ModelTask::Embed,
            Self::Scores => !matches!(task, ModelTask::Classify { labels: 2.. }),
            Self::Anything => true,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Vectors => "make vectors",
            Self::Sparse => "make sparse vectors",
            Self::ColBert => "make a vector per token",
            Self::Ranking => "rerank",
            Self::Labels => "classify",
            Self::Scores | Self::Anything => "score pairs of texts",
        }
    }
}

impl Registry {
    /// Reserves slots for models, which are loaded in this order.
    pub(crate) fn new(settings: Vec<ModelSettings>) -> Self {
        let slots = settings.into_iter().map(|settings| Slot { settings, model: OnceLock::new() });
        Self { slots: slots.collect() }
    }

    /// The settings of the models, in order.
    pub(crate) fn settings(&self) -> impl Iterator<Item = &ModelSettings> {
        self.slots.iter().map(|slot| &slot.settings)
    }

    /// Stores a loaded model in its slot.
    ///
    /// # Errors
    /// One line, if another model has the same name.
    pub(crate) fn insert(&self, model: Arc<Model>) -> Result<(), String> {
        let number = model.number;
        if self.loaded().any(|other| other.name == model.name) {
            return Err(format!(
                "two models have the name {0}: give one of them another name, with --model NAME={0}",
                model.name
            ));
        }
        let _ = self.slots[number].model.set(model);
        Ok(())
    }

    /// The loaded models.
    pub(crate) fn loaded(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.slots.iter().filter_map(|slot| slot.model.get())
    }

    /// The names of all models.
    pub(crate) fn names(&self) -> Vec<String> {
        self.slots.iter().map(|slot| slot.name().to_owned()).collect()
    }

    /// The names of the models that are still loading.
    pub(crate) fn loading(&self) -> Vec<&str> {
        self.slots.iter().filter(|slot| slot.model.get().is_none()).map(Slot::name).collect()
    }

    /// The loaded model with this name or id.
    ///
    /// # Errors
    /// [`Error::NotFound`] with the names of all models; [`Error::Loading`].
    pub(crate) fn named(&self, name: &str) -> Result<&Arc<Model>, Error> {
        match self.slots.iter().find(|slot| slot.is(name)) {
            None => Err(self.no_such(name)),
            Some(slot) => slot.model.get().ok_or_else(|| Error::Loading(slot.name().to_owned())),
        }
    }

    fn no_such(&self, name: &str) -> Error {
        let names: Vec<&str> = self.slots.iter().map(Slot::name).collect();
        Error::NotFound(format!("no such model: {name}; this server has {}", names.join(", ")))
    }

    /// The model for a request: the one with the given name or id. If the request names none, or if
    /// there is only one model, it is the first that has the required ability.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no model has the name, [`Error::Loading`], [`Error::Task`] if the
    /// model lacks the ability.
    pub(crate) fn pick(&self, name: Option<&str>, need: Need) -> Result<&Arc<Model>, Error> {
        let named = name.filter(|&name| !name.is_empty() && name != UNNAMED && self.slots.len() > 1);
        let candidates: Vec<&Slot> = match named {
            None => self.slots.iter().collect(),
            Some(name) => self.slots.iter().filter(|slot| slot.is(name)).take(1).collect(),
        };
        if candidates.is_empty() {
            return Err(self.no_such(named.unwrap_or_default()));
        }
        let mut loaded = candidates.iter().filter_map(|slot| slot.model.get());
        if let Some(model) = loaded.clone().find(|model| need.is_met_by(model)) {
            note_model(&model.name);
            return Ok(model);
        }
        match candidates.iter().find(|slot| slot.model.get().is_none()) {
            Some(slot) => Err(Error::Loading(slot.name().to_owned())),
            None => Err(loaded.next().map_or(Error::Unavailable("without a model"), |model| model.not(need.name()))),
        }
    }
}
