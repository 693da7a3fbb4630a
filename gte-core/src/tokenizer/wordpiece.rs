//! BERT's WordPiece, fast: computes the same ids as the crate `tokenizers`, at tens of millions of
//! characters per second.
//!
//! The rules for characters are not written down again here: the crate is asked once per character,
//! and its result is remembered. In BERT's tokenizer, the result depends only on the character
//! itself (cleaning, spaces around Chinese characters, accents, case: `tokenize` in
//! `bert/tokenization.py`, <https://github.com/google-research/bert>), so that most Chinese texts
//! need one table look-up per character. The bundled model's tokenizer, which looks for words in
//! runs of Chinese characters, is handled too. Texts with anything more complicated (a combining
//! mark, the name of a special token, an unknown script) are left to the crate as a whole.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tokenizers::{
    AddedToken, Model, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
};

use super::json::{TokenizerJson, Vocab};
use super::model::Pipeline;
use super::names::Names;

/// Blocks whose characters were observed to be independent of their neighbours: letters with their
/// accents, symbols, signs, kana, Chinese.
const SIMPLE: [(u32, u32); 19] = [
    (0x0000, 0x02FF),
    (0x0370, 0x03A2), // without Σ, whose lower case depends on its position in some libraries
    (0x03A4, 0x0482),
    (0x048A, 0x052F),
    (0x1E00, 0x206F),
    (0x20A0, 0x20BF),
    (0x2100, 0x27BF),
    (0x2900, 0x2BFF),
    (0x3000, 0x3029),
    (0x3030, 0x3098),
    (0x309B, 0x30FF),
    (0x3105, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFE30, 0xFE4F),
    (0xFF00, 0xFF9D), // without the half-width voiced marks, which a map of characters joins with the letter before
    (0xFFA0, 0xFFEF),
    (0x1F000, 0x1FAFF),
    (0x20000, 0x2FA1F),
];

/// Number of characters in the table.
const CHARACTERS: usize = 0x2FA20;

/// What a character becomes: a kind in the upper three bits, and an id or a character below. Zero:
/// not known yet.
const KIND: u32 = 0xE000_0000;
/// A word of its own, with the token's id.
const TOKEN: u32 = 1 << 29;
/// A character of a word.
const LETTER: u32 = 2 << 29;
/// The end of a word.
const SPACE: u32 = 3 << 29;
/// Nothing.
const DROPPED: u32 = 4 << 29;
/// Not that simple.
const COMPLEX: u32 = 5 << 29;
/// A character of a run.
const RUNNING: u32 = 6 << 29;

/// The fast implementation of a plain BERT tokenizer.
pub(super) struct WordPiece {
    table: Box<[AtomicU32]>,
    starts: HashMap<Box<str>, u32, ahash::RandomState>, // tokens at the beginning of a word
    inner: HashMap<Box<str>, u32, ahash::RandomState>,  // tokens inside a word, without their prefix
    longest: usize,                                     // length of the longest token in bytes
    unknown: u32,
    max_word: usize, // length in characters beyond which a word is unknown
    max_run: usize,  // length of a run in characters
    names: Names,
}

impl WordPiece {
    /// The fast implementation for a tokenizer that is built from `json` and matches `added` before
    /// everything else; `None` for anything that differs from BERT's.
    pub(super) fn of(json: &TokenizerJson<'_>, added: &[AddedToken]) -> Option<Self> {
        let (model, Vocab::Names(entries)) = (&json.model.options, &json.model.vocab) else { return None };
        let is = |kind: &Value, names: &[&str]| kind.as_str().is_some_and(|t| names.contains(&t));
        let max_run = match &json.pre_tokenizer {
            bert if is(&bert["type"], &["BertPreTokenizer"]) => 0,
            other => max_run(other)?,
        };
        // With a map of characters before BERT's normalizer, each character still becomes what it
        // becomes alone.
        let normalizer = match json.normalizer["normalizers"].as_array().map(Vec::as_slice) {
            Some([map, bert]) if is(&map["type"], &["Precompiled"]) => bert,
            _ => &json.normalizer,
        };
        let plain = is(&normalizer["type"], &["BertNormalizer"]) && json.model.kind() == Some("WordPiece");
        if !plain || added.iter().any(|token| token.normalized) {
            return None;
        }
        let prefix = model.get("continuing_subword_prefix")?.as_str()?;
        type Map = HashMap<Box<str>, u32, ahash::RandomState>;
        let (mut starts, mut inner) =
            (Map::with_capacity_and_hasher(entries.len(), Default::default()), Map::default());
        for (token, id) in entries {
            if let Some(rest) = token.strip_prefix(prefix).filter(|rest| !rest.is_empty()) {
                inner.insert(rest.into(), *id);
            }
            starts.insert(token.as_ref().into(), *id);
        }
        let unknown = starts.get(model.get("unk_token")?.as_str()?).copied()?;
        let longest = starts.keys().map(|token| token.len()).max()?;
        Some(Self {
            table: (0..CHARACTERS).map(|_| AtomicU32::new(0)).collect(),
            starts,
            inner,
            longest,
            unknown,
            max_run,
            max_word: model.get("max_input_chars_per_word")?.as_u64()? as usize,
            names: Names::new(added.iter()),
        })
    }

