//! Attention of a layer: norms of heads and rotary positions for queries and keys, then the kernel,
//! for one text and one key head at a time.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ndarray::s;

use super::linear::Linear;
use super::matrix::Matrix;
use super::{Cpu, Norm, Operand, Source, words_output};
use crate::batch::Texts;
use crate::error::Result;
use crate::kernels::{
    Activation, Aligned, Head, LowPrecisionHead, Mask, NumberFormat, Output, Rows, Scratch, scratch_len,
};
use crate::models::{Architecture, AttentionSpec, LayerSpec, NormKind, RopeSpec};
use crate::profile::piece;
use crate::weights::Weights;

/// How a layer computes attention.
pub(crate) struct Attention {
    spec: AttentionSpec,
    mask: Mask,
    head_norms: Option<[Norm; 2]>, // for heads of queries, and for heads of keys
    rope: Option<Arc<Rope>>,
}

/// Queries, keys and values of some tokens, side by side, with positions applied.
pub(crate) enum Projected {
    F32(Matrix<f32>),
    /// In bf16, in the layout that the bf16 attention kernel reads.
    Words(Matrix<u32>),
}

impl Projected {
    fn tokens(&self) -> usize {
        match self {
            Self::F32(x) => x.rows,
            Self::Words(x) => x.rows,
        }
    }
}

impl Attention {
    pub(super) fn load(
        weights: &Weights,
        norms: Option<[String; 2]>,
        architecture: &Architecture,
        layer: &LayerSpec,
        ropes: &Ropes,
    ) -> Result<Self> {
        let eps = architecture.norm.eps;
        let norm = |name: &String| Norm::load(weights, name, NormKind::Rms, eps, false);
        Ok(Self {
            spec: architecture.attention,
            mask: layer.mask,
            head_norms: norms.map(|[q, k]| Ok::<_, crate::error::Error>([norm(&q)?, norm(&k)?])).transpose()?,
            rope: layer.rope.map(|spec| ropes.get(spec, architecture.attention.head_dim)),
        })
    }

    /// Whether queries and keys get norms or positions.
    fn turns(&self) -> bool {
        self.head_norms.is_some() || self.rope.is_some()
    }
}

/// Computes one key head of a text, given the text's rows, the head's number, its columns of the
/// output, and scratch.
type Attend<'a> = dyn Fn(Range<usize>, usize, Output<'_>, &mut (Aligned<f32>, Scratch)) + Sync + 'a;

impl Cpu {
    /// Queries, keys and values of `x`, for texts that continue `before`.
    pub(super) fn projected(
        &self,
        x: Source<'_>,
        qkv: &Linear,
        attention: &Attention,
        texts: Texts<'_>,
        before: Option<&Projected>,
    ) -> Projected {
        let words = self.low_precision.map(|_| self.kernels.bf16_attention_of(attention.spec.head_dim));
        if let (Some(table), false) = (&words, attention.turns()) {
            let mut y = self.take_words(x.rows(), qkv.outputs, table.k_group);
            self.product(x, qkv, Activation::None, words_output(&mut y, qkv.outputs, table.k_group));
            return Projected::Words(y);
        }
        let first = before.map_or(0, Projected::tokens);
        let Some(table) = words else {
            let mut y = self.take(x.rows(), qkv.outputs);
            self.product(x, qkv, Activation::None, Output::F32(y.view_mut()));
            self.clock.attention(|| self.turn(&mut y, attention, texts, 0, first));
            return Projected::F32(y);
        };
        let mut bf16 = self.take_words(x.rows(), qkv.outputs, table.k_group);
        for (start, block) in x.blocks() {
            let mut y = self.take(block.rows(), qkv.outputs);
            self.product(block, qkv, Activation::None, Output::F32(y.view_mut()));
            self.clock.attention(|| {
                self.turn(&mut y, attention, texts, start, first);
                bf16.for_each_row_of(start..start + y.rows, |i, row| {
                    (table.words)(y.row(i - start), &mut row[crate::kernels::HEADER..]);
                });
            });
        }
        Projected::Words(bf16)
    }

