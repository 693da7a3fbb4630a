//! XLM-RoBERTa's tokenizer, fast: computes the same ids as the crate `tokenizers` for a map of
//! characters, words that begin at white space or at `▁`, and a Unigram, at many millions of
//! characters per second.
//!
//! What the map makes of a character is computed by the crate and remembered, in blocks of 256
//! characters. The crate maps whole graphemes, and a short grapheme by its shortest match: `ｅ` with
//! an accent becomes only `e`. Characters that may join their neighbours are therefore found by the
//! rules for graphemes, and mapped by the crate together with a neighbour on either side. A text
//! that contains the name of a token is left to the crate.

use std::sync::{Arc, OnceLock};

use serde_json::Value;
use tokenizers::{AddedToken, Model, NormalizedString, Normalizer, NormalizerWrapper};
use unicode_segmentation::UnicodeSegmentation;

use super::json::TokenizerJson;
use super::model::Pipeline;
use super::names::Names;
use super::unigram::{Letter, Scratch, Unigram};

/// Stands for a space, and begins a word.
const SPACE: char = '▁';

/// The following values are not letters, and lie beyond all characters. This one is the end of a
/// word.
const END: u32 = 1 << 22;
/// The character becomes nothing.
const NOTHING: u32 = END + 1;
/// The character becomes several: `first` is their position in the block's list, and their number.
const SEVERAL: u32 = END + 2;
/// The character may join its neighbours.
const JOINING: u32 = END + 3;

/// Number of characters per block.
const BLOCK: usize = 256;

pub(super) struct SentencePiece {
    unigram: Arc<Unigram>,
    blocks: Box<[OnceLock<Box<Block>>]>,
    at_white_space: bool, // whether words end at white space; otherwise spaces are `▁`
    prepend: bool,        // whether a word begins with `▁`
    names: Names,
    mapped_names: Vec<Vec<u32>>, // names of tokens that are matched after the map
}

struct Block {
    letters: [Letter; BLOCK],
    several: Vec<Letter>,
}

impl SentencePiece {
    /// The fast implementation for a tokenizer that is built from `json`, matches `added` before
    /// everything else, and has this normalizer; `None` for anything that differs from
    /// XLM-RoBERTa's.
    pub(super) fn of(
        json: &TokenizerJson<'_>,
        added: &[AddedToken],
        unigram: Arc<Unigram>,
        normalizer: Option<&NormalizerWrapper>,
    ) -> Option<Self> {
        let metaspace = |part: &Value| {
            let scheme = part["prepend_scheme"].as_str().unwrap_or("always");
            let is_it = part["type"] == "Metaspace" && part["replacement"] == "▁" && part["split"] != false;
            (is_it && scheme != "first").then_some(scheme == "always")
        };
        let (at_white_space, prepend) = match json.pre_tokenizer["pretokenizers"].as_array().map(Vec::as_slice) {
            Some([split, part]) if split["type"] == "WhitespaceSplit" => (true, metaspace(part)?),
            Some(_) => return None,
            None => (false, metaspace(&json.pre_tokenizer)?),
        };
        if !json.normalizer.is_null() && json.normalizer["type"] != "Precompiled" {
            return None;
        }
        let mut mapped_names = Vec::new();
        for token in added.iter().filter(|token| token.normalized) {
            let name = mapped(&token.content, normalizer)?;
            if name.is_empty() || name.contains(char::is_whitespace) || name.contains(SPACE) {
                return None;
            }
            mapped_names.push(name.chars().map(u32::from).collect());
        }
        Some(Self {
            unigram,
            blocks: (0..=char::MAX as usize / BLOCK).map(|_| OnceLock::new()).collect(),
            at_white_space,
            prepend,
            names: Names::new(added.iter().filter(|token| !token.normalized)),
            mapped_names,
        })
    }

    /// All ids of `text`, without special tokens; `None` if the text must be left to the crate.
    pub(super) fn encode<M: Model>(&self, text: &str, pipeline: &Pipeline<M>) -> Option<Vec<u32>> {
        if self.names.may_be_in(text) {
            return None;
        }
        let letters = self.letters(text, pipeline.get_normalizer())?;
        let named = |name: &Vec<u32>| {
            let starts = letters.iter().enumerate().filter(|(_, letter)| letter.letter == name[0]);
            starts.into_iter().any(|(i, _)| {
                letters
                    .get(i..i + name.len())
                    .is_some_and(|part| part.iter().map(|l| l.letter).eq(name.iter().copied()))
            })
        };
        if letters.is_empty() || self.mapped_names.iter().any(named) {
            return None;
        }
        let mut ids = Vec::with_capacity(letters.len() / 2 + 2);
        let (mut word, mut scratch) = (Vec::new(), Scratch::default());
        let space = self.unigram.letter(SPACE);
        for part in letters.split(|letter| letter.letter == END).filter(|part| !part.is_empty()) {
            word.clear();
            if self.prepend {
                word.push(space);
            }
            // If the first letter of a part is already a space, it replaces the space before it.
            let skip = usize::from(self.prepend && part[0].letter == space.letter);
            for &letter in &part[skip..] {
                if letter.letter == space.letter && !word.is_empty() {
                    self.unigram.push_word(&word, &mut ids, &mut scratch)?;
                    word.clear();
                }
                word.push(letter);
            }
            self.unigram.push_word(&word, &mut ids, &mut scratch)?;
        }
        Some(ids)
    }

