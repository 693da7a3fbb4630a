//! Products of narrow numbers: bf16 by bf16 summed in f32, and 8-bit by 8-bit integers summed in i32.
//!
//! B is narrowed once, at load; a row of A when it is needed ([`Narrow::encode`]), by its own values alone, so that results do not
//! depend on the batch. Either way a row is a list of words: the values that one step of a tile multiplies and adds into the same
//! sum. A word of A has 32 bits and is given to all columns at once; a word of B has 16 bits (one bf16, two integers) or 32.
//!
//! Integers: the values of A are first multiplied, column by column, with numbers that B was divided by, so that a column of large
//! values does not set the steps of all (SmoothQuant: Xiao et al. 2022, <https://arxiv.org/abs/2211.10438>). Then x ≈ scale · (q − zero) with q in 0..=255 and both numbers a row's own, so that a row after GELU, which has hardly a
//! negative value, does not waste half of the steps; weights are scale · w with w in −127..=127 and a scale an output. Then
//! Σ x·w = scale · scale_w · (Σ q·w − zero · Σ w): sums of integers are exact, whatever the order, and the same on every CPU.

use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::aligned::Aligned;
use super::lanes::{Lanes, MAX_WIDTH, ROUND};
use super::matmul::{Activation, MAX_TILE, part_of};

/// Maximum error of a bf16 product against f64 on the rounded operands, as a multiple of Σ|aₖ·bₖ| + |bias|.
#[cfg(test)]
pub(crate) const MAX_ERROR_BF16: f64 = 2e-6;

/// Maximum error of an 8-bit value of A, as a multiple of the row's scale (its range / 255): half a step by its own rounding, half
/// a step by that of the zero.
#[cfg(test)]
pub(crate) const MAX_ERROR_INT8: f64 = 1.001;

/// Bytes of the rows of A that stay in the second-level cache while the panels of B pass by.
const A_BLOCK: usize = 256 << 10;

/// Words before a row's values: its scale and its zero.
pub(crate) const HEADER: usize = 2;

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
    /// Values in a word.
    pub(crate) group: usize,
    /// Units of 16 bits in a word of B.
    pub(crate) units: usize,
    /// Narrows a row, multiplied with as many factors, to [`Narrow::row_words`] words. (bf16 takes no factors.)
    pub(crate) encode: fn(&[f32], &[f32], &mut [u32]),
    /// C = act(A·B + bias).
    pub(crate) matmul: fn(NarrowProduct<'_>),
}

impl Narrow {
    /// Words of a row of `k` values.
    pub(crate) fn row_words(&self, k: usize) -> usize {
        HEADER + k.div_ceil(self.group)
    }
}

/// A linear layer's weights, narrowed, as a checkpoint stores them: (outputs × inputs).
pub(crate) enum NarrowRows {
    /// Bits of bf16.
    Bf16(Vec<u16>),
    /// Integers in −127..=127, and a scale a row.
    Int8(Vec<i8>, Vec<f32>),
}

/// A (k × n) matrix packed once, at load: `[panel][word][column in panel]`. The last panel is filled up with zero columns.
pub(crate) struct PackedNarrow {
    buffer: Aligned<u16>,
    words: usize, // in a column
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
        let (n, words) = (rows.len(), k.div_ceil(narrow.group));
        let panels = n.div_ceil(nr);
        let mut buffer = Aligned::zeroed(panels * words * nr * units);
        if words > 0 {
            let panel_len = words * nr * units;
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
        Self { buffer, words, n, nr, units, scales, totals }
    }

    /// The panels, for a product.
    pub(crate) fn panels(&self) -> NarrowPanels<'_> {
        let Self { words, n, nr, units, .. } = *self;
        NarrowPanels { data: &self.buffer, words, n, nr, units, scales: &self.scales, totals: &self.totals }
    }
}

/// A packed matrix, borrowed.
#[derive(Clone, Copy)]
pub(crate) struct NarrowPanels<'a> {
    pub(crate) data: &'a [u16],
    /// In a column.
    pub(crate) words: usize,
    pub(crate) n: usize,
    pub(crate) nr: usize,
    pub(crate) units: usize,
    /// One a column, padded, for integers.
    pub(crate) scales: &'a [f32],
    /// One a column, padded, for integers.
    pub(crate) totals: &'a [i32],
}

