//! `Tokenizer`: text to token ids, counted and cut. The crate `tokenizers` says what they are, `wordpiece.rs` finds BERT's faster;
//! this file reads the settings from a model's files and keeps truncation in its own hands, so that it is never silent.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::{Value, json};
use tokenizers::{Decoder, Encoding};

use crate::config::ModelConfig;
use crate::files::ModelFiles;
use crate::tokenizer_json::{TokenizerJson, Vocabulary};
use crate::wordpiece::WordPiece;
use crate::{Error, Result};

/// The tokens of one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Token ids, special tokens included, at most the tokenizer's `max_length`.
    pub ids: Vec<u32>,
    /// How many there were before the text was cut.
    pub full_len: usize,
}

impl Tokens {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none; a tokenized text always has its special tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Whether the text was longer than `max_length`.
    pub fn truncated(&self) -> bool {
        self.full_len > self.ids.len()
    }
}

impl AsRef<[u32]> for Tokens {
    fn as_ref(&self) -> &[u32] {
        &self.ids
    }
}

/// A part of a text that became one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its id.
    pub id: u32,
    /// The vocabulary's entry.
    pub text: String,
    /// Whether it is a special token, which stands for no part of the text.
    pub special: bool,
    /// First byte in the text.
    pub start: usize,
    /// The byte behind the last.
    pub stop: usize,
}

/// Text to token ids, as the model's own tokenizer gives them.
#[derive(Clone)]
pub struct Tokenizer {
    tokenizer: tokenizers::Tokenizer,
    fast: Option<Arc<WordPiece>>,
    names: Arc<HashMap<u32, String>>, // of ids that several entries of the vocabulary share: the one that they are decoded to
    max_length: usize,
    tail: usize, // special tokens behind the text, which a cut keeps
}

impl Tokenizer {
    /// Reads `tokenizer.json`; where there is none, builds BERT's WordPiece from `vocab.txt` and `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`Error::MissingFile`] where there is neither; [`Error::InvalidFile`] for malformed ones, and for a vocabulary that is
    /// larger than the model's.
    pub fn read(files: &ModelFiles, config: &ModelConfig) -> Result<Self> {
        let json = files.read("tokenizer.json")?;
        if let Some(json) = json {
            return Self::from_json(&json, config.vocab, config.max_length)
                .map_err(|e| Error::invalid(files.label("tokenizer.json"), e));
        }
        let Some(vocab) = files.read("vocab.txt")? else {
            return Err(Error::MissingFile {
                model: files.place(),
                file: "tokenizer.json".into(),
                hint: "nor is there a vocab.txt: the model's tokenizer is needed, not just its weights",
            });
        };
        let settings = files.read("tokenizer_config.json")?;
        Self::from_vocab(&vocab, settings.as_deref(), config.vocab, config.max_length)
            .map_err(|e| Error::invalid(files.label("vocab.txt"), e))
    }

    /// From the content of a `tokenizer.json`, for a model of `vocab` tokens. Its own truncation and padding are put aside.
    fn from_json(json: &[u8], vocab: usize, max_length: usize) -> Result<Self, String> {
        let settings: TokenizerJson = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let entries = settings.vocabulary().map_err(|e| format!("its vocabulary: {e}"))?;
        // The crate panics on some malformed files (found by fuzzing): on a syntax error inside `decoder`, and on a template that
        // names a token which it does not define. What it was building is dropped with the panic.
        let read = || {
            let mut tokenizer = settings.tokenizer(json, &entries).map_err(|e| e.to_string())?;
            tokenizer.with_truncation(None).map_err(|e| e.to_string())?;
            tokenizer.with_padding(None);
            let too_large = match entries.0.iter().find(|(_, id)| *id as usize >= vocab) {
                Some((token, id)) => Some((token.to_string(), *id)),
                None if entries.0.is_empty() => out_of(vocab, tokenizer.get_vocab(true)),
                None => out_of(vocab, tokenizer.get_added_vocabulary().get_vocab().clone()),
            };
            if let Some((token, id)) = too_large {
                return Err(format!("token `{token}` has id {id}, but config.json has a vocabulary of {vocab}"));
            }
            let fast = WordPiece::of(&settings, &entries, &tokenizer).map(Arc::new);
            let names = Arc::new(shared_names(&entries));
            Ok(Self { fast, names, ..Self::measured(tokenizer, max_length)? })
        };
        std::panic::catch_unwind(read).unwrap_or_else(|_| Err("it contradicts itself".into()))
    }

