//! AVX2 and FMA: eight lanes, tiles of 6 rows by 16 columns.

use std::arch::x86_64::*;
use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2};

use super::microkernel::{Mac, attention, low_precision, words};
use super::{Step, kernels, pack, peak, prefetch, tile_by_height};
use crate::kernels::Isa;
#[cfg(test)]
use crate::kernels::activation::activate;
use crate::kernels::activation::{Activation, gate};
use crate::kernels::attention::{Head, attention};
use crate::kernels::dot::dot;
use crate::kernels::lanes::{Lanes, Sixteen};
use crate::kernels::layer_norm::add_norm;
use crate::kernels::low_precision::{Integers, NumberFormat, encode_bf16, encode_int8};
use crate::kernels::matmul::{Gemm, Place, Tile, matmul};
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
    pub(super) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

/// For the functions of the table, which is out of reach until `detect()` has succeeded.
const PROVEN: Avx2 = Avx2::PROVEN;
const SIXTEEN: Sixteen<Avx2, 2> = Sixteen(PROVEN);

kernels!(AVX2, Isa::Avx2, Avx2, "avx2,fma", &AVX2_BF16, &AVX2_INT8, AVX2_ATTENTION, |format| match format {
    None | Some(NumberFormat::Bf16) => Some(peak::avx2_f32()),
    Some(NumberFormat::Int8) => Some(peak::avx2_int8()),
});

// SAFETY of this block: `self` proves that the instructions are there; pointers come from slices
// whose length is asserted.
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
    fn prefetch(self, values: &[f32], to_prefetch: usize) {
        prefetch::<_MM_HINT_T1>(values.as_ptr().wrapping_add(to_prefetch));
    }
}

