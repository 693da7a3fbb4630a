//! AMX beside AVX512-BF16: products of 8-bit integers and of bf16 by tiles, up to 16,384 and 8,192
//! multiply-adds per instruction. The panels are those of AVX512-VNNI and AVX512-BF16.
//!
//! A tile has up to sixteen rows of 64 bytes. An instruction multiplies a tile of A (rows of
//! sixteen words) by a tile of B (sixteen lines of sixteen cells) and adds the result to a tile of
//! C. Four tiles of C, two by two, are computed at a time, so that each turn of the loop loads four
//! tiles for four products. A tile of B takes 8 cycles and one of A 16, because its rows begin
//! within cache lines; a product takes 16 (Sapphire Rapids, by Intel's manual). So the products are
//! the limit. A single tile of C would need two loads per product.
//!
//! All tiles of a block have the same height. If this does not divide the block's rows, the last
//! tile overlaps the one before it. Configuring the tiles takes some 200 cycles, so this happens
//! once per block of rows, not once per height. A row does not depend on the others, so the rows in
//! both tiles are written twice with the same values.
//!
//! The instructions are written in `asm!`, because intrinsics and detection are not stable.
//! AMX-FP16 (Granite Rapids) would add `tdpfp16ps` here, once there is a number format for it.
//! AVX10.1 is another name for the AVX-512 that these tables use, and a CPU that has it sets the
//! old bits too. AVX10.2 adds only `vpdpbssd` to these products, for which integers of A would be
//! signed.

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::OnceLock;

use ndarray::ArrayViewMut2;

use super::avx512::Avx512;
use super::avx512_bf16::{AVX512_BF16, AVX512_BF16_PRODUCTS, Avx512Bf16};
use super::avx512_vnni::{AVX512_INT8, Avx512Int8};
use super::microkernel::{Mac, activate_rows, attention};
use crate::kernels::lanes::Lanes;
use crate::kernels::low_precision::{Joined, LowPrecision, Microkernel, NumberFormat, Panel, Rows, matmul};
use crate::kernels::{Isa, Kernels};

pub(super) static AMX: Kernels = Kernels {
    isa: Isa::Amx,
    bf16: &BF16,
    int8: &INT8,
    bf16_attention: ATTENTION,
    peak: |format| match format {
        None => (AVX512_BF16.peak)(None),
        Some(format) => Some(peak(format, 1 << 20)),
    },
    ..AVX512_BF16
};

/// Rows of a tile, and the words of such a row.
const TILE: usize = 16;
/// Columns of a panel, which two tiles of B share, and of C.
const NR: usize = 32;

/// Whether this CPU has tiles and products of both formats, and the system lets this process use
/// them.
pub(super) fn is_permitted() -> bool {
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| is_here() && permission())
}

/// What the CPU says, and whether the system saves tiles when it switches threads (bits 17 and 18
/// of XCR0).
fn is_here() -> bool {
    const BF16: u32 = 1 << 22;
    const TILES: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    const OSXSAVE: u32 = 1 << 27;
    #[target_feature(enable = "xsave")]
    fn saved() -> u64 {
        // SAFETY: the caller has seen OSXSAVE.
        unsafe { _xgetbv(0) }
    }
    // Safe since Rust 1.94; the oldest that is supported needs the block.
    #[allow(unused_unsafe, reason = "see above")]
    // SAFETY: every x86-64 CPU has the instruction.
    let cpuid = |leaf, part| unsafe { __cpuid_count(leaf, part) };
    // The palette: 8 tiles of 16 rows of 64 bytes.
    let palette = || {
        let info = cpuid(0x1d, 1);
        (info.ebx >> 16, info.ebx & 0xffff, info.ecx & 0xffff) == (8, 64, 16)
    };
    cpuid(0, 0).eax >= 0x1d
        && cpuid(7, 0).edx & (BF16 | TILES | INT8) == BF16 | TILES | INT8
        && cpuid(1, 0).ecx & OSXSAVE != 0
        // SAFETY: OSXSAVE says that the instruction is there.
        && unsafe { saved() } >> 17 & 3 == 3
        && palette()
}

