//! Matrix multiplication in low precision: bf16 by bf16 summed in f32, and 8-bit by 8-bit integers
//! summed in i32.
//!
//! B is converted once, at load. A row of A is converted when it is needed
//! ([`LowPrecision::encode`]), from its own values alone, so that results do not depend on the
//! batch. A row of A is a list of words of 32 bits and a column of B is a list of cells. A cell has
//! the values that one step of a tile multiplies and adds to the same sum, in 16 bits (one bf16 or
//! two integers), 32 or 64. Most instructions multiply one word of A by a cell of every column. An
//! instruction that multiplies pairs of rows by pairs of columns takes two words for a cell of 64
//! bits, and reads the rows of a tile interleaved in pairs ([`Microkernel::PAIRS`]).
//!
//! Integers: each column of A is first multiplied by its smoothing factor, by which B was divided,
//! so that a column of large values does not widen the steps of all columns (SmoothQuant: Xiao et
//! al. 2022, <https://arxiv.org/abs/2211.10438>). Then x ≈ scale · (q − zero) with q in 0..=255,
//! and scale and zero per row. So a row after GELU, which has hardly any negative values, does not
//! waste half of the steps. Weights are scale · w with w in −127..=127 and one scale per output.
//! Then Σ x·w = scale · scale_w · (Σ q·w − zero · Σ w). Sums of integers are exact in every order,
//! and the same on every CPU.

mod output;
mod panels;
mod rows;
pub(crate) mod scalar;

use std::cell::Cell;
use std::ops::Range;

use ndarray::ArrayViewMut2;

use super::activation::Activation;
use super::matmul::{MAX_TILE, part_of};

pub(crate) use output::Output;
pub(crate) use panels::{
    LowPrecisionPanels, LowPrecisionWeights, PackedLowPrecision, int8_rows, pack_rows, pack_transposed,
};
#[cfg(target_arch = "aarch64")]
pub(crate) use rows::encode_int8_less;
pub(crate) use rows::{HEADER, Integers, Joined, Rows, encode_bf16, encode_int8, to_bf16, words_of_bf16};

/// Maximum error of a matrix multiplication in bf16 against f64 on the rounded operands, as a
/// multiple of Σ|aₖ·bₖ| +
/// |bias|.
#[cfg(test)]
pub(crate) const MAX_ERROR_BF16: f64 = 2e-6;

/// Maximum error of an 8-bit value of A, as a multiple of the row's scale (its range / 255): half a
/// step from its own rounding, half a step from that of the zero.
#[cfg(test)]
pub(crate) const MAX_ERROR_INT8: f64 = 1.001;

/// The number format of operands in low precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberFormat {
    /// The upper half of an f32, rounded to nearest.
    Bf16,
    /// 8-bit integers, with scales.
    Int8,
}

/// The kernels of one instruction set for one number format.
pub(crate) struct LowPrecision {
    pub(crate) format: NumberFormat,
    /// The name of the instructions, for messages.
    pub(crate) name: &'static str,
    /// Whether they were made for this format.
    pub(crate) native: bool,
    /// Columns in a panel.
    pub(crate) nr: usize,
    /// Values in a word of A.
    pub(crate) k_group: usize,
    /// Halves of 32-bit words in a cell of B.
    pub(crate) cell_halves: usize,
    /// What is subtracted from integers of A: 0, or 128 if the instruction reads them as signed.
    #[cfg_attr(not(test), allow(dead_code, reason = "says what `encode` does; tests hold it to that"))]
    pub(crate) zero: u32,
    /// Converts a row, multiplied by its smoothing factors (bf16 has none), to a header and
    /// ⌈values / k_group⌉ words. Meanwhile prefetches what lies behind the row at the distance of
    /// the last argument, in values: the next row.
    pub(crate) encode: fn(&[f32], &[f32], &mut [u32], usize),
    /// C = act(A·B + bias).
    pub(crate) matmul: fn(LowPrecisionGemm<'_, '_>),
}

/// Bytes of the rows of A that stay in the second-level cache while the panels of B pass by.
const A_BLOCK: usize = 256 << 10;

/// Rows of the tallest tile.
const MOST_ROWS: usize = 32;

/// One line of zeros, as wide as a panel can be.
const NOTHING: [f32; MAX_TILE.1] = [0.0; MAX_TILE.1];

