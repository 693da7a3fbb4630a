//! The loop nest of a matrix multiplication, C = act(A·B + bias), over the tiles of an instruction
//! set.
//!
//! Every element of C is the bias plus, for each block of KC values, one chain of additions in
//! order of k, whatever tile it falls into: results do not depend on the number of rows, the split
//! over threads or the place of a row. The blocks are those of Goto and van de Geijn 2008, "Anatomy
//! of High-Performance Matrix Multiplication": a panel of B stays in the second-level cache, beside
//! a block of A, while that block's rows pass by. A is read in place, not copied. Its
//! rows are spaced ([`row_stride`]) so that they do not fall into the same cache sets.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2};

use super::activation::{Activation, activate};
use super::lanes::Lanes;
use super::pack::{Joined, KC, Panels, pack_transposed};

/// Rows of A in a block: 72 rows of a KC-deep block are 288 KiB, more than half of a second-level
/// cache of 512 KiB. Between 48 and 96, which were alike within a noisy machine's noise (Zen 3, one
/// thread; 24 was slower); 72 itself was not timed.
const MC: usize = 72;

/// Maximum error against f64, as a multiple of Σ|aₖ·bₖ| + |bias|, for k up to 1300: chains of
/// additions, each rounded.
#[cfg(test)]
pub(crate) const MAX_ERROR: f64 = 1e-6;

/// Rows and columns of the largest tile.
pub(crate) const MAX_TILE: (usize, usize) = (12, 32);

/// The distance between rows, in values, at which a matrix of `columns` columns is stored.
///
/// At a power of two, the natural distance, all rows of a tile begin in the same cache sets and
/// push each other out. An odd multiple of 16 lines spreads them over the sets of either cache;
/// matrices of few columns take the next odd number of lines.
pub(crate) fn row_stride(columns: usize) -> usize {
    const LINE: usize = 16;
    match columns.div_ceil(LINE) {
        lines @ ..=16 => (lines | 1) * LINE,
        lines => (lines.div_ceil(16) | 1) * 16 * LINE,
    }
}

/// One matrix multiplication, or the columns of one that a thread computes.
pub(crate) struct Gemm<'a> {
    /// (rows × k)
    pub(crate) a: ArrayView2<'a, f32>,
    /// (k × n)
    pub(crate) b: Panels<'a>,
    /// The first panel of `b` that belongs to `c`.
    pub(crate) first_panel: usize,
    /// (rows × columns): the columns from `first_panel` on
    pub(crate) c: ArrayViewMut2<'a, f32>,
    /// One value per column of `c`, or empty.
    pub(crate) bias: &'a [f32],
    pub(crate) activation: Activation,
}

/// The place of a tile in A and C.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// Rows of A, up to `Tile::MR`.
    pub(crate) rows: (usize, usize),
    /// First column of A, which meets the panel's first row.
    pub(crate) k0: usize,
    /// First row and column of C.
    pub(crate) corner: (usize, usize),
}

/// The register tile of an instruction set.
pub(crate) trait Tile: Lanes {
    /// The largest number of rows of a tile.
    const MR: usize;
    /// Columns in a tile, the width of a panel.
    const NR: usize;

    /// C[r][j] ← start[r][j] + Σₖ A[r][k0 + k] · panel[k][j], the sum in order of k, for NR columns
    /// at `place`. It is added to `bias`, NR values, or to what is in C. Rows of A and C are
    /// contiguous. The tile prefetches `to_prefetch`, which will be read soon.
    fn tile(
        self,
        a: &ArrayView2<'_, f32>,
        panel: &[f32],
        c: &mut ArrayViewMut2<'_, f32>,
        place: Place,
        bias: Option<&[f32]>,
        to_prefetch: &[f32],
    );

    /// See [`pack_transposed`], of panels of NR columns.
    #[inline(always)]
    fn pack_transposed(self, rows: Joined<'_>, range: Range<usize>, k: usize, dst: &mut [f32]) {
        pack_transposed(rows, range, k, Self::NR, dst);
    }
}

