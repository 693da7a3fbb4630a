//! Every kernel × every table of this CPU against a plain loop in f64, at many lengths and
//! alignments, within the bound that the kernel's file states. A table that this CPU lacks is named
//! as skipped, and is a failure under `GTE_REQUIRE_ISA`.
#![allow(clippy::print_stderr, clippy::unwrap_used, reason = "tests: one that could not run says so")]

use ndarray::{Array2, ArrayView2, ArrayViewMut2, ShapeBuilder, s};
use proptest::prelude::*;

use super::activation::{self, Activation};
use super::arena::Arena;
use super::low_precision::{
    self, HEADER, LowPrecisionGemm, LowPrecisionWeights, NumberFormat, Output, PackedLowPrecision, Rows, int8_rows,
    to_bf16,
};
use super::matmul::{Gemm, row_stride};
use super::pack::Packed;
use super::{Isa, Kernels};
use super::{dot, layer_norm, matmul, normalize, rms_norm, rope, scalar, softmax};

mod heads;

/// Runs `test` once for each instruction set of this CPU, or only for that of `GTE_ISA`, and names
/// those that it lacks.
fn on_every_isa(test: impl Fn(&'static Kernels)) {
    let required = std::env::var("GTE_REQUIRE_ISA").unwrap_or_default();
    let only = std::env::var("GTE_ISA").ok().map(|name| Isa::from_name(&name).expect("the name of a table in GTE_ISA"));
    for &isa in Isa::ALL.iter().filter(|&&isa| only.is_none_or(|only| only == isa)) {
        match Kernels::of(isa) {
            Some(kernels) => test(kernels),
            None => {
                assert!(!required.split(',').any(|r| r == isa.name()), "GTE_REQUIRE_ISA={required}: no {isa} here");
                eprintln!("skipped: {isa} is not on this CPU");
            }
        }
    }
}

/// A signal handler executes the instructions that this CPU lacks, if it has the rest of the table.
#[test]
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn tables_that_can_be_emulated_are_tested() {
    for (rest, emulated) in [(Isa::Avx2, Isa::Avx2Vnni), (Isa::Avx512Bf16, Isa::Amx)] {
        assert_eq!(Kernels::of(rest).is_some(), Kernels::of(emulated).is_some(), "{rest} and {emulated}");
    }
}

/// Seeded values in −scale..scale.
fn values(seed: u64, n: usize, scale: f32) -> Vec<f32> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale
        })
        .collect()
}

/// A kernel that maps a row to a row, its plain loop in f64, and the error that is allowed at each
/// place.
struct RowTest<R, B> {
    kernel: fn(&Kernels, &mut [f32]),
    reference: R,
    allowed: B,
    scale: f32,
}

impl<R: Fn(&[f64]) -> Vec<f64>, B: Fn(f64, f64) -> f64> RowTest<R, B> {
    /// At all lengths up to 70 and some long ones, at every offset from a cache line.
    fn run(self) {
        on_every_isa(|kernels| {
            for n in (1..70).chain([127, 384, 512, 1024, 4096]) {
                for offset in 0..if n < 70 { 16 } else { 3 } {
                    let mut data = values((n * 31 + offset) as u64, n + offset, self.scale);
                    let row = &mut data[offset..];
                    let exact: Vec<f64> = row.iter().map(|&v| v as f64).collect();
                    let expected = (self.reference)(&exact);
                    (self.kernel)(kernels, row);
                    for i in 0..n {
                        let (error, allowed) =
                            ((row[i] as f64 - expected[i]).abs(), (self.allowed)(exact[i], expected[i]));
                        assert!(
                            error <= allowed,
                            "{}: n {n}, [{i}]: {} for {}, allowed {allowed:e}",
                            kernels.isa,
                            row[i],
                            expected[i]
                        );
                    }
                }
            }
        });
    }
}

