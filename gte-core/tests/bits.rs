//! The same text has the same vector bit for bit on every instruction set and architecture, so an
//! index and the queries to it may be computed on different CPUs.
#![cfg(feature = "bundled")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that says what it compared")]

mod same_bits;

use std::path::Path;

use gte_core::{Embedder, Isa, ModelFiles, Precision};
use same_bits::has_the_same_bits;

/// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>), of the vectors of [`texts`].
const EXPECTED: [(Precision, u64); 3] = [
    (Precision::F32, 0xeec6_eb1f_b6a6_95e7),
    (Precision::Bf16, 0x9240_2ed3_b362_c82b),
    (Precision::Int8, 0x2c34_4a83_66fc_ad4d),
];

/// Chinese and English sentences, and one text that is longer than the model reads.
fn texts() -> Vec<String> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundled/train/data");
    let mut texts: Vec<String> = ["service", "life", "tech", "business", "culture"]
        .iter()
        .flat_map(|domain| {
            let lines = std::fs::read_to_string(data.join(format!("{domain}.pairs.tsv"))).unwrap();
            let pairs: Vec<String> =
                lines.lines().take(2).flat_map(|line| line.split('\t').map(str::to_owned)).collect();
            pairs
        })
        .collect();
    texts.push(texts.concat().repeat(2));
    texts
}

fn fnv(values: &[f32]) -> u64 {
    let bytes = values.iter().flat_map(|value| value.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn vectors_are_the_same_on_every_instruction_set() {
    let texts = texts();
    let mut others = Vec::new();
    for (precision, expected) in EXPECTED {
        for isa in Isa::available().filter(|&isa| has_the_same_bits(isa, precision)) {
            let builder = Embedder::from_files(ModelFiles::bundled()).precision(precision).isa(isa).threads(2);
            let vectors = builder.build().unwrap().embed(&texts).unwrap();
            let found = fnv(vectors.as_slice());
            eprintln!("{precision}, {isa}: {found:#018x}");
            if found != expected {
                others.push(format!("{precision} on {isa}"));
            }
        }
    }
    assert!(others.is_empty(), "other bits than those expected: {others:?}");
}
