//! The models of this process: how they are loaded, and which of them a request means.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use gte_core::{Budget, Builder, Embedder, Engine, HubOptions, ModelFiles, ModelTask, Reranker, Threads};

use crate::config::{Config, ModelSettings};
use crate::error::Error;
use crate::metrics::{Metrics, ModelInfo, ModelMetrics, note_model};

/// A model that is loaded.
pub(crate) struct Model {
    /// By which the scheduler knows it: its place among the models.
    pub(crate) number: usize,
    /// Its name in requests.
    pub(crate) name: String,
    door: Door,
    /// Its numbers.
    pub(crate) metrics: ModelMetrics,
    /// What whoever uses it should know.
    pub(crate) note: Option<&'static str>,
    /// Texts of ordinary length that a request may have: what `/info` promises.
    pub(crate) promised_texts: OnceLock<usize>,
}

/// What it is used by.
enum Door {
    Embedder(Box<Embedder>),
    Reranker(Box<Reranker>),
}

impl Model {
    /// Loads a model, to compute on `threads`; `loading` is where it is loaded, if that is elsewhere.
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
        let door = open(settings, config, threads, loading).map_err(|e| e.to_string())?;
        let engine = door.engine();
        let name = settings.name.clone().unwrap_or_else(|| engine.name().to_owned());
        let metrics = metrics.of_model(ModelInfo {
            model: name.clone(),
            name: engine.name().to_owned(),
            task: engine.config().task.name().to_owned(),
            dimensions: door.dimensions(),
            precision: engine.precision().to_string(),
            isa: engine.isa().to_string(),
        });
        metrics.model_load.set(start.elapsed().as_secs_f64());
        Ok(Self { number, name, door, metrics, note: settings.note(), promised_texts: OnceLock::new() })
    }

    /// The loaded model.
    pub(crate) fn engine(&self) -> &Engine {
        self.door.engine()
    }

    /// The hub id, or the directory's name.
    pub(crate) fn id(&self) -> &str {
        self.engine().name()
    }

    /// Values per vector; labels of a reranker or classifier.
    pub(crate) fn dimensions(&self) -> usize {
        self.door.dimensions()
    }

    /// What it makes of texts.
    pub(crate) fn task(&self) -> ModelTask {
        self.engine().config().task
    }

    /// Tokens that are computed at once.
    pub(crate) fn budget(&self) -> usize {
        self.engine().budget().tokens()
    }

    /// The model as an embedder.
    ///
    /// # Errors
    /// [`Error::Task`] for another one.
    pub(crate) fn embedder(&self) -> Result<&Embedder, Error> {
        match &self.door {
            Door::Embedder(embedder) => Ok(embedder),
            Door::Reranker(_) => Err(self.not("make vectors")),
        }
    }

    /// The model as a reranker or classifier.
    ///
    /// # Errors
    /// [`Error::Task`] for another one.
    pub(crate) fn reranker(&self) -> Result<&Reranker, Error> {
        match &self.door {
            Door::Reranker(reranker) => Ok(reranker),
            Door::Embedder(_) => Err(self.not("rerank")),
        }
    }

    /// That it does not do something.
    pub(crate) fn not(&self, what: &'static str) -> Error {
        Error::Task { model: self.name.clone(), is: self.task().name(), not: what }
    }
}

impl Door {
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

/// Opens a model by the door that its files ask for.
fn open(
    settings: &ModelSettings,
    config: &Config,
    threads: &Threads,
    loading: Option<&Threads>,
) -> gte_core::Result<Door> {
    let files = ModelFiles::open(&settings.id, &hub(settings, config)?)?;
    match ModelTask::of(&files, settings.pooling)? {
        ModelTask::Embed => {
            let builder = with_settings(Embedder::from_files(files), settings, config, threads, loading)?;
            builder.build().map(Box::new).map(Door::Embedder)
        }
        _ => {
            if let Some(pooling) = settings.pooling {
                return Err(gte_core::Error::InvalidOption {
                    option: "pooling",
                    value: pooling.name().to_owned(),
                    expected: format!(
                        "none: {} is a reranker or classifier, which pools as its files say",
                        files.name()
                    ),
                });
            }
            let builder = with_settings(Reranker::from_files(files), settings, config, threads, loading)?;
            builder.build().map(Box::new).map(Door::Reranker)
        }
    }
}

/// How the hub of a model is asked.
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
    builder = builder
        .device(config.device)
        .precision(settings.precision.unwrap_or(config.precision))
        .share_threads(threads)
        .budget(Budget::new(config.batch_tokens)?);
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

/// What infinity's client sends where its caller names no model.
const UNNAMED: &str = "default/not-specified";

/// The models by their names; some may still be loading.
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

    /// Whether a request may call it so.
    fn is(&self, name: &str) -> bool {
        self.name() == name || self.settings.id == name || self.model.get().is_some_and(|model| model.id() == name)
    }
}

/// What a request needs of its model.
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
    /// Nothing in particular.
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
    /// Places for models, which are loaded in this order.
    pub(crate) fn new(settings: Vec<ModelSettings>) -> Self {
        let slots = settings.into_iter().map(|settings| Slot { settings, model: OnceLock::new() });
        Self { slots: slots.collect() }
    }

    /// What is to be loaded, in order.
    pub(crate) fn settings(&self) -> impl Iterator<Item = &ModelSettings> {
        self.slots.iter().map(|slot| &slot.settings)
    }

    /// Gives a loaded model its place.
    ///
    /// # Errors
    /// One line, where another one has its name.
    pub(crate) fn insert(&self, model: Arc<Model>) -> Result<(), String> {
        let number = model.number;
        if self.loaded().any(|other| other.name == model.name) {
            return Err(format!("two models have the name {0}: name one of them, --model NAME={0}", model.name));
        }
        let _ = self.slots[number].model.set(model);
        Ok(())
    }

    /// The models that are loaded.
    pub(crate) fn loaded(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.slots.iter().filter_map(|slot| slot.model.get())
    }

    /// The names of all models.
    pub(crate) fn names(&self) -> Vec<String> {
        self.slots.iter().map(|slot| slot.name().to_owned()).collect()
    }

    /// The names of models that are still loading.
    pub(crate) fn loading(&self) -> Vec<&str> {
        self.slots.iter().filter(|slot| slot.model.get().is_none()).map(Slot::name).collect()
    }

    /// The loaded model of a name, or id.
    ///
    /// # Errors
    /// [`Error::NotFound`], with the names that there are; [`Error::Loading`].
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

    /// The model that a request means: by its name or id; where it names none, or where there is one model alone, the
    /// first that can do it.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a name that no model has, [`Error::Loading`], [`Error::Task`] for a model that cannot.
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
