//! Weights on the device, and which models are supported in which precision.

use std::sync::{Arc, Mutex, PoisonError};

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::driver::{Driver, Fp8, Number, Properties};
use super::e4m3;
use super::memory::Resident;
use crate::dense;
use crate::device::{Precision, not_on};
use crate::error::{Error, Result};
use crate::kernels::Mask;
use crate::models::{
    Architecture, AttentionSpec, HeadActivation, LayerSpec, NormKind, NormPlace, PositionRule, RopeSpec,
};
use crate::weights::{Tensor, Values, Weights};

/// The number type of products for `precision`, the precision that `Auto` means, and where the
/// scales of fp8 are applied. `fp8` asks the driver.
///
/// # Errors
/// [`Error::InvalidOption`] if the card or the sizes of the model do not support it.
pub(super) fn number(
    precision: Precision,
    architecture: &Architecture,
    properties: &Properties,
    fp8: impl FnOnce() -> std::result::Result<Fp8, String>,
) -> Result<(Number, Precision, Option<Fp8>)> {
    let refused = |why: String| Error::InvalidOption {
        option: "precision",
        value: precision.to_string(),
        expected: format!("what {} computes for this model: {why}", properties.label),
    };
    let bf16 = || match properties.capability {
        80.. => Ok(()),
        _ => Err(format!("{} has no tensor cores for bf16: choose f16 or f32", properties.name)),
    };
    let mut scales = None;
    let chosen = match precision {
        Precision::F32 => (Number::F32, precision),
        Precision::F16 => (Number::F16, precision),
        Precision::Bf16 => (Number::Bf16, precision),
        // Everything but the products' operands is bf16.
        Precision::Fp8 => {
            let (name, capability) = (&properties.name, properties.capability);
            if capability < 89 {
                let (major, minor) = (capability / 10, capability % 10);
                return Err(refused(format!(
                    "fp8 requires compute capability 8.9 or newer (L4, L40S, RTX 4090, H100), and {name} has {major}.{minor}: \
                     choose {}",
                    if bf16().is_ok() { "bf16" } else { "f16" }
                )));
            }
            scales = Some(fp8().map_err(|why| refused(format!("{why}: choose bf16")))?);
            (Number::Bf16, precision)
        }
        Precision::Auto if bf16().is_ok() && fits(Number::Bf16, architecture).is_ok() => {
            (Number::Bf16, Precision::Bf16)
        }
        Precision::Auto => (Number::F32, Precision::F32),
        Precision::Int8 => return Err(not_on("f32, f16, bf16, fp8 or auto on a GPU: int8 is for the CPU", precision)),
    };
    if chosen.0 == Number::Bf16 {
        bf16().map_err(refused)?;
    }
    fits(chosen.0, architecture).map_err(refused)?;
    let odd = [architecture.hidden, architecture.mlp.inner].into_iter().find(|width| !width.is_multiple_of(16));
    match odd.filter(|_| precision == Precision::Fp8) {
        Some(width) => {
            Err(refused(format!("in fp8 widths that are multiples of 16, and this model has {width}: choose bf16")))
        }
        None => Ok((chosen.0, chosen.1, scales)),
    }
}

/// Checks that the kernels support a model's sizes. The error says which sizes they support.
fn fits(number: Number, architecture: &Architecture) -> Result<(), String> {
    let (attention, mlp) = (&architecture.attention, &architecture.mlp);
    let d = attention.head_dim;
    if architecture.hidden > 8192 {
        return Err(format!("hidden states of up to 8192 values, and this model's have {}", architecture.hidden));
    }
    if number == Number::F32 {
        let turns = attention.qk_norm || architecture.layers.iter().any(|layer| layer.rope.is_some());
        return match d {
            257.. => Err(format!("heads of up to 256 values, and this model's have {d}")),
            _ if turns && d % 2 == 1 => {
                Err(format!("heads of an even size for rotary positions or norms, and this model's have {d} values"))
            }
            _ => Ok(()),
        };
    }
    if ![32, 64, 128].contains(&d) {
        return Err(format!("in f16 and bf16 heads of 32, 64 or 128 values, and this model's have {d}: choose f32"));
    }
    match [architecture.hidden, mlp.inner].into_iter().find(|width| !width.is_multiple_of(8)) {
        Some(width) => {
            Err(format!("in f16 and bf16 widths that are multiples of 8, and this model has {width}: choose f32"))
        }
        None => Ok(()),
    }
}

