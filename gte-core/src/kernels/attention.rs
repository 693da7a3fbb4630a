//! softmax(Q·Kᵀ / √d)·V for one key head of one text (Vaswani et al. 2017,
//! <https://arxiv.org/abs/1706.03762>).
//!
//! A text attends only to itself and has no padding in the packed batch. Both products use the
//! tiles of linear layers. Queries are computed in blocks, so that their scores stay in the
//! second-level cache. Keys are in blocks too, with a running maximum (Milakov, Gimelshein 2018,
//! <https://arxiv.org/abs/1805.02867>), so that a row of scores is never longer than a block.
//!
//! Blocks of keys are counted from the text's first token, and a query skips blocks of which it
//! sees nothing. So the result of a query depends only on the query and the keys that it sees. It
//! does not depend on the other queries of its block, on later keys, or on whether the first keys
//! are passed as `before`.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, s};

use super::activation::Activation;
use super::aligned::Aligned;
use super::lanes::Lanes;
use super::low_precision::{self, HEADER, LowPrecisionGemm, LowPrecisionPanels, Microkernel, Output, Rows};
use super::matmul::{Gemm, Tile, matmul, part_of, row_stride};
use super::pack::{Joined, Panels, pack_rows, packed_len};
use super::softmax::{Softmax, rescaling};

/// Maximum error of a value against f64, for inputs in −2..2, up to 2,000 tokens and heads of up to
/// 256 values.
#[cfg(test)]
pub(crate) const MAX_ERROR: f64 = 2e-5;

/// Maximum error of a value in bf16 against f64 on the rounded inputs, for such inputs: the weights
/// of the values are rounded too, each by up to 2⁻⁹ of itself.
#[cfg(test)]
pub(crate) const MAX_ERROR_BF16: f64 = 8e-3;

/// Number of queries per block: a multiple of every tile height. 48 × 512 scores are 96 KiB.
const QUERIES: usize = 48;

/// Number of keys per block. Shorter texts have one block and need no running maximum.
const KEYS: usize = 512;

/// Number of blocks of queries that use a block of keys and values while it is in the second-level
/// cache.
const PASSES: usize = 8;

/// Which keys a query sees. Positions count from the text's first token, those before it (`before`)
/// included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mask {
    /// All keys.
    Full,
    /// The keys up to the query's own position.
    Causal,
    /// The keys that are at most this many positions away, on both sides.
    Window(usize),
}

impl Mask {
    /// The range of `keys` that the queries at the positions `queries` see.
    #[inline(always)]
    fn seen(self, queries: &Range<usize>, keys: &Range<usize>) -> Range<usize> {
        let (start, end) = match self {
            Self::Full => (0, keys.end),
            Self::Causal => (0, queries.end),
            Self::Window(reach) => (queries.start.saturating_sub(reach), queries.end.saturating_add(reach)),
        };
        let start = start.clamp(keys.start, keys.end);
        start..end.clamp(start, keys.end)
    }
}

/// One key head of one text, with all query heads that share it.
pub(crate) struct Head<'a, 'c> {
    /// (tokens × group·d): the query heads side by side.
    pub(crate) q: ArrayView2<'a, f32>,
    /// (tokens × d)
    pub(crate) k: ArrayView2<'a, f32>,
    /// (tokens × d)
    pub(crate) v: ArrayView2<'a, f32>,
    /// Keys and values of the tokens before the first query: (before × d) each. Only with a causal
    /// mask.
    pub(crate) before: Option<(ArrayView2<'a, f32>, ArrayView2<'a, f32>)>,
    /// (tokens × group·d)
    pub(crate) out: ArrayViewMut2<'c, f32>,
    pub(crate) mask: Mask,
}

/// Length of the scratch that [`attention`] to `keys` keys needs, including the keys before the
/// first query.
pub(crate) fn scratch_len(keys: usize, d: usize, nr: usize) -> usize {
    packed(keys, d, nr) + Layout::of(keys, d, nr).len()
}

