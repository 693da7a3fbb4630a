//! The dot product instructions beside NEON: products of 8-bit integers, sixteen multiply-adds per
//! instruction.

use std::arch::aarch64::*;
use std::arch::asm;

use super::microkernel::{ByElement, by_element, low_precision};
use super::neon::{NEON, Neon};
use crate::kernels::low_precision::{encode_int8_less, words_of_bf16};
use crate::kernels::{Isa, Kernels};

pub(super) static NEON_DOT: Kernels = Kernels { isa: Isa::Dotprod, int8: &INT8, ..NEON };

/// `sdot`. It multiplies signed by signed values; so the integers of A and their zero are stored
/// less 128, which leaves Σ q·w − zero · Σ w what it is.
#[derive(Clone, Copy)]
struct Sdot;

impl ByElement for Sdot {
    const CELL_HALVES: usize = 2;
    type Line = [uint8x16_t; 2];
    type Sum = int32x4_t;

    #[inline(always)]
    unsafe fn line(b: *const u16) -> [uint8x16_t; 2] {
        let b = b.cast::<u8>();
        // SAFETY: see the trait.
        unsafe { [vld1q_u8(b), vld1q_u8(b.add(16))] }
    }
    #[inline(always)]
    unsafe fn step<const LANE: i32>(
        [mut low, mut high]: [int32x4_t; 2],
        a: uint32x4_t,
        b: [uint8x16_t; 2],
    ) -> [int32x4_t; 2] {
        // SAFETY: reads and writes registers; the instruction is there, see the trait.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {low:v}.4s, {b0:v}.16b, {a:v}.4b[{lane}]",
                "sdot {high:v}.4s, {b1:v}.16b, {a:v}.4b[{lane}]",
                low = inout(vreg) low,
                high = inout(vreg) high,
                a = in(vreg) a,
                b0 = in(vreg) b[0],
                b1 = in(vreg) b[1],
                lane = const LANE,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        [low, high]
    }
}

low_precision!(
    INT8, Sdot, Int8, "neon-dotprod", true, cell_halves 2, k_group 4, pairs false, zero 128,
    |row, smoothing, words, to_prefetch| encode_int8_less::<_, 4, 128>(Neon::PROVEN, row, smoothing, words, to_prefetch),
    |words, a, _, b| by_element::<Sdot, R>(words, a, b), [1 2 3 4 5 6 7 8], {
        fn words(self, row: &[f32], k_group: usize, words: &mut [u32]) {
            words_of_bf16(Neon::PROVEN, row, k_group, words);
        }
    }
);