impl<'a> NarrowPanels<'a> {
    /// Number of panels.
    pub(crate) fn count(&self) -> usize {
        self.n.div_ceil(self.nr)
    }

    fn panel(&self, panel: usize) -> &'a [u16] {
        let len = self.words * self.nr * self.units;
        &self.data[panel * len..][..len]
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

/// The bits of `x` rounded to bf16, in the upper half (IEEE 754 round to nearest, ties to even; not for NaN).
#[inline(always)]
pub(crate) fn to_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000
}

/// Narrows a row to bf16, `GROUP` values a word: one as the f32 that it is, or two. (The lanes are the compiler's to choose.)
#[inline(always)]
pub(crate) fn encode_bf16<L: Lanes, const GROUP: usize>(_: L, row: &[f32], _factors: &[f32], out: &mut [u32]) {
    let (header, words) = out.split_at_mut(HEADER);
    header.copy_from_slice(&[1f32.to_bits(), 0]);
    for (word, values) in words.iter_mut().zip(row.chunks(GROUP)) {
        *word = match *values {
            [x] if GROUP == 1 => to_bf16(x),
            [x] => to_bf16(x) >> 16,
            [x, y, ..] => to_bf16(x) >> 16 | to_bf16(y),
            [] => 0,
        };
    }
}

/// Vectors whose lanes can be written as integers.
pub(crate) trait Integers: Lanes {
    /// Writes the nearest integers, ties to even, 0 for those below and 255 for those above, as `WIDTH` / `GROUP` words: two of 16 bits in
    /// each, or four of 8.
    fn store_integers<const GROUP: usize>(self, words: &mut [u32], a: Self::V);
}

/// Narrows a row to integers, `GROUP` values a word: two of 16 bits, or four of 8.
#[inline(always)]
pub(crate) fn encode_int8<L: Integers, const GROUP: usize>(l: L, row: &[f32], factors: &[f32], out: &mut [u32]) {
    let whole = row.len() / L::WIDTH * L::WIDTH;
    let (row, last) = row.split_at(whole);
    let (factors, last_factors) = factors.split_at(whole);
    let last = l.mul(l.load_up_to(last, 0.0), l.load_up_to(last_factors, 0.0));
    let (mut low, mut high) = (l.min(last, l.splat(0.0)), l.max(last, l.splat(0.0)));
    for (x, factor) in row.chunks_exact(L::WIDTH).zip(factors.chunks_exact(L::WIDTH)) {
        let x = l.mul(l.load(x), l.load(factor));
        (low, high) = (l.min(low, x), l.max(high, x));
    }
    let (header, words) = out.split_at_mut(HEADER);
    let steps = Steps::of(-l.reduce_max(l.sub(l.splat(0.0), low)), l.reduce_max(high));
    header.copy_from_slice(&steps.header());
    let (inverse, zero) = (l.splat(steps.inverse), l.splat(steps.zero));
    let (words, last_words) = words.split_at_mut(whole / GROUP);
    let chunks = row.chunks_exact(L::WIDTH).zip(factors.chunks_exact(L::WIDTH));
    for (words, (x, factor)) in words.chunks_exact_mut(L::WIDTH / GROUP).zip(chunks) {
        let x = l.mul(l.load(x), l.load(factor));
        l.store_integers::<GROUP>(words, l.add(l.mul(x, inverse), zero));
    }
    // What stands behind the row's end is multiplied with zeros.
    let mut buffer = [0; MAX_WIDTH];
    l.store_integers::<GROUP>(&mut buffer, l.add(l.mul(last, inverse), zero));
    last_words.copy_from_slice(&buffer[..last_words.len()]);
}

/// How the values between `low` ≤ 0 and `high` ≥ 0 become integers: x · inverse + zero, rounded.
struct Steps {
    scale: f32,
    inverse: f32,
    zero: f32,
}

impl Steps {
    fn of(low: f32, high: f32) -> Self {
        let inverse = if high > low { 255.0 / (high - low) } else { 0.0 };
        Self { scale: (high - low) / 255.0, inverse, zero: (-low * inverse).round_ties_even() }
    }

    fn header(&self) -> [u32; HEADER] {
        [self.scale.to_bits(), self.zero as u32]
    }
}