/// Computes `head`. `scratch` has at least [`scratch_len`] values of any content. It is fastest if
/// it begins on a cache line.
#[inline(always)]
pub(crate) fn attention<T: Tile + Softmax>(t: T, head: Head<'_, '_>, scratch: &mut [f32]) {
    let Head { q, k, v, before, out, mask } = head;
    let ((tokens, d), (first_k, first_v)) = (k.dim(), before.unzip());
    let group = q.ncols() / d.max(1);
    let count = first_k.map_or(0, |k| k.nrows());
    assert!(q.dim() == (tokens, group * d) && out.dim() == q.dim(), "shapes of a head");
    assert!(v.dim() == (tokens, d) && first_k.is_none_or(|k| k.ncols() == d), "shapes of a head");
    assert!(first_v.is_none_or(|v| v.dim() == (count, d)), "shapes of a head");
    let text = Text::new(tokens, count, d, group, mask);
    let keys = text.keys();
    let (panels, memory) = scratch.split_at_mut(packed(keys, d, T::NR));
    let (k, v) = (Joined { first: first_k, rest: k }, Joined { first: first_v, rest: v });
    let length = block_len(KEYS, d, T::NR);
    for (part, first) in panels.chunks_mut(length.max(1)).zip((0..keys).step_by(KEYS)) {
        let block = first..keys.min(first + KEYS);
        let (keys, values) = part.split_at_mut(packed_len(d, block.len(), T::NR));
        t.pack_transposed(k, block.clone(), d, keys);
        pack_rows(v, block, d, T::NR, values);
    }
    attend(t, text, InF32 { t, text, packed: panels, q, out }, memory);
}

/// Values in a packed block of `n` keys and values.
fn block_len(n: usize, d: usize, nr: usize) -> usize {
    packed_len(d, n, nr) + packed_len(n, d, nr)
}

/// Values in the packed blocks of `keys` keys and values.
fn packed(keys: usize, d: usize, nr: usize) -> usize {
    keys / KEYS * block_len(KEYS, d, nr) + block_len(keys % KEYS, d, nr)
}

/// The shape of a head.
#[derive(Clone, Copy)]
struct Text {
    tokens: usize,
    before: usize,
    d: usize,
    group: usize,
    mask: Mask,
}

impl Text {
    fn new(tokens: usize, before: usize, d: usize, group: usize, mask: Mask) -> Self {
        assert!(before == 0 || mask == Mask::Causal, "only causal texts have keys before them");
        Self { tokens, before, d, group, mask }
    }

    fn keys(&self) -> usize {
        self.before + self.tokens
    }

    /// The heads of a block of queries follow each other: they read the same keys.
    #[inline(always)]
    fn pass(&self, number: usize) -> Pass {
        let first = self.tokens.min(number / self.group * QUERIES);
        Pass { rows: first..self.tokens.min(first + QUERIES), head: number % self.group }
    }

    /// The range of keys that the queries in the rows `rows` see.
    #[inline(always)]
    fn seen(&self, rows: &Range<usize>, keys: &Range<usize>) -> Range<usize> {
        self.mask.seen(&(self.before + rows.start..self.before + rows.end), keys)
    }

    /// The range of the keys `block` that the query in row `row` sees, counted from `start`.
    #[inline(always)]
    fn seen_by(&self, row: usize, block: &Range<usize>, start: usize) -> Range<usize> {
        let seen = self.seen(&(row..row + 1), block);
        if seen.is_empty() { 0..0 } else { seen.start - start..seen.end - start }
    }

    /// Whether each query of a pass sees all of `keys`.
    #[inline(always)]
    fn all_see_all(&self, pass: &Pass, keys: &Range<usize>) -> bool {
        let Range { start, end } = pass.rows;
        self.seen(&(start..start + 1), keys) == *keys && self.seen(&(end - 1..end), keys) == *keys
    }

    /// Whether all keys that the queries of a pass see are in one block.
    #[inline(always)]
    fn sees_one_block(&self, pass: &Pass) -> bool {
        let seen = self.seen(&pass.rows, &(0..self.keys()));
        seen.start / KEYS == (seen.end - 1) / KEYS
    }
}

