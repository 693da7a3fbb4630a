//! Every kernel as plain loops: the fallback on CPUs without a table of their own, and the
//! specification of the other tables.
//!
//! Products are rounded before they are added here; the vector tables use fused instructions.
//! Transcendental functions are the standard library's or exact to the last bits of f32.

use ndarray::{ArrayView2, ArrayViewMut2};

use super::activation;
use super::attention::attention;
use super::lanes::{Lanes, Sums};
use super::matmul::{Place, Tile, matmul};
use super::softmax::Softmax;
use super::{Isa, Kernels, low_precision};

pub(crate) static KERNELS: Kernels = Kernels {
    isa: Isa::Scalar,
    nr: Plain::NR,
    matmul: |p| matmul(Plain, p),
    attention: |head, scratch| attention(Plain, head, scratch),
    add_norm,
    rms_norm,
    rope,
    gate: |a, b, activation| activation::gate(Plain, a, b, activation),
    normalize,
    dot,
    bf16: &low_precision::scalar::BF16,
    int8: &low_precision::scalar::INT8,
    bf16_attention: low_precision::scalar::ATTENTION,
    bf16_attention_any: low_precision::scalar::ATTENTION,
    peak: |_| None,
    #[cfg(test)]
    activate: |activation, row| activation::activate(Plain, activation, row),
    #[cfg(test)]
    softmax,
};

fn add_norm(x: &mut [f32], residual: Option<&[f32]>, gamma: &[f32], beta: &[f32], eps: f32, _prefetch_distance: usize) {
    if let Some(residual) = residual {
        x.iter_mut().zip(residual).for_each(|(x, r)| *x += r);
    }
    let n = x.len() as f32;
    let mean = x.iter().sum::<f32>() / n;
    let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / n;
    let scale = 1.0 / (variance + eps).sqrt();
    for (i, (x, g)) in x.iter_mut().zip(gamma).enumerate() {
        *x = (*x - mean) * scale * g + if beta.is_empty() { 0.0 } else { beta[i] };
    }
}

fn rms_norm(x: &mut [f32], residual: Option<&[f32]>, gamma: &[f32], eps: f32) {
    if let Some(residual) = residual {
        x.iter_mut().zip(residual).for_each(|(x, r)| *x += r);
    }
    let squares = x.iter().map(|v| v * v).sum::<f32>();
    let scale = 1.0 / (squares / x.len() as f32 + eps).sqrt();
    x.iter_mut().zip(gamma).for_each(|(x, g)| *x = *x * scale * g);
}

fn rope(row: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    assert!(half > 0 && sin.len() == half && row.len().is_multiple_of(2 * half), "whole heads, and an angle a pair");
    for head in row.chunks_exact_mut(2 * half) {
        for i in 0..half {
            let (a, b) = (head[i], head[half + i]);
            head[i] = a * cos[i] - b * sin[i];
            head[half + i] = b * cos[i] + a * sin[i];
        }
    }
}

fn normalize(row: &mut [f32]) {
    let scale = 1.0 / dot(row, row).sqrt().max(1e-12);
    row.iter_mut().for_each(|v| *v *= scale);
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
fn softmax(row: &mut [f32], scale: f32) -> f32 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|s| *s = ((*s - max) * scale).exp());
    row.iter().sum()
}

/// One lane.
#[derive(Clone, Copy)]
pub(super) struct Plain;

impl Lanes for Plain {
    type V = f32;
    const WIDTH: usize = 1;

    fn splat(self, x: f32) -> f32 {
        x
    }
    fn load(self, s: &[f32]) -> f32 {
        s[0]
    }
    fn store(self, s: &mut [f32], v: f32) {
        s[0] = v;
    }
    fn add(self, a: f32, b: f32) -> f32 {
        a + b
    }
    fn sub(self, a: f32, b: f32) -> f32 {
        a - b
    }
    fn mul(self, a: f32, b: f32) -> f32 {
        a * b
    }
    fn div(self, a: f32, b: f32) -> f32 {
        a / b
    }
    /// Rounded twice: without the instruction, a fused multiply-add is a slow library call.
    fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
    fn max(self, a: f32, b: f32) -> f32 {
        if a > b { a } else { b }
    }
    fn min(self, a: f32, b: f32) -> f32 {
        if a < b { a } else { b }
    }
    fn scale(self, a: f32, n: f32) -> f32 {
        f32::from_bits(a.to_bits().wrapping_add(n.to_bits() << 23))
    }
    fn reduce_add(self, a: f32) -> f32 {
        a
    }
    fn reduce_max(self, a: f32) -> f32 {
        a
    }
}

impl Sums for Plain {}

impl Softmax for Plain {
    fn softmax(self, row: &mut [f32], least: f32, scale: f32) -> (f32, f32) {
        super::softmax::softmax(self, row, least, scale)
    }
}

impl Tile for Plain {
    const MR: usize = 4;
    const NR: usize = 16;

    fn tile(
        self,
        a: &ArrayView2<'_, f32>,
        panel: &[f32],
        c: &mut ArrayViewMut2<'_, f32>,
        place: Place,
        bias: Option<&[f32]>,
        _to_prefetch: &[f32],
    ) {
        let (row0, row1) = place.rows;
        for (i, r) in (row0..row1).enumerate() {
            let mut sums = [0.0; Self::NR];
            let (row, column) = place.corner;
            let mut c = c.slice_mut(ndarray::s![row + i, column..column + Self::NR]);
            match bias {
                Some(bias) => sums.copy_from_slice(bias),
                None => sums.iter_mut().zip(&c).for_each(|(sum, &c)| *sum = c),
            }
            let depth = panel.len() / Self::NR;
            let a = a.slice(ndarray::s![r, place.k0..place.k0 + depth]);
            for (line, &a) in panel.chunks_exact(Self::NR).zip(&a) {
                sums.iter_mut().zip(line).for_each(|(sum, b)| *sum += a * b);
            }
            c.iter_mut().zip(sums).for_each(|(c, sum)| *c = sum);
        }
    }
}