/// The upper half of [`to_bf16`].
#[inline(always)]
fn half(x: f32) -> u16 {
    (to_bf16(x) >> 16) as u16
}

/// Packs the transpose of `rows` (n × k, contiguous rows), values of bf16: each row becomes a column.
#[inline(always)]
pub(crate) fn pack_transposed<const GROUP: usize>(rows: ArrayView2<'_, f32>, nr: usize, dst: &mut [u16]) {
    let words = rows.ncols().div_ceil(GROUP);
    for (panel, rows) in dst.chunks_exact_mut((words * nr * GROUP).max(1)).zip(rows.axis_chunks_iter(Axis(0), nr)) {
        if rows.nrows() < nr {
            panel.fill(0);
        }
        for (column, row) in rows.rows().into_iter().enumerate() {
            let Some(row) = row.to_slice() else { continue };
            let (whole, rest) = row.as_chunks::<GROUP>();
            let mut lines = panel.chunks_exact_mut(nr * GROUP);
            for (values, line) in whole.iter().zip(&mut lines) {
                line[column * GROUP..][..GROUP].copy_from_slice(&values.map(half));
            }
            if let Some(line) = lines.next() {
                let word = &mut line[column * GROUP..][..GROUP];
                word.fill(0);
                word.iter_mut().zip(rest).for_each(|(n, &v)| *n = half(v));
            }
        }
    }
}

/// Packs `matrix` (k × n, contiguous rows), values of bf16, as it lies.
#[inline(always)]
pub(crate) fn pack_rows<const GROUP: usize>(matrix: ArrayView2<'_, f32>, nr: usize, dst: &mut [u16]) {
    let words = matrix.nrows().div_ceil(GROUP);
    let panels = dst.chunks_exact_mut((words * nr * GROUP).max(1)).zip(matrix.axis_chunks_iter(Axis(1), nr));
    for (panel, columns) in panels {
        for (line, rows) in panel.chunks_exact_mut(nr * GROUP).zip(columns.axis_chunks_iter(Axis(0), GROUP)) {
            if columns.ncols() < nr {
                line.fill(0);
            }
            // A row of zeros stands for what the last word lacks.
            let n = columns.ncols();
            let lines: [&[f32]; GROUP] = std::array::from_fn(|i| match i < rows.nrows() {
                true => &rows.row(i).to_slice().unwrap_or(&NOTHING)[..n],
                false => &NOTHING[..n],
            });
            let words = line.as_chunks_mut::<GROUP>().0;
            for i in 0..n {
                for g in 0..GROUP {
                    words[i][g] = half(lines[g][i]);
                }
            }
        }
    }
}

/// A row of a panel, of zeros.
const NOTHING: [f32; MAX_TILE.1] = [0.0; MAX_TILE.1];

/// Narrowed rows.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// rows · stride words or more
    pub(crate) data: &'a [u32],
    /// Words from row to row.
    pub(crate) stride: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    pub(crate) fn words(&self, row: usize, count: usize) -> &'a [u32] {
        &self.data[row * self.stride + HEADER..][..count]
    }

    #[inline(always)]
    pub(crate) fn scale(&self, row: usize) -> f32 {
        f32::from_bits(self.data[row * self.stride])
    }

    #[inline(always)]
    pub(crate) fn zero(&self, row: usize) -> i32 {
        self.data[row * self.stride + 1] as i32
    }
}

/// One product, or the columns of one that a thread owns.
pub(crate) struct NarrowProduct<'a> {
    /// As many rows as `c`, narrowed for the same table that `b` was.
    pub(crate) a: Rows<'a>,
    pub(crate) b: NarrowPanels<'a>,
    /// The first panel of `b` that belongs to `c`.
    pub(crate) first_panel: usize,
    /// (rows × columns): the columns from `first_panel` on
    pub(crate) c: ArrayViewMut2<'a, f32>,
    /// One a column of `c`, or none.
    pub(crate) bias: &'a [f32],
    pub(crate) activation: Activation,
}

/// A panel of B with what belongs to its columns.
#[derive(Clone, Copy)]
pub(crate) struct Panel<'a> {
    pub(crate) data: &'a [u16],
    pub(crate) totals: &'a [i32],
}

