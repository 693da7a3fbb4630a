//! The forward pass, written once for every architecture and every device. It follows the figures
//! of the papers: a block's norm comes before or after the block, and the block's output is added
//! to the stream.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::backend::{Backend, Token};
use crate::batch::{PackedBatch, Texts};
use crate::error::Result;
use crate::models::{Architecture, MlpSpec, NormPlace, Pooling};
use crate::profile;
use crate::weights::Weights;

/// The weights of an encoder, in the form that the device of `B` uses.
pub(crate) struct Encoder<B: Backend> {
    embedding: B::Embedding,
    layers: Vec<Layer<B>>,
    norm: Option<B::Norm>, // after the last layer
}

pub(crate) struct Layer<B: Backend> {
    attention: B::Attention,
    qkv: B::Linear,
    attention_output: B::Linear,
    up: B::Linear,
    down: B::Linear,
    mlp: MlpSpec,
    before_attention: Option<B::Norm>,
    after_attention: Option<B::Norm>,
    before_mlp: Option<B::Norm>,
    after_mlp: Option<B::Norm>,
}

/// Tokens at the beginning of several texts, computed once: their queries, keys and values in each
/// layer.
pub(crate) struct Prefix<B: Backend> {
    layers: Vec<B::Projected>,
}

impl<B: Backend> Encoder<B> {
    /// Loads all weights of a checkpoint, with the layers in parallel.
    pub(crate) fn load(backend: &B, weights: &Weights, architecture: &Architecture) -> Result<Self> {
        let names = weights.spelling();
        let norm = architecture.norm.at_end.then_some(names.final_norm);
        Ok(Self {
            embedding: backend.load_embedding(weights, architecture)?,
            layers: (0..architecture.layers.len())
                .into_par_iter()
                .map(|i| Layer::load(backend, weights, architecture, i))
                .collect::<Result<_>>()?,
            norm: norm.map(|name| backend.load_norm(weights, name, &architecture.norm)).transpose()?,
        })
    }

    /// Loads one layer after the other, computes `batch` with it, and passes its linear layers that
    /// read the hidden state to `look`, with the names of their weights.
    pub(crate) fn walk(
        backend: &B,
        weights: &Weights,
        architecture: &Architecture,
        batch: &PackedBatch,
        mut look: impl FnMut(Vec<String>, &B::Linear),
    ) -> Result<()> {
        let names = weights.spelling();
        let mut x = backend.embed(batch.all(), &backend.load_embedding(weights, architecture)?)?;
        for i in 0..architecture.layers.len() {
            let layer = Layer::load(backend, weights, architecture, i)?;
            let (context, _) = layer.context(backend, &x, batch.all(), None)?;
            layer.transform(backend, context, &mut x)?;
            let of = |parts: &[&str]| parts.iter().map(|part| format!("{}.weight", names.of(i, part))).collect();
            look(of(names.qkv), &layer.qkv);
            look(of(names.up), &layer.up);
        }
        Ok(())
    }

    /// The hidden state of each token of `batch` after the last layer, in parts of whole texts.
    pub(crate) fn hidden<'a>(
        &self,
        backend: &B,
        batch: &'a PackedBatch,
        between: &dyn Fn(),
    ) -> Result<Vec<(B::Hidden, Texts<'a>)>> {
        let mut parts = self.through(&self.layers, backend, batch, None, between)?;
        for (x, _) in &mut parts {
            self.finish(backend, x)?;
        }
        Ok(parts)
    }

    /// The pooled hidden state of each text of `batch`: (texts × hidden). `between` is called
    /// between two layers. Each text continues the tokens of `prefix`, which requires last-token
    /// pooling.
    pub(crate) fn pooled(
        &self,
        backend: &B,
        batch: &PackedBatch,
        pooling: Pooling,
        prefix: Option<&Prefix<B>>,
        between: &dyn Fn(),
    ) -> Result<B::Hidden> {
        let mut pooled = match (Token::of(pooling), self.layers.split_last()) {
            // Only one token of each text is needed, and after its attention the last layer no
            // longer mixes tokens: three quarters of its work can be skipped.
            (Some(token), Some((last, layers))) => {
                let parts = self.through(layers, backend, batch, prefix, between)?;
                let before = prefix.and_then(|p| p.layers.last());
                let mut pooled = backend.pool(&parts, pooling)?;
                let mut contexts: Vec<_> = parts.iter().map(|(x, texts)| (x, *texts, None)).collect();
                side_by_side(&mut contexts, |(x, texts, context)| {
                    *context = Some(last.context(backend, x, *texts, before)?.0);
                    Ok(())
                })?;
                let contexts: Vec<_> =
                    contexts.into_iter().filter_map(|(_, texts, context)| Some((context?, texts))).collect();
                last.transform(backend, backend.pick(&contexts, token)?, &mut pooled)?;
                pooled
            }
            _ => {
                let mut parts = self.through(&self.layers, backend, batch, prefix, between)?;
                if self.norm.is_some() {
                    side_by_side(&mut parts, |(x, _)| self.finish(backend, x))?;
                }
                return backend.pool(&parts, pooling);
            }
        };
        self.finish(backend, &mut pooled)?;
        Ok(pooled)
    }

    /// Computes the tokens `ids`, with which texts will begin.
    pub(crate) fn prefix(&self, backend: &B, ids: &[u32]) -> Result<Prefix<B>> {
        let batch = PackedBatch::new([ids])?;
        let mut x = backend.embed(batch.all(), &self.embedding)?;
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let (context, projected) = layer.context(backend, &x, batch.all(), None)?;
            layer.transform(backend, context, &mut x)?;
            layers.push(projected);
        }
        Ok(Prefix { layers })
    }

    /// Applies the norm at the end, if there is one.
    fn finish(&self, backend: &B, x: &mut B::Hidden) -> Result<()> {
        match &self.norm {
            Some(norm) => backend.norm(x, norm),
            None => Ok(()),
        }
    }

    /// The hidden states of all texts of `batch` after `layers`, in parts of the size that suits
    /// the device.
    fn through<'a>(
        &self,
        layers: &[Layer<B>],
        backend: &B,
        batch: &'a PackedBatch,
        prefix: Option<&Prefix<B>>,
        between: &dyn Fn(),
    ) -> Result<Vec<(B::Hidden, Texts<'a>)>> {
        let most = backend.part(batch.tokens());
        // Two neighbouring parts together always exceed the maximum of a single one.
        let mut parts = Vec::with_capacity(2 * batch.tokens().div_ceil(most.max(1)));
        for texts in batch.all().parts(most) {
            parts.push((backend.embed(texts, &self.embedding)?, texts));
        }
        for (i, layer) in layers.iter().enumerate() {
            let before = prefix.map(|p| &p.layers[i]);
            side_by_side(&mut parts, |(x, texts)| {
                let (context, _) = layer.context(backend, x, *texts, before)?;
                layer.transform(backend, context, x)
            })?;
            between();
        }
        Ok(parts)
    }
}

