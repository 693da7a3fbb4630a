//! Products of narrow numbers: bf16 by bf16 summed in f32, and 8-bit by 8-bit integers summed in i32.
//!
//! B is narrowed once, at load; a row of A when it is needed ([`Narrow::encode`]), by its own values alone, so that results do not
//! depend on the batch. A row of A is a list of words of 32 bits, a column of B a list of cells: the values that one step of a
//! tile multiplies and adds into the same sum. A cell has 16 bits (one bf16, two integers), 32 or 64. Mostly a word of A meets a
//! cell and is given to all columns at once; where an instruction multiplies pairs of rows by pairs of columns, two words meet
//! a cell of 64 bits, and the rows of a tile are laid side by side in pairs first ([`Dot::PAIRS`]).
//!
//! Integers: the values of A are first multiplied, column by column, with numbers that B was divided by, so that a column of large
//! values does not set the steps of all (SmoothQuant: Xiao et al. 2022, <https://arxiv.org/abs/2211.10438>). Then x ≈ scale · (q − zero) with q in 0..=255 and both numbers a row's own, so that a row after GELU, which has hardly a
//! negative value, does not waste half of the steps; weights are scale · w with w in −127..=127 and a scale an output. Then
//! Σ x·w = scale · scale_w · (Σ q·w − zero · Σ w): sums of integers are exact, whatever the order, and the same on every CPU.

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
pub(crate) use panels::{NarrowPanels, NarrowRows, PackedNarrow, int8_rows, pack_rows, pack_transposed};
#[cfg(target_arch = "aarch64")]
pub(crate) use rows::encode_int8_less;
pub(crate) use rows::{HEADER, Integers, Joined, Rows, encode_bf16, encode_int8, to_bf16, words_of_bf16};

/// Maximum error of a bf16 product against f64 on the rounded operands, as a multiple of Σ|aₖ·bₖ| + |bias|.
#[cfg(test)]
pub(crate) const MAX_ERROR_BF16: f64 = 2e-6;

/// Maximum error of an 8-bit value of A, as a multiple of the row's scale (its range / 255): half a step by its own rounding, half
/// a step by that of the zero.
#[cfg(test)]
pub(crate) const MAX_ERROR_INT8: f64 = 1.001;

/// How values are narrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The upper half of an f32, rounded to nearest.
    Bf16,
    /// 8-bit integers, with scales.
    Int8,
}

/// One instruction set's way with one format.
pub(crate) struct Narrow {
    pub(crate) format: Format,
    /// The instructions, for people.
    pub(crate) name: &'static str,
    /// Whether they are made for this format.
    pub(crate) native: bool,
    /// Columns in a panel.
    pub(crate) nr: usize,
    /// Values in a word of A.
    pub(crate) group: usize,
    /// Units of 16 bits in a cell of B.
    pub(crate) units: usize,
    /// What integers of A are stored less: 0, or 128 where they are signed.
    #[cfg_attr(not(test), allow(dead_code, reason = "says what `encode` does; tests hold it to that"))]
    pub(crate) zero: u32,
    /// Narrows a row, multiplied with as many factors (of which bf16 takes none), to a header and ⌈values / group⌉ words. What lies
    /// as many values ahead of the row as the last argument says is fetched meanwhile: the next row.
    pub(crate) encode: fn(&[f32], &[f32], &mut [u32], usize),
    /// C = act(A·B + bias).
    pub(crate) matmul: fn(NarrowProduct<'_, '_>),
}

/// Bytes of the rows of A that stay in the second-level cache while the panels of B pass by.
const A_BLOCK: usize = 256 << 10;

/// Rows of the tallest tile.
const MOST_ROWS: usize = 32;

/// A row of a panel, of zeros.
const NOTHING: [f32; MAX_TILE.1] = [0.0; MAX_TILE.1];

/// One product, or the columns of one that a thread owns.
pub(crate) struct NarrowProduct<'a, 'c> {
    /// As many rows as `c`, narrowed for the same table that `b` was.
    pub(crate) a: Rows<'a>,
    pub(crate) b: NarrowPanels<'a>,
    /// The first panel of `b` that belongs to `c`.
    pub(crate) first_panel: usize,
    /// The columns from `first_panel` on.
    pub(crate) c: Output<'c>,
    /// One a column of `c`, or none.
    pub(crate) bias: &'a [f32],
    pub(crate) activation: Activation,
}

