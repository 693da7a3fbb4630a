//! `ModelConfig`: what a model is, read from its own files. What this engine does not compute is refused here, by key.

use std::str::FromStr;

use serde_json::{Map, Value};

use crate::files::ModelFiles;
use crate::{Error, Result};

/// The longest text, in tokens, whatever a model's files say: the family was trained on no more.
const MAX_LENGTH: usize = 512;

/// How the hidden states of a text's tokens become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pooling {
    /// The first token, `[CLS]`: the Chinese GTE models.
    Cls,
    /// The mean of all tokens, special ones included: the English GTE models, all-MiniLM.
    Mean,
    /// The last token.
    LastToken,
}

impl Pooling {
    /// `cls`, `mean` or `last-token`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Mean => "mean",
            Self::LastToken => "last-token",
        }
    }
}

impl std::fmt::Display for Pooling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Pooling {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::Cls, Self::Mean, Self::LastToken].into_iter().find(|p| p.name() == name).ok_or_else(|| {
            Error::InvalidOption {
                option: "pooling",
                value: name.to_owned(),
                expected: "cls, mean or last-token".into(),
            }
        })
    }
}

/// What a model is. Sizes are in values, lengths in tokens.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ModelConfig {
    /// Width of a hidden state, and the dimension of the vectors.
    pub hidden: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Attention heads; `hidden / heads` values each.
    pub heads: usize,
    /// Width inside the feed-forward part of a layer.
    pub intermediate: usize,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Rows of the position table: the longest text that can be computed.
    pub max_positions: usize,
    /// Rows of the token type table.
    pub token_types: usize,
    /// What LayerNorm adds to the variance.
    pub layer_norm_eps: f32,
    /// Where a text is cut unless told otherwise, special tokens included.
    pub max_length: usize,
    /// How a text's hidden states become one vector.
    pub pooling: Pooling,
    /// Where `pooling` was found: a file, `name` for a model known by name, `option`.
    pub pooling_source: String,
}

impl ModelConfig {
    /// Reads `config.json`, `modules.json`, the pooling, `sentence_bert_config.json` and `tokenizer_config.json`.
    /// `pooling` overrides what they say.
    ///
    /// # Errors
    /// [`Error::MissingFile`] without `config.json`; [`Error::InvalidFile`] for broken JSON, missing keys and sizes that make
    /// no sense; [`Error::Unsupported`] for another architecture, activation, position type or pooling;
    /// [`Error::UnknownPooling`] where neither the files nor the model's name tell it.
    pub fn read(files: &ModelFiles, pooling: Option<Pooling>) -> Result<Self> {
        let config = Json::read(files, "config.json")?.ok_or_else(|| Error::MissingFile {
            model: files.place(),
            file: "config.json".into(),
            hint: "it is what tells the sizes of a model",
        })?;
        let mut model = Self::from_config(&config)?;
        for (file, key) in
            [("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")]
        {
            if let Some(length) = Json::read(files, file)?.and_then(|json| json.number(key)) {
                // Hugging Face writes 1e30 where nothing limits the length.
                if length >= 1.0 {
                    model.max_length = model.max_length.min(length.min(1e9) as usize);
                }
            }
        }
        (model.pooling, model.pooling_source) = match pooling {
            Some(pooling) => (pooling, "option".into()),
            None => match pooling_of_modules(files)? {
                Some(found) => found,
                None => (known_by_name(files.name())?, "name".into()),
            },
        };
        tracing::info!(model = files.name(), pooling = %model.pooling, from = model.pooling_source, "pooling");
        Ok(model)
    }

    /// Values a head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    fn from_config(json: &Json) -> Result<Self> {
        json.only("model_type", &["bert"], None)?;
        if !json.object.contains_key("model_type") {
            let architecture = json.object.get("architectures").and_then(|a| a[0].as_str()).unwrap_or("absent");
            if !architecture.starts_with("Bert") {
                return Err(json.unsupported("model_type", "absent", "\"bert\""));
            }
        }
        json.only("hidden_act", &["gelu"], None)?;
        json.only("position_embedding_type", &["absolute"], Some("absolute"))?;
        for key in ["is_decoder", "add_cross_attention"] {
            if json.object.get(key).is_some_and(|v| v != &Value::Bool(false) && !v.is_null()) {
                return Err(json.unsupported(key, &json.object[key].to_string(), "false"));
            }
        }
        let model = Self {
            hidden: json.size("hidden_size", 1 << 14)?,
            layers: json.size("num_hidden_layers", 1 << 9)?,
            heads: json.size("num_attention_heads", 1 << 9)?,
            intermediate: json.size("intermediate_size", 1 << 16)?,
            vocab: json.size("vocab_size", 1 << 22)?,
            max_positions: json.size("max_position_embeddings", 1 << 16)?,
            token_types: json.size("type_vocab_size", 1 << 8)?,
            layer_norm_eps: match json.number("layer_norm_eps") {
                Some(eps) if (0.0..0.1).contains(&eps) => eps as f32,
                Some(eps) => return Err(json.unsupported("layer_norm_eps", &eps.to_string(), "0 to 0.1")),
                None => return Err(json.invalid("`layer_norm_eps` is missing or no number")),
            },
            max_length: MAX_LENGTH,
            pooling: Pooling::Cls,
            pooling_source: String::new(),
        };
        if !model.hidden.is_multiple_of(model.heads) {
            return Err(json.invalid(format_args!(
                "`hidden_size` {} is no multiple of `num_attention_heads` {}",
                model.hidden, model.heads
            )));
        }
        Ok(Self { max_length: MAX_LENGTH.min(model.max_positions), ..model })
    }
}

