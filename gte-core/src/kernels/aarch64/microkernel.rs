//! Tiles whose sums stay in registers: two loops, in which the levels differ by a few instructions,
//! and how the sums are stored.
//!
//! All tiles have eight columns. By element: a register has four words of one row of A, and each of
//! its lanes is multiplied by a line of B, two registers of four columns. In pairs: an instruction
//! multiplies two rows of A by two columns of B and adds to four sums. B is not prefetched, because
//! its panels are read front to back, one behind the other.

use std::arch::aarch64::*;

use super::neon::Neon;
use crate::kernels::activation::{Activation, activate_roughly};
use crate::kernels::lanes::Lanes;
use crate::kernels::low_precision::{NumberFormat, Panel};

/// Columns of a tile.
pub(super) const NR: usize = 8;

/// Multiplies words of A by lines of B.
///
/// # Safety
/// The methods need the instructions of the table that they are called from, and pointers to as
/// much as they say.
pub(super) trait ByElement: Copy {
    /// Halves of 32-bit words in a cell of B.
    const CELL_HALVES: usize;
    /// Whether of each pair of words the second is added first.
    const SECOND_FIRST: bool = false;
    /// A line of B.
    type Line: Copy;
    type Sum: Sum;

    /// The line at `b`: eight cells.
    unsafe fn line(b: *const u16) -> Self::Line;
    /// sums + word `LANE` of `a` · the line.
    unsafe fn step<const LANE: i32>(sums: [Self::Sum; 2], a: uint32x4_t, b: Self::Line) -> [Self::Sum; 2];
}

/// Multiplies pairs of rows of A by pairs of columns of B.
///
/// # Safety
/// The method needs the instruction of the table that it is called from.
pub(super) trait InPairs: Copy {
    type Sum: Sum;

    /// sums + a · b: (row 0 · column 0, row 0 · column 1, row 1 · column 0, row 1 · column 1), 64
    /// bits each of a and b. The `asm!` is not `pure`, so that steps and loads keep their order.
    /// The compiler would load all operands first, for which there are too few registers.
    unsafe fn step(sums: Self::Sum, a: uint8x16_t, b: uint8x16_t) -> Self::Sum;
}

/// Four sums.
pub(super) trait Sum: Copy {
    fn zero() -> Self;
    /// As values, integers less zero · column sum.
    ///
    /// # Safety
    /// Of integers, `column_sums` points to four.
    unsafe fn values(self, zero: i32, column_sums: *const i32) -> float32x4_t;
    /// The first two of `self` and of `other`; and the last two.
    fn halves(self, other: Self) -> [Self; 2];
}

impl Sum for float32x4_t {
    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: NEON is part of the architecture.
        unsafe { vdupq_n_f32(0.0) }
    }
    #[inline(always)]
    unsafe fn values(self, _zero: i32, _column_sums: *const i32) -> float32x4_t {
        self
    }
    #[inline(always)]
    fn halves(self, other: Self) -> [Self; 2] {
        // SAFETY: NEON is part of the architecture.
        unsafe {
            let (a, b) = (vreinterpretq_f64_f32(self), vreinterpretq_f64_f32(other));
            [vreinterpretq_f32_f64(vtrn1q_f64(a, b)), vreinterpretq_f32_f64(vtrn2q_f64(a, b))]
        }
    }
}

impl Sum for int32x4_t {
    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: NEON is part of the architecture.
        unsafe { vdupq_n_s32(0) }
    }
    #[inline(always)]
    unsafe fn values(self, zero: i32, column_sums: *const i32) -> float32x4_t {
        // SAFETY: passed on to the caller.
        unsafe { vcvtq_f32_s32(vmlsq_n_s32(self, vld1q_s32(column_sums), zero)) }
    }
    #[inline(always)]
    fn halves(self, other: Self) -> [Self; 2] {
        // SAFETY: NEON is part of the architecture.
        unsafe {
            let (a, b) = (vreinterpretq_s64_s32(self), vreinterpretq_s64_s32(other));
            [vreinterpretq_s32_s64(vtrn1q_s64(a, b)), vreinterpretq_s32_s64(vtrn2q_s64(a, b))]
        }
    }
}

