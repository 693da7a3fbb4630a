//! Softmax of one row of scores, left unnormalised: the caller divides the much shorter result of
//! the next product.

use super::lanes::{Lanes, Sums, exp};

/// Relative error of each value against f64, for scores whose scaled spread stays within 80: the
/// argument's own rounding (up to 80 · 2⁻²⁴ relative in the result) and that of `exp`.
#[cfg(test)]
pub(crate) const MAX_RELATIVE_ERROR: f32 = 8e-6;

/// A function of its own for each instruction set: in the midst of attention its loops would lack
/// registers.
pub(crate) trait Softmax: Lanes {
    /// See [`softmax`].
    fn softmax(self, row: &mut [f32], least: f32, scale: f32) -> (f32, f32);
}

/// Replaces each score s by exp(scale · (s − max)), and returns the largest score or `least`, if
/// that is larger, which is max; and the sum of what was put in.
#[inline(always)]
pub(crate) fn softmax<L: Sums>(l: L, row: &mut [f32], least: f32, scale: f32) -> (f32, f32) {
    let largest = largest(l, row);
    let max = if largest > least { largest } else { least };
    (max, exponentials(l, row, max, scale))
}

/// The largest score.
#[inline(always)]
fn largest<L: Lanes>(l: L, row: &[f32]) -> f32 {
    // No closure: `Iterator::fold` around one stays a call here, to a function without these
    // instructions.
    let mut max = l.splat(f32::NEG_INFINITY);
    let whole = row.chunks_exact(L::WIDTH);
    let rest = l.load_up_to(whole.remainder(), f32::NEG_INFINITY);
    for chunk in whole {
        max = l.max(max, l.load(chunk));
    }
    l.reduce_max(l.max(max, rest))
}

/// Replaces each score s by exp(scale · (s − max)) and returns their sum; `max` is no less than any
/// of them.
#[inline(always)]
fn exponentials<L: Sums>(l: L, row: &mut [f32], max: f32, scale: f32) -> f32 {
    let (max, scale) = (l.splat(max), l.splat(scale));
    let mut sum = l.splat(0.0);
    let mut whole = row.chunks_exact_mut(L::WIDTH);
    for chunk in &mut whole {
        let e = exp(l, l.mul(l.sub(l.load(chunk), max), scale));
        l.store(chunk, e);
        sum = l.add(sum, e);
    }
    let rest = whole.into_remainder();
    if !rest.is_empty() {
        // Lanes behind the end see −∞, and add next to nothing to a sum that is mostly at least
        // one.
        let e = exp(l, l.mul(l.sub(l.load_up_to(rest, f32::NEG_INFINITY), max), scale));
        l.store_up_to(rest, e);
        sum = l.add(sum, e);
    }
    l.reduce_add(sum)
}

/// By what sums under the maximum `old` are multiplied when the maximum becomes `new`.
#[inline(always)]
pub(crate) fn rescaling<L: Lanes>(l: L, old: f32, new: f32, scale: f32) -> f32 {
    l.reduce_max(exp(l, l.splat((old - new) * scale)))
}