/// Applies `f` to every part, with as many parts at the same time as there are threads.
///
/// It uses a queue rather than a parallel iterator: a thread that waits for a piece of its part
/// would begin another part meanwhile, and the memory of any number of parts could be in use.
fn side_by_side<P: Send>(parts: &mut [P], f: impl Fn(&mut P) -> Result<()> + Sync) -> Result<()> {
    // A single part stays on this thread: a query does not wait for other work, and a device need
    // not support calls from several threads.
    if let [part] = parts {
        return profile::stage(|| profile::part(|| f(part)));
    }
    let queue = Mutex::new(parts.iter_mut());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    profile::stage(|| {
        (0..rayon::current_num_threads()).into_par_iter().with_max_len(1).try_for_each(|_| {
            while let Some(part) = next() {
                profile::part(|| f(part))?;
            }
            Ok(())
        })
    })
}

impl<B: Backend> Layer<B> {
    fn load(backend: &B, weights: &Weights, architecture: &Architecture, i: usize) -> Result<Self> {
        let (names, spec) = (weights.spelling(), architecture);
        let linear = |parts: &[&str], bias| {
            let parts: Vec<String> = parts.iter().map(|part| names.of(i, part)).collect();
            backend.load_linear(weights, &parts, bias)
        };
        let norm = |part: &str, place| {
            let here = spec.norm.place == place;
            here.then(|| backend.load_norm(weights, &names.of(i, part), &spec.norm)).transpose()
        };
        let norms = spec.attention.qk_norm.then(|| [names.of(i, names.q_norm), names.of(i, names.k_norm)]);
        let first = i == 0 && !spec.norm.first_attention;
        Ok(Self {
            attention: backend.load_attention(weights, norms, spec, &spec.layers[i])?,
            qkv: linear(names.qkv, spec.attention.qkv_bias)?,
            attention_output: linear(&[names.attention_output], spec.attention.output_bias)?,
            up: linear(names.up, spec.mlp.up_bias)?,
            down: linear(&[names.down], spec.mlp.down_bias)?,
            mlp: spec.mlp,
            before_attention: if first { None } else { norm(names.attention_norm, NormPlace::Before)? },
            after_attention: norm(names.attention_norm, NormPlace::After)?,
            before_mlp: norm(names.mlp_norm, NormPlace::Before)?,
            after_mlp: norm(names.mlp_norm, NormPlace::After)?,
        })
    }

    /// What each token has gathered from the tokens of its text, and the queries, keys and values
    /// that were used.
    fn context(
        &self,
        backend: &B,
        x: &B::Hidden,
        texts: Texts<'_>,
        before: Option<&B::Projected>,
    ) -> Result<(B::Operand, B::Projected)> {
        backend.attention(x, self.before_attention.as_ref(), &self.qkv, &self.attention, texts, before)
    }

    /// The rest of the layer, which computes each token on its own. Each state is dropped as soon
    /// as the next one exists: of a long text, each takes tens of megabytes.
    fn transform(&self, backend: &B, context: B::Operand, x: &mut B::Hidden) -> Result<()> {
        backend.project_add_norm(&context, &self.attention_output, x, self.after_attention.as_ref())?;
        drop(context);
        let norms = [&self.before_mlp, &self.after_mlp].map(Option::as_ref);
        backend.mlp_add_norm(x, norms, &self.up, &self.down, &self.mlp)
    }
}
