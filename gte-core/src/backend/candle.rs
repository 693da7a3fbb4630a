//! The verbs on candle tensors: Apple GPUs (feature `metal`), and on candle's CPU backend the
//! whole-model oracle of the tests. Plain on purpose: each verb is its formula in candle's own
//! operations. Attention goes by texts of one length, which are one batched product.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{D, DType, Device, Tensor};

use super::{Backend, Token};
use crate::batch::Texts;
use crate::dense::{self, Residual};
use crate::error::{Error, Result};
use crate::kernels::{Activation, Mask};
use crate::models::{
    Architecture, AttentionSpec, Gate, HeadActivation, LayerSpec, MlpSpec, NormKind, NormSpec, Pooling, PositionRule,
    RopeSpec,
};
use crate::weights::{self, Weights};

/// A candle device that computes in one number type. Norms and softmax are always in f32.
pub(crate) struct Candle {
    device: Device,
    dtype: DType,
}

impl Candle {
    pub(crate) fn new(device: Device, dtype: DType) -> Self {
        Self { device, dtype }
    }

    fn tensor(&self, weights: &Weights, name: &str) -> Result<Tensor> {
        self.on_device(weights.read(name)?)
    }

    fn on_device(&self, tensor: weights::Tensor) -> Result<Tensor> {
        let shape = tensor.shape.clone();
        Ok(Tensor::from_vec(tensor.into_f32(), shape, &self.device)?.to_dtype(self.dtype)?)
    }

    fn ids(&self, ids: impl IntoIterator<Item = u32>, len: usize) -> Result<Tensor> {
        Ok(Tensor::from_iter(ids, &self.device)?.reshape(len)?)
    }

    fn load_norm_of(&self, weights: &Weights, name: &str, kind: NormKind, eps: f32, bias: bool) -> Result<Norm> {
        let read = |part: &str| self.tensor(weights, &format!("{name}.{part}"));
        Ok(Norm { kind, gamma: read("weight")?, beta: bias.then(|| read("bias")).transpose()?, eps: eps.into() })
    }

    /// norm(x + residual)
    fn summed(&self, x: Tensor, residual: &Tensor, norm: Option<&Norm>) -> Result<Tensor> {
        let sum = (x + residual)?;
        norm.map_or_else(|| Ok(sum.clone()), |norm| self.normed(&sum, norm))
    }

    fn normed(&self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        if norm.kind == NormKind::Rms {
            return Ok(candle_nn::ops::rms_norm(&x.contiguous()?, &norm.gamma, norm.eps as f32)?);
        }
        // Not candle's fused LayerNorm: it takes the mean of squares less the square of the mean,
        // and the digits that cancel are those that an oracle is asked for.
        // That of the model, but f32 after a dense layer.
        let dtype = x.dtype();
        let x = x.to_dtype(DType::F32)?;
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + norm.eps)?.sqrt()?;
        let scaled = centred.broadcast_div(&deviation)?.to_dtype(dtype)?.broadcast_mul(&norm.gamma.to_dtype(dtype)?)?;
        Ok(match &norm.beta {
            Some(beta) => scaled.broadcast_add(&beta.to_dtype(dtype)?)?,
            None => scaled,
        })
    }

    fn linear(&self, x: &Tensor, layer: &Linear) -> Result<Tensor> {
        let y = x.matmul(&layer.weight)?;
        Ok(match &layer.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }

    /// The tokens of each text, which are at the positions from `first` on, turned by their angles:
    /// (texts, heads, tokens, d).
    fn turned(&self, x: &Tensor, rope: &RopeSpec, first: usize) -> Result<Tensor> {
        let (_, _, tokens, d) = x.dims4()?;
        let half = d / 2;
        let angles: Vec<f64> = (first..first + tokens)
            .flat_map(|position| (0..half).map(move |i| position as f64 * rope.frequency(i, d)))
            .collect();
        let table = |f: fn(f64) -> f64| -> Result<Tensor> {
            let values: Vec<f32> = angles.iter().map(|&angle| f(angle) as f32).collect();
            Ok(Tensor::from_vec(values, (1, 1, tokens, half), &self.device)?)
        };
        let (cos, sin) = (table(f64::cos)?, table(f64::sin)?);
        let x = x.to_dtype(DType::F32)?;
        let (a, b) = (x.narrow(3, 0, half)?, x.narrow(3, half, half)?);
        let first_half = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second_half = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        Ok(Tensor::cat(&[first_half, second_half], 3)?.to_dtype(self.dtype)?)
    }

    /// What `mask` adds to the scores of `queries` that follow `first` tokens: (queries, keys), or
    /// nothing.
    fn mask(&self, mask: Mask, first: usize, queries: usize) -> Result<Option<Tensor>> {
        let sees = |query: usize, key: usize| match mask {
            Mask::Full => true,
            Mask::Causal => key <= query,
            Mask::Window(window) => query.abs_diff(key) <= window,
        };
        if mask == Mask::Full {
            return Ok(None);
        }
        let keys = first + queries;
        let value = |i: usize| if sees(first + i / keys, i % keys) { 0.0 } else { f32::NEG_INFINITY };
        let values: Vec<f32> = (0..queries * keys).map(value).collect();
        Ok(Some(Tensor::from_vec(values, (queries, keys), &self.device)?))
    }

    fn activated(x: &Tensor, activation: Activation) -> Result<Tensor> {
        Ok(match activation {
            Activation::None => x.clone(),
            Activation::Gelu => x.gelu_erf()?,
            Activation::GeluTanh => x.gelu()?,
            Activation::Silu => x.silu()?,
            Activation::Relu => x.relu()?,
        })
    }
}

