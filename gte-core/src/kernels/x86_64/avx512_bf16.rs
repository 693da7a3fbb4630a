//! AVX512-BF16 beside AVX512-VNNI: products and attention in bf16, 32 multiply-adds per
//! instruction.

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx512::{Avx512, step};
use super::avx512_vnni::AVX512_VNNI;
use super::microkernel::{Mac, attention, low_precision};
use super::{pack, peak};
use crate::kernels::low_precision::{Joined, NumberFormat, encode_bf16, words_of_bf16};
use crate::kernels::{Isa, Kernels};

pub(super) static AVX512_BF16: Kernels = Kernels {
    isa: Isa::Avx512Bf16,
    bf16: &AVX512_BF16_PRODUCTS,
    bf16_attention: ATTENTION,
    peak: |format| match format {
        Some(NumberFormat::Bf16) => Some(peak::avx512_bf16()),
        other => (AVX512_VNNI.peak)(other),
    },
    ..AVX512_VNNI
};

/// `vdpbf16ps`.
#[derive(Clone, Copy)]
pub(super) struct Avx512Bf16;

impl Mac for Avx512Bf16 {
    const FORMAT: NumberFormat = NumberFormat::Bf16;
    const WIDTH: usize = 16;
    const CELL_HALVES: usize = 2;
    const UNROLL: usize = 1;
    type Lanes = Avx512;
    type Word = __m512i;
    type Sum = __m512;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: see the trait, here and below.
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(b: *const u16) -> __m512i {
        // SAFETY: see the trait.
        unsafe { _mm512_loadu_si512(b.cast()) }
    }
    #[inline(always)]
    unsafe fn step(sums: [__m512; 2], a: *const u32, b: [__m512i; 2]) -> [__m512; 2] {
        step!("vdpbf16ps", __m512, __m512i, sums, a, b)
    }
    #[inline(always)]
    unsafe fn values(sum: __m512, _zero: i32, _column_sums: *const i32) -> __m512 {
        sum
    }
}

/// [`words_of_bf16`] in pairs by the instruction for it. Values below 2⁻¹²⁶ become zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs_of_bf16(row: &[f32], words: &mut [u32]) {
    let (whole, rest) = row.as_chunks::<32>();
    let (lines, last) = words.split_at_mut(16 * whole.len());
    for (line, values) in lines.chunks_exact_mut(16).zip(whole) {
        line.copy_from_slice(&sixteen_pairs(values));
    }
    if !rest.is_empty() {
        let mut values = [0.0; 32];
        values[..rest.len()].copy_from_slice(rest);
        last.copy_from_slice(&sixteen_pairs(&values)[..last.len()]);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn sixteen_pairs(values: &[f32; 32]) -> [u32; 16] {
    // SAFETY: 32 values are read; a vector is sixteen words.
    unsafe {
        let (low, high) = (_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(values[16..].as_ptr()));
        std::mem::transmute::<__m512bh, [u32; 16]>(_mm512_cvtne2ps_pbh(high, low))
    }
}

low_precision!(
    AVX512_BF16_PRODUCTS, Avx512Bf16, Avx512, "avx512-bf16", true, "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16", 2,
    |row, _, words, _| encode_bf16(Avx512Bf16, row, words),
    [1 2 3 4 5 6 7 8 9 10 11 12], {
        #[inline(always)]
        fn words(self, row: &[f32], k_group: usize, words: &mut [u32]) {
            match k_group {
                // SAFETY: the table is out of reach until its instructions were seen.
                2 => unsafe { pairs_of_bf16(row, words) },
                _ => words_of_bf16(Avx512::PROVEN, row, k_group, words),
            }
        }
        fn pack_transposed(self, rows: Joined<'_>, range: Range<usize>, words: usize, dst: &mut [u16]) {
            // SAFETY: as above.
            unsafe { pack::pack_transposed(rows, range, words, dst) }
        }
        fn pack_rows(self, rows: Joined<'_>, range: Range<usize>, n: usize, dst: &mut [u16]) {
            // SAFETY: as above.
            unsafe { pack::pack_rows(rows, range, n, dst) }
        }
    }
);
attention!(ATTENTION, Avx512Bf16, Avx512, "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16");
