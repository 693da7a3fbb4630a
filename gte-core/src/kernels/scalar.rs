//! The twin: every kernel as plain loops. Fallback on CPUs without a table of their own, and the specification of the others.
//!
//! Products are sums of rounded products here, where the vector tables fuse; transcendental functions are the standard
//! library's or exact to the last bits of f32.

use ndarray::{ArrayView2, ArrayViewMut2};

use super::attention::attention;
use super::lanes::Lanes;
use super::matmul::{Place, Tile, matmul};
use super::{Isa, Kernels};

pub(crate) static KERNELS: Kernels = Kernels {
    isa: Isa::Scalar,
    nr: Plain::NR,
    matmul: |p| matmul(Plain, p, gelu),
    attention: |head, scratch| attention(Plain, head, scratch),
    add_norm,
    normalize,
    dot,
    #[cfg(test)]
    gelu,
    #[cfg(test)]
    softmax,
};

fn add_norm(x: &mut [f32], residual: Option<&[f32]>, gamma: &[f32], beta: &[f32], eps: f32, _ahead: usize) {
    if let Some(residual) = residual {
        x.iter_mut().zip(residual).for_each(|(x, r)| *x += r);
    }
    let n = x.len() as f32;
    let mean = x.iter().sum::<f32>() / n;
    let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / n;
    let scale = 1.0 / (variance + eps).sqrt();
    for ((x, g), b) in x.iter_mut().zip(gamma).zip(beta) {
        *x = (*x - mean) * scale * g + b;
    }
}

fn normalize(row: &mut [f32]) {
    let scale = 1.0 / dot(row, row).sqrt().max(1e-12);
    row.iter_mut().for_each(|v| *v *= scale);
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(super) fn gelu(row: &mut [f32]) {
    super::gelu::gelu(Plain, row);
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
        _ahead: &[f32],
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
