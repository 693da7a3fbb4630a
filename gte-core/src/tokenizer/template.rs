//! `Template`: the special tokens around a text, or around and between the texts of a pair, with
//! the type of each token. It is derived from the tokenizer's post-processor once, so that texts
//! are truncated, and counted, before they are put into it.

use tokenizers::{Encoding, PostProcessor, PostProcessorWrapper, Token};

use super::tokens::Tokens;

/// What the post-processor makes of `N` texts.
#[derive(Clone, Debug)]
pub(super) struct Template<const N: usize> {
    parts: Vec<TemplatePart>,
    special: usize, // number of special tokens
}

#[derive(Clone, Copy, Debug)]
struct TemplatePart {
    what: What,
    token_type: u8,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Special(u32),
    Text(usize),
}

impl<const N: usize> Template<N> {
    /// Derived by processing texts of one token each, with ids that no vocabulary has. Without
    /// `types` all types are 0.
    pub(super) fn of(processor: Option<&PostProcessorWrapper>, types: bool) -> Result<Self, String> {
        let token_of = |text: usize| u32::MAX - text as u32;
        let mut texts =
            (0..N).map(|text| Encoding::from_tokens(vec![Token::new(token_of(text), "a".into(), (0, 1))], text as u32));
        let (first, second) = (texts.next().unwrap_or_default(), texts.next());
        let filled = match processor {
            Some(processor) => processor.process(first, second, true).map_err(|e| e.to_string())?,
            None => Encoding::merge([Some(first), second].into_iter().flatten(), false),
        };
        let mut parts = Vec::with_capacity(filled.len());
        for (&id, &token_type) in filled.get_ids().iter().zip(filled.get_type_ids()) {
            let token_type = if types { token_type } else { 0 };
            let token_type = u8::try_from(token_type).map_err(|_| format!("token type {token_type} is too large"))?;
            let what = (0..N).find(|&text| token_of(text) == id).map_or(What::Special(id), What::Text);
            parts.push(TemplatePart { what, token_type });
        }
        for text in 0..N {
            if parts.iter().filter(|p| matches!(p.what, What::Text(t) if t == text)).count() != 1 {
                return Err(format!("its post-processor does not have exactly one place for text {} of {N}", text + 1));
            }
        }
        Ok(Self { special: parts.len() - N, parts })
    }

    /// Number of special tokens.
    pub(super) fn special(&self) -> usize {
        self.special
    }

    /// The ids of the special tokens.
    pub(super) fn special_ids(&self) -> impl Iterator<Item = u32> {
        self.parts.iter().filter_map(|part| match part.what {
            What::Special(id) => Some(id),
            What::Text(_) => None,
        })
    }

    /// Puts `texts` into the template. `full_len` is their number of tokens before truncation.
    pub(super) fn fill(&self, texts: [&[u32]; N], full_len: usize) -> Tokens {
        let len = self.special + texts.iter().map(|ids| ids.len()).sum::<usize>();
        let mut ids = Vec::with_capacity(len);
        let typed = self.parts.iter().any(|part| part.token_type != 0);
        let mut types = Vec::with_capacity(if typed { len } else { 0 });
        for part in &self.parts {
            match part.what {
                What::Special(id) => ids.push(id),
                What::Text(text) => ids.extend_from_slice(texts[text]),
            }
            if typed {
                types.resize(ids.len(), part.token_type);
            }
        }
        Tokens { ids, types, full_len, prompt_len: 0 }
    }
}
