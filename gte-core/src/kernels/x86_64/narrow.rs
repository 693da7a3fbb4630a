//! Tiles of narrow numbers: one loop over the handful of instructions in which the instruction sets differ.

use std::arch::x86_64::*;
use std::ops::Range;

use ndarray::ArrayViewMut2;

use super::avx2::Avx2;
use super::avx512::{Avx512, step};
use super::{pack, prefetch};
use crate::kernels::activation::{Activation, activate};
use crate::kernels::aligned::LINE;
use crate::kernels::attention::{NarrowAttention, NarrowHead, Scratch, attention_bf16};
use crate::kernels::lanes::Lanes;
use crate::kernels::narrow::{
    Dot, Format, Joined, Narrow, NarrowProduct, Panel, Rows, encode_bf16, encode_int8, matmul, words_of_bf16,
};

/// Multiplies and adds words of A, given to all lanes, and vectors of words of B.
///
/// # Safety
/// The methods need the CPU's instructions, which a `detect()` has seen, and pointers to as much as they say.
trait Mac: Copy {
    const FORMAT: Format;
    /// Columns of a vector.
    const WIDTH: usize;
    /// Units of 16 bits in a word of B.
    const UNITS: usize;
    /// Words in a turn of the loop.
    const UNROLL: usize;
    type Lanes: Lanes;
    type Word: Copy;
    type Sum: Copy;

    unsafe fn zero() -> Self::Sum;
    /// `WIDTH` words of B.
    unsafe fn load(b: *const u16) -> Self::Word;
    /// One row's step: sums + the word of A at `a`, given to all lanes, · two vectors of B.
    unsafe fn step(sums: [Self::Sum; 2], a: *const u32, b: [Self::Word; 2]) -> [Self::Sum; 2];
    /// The sums, integers less zero · total.
    unsafe fn values(sum: Self::Sum, zero: i32, totals: *const i32) -> <Self::Lanes as Lanes>::V;
}

/// bf16 where the CPU has none: values widen to f32 as they are read.
#[derive(Clone, Copy)]
struct Avx2Bf16;

impl Mac for Avx2Bf16 {
    const FORMAT: Format = Format::Bf16;
    const WIDTH: usize = 8;
    const UNITS: usize = 1;
    const UNROLL: usize = 2;
    type Lanes = Avx2;
    type Word = __m256;
    type Sum = __m256;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: see the trait, here and below.
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(b: *const u16) -> __m256 {
        // SAFETY: see the trait.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(b.cast())))) }
    }
    #[inline(always)]
    unsafe fn step(sums: [__m256; 2], a: *const u32, b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: see the trait.
        unsafe {
            let a = _mm256_set1_ps(f32::from_bits(*a));
            [_mm256_fmadd_ps(a, b[0], sums[0]), _mm256_fmadd_ps(a, b[1], sums[1])]
        }
    }
    #[inline(always)]
    unsafe fn values(sum: __m256, _zero: i32, _totals: *const i32) -> __m256 {
        sum
    }
}

/// Integers as pairs of 16 bits (`vpmaddwd`): no sum saturates, unlike those of `vpmaddubsw`, at the same number of multiplications.
///
/// In registers alone `vpmaddubsw` is 1.2 × as fast (Zen 3), for its fewer additions. But two of a hundred pairs of MiniLM's weights could make it
/// saturate, and what makes up for these, exactly, costs that much again: a second line for them, a list of what is lacking, or a look at
/// each row for large values beside them.
#[derive(Clone, Copy)]
struct Avx2Int8;

impl Mac for Avx2Int8 {
    const FORMAT: Format = Format::Int8;
    const WIDTH: usize = 8;
    const UNITS: usize = 1;
    const UNROLL: usize = 2;
    type Lanes = Avx2;
    type Word = __m256i;
    type Sum = __m256i;