/// A block of queries of one query head.
struct Pass {
    rows: Range<usize>,
    head: usize,
}

/// The two products of a head, whose keys and values are packed in blocks of [`KEYS`].
trait Products {
    /// Columns of a panel of keys.
    const NR: usize;
    /// scores ← Q·Kᵀ for the keys `keys`, counted within block `block`. The first key is the first
    /// of a panel, and the last panel is computed whole.
    fn scores(&self, pass: &Pass, block: usize, keys: Range<usize>, scores: ArrayViewMut2<'_, f32>);
    /// Copies the weights of row `row` of the pass for [`Self::context`], if that does not read
    /// them in place.
    fn weights(&mut self, row: usize, weights: &[f32]);
    /// context ← weights·V for the keys `keys` of block `block`.
    fn context(
        &mut self,
        block: usize,
        keys: Range<usize>,
        weights: ArrayView2<'_, f32>,
        context: ArrayViewMut2<'_, f32>,
    );
    /// Stores the result of a row of a query head, times `factor`.
    fn write(&mut self, row: usize, head: usize, values: &mut [f32], factor: f32);
}

/// The layout of the memory of [`attend`]: rows of scores and contexts of a pass. With more than
/// one block of keys, it also has the state of each of [`PASSES`]: contexts, largest scores and
/// sums of weights.
struct Layout {
    rows: usize,
    scores: usize,  // from row to row
    context: usize, // from row to row
    kept: usize,    // rows
}

impl Layout {
    fn of(keys: usize, d: usize, nr: usize) -> Self {
        Self {
            rows: QUERIES.min(keys),
            scores: row_stride(KEYS.min(keys).next_multiple_of(nr)),
            context: row_stride(d),
            kept: if keys > KEYS { PASSES * QUERIES } else { 0 },
        }
    }

