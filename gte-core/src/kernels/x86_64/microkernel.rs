//! Tiles in low precision: one loop over the handful of instructions in which the instruction sets
//! differ.

use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1};

use super::prefetch;
use crate::kernels::activation::{Activation, activate_roughly, rough_gelu};
use crate::kernels::aligned::LINE;
use crate::kernels::lanes::Lanes;
use crate::kernels::low_precision::{NumberFormat, Panel};

/// Multiplies words of A, broadcast to all lanes, by vectors of words of B, and adds.
///
/// # Safety
/// The methods require the instructions, which a `detect()` has found on this CPU, and pointers to
/// as many values as their comments say.
pub(super) trait Mac: Copy {
    const FORMAT: NumberFormat;
    /// Number of columns per vector.
    const WIDTH: usize;
    /// Halves of 32-bit words in a cell of B.
    const CELL_HALVES: usize;
    /// Number of words per iteration of the loop.
    const UNROLL: usize;
    type Lanes: Lanes;
    type Word: Copy;
    type Sum: Copy;

    unsafe fn zero() -> Self::Sum;
    /// `WIDTH` words of B.
    unsafe fn load(b: *const u16) -> Self::Word;
    /// A step of one row: sums + the word of A at `a`, broadcast to all lanes, · two vectors of B.
    unsafe fn step(sums: [Self::Sum; 2], a: *const u32, b: [Self::Word; 2]) -> [Self::Sum; 2];
    /// `step` with word `word` < `UNROLL` of row `row` < 3 of the rows at `a`, at a distance of
    /// `lda` words.
    #[inline(always)]
    unsafe fn step_at(
        sums: [Self::Sum; 2],
        (a, lda): (*const u32, usize),
        (row, word): (usize, usize),
        b: [Self::Word; 2],
    ) -> [Self::Sum; 2] {
        // SAFETY: see the trait.
        unsafe { Self::step(sums, a.add(row * lda + word), b) }
    }
    /// The sums; of integers, zero · column sum is subtracted.
    unsafe fn values(sum: Self::Sum, zero: i32, column_sums: *const i32) -> <Self::Lanes as Lanes>::V;
}

/// The rows of A and C of a tile: pointers, and the distances between rows.
pub(super) struct Place {
    /// R rows of `words` words.
    pub(super) a: (*const u32, usize),
    /// R rows of two vectors.
    pub(super) c: (*mut f32, usize),
    pub(super) words: usize,
}

