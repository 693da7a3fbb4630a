//! The settings of each module: `config.json` in its folder, `sentence_bert_config.json` for a
//! transformer, and `config_sentence_transformers.json` for the model.

use serde_json::Value;

use super::keys;
use super::{Activation, DenseSettings, LogitScore, Modules, PoolingMode, PoolingSettings, Task};
use crate::error::{Error, Result};
use crate::files::ModelFiles;
use crate::files::names::SENTENCE_TRANSFORMERS;
use crate::json::{self, Json};

/// Arguments that the loaders set themselves, whatever a file says.
const LOADING: [&str; 6] = ["trust_remote_code", "subfolder", "token", "cache_dir", "revision", "local_files_only"];
/// Arguments for loading weights that choose their type, their device and the code that computes,
/// all of which this engine decides itself.
const WEIGHTS: [&str; 7] = [
    "dtype",
    "torch_dtype",
    "attn_implementation",
    "device_map",
    "low_cpu_mem_usage",
    "use_safetensors",
    "add_pooling_layer",
];
/// Arguments of a tokenizer that do not change token ids when there is no padding.
const TOKENIZER: [&str; 5] = ["use_fast", "padding_side", "padding", "clean_up_tokenization_spaces", "legacy"];
/// Settings of a configuration that do not change values.
const CONFIG: [&str; 4] = ["use_cache", "output_hidden_states", "output_attentions", "return_dict"];

/// The model with a single transformer, whose files are `files`.
pub(super) fn transformer(files: &ModelFiles, folder: String) -> Result<Modules> {
    let mut modules = Modules {
        transformer: folder,
        cross_encoder: false,
        task: Task::FeatureExtraction,
        folders: Vec::new(),
        chat: false,
        generation_prompt: false,
        max_seq_length: None,
        lower_case: false,
        pooling: None,
        dense: Vec::new(),
        normalize: false,
        truncate_dim: None,
        prompts: Vec::new(),
        default_prompt: None,
        logit_score: None,
    };
    for file in SENTENCE_TRANSFORMERS {
        if let Some(json) = Json::read(files, file)?
            && json.keys().next().is_some()
        {
            modules.read_transformer(&json)?;
            json.refuse_unknown(&keys::of(keys::TRANSFORMER))?;
            break;
        }
    }
    Ok(modules)
}

impl Modules {
    pub(super) fn read_transformer(&mut self, json: &Json) -> Result<()> {
        self.task = match json.string("transformer_task")? {
            None | Some("feature-extraction") => Task::FeatureExtraction,
            Some("sequence-classification") => Task::SequenceClassification,
            Some("text-generation") => Task::TextGeneration,
            Some(task) => {
                let supported = "feature-extraction, sequence-classification, text-generation";
                return Err(json.unsupported("transformer_task", task, supported));
            }
        };
        self.lower_case = json.flag("do_lower_case")?.unwrap_or(false);
        for key in ["tokenizer_name_or_path", "query_length", "document_length", "query_expansion"] {
            if let Some(found) = json.get(key).filter(|value| !value.is_null()) {
                return Err(json.unsupported(key, &json::shown(found), "null"));
            }
        }
        for keys in [["model_args", "model_kwargs"], ["config_args", "config_kwargs"]] {
            let known = if keys[0] == "model_args" { &WEIGHTS[..] } else { &CONFIG };
            for key in keys {
                if let Some(arguments) = json.object(key)? {
                    only(&arguments, &[&LOADING, known])?;
                }
            }
        }
        let mut length = None;
        // The old name replaces the new one.
        for key in ["processor_kwargs", "tokenizer_args"] {
            if let Some(arguments) = json.object(key)? {
                length = count(&arguments, "model_max_length")?;
                only(&arguments, &[&LOADING, &TOKENIZER, &["model_max_length"]])?;
            }
        }
        let max_seq_length = count(json, "max_seq_length")?;
        self.max_seq_length = self.read_processing(json)?.or(length).or(max_seq_length);
        self.read_modality(json)
    }

