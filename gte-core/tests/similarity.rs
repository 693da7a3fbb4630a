//! Compares similarity and the small forms of vectors with naive f64 loops: every documented bound,
//! order and error, through the public interface.
#![allow(clippy::unwrap_used, reason = "a test")]

use gte_core::similarity::{Hit, cosine, scores, top_k};
use gte_core::{BinaryEmbeddings, Embeddings, Error, Int8Embeddings};
use ndarray::{Array2, ArrayView2, s};
use proptest::prelude::*;
use proptest::test_runner::Config;

/// The maximum error of `dot`, as a multiple of Σ|aᵢ·bᵢ|, which `kernels/dot.rs` states.
const DOT_ERROR: f64 = 4e-6;

/// Numbers in −1..1, the same for the same seed.
fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// `n` unit rows of `dim` values.
fn unit_rows(n: usize, dim: usize, seed: u64) -> Embeddings {
    let mut next = noise(seed);
    let mut values = Vec::with_capacity(n * dim);
    for _ in 0..n {
        let row: Vec<f32> = (0..dim).map(|_| next()).collect();
        let length = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        values.extend(row.iter().map(|&v| (f64::from(v) / length) as f32));
    }
    Embeddings::from_unit_rows(values, dim).unwrap()
}

/// Σ aᵢ·bᵢ and Σ|aᵢ·bᵢ| in f64.
fn exact(a: &[f32], b: &[f32]) -> (f64, f64) {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).fold((0.0, 0.0), |(s, t), p| (s + p, t + p.abs()))
}

fn column(values: &[f32]) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((values.len(), 1), values).unwrap()
}

fn order(hits: &[Hit]) -> Vec<usize> {
    hits.iter().map(|hit| hit.index).collect()
}

proptest! {
    #![proptest_config(Config::with_cases(64))]

    #[test]
    fn scores_and_top_k_are_those_of_f64(n in 0usize..400, m in 0usize..70, dim in 1usize..300, k in 0usize..30, seed: u64) {
        let (queries, corpus) = (unit_rows(m, dim, seed), unit_rows(n, dim, !seed));
        let matrix = scores(&queries, &corpus).unwrap();
        prop_assert_eq!(matrix.dim(), (m, n));
        let found = top_k(queries.view(), corpus.view(), k).unwrap();
        prop_assert_eq!(found.len(), m);
        for (q, (query, hits)) in queries.rows().zip(&found).enumerate() {
            for (d, document) in corpus.rows().enumerate() {
                let (sum, magnitude) = exact(query, document);
                prop_assert!((f64::from(matrix[[q, d]]) - sum).abs() <= DOT_ERROR * magnitude);
            }
            // The search result equals the beginning of the sorted matrix row, bit for bit.
            let mut row: Vec<Hit> = (0..n).map(|index| Hit { index, score: matrix[[q, index]] }).collect();
            row.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap().then(a.index.cmp(&b.index)));
            row.truncate(k);
            prop_assert_eq!(hits, &row);
        }
    }

    #[test]
    fn cosine_is_that_of_f64(dim in 0usize..300, seed: u64, scale in -18i32..18) {
        let mut next = noise(seed);
        let a: Vec<f32> = (0..dim).map(|_| next() * 10f32.powi(scale)).collect();
        let b: Vec<f32> = (0..dim).map(|_| next()).collect();
        let lengths = exact(&a, &a).0.sqrt() * exact(&b, &b).0.sqrt();
        let expected = if lengths == 0.0 { 0.0 } else { exact(&a, &b).0 / lengths };
        prop_assert!((f64::from(cosine(&a, &b).unwrap()) - expected).abs() <= 1e-7);
        prop_assert_eq!(cosine(&a, &b).unwrap(), cosine(&b, &a).unwrap());
    }

    #[test]
    fn int8_keeps_its_bound(dim in 1usize..600, seed: u64) {
        let rows = unit_rows(2, dim, seed);
        let small = rows.to_int8();
        for (value, original) in small.values.iter().zip(rows.as_slice()).take(dim) {
            prop_assert!((f32::from(*value) * small.scales[0] - original).abs() <= small.scales[0] * 0.5001);
        }
        for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let error = f64::from(small.dot(i, j).unwrap()) - exact(rows.get(i).unwrap(), rows.get(j).unwrap()).0;
            prop_assert!(error.abs() <= int8_bound(&small, i, j));
        }
    }

    #[test]
    fn binary_is_numpys_packbits(n in 1usize..5, dim in 1usize..100, seed: u64) {
        let rows = unit_rows(n, dim, seed);
        let binary = rows.to_binary();
        let width = dim.div_ceil(8);
        prop_assert_eq!(binary.values.len(), n * width);
        for (row, packed) in rows.rows().zip(binary.values.chunks(width)) {
            for bit in 0..8 * width {
                let set = packed[bit / 8] >> (7 - bit % 8) & 1 == 1;
                prop_assert_eq!(set, row.get(bit).is_some_and(|&v| v > 0.0));
            }
        }
        let differ = rows.get(0).unwrap().iter().zip(rows.get(n - 1).unwrap()).filter(|(a, b)| (**a > 0.0) != (**b > 0.0));
        prop_assert_eq!(binary.hamming(0, n - 1).unwrap() as usize, differ.count());
    }

    #[test]
    fn truncation_gives_unit_heads(n in 0usize..5, dim in 1usize..300, cut in 1usize..300, seed: u64) {
        let rows = unit_rows(n, dim, seed);
        if cut > dim {
            let refused = matches!(rows.truncate(cut), Err(Error::InvalidOption { option: "dimensions", .. }));
            prop_assert!(refused);
            return Ok(());
        }
        let short = rows.truncate(cut).unwrap();
        prop_assert_eq!((short.len(), short.dim()), (n, cut));
        for (row, short) in rows.rows().zip(short.rows()) {
            prop_assert!((exact(short, short).0 - 1.0).abs() < 1e-6);
            let length = exact(&row[..cut], &row[..cut]).0.sqrt();
            for (long, short) in row.iter().zip(short) {
                prop_assert!((f64::from(*long) / length - f64::from(*short)).abs() < 1e-7);
            }
        }
    }
}

