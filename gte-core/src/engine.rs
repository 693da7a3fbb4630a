//! `Engine`: a loaded model behind every door. It plans batches, shares what texts begin with, and runs forward passes
//! one at a time.

use std::any::Any;
use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

use crate::backend::{Backend, pool_rows};
use crate::batch::{Budget, PackedBatch, Sequence, plan};
use crate::config::{ModelConfig, ModelTask};
use crate::device::Precision;
use crate::embedding::Embeddings;
use crate::encoder::{Encoder, Prefix};
use crate::error::{Error, Result};
use crate::files::ModelFiles;
use crate::heads::{Classifier, Dense, Sparse};
use crate::kernels::Kernels;
use crate::models::{Architecture, ClassifierSpec, Pooling, Task};
use crate::outputs::{AllEmbeddings, MultiVectors, Outputs, SparseEmbeddings};
use crate::profile::Profile;
use crate::prompts::Prompt;
use crate::threads::Threads;
use crate::tokenizer::{TokenizeOptions, Tokenizer, Tokens};
use crate::weights::Weights;

/// Tokens that texts must have in common at their beginning before it is worth a pass of its own.
const MIN_SHARED: usize = 8;

/// A model that is ready. Every method takes `&self` and may be called from many threads at once.
pub struct Engine {
    pub(crate) name: String,
    pub(crate) files: ModelFiles,
    pub(crate) config: ModelConfig,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) heads: Heads,
    pub(crate) threads: Threads,
    pub(crate) budget: Budget,
    pub(crate) kernels: &'static Kernels,
    pub(crate) precision: Precision,
    pub(crate) forward: Turns,
}

/// What stands behind the encoder.
#[derive(Default)]
pub(crate) struct Heads {
    pub(crate) dense: Vec<Dense>,
    pub(crate) classifier: Option<Classifier>,
    pub(crate) sparse: Option<Sparse>,
    pub(crate) colbert: Option<Dense>,
}

/// The forward pass, one batch at a time: each uses all threads, and the memory of activations is that of one.
pub(crate) struct Turns {
    pass: Box<dyn Forward>,
    batch: Mutex<PackedBatch>,
}

impl Turns {
    pub(crate) fn new(pass: Box<dyn Forward>) -> Self {
        Self { pass, batch: Mutex::default() }
    }
}

/// A loaded encoder on some device.
pub(crate) trait Forward: Send + Sync {
    /// Computes the pooled vectors of `batch`, whose texts go on from `shared`, into `out`: (texts × hidden). `between`
    /// is called between two layers.
    fn pooled(
        &self,
        batch: &PackedBatch,
        pooling: Pooling,
        shared: Option<&Shared>,
        out: &mut [f32],
        between: &dyn Fn(),
    ) -> Result<()>;
    /// Computes the hidden states of `batch` into `out`: (tokens × hidden).
    fn hidden(&self, batch: &PackedBatch, out: &mut [f32], between: &dyn Fn()) -> Result<()>;
    /// Computes tokens that texts are going to begin with.
    fn shared(&self, ids: &[u32]) -> Result<Shared>;
    /// Where the time went.
    fn profile(&self) -> Profile;
}

/// What texts begin with, computed: a [`Prefix`] of the device's own type.
pub(crate) struct Shared(Box<dyn Any + Send + Sync>);

/// An encoder with the device that holds it.
pub(crate) struct Pass<B: Backend> {
    backend: B,
    encoder: Encoder<B>,
}

impl<B: Backend + 'static> Pass<B> {
    pub(crate) fn load(backend: B, weights: &Weights, architecture: &Architecture) -> Result<Box<dyn Forward>> {
        let encoder = Encoder::load(&backend, weights, architecture)?;
        Ok(Box::new(Self { backend, encoder }))
    }
}

impl<B: Backend + 'static> Forward for Pass<B> {
    fn pooled(
        &self,
        batch: &PackedBatch,
        pooling: Pooling,
        shared: Option<&Shared>,
        out: &mut [f32],
        between: &dyn Fn(),
    ) -> Result<()> {
        let prefix = shared.and_then(|shared| shared.0.downcast_ref::<Prefix<B>>());
        self.encoder.pooled(&self.backend, batch, pooling, prefix, out, between)
    }

    fn hidden(&self, batch: &PackedBatch, out: &mut [f32], between: &dyn Fn()) -> Result<()> {
        self.encoder.hidden(&self.backend, batch, out, between)
    }

    fn shared(&self, ids: &[u32]) -> Result<Shared> {
        Ok(Shared(Box::new(self.encoder.prefix(&self.backend, ids)?)))
    }

    fn profile(&self) -> Profile {
        self.backend.profile()
    }
}

