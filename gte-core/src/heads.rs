//! The layers after the encoder: dense layers after pooling, classifiers, and the heads of sparse
//! and multi-vector models. They are small and computed in f32, each row on its own, on the host
//! for every device.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::error::Result;
use crate::kernels::Kernels;
use crate::models::{Architecture, ClassifierSpec, HeadActivation, Names};
use crate::weights::Weights;

/// A small linear layer: activation(weight · x + bias), plus a residual.
pub(crate) struct Dense {
    weight: Vec<f32>, // (outputs × inputs)
    bias: Vec<f32>,   // (outputs), or empty
    inputs: usize,
    activation: HeadActivation,
    residual: Residual,
}

/// What is added to a layer's output.
pub(crate) enum Residual {
    Nothing,
    /// The layer's input.
    Input,
    /// A linear map of the input, for layers that change the width: (outputs × inputs).
    Projected(Vec<f32>),
}

impl Dense {
    /// Reads the tensors `name.weight` and, with `bias`, `name.bias`.
    pub(crate) fn load(weights: &Weights, name: &str, bias: bool, activation: HeadActivation) -> Result<Self> {
        let weight = weights.read(&format!("{name}.weight"))?;
        let inputs = weight.shape[1];
        let bias = if bias { weights.read(&format!("{name}.bias"))?.into_f32() } else { Vec::new() };
        Ok(Self { weight: weight.into_f32(), bias, inputs, activation, residual: Residual::Nothing })
    }

    /// A layer with one output and without bias, whose weights are `row`.
    pub(crate) fn of_row(row: Vec<f32>) -> Self {
        let (activation, residual) = (HeadActivation::Identity, Residual::Nothing);
        Self { inputs: row.len(), weight: row, bias: Vec::new(), activation, residual }
    }

    /// The same layer, with something added to its output.
    pub(crate) fn with(self, residual: Residual) -> Self {
        Self { residual, ..self }
    }

    pub(crate) fn outputs(&self) -> usize {
        self.weight.len() / self.inputs
    }

    /// Computes the outputs for the input `x`.
    pub(crate) fn apply(&self, kernels: &Kernels, x: &[f32], out: &mut [f32]) {
        for (i, (out, row)) in out.iter_mut().zip(self.weight.chunks_exact(self.inputs)).enumerate() {
            let sum = (kernels.dot)(x, row) + self.bias.get(i).copied().unwrap_or(0.0);
            let activated = activate(self.activation, sum);
            *out = activated
                + match &self.residual {
                    Residual::Nothing => 0.0,
                    Residual::Input => x[i],
                    Residual::Projected(weight) => (kernels.dot)(x, &weight[i * self.inputs..][..self.inputs]),
                };
        }
    }

    /// The outputs for each row of `x`: (rows × outputs).
    pub(crate) fn apply_rows(&self, kernels: &Kernels, x: &[f32]) -> Vec<f32> {
        let outputs = self.outputs();
        let mut y = vec![0.0; x.len() / self.inputs * outputs];
        let rows = y.par_chunks_exact_mut(outputs).zip(x.par_chunks_exact(self.inputs));
        rows.for_each(|(y, x)| self.apply(kernels, x, y));
        y
    }
}

/// The formulas of the PyTorch modules with these names; GELU is exact. Computed in f64, because
/// there are only a few values per text.
fn activate(activation: HeadActivation, x: f32) -> f32 {
    let x64 = f64::from(x);
    match activation {
        HeadActivation::Identity => x,
        HeadActivation::Tanh => x64.tanh() as f32,
        HeadActivation::Relu => x.max(0.0),
        HeadActivation::Sigmoid => (1.0 / (1.0 + (-x64).exp())) as f32,
        HeadActivation::Silu => (x64 / (1.0 + (-x64).exp())) as f32,
        HeadActivation::Gelu => (0.5 * x64 * (1.0 + erf(x64 * std::f64::consts::FRAC_1_SQRT_2))) as f32,
        HeadActivation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x64 + 0.044_715 * x64.powi(3));
            (0.5 * x64 * (1.0 + inner.tanh())) as f32
        }
    }
}

/// The error function, by its series up to 3 and by its continued fraction beyond (Abramowitz,
/// Stegun 1964, 7.1.6 and 7.1.14). Maximum error 1e-12.
fn erf(x: f64) -> f64 {
    let square = x * x;
    if x.abs() < 3.0 {
        let mut term = x;
        let mut sum = x;
        for n in 1..80 {
            term *= 2.0 * square / f64::from(2 * n + 1);
            sum += term;
        }
        return std::f64::consts::FRAC_2_SQRT_PI * (-square).exp() * sum;
    }
    let size = x.abs();
    let fraction = (1..60).rev().fold(size, |fraction, n| size + f64::from(n) / 2.0 / fraction);
    let tail = (-square).exp() / (fraction * std::f64::consts::PI.sqrt());
    (1.0 - tail).copysign(x)
}