/// The values of a weight in the type of products, little-endian as on the device.
fn bytes_in(number: Number, tensor: Tensor, name: &str) -> Result<Vec<u8>> {
    Ok(match number {
        Number::F32 => bytemuck::cast_slice(&tensor.into_f32()).to_vec(),
        Number::Bf16 => bytemuck::cast_slice(&tensor.into_bf16()).to_vec(),
        Number::F16 => {
            let values = tensor.into_f32();
            let halves: Vec<u16> = values.iter().map(|&value| f16::from_f32(value).to_bits()).collect();
            match halves.iter().position(|bits| bits & 0x7C00 == 0x7C00) {
                Some(i) => {
                    let reason = format!("{} in `{name}` is out of the range of f16: choose bf16 or f32", values[i]);
                    return Err(Error::Device { device: "GPU".into(), reason });
                }
                None => bytemuck::cast_slice(&halves).to_vec(),
            }
        }
    })
}

fn halves(driver: &Arc<dyn Driver>, bits: &[u16]) -> Result<Resident> {
    Resident::new(driver, bytemuck::cast_slice(bits))
}

fn wide(driver: &Arc<dyn Driver>, tensor: Tensor) -> Result<Resident> {
    Resident::new(driver, bytemuck::cast_slice(&tensor.into_f32()))
}

/// The embedding tables and their norm.
pub(crate) struct Embedding {
    pub(super) words: Resident, // (vocab × hidden), in the checkpoint's type
    pub(super) stored: Number,
    pub(super) positions: Option<Resident>, // f32 (rows × hidden)
    pub(super) rule: Option<PositionRule>,
    pub(super) types: Option<Resident>, // f32 (types × hidden)
    pub(super) several_types: bool,
    pub(super) norm: Option<Norm>,
    pub(super) width: usize,
    /// Whether a product reads the hidden state without a norm.
    pub(super) before_product: bool,
}

impl Embedding {
    pub(super) fn load(driver: &Arc<dyn Driver>, weights: &Weights, architecture: &Architecture) -> Result<Self> {
        let (names, spec) = (weights.spelling(), &architecture.norm);
        let table = |name: &str| wide(driver, weights.read(&format!("{name}.weight"))?);
        let words = weights.read(&format!("{}.weight", names.words))?;
        let (words, stored) = match words.values {
            Values::F16(values) => (halves(driver, values.reinterpret_cast())?, Number::F16),
            Values::Bf16(values) => (halves(driver, values.reinterpret_cast())?, Number::Bf16),
            _ => (wide(driver, words)?, Number::F32),
        };
        let norm = || Norm::load(driver, weights, names.embedding_norm, spec.kind, spec.eps, spec.bias);
        Ok(Self {
            words,
            stored,
            positions: architecture.positions.map(|_| table(names.positions)).transpose()?,
            rule: architecture.positions.map(|(_, rule)| rule),
            types: weights.read_types(architecture)?.map(|types| wide(driver, types)).transpose()?,
            several_types: architecture.token_types > 1,
            norm: architecture.embedding_norm.then(norm).transpose()?,
            width: architecture.hidden,
            before_product: spec.place == NormPlace::After || !spec.first_attention,
        })
    }
}

