//! Rows of bf16, two values a word, into panels: what `narrow.rs` specifies by plain loops, sixteen words at a time.

use std::arch::x86_64::*;

use super::prefetch;
use crate::kernels::narrow::Rows;

/// Columns of a panel: two vectors.
const NR: usize = 32;

/// [`pack_transposed`](crate::kernels::narrow::pack_transposed) for panels of [`NR`] columns, two values a word.
#[target_feature(enable = "avx512f")]
pub(super) fn pack_transposed(rows: Rows<'_>, n: usize, words: usize, dst: &mut [u16]) {
    for (panel, first) in dst.chunks_exact_mut((words * NR * 2).max(1)).zip((0..n).step_by(NR)) {
        for half in (0..NR).step_by(16) {
            for word in (0..words).step_by(16) {
                let mut square = [_mm512_setzero_si512(); 16];
                for (i, line) in square.iter_mut().enumerate().take(n.saturating_sub(first + half)) {
                    *line = load(&rows.words(first + half + i, words)[word..], words);
                }
                let lines = panel.chunks_exact_mut(NR * 2).skip(word);
                for (line, column) in lines.zip(transposed(square)) {
                    let part = &mut line[half * 2..][..32];
                    // SAFETY: `part` has the length of a vector.
                    unsafe { _mm512_storeu_si512(part.as_mut_ptr().cast(), column) };
                }
            }
        }
    }
}

/// [`pack_rows`](crate::kernels::narrow::pack_rows) for panels of [`NR`] columns, two values a word; `n` is even.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn pack_rows(rows: Rows<'_>, k: usize, n: usize, dst: &mut [u16]) {
    // Of two rows a and b the pairs (a₀, b₀), (a₁, b₁), …: the lower sixteen, and the upper. b is given as values 32 to 63.
    let pairs = |from: u32| {
        let index: [u32; 16] = std::array::from_fn(|i| (from + i as u32) | (32 + from + i as u32) << 16);
        // SAFETY: `index` has the length of a vector.
        unsafe { _mm512_loadu_si512(index.as_ptr().cast()) }
    };
    let (lower, upper) = (pairs(0), pairs(16));
    let (words, row_words) = (k.div_ceil(2), n / 2);
    for (pair, row) in (0..k).step_by(2).enumerate() {
        let a = rows.words(row, row_words);
        let b = if row + 1 < k { rows.words(row + 1, row_words) } else { &[] };
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

/// Up to sixteen words of `row`, and zeros behind them. What lies `ahead` words behind them, the next head's, is asked for.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(row: &[u32], ahead: usize) -> __m512i {
    prefetch::<_MM_HINT_T1>(row.as_ptr().wrapping_add(ahead).cast());
    let mask = if row.len() < 16 { (1 << row.len()) - 1 } else { u16::MAX };
    // SAFETY: only words within `row` are read.
    unsafe { _mm512_maskz_loadu_epi32(mask, row.as_ptr().cast()) }
}

/// The columns of a square of sixteen by sixteen words.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(rows: [__m512i; 16]) -> [__m512i; 16] {
    // Pairs of rows, then quads; each vector then holds, in its four quarters, four words of columns i, i + 4, i + 8 and i + 12.
    let pairs: [__m512i; 16] = std::array::from_fn(|i| {
        let (a, b) = (rows[i / 2 * 2], rows[i / 2 * 2 + 1]);
        if i % 2 == 0 { _mm512_unpacklo_epi32(a, b) } else { _mm512_unpackhi_epi32(a, b) }
    });
    let quads: [__m512i; 16] = std::array::from_fn(|i| {
        let (a, b) = (pairs[i / 4 * 4 + i % 4 / 2], pairs[i / 4 * 4 + i % 4 / 2 + 2]);
        if i % 2 == 0 { _mm512_unpacklo_epi64(a, b) } else { _mm512_unpackhi_epi64(a, b) }
    });
    // Quarters 0 and 2, or 1 and 3, of two quads: columns i and i + 8, or i + 4 and i + 12, of eight rows; then of all sixteen.
    let eights: [[__m512i; 2]; 8] = std::array::from_fn(|i| {
        let (a, b) = (quads[i % 4 + i / 4 * 8], quads[i % 4 + i / 4 * 8 + 4]);
        [_mm512_shuffle_i32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b)]
    });
    std::array::from_fn(|i| {
        let (a, b) = (eights[i % 4][i / 4 % 2], eights[i % 4 + 4][i / 4 % 2]);
        if i < 8 { _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b) } else { _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b) }
    })
}
