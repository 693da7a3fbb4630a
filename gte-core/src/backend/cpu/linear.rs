//! A linear layer, packed for the kernels.

use std::sync::{Mutex, PoisonError};

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::matrix::Block;
use crate::error::Result;
use crate::kernels::{Arena, Kernels, LowPrecision, LowPrecisionWeights, NumberFormat, Packed, PackedLowPrecision};
use crate::weights::{Tensor, Weights};

/// A linear layer, packed for the kernels.
pub(crate) struct Linear {
    pub(super) weight: Weight,
    pub(super) bias: Vec<f32>, // (outputs), or empty
    pub(super) outputs: usize,
    largest: Option<Mutex<Vec<f32>>>, // largest magnitude of each input so far, during calibration
}

pub(super) enum Weight {
    F32(Packed),
    LowPrecision {
        low_precision: &'static LowPrecision,
        weight: PackedLowPrecision,
        smoothing: Vec<f32>, // one per input, for 8-bit layers
    },
}

impl Linear {
    /// Reads linear layers that have the same input, and packs them side by side in `arena`.
    pub(super) fn load(
        weights: &Weights,
        names: &[String],
        bias: bool,
        kernels: &Kernels,
        low_precision: Option<&'static LowPrecision>,
        measuring: bool,
        arena: &Arena,
    ) -> Result<Self> {
        let read = |part: &str| -> Result<Vec<Tensor>> {
            names.par_iter().map(|name| weights.read(&format!("{name}.{part}"))).collect()
        };
        let parts = read("weight")?;
        let bias = if bias { read("bias")?.into_iter().flat_map(Tensor::into_f32).collect() } else { Vec::new() };
        let shapes: Vec<(usize, usize)> = parts.iter().map(|tensor| (tensor.shape[0], tensor.shape[1])).collect();
        let outputs = shapes.iter().map(|shape| shape.0).sum();
        let Some(low_precision) = low_precision else {
            let values: Vec<Vec<f32>> = parts.into_par_iter().map(Tensor::into_f32).collect();
            let views: Vec<ArrayView2<'_, f32>> = shapes
                .iter()
                .zip(&values)
                .map(|(&shape, values)| ArrayView2::from_shape(shape, values).expect("`Weights` checked the shape"))
                .collect();
            let largest = measuring.then(|| Mutex::new(vec![0.0; shapes[0].1]));
            return Ok(Self {
                weight: Weight::F32(Packed::from_weights(&views, kernels.nr, arena)),
                bias,
                outputs,
                largest,
            });
        };
        let inputs = shapes[0].1;
        let smoothing = match low_precision.format {
            NumberFormat::Bf16 => Vec::new(),
            NumberFormat::Int8 => weights.smoothing(&format!("{}.weight", names[0])).to_vec(),
        };
        let smoothing = if smoothing.is_empty() { parts[0].smoothing().to_vec() } else { smoothing };
        let rows = |tensor: Tensor| match low_precision.format {
            NumberFormat::Bf16 => LowPrecisionWeights::Bf16(tensor.into_bf16()),
            NumberFormat::Int8 => {
                let (values, scales) = tensor.into_int8(&smoothing);
                LowPrecisionWeights::Int8(values, scales)
            }
        };
        let parts: Vec<LowPrecisionWeights> = parts.into_par_iter().map(rows).collect();
        let weight = PackedLowPrecision::from_weights(&parts, inputs, low_precision, arena);
        let smoothing = if smoothing.is_empty() { vec![1.0; inputs] } else { smoothing };
        Ok(Self { weight: Weight::LowPrecision { low_precision, weight, smoothing }, bias, outputs, largest: None })
    }

    pub(super) fn inputs(&self) -> usize {
        match &self.weight {
            Weight::F32(weight) => weight.panels().k,
            Weight::LowPrecision { smoothing, .. } => smoothing.len(),
        }
    }

    /// Records the largest inputs, for a layer that was loaded for calibration.
    pub(super) fn observe(&self, inputs: Block<'_, f32>) {
        let Some(largest) = &self.largest else { return };
        let mut largest = largest.lock().unwrap_or_else(PoisonError::into_inner);
        for row in 0..inputs.rows {
            largest.iter_mut().zip(inputs.row(row)).for_each(|(l, x)| *l = l.max(x.abs()));
        }
    }

    /// The largest absolute value of each input so far, for a layer that was loaded for
    /// calibration.
    pub(crate) fn largest_inputs(&self) -> Vec<f32> {
        self.largest.as_ref().map_or_else(Vec::new, |l| l.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}
