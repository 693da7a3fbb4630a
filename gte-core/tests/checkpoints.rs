//! Checkpoints in every accepted form give the same vectors. Damaged ones give an error that names
//! what is wrong.
#![allow(clippy::unwrap_used, reason = "a test")]

mod model;

use std::path::{Path, PathBuf};

use gte_core::internals::Weights;
use gte_core::{Embedder, Embeddings, Error, ModelConfig, ModelFiles, Pooling, Precision};
use model::{Tensors, tensors, tiny_model, write_safetensors, write_small_files};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};

fn vectors(dir: &Path) -> gte_core::Result<Embeddings> {
    let embedder = Embedder::from_files(ModelFiles::from_dir(dir)?).precision(Precision::F32).threads(1).build()?;
    embedder.embed_tokens(&[model::ids(1, 20), model::ids(2, 7)])
}

/// A model directory with other tensors.
fn with(tensors: &Tensors) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_small_files(dir.path());
    write_safetensors(&dir.path().join("model.safetensors"), tensors);
    dir
}

fn renamed(f: impl Fn(&str) -> String) -> Tensors {
    tensors().into_iter().map(|(name, tensor)| (f(&name), tensor)).collect()
}

#[test]
fn every_way_of_naming_is_understood() {
    let expected = vectors(tiny_model().path()).unwrap();
    for prefix in ["bert.", "model.", "encoder.", "model.encoder.", "0.auto_model."] {
        assert_eq!(vectors(with(&renamed(|n| format!("{prefix}{n}"))).path()).unwrap(), expected, "{prefix}");
    }
    let old = renamed(|n| n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"));
    assert_eq!(vectors(with(&old).path()).unwrap(), expected);
    let mut more = renamed(|n| format!("bert.{n}"));
    let h = model::HIDDEN;
    more.insert("bert.pooler.dense.weight".into(), (vec![h, h], vec![0.0; h * h]));
    more.insert("bert.embeddings.position_ids".into(), (vec![1, 160], vec![0.0; 160]));
    more.insert("cls.predictions.bias".into(), (vec![model::VOCAB], vec![0.0; model::VOCAB]));
    assert_eq!(vectors(with(&more).path()).unwrap(), expected);
}

/// Writes the model's tensors in `dtype`, with values converted by `bytes`.
fn write_as(path: &Path, dtype: Dtype, bytes: impl Fn(f32) -> Vec<u8>) {
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = tensors()
        .into_iter()
        .map(|(name, (shape, values))| (name, shape, values.into_iter().flat_map(&bytes).collect()))
        .collect();
    let views = data.iter().map(|(name, shape, bytes)| (name, TensorView::new(dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

#[test]
fn every_dtype_is_read_exactly() {
    let dir = tempfile::tempdir().unwrap();
    write_small_files(dir.path());
    let path = dir.path().join("model.safetensors");
    let rounded = |round: fn(f32) -> f32| {
        let tensors = tensors().into_iter().map(|(n, (s, v))| (n, (s, v.into_iter().map(round).collect()))).collect();
        vectors(with(&tensors).path()).unwrap()
    };
    write_as(&path, Dtype::F16, |v| half::f16::from_f32(v).to_le_bytes().to_vec());
    assert_eq!(vectors(dir.path()).unwrap(), rounded(|v| half::f16::from_f32(v).to_f32()));
    write_as(&path, Dtype::BF16, |v| half::bf16::from_f32(v).to_le_bytes().to_vec());
    assert_eq!(vectors(dir.path()).unwrap(), rounded(|v| half::bf16::from_f32(v).to_f32()));
    write_as(&path, Dtype::F64, |v| f64::from(v).to_le_bytes().to_vec());
    assert_eq!(vectors(dir.path()).unwrap(), vectors(tiny_model().path()).unwrap());
}

#[test]
fn int8_with_scales_is_read_as_their_product() {
    let mut exact = tensors();
    let mut data: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, (shape, values)) in &mut exact {
        if shape.len() < 2 {
            data.push((name.clone(), Dtype::F32, shape.clone(), values.iter().flat_map(|v| v.to_le_bytes()).collect()));
            continue;
        }
        let (mut quantized, mut scales) = (Vec::new(), Vec::new());
        for row in values.chunks_mut(shape[1]) {
            let scale = row.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0;
            for v in row {
                let q = (*v / scale).round() as i8;
                quantized.push(q as u8);
                *v = f32::from(q) * scale;
            }
            scales.extend(scale.to_le_bytes());
        }
        data.push((name.clone(), Dtype::I8, shape.clone(), quantized));
        data.push((format!("{name}.scale"), Dtype::F32, vec![shape[0]], scales));
    }
    let dir = tempfile::tempdir().unwrap();
    write_small_files(dir.path());
    let write = |data: &[(String, Dtype, Vec<usize>, Vec<u8>)]| {
        let views = data
            .iter()
            .map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        safetensors::serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
    };
    write(&data);
    assert_eq!(vectors(dir.path()).unwrap(), vectors(with(&exact).path()).unwrap());
    // A column whose factor is zero.
    let (name, shape) =
        data.iter().find(|(_, dtype, ..)| *dtype == Dtype::I8).map(|t| (t.0.clone(), t.2.clone())).unwrap();
    data.push((format!("{name}.factor"), Dtype::F32, vec![shape[1]], vec![0; 4 * shape[1]]));
    write(&data);
    let error = vectors(dir.path()).unwrap_err().to_string();
    assert!(error.contains(&format!("{name}.factor")) && error.contains("above 0"), "{error}");
}

#[test]
fn shards_are_one_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    write_small_files(dir.path());
    let mut map = serde_json::Map::new();
    for (i, file) in ["a.safetensors", "b.safetensors"].into_iter().enumerate() {
        let part: Tensors = tensors().into_iter().enumerate().filter(|(j, _)| j % 2 == i).map(|(_, t)| t).collect();
        map.extend(part.keys().map(|name| (name.clone(), file.into())));
        write_safetensors(&dir.path().join(file), &part);
    }
    std::fs::write(
        dir.path().join("model.safetensors.index.json"),
        serde_json::json!({ "weight_map": map }).to_string(),
    )
    .unwrap();
    assert_eq!(vectors(dir.path()).unwrap(), vectors(tiny_model().path()).unwrap());
    std::fs::remove_file(dir.path().join("b.safetensors")).unwrap();
    assert!(matches!(vectors(dir.path()), Err(Error::MissingFile { file, .. }) if file == "b.safetensors"));
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let mut missing = tensors();
    missing.remove("encoder.layer.1.output.dense.bias");
    let error = vectors(with(&missing).path()).unwrap_err();
    assert!(
        matches!(&error, Error::MissingTensor { name, expected, .. } if name == "encoder.layer.1.output.dense.bias" && expected == &[48]),
        "{error}"
    );

    let mut extra = tensors();
    extra.insert("encoder.layer.2.rotary.weight".into(), (vec![2, 3], vec![0.0; 6]));
    let error = vectors(with(&extra).path()).unwrap_err();
    assert!(
        matches!(&error, Error::UnexpectedTensor { name, shape, .. } if name.contains("rotary") && shape == &[2, 3]),
        "{error}"
    );

    let mut wrong = tensors();
    wrong.insert("embeddings.LayerNorm.bias".into(), (vec![47], vec![0.0; 47]));
    let error = vectors(with(&wrong).path()).unwrap_err();
    assert!(
        matches!(&error, Error::TensorShape { found, expected, .. } if found == &[47] && expected == &[48]),
        "{error}"
    );

    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut bad = tensors();
        bad.get_mut("encoder.layer.0.intermediate.dense.weight").unwrap().1[1234] = value;
        let error = vectors(with(&bad).path()).unwrap_err();
        assert!(
            matches!(&error, Error::NotFinite { index: 1234, name, .. } if name.contains("intermediate")),
            "{error}"
        );
    }
}

fn torch_fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch")
}

/// A directory with one of the checkpoints that PyTorch wrote, as `pytorch_model.bin`.
fn torch_model(file: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in [file, "config.json", "vocab.txt"] {
        let target = if name == file { "pytorch_model.bin" } else { name };
        std::fs::copy(torch_fixtures().join(name), dir.path().join(target)).unwrap();
    }
    dir
}

fn torch_vectors(dir: &Path) -> gte_core::Result<Embeddings> {
    Embedder::from_files(ModelFiles::from_dir(dir)?)
        .precision(Precision::F32)
        .pooling(Pooling::Cls)
        .threads(1)
        .build()?
        .embed_tokens(&[[2, 5, 6, 3]])
}

#[test]
fn pickles_of_pytorch_are_read() {
    let bytes = std::fs::read(torch_fixtures().join("expected.f32")).unwrap();
    let expected: Vec<f32> = bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    // f16 and bf16 represent the same values, because the values were chosen so.
    for file in [
        "zip-f32.bin",
        "legacy-f32.bin",
        "zip-f16.bin",
        "legacy-bf16.bin",
        "zip-prefix-gamma.bin",
        "zip-strided.bin",
        "legacy-strided.bin",
    ] {
        let found = torch_vectors(torch_model(file).path()).unwrap();
        let worst = found.as_slice().iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-6, "{file}: off by {worst}");
    }
    let error = torch_vectors(torch_model("hostile.bin").path()).unwrap_err().to_string();
    assert!(error.contains("posix.system") || error.contains("does not belong"), "{error}");
}

