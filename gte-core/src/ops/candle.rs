//! The verbs on candle tensors: NVIDIA GPUs (feature `cuda`), Apple GPUs (`metal`), and on candle's CPU backend the whole-model
//! oracle of the tests. Plain on purpose: each verb is its formula in candle's own operations.

use candle_core::{D, DType, Device, Tensor};

use super::Ops;
use crate::batch::Texts;
use crate::config::{ModelConfig, Pooling};
use crate::weights::Weights;
use crate::{Error, Result};

/// A candle device, computing in one type; LayerNorm and softmax are in f32 whatever that is.
pub(crate) struct Candle {
    device: Device,
    dtype: DType,
}

impl Candle {
    pub(crate) fn new(device: Device, dtype: DType) -> Self {
        Self { device, dtype }
    }

    fn tensor(&self, weights: &Weights, name: &str) -> Result<Tensor> {
        let tensor = weights.read(name)?;
        let shape = tensor.shape.clone();
        Ok(Tensor::from_vec(tensor.into_f32(), shape, &self.device)?.to_dtype(self.dtype)?)
    }

    fn ids(&self, ids: impl IntoIterator<Item = u32>, len: usize) -> Result<Tensor> {
        Ok(Tensor::from_iter(ids, &self.device)?.reshape(len)?)
    }

    fn norm(&self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        let x = x.to_dtype(DType::F32)?;
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + norm.eps)?.sqrt()?;
        let scaled = centred.broadcast_div(&deviation)?.to_dtype(self.dtype)?;
        Ok(scaled.broadcast_mul(&norm.gamma)?.broadcast_add(&norm.beta)?)
    }
}

impl From<candle_core::Error> for Error {
    fn from(e: candle_core::Error) -> Self {
        Self::Device { device: "candle".into(), reason: e.to_string() }
    }
}

pub(crate) struct Embedding {
    words: Tensor,     // (vocab, hidden)
    positions: Tensor, // (max_positions, hidden)
    type_zero: Tensor, // (hidden)
    norm: Norm,
}

pub(crate) struct Linear {
    weight: Tensor, // (inputs, outputs)
    bias: Tensor,   // (outputs)
}

pub(crate) struct Norm {
    gamma: Tensor, // (hidden)
    beta: Tensor,  // (hidden)
    eps: f64,
}

impl Ops for Candle {
    type Hidden = Tensor;
    type Embedding = Embedding;
    type Linear = Linear;
    type Norm = Norm;

    fn load_embedding(&self, weights: &Weights, config: &ModelConfig) -> Result<Embedding> {
        Ok(Embedding {
            words: self.tensor(weights, "embeddings.word_embeddings.weight")?,
            positions: self.tensor(weights, "embeddings.position_embeddings.weight")?,
            type_zero: self.tensor(weights, "embeddings.token_type_embeddings.weight")?.get(0)?,
            norm: self.load_norm(weights, "embeddings.LayerNorm", config)?,
        })
    }

    fn looks_at_inputs(&self, _weights: &Weights) -> bool {
        false
    }

    fn load_linear(&self, weights: &Weights, names: &[String], _inputs: Option<&Tensor>) -> Result<Linear> {
        let read = |part: &str| -> Result<Tensor> {
            let parts: Result<Vec<_>> = names.iter().map(|n| self.tensor(weights, &format!("{n}.{part}"))).collect();
            Ok(Tensor::cat(&parts?, 0)?)
        };
        Ok(Linear { weight: read("weight")?.t()?.contiguous()?, bias: read("bias")? })
    }

    fn load_norm(&self, weights: &Weights, name: &str, config: &ModelConfig) -> Result<Norm> {
        let read = |part: &str| self.tensor(weights, &format!("{name}.{part}"));
        Ok(Norm { gamma: read("weight")?, beta: read("bias")?, eps: config.layer_norm_eps.into() })
    }

    fn embed(&self, texts: Texts<'_>, tables: &Embedding) -> Result<Tensor> {
        let ids = self.ids(texts.ids().iter().copied(), texts.tokens())?;
        let positions = self.ids(texts.ranges().flat_map(|r| 0..r.len() as u32), texts.tokens())?;
        let x = (tables.words.index_select(&ids, 0)? + tables.positions.index_select(&positions, 0)?)?;
        self.norm(&x.broadcast_add(&tables.type_zero)?, &tables.norm)
    }

    fn linear(&self, x: &Tensor, layer: &Linear) -> Result<Tensor> {
        Ok(x.matmul(&layer.weight)?.broadcast_add(&layer.bias)?)
    }

    fn feed_forward(&self, x: &Tensor, up: &Linear, down: &Linear) -> Result<Tensor> {
        self.linear(&self.linear(x, up)?.gelu_erf()?, down)
    }

    fn attention(&self, x: &Tensor, layer: &Linear, texts: Texts<'_>, heads: usize) -> Result<Tensor> {
        let qkv = self.linear(x, layer)?;
        let width = qkv.dim(1)? / 3;
        let d = width / heads;
        let text = |range: std::ops::Range<usize>| -> Result<Tensor> {
            let tokens = range.len();
            let rows = qkv.narrow(0, range.start, tokens)?;
            let part = |i: usize| -> Result<Tensor> {
                let part = rows.narrow(1, i * width, width)?.reshape((tokens, heads, d))?;
                Ok(part.transpose(0, 1)?.contiguous()?)
            };
            let scores = (part(0)?.matmul(&part(1)?.t()?.contiguous()?)? / (d as f64).sqrt())?;
            let weights = candle_nn::ops::softmax(&scores.to_dtype(DType::F32)?, D::Minus1)?.to_dtype(self.dtype)?;
            Ok(weights.matmul(&part(2)?)?.transpose(0, 1)?.contiguous()?.reshape((tokens, width))?)
        };
        let texts = texts.ranges().map(text).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&texts, 0)?)
    }

    fn add_norm(&self, x: Tensor, residual: &Tensor, norm: &Norm) -> Result<Tensor> {
        self.norm(&(x + residual)?, norm)
    }

    fn pool(&self, parts: &[(Tensor, Texts<'_>)], pooling: Pooling) -> Result<Tensor> {
        let text = |x: &Tensor, range: std::ops::Range<usize>| match pooling {
            Pooling::Cls => x.narrow(0, range.start, 1),
            Pooling::LastToken => x.narrow(0, range.end - 1, 1),
            // In f32: a mean over hundreds of tokens would lose digits in a half precision.
            Pooling::Mean => x
                .narrow(0, range.start, range.len())
                .and_then(|rows| rows.to_dtype(DType::F32)?.mean_keepdim(0)?.to_dtype(self.dtype)),
        };
        let rows = parts.iter().flat_map(|(x, texts)| texts.ranges().map(move |range| text(x, range)));
        Ok(Tensor::cat(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)?)
    }

    fn read(&self, x: &Tensor, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(&x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    }
}
