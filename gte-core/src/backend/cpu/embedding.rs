//! The tables of embeddings: words as the checkpoint stores them, positions and token types in f32.

use super::Norm;
use crate::batch::Texts;
use crate::error::Result;
use crate::kernels::Kernels;
use crate::models::{Architecture, PositionRule};
use crate::weights::{Tensor, Weights};

/// The tables of embeddings with their norm.
pub(crate) struct Embedding {
    words: Tensor, // (vocab × hidden), as it is stored: in f32 it would be the largest part of a small model
    // For each token type (positions × hidden), the type's row added; (1 × hidden) without positions; none without either.
    added: Vec<Vec<f32>>,
    rule: Option<PositionRule>,
    norm: Option<Norm>,
    width: usize,
}

impl Embedding {
    pub(super) fn load(weights: &Weights, architecture: &Architecture) -> Result<Self> {
        let (names, width) = (weights.spelling(), architecture.hidden);
        let table = |name: &str| -> Result<Vec<f32>> { Ok(weights.read(&format!("{name}.weight"))?.into_f32()) };
        let positions = architecture.positions.map(|_| table(names.positions)).transpose()?;
        let types = if architecture.token_types > 0 { Some(table(names.types)?) } else { None };
        let added = match (positions, types) {
            (None, None) => Vec::new(),
            (Some(positions), None) => vec![positions],
            (None, Some(types)) => types.chunks_exact(width).map(<[f32]>::to_vec).collect(),
            (Some(positions), Some(types)) => {
                let with = |of_type: &[f32]| {
                    let mut rows = positions.clone();
                    for row in rows.chunks_exact_mut(width) {
                        row.iter_mut().zip(of_type).for_each(|(p, t)| *p += t);
                    }
                    rows
                };
                types.chunks_exact(width).map(with).collect()
            }
        };
        let (spec, name) = (&architecture.norm, names.embedding_norm);
        let norm = || Norm::load(weights, name, spec.kind, spec.eps, spec.bias);
        Ok(Self {
            words: weights.read(&format!("{}.weight", names.words))?,
            added,
            rule: architecture.positions.map(|(_, rule)| rule),
            norm: architecture.embedding_norm.then(norm).transpose()?,
            width,
        })
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Writes the embedding of token `token` of `texts` to `row`.
    pub(super) fn row(&self, kernels: &Kernels, texts: Texts<'_>, token: usize, row: &mut [f32]) {
        self.words.row_into(texts.ids()[token] as usize, row);
        let of_type = self.added.get(usize::from(texts.type_of(token))).or(self.added.first());
        let added = of_type.map(|rows| {
            let place = self.rule.map_or(0, |rule| texts.position(token, rule));
            &rows[place * self.width..][..self.width]
        });
        match (&self.norm, added) {
            (Some(norm), added) => norm.apply(kernels, row, added, 0),
            (None, Some(added)) => row.iter_mut().zip(added).for_each(|(x, a)| *x += a),
            (None, None) => {}
        }
    }
}
