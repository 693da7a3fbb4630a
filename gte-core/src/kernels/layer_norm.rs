//! Residual sum and layer normalisation of one row (Ba, Kiros, Hinton 2016,
//! <https://arxiv.org/abs/1607.06450>).

use super::lanes::Sums;

/// Maximum error against f64, relative to the largest |gamma| plus |beta|, for rows whose mean is
/// not far above their spread.
#[cfg(test)]
pub(crate) const MAX_ERROR: f32 = 2e-6;

/// x ← (y − mean(y)) / √(var(y) + eps) · gamma + beta with y = x + residual. All slices have the
/// row's length; `beta` is empty if the norm has no bias. Meanwhile prefetches the values that lie
/// `prefetch_distance` values behind the row and its residual, which are the next row's.
#[inline(always)]
pub(crate) fn add_norm<L: Sums>(
    l: L,
    x: &mut [f32],
    residual: Option<&[f32]>,
    gamma: &[f32],
    beta: &[f32],
    eps: f32,
    prefetch_distance: usize,
) {
    let n = x.len();
    let inverse = 1.0 / n as f32;
    let mut sum = l.splat(0.0);
    match residual {
        Some(residual) => l.zip(x, &residual[..n], |a, b| {
            let y = l.add(a, b);
            sum = l.add(sum, y);
            y
        }),
        None => sum = l.fold(x, sum, 0.0, |sum, v| l.add(sum, v)),
    }
    let mean = l.reduce_add(sum) * inverse;
    // A second pass for the variance: the one-pass formula cancels when the mean is large. Lanes
    // behind the end see the mean.
    let mean_v = l.splat(mean);
    let squares = l.fold(x, l.splat(0.0), mean, |sum, v| {
        let d = l.sub(v, mean_v);
        l.mul_add(d, d, sum)
    });
    for from in (0..n).step_by(L::WIDTH) {
        l.prefetch(&x[from..], prefetch_distance);
        if let Some(residual) = residual {
            l.prefetch(&residual[from..], prefetch_distance);
        }
    }
    let scale = l.splat(1.0 / (l.reduce_add(squares) * inverse + eps).sqrt());
    match beta {
        [] => l.zip(x, &gamma[..n], |v, g| l.mul(l.mul(l.sub(v, mean_v), scale), g)),
        _ => l.zip_with(x, &gamma[..n], &beta[..n], |v, g, b| l.add(l.mul(l.mul(l.sub(v, mean_v), scale), g), b)),
    }
}
