//! The layout in which a product reads its second operand.
//!
//! A (k × n) matrix is cut into blocks of [`KC`] rows, each block into panels of `nr` columns, each panel stored row by row:
//! `[k block][panel][row in block][column in panel]`. A tile then reads one panel front to back, and a thread that owns a
//! range of panels reads one run of memory per block. The last panel is filled up with zero columns.

use ndarray::{ArrayView2, s};
use rayon::prelude::*;

use super::aligned::Aligned;

/// Rows in a block. A panel of 16 columns is then 64 KiB and streams from the second-level cache. Of 256, 384, 512, 1024 and 2048,
/// few passes each on a noisy machine (Zen 3, one thread), 1024 was mostly the fastest, by about a tenth over 256: C is read and
/// written once a block. A first choice, to be measured anew where it is quiet.
pub(crate) const KC: usize = 1024;

/// A matrix packed once, at load.
pub(crate) struct Packed {
    buffer: Aligned<f32>,
    k: usize,
    n: usize,
    nr: usize,
}

impl Packed {
    /// Packs the transposes of `weights` (nᵢ × k each, as checkpoints store a linear layer) side by side as one (k × Σnᵢ)
    /// matrix, on the current thread pool.
    pub(crate) fn from_weights(weights: &[ArrayView2<'_, f32>], nr: usize) -> Self {
        let k = weights.first().map_or(0, |w| w.ncols());
        let n = weights.iter().map(|w| w.nrows()).sum();
        let len = packed_len(k, n, nr);
        let mut buffer = Aligned::zeroed(len);
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
        Panels { data: &self.buffer, k: self.k, n: self.n, nr: self.nr }
    }
}

/// A packed matrix, borrowed.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    data: &'a [f32],
    pub(crate) k: usize,
    pub(crate) n: usize,
    pub(crate) nr: usize,
}

impl<'a> Panels<'a> {
    /// Views `data` as the panels of a (k × n) matrix that one of the `pack_` functions wrote there.
    pub(crate) fn new(data: &'a [f32], k: usize, n: usize, nr: usize) -> Self {
        Self { data: &data[..packed_len(k, n, nr)], k, n, nr }
    }

    /// Number of panels.
    pub(crate) fn count(&self) -> usize {
        self.n.div_ceil(self.nr)
    }

    /// Panel `panel` of the block that starts at row `k0`, a multiple of [`KC`]: (rows in the block) × nr values.
    #[inline(always)]
    pub(crate) fn panel(&self, k0: usize, panel: usize) -> &'a [f32] {
        let rows = KC.min(self.k - k0);
        let start = k0 * self.count() * self.nr + panel * rows * self.nr;
        &self.data[start..start + rows * self.nr]
    }
}

/// Values in the packed form of a (k × n) matrix.
pub(crate) fn packed_len(k: usize, n: usize, nr: usize) -> usize {
    k * n.div_ceil(nr) * nr
}

/// Packs the transpose of `rows` (n × k): each row becomes a column.
#[inline(always)]
pub(crate) fn pack_transposed(rows: ArrayView2<'_, f32>, nr: usize, dst: &mut [f32]) {
    let (n, k) = rows.dim();
    let panels = n.div_ceil(nr);
    for k0 in (0..k).step_by(KC) {
        let depth = KC.min(k - k0);
        let block = &mut dst[k0 * panels * nr..][..depth * panels * nr];
        for (panel, dst) in block.chunks_exact_mut(depth * nr).enumerate() {
            let n0 = panel * nr;
            if n < n0 + nr {
                dst.fill(0.0);
            }
            transpose_into(rows.slice(s![n0..n.min(n0 + nr), k0..k0 + depth]), dst, nr, 0);
        }
    }
}

/// Packs `matrix` (k × n) as it lies.
#[inline(always)]
pub(crate) fn pack_rows(matrix: ArrayView2<'_, f32>, nr: usize, dst: &mut [f32]) {
    let (k, n) = matrix.dim();
    let panels = n.div_ceil(nr);
    for k0 in (0..k).step_by(KC) {
        let depth = KC.min(k - k0);
        let block = &mut dst[k0 * panels * nr..][..depth * panels * nr];
        for (panel, dst) in block.chunks_exact_mut(depth * nr).enumerate() {
            let n0 = panel * nr;
            let part = matrix.slice(s![k0..k0 + depth, n0..n.min(n0 + nr)]);
            for (source, line) in part.rows().into_iter().zip(dst.chunks_exact_mut(nr)) {
                let (values, padding) = line.split_at_mut(source.len());
                match source.as_slice() {
                    Some(source) => values.copy_from_slice(source),
                    None => values.iter_mut().zip(source).for_each(|(d, &s)| *d = s),
                }
                padding.fill(0.0);
            }
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