/// The sums of `R` rows, in order of k; see [`ByElement::SECOND_FIRST`].
///
/// # Safety
/// `a` points to R rows of `words` words at a distance of `lda`, `b` to `words` lines; see the
/// trait.
#[inline(always)]
pub(super) unsafe fn by_element<E: ByElement, const R: usize>(
    words: usize,
    (a, lda): (*const u32, usize),
    b: *const u16,
) -> [[E::Sum; 2]; R] {
    let mut sums = [[E::Sum::zero(); 2]; R];
    macro_rules! step {
        ($lane:literal, $word:expr, $a:expr) => {{
            // SAFETY: a line below `words`, passed on to the caller.
            let line = unsafe { E::line(b.add($word * NR * E::CELL_HALVES)) };
            for (sum, a) in sums.iter_mut().zip($a) {
                // SAFETY: the instruction is the caller's promise.
                *sum = unsafe { E::step::<$lane>(*sum, a, line) };
            }
        }};
    }
    for word in (0..words / 4 * 4).step_by(4) {
        let mut four = [Neon::zero_words(); R];
        for (r, four) in four.iter_mut().enumerate() {
            // SAFETY: four words of row r.
            *four = unsafe { vld1q_u32(a.add(r * lda + word)) };
        }
        if E::SECOND_FIRST {
            step!(1, word + 1, four);
            step!(0, word, four);
            step!(3, word + 3, four);
            step!(2, word + 2, four);
        } else {
            step!(0, word, four);
            step!(1, word + 1, four);
            step!(2, word + 2, four);
            step!(3, word + 3, four);
        }
    }
    for i in words / 4 * 4..words {
        // The last of an odd number of words has no second.
        let word = if E::SECOND_FIRST && (i ^ 1) < words { i ^ 1 } else { i };
        let mut one = [Neon::zero_words(); R];
        for (r, one) in one.iter_mut().enumerate() {
            // SAFETY: a word of row r.
            *one = unsafe { vld1q_dup_u32(a.add(r * lda + word)) };
        }
        step!(0, word, one);
    }
    sums
}

/// The sums of `R` rows; `pairs` has the layout of `pack_pairs`.
///
/// # Safety
/// `pairs` points to `cells` times as many pairs as R rows have, `b` to `cells` lines of cells of
/// 64 bits; see the trait.
#[inline(always)]
pub(super) unsafe fn in_pairs<P: InPairs, const R: usize>(
    cells: usize,
    pairs: *const u32,
    b: *const u16,
) -> [[P::Sum; 2]; R] {
    const MOST: usize = 6;
    let count = R.div_ceil(2);
    let mut sums = [[P::Sum::zero(); NR / 2]; MOST];
    for cell in 0..cells {
        // SAFETY: of this block: a pair has sixteen bytes in a cell, as have two columns; the
        // instruction is the caller's promise.
        unsafe {
            let (pairs, line) = (pairs.add(cell * count * 4), b.add(cell * NR * 4));
            let mut a = [Neon::zero_bytes(); MOST];
            macro_rules! load_pairs {
                ($($pair:literal)*) => { $(if $pair < count { a[$pair] = load::<{ $pair * 16 }>(pairs.cast()) })* };
            }
            load_pairs!(0 1 2 3 4 5);
            macro_rules! columns {
                ($($column:literal)*) => { $(
                    let b = load::<{ $column * 16 }>(line.cast());
                    for (sums, a) in sums.iter_mut().zip(a).take(count) {
                        sums[$column] = P::step(sums[$column], a, b);
                    }
                )* };
            }
            columns!(0 1 2 3);
        }
    }
    let mut rows = [[P::Sum::zero(); 2]; R];
    for (r, row) in rows.iter_mut().enumerate() {
        let pair = sums[r / 2];
        *row = [pair[0].halves(pair[1])[r % 2], pair[2].halves(pair[3])[r % 2]];
    }
    rows
}

/// Sixteen bytes at `p` + `AT`. By `asm!`, so that the compiler does not join two loads in one of
/// two registers. Neoverse V2 has three micro-operations for that one, by LLVM's model.
///
/// # Safety
/// The bytes are readable.
#[inline(always)]
unsafe fn load<const AT: usize>(p: *const u8) -> uint8x16_t {
    let bytes;
    // SAFETY: reads what the caller promises, and writes a register.
    unsafe {
        std::arch::asm!(
            "ldr {bytes:q}, [{p}, #{at}]",
            bytes = lateout(vreg) bytes,
            p = in(reg) p,
            at = const AT,
            options(readonly, nostack, preserves_flags),
        );
    }
    bytes
}

/// C ← activation(sums + bias), where sums of integers are first reduced by zero · column sum and
/// scaled. `rows` has the scales and zeros of the rows of A.
///
/// # Safety
/// `c` points to R rows of eight values at a distance of `ldc`; the slices of `panel` have eight
/// values, `column_sums` and `scales` if it is of `FORMAT` int8.
#[inline(always)]
pub(super) unsafe fn finish<S: Sum, const R: usize>(
    sums: [[S; 2]; R],
    format: NumberFormat,
    rows: [(f32, i32); R],
    panel: Panel<'_>,
    (c, ldc): (*mut f32, usize),
) {
    let l = Neon::PROVEN;
    // SAFETY: of this block: passed on to the caller.
    unsafe {
        for half in 0..2 {
            let at = half * 4;
            let bias = l.load(panel.bias.get_unchecked(at..));
            let scales = if format == NumberFormat::Int8 { l.load(panel.scales.get_unchecked(at..)) } else { bias };
            for (r, (sums, (scale, zero))) in sums.iter().zip(rows).enumerate() {
                let mut v = sums[half].values(zero, panel.column_sums.as_ptr().wrapping_add(at));
                if format == NumberFormat::Int8 {
                    v = l.mul(v, l.mul(l.splat(scale), scales));
                }
                l.store(std::slice::from_raw_parts_mut(c.add(r * ldc + at), 4), l.add(v, bias));
            }
        }
        if panel.activation == Activation::None {
            return;
        }
        for r in 0..R {
            activate_roughly(l, panel.activation, std::slice::from_raw_parts_mut(c.add(r * ldc), NR));
        }
    }
}

