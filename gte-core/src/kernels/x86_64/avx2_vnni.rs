//! AVX-VNNI beside AVX2: products of 8-bit integers, 32 multiply-adds an instruction. For CPUs without AVX-512, which have
//! the instruction of AVX512-VNNI on vectors of 256 bits.

use std::arch::x86_64::*;

use super::avx2::{AVX2, Avx2, Avx2Int8};
use super::microkernel::{Mac, narrow, words};
use super::peak;
use crate::kernels::narrow::{Format, encode_int8};
use crate::kernels::{Isa, Kernels};

pub(super) static AVX2_VNNI: Kernels = Kernels {
    isa: Isa::Avx2Vnni,
    int8: &INT8,
    peak: |format| match format {
        Some(Format::Int8) => Some(peak::avx2_vnni()),
        other => (AVX2.peak)(other),
    },
    ..AVX2
};

/// `vpdpbusd` on 256 bits.
#[derive(Clone, Copy)]
struct Avx2VnniInt8;

impl Mac for Avx2VnniInt8 {
    const FORMAT: Format = Format::Int8;
    const WIDTH: usize = 8;
    const UNITS: usize = 2;
    const UNROLL: usize = 2;
    type Lanes = Avx2;
    type Word = __m256i;
    type Sum = __m256i;

    #[inline(always)]
    unsafe fn zero() -> __m256i {
        // SAFETY: see the trait, here and below.
        unsafe { Avx2Int8::zero() }
    }
    #[inline(always)]
    unsafe fn load(b: *const u16) -> __m256i {
        // SAFETY: see the trait.
        unsafe { _mm256_loadu_si256(b.cast()) }
    }
    #[inline(always)]
    unsafe fn step(sums: [__m256i; 2], a: *const u32, b: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: see the trait.
        unsafe {
            let a = _mm256_set1_epi32(a.read() as i32);
            [_mm256_dpbusd_avx_epi32(sums[0], a, b[0]), _mm256_dpbusd_avx_epi32(sums[1], a, b[1])]
        }
    }
    #[inline(always)]
    unsafe fn values(sum: __m256i, zero: i32, totals: *const i32) -> __m256 {
        // SAFETY: see the trait.
        unsafe { Avx2Int8::values(sum, zero, totals) }
    }
}

narrow!(
    INT8, Avx2VnniInt8, Avx2, "avx-vnni", true, "avx2,fma,avxvnni", 4,
    |row, factors, words, ahead| encode_int8::<_, 4>(Avx2::PROVEN, row, factors, words, ahead),
    [1 2 3 4 5 6], { words!(Avx2); }
);