    /// All ids of `text`, without special tokens; `None` if the text must be left to the crate.
    pub(super) fn encode<M: Model>(&self, text: &str, pipeline: &Pipeline<M>) -> Option<Vec<u32>> {
        if self.names.may_be_in(text) {
            return None;
        }
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        let (mut word, mut run) = (String::new(), 0); // length of the run that the word is; 0 if it is not a run
        for c in text.chars() {
            let known = self.table.get(c as usize)?;
            let mut entry = known.load(Ordering::Relaxed);
            if entry == 0 {
                entry = self.ask(c, pipeline);
                known.store(entry, Ordering::Relaxed);
            }
            let goes_on = match entry & KIND {
                LETTER => run == 0,
                RUNNING => 0 < run && run < self.max_run,
                DROPPED => continue,
                TOKEN | SPACE => false,
                _ => return None,
            };
            if !goes_on {
                if !word.is_empty() {
                    self.push_word(&word, &mut ids);
                    word.clear();
                }
                run = 0;
            }
            match entry & KIND {
                TOKEN => ids.push(entry & !KIND),
                SPACE => {}
                kind => {
                    word.push(char::from_u32(entry & !KIND)?);
                    run += usize::from(kind == RUNNING);
                }
            }
        }
        if !word.is_empty() {
            self.push_word(&word, &mut ids);
        }
        Some(ids)
    }

    /// Greedy, longest match first, as the model was trained. A word with a part that is in no
    /// token is unknown as a whole.
    fn push_word(&self, word: &str, ids: &mut Vec<u32>) {
        let first = ids.len();
        let (mut rest, mut tokens) = (word, &self.starts);
        while !rest.is_empty() {
            let mut end = rest.floor_char_boundary(self.longest);
            let id = loop {
                if end == 0 {
                    break None;
                }
                match tokens.get(&rest[..end]) {
                    Some(&id) => break Some(id),
                    None => end = rest.floor_char_boundary(end - 1),
                }
            };
            let Some(id) = id.filter(|_| word.len() <= self.max_word || word.chars().count() <= self.max_word) else {
                ids.truncate(first);
                ids.push(self.unknown);
                return;
            };
            ids.push(id);
            rest = &rest[end..];
            tokens = &self.inner;
        }
    }

    /// What the crate makes of a character between two letters.
    fn ask<M: Model>(&self, c: char, pipeline: &Pipeline<M>) -> u32 {
        if !SIMPLE.iter().any(|&(first, last)| (first..=last).contains(&(c as u32))) {
            return COMPLEX;
        }
        let pieces = |text: String| -> Option<Vec<String>> {
            let mut text = NormalizedString::from(text);
            pipeline.get_normalizer()?.normalize(&mut text).ok()?;
            let mut words = PreTokenizedString::from(text);
            pipeline.get_pre_tokenizer()?.pre_tokenize(&mut words).ok()?;
            let words = words.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
            Some(words.into_iter().map(|(word, ..)| word.to_owned()).collect())
        };
        let Some(parts) = pieces(format!("a{c}a")) else { return COMPLEX };
        match &parts.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["aa"] => DROPPED,
            ["a", "a"] => SPACE,
            [word] => {
                let mut letters = word.strip_prefix('a').and_then(|w| w.strip_suffix('a')).unwrap_or("").chars();
                match (letters.next(), letters.next()) {
                    (Some(letter), None) => LETTER | letter as u32,
                    _ => COMPLEX,
                }
            }
            ["a", word, "a"] => {
                if self.max_run > 0 && pieces(format!("{c}{c}")).is_some_and(|doubled| doubled.len() == 1) {
                    let mut letters = word.chars();
                    return match (letters.next(), letters.next()) {
                        (Some(letter), None) => RUNNING | letter as u32,
                        _ => COMPLEX,
                    };
                }
                let mut ids = Vec::new();
                self.push_word(word, &mut ids);
                match ids[..] {
                    [id] if id & KIND == 0 => TOKEN | id,
                    _ => COMPLEX,
                }
            }
            _ => COMPLEX,
        }
    }
}

