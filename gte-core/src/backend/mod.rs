//! `trait Backend`: the few operations that an encoder needs. `encoder.rs` builds models from them,
//! and each device implements them.

#[cfg(feature = "candle")]
pub(crate) mod candle;
pub(crate) mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;

use std::ops::Range;

use crate::batch::Texts;
use crate::dense::Dense;
use crate::device::DeviceState;
use crate::error::Result;
use crate::models::{Architecture, LayerSpec, MlpSpec, NormSpec, Pooling};
use crate::profile::{KernelTime, Profile};
use crate::weights::Weights;

/// What a device must implement. Every hidden state is (tokens × width), with the tokens of a batch
/// end to end. Operations that cover several layers leave the form of the states between these
/// layers to the device.
///
/// No operation lets one text see another text or the size of its batch. That is what makes results
/// independent of the batch.
pub(crate) trait Backend: Send + Sync {
    /// A (tokens × hidden) matrix: the stream that layers read from and add to.
    type Hidden: Send + Sync;
    /// A (tokens × width) matrix that only linear layers read, in the form that suits the device
    /// best.
    type Operand: Send + Sync;
    /// Queries, keys and values of some tokens, with positions applied.
    type Projected: Send + Sync;
    /// The embedding tables and their norm.
    type Embedding: Send + Sync;
    /// A linear layer.
    type Linear: Send + Sync;
    /// A norm: its kind, scale and shift.
    type Norm: Send + Sync;
    /// How one layer computes attention: heads, norms of heads, positions, mask.
    type Attention: Send + Sync;
    /// A linear layer after the encoder, which is computed in f32.
    type Dense: Send + Sync;

    /// Loads the embedding tables.
    fn load_embedding(&self, weights: &Weights, architecture: &Architecture) -> Result<Self::Embedding>;
    /// Loads linear layers that have the same input as one layer, with their outputs side by side.
    /// `names` are without `.weight` and `.bias`.
    fn load_linear(&self, weights: &Weights, names: &[String], bias: bool) -> Result<Self::Linear>;
    /// Loads a norm. `name` is without `.weight` and `.bias`.
    fn load_norm(&self, weights: &Weights, name: &str, spec: &NormSpec) -> Result<Self::Norm>;
    /// Loads what a layer's attention needs besides its linear layers. `norms` are the names of the
    /// norms for queries and keys, if there are any.
    fn load_attention(
        &self,
        weights: &Weights,
        norms: Option<[String; 2]>,
        architecture: &Architecture,
        layer: &LayerSpec,
    ) -> Result<Self::Attention>;
    /// Loads a linear layer after the encoder.
    fn load_dense(&self, layer: Dense) -> Result<Self::Dense>;