/// erf to f64 precision by its series, Σ (−1)ⁿ x²ⁿ⁺¹ / (n! (2n+1)) · 2/√π, and ±1 beyond 6.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    // Kummer's form has no cancellation: 2/√π · e^(−x²) · Σ 2ⁿ x²ⁿ⁺¹ / (2n+1)!!
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while term.abs() > 1e-18 * sum.abs() && n < 400.0 {
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
        n += 1.0;
    }
    sum * (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI
}

const ACTIVATIONS: [Activation; 5] =
    [Activation::None, Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Relu];

/// As the papers write them.
fn activated(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::None => x,
        Activation::Gelu => x / 2.0 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            x / 2.0 * (1.0 + u.tanh())
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
    }
}

#[test]
fn activations_are_what_they_are_defined_as() {
    macro_rules! check {
        ($activation:expr, $scale:expr) => {
            RowTest {
                kernel: |k, row| (k.activate)($activation, row),
                reference: |x: &[f64]| x.iter().map(|&x| activated($activation, x)).collect(),
                allowed: |x: f64, _| activation::MAX_ERROR as f64 * x.abs().max(1.0),
                scale: $scale,
            }
            .run()
        };
    }
    for scale in [0.5, 8.0, 100.0, 1e6] {
        check!(Activation::None, scale);
        check!(Activation::Gelu, scale);
        check!(Activation::GeluTanh, scale);
        check!(Activation::Silu, scale);
        check!(Activation::Relu, scale);
    }
}

#[test]
fn a_gate_is_the_product_with_the_activation() {
    for activation in ACTIVATIONS {
        on_every_isa(|kernels| {
            for n in (1..70).chain([384, 1000, 3072]) {
                let (a, b) = (values(n as u64, n, 8.0), values(n as u64 ^ 5, n, 3.0));
                let mut gated = a.clone();
                (kernels.gate)(&mut gated, &b, activation);
                for i in 0..n {
                    let expected = activated(activation, f64::from(a[i])) * f64::from(b[i]);
                    let size = f64::from(a[i]).abs().max(1.0) * f64::from(b[i]).abs();
                    let error = (f64::from(gated[i]) - expected).abs();
                    let allowed = f64::from(activation::MAX_ERROR_GATE) * size;
                    assert!(
                        error <= allowed,
                        "{}, {activation:?}: n {n}, [{i}]: {} for {expected}",
                        kernels.isa,
                        gated[i]
                    );
                }
            }
        });
    }
}

#[test]
fn rope_turns_pairs_of_the_halves_of_each_head() {
    on_every_isa(|kernels| {
        for (heads, half) in [(1, 1), (3, 5), (2, 12), (12, 32), (5, 40), (16, 64), (1, 128)] {
            let angles: Vec<f64> = (0..half).map(|i| 1234.0 / 10_000f64.powf(i as f64 / half as f64)).collect();
            let cos: Vec<f32> = angles.iter().map(|a| a.cos() as f32).collect();
            let sin: Vec<f32> = angles.iter().map(|a| a.sin() as f32).collect();
            let x = values(half as u64, heads * 2 * half, 4.0);
            let mut row = x.clone();
            (kernels.rope)(&mut row, &cos, &sin);
            for (i, &value) in row.iter().enumerate() {
                let (head, at) = (i / (2 * half) * 2 * half, i % half);
                let (a, b) = (f64::from(x[head + at]), f64::from(x[head + half + at]));
                let (cos, sin) = (f64::from(cos[at]), f64::from(sin[at]));
                let expected = if i - head < half { a * cos - b * sin } else { b * cos + a * sin };
                let allowed = f64::from(rope::MAX_ERROR) * (a.abs() + b.abs());
                let error = (f64::from(value) - expected).abs();
                assert!(error <= allowed, "{}: {heads} × {half}, [{i}]: {value} for {expected}", kernels.isa);
            }
        }
    });
}

