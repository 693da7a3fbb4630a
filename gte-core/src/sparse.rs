//! `SparseEmbedder`: text in, weights of token ids out.

use crate::batch::Sequence;
use crate::config::ModelConfig;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::files::ModelFiles;
use crate::options::{Builder, Door, sealed};
use crate::outputs::{Outputs, SparseEmbeddings};
use crate::tokenizer::{TokenizeOptions, Tokenizer, Tokens};

/// A model with a weight per token, such as bge-m3 or gte-multilingual-base. Every method takes
/// `&self` and may be called from many threads at once.
///
/// ```
/// use gte_core::SparseEmbedder;
///
/// // A tiny model of this crate's tests, with random weights. For production:
/// // SparseEmbedder::builder("BAAI/bge-m3").build()
/// let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/families/bge-m3");
/// let weights = SparseEmbedder::from_dir(model)?.embed(&["怎么退货？", "How do I return it?"])?;
/// assert_eq!(weights.len(), 2);
/// let (ids, values) = weights.get(0).expect("two texts");
/// assert!(ids.is_sorted() && values.iter().all(|&weight| weight > 0.0));
/// # Ok::<(), gte_core::Error>(())
/// ```
pub struct SparseEmbedder {
    engine: Engine,
}

impl Door for SparseEmbedder {}

impl sealed::Open for SparseEmbedder {
    const SCORES: bool = false;

    fn open(engine: Engine) -> Result<Self> {
        if engine.heads.sparse.is_none() {
            return Err(Error::MissingFile {
                model: engine.name.clone(),
                file: "sparse_linear.pt".into(),
                hint: "it contains the layer for token weights, and the model is not a token classifier with one label either",
            });
        }
        Ok(Self { engine })
    }
}

impl SparseEmbedder {
    /// Builds a model from a directory or hub id, with settings.
    pub fn builder(model: impl Into<String>) -> Builder<Self> {
        Builder::new(model)
    }

    /// Builds a model from files that are already open, with settings.
    pub fn from_files(files: ModelFiles) -> Builder<Self> {
        Builder::from_files(files)
    }

    /// Opens a model in a local directory, with default settings.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn from_dir(dir: impl AsRef<std::path::Path>) -> Result<Self> {
        Self::from_files(ModelFiles::from_dir(dir)?).build()
    }

    /// The weights of the tokens of each text, in order, with the model's own default prompt.
    ///
    /// # Errors
    /// [`Error::Tokenize`], [`Error::Device`].
    pub fn embed<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<SparseEmbeddings> {
        self.embed_tokens(&self.tokenize_with(texts, &TokenizeOptions::default())?)
    }

    /// The token ids of each text, in order, truncated to `max_length`.
    ///
    /// # Errors
    /// As [`Embedder::tokenize_with`](crate::Embedder::tokenize_with).
    pub fn tokenize_with<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        options: &TokenizeOptions<'_>,
    ) -> Result<Vec<Tokens>> {
        self.engine.tokenize(texts, options)
    }

    /// The weights for each list of token ids, in order.
    ///
    /// # Errors
    /// As [`Embedder::embed_tokens`](crate::Embedder::embed_tokens).
    pub fn embed_tokens<T: Sequence + Sync>(&self, texts: &[T]) -> Result<SparseEmbeddings> {
        let outputs = Outputs { sparse: true, ..Outputs::default() };
        Ok(self.engine.all_outputs(texts, outputs)?.sparse.unwrap_or_default())
    }

    /// What the model is.
    pub fn config(&self) -> &ModelConfig {
        &self.engine.config
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.engine.tokenizer
    }
}

impl std::fmt::Debug for SparseEmbedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SparseEmbedder({}, {}, {})", self.engine.name, self.engine.precision, self.engine.place())
    }
}