    /// norm(word + position + type) of every token.
    fn embed(&self, texts: Texts<'_>, tables: &Self::Embedding) -> Result<Self::Hidden>;
    /// Softmax attention within each text, over what `qkv` computes from norm(x). Each text
    /// continues the single text of `before`, whose queries, keys and values an earlier call
    /// returned.
    fn attention(
        &self,
        x: &Self::Hidden,
        norm: Option<&Self::Norm>,
        qkv: &Self::Linear,
        attention: &Self::Attention,
        texts: Texts<'_>,
        before: Option<&Self::Projected>,
    ) -> Result<(Self::Operand, Self::Projected)>;
    /// x ← norm(operand · weightᵀ + bias + x)
    fn project_add_norm(
        &self,
        operand: &Self::Operand,
        layer: &Self::Linear,
        x: &mut Self::Hidden,
        norm: Option<&Self::Norm>,
    ) -> Result<()>;
    /// x ← after(down(activation(up(before(x)))) + x), or with a gate
    /// x ← after(down(activation(a) · b) + x), where a and b are the halves of up(before(x)).
    /// `norms` are before and after.
    fn mlp_add_norm(
        &self,
        x: &mut Self::Hidden,
        norms: [Option<&Self::Norm>; 2],
        up: &Self::Linear,
        down: &Self::Linear,
        spec: &MlpSpec,
    ) -> Result<()>;
    /// x ← norm(x)
    fn norm(&self, x: &mut Self::Hidden, norm: &Self::Norm) -> Result<()>;
    /// One row per text of all parts, not scaled to unit length.
    fn pool(&self, parts: &[(Self::Hidden, Texts<'_>)], pooling: Pooling) -> Result<Self::Hidden>;
    /// activation(x · weightᵀ + bias) plus the layer's residual, for each row of x, which is a text
    /// or a token. If the layer says so, each row is scaled to unit length.
    fn dense(&self, x: &Self::Hidden, layer: &Self::Dense) -> Result<Self::Hidden>;
    /// The row of the first or the last token of each text of all parts.
    fn pick(&self, parts: &[(Self::Operand, Texts<'_>)], token: Token) -> Result<Self::Operand>;
    /// Number of tokens per part, if a batch of `tokens` tokens is faster when it is split into
    /// parts of whole texts that are computed side by side.
    fn part(&self, tokens: usize) -> usize {
        tokens
    }
    /// Where the time was spent, on devices that measure it.
    fn profile(&self) -> Profile {
        Profile::default()
    }
    /// Copies `x` to `out`, which has exactly its size, row after row.
    fn read(&self, x: &Self::Hidden, out: &mut [f32]) -> Result<()>;
    /// Computes the pooled vectors of `texts` into `out` by `pass`, or by what the device has
    /// recorded of an earlier pass of the same shape.
    fn repeat(
        &self,
        texts: Texts<'_>,
        pooling: Pooling,
        out: &mut [f32],
        pass: &mut dyn FnMut(&mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let _ = (texts, pooling);
        pass(out)
    }
    /// Whether passes are recorded and repeated.
    fn record(&self, on: bool) {
        let _ = on;
    }
    /// Gives memory back that no pass uses.
    fn shrink(&self) {}
    /// What the device says of itself, where it is not the CPU.
    fn state(&self) -> Option<DeviceState> {
        None
    }
    /// Whether each kernel is timed from here on, on devices that can.
    fn time_kernels(&self, on: bool) {
        let _ = on;
    }
    /// How long each kernel took since they were last asked for.
    fn kernel_times(&self) -> Vec<KernelTime> {
        Vec::new()
    }
}

/// One token of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    First,
    Last,
}

impl Token {
    /// The token that `pooling` uses, or None if it uses all of them.
    pub(crate) fn of(pooling: Pooling) -> Option<Self> {
        match pooling {
            Pooling::Cls => Some(Self::First),
            Pooling::LastToken => Some(Self::Last),
            Pooling::Mean => None,
        }
    }

    /// The token's index among the tokens of a text. The first `unpooled` tokens do not count,
    /// unless the text has no others.
    pub(crate) fn place(self, text: &Range<usize>, unpooled: usize) -> usize {
        match self {
            Self::First if unpooled < text.len() => text.start + unpooled,
            Self::First => text.start,
            Self::Last => text.end - 1,
        }
    }
}

/// Pools the tokens `text`, whose hidden states `row` gives, into `out`. The first `unpooled` do
/// not count.
pub(crate) fn pool_rows<'a>(
    row: impl Fn(usize) -> &'a [f32],
    text: Range<usize>,
    unpooled: usize,
    pooling: Pooling,
    out: &mut [f32],
) {
    if let Some(token) = Token::of(pooling) {
        return out.copy_from_slice(row(token.place(&text, unpooled)));
    }
    // If no token of a text counts, the mean is over all of its tokens instead of a division by
    // zero.
    let tokens = if unpooled < text.len() { text.start + unpooled..text.end } else { text };
    let scale = 1.0 / tokens.len() as f32;
    out.fill(0.0);
    tokens.for_each(|token| out.iter_mut().zip(row(token)).for_each(|(sum, v)| *sum += v));
    out.iter_mut().for_each(|v| *v *= scale);
}