impl From<candle_core::Error> for Error {
    fn from(e: candle_core::Error) -> Self {
        Self::Device { device: "candle".into(), reason: e.to_string() }
    }
}

pub(crate) struct Embedding {
    words: Tensor,                             // (vocab, hidden)
    positions: Option<(Tensor, PositionRule)>, // (rows, hidden)
    types: Option<Tensor>,                     // (types, hidden)
    norm: Option<Norm>,
}

pub(crate) struct Linear {
    weight: Tensor, // (inputs, outputs)
    bias: Option<Tensor>,
}

pub(crate) struct Norm {
    kind: NormKind,
    gamma: Tensor, // (width)
    beta: Option<Tensor>,
    eps: f64,
}

pub(crate) struct Attention {
    spec: AttentionSpec,
    layer: LayerSpec,
    head_norms: Option<[Norm; 2]>,
}

/// A linear layer after the encoder, in f32.
pub(crate) struct Dense {
    linear: Linear,
    activation: HeadActivation,
    residual: Option<Option<Tensor>>, // the input, or a product with (inputs, outputs)
    unit: bool,
}

/// Keys and values, turned, of the texts of each length: (texts, kv_heads, tokens, d). Texts go on
/// from a single one.
pub(crate) struct Projected(Vec<(Tensor, Tensor)>);

impl Backend for Candle {
    type Hidden = Tensor;
    type Operand = Tensor;
    type Projected = Projected;
    type Embedding = Embedding;
    type Linear = Linear;
    type Norm = Norm;
    type Attention = Attention;
    type Dense = Dense;

    fn load_embedding(&self, weights: &Weights, architecture: &Architecture) -> Result<Embedding> {
        let (names, spec) = (weights.spelling(), &architecture.norm);
        let table = |name: &str| self.tensor(weights, &format!("{name}.weight"));
        let positions = architecture.positions.map(|(_, rule)| Ok::<_, Error>((table(names.positions)?, rule)));
        let norm = || self.load_norm_of(weights, names.embedding_norm, spec.kind, spec.eps, spec.bias);
        Ok(Embedding {
            words: table(names.words)?,
            positions: positions.transpose()?,
            types: weights.read_types(architecture)?.map(|types| self.on_device(types)).transpose()?,
            norm: architecture.embedding_norm.then(norm).transpose()?,
        })
    }

    fn load_linear(&self, weights: &Weights, names: &[String], bias: bool) -> Result<Linear> {
        let read = |part: &str| -> Result<Tensor> {
            let parts: Result<Vec<_>> = names.iter().map(|n| self.tensor(weights, &format!("{n}.{part}"))).collect();
            Ok(Tensor::cat(&parts?, 0)?)
        };
        Ok(Linear { weight: read("weight")?.t()?.contiguous()?, bias: bias.then(|| read("bias")).transpose()? })
    }

    fn load_norm(&self, weights: &Weights, name: &str, spec: &NormSpec) -> Result<Norm> {
        self.load_norm_of(weights, name, spec.kind, spec.eps, spec.bias)
    }

    fn load_attention(
        &self,
        weights: &Weights,
        norms: Option<[String; 2]>,
        architecture: &Architecture,
        layer: &LayerSpec,
    ) -> Result<Attention> {
        let norm = |name: &String| self.load_norm_of(weights, name, NormKind::Rms, architecture.norm.eps, false);
        let head_norms = norms.map(|[q, k]| Ok::<_, Error>([norm(&q)?, norm(&k)?])).transpose()?;
        Ok(Attention { spec: architecture.attention, layer: *layer, head_norms })
    }

