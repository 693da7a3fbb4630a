//! `Tokens`: the ids of one text or pair, and the options for computing them.

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::prompts::Prompt;

/// The tokens of one text, or of a pair of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Tokens {
    /// Token ids, including special tokens: at most the tokenizer's `max_length`.
    pub ids: Vec<u32>,
    /// The type of each token, as in BERT's pairs; empty if all are 0.
    pub types: Vec<u8>,
    /// Number of tokens before truncation.
    pub full_len: usize,
    /// Number of leading tokens that belong to the prompt, including special tokens before it,
    /// counted as in sentence-transformers: `include_prompt: false` leaves them out of pooling. 0
    /// without a prompt. It may exceed the number of tokens by a few if the prompt alone fills the
    /// model.
    pub prompt_len: usize,
}

impl Tokens {
    /// Token ids from another source. `full_len` is their number before truncation.
    pub fn from_ids(ids: Vec<u32>, full_len: usize) -> Self {
        Self { ids, full_len, ..Self::default() }
    }

    /// Token ids from another source, truncated to `max_length` on `side`, without regard to
    /// special tokens.
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

    /// Whether there are no tokens: for an empty text and a tokenizer that adds no special tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Whether the text was truncated.
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
#[non_exhaustive]
pub struct Piece {
    /// Its id.
    pub id: u32,
    /// The vocabulary's entry.
    pub text: String,
    /// Whether it is a special token, which covers no part of the text.
    pub special: bool,
    /// Position of its first byte in the text.
    pub start: usize,
    /// Position after its last byte in the text.
    pub stop: usize,
}

/// The side on which a long text is truncated. Special tokens around it stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TruncationSide {
    /// At the end of the text.
    #[default]
    Right,
    /// At its beginning.
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

    /// In upper or lower case.
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

/// How the texts of a call become tokens. The default follows the model's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenizeOptions<'a> {
    /// The prompt before each text. Default: [`Prompt::Default`].
    pub prompt: Prompt<'a>,
    /// The side on which a long text is truncated. Default: `truncation_side` in the model's files,
    /// or else [`TruncationSide::Right`].
    pub truncation_side: Option<TruncationSide>,
}

impl<'a> TokenizeOptions<'a> {
    /// The same, with this prompt before each text.
    #[must_use]
    pub fn with_prompt(self, prompt: Prompt<'a>) -> Self {
        Self { prompt, ..self }
    }

    /// The same, with texts cut at this side; `None`: as the model's files say.
    #[must_use]
    pub fn with_truncation_side(self, side: impl Into<Option<TruncationSide>>) -> Self {
        Self { truncation_side: side.into(), ..self }
    }
}
