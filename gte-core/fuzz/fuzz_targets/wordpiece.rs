#![no_main]
//! For any text, our fast implementation of BERT's tokenizer gives the ids of the crate
//! `tokenizers`, with the vocabulary of the bundled model.
use std::sync::LazyLock;

use gte_core::{ModelConfig, ModelFiles, Tokenizer};

static BOTH: LazyLock<(Tokenizer, tokenizers::Tokenizer)> = LazyLock::new(|| {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../bundled");
    let files = ModelFiles::from_dir(dir).expect("the bundled model");
    let config = ModelConfig::read(&files, None).expect("its configuration");
    let theirs = tokenizers::Tokenizer::from_file(format!("{dir}/tokenizer.json")).expect("its tokenizer");
    (Tokenizer::read(&files, &config).expect("its tokenizer"), theirs)
});

libfuzzer_sys::fuzz_target!(|text: &str| {
    let (ours, theirs) = &*BOTH;
    let (found, expected) = (ours.encode_one(text), theirs.encode(text, true));
    assert_eq!(found.expect("any text has ids").ids, expected.expect("any text has ids").get_ids());
});
