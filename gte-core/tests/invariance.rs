//! A text's vector does not depend on other texts: it is the same bit for bit alone, in any batch
//! and order, with any maximum of tokens per batch, any number of threads and every instruction
//! set.
#![allow(clippy::unwrap_used, reason = "a test")]

mod model;

use gte_core::{Embedder, Isa, MaxBatchTokens, ModelFiles, Pooling, Precision};
use proptest::prelude::*;

fn embedder(
    dir: &std::path::Path,
    isa: Isa,
    threads: usize,
    max_batch_tokens: usize,
    pooling: Pooling,
    precision: Precision,
) -> Embedder {
    let builder =
        Embedder::from_files(ModelFiles::from_dir(dir).unwrap()).isa(isa).threads(threads).precision(precision);
    builder.max_batch_tokens(MaxBatchTokens::new(max_batch_tokens).unwrap()).pooling(pooling).build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_text_is_alone_in_any_batch(lengths in prop::collection::vec(1usize..130, 1..24), max_batch_tokens in 1usize..700, threads in 1usize..4, turn in 0usize..24, precision in prop::sample::select(vec![Precision::F32, Precision::Bf16, Precision::Int8]), seed: u64) {
        let dir = model::tiny_model();
        let texts: Vec<Vec<u32>> = lengths.iter().enumerate().map(|(i, &n)| model::ids(seed.wrapping_add(i as u64), n)).collect();
        for isa in Isa::available() {
            for pooling in [Pooling::Cls, Pooling::Mean, Pooling::LastToken] {
                let alone = embedder(dir.path(), isa, 1, 1, pooling, precision);
                let together = embedder(dir.path(), isa, threads, max_batch_tokens, pooling, precision);
                let mut turned = texts.clone();
                turned.rotate_left(turn % texts.len());
                let vectors = together.embed_tokens(&turned).unwrap();
                for (text, vector) in turned.iter().zip(vectors.rows()) {
                    let expected = alone.embed_tokens(&[text]).unwrap();
                    prop_assert!(expected.as_slice().iter().map(|v| v.to_bits()).eq(vector.iter().map(|v| v.to_bits())), "{isa}, {precision}, {pooling}, {} tokens", text.len());
                }
            }
        }
    }
}

#[test]
fn many_threads_share_one_embedder() {
    let dir = model::tiny_model();
    let embedder = embedder(dir.path(), Isa::available().last().unwrap(), 2, 256, Pooling::Mean, Precision::F32);
    let texts: Vec<Vec<u32>> = (0..40).map(|i| model::ids(i, 1 + (i as usize * 7) % 90)).collect();
    let expected = embedder.embed_tokens(&texts).unwrap();
    std::thread::scope(|scope| {
        for first in 0..8 {
            let (embedder, texts, expected) = (&embedder, &texts, &expected);
            scope.spawn(move || {
                for i in (first..40).chain(0..first) {
                    assert_eq!(embedder.embed_tokens(&texts[i..=i]).unwrap().get(0), expected.get(i));
                }
            });
        }
    });
}

#[test]
fn a_trace_splits_work_as_more_threads_would_and_changes_no_vector() {
    let dir = model::tiny_model();
    let embedder = embedder(dir.path(), Isa::available().last().unwrap(), 1, 4096, Pooling::Mean, Precision::Int8);
    let compute = |texts: &[Vec<u32>]| embedder.embed_tokens(texts).unwrap();
    // As many tokens as four threads have parts of 128, and too few for eight.
    let texts: Vec<Vec<u32>> = (0..8).map(|i| model::ids(i, 64)).collect();
    let expected = compute(&texts);
    for (threads, parts) in [(1, 4), (4, 4), (8, 1)] {
        let (vectors, stages) = embedder.engine().trace(threads, || compute(&texts));
        assert_eq!(vectors, expected);
        let layers = stages.iter().filter(|stage| stage.parts.len() == parts && parts > 1).count();
        assert_eq!(layers, if parts > 1 { 2 } else { 0 }, "{threads} threads: two layers, in parts");
        let pieces = stages.iter().flat_map(|stage| &stage.parts).flatten().map(Vec::len).max();
        assert!(pieces > Some(1), "{threads} threads: {stages:?}");
    }
    assert_eq!(embedder.engine().trace(2, || ()).1, [], "nothing was computed");
}