    /// Applies the norms to each head of queries and keys, and rotates them by their positions;
    /// each text begins at position `first`. The rows of `y` belong to the tokens from `start` on.
    fn turn(&self, y: &mut Matrix<f32>, attention: &Attention, texts: Texts<'_>, start: usize, first: usize) {
        if !attention.turns() {
            return;
        }
        let (spec, d) = (&attention.spec, attention.spec.head_dim);
        let [queries, keys, _] = spec.widths();
        let longest = texts.ranges().map(|text| text.len()).max().unwrap_or(0);
        let angles = attention.rope.as_ref().map(|rope| rope.upto(first + longest));
        y.for_each_row(|row_number, row| {
            let token = start + row_number;
            if let Some([of_queries, of_keys]) = &attention.head_norms {
                let (q, rest) = row.split_at_mut(queries);
                q.chunks_exact_mut(d).for_each(|head| of_queries.apply(self.kernels, head, None, 0));
                let k = &mut rest[..keys];
                k.chunks_exact_mut(d).for_each(|head| of_keys.apply(self.kernels, head, None, 0));
            }
            if let Some(angles) = &angles {
                let (cos, sin) = angles.of(first + texts.index(token));
                (self.kernels.rope)(&mut row[..queries + keys], cos, sin);
            }
        });
    }

    /// What the tokens of each text gather from it and from the tokens before it.
    pub(super) fn attended(
        &self,
        projected: &Projected,
        attention: &Attention,
        texts: Texts<'_>,
        before: Option<&Projected>,
    ) -> Operand {
        let (spec, mask) = (&attention.spec, attention.mask);
        let (d, group) = (spec.head_dim, spec.heads / spec.kv_heads);
        let [width, keys, _] = spec.widths();
        // The first columns of a key head's queries, keys and values.
        let columns = |head: usize| [head * group * d, width + head * d, width + keys + head * d];
        match projected {
            Projected::F32(qkv) => {
                let mut out = self.take(qkv.rows, width);
                let before = before.map(|before| {
                    let Projected::F32(before) = before else { unreachable!("all tokens have the same form") };
                    before
                });
                self.clock.attention(|| {
                    self.attend(texts, 0, Output::F32(out.view_mut()), group * d, &|rows, head, out, (scratch, _)| {
                        let [q, k, v] = columns(head);
                        let view =
                            |from: usize, width: usize| qkv.view().slice_move(s![rows.clone(), from..from + width]);
                        let before = before.map(|x| {
                            let view = |from: usize| x.view().slice_move(s![.., from..from + d]);
                            (view(k), view(v))
                        });
                        let Output::F32(out) = out else { unreachable!("the output has the type that was passed in") };
                        let tokens = rows.len() + before.as_ref().map_or(0, |(k, _)| k.nrows());
                        let scratch = scratch.at_least(scratch_len(tokens, d, self.kernels.nr));
                        let head = Head { q: view(q, group * d), k: view(k, d), v: view(v, d), before, out, mask };
                        (self.kernels.attention)(head, scratch);
                    });
                });
                Operand::F32(out)
            }
            Projected::Words(qkv) => {
                let table = self.kernels.bf16_attention_of(d);
                let before = before.map(|before| {
                    let Projected::Words(before) = before else { unreachable!("all tokens have the same form") };
                    before
                });
                let part = |x: &'_ Matrix<u32>, row: usize, column: usize| -> (usize, usize) {
                    (row * x.stride + column / table.k_group, x.stride)
                };
                let attend = |out| {
                    self.attend(texts, 0, out, group * d, &|rows: Range<usize>, head, out, (_, scratch)| {
                        let [q, k, v] = columns(head);
                        let of = |column: usize| {
                            let (from, stride) = part(qkv, rows.start, column);
                            Rows { data: &qkv.data[from..], stride }
                        };
                        let before = before.map(|x| {
                            let of = |column: usize| {
                                let (from, stride) = part(x, 0, column);
                                Rows { data: &x.data[from..], stride }
                            };
                            (x.rows, of(k), of(v))
                        });
                        let (tokens, q, k, v) = (rows.len(), of(q), of(k), of(v));
                        (table.compute)(LowPrecisionHead { tokens, d, group, q, k, v, before, out, mask }, scratch);
                    });
                };
                // The input of a bf16 matrix multiplication is stored as such. (With an odd head
                // width, a head would begin in the middle of a word.)
                match self.low_precision {
                    Some(low_precision)
                        if low_precision.format == NumberFormat::Bf16 && d.is_multiple_of(low_precision.k_group) =>
                    {
                        let mut out = self.take_words(qkv.rows, width, low_precision.k_group);
                        self.clock.attention(|| attend(words_output(&mut out, width, low_precision.k_group)));
                        Operand::Words(out)
                    }
                    _ => {
                        let mut out = self.take(qkv.rows, width);
                        self.clock.attention(|| attend(Output::F32(out.view_mut())));
                        Operand::F32(out)
                    }
                }
            }
        }
    }

    /// Attention of `texts`, whose rows are those of `out`, beginning with row `row`. Splits the
    /// texts in halves that run in parallel, down to single texts, and then splits these into key
    /// heads with `columns` columns of the output each.
    fn attend(&self, texts: Texts<'_>, row: usize, mut out: Output<'_>, columns: usize, compute: &Attend<'_>) {
        use rayon::prelude::*;
        if texts.count() > 1 {
            let half = texts.count() / 2;
            let (first, rest) = (texts.slice(0..half), texts.slice(half..texts.count()));
            let (left, right) = out.split_at(first.tokens());
            rayon::join(
                || self.attend(first, row, left, columns, compute),
                || self.attend(rest, row + first.tokens(), right, columns, compute),
            );
            return;
        }
        out.pieces(columns).for_each(|(head, out)| {
            piece(|| compute(row..row + texts.tokens(), head, out, &mut self.own_scratch()));
        });
    }
}