    fn load_dense(&self, layer: dense::Dense) -> Result<Dense> {
        let (inputs, outputs) = (layer.inputs, layer.outputs());
        let weight = |values: Vec<f32>| Tensor::from_vec(values, (outputs, inputs), &self.device)?.t()?.contiguous();
        let bias = (!layer.bias.is_empty()).then(|| Tensor::from_vec(layer.bias, outputs, &self.device));
        Ok(Dense {
            linear: Linear { weight: weight(layer.weight)?, bias: bias.transpose()? },
            activation: layer.activation,
            residual: match layer.residual {
                Residual::Nothing => None,
                Residual::Input => Some(None),
                Residual::Projected(values) => Some(Some(weight(values)?)),
            },
            unit: layer.unit,
        })
    }

    fn embed(&self, texts: Texts<'_>, tables: &Embedding) -> Result<Tensor> {
        let rows = |table: &Tensor, rows: &mut dyn Iterator<Item = usize>| -> Result<Tensor> {
            let ids = self.ids(rows.map(|row| row as u32), texts.tokens())?;
            Ok(table.index_select(&ids, 0)?)
        };
        let mut x = rows(&tables.words, &mut texts.ids().iter().map(|&id| id as usize))?;
        if let Some((table, rule)) = &tables.positions {
            x = (x + rows(table, &mut (0..texts.tokens()).map(|token| texts.position(token, *rule)))?)?;
        }
        if let Some(table) = &tables.types {
            let last = table.dim(0)? - 1;
            x = (x + rows(table, &mut (0..texts.tokens()).map(|t| usize::from(texts.type_of(t)).min(last)))?)?;
        }
        match &tables.norm {
            Some(norm) => self.normed(&x, norm),
            None => Ok(x),
        }
    }

    fn attention(
        &self,
        x: &Tensor,
        norm: Option<&Norm>,
        qkv: &Linear,
        attention: &Attention,
        texts: Texts<'_>,
        before: Option<&Projected>,
    ) -> Result<(Tensor, Projected)> {
        let x = norm.map_or_else(|| Ok(x.clone()), |norm| self.normed(x, norm))?;
        let qkv = self.linear(&x, qkv)?;
        let spec = &attention.spec;
        let (d, shared) = (spec.head_dim, spec.heads / spec.kv_heads);
        let [queries, keys, _] = spec.widths();
        let before = before.and_then(|before| before.0.first());
        let first = before.map_or(Ok(0), |(keys, _)| keys.dim(2))?;
        let mut by_length: BTreeMap<usize, Vec<Range<usize>>> = BTreeMap::new();
        for text in texts.ranges() {
            by_length.entry(text.len()).or_default().push(text);
        }
        let (mut projected, mut contexts, mut order) = (Vec::new(), Vec::new(), Vec::new());
        for (tokens, group) in by_length {
            let count = group.len();
            let places: Vec<u32> = group.into_iter().flatten().map(|token| token as u32).collect();
            let rows = qkv.index_select(&self.ids(places.iter().copied(), places.len())?, 0)?;
            order.extend(places);
            // (texts, heads, tokens, d)
            let part = |from: usize, heads: usize| -> Result<Tensor> {
                let part = rows.narrow(1, from, heads * d)?.reshape((count, tokens, heads, d))?;
                Ok(part.transpose(1, 2)?.contiguous()?)
            };
            let place = |x: Tensor, which: usize| -> Result<Tensor> {
                let normed = attention.head_norms.as_ref().map(|norms| self.normed(&x, &norms[which])).transpose()?;
                let x = normed.unwrap_or(x);
                attention.layer.rope.as_ref().map_or_else(|| Ok(x.clone()), |rope| self.turned(&x, rope, first))
            };
            let q = place(part(0, spec.heads)?, 0)?;
            let k = place(part(queries, spec.kv_heads)?, 1)?;
            let v = part(queries + keys, spec.kv_heads)?;
            let join = |before: Option<&Tensor>, own: &Tensor| -> Result<Tensor> {
                let Some(before) = before else { return Ok(own.clone()) };
                Ok(Tensor::cat(&[&before.repeat((count, 1, 1, 1))?, own], 2)?)
            };
            let (all_k, all_v) = (join(before.map(|b| &b.0), &k)?, join(before.map(|b| &b.1), &v)?);
            projected.push((k, v));
            // Query heads that share a key head are rows of one product.
            let q = q.reshape((count, spec.kv_heads, shared * tokens, d))?;
            let scores = (q.matmul(&all_k.t()?.contiguous()?)? / (d as f64).sqrt())?.to_dtype(DType::F32)?;
            let scores = match self.mask(attention.layer.mask, first, tokens)? {
                Some(mask) => scores
                    .reshape((count, spec.heads, tokens, first + tokens))?
                    .broadcast_add(&mask)?
                    .reshape((count, spec.kv_heads, shared * tokens, first + tokens))?,
                None => scores,
            };
            let weights = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(self.dtype)?;
            let context = weights.matmul(&all_v)?.reshape((count, spec.heads, tokens, d))?;
            contexts.push(context.transpose(1, 2)?.contiguous()?.reshape((count * tokens, queries))?);
        }
        // Back to the order of the batch.
        let mut back = vec![0; order.len()];
        order.into_iter().enumerate().for_each(|(i, token)| back[token as usize] = i as u32);
        let contexts = Tensor::cat(&contexts, 0)?.index_select(&self.ids(back, texts.tokens())?, 0)?;
        Ok((contexts, Projected(projected)))
    }

