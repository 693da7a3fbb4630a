//! The forward pass, once, for every architecture and every device. It reads like the papers' figures: a block's norm
//! stands before it or after it, and what a block adds goes back to the stream.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::backend::{Backend, Token};
use crate::batch::{PackedBatch, Texts};
use crate::error::Result;
use crate::models::{Architecture, MlpSpec, NormPlace, Pooling};
use crate::weights::Weights;

/// The weights of an encoder, as the device of `B` holds them.
pub(crate) struct Encoder<B: Backend> {
    embedding: B::Embedding,
    layers: Vec<Layer<B>>,
    norm: Option<B::Norm>, // of the last hidden state
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

/// Tokens that several texts begin with, computed once: their queries, keys and values in each layer.
pub(crate) struct Prefix<B: Backend> {
    layers: Vec<B::Projected>,
}

impl<B: Backend> Encoder<B> {
    /// Loads all weights of a checkpoint, layers in parallel.
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

    /// Loads one layer after the other, computes `batch` through it, and gives `look` those of its linear layers that
    /// read the hidden state, with the names of their weights.
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
            x = layer.transform(backend, &context, &x)?;
            let of = |parts: &[&str]| parts.iter().map(|part| format!("{}.weight", names.of(i, part))).collect();
            look(of(names.qkv), &layer.qkv);
            look(of(names.up), &layer.up);
        }
        Ok(())
    }

    /// Writes the hidden state of each token of `batch` behind the last layer to `out`: (tokens × hidden).
    pub(crate) fn hidden(
        &self,
        backend: &B,
        batch: &PackedBatch,
        mut out: &mut [f32],
        between: &dyn Fn(),
    ) -> Result<()> {
        let width = out.len() / batch.tokens().max(1);
        for (mut x, texts) in self.through(&self.layers, backend, batch, None, between)? {
            self.finish(backend, &mut x)?;
            backend.read(&x, out.split_off_mut(..texts.tokens() * width).expect("a row per token"))?;
        }
        Ok(())
    }

    /// Writes the pooled hidden state of each text of `batch` to `out`: (texts × hidden), not of unit length. `between`
    /// is called between two layers. Each text goes on from the tokens of `prefix`, which is for last-token pooling.
    pub(crate) fn pooled(
        &self,
        backend: &B,
        batch: &PackedBatch,
        pooling: Pooling,
        prefix: Option<&Prefix<B>>,
        out: &mut [f32],
        between: &dyn Fn(),
    ) -> Result<()> {
        let mut pooled = match (Token::of(pooling), self.layers.split_last()) {
            // One token of each text is asked for, and behind its attention the last layer mixes tokens no more: three
            // quarters of its work need not be done.
            (Some(token), Some((last, layers))) => {
                let parts = self.through(layers, backend, batch, prefix, between)?;
                let before = prefix.and_then(|p| p.layers.last());
                let residual = backend.pool(&parts, pooling)?;
                let mut contexts: Vec<_> = parts.iter().map(|(x, texts)| (x, *texts, None)).collect();
                side_by_side(&mut contexts, |(x, texts, context)| {
                    *context = Some(last.context(backend, x, *texts, before)?.0);
                    Ok(())
                })?;
                let contexts: Vec<_> =
                    contexts.into_iter().filter_map(|(_, texts, context)| Some((context?, texts))).collect();
                last.transform(backend, &backend.pick(&contexts, token)?, &residual)?
            }
            _ => {
                let mut parts = self.through(&self.layers, backend, batch, prefix, between)?;
                if self.norm.is_some() {
                    side_by_side(&mut parts, |(x, _)| self.finish(backend, x))?;
                }
                let pooled = backend.pool(&parts, pooling)?;
                return backend.read(&pooled, out);
            }
        };
        self.finish(backend, &mut pooled)?;
        backend.read(&pooled, out)
    }

    /// Computes the tokens `ids`, which texts are going to begin with.
    pub(crate) fn prefix(&self, backend: &B, ids: &[u32]) -> Result<Prefix<B>> {
        let batch = PackedBatch::new([ids])?;
        let mut x = backend.embed(batch.all(), &self.embedding)?;
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let (context, projected) = layer.context(backend, &x, batch.all(), None)?;
            x = layer.transform(backend, &context, &x)?;
            layers.push(projected);
        }
        Ok(Prefix { layers })
    }

    /// The norm at the end, where there is one.
    fn finish(&self, backend: &B, x: &mut B::Hidden) -> Result<()> {
        match &self.norm {
            Some(norm) => backend.norm(x, norm),
            None => Ok(()),
        }
    }

    /// The hidden states of all texts of `batch` behind `layers`, in the parts that the device likes.
    fn through<'a>(
        &self,
        layers: &[Layer<B>],
        backend: &B,
        batch: &'a PackedBatch,
        prefix: Option<&Prefix<B>>,
        between: &dyn Fn(),
    ) -> Result<Vec<(B::Hidden, Texts<'a>)>> {
        let most = backend.part(batch.tokens());
        // Two neighbours together are always more than one may be.
        let mut parts = Vec::with_capacity(2 * batch.tokens().div_ceil(most.max(1)));
        for texts in batch.all().parts(most) {
            parts.push((backend.embed(texts, &self.embedding)?, texts));
        }
        for (i, layer) in layers.iter().enumerate() {
            let before = prefix.map(|p| &p.layers[i]);
            side_by_side(&mut parts, |(x, texts)| {
                let (context, _) = layer.context(backend, x, *texts, before)?;
                *x = layer.transform(backend, &context, x)?;
                Ok(())
            })?;
            between();
        }
        Ok(parts)
    }
}

/// Does `f` to every part, to as many at once as there are threads.
///
/// A queue, and not a parallel iterator: a thread that waits for a piece of its part would begin with another part
/// meanwhile, and there would be what any number of them need.
fn side_by_side<P: Send>(parts: &mut [P], f: impl Fn(&mut P) -> Result<()> + Sync) -> Result<()> {
    // One alone stays on this thread: a query waits for no other, and a device need not bear to be called from several.
    if let [part] = parts {
        return f(part);
    }
    let queue = Mutex::new(parts.iter_mut());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    (0..rayon::current_num_threads()).into_par_iter().with_max_len(1).try_for_each(|_| {
        while let Some(part) = next() {
            f(part)?;
        }
        Ok(())
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

    /// What each token has gathered from the tokens of its text, and the queries, keys and values that it came from.
    fn context(
        &self,
        backend: &B,
        x: &B::Hidden,
        texts: Texts<'_>,
        before: Option<&B::Projected>,
    ) -> Result<(B::Operand, B::Projected)> {
        backend.attention(x, self.before_attention.as_ref(), &self.qkv, &self.attention, texts, before)
    }

    /// The rest of the layer, in which each token is by itself.
    fn transform(&self, backend: &B, context: &B::Operand, x: &B::Hidden) -> Result<B::Hidden> {
        let attended = backend.project(context, &self.attention_output)?;
        let x = backend.add_norm(attended, x, self.after_attention.as_ref())?;
        let transformed = backend.mlp(&x, self.before_mlp.as_ref(), &self.up, &self.down, &self.mlp)?;
        backend.add_norm(transformed, &x, self.after_mlp.as_ref())
    }
}
