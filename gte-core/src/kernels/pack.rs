//! The layout in which a product reads its second operand.
//!
//! A (k × n) matrix is cut into blocks of [`KC`] rows, each block into panels of `nr` columns, each
//! panel stored row by row: `[k block][panel][row in block][column in panel]`. A tile then reads
//! one panel front to back, and a thread that owns a range of panels reads one run of memory per
//! block. The last panel is filled up with zero columns.

use std::ops::Range;

use ndarray::{ArrayView2, Axis, s};
use rayon::prelude::*;

use super::aligned::Aligned;
use super::arena::Arena;

/// Rows in a block. A panel of 16 columns is then 64 KiB and streams from the second-level cache.
/// Of 256, 384, 512, 1024 and 2048, few passes each on a noisy machine (Zen 3, one thread), 1024
/// was mostly the fastest, by about a tenth over 256, because C is read and written once per block.
/// This is a first choice, to be measured again on a quiet machine.
pub(crate) const KC: usize = 1024;

/// A matrix packed once, at load.
pub(crate) struct Packed {
    buffer: Aligned<f32>,
    k: usize,
    n: usize,
    nr: usize,
}

impl Packed {
    /// Packs the transposes of `weights` (nᵢ × k each, as checkpoints store a linear layer) side by
    /// side as one (k × Σnᵢ) matrix in `arena`, on the current thread pool.
    pub(crate) fn from_weights(weights: &[ArrayView2<'_, f32>], nr: usize, arena: &Arena) -> Self {
        let k = weights.first().map_or(0, |w| w.ncols());
        let n = weights.iter().map(|w| w.nrows()).sum();
        let len = packed_len(k, n, nr);
        let mut buffer = Aligned::zeroed_in(arena, len);
        let panels = n.div_ceil(nr);
        if len > 0 {
            buffer.par_chunks_mut(panels * nr * KC).enumerate().for_each(|(block, dst)| {
                let rows = KC.min(k - block * KC);
                dst.par_chunks_mut(rows * nr).enumerate().for_each(|(panel, dst)| {
                    let mut first = 0;
                    for weight in weights {
                        // The columns that this panel and this weight have in common.
                        let (from, to) = ((panel * nr).max(first), ((panel + 1) * nr).min(first + weight.nrows()));
                        if from < to {
                            let part = weight.slice(s![from - first..to - first, block * KC..block * KC + rows]);
                            transpose_into(part, dst, nr, from - panel * nr);
                        }
                        first += weight.nrows();
                    }
                });
            });
        }
        Self { buffer, k, n, nr }
    }

    /// The panels, for a product.
    pub(crate) fn panels(&self) -> Panels<'_> {
        Panels::new(&self.buffer, self.k, self.n, self.nr)
    }
}

/// A packed matrix, borrowed.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    data: &'a [f32],
    pub(crate) k: usize,
    pub(crate) n: usize,
    pub(crate) nr: usize,
    rows: usize, // that a panel is stored with, where there is one block
}

impl<'a> Panels<'a> {
    /// Views `data` as the panels of a (k × n) matrix that one of the `pack_` functions wrote
    /// there.
    pub(crate) fn new(data: &'a [f32], k: usize, n: usize, nr: usize) -> Self {
        Self { data: &data[..packed_len(k, n, nr)], k, n, nr, rows: k }
    }

    /// Some rows of a matrix that is one block.
    pub(crate) fn rows(&self, rows: Range<usize>) -> Self {
        assert!(self.rows <= KC && rows.end <= self.k, "rows of one block");
        Self { data: &self.data[rows.start * self.nr..], k: rows.len(), ..*self }
    }

    /// Number of panels.
    pub(crate) fn count(&self) -> usize {
        self.n.div_ceil(self.nr)
    }

    /// Panel `panel` of the block that starts at row `k0`, a multiple of [`KC`]: (rows in the
    /// block) × nr values.
    #[inline(always)]
    pub(crate) fn panel(&self, k0: usize, panel: usize) -> &'a [f32] {
        let rows = KC.min(self.k - k0);
        let stored = if self.rows <= KC { self.rows } else { rows };
        let start = k0 * self.count() * self.nr + panel * stored * self.nr;
        &self.data[start..start + rows * self.nr]
    }
}

/// Values in the packed form of a (k × n) matrix.
pub(crate) fn packed_len(k: usize, n: usize, nr: usize) -> usize {
    k * n.div_ceil(nr) * nr
}

/// Rows of a matrix that lies in two pieces, counted through.
#[derive(Clone, Copy)]
pub(crate) struct Joined<'a> {
    pub(crate) first: Option<ArrayView2<'a, f32>>,
    pub(crate) rest: ArrayView2<'a, f32>,
}

impl<'a> Joined<'a> {
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> &'a [f32] {
        let (piece, row) = match self.first {
            Some(first) if row < first.nrows() => (first, row),
            Some(first) => (self.rest, row - first.nrows()),
            None => (self.rest, row),
        };
        let row = piece.index_axis_move(Axis(0), row);
        row.to_slice().expect("rows of keys and values are contiguous")
    }
}

/// Packs the transpose of the rows `range` of `rows`, of `k` values: each row becomes a column.
#[inline(always)]
pub(crate) fn pack_transposed(rows: Joined<'_>, range: Range<usize>, k: usize, nr: usize, dst: &mut [f32]) {
    let n = range.len();
    let panels = n.div_ceil(nr);
    for k0 in (0..k).step_by(KC) {
        let depth = KC.min(k - k0);
        let block = &mut dst[k0 * panels * nr..][..depth * panels * nr];
        for (panel, dst) in block.chunks_exact_mut(depth * nr).enumerate() {
            let columns = nr.min(n - panel * nr);
            if columns < nr {
                dst.fill(0.0);
            }
            for column in 0..columns {
                let row = &rows.row(range.start + panel * nr + column)[k0..k0 + depth];
                dst.chunks_exact_mut(nr).zip(row).for_each(|(line, &value)| line[column] = value);
            }
        }
    }
}

/// Packs the rows `range` of `rows`, of `n` values, as they lie: one block, of up to [`KC`] rows.
#[inline(always)]
pub(crate) fn pack_rows(rows: Joined<'_>, range: Range<usize>, n: usize, nr: usize, dst: &mut [f32]) {
    let k = range.len();
    assert!(k <= KC, "rows of one block");
    for (i, row) in range.enumerate() {
        let row = &rows.row(row)[..n];
        // (A slice of a length that the compiler knows is copied in place, any other by a call.)
        let whole = row.chunks_exact(nr);
        let rest = whole.remainder();
        for (panel, values) in whole.enumerate() {
            dst[panel * k * nr + i * nr..][..nr].copy_from_slice(values);
        }
        if !rest.is_empty() {
            let line = &mut dst[n / nr * k * nr + i * nr..][..nr];
            line[..rest.len()].copy_from_slice(rest);
            line[rest.len()..].fill(0.0);
        }
    }
}

/// Writes row i of `source` (columns × depth) to column `first` + i of `dst` (depth × nr).
#[inline(always)]
fn transpose_into(source: ArrayView2<'_, f32>, dst: &mut [f32], nr: usize, first: usize) {
    for (i, row) in source.rows().into_iter().enumerate() {
        let lines = dst.chunks_exact_mut(nr);
        match row.to_slice() {
            Some(row) => lines.zip(row).for_each(|(line, &value)| line[first + i] = value),
            None => lines.zip(row).for_each(|(line, &value)| line[first + i] = value),
        }
    }
}