/// One matrix multiplication, or the columns of one that a thread computes.
pub(crate) struct LowPrecisionGemm<'a, 'c> {
    /// As many rows as `c`, encoded by the same table for which `b` was packed.
    pub(crate) a: Rows<'a>,
    pub(crate) b: LowPrecisionPanels<'a>,
    /// The first panel of `b` that belongs to `c`.
    pub(crate) first_panel: usize,
    /// The columns that begin with `first_panel`.
    pub(crate) c: Output<'c>,
    /// One value per column of `c`, or empty.
    pub(crate) bias: &'a [f32],
    pub(crate) activation: Activation,
}

/// A panel of B, what belongs to its columns (as many as a tile has), and what is done with their
/// sums.
#[derive(Clone, Copy)]
pub(crate) struct Panel<'a> {
    pub(crate) data: &'a [u16],
    /// Only for integers.
    pub(crate) column_sums: &'a [i32],
    /// Only for integers.
    pub(crate) scales: &'a [f32],
    pub(crate) bias: &'a [f32],
    pub(crate) activation: Activation,
}

/// The register tile of one instruction set for one format.
pub(crate) trait Microkernel: Copy {
    const FORMAT: NumberFormat;
    /// The largest number of rows of a tile.
    const MR: usize;
    /// Columns in a tile, the width of a panel.
    const NR: usize;
    /// Halves of 32-bit words in a cell of B.
    const CELL_HALVES: usize;
    /// Values in a word of A.
    const K_GROUP: usize;
    /// Whether a tile reads its rows of A in pairs, in the layout of [`pack_pairs`].
    const PAIRS: bool = false;
    /// Whether all tiles of a block have the same height. Then the last may overlap the one before
    /// it, and the rows in both are computed twice.
    const SAME_HEIGHT: bool = false;

    /// C[i][j] ← activation(Σₖ A[r][k] · panel[k][j] + bias[j]) for the rows `rows` of A and NR
    /// columns of C, which begin at `corner`. The sum is in order of k; sums of integers are
    /// reduced by zero · column sum and scaled. Rows of C are contiguous. The tile prefetches
    /// `to_prefetch`, which will be read soon. `pairs` has the rows in pairs, if the tile reads
    /// them so.
    #[allow(clippy::too_many_arguments, reason = "one call, in the loop nest; a struct would be made for each tile")]
    fn tile(
        self,
        a: Rows<'_>,
        rows: (usize, usize),
        pairs: &[u32],
        panel: Panel<'_>,
        c: &mut ArrayViewMut2<'_, f32>,
        corner: (usize, usize),
        to_prefetch: &[u16],
    );
    /// Tiles of up to `height` rows come next, on this thread.
    fn begin(self, _height: usize) {}
    /// No more tiles come.
    fn end(self) {}
    /// Writes a row in bf16, `k_group` values per word.
    fn words(self, row: &[f32], k_group: usize, words: &mut [u32]);
    /// `row` will be written soon: the cache may begin to fetch its lines.
    fn prefetch_row<T>(self, _row: &[T]) {}
    /// See [`pack_transposed`]; `CELL_HALVES` values in a cell.
    fn pack_transposed(self, rows: Joined<'_>, range: Range<usize>, words: usize, dst: &mut [u16]) {
        pack_transposed(rows, range, words, (Self::NR, Self::CELL_HALVES), dst);
    }
    /// See [`pack_rows`]; `CELL_HALVES` values in a cell.
    fn pack_rows(self, rows: Joined<'_>, range: Range<usize>, n: usize, dst: &mut [u16]) {
        pack_rows(rows, range, n, (Self::NR, Self::CELL_HALVES), dst);
    }
}

