//! A: rows of words, and how values are converted to words.

use super::Microkernel;
use crate::kernels::lanes::{Lanes, MAX_WIDTH};

/// Words before a row's values: its scale and its zero.
pub(crate) const HEADER: usize = 2;

/// Rows in low precision.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// rows · stride words or more
    pub(crate) data: &'a [u32],
    /// Words from row to row.
    pub(crate) stride: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    pub(crate) fn words(&self, row: usize, count: usize) -> &'a [u32] {
        &self.data[row * self.stride + HEADER..][..count]
    }

    /// The rows from `row` on.
    pub(crate) fn from(&self, row: usize) -> Self {
        Self { data: &self.data[row * self.stride..], stride: self.stride }
    }

    #[inline(always)]
    pub(crate) fn scale(&self, row: usize) -> f32 {
        f32::from_bits(self.data[row * self.stride])
    }

    #[inline(always)]
    pub(crate) fn zero(&self, row: usize) -> i32 {
        self.data[row * self.stride + 1] as i32
    }
}

/// Rows in two pieces of memory, numbered as one.
#[derive(Clone, Copy)]
pub(crate) struct Joined<'a> {
    /// How many the first piece has, and the piece.
    pub(crate) first: Option<(usize, Rows<'a>)>,
    pub(crate) rest: Rows<'a>,
}

impl<'a> Joined<'a> {
    #[inline(always)]
    pub(crate) fn words(&self, row: usize, count: usize) -> &'a [u32] {
        match self.first {
            Some((rows, first)) if row < rows => first.words(row, count),
            Some((rows, _)) => self.rest.words(row - rows, count),
            None => self.rest.words(row, count),
        }
    }
}

/// The bits of `x` rounded to bf16, in the upper half (IEEE 754 round to nearest, ties to even; not
/// for NaN).
#[inline(always)]
pub(crate) fn to_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000
}

/// Stores a row as words in bf16, `k_group` values in each: one in the upper half, so that the word
/// is its f32, or two, the first in the lower half.
#[inline(always)]
pub(crate) fn words_of_bf16<L: Integers>(l: L, row: &[f32], k_group: usize, words: &mut [u32]) {
    match k_group {
        1 => store_bf16::<L, 1>(l, row, words),
        _ => store_bf16::<L, 2>(l, row, words),
    }
}

#[inline(always)]
fn store_bf16<L: Integers, const K_GROUP: usize>(l: L, row: &[f32], words: &mut [u32]) {
    let whole = if L::WIDTH.is_multiple_of(K_GROUP) { row.len() / L::WIDTH * L::WIDTH } else { 0 };
    let ((row, rest), (words, last)) = (row.split_at(whole), words.split_at_mut(whole / K_GROUP));
    for (words, values) in words.chunks_exact_mut((L::WIDTH / K_GROUP).max(1)).zip(row.chunks_exact(L::WIDTH)) {
        l.store_bf16::<K_GROUP>(words, l.load(values));
    }
    for (word, values) in last.iter_mut().zip(rest.chunks(K_GROUP)) {
        *word = match *values {
            [x] if K_GROUP == 1 => to_bf16(x),
            [x] => to_bf16(x) >> 16,
            [x, y, ..] => to_bf16(x) >> 16 | to_bf16(y),
            [] => 0,
        };
    }
}

/// Rounds a row to bf16, with its header, see [`Microkernel::words`].
#[inline(always)]
pub(crate) fn encode_bf16<D: Microkernel>(d: D, row: &[f32], out: &mut [u32]) {
    let (header, words) = out.split_at_mut(HEADER);
    header.copy_from_slice(&[1f32.to_bits(), 0]);
    d.words(row, D::K_GROUP, words);
}

/// Vectors whose lanes can be written in low precision.
pub(crate) trait Integers: Lanes {
    /// Writes the nearest integers, ties to even, 0 for those below and 255 for those above, as
    /// `WIDTH` / `K_GROUP` words: two of 16 bits in each, or four of 8.
    fn store_integers<const K_GROUP: usize>(self, words: &mut [u32], a: Self::V);
    /// Writes them in bf16 as `WIDTH` / `K_GROUP` words, one or two in each; `K_GROUP` divides
    /// `WIDTH`.
    fn store_bf16<const K_GROUP: usize>(self, words: &mut [u32], a: Self::V);
}