/// The tables of rotary positions, which layers share.
#[derive(Default)]
pub(super) struct Ropes(Mutex<Vec<(RopeSpec, usize, Arc<Rope>)>>);

impl Ropes {
    fn get(&self, spec: RopeSpec, d: usize) -> Arc<Rope> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, rope)) = all.iter().find(|(s, width, _)| *s == spec && *width == d) {
            return rope.clone();
        }
        let rope = Arc::new(Rope { spec, d, angles: RwLock::default() });
        all.push((spec, d, rope.clone()));
        rope
    }
}

/// Cosines and sines by position, for as many positions as texts have needed so far.
pub(super) struct Rope {
    spec: RopeSpec,
    d: usize,
    angles: RwLock<Arc<Angles>>,
}

/// (positions × d / 2) each.
#[derive(Default)]
struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl Angles {
    fn of(&self, position: usize) -> (&[f32], &[f32]) {
        let row = position * self.half..(position + 1) * self.half;
        (&self.cos[row.clone()], &self.sin[row])
    }
}

impl Rope {
    /// The angles of at least the first `positions` positions.
    fn upto(&self, positions: usize) -> Arc<Angles> {
        let now = self.angles.read().unwrap_or_else(PoisonError::into_inner).clone();
        if now.cos.len() >= positions * (self.d / 2) && now.half > 0 {
            return now;
        }
        let made = Arc::new(self.made(positions.next_power_of_two().max(512)));
        let mut angles = self.angles.write().unwrap_or_else(PoisonError::into_inner);
        if angles.cos.len() < made.cos.len() {
            *angles = made.clone();
        }
        made
    }

    /// In f64. In f32, as transformers computes them, the angles at position 8,000 are wrong by up
    /// to 5e-4, and the vectors of ModernBERT by 1e-6.
    fn made(&self, positions: usize) -> Angles {
        let half = self.d / 2;
        let frequencies: Vec<f64> = (0..half).map(|i| self.spec.frequency(i, self.d)).collect();
        let mut angles = Angles { cos: Vec::new(), sin: Vec::new(), half };
        for position in 0..positions {
            for frequency in &frequencies {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                angles.cos.push(cos as f32);
                angles.sin.push(sin as f32);
            }
        }
        angles
    }
}
