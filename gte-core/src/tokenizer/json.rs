//! Reads a `tokenizer.json` in one pass. Reading the vocabulary takes most of the start (XLM-R's
//! has a quarter of a million pieces), so its names are borrowed from the file and passed to the
//! model as they are. The crate `tokenizers` would first build a tree of the whole file. The format
//! is that of <https://github.com/huggingface/tokenizers>,
//! `tokenizers/src/tokenizer/serialization.rs`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The file's content. Missing parts are null or empty.
#[derive(Default, Deserialize)]
pub(super) struct TokenizerJson<'a> {
    #[serde(default)]
    version: Value,
    #[serde(default)]
    pub(super) truncation: Value,
    #[serde(default)]
    pub(super) padding: Value,
    #[serde(default)]
    pub(super) added_tokens: Value,
    #[serde(default)]
    pub(super) normalizer: Value,
    #[serde(default)]
    pub(super) pre_tokenizer: Value,
    #[serde(default)]
    pub(super) post_processor: Value,
    #[serde(default)]
    pub(super) decoder: Value,
    #[serde(default, borrow)]
    pub(super) model: Model<'a>,
}

/// The model in the file.
#[derive(Default)]
pub(super) struct Model<'a> {
    /// All keys except the long ones.
    pub(super) options: Map<String, Value>,
    pub(super) vocab: Vocab<'a>,
    /// For a BPE, the pairs of tokens that are merged, in order of priority.
    pub(super) merges: Option<Vec<(Cow<'a, str>, Cow<'a, str>)>>,
}

/// The vocabulary.
#[derive(Default)]
pub(super) enum Vocab<'a> {
    #[default]
    Missing,
    /// Names and their ids, in the order of the file.
    Names(Vec<(Cow<'a, str>, u32)>),
    /// The pieces of a Unigram with their scores, as they are written. The index is the id.
    Pieces(Vec<(Cow<'a, str>, &'a str)>),
}

impl<'a> TokenizerJson<'a> {
    /// Parses the content of a file.
    pub(super) fn read(json: &'a [u8]) -> Result<Self, String> {
        let read: Self = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        match &read.version {
            Value::Null => Ok(read),
            version if version == "1.0" => Ok(read),
            version => Err(format!("`version` is {version}, expected \"1.0\"")),
        }
    }
}

impl Model<'_> {
    /// The model's type. If the file does not name it, the type that matches its keys, as in the
    /// crate.
    pub(super) fn kind(&self) -> Option<&str> {
        match (self.options.get("type"), &self.vocab) {
            (Some(kind), _) => kind.as_str(),
            (None, Vocab::Pieces(_)) => Some("Unigram"),
            (None, Vocab::Names(_)) if self.merges.is_some() => Some("BPE"),
            (None, Vocab::Names(_)) if self.options.contains_key("max_input_chars_per_word") => Some("WordPiece"),
            (None, Vocab::Names(_)) => Some("WordLevel"),
            (None, Vocab::Missing) => None,
        }
    }
}

impl Vocab<'_> {
    /// Names and ids.
    pub(super) fn entries(&self) -> Box<dyn Iterator<Item = (&str, u32)> + '_> {
        match self {
            Self::Missing => Box::new(std::iter::empty()),
            Self::Names(names) => Box::new(names.iter().map(|(name, id)| (name.as_ref(), *id))),
            Self::Pieces(pieces) => Box::new((0..).zip(pieces).map(|(id, (name, _))| (name.as_ref(), id))),
        }
    }
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// A merge: a pair, or both parts in one string, separated by a space.
struct Merge<'a>(Cow<'a, str>, Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Model<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Model<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a model")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut model = Model::default();
                while let Some(Name(key)) = map.next_key()? {
                    match key.as_ref() {
                        "vocab" => model.vocab = map.next_value()?,
                        "merges" => {
                            let merges: Option<Vec<Merge<'de>>> = map.next_value()?;
                            model.merges = merges.map(|all| all.into_iter().map(|Merge(a, b)| (a, b)).collect());
                        }
                        _ => _ = model.options.insert(key.into_owned(), map.next_value()?),
                    }
                }
                Ok(model)
            }
        }
        deserializer.deserialize_map(Visit)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Vocab<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Vocab<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary: names and their ids, or pieces and their scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut names = Vec::new();
                while let Some((Name(name), id)) = map.next_entry()? {
                    names.push((name, id));
                }
                Ok(Vocab::Names(names))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut pieces = Vec::new();
                while let Some((Name(name), score)) = list.next_element::<(Name<'de>, &'de RawValue)>()? {
                    pieces.push((name, score.get()));
                }
                Ok(Vocab::Pieces(pieces))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Vocab::Missing)
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Merge<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge: two tokens")
            }

            fn visit_borrowed_str<E: serde::de::Error>(self, line: &'de str) -> Result<Self::Value, E> {
                let (a, b) = parts(line)?;
                Ok(Merge(a.into(), b.into()))
            }

            fn visit_str<E: serde::de::Error>(self, line: &str) -> Result<Self::Value, E> {
                let (a, b) = parts(line)?;
                Ok(Merge(a.to_owned().into(), b.to_owned().into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let two = (list.next_element()?, list.next_element()?, list.next_element::<Name<'de>>()?);
                match two {
                    (Some(Name(a)), Some(Name(b)), None) => Ok(Merge(a, b)),
                    _ => Err(A::Error::custom("a merge that is not two tokens")),
                }
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

fn parts<E: serde::de::Error>(line: &str) -> Result<(&str, &str), E> {
    let two = line.split_once(' ').filter(|(_, b)| !b.contains(' '));
    two.ok_or_else(|| E::custom(format!("the merge {line:?} is not two tokens with a space between them")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn a_vocabulary_is_read_in_all_its_forms() {
        let read = |json: &'static str| TokenizerJson::read(json.as_bytes());
        let unigram =
            read(r#"{"version": "1.0", "model": {"unk_id": 0, "vocab": [["<unk>", 0.0], ["\u2581a", -1.5]]}}"#)
                .unwrap();
        assert_eq!(unigram.model.kind(), Some("Unigram"));
        assert_eq!(unigram.model.vocab.entries().collect::<Vec<_>>(), [("<unk>", 0), ("▁a", 1)]);
        let bpe = read(r#"{"model": {"merges": ["a b", ["c", "d e"]], "vocab": {"a": 3, "b": 1}}}"#).unwrap();
        assert_eq!(bpe.model.kind(), Some("BPE"));
        assert_eq!(bpe.model.vocab.entries().collect::<Vec<_>>(), [("a", 3), ("b", 1)]);
        assert_eq!(bpe.model.merges.unwrap(), [("a".into(), "b".into()), ("c".into(), "d e".into())]);
        let word_piece = read(r#"{"model": {"max_input_chars_per_word": 9, "vocab": {"a": 0}}}"#).unwrap();
        assert_eq!(word_piece.model.kind(), Some("WordPiece"));
        assert!(read(r#"{"version": "2.0"}"#).is_err_and(|e| e.contains("2.0")));
        for broken in
            [r#"{"model": {"vocab": 3}}"#, r#"{"model": {"merges": ["a"]}}"#, r#"{"model": {"merges": [["a"]]}}"#]
        {
            assert!(read(broken).is_err(), "{broken}");
        }
    }
}
