//! Models of the fixtures' families with heads of 32, 64 and 128 values, which f16 and bf16 take on
//! a GPU, and seeded weights. A test that uses it has the module `model` too.
#![allow(clippy::unwrap_used, dead_code, reason = "shared by tests, each of which uses a part")]

use std::collections::BTreeMap;
use std::path::Path;

use gte_core::{Pooling, Precision};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A family's fixture with other sizes.
pub(crate) struct Resized {
    pub(crate) fixture: &'static str,
    config: Value,
    /// Each size of the fixture's tensors, and what it becomes.
    sizes: &'static [(usize, usize)],
    pub(crate) pooling: Pooling,
    /// Whether its widths are multiples of 16, which fp8 requires. Those of 16 bits require 8.
    pub(crate) fp8: bool,
}

/// Heads of 32, full attention, a table of positions; of 64, windows and rotary positions, norms
/// before; of 128, causal, grouped heads with norms of their own, RMS norms; of 32 with rotary
/// positions, token types and a gate, in widths for 16 bits and for fp8; of 32, causal, grouped,
/// rotary positions and biases of queries, keys and values only.
pub(crate) fn resized() -> [Resized; 6] {
    [
        Resized {
            fixture: "xlmr",
            config: json!({"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 112}),
            sizes: &[(30, 64), (37, 112)],
            pooling: Pooling::Cls,
            fp8: true,
        },
        Resized {
            fixture: "modernbert",
            config: json!({"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 80, "max_position_embeddings": 512}),
            sizes: &[(40, 128), (120, 384), (37, 80), (74, 160)],
            pooling: Pooling::Mean,
            fp8: true,
        },
        Resized {
            fixture: "qwen3",
            config: json!({"hidden_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 128, "intermediate_size": 80}),
            sizes: &[(32, 48), (40, 256), (20, 128), (10, 128), (37, 80)],
            pooling: Pooling::LastToken,
            fp8: true,
        },
        Resized {
            fixture: "new-types2",
            config: json!({"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 88, "max_position_embeddings": 512}),
            sizes: &[(48, 64), (144, 192), (45, 88), (90, 176)],
            pooling: Pooling::Cls,
            fp8: false,
        },
        Resized {
            fixture: "new-types2",
            config: json!({"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 96, "max_position_embeddings": 512}),
            sizes: &[(48, 64), (144, 192), (45, 96), (90, 192)],
            pooling: Pooling::Cls,
            fp8: true,
        },
        Resized {
            fixture: "qwen2",
            config: json!({"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 80}),
            sizes: &[(36, 64), (12, 32), (45, 80)],
            pooling: Pooling::LastToken,
            fp8: true,
        },
    ]
}

pub(crate) fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families").join(name)
}

impl Resized {
    /// The precisions of a GPU that the model has, each with how far the cosine with f32 may be
    /// from 1.
    pub(crate) fn precisions(&self) -> impl Iterator<Item = (Precision, f64)> {
        let fp8 = self.fp8.then_some((Precision::Fp8, 2e-2));
        [(Precision::F32, 1e-6), (Precision::F16, 2e-5), (Precision::Bf16, 1e-3)].into_iter().chain(fp8)
    }

    /// The model in a directory, its weights seeded by their names.
    pub(crate) fn write(&self) -> TempDir {
        let (from, to) = (fixture(self.fixture), TempDir::new().unwrap());
        for file in std::fs::read_dir(&from).unwrap().map(|file| file.unwrap().path()).filter(|path| path.is_file()) {
            std::fs::copy(&file, to.path().join(file.file_name().unwrap())).unwrap();
        }
        let mut config: Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
        for (key, value) in self.config.as_object().unwrap() {
            config[key] = value.clone();
        }
        std::fs::write(to.path().join("config.json"), config.to_string()).unwrap();
        let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
        let vocab = config["vocab_size"].as_u64().unwrap() as usize;
        let mut tensors = BTreeMap::new();
        for (name, tensor) in safetensors::SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let of = |size: usize| self.sizes.iter().find(|(from, _)| *from == size).map_or(size, |(_, to)| *to);
            // The number of rows of a table is not a width.
            let table = tensor.shape().len() == 2 && name.to_lowercase().contains("embed");
            let shape: Vec<usize> = match tensor.shape() {
                &[rows, width] if table || rows == vocab => vec![rows, of(width)],
                shape => shape.iter().map(|&size| of(size)).collect(),
            };
            let seed = name.bytes().fold(7u64, |h, b| crate::model::random(h ^ u64::from(b)));
            let (base, spread) = match shape[..] {
                [_] if name.ends_with("weight") => (1.0, 0.2),
                [_] => (0.0, 0.1),
                _ if table => (0.0, 0.5),
                [_, inputs] => (0.0, 1.5 / (inputs as f32).sqrt()),
                _ => unreachable!("{name}: {shape:?}"),
            };
            let value = |i| {
                base + spread * ((crate::model::random(seed.wrapping_add(i)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
            };
            let count = shape.iter().product::<usize>() as u64;
            tensors.insert(name, (shape, (0..count).map(value).collect()));
        }
        crate::model::write_safetensors(&to.path().join("model.safetensors"), &tensors);
        to
    }
}
