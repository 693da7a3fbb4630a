//! NEON: four lanes, tiles of eight columns. It has no instructions for low
//! precision: bf16 is widened to f32 when it is read, and integers to 16 bits.

use std::arch::aarch64::*;

use ndarray::{ArrayView2, ArrayViewMut2};

use super::microkernel::{ByElement, NR, by_element, low_precision};
#[cfg(test)]
use crate::kernels::activation::activate;
use crate::kernels::activation::gate;
use crate::kernels::attention::{LowPrecisionAttention, attention, attention_bf16};
use crate::kernels::dot::dot;
use crate::kernels::lanes::{Lanes, Sixteen};
use crate::kernels::layer_norm::add_norm;
use crate::kernels::low_precision::{Integers, Microkernel, encode_bf16, encode_int8, words_of_bf16};
use crate::kernels::matmul::{Place, Tile, matmul};
use crate::kernels::normalize::normalize;
use crate::kernels::rms_norm::rms_norm;
use crate::kernels::rope::rope;
use crate::kernels::softmax::{Softmax, softmax};
use crate::kernels::{Isa, Kernels};

/// Proof that this CPU has NEON, which every AArch64 has.
#[derive(Clone, Copy)]
pub(super) struct Neon(());

impl Neon {
    pub(super) const PROVEN: Self = Self(());

    #[inline(always)]
    pub(super) fn zero_words() -> uint32x4_t {
        // SAFETY: NEON is part of the architecture.
        unsafe { vdupq_n_u32(0) }
    }

    #[inline(always)]
    pub(super) fn zero_bytes() -> uint8x16_t {
        // SAFETY: NEON is part of the architecture.
        unsafe { vdupq_n_u8(0) }
    }
}

const PROVEN: Neon = Neon::PROVEN;
const SIXTEEN: Sixteen<Neon, 4> = Sixteen(PROVEN);

pub(super) static NEON: Kernels = Kernels {
    isa: Isa::Neon,
    nr: NR,
    matmul: |p| matmul(PROVEN, p),
    attention: |head, scratch| attention(PROVEN, head, scratch),
    add_norm: |x, residual, gamma, beta, eps, to_prefetch| {
        add_norm(SIXTEEN, x, residual, gamma, beta, eps, to_prefetch)
    },
    rms_norm: |x, residual, gamma, eps| rms_norm(SIXTEEN, x, residual, gamma, eps),
    rope: |row, cos, sin| rope(PROVEN, row, cos, sin),
    gate: |a, b, activation| gate(PROVEN, a, b, activation),
    normalize: |row| normalize(SIXTEEN, row),
    dot: |a, b| dot(SIXTEEN, a, b),
    bf16: &BF16,
    int8: &INT8,
    bf16_attention: BF16_ATTENTION,
    bf16_attention_any: BF16_ATTENTION,
    peak: |_| None,
    #[cfg(test)]
    activate: |activation, row| activate(PROVEN, activation, row),
    #[cfg(test)]
    softmax: |row, scale| softmax(SIXTEEN, row, f32::NEG_INFINITY, scale).1,
};

// SAFETY of this block: NEON is part of the architecture; pointers come from slices whose length is
// asserted.
impl Lanes for Neon {
    type V = float32x4_t;
    const WIDTH: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        // SAFETY: see the head of the block.
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    fn load(self, s: &[f32]) -> float32x4_t {
        let s = &s[..Self::WIDTH];
        // SAFETY: see the head of the block.
        unsafe { vld1q_f32(s.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, s: &mut [f32], v: float32x4_t) {
        let s = &mut s[..Self::WIDTH];
        // SAFETY: see the head of the block.
        unsafe { vst1q_f32(s.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see the head of the block.
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see the head of the block.
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see the head of the block.
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see the head of the block.
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: see the head of the block.
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see the head of the block.
        unsafe { vmaxq_f32(a, b) }
    }
    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see the head of the block.
        unsafe { vminq_f32(a, b) }
    }
    #[inline(always)]
    fn scale(self, a: float32x4_t, n: float32x4_t) -> float32x4_t {
        // SAFETY: see the head of the block.
        unsafe {
            let exponents = vshlq_n_u32::<23>(vreinterpretq_u32_f32(n));
            vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(a), exponents))
        }
    }
    #[inline(always)]
    fn reduce_add(self, a: float32x4_t) -> f32 {
        // SAFETY: see the head of the block.
        unsafe {
            let halves = vadd_f32(vget_low_f32(a), vget_high_f32(a));
            vget_lane_f32::<0>(vpadd_f32(halves, halves))
        }
    }
    #[inline(always)]
    fn reduce_max(self, a: float32x4_t) -> f32 {
        // SAFETY: see the head of the block.
        unsafe { vmaxvq_f32(a) }
    }
}

impl Integers for Neon {
    #[inline(always)]
    fn store_integers<const K_GROUP: usize>(self, words: &mut [u32], a: float32x4_t) {
        let words = &mut words[..Self::WIDTH / K_GROUP];
        // SAFETY: NEON is part of the architecture; the length is asserted.
        unsafe {
            // Negative values become zero.
            let integers = vmovn_u32(vcvtnq_u32_f32(vminq_f32(a, vdupq_n_f32(255.0))));
            match K_GROUP {
                2 => vst1_u32(words.as_mut_ptr(), vreinterpret_u32_u16(integers)),
                4 => {
                    let bytes = vmovn_u16(vcombine_u16(integers, integers));
                    words[0] = vget_lane_u32::<0>(vreinterpret_u32_u8(bytes));
                }
                _ => unreachable!("two or four to a word"),
            }
        }
    }
    #[inline(always)]
    fn store_bf16<const K_GROUP: usize>(self, words: &mut [u32], a: float32x4_t) {
        let words = &mut words[..Self::WIDTH / K_GROUP];
        // SAFETY: NEON is part of the architecture; the length is asserted.
        unsafe {
            let bits = vreinterpretq_u32_f32(a);
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7FFF)));
            match K_GROUP {
                1 => vst1q_u32(words.as_mut_ptr(), vandq_u32(rounded, vdupq_n_u32(0xFFFF_0000))),
                2 => vst1_u32(words.as_mut_ptr(), vreinterpret_u32_u16(vshrn_n_u32::<16>(rounded))),
                _ => unreachable!("one or two to a word"),
            }
        }
    }
}