    fn len(&self) -> usize {
        self.rows * (self.scores + self.context) + self.kept * (self.context + 2)
    }
}

/// Computes a head with its products, in `memory`, whose length is that of [`Layout`].
#[inline(always)]
fn attend<L: Softmax, P: Products>(l: L, text: Text, mut p: P, memory: &mut [f32]) {
    let (keys, d) = (text.keys(), text.d);
    let layout = Layout::of(keys, d, P::NR);
    let (scores, rest) = memory.split_at_mut(layout.rows * layout.scores);
    let (context, rest) = rest.split_at_mut(layout.rows * layout.context);
    let (contexts, rest) = rest.split_at_mut(layout.kept * layout.context);
    let (maxima, sums) = rest.split_at_mut(layout.kept);
    let scale = 1.0 / (d as f32).sqrt();
    // The heads of a block of queries follow each other: they read the same keys.
    let count = text.tokens.div_ceil(QUERIES) * text.group;
    for first in (0..count).step_by(PASSES) {
        let passes = first..count.min(first + PASSES);
        maxima.fill(f32::NEG_INFINITY);
        for from in (0..keys).step_by(KEYS) {
            let block = from..keys.min(from + KEYS);
            for (slot, number) in passes.clone().enumerate() {
                let pass = text.pass(number);
                let seen = text.seen(&pass.rows, &block);
                if seen.is_empty() {
                    continue;
                }
                let rows = pass.rows.len();
                // The keys that the pass sees, from here on counted within the block and beginning
                // with a whole panel.
                let start = (seen.start - from) / P::NR * P::NR;
                let part = start..seen.end - from;
                let all_see_all = text.all_see_all(&pass, &(from + start..seen.end));
                let padded = part.len().next_multiple_of(P::NR);
                p.scores(&pass, from / KEYS, part.clone(), view_mut(scores, rows, padded, layout.scores));
                let only = text.sees_one_block(&pass);
                // The contexts to multiply: the result of a row before it is stored, or its state
                // before more is added.
                let mut factors = [1.0; QUERIES];
                for (i, row) in scores.chunks_mut(layout.scores).take(rows).enumerate() {
                    let row = &mut row[..part.len()];
                    let mut row_seen = 0..part.len();
                    if !all_see_all {
                        row_seen = text.seen_by(pass.rows.start + i, &block, from + start);
                        row[..row_seen.start].fill(0.0);
                        row[row_seen.end..].fill(0.0);
                    }
                    if only {
                        factors[i] = 1.0 / l.softmax(&mut row[row_seen], f32::NEG_INFINITY, scale).1;
                    } else if !row_seen.is_empty() {
                        let (old_max, old_sum) = (&mut maxima[slot * QUERIES + i], &mut sums[slot * QUERIES + i]);
                        let (max, sum) = l.softmax(&mut row[row_seen], *old_max, scale);
                        let first = *old_max == f32::NEG_INFINITY;
                        factors[i] = if first { 0.0 } else { rescaling(l, *old_max, max, scale) };
                        *old_sum = if first { sum } else { *old_sum * factors[i] + sum };
                        *old_max = max;
                    }
                    p.weights(i, row);
                }
                let weights = view(scores, rows, part.len(), layout.scores);
                p.context(from / KEYS, part, weights, view_mut(context, rows, d, layout.context));
                for (i, row) in context.chunks_mut(layout.context).take(rows).enumerate() {
                    let row = &mut row[..d];
                    if only {
                        p.write(pass.rows.start + i, pass.head, row, factors[i]);
                        continue;
                    }
                    let sum = &mut contexts[(slot * QUERIES + i) * layout.context..][..d];
                    if factors[i] == 0.0 {
                        sum.copy_from_slice(row);
                    } else {
                        // A row that sees nothing of the block adds zeros.
                        let factor = l.splat(factors[i]);
                        l.zip(sum, row, |sum, new| l.mul_add(sum, factor, new));
                    }
                }
            }
        }
        for (slot, pass) in passes.map(|number| text.pass(number)).enumerate() {
            if text.sees_one_block(&pass) {
                continue;
            }
            for (i, row) in pass.rows.enumerate() {
                let kept = slot * QUERIES + i;
                let values = &mut contexts[kept * layout.context..][..d];
                p.write(row, pass.head, values, 1.0 / sums[kept]);
            }
        }
    }
}

struct InF32<'a, 'c, T> {
    t: T,
    text: Text,
    packed: &'a [f32],
    q: ArrayView2<'a, f32>,
    out: ArrayViewMut2<'c, f32>,
}

impl<T: Tile> InF32<'_, '_, T> {
    /// The packed keys and values of a block.
    #[inline(always)]
    fn block(&self, block: usize) -> (Panels<'_>, Panels<'_>) {
        let (n, d) = (KEYS.min(self.text.keys() - block * KEYS), self.text.d);
        let packed = &self.packed[block * block_len(KEYS, d, T::NR)..];
        let (keys, values) = packed.split_at(packed_len(d, n, T::NR));
        (Panels::new(keys, d, n, T::NR), Panels::new(values, n, d, T::NR))
    }
}

impl<T: Tile> Products for InF32<'_, '_, T> {
    const NR: usize = T::NR;

    #[inline(always)]
    fn scores(&self, pass: &Pass, block: usize, keys: Range<usize>, c: ArrayViewMut2<'_, f32>) {
        let d = self.text.d;
        let a = self.q.slice(s![pass.rows.clone(), pass.head * d..(pass.head + 1) * d]);
        let (b, first_panel) = (self.block(block).0, keys.start / T::NR);
        matmul(self.t, Gemm { a, b, first_panel, c, bias: &[], activation: Activation::None });
    }

    #[inline(always)]
    fn weights(&mut self, _row: usize, _weights: &[f32]) {}

    #[inline(always)]
    fn context(&mut self, block: usize, keys: Range<usize>, a: ArrayView2<'_, f32>, c: ArrayViewMut2<'_, f32>) {
        let b = self.block(block).1.rows(keys);
        matmul(self.t, Gemm { a, b, first_panel: 0, c, bias: &[], activation: Activation::None });
    }