/// A forward pass that has paused between two layers: see
/// [`Embedder::pool_tokens_pausing`](crate::Embedder::pool_tokens_pausing).
pub struct Pause<'a> {
    engine: &'a Engine,
    layers: usize, // that are done
}

impl Pause<'_> {
    /// How much of the pass is still to be done: a share of its layers, between 0 and 1.
    pub fn left(&self) -> f64 {
        1.0 - self.layers as f64 / self.engine.config.layers as f64
    }

    /// As [`Embedder::pool_tokens`](crate::Embedder::pool_tokens), before the pass goes on. It pauses too, for what is
    /// shorter still.
    ///
    /// # Errors
    /// As [`Embedder::embed_tokens`](crate::Embedder::embed_tokens).
    pub fn pool_tokens_pausing<T: Sequence + Sync>(
        &self,
        texts: &[T],
        pause: &(dyn Fn(&Pause<'_>) + Sync),
    ) -> Result<Vec<f32>> {
        let (engine, width) = (self.engine, self.engine.config.hidden);
        let mut values = vec![0.0; texts.len() * width];
        for texts_in_batch in engine.batches(texts)? {
            let out = &mut values[texts_in_batch.start * width..texts_in_batch.end * width];
            // The turn, and the batch that goes with it, belong to the pass that has paused; the pool's thread is this
            // one.
            let mut batch = PackedBatch::default();
            for text in &texts[texts_in_batch] {
                engine.push(&mut batch, text, 0)?;
            }
            engine.pass(&batch, None, out, pause)?;
        }
        Ok(engine.behind_pooling(values))
    }
}

impl Engine {
    /// The token ids of each text, in order, with the number of tokens before the cut.
    pub(crate) fn tokenize<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        options: &TokenizeOptions<'_>,
    ) -> Result<Vec<Tokens>> {
        self.threads.run(|| self.tokens(texts, options))
    }

    /// As [`tokenize`](Self::tokenize), one text on this thread.
    pub(crate) fn tokenize_one(&self, text: &str, options: &TokenizeOptions<'_>) -> Result<Tokens> {
        let prompt = self.config.prompts.resolve(options.prompt)?;
        let side = options.truncation_side.unwrap_or(self.tokenizer.truncation_side());
        self.tokenizer.encode_one_prompted(text, prompt, side)
    }

    fn tokens<S: AsRef<str> + Sync>(&self, texts: &[S], options: &TokenizeOptions<'_>) -> Result<Vec<Tokens>> {
        let prompt = self.config.prompts.resolve(options.prompt)?;
        let side = options.truncation_side.unwrap_or(self.tokenizer.truncation_side());
        self.tokenizer.encode_prompted(texts, prompt, side)
    }

    /// As the model's files say a text is read.
    pub(crate) fn tokenize_plain<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Tokens>> {
        self.tokenize(texts, &TokenizeOptions { prompt: Prompt::Default, truncation_side: None })
    }

    /// The pooled vector of each text behind the dense layers, not of unit length: (texts × dim).
    pub(crate) fn pool<T: Sequence + Sync>(
        &self,
        texts: &[T],
        pause: &(dyn Fn(&Pause<'_>) + Sync),
    ) -> Result<Vec<f32>> {
        let mut values = vec![0.0; texts.len() * self.config.hidden];
        self.pool_into(texts, &mut values, pause)?;
        Ok(match self.config.task {
            ModelTask::Embed => self.behind_pooling(values),
            _ => values,
        })
    }

    /// What the dense layers make of pooled hidden states.
    pub(crate) fn behind_pooling(&self, pooled: Vec<f32>) -> Vec<f32> {
        let layers = &self.heads.dense;
        let values = match layers.last() {
            None => pooled,
            Some(_) => {
                let apply = |values: Vec<f32>, layer: &Dense| layer.apply_rows(self.kernels, &values);
                self.threads.run(|| layers.iter().fold(pooled, apply))
            }
        };
        let width = layers.last().map_or(self.config.hidden, Dense::outputs);
        match self.config.dim {
            dim if dim == width => values,
            dim => values.chunks_exact(width).flat_map(|row| row[..dim].iter().copied()).collect(),
        }
    }

    /// Whether a pooled hidden state is the vector but for its length.
    pub(crate) fn ends_with_pooling(&self) -> bool {
        self.heads.dense.is_empty() && self.config.dim == self.config.hidden
    }

    /// The pooled hidden state of each text: (texts × hidden).
    pub(crate) fn pool_into<T: Sequence + Sync>(
        &self,
        texts: &[T],
        out: &mut [f32],
        pause: &(dyn Fn(&Pause<'_>) + Sync),
    ) -> Result<()> {
        let width = self.config.hidden;
        let lengths = self.lengths(texts)?;
        let (skip, shared) = self.shared(texts, &lengths)?;
        let lengths: Vec<usize> = lengths.into_iter().map(|length| length - skip).collect();
        for texts_in_batch in plan(&lengths, self.budget) {
            let out = &mut out[texts_in_batch.start * width..texts_in_batch.end * width];
            // Taken before entering the pool: a thread of the pool that waited here could not work for the one that has
            // it.
            let mut batch = self.forward.batch.lock().unwrap_or_else(PoisonError::into_inner);
            batch.clear();
            for text in &texts[texts_in_batch] {
                self.push(&mut batch, text, skip)?;
            }
            self.threads.run(|| self.pass(&batch, shared.as_ref(), out, pause))?;
        }
        Ok(())
    }

    /// How many tokens all `texts` begin with alike, and these computed once, where the model lets a token see only
    /// those before it. Results are the same to the bit as without.
    fn shared<T: Sequence>(&self, texts: &[T], lengths: &[usize]) -> Result<(usize, Option<Shared>)> {
        let nothing = Ok((0, None));
        // A mean over all tokens needs the hidden states of the first ones too.
        if texts.len() < 2 || !self.config.architecture.causal() || self.config.pooling == Pooling::Mean {
            return nothing;
        }
        let first = texts[0].ids();
        let common = |ids: &[u32]| first.iter().zip(ids).take_while(|(a, b)| a == b).count();
        let alike = texts[1..].iter().map(|text| common(text.ids())).min().unwrap_or(0);
        // Each text keeps a token of its own.
        let alike = alike.min(lengths.iter().min().map_or(0, |shortest| shortest - 1));
        if alike < MIN_SHARED {
            return nothing;
        }
        let _turn = self.forward.batch.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((alike, Some(self.threads.run(|| self.forward.pass.shared(&first[..alike]))?)))
    }

    /// Adds the tokens of `text` behind the first `skip`.
    fn push<T: Sequence>(&self, batch: &mut PackedBatch, text: &T, skip: usize) -> Result<()> {
        let unpooled = if self.config.include_prompt { 0 } else { text.prompt_len() };
        batch.push(text, skip..self.end(text), unpooled)
    }

    /// The token behind the last that counts: pad tokens at the end of what a decoder classifies do not.
    fn end<T: Sequence>(&self, text: &T) -> usize {
        let ids = text.ids();
        match self.config.architecture.task {
            Task::Classify(ClassifierSpec { pad: Some(pad), .. }) => {
                ids.iter().rposition(|&id| id != pad).map_or(1, |last| last + 1)
            }
            _ => ids.len(),
        }
    }

    /// One forward pass, on a thread of the pool.
    fn pass(
        &self,
        batch: &PackedBatch,
        shared: Option<&Shared>,
        out: &mut [f32],
        pause: &dyn Fn(&Pause<'_>),
    ) -> Result<()> {
        let layers = Cell::new(0);
        self.forward.pass.pooled(batch, self.config.pooling, shared, out, &|| {
            layers.set(layers.get() + 1);
            pause(&Pause { engine: self, layers: layers.get() });
        })
    }

    /// The hidden states of the texts of `batch`, which is computed at once: (tokens × hidden).
    pub(crate) fn hidden(&self, batch: &PackedBatch, out: &mut [f32]) -> Result<()> {
        let _turn = self.forward.batch.lock().unwrap_or_else(PoisonError::into_inner);
        self.threads.run(|| self.forward.pass.hidden(batch, out, &|| ()))
    }

    /// What the model has of `outputs` for each text, all of one forward pass.
    pub(crate) fn all_outputs<T: Sequence + Sync>(&self, texts: &[T], outputs: Outputs) -> Result<AllEmbeddings> {
        let missing = |output: &str, file: &'static str| Error::InvalidOption {
            option: "outputs",
            value: output.to_owned(),
            expected: format!("what {} has: it has no {file}", self.name),
        };
        let heads = &self.heads;
        let sparse = match (outputs.sparse, &heads.sparse) {
            (true, None) => return Err(missing("sparse weights", "sparse_linear.pt")),
            (wanted, head) => head.as_ref().filter(|_| wanted),
        };
        let colbert = match (outputs.colbert, &heads.colbert) {
            (true, None) => return Err(missing("a vector per token", "colbert_linear.pt")),
            (wanted, head) => head.as_ref().filter(|_| wanted),
        };
        let width = self.config.hidden;
        let (mut pooled, mut weights) = (Vec::new(), sparse.map(|_| SparseEmbeddings::default()));
        let mut vectors = colbert.map(|head| MultiVectors::new(head.outputs()));
        for texts_in_batch in self.batches(texts)? {
            let mut batch = PackedBatch::default();
            for text in &texts[texts_in_batch] {
                self.push(&mut batch, text, 0)?;
            }
            let mut hidden = vec![0.0; batch.tokens() * width];
            self.hidden(&batch, &mut hidden)?;
            let of = |tokens: std::ops::Range<usize>| &hidden[tokens.start * width..tokens.end * width];
            for (text, tokens) in batch.ranges().enumerate() {
                if outputs.dense {
                    pooled.resize(pooled.len() + width, 0.0);
                    let from = pooled.len() - width;
                    let unpooled = batch.all().unpooled(text);
                    let row = |token: usize| of(token..token + 1);
                    pool_rows(row, tokens.clone(), unpooled, self.config.pooling, &mut pooled[from..]);
                }
                if let (Some(head), Some(all)) = (sparse, &mut weights) {
                    all.push(head.weights(self.kernels, &batch.ids()[tokens.clone()], of(tokens.clone())));
                }
                if let (Some(head), Some(all)) = (colbert, &mut vectors) {
                    // Without the first token, whose state is that of the whole text (`colbert_reps` of FlagEmbedding).
                    let states = of(tokens.start + 1..tokens.end.max(tokens.start + 1));
                    let mut rows = self.threads.run(|| head.apply_rows(self.kernels, states));
                    rows.chunks_exact_mut(all.dim).for_each(self.kernels.normalize);
                    all.values.extend(rows);
                    all.indptr.push(all.values.len() / all.dim);
                }
            }
        }
        let dense = outputs.dense.then(|| {
            let mut rows = self.behind_pooling(pooled);
            rows.chunks_exact_mut(self.config.dim).for_each(self.kernels.normalize);
            Embeddings::from_unit_rows(rows, self.config.dim)
        });
        Ok(AllEmbeddings { dense: dense.transpose()?, sparse: weights, colbert: vectors })
    }

    /// Which of `texts` are computed together, in order.
    pub(crate) fn batches<T: Sequence>(&self, texts: &[T]) -> Result<Vec<std::ops::Range<usize>>> {
        Ok(plan(&self.lengths(texts)?, self.budget).collect())
    }

    fn lengths<T: Sequence>(&self, texts: &[T]) -> Result<Vec<usize>> {
        texts.iter().map(|text| self.checked(text.ids(), text.types()).map(|_| self.end(text))).collect()
    }

    /// The number of tokens, if the model can compute them.
    pub(crate) fn checked(&self, ids: &[u32], types: &[u8]) -> Result<usize> {
        let (max, vocab) = (self.config.max_positions, self.config.vocab);
        if ids.is_empty() || ids.len() > max {
            return Err(Error::TokenCount { found: ids.len(), max });
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::TokenId { id, vocab });
        }
        let rows = self.config.architecture.token_types;
        match types.iter().find(|&&kind| usize::from(kind) >= rows && rows > 1) {
            Some(kind) => Err(Error::InvalidOption {
                option: "types",
                value: kind.to_string(),
                expected: format!("less than the model's {rows} token types"),
            }),
            None => Ok(ids.len()),
        }
    }

    /// Where the time of forward passes went.
    pub(crate) fn profile(&self) -> Profile {
        self.forward.pass.profile()
    }
}
