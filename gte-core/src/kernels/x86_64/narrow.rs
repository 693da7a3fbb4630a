//! Tiles of narrow numbers: one loop over the handful of instructions in which the instruction sets differ.

use std::arch::x86_64::*;

use super::avx2::Avx2;
use super::avx512::Avx512;
use super::prefetch;
use crate::kernels::aligned::LINE;
use crate::kernels::attention::{Head, NarrowAttention, Scratch, attention_bf16};
use crate::kernels::gelu::gelu;
use crate::kernels::narrow::{
    Dot, Format, HEADER, Narrow, NarrowProduct, Panel, Rows, encode_bf16, encode_int8, matmul,
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
    type Word: Copy;
    type Sum: Copy;

    unsafe fn zero() -> Self::Sum;
    /// `WIDTH` words of B.
    unsafe fn load(b: *const u16) -> Self::Word;
    /// One row's step: sums + the word of A at `a`, given to all lanes, · two vectors of B.
    unsafe fn step(sums: [Self::Sum; 2], a: *const u32, b: [Self::Word; 2]) -> [Self::Sum; 2];
    /// Writes the sums, integers less zero · total, to `WIDTH` values of `out`.
    unsafe fn store(sum: Self::Sum, zero: i32, totals: *const i32, out: *mut f32);
}

/// bf16 where the CPU has none: values widen to f32 as they are read.
#[derive(Clone, Copy)]
struct Avx2Bf16;