/// The register tile of one instruction set for one format.
pub(crate) trait Dot: Copy {
    const FORMAT: Format;
    /// Most rows in a tile.
    const MR: usize;
    /// Columns in a tile, the width of a panel.
    const NR: usize;
    /// Units of 16 bits in a word of B.
    const UNITS: usize;

    /// out[r · NR + j] ← Σₖ A[r][k] · panel[k][j] for the rows `rows` of A, in order of k; integers less zero · total, then
    /// converted. `ahead` will be read soon: a tile asks for it meanwhile.
    fn sums(self, a: Rows<'_>, rows: (usize, usize), panel: Panel<'_>, out: &mut [f32], ahead: &[u16]);
    /// GELU of every value, in place.
    fn gelu(self, row: &mut [f32]);
    /// `row` will be written soon: the cache may begin to fetch its lines.
    fn expect(self, _row: &[f32]) {}
}

/// Computes `p`.
#[inline(always)]
pub(crate) fn matmul<D: Dot>(d: D, p: NarrowProduct<'_>) {
    let NarrowProduct { a, b, first_panel, mut c, bias, activation } = p;
    let (rows, columns) = c.dim();
    assert!(b.nr == D::NR && b.units == D::UNITS, "packed for this table");
    assert!(
        first_panel * D::NR + columns <= b.count() * D::NR && (bias.len() == columns || bias.is_empty()),
        "columns of a product"
    );
    assert!(columns < 2 || c.strides()[1] == 1, "rows of C are contiguous");
    let mut sums = [0.0; MAX_TILE.0 * MAX_TILE.1];
    let height = (A_BLOCK / (b.words.max(1) * size_of::<u32>()) / D::MR).max(1) * D::MR;
    for block in (0..rows).step_by(height) {
        let height = height.min(rows - block);
        let tiles = height.div_ceil(D::MR);
        for column in (0..columns).step_by(D::NR) {
            let width = D::NR.min(columns - column);
            let number = first_panel + column / D::NR;
            let (totals, scales): (&[i32], &[f32]) = match D::FORMAT {
                Format::Bf16 => (&[], &[]),
                Format::Int8 => {
                    let padded = number * D::NR..(number + 1) * D::NR;
                    (&b.totals[padded.clone()], &b.scales[padded][..width])
                }
            };
            let panel = Panel { data: b.panel(number), totals };
            let bias = if bias.is_empty() { &NOTHING[..width] } else { &bias[column..column + width] };
            // What comes next: behind the last panel the first, for the next block, or that of the columns behind these, which are likely
            // this thread's too.
            let again = column + D::NR >= columns && block + height < rows;
            let next = if again { first_panel } else { number + 1 };
            let next = if next < b.count() { b.panel(next) } else { &[] };
            for i in 0..tiles {
                let (row, end) = (block + height * i / tiles, block + height * (i + 1) / tiles);
                let ahead = &next[next.len() * i / tiles..next.len() * (i + 1) / tiles];
                // C is larger than the second-level cache: its lines come while the sums are made, or every store would wait.
                (row..end).for_each(|row| d.expect(part_of(&mut c, row, column, width)));
                d.sums(a, (row, end), panel, &mut sums, ahead);
                for i in 0..end - row {
                    let out = part_of(&mut c, row + i, column, width);
                    let sums = &sums[i * D::NR..][..width];
                    match D::FORMAT {
                        Format::Bf16 => {
                            each(out, [sums, bias, bias], |sum, bias, _| sum + bias);
                        }
                        Format::Int8 => {
                            let scale = a.scale(row + i);
                            each(out, [sums, bias, scales], |sum, bias, column| sum * (scale * column) + bias);
                        }
                    }
                    if activation == Activation::Gelu {
                        d.gelu(out);
                    }
                }
            }
        }
    }
}

/// out[i] ← f(a[i], b[i], c[i]), sixteen values at a time, which a compiler makes vectors of without a look at the length.
#[inline(always)]
fn each(out: &mut [f32], from: [&[f32]; 3], f: impl Fn(f32, f32, f32) -> f32) {
    let (whole, rest) = out.as_chunks_mut::<16>();
    let [(a, last_a), (b, last_b), (c, last_c)] = from.map(|x| x.as_chunks::<16>());
    for (((out, a), b), c) in whole.iter_mut().zip(a).zip(b).zip(c) {
        *out = std::array::from_fn(|i| f(a[i], b[i], c[i]));
    }
    for (((out, a), b), c) in rest.iter_mut().zip(last_a).zip(last_b).zip(last_c) {
        *out = f(*a, *b, *c);
    }
}

