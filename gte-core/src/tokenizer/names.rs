//! `Names`: whether a text may contain the name of a token that is matched before everything else.
//! Then the crate must tokenize it.

use tokenizers::AddedToken;

pub(super) struct Names {
    first: Vec<u8>, // first bytes
    names: Vec<String>,
}

impl Names {
    pub(super) fn new<'a>(tokens: impl Iterator<Item = &'a AddedToken>) -> Self {
        let names: Vec<String> = tokens.map(|token| token.content.clone()).filter(|name| !name.is_empty()).collect();
        let mut first: Vec<u8> = names.iter().map(|name| name.as_bytes()[0]).collect();
        first.sort_unstable();
        first.dedup();
        Self { first, names }
    }

    /// Most texts do not even contain the first letters of all names, `<` or `[`.
    pub(super) fn may_be_in(&self, text: &str) -> bool {
        self.first.iter().any(|first| text.as_bytes().contains(first))
            && self.names.iter().any(|name| text.contains(name.as_str()))
    }
}