/// A tile of `R` rows by two vectors, whose sums stay in registers. `rows` has the scales and zeros
/// of the rows of A.
///
/// # Safety
/// The CPU has the instructions of `M`, of which `l` proves a part. `place` points to the rows that
/// its comments name. The data of `panel` are `words` lines of two vectors, and its other slices
/// have the length of two vectors; `column_sums` and `scales` only for integers.
#[inline(always)]
pub(super) unsafe fn tile<M: Mac, const R: usize>(
    l: M::Lanes,
    place: Place,
    rows: [(f32, i32); R],
    panel: Panel<'_>,
    to_prefetch: &[u16],
) {
    let Place { a: (a, lda), c: (c, ldc), words } = place;
    // One moving pointer for every third row. A scaled index reaches the two rows behind it, so
    // that six rows need two pointers and the distance instead of six registers.
    let mut thirds: [*const u32; 4] = std::array::from_fn(|i| a.wrapping_add(3 * i * lda));
    let mut line = panel.data.as_ptr();
    // Number of bytes of `to_prefetch` that each step prefetches.
    let share = size_of_val(to_prefetch).div_ceil((words / M::UNROLL).max(1));
    let mut to_prefetch = to_prefetch.as_ptr().cast::<u8>();
    // C is larger than the second-level cache: its lines come while the sums are made, or every
    // store would wait.
    for r in 0..R {
        prefetch::<_MM_HINT_T0>(c.wrapping_add(r * ldc));
        prefetch::<_MM_HINT_T0>(c.wrapping_add(r * ldc + M::WIDTH));
    }
    // SAFETY: of this block: `words` steps stay within what the caller promises; pointers of rows
    // beyond R are not read.
    unsafe {
        let mut sums = [[M::zero(); 2]; R];
        for _ in 0..words / M::UNROLL {
            prefetch::<_MM_HINT_T1>(to_prefetch.cast());
            if M::UNROLL * 2 * M::WIDTH * M::CELL_HALVES * size_of::<u16>() > LINE && share > LINE {
                prefetch::<_MM_HINT_T1>(to_prefetch.wrapping_add(LINE).cast());
            }
            to_prefetch = to_prefetch.wrapping_add(share);
            for i in 0..M::UNROLL {
                // Sums in bf16 begin with the last word: see `Avx2Bf16`.
                let word = if M::FORMAT == NumberFormat::Bf16 { M::UNROLL - 1 - i } else { i };
                step::<M, R>(&mut sums, &thirds, lda, word, line);
            }
            thirds.iter_mut().take(R.div_ceil(3)).for_each(|p| *p = p.wrapping_add(M::UNROLL));
            line = line.wrapping_add(M::UNROLL * 2 * M::WIDTH * M::CELL_HALVES);
        }
        for word in 0..words % M::UNROLL {
            step::<M, R>(&mut sums, &thirds, lda, word, line);
        }
        // The epilogue needs registers too, and for these the compiler would keep some sums in
        // memory during the steps. With sixteen registers, all sums are stored to memory at once
        // instead. With thirty-two, half of the columns at a time are enough.
        let mut stored;
        let sums = if M::WIDTH == 8 {
            stored = [[M::zero(); 2]; R];
            for (stored, sums) in stored.iter_mut().zip(&sums) {
                *stored = *sums;
            }
            std::hint::black_box(&mut stored)
        } else {
            &mut sums
        };
        // GELU is computed before the sums are stored: loading them again would wait for the
        // stores.
        if panel.activation == Activation::Gelu {
            finish::<M, R, 0, true>(l, sums, rows, panel, (c, ldc));
            finish::<M, R, 1, true>(l, sums, rows, panel, (c, ldc));
        } else {
            finish::<M, R, 0, false>(l, sums, rows, panel, (c, ldc));
            finish::<M, R, 1, false>(l, sums, rows, panel, (c, ldc));
            activate_rows(l, panel.activation, (c, ldc), R, 2 * M::WIDTH);
        }
    }
}

/// Half of the columns of C ← sums + bias, or GELU of that. Sums of integers are first reduced by
/// zero · column sum and scaled.
///
/// # Safety
/// That of [`tile`].
#[inline(always)]
unsafe fn finish<M: Mac, const R: usize, const HALF: usize, const GELU: bool>(
    l: M::Lanes,
    sums: &[[M::Sum; 2]; R],
    rows: [(f32, i32); R],
    panel: Panel<'_>,
    (c, ldc): (*mut f32, usize),
) {
    let at = HALF * M::WIDTH;
    // SAFETY: the slices of `panel` have the length of two vectors.
    let (bias, scales) = unsafe {
        let bias = l.load(panel.bias.get_unchecked(at..));
        let is_int8 = M::FORMAT == NumberFormat::Int8;
        (bias, if is_int8 { l.load(panel.scales.get_unchecked(at..)) } else { bias })
    };
    // Written out: with a loop that the compiler does not unroll, the sums would be in memory
    // from the first step on.
    macro_rules! rows {
            ($($r:literal)*) => {$(
                if $r < R {
                    let (scale, zero) = rows[$r];
                    // SAFETY: row r of `c` has two vectors; the rest is passed on to the caller.
                    unsafe {
                        let mut v = M::values(sums[$r][HALF], zero, panel.column_sums.as_ptr().wrapping_add(at));
                        if M::FORMAT == NumberFormat::Int8 {
                            v = l.mul(v, l.mul(l.splat(scale), scales));
                        }
                        v = l.add(v, bias);
                        if GELU {
                            v = rough_gelu(l, v);
                        }
                        l.store(std::slice::from_raw_parts_mut(c.add($r * ldc + at), M::WIDTH), v);
                    }
                }
            )*};
        }
    rows!(0 1 2 3 4 5 6 7 8 9 10 11);
    const { assert!(R <= 12, "a row for each of the tallest tile") };
}

