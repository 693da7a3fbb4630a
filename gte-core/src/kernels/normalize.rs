//! Scaling of one row to unit length.

use super::{dot::dot, lanes::Sums};

/// Maximum difference of the result's length from 1.
#[cfg(test)]
pub(crate) const MAX_ERROR: f32 = 1e-6;

/// x ← x / ‖x‖. A row of zeros stays zero, as `torch.nn.functional.normalize` leaves it.
#[inline(always)]
pub(crate) fn normalize<L: Sums>(l: L, row: &mut [f32]) {
    let length = dot(l, row, row).sqrt();
    // The bound below which torch.nn.functional.normalize divides by the bound instead.
    let scale = l.splat(1.0 / length.max(1e-12));
    l.map(row, |v| l.mul(v, scale));
}
