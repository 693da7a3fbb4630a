//! `Weights`: a checkpoint as named tensors, whatever file it lies in; and the one table of tensor names.
//!
//! Opening reads headers alone and holds every name and shape against the table. Values are read when asked for, from any
//! thread. Names are Hugging Face's BERT names without a prefix (`modeling_bert.py`), e.g. `encoder.layer.3.output.dense.weight`.

mod pickle;
mod safetensors;

use std::collections::{BTreeMap, BTreeSet};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::config::ModelConfig;
use crate::files::{DataFile, ModelFiles};
use crate::kernels::{int8_rows, to_bf16};
use crate::{Error, Result};

/// A checkpoint whose names and shapes fit its configuration.
pub struct Weights {
    files: Vec<DataFile>,
    tensors: BTreeMap<String, Entry>, // by canonical name
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
struct Entry {
    file: usize, // in `Weights::files`
    offset: u64, // of the first byte
    dtype: Dtype,
    shape: Vec<usize>,
}

/// How values are stored, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    I8,
    /// Integers that no weight is made of, such as `position_ids`; the size of one in bytes.
    Other(usize),
}

impl Dtype {
    fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::I8 => 1,
            Self::Other(size) => size,
        }
    }
}

/// A tensor, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Values in row-major order.
    pub values: Values,
}

/// Values as the checkpoint stores them.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Values {
    /// IEEE single precision.
    F32(Vec<f32>),
    /// IEEE half precision.
    F16(Vec<f16>),
    /// The upper half of a single.
    Bf16(Vec<bf16>),
    /// `values[r][c] · scales[r] · factors[c]`: integers in −127..=127, one scale a row, and a factor a column where there are any.
    Int8 {
        /// (rows × columns)
        values: Vec<i8>,
        /// (rows)
        scales: Vec<f32>,
        /// (columns), or empty: what a value of the layer's input is multiplied with before it is narrowed itself, and the weights were
        /// divided by.
        factors: Vec<f32>,
    },
}

impl Tensor {
    /// The values as f32, which holds each of the stored types exactly (int8: value · scale · factor, rounded).
    pub fn into_f32(self) -> Vec<f32> {
        match self.values {
            Values::F32(values) => values,
            Values::F16(values) => {
                let mut out = vec![0.0; values.len()];
                values.convert_to_f32_slice(&mut out);
                out
            }
            Values::Bf16(values) => {
                let mut out = vec![0.0; values.len()];
                values.convert_to_f32_slice(&mut out);
                out
            }
            Values::Int8 { values, scales, factors } => {
                let columns = values.len().checked_div(scales.len()).unwrap_or(0).max(1);
                let mut out = Vec::with_capacity(values.len());
                for (row, &scale) in values.chunks(columns).zip(&scales) {
                    match &factors[..] {
                        [] => out.extend(row.iter().map(|&v| f32::from(v) * scale)),
                        factors => out.extend(row.iter().zip(factors).map(|(&v, f)| f32::from(v) * scale * f)),
                    }
                }
                out
            }
        }
    }
}

impl Tensor {
    /// The bits of the values as bf16, rounded to nearest.
    pub(crate) fn into_bf16(self) -> Vec<u16> {
        match self.values {
            Values::Bf16(values) => values.into_iter().map(bf16::to_bits).collect(),
            _ => self.into_f32().into_iter().map(|v| (to_bf16(v) >> 16) as u16).collect(),
        }
    }

    /// A matrix, divided by `factors` a column (empty: by none), as integers in −127..=127 and a scale a row: as they are, if they are
    /// of just these factors, or each row by its own largest value.
    pub(crate) fn into_int8(self, factors: &[f32]) -> (Vec<i8>, Vec<f32>) {
        let columns = self.shape.last().copied().unwrap_or(1);
        match self.values {
            Values::Int8 { values, scales, factors: own } if own == factors => (values, scales),
            _ => {
                let mut values = self.into_f32();
                if !factors.is_empty() {
                    for row in values.chunks_exact_mut(columns) {
                        row.iter_mut().zip(factors).for_each(|(v, f)| *v /= f);
                    }
                }
                int8_rows(&values, columns)
            }
        }
    }

