//! A: rows of words, and how values become such.

use super::Dot;
use crate::kernels::lanes::{Lanes, MAX_WIDTH};

/// Words before a row's values: its scale and its zero.
pub(crate) const HEADER: usize = 2;

/// Narrowed rows.
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

/// Rows that lie in two pieces, counted through.
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

/// The bits of `x` rounded to bf16, in the upper half (IEEE 754 round to nearest, ties to even; not for NaN).
#[inline(always)]
pub(crate) fn to_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000
}

/// The words of a row in bf16, `group` values in each: one as the f32 that it is, or two, the first in the lower half.
#[inline(always)]
pub(crate) fn words_of_bf16<L: Integers>(l: L, row: &[f32], group: usize, words: &mut [u32]) {
    match group {
        1 => store_bf16::<L, 1>(l, row, words),
        _ => store_bf16::<L, 2>(l, row, words),
    }
}

#[inline(always)]
fn store_bf16<L: Integers, const GROUP: usize>(l: L, row: &[f32], words: &mut [u32]) {
    let whole = if L::WIDTH.is_multiple_of(GROUP) { row.len() / L::WIDTH * L::WIDTH } else { 0 };
    let ((row, rest), (words, last)) = (row.split_at(whole), words.split_at_mut(whole / GROUP));
    for (words, values) in words.chunks_exact_mut((L::WIDTH / GROUP).max(1)).zip(row.chunks_exact(L::WIDTH)) {
        l.store_bf16::<GROUP>(words, l.load(values));
    }
    for (word, values) in last.iter_mut().zip(rest.chunks(GROUP)) {
        *word = match *values {
            [x] if GROUP == 1 => to_bf16(x),
            [x] => to_bf16(x) >> 16,
            [x, y, ..] => to_bf16(x) >> 16 | to_bf16(y),
            [] => 0,
        };
    }
}

/// Narrows a row to bf16 with its header, see [`Dot::words`].
#[inline(always)]
pub(crate) fn encode_bf16<D: Dot>(d: D, row: &[f32], out: &mut [u32]) {
    let (header, words) = out.split_at_mut(HEADER);
    header.copy_from_slice(&[1f32.to_bits(), 0]);
    d.words(row, D::GROUP, words);
}

/// Vectors whose lanes can be written as narrow numbers.
pub(crate) trait Integers: Lanes {
    /// Writes the nearest integers, ties to even, 0 for those below and 255 for those above, as `WIDTH` / `GROUP` words: two of 16 bits in
    /// each, or four of 8.
    fn store_integers<const GROUP: usize>(self, words: &mut [u32], a: Self::V);
    /// Writes them in bf16 as `WIDTH` / `GROUP` words, one or two in each; `GROUP` divides `WIDTH`.
    fn store_bf16<const GROUP: usize>(self, words: &mut [u32], a: Self::V);
}

/// Narrows a row to integers, `GROUP` values a word: two of 16 bits, or four of 8.
#[inline(always)]
pub(crate) fn encode_int8<L: Integers, const GROUP: usize>(
    l: L,
    row: &[f32],
    factors: &[f32],
    out: &mut [u32],
    ahead: usize,
) {
    encode_int8_less::<L, GROUP, 0>(l, row, factors, out, ahead);
}

/// [`encode_int8`] with integers and zero less `LESS`: 0, or 128, which four signed values of 8 bits hold.
#[inline(always)]
pub(crate) fn encode_int8_less<L: Integers, const GROUP: usize, const LESS: u32>(
    l: L,
    row: &[f32],
    factors: &[f32],
    out: &mut [u32],
    ahead: usize,
) {
    const { assert!(LESS == 0 || (LESS == 128 && GROUP == 4)) };
    // Of eight bits, 128 less is the highest turned.
    let turned = LESS * 0x0101_0101;
    let whole = row.len() / L::WIDTH * L::WIDTH;
    let (row, last) = row.split_at(whole);
    let (factors, last_factors) = factors.split_at(whole);
    let last = l.mul(l.load_up_to(last, 0.0), l.load_up_to(last_factors, 0.0));
    let (mut low, mut high) = (l.min(last, l.splat(0.0)), l.max(last, l.splat(0.0)));
    for (x, factor) in row.chunks_exact(L::WIDTH).zip(factors.chunks_exact(L::WIDTH)) {
        let x = l.mul(l.load(x), l.load(factor));
        (low, high) = (l.min(low, x), l.max(high, x));
    }
    let (header, words) = out.split_at_mut(HEADER);
    let steps = Steps::of(-l.reduce_max(l.sub(l.splat(0.0), low)), l.reduce_max(high));
    header.copy_from_slice(&steps.header(LESS));
    let (inverse, zero) = (l.splat(steps.inverse), l.splat(steps.zero));
    let (words, last_words) = words.split_at_mut(whole / GROUP);
    let chunks = row.chunks_exact(L::WIDTH).zip(factors.chunks_exact(L::WIDTH));
    for (words, (x, factor)) in words.chunks_exact_mut(L::WIDTH / GROUP).zip(chunks) {
        l.ask_for(x, ahead);
        let x = l.mul(l.load(x), l.load(factor));
        l.store_integers::<GROUP>(words, l.add(l.mul(x, inverse), zero));
        if LESS > 0 {
            words.iter_mut().for_each(|word| *word ^= turned);
        }
    }
    // What stands behind the row's end is multiplied with zeros.
    let mut buffer = [0; MAX_WIDTH];
    l.store_integers::<GROUP>(&mut buffer, l.add(l.mul(last, inverse), zero));
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

    /// The header of a row whose integers are stored less `less`.
    pub(super) fn header(&self, less: u32) -> [u32; HEADER] {
        [self.scale.to_bits(), (self.zero as u32).wrapping_sub(less)]
    }
}
