//! How many multiply-adds a thread of this CPU makes in registers alone: what no product can exceed. For benches.

use std::arch::x86_64::*;
use std::hint::black_box;
use std::time::Instant;

use crate::kernels::{Format, Isa};

/// Sums in flight: more than latency × pipes of any CPU so far.
const SUMS: usize = 12;
const ROUNDS: usize = 4_000_000;

/// A function that times `SUMS` × `ROUNDS` instructions of one kind, `$lanes` multiply-adds each.
macro_rules! peak {
    ($name:ident, $features:literal, $lanes:literal, $zero:expr, $one:expr, $add:expr) => {
        fn $name() -> f64 {
            #[target_feature(enable = $features)]
            fn f() -> f64 {
                let one = black_box($one);
                let mut sums = [$zero; SUMS];
                let start = Instant::now();
                for _ in 0..ROUNDS {
                    for sum in &mut sums {
                        *sum = $add(*sum, one, one);
                    }
                }
                let seconds = start.elapsed().as_secs_f64();
                black_box(sums);
                (SUMS * ROUNDS * $lanes) as f64 / seconds
            }
            // SAFETY: called below, where the instructions were seen.
            unsafe { f() }
        }
    };
}

peak!(avx2_f32, "avx2,fma", 8, _mm256_setzero_ps(), _mm256_set1_ps(1.0), |s, a, b| _mm256_fmadd_ps(a, b, s));
peak!(
    avx2_int8,
    "avx2,fma",
    16,
    _mm256_setzero_si256(),
    _mm256_set1_epi16(1),
    |mut s: __m256i, a: __m256i, b: __m256i| {
        // SAFETY: writes registers. (As intrinsics the products would be made once, before the loop.)
        unsafe {
            std::arch::asm!(
                "vpmaddwd {product}, {a}, {b}",
                "vpaddd {s}, {s}, {product}",
                a = in(ymm_reg) a, b = in(ymm_reg) b, s = inout(ymm_reg) s, product = out(ymm_reg) _,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        s
    }
);
peak!(avx512_f32, "avx512f", 16, _mm512_setzero_ps(), _mm512_set1_ps(1.0), |s, a, b| _mm512_fmadd_ps(a, b, s));
peak!(avx512_bf16, "avx512f,avx512bf16", 32, _mm512_setzero_ps(), _mm512_set1_epi32(1), |s, a, b| {
    // SAFETY: both types are 512 bits of any content.
    let bf16 = |v| unsafe { std::mem::transmute::<__m512i, __m512bh>(v) };
    _mm512_dpbf16_ps(s, bf16(a), bf16(b))
});
peak!(avx512_int8, "avx512f,avx512vnni", 64, _mm512_setzero_si512(), _mm512_set1_epi32(1), |s, a, b| {
    _mm512_dpbusd_epi32(s, a, b)
});

/// Multiply-adds a second of this thread, by the instructions that `isa` has for `format` (f32 without one).
pub(crate) fn peak(isa: Isa, format: Option<Format>) -> Option<f64> {
    let probe = match (isa, format) {
        (Isa::Avx512, None) => avx512_f32,
        (Isa::Avx512, Some(Format::Bf16)) if is_x86_feature_detected!("avx512bf16") => avx512_bf16,
        (Isa::Avx512, Some(Format::Int8)) if is_x86_feature_detected!("avx512vnni") => avx512_int8,
        (Isa::Avx512 | Isa::Avx2, None | Some(Format::Bf16)) => avx2_f32,
        (Isa::Avx512 | Isa::Avx2, Some(Format::Int8)) => avx2_int8,
        (Isa::Scalar, _) => return None,
    };
    // The best of a few: others use this machine too.
    crate::kernels::Kernels::of(isa).map(|_| (0..5).map(|_| probe()).fold(0.0, f64::max))
}
