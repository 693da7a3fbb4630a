//! A tiny BERT with seeded weights, written to a temporary directory like a checkpoint.
#![allow(clippy::unwrap_used, dead_code, reason = "shared by tests, each of which uses only some of it")]

use std::collections::BTreeMap;
use std::path::Path;

use tempfile::TempDir;

/// 48 wide, 3 heads of 16, 2 layers, 96 inside, 60 tokens, 160 positions: sizes that are not
/// multiples of a wide tile.
pub(crate) const HIDDEN: usize = 48;
const LAYERS: usize = 2;
const INNER: usize = 100;
pub(crate) const VOCAB: usize = 60;
const POSITIONS: usize = 160;

pub(crate) fn random(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Token ids of a text of `n` tokens.
pub(crate) fn ids(seed: u64, n: usize) -> Vec<u32> {
    (0..n).map(|i| (random(seed.wrapping_mul(1009).wrapping_add(i as u64)) % VOCAB as u64) as u32).collect()
}

pub(crate) type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The tensors of the model, by their Hugging Face names.
pub(crate) fn tensors() -> Tensors {
    let mut tensors = Tensors::new();
    let mut add = |name: String, shape: Vec<usize>, base: f32, spread: f32| {
        let seed = name.bytes().fold(7u64, |h, b| random(h ^ u64::from(b)));
        let value = |i: u64| base + spread * ((random(seed.wrapping_add(i)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0);
        let n = shape.iter().product::<usize>() as u64;
        tensors.insert(name, (shape, (0..n).map(value).collect()));
    };
    for (name, rows) in [("word", VOCAB), ("position", POSITIONS), ("token_type", 2)] {
        add(format!("embeddings.{name}_embeddings.weight"), vec![rows, HIDDEN], 0.0, 0.5);
    }
    let mut names = vec![("embeddings.LayerNorm".to_owned(), HIDDEN, None)];
    for i in 0..LAYERS {
        let name = |part: &str| format!("encoder.layer.{i}.{part}");
        for part in ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"] {
            names.push((name(part), HIDDEN, Some(HIDDEN)));
        }
        names.push((name("attention.output.LayerNorm"), HIDDEN, None));
        names.push((name("intermediate.dense"), INNER, Some(HIDDEN)));
        names.push((name("output.dense"), HIDDEN, Some(INNER)));
        names.push((name("output.LayerNorm"), HIDDEN, None));
    }
    for (name, out, input) in names {
        let base = if input.is_none() { 1.0 } else { 0.0 };
        add(format!("{name}.weight"), input.map_or(vec![out], |i| vec![out, i]), base, 0.3);
        add(format!("{name}.bias"), vec![out], 0.0, 0.2);
    }
    tensors
}

pub(crate) fn config() -> serde_json::Value {
    serde_json::json!({
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
        "num_attention_heads": 3, "intermediate_size": INNER, "vocab_size": VOCAB, "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2, "layer_norm_eps": 1e-12,
    })
}

pub(crate) const WORDS: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\n##a\n##b\n今\n天\n气\n好\n";

/// Writes `tensors` as f32 to a safetensors file.
pub(crate) fn write_safetensors(path: &Path, tensors: &Tensors) {
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| {
            (name.clone(), shape.clone(), values.iter().flat_map(|v| v.to_le_bytes()).collect())
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// Everything but the weights.
pub(crate) fn write_small_files(dir: &Path) {
    std::fs::write(dir.join("config.json"), config().to_string()).unwrap();
    std::fs::write(dir.join("vocab.txt"), WORDS).unwrap();
    std::fs::create_dir_all(dir.join("1_Pooling")).unwrap();
    std::fs::write(
        dir.join("1_Pooling/config.json"),
        r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#,
    )
    .unwrap();
    let module = |kind: &str, path: &str| serde_json::json!({ "type": format!("sentence_transformers.models.{kind}"), "path": path });
    let modules = serde_json::json!([module("Transformer", ""), module("Pooling", "1_Pooling")]);
    std::fs::write(dir.join("modules.json"), modules.to_string()).unwrap();
}

/// A model directory.
pub(crate) fn tiny_model() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_small_files(dir.path());
    write_safetensors(&dir.path().join("model.safetensors"), &tensors());
    dir
}