#[test]
fn rms_norm_divides_the_sum_by_its_root_mean_square() {
    let (gamma, residual) = (values(1, 4096, 2.0), values(3, 4096, 1.0));
    for with_residual in [false, true] {
        on_every_isa(|kernels| {
            for n in (1..70).chain([384, 1024, 4096]) {
                let mut x: Vec<f32> = values(n as u64, n, 3.0).iter().map(|v| v + 0.5).collect();
                let added = |i: usize| if with_residual { residual[i] } else { 0.0 };
                let y: Vec<f64> = (0..n).map(|i| f64::from(x[i] + added(i))).collect();
                let length = (y.iter().map(|v| v * v).sum::<f64>() / n as f64 + 1e-6).sqrt();
                (kernels.rms_norm)(&mut x, with_residual.then_some(&residual[..n]), &gamma[..n], 1e-6);
                for i in 0..n {
                    let expected = y[i] / length * f64::from(gamma[i]);
                    let error = (f64::from(x[i]) - expected).abs();
                    let allowed = f64::from(rms_norm::MAX_ERROR) * 2.0 * (y[i] / length).abs().max(1.0);
                    assert!(error <= allowed, "{}: n {n}, [{i}]: {} for {expected}", kernels.isa, x[i]);
                }
            }
        });
    }
}

#[test]
fn softmax_is_exp_of_scaled_differences() {
    for scale in [0.5, 20.0, 300.0] {
        RowTest {
            kernel: |k, row| {
                let sum = (k.softmax)(row, 0.125);
                let expected: f64 = row.iter().map(|&v| v as f64).sum();
                assert!((sum as f64 - expected).abs() <= 1e-6 * expected, "the sum is that of the values");
            },
            reference: |x: &[f64]| {
                let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                x.iter().map(|v| ((v - max) * 0.125).exp()).collect()
            },
            allowed: |_, e| softmax::MAX_RELATIVE_ERROR as f64 * e + 1.2e-38,
            scale,
        }
        .run();
    }
}

#[test]
fn normalize_gives_unit_rows() {
    RowTest {
        kernel: |k, row| (k.normalize)(row),
        reference: |x: &[f64]| {
            let length = x.iter().map(|v| v * v).sum::<f64>().sqrt();
            x.iter().map(|v| v / length).collect()
        },
        allowed: |_, _| normalize::MAX_ERROR as f64,
        scale: 3.0,
    }
    .run();
    on_every_isa(|k| {
        let mut zero = [0.0; 20];
        (k.normalize)(&mut zero);
        assert_eq!(zero, [0.0; 20]);
    });
}

#[test]
fn add_norm_is_layer_norm_of_the_sum() {
    let (gamma, beta) = (values(1, 4096, 2.0), values(2, 4096, 1.0));
    let residual = values(3, 4096, 1.0);
    for (with_residual, with_beta) in [(false, true), (true, true), (true, false), (false, false)] {
        on_every_isa(|kernels| {
            for n in (1..70).chain([384, 1024, 4096]) {
                let mut x: Vec<f32> = values(n as u64, n, 3.0).iter().map(|v| v + 2.0).collect();
                let y: Vec<f64> =
                    (0..n).map(|i| (x[i] + if with_residual { residual[i] } else { 0.0 }) as f64).collect();
                let mean = y.iter().sum::<f64>() / n as f64;
                let variance = y.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
                let given = if with_beta { &beta[..n] } else { &[] };
                let residual = with_residual.then_some(&residual[..n]);
                (kernels.add_norm)(&mut x, residual, &gamma[..n], given, 1e-5, n);
                for i in 0..n {
                    let expected = (y[i] - mean) / (variance + 1e-5).sqrt() * gamma[i] as f64
                        + given.get(i).copied().unwrap_or(0.0) as f64;
                    let error = (x[i] as f64 - expected).abs();
                    // One value has no spread: what is left of mean(y) − y is rounding, blown up by
                    // 1/√eps.
                    let allowed = layer_norm::MAX_ERROR as f64 * if n < 4 { 100.0 } else { 3.0 };
                    assert!(error <= allowed, "{}: n {n}, [{i}]: {} for {expected}", kernels.isa, x[i]);
                }
            }
        });
    }
}

