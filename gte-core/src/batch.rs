//! Which texts are computed together, and their layout: end to end, without padding.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::models::PositionRule;
use crate::tokenizer::Tokens;

/// A text as a model reads it: token ids and what belongs to them.
pub trait Sequence {
    /// Token ids, including special tokens.
    fn ids(&self) -> &[u32];
    /// One token type per token; empty if all are 0.
    fn types(&self) -> &[u8] {
        &[]
    }
    /// The number of leading tokens that belong to the text's prompt.
    fn prompt_len(&self) -> usize {
        0
    }
}

impl Sequence for [u32] {
    fn ids(&self) -> &[u32] {
        self
    }
}

impl<const N: usize> Sequence for [u32; N] {
    fn ids(&self) -> &[u32] {
        self
    }
}

impl Sequence for Vec<u32> {
    fn ids(&self) -> &[u32] {
        self
    }
}

impl Sequence for Tokens {
    fn ids(&self) -> &[u32] {
        &self.ids
    }
    fn types(&self) -> &[u8] {
        &self.types
    }
    fn prompt_len(&self) -> usize {
        self.prompt_len
    }
}

impl<T: Sequence + ?Sized> Sequence for Arc<T> {
    fn ids(&self) -> &[u32] {
        (**self).ids()
    }
    fn types(&self) -> &[u8] {
        (**self).types()
    }
    fn prompt_len(&self) -> usize {
        (**self).prompt_len()
    }
}

impl<T: Sequence + ?Sized> Sequence for &T {
    fn ids(&self) -> &[u32] {
        (**self).ids()
    }
    fn types(&self) -> &[u8] {
        (**self).types()
    }
    fn prompt_len(&self) -> usize {
        (**self).prompt_len()
    }
}

/// Texts end to end in one sequence of token ids. There is no padding, so that no work is wasted
/// and no mask is needed.
///
/// Text `i` is `ids[starts[i]..starts[i + 1]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedBatch {
    ids: Vec<u32>,        // (tokens)
    starts: Vec<usize>,   // (texts + 1), or empty
    types: Vec<u8>,       // (tokens), or empty where all are 0
    unpooled: Vec<usize>, // (texts), or empty where all are 0
}

impl PackedBatch {
    /// Packs texts in their order.
    ///
    /// # Errors
    /// [`Error::TokenCount`] for a text without tokens: a text has at least its special tokens.
    pub fn new<T: Sequence>(texts: impl IntoIterator<Item = T>) -> Result<Self> {
        let mut batch = Self::default();
        for text in texts {
            batch.push(&text, 0..text.ids().len(), 0)?;
        }
        Ok(batch)
    }

    /// Adds the tokens `tokens` of one text. Pooling leaves out the first `unpooled` of them.
    pub(crate) fn push<T: Sequence>(&mut self, text: &T, tokens: Range<usize>, unpooled: usize) -> Result<()> {
        if tokens.is_empty() {
            return Err(Error::TokenCount { found: 0, max: usize::MAX });
        }
        if self.starts.is_empty() {
            self.starts.push(0);
        }
        let (before, types) = (self.ids.len(), text.types());
        self.ids.extend_from_slice(&text.ids()[tokens.clone()]);
        if !types.is_empty() || !self.types.is_empty() {
            self.types.resize(before, 0);
            self.types.extend_from_slice(types.get(tokens).unwrap_or(&[]));
            self.types.resize(self.ids.len(), 0);
        }
        if unpooled > 0 || !self.unpooled.is_empty() {
            self.unpooled.resize(self.starts.len() - 1, 0);
            self.unpooled.push(unpooled);
        }
        self.starts.push(self.ids.len());
        Ok(())
    }

    /// Empties the batch and keeps its memory.
    pub(crate) fn clear(&mut self) {
        self.ids.clear();
        self.starts.clear();
        self.types.clear();
        self.unpooled.clear();
    }

    /// All token ids, text after text.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Number of texts.
    pub fn texts(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Where each text begins, and where the last one ends: texts + 1 values, or none for an empty
    /// batch.
    pub fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// The range of each text in the sequence of tokens.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = Range<usize>> + '_ {
        self.all().ranges()
    }

