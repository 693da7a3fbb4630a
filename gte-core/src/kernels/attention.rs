//! softmax(Q·Kᵀ / √d)·V for one head of one text (Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>).
//!
//! A text attends to itself alone and lies in the packed batch without padding, so there is no mask. Both products are the
//! same tiles as a linear layer's; queries go in blocks, so that their scores stay in the second-level cache.

use ndarray::{ArrayView2, ArrayViewMut2};

use super::matmul::{Activation, Product, Tile, matmul, row_stride};
use super::pack::{Panels, line_offset, pack_rows, pack_transposed, packed_len};
use super::softmax::softmax;

/// Maximum error of a value against f64, for inputs in −2..2, up to 130 tokens and heads of up to 80 values.
#[cfg(test)]
pub(crate) const MAX_ERROR: f64 = 2e-5;

/// Queries in a block: a multiple of every tile height, and 48 × 512 scores are 96 KiB.
const QUERIES: usize = 48;

/// One head of one text.
pub(crate) struct Head<'a> {
    /// (tokens × d)
    pub(crate) q: ArrayView2<'a, f32>,
    /// (tokens × d)
    pub(crate) k: ArrayView2<'a, f32>,
    /// (tokens × d)
    pub(crate) v: ArrayView2<'a, f32>,
    /// (tokens × d)
    pub(crate) out: ArrayViewMut2<'a, f32>,
}

/// Values of scratch that a text of `tokens` tokens needs.
pub(crate) fn scratch_len(tokens: usize, d: usize, nr: usize) -> usize {
    const LINE: usize = 16;
    LINE + packed_len(d, tokens, nr) + packed_len(tokens, d, nr) + QUERIES.min(tokens) * row_stride(tokens)
}

/// Computes `head`. `scratch` has at least [`scratch_len`] values, of any content.
#[inline(always)]
pub(crate) fn attention<T: Tile>(t: T, head: Head<'_>, scratch: &mut [f32]) {
    let Head { q, k, v, mut out } = head;
    let (tokens, d) = q.dim();
    let start = line_offset(scratch);
    let (keys, rest) = scratch[start..].split_at_mut(packed_len(d, tokens, T::NR));
    let (values, rest) = rest.split_at_mut(packed_len(tokens, d, T::NR));
    pack_transposed(k, T::NR, keys);
    pack_rows(v, T::NR, values);
    let keys = Panels::new(keys, d, tokens, T::NR);
    let values = Panels::new(values, tokens, d, T::NR);
    let scale = 1.0 / (d as f32).sqrt();
    let stride = row_stride(tokens);

    for q0 in (0..tokens).step_by(QUERIES) {
        let q1 = tokens.min(q0 + QUERIES);
        let (rows, queries) = (q1 - q0, ndarray::s![q0..q1, ..]);
        let mut sums = [0.0; QUERIES];
        {
            let mut scores = view_mut(rest, rows, tokens, stride);
            let c = scores.view_mut();
            matmul(
                t,
                Product { a: q.slice(queries), b: keys, first_panel: 0, c, bias: &[], activation: Activation::None },
                |_| (),
            );
            for (mut row, sum) in scores.rows_mut().into_iter().zip(&mut sums) {
                if let Some(row) = row.as_slice_mut() {
                    *sum = softmax(t, row, scale);
                }
            }
        }
        let mut out = out.slice_mut(queries);
        let (a, c) = (view(rest, rows, tokens, stride), out.view_mut());
        matmul(t, Product { a, b: values, first_panel: 0, c, bias: &[], activation: Activation::None }, |_| ());
        for (mut row, sum) in out.rows_mut().into_iter().zip(sums) {
            if let Some(row) = row.as_slice_mut() {
                let inverse = t.splat(1.0 / sum);
                t.map(row, |v| t.mul(v, inverse));
            }
        }
    }
}

fn view(data: &[f32], rows: usize, columns: usize, stride: usize) -> ArrayView2<'_, f32> {
    use ndarray::ShapeBuilder;
    ArrayView2::from_shape((rows, columns).strides((stride, 1)), data).expect("scratch_len covers it")
}

fn view_mut(data: &mut [f32], rows: usize, columns: usize, stride: usize) -> ArrayViewMut2<'_, f32> {
    use ndarray::ShapeBuilder;
    ArrayViewMut2::from_shape((rows, columns).strides((stride, 1)), data).expect("scratch_len covers it")
}
