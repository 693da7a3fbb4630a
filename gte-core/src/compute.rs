//! Computes texts with a loaded model: batches, shared prefixes, a forward pass that may pause, and
//! the outputs from its hidden states. Everything that computes does so by [`Engine::compute`],
//! including a scheduler of several models.

use std::cell::Cell;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::batch::{MaxBatchTokens, PackedBatch, Sequence, plan};
use crate::config::ModelTask;
use crate::device::Device;
use crate::embedding::Embeddings;
use crate::engine::{BatchOutputs, Engine, Shared};
use crate::error::{Error, Result};
use crate::heads::largest_weights;
use crate::models::{ClassifierSpec, Pooling, Task};
use crate::outputs::{AllEmbeddings, MultiVectors, Outputs, SparseEmbeddings, TextOutput};

/// A shared beginning of texts must have at least this many tokens to be computed on its own.
const MIN_SHARED: usize = 8;

/// What [`Engine::compute`] computes, and how it fits among other passes.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Work<'a> {
    /// The outputs of each text.
    pub outputs: Outputs,
    /// The computed beginning of all texts, from [`Engine::prefix`]. It can only be used for dense
    /// outputs.
    pub prefix: Option<&'a SharedPrefix>,
    /// The paused pass, of any model, during which this one runs. `None`: this pass waits for its
    /// turn.
    pub inside: Option<&'a Pause<'a>>,
    /// Called between two layers of the model. It may compute something short, so that a query need
    /// not wait until a long text is finished. Results do not depend on it.
    pub pause: &'a (dyn Fn(&Pause<'_>) + Sync),
}

impl<'a> Work<'a> {
    /// A vector per text, or a classifier's logits, in its turn and without pauses.
    pub const DENSE: Self = Self { outputs: Outputs::DENSE, prefix: None, inside: None, pause: &|_| () };

    /// The same, with these outputs of each text.
    #[must_use]
    pub fn with_outputs(self, outputs: Outputs) -> Self {
        Self { outputs, ..self }
    }

    /// The same, of texts that begin with these tokens.
    #[must_use]
    pub fn with_prefix(self, prefix: impl Into<Option<&'a SharedPrefix>>) -> Self {
        Self { prefix: prefix.into(), ..self }
    }

    /// The same, while this pass pauses.
    #[must_use]
    pub fn inside(self, pause: impl Into<Option<&'a Pause<'a>>>) -> Self {
        Self { inside: pause.into(), ..self }
    }

    /// The same, calling this between two layers.
    #[must_use]
    pub fn with_pause(self, pause: &'a (dyn Fn(&Pause<'_>) + Sync)) -> Self {
        Self { pause, ..self }
    }
}

impl std::fmt::Debug for Work<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (prefix, inside) = (self.prefix.is_some(), self.inside.is_some());
        f.debug_struct("Work")
            .field("outputs", &self.outputs)
            .field("prefix", &prefix)
            .field("inside", &inside)
            .finish_non_exhaustive()
    }
}

/// What computes the texts of a batch into their rows; alone on the device, if so asked.
type Each<'a> = dyn Fn(Range<usize>, &mut [f32], bool) -> Result<()> + Sync + 'a;

/// A forward pass that has paused between two layers.
pub struct Pause<'a> {
    engine: &'a Engine,
    layers: usize, // finished layers
}

impl std::fmt::Debug for Pause<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pause({} after {} layers)", self.engine.name, self.layers)
    }
}

impl Pause<'_> {
    /// How much of the pass remains: a share of its layers, between 0 and 1.
    pub fn left(&self) -> f64 {
        1.0 - self.layers as f64 / self.engine.config.layers as f64
    }
}

/// Tokens at the beginning of several texts, computed once.
pub struct SharedPrefix {
    tokens: usize,
    computed: Shared,
}

impl std::fmt::Debug for SharedPrefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedPrefix({} tokens)", self.tokens)
    }
}

