//! softmax(Q·Kᵀ / √d)·V for one head of one text (Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>).
//!
//! A text attends to itself alone and lies in the packed batch without padding, so there is no mask. Both products are the
//! same tiles as a linear layer's; queries go in blocks, so that their scores stay in the second-level cache.

use ndarray::{ArrayView2, ArrayViewMut2};

use super::aligned::Aligned;
use super::lanes::Lanes;
use super::matmul::{Activation, Product, Tile, matmul, row_stride};
use super::narrow::{self, Dot, HEADER, NarrowPanels, NarrowProduct, Rows};
use super::pack::{Panels, pack_rows, pack_transposed, packed_len};
use super::softmax::softmax;

/// Maximum error of a value against f64, for inputs in −2..2, up to 130 tokens and heads of up to 80 values.
#[cfg(test)]
pub(crate) const MAX_ERROR: f64 = 2e-5;

/// Maximum error of a value in bf16 against f64 on the rounded inputs, for such inputs: the weights of the values are rounded too, each by
/// up to 2⁻⁹ of itself.
#[cfg(test)]
pub(crate) const MAX_ERROR_BF16: f64 = 8e-3;

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
    packed_len(d, tokens, nr) + packed_len(tokens, d, nr) + QUERIES.min(tokens) * row_stride(tokens)
}

/// Computes `head`. `scratch` has at least [`scratch_len`] values, of any content, and best begins on a cache line.
#[inline(always)]
pub(crate) fn attention<T: Tile>(t: T, head: Head<'_>, scratch: &mut [f32]) {
    let Head { q, k, v, mut out } = head;
    let (tokens, d) = q.dim();
    let (keys, rest) = scratch.split_at_mut(packed_len(d, tokens, T::NR));
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

/// A head in bf16, see [`attention_bf16`].
pub(crate) type NarrowAttention = fn(Head<'_>, &mut Scratch);

/// What attention in bf16 works in; grows to what the longest text needs.
#[derive(Default)]
pub(crate) struct Scratch {
    scores: Aligned<f32>,
    words: Aligned<u32>,
    panels: Aligned<u16>,
}

/// A·B without bias.
fn product<'a>(a: Rows<'a>, b: NarrowPanels<'a>, c: ArrayViewMut2<'a, f32>) -> NarrowProduct<'a> {
    NarrowProduct { a, b, first_panel: 0, c, bias: &[], activation: Activation::None }
}

/// Computes `head` with products in bf16, `GROUP` values a word, summed in f32; `encode` narrows a row. The softmax between them is that of f32.
#[inline(always)]
pub(crate) fn attention_bf16<D: Dot, L: Lanes, const GROUP: usize>(
    dot: D,
    l: L,
    encode: impl Fn(&[f32], &mut [u32]),
    head: Head<'_>,
    scratch: &mut Scratch,
) {
    let Head { q, k, v, mut out } = head;
    let (tokens, d) = q.dim();
    let words = |n: usize| n.div_ceil(GROUP);
    let packed = |k: usize, n: usize| n.div_ceil(D::NR) * D::NR * words(k) * GROUP;
    let panels = scratch.panels.at_least(packed(d, tokens) + packed(tokens, d));
    let (keys, values) = panels.split_at_mut(packed(d, tokens));
    narrow::pack_transposed::<GROUP>(k, D::NR, keys);
    narrow::pack_rows::<GROUP>(v, D::NR, values);
    let view =
        |data, k, n| NarrowPanels { data, words: words(k), n, nr: D::NR, units: GROUP, scales: &[], totals: &[] };
    let (keys, values) = (view(&*keys, d, tokens), view(&*values, tokens, d));
    let stride = row_stride(tokens);
    let scores = scratch.scores.at_least(QUERIES.min(tokens) * stride);
    let word_stride = row_stride(HEADER + words(d.max(tokens)));
    let narrowed = scratch.words.at_least(QUERIES.min(tokens) * word_stride);
    let scale = 1.0 / (d as f32).sqrt();

    for q0 in (0..tokens).step_by(QUERIES) {
        let q1 = tokens.min(q0 + QUERIES);
        let (rows, queries) = (q1 - q0, ndarray::s![q0..q1, ..]);
        for (row, words_of) in q.slice(queries).rows().into_iter().zip(narrowed.chunks_mut(word_stride)) {
            if let Some(row) = row.to_slice() {
                encode(row, &mut words_of[..HEADER + words(d)]);
            }
        }
        let a = Rows { data: narrowed, stride: word_stride };
        narrow::matmul(dot, product(a, keys, view_mut(scores, rows, tokens, stride)));
        let mut sums = [0.0; QUERIES];
        let lines = scores.chunks_mut(stride).zip(narrowed.chunks_mut(word_stride)).take(rows);
        for ((row, words_of), sum) in lines.zip(&mut sums) {
            *sum = softmax(l, &mut row[..tokens], scale);
            encode(&row[..tokens], &mut words_of[..HEADER + words(tokens)]);
        }
        let mut out = out.slice_mut(queries);
        let a = Rows { data: narrowed, stride: word_stride };
        narrow::matmul(dot, product(a, values, out.view_mut()));
        for (mut row, sum) in out.rows_mut().into_iter().zip(sums) {
            if let Some(row) = row.as_slice_mut() {
                let inverse = l.splat(1.0 / sum);
                l.map(row, |v| l.mul(v, inverse));
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
