//! `Weights`: a checkpoint as named tensors, in any file format.
//!
//! Opening reads only the headers, and compares every name and shape with those of the model's
//! family. Values are read on demand, from any thread. Names are those of the family, without the
//! prefix of an enclosing model (`models/`).

mod pickle;
mod safetensors;
mod tables;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::config::{ModelConfig, ModelTask};
use crate::error::{Error, Result};
use crate::files::{DataFile, ModelFiles};
use crate::kernels::{int8_rows, to_bf16};
use crate::models::{Names, Task, TensorSpec, canonical};

/// A checkpoint whose names and shapes match its configuration.
pub struct Weights {
    files: Vec<DataFile>,
    tensors: BTreeMap<String, Entry>, // by canonical name
    spelling: &'static Names,
    smoothing: HashMap<String, Vec<f32>>, // by the name of a matrix, from calibration
}

/// Where a tensor is stored.
#[derive(Clone, Debug)]
struct Entry {
    file: usize, // in `Weights::files`
    offset: u64, // of the first byte
    dtype: Dtype,
    shape: Vec<usize>,
    strides: Option<Vec<usize>>, // in values, per size; `None`: row-major
}

/// How values are stored, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    I8,
    /// Integers that are never weights, such as `position_ids`, with the size of one in bytes.
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
    /// The upper half of an f32.
    Bf16(Vec<bf16>),
    /// `values[r][c] · scales[r] · smoothing[c]`: integers in −127..=127, one scale per row, and
    /// optionally a factor per column.
    Int8 {
        /// (rows × columns)
        values: Vec<i8>,
        /// (rows)
        scales: Vec<f32>,
        /// (columns), or empty: the factors by which the layer's inputs are multiplied before they
        /// are quantized. The weights were divided by them.
        smoothing: Vec<f32>,
    },
}

impl Tensor {
    /// The values as f32, which represents each of the stored types exactly (int8: value · scale ·
    /// factor, rounded).
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
            Values::Int8 { values, scales, smoothing } => {
                let columns = values.len().checked_div(scales.len()).unwrap_or(0).max(1);
                let mut out = Vec::with_capacity(values.len());
                for (row, &scale) in values.chunks(columns).zip(&scales) {
                    match &smoothing[..] {
                        [] => out.extend(row.iter().map(|&v| f32::from(v) * scale)),
                        smoothing => out.extend(row.iter().zip(smoothing).map(|(&v, f)| f32::from(v) * scale * f)),
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

    /// A matrix, with its columns divided by `smoothing` (unless it is empty), as integers in
    /// −127..=127 and one scale per row. If it is already stored with the same smoothing, it is
    /// returned as it is; otherwise each row is scaled by its own largest value.
    pub(crate) fn into_int8(self, smoothing: &[f32]) -> (Vec<i8>, Vec<f32>) {
        let columns = self.shape.last().copied().unwrap_or(1);
        match self.values {
            Values::Int8 { values, scales, smoothing: own } if own == smoothing => (values, scales),
            _ => {
                let mut values = self.into_f32();
                if !smoothing.is_empty() {
                    for row in values.chunks_exact_mut(columns) {
                        row.iter_mut().zip(smoothing).for_each(|(v, f)| *v /= f);
                    }
                }
                int8_rows(&values, columns)
            }
        }
    }

    /// Writes row `row` of a matrix to `out`, as f32.
    pub(crate) fn row_into(&self, row: usize, out: &mut [f32]) {
        let place = row * out.len()..(row + 1) * out.len();
        match &self.values {
            Values::F32(values) => out.copy_from_slice(&values[place]),
            Values::F16(values) => values[place].convert_to_f32_slice(out),
            Values::Bf16(values) => values[place].convert_to_f32_slice(out),
            Values::Int8 { values, scales, smoothing } => {
                let scale = scales[row];
                out.iter_mut().zip(&values[place]).for_each(|(out, &v)| *out = f32::from(v) * scale);
                out.iter_mut().zip(smoothing).for_each(|(out, f)| *out *= f);
            }
        }
    }

    /// The smoothing with which it is stored, if any.
    pub(crate) fn smoothing(&self) -> &[f32] {
        match &self.values {
            Values::Int8 { smoothing, .. } => smoothing,
            _ => &[],
        }
    }
}

/// How the index of a tensor file is read. The second argument is the file's number.
type Index = fn(&DataFile, usize) -> Result<BTreeMap<String, Entry>>;

/// The files that a checkpoint may have, the preferred one first.
const FORMS: [(&str, Index); 2] = [("model.safetensors", safetensors::index), ("pytorch_model.bin", pickle::index)];

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Weights").field("tensors", &self.tensors.len()).finish_non_exhaustive()
    }
}

impl Weights {
    /// Opens `model.safetensors`, its shards, `pytorch_model.bin` or its shards, in this order of
    /// preference.
    ///
    /// # Errors
    /// [`Error::MissingFile`] if there is none; [`Error::InvalidFile`] for a truncated or malformed
    /// one; [`Error::MissingTensor`], [`Error::UnexpectedTensor`], [`Error::TensorShape`] if it
    /// does not match `config`.
    pub fn open(files: &ModelFiles, config: &ModelConfig) -> Result<Self> {
        let (files, architecture) = (&files.within(&config.transformer)?, &config.architecture);
        for (name, index) in FORMS {
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
            let spelling = architecture.spelling(|name| tensors.keys().any(|found| found.ends_with(name)));
            let weights = Self { files: opened, tensors, spelling, smoothing: HashMap::new() };
            // Tensors of the family that this task does not use do not change the result either.
            let heads = [spelling.head_dense, spelling.head_norm, spelling.head_out, spelling.language];
            let heads = heads.into_iter().filter(|name| !name.is_empty());
            let harmless: Vec<&str> = spelling.harmless.iter().copied().chain(heads).collect();
            let mut table = architecture.tensors(spelling);
            if config.task == ModelTask::Embed && matches!(architecture.task, Task::Language { tied: false }) {
                table.retain(|(name, _)| !name.starts_with(spelling.language));
            }
            return weights.under_their_names()?.checked(&table, &harmless);
        }
        Err(Error::MissingFile {
            model: files.place(),
            file: "model.safetensors".into(),
            hint: "there is no pytorch_model.bin or index of shards either",
        })
    }

