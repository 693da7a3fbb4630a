//! The x86-64 tables. The only place, with its sister folders, where `unsafe` may stand:
//! instructions behind a proof token, and tiles that read and write through pointers whose range
//! they have asserted.
#![allow(unsafe_code, reason = "intrinsics; every other folder is safe code")]

use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};

use super::aligned::LINE;
use super::lanes::Lanes;
use super::{Isa, Kernels};

mod amx;
mod avx2;
mod avx2_vnni;
mod avx512;
mod avx512_bf16;
mod avx512_vnni;
#[cfg(all(test, target_os = "linux"))]
mod emulator;
mod microkernel;
mod pack;
mod peak;

/// The table of `isa`, if this CPU has all its instructions: what makes the proof tokens in the
/// tables true.
pub(super) fn table(isa: Isa) -> Option<&'static Kernels> {
    let avx2 = || avx2::Avx2::detect().is_some();
    let avx2_vnni = || avx2() && is_x86_feature_detected!("avxvnni");
    let avx512 = || avx2() && avx512::Avx512::detect().is_some();
    let vnni = || avx512() && is_x86_feature_detected!("avx512vnni");
    let bf16 = || vnni() && is_x86_feature_detected!("avx512bf16");
    let (here, table) = match isa {
        Isa::Avx2Vnni => (avx2_vnni() || (avx2() && emulated()), &avx2_vnni::AVX2_VNNI),
        Isa::Amx => (bf16() && (amx::is_permitted() || emulated()), &amx::AMX),
        Isa::Avx2 => (avx2(), &avx2::AVX2),
        Isa::Avx512 => (avx512(), &avx512::AVX512),
        Isa::Avx512Vnni => (vnni(), &avx512_vnni::AVX512_VNNI),
        Isa::Avx512Bf16 => (bf16(), &avx512_bf16::AVX512_BF16),
        _ => return None,
    };
    here.then_some(table)
}

/// Whether instructions that this CPU lacks are carried out all the same: in this crate's own
/// tests.
fn emulated() -> bool {
    #[cfg(all(test, target_os = "linux"))]
    return emulator::install();
    #[cfg(not(all(test, target_os = "linux")))]
    return false;
}