    #[inline(always)]
    unsafe fn zero() -> __m256i {
        // SAFETY: see the trait, here and below.
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn load(b: *const u16) -> __m256i {
        // SAFETY: see the trait.
        unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(b.cast())) }
    }
    #[inline(always)]
    unsafe fn step(sums: [__m256i; 2], a: *const u32, b: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: see the trait.
        unsafe {
            let a = _mm256_set1_epi32(*a as i32);
            [
                settled(_mm256_add_epi32(sums[0], _mm256_madd_epi16(a, b[0]))),
                settled(_mm256_add_epi32(sums[1], _mm256_madd_epi16(a, b[1]))),
            ]
        }
    }
    #[inline(always)]
    unsafe fn values(sum: __m256i, zero: i32, totals: *const i32) -> __m256 {
        // SAFETY: see the trait.
        unsafe {
            let totals = _mm256_mullo_epi32(_mm256_loadu_si256(totals.cast()), _mm256_set1_epi32(zero));
            _mm256_cvtepi32_ps(_mm256_sub_epi32(sum, totals))
        }
    }
}

/// `sum` itself, of which the compiler knows nothing: of two steps it would add the products first, for which there are no registers.
#[inline]
#[target_feature(enable = "avx2")]
fn settled(mut sum: __m256i) -> __m256i {
    // SAFETY: no instruction at all.
    unsafe { std::arch::asm!("/* {sum} */", sum = inout(ymm_reg) sum, options(pure, nomem, nostack, preserves_flags)) };
    sum
}

/// `vdpbf16ps`.
#[derive(Clone, Copy)]
struct Avx512Bf16;

impl Mac for Avx512Bf16 {
    const FORMAT: Format = Format::Bf16;
    const WIDTH: usize = 16;
    const UNITS: usize = 2;
    const UNROLL: usize = 1;
    type Lanes = Avx512;
    type Word = __m512i;
    type Sum = __m512;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: see the trait, here and below.
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(b: *const u16) -> __m512i {
        // SAFETY: see the trait.
        unsafe { _mm512_loadu_si512(b.cast()) }
    }
    #[inline(always)]
    unsafe fn step(sums: [__m512; 2], a: *const u32, b: [__m512i; 2]) -> [__m512; 2] {
        step!("vdpbf16ps", __m512, __m512i, sums, a, b)
    }
    #[inline(always)]
    unsafe fn values(sum: __m512, _zero: i32, _totals: *const i32) -> __m512 {
        sum
    }
}

/// `vpdpbusd`.
#[derive(Clone, Copy)]
struct Avx512Int8;

impl Mac for Avx512Int8 {
    const FORMAT: Format = Format::Int8;
    const WIDTH: usize = 16;
    const UNITS: usize = 2;
    const UNROLL: usize = 1;
    type Lanes = Avx512;
    type Word = __m512i;
    type Sum = __m512i;

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        // SAFETY: see the trait, here and below.
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn load(b: *const u16) -> __m512i {
        // SAFETY: see the trait.
        unsafe { _mm512_loadu_si512(b.cast()) }
    }
    #[inline(always)]
    unsafe fn step(sums: [__m512i; 2], a: *const u32, b: [__m512i; 2]) -> [__m512i; 2] {
        step!("vpdpbusd", __m512i, __m512i, sums, a, b)
    }
    #[inline(always)]
    unsafe fn values(sum: __m512i, zero: i32, totals: *const i32) -> __m512 {
        // SAFETY: see the trait.
        unsafe {
            let totals = _mm512_mullo_epi32(_mm512_loadu_si512(totals.cast()), _mm512_set1_epi32(zero));
            _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, totals))
        }
    }
}

/// What is multiplied and where it goes: pointers, with the distances of their rows.
struct Place {
    /// R rows of `words` words.
    a: (*const u32, usize),
    /// R rows of two vectors.
    c: (*mut f32, usize),
    words: usize,
}

