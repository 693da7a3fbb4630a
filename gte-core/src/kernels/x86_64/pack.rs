//! Packs rows into panels, a square of words at a time: bf16, two values per word, and f32. Plain
//! loops in `low_precision/panels.rs` and `kernels/pack.rs` are the specification.

use std::arch::x86_64::*;
use std::ops::Range;

use super::prefetch;
use crate::kernels::low_precision;
use crate::kernels::pack::Joined;

/// Columns of a panel: two vectors.
const NR: usize = 32;

/// [`pack_transposed`](crate::kernels::low_precision::pack_transposed) for panels of [`NR`]
/// columns, two values per word.
#[target_feature(enable = "avx512f")]
pub(super) fn pack_transposed(rows: low_precision::Joined<'_>, range: Range<usize>, words: usize, dst: &mut [u16]) {
    let (first, n) = (range.start, range.len());
    words_transposed(|i| rows.words(first + i, words), n, words, bytemuck::cast_slice_mut(dst));
}

/// [`pack_transposed`](crate::kernels::pack::pack_transposed) for panels of [`NR`] columns: an f32
/// is a word.
#[target_feature(enable = "avx512f")]
pub(super) fn pack_transposed_f32(rows: Joined<'_>, range: Range<usize>, k: usize, dst: &mut [f32]) {
    let (first, n) = (range.start, range.len());
    words_transposed(|i| bytemuck::cast_slice(rows.row(first + i)), n, k, bytemuck::cast_slice_mut(dst));
}

/// Panels of [`NR`] of the `n` rows of `words` words that `row` gives.
#[inline]
#[target_feature(enable = "avx512f")]
fn words_transposed<'a>(row: impl Fn(usize) -> &'a [u32], n: usize, words: usize, dst: &mut [u32]) {
    for (panel, first) in dst.chunks_exact_mut((words * NR).max(1)).zip((0..n).step_by(NR)) {
        for half in (0..NR).step_by(16) {
            let mut rows = [&[][..]; 16];
            let count = n.saturating_sub(first + half).min(16);
            for (i, line) in rows.iter_mut().enumerate().take(count) {
                *line = row(first + half + i);
            }
            for word in (0..words).step_by(16) {
                let mut square = [_mm512_setzero_si512(); 16];
                for (line, row) in square.iter_mut().zip(rows).take(count) {
                    *line = load(&row[word..], words);
                }
                // (By reference: an iterator over the vectors themselves would be a call for each.)
                for (i, column) in transposed(square).iter().enumerate().take(words - word) {
                    let part = &mut panel[(word + i) * NR + half..][..16];
                    // SAFETY: `part` has the length of a vector.
                    unsafe { _mm512_storeu_si512(part.as_mut_ptr().cast(), *column) };
                }
            }
        }
    }
}

/// [`pack_rows`](crate::kernels::low_precision::pack_rows) for panels of [`NR`] columns, two values
/// per word; `n` is even.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn pack_rows(rows: low_precision::Joined<'_>, range: Range<usize>, n: usize, dst: &mut [u16]) {
    // Of two rows a and b the pairs (a₀, b₀), (a₁, b₁), …: the lower sixteen, and the upper. b is
    // given as values 32 to 63.
    let pairs = |from: u32| {
        let index: [u32; 16] = std::array::from_fn(|i| (from + i as u32) | (32 + from + i as u32) << 16);
        // SAFETY: `index` has the length of a vector.
        unsafe { _mm512_loadu_si512(index.as_ptr().cast()) }
    };
    let (lower, upper) = (pairs(0), pairs(16));
    let (words, row_words, end) = (range.len().div_ceil(2), n / 2, range.end);
    for (pair, row) in range.step_by(2).enumerate() {
        let a = rows.words(row, row_words);
        let b = if row + 1 < end { rows.words(row + 1, row_words) } else { &[] };
        for (panel, first) in dst.chunks_exact_mut((words * NR * 2).max(1)).zip((0..row_words).step_by(16)) {
            let a = load(&a[first..], row_words);
            let b = if b.is_empty() { _mm512_setzero_si512() } else { load(&b[first..], row_words) };
            let line = &mut panel[pair * NR * 2..][..NR * 2];
            // SAFETY: `line` has the length of two vectors.
            unsafe {
                _mm512_storeu_si512(line.as_mut_ptr().cast(), _mm512_permutex2var_epi16(a, lower, b));
                _mm512_storeu_si512(line[32..].as_mut_ptr().cast(), _mm512_permutex2var_epi16(a, upper, b));
            }
        }
    }
}

/// Up to sixteen words of `row`, and zeros behind them. What lies `ahead` words behind them, the
/// next head's, is fetched.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(row: &[u32], to_prefetch: usize) -> __m512i {
    prefetch::<_MM_HINT_T1>(row.as_ptr().wrapping_add(to_prefetch).cast());
    let mask = if row.len() < 16 { (1 << row.len()) - 1 } else { u16::MAX };
    // SAFETY: only words within `row` are read.
    unsafe { _mm512_maskz_loadu_epi32(mask, row.as_ptr().cast()) }
}

