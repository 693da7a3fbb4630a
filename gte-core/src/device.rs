//! `Device` and `Precision`: where a forward pass is computed, in which number type, and with which
//! kernels.

use crate::env::Env;
use crate::error::{Error, Result};
use crate::kernels::{Isa, Kernels, NumberFormat};

/// Where the forward pass runs. Every build knows every device by name; loading a model on one that
/// the build lacks is an error, which names the feature that adds it.
///
/// ```
/// use gte_core::Device;
///
/// assert_eq!("cuda:1".parse::<Device>()?, Device::Cuda(1));
/// assert_eq!(Device::default().to_string(), "cpu");
/// # Ok::<(), gte_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// The first NVIDIA GPU, where there is one and this build knows GPUs (feature `cuda`); else
    /// the CPU. So is the precision `int8`, which is the CPU's. Which one it is, is logged.
    Auto,
    /// Our own kernels on the CPU.
    #[default]
    Cpu,
    /// candle's CPU backend (feature `candle`): slower, and an implementation that is not ours.
    CandleCpu,
    /// An NVIDIA GPU, by its ordinal from 0 among those that `CUDA_VISIBLE_DEVICES` leaves (feature
    /// `cuda`).
    Cuda(usize),
    /// An Apple GPU, by its ordinal from 0 (feature `metal`).
    Metal(usize),
}

impl Device {
    /// Refuses a device that this build has no backend for.
    pub(crate) fn check_built(self) -> Result<()> {
        let built = match self {
            Self::Auto | Self::Cpu => true,
            Self::CandleCpu => cfg!(feature = "candle"),
            Self::Cuda(_) => cfg!(feature = "cuda"),
            Self::Metal(_) => cfg!(feature = "metal"),
        };
        if built { Ok(()) } else { Err(self.not_built()) }
    }

    /// The error of a device that this build has no backend for.
    pub(crate) fn not_built(self) -> Error {
        let feature = match self {
            Self::Auto | Self::Cpu | Self::CandleCpu => "candle",
            Self::Cuda(_) => "cuda",
            Self::Metal(_) => "metal",
        };
        let mut built = vec!["auto", "cpu"];
        built.extend(cfg!(feature = "candle").then_some("candle-cpu"));
        built.extend(cfg!(feature = "cuda").then_some("cuda:NUMBER"));
        built.extend(cfg!(feature = "metal").then_some("metal:NUMBER"));
        Error::InvalidOption {
            option: "device",
            value: self.to_string(),
            expected: format!("what this build has: {}; the feature `{feature}` adds it", built.join(", ")),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::CandleCpu => f.write_str("candle-cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Metal(number) => write!(f, "metal:{number}"),
        }
    }
}

impl std::str::FromStr for Device {
    type Err = Error;

    /// `auto`, `cpu`, `candle-cpu`, `cuda`, `cuda:1`, `metal` or `metal:1`, in every build.
    fn from_str(name: &str) -> Result<Self> {
        let (kind, number) = name.split_once(':').unwrap_or((name, "0"));
        let number = number.parse::<usize>().ok();
        match (kind, number) {
            ("auto", _) if kind == name => Ok(Self::Auto),
            ("cpu", _) if kind == name => Ok(Self::Cpu),
            ("candle-cpu", _) if kind == name => Ok(Self::CandleCpu),
            ("cuda", Some(number)) => Ok(Self::Cuda(number)),
            ("metal", Some(number)) => Ok(Self::Metal(number)),
            _ => Err(Error::InvalidOption {
                option: "device",
                value: name.to_owned(),
                expected: "auto, cpu, candle-cpu, cuda:NUMBER or metal:NUMBER".into(),
            }),
        }
    }
}

/// What a GPU says of itself.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DeviceState {
    /// The card's name.
    pub name: String,
    /// Bytes of its memory; 0 where it does not answer.
    pub memory: usize,
    /// Bytes that nobody has.
    pub free: usize,
    /// The share of the last moments in which it computed, between 0 and 1, where the driver's
    /// management library tells.
    pub utilization: Option<f32>,
}

/// The number type of matrix multiplications.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Precision {
    /// IEEE single precision, on every device.
    F32,
    /// IEEE half precision, on GPUs.
    F16,
    /// bfloat16: products of numbers with 8 significant bits, summed in f32. On CPUs without
    /// instructions for it (AVX512-BF16, ARM's bf16), the weights take half the memory, but
    /// computing is no faster than with f32.
    Bf16,
    /// 8-bit floating point numbers (e4m3) with a scale per row, on NVIDIA GPUs of compute
    /// capability 8.9 or newer (L4, L40S, RTX 4090, H100, H200); hidden states between the products
    /// are bf16. Vectors are less accurate than in bf16.
    Fp8,
    /// 8-bit integers, on the CPU: weights with one scale per output, and hidden states with one
    /// scale and one zero point per token, chosen from their values while computing. Sums are
    /// exact.
    Int8,
    /// bf16 if the CPU, or the GPU, computes it natively, and f32 otherwise.
    #[default]
    Auto,
}

impl Precision {
    const ALL: [Self; 6] = [Self::F32, Self::F16, Self::Bf16, Self::Fp8, Self::Int8, Self::Auto];