/// The plain twins.
pub(crate) mod scalar {
    use super::*;
    use crate::kernels::attention::{Head, Scratch, attention_bf16};
    use crate::kernels::scalar::Plain;

    pub(crate) static BF16: Narrow = Narrow {
        format: Format::Bf16,
        name: "scalar",
        native: false,
        nr: Bf16::NR,
        group: 1,
        units: Bf16::UNITS,
        encode: |row, factors, words| encode_bf16::<_, 1>(Plain, row, factors, words),
        matmul: |p| matmul(Bf16, p),
    };
    pub(crate) static INT8: Narrow = Narrow {
        format: Format::Int8,
        name: "scalar",
        native: false,
        nr: Int8::NR,
        group: 2,
        units: Int8::UNITS,
        encode: encode_int8,
        matmul: |p| matmul(Int8, p),
    };

    /// [`attention_bf16`] of the plain twin.
    pub(crate) fn attention(head: Head<'_>, scratch: &mut Scratch) {
        attention_bf16::<_, _, 1>(Bf16, Plain, |row, words| encode_bf16::<_, 1>(Plain, row, &[], words), head, scratch);
    }

    /// Narrows a row to integers, two a word.
    fn encode_int8(row: &[f32], factors: &[f32], out: &mut [u32]) {
        let products = || row.iter().zip(factors).map(|(x, factor)| x * factor);
        let steps = Steps::of(products().fold(0.0, f32::min), products().fold(0.0, f32::max));
        let (header, words) = out.split_at_mut(HEADER);
        header.copy_from_slice(&steps.header());
        words.fill(0);
        for (i, x) in products().enumerate() {
            let integer = (x * steps.inverse + steps.zero).round_ties_even().clamp(0.0, 255.0);
            words[i / 2] |= (integer as u32) << (16 * (i % 2));
        }
    }

    #[derive(Clone, Copy)]
    struct Bf16;

    impl Dot for Bf16 {
        const FORMAT: Format = Format::Bf16;
        const MR: usize = 4;
        const NR: usize = 16;
        const UNITS: usize = 1;

        fn gelu(self, row: &mut [f32]) {
            crate::kernels::scalar::gelu(row);
        }

        fn sums(self, a: Rows<'_>, (from, to): (usize, usize), panel: Panel<'_>, out: &mut [f32], _ahead: &[u16]) {
            let words = panel.data.len() / Self::NR;
            for (row, out) in (from..to).zip(out.chunks_exact_mut(Self::NR)) {
                out.fill(0.0);
                for (&a, line) in a.words(row, words).iter().zip(panel.data.chunks_exact(Self::NR)) {
                    let a = f32::from_bits(a);
                    out.iter_mut().zip(line).for_each(|(sum, &b)| *sum += a * f32::from_bits(u32::from(b) << 16));
                }
            }
        }
    }

    #[derive(Clone, Copy)]
    struct Int8;

    impl Dot for Int8 {
        const FORMAT: Format = Format::Int8;
        const MR: usize = 4;
        const NR: usize = 16;
        const UNITS: usize = 1;

        fn gelu(self, row: &mut [f32]) {
            crate::kernels::scalar::gelu(row);
        }

        fn sums(self, a: Rows<'_>, (from, to): (usize, usize), panel: Panel<'_>, out: &mut [f32], _ahead: &[u16]) {
            let words = panel.data.len() / Self::NR;
            for (row, out) in (from..to).zip(out.chunks_exact_mut(Self::NR)) {
                let mut sums = [0i32; Self::NR];
                for (&a, line) in a.words(row, words).iter().zip(panel.data.chunks_exact(Self::NR)) {
                    let (a0, a1) = ((a & 0xFFFF) as i32, (a >> 16) as i32);
                    for (sum, b) in sums.iter_mut().zip(line) {
                        let [b0, b1] = b.to_le_bytes();
                        *sum += a0 * i32::from(b0 as i8) + a1 * i32::from(b1 as i8);
                    }
                }
                for ((out, sum), total) in out.iter_mut().zip(sums).zip(panel.totals) {
                    *out = (sum - a.zero(row) * total) as f32;
                }
            }
        }
    }
}
