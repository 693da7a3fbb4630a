//! AVX512-VNNI beside AVX-512: products of 8-bit integers, 64 multiply-adds per instruction.

use std::arch::x86_64::*;

use super::avx512::{AVX512, Avx512, step};
use super::microkernel::{Mac, low_precision, words};
use super::peak;
use crate::kernels::low_precision::{NumberFormat, encode_int8};
use crate::kernels::{Isa, Kernels};

pub(super) static AVX512_VNNI: Kernels = Kernels {
    isa: Isa::Avx512Vnni,
    int8: &AVX512_INT8,
    peak: |format| match format {
        Some(NumberFormat::Int8) => Some(peak::avx512_int8()),
        other => (AVX512.peak)(other),
    },
    ..AVX512
};

/// `vpdpbusd`.
#[derive(Clone, Copy)]
pub(super) struct Avx512Int8;

impl Mac for Avx512Int8 {
    const FORMAT: NumberFormat = NumberFormat::Int8;
    const WIDTH: usize = 16;
    const CELL_HALVES: usize = 2;
    const UNROLL: usize = 1;
    type Lanes = Avx512;
    type Word = __m512i;
    type Sum = __m512i;

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        // SAFETY: see the trait, here and below.
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn load(b: *const u16) -> __m512i {
        // SAFETY: see the trait.
        unsafe { _mm512_loadu_si512(b.cast()) }
    }
    #[inline(always)]
    unsafe fn step(sums: [__m512i; 2], a: *const u32, b: [__m512i; 2]) -> [__m512i; 2] {
        step!("vpdpbusd", __m512i, __m512i, sums, a, b)
    }
    #[inline(always)]
    unsafe fn values(sum: __m512i, zero: i32, column_sums: *const i32) -> __m512 {
        // SAFETY: see the trait.
        unsafe {
            let column_sums = _mm512_mullo_epi32(_mm512_loadu_si512(column_sums.cast()), _mm512_set1_epi32(zero));
            _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, column_sums))
        }
    }
}

low_precision!(
    AVX512_INT8, Avx512Int8, Avx512, "avx512-vnni", true, "avx512f,avx512vl,avx512bw,avx512dq,avx512vnni", 4,
    |row, smoothing, words, to_prefetch| encode_int8::<_, 4>(Avx512::PROVEN, row, smoothing, words, to_prefetch),
    [1 2 3 4 5 6 7 8 9 10 11 12], { words!(Avx512); }
);