/// Quantizes a row to integers, `K_GROUP` values per word: two of 16 bits, or four of 8.
#[inline(always)]
pub(crate) fn encode_int8<L: Integers, const K_GROUP: usize>(
    l: L,
    row: &[f32],
    smoothing: &[f32],
    out: &mut [u32],
    prefetch_distance: usize,
) {
    encode_int8_less::<L, K_GROUP, 0>(l, row, smoothing, out, prefetch_distance);
}

/// [`encode_int8`] with `LESS` subtracted from integers and zero: 0, or 128, so that they are signed
/// 8-bit integers.
#[inline(always)]
pub(crate) fn encode_int8_less<L: Integers, const K_GROUP: usize, const LESS: u32>(
    l: L,
    row: &[f32],
    smoothing: &[f32],
    out: &mut [u32],
    prefetch_distance: usize,
) {
    const { assert!(LESS == 0 || (LESS == 128 && K_GROUP == 4)) };
    // For eight bits, subtracting 128 flips the highest bit.
    let turned = LESS * 0x0101_0101;
    let whole = row.len() / L::WIDTH * L::WIDTH;
    let (row, last) = row.split_at(whole);
    let (smoothing, last_smoothing) = smoothing.split_at(whole);
    let last = l.mul(l.load_up_to(last, 0.0), l.load_up_to(last_smoothing, 0.0));
    let (mut low, mut high) = (l.min(last, l.splat(0.0)), l.max(last, l.splat(0.0)));
    for (x, factor) in row.chunks_exact(L::WIDTH).zip(smoothing.chunks_exact(L::WIDTH)) {
        let x = l.mul(l.load(x), l.load(factor));
        (low, high) = (l.min(low, x), l.max(high, x));
    }
    let (header, words) = out.split_at_mut(HEADER);
    let steps = Steps::of(-l.reduce_max(l.sub(l.splat(0.0), low)), l.reduce_max(high));
    header.copy_from_slice(&steps.header(LESS));
    let (inverse, zero) = (l.splat(steps.inverse), l.splat(steps.zero));
    let (words, last_words) = words.split_at_mut(whole / K_GROUP);
    let chunks = row.chunks_exact(L::WIDTH).zip(smoothing.chunks_exact(L::WIDTH));
    for (words, (x, factor)) in words.chunks_exact_mut(L::WIDTH / K_GROUP).zip(chunks) {
        l.prefetch(x, prefetch_distance);
        let x = l.mul(l.load(x), l.load(factor));
        l.store_integers::<K_GROUP>(words, l.add(l.mul(x, inverse), zero));
        if LESS > 0 {
            words.iter_mut().for_each(|word| *word ^= turned);
        }
    }
    // What lies behind the end of the row is multiplied by zeros.
    let mut buffer = [0; MAX_WIDTH];
    l.store_integers::<K_GROUP>(&mut buffer, l.add(l.mul(last, inverse), zero));
    last_words.iter_mut().zip(buffer).for_each(|(word, integers)| *word = integers ^ turned);
}

/// How the values between `low` ≤ 0 and `high` ≥ 0 become integers: x · inverse + zero, rounded.
pub(super) struct Steps {
    scale: f32,
    pub(super) inverse: f32,
    pub(super) zero: f32,
}

impl Steps {
    pub(super) fn of(low: f32, high: f32) -> Self {
        let inverse = if high > low { 255.0 / (high - low) } else { 0.0 };
        Self { scale: (high - low) / 255.0, inverse, zero: (-low * inverse).round_ties_even() }
    }

    /// The header of a row from whose integers `less` is subtracted.
    pub(super) fn header(&self, less: u32) -> [u32; HEADER] {
        [self.scale.to_bits(), (self.zero as u32).wrapping_sub(less)]
    }
}