/// A classifier: computes logits from a pooled hidden state.
pub(crate) struct Classifier {
    dense: Option<Dense>,
    norm: Option<(Vec<f32>, Vec<f32>, f32)>, // scale, shift, eps
    out: Dense,
}

impl Classifier {
    /// Loads the classifier of a checkpoint.
    pub(crate) fn load(weights: &Weights, architecture: &Architecture, spec: &ClassifierSpec) -> Result<Self> {
        let names: &Names = weights.spelling();
        let norm = || -> Result<_> {
            let read = |part: &str| -> Result<Vec<f32>> {
                Ok(weights.read(&format!("{}.{part}", names.head_norm))?.into_f32())
            };
            let beta = if architecture.norm.bias { read("bias")? } else { Vec::new() };
            Ok((read("weight")?, beta, architecture.norm.eps))
        };
        let dense = |(activation, bias)| Dense::load(weights, names.head_dense, bias, activation);
        Ok(Self {
            dense: spec.dense.map(dense).transpose()?,
            norm: spec.norm.then(norm).transpose()?,
            out: Dense::load(weights, names.head_out, spec.out_bias, HeadActivation::Identity)?,
        })
    }

    /// The difference between the logits of yes and no at the end of a language model: one dot
    /// product with the difference of two rows of its output layer, without the logits of the other
    /// tokens.
    pub(crate) fn yes_no(weights: &Weights, tied: bool, yes: u32, no: Option<u32>) -> Result<Self> {
        let names = weights.spelling();
        let table = format!("{}.weight", if tied { names.words } else { names.language });
        let mut difference = weights.read_row(&table, yes as usize)?;
        if let Some(no) = no {
            let no = weights.read_row(&table, no as usize)?;
            difference.iter_mut().zip(no).for_each(|(yes, no)| *yes -= no);
        }
        Ok(Self { dense: None, norm: None, out: Dense::of_row(difference) })
    }

    /// Number of logits per text.
    pub(crate) fn labels(&self) -> usize {
        self.out.outputs()
    }

    /// The logits of each row of `pooled`: (rows × labels).
    pub(crate) fn logits(&self, kernels: &Kernels, pooled: &[f32]) -> Vec<f32> {
        let mut x = match &self.dense {
            Some(dense) => dense.apply_rows(kernels, pooled),
            None => pooled.to_vec(),
        };
        if let Some((gamma, beta, eps)) = &self.norm {
            x.chunks_exact_mut(gamma.len()).for_each(|row| (kernels.add_norm)(row, None, gamma, beta, *eps, 0));
        }
        self.out.apply_rows(kernels, &x)
    }
}

/// Computes the weight of each token of a text, and keeps the largest for each token id:
/// `sparse_linear` of bge-m3 (`m3/modeling.py` of FlagEmbedding), or the token classifier of
/// gte-multilingual (`scripts/gte_embedding.py`).
pub(crate) struct Sparse {
    head: Dense,
    ignored: Vec<u32>,
}

impl Sparse {
    /// `ignored` are the ids without a weight: those of the special tokens.
    pub(crate) fn new(head: Dense, ignored: Vec<u32>) -> Self {
        Self { head, ignored }
    }

    /// Token ids and weights, in the order of ids, for a text with the tokens `ids` and the hidden
    /// states `hidden`: (tokens × hidden).
    pub(crate) fn weights(&self, kernels: &Kernels, ids: &[u32], hidden: &[f32]) -> Vec<(u32, f32)> {
        let mut largest = BTreeMap::new();
        for (&id, state) in ids.iter().zip(hidden.chunks_exact(self.head.inputs)) {
            if self.ignored.contains(&id) {
                continue;
            }
            let mut weight = [0.0];
            self.head.apply(kernels, state, &mut weight);
            if weight[0] > 0.0 {
                let of_id: &mut f32 = largest.entry(id).or_insert(0.0);
                *of_id = of_id.max(weight[0]);
            }
        }
        largest.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_are_those_of_pytorch() {
        // torch.nn.functional.{gelu, silu, sigmoid} in float64.
        let cases = [
            (HeadActivation::Gelu, -1.5, -0.100_210_81),
            (HeadActivation::Gelu, 0.5, 0.345_731_23),
            (HeadActivation::Gelu, 4.5, 4.499_985),
            (HeadActivation::GeluTanh, 0.5, 0.345_714),
            (HeadActivation::Silu, -2.0, -0.238_405_84),
            (HeadActivation::Sigmoid, 1.0, 0.731_058_6),
            (HeadActivation::Tanh, 0.3, 0.291_312_6),
            (HeadActivation::Relu, -0.3, 0.0),
        ];
        for (activation, x, expected) in cases {
            let found = activate(activation, x);
            assert!((found - expected).abs() < 2e-6, "{activation:?} of {x}: {found}, expected {expected}");
        }
    }
}
