//! Outputs of a model besides one vector per text: sparse weights and a vector per token, from the
//! same forward pass.

use crate::embedding::Embeddings;
use crate::error::{Error, Result};

/// The outputs that are requested, or that a model has.
///
/// ```
/// use gte_core::Outputs;
///
/// let outputs = Outputs::DENSE.with_sparse(true);
/// assert!(outputs.dense && outputs.sparse && !outputs.colbert);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Outputs {
    /// A unit vector per text.
    pub dense: bool,
    /// Weights of token ids per text.
    pub sparse: bool,
    /// A unit vector per token.
    pub colbert: bool,
    /// The hidden state of each token after the last layer.
    pub states: bool,
}

impl Outputs {
    /// Only a vector per text.
    pub const DENSE: Self = Self { dense: true, ..Self::NONE };

    /// Nothing, which is where a selection begins.
    pub const NONE: Self = Self { dense: false, sparse: false, colbert: false, states: false };

    /// The same, with or without a vector per text.
    #[must_use]
    pub const fn with_dense(self, dense: bool) -> Self {
        Self { dense, ..self }
    }

    /// The same, with or without weights of token ids.
    #[must_use]
    pub const fn with_sparse(self, sparse: bool) -> Self {
        Self { sparse, ..self }
    }

    /// The same, with or without a vector per token.
    #[must_use]
    pub const fn with_colbert(self, colbert: bool) -> Self {
        Self { colbert, ..self }
    }

    /// The same, with or without hidden states.
    #[must_use]
    pub const fn with_states(self, states: bool) -> Self {
        Self { states, ..self }
    }

    /// Whether only a vector per text is requested, which takes less work.
    pub fn dense_alone(self) -> bool {
        self == Self::DENSE
    }
}

/// The outputs of [`Engine::compute`](crate::Engine::compute) for one text. Outputs that were not
/// requested are empty.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct TextOutput {
    /// The vector as the model computes it, not scaled to unit length: (dim). For a classifier, its
    /// logits: (labels).
    pub dense: Vec<f32>,
    /// Token ids in ascending order, each with a weight above 0.
    pub sparse: Vec<(u32, f32)>,
    /// A unit vector per token except the first, row after row: (tokens − 1 × ColBERT's dim).
    pub colbert: Vec<f32>,
    /// The hidden state of each token after the last layer, row after row: (tokens × hidden).
    pub states: Vec<f32>,
}

/// Several outputs of one forward pass. Outputs that were not requested are absent.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct AllEmbeddings {
    /// A unit vector per text.
    pub dense: Option<Embeddings>,
    /// Weights of token ids per text.
    pub sparse: Option<SparseEmbeddings>,
    /// A unit vector per token.
    pub colbert: Option<MultiVectors>,
    /// The hidden state of each token, not scaled to unit length.
    pub states: Option<MultiVectors>,
}

/// Sparse vectors, one per text, as compressed rows: text `i` has the ids
/// `ids[indptr[i]..indptr[i + 1]]`, in ascending order, and one weight for each, above 0.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SparseEmbeddings {
    /// (texts + 1)
    pub indptr: Vec<usize>,
    /// Token ids.
    pub ids: Vec<u32>,
    /// One weight per token id.
    pub weights: Vec<f32>,
}

impl Default for SparseEmbeddings {
    fn default() -> Self {
        Self { indptr: vec![0], ids: Vec::new(), weights: Vec::new() }
    }
}

impl SparseEmbeddings {
    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.indptr.len() - 1
    }

    /// Whether there are no vectors.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ids and weights of vector `i`, or None if there are fewer vectors.
    pub fn get(&self, i: usize) -> Option<(&[u32], &[f32])> {
        let row = *self.indptr.get(i)?..*self.indptr.get(i + 1)?;
        Some((self.ids.get(row.clone())?, self.weights.get(row)?))
    }

    /// The sum, over the ids that vectors `i` and `j` share, of the product of both weights
    /// (`compute_lexical_matching_score` of FlagEmbedding); 0 if one of the vectors does not exist.
    pub fn dot(&self, i: usize, j: usize) -> f32 {
        let (Some((ids, weights)), Some((other_ids, other_weights))) = (self.get(i), self.get(j)) else { return 0.0 };
        let mut sum = 0.0;
        let (mut a, mut b) = (0, 0);
        while a < ids.len() && b < other_ids.len() {
            match ids[a].cmp(&other_ids[b]) {
                std::cmp::Ordering::Less => a += 1,
                std::cmp::Ordering::Greater => b += 1,
                std::cmp::Ordering::Equal => {
                    sum += weights[a] * other_weights[b];
                    (a, b) = (a + 1, b + 1);
                }
            }
        }
        sum
    }

    /// Adds a vector: ids in ascending order with their weights.
    pub(crate) fn push(&mut self, vector: impl IntoIterator<Item = (u32, f32)>) {
        for (id, weight) in vector {
            self.ids.push(id);
            self.weights.push(weight);
        }
        self.indptr.push(self.ids.len());
    }
}

