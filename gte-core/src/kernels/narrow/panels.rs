//! B: weights narrowed and packed at load; keys and values of attention, packed as they come.

use std::ops::Range;

use rayon::prelude::*;

use super::{Format, Joined, Narrow};
use crate::kernels::aligned::Aligned;
use crate::kernels::lanes::ROUND;

/// A linear layer's weights, narrowed, as a checkpoint stores them: (outputs × inputs).
pub(crate) enum NarrowRows {
    /// Bits of bf16.
    Bf16(Vec<u16>),
    /// Integers in −127..=127, and a scale a row.
    Int8(Vec<i8>, Vec<f32>),
}

/// A (k × n) matrix packed once, at load: `[panel][cell][column in panel]`. The last panel is filled up with zero columns.
pub(crate) struct PackedNarrow {
    buffer: Aligned<u16>,
    cells: usize, // in a column
    words: usize, // in a row of A
    pub(crate) n: usize,
    nr: usize,
    units: usize,
    scales: Vec<f32>, // a column, padded
    totals: Vec<i32>, // Σ of the integers of a column, padded
}

impl PackedNarrow {
    /// Packs the transposes of `weights` (nᵢ × k each) side by side as one (k × Σnᵢ) matrix, on the current thread pool.
    pub(crate) fn from_weights(weights: &[NarrowRows], k: usize, narrow: &Narrow) -> Self {
        let (nr, units) = (narrow.nr, narrow.units);
        let rows: Vec<Row<'_>> = weights.iter().flat_map(|part| part.rows(k)).collect();
        let in_unit = match narrow.format {
            Format::Bf16 => 1,
            Format::Int8 => 2,
        };
        let (n, cells, words) = (rows.len(), k.div_ceil(in_unit * units), k.div_ceil(narrow.group));
        let panels = n.div_ceil(nr);
        let mut buffer = Aligned::zeroed(panels * cells * nr * units);
        if cells > 0 {
            let panel_len = cells * nr * units;
            buffer.par_chunks_mut(panel_len).zip(rows.par_chunks(nr)).for_each(|(panel, rows)| {
                for (column, row) in rows.iter().enumerate() {
                    row.write(panel, column, nr, units);
                }
            });
        }
        let mut scales: Vec<f32> = rows.iter().map(Row::scale).collect();
        let mut totals: Vec<i32> = rows.par_iter().map(Row::total).collect();
        scales.resize(panels * nr, 0.0);
        totals.resize(panels * nr, 0);
        Self { buffer, cells, words, n, nr, units, scales, totals }
    }

    /// The panels, for a product.
    pub(crate) fn panels(&self) -> NarrowPanels<'_> {
        let Self { cells, words, n, nr, units, .. } = *self;
        let (scales, totals) = (&self.scales[..], &self.totals[..]);
        NarrowPanels { scales, totals, ..NarrowPanels::of_bf16(&self.buffer, (cells, words), n, nr, units) }
    }
}

/// A packed matrix, borrowed.
#[derive(Clone, Copy)]
pub(crate) struct NarrowPanels<'a> {
    pub(crate) data: &'a [u16],
    /// In a column.
    pub(crate) cells: usize,
    /// Words in a row of A that meets it.
    pub(crate) a_words: usize,
    pub(crate) n: usize,
    pub(crate) nr: usize,
    pub(crate) units: usize,
    stored: usize, // cells that a column of a panel is stored with
    /// One a column, padded, for integers.
    pub(crate) scales: &'a [f32],
    /// One a column, padded, for integers.
    pub(crate) totals: &'a [i32],
}

impl<'a> NarrowPanels<'a> {
    /// A matrix in bf16 that one of the `pack_` functions wrote to `data`: columns of as many cells, for rows of as many words.
    #[inline(always)]
    pub(crate) fn of_bf16(
        data: &'a [u16],
        (cells, a_words): (usize, usize),
        n: usize,
        nr: usize,
        units: usize,
    ) -> Self {
        Self { data, cells, a_words, n, nr, units, stored: cells, scales: &[], totals: &[] }
    }

    /// Some cells of each column, for rows of `a_words` words.
    #[inline(always)]
    pub(crate) fn part(&self, cells: Range<usize>, a_words: usize) -> Self {
        assert!(cells.end <= self.cells, "cells of a column");
        let data = &self.data[cells.start * self.nr * self.units..];
        Self { data, cells: cells.len(), a_words, ..*self }
    }