#[test]
fn dot_is_the_sum_of_products() {
    on_every_isa(|kernels| {
        for n in (0..140).chain([384, 1024, 4096]) {
            let (a, b) = (values(n as u64, n, 1.0), values(n as u64 + 7, n, 1.0));
            let products = || a.iter().zip(&b).map(|(&a, &b)| a as f64 * b as f64);
            let error = ((kernels.dot)(&a, &b) as f64 - products().sum::<f64>()).abs();
            assert!(
                error <= dot::MAX_ERROR as f64 * products().map(f64::abs).sum::<f64>(),
                "{}: n {n}: {error:e}",
                kernels.isa
            );
        }
    });
}

/// A·Bᵀ + bias through the packed kernel, with rows of A and C at their strides, split over
/// `pieces` of columns.
fn product(
    kernels: &Kernels,
    a: &Array2<f32>,
    weight: &Array2<f32>,
    bias: &[f32],
    activation: Activation,
    pieces: usize,
) -> Array2<f32> {
    let ((m, k), n) = (a.dim(), weight.nrows());
    let packed = Packed::from_weights(
        &[weight.slice(s![..n / 3, ..]), weight.slice(s![n / 3.., ..])],
        kernels.nr,
        &Arena::default(),
    );
    let (lda, ldc) = (row_stride(k), row_stride(n));
    let mut a_strided = vec![f32::NAN; m * lda + 1];
    ArrayViewMut2::from_shape((m, k).strides((lda, 1)), &mut a_strided).unwrap().assign(a);
    let a = ArrayView2::from_shape((m, k).strides((lda, 1)), &a_strided).unwrap();
    let mut c_strided = vec![f32::NAN; m * ldc + 1];
    let mut c = ArrayViewMut2::from_shape((m, n).strides((ldc, 1)), &mut c_strided).unwrap();
    let chunk = n.div_ceil(kernels.nr).div_ceil(pieces).max(1) * kernels.nr;
    for (i, c) in c.axis_chunks_iter_mut(ndarray::Axis(1), chunk).enumerate() {
        let first = i * chunk;
        let bias = if bias.is_empty() { bias } else { &bias[first..first + c.ncols()] };
        (kernels.matmul)(Gemm { a, b: packed.panels(), first_panel: first / kernels.nr, c, bias, activation });
    }
    c.to_owned()
}

/// `values` in words of `k_group` values of bf16, as the specification of `to_bf16` has it.
fn words_of(values: &[f32], k_group: usize) -> Vec<u32> {
    let word = |values: &[f32]| match *values {
        [x] if k_group == 1 => to_bf16(x),
        [x] => to_bf16(x) >> 16,
        [x, y] => to_bf16(x) >> 16 | to_bf16(y),
        _ => unreachable!("one or two values per word"),
    };
    values.chunks(k_group).map(word).collect()
}

/// A·Bᵀ + bias in low precision, with rows at their strides, split over `pieces` of columns. Checks
/// that an output in bf16, one or two values per word, is the output in f32, rounded.
fn low_precision_gemm(
    kernels: &Kernels,
    format: NumberFormat,
    a: &Array2<f32>,
    weight: LowPrecisionWeights,
    bias: &[f32],
    activation: Activation,
    pieces: usize,
) -> Array2<f32> {
    let low_precision = kernels.low_precision(format);
    let ((m, k), n) = (a.dim(), bias.len());
    let packed = PackedLowPrecision::from_weights(&[weight], k, low_precision, &Arena::default());
    let row_words = HEADER + k.div_ceil(low_precision.k_group);
    let stride = row_words + 3;
    let mut words = vec![0xDEAD_BEEF; m * stride];
    for (row, words) in a.rows().into_iter().zip(words.chunks_mut(stride)) {
        (low_precision.encode)(row.as_slice().unwrap(), &vec![1.0; k], &mut words[..row_words], stride);
    }
    let mut c = Array2::from_elem((m, n), f32::NAN);
    let chunk = n.div_ceil(low_precision.nr).div_ceil(pieces).max(1) * low_precision.nr;
    let part = |first: usize, c: Output<'_>| {
        let (a, bias) = (Rows { data: &words, stride }, &bias[first..first + c.dim().1]);
        (low_precision.matmul)(LowPrecisionGemm {
            a,
            b: packed.panels(),
            first_panel: first / low_precision.nr,
            c,
            bias,
            activation,
        });
    };
    for (i, c) in c.axis_chunks_iter_mut(ndarray::Axis(1), chunk).enumerate() {
        part(i * chunk, Output::F32(c));
    }
    for k_group in [1, 2] {
        let mut stored = Array2::from_elem((m, n.div_ceil(k_group)), 0xDEAD_BEEF);
        for (i, words) in stored.axis_chunks_iter_mut(ndarray::Axis(1), chunk / k_group).enumerate() {
            let columns = chunk.min(n - i * chunk);
            part(i * chunk, Output::Bf16 { words, columns, k_group });
        }
        for (row, stored) in c.rows().into_iter().zip(stored.rows()) {
            assert_eq!(
                stored.to_vec(),
                words_of(row.as_slice().unwrap(), k_group),
                "{} {format:?} by {k_group}",
                kernels.isa
            );
        }
    }
    c
}

