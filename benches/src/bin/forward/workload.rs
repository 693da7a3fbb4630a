//! A workload: token ids, or a query with documents.

use gte_core::similarity::cosine;

use crate::Result;
use crate::model::Model;

pub(crate) enum Workload {
    Tokens(Vec<Vec<u32>>),
    Rerank { query: String, documents: Vec<String> },
}

impl Workload {
    /// Parses lengths of texts, their token ids, or `{"query": …, "documents": […]}`.
    pub(crate) fn read(value: serde_json::Value, vocab: usize) -> Result<Self> {
        if let Some(query) = value.get("query").and_then(|query| query.as_str()) {
            let documents = serde_json::from_value(value["documents"].clone())?;
            return Ok(Self::Rerank { query: query.to_owned(), documents });
        }
        if let Ok(lengths) = serde_json::from_value::<Vec<usize>>(value.clone()) {
            return Ok(Self::Tokens(token_ids(&lengths, vocab)));
        }
        Ok(Self::Tokens(serde_json::from_value(value)?))
    }

    /// Number of tokens to compute.
    pub(crate) fn tokens(&self, model: &Model) -> gte_core::Result<usize> {
        match self {
            Self::Tokens(texts) => Ok(texts.iter().map(Vec::len).sum()),
            Self::Rerank { query, documents } => model.pair_tokens(query, documents),
        }
    }
}

/// Token ids for the given lengths: `[CLS]`, seeded values from the middle of the vocabulary,
/// `[SEP]`.
fn token_ids(lengths: &[usize], vocab: usize) -> Vec<Vec<u32>> {
    let mut state = 11u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (670 + (state >> 33) % (vocab as u64 - 870)) as u32
    };
    let text = |&length: &usize| {
        let mut ids: Vec<u32> = (0..length).map(|_| next()).collect();
        if let [first, .., last] = &mut ids[..] {
            (*first, *last) = (101, 102);
        }
        ids
    };
    lengths.iter().map(text).collect()
}

/// The results of a workload.
pub(crate) enum Answers {
    Vectors(gte_core::Embeddings),
    Scores(Vec<f32>),
}

impl Answers {
    /// The worst cosine between two vectors of the same text, or 1 minus the largest difference
    /// between two scores.
    pub(crate) fn agreement(&self, other: &Self) -> Result<f32> {
        match (self, other) {
            (Self::Vectors(ours), Self::Vectors(theirs)) => {
                let cosines = ours.rows().zip(theirs.rows()).map(|(a, b)| cosine(a, b));
                Ok(cosines.collect::<gte_core::Result<Vec<_>>>()?.into_iter().fold(1.0, f32::min))
            }
            (Self::Scores(ours), Self::Scores(theirs)) => {
                let apart = |(a, b): (&f32, &f32)| (probability(*a) - probability(*b)).abs();
                Ok(1.0 - ours.iter().zip(theirs).map(apart).fold(0.0, f32::max))
            }
            _ => Err("vectors cannot be compared with scores".into()),
        }
    }

    /// As JSON: one row per text.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Vectors(vectors) => vectors.rows().collect::<Vec<_>>().into(),
            Self::Scores(scores) => scores.iter().map(|score| [*score]).collect::<Vec<_>>().into(),
        }
    }
}

/// 1 / (1 + e⁻ˣ)
fn probability(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}
