//! Arithmetic on slices and strided views: one roof, one door. Knows no model, tensor, thread pool or error type.
//!
//! [`Kernels`] is a table of functions, one table an instruction set, chosen once at run time and carried as a value. What a
//! kernel computes is specified by its plain loop in `scalar.rs`; how near the vector versions come to it stands, as a
//! constant, at the top of each kernel's file, and `tests.rs` holds every table to it.

mod activation;
mod aligned;
mod attention;
mod dot;
mod lanes;
mod layer_norm;
mod matmul;
mod narrow;
mod normalize;
mod pack;
mod rms_norm;
mod rope;
mod scalar;
mod softmax;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(test)]
mod tests;

pub(crate) use activation::Activation;
pub(crate) use aligned::Aligned;
pub(crate) use attention::{Head, Mask, NarrowAttention, NarrowHead, Scratch, scratch_len};
pub(crate) use matmul::{Product, row_stride};
pub(crate) use narrow::{
    Format, HEADER, Narrow, NarrowProduct, NarrowRows, Output, PackedNarrow, Rows, int8_rows, to_bf16,
};
pub(crate) use pack::Packed;

/// An instruction set that the kernels are written for, from the most portable to the widest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust, on every CPU: the specification of the others.
    Scalar,
    /// x86-64 with AVX2 and FMA: Haswell (2013), Zen, and newer.
    Avx2,
    /// x86-64 with AVX-512 F, VL, BW and DQ: Skylake-SP (2017), Zen 4, and newer.
    Avx512,
}

impl Isa {
    /// All of them, narrowest first.
    pub const ALL: [Self; 3] = [Self::Scalar, Self::Avx2, Self::Avx512];

    /// The name that `GTE_ISA` takes: `scalar`, `avx2`, `avx512`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// The instruction set of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|isa| isa.name() == name)
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

/// (x, residual, gamma, beta, eps, ahead), see `layer_norm.rs`.
pub(crate) type AddNorm = fn(&mut [f32], Option<&[f32]>, &[f32], &[f32], f32, usize);

/// (x, residual, gamma, eps), see `rms_norm.rs`.
pub(crate) type RmsNorm = fn(&mut [f32], Option<&[f32]>, &[f32], f32);

/// The kernels of one instruction set.
pub(crate) struct Kernels {
    pub(crate) isa: Isa,
    /// Columns in a panel of [`Packed`].
    pub(crate) nr: usize,
    /// C = act(A·B + bias), see `matmul.rs`.
    pub(crate) matmul: fn(Product<'_>),
    /// One head of one text, with scratch of at least [`scratch_len`] values.
    pub(crate) attention: fn(Head<'_, '_>, &mut [f32]),
    /// x ← LayerNorm(x + residual).
    pub(crate) add_norm: AddNorm,
    /// x ← y / √(mean(y²) + eps) · gamma with y = x + residual.
    pub(crate) rms_norm: RmsNorm,
    /// Turns the heads of a row by their position's angles: (row, cos, sin), see `rope.rs`.
    pub(crate) rope: fn(&mut [f32], &[f32], &[f32]),
    /// a ← activation(a) · b.
    pub(crate) gate: fn(&mut [f32], &[f32], Activation),
    /// x ← x / ‖x‖.
    pub(crate) normalize: fn(&mut [f32]),
    /// Σ aᵢ·bᵢ.
    pub(crate) dot: fn(&[f32], &[f32]) -> f32,
    #[cfg(test)]
    pub(crate) activate: fn(Activation, &mut [f32]),
    #[cfg(test)]
    pub(crate) softmax: fn(&mut [f32], f32) -> f32,
}

impl Kernels {
    /// The tables that this CPU can run, narrowest first.
    pub(crate) fn available() -> impl DoubleEndedIterator<Item = &'static Self> {
        Isa::ALL.into_iter().filter_map(Self::of)
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
            Isa::Avx2 => x86_64::avx2::kernels(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => x86_64::avx512::kernels(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => None,
        }
    }

    /// One head of one text in bf16, for models whose linear layers are narrow, with heads of `d` values.
    pub(crate) fn narrow_attention(&self, d: usize) -> NarrowAttention {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => x86_64::narrow::avx512_attention(d),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86_64::narrow::avx2_attention(),
            _ => narrow::scalar::ATTENTION,
        }
    }

    /// Multiply-adds a second of one thread in registers alone, where there is a probe.
    pub(crate) fn peak(&self, format: Option<Format>) -> Option<f64> {
        #[cfg(target_arch = "x86_64")]
        return x86_64::peak::peak(self.isa, format);
        #[cfg(not(target_arch = "x86_64"))]
        return None;
    }

    /// The table of narrow products that goes with this one.
    pub(crate) fn narrow(&self, format: Format) -> &'static Narrow {
        match (self.isa, format) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, _) => x86_64::narrow::avx2(format),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, _) => x86_64::narrow::avx512(format),
            (_, Format::Bf16) => &narrow::scalar::BF16,
            (_, Format::Int8) => &narrow::scalar::INT8,
        }
    }
}
