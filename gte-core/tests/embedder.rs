//! What an embedder promises besides its numbers: odd input, options, memory.
#![allow(clippy::unwrap_used, reason = "a test")]

mod model;

use gte_core::{Embedder, Error, MaxBatchTokens, ModelFiles, Outputs, Pause, Pooling, Precision, Work};

fn builder(dir: &tempfile::TempDir) -> gte_core::Builder<Embedder> {
    Embedder::from_files(ModelFiles::from_dir(dir.path()).unwrap()).precision(Precision::F32).threads(2)
}

#[test]
fn odd_input_has_a_plain_answer() {
    let dir = model::tiny_model();
    let embedder = builder(&dir).max_length(8).build().unwrap();
    let none: [&str; 0] = [];
    assert_eq!((embedder.embed(&none).unwrap().len(), embedder.embed(&none).unwrap().dim()), (0, model::HIDDEN));
    // [CLS] and [SEP] in the tiny vocabulary.
    let empty = embedder.embed(&[""]).unwrap();
    assert_eq!(empty, embedder.embed_tokens(&[[2, 3]]).unwrap());
    assert_eq!(embedder.embed(&["\u{0}\u{200b}"]).unwrap().len(), 1);
    let long = "今天".repeat(50);
    let tokens = embedder.tokenize(&[&long]).unwrap();
    assert!(tokens[0].truncated() && tokens[0].len() == 8 && tokens[0].full_len == 102);
    assert_eq!(embedder.embed(&[&long]).unwrap(), embedder.embed_tokens(&tokens).unwrap());
    for row in embedder.embed(&["今天", "a b c", &long]).unwrap().rows() {
        assert!((row.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-5);
    }
}

#[test]
fn token_ids_are_checked() {
    let dir = model::tiny_model();
    let embedder = builder(&dir).build().unwrap();
    let empty: [u32; 0] = [];
    assert!(matches!(embedder.embed_tokens(&[&empty[..]]), Err(Error::TokenCount { found: 0, .. })));
    assert!(matches!(embedder.embed_tokens(&[vec![1; 161]]), Err(Error::TokenCount { found: 161, max: 160 })));
    assert!(matches!(embedder.embed_tokens(&[[1, 60]]), Err(Error::TokenId { id: 60, vocab: 60 })));
    assert_eq!(embedder.embed_tokens(&[vec![1; 160]]).unwrap().len(), 1);
    assert!(embedder.embed_all(&[[1u32, 99]], Outputs::NONE.with_states(true)).is_err());
    let none = embedder.embed_all(&[] as &[Vec<u32>], Outputs::NONE.with_states(true)).unwrap().states.unwrap();
    assert!(none.is_empty() && none.dim == model::HIDDEN);
}

#[test]
fn hidden_states_are_what_is_pooled() {
    let dir = model::tiny_model();
    let texts = [model::ids(1, 9), model::ids(2, 4)];
    for (pooling, rows) in
        [(Pooling::Cls, [0..1, 9..10]), (Pooling::LastToken, [8..9, 12..13]), (Pooling::Mean, [0..9, 9..13])]
    {
        let embedder = builder(&dir).pooling(pooling).build().unwrap();
        let states = embedder.embed_all(&texts, Outputs::NONE.with_states(true)).unwrap().states.unwrap();
        let hidden = ndarray::ArrayView2::from_shape((13, model::HIDDEN), &states.values).unwrap();
        let vectors = embedder.embed_tokens(&texts).unwrap();
        assert_eq!(embedder.normalize(embedder.pool_tokens(&texts).unwrap()).unwrap(), vectors, "in two halves");
        for (rows, vector) in rows.into_iter().zip(vectors.rows()) {
            let mean = hidden.slice(ndarray::s![rows, ..]).mean_axis(ndarray::Axis(0)).unwrap();
            let length = mean.dot(&mean).sqrt();
            assert!(mean.iter().zip(vector).all(|(m, v)| (m / length - v).abs() < 1e-6), "{pooling}");
        }
    }
}

#[test]
fn vectors_come_into_a_callers_place_a_batch_at_a_time() {
    let dir = model::tiny_model();
    let embedder = builder(&dir).max_batch_tokens(MaxBatchTokens::new(20).unwrap()).build().unwrap();
    let texts: Vec<_> = (0..9).map(|i| model::ids(i, 3 + 2 * i as usize)).collect();
    let expected = embedder.embed_tokens(&texts).unwrap();
    let mut out = vec![f32::NAN; texts.len() * model::HIDDEN];
    let batches = embedder.batches(&texts).unwrap();
    assert!(batches.len() > 3 && batches.last().unwrap().end == texts.len());
    for texts_in_batch in batches {
        let place = &mut out[texts_in_batch.start * model::HIDDEN..texts_in_batch.end * model::HIDDEN];
        embedder.embed_tokens_into(&texts[texts_in_batch], place).unwrap();
    }
    assert_eq!(out, expected.as_slice());
    assert!(matches!(embedder.embed_tokens_into(&texts, &mut out[1..]), Err(Error::OutputLength { .. })));
}

#[test]
fn a_pass_that_pauses_gives_the_same_vectors() {
    let dir = model::tiny_model();
    for pooling in [Pooling::Cls, Pooling::Mean] {
        let embedder =
            builder(&dir).pooling(pooling).max_batch_tokens(MaxBatchTokens::new(64).unwrap()).build().unwrap();
        let long: Vec<_> = (0..5).map(|i| model::ids(i, 30)).collect();
        let short = [model::ids(7, 5), model::ids(8, 70)];
        let (expected, expected_short) = (embedder.pool_tokens(&long).unwrap(), embedder.pool_tokens(&short).unwrap());
        let pauses = std::sync::atomic::AtomicUsize::new(0);
        let engine = embedder.engine();
        let pool = |texts: &[Vec<u32>], work: &Work<'_>| {
            engine.compute(texts, work).map(|made| made.into_iter().flat_map(|text| text.dense).collect::<Vec<_>>())
        };
        let found = pool(
            &long,
            &Work::DENSE.with_pause(&|pause| {
                pauses.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                assert!((0.0..1.0).contains(&pause.left()));
                let inside = Work::DENSE.inside(pause);
                // A pass that runs during a pause can be paused too.
                let deeper = |inner: &Pause<'_>| {
                    assert_eq!(pool(&long, &Work::DENSE.inside(inner)).unwrap(), expected);
                };
                assert_eq!(pool(&short, &inside.with_pause(&deeper)).unwrap(), expected_short);
                assert!(matches!(pool(&[vec![9999]], &inside), Err(Error::TokenId { .. })));
            }),
        );
        assert_eq!(found.unwrap(), expected);
        assert!(pauses.into_inner() >= 3, "at least one pause per batch");
    }
}