impl Integers for Avx2 {
    #[inline(always)]
    fn store_integers<const K_GROUP: usize>(self, words: &mut [u32], a: __m256) {
        let words = &mut words[..Self::WIDTH / K_GROUP];
        // SAFETY: `self` proves that the instructions are there; the length is asserted.
        unsafe {
            let integers = _mm256_cvtps_epi32(_mm256_min_ps(a, _mm256_set1_ps(255.0)));
            let pairs = _mm_packus_epi32(_mm256_castsi256_si128(integers), _mm256_extracti128_si256::<1>(integers));
            match K_GROUP {
                2 => _mm_storeu_si128(words.as_mut_ptr().cast(), pairs),
                4 => _mm_storel_epi64(words.as_mut_ptr().cast(), _mm_packus_epi16(pairs, pairs)),
                _ => unreachable!("two or four to a word"),
            }
        }
    }
    #[inline(always)]
    fn store_bf16<const K_GROUP: usize>(self, words: &mut [u32], a: __m256) {
        let words = &mut words[..Self::WIDTH / K_GROUP];
        // SAFETY: `self` proves that the instructions are there; the length is asserted.
        unsafe {
            let bits = _mm256_castps_si256(a);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
            match K_GROUP {
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

/// bf16 where the CPU has none: values widen to f32 when they are read. Of each pair of words the
/// second is added first, as `vdpbf16ps` does, so that sums are the same bit for bit.
#[derive(Clone, Copy)]
struct Avx2Bf16;

impl Mac for Avx2Bf16 {
    const FORMAT: NumberFormat = NumberFormat::Bf16;
    const WIDTH: usize = 8;
    const CELL_HALVES: usize = 1;
    const UNROLL: usize = 2;
    type Lanes = Avx2;
    type Word = __m256;
    type Sum = __m256;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: see the trait, here and below.
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(b: *const u16) -> __m256 {
        // SAFETY: see the trait.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(b.cast())))) }
    }
    #[inline(always)]
    unsafe fn step(sums: [__m256; 2], a: *const u32, b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: see the trait.
        unsafe {
            let a = _mm256_set1_ps(f32::from_bits(*a));
            [_mm256_fmadd_ps(a, b[0], sums[0]), _mm256_fmadd_ps(a, b[1], sums[1])]
        }
    }
    #[inline(always)]
    unsafe fn values(sum: __m256, _zero: i32, _column_sums: *const i32) -> __m256 {
        sum
    }
}

/// Integers as pairs of 16 bits (`vpmaddwd`): exact, unlike `vpmaddubsw`, whose sums of two
/// products saturate at 16 bits. Two of a hundred pairs of MiniLM's weights could make one
/// saturate.
///
/// No exact way to use `vpmaddubsw` is faster. Multiply-adds per cycle in registers alone, by
/// llvm-mca's models of Zen 3 and Skylake:
///
/// | | Zen 3 | Skylake |
/// |---|--:|--:|
/// | `vpmaddwd`, `vpaddd`, as here | 32 | 24 |
/// | `vpmaddubsw`, `vpmaddwd` by ones, `vpaddd`: saturates | 32 | 32 |
/// | the same with ∣w∣ by ±(q − 128), of which −128 has no opposite | 29 | 21 |
/// | halves of 4 bits of q, summed in 16 bits for eight steps | 28 | 21 |
/// | the upper 7 bits of q, and its lowest bit in a second pass | 21 | 16 |
///
/// Each exact scheme needs a fourth instruction per 32 multiply-adds, which uses up what it saves.
/// The saturating one was measured at 1.2 × the speed of this one on Zen 3. Every correction for
/// the pairs that saturate (a second line for them, a list of what is missing, or a search for
/// large values in each row) cost that much again. ONNX Runtime lets them saturate.
#[derive(Clone, Copy)]
pub(super) struct Avx2Int8;

impl Mac for Avx2Int8 {
    const FORMAT: NumberFormat = NumberFormat::Int8;
    const WIDTH: usize = 8;
    const CELL_HALVES: usize = 1;
    const UNROLL: usize = 2;
    type Lanes = Avx2;
    type Word = __m256i;
    type Sum = __m256i;

    #[inline(always)]
    unsafe fn zero() -> __m256i {
        // SAFETY: see the trait, here and below.
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn load(b: *const u16) -> __m256i {
        // SAFETY: see the trait.
        unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(b.cast())) }
    }
    #[inline(always)]
    unsafe fn step(sums: [__m256i; 2], a: *const u32, b: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: see the trait.
        unsafe {
            let a = _mm256_set1_epi32(*a as i32);
            [
                settled(_mm256_add_epi32(sums[0], _mm256_madd_epi16(a, b[0]))),
                settled(_mm256_add_epi32(sums[1], _mm256_madd_epi16(a, b[1]))),
            ]
        }
    }
    #[inline(always)]
    unsafe fn values(sum: __m256i, zero: i32, column_sums: *const i32) -> __m256 {
        // SAFETY: see the trait.
        unsafe {
            let column_sums = _mm256_mullo_epi32(_mm256_loadu_si256(column_sums.cast()), _mm256_set1_epi32(zero));
            _mm256_cvtepi32_ps(_mm256_sub_epi32(sum, column_sums))
        }
    }
}

/// `sum` itself, of which the compiler knows nothing: of two steps it would add the products first,
/// for which there are no registers.
#[inline]
#[target_feature(enable = "avx2")]
fn settled(mut sum: __m256i) -> __m256i {
    // SAFETY: no instruction at all.
    unsafe { std::arch::asm!("/* {sum} */", sum = inout(ymm_reg) sum, options(pure, nomem, nostack, preserves_flags)) };
    sum
}

low_precision!(
    AVX2_BF16, Avx2Bf16, Avx2, "avx2", false, "avx2,fma", 1,
    |row, _, words, _| encode_bf16(Avx2Bf16, row, words),
    [1 2 3 4 5 6], { words!(Avx2); }
);
low_precision!(
    AVX2_INT8, Avx2Int8, Avx2, "avx2", false, "avx2,fma", 2,
    |row, smoothing, words, to_prefetch| encode_int8::<_, 2>(Avx2::PROVEN, row, smoothing, words, to_prefetch),
    [1 2 3 4 5 6], { words!(Avx2); }
);
attention!(AVX2_ATTENTION, Avx2Bf16, Avx2, "avx2,fma");
