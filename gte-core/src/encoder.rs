//! The model, once, for every device: it reads like the paper's figure (Devlin et al. 2018, <https://arxiv.org/abs/1810.04805>).

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::Result;
use crate::batch::{PackedBatch, Texts};
use crate::config::{ModelConfig, Pooling};
use crate::ops::Ops;
use crate::weights::Weights;

/// The weights of an encoder, as the device of `O` holds them.
pub(crate) struct Encoder<O: Ops> {
    heads: usize,
    pooling: Pooling,
    embedding: O::Embedding,
    layers: Vec<Layer<O>>,
}

pub(crate) struct Layer<O: Ops> {
    query_key_value: O::Linear, // hidden → 3 · hidden
    attention_output: O::Linear,
    attention_norm: O::Norm,
    up: O::Linear, // hidden → intermediate
    down: O::Linear,
    norm: O::Norm,
}

impl<O: Ops> Encoder<O> {
    /// Loads all weights of a checkpoint: layers in parallel; or one after the other, each with a look at its inputs for `sample`, where
    /// there is one and the device asks for that.
    pub(crate) fn load(ops: &O, weights: &Weights, config: &ModelConfig, sample: Option<&PackedBatch>) -> Result<Self> {
        let embedding = ops.load_embedding(weights, config)?;
        let layers = if let Some(sample) = sample.filter(|_| ops.looks_at_inputs(weights)) {
            let mut x = ops.embed(sample.all(), &embedding)?;
            let mut layers = Vec::with_capacity(config.layers);
            for i in 0..config.layers {
                let (layer, next) = Layer::load(ops, weights, config, i, Some((&x, sample.all())))?;
                layers.push(layer);
                x = next.unwrap_or(x);
            }
            layers
        } else {
            let layer = |i| Layer::load(ops, weights, config, i, None).map(|(layer, _)| layer);
            (0..config.layers).into_par_iter().map(layer).collect::<Result<_>>()?
        };
        Ok(Self { heads: config.heads, pooling: config.pooling, embedding, layers })
    }

    /// The linear layers that see the hidden state itself, with the names of their weights.
    pub(crate) fn readers(&self) -> impl Iterator<Item = (Vec<String>, &O::Linear)> {
        self.layers.iter().enumerate().flat_map(|(i, layer)| {
            let name = move |part: &str| format!("encoder.layer.{i}.{part}.weight");
            let attention = ["query", "key", "value"].map(|p| name(&format!("attention.self.{p}"))).to_vec();
            [(attention, &layer.query_key_value), (vec![name("intermediate.dense")], &layer.up)]
        })
    }

    /// Writes the hidden state of each token of `batch` after the last layer to `out`: (tokens × hidden).
    pub(crate) fn hidden(&self, ops: &O, batch: &PackedBatch, mut out: &mut [f32]) -> Result<()> {
        let width = out.len() / batch.tokens().max(1);
        for (x, texts) in self.through(&self.layers, ops, batch, &|| ())? {
            ops.read(&x, out.split_off_mut(..texts.tokens() * width).expect("a row a token"))?;
        }
        Ok(())
    }

    /// Writes the pooled hidden state of each text of `batch` to `out`: (texts × hidden), not normalised. `between` is called between two
    /// layers.
    pub(crate) fn pooled(&self, ops: &O, batch: &PackedBatch, out: &mut [f32], between: &dyn Fn()) -> Result<()> {
        let rows = |parts: &[_]| ops.pool(parts, self.pooling);
        let pooled = match (self.pooling, self.layers.split_last()) {
            // One token of each text is asked for, and behind its attention the last layer mixes tokens no more: three
            // quarters of its work need not be done.
            (Pooling::Cls | Pooling::LastToken, Some((last, layers))) => {
                let mut parts = self.through(layers, ops, batch, between)?;
                let residual = rows(&parts)?;
                side_by_side(&mut parts, |x, texts| last.context(ops, x, texts, self.heads))?;
                last.transform(ops, &rows(&parts)?, &residual)?
            }
            _ => rows(&self.through(&self.layers, ops, batch, between)?)?,
        };
        ops.read(&pooled, out)
    }

