//! The embedding tables. Rows are gathered from them, so they stay as the checkpoint stores them:
//! in f32 they would be the largest part of a small model. If linear layers compute in low
//! precision, a table in f32 is kept in f16, which loses less than any of the layers and saves half
//! of the memory of a multilingual model.

use super::Norm;
use crate::batch::Texts;
use crate::error::Result;
use crate::kernels::{Aligned, Kernels};
use crate::models::{Architecture, PositionRule};
use crate::weights::{Tensor, Weights};

/// The embedding tables and their norm.
pub(crate) struct Embedding {
    words: Tensor,             // (vocab × hidden)
    positions: Option<Tensor>, // (positions × hidden)
    types: Vec<f32>,           // (token types × hidden), the task added; or empty
    rule: Option<PositionRule>,
    norm: Option<Norm>,
    width: usize,
}

impl Embedding {
    /// Reads the tables. With `half`, those in f32 become f16.
    pub(super) fn load(weights: &Weights, architecture: &Architecture, half: bool) -> Result<Self> {
        let names = weights.spelling();
        let table = |name: &str| weights.read_table(&format!("{name}.weight"), half);
        let (spec, name) = (&architecture.norm, names.embedding_norm);
        let norm = || Norm::load(weights, name, spec.kind, spec.eps, spec.bias);
        Ok(Self {
            words: table(names.words)?,
            positions: architecture.positions.map(|_| table(names.positions)).transpose()?,
            types: weights.read_types(architecture)?.map(Tensor::into_f32).unwrap_or_default(),
            rule: architecture.positions.map(|(_, rule)| rule),
            norm: architecture.embedding_norm.then(norm).transpose()?,
            width: architecture.hidden,
        })
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Writes the embedding of token `token` of `texts` to `row`: norm(word + (position + type)).
    pub(super) fn row(
        &self,
        kernels: &Kernels,
        texts: Texts<'_>,
        token: usize,
        row: &mut [f32],
        scratch: &mut Aligned<f32>,
    ) {
        self.words.row_into(texts.ids()[token] as usize, row);
        let scratch = scratch.at_least(self.width);
        let mut types = self.types.chunks_exact(self.width);
        let first = types.clone().next();
        let of_type = types.nth(usize::from(texts.type_of(token))).or(first);
        let added = match (&self.positions, of_type) {
            (Some(positions), of_type) => {
                let place = self.rule.map_or(0, |rule| texts.position(token, rule));
                positions.row_into(place, scratch);
                if let Some(of_type) = of_type {
                    scratch.iter_mut().zip(of_type).for_each(|(p, t)| *p += t);
                }
                Some(&*scratch)
            }
            (None, of_type) => of_type,
        };
        match (&self.norm, added) {
            (Some(norm), added) => norm.apply(kernels, row, added, 0),
            (None, Some(added)) => row.iter_mut().zip(added).for_each(|(x, a)| *x += a),
            (None, None) => {}
        }
    }
}