/// The functions of a table, compiled for the instructions that `$token` proves.
///
/// Rust gives a function with `#[target_feature]` no safe function pointer, so each entry is a safe
/// function around one. They can only be reached through the table, and the table only after
/// `detect()`.
macro_rules! kernels {
    (
        $table:ident, $isa:expr, $token:ident, $features:literal,
        $bf16:expr, $int8:expr, $attention:expr, $peak:expr
    ) => {
        pub(super) static $table: crate::kernels::Kernels = crate::kernels::Kernels {
            isa: $isa,
            nr: <$token as Tile>::NR,
            bf16: $bf16,
            int8: $int8,
            bf16_attention: $attention,
            bf16_attention_any: $attention,
            peak: $peak,
            matmul: |p| {
                #[target_feature(enable = $features)]
                fn f(p: Gemm<'_>) {
                    matmul(PROVEN, p);
                }
                // SAFETY: `kernels()` hands out this table only after `detect()`.
                unsafe { f(p) }
            },
            attention: |head, scratch| {
                #[target_feature(enable = $features)]
                fn f(head: Head<'_, '_>, scratch: &mut [f32]) {
                    attention(PROVEN, head, scratch);
                }
                // SAFETY: `kernels()` hands out this table only after `detect()`.
                unsafe { f(head, scratch) }
            },
            add_norm: |x, residual, gamma, beta, eps, to_prefetch| {
                #[target_feature(enable = $features)]
                fn f(
                    x: &mut [f32],
                    residual: Option<&[f32]>,
                    gamma: &[f32],
                    beta: &[f32],
                    eps: f32,
                    to_prefetch: usize,
                ) {
                    add_norm(SIXTEEN, x, residual, gamma, beta, eps, to_prefetch);
                }
                // SAFETY: `kernels()` hands out this table only after `detect()`.
                unsafe { f(x, residual, gamma, beta, eps, to_prefetch) }
            },
            rms_norm: |x, residual, gamma, eps| {
                #[target_feature(enable = $features)]
                fn f(x: &mut [f32], residual: Option<&[f32]>, gamma: &[f32], eps: f32) {
                    rms_norm(SIXTEEN, x, residual, gamma, eps);
                }
                // SAFETY: `kernels()` hands out this table only after `detect()`.
                unsafe { f(x, residual, gamma, eps) }
            },
            rope: |row, cos, sin| {
                #[target_feature(enable = $features)]
                fn f(row: &mut [f32], cos: &[f32], sin: &[f32]) {
                    rope(PROVEN, row, cos, sin);
                }
                // SAFETY: `kernels()` hands out this table only after `detect()`.
                unsafe { f(row, cos, sin) }
            },
            gate: |a, b, activation| {
                #[target_feature(enable = $features)]
                fn f(a: &mut [f32], b: &[f32], activation: Activation) {
                    gate(PROVEN, a, b, activation);
                }
                // SAFETY: `kernels()` hands out this table only after `detect()`.
                unsafe { f(a, b, activation) }
            },
            normalize: |row| {
                #[target_feature(enable = $features)]
                fn f(row: &mut [f32]) {
                    normalize(SIXTEEN, row);
                }
                // SAFETY: `kernels()` hands out this table only after `detect()`.
                unsafe { f(row) }
            },
            dot: |a, b| {
                #[target_feature(enable = $features)]
                fn f(a: &[f32], b: &[f32]) -> f32 {
                    dot(SIXTEEN, a, b)
                }
                // SAFETY: `kernels()` hands out this table only after `detect()`.
                unsafe { f(a, b) }
            },
            #[cfg(test)]
            activate: |activation, row| {
                #[target_feature(enable = $features)]
                fn f(activation: Activation, row: &mut [f32]) {
                    activate(PROVEN, activation, row);
                }
                // SAFETY: `kernels()` hands out this table only after `detect()`.
                unsafe { f(activation, row) }
            },
            #[cfg(test)]
            softmax: |row, scale| {
                #[target_feature(enable = $features)]
                fn f(row: &mut [f32], scale: f32) -> f32 {
                    crate::kernels::softmax::softmax(SIXTEEN, row, f32::NEG_INFINITY, scale).1
                }
                // SAFETY: `kernels()` hands out this table only after `detect()`.
                unsafe { f(row, scale) }
            },
        };

        impl crate::kernels::softmax::Softmax for $token {
            #[inline(always)]
            fn softmax(self, row: &mut [f32], least: f32, scale: f32) -> (f32, f32) {
                #[inline(never)]
                #[target_feature(enable = $features)]
                fn f(row: &mut [f32], least: f32, scale: f32) -> (f32, f32) {
                    crate::kernels::softmax::softmax(SIXTEEN, row, least, scale)
                }
                // SAFETY: `self` proves the instructions.
                unsafe { f(row, least, scale) }
            }
        }
    };
}
pub(crate) use kernels;