impl Mac for Avx2Bf16 {
    const FORMAT: Format = Format::Bf16;
    const WIDTH: usize = 8;
    const UNITS: usize = 1;
    const UNROLL: usize = 2;
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
    unsafe fn store(sum: __m256, _zero: i32, _totals: *const i32, out: *mut f32) {
        // SAFETY: see the trait.
        unsafe { _mm256_storeu_ps(out, sum) }
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
    unsafe fn store(sum: __m256i, zero: i32, totals: *const i32, out: *mut f32) {
        // SAFETY: see the trait.
        unsafe {
            let totals = _mm256_mullo_epi32(_mm256_loadu_si256(totals.cast()), _mm256_set1_epi32(zero));
            _mm256_storeu_ps(out, _mm256_cvtepi32_ps(_mm256_sub_epi32(sum, totals)));
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

/// A step whose broadcast stays beside its products. Left to itself the compiler puts the broadcasts of all rows first, finds that twelve of
/// them, 24 sums and two vectors of B are more than 32 registers, and moves sums to the stack and back in every step: a fifth of the time.
macro_rules! step {
    ($instruction:literal, $sum:ty, $sums:ident, $a:ident, $b:ident) => {{
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn step([mut low, mut high]: [$sum; 2], a: *const u32, b: [__m512i; 2]) -> [$sum; 2] {
            let _word: __m512i; // typed, for `_` would be given the name of a register of 8 bits
            // SAFETY: reads one word at `a`, which the caller promises, and writes registers.
            unsafe {
                std::arch::asm!(
                    "vpbroadcastd {word}, dword ptr [{a}]",
                    concat!($instruction, " {low}, {word}, {b0}"),
                    concat!($instruction, " {high}, {word}, {b1}"),
                    a = in(reg) a,
                    b0 = in(zmm_reg) b[0],
                    b1 = in(zmm_reg) b[1],
                    low = inout(zmm_reg) low,
                    high = inout(zmm_reg) high,
                    word = out(zmm_reg) _word,
                    options(pure, readonly, nostack, preserves_flags),
                );
            }
            [low, high]
        }
        // SAFETY: see the trait.
        unsafe { step($sums, $a, $b) }
    }};
}

/// `vdpbf16ps`.
#[derive(Clone, Copy)]
struct Avx512Bf16;

impl Mac for Avx512Bf16 {
    const FORMAT: Format = Format::Bf16;
    const WIDTH: usize = 16;
    const UNITS: usize = 2;
    const UNROLL: usize = 1;
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
        step!("vdpbf16ps", __m512, sums, a, b)
    }
    #[inline(always)]
    unsafe fn store(sum: __m512, _zero: i32, _totals: *const i32, out: *mut f32) {
        // SAFETY: see the trait.
        unsafe { _mm512_storeu_ps(out, sum) }
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
        step!("vpdpbusd", __m512i, sums, a, b)
    }
    #[inline(always)]
    unsafe fn store(sum: __m512i, zero: i32, totals: *const i32, out: *mut f32) {
        // SAFETY: see the trait.
        unsafe {
            let totals = _mm512_mullo_epi32(_mm512_loadu_si512(totals.cast()), _mm512_set1_epi32(zero));
            _mm512_storeu_ps(out, _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, totals)));
        }
    }
}

/// A tile of `R` rows by two vectors, whose sums stay in registers. `a` points to words, rows `lda` apart.
///
/// # Safety
/// The instructions of `M` are there. `a` points to R rows of `words` words, `b` to `words` lines of two vectors, `totals` to the
/// columns of two vectors, `out` to R rows of them; `zeros` has R values.
#[inline(always)]
unsafe fn tile<M: Mac, const R: usize>(
    words: usize,
    (a, lda): (*const u32, usize),
    b: *const u16,
    zeros: [i32; R],
    totals: *const i32,
    out: *mut f32,
    ahead: &[u16],
) {
    // Pointers that walk, each to every third row: the two rows behind it are a scaled index away, so that six rows need two pointers and
    // the distance, not six registers.
    let mut thirds: [*const u32; 4] = std::array::from_fn(|i| a.wrapping_add(3 * i * lda));
    let mut line = b;
    // Bytes of what comes next that each step fetches.
    let share = size_of_val(ahead).div_ceil((words / M::UNROLL).max(1));
    let mut ahead = ahead.as_ptr().cast::<u8>();
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
        for r in 0..R {
            let out = out.add(r * 2 * M::WIDTH);
            M::store(sums[r][0], zeros[r], totals, out);
            M::store(sums[r][1], zeros[r], totals.add(M::WIDTH), out.add(M::WIDTH));
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

/// `encode_bf16::<2>` by the instruction for it: left to itself, the compiler gathers the pairs one by one. Values below 2⁻¹²⁶ become zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn encode_bf16_pairs(l: Avx512, row: &[f32], factors: &[f32], out: &mut [u32]) {
    let (whole, rest) = row.as_chunks::<32>();
    let (header, words) = out.split_at_mut(HEADER);
    let (lines, last) = words.split_at_mut(16 * whole.len());
    for (line, values) in lines.chunks_exact_mut(16).zip(whole) {
        // SAFETY: 32 values are read, and 16 words written.
        unsafe {
            let (low, high) = (_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(values[16..].as_ptr()));
            let pairs = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(line.as_mut_ptr().cast(), pairs);
        }
    }
    header.copy_from_slice(&[1f32.to_bits(), 0]);
    let mut tail = [0; HEADER + 16];
    let tail = &mut tail[..HEADER + last.len()];
    encode_bf16::<_, 2>(l, rest, factors, tail);
    last.copy_from_slice(&tail[HEADER..]);
}

/// The table of a `Mac`, compiled for its instructions.
macro_rules! narrow {
    ($table:ident, $mac:ident, $token:ident, $name:literal, $features:literal, $group:literal, $encode:expr, [$($height:literal)*]) => {
        impl Dot for $mac {
            const FORMAT: Format = <Self as Mac>::FORMAT;
            const MR: usize = [$($height),*].len();
            const NR: usize = 2 * <Self as Mac>::WIDTH;
            const UNITS: usize = <Self as Mac>::UNITS;

            #[inline(always)]
            fn gelu(self, row: &mut [f32]) {
                gelu($token::PROVEN, row);
            }

            #[inline(always)]
            fn expect(self, row: &[f32]) {
                row.chunks(16).for_each(|line| prefetch::<_MM_HINT_T0>(line.as_ptr()));
            }

            #[inline(always)]
            fn sums(self, a: Rows<'_>, (from, to): (usize, usize), panel: Panel<'_>, out: &mut [f32], ahead: &[u16]) {
                // Not inlined: the loop needs all registers, and whoever calls has filled them.
                #[inline(never)]
                #[target_feature(enable = $features)]
                unsafe fn sums<const R: usize>(words: usize, a: Rows<'_>, from: usize, panel: Panel<'_>, out: &mut [f32], ahead: &[u16]) {
                    let zeros = std::array::from_fn(|r| a.zero(from + r));
                    let first = (a.words(from, words).as_ptr(), a.stride);
                    // SAFETY: passed on to the caller.
                    unsafe { tile::<$mac, R>(words, first, panel.data.as_ptr(), zeros, panel.totals.as_ptr(), out.as_mut_ptr(), ahead) }
                }
                let words = panel.data.len() / (Self::NR * <Self as Dot>::UNITS);
                assert!(from < to && a.words(to - 1, words).len() == words, "A covers the tile");
                assert!(out.len() >= (to - from) * Self::NR && (panel.totals.len() == Self::NR || <Self as Dot>::FORMAT == Format::Bf16), "a tile of this size");
                // SAFETY: the table is out of reach until its instructions were seen; the ranges are asserted above.
                unsafe {
                    match to - from {
                        $($height => sums::<$height>(words, a, from, panel, out, ahead),)*
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
            encode: |row, factors, words| {
                #[target_feature(enable = $features)]
                fn f(row: &[f32], factors: &[f32], words: &mut [u32]) {
                    $encode($token::PROVEN, row, factors, words);
                }
                // SAFETY: the table is handed out only where its instructions were seen.
                unsafe { f(row, factors, words) }
            },
            matmul: |p| {
                #[target_feature(enable = $features)]
                fn f(p: NarrowProduct<'_>) {
                    matmul($mac, p);
                }
                // SAFETY: the table is handed out only where its instructions were seen.
                unsafe { f(p) }
            },
        };
    };
}

narrow!(AVX2_BF16, Avx2Bf16, Avx2, "avx2", "avx2,fma", 1, encode_bf16::<_, 1>, [1 2 3 4 5 6]);
narrow!(AVX2_INT8, Avx2Int8, Avx2, "avx2", "avx2,fma", 2, encode_int8::<_, 2>, [1 2 3 4 5 6]);
narrow!(AVX512_BF16, Avx512Bf16, Avx512, "avx512-bf16", "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16", 2, encode_bf16_pairs, [1 2 3 4 5 6 7 8 9 10 11 12]);
narrow!(AVX512_INT8, Avx512Int8, Avx512, "avx512-vnni", "avx512f,avx512vl,avx512bw,avx512dq,avx512vnni", 4, encode_int8::<_, 4>, [1 2 3 4 5 6 7 8 9 10 11 12]);

/// `attention_bf16` compiled for a `Mac`'s instructions.
macro_rules! attention {
    ($function:ident, $mac:ident, $token:ident, $features:literal, $group:literal, $encode:expr) => {
        fn $function(head: Head<'_>, scratch: &mut Scratch) {
            #[target_feature(enable = $features)]
            fn f(head: Head<'_>, scratch: &mut Scratch) {
                attention_bf16::<_, _, $group>(
                    $mac,
                    $token::PROVEN,
                    |row, words| $encode($token::PROVEN, row, &[], words),
                    head,
                    scratch,
                );
            }
            // SAFETY: the function is handed out only where its instructions were seen.
            unsafe { f(head, scratch) }
        }
    };
}

attention!(avx2_attention_bf16, Avx2Bf16, Avx2, "avx2,fma", 1, encode_bf16::<_, 1>);
attention!(
    avx512_attention_bf16,
    Avx512Bf16,
    Avx512,
    "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16",
    2,
    encode_bf16_pairs
);

/// Attention in bf16 beside AVX2's table: there if AVX2 is.
pub(crate) fn avx2_attention() -> NarrowAttention {
    avx2_attention_bf16
}

/// Attention in bf16 beside AVX-512's table, by the rule of [`avx512`].
pub(crate) fn avx512_attention() -> NarrowAttention {
    if is_x86_feature_detected!("avx512bf16") { avx512_attention_bf16 } else { avx2_attention_bf16 }
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