fn open(dir: &Path) -> gte_core::Result<Weights> {
    let files = ModelFiles::from_dir(dir)?;
    Weights::open(&files, &ModelConfig::read(&files, Some(Pooling::Cls))?)
}

#[test]
fn a_truncated_file_is_an_error_at_every_length() {
    let dir = tiny_model();
    let path = dir.path().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    for len in (0..9).chain((9..whole.len()).step_by(977)).chain([whole.len() - 1]) {
        std::fs::write(&path, &whole[..len]).unwrap();
        assert!(matches!(open(dir.path()), Err(Error::InvalidFile { .. })), "{len} bytes");
    }
    for file in ["zip-f32.bin", "legacy-f32.bin", "zip-strided.bin"] {
        let dir = torch_model(file);
        let path = dir.path().join("pytorch_model.bin");
        let whole = std::fs::read(&path).unwrap();
        for len in (0..9).chain((9..whole.len()).step_by(331)).chain([whole.len() - 1]) {
            std::fs::write(&path, &whole[..len]).unwrap();
            assert!(matches!(open(dir.path()), Err(Error::InvalidFile { .. })), "{file}: {len} bytes");
        }
    }
}

#[test]
fn a_git_lfs_pointer_in_place_of_a_file_is_named() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 1340616616\n";
    for (file, model) in [("model.safetensors", tiny_model()), ("pytorch_model.bin", torch_model("zip-f32.bin"))] {
        std::fs::write(model.path().join(file), pointer).unwrap();
        let error = torch_vectors(model.path()).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains("git lfs pull"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn flipped_bytes_never_panic(file in prop::sample::select(vec!["zip-f32.bin", "legacy-f32.bin", "legacy-strided.bin"]), flips in prop::collection::vec((0usize..6000, any::<u8>()), 1..6)) {
        let dir = torch_model(file);
        let path = dir.path().join("pytorch_model.bin");
        let mut bytes = std::fs::read(&path).unwrap();
        for (place, value) in flips {
            // At both ends: the pickle of a legacy file is at its beginning, the directory of a zip
            // file at its end.
            let place = if place % 2 == 0 { place / 2 } else { bytes.len() - 1 - place / 2 };
            bytes[place] = value;
        }
        std::fs::write(&path, bytes).unwrap();
        let _ = torch_vectors(dir.path());
    }

    #[test]
    fn a_damaged_header_never_panics(flips in prop::collection::vec((0usize..3000, any::<u8>()), 1..6)) {
        let dir = tiny_model();
        let path = dir.path().join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        for (place, value) in flips {
            bytes[place] = value;
        }
        std::fs::write(&path, bytes).unwrap();
        let _ = vectors(dir.path());
    }
}

#[test]
fn configurations_that_are_not_computed_are_refused_by_key() {
    let refused = |key: &str, value: serde_json::Value| {
        let dir = tiny_model();
        let mut config = model::config();
        config[key] = value;
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let error = vectors(dir.path()).unwrap_err();
        assert!(
            matches!(error, Error::Unsupported { .. } | Error::InvalidFile { .. }) && error.to_string().contains(key),
            "{key}: {error}"
        );
        assert!(error.to_string().contains("config.json"), "{error}");
    };
    refused("model_type", "deberta-v2".into());
    refused("hidden_act", "quick_gelu".into());
    refused("hidden_act", "selu".into());
    refused("is_causal", true.into());
    refused("position_embedding_type", "relative_key".into());
    refused("is_decoder", true.into());
    refused("add_cross_attention", true.into());
    refused("num_attention_heads", 5.into());
    refused("hidden_size", 0.into());
    refused("vocab_size", u64::MAX.into());
    refused("num_hidden_layers", (-1).into());
    refused("intermediate_size", "many".into());
    refused("layer_norm_eps", serde_json::Value::Null);
    let dir = tiny_model();
    for json in ["", "[]", "{", "{\"model_type\": \"bert\"}", "\u{0}"] {
        std::fs::write(dir.path().join("config.json"), json).unwrap();
        assert!(vectors(dir.path()).is_err(), "{json}");
    }
}

#[test]
fn the_pooling_is_read_and_never_guessed() {
    let pooling = |modules: Option<&str>, pooling: Option<&str>| {
        let dir = tiny_model();
        for (file, content) in [("modules.json", modules), ("1_Pooling/config.json", pooling)] {
            match content {
                Some(content) => std::fs::write(dir.path().join(file), content).unwrap(),
                None => std::fs::remove_file(dir.path().join(file)).unwrap(),
            }
        }
        ModelConfig::read(&ModelFiles::from_dir(dir.path()).unwrap(), None).map(|c| c.pooling)
    };
    let transformer = r#"{"name": "0", "type": "sentence_transformers.models.Transformer", "path": ""}"#;
    let with = |module: &str| format!("[{transformer}, {{\"name\": \"1\", {module}}}]");
    let modules = &with(r#""type": "sentence_transformers.models.Pooling", "path": "1_Pooling""#);
    let mode = |content| pooling(Some(modules), Some(content));
    assert_eq!(mode(r#"{"pooling_mode_mean_tokens": true}"#).unwrap(), Pooling::Mean);
    assert_eq!(mode(r#"{"pooling_mode_lasttoken": true}"#).unwrap(), Pooling::LastToken);
    assert_eq!(mode(r#"{"pooling_mode": "cls"}"#).unwrap(), Pooling::Cls);
    assert!(matches!(mode(r#"{"pooling_mode_max_tokens": true}"#), Err(Error::Unsupported { .. })));
    assert!(matches!(
        mode(r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}"#),
        Err(Error::Unsupported { .. })
    ));
    assert!(matches!(mode("{}"), Err(Error::InvalidFile { .. })));
    assert!(matches!(pooling(Some(modules), None), Err(Error::MissingFile { .. })));
    assert!(matches!(pooling(None, None), Err(Error::UnknownPooling { .. })));
    let dense = &with(r#""type": "sentence_transformers.models.Dense", "path": "2_Dense""#);
    assert!(matches!(pooling(Some(dense), None), Err(Error::Unsupported { .. })));
    // A model that is known by the name of its directory.
    let dir = tiny_model();
    std::fs::remove_file(dir.path().join("modules.json")).unwrap();
    for (name, expected) in [
        ("gte-large-zh", Pooling::Cls),
        ("nlp_gte_sentence-embedding_chinese-large", Pooling::Cls),
        ("gte-large", Pooling::Mean),
    ] {
        let named = dir.path().join(name);
        std::fs::create_dir(&named).unwrap();
        std::fs::copy(dir.path().join("config.json"), named.join("config.json")).unwrap();
        assert_eq!(
            ModelConfig::read(&ModelFiles::from_dir(&named).unwrap(), None).unwrap().pooling,
            expected,
            "{name}"
        );
    }
}
