//! Token ids equal those of Hugging Face on any text, from `tokenizer.json` and from `vocab.txt`
//! alone, and truncated tokens are counted.
#![allow(clippy::unwrap_used, reason = "a test")]

mod model;

use std::path::{Path, PathBuf};

use gte_core::{Error, ModelConfig, ModelFiles, Pooling, Tokenizer};
use proptest::prelude::*;

fn minilm() -> PathBuf {
    let dir = std::env::var_os("GTE_MINILM")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/models/all-MiniLM-L6-v2"), PathBuf::from);
    assert!(dir.join("vocab.txt").exists(), "{} is missing: run `make models`", dir.display());
    dir
}

fn tokenizer(dir: &Path, max_length: usize) -> gte_core::Result<Tokenizer> {
    let files = ModelFiles::from_dir(dir)?;
    let mut config = ModelConfig::read(&files, Some(Pooling::Cls))?;
    config.max_length = max_length;
    Tokenizer::read(&files, &config)
}

/// A directory with only MiniLM's vocabulary, and settings.
fn vocab_only(settings: Option<&serde_json::Value>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "vocab.txt"] {
        std::fs::copy(minilm().join(file), dir.path().join(file)).unwrap();
    }
    if let Some(settings) = settings {
        std::fs::write(dir.path().join("tokenizer_config.json"), settings.to_string()).unwrap();
    }
    dir
}

const ENDLESS: usize = 1 << 20;

#[test]
fn hard_texts_have_the_ids_of_hugging_face() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokens.json");
    let fixture: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let texts: Vec<String> = serde_json::from_value(fixture["texts"].clone()).unwrap();
    for case in fixture["cases"].as_array().unwrap() {
        let settings = case.get("settings");
        let dir = vocab_only(settings);
        let dir = if settings.is_some() { dir.path().to_path_buf() } else { minilm() };
        let found = tokenizer(&dir, ENDLESS).unwrap().encode(&texts).unwrap();
        let expected: Vec<Vec<u32>> = serde_json::from_value(case["ids"].clone()).unwrap();
        for ((text, found), expected) in texts.iter().zip(found).zip(expected) {
            assert_eq!(found.ids, expected, "{text:?} with {settings:?}");
        }
    }
}

#[test]
fn a_cut_is_counted_and_keeps_the_special_tokens() {
    let long = "天".repeat(100_000);
    let vocab = vocab_only(None);
    for dir in [minilm().as_path(), vocab.path()] {
        let tokenizer = tokenizer(dir, 512).unwrap();
        let tokens = &tokenizer.encode(&[&long]).unwrap()[0];
        assert_eq!((tokens.len(), tokens.full_len, tokens.truncated()), (512, 100_002, true));
        assert_eq!((tokens.ids[0], tokens.ids[511]), (101, 102));
        let short = &tokenizer.encode(&["天气"]).unwrap()[0];
        assert!(!short.truncated() && short.full_len == 4);
    }
}

#[test]
fn pieces_tell_where_a_token_comes_from() {
    let tokenizer = tokenizer(&minilm(), 512).unwrap();
    let pieces = tokenizer.pieces("Unaffable 天").unwrap();
    let text: Vec<&str> = pieces.iter().map(|p| p.text.as_str()).collect();
    assert_eq!(text, ["[CLS]", "una", "##ffa", "##ble", "天", "[SEP]"]);
    assert!(pieces[0].special && !pieces[1].special);
    assert_eq!((pieces[4].start, pieces[4].stop), (10, 13), "bytes");
    assert_eq!(tokenizer.decode(&[101, 7592, 2088, 102], true).unwrap(), "hello world");
}

#[test]
fn an_invalid_tokenizer_is_refused_by_file() {
    let refused = |vocab: Option<&[u8]>, json: Option<&[u8]>, file: &str| {
        let dir = model::tiny_model();
        std::fs::remove_file(dir.path().join("vocab.txt")).unwrap();
        if let Some(vocab) = vocab {
            std::fs::write(dir.path().join("vocab.txt"), vocab).unwrap();
        }
        if let Some(json) = json {
            std::fs::write(dir.path().join("tokenizer.json"), json).unwrap();
        }
        let error = tokenizer(dir.path(), 512).map(|_| ()).unwrap_err();
        assert!(
            matches!(error, Error::InvalidFile { .. } | Error::MissingFile { .. } | Error::Unsupported { .. })
                && error.to_string().contains(file),
            "{error}"
        );
        error.to_string()
    };
    refused(None, None, "tokenizer.json");
    refused(Some(b""), None, "vocab.txt");
    let error = refused(Some(b"[PAD]\n[UNK]\n[CLS]\n\xff\n[SEP]\n[MASK]\n"), None, "vocab.txt");
    assert!(error.contains("line 4"), "{error}");
    let error = refused(Some(b"[PAD]\n[UNK]\n[CLS]\n[MASK]\n"), None, "vocab.txt");
    assert!(error.contains("[SEP]"), "{error}");
    let many: Vec<u8> = (0..100).flat_map(|i| format!("w{i}\n").into_bytes()).chain(model::WORDS.bytes()).collect();
    let error = refused(Some(&many), None, "vocab.txt");
    assert!(error.contains("vocabulary of 60"), "{error}");
    // The last two made the crate `tokenizers` panic (found by fuzzing).
    let broken = "{\"version\": \"1.0\", \"decoder\": {\"type\": \"WordPiece\", \"x\"true}}";
    let undefined = serde_json::json!({
        "version": "1.0", "added_tokens": [], "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "TemplateProcessing", "special_tokens": {}, "pair": [],
            "single": [{ "SpecialToken": { "id": "[C/S]", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
        },
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": { "[UNK]": 0, "a": 1 } },
    })
    .to_string();
    for json in ["", "{}", "[]", "{\"model\": 1}", "\u{0}", broken, &undefined] {
        refused(None, Some(json.as_bytes()), "tokenizer.json");
    }
}

#[test]
fn lines_of_a_vocabulary_may_end_as_on_windows() {
    let dir = model::tiny_model();
    let plain = tokenizer(dir.path(), 512).unwrap().encode(&["今天 a"]).unwrap();
    std::fs::write(dir.path().join("vocab.txt"), model::WORDS.replace('\n', "\r\n")).unwrap();
    assert_eq!(tokenizer(dir.path(), 512).unwrap().encode(&["今天 a"]).unwrap(), plain);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_text_is_too_odd(texts in prop::collection::vec(any::<String>(), 0..8)) {
        thread_local! {
            static BOTH: (Tokenizer, Tokenizer) = {
                let json = tokenizer(&minilm(), 64).unwrap();
                (json, tokenizer(vocab_only(None).path(), 64).unwrap())
            };
        }
        BOTH.with(|(json, vocab)| {
            let tokens = json.encode(&texts).unwrap();
            assert_eq!(&tokens, &vocab.encode(&texts).unwrap(), "tokenizer.json and vocab.txt of one model agree");
            for tokens in tokens {
                assert!((2..=64).contains(&tokens.len()) && tokens.full_len >= tokens.len());
            }
        });
    }
}