impl Engine {
    /// The outputs of each text, in order. They are the same bit for bit, whether a text is
    /// computed alone or with others, with a prefix or without, during a pause or in its turn.
    ///
    /// # Errors
    /// [`Error::TokenCount`] for an empty text and one beyond the model's positions,
    /// [`Error::TokenId`] for an id outside the vocabulary, [`Error::InvalidOption`] for an output
    /// that the model does not have, [`Error::Device`].
    pub fn compute<T: Sequence + Sync>(&self, texts: &[T], work: &Work<'_>) -> Result<Vec<TextOutput>> {
        if !work.outputs.dense_alone() {
            return self.all(texts, work);
        }
        let rows = self.pool(texts, work)?;
        let width = rows.len() / texts.len().max(1);
        Ok(rows
            .chunks_exact(width.max(1))
            .map(|row| TextOutput { dense: row.to_vec(), ..Default::default() })
            .collect())
    }

    /// The vector of each text after the dense layers, not scaled to unit length: (texts × dim).
    /// For a classifier, its logits: (texts × labels).
    pub(crate) fn pool<T: Sequence + Sync>(&self, texts: &[T], work: &Work<'_>) -> Result<Vec<f32>> {
        let mut values = vec![0.0; texts.len() * self.heads.pooled];
        self.pool_into(texts, &mut values, work)?;
        Ok(self.cut(values))
    }

    /// The same, with all values of each vector: those beyond `dim` too.
    pub(crate) fn pool_into<T: Sequence + Sync>(&self, texts: &[T], out: &mut [f32], work: &Work<'_>) -> Result<()> {
        let (width, mut own) = (self.heads.pooled, None);
        let lengths = self.lengths(texts)?;
        let prefix = match work.prefix {
            Some(prefix) => Some(prefix),
            // A call during a pause is short, so it uses its own batch.
            None if work.inside.is_some() => None,
            None => match self.common_prefix(texts) {
                0 => None,
                tokens => Some(&*own.insert(self.prefix(&texts[0].ids()[..tokens], None)?)),
            },
        };
        let skip = prefix.map_or(0, |prefix| prefix.tokens);
        let lengths: Vec<usize> = lengths.into_iter().map(|length| length.saturating_sub(skip)).collect();
        self.in_batches(&lengths, out, width, work.inside, &|texts_in_batch, out, alone| {
            self.in_turn(work.inside, alone, |batch| {
                for text in &texts[texts_in_batch] {
                    self.push(batch, text, skip)?;
                }
                let between = self.pausing(work);
                self.forward.pass.pooled(batch, self.config.pooling, prefix.map(|p| &p.computed), out, &between)
            })
        })
    }