    /// The whole batch, for the operations of a device.
    pub(crate) fn all(&self) -> Texts<'_> {
        Texts { ids: &self.ids, starts: &self.starts, types: &self.types, unpooled: &self.unpooled }
    }
}

/// Consecutive texts of a batch. Positions count from the first of them.
#[derive(Clone, Copy)]
pub(crate) struct Texts<'a> {
    ids: &'a [u32],        // (tokens)
    starts: &'a [usize],   // (texts + 1), in the batch, or empty
    types: &'a [u8],       // (tokens), or empty
    unpooled: &'a [usize], // (texts), or empty
}

impl<'a> Texts<'a> {
    /// Number of texts.
    pub(crate) fn count(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Number of tokens.
    pub(crate) fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// All token ids, text after text.
    pub(crate) fn ids(&self) -> &'a [u32] {
        self.ids
    }

    /// The type of token `token`.
    pub(crate) fn type_of(&self, token: usize) -> u8 {
        self.types.get(token).copied().unwrap_or(0)
    }

    /// Number of leading tokens of text `text` that pooling leaves out.
    pub(crate) fn unpooled(&self, text: usize) -> usize {
        self.unpooled.get(text).copied().unwrap_or(0)
    }

    /// The range of text `text` in the sequence of tokens.
    pub(crate) fn range(&self, text: usize) -> Range<usize> {
        self.starts[text] - self.starts[0]..self.starts[text + 1] - self.starts[0]
    }

    /// The range of each text in the sequence of tokens.
    pub(crate) fn ranges(&self) -> impl ExactSizeIterator<Item = Range<usize>> + use<'a> {
        let texts = *self;
        (0..texts.count()).map(move |text| texts.range(text))
    }

    /// The first token of the text that contains token `token`.
    fn start_of(&self, token: usize) -> usize {
        let place = self.starts[0] + token;
        // The last text that starts at or before the token.
        self.starts[self.starts.partition_point(|&start| start <= place) - 1] - self.starts[0]
    }

    /// The index of token `token` in its text.
    pub(crate) fn index(&self, token: usize) -> usize {
        token - self.start_of(token)
    }

    /// The row of the position table for token `token`.
    pub(crate) fn position(&self, token: usize, rule: PositionRule) -> usize {
        let start = self.start_of(token);
        match rule {
            PositionRule::Index => token - start,
            PositionRule::AfterPad(pad) if self.ids[token] == pad => pad as usize,
            // Counted again for every token: that reads a few bytes, compared with megabytes of
            // weights per token.
            PositionRule::AfterPad(pad) => {
                pad as usize + self.ids[start..=token].iter().filter(|&&id| id != pad).count()
            }
        }
    }

    /// A range of these texts.
    pub(crate) fn slice(&self, texts: Range<usize>) -> Self {
        let tokens = self.starts[texts.start] - self.starts[0]..self.starts[texts.end] - self.starts[0];
        Self {
            ids: &self.ids[tokens.clone()],
            starts: &self.starts[texts.start..=texts.end],
            types: self.types.get(tokens).unwrap_or(&[]),
            unpooled: self.unpooled.get(texts).unwrap_or(&[]),
        }
    }

    /// Splits the texts into parts of consecutive texts, each with at most `tokens` tokens or a
    /// single text.
    pub(crate) fn parts(self, tokens: usize) -> impl Iterator<Item = Self> {
        neighbours(self.ranges().map(|text| text.len()), tokens).map(move |texts| self.slice(texts))
    }
}

/// Maximum number of tokens computed together. It limits the memory for activations, which is this
/// number times a few rows of the widest layer, whatever the size of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxBatchTokens(usize);

impl MaxBatchTokens {
    /// The default for `threads` threads of the CPU: 256 per thread, and at least 512. So many that
    /// each thread has parts of its own and every weight is used often after it has been read, and
    /// so few that the activations of a wide model's layer stay in the third-level cache, which
    /// grows with the number of cores. With 512 per thread, the large shape is slower by up to a
    /// quarter (Zen 3 with 32 MiB, two threads).
    pub const fn for_threads(threads: usize) -> Self {
        let tokens = threads.saturating_mul(256);
        Self(if tokens < 512 { 512 } else { tokens })
    }