/// A tile of `R` rows by two vectors, whose sums stay in registers; `rows` are the scales and zeros of A's.
///
/// # Safety
/// The instructions of `M` are there, of which `l` is a part. `place` points to what it says; the data of `panel` are `words` lines of two
/// vectors, its other slices have the length of two vectors, `totals` and `scales` if it is of integers.
#[inline(always)]
unsafe fn tile<M: Mac, const R: usize>(
    l: M::Lanes,
    place: Place,
    rows: [(f32, i32); R],
    panel: Panel<'_>,
    ahead: &[u16],
) {
    let Place { a: (a, lda), c: (c, ldc), words } = place;
    // Pointers that walk, each to every third row: the two rows behind it are a scaled index away, so that six rows need two pointers and
    // the distance, not six registers.
    let mut thirds: [*const u32; 4] = std::array::from_fn(|i| a.wrapping_add(3 * i * lda));
    let mut line = panel.data.as_ptr();
    // Bytes of what comes next that each step fetches.
    let share = size_of_val(ahead).div_ceil((words / M::UNROLL).max(1));
    let mut ahead = ahead.as_ptr().cast::<u8>();
    // C is larger than the second-level cache: its lines come while the sums are made, or every store would wait.
    for r in 0..R {
        prefetch::<_MM_HINT_T0>(c.wrapping_add(r * ldc));
        prefetch::<_MM_HINT_T0>(c.wrapping_add(r * ldc + M::WIDTH));
    }
    // SAFETY: of this block: `words` steps stay within what the caller promises; pointers of rows beyond R are not read.
    unsafe {
        let mut sums = [[M::zero(); 2]; R];
        for _ in 0..words / M::UNROLL {
            prefetch::<_MM_HINT_T1>(ahead.cast());
            if M::UNROLL * 2 * M::WIDTH * M::UNITS * size_of::<u16>() > LINE && share > LINE {
                prefetch::<_MM_HINT_T1>(ahead.wrapping_add(LINE).cast());
            }
            ahead = ahead.wrapping_add(share);
            for word in 0..M::UNROLL {
                step::<M, R>(&mut sums, &thirds, lda, word, line);
            }
            thirds.iter_mut().take(R.div_ceil(3)).for_each(|p| *p = p.wrapping_add(M::UNROLL));
            line = line.wrapping_add(M::UNROLL * 2 * M::WIDTH * M::UNITS);
        }
        for word in 0..words % M::UNROLL {
            step::<M, R>(&mut sums, &thirds, lda, word, line);
        }
        // What becomes of the sums needs registers too, for which the compiler would keep some sums in memory during the steps. Of sixteen
        // registers too many: all sums go through memory, at once. Of thirty-two enough for half of the columns at a time.
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
        for half in 0..2 {
            let at = half * M::WIDTH;
            let bias = l.load(panel.bias.get_unchecked(at..));
            let scales = if M::FORMAT == Format::Int8 { l.load(panel.scales.get_unchecked(at..)) } else { bias };
            for (r, (sums, (scale, zero))) in sums.iter().zip(rows).enumerate() {
                let mut v = M::values(sums[half], zero, panel.totals.as_ptr().wrapping_add(at));
                if M::FORMAT == Format::Int8 {
                    v = l.mul(v, l.mul(l.splat(scale), scales));
                }
                l.store(std::slice::from_raw_parts_mut(c.add(r * ldc + at), M::WIDTH), l.add(v, bias));
            }
        }
        // GELU by a loop of its own, without a choice for each row.
        match panel.activation {
            Activation::None => {}
            Activation::Gelu => {
                for r in 0..R {
                    let row = std::slice::from_raw_parts_mut(c.add(r * ldc), 2 * M::WIDTH);
                    activate(l, Activation::Gelu, row);
                }
            }
            other => {
                for r in 0..R {
                    let row = std::slice::from_raw_parts_mut(c.add(r * ldc), 2 * M::WIDTH);
                    activate(l, other, row);
                }
            }
        }
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
        let line = b.add(word * 2 * M::WIDTH * M::UNITS);
        let b = [M::load(line), M::load(line.add(M::WIDTH * M::UNITS))];
        for (r, sum) in sums.iter_mut().enumerate() {
            *sum = M::step(*sum, thirds[r / 3].add(r % 3 * lda + word), b);
        }
    }
}

