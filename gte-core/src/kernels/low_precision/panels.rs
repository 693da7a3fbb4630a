//! B: weights in low precision, packed at load; keys and values of attention, packed as they come.

use std::ops::Range;

use rayon::prelude::*;

use super::{Joined, LowPrecision, NumberFormat};
use crate::kernels::aligned::Aligned;
use crate::kernels::arena::Arena;
use crate::kernels::lanes::ROUND;

/// A linear layer's weights in low precision, as a checkpoint stores them: (outputs × inputs).
pub(crate) enum LowPrecisionWeights {
    /// Bits of bf16.
    Bf16(Vec<u16>),
    /// Integers in −127..=127, and one scale per row.
    Int8(Vec<i8>, Vec<f32>),
}

/// A (k × n) matrix packed once, at load: `[panel][cell][column in panel]`. The last panel is
/// filled up with zero columns.
pub(crate) struct PackedLowPrecision {
    buffer: Aligned<u16>,
    cells: usize, // in a column
    words: usize, // in a row of A
    pub(crate) n: usize,
    nr: usize,
    cell_halves: usize,
    scales: Vec<f32>,      // one per column, padded
    column_sums: Vec<i32>, // Σ of the integers of a column, padded
}

impl PackedLowPrecision {
    /// Packs the transposes of `weights` (nᵢ × k each) side by side as one (k × Σnᵢ) matrix, on the
    /// current thread pool, in `arena`.
    pub(crate) fn from_weights(
        weights: &[LowPrecisionWeights],
        k: usize,
        low_precision: &LowPrecision,
        arena: &Arena,
    ) -> Self {
        let (nr, cell_halves) = (low_precision.nr, low_precision.cell_halves);
        let rows: Vec<Row<'_>> = weights.iter().flat_map(|part| part.rows(k)).collect();
        let in_unit = match low_precision.format {
            NumberFormat::Bf16 => 1,
            NumberFormat::Int8 => 2,
        };
        let (n, cells, words) = (rows.len(), k.div_ceil(in_unit * cell_halves), k.div_ceil(low_precision.k_group));
        let panels = n.div_ceil(nr);
        let mut buffer = Aligned::zeroed_in(arena, panels * cells * nr * cell_halves);
        if cells > 0 {
            let panel_len = cells * nr * cell_halves;
            buffer.par_chunks_mut(panel_len).zip(rows.par_chunks(nr)).for_each(|(panel, rows)| {
                for (column, row) in rows.iter().enumerate() {
                    row.write(panel, column, nr, cell_halves);
                }
            });
        }
        let mut scales: Vec<f32> = rows.iter().map(Row::scale).collect();
        let mut column_sums: Vec<i32> = rows.par_iter().map(Row::total).collect();
        scales.resize(panels * nr, 0.0);
        column_sums.resize(panels * nr, 0);
        Self { buffer, cells, words, n, nr, cell_halves, scales, column_sums }
    }

    /// The panels, for a product.
    pub(crate) fn panels(&self) -> LowPrecisionPanels<'_> {
        let Self { cells, words, n, nr, cell_halves, .. } = *self;
        let (scales, column_sums) = (&self.scales[..], &self.column_sums[..]);
        LowPrecisionPanels {
            scales,
            column_sums,
            ..LowPrecisionPanels::of_bf16(&self.buffer, (cells, words), n, nr, cell_halves)
        }
    }
}

/// A packed matrix, borrowed.
#[derive(Clone, Copy)]
pub(crate) struct LowPrecisionPanels<'a> {
    pub(crate) data: &'a [u16],
    /// In a column.
    pub(crate) cells: usize,
    /// Words in a row of A by which it is multiplied.
    pub(crate) a_words: usize,
    pub(crate) n: usize,
    pub(crate) nr: usize,
    pub(crate) cell_halves: usize,
    stored: usize, // cells that a column of a panel is stored with
    /// One per column, padded, for integers.
    pub(crate) scales: &'a [f32],
    /// One per column, padded, for integers.
    pub(crate) column_sums: &'a [i32],
}

impl<'a> LowPrecisionPanels<'a> {
    /// A matrix in bf16 that one of the `pack_` functions wrote to `data`: columns of as many
    /// cells, for rows of as many words.
    #[inline(always)]
    pub(crate) fn of_bf16(
        data: &'a [u16],
        (cells, a_words): (usize, usize),
        n: usize,
        nr: usize,
        cell_halves: usize,
    ) -> Self {
        Self { data, cells, a_words, n, nr, cell_halves, stored: cells, scales: &[], column_sums: &[] }
    }

    /// Some cells of each column, for rows of `a_words` words.
    #[inline(always)]
    pub(crate) fn part(&self, cells: Range<usize>, a_words: usize) -> Self {
        assert!(cells.end <= self.cells, "cells of a column");
        let data = &self.data[cells.start * self.nr * self.cell_halves..];
        Self { data, cells: cells.len(), a_words, ..*self }
    }

    /// Number of panels.
    pub(crate) fn count(&self) -> usize {
        self.n.div_ceil(self.nr)
    }

    pub(super) fn panel(&self, panel: usize) -> &'a [u16] {
        let line = self.nr * self.cell_halves;
        &self.data[panel * self.stored * line..][..self.cells * line]
    }
}

