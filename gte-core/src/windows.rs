//! Texts that are longer than the model's limit: overlapping windows of tokens, and one vector from
//! their vectors.

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::tokenizer::{Tokenizer, Tokens};

/// How a long text is split into windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Windows {
    /// Number of tokens per window, including special tokens.
    pub tokens: usize,
    /// Number of tokens that a window shares with the one before it: less than half of a window, so
    /// that each window has more new tokens than old ones.
    pub overlap: usize,
    /// How the vectors of the windows become one.
    pub combine: Combine,
}

/// How the vectors of windows become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Combine {
    /// Their mean, scaled to unit length.
    #[default]
    Mean,
    /// The maximum of each value, scaled to unit length.
    Max,
}

impl Combine {
    /// `mean` or `max`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Max => "max",
        }
    }

    /// Combines the rows of `vectors` to one vector: (windows × dim), not scaled to unit length.
    pub(crate) fn of(self, vectors: &[f32], dim: usize) -> Vec<f32> {
        let mut rows = vectors.chunks_exact(dim);
        let mut combined = rows.next().map_or_else(|| vec![0.0; dim], <[f32]>::to_vec);
        for row in rows {
            combined.iter_mut().zip(row).for_each(|(all, &value)| match self {
                Self::Mean => *all += value,
                Self::Max => *all = all.max(value),
            });
        }
        combined
    }
}

impl std::fmt::Display for Combine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Combine {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::Mean, Self::Max].into_iter().find(|combine| combine.name() == name).ok_or_else(|| Error::InvalidOption {
            option: "combine",
            value: name.to_owned(),
            expected: "mean or max".into(),
        })
    }
}

/// The vector of a text that was computed window by window.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct WindowedEmbedding {
    /// A unit vector: (dim).
    pub embedding: Vec<f32>,
    /// Tokens of the text, without special ones.
    pub tokens: usize,
    /// Number of windows.
    pub windows: usize,
}

impl Windows {
    /// Windows of `tokens` tokens that do not overlap and whose vectors are averaged.
    pub fn new(tokens: usize) -> Self {
        Self { tokens, overlap: 0, combine: Combine::default() }
    }

    /// The same, each sharing this many tokens with the one before it.
    #[must_use]
    pub fn with_overlap(self, overlap: usize) -> Self {
        Self { overlap, ..self }
    }

    /// The same, with the vectors combined so.
    #[must_use]
    pub fn with_combine(self, combine: Combine) -> Self {
        Self { combine, ..self }
    }

    /// The windows of `text` after `prompt`, each in the template of a text, and the number of
    /// tokens in the text. An empty text has one window.
    pub(crate) fn of(&self, tokenizer: &Tokenizer, prompt: &str, text: &str) -> Result<(Vec<Tokens>, usize)> {
        let invalid =
            |option, value: usize, expected| Error::InvalidOption { option, value: value.to_string(), expected };
        if self.tokens > tokenizer.max_length() {
            let expected = format!("at most {}, the model's length", tokenizer.max_length());
            return Err(invalid("chunk", self.tokens, expected));
        }
        let (before, ids) = (tokenizer.encode_bare(prompt, 0)?, tokenizer.encode_bare(text, 0)?);
        let around = before.len() + tokenizer.special_tokens();
        let room = self.tokens.saturating_sub(around);
        if room == 0 {
            return Err(invalid("chunk", self.tokens, format!("more than the {around} tokens around a text")));
        }
        if self.overlap * 2 >= room && self.overlap > 0 {
            return Err(invalid("overlap", self.overlap, format!("less than half of the {room} of a window")));
        }
        let step = room - self.overlap;
        let mut windows = Vec::with_capacity(ids.len() / step + 1);
        let mut start = 0;
        loop {
            let end = (start + room).min(ids.len());
            windows.push(tokenizer.filled(&[&before[..], &ids[start..end]].concat()));
            if end == ids.len() {
                return Ok((windows, ids.len()));
            }
            start += step;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use super::*;

    #[test]
    fn vectors_are_combined_value_by_value() {
        let rows = [1.0, 0.0, -1.0, 3.0, 2.0, -2.0];
        assert_eq!(Combine::Mean.of(&rows, 3), [4.0, 2.0, -3.0]);
        assert_eq!(Combine::Max.of(&rows, 3), [3.0, 2.0, -1.0]);
        assert_eq!(Combine::Max.of(&[], 2), [0.0, 0.0]);
        assert_eq!("max".parse::<Combine>().unwrap(), Combine::Max);
        assert!("sum".parse::<Combine>().unwrap_err().to_string().contains("mean or max"));
    }
}