/// Computes `p`.
#[inline(always)]
pub(crate) fn matmul<T: Tile>(t: T, p: Gemm<'_>) {
    let Gemm { a, b, first_panel, mut c, bias, activation } = p;
    let (rows, columns) = c.dim();
    assert!(a.nrows() == rows && a.ncols() == b.k && b.nr == T::NR, "shapes of a product");
    assert!(first_panel * T::NR + columns <= b.count() * T::NR, "columns of a product");
    assert!(bias.len() == columns || bias.is_empty(), "bias of a product");
    assert!(a.ncols() < 2 || a.strides()[1] == 1, "rows of A are contiguous");
    assert!(columns < 2 || c.strides()[1] == 1, "rows of C are contiguous");
    for k0 in (0..b.k).step_by(KC) {
        let last = k0 + KC >= b.k;
        for block in (0..rows).step_by(MC) {
            let height = MC.min(rows - block);
            // Tiles of nearly equal height: 16 rows are 5 + 5 + 6, which keeps more of the pipe
            // busy than 6 + 6 + 4.
            let tiles = height.div_ceil(T::MR);
            for column in (0..columns).step_by(T::NR) {
                let width = T::NR.min(columns - column);
                let panel = b.panel(k0, first_panel + column / T::NR);
                // Each tile prefetches a part of the panel that comes next, so that its first tile
                // need not wait for memory: behind the last one that of the next block, or of the
                // columns behind these, which are likely this thread's too.
                let number = first_panel + column / T::NR + 1;
                let next = match column + T::NR < columns {
                    true => b.panel(k0, number),
                    false if block + MC < rows => b.panel(k0, first_panel),
                    false if !last => b.panel(k0 + KC, first_panel),
                    false if number < b.count() => b.panel(0, number),
                    false => &[],
                };
                let mut start = [0.0; MAX_TILE.1];
                if !bias.is_empty() {
                    start[..width].copy_from_slice(&bias[column..column + width]);
                }
                let start = (k0 == 0).then_some(&start[..T::NR]);
                for i in 0..tiles {
                    let (row, end) = (block + height * i / tiles, block + height * (i + 1) / tiles);
                    let place = Place { rows: (row, end), k0, corner: (row, column) };
                    if width == T::NR {
                        let to_prefetch = &next[next.len() * i / tiles..next.len() * (i + 1) / tiles];
                        t.tile(&a, panel, &mut c, place, start, to_prefetch);
                    } else {
                        edge_tile(t, &a, panel, c.slice_mut(ndarray::s![row..end, column..]), place, start);
                    }
                    // GELU by a loop of its own: with a choice for each row it lost a tenth of its
                    // speed on AVX2.
                    match activation {
                        _ if !last => {}
                        Activation::None => {}
                        Activation::Gelu => {
                            for row in row..end {
                                activate(t, Activation::Gelu, part_of(&mut c, row, column, width));
                            }
                        }
                        other => {
                            for row in row..end {
                                activate(t, other, part_of(&mut c, row, column, width));
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `width` values of row `row` of C, whose rows are contiguous, from `column` on. (A slice of the
/// matrix would cost a call per tile.)
#[inline(always)]
pub(super) fn part_of<'a, T>(c: &'a mut ArrayViewMut2<'_, T>, row: usize, column: usize, width: usize) -> &'a mut [T] {
    let row = c.row_mut(row).into_slice().unwrap_or(&mut []);
    &mut row[column..column + width]
}

/// An edge tile, of the last panel, which has fewer columns than a tile. It is computed whole, in a
/// buffer.
#[inline(never)]
fn edge_tile<T: Tile>(
    t: T,
    a: &ArrayView2<'_, f32>,
    panel: &[f32],
    mut c: ArrayViewMut2<'_, f32>,
    place: Place,
    bias: Option<&[f32]>,
) {
    let mut buffer = [0.0; MAX_TILE.0 * MAX_TILE.1];
    let shape = (c.nrows(), T::NR);
    let mut whole =
        ArrayViewMut2::from_shape(shape, &mut buffer[..shape.0 * shape.1]).expect("a tile fits the largest");
    let columns = ndarray::s![.., ..c.ncols()];
    whole.slice_mut(columns).assign(&c);
    t.tile(a, panel, &mut whole, Place { corner: (0, 0), ..place }, bias, &[]);
    c.assign(&whole.slice(columns));
}
