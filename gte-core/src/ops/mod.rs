//! `trait Ops`: the few verbs that an encoder needs. `encoder.rs` says what a model is in them; each device says how.

#[cfg(feature = "candle")]
pub(crate) mod candle;
pub(crate) mod cpu;

use crate::Result;
use crate::batch::Texts;
use crate::config::{ModelConfig, Pooling};
use crate::profile::Profile;
use crate::weights::Weights;

/// The verbs. Every hidden state is (tokens × width), the tokens of a batch end to end. Those that take several layers leave it to the
/// device in what form the states between them are kept.
///
/// No verb lets one text see another, or the size of its batch: that is what makes results independent of the batch.
pub(crate) trait Ops: Send + Sync {
    /// A (tokens × width) matrix on the device.
    type Hidden: Send + Sync;
    /// Word, position and token type tables with their LayerNorm.
    type Embedding: Send + Sync;
    /// A linear layer: weight and bias.
    type Linear: Send + Sync;
    /// Scale and shift of a LayerNorm.
    type Norm: Send + Sync;

    /// Loads the tables of token embeddings.
    fn load_embedding(&self, weights: &Weights, config: &ModelConfig) -> Result<Self::Embedding>;
    /// Whether linear layers are loaded better with a look at what they will be fed with.
    fn looks_at_inputs(&self, weights: &Weights) -> bool;
    /// Loads linear layers of one input as one: their outputs side by side. `names` lack the `.weight` and `.bias`; `inputs` are some
    /// hidden states as the layer will see them, where that helps.
    fn load_linear(&self, weights: &Weights, names: &[String], inputs: Option<&Self::Hidden>) -> Result<Self::Linear>;
    /// Loads a LayerNorm. `name` lacks the `.weight` and `.bias`.
    fn load_norm(&self, weights: &Weights, name: &str, config: &ModelConfig) -> Result<Self::Norm>;

    /// LayerNorm(word + position + type) of every token.
    fn embed(&self, texts: Texts<'_>, tables: &Self::Embedding) -> Result<Self::Hidden>;
    /// x · weightᵀ + bias
    fn linear(&self, x: &Self::Hidden, layer: &Self::Linear) -> Result<Self::Hidden>;
    /// Softmax attention within each text; `layer` makes queries, keys and values of `x`, side by side. What comes out is for
    /// [`Ops::pool`] and the next [`Ops::linear`] alone.
    fn attention(&self, x: &Self::Hidden, layer: &Self::Linear, texts: Texts<'_>, heads: usize)
    -> Result<Self::Hidden>;
    /// down(GELU(up(x)))
    fn feed_forward(&self, x: &Self::Hidden, up: &Self::Linear, down: &Self::Linear) -> Result<Self::Hidden>;
    /// LayerNorm(x + residual)
    fn add_norm(&self, x: Self::Hidden, residual: &Self::Hidden, norm: &Self::Norm) -> Result<Self::Hidden>;
    /// One row a text of all parts, by `pooling`, not normalised.
    fn pool(&self, parts: &[(Self::Hidden, Texts<'_>)], pooling: Pooling) -> Result<Self::Hidden>;
    /// Tokens of a part, where a batch of `tokens` tokens is computed faster in parts of whole texts side by side.
    fn part(&self, tokens: usize) -> usize {
        tokens
    }
    /// Where the time went, on devices that know.
    fn profile(&self) -> Profile {
        Profile::default()
    }
    /// Copies `x` to `out`, which has just its size, row after row.
    fn read(&self, x: &Self::Hidden, out: &mut [f32]) -> Result<()>;
}
