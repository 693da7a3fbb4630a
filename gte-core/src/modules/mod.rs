//! `Modules`: what sentence-transformers reads from a model's directory besides the transformer's
//! own files: the modules that follow the transformer, the length at which texts are truncated, and
//! the prompts. Anything that this engine cannot compute is refused here, with the key's name;
//! `keys.rs` lists every key.
//!
//! Follows sentence-transformers 6.2.0: `base/model.py`, `base/modules/transformer.py`, and the
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
    /// The folder with the transformer's own files: `config.json`, tokenizer and weights. Empty for
    /// the model's directory. Files with these names elsewhere do not belong to the model.
    pub(crate) transformer: String,
    /// Whether it was saved as a cross-encoder, which scores pairs.
    pub(crate) cross_encoder: bool,
    /// The output that the transformer computes.
    pub(crate) task: Task,
    /// The folders of all modules.
    pub(crate) folders: Vec<String>,
    /// Whether every text is formatted by the tokenizer's chat template.
    pub(crate) chat: bool,
    /// Whether the formatted text ends with the beginning of an answer.
    pub(crate) generation_prompt: bool,
    /// Length at which a text is truncated, including special tokens. It replaces
    /// `model_max_length` of `tokenizer_config.json`, even if it is larger.
    pub(crate) max_seq_length: Option<usize>,
    /// Whether texts are converted to lower case before the tokenizer's own normalizer, without
    /// changing accents.
    pub(crate) lower_case: bool,
    /// `None` for a cross-encoder, and if the caller has chosen a pooling.
    pub(crate) pooling: Option<PoolingSettings>,
    /// The layers after pooling, in order. Their widths match.
    pub(crate) dense: Vec<DenseSettings>,
    /// Whether vectors are scaled to length 1. This engine does so for every model, which does not
    /// change the cosine.
    pub(crate) normalize: bool,
    /// Vectors are truncated to this many values.
    pub(crate) truncate_dim: Option<usize>,
    /// Names and texts, always including `query` and `document`.
    pub(crate) prompts: Vec<(String, String)>,
    /// The name of the prompt for texts without a chosen prompt.
    pub(crate) default_prompt: Option<String>,
    /// How the logits of a language model become a score.
    pub(crate) logit_score: Option<LogitScore>,
}

/// The output that a transformer computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Hidden states.
    FeatureExtraction,
    /// The logits of a classification head.
    SequenceClassification,
    /// The logits of the next token.
    TextGeneration,
}

/// The settings of a Pooling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolingSettings {
    pub(crate) mode: PoolingMode,
    /// `false`: the tokens of the prompt are left out, including those at its beginning, such as
    /// `[CLS]`. Their number is that of the prompt alone, without a special token at its end. The
    /// first token that counts is then the first one after the prompt.
    pub(crate) include_prompt: bool,
    /// Whether the vector is longer than its mode says (`mean_sqrt_len_tokens`), which only a Dense
    /// would notice.
    scaled: bool,
    /// The file with this setting.
    pub(crate) source: String,
}

/// Which hidden states become the vector of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolingMode {
    Cls,
    Mean,
    LastToken,
}

/// The settings of a Dense: a linear layer and the function after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DenseSettings {
    /// The folder of its weights: `linear.weight`, `linear.bias`, `residual.weight` in
    /// `model.safetensors`, or else in `pytorch_model.bin`.
    pub(crate) folder: String,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) bias: bool,
    pub(crate) activation: Activation,
    /// Whether its input is added to its output, through `residual.weight` if their widths differ.
    pub(crate) residual: bool,
}

/// The function after a Dense, with PyTorch's default arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    Identity,
    Tanh,
    Relu,
    /// With the error function.
    Gelu,
    Silu,
    Sigmoid,
}

/// The settings of a LogitScore: the score is the logit of `true_id` minus that of `false_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogitScore {
    pub(crate) true_id: u32,
    pub(crate) false_id: Option<u32>,
}

/// The modules that this engine can compute.
const SUPPORTED: &str = "Transformer, Pooling, Dense, Normalize, Dropout, LogitScore of sentence_transformers";

impl Modules {
    /// Reads `modules.json` and what belongs to it; `None` without that file, because then
    /// sentence-transformers reads none of it either. `own_pooling`: the caller has chosen the
    /// pooling, and the model's pooling is not read.
    ///
    /// # Errors
    /// [`Error::InvalidFile`], [`Error::MissingFile`], and [`Error::Unsupported`] for anything that
    /// cannot be computed here.
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
                return Err(entry.unsupported(
                    "name",
                    &name,
                    "unique names: the reference drops one of two modules with the same name",
                ));
            }
            // A class from outside the library is code in the repository.
            let own = kind.strip_prefix("sentence_transformers.").unwrap_or_default();
            let kind = own.rsplit('.').next().unwrap_or_default().to_owned();
            entry.log_unknown(&keys::of(keys::MODULES));
            entries.push((entry, kind, folder));
        }
        let Some((first, kind, folder)) = entries.first() else {
            return Err(Error::invalid(&label, "the list of modules is empty, without a Transformer or a Pooling"));
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
            let misplaced = |what| entry.unsupported("type", kind, what);
            match kind.as_str() {
                "Pooling" if modules.pooled() => return Err(misplaced("one Pooling")),
                "Pooling" if own_pooling => {}
                "Pooling" => modules.pooling = Some(settings::pooling(&files)?),
                "Dense" if !own_pooling && !modules.pooled() => {
                    return Err(misplaced(
                        "a Dense after the Pooling, whose `module_input_name` is sentence_embedding",
                    ));
                }
                "Dense" if modules.pooling.as_ref().is_some_and(|pooling| pooling.scaled) => {
                    return Err(misplaced("a Dense after a pooling other than mean_sqrt_len_tokens"));
                }
                "Dense" if modules.normalize => return Err(misplaced("a Dense before the Normalize")),
                "Dense" => modules.push(settings::dense(&files, folder.clone())?)?,
                // Before the Pooling there is nothing to normalize, and the reference ignores the
                // module.
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
                "there is no Pooling, which makes one vector from a text's tokens: choose cls, mean or last-token",
            ));
        }
        modules.read_model_settings(files)?;
        Ok(Some(modules))
    }

    /// Whether there is already one vector per text at this point.
    fn pooled(&self) -> bool {
        self.pooling.is_some()
    }

    /// Adds a Dense after the others.
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

/// Refuses an adapter, which changes the weights of a model that is stored elsewhere.
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