    /// What the map makes of a text.
    fn letters(&self, text: &str, normalizer: Option<&NormalizerWrapper>) -> Option<Vec<Letter>> {
        let mut letters = Vec::with_capacity(text.len() / 2 + 2);
        let mut at = 0;
        let mut before = None; // start of the previous character, and the number of letters before it
        while let Some(c) = text[at..].chars().next() {
            let block = self.block(c, normalizer);
            let letter = block.letters[c as usize % BLOCK];
            if letter.letter == JOINING {
                let (start, len) = before.unwrap_or((at, letters.len()));
                at = self.joined(text, at, normalizer);
                letters.truncate(len);
                letters.extend(mapped(&text[start..at], normalizer)?.chars().map(|c| self.letter(c)));
                before = None;
                continue;
            }
            before = Some((at, letters.len()));
            match letter.letter {
                NOTHING => {}
                SEVERAL => {
                    let start = letter.first as usize / BLOCK;
                    letters.extend_from_slice(&block.several[start..start + letter.first as usize % BLOCK]);
                }
                _ => letters.push(letter),
            }
            at += c.len_utf8();
        }
        Some(letters)
    }

    /// The end of the characters that may belong to the joining character at `at`: one after the
    /// last of them, which does not join.
    fn joined(&self, text: &str, at: usize, normalizer: Option<&NormalizerWrapper>) -> usize {
        let mut alone = 0;
        let mut chars = text[at..].char_indices();
        let end = chars.find(|&(_, c)| {
            let joins = self.block(c, normalizer).letters[c as usize % BLOCK].letter == JOINING;
            alone = if joins { 0 } else { alone + 1 };
            alone == 2
        });
        end.map_or(text.len(), |(i, _)| at + i)
    }

    fn block(&self, c: char, normalizer: Option<&NormalizerWrapper>) -> &Block {
        let number = c as usize / BLOCK;
        self.blocks[number].get_or_init(|| {
            let mut block = Block { letters: [Letter { letter: JOINING, first: 0 }; BLOCK], several: Vec::new() };
            for (i, letter) in block.letters.iter_mut().enumerate() {
                let Some(c) = char::from_u32((number * BLOCK + i) as u32) else { continue };
                if normalizer.is_some() && joins(c) {
                    continue;
                }
                let Some(text) = mapped(c.encode_utf8(&mut [0; 4]), normalizer) else { continue };
                let mut chars = text.chars();
                *letter = match (chars.next(), chars.next()) {
                    (None, _) => Letter { letter: NOTHING, first: 0 },
                    (Some(c), None) => self.letter(c),
                    (Some(_), Some(_)) => {
                        let (start, count) = (block.several.len(), text.chars().count());
                        if count >= BLOCK {
                            continue;
                        }
                        block.several.extend(text.chars().map(|c| self.letter(c)));
                        Letter { letter: SEVERAL, first: (start * BLOCK + count) as u32 }
                    }
                };
            }
            Box::new(block)
        })
    }

    /// A character after the map.
    fn letter(&self, c: char) -> Letter {
        match c {
            ' ' if !self.at_white_space => self.unigram.letter(SPACE),
            c if self.at_white_space && c.is_whitespace() => Letter { letter: END, first: 0 },
            c => self.unigram.letter(c),
        }
    }
}

/// What the crate's map makes of a text.
fn mapped(text: &str, normalizer: Option<&NormalizerWrapper>) -> Option<String> {
    let mut text = NormalizedString::from(text);
    if let Some(normalizer) = normalizer {
        normalizer.normalize(&mut text).ok()?;
    }
    Some(text.get().to_owned())
}

