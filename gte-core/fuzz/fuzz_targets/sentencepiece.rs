#![no_main]
//! For any text, our fast implementation of XLM-RoBERTa's tokenizer gives the ids of the crate
//! `tokenizers`, with the words of the bundled model as pieces, and with its map of characters.
use std::sync::LazyLock;

use gte_core::{ModelFiles, Tokenizer};
use serde_json::{Value, json};

static BOTH: LazyLock<(Tokenizer, tokenizers::Tokenizer)> = LazyLock::new(|| {
    let bundled = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../bundled/tokenizer.json")).expect("the bundled model");
    let bundled: Value = serde_json::from_slice(&bundled).expect("its tokenizer");
    let mut pieces: Vec<(String, f64)> = ["<s>", "<pad>", "</s>", "<unk>"].map(|name| (name.to_owned(), 0.0)).into();
    for (i, name) in bundled["model"]["vocab"].as_object().expect("its words").keys().enumerate() {
        let score = -3.0 - 0.25 * (i % 29) as f64 - 1.7 * name.chars().count() as f64;
        let piece = name.strip_prefix("##").map_or_else(|| format!("▁{name}"), str::to_owned);
        pieces.push((piece, score));
    }
    let file = json!({
        "version": "1.0",
        "added_tokens": [
            {"id": 2, "content": "</s>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false},
            {"id": 1, "content": "<pad>", "special": true, "single_word": false, "lstrip": true, "rstrip": false, "normalized": true},
        ],
        "normalizer": bundled["normalizer"]["normalizers"][0],
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "model": {"type": "Unigram", "unk_id": 3, "vocab": pieces, "byte_fallback": false},
    })
    .to_string();
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("tokenizer.json"), &file).expect("a file");
    std::fs::write(dir.path().join("config.json"), r#"{"model_type": "other"}"#).expect("a file");
    let files = ModelFiles::from_dir(dir.path()).expect("a directory with a configuration");
    (Tokenizer::open(&files, 1 << 20, 1 << 20).expect("a valid file"), tokenizers::Tokenizer::from_bytes(file).expect("a valid file"))
});

libfuzzer_sys::fuzz_target!(|text: &str| {
    let (ours, theirs) = &*BOTH;
    let (found, expected) = (ours.encode_one(text), theirs.encode(text, true));
    assert_eq!(found.expect("any text has ids").ids, expected.expect("any text has ids").get_ids());
});
