//! Residual sum and root mean square normalisation of one row (Zhang, Sennrich 2019,
//! <https://arxiv.org/abs/1910.07467>).

use super::lanes::Sums;

/// Maximum error against f64, relative to the largest |gamma|, as a multiple of max(1, |y| /
/// √(mean(y²) + eps)).
#[cfg(test)]
pub(crate) const MAX_ERROR: f32 = 1e-6;

/// x ← y / √(mean(y²) + eps) · gamma with y = x + residual. All slices have the row's length.
#[inline(always)]
pub(crate) fn rms_norm<L: Sums>(l: L, x: &mut [f32], residual: Option<&[f32]>, gamma: &[f32], eps: f32) {
    let n = x.len();
    let mut squares = l.splat(0.0);
    match residual {
        Some(residual) => l.zip(x, &residual[..n], |a, b| {
            let y = l.add(a, b);
            squares = l.mul_add(y, y, squares);
            y
        }),
        None => squares = l.fold(x, squares, 0.0, |sum, v| l.mul_add(v, v, sum)),
    }
    let scale = l.splat(1.0 / (l.reduce_add(squares) / n as f32 + eps).sqrt());
    l.zip(x, &gamma[..n], |v, g| l.mul(l.mul(v, scale), g));
}
