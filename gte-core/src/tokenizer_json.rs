//! What `tokens.rs` and `wordpiece.rs` read themselves of a `tokenizer.json`, beside the crate `tokenizers`: in one pass, the vocabulary's
//! names not copied, since it is the longest part of a small model's start. The format is that of
//! <https://github.com/huggingface/tokenizers>, `tokenizers/src/tokenizer/serialization.rs`.

use std::borrow::Cow;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

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
    #[serde(default, borrow)]
    pub(crate) vocab: Vocabulary<'a>,
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