    /// At most `tokens` tokens per batch. A longer text is computed alone.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for zero.
    pub fn new(tokens: usize) -> Result<Self> {
        if tokens == 0 {
            return Err(Error::InvalidOption {
                option: "max_batch_tokens",
                value: tokens.to_string(),
                expected: "at least 1 token".into(),
            });
        }
        Ok(Self(tokens))
    }

    /// Maximum number of tokens per batch.
    pub fn tokens(self) -> usize {
        self.0
    }
}

/// Splits texts with the given lengths, in tokens, into runs of consecutive texts that fit into
/// `max_batch_tokens`.
///
/// Without padding, the lengths within a batch need not be similar. Texts are therefore never
/// sorted or put back in order: a batch takes texts until the next one does not fit.
pub fn plan(lengths: &[usize], max_batch_tokens: MaxBatchTokens) -> impl Iterator<Item = Range<usize>> + '_ {
    neighbours(lengths.iter().copied(), max_batch_tokens.0)
}

/// Runs of consecutive items with the given lengths, each with a single item or a sum of at most
/// `most`.
fn neighbours(lengths: impl Iterator<Item = usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let mut lengths = lengths.peekable();
    let mut next = 0;
    std::iter::from_fn(move || {
        let start = next;
        let mut sum = lengths.next()?;
        next += 1;
        while let Some(length) = lengths.next_if(|length| sum + length <= most) {
            sum += length;
            next += 1;
        }
        Some(start..next)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_lie_end_to_end() {
        let batch = PackedBatch::new([&[1, 2, 3][..], &[4], &[5, 6]]).expect("no empty text");
        assert_eq!(batch.ids(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(batch.ranges().collect::<Vec<_>>(), [0..3, 3..4, 4..6]);
        assert_eq!((batch.texts(), batch.tokens()), (3, 6));
        assert_eq!(PackedBatch::default().texts(), 0);
        let error = PackedBatch::new([&[][..]]).expect_err("an empty list").to_string();
        assert_eq!(error, "a list of token ids is empty: a text has at least one token");
        assert!(MaxBatchTokens::new(0).is_err());
        assert_eq!([1, 2, 16].map(|threads| MaxBatchTokens::for_threads(threads).tokens()), [512, 512, 4096]);
    }

    proptest! {
        #[test]
        fn parts_have_every_text_once_and_count_from_their_first(lengths in prop::collection::vec(1usize..200, 0..40), most in 1usize..300) {
            let texts: Vec<Vec<u32>> = lengths.iter().enumerate().map(|(i, &n)| vec![i as u32; n]).collect();
            let batch = PackedBatch::new(texts.iter().map(Vec::as_slice))?;
            let mut found = Vec::new();
            for part in batch.all().parts(most) {
                prop_assert!(part.count() == 1 || part.tokens() <= most);
                prop_assert!((0..part.tokens()).map(|t| part.index(t)).eq(part.ranges().flat_map(|text| 0..text.len())));
                let half = part.count() / 2;
                prop_assert_eq!([part.slice(0..half).ids(), part.slice(half..part.count()).ids()].concat(), part.ids());
                found.extend(part.ranges().map(|text| part.ids()[text].to_vec()));
            }
            prop_assert_eq!(found, texts);
        }

        #[test]
        fn a_plan_has_every_text_once_and_keeps_the_limit(lengths in prop::collection::vec(1usize..600, 0..300), max_batch_tokens in 1usize..2000) {
            let max_batch_tokens = MaxBatchTokens::new(max_batch_tokens)?;
            let batches: Vec<_> = plan(&lengths, max_batch_tokens).collect();
            prop_assert!(batches.iter().cloned().flatten().eq(0..lengths.len()));
            let size = |texts: std::ops::Range<usize>| lengths[texts].iter().sum::<usize>();
            for (i, batch) in batches.iter().enumerate() {
                prop_assert!(batch.len() == 1 || size(batch.clone()) <= max_batch_tokens.tokens());
                if let Some(next) = batches.get(i + 1) {
                    prop_assert!(size(batch.start..next.start + 1) > max_batch_tokens.tokens(), "the next text would have fit");
                }
            }
        }
    }
}
