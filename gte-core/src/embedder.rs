//! `Embedder`: text in, unit vectors out.

use crate::batch::{MaxBatchTokens, Sequence};
use crate::compute::Work;
use crate::config::ModelConfig;
use crate::device::Precision;
use crate::embedding::Embeddings;
use crate::engine::Engine;
use crate::error::{Error, Result};
#[cfg(feature = "hub")]
use crate::files::HubOptions;
use crate::files::ModelFiles;
use crate::kernels::{Isa, NumberFormat};
use crate::options::{Builder, Door, sealed};
use crate::outputs::{AllEmbeddings, Outputs};
use crate::profile::Profile;
use crate::prompts::{Prompt, Prompts};
use crate::tokenizer::{TokenizeOptions, Tokenizer, Tokens, TruncationSide};
use crate::windows::{WindowedEmbedding, Windows};

/// An embedding model. Every method takes `&self` and may be called from many threads at once.
///
/// A text's vector is the same bit for bit, whether the text is embedded alone or in any batch, in
/// any order, with any number of threads.
///
/// ```
/// use gte_core::Embedder;
///
/// let embedder = Embedder::bundled()?;
/// let vectors = embedder.embed(&["怎么退货？", "How do I return it?"])?;
/// assert_eq!((vectors.len(), vectors.dim()), (2, embedder.dim()));
/// # Ok::<(), gte_core::Error>(())
/// ```
pub struct Embedder {
    engine: Engine,
}

impl Door for Embedder {}

impl sealed::Open for Embedder {
    const SCORES: bool = false;

    fn open(engine: Engine) -> Result<Self> {
        Ok(Self { engine })
    }
}

/// How [`Embedder::embed_with`] computes vectors. The default follows the model's files.
///
/// ```
/// use gte_core::{EmbedOptions, Embedder, Prompt};
///
/// let options = EmbedOptions::default().with_prompt(Prompt::Text("query: ")).with_dimensions(128);
/// let vectors = Embedder::bundled()?.embed_with(&["怎么退货？"], &options)?;
/// assert_eq!(vectors.dim(), 128);
/// # Ok::<(), gte_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct EmbedOptions<'a> {
    /// The prompt before each text. Default: the model's own default prompt, if it has one.
    pub prompt: Prompt<'a>,
    /// The side on which long texts are truncated. Default: as in the model's files, or else the
    /// end.
    pub truncation_side: Option<TruncationSide>,
    /// Number of values per vector: only the first values are kept, scaled to unit length again.
    /// Default: all of them.
    pub dimensions: Option<usize>,
}

impl<'a> EmbedOptions<'a> {
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

    /// The same, with vectors of this many values; `None`: all that the model gives.
    #[must_use]
    pub fn with_dimensions(self, dimensions: impl Into<Option<usize>>) -> Self {
        Self { dimensions: dimensions.into(), ..self }
    }
}

impl Embedder {
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

    /// Opens the small model that is part of this crate: 384 dimensions, Chinese and English, for
    /// trials and tests. For production, use for example `thenlper/gte-large-zh`.
    ///
    /// # Errors
    /// As [`Builder::build`], if threads cannot be started.
    #[cfg(feature = "bundled")]
    pub fn bundled() -> Result<Self> {
        Self::from_files(ModelFiles::bundled()).build()
    }

    /// Opens a model by its hub id, for example `thenlper/gte-large-zh` or
    /// `modelscope:iic/nlp_gte_sentence-embedding_chinese-large`, with default settings.
    ///
    /// # Errors
    /// As [`Builder::build`].
    #[cfg(feature = "hub")]
    pub fn from_hub(id: &str) -> Result<Self> {
        Self::from_files(ModelFiles::from_hub(id, &HubOptions::from_env()?)?).build()
    }

    /// The unit vector of each text, in order: (texts × dim). The model's own default prompt, if it
    /// has one, is put before each text. An empty list gives no vectors; an empty text has the
    /// vector of its special tokens. Texts longer than `max_length` are truncated;
    /// [`tokenize`](Self::tokenize) tells which.
    ///
    /// # Errors
    /// [`Error::Tokenize`], [`Error::Device`].
    pub fn embed<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Embeddings> {
        self.embed_tokens(&self.tokenize(texts)?)
    }

