//! AVX2 and FMA: eight lanes, tiles of 6 rows by 16 columns.

use std::arch::x86_64::*;
use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2};

use super::{Step, kernels, pack, prefetch, tile_by_height};
use crate::kernels::Isa;
#[cfg(test)]
use crate::kernels::activation::activate;
use crate::kernels::activation::{Activation, gate};
use crate::kernels::attention::{Head, attention};
use crate::kernels::dot::dot;
use crate::kernels::lanes::Lanes;
use crate::kernels::layer_norm::add_norm;
use crate::kernels::matmul::{Place, Product, Tile, matmul};
use crate::kernels::narrow::Integers;
use crate::kernels::normalize::normalize;
use crate::kernels::pack::{Joined, KC, pack_transposed};
use crate::kernels::rms_norm::rms_norm;
use crate::kernels::rope::rope;

/// Proof that this CPU has AVX2 and FMA.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// For the functions of a table that is out of reach until `detect()` has succeeded.
    pub(super) const PROVEN: Self = Self(());

    /// The proof, if it holds.
    fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

/// For the functions of the table, which is out of reach until `detect()` has succeeded.
const PROVEN: Avx2 = Avx2::PROVEN;

kernels!(Isa::Avx2, Avx2, "avx2,fma");

// SAFETY of this block: `self` proves that the instructions are there; pointers come from slices whose length is asserted.
impl Lanes for Avx2 {
    type V = __m256;
    const WIDTH: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: see the head of the block.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, s: &[f32]) -> __m256 {
        let s = &s[..Self::WIDTH];
        // SAFETY: see the head of the block.
        unsafe { _mm256_loadu_ps(s.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, s: &mut [f32], v: __m256) {
        let s = &mut s[..Self::WIDTH];
        // SAFETY: see the head of the block.
        unsafe { _mm256_storeu_ps(s.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the head of the block.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the head of the block.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the head of the block.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the head of the block.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see the head of the block.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the head of the block.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the head of the block.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    fn scale(self, a: __m256, n: __m256) -> __m256 {
        // SAFETY: see the head of the block.
        unsafe {
            let exponents = _mm256_slli_epi32::<23>(_mm256_castps_si256(n));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), exponents))
        }
    }
    #[inline(always)]
    fn reduce_add(self, a: __m256) -> f32 {
        // SAFETY: see the head of the block.
        unsafe {
            let x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        }
    }
    #[inline(always)]
    fn reduce_max(self, a: __m256) -> f32 {
        // SAFETY: see the head of the block.
        unsafe {
            let x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
        }
    }
    #[inline(always)]
    fn ask_for(self, values: &[f32], ahead: usize) {
        prefetch::<_MM_HINT_T1>(values.as_ptr().wrapping_add(ahead));
    }
}

impl Integers for Avx2 {
    #[inline(always)]
    fn store_integers<const GROUP: usize>(self, words: &mut [u32], a: __m256) {
        let words = &mut words[..Self::WIDTH / GROUP];
        // SAFETY: `self` proves that the instructions are there; the length is asserted.
        unsafe {
            let integers = _mm256_cvtps_epi32(_mm256_min_ps(a, _mm256_set1_ps(255.0)));
            let pairs = _mm_packus_epi32(_mm256_castsi256_si128(integers), _mm256_extracti128_si256::<1>(integers));
            match GROUP {
                2 => _mm_storeu_si128(words.as_mut_ptr().cast(), pairs),
                4 => _mm_storel_epi64(words.as_mut_ptr().cast(), _mm_packus_epi16(pairs, pairs)),
                _ => unreachable!("two or four to a word"),
            }
        }
    }
    #[inline(always)]
    fn store_bf16<const GROUP: usize>(self, words: &mut [u32], a: __m256) {
        let words = &mut words[..Self::WIDTH / GROUP];
        // SAFETY: `self` proves that the instructions are there; the length is asserted.
        unsafe {
            let bits = _mm256_castps_si256(a);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
            match GROUP {
                1 => {
                    let upper = _mm256_and_si256(rounded, _mm256_set1_epi32(0xFFFF_0000_u32 as i32));
                    _mm256_storeu_si256(words.as_mut_ptr().cast(), upper);
                }
                2 => {
                    let halves = _mm256_srli_epi32::<16>(rounded);
                    let (low, high) = (_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
                    _mm_storeu_si128(words.as_mut_ptr().cast(), _mm_packus_epi32(low, high));
                }
                _ => unreachable!("one or two to a word"),
            }
        }
    }
}

impl Step for Avx2 {}

impl Tile for Avx2 {
    // 12 sums, 2 columns of B and 1 value of A fill 15 of the 16 registers.
    const MR: usize = 6;
    const NR: usize = 16;

    tile_by_height!("avx2,fma", 1 2 3 4 5 6);

    #[inline(always)]
    fn pack_transposed(self, rows: Joined<'_>, range: Range<usize>, k: usize, dst: &mut [f32]) {
        if k > KC {
            return pack_transposed(rows, range, k, Self::NR, dst); // in blocks
        }
        // SAFETY: `self` proves the instructions.
        unsafe { pack::pack_transposed_by_eights(rows, range, k, dst) }
    }
}