    #[inline(always)]
    fn write(&mut self, row: usize, head: usize, values: &mut [f32], factor: f32) {
        let (t, factor) = (self.t, self.t.splat(factor));
        let out = part_of(&mut self.out, row, head * values.len(), values.len());
        t.zip(out, values, |_, v| t.mul(v, factor));
    }
}

/// One key head of one text in bf16, with all query heads that share it. Words have as many values
/// as the table reads.
pub(crate) struct LowPrecisionHead<'a, 'c> {
    pub(crate) tokens: usize,
    pub(crate) d: usize,
    /// Number of query heads.
    pub(crate) group: usize,
    /// `tokens` rows of group · d values: the query heads side by side.
    pub(crate) q: Rows<'a>,
    /// `tokens` rows of d values.
    pub(crate) k: Rows<'a>,
    /// `tokens` rows of d values.
    pub(crate) v: Rows<'a>,
    /// The number of tokens before the first query, their keys and values. Only with a causal mask.
    pub(crate) before: Option<(usize, Rows<'a>, Rows<'a>)>,
    /// (tokens × group·d)
    pub(crate) out: Output<'c>,
    pub(crate) mask: Mask,
}

/// How one instruction set computes a head in bf16.
#[derive(Clone, Copy)]
pub(crate) struct LowPrecisionAttention {
    /// Number of values per word of the rows that it reads; a divisor of the head's width.
    pub(crate) k_group: usize,
    /// See [`attention_bf16`].
    pub(crate) compute: fn(LowPrecisionHead<'_, '_>, &mut Scratch),
    /// Writes a row in bf16, `k_group` values per word.
    pub(crate) words: fn(&[f32], &mut [u32]),
}

/// The memory of attention in bf16, which grows to the needs of the longest text.
#[derive(Default)]
pub(crate) struct Scratch {
    values: Aligned<f32>,
    words: Aligned<u32>,
    panels: Aligned<u16>,
}

/// Computes `head` with products in bf16, summed in f32. The softmax between them is that of f32.
#[inline(always)]
pub(crate) fn attention_bf16<D: Microkernel, L: Softmax>(
    microkernel: D,
    l: L,
    head: LowPrecisionHead<'_, '_>,
    scratch: &mut Scratch,
) {
    let LowPrecisionHead { tokens, d, group, q, k, v, before, out, mask } = head;
    let count = before.map_or(0, |(count, ..)| count);
    assert!(out.dim() == (tokens, group * d) && d.is_multiple_of(D::K_GROUP), "shapes of a head");
    assert!(group == 1 || out.splits_at(d), "a head begins with a word");
    let text = Text::new(tokens, count, d, group, mask);
    let keys = text.keys();
    let panels = scratch.panels.at_least(packed_bf16::<D>(keys, d));
    let k = low_precision::Joined { first: before.map(|(count, k, _)| (count, k)), rest: k };
    let v = low_precision::Joined { first: before.map(|(count, _, v)| (count, v)), rest: v };
    let length = block_len_bf16::<D>(KEYS, d);
    for (part, first) in panels.chunks_mut(length.max(1)).zip((0..keys).step_by(KEYS)) {
        let block = first..keys.min(first + KEYS);
        let (keys, values) = part.split_at_mut(packed_len_bf16::<D>(d, block.len()));
        microkernel.pack_transposed(k, block.clone(), d.div_ceil(D::K_GROUP), keys);
        microkernel.pack_rows(v, block, d, values);
    }
    let word_stride = row_stride(HEADER + KEYS.min(keys).div_ceil(D::K_GROUP));
    let words = scratch.words.at_least(QUERIES.min(tokens) * word_stride);
    let memory = scratch.values.at_least(Layout::of(keys, d, D::NR).len());
    attend(l, text, InBf16 { microkernel, l, text, packed: panels, words, word_stride, q, out }, memory);
}

/// Units of 16 bits in the packed form of a (k × n) matrix.
#[inline(always)]
fn packed_len_bf16<D: Microkernel>(k: usize, n: usize) -> usize {
    n.div_ceil(D::NR) * D::NR * k.div_ceil(D::CELL_HALVES) * D::CELL_HALVES
}

/// Units in a packed block of `n` keys and values.
#[inline(always)]
fn block_len_bf16<D: Microkernel>(n: usize, d: usize) -> usize {
    packed_len_bf16::<D>(d, n) + packed_len_bf16::<D>(n, d)
}

/// Units in the packed blocks of `keys` keys and values.
fn packed_bf16<D: Microkernel>(keys: usize, d: usize) -> usize {
    keys / KEYS * block_len_bf16::<D>(KEYS, d) + block_len_bf16::<D>(keys % KEYS, d)
}

struct InBf16<'a, 'c, D, L> {
    microkernel: D,
    l: L,
    text: Text,
    packed: &'a [u16],
    words: &'a mut [u32], // weights of a pass
    word_stride: usize,
    q: Rows<'a>,
    out: Output<'c>,
}

impl<D: Microkernel, L: Lanes> InBf16<'_, '_, D, L> {
    /// The packed keys and values of a block.
    #[inline(always)]
    fn block(&self, block: usize) -> (LowPrecisionPanels<'_>, LowPrecisionPanels<'_>) {
        let (n, d) = (KEYS.min(self.text.keys() - block * KEYS), self.text.d);
        let packed = &self.packed[block * block_len_bf16::<D>(KEYS, d)..];
        let (keys, values) = packed.split_at(packed_len_bf16::<D>(d, n));
        let view = |data, k: usize, n| {
            let lengths = (k.div_ceil(D::CELL_HALVES), k.div_ceil(D::K_GROUP));
            LowPrecisionPanels::of_bf16(data, lengths, n, D::NR, D::CELL_HALVES)
        };
        (view(keys, d, n), view(values, n, d))
    }
}

impl<D: Microkernel, L: Lanes> Products for InBf16<'_, '_, D, L> {
    const NR: usize = D::NR;