/// [`words_of_bf16`] in pairs by the instruction for it. Values below 2⁻¹²⁶ become zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs_of_bf16(row: &[f32], words: &mut [u32]) {
    let (whole, rest) = row.as_chunks::<32>();
    let (lines, last) = words.split_at_mut(16 * whole.len());
    for (line, values) in lines.chunks_exact_mut(16).zip(whole) {
        line.copy_from_slice(&sixteen_pairs(values));
    }
    if !rest.is_empty() {
        let mut values = [0.0; 32];
        values[..rest.len()].copy_from_slice(rest);
        last.copy_from_slice(&sixteen_pairs(&values)[..last.len()]);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn sixteen_pairs(values: &[f32; 32]) -> [u32; 16] {
    // SAFETY: 32 values are read; a vector is sixteen words.
    unsafe {
        let (low, high) = (_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(values[16..].as_ptr()));
        std::mem::transmute::<__m512bh, [u32; 16]>(_mm512_cvtne2ps_pbh(high, low))
    }
}

/// The table of a `Mac`, compiled for its instructions.
macro_rules! narrow {
    ($table:ident, $mac:ident, $token:ident, $name:literal, $features:literal, $group:literal, $encode:expr, [$($height:literal)*], { $($bf16:item)* }) => {
        impl Dot for $mac {
            const FORMAT: Format = <Self as Mac>::FORMAT;
            const MR: usize = [$($height),*].len();
            const NR: usize = 2 * <Self as Mac>::WIDTH;
            const UNITS: usize = <Self as Mac>::UNITS;

            $($bf16)*

            #[inline(always)]
            fn expect<T>(self, row: &[T]) {
                row.chunks(16).for_each(|line| prefetch::<_MM_HINT_T0>(line.as_ptr().cast()));
            }

            #[inline(always)]
            fn tile(
                self,
                a: Rows<'_>,
                (from, to): (usize, usize),
                panel: Panel<'_>,
                c: &mut ArrayViewMut2<'_, f32>,
                corner: (usize, usize),
                ahead: &[u16],
            ) {
                // Not inlined: the loop needs all registers, and whoever calls has filled them.
                #[inline(never)]
                #[target_feature(enable = $features)]
                unsafe fn tile<const R: usize>(a: Rows<'_>, from: usize, panel: Panel<'_>, place: Place, ahead: &[u16]) {
                    let mut rows = [(0.0, 0); R];
                    for (r, row) in rows.iter_mut().enumerate() {
                        *row = (a.scale(from + r), a.zero(from + r));
                    }
                    // SAFETY: passed on to the caller.
                    unsafe { super::narrow::tile::<$mac, R>($token::PROVEN, place, rows, panel, ahead) }
                }
                let words = panel.data.len() / (Self::NR * <Self as Dot>::UNITS);
                assert!(from < to && a.words(to - 1, words).len() == words, "A covers the tile");
                let of_integers = [panel.totals.len(), panel.scales.len()] == [Self::NR; 2];
                assert!(panel.bias.len() == Self::NR && (of_integers || <Self as Dot>::FORMAT == Format::Bf16), "a tile's columns");
                assert!(corner.0 + (to - from) <= c.nrows() && corner.1 + Self::NR <= c.ncols(), "C covers the tile");
                assert!(c.strides()[1] == 1, "rows of C are contiguous");
                let ldc = c.strides()[0] as usize;
                // SAFETY: the table is out of reach until its instructions were seen; the ranges are asserted above.
                unsafe {
                    let c = (c.as_mut_ptr().add(corner.0 * ldc + corner.1), ldc);
                    let place = Place { a: (a.words(from, words).as_ptr(), a.stride), c, words };
                    match to - from {
                        $($height => tile::<$height>(a, from, panel, place, ahead),)*
                        _ => unreachable!("taller than a tile"),
                    }
                }
            }
        }

        static $table: Narrow = Narrow {
            format: <$mac as Mac>::FORMAT,
            name: $name,
            native: <$mac as Mac>::UNITS == 2,
            nr: <$mac as Dot>::NR,
            group: $group,
            units: <$mac as Mac>::UNITS,
            encode: |row, factors, words, ahead| {
                #[target_feature(enable = $features)]
                fn f(row: &[f32], factors: &[f32], words: &mut [u32], ahead: usize) {
                    $encode(row, factors, words, ahead);
                }
                // SAFETY: the table is handed out only where its instructions were seen.
                unsafe { f(row, factors, words, ahead) }
            },
            matmul: |p| {
                #[target_feature(enable = $features)]
                fn f(p: NarrowProduct<'_, '_>) {
                    matmul($mac, p);
                }
                // SAFETY: the table is handed out only where its instructions were seen.
                unsafe { f(p) }
            },
        };
    };
}

/// `Dot::words` with vectors of `$token`.
macro_rules! words {
    ($token:ident) => {
        #[inline(always)]
        fn words(self, row: &[f32], group: usize, words: &mut [u32]) {
            words_of_bf16($token::PROVEN, row, group, words);
        }
    };
}

narrow!(AVX2_BF16, Avx2Bf16, Avx2, "avx2", "avx2,fma", 1, |row, _, words, _| encode_bf16(Avx2Bf16, row, words), [1 2 3 4 5 6], { words!(Avx2); });
narrow!(
    AVX2_INT8, Avx2Int8, Avx2, "avx2", "avx2,fma", 2,
    |row, factors, words, ahead| encode_int8::<_, 2>(Avx2::PROVEN, row, factors, words, ahead),
    [1 2 3 4 5 6], { words!(Avx2); }
);
narrow!(
    AVX512_BF16, Avx512Bf16, Avx512, "avx512-bf16", "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16", 2,
    |row, _, words, _| encode_bf16(Avx512Bf16, row, words),
    [1 2 3 4 5 6 7 8 9 10 11 12], {
        #[inline(always)]
        fn words(self, row: &[f32], group: usize, words: &mut [u32]) {
            match group {
                // SAFETY: the table is out of reach until its instructions were seen.
                2 => unsafe { pairs_of_bf16(row, words) },
                _ => words_of_bf16(Avx512::PROVEN, row, group, words),
            }
        }
        fn pack_transposed(self, rows: Joined<'_>, range: Range<usize>, words: usize, dst: &mut [u16]) {
            // SAFETY: as above.
            unsafe { pack::pack_transposed(rows, range, words, dst) }
        }
        fn pack_rows(self, rows: Joined<'_>, range: Range<usize>, n: usize, dst: &mut [u16]) {
            // SAFETY: as above.
            unsafe { pack::pack_rows(rows, range, n, dst) }
        }
    }
);
narrow!(
    AVX512_INT8, Avx512Int8, Avx512, "avx512-vnni", "avx512f,avx512vl,avx512bw,avx512dq,avx512vnni", 4,
    |row, factors, words, ahead| encode_int8::<_, 4>(Avx512::PROVEN, row, factors, words, ahead),
    [1 2 3 4 5 6 7 8 9 10 11 12], { words!(Avx512); }
);

/// `attention_bf16` compiled for a `Mac`'s instructions.
macro_rules! attention {
    ($table:ident, $mac:ident, $token:ident, $features:literal) => {
        const $table: NarrowAttention = NarrowAttention {
            group: <$mac as Mac>::UNITS,
            compute: |head, scratch| {
                #[target_feature(enable = $features)]
                fn f(head: NarrowHead<'_, '_>, scratch: &mut Scratch) {
                    attention_bf16($mac, $token::PROVEN, head, scratch);
                }
                // SAFETY: the table is handed out only where its instructions were seen.
                unsafe { f(head, scratch) }
            },
            words: |row, words| {
                #[target_feature(enable = $features)]
                fn f(row: &[f32], words: &mut [u32]) {
                    $mac.words(row, <$mac as Mac>::UNITS, words);
                }
                // SAFETY: the table is handed out only where its instructions were seen.
                unsafe { f(row, words) }
            },
        };
    };
}

attention!(AVX2_ATTENTION, Avx2Bf16, Avx2, "avx2,fma");
attention!(AVX512_ATTENTION, Avx512Bf16, Avx512, "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16");

/// Attention in bf16 beside AVX2's table: there if AVX2 is.
pub(crate) fn avx2_attention() -> NarrowAttention {
    AVX2_ATTENTION
}

/// Attention in bf16 beside AVX-512's table, by the rule of [`avx512`]; a head of `d` values, an odd number, has no pairs.
pub(crate) fn avx512_attention(d: usize) -> NarrowAttention {
    if is_x86_feature_detected!("avx512bf16") && d.is_multiple_of(2) { AVX512_ATTENTION } else { AVX2_ATTENTION }
}

/// The table for `format` beside AVX2's: there if AVX2 is.
pub(crate) fn avx2(format: Format) -> &'static Narrow {
    match format {
        Format::Bf16 => &AVX2_BF16,
        Format::Int8 => &AVX2_INT8,
    }
}

/// The table for `format` beside AVX-512's: with the instructions made for it, else AVX2's, which every such CPU has.
pub(crate) fn avx512(format: Format) -> &'static Narrow {
    match format {
        Format::Bf16 if is_x86_feature_detected!("avx512bf16") => &AVX512_BF16,
        Format::Int8 if is_x86_feature_detected!("avx512vnni") => &AVX512_INT8,
        _ => avx2(format),
    }
}