/// Applies `activation` to `rows` rows of `width` values.
///
/// # Safety
/// `c` points to them, with the distance of the rows; `l` is proof of the caller's instructions.
#[inline(always)]
pub(super) unsafe fn activate_rows<L: Lanes>(
    l: L,
    activation: Activation,
    (c, ldc): (*mut f32, usize),
    rows: usize,
    width: usize,
) {
    if activation == Activation::None {
        return;
    }
    for r in 0..rows {
        // SAFETY: passed on to the caller.
        let row = unsafe { std::slice::from_raw_parts_mut(c.add(r * ldc), width) };
        activate_roughly(l, activation, row);
    }
}

/// Word `word` of the rows at `thirds`, times line `word` of those at `b`.
///
/// # Safety
/// That of [`tile`], whose loop this is.
#[inline(always)]
unsafe fn step<M: Mac, const R: usize>(
    sums: &mut [[M::Sum; 2]; R],
    thirds: &[*const u32; 4],
    lda: usize,
    word: usize,
    b: *const u16,
) {
    // SAFETY: passed on to the caller.
    unsafe {
        let line = b.add(word * 2 * M::WIDTH * M::CELL_HALVES);
        let b = [M::load(line), M::load(line.add(M::WIDTH * M::CELL_HALVES))];
        for (r, sum) in sums.iter_mut().enumerate() {
            *sum = M::step_at(*sum, (thirds[r / 3], lda), (r % 3, word), b);
        }
    }
}

