//! Writes a model with 8-bit weights, which takes half the size of f16 and can be used as it is
//! with [`Precision::Int8`](crate::Precision).
//!
//! The layout, which [`Weights`] reads: a model directory as sentence-transformers writes it. In
//! `model.safetensors`, every matrix is `NAME` of type I8, (outputs × inputs) integers in
//! −127..=127, with `NAME.scale`, F32, one per row, and, for layers that read the hidden state,
//! `NAME.factor`, F32, one per column: a weight is integer · scale · factor. (The inputs of such a
//! layer are multiplied by the factors before they are quantized, so that the matrix multiplication
//! itself does not change.) Vectors are F32. Names are those of the model's family, without the
//! prefix of an enclosing model. `__metadata__` is `{"format": "pt"}`.

use std::path::Path;

use rayon::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use crate::calibration::calibrate;
use crate::config::{ModelConfig, ModelTask, Wishes};
use crate::error::{Error, Result};
use crate::files::ModelFiles;
use crate::files::names::{SENTENCE_TRANSFORMERS, TRANSFORMER, VOCABULARIES};
use crate::kernels::Kernels;
use crate::models::Pooling;
use crate::tokenizer::Tokenizer;
use crate::weights::{Tensor, Weights};

/// Files of a model's directory that are copied without changes.
const OF_MODEL: [&str; 2] = ["modules.json", "config_sentence_transformers.json"];

/// Files in the folders of other modules that are copied without changes.
const OF_MODULE: [&str; 3] = ["config.json", "model.safetensors", "pytorch_model.bin"];