impl Softmax for Neon {
    #[inline(never)]
    fn softmax(self, row: &mut [f32], least: f32, scale: f32) -> (f32, f32) {
        softmax(SIXTEEN, row, least, scale)
    }
}

/// f32: a word is a value.
#[derive(Clone, Copy)]
struct F32;

impl ByElement for F32 {
    const CELL_HALVES: usize = 2;
    type Line = [float32x4_t; 2];
    type Sum = float32x4_t;

    #[inline(always)]
    unsafe fn line(b: *const u16) -> [float32x4_t; 2] {
        let b = b.cast::<f32>();
        // SAFETY: see the trait.
        unsafe { [vld1q_f32(b), vld1q_f32(b.add(4))] }
    }
    #[inline(always)]
    unsafe fn step<const LANE: i32>(sums: [float32x4_t; 2], a: uint32x4_t, b: [float32x4_t; 2]) -> [float32x4_t; 2] {
        // SAFETY: NEON is part of the architecture.
        unsafe {
            let a = vreinterpretq_f32_u32(a);
            [vfmaq_laneq_f32::<LANE>(sums[0], b[0], a), vfmaq_laneq_f32::<LANE>(sums[1], b[1], a)]
        }
    }
}

/// A tile of `R` rows of a product in f32, added to `bias` or to what is in C.
///
/// # Safety
/// `a` points to R rows of `depth` values, `b` to `depth` lines of eight, `c` to R rows of eight;
/// `bias` has eight values.
#[inline(never)]
unsafe fn tile<const R: usize>(
    depth: usize,
    a: (*const f32, usize),
    b: *const f32,
    (c, ldc): (*mut f32, usize),
    bias: Option<&[f32]>,
) {
    let l = PROVEN;
    // SAFETY: passed on to the caller.
    let sums = unsafe { by_element::<F32, R>(depth, (a.0.cast(), a.1), b.cast()) };
    for (r, sum) in sums.iter().enumerate() {
        // SAFETY: row r of `c` has eight values.
        let row = unsafe { std::slice::from_raw_parts_mut(c.add(r * ldc), NR) };
        let start = bias.unwrap_or(row);
        let whole = [l.add(l.load(start), sum[0]), l.add(l.load(&start[4..]), sum[1])];
        l.store(row, whole[0]);
        l.store(&mut row[4..], whole[1]);
    }
}

impl Tile for Neon {
    // 16 sums, a line of B in two registers and a register for each row of A: 26 of the 32.
    const MR: usize = 8;
    const NR: usize = NR;

    #[inline(always)]
    fn tile(
        self,
        a: &ArrayView2<'_, f32>,
        panel: &[f32],
        c: &mut ArrayViewMut2<'_, f32>,
        place: Place,
        bias: Option<&[f32]>,
        _to_prefetch: &[f32],
    ) {
        let Place { rows: (row, end), k0, corner } = place;
        let (rows, depth) = (end - row, panel.len() / NR);
        assert!(end <= a.nrows() && k0 + depth <= a.ncols(), "A covers the tile");
        assert!(corner.0 + rows <= c.nrows() && corner.1 + NR <= c.ncols(), "C covers the tile");
        assert!(bias.is_none_or(|bias| bias.len() == NR), "bias covers the tile");
        let (lda, ldc) = (a.strides()[0] as usize, c.strides()[0] as usize);
        // SAFETY: the tile lies in `a` and `c`, asserted above, whose rows are contiguous, asserted
        // by `matmul`; the panel has depth × NR values.
        unsafe {
            let a = (a.as_ptr().add(row * lda + k0), lda);
            let (b, c) = (panel.as_ptr(), (c.as_mut_ptr().add(corner.0 * ldc + corner.1), ldc));
            match rows {
                1 => tile::<1>(depth, a, b, c, bias),
                2 => tile::<2>(depth, a, b, c, bias),
                3 => tile::<3>(depth, a, b, c, bias),
                4 => tile::<4>(depth, a, b, c, bias),
                5 => tile::<5>(depth, a, b, c, bias),
                6 => tile::<6>(depth, a, b, c, bias),
                7 => tile::<7>(depth, a, b, c, bias),
                8 => tile::<8>(depth, a, b, c, bias),
                _ => unreachable!("taller than a tile"),
            }
        }
    }
}