    /// Reads the arguments for calling the tokenizer. Returns the length at which they truncate.
    fn read_processing(&mut self, json: &Json) -> Result<Option<usize>> {
        let Some(processing) = json.object("processing_kwargs")? else { return Ok(None) };
        let mut length = None;
        for (key, known) in
            [("common", &["return_tensors"][..]), ("text", &["padding", "truncation", "max_length", "logits_to_keep"])]
        {
            let Some(arguments) = processing.object(key)? else { continue };
            only(&arguments, &[known])?;
            if key == "text" {
                length = count(&arguments, "max_length")?;
                match arguments.get("truncation") {
                    None | Some(Value::Bool(true)) => {}
                    Some(Value::String(strategy)) if strategy == "longest_first" => {}
                    Some(found) => {
                        return Err(arguments.unsupported("truncation", &json::shown(found), "true, longest_first"));
                    }
                }
            }
        }
        if let Some(template) = processing.object("chat_template")? {
            only(&template, &[&["add_generation_prompt", "restore_suffix"]])?;
            self.generation_prompt = template.flag("add_generation_prompt")?.unwrap_or(false);
            if let Some(found) = template.get("restore_suffix").filter(|value| **value != Value::Bool(true)) {
                return Err(template.unsupported("restore_suffix", &json::shown(found), "true"));
            }
        }
        Ok(length)
    }

    /// Reads which output of which method is used. For texts there is only one choice.
    fn read_modality(&mut self, json: &Json) -> Result<()> {
        let (state, output) = match self.task {
            Task::FeatureExtraction => ("last_hidden_state", "token_embeddings"),
            Task::SequenceClassification => ("logits", "scores"),
            Task::TextGeneration => ("logits", "causal_logits"),
        };
        json.only("module_output_name", &[output], Some(output))?;
        let Some(modalities) = json.object("modality_config")? else { return Ok(()) };
        json.get("module_output_name").ok_or_else(|| json.missing("module_output_name"))?;
        self.chat = modalities.get("message").is_some();
        if self.chat && self.task == Task::FeatureExtraction {
            return Err(modalities.unsupported(
                "message",
                "present: texts are formatted by a chat template",
                "only text",
            ));
        }
        for key in ["text", "message"] {
            if let Some(modality) = modalities.object(key)? {
                modality.only("method", &["forward"], None)?;
                modality.only("method_output_name", &[state], None)?;
            }
        }
        if modalities.get("text").is_none() && !self.chat {
            return Err(modalities.unsupported("text", "missing", "a model for texts"));
        }
        Ok(())
    }

    /// Reads `config_sentence_transformers.json`.
    pub(super) fn read_model_settings(&mut self, files: &ModelFiles) -> Result<()> {
        self.prompts = ["query", "document"].map(|name| (name.to_owned(), String::new())).into();
        let Some(json) = Json::read(files, "config_sentence_transformers.json")? else { return Ok(()) };
        self.cross_encoder = match json.string("model_type")? {
            None | Some("SentenceTransformer") => false,
            Some("CrossEncoder") => true,
            Some(found) => return Err(json.unsupported("model_type", found, "SentenceTransformer, CrossEncoder")),
        };
        if let Some(prompts) = json.object("prompts")? {
            for name in prompts.keys() {
                let text = prompts.string(name)?.unwrap_or_default().to_owned();
                match self.prompts.iter_mut().find(|(known, _)| known == name) {
                    Some((_, known)) => *known = text,
                    None => self.prompts.push((name.to_owned(), text)),
                }
            }
        }
        self.default_prompt = json.string("default_prompt_name")?.map(str::to_owned);
        if let Some(name) = &self.default_prompt
            && !self.prompts.iter().any(|(known, _)| known == name)
        {
            return Err(json.invalid(format_args!("`default_prompt_name` is {name}, which is not in `prompts`")));
        }
        self.truncate_dim = count(&json, "truncate_dim")?;
        match json.string("similarity_fn_name")? {
            // These also compare lengths, but vectors have length 1 here.
            Some(name @ ("dot" | "euclidean" | "manhattan")) if !self.normalize => {
                let supported = "cosine, or a Normalize module: vectors have length 1 here";
                return Err(json.unsupported("similarity_fn_name", name, supported));
            }
            _ => {}
        }
        json.log_unknown(&keys::of(keys::MODEL));
        Ok(())
    }
}