    /// The factors that it is stored with, if any.
    pub(crate) fn factors(&self) -> &[f32] {
        match &self.values {
            Values::Int8 { factors, .. } => factors,
            _ => &[],
        }
    }
}

/// The table: every tensor of the BERT family, with its shape.
fn table(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let (hidden, inner) = (config.hidden, config.intermediate);
    let mut table = Vec::new();
    let linear = |table: &mut Vec<_>, name: String, outputs, inputs| {
        table.push((format!("{name}.weight"), vec![outputs, inputs]));
        table.push((format!("{name}.bias"), vec![outputs]));
    };
    let norm = |table: &mut Vec<_>, name: String| {
        table.push((format!("{name}.weight"), vec![hidden]));
        table.push((format!("{name}.bias"), vec![hidden]));
    };
    for (name, rows) in [("word", config.vocab), ("position", config.max_positions), ("token_type", config.token_types)]
    {
        table.push((format!("embeddings.{name}_embeddings.weight"), vec![rows, hidden]));
    }
    norm(&mut table, "embeddings.LayerNorm".into());
    for i in 0..config.layers {
        let name = |part: &str| format!("encoder.layer.{i}.{part}");
        for part in ["query", "key", "value"] {
            linear(&mut table, name(&format!("attention.self.{part}")), hidden, hidden);
        }
        linear(&mut table, name("attention.output.dense"), hidden, hidden);
        norm(&mut table, name("attention.output.LayerNorm"));
        linear(&mut table, name("intermediate.dense"), inner, hidden);
        linear(&mut table, name("output.dense"), hidden, inner);
        norm(&mut table, name("output.LayerNorm"));
    }
    table
}

/// What checkpoints hold beside the encoder and an embedding does not need: counters, the pooler of next-sentence
/// prediction, and the heads of pre-training.
fn is_harmless(name: &str) -> bool {
    matches!(name, "embeddings.position_ids" | "embeddings.token_type_ids")
        || name.starts_with("pooler.")
        || name.starts_with("cls.")
}

/// The table's name of a tensor: without the prefix of its wrapper, and LayerNorm as PyTorch names it now, not as TensorFlow did.
fn canonical(name: &str, prefix: &str) -> String {
    let name = name.strip_prefix(prefix).unwrap_or(name);
    match name.rsplit_once(".LayerNorm.") {
        Some((module, "gamma")) => format!("{module}.LayerNorm.weight"),
        Some((module, "beta")) => format!("{module}.LayerNorm.bias"),
        _ => name.to_owned(),
    }
}

impl Weights {
    /// Opens `model.safetensors`, its shards, `pytorch_model.bin` or its shards, in this order of preference.
    ///
    /// # Errors
    /// [`Error::MissingFile`] where there is none; [`Error::InvalidFile`] for a truncated or malformed one;
    /// [`Error::MissingTensor`], [`Error::UnexpectedTensor`], [`Error::TensorShape`] where it does not fit `config`.
    pub fn open(files: &ModelFiles, config: &ModelConfig) -> Result<Self> {
        type Index = fn(&DataFile, usize) -> Result<BTreeMap<String, Entry>>;
        let forms: [(&str, Index); 2] =
            [("model.safetensors", safetensors::index), ("pytorch_model.bin", pickle::index)];
        for (name, index) in forms {
            let names = match files.open_data(name)? {
                Some(_) => vec![name.to_owned()],
                None => match files.read(&format!("{name}.index.json"))? {
                    Some(content) => shards(&content, &files.label(&format!("{name}.index.json")))?,
                    None => continue,
                },
            };
            let mut opened = Vec::new();
            let mut tensors = BTreeMap::new();
            for name in names {
                let file = files.open_data(&name)?.ok_or_else(|| Error::MissingFile {
                    model: files.place(),
                    file: name,
                    hint: "the checkpoint's index names it",
                })?;
                tensors.append(&mut index(&file, opened.len())?);
                opened.push(file);
            }
            return Self { files: opened, tensors }.checked(config);
        }
        Err(Error::MissingFile {
            model: files.place(),
            file: "model.safetensors".into(),
            hint: "nor is there pytorch_model.bin or an index of shards",
        })
    }