    /// As [`embed`](Self::embed), with `options`.
    ///
    /// # Errors
    /// As [`embed`](Self::embed); [`Error::InvalidOption`] for a prompt or dimensions that the
    /// model does not have.
    pub fn embed_with<S: AsRef<str> + Sync>(&self, texts: &[S], options: &EmbedOptions<'_>) -> Result<Embeddings> {
        let tokenize = TokenizeOptions { prompt: options.prompt, truncation_side: options.truncation_side };
        let vectors = self.embed_tokens(&self.tokenize_with(texts, &tokenize)?)?;
        match options.dimensions {
            Some(dimensions) => vectors.truncate(dimensions),
            None => Ok(vectors),
        }
    }

    /// The token ids of each text with the model's own default prompt, in order, truncated to
    /// `max_length`, and the number of tokens before truncation.
    ///
    /// # Errors
    /// [`Error::Tokenize`] with the text's position.
    pub fn tokenize<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Tokens>> {
        self.engine.tokenize_plain(texts)
    }

    /// As [`tokenize`](Self::tokenize), with any prompt and side of truncation.
    ///
    /// # Errors
    /// [`Error::Tokenize`] with the text's position; [`Error::InvalidOption`] for a prompt that the
    /// model does not have.
    pub fn tokenize_with<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        options: &TokenizeOptions<'_>,
    ) -> Result<Vec<Tokens>> {
        self.engine.tokenize(texts, options)
    }

    /// As [`tokenize_with`](Self::tokenize_with), for one text on the calling thread, so that it
    /// does not wait for the pool, which may be busy.
    ///
    /// # Errors
    /// As [`tokenize_with`](Self::tokenize_with).
    pub fn tokenize_one(&self, text: &str, options: &TokenizeOptions<'_>) -> Result<Tokens> {
        self.engine.tokenize_one(text, options)
    }

    /// The prompts in the model's files, by name.
    pub fn prompts(&self) -> &Prompts {
        &self.engine.config.prompts
    }

    /// The unit vector of each list of token ids, in order: (texts × dim). The ids are used as they
    /// are, so they must include the special tokens.
    ///
    /// # Errors
    /// [`Error::TokenCount`] for an empty list and one beyond the model's positions,
    /// [`Error::TokenId`] for an id outside the vocabulary, [`Error::Device`].
    pub fn embed_tokens<T: Sequence + Sync>(&self, texts: &[T]) -> Result<Embeddings> {
        self.normalize(self.pool_tokens(texts)?)
    }

    /// The pooled vector of each list of token ids, as the model computes it, not scaled to unit
    /// length: (texts × dim), row after row.
    ///
    /// # Errors
    /// As [`embed_tokens`](Self::embed_tokens).
    pub fn pool_tokens<T: Sequence + Sync>(&self, texts: &[T]) -> Result<Vec<f32>> {
        self.engine.pool(texts, &Work::DENSE)
    }

    /// As [`embed_tokens`](Self::embed_tokens), but writes the vectors to `out`: (texts × dim), row
    /// after row, for callers that already have memory for them.
    ///
    /// # Errors
    /// As [`embed_tokens`](Self::embed_tokens); [`Error::OutputLength`] if `out` does not have
    /// exactly this many values.
    pub fn embed_tokens_into<T: Sequence + Sync>(&self, texts: &[T], out: &mut [f32]) -> Result<()> {
        if out.len() != texts.len() * self.dim() {
            return Err(Error::OutputLength { expected: texts.len() * self.dim(), found: out.len() });
        }
        if self.engine.ends_with_vectors() {
            self.engine.pool_into(texts, out, &Work::DENSE)?;
        } else {
            out.copy_from_slice(&self.engine.pool(texts, &Work::DENSE)?);
        }
        out.chunks_exact_mut(self.dim()).for_each(self.engine.kernels.normalize);
        Ok(())
    }

    /// Which of `texts` are computed together, in order, for callers that want to do something
    /// between two forward passes.
    ///
    /// # Errors
    /// As [`embed_tokens`](Self::embed_tokens).
    pub fn batches<T: Sequence>(&self, texts: &[T]) -> Result<Vec<std::ops::Range<usize>>> {
        self.engine.batches(texts)
    }

    /// Scales pooled vectors, row after row, to unit length: the second half of
    /// [`embed_tokens`](Self::embed_tokens).
    ///
    /// # Errors
    /// [`Error::Rows`] if `pooled` is not a whole number of rows.
    pub fn normalize(&self, mut pooled: Vec<f32>) -> Result<Embeddings> {
        pooled.chunks_exact_mut(self.dim()).for_each(self.engine.kernels.normalize);
        Embeddings::from_unit_rows(pooled, self.dim())
    }

    /// The vector of a text that may be longer than the model's limit, computed window by window,
    /// with the model's own default prompt. A text that fits into one window has the same vector as
    /// with [`embed`](Self::embed).
    ///
    /// ```
    /// use gte_core::{Embedder, Windows};
    ///
    /// let embedder = Embedder::bundled()?;
    /// let long = "七天之内可以退货。".repeat(100);
    /// let vector = embedder.embed_windows(&long, &Windows::new(128).with_overlap(32))?;
    /// assert!(vector.windows > 1 && vector.embedding.len() == embedder.dim());
    /// # Ok::<(), gte_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`embed`](Self::embed); [`Error::InvalidOption`] for windows that are impossible with
    /// this model.
    pub fn embed_windows(&self, text: &str, windows: &Windows) -> Result<WindowedEmbedding> {
        let prompt = self.engine.config.prompts.resolve(Prompt::Default)?;
        let (tokens, length) = windows.of(&self.engine.tokenizer, prompt, text)?;
        let vectors = self.embed_tokens(&tokens)?;
        let combined = match vectors.len() {
            1 => vectors.into_vec(),
            _ => self.normalize(windows.combine.of(vectors.as_slice(), self.dim()))?.into_vec(),
        };
        Ok(WindowedEmbedding { embedding: combined, tokens: length, windows: tokens.len() })
    }

    /// Those of `outputs` that the model has, for each list of token ids, all of one forward pass.
    ///
    /// # Errors
    /// As [`embed_tokens`](Self::embed_tokens); [`Error::Unsupported`] for an output that the model
    /// does not have.
    pub fn embed_all<T: Sequence + Sync>(&self, texts: &[T], outputs: Outputs) -> Result<AllEmbeddings> {
        self.engine.all_outputs(texts, outputs)
    }

    /// The outputs that the model has besides a vector per text.
    pub fn outputs(&self) -> Outputs {
        self.engine.outputs()
    }

    /// The vectors of a corpus that need not fit into memory. Texts are read as they are needed,
    /// and vectors come in their order, in pieces of up to 1024 texts.
    pub fn embed_iter<I>(&self, texts: I) -> impl Iterator<Item = Result<Embeddings>> + use<'_, I>
    where
        I: IntoIterator<Item: AsRef<str> + Sync>,
    {
        let mut texts = texts.into_iter();
        std::iter::from_fn(move || {
            let piece: Vec<_> = texts.by_ref().take(1024).collect();
            (!piece.is_empty()).then(|| self.embed(&piece))
        })
    }

    /// The loaded model, for a scheduler of several models.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The model's id on a hub, or its directory's name.
    pub fn name(&self) -> &str {
        &self.engine.name
    }

    /// Number of values per vector.
    pub fn dim(&self) -> usize {
        self.engine.config.dim
    }

    /// What the model is.
    pub fn config(&self) -> &ModelConfig {
        &self.engine.config
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.engine.tokenizer
    }

    /// Length in tokens at which texts are truncated.
    pub fn max_length(&self) -> usize {
        self.engine.tokenizer.max_length()
    }

    /// Where the time of forward passes was spent since the model was loaded; only for
    /// [`Device::Cpu`](crate::Device::Cpu).
    #[doc(hidden)]
    pub fn profile(&self) -> Profile {
        self.engine.profile()
    }

    /// The maximum number of multiply-adds per second of one thread of this CPU, with the
    /// instructions that the linear layers use, measured on registers alone in some tenths of a
    /// second. None if there is no such measurement.
    #[doc(hidden)]
    pub fn peak(&self) -> Option<f64> {
        self.engine.kernels.peak(match self.engine.precision {
            Precision::Bf16 => Some(NumberFormat::Bf16),
            Precision::Int8 => Some(NumberFormat::Int8),
            _ => None,
        })
    }

    /// The number type of matrix multiplications.
    pub fn precision(&self) -> Precision {
        self.engine.precision
    }

    /// The instruction set of the kernels.
    pub fn isa(&self) -> Isa {
        self.engine.kernels.isa
    }

    /// Number of threads in its pool.
    pub fn threads(&self) -> usize {
        self.engine.threads.count()
    }

    /// Maximum number of tokens computed together.
    pub fn max_batch_tokens(&self) -> MaxBatchTokens {
        self.engine.max_batch_tokens()
    }
}

impl std::fmt::Debug for Embedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Embedder({}, {} dimensions, {}, {}, {} threads)",
            self.name(),
            self.dim(),
            self.precision(),
            self.engine.place(),
            self.threads()
        )
    }
}