    /// Opens the first of `candidates` that exists, a small file with exactly the tensors of
    /// `table`. The names in `table` begin with `prefix`, those in the file do not.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Error::MissingFile`] with `hint` if there is none.
    pub(crate) fn open_small(
        files: &ModelFiles,
        candidates: &[&str],
        table: &[TensorSpec],
        prefix: &str,
        spelling: &'static Names,
        hint: &'static str,
    ) -> Result<Self> {
        for name in candidates {
            let Some(file) = files.open_data(name)? else { continue };
            let index = if name.ends_with(".safetensors") { safetensors::index } else { pickle::index };
            let tensors = index(&file, 0)?;
            let tensors = tensors.into_iter().map(|(name, entry)| (format!("{prefix}{name}"), entry)).collect();
            return Self { files: vec![file], tensors, spelling, smoothing: HashMap::new() }.checked(table, &[]);
        }
        Err(Error::MissingFile { model: files.place(), file: candidates.join(" or "), hint })
    }

    /// Renames the tensors to the names of their family, without the prefix of an enclosing model.
    fn under_their_names(mut self) -> Result<Self> {
        let anchor = format!("{}.weight", self.spelling.words);
        let prefixes = self.tensors.keys().filter_map(|n| n.strip_suffix(&anchor));
        let prefix = prefixes.min_by_key(|p| p.len()).unwrap_or("").to_owned();
        for (name, entry) in std::mem::take(&mut self.tensors) {
            if self.tensors.insert(canonical(&name, &prefix), entry).is_some() {
                return Err(Error::invalid(
                    self.label(0),
                    format_args!("tensor `{name}` occurs twice, under two names"),
                ));
            }
        }
        Ok(self)
    }

    /// Compares the tensors with `table`. Other tensors are only allowed if their names begin with
    /// one of `harmless`.
    fn checked(mut self, table: &[TensorSpec], harmless: &[&str]) -> Result<Self> {
        let mut tensors = std::mem::take(&mut self.tensors);
        for (name, expected) in table {
            let Some(entry) = tensors.remove(name) else {
                return Err(Error::MissingTensor {
                    file: self.label(0),
                    name: name.clone(),
                    expected: expected.clone(),
                });
            };
            self.check_shape(name, &entry, expected)?;
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
                    if let Some(smoothing) = tensors.remove(&factor) {
                        self.check_shape(&factor, &smoothing, &expected[1..])?;
                        self.tensors.insert(factor, smoothing);
                    }
                }
                Dtype::Other(_) => {
                    return Err(Error::invalid(self.label(entry.file), format_args!("tensor `{name}` has integers")));
                }
                _ => {}
            }
            self.tensors.insert(name.clone(), entry);
        }
        match tensors.into_iter().find(|(name, _)| !harmless.iter().any(|start| name.starts_with(start))) {
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

    /// The canonical names of all tensors, without scales and factors.
    pub fn names(&self) -> Vec<String> {
        let part = |name: &str| {
            let of = name.strip_suffix(".scale").or_else(|| name.strip_suffix(".factor"));
            of.is_some_and(|of| self.tensors.contains_key(of))
        };
        self.tensors.keys().filter(|name| !part(name)).cloned().collect()
    }

    /// The spelling of names in the checkpoint.
    pub(crate) fn spelling(&self) -> &'static Names {
        self.spelling
    }