/// Reads `1_Pooling/config.json`.
pub(super) fn pooling(files: &ModelFiles) -> Result<PoolingSettings> {
    /// The old names, in the order in which several poolings were concatenated.
    const OLD: [(&str, &str); 6] = [
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_max_tokens", "max"),
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
        ("pooling_mode_weightedmean_tokens", "weightedmean"),
        ("pooling_mode_lasttoken", "lasttoken"),
    ];
    let json = Json::read(files, "config.json")?.ok_or_else(|| Error::MissingFile {
        model: files.place(),
        file: files.inside("config.json"),
        hint: "modules.json names it; or choose a pooling: cls, mean, last-token",
    })?;
    let mut modes: Vec<(&str, String)> = Vec::new(); // the key, and its mode
    let named = json.get("pooling_mode");
    match named {
        None => {
            for (key, mode) in OLD {
                if json.flag(key)? == Some(true) {
                    modes.push((key, mode.into()));
                }
            }
        }
        Some(Value::Array(list)) => {
            modes.extend(
                list.iter()
                    .map(|mode| ("pooling_mode", mode.as_str().map_or_else(|| json::shown(mode), str::to_owned))),
            );
        }
        Some(mode) => modes.push(("pooling_mode", mode.as_str().map_or_else(|| json::shown(mode), str::to_owned))),
    }
    const SUPPORTED: &str = "one of cls, mean, lasttoken";
    let mode = match &modes[..] {
        [(key, mode)] => match mode.as_str() {
            "cls" => PoolingMode::Cls,
            // The sum is divided by the root of the length instead of the length: after scaling to
            // length 1 both are the same.
            "mean" | "mean_sqrt_len_tokens" => PoolingMode::Mean,
            "lasttoken" => PoolingMode::LastToken,
            mode => return Err(json.unsupported(key, if named.is_some() { mode } else { "true" }, SUPPORTED)),
        },
        // The default of the reference for the file of a Pooling, but not for an empty file.
        [] if named.is_none()
            && (json.get("embedding_dimension").is_some() || json.get("word_embedding_dimension").is_some()) =>
        {
            PoolingMode::Mean
        }
        [] => return Err(json.invalid("neither `pooling_mode` nor a `pooling_mode_…` that is true")),
        [_, (key, mode), ..] => return Err(json.unsupported(key, &format!("{mode} and another mode"), SUPPORTED)),
    };
    let settings = PoolingSettings {
        mode,
        scaled: modes.iter().any(|(_, mode)| mode == "mean_sqrt_len_tokens"),
        include_prompt: json.flag("include_prompt")?.unwrap_or(true),
        source: files.inside("config.json"),
    };
    json.refuse_unknown(&keys::of(keys::POOLING))?;
    Ok(settings)
}

