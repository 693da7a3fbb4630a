//! How similar vectors are: cosine, score matrices, exact search. Runs on the rayon pool of the
//! caller.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

use crate::embedding::Embeddings;
use crate::error::{Error, Result};
use crate::kernels::Kernels;

/// Cosine of the angle between two vectors of any length, from −1 to 1; 0 if one of them is zero,
/// NaN if one of them contains NaN. Sums are in f64.
///
/// ```
/// use gte_core::similarity::cosine;
///
/// assert_eq!(cosine(&[3.0, 0.0], &[2.0, 0.0])?, 1.0);
/// assert!(cosine(&[1.0], &[1.0, 2.0]).is_err());
/// # Ok::<(), gte_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Dimensions`] if their numbers of values differ.
pub fn cosine(a: &[f32], b: &[f32]) -> Result<f32> {
    same(a.len(), b.len())?;
    let sum = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let lengths = (sum(a, a) * sum(b, b)).sqrt();
    Ok(if lengths == 0.0 { 0.0 } else { (sum(a, b) / lengths).clamp(-1.0, 1.0) as f32 })
}

/// Number of documents per task of [`scores`].
const PART: usize = 1024;

/// All dot products: row i, column j is the cosine of query i and document j. (queries × documents)
///
/// ```
/// use gte_core::{Embeddings, similarity};
///
/// let queries = Embeddings::from_unit_rows(vec![1.0, 0.0], 2)?;
/// let documents = Embeddings::from_unit_rows(vec![0.0, 1.0, 0.6, 0.8], 2)?;
/// assert_eq!(similarity::scores(&queries, &documents)?.as_slice(), Some(&[0.0, 0.6][..]));
/// # Ok::<(), gte_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Dimensions`].
pub fn scores(queries: &Embeddings, documents: &Embeddings) -> Result<Array2<f32>> {
    same(queries.dim(), documents.dim())?;
    let (dim, dot) = (queries.dim(), Kernels::best().dot);
    let mut scores = Array2::zeros((queries.len(), documents.len()));
    if let Some(values) = scores.as_slice_mut().filter(|values| !values.is_empty()) {
        values.par_chunks_mut(documents.len()).zip(queries.as_slice().par_chunks(dim)).for_each(|(row, query)| {
            // Rows are split into parts, so that all threads have work even with a single query.
            row.par_chunks_mut(PART).zip(documents.as_slice().par_chunks(PART * dim)).for_each(
                |(scores, documents)| {
                    let documents = documents.chunks_exact(dim);
                    scores.iter_mut().zip(documents).for_each(|(score, document)| *score = dot(query, document));
                },
            );
        });
    }
    Ok(scores)
}

/// A search result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// The row's index in the corpus.
    pub index: usize,
    /// The row's dot product with the query.
    pub score: f32,
}

/// The `k` rows of `corpus` with the largest dot products with each query, best first; equal scores
/// in the order of the rows. The search is exact: every row is read once for all queries, at the
/// speed of memory for a single query, and at the speed of the dot products for many. There are
/// fewer hits if the corpus has fewer rows.
///
/// Both arguments are (rows × dim) with contiguous rows, as [`Embeddings::view`] returns them. A
/// NaN score comes last.
///
/// ```
/// use gte_core::{Embedder, similarity};
///
/// let embedder = Embedder::bundled()?;
/// let corpus = embedder.embed(&["七天之内可以退货。", "今天天气真好。", "发票在订单里下载。"])?;
/// let query = embedder.embed(&["怎么退货？"])?;
/// let hits = similarity::top_k(query.view(), corpus.view(), 2)?;
/// assert_eq!((hits[0].len(), hits[0][0].index), (2, 0));
/// # Ok::<(), gte_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Dimensions`] for different dimensions, [`Error::InvalidOption`] for rows that are not
/// contiguous.
pub fn top_k(queries: ArrayView2<'_, f32>, corpus: ArrayView2<'_, f32>, k: usize) -> Result<Vec<Vec<Hit>>> {
    same(queries.ncols(), corpus.ncols())?;
    for (option, view) in [("queries", &queries), ("corpus", &corpus)] {
        if !view.is_empty() && view.ncols() > 1 && view.strides()[1] != 1 {
            return Err(Error::InvalidOption {
                option,
                value: "a view whose rows are not contiguous".into(),
                expected: "contiguous rows".into(),
            });
        }
    }
    // The rows of a run stay in the first-level cache while all queries are compared with them.
    let run = (16 << 10) / (4 * corpus.ncols().max(1)) + 1;
    let dot = Kernels::best().dot;
    let none = || (0..queries.nrows()).map(|_| Best::new(k)).collect::<Vec<_>>();
    let best = corpus
        .axis_chunks_iter(Axis(0), run)
        .into_par_iter()
        .enumerate()
        .with_min_len(16)
        .fold(none, |mut best, (i, rows)| {
            for (query, best) in queries.rows().into_iter().zip(&mut best) {
                for (j, row) in rows.rows().into_iter().enumerate() {
                    if let (Some(query), Some(row)) = (query.to_slice(), row.to_slice()) {
                        best.offer(Hit { index: i * run + j, score: dot(query, row) });
                    }
                }
            }
            best
        })
        .reduce(none, |a, b| a.into_iter().zip(b).map(|(a, b)| a.merge(b)).collect());
    Ok(best.into_iter().map(Best::sorted).collect())
}

