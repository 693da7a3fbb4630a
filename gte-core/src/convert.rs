//! Writes a model with 8-bit weights: half the size of f16, and ready to compute with in [`Precision::Int8`](crate::Precision).
//!
//! The layout, which [`Weights`] reads back: a model directory as sentence-transformers writes it; in `model.safetensors` every
//! matrix is `NAME` of type I8, (outputs × inputs) integers in −127..=127, with `NAME.scale`, F32, one a row, and for the layers that
//! read the hidden state `NAME.factor`, F32, one a column: a weight is integer · scale · factor. (Such a layer's inputs are multiplied
//! with the factors before they are narrowed, and the product needs no more.) Vectors are F32. Names are those of Hugging Face's
//! `BertModel`. `__metadata__` says `{"format": "pt"}`.

use std::collections::HashMap;
use std::path::Path;

use rayon::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use crate::batch::PackedBatch;
use crate::config::{ModelConfig, Pooling};
use crate::encoder::Encoder;
use crate::files::ModelFiles;
use crate::kernels::{Format, Kernels};
use crate::ops::cpu::Cpu;
use crate::tokens::Tokenizer;
use crate::weights::{Tensor, Weights};
use crate::{Error, Result};

/// The files of a model beside its weights, which are copied as they are.
const COPIED: [&str; 6] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "sentence_bert_config.json",
];

/// Texts by which 8-bit layers find out which of their inputs are large: some sixty tokens of a Chinese model, more of another.
const SAMPLE: [&str; 4] = [
    "您好，我上周买的电热水壶坏了，想申请退货退款，请问需要提供哪些材料？",
    "今天天气真好，我们下午三点去公园散步吧。",
    "The quarterly report shows that sales rose by 12% while costs stayed flat.",
    "How do I reset my password if I no longer have access to my e-mail?",
];

/// The tokens of the sample texts.
pub(crate) fn sample(tokenizer: &Tokenizer) -> Result<PackedBatch> {
    let tokens = SAMPLE.iter().map(|text| tokenizer.encode_one(text)).collect::<Result<Vec<_>>>()?;
    PackedBatch::new(tokens.iter().map(|tokens| &tokens.ids[..]))
}

/// Writes `files` with 8-bit weights to the directory `out`, which is made if need be and must be empty. Each row of a matrix is
/// scaled by its own largest value and rounded to nearest; rows that are 8-bit already stay as they are.
///
/// `out` also gets the pooling that the model has by its files or by its name, so that it may be named as one likes.
///
/// # Errors
/// [`Error::InvalidOption`] if `out` is not empty, [`Error::Io`] where it cannot be written: then nothing is there under
/// `model.safetensors`. What is wrong with the model, as in [`Builder::build`](crate::Builder::build).
pub fn convert_to_int8(files: &ModelFiles, out: impl AsRef<Path>) -> Result<()> {
    let out = out.as_ref();
    let config = ModelConfig::read(files, None)?;
    let weights = Weights::open(files, &config)?;
    std::fs::create_dir_all(out.join("1_Pooling")).map_err(|e| Error::io(out, e))?;
    let foreign =
        std::fs::read_dir(out).map_err(|e| Error::io(out, e))?.flatten().any(|e| e.file_name() != "1_Pooling");
    if foreign {
        return Err(Error::InvalidOption {
            option: "out",
            value: out.display().to_string(),
            expected: "an empty directory, or the name of a new one".into(),
        });
    }
    for name in COPIED {
        if let Some(content) = files.read(name)? {
            write(&out.join(name), &content)?;
        }
    }
    let module = |i: usize, path: &str, kind: &str| json!({ "idx": i, "name": i.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}") });
    let modules =
        json!([module(0, "", "Transformer"), module(1, "1_Pooling", "Pooling"), module(2, "2_Normalize", "Normalize")]);
    let pooling = json!({
        "word_embedding_dimension": config.hidden,
        "pooling_mode_cls_token": config.pooling == Pooling::Cls,
        "pooling_mode_mean_tokens": config.pooling == Pooling::Mean,
        "pooling_mode_lasttoken": config.pooling == Pooling::LastToken,
    });
    write(&out.join("modules.json"), modules.to_string().as_bytes())?;
    write(&out.join("1_Pooling/config.json"), pooling.to_string().as_bytes())?;

    // The factors are those that loading would have found.
    let cpu = Cpu::new(Kernels::best(), Some(Format::Int8), rayon::current_num_threads());
    let encoder = Encoder::load(&cpu, &weights, &config, Some(&sample(&Tokenizer::read(files, &config)?)?))?;
    let factors: HashMap<String, &[f32]> =
        encoder.readers().flat_map(|(names, linear)| names.into_iter().map(|name| (name, linear.factors()))).collect();
    let stored = |name: &String| Ok(stored(name, weights.read(name)?, factors.get(name).copied().unwrap_or(&[])));
    let tensors: Vec<Vec<Stored>> = weights.names().par_iter().map(stored).collect::<Result<_>>()?;
    let path = out.join("model.safetensors");
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

fn stored(name: &str, tensor: Tensor, factors: &[f32]) -> Vec<Stored> {
    let bytes = |values: Vec<f32>| values.into_iter().flat_map(f32::to_le_bytes).collect();
    let shape = tensor.shape.clone();
    if shape.len() != 2 {
        return vec![(name.to_owned(), Dtype::F32, shape, bytes(tensor.into_f32()))];
    }
    let (values, scales) = tensor.into_int8(factors);
    let factor = (format!("{name}.factor"), Dtype::F32, vec![factors.len()], bytes(factors.to_vec()));
    let factor = (!factors.is_empty()).then_some(factor);
    let matrix = [
        (format!("{name}.scale"), Dtype::F32, vec![scales.len()], bytes(scales)),
        (name.to_owned(), Dtype::I8, shape, values.into_iter().map(|v| v as u8).collect()),
    ];
    factor.into_iter().chain(matrix).collect()
}

/// Writes a file that is there whole or not at all.
fn write(path: &Path, content: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    std::fs::write(&partial, content).map_err(|e| Error::io(&partial, e))?;
    publish(&partial, path)
}

/// Gives a file that is written its name, once it is on the disk.
fn publish(partial: &Path, path: &Path) -> Result<()> {
    let file = std::fs::File::open(partial).map_err(|e| Error::io(partial, e))?;
    file.sync_all().map_err(|e| Error::io(partial, e))?;
    std::fs::rename(partial, path).map_err(|e| Error::io(path, e))
}