/// A linear layer.
pub(crate) struct Linear {
    pub(super) weight: Resident,              // (outputs × inputs), in e4m3 if there are scales
    pub(super) scales: Option<Arc<Resident>>, // f32 (outputs)
    pub(super) bias: Option<Resident>,        // (outputs), in the type of products
    pub(super) wide_bias: Option<Arc<Resident>>, // the same in f32
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl Linear {
    pub(super) fn load(
        driver: &Arc<dyn Driver>,
        (number, fp8): (Number, bool),
        weights: &Weights,
        names: &[String],
        biased: bool,
    ) -> Result<Self> {
        let (mut weight, mut scales, mut bias) = (Vec::new(), Vec::new(), Vec::new());
        let (mut inputs, mut outputs) = (0, 0);
        for name in names {
            let name = format!("{name}.weight");
            let tensor = weights.read(&name)?;
            (inputs, outputs) = (tensor.shape[1], outputs + tensor.shape[0]);
            if fp8 {
                let (mut codes, mut of_rows) = e4m3::quantize(&tensor.into_f32(), inputs);
                weight.append(&mut codes);
                scales.append(&mut of_rows);
            } else {
                weight.append(&mut bytes_in(number, tensor, &name)?);
            }
        }
        for name in names.iter().filter(|_| biased) {
            bias.append(&mut weights.read(&format!("{name}.bias"))?.into_f32());
        }
        let own = |bias: &[f32]| {
            let tensor = Tensor { shape: vec![bias.len()], values: Values::F32(bias.to_vec()) };
            Resident::new(driver, &bytes_in(number, tensor, &format!("{}.bias", names[0]))?)
        };
        let shared = |values: &[f32]| Resident::new(driver, bytemuck::cast_slice(values)).map(Arc::new);
        Ok(Self {
            weight: Resident::new(driver, &weight)?,
            scales: fp8.then(|| shared(&scales)).transpose()?,
            wide_bias: biased.then(|| shared(&bias)).transpose()?,
            bias: biased.then(|| own(&bias)).transpose()?,
            inputs,
            outputs,
        })
    }
}

/// A linear layer after the encoder. Weights are f32.
pub(crate) struct Dense {
    pub(super) weight: Resident,       // (outputs × inputs)
    pub(super) bias: Option<Resident>, // (outputs)
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) activation: HeadActivation,
    pub(super) residual: Residual,
    pub(super) unit: bool,
    /// Whether it is ColBERT's: no more than a product and a bias, of many tokens.
    pub(super) is_product: bool,
}

/// What is added to the output of a [`Dense`].
pub(super) enum Residual {
    Nothing,
    Input,
    Projected(Resident), // (outputs × inputs)
}

impl Dense {
    pub(super) fn load(driver: &Arc<dyn Driver>, layer: dense::Dense) -> Result<Self> {
        let resident = |values: &[f32]| Resident::new(driver, bytemuck::cast_slice(values));
        Ok(Self {
            weight: resident(&layer.weight)?,
            bias: (!layer.bias.is_empty()).then(|| resident(&layer.bias)).transpose()?,
            inputs: layer.inputs,
            outputs: layer.outputs(),
            activation: layer.activation,
            residual: match &layer.residual {
                dense::Residual::Nothing => Residual::Nothing,
                dense::Residual::Input => Residual::Input,
                dense::Residual::Projected(weight) => Residual::Projected(resident(weight)?),
            },
            unit: layer.unit,
            is_product: layer.unit
                && layer.activation == HeadActivation::Identity
                && matches!(layer.residual, dense::Residual::Nothing),
        })
    }
}

/// A norm.
pub(crate) struct Norm {
    pub(super) kind: u64,       // with the numbers of the kernels
    pub(super) gamma: Resident, // f32 (width)
    pub(super) beta: Option<Resident>,
    pub(super) eps: f32,
}

impl Norm {
    pub(super) fn load(
        driver: &Arc<dyn Driver>,
        weights: &Weights,
        name: &str,
        kind: NormKind,
        eps: f32,
        bias: bool,
    ) -> Result<Self> {
        let read = |part: &str| wide(driver, weights.read(&format!("{name}.{part}"))?);
        let kind = match kind {
            NormKind::Layer => 1,
            NormKind::Rms => 2,
        };
        Ok(Self { kind, gamma: read("weight")?, beta: bias.then(|| read("bias")).transpose()?, eps })
    }
}