    /// Puts the tensors under their canonical names and holds them against the table.
    fn checked(mut self, config: &ModelConfig) -> Result<Self> {
        const ANCHOR: &str = "embeddings.word_embeddings.weight";
        let prefix =
            self.tensors.keys().filter_map(|n| n.strip_suffix(ANCHOR)).min_by_key(|p| p.len()).unwrap_or("").to_owned();
        let mut tensors = BTreeMap::new();
        for (name, entry) in std::mem::take(&mut self.tensors) {
            let canonical = canonical(&name, &prefix);
            if tensors.insert(canonical, entry).is_some() {
                return Err(Error::invalid(
                    self.label(0),
                    format_args!("tensor `{name}` is there twice, under two names"),
                ));
            }
        }
        for (name, expected) in table(config) {
            let Some(entry) = tensors.remove(&name) else {
                return Err(Error::MissingTensor { file: self.label(0), name, expected });
            };
            self.check_shape(&name, &entry, &expected)?;
            match entry.dtype {
                Dtype::I8 => {
                    let scale = format!("{name}.scale");
                    let rows = vec![expected[0]];
                    let Some(scales) = tensors.remove(&scale) else {
                        return Err(Error::MissingTensor { file: self.label(entry.file), name: scale, expected: rows });
                    };
                    self.check_shape(&scale, &scales, &rows)?;
                    if scales.dtype != Dtype::F32 || expected.len() != 2 {
                        return Err(Error::invalid(
                            self.label(entry.file),
                            format_args!("`{name}`: int8 needs a matrix and f32 scales"),
                        ));
                    }
                    self.tensors.insert(scale, scales);
                    let factor = format!("{name}.factor");
                    if let Some(factors) = tensors.remove(&factor) {
                        self.check_shape(&factor, &factors, &expected[1..])?;
                        self.tensors.insert(factor, factors);
                    }
                }
                Dtype::Other(_) => {
                    return Err(Error::invalid(self.label(entry.file), format_args!("tensor `{name}` is of integers")));
                }
                _ => {}
            }
            self.tensors.insert(name, entry);
        }
        match tensors.into_iter().find(|(name, _)| !is_harmless(name)) {
            Some((name, entry)) => {
                Err(Error::UnexpectedTensor { file: self.label(entry.file), name, shape: entry.shape })
            }
            None => Ok(self),
        }
    }

    fn check_shape(&self, name: &str, entry: &Entry, expected: &[usize]) -> Result<()> {
        if entry.shape == expected {
            return Ok(());
        }
        Err(Error::TensorShape {
            file: self.label(entry.file),
            name: name.to_owned(),
            found: entry.shape.clone(),
            expected: expected.to_vec(),
        })
    }

    fn label(&self, file: usize) -> String {
        self.files.get(file).map_or_else(String::new, DataFile::label)
    }

    /// The canonical names of all tensors, without those of scales and factors.
    pub fn names(&self) -> Vec<String> {
        let part = |name: &str| {
            let of = name.strip_suffix(".scale").or_else(|| name.strip_suffix(".factor"));
            of.is_some_and(|of| self.tensors.contains_key(of))
        };
        self.tensors.keys().filter(|name| !part(name)).cloned().collect()
    }

    /// Whether the checkpoint is of 8-bit weights with factors: ready for 8-bit products as it is.
    pub(crate) fn has_factors(&self) -> bool {
        self.tensors.keys().any(|name| name.ends_with(".factor"))
    }

