//! `Settings`: the tokenizer's settings in a model's files besides `tokenizer.json`, with the
//! precedence of transformers 5.24.0 (`PreTrainedTokenizerBase._from_pretrained` and
//! `TokenizersBackend.__init__`): its class, its special tokens, and the tokens that are matched
//! before everything else.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tokenizers::AddedToken;

use super::class::{Class, Post};
use super::json::TokenizerJson;
use super::keys::KEYS;
use super::tokens::TruncationSide;
use crate::error::{Error, Result};
use crate::files::ModelFiles;
use crate::json::{Json, shown};

/// The special tokens with names, in the order in which they are added.
const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

pub(super) struct Settings {
    pub(super) truncation_side: TruncationSide,
    /// Whether the model gets token types.
    pub(super) types: bool,
    /// Whether special tokens in a text are ordinary text.
    pub(super) split_special: bool,
    /// Special tokens by name, in order.
    pub(super) named: Vec<(String, AddedToken)>,
    /// Special tokens without a name.
    pub(super) extra: Vec<AddedToken>,
    /// Tokens that are matched in a text before everything else. Their ids are their positions in
    /// the vocabulary, or else the next free ones.
    pub(super) added: Vec<AddedToken>,
    /// How many of them are listed in the files. The others were added because they are special.
    pub(super) listed: usize,
    pub(super) post: Post,
}

impl Settings {
    /// Reads the files, and changes `json` to what the tokenizer is built from.
    pub(super) fn read(files: &ModelFiles, json: &mut TokenizerJson<'_>) -> Result<Self> {
        let config = match Json::read(files, "tokenizer_config.json")? {
            Some(config) => config,
            None => Json::parse(files.label("tokenizer_config.json"), b"{}".to_vec())?,
        };
        let model = Json::read(files, "config.json")?;
        let class = Class::of(&config, model.as_ref())?;
        check_unsupported(&config)?;
        let mut tokens = Tokens::read(&config)?;
        if config.get("added_tokens_decoder").is_none() {
            tokens.read_legacy(files, json)?;
        }
        let pad = if class == Class::AsIs { json.padding["pad_token"].as_str() } else { None };
        let named = tokens.named(class, pad);
        let needed = class.needed();
        if let Some(key) = needed.iter().find(|&&key| !named.iter().any(|(name, _)| name == key)) {
            return Err(config.unsupported(key, "null", "a token"));
        }
        let (added, listed) = tokens
            .added(class, json, &named)
            .map_err(|e| Error::invalid(files.label("tokenizer.json"), format_args!("`added_tokens`: {e}")))?;
        let truncation_side = match config.string("truncation_side")?.or(json.truncation["direction"].as_str()) {
            None => TruncationSide::Right,
            Some(side) => side.parse().map_err(|_| config.unsupported("truncation_side", side, "right or left"))?,
        };
        let types = match config.list("model_input_names")? {
            None => class.has_types(),
            Some(names) if names.iter().any(|name| name == "attention_mask") => {
                names.iter().any(|name| name == "token_type_ids")
            }
            Some(names) => {
                let found = shown(&Value::Array(names.to_vec()));
                return Err(config.unsupported("model_input_names", &found, "a list with attention_mask"));
            }
        };
        let content = |key: &str| named.iter().find(|(name, _)| name == key).map(|(_, token)| token.content.as_str());
        let post = class.rebuild(json, &config, content)?;
        lowercase_first(files, json)?;
        for elsewhere in ["model_max_length", "max_len", "chat_template"] {
            config.get(elsewhere); // read elsewhere
        }
        config.log_unknown(KEYS);
        Ok(Self {
            truncation_side,
            types,
            split_special: config.flag("split_special_tokens")?.unwrap_or(false),
            named,
            extra: tokens.extra,
            added,
            listed,
            post,
        })
    }
}

/// Refuses keys that name another file, and values that transformers does not accept.
fn check_unsupported(config: &Json) -> Result<()> {
    let versioned = |name: &Value| name.as_str().is_some_and(|name| name != "tokenizer.json");
    if let Some(files) = config.list("fast_tokenizer_files")?
        && files.iter().any(versioned)
    {
        let found = shown(&Value::Array(files.to_vec()));
        return Err(config.unsupported("fast_tokenizer_files", &found, "only tokenizer.json"));
    }
    match config.string("padding_side")? {
        None | Some("left" | "right") => Ok(()),
        Some(other) => Err(config.unsupported("padding_side", other, "right or left")),
    }
}

