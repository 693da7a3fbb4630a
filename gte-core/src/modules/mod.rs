//! `Modules`: what sentence-transformers reads of a model's directory beside the transformer's own
//! files: the modules that follow it, where a text is cut, what is put before it. What this engine
//! does not compute is refused here, by key; `keys.rs` lists every key.
//!
//! Read from sentence-transformers 6.2.0: `base/model.py`, `base/modules/transformer.py`, and the
//! `load` of each module.

mod keys;
mod settings;

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::files::ModelFiles;
use crate::json::{self, Json};

#[cfg(test)]
pub(crate) use keys::KEYS;

/// A model as `modules.json` describes it.
#[derive(Debug, PartialEq)]
pub(crate) struct Modules {
    /// The folder of the transformer's own files, `config.json`, tokenizer and weights; empty for
    /// the model's directory. Files of these names elsewhere are not the model's.
    pub(crate) transformer: String,
    /// Whether it was saved as a cross-encoder, which scores pairs.
    pub(crate) cross_encoder: bool,
    /// What the transformer is loaded for.
    pub(crate) task: Task,
    /// The folders of all modules.
    pub(crate) folders: Vec<String>,
    /// Whether every text goes through the tokenizer's chat template.
    pub(crate) chat: bool,
    /// Whether that ends with the beginning of an answer.
    pub(crate) generation_prompt: bool,
    /// Where a text is cut, special tokens included. It replaces `model_max_length` of
    /// `tokenizer_config.json`, even if larger.
    pub(crate) max_seq_length: Option<usize>,
    /// Texts are put into lower case before the tokenizer's own normalizer, without a change to
    /// accents.
    pub(crate) lower_case: bool,
    /// `None` for a cross-encoder, and where the caller has a pooling of its own.
    pub(crate) pooling: Option<PoolingSettings>,
    /// Layers behind the pooling, in their order; widths fit each other.
    pub(crate) dense: Vec<DenseSettings>,
    /// Whether vectors are scaled to length 1. This engine does so for every model, which changes
    /// no cosine.
    pub(crate) normalize: bool,
    /// Vectors are cut to this many values.
    pub(crate) truncate_dim: Option<usize>,
    /// Names and texts, `query` and `document` always among them.
    pub(crate) prompts: Vec<(String, String)>,
    /// The name of the prompt that is put before a text for which none is chosen.
    pub(crate) default_prompt: Option<String>,
    /// How the logits of a language model become a score.
    pub(crate) logit_score: Option<LogitScore>,
}

/// What a transformer is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Hidden states.
    FeatureExtraction,
    /// The logits of a classification head.
    SequenceClassification,
    /// The logits of the next token.
    TextGeneration,
}

/// A Pooling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolingSettings {
    pub(crate) mode: PoolingMode,
    /// `false`: the tokens of the prompt are left out, and those of its beginning, such as `[CLS]`.
    /// They are as many as the prompt alone has, without a special token at its end. The first
    /// token is then the first behind the prompt.
    pub(crate) include_prompt: bool,
    /// The vector is longer than its mode says (`mean_sqrt_len_tokens`), which only a Dense would
    /// notice.
    scaled: bool,
    /// The file that says so.
    pub(crate) source: String,
}

/// Which hidden states become a text's vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolingMode {
    Cls,
    Mean,
    LastToken,
}

/// A Dense: a linear layer, and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DenseSettings {
    /// Where its weights are: `linear.weight`, `linear.bias`, `residual.weight` in
    /// `model.safetensors`, else in `pytorch_model.bin`.
    pub(crate) folder: String,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) bias: bool,
    pub(crate) activation: Activation,
    /// Its input is added to its output, through `residual.weight` where their widths differ.
    pub(crate) residual: bool,
}

/// The function behind a Dense, with PyTorch's default arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    Identity,
    Tanh,
    Relu,
    /// By the error function.
    Gelu,
    Silu,
    Sigmoid,
}

/// A LogitScore: the score is the logit of `true_id`, less that of `false_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogitScore {
    pub(crate) true_id: u32,
    pub(crate) false_id: Option<u32>,
}

/// The modules that this engine computes.
const SUPPORTED: &str = "Transformer, Pooling, Dense, Normalize, Dropout, LogitScore of sentence_transformers";

