//! Text to pieces: where a document is cut, so that each piece is about one thing and fits the
//! model.

use std::ops::Range;

use gte_core::{Embedder, TokenizeOptions};
use text_splitter::{ChunkConfig, MarkdownSplitter, TextSplitter, TryChunkSizer};

use crate::error::Result;
use crate::extract::Kind;

/// A piece of a document's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Its characters, counted in the text: what both databases and the page count in.
    pub characters: Range<usize>,
    /// The text between.
    pub text: &'a str,
}

/// Cuts `text` into pieces of at most `tokens` tokens of the embedder, at the ends of sections,
/// paragraphs, sentences or words, whichever is the largest that fits. Pieces do not overlap.
///
/// # Errors
/// [`gte_core::Error::Tokenize`].
pub fn cut<'a>(text: &'a str, kind: Kind, embedder: &Embedder, tokens: usize) -> Result<Vec<Piece<'a>>> {
    let config = ChunkConfig::new(tokens).with_sizer(Tokens(embedder));
    let pieces: Vec<_> = match kind {
        Kind::Markdown => MarkdownSplitter::new(config).try_chunk_char_indices(text).collect(),
        Kind::Text | Kind::Html | Kind::Pdf => TextSplitter::new(config).try_chunk_char_indices(text).collect(),
    };
    pieces
        .into_iter()
        .map(|piece| {
            let piece = piece?;
            let (start, text) = (piece.char_offset, piece.chunk);
            Ok(Piece { characters: start..start + text.chars().count(), text })
        })
        .collect()
}

/// Length in tokens of the model that will read the piece.
struct Tokens<'a>(&'a Embedder);

impl TryChunkSizer for Tokens<'_> {
    type Error = gte_core::Error;

    fn try_size(&self, chunk: &str) -> gte_core::Result<usize> {
        Ok(self.0.tokenize_one(chunk, &TokenizeOptions::default())?.full_len)
    }
}
