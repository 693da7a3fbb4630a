//! bf16 beside i8mm: matrix multiplication and attention, sixteen multiply-adds per instruction.
//!
//! Only `bfmmla` is used. `bfdot`, which every such CPU has too, does half as much per instruction
//! and rounds differently, so that the result of a row would depend on the number of rows.

use std::arch::aarch64::*;
use std::arch::asm;

use super::microkernel::{InPairs, in_pairs, low_precision};
use super::neon::Neon;
use super::neon_i8mm::NEON_I8MM;
use crate::kernels::attention::{LowPrecisionAttention, attention_bf16};
use crate::kernels::low_precision::{Microkernel, encode_bf16, words_of_bf16};
use crate::kernels::{Isa, Kernels};

pub(super) static NEON_BF16: Kernels =
    Kernels { isa: Isa::Bf16, bf16: &BF16, bf16_attention: BF16_ATTENTION, ..NEON_I8MM };

/// `bfmmla`.
#[derive(Clone, Copy)]
struct Bfmmla;

impl InPairs for Bfmmla {
    type Sum = float32x4_t;

    #[inline(always)]
    unsafe fn step(mut sums: float32x4_t, a: uint8x16_t, b: uint8x16_t) -> float32x4_t {
        // SAFETY: reads and writes registers; the instruction is there, see the trait.
        unsafe {
            asm!(
                ".arch_extension bf16",
                "bfmmla {sums:v}.4s, {a:v}.8h, {b:v}.8h",
                sums = inout(vreg) sums,
                a = in(vreg) a,
                b = in(vreg) b,
                options(nomem, nostack, preserves_flags),
            );
        }
        sums
    }
}

/// Values in bf16, two in a word (`bfcvtn`), as many as both have room for.
#[inline(always)]
fn pairs_of_bf16(row: &[f32], words: &mut [u32]) {
    let (whole, rest) = row.as_chunks::<8>();
    let (lines, last) = words.split_at_mut(4 * whole.len());
    for (line, values) in lines.chunks_exact_mut(4).zip(whole) {
        line.copy_from_slice(&four_pairs(values));
    }
    if !rest.is_empty() {
        let mut values = [0.0; 8];
        values[..rest.len()].copy_from_slice(rest);
        last.copy_from_slice(&four_pairs(&values)[..last.len()]);
    }
}

#[inline(always)]
fn four_pairs(values: &[f32; 8]) -> [u32; 4] {
    let mut words = [0; 4];
    // SAFETY: eight values are read and four words written; the instruction is there, for the table
    // is out of reach until it was seen.
    unsafe {
        let (low, high) = (vld1q_f32(values.as_ptr()), vld1q_f32(values[4..].as_ptr()));
        let pairs: uint32x4_t;
        asm!(
            ".arch_extension bf16",
            "bfcvtn {pairs:v}.4h, {low:v}.4s",
            "bfcvtn2 {pairs:v}.8h, {high:v}.4s",
            pairs = out(vreg) pairs,
            low = in(vreg) low,
            high = in(vreg) high,
            options(pure, nomem, nostack, preserves_flags),
        );
        vst1q_u32(words.as_mut_ptr(), pairs);
    }
    words
}

low_precision!(
    BF16, Bfmmla, Bf16, "neon-bf16", true, cell_halves 4, k_group 2, pairs true, zero 0,
    |row, _, words, _| encode_bf16(Bfmmla, row, words),
    |cells, _, pairs, b| in_pairs::<Bfmmla, R>(cells, pairs, b), [1 2 3 4 5 6 7 8 9 10 11 12], {
        #[inline(always)]
        fn words(self, row: &[f32], k_group: usize, words: &mut [u32]) {
            match k_group {
                2 => pairs_of_bf16(row, words),
                _ => words_of_bf16(Neon::PROVEN, row, k_group, words),
            }
        }
    }
);

const BF16_ATTENTION: LowPrecisionAttention = LowPrecisionAttention {
    k_group: Bfmmla::K_GROUP,
    compute: |head, scratch| attention_bf16(Bfmmla, Neon::PROVEN, head, scratch),
    words: |row, words| Bfmmla.words(row, Bfmmla::K_GROUP, words),
};
