//! AVX-VNNI beside AVX2: products of 8-bit integers, 32 multiply-adds per instruction. For CPUs
//! without AVX-512, which have the instruction of AVX512-VNNI on vectors of 256 bits.

use std::arch::x86_64::*;

use super::avx2::{AVX2, Avx2, Avx2Int8};
use super::microkernel::{Mac, low_precision, words};
use super::peak;
use crate::kernels::low_precision::{NumberFormat, encode_int8};
use crate::kernels::{Isa, Kernels};

pub(super) static AVX2_VNNI: Kernels = Kernels {
    isa: Isa::Avx2Vnni,
    int8: &INT8,
    peak: |format| match format {
        Some(NumberFormat::Int8) => Some(peak::avx2_vnni()),
        other => (AVX2.peak)(other),
    },
    ..AVX2
};

/// `vpdpbusd` on 256 bits.
#[derive(Clone, Copy)]
struct Avx2VnniInt8;

impl Mac for Avx2VnniInt8 {
    const FORMAT: NumberFormat = NumberFormat::Int8;
    const WIDTH: usize = 8;
    const CELL_HALVES: usize = 2;
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
        unsafe { Self::step_at(sums, (a, 0), (0, 0), b) }
    }
    #[inline(always)]
    unsafe fn step_at(
        sums: [__m256i; 2],
        (a, lda): (*const u32, usize),
        at: (usize, usize),
        b: [__m256i; 2],
    ) -> [__m256i; 2] {
        // SAFETY: see the trait.
        unsafe {
            match at {
                (0, 0) => row_0(sums, a, lda, b),
                (0, 1) => row_0_next(sums, a, lda, b),
                (1, 0) => row_1(sums, a, lda, b),
                (1, 1) => row_1_next(sums, a, lda, b),
                (2, 0) => row_2(sums, a, lda, b),
                (2, 1) => row_2_next(sums, a, lda, b),
                _ => unreachable!("three rows, two words"),
            }
        }
    }
    #[inline(always)]
    unsafe fn values(sum: __m256i, zero: i32, column_sums: *const i32) -> __m256 {
        // SAFETY: see the trait.
        unsafe { Avx2Int8::values(sum, zero, column_sums) }
    }
}

/// A step whose word is at `$address`, of a row's pointer `a` and the distance `lda` of rows in
/// words.
///
/// By `asm!`, so that each broadcast stays beside its products. The compiler would move the
/// broadcasts of all rows to the front, for which there are too few registers, and spill sums to
/// the stack. The load computes the address. An instruction for each address would take a port from
/// the products.
macro_rules! step {
    ($name:ident, $address:literal) => {
        /// # Safety
        /// `$address` is that of a word.
        #[inline]
        #[target_feature(enable = "avx2,avxvnni")]
        unsafe fn $name(
            [mut low, mut high]: [__m256i; 2],
            a: *const u32,
            lda: usize,
            b: [__m256i; 2],
        ) -> [__m256i; 2] {
            let _word: __m256i; // with a type, because `_` would get the name of another register
            // SAFETY: reads one word, which the caller promises, and writes registers.
            unsafe {
                std::arch::asm!(
                    concat!("vpbroadcastd {word}, dword ptr [", $address, "] // {lda}"),
                    "{{vex}} vpdpbusd {low}, {word}, {b0}",
                    "{{vex}} vpdpbusd {high}, {word}, {b1}",
                    a = in(reg) a,
                    lda = in(reg) lda,
                    b0 = in(ymm_reg) b[0],
                    b1 = in(ymm_reg) b[1],
                    low = inout(ymm_reg) low,
                    high = inout(ymm_reg) high,
                    word = out(ymm_reg) _word,
                    options(pure, readonly, nostack, preserves_flags),
                );
            }
            [low, high]
        }
    };
}
step!(row_0, "{a}");
step!(row_0_next, "{a} + 4");
step!(row_1, "{a} + 4*{lda}");
step!(row_1_next, "{a} + 4*{lda} + 4");
step!(row_2, "{a} + 8*{lda}");
step!(row_2_next, "{a} + 8*{lda} + 4");

low_precision!(
    INT8, Avx2VnniInt8, Avx2, "avx-vnni", true, "avx2,fma,avxvnni", 4,
    |row, smoothing, words, to_prefetch| encode_int8::<_, 4>(Avx2::PROVEN, row, smoothing, words, to_prefetch),
    [1 2 3 4 5 6], { words!(Avx2); }
);
