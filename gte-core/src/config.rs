//! `ModelConfig`: what a model is and how its texts are read, according to its own files. Anything
//! that this engine cannot compute is refused here, with the key's name.

use crate::error::{Error, Result};
use crate::files::ModelFiles;
use crate::json::{Json, shown};
use crate::models::{self, Architecture, Choices, Pooling, Task};
use crate::modules::{DenseSettings, LogitScore, Modules, PoolingMode};
use crate::prompts::Prompts;

/// What a model computes from texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelTask {
    /// A vector per text.
    Embed,
    /// Scores of a text or of a pair of texts, one per label. With one label it is a reranker, with
    /// several a classifier.
    Classify {
        /// Scores per text.
        labels: usize,
    },
    /// Whether a language model answers yes or no when asked if a document answers a query: a
    /// reranker.
    YesNo,
}

impl ModelTask {
    /// The task of a model, according to its files. A language model without a pooling in its files
    /// is a reranker, because it cannot compute anything else from texts.
    ///
    /// # Errors
    /// As [`ModelConfig::read`].
    pub fn of(files: &ModelFiles, pooling: Option<Pooling>) -> Result<Self> {
        let read = |scores| ModelConfig::read_as(files, &Wishes { pooling, scores, ..Wishes::default() });
        match read(false) {
            Ok(config) => Ok(config.task),
            Err(refused) => match read(true) {
                Ok(ModelConfig { task: Self::YesNo, .. }) => Ok(Self::YesNo),
                _ => Err(refused),
            },
        }
    }

    /// The usual name for such a model.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embed => "embedder",
            Self::Classify { labels: 1 } | Self::YesNo => "reranker",
            Self::Classify { .. } => "classifier",
        }
    }
}

/// What a model is. Sizes are in values, lengths in tokens.
#[derive(Clone)]
#[non_exhaustive]
pub struct ModelConfig {
    /// `model_type` in `config.json`.
    pub model_type: String,
    /// What it computes from texts.
    pub task: ModelTask,
    /// Width of a hidden state.
    pub hidden: usize,
    /// Number of values per vector.
    pub dim: usize,
    /// Number of transformer layers.
    pub layers: usize,
    /// Number of tokens in the vocabulary.
    pub vocab: usize,
    /// Length of the longest text that can be computed, including special tokens.
    pub max_positions: usize,
    /// Length at which texts are truncated by default, including special tokens.
    pub max_length: usize,
    /// How a text's hidden states become one vector.
    pub pooling: Pooling,
    /// The names of a classifier's labels, in the order of its logits, as far as `id2label` in
    /// `config.json` has them.
    pub labels: Vec<String>,
    /// Where `pooling` was found: a file, `name` for a model known by its name, or `option`.
    pub pooling_source: String,
    /// The texts that the model expects before other texts, by name.
    pub prompts: Prompts,
    /// Whether the model's own files ask for vectors of unit length. An [`Embedder`](crate::Embedder)
    /// gives such in any case, which changes no cosine.
    pub normalizes: bool,
    /// Whether the tokens of a prompt are part of a mean.
    pub(crate) include_prompt: bool,
    /// The layers after pooling.
    pub(crate) dense: Vec<DenseSettings>,
    /// The token ids of a language model's yes and no.
    pub(crate) logit_score: Option<LogitScore>,
    /// Whether texts are formatted by the tokenizer's chat template.
    pub(crate) chat: bool,
    /// Whether a chat template ends with the beginning of an answer.
    pub(crate) generation_prompt: bool,
    /// The folder with the transformer's own files.
    pub(crate) transformer: String,
    /// The folders of all modules.
    pub(crate) module_folders: Vec<String>,
    pub(crate) architecture: Architecture,
}

/// The caller's settings for a model, which override its files.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) pooling: Option<Pooling>,
    pub(crate) causal: Option<bool>,
    pub(crate) max_length: Option<usize>,
    /// Whether the caller wants scores, which decides what a bare language model is used for.
    pub(crate) scores: bool,
}

impl ModelConfig {
    /// Reads `config.json`, `modules.json` and the files it names, `sentence_bert_config.json`,
    /// `tokenizer_config.json` and `config_sentence_transformers.json`. `pooling` overrides their
    /// pooling.
    ///
    /// # Errors
    /// [`Error::MissingFile`] without `config.json`; [`Error::InvalidFile`] for broken JSON and
    /// impossible sizes; [`Error::Unsupported`] for anything that cannot be computed;
    /// [`Error::UnknownPooling`] if neither the files nor the model's name determine the pooling.
    pub fn read(files: &ModelFiles, pooling: Option<Pooling>) -> Result<Self> {
        Self::read_as(files, &Wishes { pooling, ..Wishes::default() })
    }

