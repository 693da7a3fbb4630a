//! Arithmetic on slices and strided views. It knows no model, tensor, thread pool or error type.
//!
//! [`Kernels`] is a table of functions, one per level of an instruction set, chosen once at run
//! time and carried as a value. [`Kernels::of`] is the only place that looks at the instructions of
//! a CPU. The plain loops in `scalar.rs` specify what a kernel computes. The maximum error of the
//! vector versions is a constant at the top of each kernel's file, and `tests.rs` checks every
//! table against it.

mod activation;
mod aligned;
mod arena;
mod attention;
mod dot;
mod lanes;
mod layer_norm;
mod low_precision;
mod matmul;
mod memory;
mod normalize;
mod pack;
mod rms_norm;
mod rope;
mod scalar;
mod softmax;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(test)]
mod tests;

pub(crate) use activation::Activation;
pub(crate) use aligned::Aligned;
pub(crate) use arena::Arena;
pub(crate) use attention::{Head, LowPrecisionAttention, LowPrecisionHead, Mask, Scratch, scratch_len};
pub(crate) use low_precision::{
    HEADER, LowPrecision, LowPrecisionGemm, LowPrecisionWeights, NumberFormat, Output, PackedLowPrecision, Rows,
    int8_rows, to_bf16,
};
pub(crate) use matmul::{Gemm, row_stride};
pub use memory::read_speed;
pub(crate) use pack::Packed;

/// A level of an instruction set that the kernels are written for. Each contains those before it of
/// the same architecture, except AVX-VNNI, which CPUs with AVX-512 may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust, on every CPU: the specification of the others.
    Scalar,
    /// x86-64 with AVX2 and FMA: Haswell (2013), Zen, and newer.
    Avx2,
    /// AVX2 with AVX-VNNI, for 8-bit integers, on CPUs with or without AVX-512: Alder Lake (2021),
    /// Sierra Forest, Zen 5, and newer.
    Avx2Vnni,
    /// x86-64 with AVX-512 F, VL, BW and DQ: Skylake-SP (2017), Zen 4, and newer.
    Avx512,
    /// The same with AVX512-VNNI, for 8-bit integers: Cascade Lake (2019), Zen 4, and newer.
    Avx512Vnni,
    /// The same with AVX512-BF16: Cooper Lake (2020), Sapphire Rapids, Zen 4, and newer.
    Avx512Bf16,
    /// The same with AMX, for 8-bit integers and bf16: Sapphire Rapids (2023) and newer, on Linux.
    Amx,
    /// Every AArch64: Graviton 1, Raspberry Pi 4.
    Neon,
    /// AArch64 with the dot product instructions, for 8-bit integers: Graviton 2, Altra, Apple M1.
    Dotprod,
    /// The same with matrix multiplication of 8-bit integers.
    I8mm,
    /// The same with bf16: Graviton 3 and 4, Grace, Axion, Cobalt 100, Apple M2, and newer.
    Bf16,
}

impl Isa {
    /// All of them, narrowest first.
    pub const ALL: &'static [Self] = &[
        Self::Scalar,
        Self::Avx2,
        Self::Avx2Vnni,
        Self::Avx512,
        Self::Avx512Vnni,
        Self::Avx512Bf16,
        Self::Amx,
        Self::Neon,
        Self::Dotprod,
        Self::I8mm,
        Self::Bf16,
    ];

    /// The name that `GTE_ISA` takes: `scalar`, `x86_64-avx2`, `x86_64-avx2-vnni`, `x86_64-avx512`,
    /// `x86_64-avx512-vnni`, `x86_64-avx512-bf16`, `x86_64-amx`, `aarch64-neon`,
    /// `aarch64-dotprod`, `aarch64-i8mm` or `aarch64-bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "x86_64-avx2",
            Self::Avx2Vnni => "x86_64-avx2-vnni",
            Self::Avx512 => "x86_64-avx512",
            Self::Avx512Vnni => "x86_64-avx512-vnni",
            Self::Avx512Bf16 => "x86_64-avx512-bf16",
            Self::Amx => "x86_64-amx",
            Self::Neon => "aarch64-neon",
            Self::Dotprod => "aarch64-dotprod",
            Self::I8mm => "aarch64-i8mm",
            Self::Bf16 => "aarch64-bf16",
        }
    }

    /// The instruction set of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|isa| isa.name() == name)
    }

    /// Those that this CPU has, narrowest first.
    pub fn available() -> impl DoubleEndedIterator<Item = Self> {
        Kernels::available().map(|kernels| kernels.isa)
    }
}