/// How a layer attends.
pub(crate) struct Attention {
    pub(super) spec: AttentionSpec,
    pub(super) mask: Mask,
    pub(super) head_norms: Option<[Norm; 2]>,
    pub(super) rope: Option<Arc<[Resident; 2]>>, // cosines and sines: f32 (positions × d / 2)
}

impl Attention {
    pub(super) fn load(
        driver: &Arc<dyn Driver>,
        weights: &Weights,
        norms: Option<[String; 2]>,
        architecture: &Architecture,
        layer: &LayerSpec,
        ropes: &Ropes,
    ) -> Result<Self> {
        let norm = |name: &String| Norm::load(driver, weights, name, NormKind::Rms, architecture.norm.eps, false);
        let spec = architecture.attention;
        let table = |rope: RopeSpec| ropes.get(driver, rope, spec.head_dim, architecture.max_tokens);
        Ok(Self {
            spec,
            mask: layer.mask,
            head_norms: norms.map(|[q, k]| Ok::<_, Error>([norm(&q)?, norm(&k)?])).transpose()?,
            rope: layer.rope.map(table).transpose()?,
        })
    }
}

/// The tables of rotary positions, which layers share.
#[derive(Default)]
pub(crate) struct Ropes(Mutex<Vec<(RopeSpec, Arc<[Resident; 2]>)>>);

impl Ropes {
    /// Cosines and sines of all positions, from angles in f64.
    fn get(&self, driver: &Arc<dyn Driver>, spec: RopeSpec, d: usize, positions: usize) -> Result<Arc<[Resident; 2]>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, tables)) = all.iter().find(|(other, _)| *other == spec) {
            return Ok(tables.clone());
        }
        let frequencies: Vec<f64> = (0..d / 2).map(|i| spec.frequency(i, d)).collect();
        let angles = || (0..positions).flat_map(|position| frequencies.iter().map(move |f| position as f64 * f));
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = angles().map(|angle| f(angle) as f32).collect();
            Resident::new(driver, bytemuck::cast_slice(&values))
        };
        let tables = Arc::new([table(f64::cos)?, table(f64::sin)?]);
        all.push((spec, tables.clone()));
        Ok(tables)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use super::*;
    use crate::config::ModelConfig;
    use crate::files::ModelFiles;

    #[test]
    fn fp8_is_refused_with_the_reason_where_it_does_not_work() {
        let architecture = |family: &str| {
            let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families").join(family);
            let config = ModelConfig::read(&ModelFiles::from_dir(dir).unwrap(), None).unwrap();
            let mut architecture = config.architecture;
            (architecture.hidden, architecture.attention.head_dim, architecture.mlp.inner) = (64, 32, 112);
            architecture
        };
        let asked = |capability: u32, inner: usize, fp8: std::result::Result<Fp8, &str>| {
            let (label, name) = ("cuda:0".into(), "the card".into());
            let properties = Properties { label, name, capability, apart: false };
            let mut architecture = architecture("bge-m3");
            architecture.mlp.inner = inner;
            let found = number(Precision::Fp8, &architecture, &properties, || fp8.map_err(str::to_owned));
            found.map_err(|error| error.to_string())
        };
        let (inside, after) = (Ok(Fp8::InProduct), Ok(Fp8::AfterProduct));
        for (capability, fp8) in [(90, inside), (90, after), (89, after), (120, after)] {
            assert_eq!(asked(capability, 112, fp8).unwrap(), (Number::Bf16, Precision::Fp8, fp8.ok()));
        }
        let refused = [
            (asked(86, 112, inside), ["compute capability 8.9", "the card has 8.6", "choose bf16"]),
            (asked(75, 112, inside), ["compute capability 8.9", "the card has 7.5", "choose f16"]),
            (asked(89, 112, Err("a library of 2022")), ["a library of 2022", "cuda:0", "choose bf16"]),
            (asked(90, 104, inside), ["multiples of 16", "104", "choose bf16"]),
            (asked(89, 104, after), ["multiples of 16", "104", "choose bf16"]),
        ];
        for (found, words) in refused {
            let error = found.unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
    }
}