    pub(crate) fn read_as(files: &ModelFiles, wishes: &Wishes) -> Result<Self> {
        let modules = Modules::read(files, wishes.pooling.is_some())?;
        let transformer = modules.as_ref().map_or_else(String::new, |modules| modules.transformer.clone());
        let own = files.within(&transformer)?;
        let json = Json::read(&own, "config.json")?.ok_or_else(|| Error::MissingFile {
            model: files.place(),
            file: own.inside("config.json"),
            hint: "it contains the sizes of the model",
        })?;
        let architecture = models::read(&json, &Choices { causal: wishes.causal })?;
        let mut config = Self::of(files, &json, architecture, modules.as_ref(), wishes)?;
        config.max_length = max_length(&own, modules.as_ref(), config.max_positions, wishes)?;
        if let Some(modules) = modules {
            config.prompts = Prompts::new(modules.prompts, modules.default_prompt)?;
            config.normalizes = modules.normalize;
            config.include_prompt = modules.pooling.as_ref().is_none_or(|pooling| pooling.include_prompt);
            let first = modules.dense.first().map(|dense| (dense.folder.clone(), dense.inputs));
            if let Some((folder, inputs)) = first.filter(|&(_, inputs)| inputs != config.hidden) {
                return Err(Error::invalid(
                    files.label(&format!("{folder}/config.json")),
                    format_args!("`in_features` is {inputs}, but the hidden states have {} values", config.hidden),
                ));
            }
            config.dim = modules.dense.last().map_or(config.hidden, |dense| dense.outputs);
            config.dim = modules.truncate_dim.map_or(config.dim, |dim| dim.min(config.dim));
            config.dense = modules.dense;
            config.chat = modules.chat;
            config.generation_prompt = modules.generation_prompt || !modules.chat;
            config.module_folders = modules.folders;
        }
        if config.prompts.names().all(|name| config.prompts.get(name) == Some("")) {
            config.prompts = known_prompts(files.name(), config.prompts)?;
        }
        config.transformer = transformer;
        Ok(config)
    }

    /// The task of a model with this `architecture`, according to its modules, or else the class in
    /// `config.json`.
    fn of(
        files: &ModelFiles,
        json: &Json,
        architecture: Architecture,
        modules: Option<&Modules>,
        wishes: &Wishes,
    ) -> Result<Self> {
        let pooling = modules.and_then(|modules| modules.pooling.as_ref());
        let logit_score = modules.and_then(|modules| modules.logit_score);
        let own = |task, pooling| (task, pooling, "config.json".to_owned());
        let (task, pooling, pooling_source) = match (architecture.task, pooling, wishes.pooling) {
            (Task::Language { .. }, _, _) if logit_score.is_some() => own(ModelTask::YesNo, Pooling::LastToken),
            (_, Some(found), None) => (ModelTask::Embed, pooling_of(found.mode), found.source.clone()),
            (Task::Classify(head), None, _) => own(ModelTask::Classify { labels: head.labels }, head.pooling),
            (Task::Language { .. }, None, None) if wishes.scores => own(ModelTask::YesNo, Pooling::LastToken),
            (_, _, Some(pooling)) => (ModelTask::Embed, pooling, "option".to_owned()),
            (task, None, None) => match known_by_name(files.name()) {
                Ok(pooling) => (ModelTask::Embed, pooling, "name".to_owned()),
                Err(unknown) => return Err(undecided(json, task, wishes).unwrap_or(unknown)),
            },
        };
        if modules.is_some_and(|modules| modules.cross_encoder) && task == ModelTask::Embed {
            return Err(Error::Unsupported {
                file: files.label("config_sentence_transformers.json"),
                key: "model_type".into(),
                found: "\"CrossEncoder\"".into(),
                supported: "SentenceTransformer, for an embedder".into(),
            });
        }
        Ok(Self {
            model_type: json.string("model_type")?.unwrap_or_default().to_owned(),
            task,
            hidden: architecture.hidden,
            dim: architecture.hidden,
            layers: architecture.layers.len(),
            vocab: architecture.vocab,
            max_positions: architecture.max_tokens,
            max_length: architecture.max_tokens,
            pooling,
            pooling_source,
            labels: label_names(json),
            prompts: Prompts::default(),
            normalizes: false,
            include_prompt: true,
            dense: Vec::new(),
            logit_score,
            chat: false,
            generation_prompt: true,
            transformer: String::new(),
            module_folders: Vec::new(),
            architecture,
        })
    }
}

