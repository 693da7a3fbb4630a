//! Every family computes the results of Hugging Face transformers in float64, on tiny models of odd
//! shapes: vectors, logits, sparse weights, vectors per token and token ids, on every instruction
//! set and on candle, and the same bits in any batch. `make_families.py` wrote the models and the
//! expected values.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

#[cfg(feature = "cuda-emulator")]
mod emulator;
mod same_bits;

use std::path::{Path, PathBuf};

use gte_core::{
    Device, Embedder, Error, Isa, MaxBatchTokens, ModelConfig, ModelFiles, PairOptions, Precision, Prompt, Reranker,
    Sequence, SparseEmbedder,
};
use serde_json::Value;

/// For every value of a unit vector in f32, and for logits relative to their size.
const MAX_DIFFERENCE: f32 = 2e-6;
const MAX_RELATIVE: f32 = 1e-5;
/// A GPU's exponential and division are inexact, and the emulated one's are as inexact as they may
/// be.
const MAX_DIFFERENCE_GPU: f32 = 1e-5;

fn families() -> Vec<(String, PathBuf, Value)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families");
    let mut all: Vec<_> = std::fs::read_dir(&root)
        .unwrap()
        .map(|entry| {
            let dir = entry.unwrap().path();
            let expected = serde_json::from_slice(&std::fs::read(dir.join("expected.json")).unwrap()).unwrap();
            (dir.file_name().unwrap().to_string_lossy().into_owned(), dir, expected)
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(all.len() >= 28, "{} families", all.len());
    all
}

/// One case: the input of a model and its expected outputs.
struct Case<'a> {
    ids: Vec<u32>,
    types: Vec<u8>,
    expected: &'a Value,
}

impl Sequence for Case<'_> {
    fn ids(&self) -> &[u32] {
        &self.ids
    }
    fn types(&self) -> &[u8] {
        &self.types
    }
}

fn cases(expected: &Value) -> Vec<Case<'_>> {
    let list = |value: &Value| serde_json::from_value(value.clone()).unwrap_or_default();
    let case = |expected| Case { ids: list_of(expected, "ids"), types: list(&expected["types"]), expected };
    expected["cases"].as_array().unwrap().iter().map(case).collect()
}

fn list_of<T: serde::de::DeserializeOwned>(value: &Value, key: &str) -> Vec<T> {
    serde_json::from_value(value[key].clone()).unwrap()
}

fn is_reranker(expected: &Value) -> bool {
    expected["cases"][0].get("logits").is_some()
}

/// Every device and instruction set of this machine, by name.
fn engines() -> Vec<(String, Device, Isa)> {
    let ours = Isa::available().map(|isa| (isa.to_string(), Device::Cpu, isa));
    #[cfg(feature = "candle")]
    let ours = ours.chain([("candle".to_owned(), Device::CandleCpu, Isa::Scalar)]);
    // `cuda.rs` has what is left of it.
    #[cfg(feature = "cuda-emulator")]
    let ours = {
        emulator::gpu();
        ours.chain([("the emulated GPU".to_owned(), Device::Cuda(0), Isa::Scalar)])
    };
    ours.collect()
}