/// A panel of B with what belongs to its columns, as many as a tile has, and what becomes of their sums.
#[derive(Clone, Copy)]
pub(crate) struct Panel<'a> {
    pub(crate) data: &'a [u16],
    /// Of integers.
    pub(crate) totals: &'a [i32],
    /// Of integers.
    pub(crate) scales: &'a [f32],
    pub(crate) bias: &'a [f32],
    pub(crate) activation: Activation,
}

/// The register tile of one instruction set for one format.
pub(crate) trait Dot: Copy {
    const FORMAT: Format;
    /// Most rows in a tile.
    const MR: usize;
    /// Columns in a tile, the width of a panel.
    const NR: usize;
    /// Units of 16 bits in a cell of B.
    const UNITS: usize;
    /// Values in a word of A.
    const GROUP: usize;
    /// Whether a tile reads its rows of A in pairs, as [`pack_pairs`] lays them.
    const PAIRS: bool = false;
    /// Whether all tiles of a block have the same height. Then the last may begin within the one before it, and what both
    /// have is computed twice.
    const SAME_HEIGHT: bool = false;

    /// C[i][j] ← activation(Σₖ A[r][k] · panel[k][j] + bias[j]) for the rows `rows` of A and NR columns of C, from its `corner` on; in
    /// order of k, integers less zero · total and scaled. Rows of C are contiguous. `ahead` will be read soon: a tile asks for it
    /// meanwhile. `pairs` are the rows in pairs, where they are read so.
    #[allow(clippy::too_many_arguments, reason = "one call, in the loop nest; a struct would be made for each tile")]
    fn tile(
        self,
        a: Rows<'_>,
        rows: (usize, usize),
        pairs: &[u32],
        panel: Panel<'_>,
        c: &mut ArrayViewMut2<'_, f32>,
        corner: (usize, usize),
        ahead: &[u16],
    );
    /// Tiles of up to `height` rows come next, on this thread.
    fn begin(self, _height: usize) {}
    /// No more tiles come.
    fn end(self) {}
    /// Writes a row in bf16, `group` values a word.
    fn words(self, row: &[f32], group: usize, words: &mut [u32]);
    /// `row` will be written soon: the cache may begin to fetch its lines.
    fn expect<T>(self, _row: &[T]) {}
    /// See [`pack_transposed`]; `UNITS` values in a cell.
    fn pack_transposed(self, rows: Joined<'_>, range: Range<usize>, words: usize, dst: &mut [u16]) {
        pack_transposed(rows, range, words, (Self::NR, Self::UNITS), dst);
    }
    /// See [`pack_rows`]; `UNITS` values in a cell.
    fn pack_rows(self, rows: Joined<'_>, range: Range<usize>, n: usize, dst: &mut [u16]) {
        pack_rows(rows, range, n, (Self::NR, Self::UNITS), dst);
    }
}

/// Computes `p`.
#[inline(always)]
pub(crate) fn matmul<D: Dot>(d: D, p: NarrowProduct<'_, '_>) {
    let NarrowProduct { a, b, first_panel, mut c, bias, activation } = p;
    let (rows, columns) = c.dim();
    assert!(b.nr == D::NR && b.units == D::UNITS, "packed for this table");
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
            let (totals, scales): (&[i32], &[f32]) = match D::FORMAT {
                Format::Bf16 => (&[], &[]),
                Format::Int8 => {
                    let padded = number * D::NR..(number + 1) * D::NR;
                    (&b.totals[padded.clone()], &b.scales[padded])
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
            let panel = Panel { data: b.panel(number), totals, scales, bias, activation };
            // What comes next: behind the last panel the first, for the next block, or that of the columns behind these, which are likely
            // this thread's too.
            let again = column + D::NR >= columns && block + height < rows;
            let next = if again { first_panel } else { number + 1 };
            let next = if next < b.count() { b.panel(next) } else { &[] };
            for i in 0..tiles {
                let (row, end) = tile_rows(i);
                let ahead = &next[next.len() * i / tiles..next.len() * (i + 1) / tiles];
                let pairs = &pairs[i * tile_pairs..][..tile_pairs];
                match &mut c {
                    Output::F32(c) if width == D::NR => {
                        d.tile(a, (row, end), pairs, panel, c, (row, column), ahead);
                    }
                    c => {
                        // C is larger than the second-level cache: its lines come while the sums are made, or every store would wait.
                        (row..end).for_each(|row| c.part(row, column, width).expect(d));
                        d.tile(a, (row, end), pairs, panel, &mut beside, (0, 0), ahead);
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

/// Lays the rows `rows` of A, of `words` words each, side by side in pairs: `[cell][pair][row in pair][two words]`, with
/// zeros behind the last word, and in place of a row that the last one lacks.
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
