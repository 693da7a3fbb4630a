//! softmax(Q·Kᵀ / √d)·V for one head of one text (Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>).
//!
//! A text attends to itself alone and lies in the packed batch without padding, so there is no mask. Both products are the
//! same tiles as a linear layer's; queries go in blocks, so that their scores stay in the second-level cache.

use ndarray::{ArrayView2, ArrayViewMut2};

use super::aligned::Aligned;
use super::lanes::Lanes;
use super::matmul::{Activation, Product, Tile, matmul, row_stride};
use super::narrow::{self, Dot, HEADER, NarrowPanels, NarrowProduct, Output, Rows};
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
pub(crate) struct Head<'a, 'c> {
    /// (tokens × d)
    pub(crate) q: ArrayView2<'a, f32>,
    /// (tokens × d)
    pub(crate) k: ArrayView2<'a, f32>,
    /// (tokens × d)
    pub(crate) v: ArrayView2<'a, f32>,
    /// (tokens × d)
    pub(crate) out: ArrayViewMut2<'c, f32>,
}

/// Values of scratch that a text of `tokens` tokens needs.
pub(crate) fn scratch_len(tokens: usize, d: usize, nr: usize) -> usize {
    packed_len(d, tokens, nr) + packed_len(tokens, d, nr) + QUERIES.min(tokens) * row_stride(tokens)
}

/// Computes `head`. `scratch` has at least [`scratch_len`] values, of any content, and best begins on a cache line.
#[inline(always)]
pub(crate) fn attention<T: Tile>(t: T, head: Head<'_, '_>, scratch: &mut [f32]) {
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

/// One head of one text, in bf16: rows of `d` values, as many to a word as the table takes.
pub(crate) struct NarrowHead<'a, 'c> {
    pub(crate) tokens: usize,
    pub(crate) d: usize,
    /// Of `tokens` rows.
    pub(crate) q: Rows<'a>,
    /// Of `tokens` rows.
    pub(crate) k: Rows<'a>,
    /// Of `tokens` rows.
    pub(crate) v: Rows<'a>,
    /// (tokens × d)
    pub(crate) out: Output<'c>,
}

/// One instruction set's way with a head in bf16.
#[derive(Clone, Copy)]
pub(crate) struct NarrowAttention {
    /// Values in a word of the rows that it takes; a divisor of the head's width.
    pub(crate) group: usize,
    /// See [`attention_bf16`].
    pub(crate) compute: fn(NarrowHead<'_, '_>, &mut Scratch),
}

/// What attention in bf16 works in; grows to what the longest text needs.
#[derive(Default)]
pub(crate) struct Scratch {
    scores: Aligned<f32>,
    words: Aligned<u32>,
    panels: Aligned<u16>,
}

/// A·B without bias.
fn product<'a, 'c>(a: Rows<'a>, b: NarrowPanels<'a>, c: ArrayViewMut2<'c, f32>) -> NarrowProduct<'a, 'c> {
    NarrowProduct { a, b, first_panel: 0, c: Output::F32(c), bias: &[], activation: Activation::None }
}

/// Computes `head` with products in bf16, summed in f32. The softmax between them is that of f32.
#[inline(always)]
pub(crate) fn attention_bf16<D: Dot, L: Lanes>(dot: D, l: L, head: NarrowHead<'_, '_>, scratch: &mut Scratch) {
    let NarrowHead { tokens, d, q, k, v, mut out } = head;
    assert!(out.dim() == (tokens, d) && d.is_multiple_of(D::UNITS), "shapes of a head");
    let words = |n: usize| n.div_ceil(D::UNITS);
    let packed = |k: usize, n: usize| n.div_ceil(D::NR) * D::NR * words(k) * D::UNITS;
    let panels = scratch.panels.at_least(packed(d, tokens) + packed(tokens, d));
    let (keys, values) = panels.split_at_mut(packed(d, tokens));
    dot.pack_transposed(k, tokens, words(d), keys);
    dot.pack_rows(v, tokens, d, values);
    let view =
        |data, k, n| NarrowPanels { data, words: words(k), n, nr: D::NR, units: D::UNITS, scales: &[], totals: &[] };
    let (keys, values) = (view(&*keys, d, tokens), view(&*values, tokens, d));
    let (stride, context_stride) = (row_stride(tokens), row_stride(d));
    let most = QUERIES.min(tokens);
    let (scores, context) = scratch.scores.at_least(most * (stride + context_stride)).split_at_mut(most * stride);
    let word_stride = row_stride(HEADER + words(tokens));
    let narrowed = scratch.words.at_least(most * word_stride);
    let scale = 1.0 / (d as f32).sqrt();

    for q0 in (0..tokens).step_by(QUERIES) {
        let rows = QUERIES.min(tokens - q0);
        narrow::matmul(dot, product(q.from(q0), keys, view_mut(scores, rows, tokens, stride)));
        let mut sums = [0.0; QUERIES];
        let lines = scores.chunks_mut(stride).zip(narrowed.chunks_mut(word_stride)).take(rows);
        for ((row, words_of), sum) in lines.zip(&mut sums) {
            *sum = softmax(l, &mut row[..tokens], scale);
            dot.words(&row[..tokens], D::UNITS, &mut words_of[HEADER..][..words(tokens)]);
        }
        let a = Rows { data: narrowed, stride: word_stride };
        narrow::matmul(dot, product(a, values, view_mut(context, rows, d, context_stride)));
        for (i, (row, sum)) in context.chunks_mut(context_stride).zip(sums).take(rows).enumerate() {
            let (row, inverse) = (&mut row[..d], l.splat(1.0 / sum));
            l.map(row, |v| l.mul(v, inverse));
            out.part(q0 + i, 0, d).write(dot, row);
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