/// Whether this character forms one grapheme with some other character.
fn joins(c: char) -> bool {
    let one = |text: String| text.graphemes(true).count() == 1;
    c == '\r' || one(format!("a{c}")) || one(format!("{c}a")) || one(format!("{c}{c}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use std::path::Path;
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use serde_json::json;
    use tokenizers::Tokenizer as Theirs;

    use super::super::tests::{all_kinds, bundled_json, ours};
    use super::super::{Fast, Tokenizer};
    use super::*;

    /// Files of this kind: several whose pieces are the words of the bundled model, with scores
    /// that are often equal, split at white space or only at spaces, without a map; and the file
    /// named by `GTE_XLMR`, of a real model.
    static ALL: LazyLock<Vec<(Theirs, Tokenizer)>> = LazyLock::new(|| {
        let bundled = bundled_json();
        let mut pieces: Vec<(String, f64)> =
            ["<s>", "<pad>", "</s>", "<unk>"].map(|name| (name.to_owned(), 0.0)).into();
        let names: Vec<&String> = bundled["model"]["vocab"].as_object().unwrap().keys().collect();
        for (i, name) in names.iter().enumerate() {
            let score = -3.0 - 0.25 * (i % 29) as f64 - 1.7 * name.chars().count() as f64;
            match name.strip_prefix("##") {
                Some(rest) => pieces.push((rest.to_owned(), score)),
                None if i % 2 == 0 => pieces.push((format!("▁{name}"), score)),
                None => pieces.push(((*name).clone(), score)),
            }
        }
        pieces.push(("▁".into(), -4.0));
        pieces.push(("<mask>".into(), 0.0));
        let kinds = all_kinds();
        let mut files: Vec<Value> = kinds[..3].iter().map(|(_, file)| file.clone()).collect();
        for file in &mut files {
            file["model"] = json!({ "type": "Unigram", "unk_id": 3, "vocab": pieces, "byte_fallback": false });
        }
        files.push(kinds[2].1.clone());
        files.extend(
            std::env::var_os("GTE_XLMR").map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()),
        );
        files.iter().map(|file| (Theirs::from_bytes(file.to_string()).unwrap(), ours(file, 1 << 20).unwrap())).collect()
    });

    /// Whether the fast implementation computed the text; if so, its result must be correct.
    fn agree((theirs, ours): &(Theirs, Tokenizer), text: &str) -> bool {
        let Some(Fast::SentencePiece(fast)) = ours.fast.as_deref() else { panic!("it is XLM-R's") };
        let Some(found) = fast.encode(text, theirs) else { return false };
        assert_eq!(found, theirs.encode_fast(text, false).unwrap().get_ids(), "{text:?}");
        true
    }

    #[test]
    fn every_character_has_the_ids_of_the_crate_in_every_place() {
        // The files with a map, and that of a real model, if given.
        for both in [&ALL[0], &ALL[1]].into_iter().chain(ALL.get(4)) {
            let mut known = 0;
            for c in
                (0..=char::MAX as u32).filter_map(char::from_u32).filter(|&c| !('\u{30000}'..'\u{e0000}').contains(&c))
            {
                for text in
                    [format!("{c}"), format!("play{c}ing {c}{c} 天{c}气e{c}\u{301}x\u{200d}{c}한{c}\u{1F1E8}{c}")]
                {
                    known += u32::from(agree(both, &text));
                }
            }
            assert!(known > 300_000, "only {known} texts went the fast way");
        }
    }

    #[test]
    fn real_texts_go_the_fast_way() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundled/train/data");
        for both in &*ALL {
            for domain in ["service", "life", "tech", "business", "culture"] {
                for line in std::fs::read_to_string(data.join(format!("{domain}.pairs.tsv"))).unwrap().lines() {
                    assert!(agree(both, line), "left to the crate: {line}");
                }
            }
        }
    }

    #[test]
    fn names_of_tokens_in_a_text_are_left_to_the_crate() {
        for both in &ALL[..2] {
            assert!(agree(both, "a < b > c"));
            assert!(!agree(both, "a</s>b"));
            assert!(!agree(both, "a ＜mask＞ b"), "it is the name once the map has seen it");
            assert!(!agree(both, "a <mask> b"));
        }
    }

    #[test]
    fn long_words_and_ties_have_the_ids_of_the_crate() {
        for both in &*ALL {
            for part in ["ーーー", "啊", "ab", "哈哈哈", "zzzq", "龘", "。。", "天气", "▁", "  "] {
                for times in [1, 2, 3, 5, 8, 13, 200, 3000] {
                    agree(both, &part.repeat(times));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_has_the_ids_of_the_crate(
            any in any::<String>(), text in "\\PC{0,40}", latin in "[a-zA-Z0-9à-ÿ .,'#-]{0,60}",
            chinese in "[一-龥，。？！a-z 0-9]{0,40}", joined in "[\\p{M}\\p{Zs}한각ᄀ-ᇿ\u{200d}\u{1F1E6}-\u{1F1FF}👩ｅａ०-९क-ह\r\n]{0,30}",
        ) {
            for text in [&any, &text, &latin, &chinese, &joined, &format!("{latin}{text}{chinese}{joined}")] {
                for both in &*ALL {
                    agree(both, text);
                }
            }
        }
    }
}