fn largest(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn embedder(dir: &Path, device: Device, isa: Isa, precision: Precision) -> Embedder {
    let files = ModelFiles::from_dir(dir).unwrap();
    Embedder::from_files(files).device(device).isa(isa).precision(precision).threads(2).build().unwrap()
}

fn reranker(dir: &Path, device: Device, isa: Isa, precision: Precision) -> Reranker {
    let files = ModelFiles::from_dir(dir).unwrap();
    Reranker::from_files(files).device(device).isa(isa).precision(precision).threads(2).build().unwrap()
}

#[test]
fn f32_is_float64_of_transformers() {
    for (name, dir, expected) in families() {
        let cases = cases(&expected);
        for (engine, device, isa) in engines() {
            let mut worst = 0f32;
            if is_reranker(&expected) {
                let reranker = reranker(&dir, device, isa, Precision::F32);
                let found = reranker.logits(&cases).unwrap();
                for (case, found) in cases.iter().zip(found.chunks(reranker.labels())) {
                    let expected: Vec<f32> = list_of(case.expected, "logits");
                    let size = expected.iter().fold(1f32, |size, v| size.max(v.abs()));
                    worst = worst.max(largest(found, &expected) / size);
                }
                assert!(worst <= MAX_RELATIVE, "{name}, {engine}: logits are off by {worst:e}");
            } else {
                let embedder = embedder(&dir, device, isa, Precision::F32);
                let found = embedder.embed_tokens(&cases).unwrap();
                for (case, found) in cases.iter().zip(found.rows()) {
                    worst = worst.max(largest(found, &list_of::<f32>(case.expected, "embedding")));
                }
                let allowed = if device == Device::Cuda(0) { MAX_DIFFERENCE_GPU } else { MAX_DIFFERENCE };
                assert!(worst <= allowed, "{name}, {engine}: vectors are off by {worst:e}");
                heads_give_what_they_should(&name, &embedder, &cases);
            }
            eprintln!("{name}, {engine}: {worst:e}");
        }
    }
}

/// Sparse weights and vectors per token, if the model has them, and the dense vectors that come
/// with them.
fn heads_give_what_they_should(name: &str, embedder: &Embedder, cases: &[Case<'_>]) {
    let outputs = embedder.outputs();
    assert_eq!(outputs.sparse, cases[0].expected.get("sparse").is_some(), "{name}");
    assert_eq!(outputs.colbert, cases[0].expected.get("colbert").is_some(), "{name}");
    let all = embedder.embed_all(cases, outputs).unwrap();
    let dense = embedder.embed_tokens(cases).unwrap();
    assert!(all.dense.unwrap() == dense, "{name}: computing all outputs in one pass changes the vectors");
    for (i, case) in cases.iter().enumerate() {
        if let Some(sparse) = &all.sparse {
            let (ids, weights) = sparse.get(i).unwrap();
            let expected = case.expected["sparse"].as_object().unwrap();
            assert_eq!(ids.len(), expected.len(), "{name}: text {i}");
            for (id, weight) in ids.iter().zip(weights) {
                let expected = expected[&id.to_string()].as_f64().unwrap() as f32;
                assert!((weight - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{name}: {weight} {expected}");
            }
        }
        if let (Some(vectors), Some(_)) = (&all.colbert, case.expected.get("colbert")) {
            let expected: Vec<Vec<f32>> = list_of(case.expected, "colbert");
            assert!(largest(vectors.get(i).unwrap(), &expected.concat()) <= 4e-6, "{name}: text {i}");
        }
    }
}

#[test]
fn low_precision_is_near() {
    for (name, dir, expected) in families() {
        let cases = cases(&expected);
        for (_, device, isa) in engines().into_iter().filter(|(_, device, _)| *device == Device::Cpu) {
            // Tiny models with random weights amplify rounding far more than trained ones:
            // `parity_full.py` and `precision.rs` require 0.9999 and 0.999 of the latter.
            for (precision, bound) in [(Precision::Bf16, 0.999), (Precision::Int8, 0.99)] {
                if is_reranker(&expected) {
                    let reranker = reranker(&dir, device, isa, precision);
                    let found = reranker.logits(&cases).unwrap();
                    for (case, found) in cases.iter().zip(found.chunks(reranker.labels())) {
                        let expected: Vec<f32> = list_of(case.expected, "logits");
                        let size = expected.iter().fold(1f32, |size, v| size.max(v.abs()));
                        let off = largest(found, &expected) / size;
                        assert!(off < 0.35, "{name}, {isa}, {precision}: logits are off by {off}");
                    }
                } else {
                    let found = embedder(&dir, device, isa, precision).embed_tokens(&cases).unwrap();
                    let cosines: Vec<f64> = cases
                        .iter()
                        .zip(found.rows())
                        .map(|(case, row)| cosine(row, &list_of::<f32>(case.expected, "embedding")))
                        .collect();
                    let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
                    eprintln!("{name}, {isa}, {precision}: mean cosine {mean:.6}");
                    assert!(mean >= bound, "{name}, {isa}, {precision}: cosine {mean}");
                }
            }
        }
    }
}

/// Rows that a model computes from texts.
type Compute = Box<dyn Fn(&[&Case<'_>]) -> Vec<f32>>;

/// A text has one result, bit for bit: alone, in any batch, with any number of threads and, with
/// the exceptions of `same_bits`, on every instruction set.
#[test]
fn a_text_has_one_result() {
    for (name, dir, expected) in families() {
        let cases = cases(&expected);
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let mut first: Option<(Isa, Vec<f32>)> = None;
            for isa in Isa::available() {
                let build = |threads: usize, max_batch_tokens: usize| -> Compute {
                    let files = ModelFiles::from_dir(&dir).unwrap();
                    let max_batch_tokens = MaxBatchTokens::new(max_batch_tokens).unwrap();
                    if is_reranker(&expected) {
                        let builder = Reranker::from_files(files).isa(isa).precision(precision);
                        let reranker = builder.threads(threads).max_batch_tokens(max_batch_tokens).build().unwrap();
                        Box::new(move |texts| reranker.logits(texts).unwrap())
                    } else {
                        let builder = Embedder::from_files(files).isa(isa).precision(precision);
                        let embedder = builder.threads(threads).max_batch_tokens(max_batch_tokens).build().unwrap();
                        Box::new(move |texts| embedder.pool_tokens(texts).unwrap())
                    }
                };
                let (alone, together) = (build(1, 1), build(3, 200));
                let all: Vec<&Case<'_>> = cases.iter().rev().collect();
                let found = together(&all);
                let width = found.len() / all.len();
                for (case, row) in all.iter().zip(found.chunks(width)) {
                    let expected = alone(&[case]);
                    let same = expected.iter().map(|v| v.to_bits()).eq(row.iter().map(|v| v.to_bits()));
                    assert!(same, "{name}, {isa}, {precision}: {} tokens", case.ids.len());
                }
                if !same_bits::has_the_same_bits(isa, precision) {
                    continue;
                }
                let (other, expected) = first.get_or_insert((isa, found.clone()));
                let same = expected.iter().map(|v| v.to_bits()).eq(found.iter().map(|v| v.to_bits()));
                assert!(same, "{name}, {precision}: {isa} and {other} differ");
            }
        }
    }
}

/// Texts with a common beginning share its keys and values in causal models. The result equals that
/// of each text alone, bit for bit.
#[test]
fn a_shared_beginning_changes_nothing() {
    for (name, dir, expected) in families().into_iter().filter(|(name, ..)| name.starts_with("qwen")) {
        let cases = cases(&expected);
        let longest = cases.iter().max_by_key(|case| case.ids.len()).unwrap();
        let common = longest.ids.len() / 2;
        let text = |case: &Case<'_>| [&longest.ids[..common], &case.ids[..]].concat();
        let texts: Vec<Vec<u32>> = cases
            .iter()
            .map(text)
            .filter(|ids| ids.len() <= 60 + common)
            .map(|ids| ids[..ids.len().min(64)].to_vec())
            .collect();
        for isa in Isa::available() {
            for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
                let compute = |texts: &[Vec<u32>]| {
                    if is_reranker(&expected) {
                        reranker(&dir, Device::Cpu, isa, precision).logits(texts).unwrap()
                    } else {
                        embedder(&dir, Device::Cpu, isa, precision).pool_tokens(texts).unwrap()
                    }
                };
                let together = compute(&texts);
                let alone: Vec<f32> = texts.iter().flat_map(|text| compute(std::slice::from_ref(text))).collect();
                assert!(
                    together.iter().map(|v| v.to_bits()).eq(alone.iter().map(|v| v.to_bits())),
                    "{name}, {isa}, {precision}"
                );
            }
        }
    }
}

/// A model that was stored with 8 bits is as accurate as one that is quantized when it is loaded,
/// and keeps its other files.
#[test]
fn a_conversion_keeps_what_a_model_is() {
    for (name, dir, expected) in families() {
        let cases = cases(&expected);
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("int8");
        gte_core::quantize_to_int8(&ModelFiles::from_dir(&dir).unwrap(), &out).unwrap();
        let best = Isa::available().next_back().unwrap();
        if is_reranker(&expected) {
            let logits = |dir: &Path| reranker(dir, Device::Cpu, best, Precision::Int8).logits(&cases).unwrap();
            let (found, expected) = (logits(&out), logits(&dir));
            let size = expected.iter().fold(1f32, |size, v| size.max(v.abs()));
            assert!(largest(&found, &expected) < 0.1 * size, "{name}: {found:?} {expected:?}");
        } else {
            let (found, expected) = (
                embedder(&out, Device::Cpu, best, Precision::Int8),
                embedder(&dir, Device::Cpu, best, Precision::Int8),
            );
            assert_eq!(found.outputs(), expected.outputs(), "{name}");
            assert_eq!(found.prompts(), expected.prompts(), "{name}");
            assert_eq!((found.dim(), found.max_length()), (expected.dim(), expected.max_length()), "{name}");
            let (found, expected) = (found.embed_tokens(&cases).unwrap(), expected.embed_tokens(&cases).unwrap());
            for (found, expected) in found.rows().zip(expected.rows()) {
                assert!(cosine(found, expected) > 0.99, "{name}: {}", cosine(found, expected));
            }
        }
    }
}

#[test]
fn ids_are_those_of_the_tokenizers_package() {
    for (name, dir, expected) in families() {
        if is_reranker(&expected) {
            let reranker = reranker(&dir, Device::Cpu, Isa::Scalar, Precision::F32);
            for text in expected["texts"].as_array().unwrap() {
                let Some(query) = text["query"].as_str() else { continue };
                let document = text["document"].as_str().unwrap();
                let tokens = reranker.tokenize(query, &[document], &PairOptions::default()).unwrap().remove(0);
                assert_eq!(tokens.ids, list_of::<u32>(text, "ids"), "{name}: {query:?}, {document:?}");
                if text.get("types").is_some() && tokens.types.iter().any(|&kind| kind > 0) {
                    assert_eq!(tokens.types, list_of::<u8>(text, "types"), "{name}: {query:?}, {document:?}");
                }
            }
            for score in expected.get("scores").and_then(Value::as_array).unwrap_or(&Vec::new()) {
                let documents: Vec<String> = list_of(score, "documents");
                let query = score["query"].as_str().unwrap();
                let tokens = reranker.tokenize(query, &documents, &PairOptions::default()).unwrap();
                let found = reranker.logits(&tokens).unwrap();
                let expected: Vec<f32> = match &score["logits"][0] {
                    Value::Array(_) => list_of::<Vec<f32>>(score, "logits").concat(),
                    _ => list_of(score, "logits"),
                };
                let size = expected.iter().fold(1f32, |size, v| size.max(v.abs()));
                assert!(largest(&found, &expected) <= MAX_RELATIVE * size, "{name}: {found:?} {expected:?}");
            }
        } else {
            let embedder = embedder(&dir, Device::Cpu, Isa::Scalar, Precision::F32);
            for text in expected["texts"].as_array().unwrap() {
                let found = embedder.tokenize(&[text["text"].as_str().unwrap()]).unwrap().remove(0);
                assert_eq!(found.ids, list_of::<u32>(text, "ids"), "{name}: {}", text["text"]);
            }
        }
    }
}

/// A cross-encoder whose files name a default prompt reads it before the query, unless a call
/// says otherwise.
#[test]
fn a_cross_encoder_reads_its_default_prompt_before_the_query() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families/xlmr-reranker");
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture.join(file), dir.path().join(file)).unwrap();
    }
    let write = |file: &str, content: Value| std::fs::write(dir.path().join(file), content.to_string()).unwrap();
    let transformer = "sentence_transformers.base.modules.transformer.Transformer";
    write("modules.json", serde_json::json!([{"idx": 0, "name": "0", "path": "", "type": transformer}]));
    write("sentence_bert_config.json", serde_json::json!({"transformer_task": "sequence-classification"}));
    write(
        "config_sentence_transformers.json",
        serde_json::json!({"model_type": "CrossEncoder", "prompts": {"query": "query: ", "other": "other: "}, "default_prompt_name": "query"}),
    );
    let open = |dir: &Path| reranker(dir, Device::Cpu, Isa::Scalar, Precision::F32);
    let (prompted, plain) = (open(dir.path()), open(&fixture));
    let (query, documents) = ("is it sunny", ["a sunny day", "rain"]);
    let expected = |before: &str| plain.scores(&format!("{before}{query}"), &documents).unwrap();
    let scores = |options: &PairOptions<'_>| {
        let tokens = prompted.tokenize(query, &documents, options).unwrap();
        let pairs = documents.map(|document| (query, document));
        assert_eq!(prompted.tokenize_pairs(&pairs, options).unwrap(), tokens);
        assert_eq!(prompted.tokenize_one(query, documents[1], options).unwrap(), tokens[1]);
        prompted.scores_of(&tokens).unwrap()
    };
    assert_ne!(expected("query: "), expected(""));
    assert_eq!(prompted.scores(query, &documents).unwrap(), expected("query: "));
    let options = PairOptions::default();
    assert_eq!(scores(&options), expected("query: "));
    assert_eq!(scores(&options.with_prompt(Prompt::None)), expected(""));
    assert_eq!(scores(&options.with_prompt(Prompt::Named("other"))), expected("other: "));
    assert_eq!(scores(&options.with_prompt(Prompt::Text("x "))), expected("x "));
    for refused in [options.with_prompt(Prompt::Named("absent")), options.with_instruction("Find a poem")] {
        assert!(matches!(prompted.tokenize_pairs(&[] as &[(&str, &str)], &refused), Err(Error::InvalidOption { .. })));
    }
}