/// Unit vectors of the tokens of each text (ColBERT: Khattab, Zaharia 2020, <https://arxiv.org/abs/2004.12832>).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MultiVectors {
    /// The index of the first vector of each text, followed by the number of all vectors: (texts +
    /// 1).
    pub indptr: Vec<usize>,
    /// (vectors × dim)
    pub values: Vec<f32>,
    /// Number of values per vector.
    pub dim: usize,
}

impl MultiVectors {
    /// The vectors of each text, row after row, with `dim` values each.
    pub(crate) fn of_rows<'a>(texts: impl Iterator<Item = &'a [f32]>, dim: usize) -> Self {
        let mut all = Self { indptr: vec![0], values: Vec::new(), dim };
        for rows in texts {
            all.values.extend_from_slice(rows);
            all.indptr.push(all.values.len() / dim);
        }
        all
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.indptr.len() - 1
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The vectors of text `i`, row after row, or None if there are fewer texts.
    pub fn get(&self, i: usize) -> Option<&[f32]> {
        self.values.get(*self.indptr.get(i)? * self.dim..*self.indptr.get(i + 1)? * self.dim)
    }

    /// MaxSim: the mean, over the vectors of text `query`, of the largest dot product with a vector
    /// of text `document` in `documents`; 0 if either has no vector (`colbert_score` of
    /// FlagEmbedding).
    ///
    /// # Errors
    /// [`Error::Dimensions`] if the dimensions differ.
    pub fn max_sim(&self, query: usize, documents: &Self, document: usize) -> Result<f32> {
        if self.dim != documents.dim {
            return Err(Error::Dimensions { left: self.dim, right: documents.dim });
        }
        let (Some(query), Some(document)) = (self.get(query), documents.get(document)) else { return Ok(0.0) };
        if query.is_empty() || document.is_empty() {
            return Ok(0.0);
        }
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let best = |q: &[f32]| document.chunks_exact(self.dim).map(|d| dot(q, d)).fold(f64::NEG_INFINITY, f64::max);
        let queries = query.chunks_exact(self.dim);
        let count = queries.len() as f64;
        Ok((queries.map(best).sum::<f64>() / count) as f32)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use super::*;

    #[test]
    fn sparse_vectors_meet_where_they_share_ids() {
        let mut sparse = SparseEmbeddings::default();
        sparse.push([(1, 0.5), (4, 2.0), (9, 1.0)]);
        sparse.push([(4, 0.25), (9, 3.0), (11, 1.0)]);
        sparse.push([]);
        assert_eq!((sparse.len(), sparse.dot(0, 1), sparse.dot(0, 2), sparse.dot(0, 7)), (3, 3.5, 0.0, 0.0));
        assert_eq!(sparse.get(1).unwrap().0, [4, 9, 11]);
    }

    #[test]
    fn max_sim_is_the_mean_of_the_best() {
        let texts: [&[f32]; 3] = [&[1.0, 0.0, 0.0, 1.0], &[0.6, 0.8], &[]];
        let vectors = MultiVectors::of_rows(texts.into_iter(), 2);
        assert_eq!(vectors.indptr, [0, 2, 3, 3]);
        assert!((vectors.max_sim(0, &vectors, 1).unwrap() - 0.7).abs() < 1e-6);
        assert_eq!(vectors.max_sim(0, &vectors, 2).unwrap(), 0.0);
        assert!(vectors.max_sim(0, &MultiVectors::of_rows([].into_iter(), 3), 0).is_err());
    }
}
