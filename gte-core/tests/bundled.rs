//! The bundled model computes PyTorch's vectors, and these make sense, in Chinese and English.
//! `bundled/train/export.py` wrote the expected values.
#![cfg(feature = "bundled")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

use std::path::Path;

use gte_core::similarity::scores;
use gte_core::{BUNDLED, Embedder, HubOptions, Isa, ModelFiles, Precision};

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

#[test]
fn it_gives_the_vectors_of_pytorch_on_its_own_weights() {
    let json: serde_json::Value = serde_json::from_slice(&fixture("bundled.json")).unwrap();
    let texts: Vec<String> = serde_json::from_value(json["texts"].clone()).unwrap();
    let bytes = fixture("bundled.f32");
    let expected: Vec<f32> = bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    for isa in Isa::available() {
        let found = Embedder::from_files(ModelFiles::bundled())
            .isa(isa)
            .precision(gte_core::Precision::F32)
            .build()
            .unwrap()
            .embed(&texts)
            .unwrap();
        assert_eq!(found.as_slice().len(), expected.len());
        let worst = found.as_slice().iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        eprintln!("{isa}: largest difference {worst:e}");
        assert!(worst <= 2e-6, "{isa}: {worst:e}");
    }
}

/// (Chinese, English) pairs of the blocks that were not used for training: see
/// `bundled/train/data.py`.
fn held_out() -> Vec<(String, String)> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundled/train/data");
    let domains = ["service", "life", "tech", "business", "culture"];
    let lines = |domain: &str| std::fs::read_to_string(data.join(format!("{domain}.pairs.tsv"))).unwrap();
    let held = |text: String| -> Vec<(String, String)> {
        let pairs = text.lines().filter_map(|line| line.split_once('\t')).enumerate();
        let held = pairs.filter(|(i, _)| i / 10 % 12 == 0);
        held.map(|(_, (chinese, english))| (chinese.trim().to_owned(), english.trim().to_owned())).collect()
    };
    domains.into_iter().flat_map(|domain| held(lines(domain))).collect()
}

#[test]
fn a_chinese_text_finds_its_translation() {
    let pairs = held_out();
    assert!(pairs.len() > 700);
    let (chinese, english): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    // Slightly below the figures of the model card.
    for (precision, least) in [(Precision::F32, 0.922), (Precision::Int8, 0.915)] {
        let embedder = Embedder::from_files(ModelFiles::bundled()).precision(precision).build().unwrap();
        let scores = scores(&embedder.embed(&chinese).unwrap(), &embedder.embed(&english).unwrap()).unwrap();
        let right = scores.rows().into_iter().enumerate().filter(|(i, row)| {
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
            english[best] == english[*i]
        });
        let share = right.count() as f64 / chinese.len() as f64;
        eprintln!("{precision}: {share:.4} of {} texts find their translation", chinese.len());
        assert!(share >= least, "{precision}: {share}");
    }
}

#[test]
fn other_ways_to_write_a_text_are_the_same_text() {
    let embedder = Embedder::bundled().unwrap();
    let vectors = embedder
        .embed(&["我想退货，请问怎么办理？", "我想退貨，請問怎麼辦理？", "我想退货,请问怎么办理?", "今天天气真好"])
        .unwrap();
    assert_eq!(vectors.get(0), vectors.get(1), "traditional characters");
    assert_eq!(vectors.get(0), vectors.get(2), "full-width signs");
    // Rare words are other names of common ones, and Chinese words of English ones. They are
    // decoded to these, the same in every process.
    let tokens = embedder.tokenizer().encode_one("我想退貨: snails, photographs").unwrap();
    assert_eq!(embedder.tokenizer().decode(&tokens.ids, true).unwrap(), "我 想 return : snail, photograph");
    let pieces = embedder.tokenizer().pieces("我想退貨").unwrap();
    let pieces: Vec<_> = pieces.iter().map(|piece| (piece.text.as_str(), piece.start, piece.stop)).collect();
    assert_eq!(pieces[1..4], [("我", 0, 3), ("##想", 3, 6), ("##退货", 6, 12)]);
    let pieces = embedder.tokenizer().pieces("snails").unwrap();
    assert_eq!(pieces[1].text, "snails");
    // An unknown character costs little if the others are known.
    let rare = embedder.embed(&["龘先生想退货，请问怎么办理？", "龘"]).unwrap();
    let with = |row: &[f32]| row.iter().zip(vectors.get(0).unwrap()).map(|(a, b)| a * b).sum::<f32>();
    assert!(with(rare.get(0).unwrap()) > 0.7, "{}", with(rare.get(0).unwrap()));
    assert!(rare.rows().all(|row| row.iter().all(|v| v.is_finite())));
}

#[test]
fn it_is_small_enough_to_be_published_and_needs_no_disk() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundled");
    let size = |dir: &Path| -> u64 {
        let files = std::fs::read_dir(dir).unwrap().flatten();
        files.filter_map(|f| f.metadata().ok().filter(|m| m.is_file())).map(|m| m.len()).sum()
    };
    let total = size(&dir) + size(&dir.join("1_Pooling"));
    assert!(total <= 9_500_000, "{total} bytes");
    let files = ModelFiles::open(BUNDLED, &HubOptions::from_env().unwrap()).unwrap();
    assert!(files.dir().is_none() && files.name() == BUNDLED);
    let embedder = Embedder::from_files(files).build().unwrap();
    assert_eq!(embedder.dim(), 384);
}
