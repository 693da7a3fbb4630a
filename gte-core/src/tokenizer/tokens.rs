//! `Tokens`, the ids of one text or pair, and how a caller wants them made.

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::prompts::Prompt;

/// The tokens of one text, or of a pair of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Tokens {
    /// Token ids, special tokens included, at most as many as the tokenizer's `max_length`.
    pub ids: Vec<u32>,
    /// The type of each token, as BERT's pairs have them; empty where all are 0.
    pub types: Vec<u8>,
    /// How many tokens there were before the text was cut.
    pub full_len: usize,
    /// Leading tokens that belong to the prompt, the special tokens before it included: those that `include_prompt: false` leaves out
    /// of pooling, counted as sentence-transformers does. 0 where there is no prompt. It may exceed the number of tokens by a few
    /// where the prompt alone fills the model.
    pub prompt_len: usize,
}

impl Tokens {
    /// Ids that were made elsewhere, of which `full_len` were there before a cut.
    pub fn from_ids(ids: Vec<u32>, full_len: usize) -> Self {
        Self { ids, full_len, ..Self::default() }
    }

    /// Ids that were made elsewhere, of which `max_length` stay: cut at `side`, whatever stands there.
    pub fn cut(mut ids: Vec<u32>, max_length: usize, side: TruncationSide) -> Self {
        let full_len = ids.len();
        match side {
            TruncationSide::Right => ids.truncate(max_length),
            TruncationSide::Left => drop(ids.drain(..full_len.saturating_sub(max_length))),
        }
        Self::from_ids(ids, full_len)
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none: an empty text of a tokenizer that adds no special tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Whether the text was longer than it is now.
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

/// The end at which a text that is too long loses tokens; special tokens around it stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TruncationSide {
    /// The end of the text.
    #[default]
    Right,
    /// Its beginning.
    Left,
}

impl TruncationSide {
    /// `right` or `left`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Left => "left",
        }
    }
}

impl std::fmt::Display for TruncationSide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TruncationSide {
    type Err = Error;

    /// In any case of letters.
    fn from_str(name: &str) -> Result<Self> {
        [Self::Right, Self::Left].into_iter().find(|side| side.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
            Error::InvalidOption {
                option: "truncation_side",
                value: format!("{name:?}"),
                expected: "right or left".into(),
            }
        })
    }
}

/// How the texts of a call become tokens. The default is what the model's files say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenizeOptions<'a> {
    /// What stands before each text. Default: [`Prompt::Default`].
    pub prompt: Prompt<'a>,
    /// Where a text that is too long is cut. Default: `truncation_side` of the model's files, else [`TruncationSide::Right`].
    pub truncation_side: Option<TruncationSide>,
}
