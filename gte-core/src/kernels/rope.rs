//! Rotary positions (Su et al. 2021, <https://arxiv.org/abs/2104.09864>): each pair of values of a
//! head is rotated by its own angle.

use super::lanes::Lanes;

/// Maximum error against f64, as a multiple of |a| + |b|, the pair that is turned.
#[cfg(test)]
pub(crate) const MAX_ERROR: f32 = 1.5e-7;

/// Turns the heads in `row`, of twice as many values as `cos` and `sin` have: value i of a head's
/// first half and value i of its second half are (a, b) → (a·cos − b·sin, b·cos + a·sin).
#[inline(always)]
pub(crate) fn rope<L: Lanes>(l: L, row: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    assert!(half > 0 && sin.len() == half && row.len().is_multiple_of(2 * half), "whole heads, and an angle a pair");
    for head in row.chunks_exact_mut(2 * half) {
        let (first, second) = head.split_at_mut(half);
        let pairs = first.chunks_mut(L::WIDTH).zip(second.chunks_mut(L::WIDTH));
        let angles = cos.chunks(L::WIDTH).zip(sin.chunks(L::WIDTH));
        for ((a, b), (cos, sin)) in pairs.zip(angles) {
            let (x, y) = (l.load_up_to(a, 0.0), l.load_up_to(b, 0.0));
            let (cos, sin) = (l.load_up_to(cos, 0.0), l.load_up_to(sin, 0.0));
            l.store_up_to(a, l.sub(l.mul(x, cos), l.mul(y, sin)));
            l.store_up_to(b, l.add(l.mul(y, cos), l.mul(x, sin)));
        }
    }
}