/// Asks Linux for permission to use tiles, on every thread of this process. Old kernels and gVisor
/// refuse.
#[cfg(target_os = "linux")]
fn permission() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XTILEDATA: usize = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: the call reads and writes no memory of this process; the registers that it spoils are
    // named.
    unsafe {
        asm!(
            "syscall",
            inout("rax") result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// Other systems have other ways, which were not tried.
#[cfg(not(target_os = "linux"))]
fn permission() -> bool {
    false
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Shapes the tiles of this thread for `height` rows of A: 0 to 3 are of C, 4 and 5 of A, 6 and 7
/// of B.
///
/// # Safety
/// The instructions are there and permitted.
unsafe fn configure(height: usize) {
    const LINE: u16 = 64;
    let (upper, lower) = (height.min(TILE) as u8, height.saturating_sub(TILE) as u8);
    let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    config.rows[..8].copy_from_slice(&[upper, upper, lower, lower, upper, lower, TILE as u8, TILE as u8]);
    config.row_bytes = config.rows.map(|rows| if rows > 0 { LINE } else { 0 });
    // SAFETY: `config` is what the instruction reads; the rest is the caller's promise.
    unsafe {
        asm!(
            "ldtilecfg [{config}]", config = in(reg) &config,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags),
        );
    }
}

/// Releases the tiles of this thread, so that switching to and from it is as fast as without AMX.
///
/// # Safety
/// The instructions are there and permitted.
unsafe fn release() {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tilerelease",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nomem, nostack, preserves_flags),
        );
    }
}

/// The last words of a column, fewer than a tile has, with zeros behind them: neither a row of A
/// nor a panel may be read behind its end.
#[repr(C, align(64))]
struct Tail {
    a: [[u32; TILE]; 2 * TILE],
    b: [[u32; NR]; TILE],
}

/// What is multiplied: pointers, with the distances of their rows in bytes.
struct Operands {
    a: *const u32,
    a_stride: usize,
    b: *const u16,
    /// Turns of sixteen words.
    turns: usize,
    /// The turn behind them, or null.
    tail: *const Tail,
    /// What will be read soon, and how many of its bytes each turn fetches.
    to_prefetch: *const u16,
    share: usize,
}

/// Sums of 32 rows and 32 columns, of i32 or of f32.
type Sums = MaybeUninit<[[u32; NR]; 2 * TILE]>;

/// A product of low precision whose panels tiles can read.
///
/// # Safety
/// The methods need the instructions, and tiles that are configured for the height.
trait InTiles: Mac + Microkernel {
    /// Writes the sums of up to 16 rows.
    unsafe fn short(o: Operands, sums: &mut Sums);
    /// Writes the sums of 17 to 32 rows.
    unsafe fn tall(o: Operands, sums: &mut Sums);
}