/// The table of products in low precision of `$kernel`, a `ByElement` or `InPairs`: its tile for
/// each height, `$sums` of (cells of a column, rows of A, the same in pairs, B) being the sums.
macro_rules! low_precision {
    (
        $table:ident, $kernel:ident, $format:ident, $name:literal, $native:literal,
        cell_halves $cell_halves:literal, k_group $k_group:literal, pairs $pairs:literal, zero $zero:literal,
        $encode:expr, $sums:expr, [$($height:literal)*], { $($item:item)* }
    ) => {
        impl crate::kernels::low_precision::Microkernel for $kernel {
            const FORMAT: crate::kernels::NumberFormat = crate::kernels::NumberFormat::$format;
            const MR: usize = [$($height),*].len();
            const NR: usize = crate::kernels::aarch64::microkernel::NR;
            const CELL_HALVES: usize = $cell_halves;
            const K_GROUP: usize = $k_group;
            const PAIRS: bool = $pairs;

            $($item)*

            #[inline(always)]
            fn tile(
                self,
                a: crate::kernels::Rows<'_>,
                (from, to): (usize, usize),
                pairs: &[u32],
                panel: crate::kernels::low_precision::Panel<'_>,
                c: &mut ndarray::ArrayViewMut2<'_, f32>,
                corner: (usize, usize),
                _to_prefetch: &[u16],
            ) {
                // Not inlined: the loop needs all registers, which the caller has filled.
                #[inline(never)]
                unsafe fn tile<const R: usize>(
                    cells: usize,
                    (a, from): (crate::kernels::Rows<'_>, usize),
                    pairs: *const u32,
                    panel: crate::kernels::low_precision::Panel<'_>,
                    c: (*mut f32, usize),
                ) {
                    let mut rows = [(0.0, 0); R];
                    for (r, row) in rows.iter_mut().enumerate() {
                        *row = (a.scale(from + r), a.zero(from + r));
                    }
                    // SAFETY: passed on to the caller.
                    unsafe {
                        let a = (a.words(from, 0).as_ptr(), a.stride);
                        let sums: [[_; 2]; R] = $sums(cells, a, pairs, panel.data.as_ptr());
                        let format = crate::kernels::NumberFormat::$format;
                        crate::kernels::aarch64::microkernel::finish(sums, format, rows, panel, c);
                    }
                }
                let cells = panel.data.len() / (<Self as crate::kernels::low_precision::Microkernel>::NR * $cell_halves);
                assert!(from < to, "a tile has rows");
                if $pairs {
                    assert!(pairs.len() >= (to - from).div_ceil(2) * cells * 4, "the pairs cover the tile");
                } else {
                    assert!(a.words(to - 1, cells).len() == cells, "A covers the tile");
                }
                let columns = <Self as crate::kernels::low_precision::Microkernel>::NR;
                let of_integers = [panel.column_sums.len(), panel.scales.len()] == [columns; 2];
                let format = crate::kernels::NumberFormat::$format;
                assert!(
                    panel.bias.len() == columns && (of_integers || format == crate::kernels::NumberFormat::Bf16),
                    "a tile's columns"
                );
                assert!(
                    corner.0 + (to - from) <= c.nrows() && corner.1 + columns <= c.ncols(),
                    "C covers the tile"
                );
                assert!(c.strides()[1] == 1, "rows of C are contiguous");
                let ldc = c.strides()[0] as usize;
                // SAFETY: the table is out of reach until its instructions were seen; the ranges
                // are asserted above.
                unsafe {
                    let c = (c.as_mut_ptr().add(corner.0 * ldc + corner.1), ldc);
                    match to - from {
                        $($height => tile::<$height>(cells, (a, from), pairs.as_ptr(), panel, c),)*
                        _ => unreachable!("taller than a tile"),
                    }
                }
            }
        }

        pub(super) static $table: crate::kernels::LowPrecision = crate::kernels::LowPrecision {
            format: crate::kernels::NumberFormat::$format,
            name: $name,
            native: $native,
            nr: crate::kernels::aarch64::microkernel::NR,
            k_group: $k_group,
            cell_halves: $cell_halves,
            zero: $zero,
            encode: $encode,
            matmul: |p| crate::kernels::low_precision::matmul($kernel, p),
        };
    };
}
pub(super) use low_precision;
