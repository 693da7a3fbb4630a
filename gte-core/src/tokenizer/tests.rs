//! For files of every kind, our tokenizer equals that of the crate.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use super::*;

/// MiniLM's file.
pub(super) fn minilm_json() -> Value {
    let dir = std::env::var("GTE_MINILM")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../target/models/all-MiniLM-L6-v2").into());
    read(&dir)
}

/// The file of the bundled model.
pub(super) fn bundled_json() -> Value {
    read(concat!(env!("CARGO_MANIFEST_DIR"), "/bundled"))
}

fn read(dir: &str) -> Value {
    let json = std::fs::read(Path::new(dir).join("tokenizer.json")).expect("run `make models`");
    serde_json::from_slice(&json).unwrap()
}

/// Our tokenizer for a single file, used as it is, for a model with `vocab` tokens.
pub(super) fn ours(json: &Value, vocab: usize) -> Result<Tokenizer> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    std::fs::write(dir.path().join("config.json"), r#"{"model_type": "other"}"#).unwrap();
    Tokenizer::open(&ModelFiles::from_dir(dir.path()).unwrap(), vocab, ENDLESS)
}

const ENDLESS: usize = 1 << 20;

const TEXTS: [&str; 12] = [
    "怎么退货？ [SEP] unbelievably",
    "<new>龘 退貨",
    "",
    " ",
    "  two  spaces\r\nand lines\n",
    "Ｆｕｌｌ　ｗｉｄｔｈ ① ㎏ ﬁ ½",
    "e\u{301}a\u{300}ｅ\u{301} नमस्ते 👩\u{200d}👩\u{200d}👧 🇨🇳🇩🇪 각 각",
    "don't stop: 12345 x=y;\tz",
    "<|endoftext|> <s> </s> <mask> <unk>",
    "zzzz\u{10ffff}qq",
    "▁a ▁▁b▁",
    "I'M 'll 我们'd",
];

/// A vocabulary for tests: all letters of the texts, and some of their parts.
fn pieces() -> Vec<(String, f64)> {
    let mut pieces: Vec<(String, f64)> =
        vec![("<s>".into(), 0.0), ("<pad>".into(), 0.0), ("</s>".into(), 0.0), ("<unk>".into(), 0.0)];
    let all = TEXTS.concat().replace(['\u{10ffff}', '龘'], "");
    let letters: Vec<char> = all.chars().filter(|c| !c.is_whitespace()).collect();
    let mut seen = std::collections::BTreeSet::new();
    for len in 1..4 {
        for (i, part) in letters.windows(len).enumerate() {
            let part: String = part.iter().collect();
            if (i % 7 != 3 || len == 2) && seen.insert(part.clone()) {
                pieces.push((part, -2.0 - len as f64 * 1.7 - (i % 11) as f64 * 0.37));
            }
        }
    }
    pieces.push(("▁two".into(), -3.25));
    pieces
}

fn file(model: Value, normalizer: Value, pre_tokenizer: Value, post_processor: Value) -> Value {
    json!({"version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 2, "content": "</s>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false},
            {"id": 3, "content": "<mask>", "special": true, "single_word": false, "lstrip": true, "rstrip": false, "normalized": true}],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": null, "model": model})
}

/// Files of every kind.
pub(super) fn all_kinds() -> Vec<(&'static str, Value)> {
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let both = json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]});
    let template = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
        "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}},
            {"SpecialToken": {"id": "</s>", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "</s>", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}, "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}});
    let tail = json!({"type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "</s>", "type_id": 1}}],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}});
    let pieces = pieces();
    let unigram = |bytes: bool| {
        let mut pieces = pieces.clone();
        if bytes {
            pieces.extend((0..=255).map(|b| (format!("<0x{b:02X}>"), -20.0)));
        }
        json!({"type": "Unigram", "unk_id": 3, "vocab": pieces, "byte_fallback": bytes})
    };
    let mut names: serde_json::Map<String, Value> = serde_json::Map::new();
    let mut merges = Vec::new();
    let bytes: Vec<char> = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ').chain('Ā'..='Ń').collect();
    for letter in
        ["<s>", "<pad>", "</s>", "<unk>"].map(String::from).into_iter().chain(bytes.iter().map(char::to_string))
    {
        let id = names.len();
        names.insert(letter, id.into());
    }
    for (a, b) in [("t", "o"), ("Ġ", "a"), ("å", "ľ"), ("s", "t"), ("to", "p"), ("o", "n"), ("1", "2"), ("Ġ", "s")]
    {
        let id = names.len();
        if names.insert([a, b].concat(), id.into()).is_none() {
            merges.push(json!([a, b]));
        }
    }
    let bpe = json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
        "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": names, "merges": merges});
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let map = bundled_json()["normalizer"]["normalizers"][0].clone();
    assert_eq!(map["type"], "Precompiled", "the bundled model has a map of characters");
    vec![
        ("unigram", file(unigram(false), map.clone(), both.clone(), template.clone())),
        ("unigram, spaces alone", file(unigram(false), map.clone(), metaspace.clone(), template.clone())),
        ("unigram of bytes", file(unigram(true), Value::Null, metaspace.clone(), template.clone())),
        (
            "unigram, other normalizers",
            file(
                unigram(false),
                json!({"type": "Sequence", "normalizers": [map, {"type": "Strip", "strip_left": false, "strip_right": true}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}]}),
                metaspace,
                Value::Null,
            ),
        ),
        (
            "bytes, a tail",
            file(
                bpe.clone(),
                json!({"type": "NFC"}),
                bytes.clone(),
                json!({"type": "Sequence", "processors": [bytes, tail]}),
            ),
        ),
        (
            "bytes, no template",
            file(
                bpe,
                Value::Null,
                json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true}),
                Value::Null,
            ),
        ),
        ("MiniLM", minilm_json()),
        ("bundled", bundled_json()),
    ]
}