    /// Computes texts of these lengths batch after batch, each into its rows of `out`; as many
    /// batches at once as the device takes. One that the device has no room for is computed in
    /// halves, and a text alone.
    fn in_batches(
        &self,
        lengths: &[usize],
        mut out: &mut [f32],
        width: usize,
        inside: Option<&Pause<'_>>,
        each: &Each<'_>,
    ) -> Result<()> {
        let mut first = 0;
        let mut next = || {
            let batch = plan(&lengths[first..], self.max_batch_tokens()).next()?;
            let batch = first + batch.start..first + batch.end;
            first = batch.end;
            Some((batch.clone(), out.split_off_mut(..batch.len() * width)?))
        };
        if inside.is_some() || self.forward.count() == 1 {
            return std::iter::from_fn(next).try_for_each(|(batch, out)| self.in_halves(lengths, batch, out, each));
        }
        let Some(begin) = next() else { return Ok(()) };
        if begin.0.end == lengths.len() {
            return self.in_halves(lengths, begin.0, begin.1, each);
        }
        let queue = Mutex::new(std::iter::once(begin).chain(std::iter::from_fn(next)));
        let one_after_the_other = || {
            let take = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            std::iter::from_fn(take).try_for_each(|(batch, out)| self.in_halves(lengths, batch, out, each))
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..self.forward.count()).map(|_| scope.spawn(one_after_the_other)).collect();
            let own = one_after_the_other();
            others.into_iter().fold(own, |done, other| {
                let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                done.and(other)
            })
        })
    }

    /// Computes a batch; where the device has no room for it, in halves from then on.
    fn in_halves(&self, lengths: &[usize], batch: Range<usize>, mut out: &mut [f32], each: &Each<'_>) -> Result<()> {
        match each(batch.clone(), out, false) {
            Err(Error::DeviceMemory { .. }) => {}
            done => return done,
        }
        self.forward.pass.shrink();
        if batch.len() == 1 {
            return each(batch, out, true);
        }
        let width = out.len() / batch.len();
        let own = &lengths[batch.clone()];
        let tokens: usize = own.iter().sum();
        self.lower_max_batch_tokens(tokens);
        for part in plan(own, MaxBatchTokens::new((tokens / 2).max(1))?) {
            let out = out.split_off_mut(..part.len() * width).expect("a row per text");
            self.in_halves(lengths, batch.start + part.start..batch.start + part.end, out, each)?;
        }
        Ok(())
    }

    /// Runs `f` when it is this call's turn, on a thread of the pool, `alone` where no other pass
    /// runs; in a pause at once, for turn and thread are those of the pass that has paused. A GPU
    /// is not waited for on the pool, whose threads have texts to tokenize.
    fn in_turn<R: Send>(
        &self,
        inside: Option<&Pause<'_>>,
        alone: bool,
        f: impl FnOnce(&mut PackedBatch) -> Result<R> + Send,
    ) -> Result<R> {
        if inside.is_some() {
            return f(&mut PackedBatch::default());
        }
        // Taken before entering the pool: a thread of the pool that waited here could not work for
        // the one that has it.
        let mut turn = self.forward.take(alone);
        if alone {
            self.forward.pass.shrink();
        }
        match self.device {
            Device::Cuda(_) => f(&mut turn.batch),
            _ => self.threads.run(|| f(&mut turn.batch)),
        }
    }

    /// Tokens per batch beyond which a GPU computes no faster: measured on texts of 128 tokens, as
    /// long as there is room. A query waits for a batch, so that one that takes a tenth of a second
    /// is large enough.
    ///
    /// # Errors
    /// As [`compute`](Self::compute).
    pub(crate) fn find_max_batch_tokens(&self) -> Result<MaxBatchTokens> {
        const FIRST: usize = 1024;
        const LAST: usize = 32_768;
        let length = 128.min(self.config.max_positions);
        let (mut best, mut fastest) = (MaxBatchTokens::new(FIRST)?, 0.0);
        let mut tokens = FIRST;
        while tokens <= LAST {
            let batch = PackedBatch::new(vec![vec![0; length]; tokens / length])?;
            let mut out = vec![0.0; batch.texts() * self.heads.pooled];
            let mut pass = || self.forward.pass.pooled(&batch, self.config.pooling, None, &mut out, &|| ());
            // The first one compiles kernels and takes memory.
            let timed = pass().and_then(|()| {
                let start = Instant::now();
                pass().map(|()| start.elapsed().as_secs_f64())
            });
            let seconds = match timed {
                Err(Error::DeviceMemory { .. }) => break,
                timed => timed?,
            };
            let speed = tokens as f64 / seconds;
            if speed < 1.05 * fastest {
                break;
            }
            (best, fastest) = (MaxBatchTokens::new(tokens)?, speed);
            if seconds > 0.1 {
                break;
            }
            tokens *= 2;
        }
        self.forward.pass.shrink();
        tracing::info!(
            tokens = best.tokens(),
            tokens_per_second = fastest.round(),
            "max_batch_tokens found on the GPU"
        );
        Ok(best)
    }

    /// The function that is called between two layers.
    fn pausing<'a>(&'a self, work: &'a Work<'_>) -> impl Fn() + 'a {
        let layers = Cell::new(0);
        move || {
            layers.set(layers.get() + 1);
            (work.pause)(&Pause { engine: self, layers: layers.get() });
        }
    }

    /// How many tokens all `texts` have in common at their beginning, if computing them once pays
    /// off: in models where a token only attends to the tokens before it, unless the vector is a
    /// mean of tokens. Each text keeps at least one token of its own.
    pub fn common_prefix<T: Sequence>(&self, texts: &[T]) -> usize {
        // A mean over all tokens also needs the hidden states of the first ones.
        if texts.len() < 2 || !self.config.architecture.causal() || self.config.pooling == Pooling::Mean {
            return 0;
        }
        let first = texts[0].ids();
        let common = |ids: &[u32]| first.iter().zip(ids).take_while(|(a, b)| a == b).count();
        let alike = texts[1..].iter().map(|text| common(text.ids())).min().unwrap_or(0);
        let shortest = texts.iter().map(|text| self.end(text)).min().unwrap_or(0);
        Some(alike.min(shortest.saturating_sub(1))).filter(|&tokens| tokens >= MIN_SHARED).unwrap_or(0)
    }

    /// Computes the beginning of texts: as many of their token ids as
    /// [`common_prefix`](Self::common_prefix) returns. `inside` is as in [`Work`].
    ///
    /// # Errors
    /// As [`compute`](Self::compute).
    pub fn prefix(&self, ids: &[u32], inside: Option<&Pause<'_>>) -> Result<SharedPrefix> {
        self.checked(ids, &[])?;
        let computed = self.in_turn(inside, false, |_| self.forward.pass.shared(ids))?;
        Ok(SharedPrefix { tokens: ids.len(), computed })
    }

    /// Adds the tokens of `text` after the first `skip`.
    fn push<T: Sequence>(&self, batch: &mut PackedBatch, text: &T, skip: usize) -> Result<()> {
        let unpooled = if self.config.include_prompt { 0 } else { text.prompt_len() };
        batch.push(text, skip..self.end(text).max(skip), unpooled)
    }

    /// The index after the last token that counts. Pad tokens at the end of the input of a decoder
    /// that classifies do not count.
    pub(crate) fn end<T: Sequence>(&self, text: &T) -> usize {
        let ids = text.ids();
        match self.config.architecture.task {
            Task::Classify(ClassifierSpec { pad: Some(pad), .. }) => {
                ids.iter().rposition(|&id| id != pad).map_or(1, |last| last + 1)
            }
            _ => ids.len(),
        }
    }

    /// The first `dim` values of each vector.
    fn cut(&self, values: Vec<f32>) -> Vec<f32> {
        if self.ends_with_vectors() {
            return values;
        }
        values.chunks_exact(self.heads.pooled).flat_map(|row| row[..self.config.dim].iter().copied()).collect()
    }

    /// Whether what the model computes of a text is all of its result.
    pub(crate) fn ends_with_vectors(&self) -> bool {
        self.config.task != ModelTask::Embed || self.config.dim == self.heads.pooled
    }

    /// The outputs that the model has.
    pub fn outputs(&self) -> Outputs {
        let embeds = self.config.task == ModelTask::Embed;
        Outputs {
            dense: true,
            sparse: self.heads.sparse.is_some(),
            colbert: self.heads.colbert.is_some(),
            states: embeds,
        }
    }

    /// Number of values per token vector, if the model has them.
    pub fn colbert_dim(&self) -> Option<usize> {
        self.heads.colbert
    }

    /// Several outputs of each text, all of one forward pass.
    fn all<T: Sequence + Sync>(&self, texts: &[T], work: &Work<'_>) -> Result<Vec<TextOutput>> {
        self.check_outputs(work.outputs)?;
        let mut all = Vec::with_capacity(texts.len());
        let of_batch = |texts_in_batch: Range<usize>, alone| {
            self.in_turn(work.inside, alone, |batch| {
                for text in &texts[texts_in_batch] {
                    self.push(batch, text, 0)?;
                }
                let (pooling, between) = (self.config.pooling, self.pausing(work));
                let made = self.forward.pass.outputs(batch, pooling, work.outputs, &self.heads, &between)?;
                Ok(self.of_texts(batch, made))
            })
        };
        let lengths = self.lengths(texts)?;
        while all.len() < texts.len() {
            let first = all.len();
            let Some(batch) = plan(&lengths[first..], self.max_batch_tokens()).next() else { break };
            let batch = first..first + batch.len();
            match of_batch(batch.clone(), false) {
                Err(Error::DeviceMemory { .. }) => {
                    self.forward.pass.shrink();
                    match batch.len() {
                        1 => all.extend(of_batch(batch, true)?),
                        _ => self.lower_max_batch_tokens(lengths[batch].iter().sum()),
                    }
                }
                made => all.extend(made?),
            }
        }
        Ok(all)
    }

    /// The outputs of a batch, text by text.
    fn of_texts(&self, batch: &PackedBatch, made: BatchOutputs) -> Vec<TextOutput> {
        let rows = |values: &[f32], rows: Range<usize>, width: usize| match values {
            [] => Vec::new(),
            values => values[rows.start * width..rows.end * width].to_vec(),
        };
        let dense = self.cut(made.pooled);
        let dim = dense.len() / batch.texts().max(1);
        let of_text = |(text, tokens): (usize, Range<usize>)| TextOutput {
            dense: rows(&dense, text..text + 1, dim),
            sparse: match (&self.heads.sparse, &made.sparse[..]) {
                (None, _) | (_, []) => Vec::new(),
                (Some(ignored), weights) => {
                    largest_weights(&batch.ids()[tokens.clone()], &weights[tokens.clone()], ignored)
                }
            },
            // Without the first token, whose state stands for the whole text (`colbert_reps` of
            // FlagEmbedding).
            colbert: rows(&made.colbert, tokens.start + 1..tokens.end, self.heads.colbert.unwrap_or(0)),
            states: rows(&made.states, tokens, self.config.hidden),
        };
        batch.ranges().enumerate().map(of_text).collect()
    }

    /// Refuses outputs that the model does not have.
    fn check_outputs(&self, wanted: Outputs) -> Result<()> {
        let has = self.outputs();
        let missing = [
            (wanted.sparse && !has.sparse, "sparse weights", "sparse_linear.pt"),
            (wanted.colbert && !has.colbert, "a vector per token", "colbert_linear.pt"),
            (wanted.states && !has.states, "hidden states", "embedding: it is a reranker"),
        ];
        match missing.into_iter().find(|&(missing, ..)| missing) {
            Some((_, output, file)) => Err(Error::InvalidOption {
                option: "outputs",
                value: output.to_owned(),
                expected: format!("an output of {}: it has no {file}", self.name),
            }),
            None => Ok(()),
        }
    }

    /// As arrays, those of `outputs` that the model has, for each text, all of one forward pass.
    pub(crate) fn all_outputs<T: Sequence + Sync>(&self, texts: &[T], outputs: Outputs) -> Result<AllEmbeddings> {
        let made = self.compute(texts, &Work { outputs, ..Work::DENSE })?;
        let dense = outputs.dense.then(|| {
            let mut rows: Vec<f32> = made.iter().flat_map(|text| &text.dense).copied().collect();
            rows.chunks_exact_mut(self.config.dim).for_each(self.kernels.normalize);
            Embeddings::from_unit_rows(rows, self.config.dim)
        });
        let sparse = outputs.sparse.then(|| {
            let mut all = SparseEmbeddings::default();
            made.iter().for_each(|text| all.push(text.sparse.iter().copied()));
            all
        });
        let colbert = self.heads.colbert.filter(|_| outputs.colbert);
        let colbert = colbert.map(|dim| MultiVectors::of_rows(made.iter().map(|text| &text.colbert[..]), dim));
        let states = outputs.states.then_some(self.config.hidden);
        let states = states.map(|dim| MultiVectors::of_rows(made.iter().map(|text| &text.states[..]), dim));
        Ok(AllEmbeddings { dense: dense.transpose()?, sparse, colbert, states })
    }
}