    fn project_add_norm(&self, operand: &Tensor, layer: &Linear, x: &mut Tensor, norm: Option<&Norm>) -> Result<()> {
        *x = self.summed(self.linear(operand, layer)?, x, norm)?;
        Ok(())
    }

    fn mlp_add_norm(
        &self,
        x: &mut Tensor,
        [before, after]: [Option<&Norm>; 2],
        up: &Linear,
        down: &Linear,
        spec: &MlpSpec,
    ) -> Result<()> {
        let normed = before.map_or_else(|| Ok(x.clone()), |norm| self.normed(x, norm))?;
        let inner = self.linear(&normed, up)?;
        let half = |which: usize| inner.narrow(1, which * spec.inner, spec.inner);
        let inner = match spec.gate {
            Gate::None => Self::activated(&inner, spec.activation)?,
            Gate::First => (Self::activated(&half(0)?, spec.activation)? * half(1)?)?,
            Gate::Second => (Self::activated(&half(1)?, spec.activation)? * half(0)?)?,
        };
        *x = self.summed(self.linear(&inner, down)?, x, after)?;
        Ok(())
    }

    fn norm(&self, x: &mut Tensor, norm: &Norm) -> Result<()> {
        *x = self.normed(x, norm)?;
        Ok(())
    }

    fn pool(&self, parts: &[(Tensor, Texts<'_>)], pooling: Pooling) -> Result<Tensor> {
        if let Some(token) = Token::of(pooling) {
            return self.pick(parts, token);
        }
        let mut rows = Vec::new();
        for (x, texts) in parts {
            for text in 0..texts.count() {
                let range = texts.range(text);
                let skip = Some(texts.unpooled(text)).filter(|&skip| skip < range.len()).unwrap_or(0);
                // In f32, because a mean over hundreds of tokens would lose digits in half
                // precision.
                let tokens = x.narrow(0, range.start + skip, range.len() - skip)?.to_dtype(DType::F32)?;
                rows.push(tokens.mean_keepdim(0)?.to_dtype(self.dtype)?);
            }
        }
        Ok(Tensor::cat(&rows, 0)?)
    }

    fn dense(&self, x: &Tensor, layer: &Dense) -> Result<Tensor> {
        let x = x.to_dtype(DType::F32)?;
        let y = self.linear(&x, &layer.linear)?;
        let y = match layer.activation {
            HeadActivation::Identity => y,
            HeadActivation::Tanh => y.tanh()?,
            HeadActivation::Gelu => y.gelu_erf()?,
            HeadActivation::GeluTanh => y.gelu()?,
            HeadActivation::Relu => y.relu()?,
            HeadActivation::Silu => y.silu()?,
            HeadActivation::Sigmoid => candle_nn::ops::sigmoid(&y)?,
        };
        let y = match &layer.residual {
            None => y,
            Some(None) => (y + x)?,
            Some(Some(weight)) => (y + x.matmul(weight)?)?,
        };
        if !layer.unit {
            return Ok(y);
        }
        let length = y.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(1e-12)?;
        Ok(y.broadcast_div(&length)?)
    }

    fn pick(&self, parts: &[(Tensor, Texts<'_>)], token: Token) -> Result<Tensor> {
        let rows = parts
            .iter()
            .flat_map(|(x, texts)| {
                let place = move |text| token.place(&texts.range(text), texts.unpooled(text));
                (0..texts.count()).map(move |text| x.narrow(0, place(text), 1))
            })
            .collect::<candle_core::Result<Vec<_>>>()?;
        Ok(Tensor::cat(&rows, 0)?)
    }

    fn read(&self, x: &Tensor, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(&x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    }
}