fn same(left: usize, right: usize) -> Result<()> {
    if left == right { Ok(()) } else { Err(Error::Dimensions { left, right }) }
}

/// Orders hits: higher score first, then lower index, NaN after everything else. −0 equals 0,
/// unlike in `total_cmp`, because kernels differ in the sign of an empty sum.
fn rank(a: &Hit, b: &Hit) -> Ordering {
    let by_score = b.score.partial_cmp(&a.score).unwrap_or_else(|| a.score.is_nan().cmp(&b.score.is_nan()));
    by_score.then(a.index.cmp(&b.index))
}

#[derive(Clone, Copy)]
struct Ranked(Hit);

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Ranked {}
impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        rank(&self.0, &other.0)
    }
}

/// The `k` best hits so far, with the worst of them on top.
struct Best {
    heap: BinaryHeap<Ranked>,
    k: usize,
}

impl Best {
    fn new(k: usize) -> Self {
        Self { heap: BinaryHeap::new(), k }
    }

    fn offer(&mut self, hit: Hit) {
        if self.heap.len() < self.k {
            self.heap.push(Ranked(hit));
        } else if let Some(mut worst) = self.heap.peek_mut()
            && Ranked(hit) < *worst
        {
            *worst = Ranked(hit);
        }
    }

    fn merge(mut self, other: Self) -> Self {
        other.heap.into_iter().for_each(|Ranked(hit)| self.offer(hit));
        self
    }

    fn sorted(self) -> Vec<Hit> {
        let mut hits: Vec<Reverse<Ranked>> = self.heap.into_iter().map(Reverse).collect();
        hits.sort_unstable_by(|a, b| b.cmp(a));
        hits.into_iter().map(|Reverse(Ranked(hit))| hit).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cosine_of_known_vectors() {
        assert_eq!(cosine(&[3.0, 0.0], &[0.0, 2.0]).unwrap(), 0.0);
        assert_eq!(cosine(&[3.0, 4.0], &[6.0, 8.0]).unwrap(), 1.0);
        assert_eq!(cosine(&[1.0, 0.0], &[-2.0, 0.0]).unwrap(), -1.0);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]).unwrap(), 0.0);
        assert!(matches!(cosine(&[1.0], &[1.0, 2.0]), Err(Error::Dimensions { left: 1, right: 2 })));
    }

    #[test]
    fn ties_go_to_the_lower_row_and_nan_comes_last() {
        let corpus = Array2::from_shape_vec((5, 1), vec![1.0, f32::NAN, 2.0, 1.0, 2.0]).unwrap();
        let query = Array2::from_elem((1, 1), 1.0);
        let hits = &top_k(query.view(), corpus.view(), 9).unwrap()[0];
        assert_eq!(hits.iter().map(|h| h.index).collect::<Vec<_>>(), [2, 4, 0, 3, 1]);
        assert!(top_k(query.view(), corpus.view(), 0).unwrap()[0].is_empty());
        assert!(top_k(query.view(), Array2::zeros((2, 3)).view(), 1).is_err());
        assert!(top_k(query.view(), Array2::zeros((0, 1)).view(), 1).unwrap()[0].is_empty());
    }

    #[test]
    fn minus_zero_is_no_worse_than_zero() {
        let mut best = Best::new(2);
        [-0.0, 0.0, -0.0].into_iter().enumerate().for_each(|(index, score)| best.offer(Hit { index, score }));
        assert_eq!(best.sorted().iter().map(|h| h.index).collect::<Vec<_>>(), [0, 1]);
    }

    proptest! {
        #[test]
        fn top_k_is_the_head_of_the_sorted_scores(n in 0usize..3000, m in 1usize..4, k in 0usize..20, seed: u32) {
            let value = |i: usize| ((i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 28) as f32 - 7.5;
            let corpus = Array2::from_shape_fn((n, 5), |(i, j)| value(i * 5 + j));
            let queries = Array2::from_shape_fn((m, 5), |(i, j)| value(i * 7 + j * 3 + 1));
            let found = top_k(queries.view(), corpus.view(), k).unwrap();
            for (query, found) in queries.rows().into_iter().zip(found) {
                let mut all: Vec<(f32, usize)> = corpus.rows().into_iter().enumerate().map(|(i, row)| (row.dot(&query), i)).collect();
                all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                // Products of small half-integers are exact in f32, in any order.
                prop_assert_eq!(found.iter().map(|h| (h.score, h.index)).collect::<Vec<_>>(), all.into_iter().take(k).collect::<Vec<_>>());
            }
        }
    }
}
