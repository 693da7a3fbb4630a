//! How many multiply-adds a thread of this CPU makes in registers alone: what no product can
//! exceed. For benches.

use std::arch::x86_64::*;
use std::hint::black_box;
use std::time::Instant;

/// Sums in flight: more than latency × pipes of any CPU so far.
const SUMS: usize = 12;
const ROUNDS: usize = 4_000_000;

/// A function that times `SUMS` × `ROUNDS` instructions of one kind, `$lanes` multiply-adds each.
macro_rules! peak {
    ($name:ident, $features:literal, $lanes:literal, $zero:expr, $one:expr, $add:expr) => {
        pub(super) fn $name() -> f64 {
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
            // The best of a few: others use this machine too.
            // SAFETY: called from a table, which is out of reach until its instructions were seen.
            (0..5).map(|_| unsafe { f() }).fold(0.0, f64::max)
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
        // SAFETY: writes registers. (As intrinsics the products would be made once, before the
        // loop.)
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
peak!(avx2_vnni, "avx2,avxvnni", 32, _mm256_setzero_si256(), _mm256_set1_epi32(1), |s, a, b| {
    _mm256_dpbusd_avx_epi32(s, a, b)
});
peak!(avx512_f32, "avx512f", 16, _mm512_setzero_ps(), _mm512_set1_ps(1.0), |s, a, b| _mm512_fmadd_ps(a, b, s));
peak!(avx512_bf16, "avx512f,avx512bf16", 32, _mm512_setzero_ps(), _mm512_set1_epi32(1), |s, a, b| {
    // SAFETY: both types are 512 bits of any content.
    let bf16 = |v| unsafe { std::mem::transmute::<__m512i, __m512bh>(v) };
    _mm512_dpbf16_ps(s, bf16(a), bf16(b))
});
peak!(avx512_int8, "avx512f,avx512vnni", 64, _mm512_setzero_si512(), _mm512_set1_epi32(1), |s, a, b| {
    _mm512_dpbusd_epi32(s, a, b)
});