/// `Tile::tile`: asserts the ranges, then calls the function compiled for just that height.
macro_rules! tile_by_height {
    ($features:literal, $($height:literal)*) => {
        #[inline(always)]
        fn tile(
            self,
            a: &ArrayView2<'_, f32>,
            panel: &[f32],
            c: &mut ArrayViewMut2<'_, f32>,
            place: Place,
            bias: Option<&[f32]>,
            to_prefetch: &[f32],
        ) {
            #[target_feature(enable = $features)]
            unsafe fn tile<const R: usize>(depth: usize, a: (*const f32, usize), b: *const f32, c: (*mut f32, usize), bias: Option<&[f32]>, to_prefetch: &[f32]) {
                // SAFETY: passed on to the caller.
                unsafe { crate::kernels::x86_64::tile::<_, R>(PROVEN, depth, a, b, c, bias, to_prefetch) }
            }
            let Place { rows: (row, end), k0, corner } = place;
            let (rows, depth) = (end - row, panel.len() / Self::NR);
            assert!(end <= a.nrows() && k0 + depth <= a.ncols(), "A covers the tile");
            assert!(corner.0 + rows <= c.nrows() && corner.1 + Self::NR <= c.ncols(), "C covers the tile");
            assert!(bias.is_none_or(|bias| bias.len() == Self::NR), "bias covers the tile");
            let (lda, ldc) = (a.strides()[0] as usize, c.strides()[0] as usize);
            // SAFETY: `self` proves the instructions. The tile lies in `a` and `c`, asserted above,
            // whose rows are contiguous, asserted by `matmul`; the panel has depth × NR values.
            unsafe {
                let a = (a.as_ptr().add(row * lda + k0), lda);
                let c = (c.as_mut_ptr().add(corner.0 * ldc + corner.1), ldc);
                match rows {
                    $($height => tile::<$height>(depth, a, panel.as_ptr(), c, bias, to_prefetch),)*
                    _ => unreachable!("taller than a tile"),
                }
            }
        }
    };
}
pub(crate) use tile_by_height;

/// The step of a tile, for instruction sets to have their own way.
trait Step: Lanes {
    /// One row's: sums + the value at `a`, given to all lanes, · two vectors of B.
    ///
    /// # Safety
    /// `a` points to a value.
    #[inline(always)]
    unsafe fn step(self, sums: [Self::V; 2], a: *const f32, b: [Self::V; 2]) -> [Self::V; 2] {
        // SAFETY: the caller promises it.
        let a = self.splat(unsafe { *a });
        [self.mul_add(a, b[0], sums[0]), self.mul_add(a, b[1], sums[1])]
    }
}

/// A tile of `R` rows by two vectors, whose sums stay in registers. `a` and `c` are pointers with
/// the distance of their rows.
///
/// C is only added to at the end, from a line that was fetched at the start: its latency is
/// behind the sums.
///
/// # Safety
/// `a` points to R rows of `depth` values, `b` to `depth` rows of two vectors, `c` to R rows of two
/// vectors; `bias` has the length of two vectors.
#[inline(always)]
unsafe fn tile<L: Step, const R: usize>(
    l: L,
    depth: usize,
    (a, lda): (*const f32, usize),
    b: *const f32,
    (c, ldc): (*mut f32, usize),
    bias: Option<&[f32]>,
    to_prefetch: &[f32],
) {
    for r in 0..R {
        prefetch::<_MM_HINT_T0>(c.wrapping_add(r * ldc));
        prefetch::<_MM_HINT_T0>(c.wrapping_add(r * ldc + L::WIDTH));
    }
    // Bytes of what comes next that each step fetches.
    let share = size_of_val(to_prefetch).div_ceil(depth.max(1));
    let to_prefetch = (to_prefetch.as_ptr().cast::<u8>(), share);
    let mut sums = [[l.splat(0.0); 2]; R];
    // Four at a time: the loop's own arithmetic would take slots from the products.
    // SAFETY: k < depth throughout.
    unsafe {
        for k in (0..depth / 4 * 4).step_by(4) {
            step(l, k, a, lda, b, to_prefetch, &mut sums);
            step(l, k + 1, a, lda, b, to_prefetch, &mut sums);
            step(l, k + 2, a, lda, b, to_prefetch, &mut sums);
            step(l, k + 3, a, lda, b, to_prefetch, &mut sums);
        }
        for k in depth / 4 * 4..depth {
            step(l, k, a, lda, b, to_prefetch, &mut sums);
        }
    }
    for (r, sum) in sums.iter().enumerate() {
        // SAFETY: row r of `c` has two vectors.
        let row = unsafe { std::slice::from_raw_parts_mut(c.add(r * ldc), 2 * L::WIDTH) };
        let start = bias.unwrap_or(row);
        let whole = [l.add(l.load(start), sum[0]), l.add(l.load(&start[L::WIDTH..]), sum[1])];
        l.store(row, whole[0]);
        l.store(&mut row[L::WIDTH..], whole[1]);
    }
}