/// The pooling that `modules.json` points to, and the file that says so.
fn pooling_of_modules(files: &ModelFiles) -> Result<Option<(Pooling, String)>> {
    let Some(content) = files.read("modules.json")? else { return Ok(None) };
    let label = files.label("modules.json");
    let modules: Vec<Value> = serde_json::from_slice(&content).map_err(|e| Error::invalid(&label, e))?;
    let mut found = None;
    for module in &modules {
        let kind = module["type"].as_str().ok_or_else(|| Error::invalid(&label, "a module without `type`"))?;
        match kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" | "Normalize" => {}
            "Pooling" => {
                let path = module["path"].as_str().ok_or_else(|| Error::invalid(&label, "a Pooling without `path`"))?;
                let file = if path.is_empty() {
                    "config.json".to_owned()
                } else {
                    format!("{}/config.json", path.trim_end_matches('/'))
                };
                let json = Json::read(files, &file)?.ok_or_else(|| Error::MissingFile {
                    model: files.place(),
                    file: file.clone(),
                    hint: "modules.json names it; or choose a pooling: cls, mean, last-token",
                })?;
                found = Some((pooling_of(&json)?, file));
            }
            _ => {
                return Err(Error::Unsupported {
                    file: label,
                    key: "type".into(),
                    found: kind.to_owned(),
                    supported: "Transformer, Pooling, Normalize".into(),
                });
            }
        }
    }
    Ok(found)
}

/// The one pooling that a `1_Pooling/config.json` switches on (sentence-transformers' Pooling module).
fn pooling_of(json: &Json) -> Result<Pooling> {
    let supported = "one of cls, mean, lasttoken";
    if let Some(mode) = json.object.get("pooling_mode") {
        return match mode.as_str() {
            Some("cls") => Ok(Pooling::Cls),
            Some("mean") => Ok(Pooling::Mean),
            Some("lasttoken") => Ok(Pooling::LastToken),
            _ => Err(json.unsupported("pooling_mode", &mode.to_string(), supported)),
        };
    }
    let on: Vec<&String> = json
        .object
        .iter()
        .filter(|(k, v)| k.starts_with("pooling_mode_") && **v == Value::Bool(true))
        .map(|(k, _)| k)
        .collect();
    match on[..] {
        [key] => match key.as_str() {
            "pooling_mode_cls_token" => Ok(Pooling::Cls),
            "pooling_mode_mean_tokens" => Ok(Pooling::Mean),
            "pooling_mode_lasttoken" => Ok(Pooling::LastToken),
            key => Err(json.unsupported(key, "true", supported)),
        },
        [] => Err(json.invalid("no `pooling_mode_…` is true")),
        [_, second, ..] => Err(json.unsupported(second, "true beside another", supported)),
    }
}

/// Models whose repositories, or older copies of them, lack the file. The Chinese and the English line differ.
fn known_by_name(name: &str) -> Result<Pooling> {
    let base = name.rsplit('/').next().unwrap_or(name);
    match base {
        "gte-small-zh" | "gte-base-zh" | "gte-large-zh" => Ok(Pooling::Cls),
        "nlp_gte_sentence-embedding_chinese-small"
        | "nlp_gte_sentence-embedding_chinese-base"
        | "nlp_gte_sentence-embedding_chinese-large" => Ok(Pooling::Cls),
        "gte-small" | "gte-base" | "gte-large" | "all-MiniLM-L6-v2" => Ok(Pooling::Mean),
        _ => Err(Error::UnknownPooling { model: name.to_owned() }),
    }
}

/// A JSON object and the name of its file, for messages.
struct Json {
    label: String,
    object: Map<String, Value>,
}

impl Json {
    fn read(files: &ModelFiles, file: &str) -> Result<Option<Self>> {
        let Some(content) = files.read(file)? else { return Ok(None) };
        let label = files.label(file);
        match serde_json::from_slice(&content) {
            Ok(Value::Object(object)) => Ok(Some(Self { label, object })),
            Ok(_) => Err(Error::invalid(label, "expected a JSON object")),
            Err(e) => Err(Error::invalid(label, e)),
        }
    }

    fn invalid(&self, reason: impl std::fmt::Display) -> Error {
        Error::invalid(&self.label, reason)
    }

    fn unsupported(&self, key: &str, found: &str, supported: &str) -> Error {
        Error::Unsupported {
            file: self.label.clone(),
            key: key.into(),
            found: found.into(),
            supported: supported.into(),
        }
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.object.get(key).and_then(Value::as_f64)
    }

    /// A count from 1 to `max`: beyond that it is no model but a trap for the allocator.
    fn size(&self, key: &str, max: u64) -> Result<usize> {
        match self.object.get(key).map(Value::as_u64) {
            Some(Some(n)) if (1..=max).contains(&n) => Ok(n as usize),
            Some(_) => Err(self.invalid(format_args!("`{key}` is {}, expected 1 to {max}", self.object[key]))),
            None => Err(self.invalid(format_args!("`{key}` is missing"))),
        }
    }

    /// Checks that a string is one of `supported`; absent it is `default`, or fine where there is none.
    fn only(&self, key: &str, supported: &[&str], default: Option<&str>) -> Result<()> {
        match self.object.get(key) {
            None | Some(Value::Null) if default.is_some() || key == "model_type" => Ok(()),
            Some(Value::String(s)) if supported.contains(&s.as_str()) => Ok(()),
            None => Err(self.invalid(format_args!("`{key}` is missing"))),
            Some(found) => Err(self.unsupported(key, &found.to_string(), &supported.join(", "))),
        }
    }
}
