//! `Dense`: a linear layer after the encoder, in f32, as a checkpoint has it. Dense layers after
//! pooling, classifiers, and the heads of sparse and multi-vector models consist of it.

use crate::error::Result;
use crate::kernels::Kernels;
use crate::models::HeadActivation;
use crate::weights::Weights;

/// A linear layer: activation(weight · x + bias) plus a residual, or that scaled to unit length.
pub(crate) struct Dense {
    pub(crate) weight: Vec<f32>, // (outputs × inputs)
    pub(crate) bias: Vec<f32>,   // (outputs), or empty
    pub(crate) inputs: usize,
    pub(crate) activation: HeadActivation,
    pub(crate) residual: Residual,
    /// Whether each row of outputs is scaled to unit length.
    pub(crate) unit: bool,
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
        Ok(Self { weight: weight.into_f32(), bias, inputs, activation, residual: Residual::Nothing, unit: false })
    }

    /// A layer with one output and without bias, whose weights are `row`.
    pub(crate) fn of_row(row: Vec<f32>) -> Self {
        let (activation, residual) = (HeadActivation::Identity, Residual::Nothing);
        Self { inputs: row.len(), weight: row, bias: Vec::new(), activation, residual, unit: false }
    }

    /// The same layer, with something added to its output.
    pub(crate) fn with(self, residual: Residual) -> Self {
        Self { residual, ..self }
    }

    /// The same layer, with outputs scaled to unit length.
    pub(crate) fn into_unit(self) -> Self {
        Self { unit: true, ..self }
    }

    pub(crate) fn outputs(&self) -> usize {
        self.weight.len() / self.inputs
    }

    /// Computes the outputs for the input `x`, on the CPU.
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
        if self.unit {
            (kernels.normalize)(out);
        }
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
