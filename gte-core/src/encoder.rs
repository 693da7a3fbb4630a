//! The model, once, for every device: it reads like the paper's figure (Devlin et al. 2018, <https://arxiv.org/abs/1810.04805>).

use rayon::prelude::*;

use crate::Result;
use crate::batch::PackedBatch;
use crate::config::{ModelConfig, Pooling};
use crate::ops::{Activation, Ops};
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
    /// Loads all weights of a checkpoint, layers in parallel.
    pub(crate) fn load(ops: &O, weights: &Weights, config: &ModelConfig) -> Result<Self>
    where
        O: Sync,
        Layer<O>: Send,
    {
        let layer = |i: usize| {
            let name = |part: &str| format!("encoder.layer.{i}.{part}");
            let linear = |part: &str| ops.load_linear(weights, &[name(part)]);
            let norm = |part: &str| ops.load_norm(weights, &name(part), config);
            Ok(Layer {
                query_key_value: ops
                    .load_linear(weights, &["query", "key", "value"].map(|p| name(&format!("attention.self.{p}"))))?,
                attention_output: linear("attention.output.dense")?,
                attention_norm: norm("attention.output.LayerNorm")?,
                up: linear("intermediate.dense")?,
                down: linear("output.dense")?,
                norm: norm("output.LayerNorm")?,
            })
        };
        Ok(Self {
            heads: config.heads,
            pooling: config.pooling,
            embedding: ops.load_embedding(weights, config)?,
            layers: (0..config.layers).into_par_iter().map(layer).collect::<Result<_>>()?,
        })
    }

    /// The hidden state of each token of `batch` after the last layer: (tokens × hidden).
    pub(crate) fn hidden(&self, ops: &O, batch: &PackedBatch) -> Result<O::Hidden> {
        self.through(&self.layers, ops, batch)
    }

    /// The pooled hidden state of each text of `batch`: (texts × hidden), not normalised.
    pub(crate) fn pooled(&self, ops: &O, batch: &PackedBatch) -> Result<O::Hidden> {
        let rows = |x: &O::Hidden| ops.pool(x, batch, self.pooling);
        match (self.pooling, self.layers.split_last()) {
            // One token of each text is asked for, and behind its attention the last layer mixes tokens no more: three
            // quarters of its work need not be done.
            (Pooling::Cls | Pooling::LastToken, Some((last, layers))) => {
                let x = self.through(layers, ops, batch)?;
                let context = last.context(ops, &x, batch, self.heads)?;
                last.transform(ops, &rows(&context)?, &rows(&x)?)
            }
            _ => rows(&self.hidden(ops, batch)?),
        }
    }

    fn through(&self, layers: &[Layer<O>], ops: &O, batch: &PackedBatch) -> Result<O::Hidden> {
        let mut x = ops.embed(batch, &self.embedding)?;
        for layer in layers {
            let context = layer.context(ops, &x, batch, self.heads)?;
            x = layer.transform(ops, &context, &x)?;
        }
        Ok(x)
    }
}

impl<O: Ops> Layer<O> {
    /// What each token has gathered from the tokens of its text.
    fn context(&self, ops: &O, x: &O::Hidden, batch: &PackedBatch, heads: usize) -> Result<O::Hidden> {
        let query_key_value = ops.linear(x, &self.query_key_value, Activation::None)?;
        ops.attention(&query_key_value, batch, heads)
    }

    /// The rest of the layer, in which each token is by itself.
    fn transform(&self, ops: &O, context: &O::Hidden, x: &O::Hidden) -> Result<O::Hidden> {
        let attended = ops.linear(context, &self.attention_output, Activation::None)?;
        let x = ops.add_norm(attended, x, &self.attention_norm)?;
        let inner = ops.linear(&x, &self.up, Activation::Gelu)?;
        let outer = ops.linear(&inner, &self.down, Activation::None)?;
        ops.add_norm(outer, &x, &self.norm)
    }
}