/// Computes `p`.
#[inline(always)]
pub(crate) fn matmul<D: Microkernel>(d: D, p: LowPrecisionGemm<'_, '_>) {
    let LowPrecisionGemm { a, b, first_panel, mut c, bias, activation } = p;
    let (rows, columns) = c.dim();
    assert!(b.nr == D::NR && b.cell_halves == D::CELL_HALVES, "packed for this table");
    assert!(
        first_panel * D::NR + columns <= b.count() * D::NR && (bias.len() == columns || bias.is_empty()),
        "columns of a product"
    );
    assert!(c.is_in_rows(), "rows of C are contiguous");
    // For tiles that do not go to C as they are.
    let mut buffer = [0.0; MOST_ROWS * MAX_TILE.1];
    let shape = (D::MR, D::NR);
    let mut beside = ArrayViewMut2::from_shape(shape, &mut buffer[..D::MR * D::NR]).expect("as long as its shape");
    let height = (A_BLOCK / (b.a_words.max(1) * size_of::<u32>()) / D::MR).max(1) * D::MR;
    let mut pairs = if D::PAIRS { PAIRS.take() } else { Vec::new() };
    // Words of the pairs of a tile.
    let tile_pairs = if D::PAIRS { D::MR.div_ceil(2) * b.cells * 4 } else { 0 };
    for block in (0..rows).step_by(height) {
        let height = height.min(rows - block);
        let tiles = height.div_ceil(D::MR);
        let tallest = height.div_ceil(tiles);
        // Tiles of the same height, or of nearly the same.
        let tile_rows = |i: usize| {
            if D::SAME_HEIGHT {
                let row = block + (tallest * i).min(height - tallest);
                (row, row + tallest)
            } else {
                (block + height * i / tiles, block + height * (i + 1) / tiles)
            }
        };
        d.begin(tallest);
        if D::PAIRS {
            pairs.resize(pairs.len().max(tiles * tile_pairs), 0);
            for i in 0..tiles {
                let (row, end) = tile_rows(i);
                pack_pairs(a, row..end, b.a_words, b.cells, &mut pairs[i * tile_pairs..][..tile_pairs]);
            }
        }
        for column in (0..columns).step_by(D::NR) {
            let width = D::NR.min(columns - column);
            let number = first_panel + column / D::NR;
            let (column_sums, scales): (&[i32], &[f32]) = match D::FORMAT {
                NumberFormat::Bf16 => (&[], &[]),
                NumberFormat::Int8 => {
                    let padded = number * D::NR..(number + 1) * D::NR;
                    (&b.column_sums[padded.clone()], &b.scales[padded])
                }
            };
            let mut padded = NOTHING;
            let bias = match bias.get(column..column + width) {
                Some(bias) if width == D::NR => bias,
                Some(bias) => {
                    padded[..width].copy_from_slice(bias);
                    &padded[..D::NR]
                }
                None => &NOTHING[..D::NR],
            };
            let panel = Panel { data: b.panel(number), column_sums, scales, bias, activation };
            // What comes next: behind the last panel the first, for the next block, or that of the
            // columns behind these, which are likely this thread's too.
            let again = column + D::NR >= columns && block + height < rows;
            let next = if again { first_panel } else { number + 1 };
            let next = if next < b.count() { b.panel(next) } else { &[] };
            for i in 0..tiles {
                let (row, end) = tile_rows(i);
                let to_prefetch = &next[next.len() * i / tiles..next.len() * (i + 1) / tiles];
                let pairs = &pairs[i * tile_pairs..][..tile_pairs];
                match &mut c {
                    Output::F32(c) if width == D::NR => {
                        d.tile(a, (row, end), pairs, panel, c, (row, column), to_prefetch);
                    }
                    c => {
                        // C is larger than the second-level cache: its lines come while the sums
                        // are made, or every store would wait.
                        (row..end).for_each(|row| c.part(row, column, width).prefetch(d));
                        d.tile(a, (row, end), pairs, panel, &mut beside, (0, 0), to_prefetch);
                        for i in 0..end - row {
                            c.part(row + i, column, width).write(d, part_of(&mut beside, i, 0, width));
                        }
                    }
                }
            }
        }
    }
    d.end();
    if D::PAIRS {
        PAIRS.set(pairs);
    }
}

thread_local! {
    /// For the rows of a block in pairs: kept, so that a product allocates nothing.
    static PAIRS: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
}

/// Lays the rows `rows` of A, of `words` words each, side by side in pairs: `[cell][pair][row in
/// pair][two words]`, with zeros behind the last word, and in place of a row that the last one
/// lacks.
#[inline(always)]
fn pack_pairs(a: Rows<'_>, rows: Range<usize>, words: usize, cells: usize, dst: &mut [u32]) {
    let pairs = rows.len().div_ceil(2);
    for (i, row) in rows.clone().enumerate() {
        let (whole, rest) = a.words(row, words).as_chunks::<2>();
        let place = |cell: usize| (cell * pairs + i / 2) * 4 + i % 2 * 2;
        for (cell, words) in whole.iter().enumerate() {
            dst[place(cell)..][..2].copy_from_slice(words);
        }
        for cell in whole.len()..cells {
            dst[place(cell)..][..2].copy_from_slice(&[rest.first().copied().unwrap_or(0), 0]);
        }
    }
    if rows.len() % 2 == 1 {
        for cell in 0..cells {
            dst[(cell * pairs + pairs - 1) * 4 + 2..][..2].fill(0);
        }
    }
}