/// The columns of a square of sixteen by sixteen words.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(rows: [__m512i; 16]) -> [__m512i; 16] {
    // Pairs of rows, then quads; each vector then holds, in its four quarters, four words of
    // columns i, i + 4, i + 8 and i + 12.
    let pairs: [__m512i; 16] = std::array::from_fn(|i| {
        let (a, b) = (rows[i / 2 * 2], rows[i / 2 * 2 + 1]);
        if i % 2 == 0 { _mm512_unpacklo_epi32(a, b) } else { _mm512_unpackhi_epi32(a, b) }
    });
    let quads: [__m512i; 16] = std::array::from_fn(|i| {
        let (a, b) = (pairs[i / 4 * 4 + i % 4 / 2], pairs[i / 4 * 4 + i % 4 / 2 + 2]);
        if i % 2 == 0 { _mm512_unpacklo_epi64(a, b) } else { _mm512_unpackhi_epi64(a, b) }
    });
    // Quarters 0 and 2, or 1 and 3, of two quads: columns i and i + 8, or i + 4 and i + 12, of
    // eight rows; then of all sixteen.
    let eights: [[__m512i; 2]; 8] = std::array::from_fn(|i| {
        let (a, b) = (quads[i % 4 + i / 4 * 8], quads[i % 4 + i / 4 * 8 + 4]);
        [_mm512_shuffle_i32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b)]
    });
    std::array::from_fn(|i| {
        let (a, b) = (eights[i % 4][i / 4 % 2], eights[i % 4 + 4][i / 4 % 2]);
        if i < 8 { _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b) } else { _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b) }
    })
}

/// [`pack_transposed`](crate::kernels::pack::pack_transposed) for panels of sixteen columns, by
/// squares of eight by eight.
#[target_feature(enable = "avx2")]
pub(super) fn pack_transposed_by_eights(rows: Joined<'_>, range: Range<usize>, k: usize, dst: &mut [f32]) {
    const NR: usize = 16;
    let n = range.len();
    for (panel, first) in dst.chunks_exact_mut((k * NR).max(1)).zip((0..n).step_by(NR)) {
        for half in (0..NR).step_by(8) {
            let rows: [&[f32]; 8] = std::array::from_fn(|i| match first + half + i {
                row if row < n => rows.row(range.start + row),
                _ => &[],
            });
            for (from, lines) in (0..k).step_by(8).zip(panel.chunks_mut(8 * NR)) {
                let mut square = [_mm256_setzero_ps(); 8];
                for (line, row) in square.iter_mut().zip(rows) {
                    let mut padded = [0.0; 8];
                    let values = match row.get(from..from + 8) {
                        Some(whole) => whole,
                        None => {
                            let rest = row.get(from..).unwrap_or_default();
                            padded[..rest.len()].copy_from_slice(rest);
                            &padded
                        }
                    };
                    // SAFETY: eight values, either way.
                    *line = unsafe { _mm256_loadu_ps(values.as_ptr()) };
                }
                for (line, column) in lines.chunks_exact_mut(NR).zip(&transposed_eight(square)) {
                    let part = &mut line[half..][..8];
                    // SAFETY: `part` has the length of a vector.
                    unsafe { _mm256_storeu_ps(part.as_mut_ptr(), *column) };
                }
            }
        }
    }
}

/// The columns of a square of eight by eight values.
#[inline]
#[target_feature(enable = "avx2")]
fn transposed_eight(rows: [__m256; 8]) -> [__m256; 8] {
    // Pairs of rows, then quads: each half then holds four values of columns i and i + 4.
    let pairs: [__m256; 8] = std::array::from_fn(|i| {
        let (a, b) = (rows[i / 2 * 2], rows[i / 2 * 2 + 1]);
        if i % 2 == 0 { _mm256_unpacklo_ps(a, b) } else { _mm256_unpackhi_ps(a, b) }
    });
    let quads: [__m256; 8] = std::array::from_fn(|i| {
        let (a, b) = (pairs[i / 4 * 4 + i % 4 / 2], pairs[i / 4 * 4 + i % 4 / 2 + 2]);
        if i % 2 == 0 { _mm256_shuffle_ps::<0b01_00_01_00>(a, b) } else { _mm256_shuffle_ps::<0b11_10_11_10>(a, b) }
    });
    std::array::from_fn(|i| {
        let (a, b) = (quads[i % 4], quads[i % 4 + 4]);
        if i < 4 { _mm256_permute2f128_ps::<0x20>(a, b) } else { _mm256_permute2f128_ps::<0x31>(a, b) }
    })
}
