//! What `tokens.rs` and `wordpiece.rs` read themselves of a `tokenizer.json`, beside the crate `tokenizers`. The vocabulary is the longest part of
//! a small model's start, so it is read once, here, and a WordPiece's handed to the crate, which would make a tree of it first. The format is that of
//! <https://github.com/huggingface/tokenizers>, `tokenizers/src/tokenizer/serialization.rs`.

use std::borrow::Cow;

use ahash::{AHashMap, AHashSet};
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::{ModelWrapper, Tokenizer};

/// The file; what it lacks is null or empty, and the crate's to complain about.
#[derive(Deserialize)]
pub(crate) struct TokenizerJson<'a> {
    #[serde(default)]
    pub(crate) normalizer: Value,
    #[serde(default)]
    pub(crate) pre_tokenizer: Value,
    #[serde(default)]
    pub(crate) post_processor: Value,
    #[serde(default)]
    pub(crate) added_tokens: Value,
    #[serde(default, borrow)]
    pub(crate) model: Model<'a>,
}

#[derive(Default, Deserialize)]
pub(crate) struct Model<'a> {
    #[serde(default, rename = "type")]
    pub(crate) kind: Value,
    #[serde(default)]
    pub(crate) unk_token: Value,
    #[serde(default)]
    pub(crate) continuing_subword_prefix: Value,
    #[serde(default)]
    pub(crate) max_input_chars_per_word: Value,
    #[serde(borrow)]
    vocab: Option<&'a RawValue>,
}

impl<'a> TokenizerJson<'a> {
    /// The model's vocabulary.
    pub(crate) fn vocabulary(&self) -> Result<Vocabulary<'a>, serde_json::Error> {
        self.model.vocab.map_or_else(|| Ok(Vocabulary::default()), |vocab| serde_json::from_str(vocab.get()))
    }

    /// The crate's tokenizer of the file `json`, of which this and `vocabulary` were read.
    pub(crate) fn tokenizer(&self, json: &[u8], Vocabulary(entries): &Vocabulary) -> tokenizers::Result<Tokenizer> {
        let Some(vocab) = self.model.vocab.filter(|_| self.model.kind == "WordPiece") else {
            return Tokenizer::from_bytes(json);
        };
        let added = self.added_tokens.as_array().map(Vec::as_slice).unwrap_or_default();
        let names: AHashSet<&str> = added.iter().filter_map(|token| token["content"].as_str()).collect();
        let kept = entries.iter().filter(|(name, _)| names.contains(name.as_ref()));
        let kept: serde_json::Map<_, _> = kept.map(|(name, id)| (name.to_string(), (*id).into())).collect();
        if kept.len() < added.len() {
            return Tokenizer::from_bytes(json);
        }
        // A file with no more than the added tokens, which have their ids from the vocabulary; the rest of it as it was read.
        let start = vocab.get().as_ptr().addr() - json.as_ptr().addr();
        let small = [&json[..start], &serde_json::to_vec(&kept)?, &json[start + vocab.get().len()..]].concat();
        let mut tokenizer = Tokenizer::from_bytes(small)?;
        if let ModelWrapper::WordPiece(read) = tokenizer.get_model() {
            let whole = WordPiece::builder()
                .vocab(entries.iter().map(|(name, id)| (name.to_string(), *id)).collect::<AHashMap<_, _>>())
                .unk_token(read.unk_token.clone())
                .continuing_subword_prefix(read.continuing_subword_prefix.clone())
                .max_input_chars_per_word(read.max_input_chars_per_word)
                .build()?;
            tokenizer.with_model(whole);
        }
        Ok(tokenizer)
    }
}

/// Names and their ids, in the order of the file; empty where it is no map, as in Unigram's.
#[derive(Default)]
pub(crate) struct Vocabulary<'a>(pub(crate) Vec<(Cow<'a, str>, u32)>);

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Vocabulary<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Vocabulary<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a vocabulary: names and their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((Name(name), id)) = map.next_entry()? {
                    entries.push((name, id));
                }
                Ok(Vocabulary(entries))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Vocabulary::default())
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Vocabulary::default())
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use std::path::Path;

    use super::*;

    /// MiniLM's file.
    pub(crate) fn minilm() -> Value {
        let dir = std::env::var("GTE_MINILM")
            .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../target/models/all-MiniLM-L6-v2").into());
        read(&dir)
    }

    /// The bundled model's.
    pub(crate) fn bundled() -> Value {
        read(concat!(env!("CARGO_MANIFEST_DIR"), "/bundled"))
    }

    fn read(dir: &str) -> Value {
        let json = std::fs::read(Path::new(dir).join("tokenizer.json")).expect("run `make models`");
        serde_json::from_slice(&json).unwrap()
    }

    /// What the crate makes of the whole file, and what we make of it with the vocabulary read apart.
    fn both(json: &Value) -> (Tokenizer, Tokenizer) {
        let json = serde_json::to_vec(json).unwrap();
        let settings: TokenizerJson = serde_json::from_slice(&json).unwrap();
        let own = settings.tokenizer(&json, &settings.vocabulary().unwrap()).unwrap();
        (Tokenizer::from_bytes(&json).unwrap(), own)
    }

    #[test]
    fn a_vocabulary_that_is_read_apart_makes_the_same_tokenizer() {
        let mut beyond = minilm();
        beyond["added_tokens"].as_array_mut().unwrap().push(serde_json::json!({
            "id": 30522, "content": "<new>", "special": false,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        }));
        for json in [minilm(), bundled(), beyond] {
            let (whole, own) = both(&json);
            // All but the vocabulary, of which the crate writes one name an id, whichever comes first.
            let rest = |tokenizer: &Tokenizer| {
                let mut json = serde_json::to_value(tokenizer).unwrap();
                json["model"]["vocab"] = Value::Null;
                json
            };
            assert!(rest(&whole) == rest(&own), "another file");
            assert!(whole.get_vocab(true) == own.get_vocab(true), "another vocabulary");
            for text in ["怎么退货？ [SEP] unbelievably", "<new>龘 退貨", ""] {
                let (whole, own) = (whole.encode(text, true).unwrap(), own.encode(text, true).unwrap());
                assert_eq!(whole.get_ids(), own.get_ids(), "{text}");
                assert_eq!(whole.get_offsets(), own.get_offsets(), "{text}");
            }
        }
    }

    #[test]
    fn what_is_no_word_piece_is_left_to_the_crate() {
        let unigram = serde_json::json!({"version": "1.0", "added_tokens": [],
            "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]}});
        let (whole, own) = both(&unigram);
        assert_eq!(whole.get_vocab(true), own.get_vocab(true));
        // What the crate would complain about it still complains about.
        for broken in [r#"{"model": {"type": "WordPiece", "vocab": {"a": 0}}}"#, r#"{"model": {"vocab": 3}}"#, "{}"] {
            let settings: TokenizerJson = serde_json::from_str(broken).unwrap();
            let own = settings.vocabulary().map_err(Into::into).and_then(|v| settings.tokenizer(broken.as_bytes(), &v));
            assert!(own.is_err(), "{broken}");
        }
    }
}