/// bf16: a word of A is the f32 that it is. Of each pair of words the second is added first, as
/// `vdpbf16ps` of x86-64 does, so that sums are the same bit for bit.
#[derive(Clone, Copy)]
pub(super) struct Widened;

impl ByElement for Widened {
    const CELL_HALVES: usize = 1;
    const SECOND_FIRST: bool = true;
    type Line = [float32x4_t; 2];
    type Sum = float32x4_t;

    #[inline(always)]
    unsafe fn line(b: *const u16) -> [float32x4_t; 2] {
        // SAFETY: see the trait. Each value becomes the upper half of an f32.
        unsafe {
            let (b, nothing) = (vld1q_u16(b), vdupq_n_u16(0));
            [vreinterpretq_f32_u16(vzip1q_u16(nothing, b)), vreinterpretq_f32_u16(vzip2q_u16(nothing, b))]
        }
    }
    #[inline(always)]
    unsafe fn step<const LANE: i32>(sums: [float32x4_t; 2], a: uint32x4_t, b: [float32x4_t; 2]) -> [float32x4_t; 2] {
        // SAFETY: see the trait.
        unsafe { F32::step::<LANE>(sums, a, b) }
    }
}

low_precision!(
    BF16, Widened, Bf16, "neon", false, cell_halves 1, k_group 1, pairs false, zero 0,
    |row, _, words, _| encode_bf16(Widened, row, words),
    |words, a, _, b| by_element::<Widened, R>(words, a, b), [1 2 3 4 5 6 7 8], {
        fn words(self, row: &[f32], k_group: usize, words: &mut [u32]) {
            words_of_bf16(PROVEN, row, k_group, words);
        }
    }
);

pub(super) const BF16_ATTENTION: LowPrecisionAttention = LowPrecisionAttention {
    k_group: Widened::K_GROUP,
    compute: |head, scratch| attention_bf16(Widened, PROVEN, head, scratch),
    words: |row, words| Widened.words(row, Widened::K_GROUP, words),
};

/// Integers as pairs of 16 bits, each multiplied and added on its own (`smlal`): no sum saturates.
#[derive(Clone, Copy)]
struct By16Bits;

impl ByElement for By16Bits {
    const CELL_HALVES: usize = 1;
    type Line = [int16x8_t; 2];
    type Sum = int32x4_t;

    /// Of each column the first integer of the pair, and the second.
    #[inline(always)]
    unsafe fn line(b: *const u16) -> [int16x8_t; 2] {
        // SAFETY: see the trait.
        unsafe {
            let pairs = vreinterpretq_s16_u16(vld1q_u16(b));
            [vshrq_n_s16::<8>(vshlq_n_s16::<8>(pairs)), vshrq_n_s16::<8>(pairs)]
        }
    }
    #[inline(always)]
    unsafe fn step<const LANE: i32>(sums: [int32x4_t; 2], a: uint32x4_t, b: [int16x8_t; 2]) -> [int32x4_t; 2] {
        macro_rules! step {
            ($first:literal, $second:literal) => {{
                let a = vreinterpretq_s16_u32(a);
                let low = vmlal_laneq_s16::<$first>(sums[0], vget_low_s16(b[0]), a);
                let high = vmlal_high_laneq_s16::<$first>(sums[1], b[0], a);
                [vmlal_laneq_s16::<$second>(low, vget_low_s16(b[1]), a), vmlal_high_laneq_s16::<$second>(high, b[1], a)]
            }};
        }
        // SAFETY: NEON is part of the architecture.
        unsafe {
            match LANE {
                0 => step!(0, 1),
                1 => step!(2, 3),
                2 => step!(4, 5),
                _ => step!(6, 7),
            }
        }
    }
}

low_precision!(
    INT8, By16Bits, Int8, "neon", false, cell_halves 1, k_group 2, pairs false, zero 0,
    |row, smoothing, words, to_prefetch| encode_int8::<_, 2>(PROVEN, row, smoothing, words, to_prefetch),
    |words, a, _, b| by_element::<By16Bits, R>(words, a, b), [1 2 3 4 5 6 7 8], {
        fn words(self, row: &[f32], k_group: usize, words: &mut [u32]) {
            words_of_bf16(PROVEN, row, k_group, words);
        }
    }
);