/// The values of `id2label`, beginning with its key `0`.
fn label_names(json: &Json) -> Vec<String> {
    let Some(names) = json.get("id2label").and_then(|value| value.as_object()) else { return Vec::new() };
    let name = |i: usize| names.get(&i.to_string()).and_then(|name| name.as_str()).map(str::to_owned);
    (0..).map_while(name).collect()
}

impl std::fmt::Debug for ModelConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelConfig")
            .field("model_type", &self.model_type)
            .field("task", &self.task)
            .field("hidden", &self.hidden)
            .field("dim", &self.dim)
            .field("layers", &self.layers)
            .field("vocab", &self.vocab)
            .field("max_length", &self.max_length)
            .field("pooling", &self.pooling)
            .finish_non_exhaustive()
    }
}

/// The length at which texts are truncated: the caller's; else `max_seq_length` of the modules;
/// else `model_max_length` of the tokenizer, for which Hugging Face writes 1e30 if the length is
/// not limited.
fn max_length(own: &ModelFiles, modules: Option<&Modules>, positions: usize, wishes: &Wishes) -> Result<usize> {
    match wishes.max_length {
        Some(length) if (3..=positions).contains(&length) => return Ok(length),
        Some(length) => {
            return Err(Error::InvalidOption {
                option: "max_length",
                value: length.to_string(),
                expected: format!("3 to {positions}, the model's positions"),
            });
        }
        None => {}
    }
    if let Some(length) = modules.and_then(|modules| modules.max_seq_length) {
        return Ok(length.min(positions));
    }
    let length = match Json::read(own, "tokenizer_config.json")? {
        // The second key is an old name.
        Some(json) => json.number("model_max_length")?.or(json.number("max_len")?),
        None => None,
    };
    // A length below one is not a usable limit.
    Ok(length.filter(|&length| length >= 1.0).map_or(positions, |length| positions.min(length.min(1e9) as usize)))
}

fn pooling_of(mode: PoolingMode) -> Pooling {
    match mode {
        PoolingMode::Cls => Pooling::Cls,
        PoolingMode::Mean => Pooling::Mean,
        PoolingMode::LastToken => Pooling::LastToken,
    }
}

/// An error that explains why the task of a model is unknown, if there is more to say than that its
/// pooling is unknown.
fn undecided(json: &Json, task: Task, wishes: &Wishes) -> Option<Error> {
    let found = json.get("architectures").map_or_else(|| "absent".to_owned(), shown);
    let supported = match task {
        Task::Language { .. } => {
            "a Pooling in modules.json, or a pooling of choice, for an embedder; a bare language \
            model is opened as a reranker (`Reranker` in Rust, the example `rerank`)"
        }
        _ if wishes.scores => "a class …ForSequenceClassification, for scores",
        _ => return None,
    };
    Some(json.unsupported("architectures", &found, supported))
}

/// Models whose repositories, or older copies of them, lack the pooling file. The Chinese and the
/// English models differ.
fn known_by_name(name: &str) -> Result<Pooling> {
    let base = name.rsplit('/').next().unwrap_or(name);
    match base {
        "gte-small-zh" | "gte-base-zh" | "gte-large-zh" => Ok(Pooling::Cls),
        "nlp_gte_sentence-embedding_chinese-small"
        | "nlp_gte_sentence-embedding_chinese-base"
        | "nlp_gte_sentence-embedding_chinese-large" => Ok(Pooling::Cls),
        "bge-m3" | "gte-multilingual-base" | "gte-base-en-v1.5" | "gte-large-en-v1.5" | "gte-modernbert-base" => {
            Ok(Pooling::Cls)
        }
        "gte-small" | "gte-base" | "gte-large" | "all-MiniLM-L6-v2" => Ok(Pooling::Mean),
        "Qwen3-Embedding-0.6B" | "Qwen3-Embedding-4B" | "Qwen3-Embedding-8B" => Ok(Pooling::LastToken),
        _ if is_bge_zh(base) => Ok(Pooling::Cls),
        _ => Err(Error::UnknownPooling { model: name.to_owned() }),
    }
}

/// Prompts that a model's authors have published, but that its files lack.
fn known_prompts(name: &str, prompts: Prompts) -> Result<Prompts> {
    let base = name.rsplit('/').next().unwrap_or(name);
    if !is_bge_zh(base) {
        return Ok(prompts);
    }
    // From the README of bge-*-zh-v1.5: only for queries, and no longer needed for short ones.
    let query = "为这个句子生成表示以用于检索相关文章：";
    Prompts::new(vec![("query".to_owned(), query.to_owned()), ("document".to_owned(), String::new())], None)
}

fn is_bge_zh(base: &str) -> bool {
    base.starts_with("bge-") && ["-zh", "-zh-v1.5"].iter().any(|end| base.ends_with(end))
}