#[test]
fn every_kind_of_file_makes_the_tokenizer_of_the_crate() {
    for (kind, json) in all_kinds() {
        let ours = ours(&json, ENDLESS).unwrap_or_else(|e| panic!("{kind}: {e}"));
        let mut theirs = tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap_or_else(|e| panic!("{kind}: {e}"));
        theirs.with_truncation(None).unwrap().with_padding(None);
        let fast = kind != "unigram, other normalizers" && !kind.starts_with("bytes");
        assert_eq!(ours.fast.is_some(), fast, "{kind}");
        assert!(theirs.get_vocab(true) == ours.pipeline.get_vocab(true), "{kind}: another vocabulary");
        for (text, other) in TEXTS.iter().zip(TEXTS.iter().rev()) {
            let expected = theirs.encode(*text, true).unwrap();
            let found = ours.encode_one(text).unwrap();
            assert_eq!(found.ids, expected.get_ids(), "{kind}: {text:?}");
            let found = ours.pieces(text).unwrap();
            let tokens: Vec<&str> = found.iter().map(|piece| piece.text.as_str()).collect();
            assert_eq!(tokens, expected.get_tokens(), "{kind}: {text:?}");
            let places: Vec<_> = found.iter().map(|piece| (piece.start, piece.stop)).collect();
            assert_eq!(places, expected.get_offsets(), "{kind}: {text:?}");
            // Pairs, truncated on either side to every length.
            let whole = theirs.encode((*text, *other), true).unwrap();
            let special = ours.pair.as_ref().unwrap().special();
            for (side, direction) in [
                (TruncationSide::Right, tokenizers::TruncationDirection::Right),
                (TruncationSide::Left, tokenizers::TruncationDirection::Left),
            ] {
                for max_length in (special + 1..whole.len() + 2).step_by(3) {
                    let params = tokenizers::TruncationParams { direction, max_length, ..Default::default() };
                    let mut cutting = theirs.clone();
                    cutting.with_truncation(Some(params)).unwrap();
                    let expected = cutting.encode((*text, *other), true).unwrap();
                    let found = &ours.encode_pairs(&[(text, other)], max_length, side).unwrap()[0];
                    // If both are longer than that, the crate has stopped counting, and either text
                    // may get the odd token.
                    let len = |text: &str| theirs.encode(text, false).unwrap().len();
                    if (max_length - special) % 2 == 1 && len(text).min(len(other)) >= max_length {
                        continue;
                    }
                    assert_eq!(found.ids, expected.get_ids(), "{kind}: {text:?}, {other:?} in {max_length}");
                    assert_eq!(found.full_len, whole.len());
                    assert!(found.types.is_empty(), "a class without types");
                }
            }
        }
    }
}

#[test]
fn both_ends_of_a_text_can_be_cut() {
    let (_, json) = &all_kinds()[0];
    let mut ours = ours(json, ENDLESS).unwrap();
    let whole = ours.encode_one("don't stop: 12345").unwrap().ids;
    ours.max_length = 7;
    let cut = |side| ours.encode_prompted(&["don't stop: 12345"], "", side).unwrap().remove(0);
    let right = cut(TruncationSide::Right);
    assert_eq!((&right.ids[..6], right.ids[6]), (&whole[..6], 2));
    let left = cut(TruncationSide::Left);
    assert_eq!((left.ids[0], &left.ids[1..]), (0, &whole[whole.len() - 6..]));
    assert_eq!((left.full_len, left.truncated()), (whole.len(), true));
}

#[test]
fn a_prompt_stands_before_each_text_and_is_counted() {
    let (_, json) = &all_kinds()[0];
    let ours = ours(json, ENDLESS).unwrap();
    let plain = ours.encode(&["two spaces"]).unwrap();
    assert_eq!(plain[0].prompt_len, 0);
    let prompted = ours.encode_prompted(&["two spaces", ""], "stop: ", TruncationSide::Right).unwrap();
    assert_eq!(prompted[0].ids, ours.encode_one("stop: two spaces").unwrap().ids);
    // The prompt alone is `<s>`, its tokens and `</s>`. The latter counts here, because it is not
    // among the special tokens in the settings.
    let alone = ours.encode_one("stop: ").unwrap().len();
    assert_eq!(prompted[0].prompt_len, alone);
}

#[test]
fn a_vocabulary_may_be_smaller_than_the_models_and_not_larger() {
    for (kind, json) in all_kinds() {
        let whole = ours(&json, ENDLESS).unwrap();
        let entries = whole.pipeline.get_vocab(true).into_values().max().unwrap() as usize + 1;
        assert!(ours(&json, entries).is_ok(), "{kind}");
        let error = ours(&json, entries - 1).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(&format!("vocabulary of {}", entries - 1)), "{kind}: {error}");
    }
}