/// One output's weights.
enum Row<'a> {
    Bf16(&'a [u16]),
    Int8(&'a [i8], f32),
}

impl LowPrecisionWeights {
    fn rows(&self, k: usize) -> Vec<Row<'_>> {
        match self {
            Self::Bf16(values) => values.chunks_exact(k).map(Row::Bf16).collect(),
            Self::Int8(values, scales) => values.chunks_exact(k).zip(scales).map(|(v, &s)| Row::Int8(v, s)).collect(),
        }
    }
}

impl Row<'_> {
    /// Writes the row as column `column` of a panel that holds zeros.
    fn write(&self, panel: &mut [u16], column: usize, nr: usize, cell_halves: usize) {
        let words =
            panel.chunks_exact_mut(nr * cell_halves).map(|line| &mut line[column * cell_halves..][..cell_halves]);
        match self {
            Self::Bf16(row) => {
                for (word, values) in words.zip(row.chunks(cell_halves)) {
                    word[..values.len()].copy_from_slice(values);
                }
            }
            Self::Int8(row, _) => {
                for (word, values) in words.zip(row.chunks(2 * cell_halves)) {
                    for (unit, pair) in word.iter_mut().zip(values.chunks(2)) {
                        *unit = u16::from_le_bytes([pair[0] as u8, pair.get(1).map_or(0, |&v| v as u8)]);
                    }
                }
            }
        }
    }

    fn scale(&self) -> f32 {
        match self {
            Self::Bf16(_) => 1.0,
            Self::Int8(_, scale) => *scale,
        }
    }

    fn total(&self) -> i32 {
        match self {
            Self::Bf16(_) => 0,
            Self::Int8(row, _) => row.iter().map(|&v| i32::from(v)).sum(),
        }
    }
}

/// Quantizes the rows of a weight (n × k), each by its own largest value.
pub(crate) fn int8_rows(values: &[f32], k: usize) -> (Vec<i8>, Vec<f32>) {
    let mut integers = vec![0; values.len()];
    let scales = values
        .par_chunks(k.max(1))
        .zip(integers.par_chunks_mut(k.max(1)))
        .map(|(row, integers)| {
            let max = row.iter().fold(0.0, |max: f32, v| max.max(v.abs()));
            let inverse = if max > 0.0 { 127.0 / max } else { 0.0 };
            integers.iter_mut().zip(row).for_each(|(i, v)| *i = (v * inverse + ROUND).to_bits() as i8);
            max / 127.0
        })
        .collect();
    (integers, scales)
}

/// Packs the transpose of the rows `range` of `rows`, in bf16, `cell_halves` values per cell. Each
/// row, of `words` words, becomes a column.
#[inline(always)]
pub(crate) fn pack_transposed(
    rows: Joined<'_>,
    range: Range<usize>,
    words: usize,
    (nr, cell_halves): (usize, usize),
    dst: &mut [u16],
) {
    let n = range.len();
    // A cell of four values takes two words.
    let in_cell = if cell_halves == 4 { 2 } else { 1 };
    let panels = dst.chunks_exact_mut((words.div_ceil(in_cell) * nr * cell_halves).max(1));
    for (panel, first) in panels.zip((0..n).step_by(nr)) {
        let count = nr.min(n - first);
        if count < nr || !words.is_multiple_of(in_cell) {
            panel.fill(0);
        }
        for column in 0..count {
            let row = rows.words(range.start + first + column, words);
            let lines = panel.chunks_exact_mut(nr * cell_halves);
            if in_cell == 2 {
                for (line, words) in lines.zip(row.chunks(2)) {
                    for (halves_of, &word) in line[column * cell_halves..][..cell_halves].chunks_exact_mut(2).zip(words)
                    {
                        halves_of.copy_from_slice(&halves(word));
                    }
                }
                continue;
            }
            for (line, &word) in lines.zip(row) {
                line[column * cell_halves..][..cell_halves].copy_from_slice(&halves(word)[2 - cell_halves..]);
            }
        }
    }
}

/// Packs the rows `range` of `rows`, `n` values in bf16 each, without transposing them,
/// `cell_halves` values per cell.
#[inline(always)]
pub(crate) fn pack_rows(
    rows: Joined<'_>,
    range: Range<usize>,
    n: usize,
    (nr, cell_halves): (usize, usize),
    dst: &mut [u16],
) {
    let (cells, k_group) = (range.len().div_ceil(cell_halves), cell_halves.min(2));
    let panels = dst.chunks_exact_mut((cells * nr * cell_halves).max(1));
    for (panel, first) in panels.zip((0..n).step_by(nr)) {
        panel.fill(0);
        for (i, row) in range.clone().enumerate() {
            let row = rows.words(row, n.div_ceil(k_group));
            let line = &mut panel[i / cell_halves * nr * cell_halves..][..nr * cell_halves];
            if cell_halves == 1 {
                line.iter_mut().zip(&row[first..]).for_each(|(value, &word)| *value = halves(word)[1]);
                continue;
            }
            for (column, cell) in line.chunks_exact_mut(cell_halves).enumerate().take(n - first) {
                let value = first + column;
                cell[i % cell_halves] = halves(row[value / 2])[value % 2];
            }
        }
    }
}

/// The lower and the upper half of a word; a word of one value has it in the upper.
#[inline(always)]
fn halves(word: u32) -> [u16; 2] {
    [word as u16, (word >> 16) as u16]
}