/// Integers are the twin's to the last one, so that a pool of unlike CPUs ranks alike.
#[test]
fn a_row_becomes_the_same_integers_on_every_isa() {
    let encoded = |kernels: &Kernels, row: &[f32], smoothing: &[f32]| -> (Vec<u32>, Vec<u32>) {
        let low_precision = kernels.low_precision(NumberFormat::Int8);
        let mut words = vec![0xDEAD_BEEF; HEADER + row.len().div_ceil(low_precision.k_group)];
        (low_precision.encode)(row, smoothing, &mut words, 0);
        let (header, words) = words.split_at(HEADER);
        let header = [header[0], header[1].wrapping_add(low_precision.zero)];
        let (bits, mask) = (32 / low_precision.k_group, u32::MAX >> (32 - 8));
        let integers = words
            .iter()
            .flat_map(|word| (0..low_precision.k_group).map(move |i| (word >> (bits * i) & mask) ^ low_precision.zero));
        (header.to_vec(), integers.take(row.len()).collect())
    };
    for n in (1..70).chain([384, 1000, 1024]) {
        let smoothing: Vec<f32> = values(n as u64 ^ 1, n, 0.5).iter().map(|v| v + 1.0).collect();
        let row = values(n as u64, n, 3.0);
        let negative: Vec<f32> = row.iter().map(|v| -v.abs()).collect();
        let positive: Vec<f32> = row.iter().map(|v| v.abs()).collect();
        for row in [row, negative, positive, vec![0.0; n]] {
            let expected = encoded(&scalar::KERNELS, &row, &smoothing);
            on_every_isa(|kernels| {
                assert_eq!(encoded(kernels, &row, &smoothing), expected, "{}: {n} values", kernels.isa)
            });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn matmul_is_the_product(m in 1usize..40, k in 1usize..1300, n in 1usize..100, pieces in 1usize..4, seed: u64, with_bias: bool) {
        let a = Array2::from_shape_vec((m, k), values(seed, m * k, 1.0)).unwrap();
        let weight = Array2::from_shape_vec((n, k), values(seed ^ 1, n * k, 1.0)).unwrap();
        let bias = if with_bias { values(seed ^ 2, n, 1.0) } else { Vec::new() };
        on_every_isa(|kernels| {
            let c = product(kernels, &a, &weight, &bias, Activation::None, pieces);
            for ((i, j), &c) in c.indexed_iter() {
                let products = || a.row(i).into_iter().zip(weight.row(j)).map(|(&a, &b)| a as f64 * b as f64);
                let bias = bias.get(j).copied().unwrap_or(0.0) as f64;
                let error = (c as f64 - bias - products().sum::<f64>()).abs();
                let size = products().map(f64::abs).sum::<f64>() + bias.abs();
                assert!(error <= matmul::MAX_ERROR * size, "{}: [{i}, {j}] of {m}×{k}×{n}: off by {error:e}", kernels.isa);
            }
            // The activation sees the finished sums, wherever the tile lies.
            let sums = product(kernels, &a, &weight, &bias, Activation::None, 1);
            for activation in ACTIVATIONS {
                let mut expected = sums.clone();
                (kernels.activate)(activation, expected.as_slice_mut().unwrap());
                let product = product(kernels, &a, &weight, &bias, activation, pieces);
                assert_eq!(product, expected, "{} {activation:?}", kernels.isa);
            }
        });
    }

    #[test]
    fn a_row_of_a_product_does_not_depend_on_the_others(m in 2usize..40, k in 1usize..1300, n in 1usize..100, pieces in 1usize..4, seed: u64) {
        let a = Array2::from_shape_vec((m, k), values(seed, m * k, 1.0)).unwrap();
        let weight = Array2::from_shape_vec((n, k), values(seed ^ 1, n * k, 1.0)).unwrap();
        on_every_isa(|kernels| {
            let all = product(kernels, &a, &weight, &[], Activation::Gelu, pieces);
            for i in [0, m / 2, m - 1] {
                let alone = product(kernels, &a.slice(s![i..=i, ..]).to_owned(), &weight, &[], Activation::Gelu, 1);
                assert_eq!(alone.row(0), all.row(i), "{}: row {i} of {m}×{k}×{n}", kernels.isa);
            }
        });
    }

    /// Beside what the sums are rounded to, the error is that of the activation.
    #[test]
    fn a_product_in_low_precision_has_its_activation(m in 1usize..30, k in 1usize..200, n in 1usize..70, scale in 0.1f32..4.0, seed: u64) {
        let a = Array2::from_shape_vec((m, k), values(seed, m * k, scale)).unwrap();
        let weight = values(seed ^ 1, n * k, 1.0);
        let bias = values(seed ^ 2, n, scale);
        on_every_isa(|kernels| {
            for format in [NumberFormat::Bf16, NumberFormat::Int8] {
                let product = |activation| {
                    let rows = match format {
                        NumberFormat::Bf16 => LowPrecisionWeights::Bf16(weight.iter().map(|&v| (to_bf16(v) >> 16) as u16).collect()),
                        NumberFormat::Int8 => {
                            let (integers, scales) = int8_rows(&weight, k);
                            LowPrecisionWeights::Int8(integers, scales)
                        }
                    };
                    low_precision_gemm(kernels, format, &a, rows, &bias, activation, 1)
                };
                let sums = product(Activation::None);
                for activation in ACTIVATIONS {
                    let bound = if activation == Activation::Gelu { activation::MAX_ERROR_ROUGH } else { activation::MAX_ERROR };
                    for (found, &x) in product(activation).iter().zip(&sums) {
                        let error = (f64::from(*found) - activated(activation, f64::from(x))).abs() as f32;
                        assert!(error <= bound * x.abs().max(1.0), "{} {format:?} {activation:?} of {x}: off by {error:e}", kernels.isa);
                    }
                }
            }
        });
    }

    #[test]
    fn a_bf16_product_is_that_of_the_rounded_operands(m in 1usize..40, k in 1usize..1300, n in 1usize..100, pieces in 1usize..4, seed: u64) {
        let rounded = |values: Vec<f32>| -> Vec<f32> { values.into_iter().map(|v| f32::from_bits(to_bf16(v))).collect() };
        let a = Array2::from_shape_vec((m, k), values(seed, m * k, 1.0)).unwrap();
        let exact_a = Array2::from_shape_vec((m, k), rounded(values(seed, m * k, 1.0))).unwrap();
        let weight = Array2::from_shape_vec((n, k), rounded(values(seed ^ 1, n * k, 1.0))).unwrap();
        let bias = values(seed ^ 2, n, 1.0);
        let rows = || LowPrecisionWeights::Bf16(weight.iter().map(|&v| (to_bf16(v) >> 16) as u16).collect());
        on_every_isa(|kernels| {
            let c = low_precision_gemm(kernels, NumberFormat::Bf16, &a, rows(), &bias, Activation::None, pieces);
            for ((i, j), &c) in c.indexed_iter() {
                let products = || exact_a.row(i).into_iter().zip(weight.row(j)).map(|(&a, &b)| a as f64 * b as f64);
                let error = (c as f64 - bias[j] as f64 - products().sum::<f64>()).abs();
                let size = products().map(f64::abs).sum::<f64>() + bias[j].abs() as f64;
                assert!(error <= low_precision::MAX_ERROR_BF16 * size, "{}: [{i}, {j}] of {m}×{k}×{n}: off by {error:e}", kernels.isa);
            }
        });
    }

    #[test]
    fn an_int8_product_is_near_and_the_same_on_every_instruction_set(m in 1usize..40, k in 1usize..1300, n in 1usize..100, pieces in 1usize..4, seed: u64, shift in -1f32..1.0) {
        let a = Array2::from_shape_vec((m, k), values(seed, m * k, 1.0)).unwrap() + shift;
        let (integers, scales) = int8_rows(&values(seed ^ 1, n * k, 1.0), k);
        let weight = Array2::from_shape_fn((n, k), |(i, j)| f64::from(integers[i * k + j]) * f64::from(scales[i]));
        let bias = values(seed ^ 2, n, 1.0);
        let rows = || LowPrecisionWeights::Int8(integers.clone(), scales.clone());
        let twin = low_precision_gemm(Kernels::of(Isa::Scalar).unwrap(), NumberFormat::Int8, &a, rows(), &bias, Activation::None, 1);
        for ((i, j), &c) in twin.indexed_iter() {
            let row = a.row(i);
            let range = row.iter().fold(0f32, |m, &v| m.max(v)) - row.iter().fold(0f32, |m, &v| m.min(v));
            let products = || row.into_iter().zip(weight.row(j)).map(|(&a, &b)| a as f64 * b);
            let error = (c as f64 - bias[j] as f64 - products().sum::<f64>()).abs();
            let step = f64::from(range) / 255.0 * weight.row(j).iter().map(|b| b.abs()).sum::<f64>();
            let rounding = 1e-6 * (products().map(f64::abs).sum::<f64>() + bias[j].abs() as f64);
            assert!(error <= low_precision::MAX_ERROR_INT8 * step + rounding, "[{i}, {j}] of {m}×{k}×{n}: off by {error:e}, steps of {step:e}");
        }
        on_every_isa(|kernels| {
            let c = low_precision_gemm(kernels, NumberFormat::Int8, &a, rows(), &bias, Activation::None, pieces);
            assert_eq!(c, twin, "{} of {m}×{k}×{n}", kernels.isa);
        });
    }

    #[test]
    fn a_row_of_a_low_precision_product_does_not_depend_on_the_others(m in 2usize..40, k in 1usize..1300, n in 1usize..100, pieces in 1usize..4, seed: u64) {
        let a = Array2::from_shape_vec((m, k), values(seed, m * k, 1.0)).unwrap();
        let weight = values(seed ^ 1, n * k, 1.0);
        let bias = values(seed ^ 2, n, 1.0);
        for format in [NumberFormat::Bf16, NumberFormat::Int8] {
            let rows = || match format {
                NumberFormat::Bf16 => LowPrecisionWeights::Bf16(weight.iter().map(|&v| (to_bf16(v) >> 16) as u16).collect()),
                NumberFormat::Int8 => {
                    let (values, scales) = int8_rows(&weight, k);
                    LowPrecisionWeights::Int8(values, scales)
                }
            };
            on_every_isa(|kernels| {
                let all = low_precision_gemm(kernels, format, &a, rows(), &bias, Activation::Gelu, pieces);
                for i in [0, m / 2, m - 1] {
                    let alone = low_precision_gemm(kernels, format, &a.slice(s![i..=i, ..]).to_owned(), rows(), &bias, Activation::Gelu, 1);
                    assert_eq!(alone.row(0), all.row(i), "{} {format:?}: row {i} of {m}×{k}×{n}", kernels.isa);
                }
            });
        }
    }
}