#[test]
fn a_part_of_a_row_is_refused() {
    let dir = model::tiny_model();
    let embedder = builder(&dir).build().unwrap();
    assert!(matches!(embedder.normalize(vec![1.0; model::HIDDEN + 1]), Err(Error::Rows { .. })));
}

#[test]
fn options_that_make_no_sense_are_named() {
    let dir = model::tiny_model();
    let refused = |result: gte_core::Result<Embedder>, name: &str| {
        let error = result.map(|_| ()).unwrap_err();
        assert!(matches!(&error, Error::InvalidOption { option, .. } if *option == name), "{error}");
    };
    refused(builder(&dir).threads(0).build(), "threads");
    refused(builder(&dir).max_length(2).build(), "max_length");
    refused(builder(&dir).max_length(161).build(), "max_length");
    refused(builder(&dir).precision(Precision::F16).build(), "precision");
    assert!(
        MaxBatchTokens::new(0).is_err() && "int3".parse::<Precision>().is_err() && "max".parse::<Pooling>().is_err()
    );
    assert!(matches!(Embedder::builder("/no/such/directory").build(), Err(Error::Io { .. })));
    assert!(matches!(Embedder::from_dir(std::env::temp_dir().join("no-such-model")), Err(Error::Io { .. })));
}

#[test]
fn a_corpus_is_drawn_as_it_is_needed() {
    let dir = model::tiny_model();
    let embedder = builder(&dir).build().unwrap();
    let drawn = std::cell::Cell::new(0);
    let texts = (0..3000).map(|i| {
        drawn.set(i + 1);
        format!("今天 {}", ["a", "b", "c"][i % 3])
    });
    let mut pieces = embedder.embed_iter(texts);
    assert_eq!(drawn.get(), 0);
    let first = pieces.next().unwrap().unwrap();
    assert!(drawn.get() < 3000, "only the texts of the first piece are read");
    let rest: usize = pieces.map(|p| p.unwrap().len()).sum();
    assert_eq!(first.len() + rest, 3000);
    assert_eq!(first.get(4), embedder.embed(&["今天 b"]).unwrap().get(0));
}

#[test]
fn a_zero_vector_stays_zero() {
    // With a final LayerNorm of zeros the pooled state has no direction. It stays zero and does not
    // become NaN.
    let mut tensors = model::tensors();
    for name in ["weight", "bias"] {
        tensors.get_mut(&format!("encoder.layer.1.output.LayerNorm.{name}")).unwrap().1.fill(0.0);
    }
    let dir = tempfile::tempdir().unwrap();
    model::write_small_files(dir.path());
    model::write_safetensors(&dir.path().join("model.safetensors"), &tensors);
    let vectors = builder(&dir).build().unwrap().embed(&["今天"]).unwrap();
    assert!(vectors.as_slice().iter().all(|&v| v == 0.0));
}