#[test]
fn a_prompt_of_a_language_model_is_its_instruction() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families/qwen3-reranker");
    let reranker = reranker(&dir, Device::Cpu, Isa::Scalar, Precision::F32);
    let tokens = |options: &PairOptions<'_>| reranker.tokenize_one("q", "d", options).unwrap();
    let options = PairOptions::default();
    let told = tokens(&options.with_instruction("Find a poem"));
    assert_eq!(tokens(&options.with_prompt(Prompt::Text("Find a poem"))), told);
    assert_ne!(tokens(&options), told);
    let left = options.with_truncation_side(gte_core::TruncationSide::Left);
    assert!(reranker.tokenize_one("q", "d", &left).unwrap_err().to_string().contains("truncation_side"));
}

#[test]
fn a_model_says_whether_its_files_normalize() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families/xlmr");
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("1_Pooling")).unwrap();
    for file in ["config.json", "1_Pooling/config.json"] {
        std::fs::copy(fixture.join(file), dir.path().join(file)).unwrap();
    }
    let mut modules: Vec<Value> =
        serde_json::from_slice(&std::fs::read(fixture.join("modules.json")).unwrap()).unwrap();
    for expected in [true, false] {
        std::fs::write(dir.path().join("modules.json"), serde_json::to_vec(&modules).unwrap()).unwrap();
        let config = ModelConfig::read(&ModelFiles::from_dir(dir.path()).unwrap(), None).unwrap();
        assert_eq!(config.normalizes, expected, "{modules:?}");
        modules.retain(|module| !module["type"].as_str().unwrap().ends_with("Normalize"));
    }
}

#[test]
fn a_model_of_another_kind_is_refused_with_its_own_door() {
    for (name, dir, expected) in families() {
        let files = || ModelFiles::from_dir(&dir).unwrap();
        if is_reranker(&expected) {
            let Err(error) = Embedder::from_files(files()).build() else { panic!("{name} is not an embedder") };
            let error = error.to_string();
            assert!(error.contains("rerank") || name == "qwen3-reranker", "{name}: {error}");
        } else {
            let Err(error) = Reranker::from_files(files()).build() else { panic!("{name} is not a reranker") };
            assert!(error.to_string().contains("the example `embed`"), "{name}: {error}");
            let sparse = SparseEmbedder::from_files(files()).build();
            match expected["cases"][0].get("sparse") {
                Some(_) => assert!(sparse.is_ok(), "{name}"),
                None => assert!(sparse.is_err_and(|e| e.to_string().contains("sparse_linear.pt")), "{name}"),
            }
        }
    }
}