/// Writes `files` with 8-bit weights to the directory `out`, which is created if necessary and must
/// be empty. Each row of a matrix is scaled by its own largest value and rounded to the nearest
/// integer. Rows that are already 8-bit stay as they are.
///
/// `out` also gets all other files that the engine reads, and the pooling that the model has by its
/// name, so that the directory can have any name.
///
/// ```
/// use gte_core::{Embedder, ModelFiles, quantize_to_int8};
///
/// let folder = tempfile::tempdir().expect("a temporary directory");
/// let out = folder.path().join("model-int8");
/// quantize_to_int8(&ModelFiles::bundled(), &out)?;
/// assert_eq!(Embedder::from_dir(&out)?.dim(), 384);
/// # Ok::<(), gte_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::InvalidOption`] if `out` is not empty; [`Error::Io`] if it cannot be written, in which
/// case there is no `model.safetensors`; errors about the model itself as in
/// [`Builder::build`](crate::Builder::build).
pub fn quantize_to_int8(files: &ModelFiles, out: impl AsRef<Path>) -> Result<()> {
    let out = out.as_ref();
    let config = read_config(files)?;
    let weights = Weights::open(files, &config)?;
    let tokenizer = Tokenizer::read(files, &config)?;
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, e))?;
    if std::fs::read_dir(out).map_err(|e| Error::io(out, e))?.next().is_some() {
        return Err(Error::InvalidOption {
            option: "out",
            value: out.display().to_string(),
            expected: "an empty directory, or the name of a new one".into(),
        });
    }
    let folders = config.module_folders.iter().map(String::as_str).filter(|folder| *folder != config.transformer);
    let copied = OF_MODEL.iter().map(|file| ("", file));
    let of_transformer = TRANSFORMER.iter().chain(&SENTENCE_TRANSFORMERS).chain(&VOCABULARIES);
    let copied = copied.chain(of_transformer.map(|file| (config.transformer.as_str(), file)));
    for (folder, file) in copied.chain(folders.flat_map(|folder| OF_MODULE.iter().map(move |file| (folder, file)))) {
        if let Some(content) = files.within(folder)?.read(file)? {
            write(&out.join(folder), file, &content)?;
        }
    }
    if config.task == ModelTask::Embed && files.read("modules.json")?.is_none() {
        write_modules(out, &config)?;
    }

    // The smoothing is the same as when the model is loaded with int8.
    let mut weights = weights;
    calibrate(&mut weights, &config.architecture, &tokenizer, Kernels::best())?;
    let (weights, names) = (&weights, weights.spelling());
    // Heads are small, and their output is the final result, so they stay in f32.
    let large = |name: &str| {
        [names.layer, names.words, names.positions, names.types]
            .iter()
            .any(|start| !start.is_empty() && name.starts_with(start))
    };
    let stored = |name: &String| {
        let tensor = weights.read(name)?;
        let found = weights.smoothing(name);
        let smoothing = if found.is_empty() { tensor.smoothing().to_vec() } else { found.to_vec() };
        Ok(stored(name, tensor, large(name).then_some(&smoothing)))
    };
    let tensors: Vec<Vec<Stored>> = weights.names().par_iter().map(stored).collect::<Result<_>>()?;
    let folder = out.join(&config.transformer);
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    let path = folder.join("model.safetensors");
    let views = tensors.iter().flatten().map(|(name, dtype, shape, bytes)| {
        TensorView::new(*dtype, shape.clone(), bytes)
            .map(|view| (name, view))
            .map_err(|e| Error::invalid(path.display().to_string(), e))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let partial = path.with_extension("partial");
    safetensors::serialize_to_file(views, Some(metadata), &partial)
        .map_err(|e| Error::io(&partial, std::io::Error::other(e)))
        .and_then(|()| publish(&partial, &path))
        .inspect_err(|_| drop(std::fs::remove_file(&partial)))
}

/// Name, type, shape, little-endian bytes.
type Stored = (String, Dtype, Vec<usize>, Vec<u8>);

/// A tensor as it will be stored: in f32, or as a matrix in 8 bits with its smoothing.
fn stored(name: &str, tensor: Tensor, smoothing: Option<&Vec<f32>>) -> Vec<Stored> {
    let bytes = |values: Vec<f32>| values.into_iter().flat_map(f32::to_le_bytes).collect();
    let shape = tensor.shape.clone();
    let (2, Some(smoothing)) = (shape.len(), smoothing) else {
        return vec![(name.to_owned(), Dtype::F32, shape, bytes(tensor.into_f32()))];
    };
    let (values, scales) = tensor.into_int8(smoothing);
    let factor = (format!("{name}.factor"), Dtype::F32, vec![smoothing.len()], bytes(smoothing.to_vec()));
    let factor = (!smoothing.is_empty()).then_some(factor);
    let matrix = [
        (format!("{name}.scale"), Dtype::F32, vec![scales.len()], bytes(scales)),
        (name.to_owned(), Dtype::I8, shape, values.into_iter().map(|v| v as u8).collect()),
    ];
    factor.into_iter().chain(matrix).collect()
}

/// The model's configuration, whether it is an embedder or computes scores.
fn read_config(files: &ModelFiles) -> Result<ModelConfig> {
    let scores = Wishes { scores: true, ..Wishes::default() };
    ModelConfig::read(files, None).or_else(|e| ModelConfig::read_as(files, &scores).map_err(|_| e))
}

/// Writes `modules.json` for a model that has none, whose pooling is known by its name.
fn write_modules(out: &Path, config: &ModelConfig) -> Result<()> {
    let module = |i: usize, path: &str, kind: &str| json!({ "idx": i, "name": i.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}") });
    let modules =
        json!([module(0, "", "Transformer"), module(1, "1_Pooling", "Pooling"), module(2, "2_Normalize", "Normalize")]);
    let pooling = json!({
        "word_embedding_dimension": config.hidden,
        "pooling_mode_cls_token": config.pooling == Pooling::Cls,
        "pooling_mode_mean_tokens": config.pooling == Pooling::Mean,
        "pooling_mode_lasttoken": config.pooling == Pooling::LastToken,
    });
    write(out, "modules.json", modules.to_string().as_bytes())?;
    write(&out.join("1_Pooling"), "config.json", pooling.to_string().as_bytes())
}

/// Writes a file that is either complete or missing, in a folder that is created if necessary.
fn write(folder: &Path, file: &str, content: &[u8]) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let path = folder.join(file);
    let partial = folder.join(format!("{file}.partial"));
    std::fs::write(&partial, content).map_err(|e| Error::io(&partial, e))?;
    publish(&partial, &path)
}

/// Gives a finished file its final name, once its content is on the disk.
fn publish(partial: &Path, path: &Path) -> Result<()> {
    let file = std::fs::File::open(partial).map_err(|e| Error::io(partial, e))?;
    file.sync_all().map_err(|e| Error::io(partial, e))?;
    std::fs::rename(partial, path).map_err(|e| Error::io(path, e))
}