    /// Number of panels.
    pub(crate) fn count(&self) -> usize {
        self.n.div_ceil(self.nr)
    }

    pub(super) fn panel(&self, panel: usize) -> &'a [u16] {
        let line = self.nr * self.units;
        &self.data[panel * self.stored * line..][..self.cells * line]
    }
}

/// One output's weights.
enum Row<'a> {
    Bf16(&'a [u16]),
    Int8(&'a [i8], f32),
}

impl NarrowRows {
    fn rows(&self, k: usize) -> Vec<Row<'_>> {
        match self {
            Self::Bf16(values) => values.chunks_exact(k).map(Row::Bf16).collect(),
            Self::Int8(values, scales) => values.chunks_exact(k).zip(scales).map(|(v, &s)| Row::Int8(v, s)).collect(),
        }
    }
}

impl Row<'_> {
    /// Writes the row as column `column` of a panel that holds zeros.
    fn write(&self, panel: &mut [u16], column: usize, nr: usize, units: usize) {
        let words = panel.chunks_exact_mut(nr * units).map(|line| &mut line[column * units..][..units]);
        match self {
            Self::Bf16(row) => {
                for (word, values) in words.zip(row.chunks(units)) {
                    word[..values.len()].copy_from_slice(values);
                }
            }
            Self::Int8(row, _) => {
                for (word, values) in words.zip(row.chunks(2 * units)) {
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

/// Narrows the rows of a weight (n × k) to integers, each by its own largest value.
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

/// Packs the transpose of the rows `range` of `rows`, in bf16, `units` values in a cell: each row, of
/// `words` words, becomes a column.
#[inline(always)]
pub(crate) fn pack_transposed(
    rows: Joined<'_>,
    range: Range<usize>,
    words: usize,
    (nr, units): (usize, usize),
    dst: &mut [u16],
) {
    let n = range.len();
    // Two words meet a cell of four values.
    let in_cell = if units == 4 { 2 } else { 1 };
    let panels = dst.chunks_exact_mut((words.div_ceil(in_cell) * nr * units).max(1));
    for (panel, first) in panels.zip((0..n).step_by(nr)) {
        let count = nr.min(n - first);
        if count < nr || !words.is_multiple_of(in_cell) {
            panel.fill(0);
        }
        for column in 0..count {
            let row = rows.words(range.start + first + column, words);
            let lines = panel.chunks_exact_mut(nr * units);
            if in_cell == 2 {
                for (line, words) in lines.zip(row.chunks(2)) {
                    for (halves_of, &word) in line[column * units..][..units].chunks_exact_mut(2).zip(words) {
                        halves_of.copy_from_slice(&halves(word));
                    }
                }
                continue;
            }
            for (line, &word) in lines.zip(row) {
                line[column * units..][..units].copy_from_slice(&halves(word)[2 - units..]);
            }
        }
    }
}

/// Packs the rows `range` of `rows`, in bf16, of `n` values, as they lie, `units` of them in a cell.
#[inline(always)]
pub(crate) fn pack_rows(rows: Joined<'_>, range: Range<usize>, n: usize, (nr, units): (usize, usize), dst: &mut [u16]) {
    let (cells, group) = (range.len().div_ceil(units), units.min(2));
    let panels = dst.chunks_exact_mut((cells * nr * units).max(1));
    for (panel, first) in panels.zip((0..n).step_by(nr)) {
        panel.fill(0);
        for (i, row) in range.clone().enumerate() {
            let row = rows.words(row, n.div_ceil(group));
            let line = &mut panel[i / units * nr * units..][..nr * units];
            if units == 1 {
                line.iter_mut().zip(&row[first..]).for_each(|(value, &word)| *value = halves(word)[1]);
                continue;
            }
            for (column, cell) in line.chunks_exact_mut(units).enumerate().take(n - first) {
                let value = first + column;
                cell[i % units] = halves(row[value / 2])[value % 2];
            }
        }
    }
}

/// The lower and the upper half of a word; a word of one value has it in the upper.
#[inline(always)]
fn halves(word: u32) -> [u16; 2] {
    [word as u16, (word >> 16) as u16]
}