impl Modules {
    /// Reads `modules.json` and what belongs to it; `None` without that file, for then
    /// sentence-transformers reads nothing of it. `own_pooling`: the caller knows the pooling, and
    /// the model's is not read.
    ///
    /// # Errors
    /// [`Error::InvalidFile`], [`Error::MissingFile`], and [`Error::Unsupported`] for what is not
    /// computed here.
    pub(crate) fn read(files: &ModelFiles, own_pooling: bool) -> Result<Option<Self>> {
        refuse_adapter(files)?;
        let Some(content) = files.read("modules.json")? else { return Ok(None) };
        let label = files.label("modules.json");
        let list = json::parse(content).map_err(|e| Error::invalid(&label, e))?;
        let list = list.as_array().ok_or_else(|| Error::invalid(&label, "expected a list of modules"))?;
        let mut entries = Vec::new();
        let mut names = BTreeSet::new();
        for (i, entry) in list.iter().enumerate() {
            let entry = Json::entry(&label, i, entry)?;
            let kind = entry.string("type")?.ok_or_else(|| entry.missing("type"))?;
            let path = entry.string("path")?.ok_or_else(|| entry.missing("path"))?;
            let folder = files.within(path)?.folder().to_owned();
            let name = entry.string("name")?.map(str::to_owned);
            if let Some(name) = name
                && !names.insert(name.clone())
            {
                return Err(entry.unsupported("name", &name, "a name of its own: the reference drops one of two"));
            }
            // A class that is not the library's is code in the repository.
            let own = kind.strip_prefix("sentence_transformers.").unwrap_or_default();
            let kind = own.rsplit('.').next().unwrap_or_default().to_owned();
            entry.log_unknown(&keys::of(keys::MODULES));
            entries.push((entry, kind, folder));
        }
        let Some((first, kind, folder)) = entries.first() else {
            return Err(Error::invalid(
                &label,
                "the list of modules is empty: it has neither a Transformer nor a Pooling",
            ));
        };
        if kind != "Transformer" {
            let found = json::shown(first.get("type").unwrap_or_default());
            return Err(first.unsupported("type", &found, "a Transformer as the first module"));
        }
        refuse_adapter(&files.within(folder)?)?;
        let mut modules = settings::transformer(&files.within(folder)?, folder.clone())?;
        modules.folders = entries.iter().map(|(_, _, folder)| folder.clone()).collect();
        for (entry, kind, folder) in &entries[1..] {
            let files = files.within(folder)?;
            let behind = |what| entry.unsupported("type", kind, what);
            match kind.as_str() {
                "Pooling" if modules.pooled() => return Err(behind("one Pooling")),
                "Pooling" if own_pooling => {}
                "Pooling" => modules.pooling = Some(settings::pooling(&files)?),
                "Dense" if !own_pooling && !modules.pooled() => {
                    return Err(behind("a Dense behind the Pooling, whose `module_input_name` is sentence_embedding"));
                }
                "Dense" if modules.pooling.as_ref().is_some_and(|pooling| pooling.scaled) => {
                    return Err(behind("a Dense behind another pooling than mean_sqrt_len_tokens"));
                }
                "Dense" if modules.normalize => return Err(behind("a Dense before the Normalize")),
                "Dense" => modules.push(settings::dense(&files, folder.clone())?)?,
                // Before the Pooling there is nothing to normalize, and the reference goes on.
                "Normalize" => modules.normalize |= settings::normalize(&files)? && (own_pooling || modules.pooled()),
                "Dropout" => settings::dropout(&files)?,
                "LogitScore" => modules.logit_score = Some(settings::logit_score(&files)?),
                _ => {
                    let found = json::shown(entry.get("type").unwrap_or_default());
                    return Err(entry.unsupported("type", &found, SUPPORTED));
                }
            }
        }
        if modules.pooling.is_none() && !own_pooling && modules.task == Task::FeatureExtraction {
            return Err(Error::invalid(
                &label,
                "no Pooling makes one vector of a text's tokens: choose cls, mean or last-token",
            ));
        }
        modules.read_model_settings(files)?;
        Ok(Some(modules))
    }

    /// Whether there is a vector per text already.
    fn pooled(&self) -> bool {
        self.pooling.is_some()
    }

    /// Adds a Dense to the others.
    fn push(&mut self, (dense, json): (DenseSettings, Json)) -> Result<()> {
        if let Some(before) = self.dense.last()
            && before.outputs != dense.inputs
        {
            let (inputs, outputs) = (dense.inputs, before.outputs);
            return Err(
                json.invalid(format_args!("`in_features` is {inputs}, but the Dense before it gives {outputs}"))
            );
        }
        self.dense.push(dense);
        Ok(())
    }
}

/// An adapter changes the weights of a model that is elsewhere.
fn refuse_adapter(files: &ModelFiles) -> Result<()> {
    match Json::read(files, "adapter_config.json")? {
        Some(json) => {
            let found = json.get("peft_type").map_or_else(|| "an adapter".into(), json::shown);
            json.log_unknown(&keys::of(keys::ADAPTER));
            Err(json.unsupported(
                "peft_type",
                &found,
                "a whole model: merge the adapter into its base model (merge_and_unload)",
            ))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