    /// From the content of a `vocab.txt`, one token a line, and of a `tokenizer_config.json`.
    fn from_vocab(vocab: &[u8], settings: Option<&[u8]>, size: usize, max_length: usize) -> Result<Self, String> {
        let settings: Value = match settings {
            Some(json) => serde_json::from_slice(json).map_err(|e| format!("tokenizer_config.json: {e}"))?,
            None => Value::Null,
        };
        let flag = |key: &str| settings[key].as_bool();
        let token = |key: &str, default: &str| {
            let value = &settings[key];
            value["content"].as_str().or(value.as_str()).unwrap_or(default).to_owned()
        };
        let mut ids = HashMap::new();
        for (i, line) in vocab.strip_suffix(b"\n").unwrap_or(vocab).split(|&b| b == b'\n').enumerate() {
            let line = std::str::from_utf8(line).map_err(|_| format!("line {} is not UTF-8", i + 1))?;
            // A token that is there twice has the later id, as in Python's loader.
            ids.insert(line.strip_suffix('\r').unwrap_or(line).to_owned(), i as u32);
        }
        let special: Vec<(String, u32)> = [
            ("unk_token", "[UNK]"),
            ("sep_token", "[SEP]"),
            ("pad_token", "[PAD]"),
            ("cls_token", "[CLS]"),
            ("mask_token", "[MASK]"),
        ]
        .into_iter()
        .map(|(key, default)| {
            let token = token(key, default);
            let id = ids
                .get(&token)
                .copied()
                .ok_or_else(|| format!("the special token {token} is not in the vocabulary"))?;
            Ok((token, id))
        })
        .collect::<Result<_, String>>()?;
        let [unk, sep, _, cls, _] = &special[..] else { unreachable!("five names, five tokens") };
        // The `tokenizer.json` that Hugging Face's converter would have written.
        let tokenizer = json!({
            "version": "1.0",
            "added_tokens": special.iter().map(|(content, id)| json!({
                "id": id, "content": content, "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })).collect::<Vec<_>>(),
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": true,
                "handle_chinese_chars": flag("tokenize_chinese_chars").unwrap_or(true),
                "strip_accents": flag("strip_accents"),
                "lowercase": flag("do_lower_case").unwrap_or(true),
            },
            "pre_tokenizer": { "type": "BertPreTokenizer" },
            "post_processor": { "type": "BertProcessing", "sep": sep, "cls": cls },
            "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
            "model": {
                "type": "WordPiece",
                "unk_token": unk.0,
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": ids,
            },
        });
        Self::from_json(tokenizer.to_string().as_bytes(), size, max_length)
    }

    fn measured(tokenizer: tokenizers::Tokenizer, max_length: usize) -> Result<Self, String> {
        // What the post-processor puts behind a text, seen on the shortest.
        let probe = tokenizer.encode_fast("a", true).map_err(|e| e.to_string())?;
        let special = probe.get_special_tokens_mask();
        let tail = special.iter().rev().take_while(|&&s| s == 1).count();
        if tail == special.len() || special.len() >= max_length.max(3) {
            return Err("its post-processor leaves no room for text".into());
        }
        Ok(Self { tokenizer, fast: None, names: Arc::default(), max_length, tail })
    }

    /// The longest list of ids that comes out, special tokens included.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Ids of each text, in order; texts are spread over the current thread pool.
    ///
    /// # Errors
    /// [`Error::Tokenize`] with the text's position.
    pub fn encode<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Tokens>> {
        texts.par_iter().enumerate().map(|(i, text)| self.tokens(text.as_ref(), i)).collect()
    }

    /// Ids of one text, on this thread.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn encode_one(&self, text: &str) -> Result<Tokens> {
        self.tokens(text, 0)
    }

    fn tokens(&self, text: &str, index: usize) -> Result<Tokens> {
        let fast = self.fast.as_ref().and_then(|fast| fast.encode(text, &self.tokenizer));
        let mut ids = match fast {
            Some(ids) => ids,
            None => {
                let encoding = self.tokenizer.encode_fast(text, true);
                encoding.map_err(|e| Error::Tokenize { index, reason: e.to_string() })?.get_ids().to_vec()
            }
        };
        let full_len = ids.len();
        if full_len > self.max_length {
            // As Hugging Face cuts: the text from the right, the special tokens behind it stay.
            ids.drain(self.max_length - self.tail..full_len - self.tail);
            ids.shrink_to_fit();
        }
        Ok(Tokens { ids, full_len })
    }

    /// The parts of a text, uncut, with their places.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn pieces(&self, text: &str) -> Result<Vec<Piece>> {
        let encoding: Encoding =
            self.tokenizer.encode(text, true).map_err(|e| Error::Tokenize { index: 0, reason: e.to_string() })?;
        let places = encoding.get_offsets().iter().zip(encoding.get_special_tokens_mask());
        let tokens = encoding.get_ids().iter().zip(encoding.get_tokens());
        Ok(tokens
            .zip(places)
            .map(|((&id, text), (&(start, stop), &special))| Piece {
                id,
                text: text.clone(),
                special: special == 1,
                start,
                stop,
            })
            .collect())
    }

    /// The text of token ids, near to what they came from: case, accents and spaces that the tokenizer removed are gone, and an id that
    /// several entries of the vocabulary share is the first of them.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let failed = |e: tokenizers::Error| Error::Tokenize { index: 0, reason: e.to_string() };
        if self.names.is_empty() {
            return self.tokenizer.decode(ids, skip_special).map_err(failed);
        }
        // As the crate does it, but for the names.
        let special = self.tokenizer.get_added_vocabulary();
        let name = |id: &u32| self.names.get(id).cloned().or_else(|| self.tokenizer.id_to_token(*id));
        let tokens: Vec<String> =
            ids.iter().filter_map(name).filter(|name| !skip_special || !special.is_special_token(name)).collect();
        match self.tokenizer.get_decoder() {
            Some(decoder) => decoder.decode(tokens).map_err(failed),
            None => Ok(tokens.join(" ")),
        }
    }
}

/// An entry whose id a model of `vocab` tokens does not have.
fn out_of(vocab: usize, entries: impl IntoIterator<Item = (String, u32)>) -> Option<(String, u32)> {
    entries.into_iter().find(|&(_, id)| id as usize >= vocab)
}

/// The first name in the file of each id that has several: the crate would pick any of them, another one in each process.
fn shared_names(Vocabulary(entries): &Vocabulary) -> HashMap<u32, String> {
    let mut first: HashMap<u32, &str, ahash::RandomState> =
        HashMap::with_capacity_and_hasher(entries.len(), Default::default());
    let mut names = HashMap::new();
    for (name, id) in entries {
        match first.entry(*id) {
            Entry::Vacant(place) => _ = place.insert(name),
            Entry::Occupied(place) => _ = names.entry(*id).or_insert_with(|| place.get().to_string()),
        }
    }
    names
}
