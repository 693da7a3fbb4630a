//! Products of matrices of 8-bit integers beside the dot product instructions: 32 multiply-adds per
//! instruction.

use std::arch::aarch64::*;
use std::arch::asm;

use super::microkernel::{InPairs, in_pairs, low_precision};
use super::neon::Neon;
use super::neon_dot::NEON_DOT;
use crate::kernels::low_precision::{encode_int8, words_of_bf16};
use crate::kernels::{Isa, Kernels};

pub(super) static NEON_I8MM: Kernels = Kernels { isa: Isa::I8mm, int8: &INT8, ..NEON_DOT };

/// `usmmla`: unsigned by signed values.
#[derive(Clone, Copy)]
struct Usmmla;

impl InPairs for Usmmla {
    type Sum = int32x4_t;

    #[inline(always)]
    unsafe fn step(mut sums: int32x4_t, a: uint8x16_t, b: uint8x16_t) -> int32x4_t {
        // SAFETY: reads and writes registers; the instruction is there, see the trait.
        unsafe {
            asm!(
                ".arch_extension i8mm",
                "usmmla {sums:v}.4s, {a:v}.16b, {b:v}.16b",
                sums = inout(vreg) sums,
                a = in(vreg) a,
                b = in(vreg) b,
                options(nomem, nostack, preserves_flags),
            );
        }
        sums
    }
}

low_precision!(
    INT8, Usmmla, Int8, "neon-i8mm", true, cell_halves 4, k_group 4, pairs true, zero 0,
    |row, smoothing, words, to_prefetch| encode_int8::<_, 4>(Neon::PROVEN, row, smoothing, words, to_prefetch),
    |cells, _, pairs, b| in_pairs::<Usmmla, R>(cells, pairs, b), [1 2 3 4 5 6 7 8 9 10 11 12], {
        fn words(self, row: &[f32], k_group: usize, words: &mut [u32]) {
            words_of_bf16(Neon::PROVEN, row, k_group, words);
        }
    }
);
