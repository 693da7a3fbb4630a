//! The plain loops, which specify the tables of the instruction sets.

use ndarray::ArrayViewMut2;

use super::rows::Steps;
use super::{
    HEADER, Integers, LowPrecision, Microkernel, NumberFormat, Panel, Rows, encode_bf16, matmul, to_bf16, words_of_bf16,
};
use crate::kernels::activation::activate;
use crate::kernels::attention::{LowPrecisionAttention, attention_bf16};
use crate::kernels::matmul::part_of;
use crate::kernels::scalar::Plain;

pub(crate) static BF16: LowPrecision = LowPrecision {
    format: NumberFormat::Bf16,
    name: "scalar",
    native: false,
    nr: Bf16::NR,
    k_group: Bf16::K_GROUP,
    zero: 0,
    cell_halves: Bf16::CELL_HALVES,
    encode: |row, _, words, _| encode_bf16(Bf16, row, words),
    matmul: |p| matmul(Bf16, p),
};
pub(crate) static INT8: LowPrecision = LowPrecision {
    format: NumberFormat::Int8,
    name: "scalar",
    native: false,
    nr: Int8::NR,
    k_group: Int8::K_GROUP,
    zero: 0,
    cell_halves: Int8::CELL_HALVES,
    encode: |row, smoothing, words, _| encode_int8(row, smoothing, words),
    matmul: |p| matmul(Int8, p),
};

/// [`attention_bf16`] of the plain twin.
pub(crate) const ATTENTION: LowPrecisionAttention = LowPrecisionAttention {
    k_group: 1,
    compute: |head, scratch| attention_bf16(Bf16, Plain, head, scratch),
    words: |row, words| Bf16.words(row, 1, words),
};

/// Quantizes a row to integers, two per word.
fn encode_int8(row: &[f32], smoothing: &[f32], out: &mut [u32]) {
    let products = || row.iter().zip(smoothing).map(|(x, factor)| x * factor);
    let steps = Steps::of(products().fold(0.0, f32::min), products().fold(0.0, f32::max));
    let (header, words) = out.split_at_mut(HEADER);
    header.copy_from_slice(&steps.header(0));
    words.fill(0);
    for (i, x) in products().enumerate() {
        let integer = (x * steps.inverse + steps.zero).round_ties_even().clamp(0.0, 255.0);
        words[i / 2] |= (integer as u32) << (16 * (i % 2));
    }
}

impl Integers for Plain {
    fn store_integers<const K_GROUP: usize>(self, _words: &mut [u32], _a: f32) {
        unreachable!("the twin has a loop of its own");
    }
    fn store_bf16<const K_GROUP: usize>(self, words: &mut [u32], a: f32) {
        words[0] = to_bf16(a);
    }
}

#[derive(Clone, Copy)]
struct Bf16;

impl Microkernel for Bf16 {
    const FORMAT: NumberFormat = NumberFormat::Bf16;
    const MR: usize = 4;
    const NR: usize = 16;
    const CELL_HALVES: usize = 1;
    const K_GROUP: usize = 1;

    fn words(self, row: &[f32], k_group: usize, words: &mut [u32]) {
        words_of_bf16(Plain, row, k_group, words);
    }

    fn tile(
        self,
        a: Rows<'_>,
        (from, to): (usize, usize),
        _pairs: &[u32],
        panel: Panel<'_>,
        c: &mut ArrayViewMut2<'_, f32>,
        corner: (usize, usize),
        _to_prefetch: &[u16],
    ) {
        let words = panel.data.len() / Self::NR;
        for (i, row) in (from..to).enumerate() {
            let mut sums = [0f32; Self::NR];
            for (&a, line) in a.words(row, words).iter().zip(panel.data.chunks_exact(Self::NR)) {
                let a = f32::from_bits(a);
                sums.iter_mut().zip(line).for_each(|(sum, &b)| *sum += a * f32::from_bits(u32::from(b) << 16));
            }
            finish(sums, panel, part_of(c, corner.0 + i, corner.1, Self::NR));
        }
    }
}

/// What becomes of the sums of a row.
fn finish(sums: [f32; 16], panel: Panel<'_>, out: &mut [f32]) {
    for ((out, sum), bias) in out.iter_mut().zip(sums).zip(panel.bias) {
        *out = sum + bias;
    }
    activate(Plain, panel.activation, out);
}

#[derive(Clone, Copy)]
struct Int8;

impl Microkernel for Int8 {
    const FORMAT: NumberFormat = NumberFormat::Int8;
    const MR: usize = 4;
    const NR: usize = 16;
    const CELL_HALVES: usize = 1;
    const K_GROUP: usize = 2;

    fn words(self, row: &[f32], k_group: usize, words: &mut [u32]) {
        words_of_bf16(Plain, row, k_group, words);
    }

    fn tile(
        self,
        a: Rows<'_>,
        (from, to): (usize, usize),
        _pairs: &[u32],
        panel: Panel<'_>,
        c: &mut ArrayViewMut2<'_, f32>,
        corner: (usize, usize),
        _to_prefetch: &[u16],
    ) {
        let words = panel.data.len() / Self::NR;
        for (i, row) in (from..to).enumerate() {
            let mut sums = [0i32; Self::NR];
            for (&a, line) in a.words(row, words).iter().zip(panel.data.chunks_exact(Self::NR)) {
                let (a0, a1) = ((a & 0xFFFF) as i32, (a >> 16) as i32);
                for (sum, b) in sums.iter_mut().zip(line) {
                    let [b0, b1] = b.to_le_bytes();
                    *sum += a0 * i32::from(b0 as i8) + a1 * i32::from(b1 as i8);
                }
            }
            let scaled = std::array::from_fn(|j| {
                (sums[j] - a.zero(row) * panel.column_sums[j]) as f32 * (a.scale(row) * panel.scales[j])
            });
            finish(scaled, panel, part_of(c, corner.0 + i, corner.1, Self::NR));
        }
    }
}