/// The tokens that the files name, collected from one file after the other.
struct Tokens {
    named: BTreeMap<String, Option<AddedToken>>, // None: null in the file, which removes the class's own token
    extra: Vec<AddedToken>,
    decoder: BTreeMap<i64, AddedToken>,
}

impl Tokens {
    /// The tokens of `tokenizer_config.json`.
    fn read(config: &Json) -> Result<Self> {
        let mut tokens = Self { named: BTreeMap::new(), extra: Vec::new(), decoder: BTreeMap::new() };
        let extra = match config.get("extra_special_tokens") {
            Some(value) if !value.is_null() => Some(("extra_special_tokens", value)),
            _ => config.get("additional_special_tokens").map(|value| ("additional_special_tokens", value)),
        };
        let keys: Vec<String> = config.keys().map(str::to_owned).collect();
        for key in keys.iter().filter(|key| key.ends_with("_token") && !key.starts_with("add_")) {
            let Some(value) = config.get(key) else { continue };
            match token(value, true) {
                Some(token) => _ = tokens.named.insert(key.clone(), token),
                None if NAMES.contains(&key.as_str()) => return Err(wrong(config, key, value)),
                None => {}
            }
        }
        if let Some((key, value)) = extra {
            tokens.read_extra(config, key, value)?;
        }
        if let Some(listed) = config.object("added_tokens_decoder")? {
            for id in listed.keys().map(str::to_owned).collect::<Vec<_>>() {
                let value = listed.get(&id).unwrap_or(&Value::Null);
                let read = id.parse().ok().zip(token(value, false).flatten().filter(|_| value.is_object()));
                let Some((id, token)) = read else { return Err(wrong(&listed, &id, value)) };
                tokens.decoder.insert(id, token);
            }
        }
        Ok(tokens)
    }

    /// Reads a list, or an object whose keys are names.
    fn read_extra(&mut self, file: &Json, key: &str, value: &Value) -> Result<()> {
        let bad = || wrong(file, key, value);
        match value {
            Value::Null => {}
            Value::Array(list) => {
                for value in list {
                    let token = token(value, true).flatten().ok_or_else(bad)?;
                    if !self.extra.iter().any(|known| known.content == token.content) {
                        self.extra.push(token);
                    }
                }
            }
            Value::Object(object) => {
                for (name, value) in object {
                    self.named.insert(name.clone(), token(value, true).ok_or_else(bad)?);
                }
            }
            _ => return Err(bad()),
        }
        Ok(())
    }

    /// Reads what older versions wrote, and what only counts if `tokenizer_config.json` has no
    /// `added_tokens_decoder`.
    fn read_legacy(&mut self, files: &ModelFiles, json: &TokenizerJson<'_>) -> Result<()> {
        if let Some(map) = Json::read(files, "special_tokens_map.json")? {
            for key in map.keys().map(str::to_owned).collect::<Vec<_>>() {
                let Some(value) = map.get(&key) else { continue };
                match key.as_str() {
                    "extra_special_tokens" => self.read_extra(&map, &key, value)?,
                    "additional_special_tokens" if self.extra.is_empty() => self.read_extra(&map, &key, value)?,
                    _ => match token(value, true) {
                        Some(token) => _ = self.named.insert(key, token),
                        None if NAMES.contains(&key.as_str()) => return Err(wrong(&map, &key, value)),
                        None => {}
                    },
                }
            }
        }
        if let Some(ids) = Json::read(files, "added_tokens.json")? {
            for content in ids.keys().map(str::to_owned).collect::<Vec<_>>() {
                let value = ids.get(&content).unwrap_or(&Value::Null);
                let id = value.as_i64().ok_or_else(|| wrong(&ids, &content, value))?;
                let named = self.named.values().flatten().any(|token| token.content == content);
                let special = named || self.extra.iter().any(|token| token.content == content);
                self.decoder.insert(id, AddedToken::from(content, special));
            }
        }
        for value in json.added_tokens.as_array().into_iter().flatten() {
            // Errors in an entry are reported by the crate when it reads the list.
            if let (Some(id), Some(Some(token))) = (value["id"].as_i64(), token(value, false)) {
                self.decoder.insert(id, token);
            }
        }
        Ok(())
    }

