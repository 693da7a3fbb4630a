//! Softmax of one row of scores, left unnormalised: the caller divides the much shorter result of the next product.

use super::lanes::{Lanes, exp};

/// Relative error of each value against f64, for scores whose scaled spread stays within 80: the argument's own rounding
/// (up to 80 · 2⁻²⁴ relative in the result) and that of `exp`.
#[cfg(test)]
pub(crate) const MAX_RELATIVE_ERROR: f32 = 8e-6;

/// Replaces each score s by exp(scale · (s − max)) and returns their sum.
#[inline(always)]
pub(crate) fn softmax<L: Lanes>(l: L, row: &mut [f32], scale: f32) -> f32 {
    let max = l.reduce_max(l.fold(row, l.splat(f32::NEG_INFINITY), f32::NEG_INFINITY, |a, b| l.max(a, b)));
    let (max, scale) = (l.splat(max), l.splat(scale));
    let mut sum = l.splat(0.0);
    for chunk in row.chunks_mut(L::WIDTH) {
        let e = exp(l, l.mul(l.sub(l.load_up_to(chunk, 0.0), max), scale));
        l.store_up_to(chunk, e);
        // Read back, so that lanes behind the end add nothing.
        sum = l.add(sum, l.load_up_to(chunk, 0.0));
    }
    l.reduce_add(sum)
}
