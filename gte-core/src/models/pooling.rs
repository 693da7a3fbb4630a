//! `Pooling`: how the hidden states of a text's tokens become one vector.

use std::str::FromStr;

use crate::error::{Error, Result};

/// How the hidden states of a text's tokens become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pooling {
    /// The first token, `[CLS]` or `<s>`: the Chinese GTE models, bge, bce, gte-multilingual.
    Cls,
    /// The mean of all tokens, including special tokens: the English GTE models, E5, all-MiniLM.
    Mean,
    /// The last token: the Qwen models.
    LastToken,
}

impl Pooling {
    /// `cls`, `mean` or `last-token`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Mean => "mean",
            Self::LastToken => "last-token",
        }
    }
}

impl std::fmt::Display for Pooling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Pooling {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::Cls, Self::Mean, Self::LastToken].into_iter().find(|p| p.name() == name).ok_or_else(|| {
            Error::InvalidOption {
                option: "pooling",
                value: name.to_owned(),
                expected: "cls, mean or last-token".into(),
            }
        })
    }
}