    /// The named special tokens in order, including those that the class defines itself.
    fn named(&self, class: Class, pad: Option<&str>) -> Vec<(String, AddedToken)> {
        let listed = |token: &AddedToken| {
            let found = self.decoder.values().find(|known| known.content == token.content);
            found.unwrap_or(token).clone()
        };
        let own = |key: &str| {
            let default = class.defaults().iter().find(|(name, _)| *name == key).map(|(_, content)| *content);
            let default = if key == "pad_token" { default.or(pad) } else { default };
            default.map(|content| AddedToken::from(content, true))
        };
        let mut named = Vec::new();
        for key in NAMES {
            let token = match self.named.get(key) {
                Some(token) => token.as_ref().map(listed),
                None => own(key),
            };
            named.extend(token.map(|token| (key.to_owned(), token)));
        }
        for (key, token) in &self.named {
            if !NAMES.contains(&key.as_str()) {
                named.extend(token.clone().map(|token| (key.clone(), token)));
            }
        }
        named
    }

    /// The tokens that are matched in a text before everything else, and how many of them the files
    /// list.
    fn added(
        &self,
        class: Class,
        json: &TokenizerJson<'_>,
        named: &[(String, AddedToken)],
    ) -> serde_json::Result<(Vec<AddedToken>, usize)> {
        let mut added: Vec<AddedToken> = match (&json.added_tokens, class) {
            (Value::Null, _) => Vec::new(),
            (list, Class::AsIs) => serde_json::from_value(list.clone())?,
            _ => Vec::new(),
        };
        for token in self.decoder.values() {
            if !added.contains(token) {
                added.push(token.clone());
            }
        }
        let mut contents: BTreeSet<String> = added.iter().map(|token| token.content.clone()).collect();
        let listed = added.len();
        for token in named.iter().map(|(_, token)| token).chain(&self.extra) {
            if contents.insert(token.content.clone()) {
                added.push(token.clone());
            }
        }
        for token in &mut added {
            token.special |= named.iter().any(|(_, named)| named.content == token.content);
        }
        if class == Class::Qwen2 {
            // The class adds all special tokens once more, as plain tokens.
            for token in named.iter().map(|(_, token)| token).chain(&self.extra) {
                let plain = AddedToken::from(token.content.as_str(), true);
                if !added.contains(&plain) {
                    added.push(plain);
                }
            }
        }
        Ok((added, listed))
    }
}

/// A token: its name, or an object. `Some(None)` for null, `None` for anything else.
fn token(value: &Value, special: bool) -> Option<Option<AddedToken>> {
    match value {
        Value::Null => Some(None),
        Value::String(content) => Some(Some(AddedToken::from(content.as_str(), special))),
        Value::Object(_) => {
            let flag = |key: &str, default: bool| match &value[key] {
                Value::Null => Some(default),
                value => value.as_bool(),
            };
            let special = special || flag("special", false)?;
            Some(Some(AddedToken {
                content: value["content"].as_str()?.to_owned(),
                single_word: flag("single_word", false)?,
                lstrip: flag("lstrip", false)?,
                rstrip: flag("rstrip", false)?,
                normalized: flag("normalized", !special)?,
                special,
            }))
        }
        _ => None,
    }
}

fn wrong(file: &Json, key: &str, value: &Value) -> Error {
    file.invalid(format_args!("`{key}` is {}, expected a token: a string, or an object with `content`", shown(value)))
}

/// `do_lower_case` of sentence-transformers: lower case before everything else, unless the
/// normalizer does so already.
fn lowercase_first(files: &ModelFiles, json: &mut TokenizerJson<'_>) -> Result<()> {
    // Without modules.json, sentence-transformers does not read it.
    let Some(module) = Json::read(files, "sentence_bert_config.json")? else { return Ok(()) };
    if files.read("modules.json")?.is_none() {
        return Ok(());
    }
    fn lowers(normalizer: &Value) -> bool {
        normalizer["type"] == "Lowercase"
            || normalizer["lowercase"] == true
            || normalizer["normalizers"].as_array().is_some_and(|parts| parts.iter().any(lowers))
    }
    if module.flag("do_lower_case")?.unwrap_or(false) && !lowers(&json.normalizer) {
        let mut parts = vec![json!({ "type": "Lowercase" })];
        match json.normalizer.take() {
            Value::Null => {}
            mut sequence if sequence["type"] == "Sequence" => {
                parts.extend(sequence["normalizers"].as_array_mut().map(std::mem::take).unwrap_or_default());
            }
            one => parts.push(one),
        }
        json.normalizer = json!({ "type": "Sequence", "normalizers": parts });
    }
    Ok(())
}