/// Reads `2_Dense/config.json`. Also returns the JSON, for messages.
pub(super) fn dense(files: &ModelFiles, folder: String) -> Result<(DenseSettings, Json)> {
    let json = Json::read(files, "config.json")?.ok_or_else(|| Error::MissingFile {
        model: files.place(),
        file: files.inside("config.json"),
        hint: "modules.json names it, and it contains the sizes of a Dense",
    })?;
    let activation = match json.get("activation_function") {
        None => Activation::Tanh,
        Some(value) => match value.as_str().and_then(|s| s.strip_prefix("torch.")).and_then(|s| s.rsplit('.').next()) {
            Some("Identity") => Activation::Identity,
            Some("Tanh") => Activation::Tanh,
            Some("ReLU") => Activation::Relu,
            Some("GELU") => Activation::Gelu,
            Some("SiLU") => Activation::Silu,
            Some("Sigmoid") => Activation::Sigmoid,
            _ => {
                let supported = "Identity, Tanh, ReLU, GELU, SiLU, Sigmoid of torch.nn";
                return Err(json.unsupported("activation_function", &json::shown(value), supported));
            }
        },
    };
    for key in ["module_input_name", "module_output_name"] {
        json.only(key, &["sentence_embedding"], Some("sentence_embedding"))?;
    }
    let settings = DenseSettings {
        folder,
        inputs: json.size("in_features", 1 << 16)?,
        outputs: json.size("out_features", 1 << 16)?,
        bias: json.flag("bias")?.unwrap_or(true),
        activation,
        residual: json.flag("use_residual")?.unwrap_or(false),
    };
    json.log_unknown(&keys::of(keys::DENSE));
    Ok((settings, json))
}

/// Reads `2_Normalize/config.json`, which usually does not exist: whether the vector of the text is
/// normalized.
pub(super) fn normalize(files: &ModelFiles) -> Result<bool> {
    if let Some(json) = Json::read(files, "config.json")? {
        for key in ["module_input_name", "module_output_name"] {
            json.only(key, &["sentence_embedding"], Some("sentence_embedding"))?;
        }
        json.log_unknown(&keys::of(keys::NORMALIZE));
    }
    Ok(true)
}

/// Reads `2_Dropout/config.json`: nothing is dropped when a text is embedded.
pub(super) fn dropout(files: &ModelFiles) -> Result<()> {
    if let Some(json) = Json::read(files, "config.json")? {
        json.refuse_unknown(&keys::of(keys::DROPOUT))?;
    }
    Ok(())
}

/// Reads `1_LogitScore/config.json`.
pub(super) fn logit_score(files: &ModelFiles) -> Result<LogitScore> {
    let json = Json::read(files, "config.json")?.ok_or_else(|| Error::MissingFile {
        model: files.place(),
        file: files.inside("config.json"),
        hint: "modules.json names it, and it contains the tokens of a LogitScore",
    })?;
    let id = |key: &str| match json.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().and_then(|id| u32::try_from(id).ok()) {
            Some(id) => Ok(Some(id)),
            None => Err(json.invalid(format_args!("`{key}` is {}, expected a token id", json::shown(value)))),
        },
    };
    let settings = LogitScore {
        true_id: id("true_token_id")?.ok_or_else(|| json.missing("true_token_id"))?,
        false_id: id("false_token_id")?,
    };
    json.only("module_input_name", &["causal_logits"], Some("causal_logits"))?;
    json.refuse_unknown(&keys::of(keys::LOGIT_SCORE))?;
    Ok(settings)
}

/// Refuses keys of an object that are not in `known`.
fn only(json: &Json, known: &[&[&str]]) -> Result<()> {
    for key in json.keys() {
        let value = json::shown(json.get(key).unwrap_or_default());
        if !known.iter().any(|known| known.contains(&key)) {
            return Err(json.unsupported(key, &value, &known.concat().join(", ")));
        }
    }
    Ok(())
}

/// An integer of at least 1; numbers beyond the range become the maximum. `null` gives None.
fn count(json: &Json, key: &str) -> Result<Option<usize>> {
    match json.number(key)? {
        None => Ok(None),
        Some(n) if n >= 1.0 && (n.fract() == 0.0 || n.is_infinite()) => Ok(Some(n as usize)),
        Some(_) => {
            let found = json::shown(json.get(key).unwrap_or_default());
            Err(json.invalid(format_args!("`{key}` is {found}, expected an integer of at least 1")))
        }
    }
}
