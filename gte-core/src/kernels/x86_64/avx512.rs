//! AVX-512: sixteen lanes, tiles of 12 rows by 32 columns.

use std::arch::x86_64::*;
use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2};

use super::avx2::{AVX2_ATTENTION, AVX2_BF16, AVX2_INT8};
use super::{Step, kernels, pack, peak, prefetch, tile_by_height};
use crate::kernels::Isa;
#[cfg(test)]
use crate::kernels::activation::activate;
use crate::kernels::activation::{Activation, gate};
use crate::kernels::attention::{Head, attention};
use crate::kernels::dot::dot;
use crate::kernels::lanes::{Lanes, Sums};
use crate::kernels::layer_norm::add_norm;
use crate::kernels::low_precision::{Integers, NumberFormat};
use crate::kernels::matmul::{Gemm, Place, Tile, matmul};
use crate::kernels::normalize::normalize;
use crate::kernels::pack::{Joined, KC, pack_transposed};
use crate::kernels::rms_norm::rms_norm;
use crate::kernels::rope::rope;

/// Proof that this CPU has AVX-512 F, VL, BW and DQ.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// For the functions of a table that is out of reach until `detect()` has succeeded.
    pub(super) const PROVEN: Self = Self(());

    /// The proof, if it holds.
    pub(super) fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq");
        all.then_some(Self(()))
    }
}

/// For the functions of the table, which is out of reach until `detect()` has succeeded.
const PROVEN: Avx512 = Avx512::PROVEN;
const SIXTEEN: Avx512 = PROVEN;

// In low precision AVX2's, which every such CPU has.
kernels!(
    AVX512,
    Isa::Avx512,
    Avx512,
    "avx512f,avx512vl,avx512bw,avx512dq",
    &AVX2_BF16,
    &AVX2_INT8,
    AVX2_ATTENTION,
    |format| match format {
        None => Some(peak::avx512_f32()),
        Some(NumberFormat::Bf16) => Some(peak::avx2_f32()),
        Some(NumberFormat::Int8) => Some(peak::avx2_int8()),
    }
);

// SAFETY of this block: `self` proves that the instructions are there; pointers come from slices
// whose length is asserted.
impl Lanes for Avx512 {
    type V = __m512;
    const WIDTH: usize = 16;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: see the head of the block.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, s: &[f32]) -> __m512 {
        let s = &s[..Self::WIDTH];
        // SAFETY: see the head of the block.
        unsafe { _mm512_loadu_ps(s.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, s: &mut [f32], v: __m512) {
        let s = &mut s[..Self::WIDTH];
        // SAFETY: see the head of the block.
        unsafe { _mm512_storeu_ps(s.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the head of the block.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the head of the block.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the head of the block.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the head of the block.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see the head of the block.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the head of the block.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the head of the block.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn scale(self, a: __m512, n: __m512) -> __m512 {
        // SAFETY: see the head of the block.
        unsafe {
            let exponents = _mm512_slli_epi32::<23>(_mm512_castps_si512(n));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), exponents))
        }
    }
    #[inline(always)]
    fn reduce_add(self, a: __m512) -> f32 {
        // SAFETY: see the head of the block.
        unsafe {
            let x = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        }
    }
    #[inline(always)]
    fn reduce_max(self, a: __m512) -> f32 {
        // SAFETY: see the head of the block.
        unsafe { _mm512_reduce_max_ps(a) }
    }
    #[inline(always)]
    fn prefetch(self, values: &[f32], to_prefetch: usize) {
        prefetch::<_MM_HINT_T1>(values.as_ptr().wrapping_add(to_prefetch));
    }
}

impl Sums for Avx512 {}

impl Integers for Avx512 {
    #[inline(always)]
    fn store_integers<const K_GROUP: usize>(self, words: &mut [u32], a: __m512) {
        let words = &mut words[..Self::WIDTH / K_GROUP];
        // SAFETY: `self` proves that the instructions are there; the length is asserted.
        unsafe {
            let inside = _mm512_max_ps(_mm512_min_ps(a, _mm512_set1_ps(255.0)), _mm512_setzero_ps());
            let integers = _mm512_cvtps_epi32(inside);
            match K_GROUP {
                2 => _mm256_storeu_si256(words.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(integers)),
                4 => _mm_storeu_si128(words.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(integers)),
                _ => unreachable!("two or four to a word"),
            }
        }
    }
    #[inline(always)]
    fn store_bf16<const K_GROUP: usize>(self, words: &mut [u32], a: __m512) {
        let words = &mut words[..Self::WIDTH / K_GROUP];
        // SAFETY: `self` proves that the instructions are there; the length is asserted.
        unsafe {
            let bits = _mm512_castps_si512(a);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
            match K_GROUP {
                1 => {
                    let upper = _mm512_and_si512(rounded, _mm512_set1_epi32(0xFFFF_0000_u32 as i32));
                    _mm512_storeu_si512(words.as_mut_ptr().cast(), upper);
                }
                2 => {
                    let halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded));
                    _mm256_storeu_si256(words.as_mut_ptr().cast(), halves);
                }
                _ => unreachable!("one or two to a word"),
            }
        }
    }
}

/// One row's step of a tile of 32-bit words, whose broadcast stays beside its products. Left to
/// itself the compiler puts the broadcasts of all rows first, finds that twelve of them, 24 sums
/// and two vectors of B are more than 32 registers, and moves sums to the stack and back in every
/// step: a fifth of the time.
macro_rules! step {
    ($instruction:literal, $sum:ty, $b_vector:ty, $sums:ident, $a:ident, $b:ident) => {{
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn step([mut low, mut high]: [$sum; 2], a: *const u32, b: [$b_vector; 2]) -> [$sum; 2] {
            let _word: __m512i; // typed, for `_` would be given the name of a register of 8 bits
            // SAFETY: reads one word at `a`, which the caller promises, and writes registers.
            unsafe {
                std::arch::asm!(
                    "vpbroadcastd {word}, dword ptr [{a}]",
                    concat!($instruction, " {low}, {word}, {b0}"),
                    concat!($instruction, " {high}, {word}, {b1}"),
                    a = in(reg) a,
                    b0 = in(zmm_reg) b[0],
                    b1 = in(zmm_reg) b[1],
                    low = inout(zmm_reg) low,
                    high = inout(zmm_reg) high,
                    word = out(zmm_reg) _word,
                    options(pure, readonly, nostack, preserves_flags),
                );
            }
            [low, high]
        }
        // SAFETY: see the trait.
        unsafe { step($sums, $a.cast(), $b) }
    }};
}
pub(super) use step;

impl Step for Avx512 {
    #[inline(always)]
    unsafe fn step(self, sums: [__m512; 2], a: *const f32, b: [__m512; 2]) -> [__m512; 2] {
        step!("vfmadd231ps", __m512, __m512, sums, a, b)
    }
}

impl Tile for Avx512 {
    // 24 sums, 2 columns of B and 1 value of A in 27 of the 32 registers.
    const MR: usize = 12;
    const NR: usize = 32;

    tile_by_height!("avx512f,avx512vl,avx512bw,avx512dq", 1 2 3 4 5 6 7 8 9 10 11 12);

    #[inline(always)]
    fn pack_transposed(self, rows: Joined<'_>, range: Range<usize>, k: usize, dst: &mut [f32]) {
        if k > KC {
            return pack_transposed(rows, range, k, Self::NR, dst); // in blocks
        }
        // SAFETY: `self` proves the instructions.
        unsafe { pack::pack_transposed_f32(rows, range, k, dst) }
    }
}