/// The table of a `Mac`, compiled for its instructions.
macro_rules! low_precision {
    ($table:ident, $mac:ident, $token:ident, $name:literal, $native:literal, $features:literal, $k_group:literal, $encode:expr, [$($height:literal)*], { $($bf16:item)* }) => {
        impl crate::kernels::low_precision::Microkernel for $mac {
            const FORMAT: crate::kernels::low_precision::NumberFormat = <Self as crate::kernels::x86_64::microkernel::Mac>::FORMAT;
            const MR: usize = [$($height),*].len();
            const NR: usize = 2 * <Self as crate::kernels::x86_64::microkernel::Mac>::WIDTH;
            const CELL_HALVES: usize = <Self as crate::kernels::x86_64::microkernel::Mac>::CELL_HALVES;
            const K_GROUP: usize = $k_group;

            $($bf16)*

            #[inline(always)]
            fn prefetch_row<T>(self, row: &[T]) {
                row.chunks(16).for_each(|line| crate::kernels::x86_64::prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast()));
            }

            #[inline(always)]
            fn tile(
                self,
                a: crate::kernels::low_precision::Rows<'_>,
                (from, to): (usize, usize),
                _pairs: &[u32],
                panel: crate::kernels::low_precision::Panel<'_>,
                c: &mut ndarray::ArrayViewMut2<'_, f32>,
                corner: (usize, usize),
                to_prefetch: &[u16],
            ) {
                // Not inlined: the loop needs all registers, which the caller has filled.
                #[inline(never)]
                #[target_feature(enable = $features)]
                unsafe fn tile<const R: usize>(a: crate::kernels::low_precision::Rows<'_>, from: usize, panel: crate::kernels::low_precision::Panel<'_>, place: crate::kernels::x86_64::microkernel::Place, to_prefetch: &[u16]) {
                    let mut rows = [(0.0, 0); R];
                    for (r, row) in rows.iter_mut().enumerate() {
                        *row = (a.scale(from + r), a.zero(from + r));
                    }
                    // SAFETY: passed on to the caller.
                    unsafe { crate::kernels::x86_64::microkernel::tile::<$mac, R>($token::PROVEN, place, rows, panel, to_prefetch) }
                }
                let words = panel.data.len() / (Self::NR * <Self as crate::kernels::low_precision::Microkernel>::CELL_HALVES);
                assert!(from < to && a.words(to - 1, words).len() == words, "A covers the tile");
                let of_integers = [panel.column_sums.len(), panel.scales.len()] == [Self::NR; 2];
                assert!(panel.bias.len() == Self::NR && (of_integers || <Self as crate::kernels::low_precision::Microkernel>::FORMAT == NumberFormat::Bf16), "a tile's columns");
                assert!(corner.0 + (to - from) <= c.nrows() && corner.1 + Self::NR <= c.ncols(), "C covers the tile");
                assert!(c.strides()[1] == 1, "rows of C are contiguous");
                let ldc = c.strides()[0] as usize;
                // SAFETY: the table cannot be reached unless its instructions were found; the
                // ranges are asserted above.
                unsafe {
                    let c = (c.as_mut_ptr().add(corner.0 * ldc + corner.1), ldc);
                    let place = crate::kernels::x86_64::microkernel::Place { a: (a.words(from, words).as_ptr(), a.stride), c, words };
                    match to - from {
                        $($height => tile::<$height>(a, from, panel, place, to_prefetch),)*
                        _ => unreachable!("taller than a tile"),
                    }
                }
            }
        }

        pub(super) static $table: crate::kernels::low_precision::LowPrecision = crate::kernels::low_precision::LowPrecision {
            format: <$mac as crate::kernels::x86_64::microkernel::Mac>::FORMAT,
            name: $name,
            native: $native,
            nr: <$mac as crate::kernels::low_precision::Microkernel>::NR,
            k_group: $k_group,
            zero: 0,
            cell_halves: <$mac as crate::kernels::x86_64::microkernel::Mac>::CELL_HALVES,
            encode: |row, smoothing, words, to_prefetch| {
                #[target_feature(enable = $features)]
                fn f(row: &[f32], smoothing: &[f32], words: &mut [u32], to_prefetch: usize) {
                    $encode(row, smoothing, words, to_prefetch);
                }
                // SAFETY: the table is handed out only where its instructions were seen.
                unsafe { f(row, smoothing, words, to_prefetch) }
            },
            matmul: |p| {
                #[target_feature(enable = $features)]
                fn f(p: crate::kernels::low_precision::LowPrecisionGemm<'_, '_>) {
                    crate::kernels::low_precision::matmul($mac, p);
                }
                // SAFETY: the table is handed out only where its instructions were seen.
                unsafe { f(p) }
            },
        };
    };
}

pub(super) use low_precision;

/// `Dot::words` with vectors of `$token`.
macro_rules! words {
    ($token:ident) => {
        #[inline(always)]
        fn words(self, row: &[f32], k_group: usize, words: &mut [u32]) {
            crate::kernels::low_precision::words_of_bf16($token::PROVEN, row, k_group, words);
        }
    };
}

pub(super) use words;

/// `attention_bf16` compiled for a `Mac`'s instructions.
macro_rules! attention {
    ($table:ident, $mac:ident, $token:ident, $features:literal) => {
        pub(super) const $table: crate::kernels::LowPrecisionAttention = crate::kernels::LowPrecisionAttention {
            k_group: <$mac as crate::kernels::low_precision::Microkernel>::K_GROUP,
            compute: |head, scratch| {
                #[target_feature(enable = $features)]
                fn f(head: crate::kernels::LowPrecisionHead<'_, '_>, scratch: &mut crate::kernels::Scratch) {
                    crate::kernels::attention::attention_bf16($mac, $token::PROVEN, head, scratch);
                }
                // SAFETY: the table is handed out only where its instructions were seen.
                unsafe { f(head, scratch) }
            },
            words: |row, words| {
                #[target_feature(enable = $features)]
                fn f(row: &[f32], words: &mut [u32]) {
                    <$mac as crate::kernels::low_precision::Microkernel>::words(
                        $mac,
                        row,
                        <$mac as crate::kernels::low_precision::Microkernel>::K_GROUP,
                        words,
                    );
                }
                // SAFETY: the table is handed out only where its instructions were seen.
                unsafe { f(row, words) }
            },
        };
    };
}
pub(super) use attention;