impl std::fmt::Display for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// (x, residual, gamma, beta, eps, prefetch_distance), see `layer_norm.rs`.
pub(crate) type AddNorm = fn(&mut [f32], Option<&[f32]>, &[f32], &[f32], f32, usize);

/// (x, residual, gamma, eps), see `rms_norm.rs`.
pub(crate) type RmsNorm = fn(&mut [f32], Option<&[f32]>, &[f32], f32);

/// The kernels of one instruction set.
pub(crate) struct Kernels {
    pub(crate) isa: Isa,
    /// Columns in a panel of [`Packed`].
    pub(crate) nr: usize,
    /// C = act(A·B + bias), see `matmul.rs`.
    pub(crate) matmul: fn(Gemm<'_>),
    /// One head of one text, with scratch of at least [`scratch_len`] values.
    pub(crate) attention: fn(Head<'_, '_>, &mut [f32]),
    /// x ← LayerNorm(x + residual).
    pub(crate) add_norm: AddNorm,
    /// x ← y / √(mean(y²) + eps) · gamma with y = x + residual.
    pub(crate) rms_norm: RmsNorm,
    /// Rotates the heads of a row by their position's angles: (row, cos, sin), see `rope.rs`.
    pub(crate) rope: fn(&mut [f32], &[f32], &[f32]),
    /// a ← activation(a) · b.
    pub(crate) gate: fn(&mut [f32], &[f32], Activation),
    /// x ← x / ‖x‖.
    pub(crate) normalize: fn(&mut [f32]),
    /// Σ aᵢ·bᵢ.
    pub(crate) dot: fn(&[f32], &[f32]) -> f32,
    /// Matrix multiplication in bf16.
    pub(crate) bf16: &'static LowPrecision,
    /// Matrix multiplication of 8-bit integers.
    pub(crate) int8: &'static LowPrecision,
    /// One head of one text in bf16, its width a multiple of the values in a word.
    pub(crate) bf16_attention: LowPrecisionAttention,
    /// The same, of any width.
    pub(crate) bf16_attention_any: LowPrecisionAttention,
    /// Multiply-adds per second of one thread in registers alone, where there is a probe: in a
    /// format, or in f32.
    pub(crate) peak: fn(Option<NumberFormat>) -> Option<f64>,
    #[cfg(test)]
    pub(crate) activate: fn(Activation, &mut [f32]),
    #[cfg(test)]
    pub(crate) softmax: fn(&mut [f32], f32) -> f32,
}

impl Kernels {
    /// The tables that this CPU can run, narrowest first.
    pub(crate) fn available() -> impl DoubleEndedIterator<Item = &'static Self> {
        Isa::ALL.iter().copied().filter_map(Self::of)
    }

    /// The widest that this CPU can run.
    pub(crate) fn best() -> &'static Self {
        Self::available().next_back().unwrap_or(&scalar::KERNELS)
    }

    /// The table of `isa`, if this CPU has it.
    pub(crate) fn of(isa: Isa) -> Option<&'static Self> {
        match isa {
            Isa::Scalar => Some(&scalar::KERNELS),
            #[cfg(target_arch = "x86_64")]
            _ => x86_64::table(isa),
            #[cfg(target_arch = "aarch64")]
            _ => aarch64::table(isa),
            #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
            _ => None,
        }
    }

    /// One head of one text in bf16, for models whose linear layers are in low precision, with
    /// heads of `d` values.
    pub(crate) fn bf16_attention_of(&self, d: usize) -> LowPrecisionAttention {
        if d.is_multiple_of(self.bf16_attention.k_group) { self.bf16_attention } else { self.bf16_attention_any }
    }

    /// Multiply-adds per second of one thread in registers alone, where there is a probe.
    pub(crate) fn peak(&self, format: Option<NumberFormat>) -> Option<f64> {
        (self.peak)(format)
    }

    /// The kernels of this table for `format`.
    pub(crate) fn low_precision(&self, format: NumberFormat) -> &'static LowPrecision {
        match format {
            NumberFormat::Bf16 => self.bf16,
            NumberFormat::Int8 => self.int8,
        }
    }
}