/// Adds the products of column `k` of A and row `k` of the panel. (A function, not a closure: a
/// closure with several callers stays a call, and without the instructions of its caller.)
///
/// # Safety
/// Row r of `a` has more than `k` values for r < R, and `b` more than `k` rows of two vectors.
#[inline(always)]
unsafe fn step<L: Step, const R: usize>(
    l: L,
    k: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    (to_prefetch, share): (*const u8, usize),
    sums: &mut [[L::V; 2]; R],
) {
    let to_prefetch = to_prefetch.wrapping_add(k * share);
    prefetch::<_MM_HINT_T1>(to_prefetch.cast());
    // A row of a wide panel is two lines, both due where one tile has all rows.
    if 2 * L::WIDTH * size_of::<f32>() > LINE && share > LINE {
        prefetch::<_MM_HINT_T1>(to_prefetch.wrapping_add(LINE).cast());
    }
    // SAFETY: row k of the panel has two vectors.
    let b = unsafe { std::slice::from_raw_parts(b.add(k * 2 * L::WIDTH), 2 * L::WIDTH) };
    let b = [l.load(b), l.load(&b[L::WIDTH..])];
    for (r, sum) in sums.iter_mut().enumerate() {
        // SAFETY: row r of `a` has a value k.
        *sum = unsafe { l.step(*sum, a.add(r * lda + k), b) };
    }
}

/// Fetches the cache line at `p`, which need not be a valid address.
#[inline(always)]
fn prefetch<const HINT: i32>(p: *const f32) {
    // SAFETY: SSE is part of x86-64, and a prefetch of any address is harmless.
    unsafe { _mm_prefetch::<HINT>(p.cast()) }
}

#[cfg(test)]
mod tests {
    /// A whole model on the tables whose instructions the tests carry out where the CPU lacks them.
    #[test]
    #[cfg(all(target_os = "linux", feature = "bundled"))]
    fn a_model_gives_the_same_on_emulated_tables() {
        use crate::embedder::Embedder;
        use crate::files::ModelFiles;
        use crate::kernels::Isa;

        let long = "退货运费由谁承担，退款多久到账？".repeat(9);
        let texts = ["怎么退货？", "How do I return a broken kettle?", "今天下雨。", &long];
        for isa in [Isa::Avx2Vnni, Isa::Amx].into_iter().filter(|&isa| super::table(isa).is_some()) {
            for precision in ["f32", "bf16", "int8"] {
                let embed = |isa, texts: &[&str]| {
                    let builder = Embedder::from_files(ModelFiles::bundled()).isa(isa).threads(1);
                    let embedder = builder.precision(precision.parse().expect("a precision")).build();
                    embedder.and_then(|e| e.embed(texts)).expect("vectors")
                };
                let (expected, found) = (embed(Isa::Avx2, &texts), embed(isa, &texts));
                for (i, &text) in texts.iter().enumerate() {
                    let (a, b) = (expected.get(i).expect("a vector"), found.get(i).expect("a vector"));
                    let cosine: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                    assert!(cosine > 0.9995, "{isa}, {precision}: {cosine} for {text}");
                    assert_eq!(embed(isa, &[text]).as_slice(), b, "{isa}, {precision}: alone");
                    if isa == Isa::Avx2Vnni {
                        assert_eq!(a, b, "{precision}: the rest of the table is AVX2's, and integers are exact");
                    }
                }
            }
        }
    }
}