/// The bound that `Int8Embeddings::dot` states, plus 1e-6 for rows that have unit length only in
/// f32.
fn int8_bound(small: &Int8Embeddings, i: usize, j: usize) -> f64 {
    let (dim, a, b) = (small.dim as f64, f64::from(small.scales[i]), f64::from(small.scales[j]));
    dim.sqrt() / 2.0 * (a + b) + dim / 4.0 * a * b + 1e-6
}

/// The worst case of rounding: every value just below half a scale, with all errors of the same
/// sign.
#[test]
fn int8_bound_is_near_what_can_happen() {
    let (dim, largest) = (1024, 0.15f32);
    let scale = largest / 127.0;
    let mut values = vec![largest];
    let mut square = f64::from(largest).powi(2);
    while values.len() < dim {
        // As close to unit length as rows of these two values can be.
        let left = (1.0 - square) / (dim - values.len()) as f64;
        let value = if left > f64::from(26.0 * scale).powi(2) { 26.49 * scale } else { 25.49 * scale };
        square += f64::from(value).powi(2);
        values.push(value);
    }
    assert!((square - 1.0).abs() < 1e-4, "{square}");
    let rows = Embeddings::from_unit_rows(values, dim).unwrap();
    let small = rows.to_int8();
    let error = (f64::from(small.dot(0, 0).unwrap()) - square).abs();
    let bound = int8_bound(&small, 0, 0);
    assert!(error <= bound && error > 0.9 * bound, "error {error}, bound {bound}");
    assert!(bound < 0.04, "the documentation says 0.04, the bound is {bound}");
}

#[test]
fn small_forms_never_panic() {
    // Larger than any 32-bit sum: 200,000 · 127².
    let wide = Int8Embeddings { values: vec![127; 200_000], scales: vec![1.0], dim: 200_000 };
    assert_eq!(wide.dot(0, 0).unwrap(), 200_000.0 * 127.0 * 127.0);
    // The fields are public, so their content is checked before use.
    assert!(Int8Embeddings { values: vec![], scales: vec![], dim: 0 }.dot(0, 0).is_err());
    assert!(Int8Embeddings { values: vec![1, 2], scales: vec![], dim: 2 }.dot(0, 0).is_err());
    assert!(BinaryEmbeddings { values: vec![], dim: 0 }.hamming(0, 0).is_err());
    let empty = Embeddings::from_unit_rows(vec![], 3).unwrap();
    assert!(empty.to_int8().dot(0, 0).is_err() && empty.to_binary().hamming(0, 0).is_err());
}

#[test]
fn no_rows_are_fine() {
    let empty = Embeddings::from_unit_rows(vec![], 3).unwrap();
    let one = unit_rows(1, 3, 1);
    assert_eq!((empty.len(), empty.dim(), empty.is_empty(), empty.view().dim()), (0, 3, true, (0, 3)));
    assert_eq!(empty.truncate(2).unwrap().dim(), 2);
    assert_eq!(scores(&empty, &one).unwrap().dim(), (0, 1));
    assert_eq!(scores(&one, &empty).unwrap().dim(), (1, 0));
    assert!(top_k(empty.view(), one.view(), 3).unwrap().is_empty());
    assert_eq!(top_k(one.view(), empty.view(), 3).unwrap(), [vec![]]);
    // A dimension that is impossible for an array is refused when the vectors are created, not when
    // they are viewed.
    assert!(Embeddings::from_unit_rows(vec![], usize::MAX).is_err());
}