    /// Reads a tensor by its canonical name.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] for a name that the table does not have, [`Error::NotFinite`] for NaN and infinity,
    /// [`Error::InvalidFile`] for a factor that is not more than 0, [`Error::Io`] where the file cannot be read.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        let missing = || Error::MissingTensor { file: self.label(0), name: name.to_owned(), expected: Vec::new() };
        let entry = self.tensors.get(name).ok_or_else(missing)?;
        let shape = entry.shape.clone();
        let not_finite = |index: usize, value: f32| Error::NotFinite {
            file: self.label(entry.file),
            name: name.to_owned(),
            index,
            value,
        };
        let bytes = self.bytes(entry)?;
        let values = match entry.dtype {
            Dtype::F32 => {
                let values: Vec<f32> = bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
                finite(&values, |v| v.is_finite()).map_err(|i| not_finite(i, values[i]))?;
                Values::F32(values)
            }
            Dtype::F64 => {
                let values: Vec<f32> = bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect();
                finite(&values, |v| v.is_finite()).map_err(|i| not_finite(i, values[i]))?;
                Values::F32(values)
            }
            Dtype::F16 => {
                let values: Vec<f16> = bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b)).collect();
                finite(&values, |v| v.to_bits() & 0x7C00 != 0x7C00).map_err(|i| not_finite(i, values[i].to_f32()))?;
                Values::F16(values)
            }
            Dtype::Bf16 => {
                let values: Vec<bf16> = bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b)).collect();
                finite(&values, |v| v.to_bits() & 0x7F80 != 0x7F80).map_err(|i| not_finite(i, values[i].to_f32()))?;
                Values::Bf16(values)
            }
            Dtype::I8 => {
                let values = bytes.into_iter().map(|b| b as i8).collect();
                let beside = |part: &str| self.read(&format!("{name}.{part}")).map(Tensor::into_f32);
                let factors =
                    if self.tensors.contains_key(&format!("{name}.factor")) { beside("factor")? } else { Vec::new() };
                if let Some((i, factor)) = factors.iter().enumerate().find(|&(_, &factor)| factor <= 0.0) {
                    return Err(Error::invalid(
                        self.label(entry.file),
                        format_args!("tensor `{name}.factor` holds {factor} at index {i}, a factor is more than 0"),
                    ));
                }
                Values::Int8 { values, scales: beside("scale")?, factors }
            }
            Dtype::Other(_) => return Err(missing()),
        };
        Ok(Tensor { shape, values })
    }

    fn bytes(&self, entry: &Entry) -> Result<Vec<u8>> {
        // The index has checked that the file holds as many.
        let mut bytes = vec![0; entry.shape.iter().product::<usize>() * entry.dtype.size()];
        self.files[entry.file].read_at(entry.offset, &mut bytes)?;
        Ok(bytes)
    }
}

/// The position of the first value that is not `good`. Whole runs are checked first, without a branch a value.
fn finite<T: Copy>(values: &[T], good: impl Fn(T) -> bool) -> Result<(), usize> {
    for (i, run) in values.chunks(1024).enumerate() {
        if !run.iter().fold(true, |all, &v| all & good(v)) {
            return Err(i * 1024 + run.iter().position(|&v| !good(v)).unwrap_or(0));
        }
    }
    Ok(())
}

/// Bytes of a tensor, if they can be counted at all.
fn byte_len(shape: &[usize], dtype: Dtype) -> Option<u64> {
    shape.iter().try_fold(dtype.size() as u64, |n, &s| n.checked_mul(s as u64))
}

/// The files that an index of shards names.
fn shards(content: &[u8], label: &str) -> Result<Vec<String>> {
    let index: serde_json::Value = serde_json::from_slice(content).map_err(|e| Error::invalid(label, e))?;
    let map = index["weight_map"].as_object().ok_or_else(|| Error::invalid(label, "`weight_map` is missing"))?;
    let names: BTreeSet<&str> = map.values().filter_map(|v| v.as_str()).collect();
    Ok(names.into_iter().map(str::to_owned).collect())
}