    /// The hidden states of all texts of `batch` behind `layers`, in the parts that the device likes.
    fn through<'a>(
        &self,
        layers: &[Layer<O>],
        ops: &O,
        batch: &'a PackedBatch,
        between: &dyn Fn(),
    ) -> Result<Vec<(O::Hidden, Texts<'a>)>> {
        let most = ops.part(batch.tokens());
        // Two neighbours together are always more than one may be.
        let mut parts = Vec::with_capacity(2 * batch.tokens().div_ceil(most.max(1)));
        for texts in batch.all().parts(most) {
            parts.push((ops.embed(texts, &self.embedding)?, texts));
        }
        for layer in layers {
            side_by_side(&mut parts, |x, texts| layer.transform(ops, &layer.context(ops, x, texts, self.heads)?, x))?;
            between();
        }
        Ok(parts)
    }
}

/// Replaces the hidden state of every part by `f` of it, as many at once as there are threads.
///
/// A queue, and not a parallel iterator: a thread that waits for a piece of its part would begin with another part meanwhile, and there would
/// be what any number of them need.
fn side_by_side<H: Send>(parts: &mut [(H, Texts<'_>)], f: impl Fn(&H, Texts<'_>) -> Result<H> + Sync) -> Result<()> {
    // One alone stays on this thread: a query waits for no other, and a device need not bear to be called from several.
    if let [(x, texts)] = parts {
        *x = f(x, *texts)?;
        return Ok(());
    }
    let queue = Mutex::new(parts.iter_mut());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    (0..rayon::current_num_threads()).into_par_iter().with_max_len(1).try_for_each(|_| {
        while let Some((x, texts)) = next() {
            *x = f(x, *texts)?;
        }
        Ok(())
    })
}

impl<O: Ops> Layer<O> {
    /// Loads layer `i`; with a look at its inputs, where they are given, and then with what comes out of it.
    fn load(
        ops: &O,
        weights: &Weights,
        config: &ModelConfig,
        i: usize,
        inputs: Option<(&O::Hidden, Texts<'_>)>,
    ) -> Result<(Self, Option<O::Hidden>)> {
        let name = |part: &str| format!("encoder.layer.{i}.{part}");
        let linear = |part: &str, x: Option<&O::Hidden>| ops.load_linear(weights, &[name(part)], x);
        let norm = |part: &str| ops.load_norm(weights, &name(part), config);
        let attention = ["query", "key", "value"].map(|p| name(&format!("attention.self.{p}")));
        let query_key_value = ops.load_linear(weights, &attention, inputs.map(|(x, _)| x))?;
        let attention_output = linear("attention.output.dense", None)?;
        let attention_norm = norm("attention.output.LayerNorm")?;
        let attended = |(x, texts): (&O::Hidden, Texts<'_>)| {
            let context = ops.attention(x, &query_key_value, texts, config.heads)?;
            ops.add_norm(ops.linear(&context, &attention_output)?, x, &attention_norm)
        };
        let attended = inputs.map(attended).transpose()?;
        let up = linear("intermediate.dense", attended.as_ref())?;
        let down = linear("output.dense", None)?;
        let layer =
            Self { query_key_value, attention_output, attention_norm, up, down, norm: norm("output.LayerNorm")? };
        let next = attended.map(|x| layer.feed_forward(ops, x)).transpose()?;
        Ok((layer, next))
    }

    /// What each token has gathered from the tokens of its text.
    fn context(&self, ops: &O, x: &O::Hidden, texts: Texts<'_>, heads: usize) -> Result<O::Hidden> {
        ops.attention(x, &self.query_key_value, texts, heads)
    }

    /// The rest of the layer, in which each token is by itself.
    fn transform(&self, ops: &O, context: &O::Hidden, x: &O::Hidden) -> Result<O::Hidden> {
        let attended = ops.linear(context, &self.attention_output)?;
        self.feed_forward(ops, ops.add_norm(attended, x, &self.attention_norm)?)
    }

    fn feed_forward(&self, ops: &O, x: O::Hidden) -> Result<O::Hidden> {
        let transformed = ops.feed_forward(&x, &self.up, &self.down)?;
        ops.add_norm(transformed, &x, &self.norm)
    }
}
