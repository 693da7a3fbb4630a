//! What follows the encoder: dense layers after pooling, classifiers, and the layers of sparse and
//! multi-vector models. They run where the encoder runs, in f32.

use std::collections::BTreeMap;

use crate::backend::Backend;
use crate::dense::Dense;
use crate::error::Result;
use crate::models::{Architecture, ClassifierSpec, HeadActivation};
use crate::weights::Weights;

/// The layers after the encoder, as a checkpoint has them.
#[derive(Default)]
pub(crate) struct HeadLayers {
    /// Those of the pooled hidden state, in order.
    pub(crate) pooled: Vec<PooledLayer>,
    /// Computes the weight of each token: `sparse_linear` of bge-m3 (`m3/modeling.py` of
    /// FlagEmbedding), or the token classifier of gte-multilingual (`scripts/gte_embedding.py`).
    pub(crate) sparse: Option<Dense>,
    /// Computes a unit vector per token.
    pub(crate) colbert: Option<Dense>,
}

/// A layer after pooling.
pub(crate) enum PooledLayer {
    Dense(Dense),
    /// The norm of this name.
    Norm(&'static str),
}

impl HeadLayers {
    /// The classifier of a checkpoint.
    pub(crate) fn classifier(weights: &Weights, spec: &ClassifierSpec) -> Result<Self> {
        let names = weights.spelling();
        let mut pooled = Vec::new();
        if let Some((activation, bias)) = spec.dense {
            pooled.push(PooledLayer::Dense(Dense::load(weights, names.head_dense, bias, activation)?));
        }
        pooled.extend(spec.norm.then_some(PooledLayer::Norm(names.head_norm)));
        let out = Dense::load(weights, names.head_out, spec.out_bias, HeadActivation::Identity)?;
        pooled.push(PooledLayer::Dense(out));
        Ok(Self { pooled, ..Self::default() })
    }

    /// The difference between the logits of yes and no at the end of a language model: one dot
    /// product with the difference of two rows of its output layer, without the logits of the other
    /// tokens.
    pub(crate) fn yes_no(weights: &Weights, tied: bool, yes: u32, no: Option<u32>) -> Result<Self> {
        let names = weights.spelling();
        let table = format!("{}.weight", if tied { names.words } else { names.language });
        let mut difference = weights.read_row(&table, yes as usize)?;
        if let Some(no) = no {
            let no = weights.read_row(&table, no as usize)?;
            difference.iter_mut().zip(no).for_each(|(yes, no)| *yes -= no);
        }
        Ok(Self { pooled: vec![PooledLayer::Dense(Dense::of_row(difference))], ..Self::default() })
    }

    /// The number of values that become of a pooled hidden state of `hidden` values.
    pub(crate) fn width(&self, hidden: usize) -> usize {
        let outputs = |layer: &PooledLayer| match layer {
            PooledLayer::Dense(dense) => Some(dense.outputs()),
            PooledLayer::Norm(_) => None,
        };
        self.pooled.iter().rev().find_map(outputs).unwrap_or(hidden)
    }
}

/// The layers after the encoder, on the device of `B`.
pub(crate) struct Heads<B: Backend> {
    pooled: Vec<Step<B>>,
    /// Its output is (tokens × 1).
    pub(crate) sparse: Option<B::Dense>,
    /// Its output is (tokens × ColBERT's dim).
    pub(crate) colbert: Option<B::Dense>,
}

enum Step<B: Backend> {
    Dense(B::Dense),
    Norm(B::Norm),
}

impl<B: Backend> Default for Heads<B> {
    fn default() -> Self {
        Self { pooled: Vec::new(), sparse: None, colbert: None }
    }
}

impl<B: Backend> Heads<B> {
    pub(crate) fn load(
        backend: &B,
        weights: &Weights,
        architecture: &Architecture,
        layers: HeadLayers,
    ) -> Result<Self> {
        let step = |layer| match layer {
            PooledLayer::Dense(dense) => backend.load_dense(dense).map(Step::Dense),
            PooledLayer::Norm(name) => backend.load_norm(weights, name, &architecture.norm).map(Step::Norm),
        };
        Ok(Self {
            pooled: layers.pooled.into_iter().map(step).collect::<Result<_>>()?,
            sparse: layers.sparse.map(|dense| backend.load_dense(dense)).transpose()?,
            colbert: layers.colbert.map(|dense| backend.load_dense(dense)).transpose()?,
        })
    }

    /// Applies the layers after pooling: (texts × hidden) becomes (texts × width).
    pub(crate) fn of_pooled(&self, backend: &B, mut x: B::Hidden) -> Result<B::Hidden> {
        for step in &self.pooled {
            match step {
                Step::Dense(dense) => x = backend.dense(&x, dense)?,
                Step::Norm(norm) => backend.norm(&mut x, norm)?,
            }
        }
        Ok(x)
    }
}

/// The largest weight of each token id of a text, in the order of ids. Tokens in `ignored` and
/// weights of 0 do not count.
pub(crate) fn largest_weights(ids: &[u32], weights: &[f32], ignored: &[u32]) -> Vec<(u32, f32)> {
    let mut largest = BTreeMap::new();
    for (&id, &weight) in ids.iter().zip(weights) {
        if weight > 0.0 && !ignored.contains(&id) {
            let of_id: &mut f32 = largest.entry(id).or_insert(0.0);
            *of_id = of_id.max(weight);
        }
    }
    largest.into_iter().collect()
}