    /// `f32`, `f16`, `bf16`, `fp8`, `int8` or `auto`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
            Self::Int8 => "int8",
            Self::Auto => "auto",
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|p| p.name() == name).ok_or_else(|| Error::InvalidOption {
            option: "precision",
            value: name.to_owned(),
            expected: "f32, f16, bf16, fp8, int8 or auto".into(),
        })
    }
}

/// The kernels to use: those requested, or those named by `GTE_ISA`, or the best.
pub(crate) fn kernels(isa: Option<Isa>, env: &Env<'_>) -> Result<&'static Kernels> {
    let (option, wanted) = match (isa, env.text("GTE_ISA")?) {
        (Some(isa), _) => ("isa", isa),
        (None, Some(name)) => match Isa::from_name(&name) {
            Some(isa) => ("GTE_ISA", isa),
            None => return Err(not_here("GTE_ISA", name, "an instruction set by its name")),
        },
        (None, None) => return Ok(Kernels::best()),
    };
    Kernels::of(wanted).ok_or_else(|| not_here(option, wanted.to_string(), "an instruction set of this CPU"))
}

fn not_here(option: &'static str, value: String, expected: &str) -> Error {
    let here: Vec<_> = Kernels::available().map(|k| k.isa.name()).collect();
    Error::InvalidOption { option, value, expected: format!("{expected}; this CPU has {}", here.join(", ")) }
}

/// What `Auto` means here. Logs one line about a precision for which this CPU has no instructions.
pub(crate) fn resolve(precision: Precision, device: Device, kernels: &Kernels) -> Precision {
    let format = match precision {
        Precision::Int8 => NumberFormat::Int8,
        _ => NumberFormat::Bf16,
    };
    let low_precision = kernels.low_precision(format);
    match (device, precision) {
        (Device::Cpu, Precision::Auto) if low_precision.native => Precision::Bf16,
        (_, Precision::Auto) => Precision::F32,
        (Device::Cpu, Precision::Bf16 | Precision::Int8) if !low_precision.native => {
            tracing::info!(%precision, with = low_precision.name, "this CPU has no instructions for this precision: other instructions compute the same results");
            precision
        }
        (_, precision) => precision,
    }
}

/// The error of a device that cannot compute in `precision`.
pub(crate) fn not_on(expected: &str, precision: Precision) -> Error {
    Error::InvalidOption { option: "precision", value: precision.to_string(), expected: expected.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_build_knows_every_device_by_name() {
        for device in [Device::Auto, Device::Cpu, Device::CandleCpu, Device::Cuda(0), Device::Cuda(3), Device::Metal(1)]
        {
            assert_eq!(device.to_string().parse::<Device>().ok(), Some(device));
        }
        assert_eq!("cuda".parse::<Device>().ok(), Some(Device::Cuda(0)));
        for wrong in ["", "cpu:0", "auto:0", "candle-cpu:1", "gpu", "cuda:x", "cuda:", "CPU"] {
            let error = wrong.parse::<Device>().expect_err("no device").to_string();
            assert!(error.contains("cpu") && error.contains("device"), "{error}");
        }
    }

    #[test]
    fn precisions_have_names() {
        for precision in Precision::ALL {
            assert_eq!(precision.to_string().parse::<Precision>().ok(), Some(precision));
        }
        let error = "int4".parse::<Precision>().expect_err("no precision").to_string();
        assert!(error.contains("int4") && error.contains("f32, f16, bf16, fp8, int8 or auto"), "{error}");
    }

    #[test]
    fn a_device_that_the_build_lacks_is_refused_with_the_feature_that_adds_it() {
        assert!(Device::Cpu.check_built().is_ok());
        let lacking = [
            (Device::CandleCpu, "`candle`", cfg!(feature = "candle")),
            (Device::Cuda(0), "`cuda`", cfg!(feature = "cuda")),
            (Device::Metal(2), "`metal`", cfg!(feature = "metal")),
        ];
        for (device, feature, built) in lacking {
            match device.check_built() {
                Ok(()) => assert!(built),
                Err(error) => {
                    let error = error.to_string();
                    assert!(!built && error.contains(&device.to_string()) && error.contains(feature), "{error}");
                }
            }
        }
    }

    #[test]
    fn every_table_is_had_by_its_name_and_an_error_names_those_that_are_here() {
        let with = |value: &str| {
            let lookup = |name: &str| (name == "GTE_ISA").then(|| value.into());
            kernels(None, &Env { lookup: &lookup }).map(|kernels| kernels.isa)
        };
        let here: Vec<Isa> = Kernels::available().map(|kernels| kernels.isa).collect();
        for &isa in Isa::ALL {
            assert_eq!(Isa::from_name(isa.name()), Some(isa));
            match with(isa.name()) {
                Ok(found) => assert!(found == isa && here.contains(&isa), "{isa} gave {found}"),
                Err(error) => {
                    let error = error.to_string();
                    assert!(!here.contains(&isa) && error.contains("GTE_ISA") && error.contains(isa.name()), "{error}");
                    assert!(here.iter().all(|isa| error.contains(isa.name())), "{error}");
                }
            }
        }
        let error = with("avx512").expect_err("its name begins with the architecture").to_string();
        assert!(error.contains("GTE_ISA is avx512,") && error.contains("scalar"), "{error}");
        assert_eq!(Some(Kernels::best().isa), here.last().copied());
    }
}