    #[inline(always)]
    fn scores(&self, pass: &Pass, block: usize, keys: Range<usize>, c: ArrayViewMut2<'_, f32>) {
        let first_panel = keys.start / D::NR;
        let a = self.q.from(pass.rows.start);
        let a = Rows { data: &a.data[pass.head * self.text.d / D::K_GROUP..], ..a };
        let (b, c) = (self.block(block).0, Output::F32(c));
        let p = LowPrecisionGemm { a, b, first_panel, c, bias: &[], activation: Activation::None };
        low_precision::matmul(self.microkernel, p);
    }

    #[inline(always)]
    fn weights(&mut self, row: usize, weights: &[f32]) {
        let words = &mut self.words[row * self.word_stride + HEADER..];
        self.microkernel.words(weights, D::K_GROUP, &mut words[..weights.len().div_ceil(D::K_GROUP)]);
    }

    #[inline(always)]
    fn context(&mut self, block: usize, keys: Range<usize>, _weights: ArrayView2<'_, f32>, c: ArrayViewMut2<'_, f32>) {
        let count = keys.len().div_ceil(D::CELL_HALVES);
        let first = keys.start / D::CELL_HALVES;
        let b = self.block(block).1.part(first..first + count, keys.len().div_ceil(D::K_GROUP));
        let a = Rows { data: self.words, stride: self.word_stride };
        let c = Output::F32(c);
        let p = LowPrecisionGemm { a, b, first_panel: 0, c, bias: &[], activation: Activation::None };
        low_precision::matmul(self.microkernel, p);
    }

    #[inline(always)]
    fn write(&mut self, row: usize, head: usize, values: &mut [f32], factor: f32) {
        let (l, factor) = (self.l, self.l.splat(factor));
        l.map(values, |v| l.mul(v, factor));
        self.out.part(row, head * values.len(), values.len()).write(self.microkernel, values);
    }
}

fn view(data: &[f32], rows: usize, columns: usize, stride: usize) -> ArrayView2<'_, f32> {
    use ndarray::ShapeBuilder;
    ArrayView2::from_shape((rows, columns).strides((stride, 1)), data).expect("`Layout` covers it")
}

fn view_mut(data: &mut [f32], rows: usize, columns: usize, stride: usize) -> ArrayViewMut2<'_, f32> {
    use ndarray::ShapeBuilder;
    ArrayViewMut2::from_shape((rows, columns).strides((stride, 1)), data).expect("`Layout` covers it")
}
