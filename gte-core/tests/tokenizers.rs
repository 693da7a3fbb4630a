//! A model's files determine how texts become tokens: each key in them, changed alone, has the same
//! effect as in Hugging Face transformers. `make_tokenizers.py` writes the cases and the expected
//! results.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use gte_core::{ModelFiles, Tokenizer, TruncationSide};
use serde_json::{Map, Value};

fn fixture() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The files of a case, merged as by `merged` in the script.
fn directory(base: &Value, changes: &Value) -> tempfile::TempDir {
    let mut files: Map<String, Value> = base.as_object().unwrap().clone();
    for (file, change) in changes.as_object().unwrap() {
        let Value::Object(change) = change else {
            match file.as_str() {
                "vocab.txt" => _ = files.insert(file.clone(), vocab(base)),
                _ => _ = files.remove(file),
            }
            continue;
        };
        if file == "modules.json" {
            files.insert(file.clone(), Value::Array(Vec::new()));
            continue;
        }
        let content = files.entry(file.clone()).or_insert_with(|| Value::Object(Map::new())).as_object_mut().unwrap();
        for (key, value) in change {
            match (key.as_str(), value) {
                ("tokenizer_class", Value::Null) => _ = content.remove(key),
                ("model", Value::Object(options)) => {
                    content["model"].as_object_mut().unwrap().extend(options.clone());
                }
                _ => _ = content.insert(key.clone(), value.clone()),
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let text = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn vocab(base: &Value) -> Value {
    let mut words: Vec<(&String, u64)> = base["tokenizer.json"]["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(w, id)| (w, id.as_u64().unwrap()))
        .collect();
    words.sort_by_key(|(_, id)| *id);
    words.into_iter().map(|(word, _)| format!("{word}\n")).collect::<String>().into()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn each_key_does_what_it_does_in_transformers() {
    let fixture = fixture();
    let texts: Vec<&str> = fixture["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    let pairs: Vec<(&str, &str)> = texts.iter().copied().zip(texts.iter().rev().copied()).collect();
    let cases = fixture["cases"].as_array().unwrap();
    assert!(cases.len() > 200, "only {} cases", cases.len());
    let (mut wrong, mut raised) = (Vec::new(), 0);
    for case in cases {
        let (base, changes) = (&case["base"], &case["changes"]);
        let case_name = format!("{base} {changes}");
        let base = &fixture["bases"][base.as_str().unwrap()];
        let dir = directory(base, changes);
        let files = ModelFiles::from_dir(dir.path()).unwrap();
        let rows = base["config.json"]["vocab_size"].as_u64().unwrap() as usize;
        let read = |max_length| Tokenizer::open(&files, rows, max_length);
        let tokenizer = match read(1 << 20) {
            // Files that transformers cannot load may be accepted or refused.
            _ if case.get("raises").is_some() => {
                raised += 1;
                continue;
            }
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                wrong.push(format!("{case_name}\n    refused: {error}"));
                continue;
            }
        };
        let mut check = |what: &str, text: &dyn std::fmt::Debug, found: Vec<u32>, expected: Vec<u32>| {
            if found != expected {
                wrong.push(format!(
                    "{case_name}\n    {what} {text:?}\n    found    {found:?}\n    expected {expected:?}"
                ));
            }
        };
        let cut = read(7).unwrap();
        for (i, text) in texts.iter().enumerate() {
            check("text", text, tokenizer.encode_one(text).unwrap().ids, ids(&case["ids"][i]));
            // As sentence-transformers counts a prompt: as many tokens as it has alone, without a
            // special token at its end.
            let (alone, special) = (ids(&case["ids"][i]), ids(&case["special"]));
            let expected = alone.len() - usize::from(alone.last().is_some_and(|id| special.contains(id)));
            if !text.is_empty() {
                let found = tokenizer.encode_prompted(&[""], text, TruncationSide::Right).unwrap()[0].prompt_len;
                check("prompt", text, vec![found as u32], vec![expected as u32]);
            }
            check("cut", text, cut.encode_one(text).unwrap().ids, ids(&case["cut"][i]));
        }
        for (i, (found, pair)) in
            tokenizer.encode_pairs(&pairs, 12, tokenizer.truncation_side()).unwrap().into_iter().zip(&pairs).enumerate()
        {
            let types = match &case["types"][i] {
                Value::Null => vec![0; found.len()],
                types => ids(types),
            };
            let found_types = if found.types.is_empty() { vec![0; found.len()] } else { found.types.clone() };
            check("pair", pair, found.ids, ids(&case["pairs"][i]));
            check("types of", pair, found_types.into_iter().map(u32::from).collect(), types);
        }
    }
    assert!(raised < cases.len() / 10, "transformers loads too few of the cases: {raised} are not");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn unsupported_values_are_refused_by_key() {
    let fixture = fixture();
    for (change, key) in [
        (r#"{"tokenizer_class": "CamembertTokenizer"}"#, "tokenizer_class"),
        (r#"{"tokenizer_class": "T5TokenizerFast"}"#, "tokenizer_class"),
        (r#"{"tokenizer_class": "RobertaTokenizer"}"#, "tokenizer_class"),
        (r#"{"model_input_names": ["input_ids"]}"#, "model_input_names"),
        (r#"{"truncation_side": "middle"}"#, "truncation_side"),
        (r#"{"padding_side": "both"}"#, "padding_side"),
        (r#"{"fast_tokenizer_files": ["tokenizer.4.0.json"]}"#, "fast_tokenizer_files"),
        (r#"{"do_lower_case": "yes"}"#, "do_lower_case"),
        (r#"{"cls_token": null}"#, "cls_token"),
        (r#"{"mask_token": 7}"#, "mask_token"),
        (r#"{"added_tokens_decoder": {"5": "x"}}"#, "`5`"),
        (r#"{"additional_special_tokens": "x"}"#, "additional_special_tokens"),
        (r#"{"cls_token": "<nowhere>"}"#, "<nowhere>"),
    ] {
        let change: Value = serde_json::from_str(change).unwrap();
        let dir = directory(&fixture["bases"]["bert"], &serde_json::json!({ "tokenizer_config.json": change }));
        let error = Tokenizer::open(&ModelFiles::from_dir(dir.path()).unwrap(), 1000, 99).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(key), "{change}: {error}");
    }
    for (change, key) in [
        (r#"{"version": "9.0"}"#, "version"),
        (r#"{"model": {"type": "Other"}}"#, "Other"),
        (r#"{"added_tokens": [{"id": 0}]}"#, "added_tokens"),
    ] {
        let change: Value = serde_json::from_str(change).unwrap();
        let fast = serde_json::json!({"tokenizer_class": "PreTrainedTokenizerFast"});
        let changes = serde_json::json!({ "tokenizer.json": change, "tokenizer_config.json": fast });
        let dir = directory(&fixture["bases"]["bert"], &changes);
        let error = Tokenizer::open(&ModelFiles::from_dir(dir.path()).unwrap(), 1000, 99).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(key), "{change}: {error}");
    }
}

#[test]
fn a_side_is_read_in_any_case() {
    assert_eq!("LEFT".parse::<TruncationSide>().unwrap(), TruncationSide::Left);
    assert_eq!("Right".parse::<TruncationSide>().unwrap(), TruncationSide::Right);
    assert!("middle".parse::<TruncationSide>().unwrap_err().to_string().contains("right or left"));
}