/// The loop over words: `$zero` first, `$turn` for each sixteen words and `$store` at the end. It
/// is one `asm!`, because the compiler does not know the tile registers.
macro_rules! tiles {
    ($o:ident, $sums:ident, [$($zero:literal)*], [$($turn:expr)*], [$($store:literal)*]) => {
        asm!(
            $($zero,)*
            "test {turns}, {turns}",
            "jz 5f",
            "2:",
            $($turn,)*
            "add {upper}, 64",
            "add {lower}, 64",
            "add {b}, 2048",
            // This turn's share of what comes next.
            "lea {end}, [{to_prefetch} + {share}]",
            "jmp 4f",
            "3:",
            "prefetcht1 byte ptr [{to_prefetch}]",
            "add {to_prefetch}, 64",
            "4:",
            "cmp {to_prefetch}, {end}",
            "jb 3b",
            "dec {turns}",
            "jnz 2b",
            // Once more, for the tail.
            "5:",
            "test {tail}, {tail}",
            "jz 6f",
            "mov {upper}, {tail}",
            "lea {lower}, [{tail} + 1024]",
            "lea {b}, [{tail} + 2048]",
            "mov {a_stride:e}, 64",
            "xor {share:e}, {share:e}",
            "xor {tail:e}, {tail:e}",
            "mov {turns:e}, 1",
            "jmp 2b",
            "6:",
            $($store,)*
            upper = inout(reg) $o.a => _,
            lower = inout(reg) $o.a.wrapping_byte_add(TILE * $o.a_stride) => _,
            a_stride = inout(reg) $o.a_stride => _,
            b = inout(reg) $o.b => _,
            line = in(reg) 4 * NR,
            turns = inout(reg) $o.turns => _,
            tail = inout(reg) $o.tail => _,
            to_prefetch = inout(reg) $o.to_prefetch => _,
            share = inout(reg) $o.share => _,
            end = out(reg) _,
            sums = in(reg) $sums.as_mut_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// The product and the table of `$kernel`, whose panels and rows are those of `$mac`.
macro_rules! in_tiles {
    ($table:ident, $kernel:ident, $mac:ident, $low_precision:ident, $product:literal, $features:literal) => {
        impl InTiles for $mac {
            #[inline(always)]
            unsafe fn short(o: Operands, sums: &mut Sums) {
                // SAFETY: the operands cover what is read, see `tile`; the sums what is written.
                unsafe {
                    tiles!(o, sums, ["tilezero tmm0" "tilezero tmm1"], [
                        "tileloadd tmm6, [{b} + {line}*1]"
                        "tileloadd tmm4, [{upper} + {a_stride}*1]"
                        "tileloadd tmm7, [{b} + {line}*1 + 64]"
                        concat!($product, " tmm0, tmm4, tmm6")
                        concat!($product, " tmm1, tmm4, tmm7")
                    ], [
                        "tilestored [{sums} + {line}*1], tmm0"
                        "tilestored [{sums} + {line}*1 + 64], tmm1"
                    ]);
                }
            }
            #[inline(always)]
            unsafe fn tall(o: Operands, sums: &mut Sums) {
                // SAFETY: as above.
                unsafe {
                    tiles!(o, sums, ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3"], [
                        "tileloadd tmm6, [{b} + {line}*1]"
                        "tileloadd tmm4, [{upper} + {a_stride}*1]"
                        "tileloadd tmm7, [{b} + {line}*1 + 64]"
                        "tileloadd tmm5, [{lower} + {a_stride}*1]"
                        concat!($product, " tmm0, tmm4, tmm6")
                        concat!($product, " tmm1, tmm4, tmm7")
                        concat!($product, " tmm2, tmm5, tmm6")
                        concat!($product, " tmm3, tmm5, tmm7")
                    ], [
                        "tilestored [{sums} + {line}*1], tmm0"
                        "tilestored [{sums} + {line}*1 + 64], tmm1"
                        "tilestored [{sums} + {line}*1 + 2048], tmm2"
                        "tilestored [{sums} + {line}*1 + 2112], tmm3"
                    ]);
                }
            }
        }

        /// The same microkernel, with tiles.
        #[derive(Clone, Copy)]
        struct $kernel;

        impl Microkernel for $kernel {
            const FORMAT: NumberFormat = <$mac as Microkernel>::FORMAT;
            const MR: usize = 2 * TILE;
            const NR: usize = NR;
            const CELL_HALVES: usize = <$mac as Microkernel>::CELL_HALVES;
            const K_GROUP: usize = <$mac as Microkernel>::K_GROUP;
            const SAME_HEIGHT: bool = true;

            #[inline(always)]
            fn begin(self, height: usize) {
                // SAFETY: the table is out of reach until its instructions were seen and permitted.
                unsafe { configure(height) }
            }
            #[inline(always)]
            fn end(self) {
                // SAFETY: as above.
                unsafe { release() }
            }
            #[inline(always)]
            fn words(self, row: &[f32], k_group: usize, words: &mut [u32]) {
                $mac.words(row, k_group, words);
            }
            #[inline(always)]
            fn prefetch_row<T>(self, row: &[T]) {
                $mac.prefetch_row(row);
            }
            fn pack_transposed(self, rows: Joined<'_>, range: Range<usize>, words: usize, dst: &mut [u16]) {
                $mac.pack_transposed(rows, range, words, dst);
            }
            fn pack_rows(self, rows: Joined<'_>, range: Range<usize>, n: usize, dst: &mut [u16]) {
                $mac.pack_rows(rows, range, n, dst);
            }
            #[inline(always)]
            fn tile(
                self,
                a: Rows<'_>,
                rows: (usize, usize),
                _pairs: &[u32],
                panel: Panel<'_>,
                c: &mut ArrayViewMut2<'_, f32>,
                corner: (usize, usize),
                to_prefetch: &[u16],
            ) {
                #[inline(never)]
                #[target_feature(enable = $features)]
                unsafe fn f(
                    a: Rows<'_>,
                    rows: (usize, usize),
                    panel: Panel<'_>,
                    c: &mut ArrayViewMut2<'_, f32>,
                    corner: (usize, usize),
                    to_prefetch: &[u16],
                ) {
                    // SAFETY: passed on to the caller.
                    unsafe { tile::<$mac>(a, rows, panel, c, corner, to_prefetch) }
                }
                // SAFETY: the table is out of reach until its instructions were seen, and `begin`
                // has configured the tiles for this height.
                unsafe { f(a, rows, panel, c, corner, to_prefetch) }
            }
        }

        static $table: LowPrecision = LowPrecision {
            name: "amx",
            matmul: |p| {
                #[target_feature(enable = $features)]
                fn f(p: crate::kernels::LowPrecisionGemm<'_, '_>) {
                    matmul($kernel, p);
                }
                // SAFETY: the table is handed out only where its instructions were seen.
                unsafe { f(p) }
            },
            ..$low_precision
        };
    };
}

in_tiles!(INT8, AmxInt8, Avx512Int8, AVX512_INT8, "tdpbusd", "avx512f,avx512vl,avx512bw,avx512dq,avx512vnni");
in_tiles!(
    BF16,
    AmxBf16,
    Avx512Bf16,
    AVX512_BF16_PRODUCTS,
    "tdpbf16ps",
    "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16"
);
attention!(ATTENTION, AmxBf16, Avx512, "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16");

/// See [`Microkernel::tile`].
///
/// # Safety
/// The instructions are there, and the tiles are configured for as many rows.
#[inline(always)]
unsafe fn tile<M: InTiles<Lanes = Avx512>>(
    a: Rows<'_>,
    (from, to): (usize, usize),
    panel: Panel<'_>,
    c: &mut ArrayViewMut2<'_, f32>,
    corner: (usize, usize),
    to_prefetch: &[u16],
) {
    let (words, height) = (panel.data.len() / (NR * <M as Mac>::CELL_HALVES), to - from);
    assert!(<M as Mac>::CELL_HALVES == 2 && (1..=2 * TILE).contains(&height), "a tile's rows");
    assert!(a.words(to - 1, words).len() == words, "A covers the tile");
    let of_integers = [panel.column_sums.len(), panel.scales.len()] == [NR; 2];
    assert!(panel.bias.len() == NR && (of_integers || <M as Mac>::FORMAT == NumberFormat::Bf16), "a tile's columns");
    assert!(corner.0 + height <= c.nrows() && corner.1 + NR <= c.ncols(), "C covers the tile");
    assert!(c.strides()[1] == 1, "rows of C are contiguous");
    let ldc = c.strides()[0] as usize;
    let (turns, rest) = (words / TILE, words % TILE);
    let mut tail = MaybeUninit::<Tail>::uninit();
    let mut sums = Sums::uninit();
    // SAFETY: of this block: whole turns stay within the rows of A and the panel, asserted above,
    // and the tail has one more. What is read of the sums and of the tail was written.
    unsafe {
        if rest > 0 {
            // By pointers: it is as large as what a tile computes, and is not filled twice.
            let (to_a, to_b) = (&raw mut (*tail.as_mut_ptr()).a, &raw mut (*tail.as_mut_ptr()).b);
            for i in 0..height {
                let row = to_a.cast::<u32>().add(i * TILE);
                row.copy_from_nonoverlapping(a.words(from + i, words)[turns * TILE..].as_ptr(), rest);
                row.add(rest).write_bytes(0, TILE - rest);
            }
            let (lines, panel) = (to_b.cast::<u32>(), panel.data.as_ptr().cast::<u32>());
            lines.copy_from_nonoverlapping(panel.add(turns * TILE * NR), rest * NR);
            lines.add(rest * NR).write_bytes(0, (TILE - rest) * NR);
        }
        let operands = Operands {
            a: a.words(from, words).as_ptr(),
            a_stride: a.stride * size_of::<u32>(),
            b: panel.data.as_ptr(),
            turns,
            tail: if rest > 0 { tail.as_ptr() } else { std::ptr::null() },
            to_prefetch: to_prefetch.as_ptr(),
            share: size_of_val(to_prefetch).div_ceil(turns.max(1)).next_multiple_of(64),
        };
        if height > TILE {
            M::tall(operands, &mut sums)
        } else {
            M::short(operands, &mut sums)
        }
        let (c, sums) = (c.as_mut_ptr().add(corner.0 * ldc + corner.1), sums.as_ptr().cast::<u32>());
        let l = Avx512::PROVEN;
        for half in [0, 16] {
            let bias = l.load(&panel.bias[half..]);
            let scales = if <M as Mac>::FORMAT == NumberFormat::Int8 { l.load(&panel.scales[half..]) } else { bias };
            for r in 0..height {
                let sum = sums.add(r * NR + half).cast::<M::Sum>().read_unaligned();
                let mut v = M::values(sum, a.zero(from + r), panel.column_sums.as_ptr().wrapping_add(half));
                if <M as Mac>::FORMAT == NumberFormat::Int8 {
                    v = l.mul(v, l.mul(l.splat(a.scale(from + r)), scales));
                }
                l.store(std::slice::from_raw_parts_mut(c.add(r * ldc + half), 16), l.add(v, bias));
            }
        }
        activate_rows(l, panel.activation, (c, ldc), height, NR);
    }
}

/// Multiply-adds per second of one thread between tiles that stay in registers.
fn peak(format: NumberFormat, rounds: usize) -> f64 {
    macro_rules! timed {
        ($product:literal) => {{
            let start = std::time::Instant::now();
            // SAFETY: the table is out of reach until its instructions were seen and permitted.
            unsafe {
                configure(2 * TILE);
                asm!(
                    "tilezero tmm4",
                    "tilezero tmm5",
                    "tilezero tmm6",
                    "tilezero tmm7",
                    "2:",
                    concat!($product, " tmm0, tmm4, tmm6"),
                    concat!($product, " tmm1, tmm4, tmm7"),
                    concat!($product, " tmm2, tmm5, tmm6"),
                    concat!($product, " tmm3, tmm5, tmm7"),
                    "dec {rounds}",
                    "jnz 2b",
                    rounds = inout(reg) rounds => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nomem, nostack),
                );
                release();
            }
            start.elapsed().as_secs_f64()
        }};
    }
    let (seconds, k_group) = match format {
        NumberFormat::Int8 => (timed!("tdpbusd"), 4),
        NumberFormat::Bf16 => (timed!("tdpbf16ps"), 2),
    };
    (rounds * 4 * TILE * TILE * TILE * k_group) as f64 / seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_multiplies() {
        if super::super::table(Isa::Amx).is_some() {
            for format in [NumberFormat::Int8, NumberFormat::Bf16] {
                let peak = peak(format, 2);
                assert!(peak.is_finite() && peak > 0.0, "{format:?}: {peak}");
            }
        }
    }
}
