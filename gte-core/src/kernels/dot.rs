//! Dot product of two rows.

use super::lanes::Sums;

/// Maximum error against f64, as a multiple of Σ|aᵢ·bᵢ|, for rows of up to 4096 values.
#[cfg(test)]
pub(crate) const MAX_ERROR: f32 = 4e-6;

/// Σ aᵢ·bᵢ over the shorter length, in an order that depends on the length alone.
#[inline(always)]
pub(crate) fn dot<L: Sums>(l: L, a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    // Four sums hide the latency of the fused multiply-add.
    let mut sums = [l.splat(0.0); 4];
    let mut quads_a = a[..n].chunks_exact(4 * L::WIDTH);
    let mut quads_b = b[..n].chunks_exact(4 * L::WIDTH);
    for (a, b) in (&mut quads_a).zip(&mut quads_b) {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = l.mul_add(l.load(&a[i * L::WIDTH..]), l.load(&b[i * L::WIDTH..]), *sum);
        }
    }
    let mut sum = l.add(l.add(sums[0], sums[1]), l.add(sums[2], sums[3]));
    for (a, b) in quads_a.remainder().chunks(L::WIDTH).zip(quads_b.remainder().chunks(L::WIDTH)) {
        sum = l.mul_add(l.load_up_to(a, 0.0), l.load_up_to(b, 0.0), sum);
    }
    l.reduce_add(sum)
}