    /// Width of a hidden state: that of the table of word embeddings.
    pub(crate) fn width(&self) -> usize {
        let words = self.tensors.get(&format!("{}.weight", self.spelling.words));
        words.and_then(|entry| entry.shape.last().copied()).unwrap_or(0)
    }

    /// Whether the checkpoint has 8-bit weights with smoothing, and can be used for int8 as it is.
    pub(crate) fn has_smoothing(&self) -> bool {
        self.tensors.keys().any(|name| name.ends_with(".factor"))
    }

    /// The factors by which the inputs of the matrix `name` are multiplied before they are
    /// quantized, as calibration found them; empty if it found none.
    pub(crate) fn smoothing(&self, name: &str) -> &[f32] {
        self.smoothing.get(name).map_or(&[], Vec::as_slice)
    }

    /// Stores the smoothing that calibration found, by the names of the matrices.
    pub(crate) fn set_smoothing(&mut self, smoothing: HashMap<String, Vec<f32>>) {
        self.smoothing = smoothing;
    }

    /// Reads a tensor by its canonical name.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] for a name that is not in the table, [`Error::NotFinite`] for NaN
    /// and infinity, [`Error::InvalidFile`] for a factor that is not above 0, [`Error::Io`] if the
    /// file cannot be read.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        match self.tensors.get(name) {
            Some(entry) => self.read_entry(name, entry),
            None => Err(self.missing(name)),
        }
    }

    fn missing(&self, name: &str) -> Error {
        Error::MissingTensor { file: self.label(0), name: name.to_owned(), expected: Vec::new() }
    }

    fn read_entry(&self, name: &str, entry: &Entry) -> Result<Tensor> {
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
                let smoothing =
                    if self.tensors.contains_key(&format!("{name}.factor")) { beside("factor")? } else { Vec::new() };
                if let Some((i, factor)) = smoothing.iter().enumerate().find(|&(_, &factor)| factor <= 0.0) {
                    return Err(Error::invalid(
                        self.label(entry.file),
                        format_args!(
                            "tensor `{name}.factor` contains {factor} at index {i}, expected a factor above 0"
                        ),
                    ));
                }
                Values::Int8 { values, scales: beside("scale")?, smoothing }
            }
            Dtype::Other(_) => return Err(self.missing(name)),
        };
        Ok(Tensor { shape, values })
    }

    fn bytes(&self, entry: &Entry) -> Result<Vec<u8>> {
        // The index was checked: the file has that many values.
        let mut bytes = vec![0; entry.span() * entry.dtype.size()];
        self.files[entry.file].read_at(entry.offset, &mut bytes)?;
        Ok(match &entry.strides {
            None => bytes,
            Some(strides) => in_order(&bytes, entry.dtype.size(), &entry.shape, strides),
        })
    }
}

impl Entry {
    /// Number of values from the first to the last one, in storage order.
    fn span(&self) -> usize {
        match &self.strides {
            None => self.shape.iter().product(),
            Some(_) if self.shape.contains(&0) => 0,
            Some(strides) => {
                1 + self.shape.iter().zip(strides).map(|(size, stride)| (size - 1) * stride).sum::<usize>()
            }
        }
    }
}

/// Values of `size` bytes, in row-major order.
fn in_order(bytes: &[u8], size: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let mut out = Vec::with_capacity(shape.iter().product::<usize>() * size);
    let mut index = vec![0; shape.len()];
    for _ in 0..shape.iter().product::<usize>() {
        let at = index.iter().zip(strides).map(|(i, stride)| i * stride).sum::<usize>() * size;
        out.extend_from_slice(&bytes[at..at + size]);
        for (i, &len) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < len {
                break;
            }
            *i = 0;
        }
    }
    out
}

/// The position of the first value that is not `good`. Whole runs are checked first, without a
/// branch per value.
fn finite<T: Copy>(values: &[T], good: impl Fn(T) -> bool) -> Result<(), usize> {
    for (i, run) in values.chunks(1024).enumerate() {
        if !run.iter().fold(true, |all, &v| all & good(v)) {
            return Err(i * 1024 + run.iter().position(|&v| !good(v)).unwrap_or(0));
        }
    }
    Ok(())
}

/// Number of bytes in a tensor, or None if it overflows.
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