/// The length of the runs into which `pre_tokenizer` splits certain characters, after splitting as
/// BERT does; `None` for anything else. They are described by a regular expression: a class, how
/// many of its characters form a run, and a second class, whose characters each stand alone.
fn max_run(pre_tokenizer: &Value) -> Option<usize> {
    let [bert, split] = &pre_tokenizer["pretokenizers"].as_array()?[..] else { return None };
    let kind = |part: &Value| part["type"].as_str().map(str::to_owned);
    let is_run = kind(bert)? == "BertPreTokenizer"
        && kind(split)? == "Split"
        && split["behavior"] == "Isolated"
        && split["invert"] == false;
    let (run, alone) = split["pattern"]["Regex"].as_str()?.split_once("}|[")?;
    let (class, most) = run.strip_prefix('[')?.split_once("]{1,")?;
    // The class contains only characters and ranges beyond ASCII, so no letter of a Latin word is
    // part of a run.
    let is_class = |inside: &str| inside.chars().all(|c| c == '-' || !c.is_ascii());
    most.parse().ok().filter(|_| is_run && is_class(class) && alone.strip_suffix(']').is_some_and(is_class))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use std::path::Path;

    use proptest::prelude::*;

    use tokenizers::Tokenizer;

    use super::super::tests::{bundled_json, minilm_json};
    use super::*;

    /// MiniLM's tokenizer, whose special tokens are BERT's, and its fast implementation, with and
    /// without folding case and accents.
    fn both(folding: bool) -> (Tokenizer, WordPiece) {
        let mut json = minilm_json();
        json["normalizer"]["lowercase"] = folding.into();
        both_of(json)
    }

    /// The same for the bundled model, which looks for words in runs of Chinese characters.
    fn bundled() -> (Tokenizer, WordPiece) {
        both_of(bundled_json())
    }

    fn both_of(mut json: Value) -> (Tokenizer, WordPiece) {
        (json["truncation"], json["padding"]) = (Value::Null, Value::Null);
        let json = json.to_string();
        let tokenizer = Tokenizer::from_bytes(&json).unwrap();
        let added: Vec<AddedToken> = tokenizer.get_added_tokens_decoder().into_values().collect();
        let fast = WordPiece::of(&TokenizerJson::read(json.as_bytes()).unwrap(), &added).expect("it is BERT's");
        (tokenizer, fast)
    }

    /// Whether the fast implementation computed the text; if so, its result must be correct.
    fn agree((tokenizer, fast): &(Tokenizer, WordPiece), text: &str) -> bool {
        let Some(found) = fast.encode(text, tokenizer) else { return false };
        assert_eq!(found, tokenizer.encode_fast(text, false).unwrap().get_ids(), "{text:?}");
        true
    }

    #[test]
    fn every_character_has_the_ids_of_the_crate_in_every_place() {
        for both in [both(true), both(false), bundled()] {
            let mut known = 0;
            for c in (0..CHARACTERS as u32 + 9).filter_map(char::from_u32) {
                for text in [
                    format!("{c}"),
                    format!("play{c}ing"),
                    format!("{c}{c} 天{c}气{c}天气·{c}"),
                    format!("e{c}\u{301}x"),
                ] {
                    known += u32::from(agree(&both, &text));
                }
            }
            assert!(known > 100_000, "only {known} texts went the fast way");
        }
    }

    #[test]
    fn real_texts_go_the_fast_way() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundled/train/data");
        for both in [both(true), bundled()] {
            for domain in ["service", "life", "tech", "business", "culture"] {
                for line in std::fs::read_to_string(data.join(format!("{domain}.pairs.tsv"))).unwrap().lines() {
                    assert!(agree(&both, line), "left to the crate: {line}");
                    // Very long runs.
                    let run: String = line.chars().filter(|&c| c >= '一').collect();
                    assert!(agree(&both, &run.repeat(3)), "left to the crate: {run}");
                }
            }
        }
    }

    #[test]
    fn runs_that_are_told_in_any_other_way_are_left_to_the_crate() {
        let split = |pattern: &str, behavior: &str| {
            serde_json::json!({"type": "Sequence", "pretokenizers": [
                {"type": "BertPreTokenizer"},
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": false}]})
        };
        assert_eq!(max_run(&split("[一-龥]{1,32}|[㐀-鿿]", "Isolated")), Some(32));
        for pattern in [
            "[一-龥]+",
            "[一-龥]{1,32}",
            "[^a]{1,32}|[b]",
            "[一-龥]{1,32}|[b]|c",
            "[a[b]{1,3}|[c]",
            "[\\w]{1,3}|[c]",
            "[a-z一]{1,3}|[二]",
        ] {
            assert_eq!(max_run(&split(pattern, "Isolated")), None, "{pattern}");
        }
        assert_eq!(max_run(&split("[一-龥]{1,32}|[㐀-鿿]", "Removed")), None);
    }

    #[test]
    fn words_without_end_and_names_of_special_tokens() {
        let both = both(true);
        for text in
            ["x".repeat(100), "x".repeat(101), "é".repeat(100), "é".repeat(101), "zzzzqqqq的qqqq".into(), String::new()]
        {
            assert!(agree(&both, &text));
        }
        assert!(!agree(&both, "a [SEP] b"), "a special token's name is the crate's to find");
    }

    proptest! {
        #[test]
        fn any_text_has_the_ids_of_the_crate(text in "\\PC{0,40}", latin in "[a-zA-Z0-9à-ÿ .,'#-]{0,60}", chinese in "[一-龥，。？！a-z 0-9]{0,40}") {
            static ALL: std::sync::LazyLock<[(Tokenizer, WordPiece); 2]> = std::sync::LazyLock::new(|| [both(true), bundled()]);
            for text in [&text, &latin, &chinese, &format!("{latin}{text}{chinese}")] {
                for both in &*ALL {
                    agree(both, text);
                }
            }
        }
    }
}