#[test]
fn truncation_to_all_dimensions_changes_no_bit() {
    // Normalized in f32, like in kernels. In f64 most values would be different.
    let mut next = noise(7);
    let row: Vec<f32> = (0..384).map(|_| next()).collect();
    let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
    let rows = Embeddings::from_unit_rows(row.iter().map(|v| v * (1.0 / length)).collect(), 384).unwrap();
    assert_eq!(rows.truncate(384).unwrap(), rows);
}

#[test]
fn a_zero_head_stays_zero() {
    let rows = Embeddings::from_unit_rows(vec![0.0, 0.0, 1.0], 3).unwrap();
    assert_eq!(rows.truncate(2).unwrap().as_slice(), [0.0, 0.0]);
}

#[test]
fn cosine_hides_no_nan() {
    assert!(cosine(&[f32::NAN, 1.0], &[1.0, 1.0]).unwrap().is_nan());
    assert!(cosine(&[1.0, 1.0], &[1.0, f32::NAN]).unwrap().is_nan());
    assert_eq!(cosine(&[], &[]).unwrap(), 0.0);
    assert_eq!(cosine(&[f32::MAX; 9], &[f32::MAX; 9]).unwrap(), 1.0);
    let tiny = f32::from_bits(1);
    assert_eq!(cosine(&[tiny; 9], &[-tiny; 9]).unwrap(), -1.0);
}

#[test]
fn equal_scores_come_in_order_of_the_rows() {
    let one = [1.0];
    // Equal rows far apart, in parts of different threads.
    let values: Vec<f32> = (0..100_000).map(|i| (i % 100) as f32).collect();
    let hits = &top_k(column(&one), column(&values), 1500).unwrap()[0];
    let expected: Vec<usize> = (0..1000).map(|i| i * 100 + 99).chain((0..500).map(|i| i * 100 + 98)).collect();
    assert_eq!(order(hits), expected);
}

#[test]
fn nan_comes_last() {
    let values = [f32::NAN, f32::NEG_INFINITY, -f32::NAN, 1.0, f32::INFINITY];
    let one = [1.0];
    for (k, expected) in [(5, &[4, 3, 1, 0, 2][..]), (3, &[4, 3, 1]), (4, &[4, 3, 1, 0])] {
        let hits = &top_k(column(&one), column(&values), k).unwrap()[0];
        assert_eq!(order(hits), expected);
    }
}

#[test]
fn other_dimensions_and_strided_rows_are_errors() {
    let (three, two) = (unit_rows(2, 3, 1), unit_rows(2, 2, 1));
    assert!(matches!(scores(&three, &two), Err(Error::Dimensions { left: 3, right: 2 })));
    assert!(matches!(top_k(three.view(), two.view(), 1), Err(Error::Dimensions { left: 3, right: 2 })));
    assert!(matches!(cosine(&[1.0], &[]), Err(Error::Dimensions { left: 1, right: 0 })));
    assert!(matches!(Embeddings::from_unit_rows(vec![0.0; 4], 3), Err(Error::Rows { .. })));
    let square = Array2::<f32>::eye(4);
    assert!(matches!(top_k(square.view(), square.t(), 1), Err(Error::InvalidOption { .. })));
    assert!(top_k(square.slice(s![.., ..;-1]), square.view(), 1).is_err());
    // Some columns of some rows, which are contiguous within each row.
    let part = square.slice(s![..;2, 1..3]);
    assert_eq!(order(&top_k(part, part, 2).unwrap()[0]), [0, 1]);
    assert_eq!(order(&top_k(square.slice(s![1..2, 1..2]), square.slice(s![.., 1..2]), 1).unwrap()[0]), [1]);
}

#[test]
fn results_do_not_depend_on_threads() {
    let (queries, corpus) = (unit_rows(70, 33, 1), unit_rows(20_000, 33, 2));
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| (scores(&queries, &corpus).unwrap(), top_k(queries.view(), corpus.view(), 50).unwrap()))
    };
    let one = on(1);
    for threads in [2, 3, 7] {
        assert!(on(threads) == one, "{threads} threads");
    }
}

#[test]
fn a_million_rows() {
    let (rows, dim) = (1_000_000, 64);
    let mut next = noise(3);
    let mut corpus: Vec<f32> = (0..rows * dim).map(|_| next()).collect();
    let query: Vec<f32> = (0..dim).map(|_| next()).collect();
    // Rows that win, in both halves and at both ends.
    let winners = [999_999, 0, 500_000, 123_456];
    for (place, row) in winners.into_iter().enumerate() {
        let factor = 8.0 - place as f32;
        corpus[row * dim..][..dim].iter_mut().zip(&query).for_each(|(v, q)| *v = q * factor);
    }
    let corpus = ArrayView2::from_shape((rows, dim), &corpus).unwrap();
    let hits = top_k(ArrayView2::from_shape((1, dim), &query).unwrap(), corpus, 4).unwrap();
    assert_eq!(order(&hits[0]), winners);
}
