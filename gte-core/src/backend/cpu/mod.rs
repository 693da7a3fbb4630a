//! Implements `Backend` with our own kernels. Packed weights are shared. Hidden states come from a
//! store of buffers and are returned to it, so that a batch no larger than an earlier one allocates
//! nothing.

mod attention;
mod embedding;
mod linear;
mod matrix;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ndarray::s;
use rayon::prelude::*;

use self::attention::{Attention, Projected, Ropes};
use self::embedding::Embedding;
use self::linear::{Linear, Weight};
use self::matrix::{Block, Buffers, Matrix};
use super::{Backend, Token, pool_rows};
use crate::batch::Texts;
use crate::dense::Dense;
use crate::error::Result;
use crate::kernels::{
    Activation, Aligned, Arena, Gemm, HEADER, Kernels, LowPrecision, LowPrecisionGemm, NumberFormat, Output, Rows,
    Scratch,
};
use crate::models::{Architecture, Gate, LayerSpec, MlpSpec, NormKind, NormSpec, Pooling};
use crate::profile::{self, Clock, Profile};
use crate::weights::Weights;

/// Number of tokens that a thread computes on its own, if there are as many for each thread. So few
/// that hidden states stay in its second-level cache from one operation to the next, and so many
/// that every weight is used often after it has been read.
const PART: usize = 128;

/// Maximum number of tokens of one text whose widest states are in memory at the same time: those
/// between the layers of an MLP, and queries, keys and values before rounding. A text of 8,192
/// tokens then needs tens of megabytes instead of hundreds.
const BLOCK: usize = 512;

/// The CPU as a device. Its operations run on the current rayon pool.
pub(crate) struct Cpu {
    kernels: &'static Kernels,
    low_precision: Option<&'static LowPrecision>, // kernels for linear layers, if these are not in f32
    buffers: Arc<Buffers<f32>>,
    words: Arc<Buffers<u32>>, // operands in low precision
    clock: Clock,
    weights: Arena, // of linear layers
    ropes: Ropes,
    measuring: bool,
    // One per thread of the pool: for a row or for attention in f32, and for attention in bf16.
    scratch: Vec<Mutex<(Aligned<f32>, Scratch)>>,
}

/// The input of a matrix multiplication.
pub(crate) enum Operand {
    /// (tokens × width)
    F32(Matrix<f32>),
    /// Each row has a header and words, in the layout that the next matrix multiplication reads.
    Words(Matrix<u32>),
}

/// Rows of an [`Operand`], or of a hidden state that will be converted to one.
#[derive(Clone, Copy)]
enum Source<'a> {
    F32(Block<'a, f32>),
    Words(Block<'a, u32>),
}

impl Operand {
    fn source(&self) -> Source<'_> {
        match self {
            Self::F32(x) => Source::F32(x.all()),
            Self::Words(x) => Source::Words(x.all()),
        }
    }
}

impl Source<'_> {
    fn rows(self) -> usize {
        match self {
            Self::F32(x) => x.rows,
            Self::Words(x) => x.rows,
        }
    }

    /// Its rows in blocks of at most [`BLOCK`], each with the number of its first row.
    fn blocks(self) -> impl Iterator<Item = (usize, Self)> {
        blocks(self.rows()).map(move |(first, rows)| {
            let block = match self {
                Self::F32(x) => Self::F32(x.rows(first, rows)),
                Self::Words(x) => Self::Words(x.rows(first, rows)),
            };
            (first, block)
        })
    }
}

/// The first row and the number of rows of each block of `rows` rows.
fn blocks(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).step_by(BLOCK).map(move |first| (first, BLOCK.min(rows - first)))
}

/// The weights of a norm.
pub(crate) struct Norm {
    kind: NormKind,
    gamma: Vec<f32>, // (width)
    beta: Vec<f32>,  // (width), or empty
    eps: f32,
}

impl Norm {
    fn load(weights: &Weights, name: &str, kind: NormKind, eps: f32, bias: bool) -> Result<Self> {
        let read = |part: &str| -> Result<Vec<f32>> { Ok(weights.read(&format!("{name}.{part}"))?.into_f32()) };
        Ok(Self { kind, gamma: read("weight")?, beta: if bias { read("bias")? } else { Vec::new() }, eps })
    }

    /// x ← norm(x + residual). Meanwhile prefetches the values that lie `ahead` values behind both:
    /// the next row.
    fn apply(&self, kernels: &Kernels, x: &mut [f32], residual: Option<&[f32]>, ahead: usize) {
        match self.kind {
            NormKind::Layer => (kernels.add_norm)(x, residual, &self.gamma, &self.beta, self.eps, ahead),
            NormKind::Rms => (kernels.rms_norm)(x, residual, &self.gamma, self.eps),
        }
    }
}

impl Cpu {
    /// A device that computes with `kernels`, and linear layers in `format` if not in f32, on pools
    /// of up to `threads` threads.
    pub(crate) fn new(kernels: &'static Kernels, format: Option<NumberFormat>, threads: usize) -> Self {
        Self {
            kernels,
            low_precision: format.map(|format| kernels.low_precision(format)),
            buffers: Arc::default(),
            words: Arc::default(),
            clock: Clock::default(),
            weights: Arena::default(),
            ropes: Ropes::default(),
            measuring: false,
            scratch: (0..threads).map(|_| Mutex::default()).collect(),
        }
    }

    /// The same device, but with linear layers in f32 that record how large their inputs are.
    pub(crate) fn measuring(self) -> Self {
        Self { measuring: true, ..self }
    }

    /// A hidden state with arbitrary content.
    fn take(&self, rows: usize, columns: usize) -> Matrix<f32> {
        Buffers::matrix(&self.buffers, rows, columns)
    }

    /// Rows with arbitrary content for `columns` values, `k_group` per word.
    fn take_words(&self, rows: usize, columns: usize, k_group: usize) -> Matrix<u32> {
        Buffers::matrix(&self.words, rows, HEADER + columns.div_ceil(k_group))
    }

    /// This thread's own scratch memory. While it is in use, its user must not call anything that
    /// runs on the pool, because the thread could then take up other work that needs it too.
    fn own_scratch(&self) -> MutexGuard<'_, (Aligned<f32>, Scratch)> {
        let thread = rayon::current_thread_index().unwrap_or(0);
        self.scratch[thread].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// y ← activation(x · weight + bias)
    fn product(&self, x: Source<'_>, layer: &Linear, activation: Activation, y: Output<'_>) {
        let (inputs, outputs) = (layer.inputs(), layer.outputs);
        let bias_of = |from: usize, columns: usize| layer.bias.get(from..from + columns).unwrap_or(&[]);
        self.clock.products(x.rows() * inputs * outputs, || match (&layer.weight, x) {
            (Weight::F32(weight), Source::F32(x)) => {
                layer.observe(x);
                let (a, b) = (x.view(), weight.panels());
                for_each_piece(y, b.nr, |first_panel, c| {
                    let Output::F32(c) = c else { unreachable!("an f32 matrix multiplication gives f32") };
                    let bias = bias_of(first_panel * b.nr, c.ncols());
                    (self.kernels.matmul)(Gemm { a, b, first_panel, c, bias, activation });
                });
            }
            (Weight::F32(_), Source::Words(_)) => unreachable!("operands and weights have the same precision"),
            (Weight::LowPrecision { low_precision, weight: b, .. }, x) => {
                let encoded;
                let a = match x {
                    Source::Words(words) => words,
                    Source::F32(x) => {
                        encoded = self.encoded(x, layer, low_precision, None);
                        encoded.all()
                    }
                };
                let (a, b) = (Rows { data: a.data(), stride: a.stride() }, b.panels());
                for_each_piece(y, low_precision.nr, |first_panel, c| {
                    let bias = bias_of(first_panel * low_precision.nr, c.dim().1);
                    (low_precision.matmul)(LowPrecisionGemm { a, b, first_panel, c, bias, activation });
                });
            }
        });
    }

    /// The rows of norm(x), in the form that `layer` reads.
    fn encoded(
        &self,
        x: Block<'_, f32>,
        layer: &Linear,
        low_precision: &LowPrecision,
        norm: Option<&Norm>,
    ) -> Matrix<u32> {
        let Weight::LowPrecision { smoothing, .. } = &layer.weight else {
            unreachable!("all layers have the same format")
        };
        let columns = x.columns();
        let mut words = self.take_words(x.rows, columns, low_precision.k_group);
        match norm {
            None => words.for_each_row(|i, row| (low_precision.encode)(x.row(i), smoothing, row, x.stride())),
            Some(norm) => words.for_each_row(|i, row| {
                let mut scratch = self.own_scratch();
                let values = scratch.0.at_least(columns);
                values.copy_from_slice(x.row(i));
                norm.apply(self.kernels, values, None, 0);
                (low_precision.encode)(values, smoothing, row, 0);
            }),
        }
        words
    }

    /// norm(x) in the form that `layer` reads, or None if that is x itself.
    fn operand(&self, x: Block<'_, f32>, norm: Option<&Norm>, layer: &Linear) -> Option<Operand> {
        let norm = norm?;
        Some(self.clock.rest(|| match self.low_precision {
            Some(low_precision) => Operand::Words(self.encoded(x, layer, low_precision, Some(norm))),
            None => {
                let mut y = self.take(x.rows, x.columns());
                y.for_each_row(|i, row| {
                    row.copy_from_slice(x.row(i));
                    norm.apply(self.kernels, row, None, 0);
                });
                Operand::F32(y)
            }
        }))
    }

    /// The rows of `x` from `first` on become norm(y · weight + bias + x), where `y` has a row for
    /// each of them.
    fn add_product(&self, y: Source<'_>, layer: &Linear, x: &mut Matrix<f32>, first: usize, norm: Option<&Norm>) {
        let mut added = self.take(y.rows(), layer.outputs);
        self.product(y, layer, Activation::None, Output::F32(added.view_mut()));
        self.clock.rest(|| {
            x.for_each_row_of(first..first + added.rows, |i, row| {
                let added_row = added.row(i - first);
                match norm {
                    Some(norm) => norm.apply(self.kernels, row, Some(added_row), added.stride),
                    None => row.iter_mut().zip(added_row).for_each(|(x, a)| *x += a),
                }
            })
        });
    }

    /// activation(up(x)) in the form that `down` reads.
    fn inner(&self, x: Source<'_>, up: &Linear, down: &Linear, spec: &MlpSpec) -> Operand {
        let columns = spec.inner;
        if spec.gate == Gate::None {
            return match self.low_precision {
                Some(low_precision) if low_precision.format == NumberFormat::Bf16 => {
                    let mut inner = self.take_words(x.rows(), columns, low_precision.k_group);
                    self.product(x, up, spec.activation, words_output(&mut inner, columns, low_precision.k_group));
                    Operand::Words(inner)
                }
                _ => {
                    let mut inner = self.take(x.rows(), columns);
                    self.product(x, up, spec.activation, Output::F32(inner.view_mut()));
                    Operand::F32(inner)
                }
            };
        }
        let mut both = self.take(x.rows(), 2 * columns);
        self.product(x, up, Activation::None, Output::F32(both.view_mut()));
        let (a, b) = if spec.gate == Gate::First { (0, columns) } else { (columns, 0) };
        match (self.low_precision, &down.weight) {
            (Some(low_precision), Weight::LowPrecision { smoothing, .. }) => {
                let mut inner = self.take_words(x.rows(), columns, low_precision.k_group);
                self.clock.rest(|| {
                    inner.for_each_row(|i, words| {
                        let mut scratch = self.own_scratch();
                        let (row, values) = (both.row(i), scratch.0.at_least(columns));
                        values.copy_from_slice(&row[a..a + columns]);
                        (self.kernels.gate)(values, &row[b..b + columns], spec.activation);
                        (low_precision.encode)(values, smoothing, words, 0);
                    });
                });
                Operand::Words(inner)
            }
            _ => {
                self.clock.rest(|| {
                    both.for_each_row(|_, row| {
                        let (first, second) = row.split_at_mut(columns);
                        if spec.gate == Gate::First {
                            (self.kernels.gate)(first, second, spec.activation);
                        } else {
                            (self.kernels.gate)(second, first, spec.activation);
                            first.copy_from_slice(second);
                        }
                    });
                });
                both.columns = columns;
                Operand::F32(both)
            }
        }
    }
}

impl Backend for Cpu {
    type Hidden = Matrix<f32>;
    type Operand = Operand;
    type Projected = Projected;
    type Embedding = Embedding;
    type Linear = Linear;
    type Norm = Norm;
    type Attention = Attention;
    type Dense = Dense;

    fn load_embedding(&self, weights: &Weights, architecture: &Architecture) -> Result<Embedding> {
        Embedding::load(weights, architecture, self.low_precision.is_some())
    }

    fn load_linear(&self, weights: &Weights, names: &[String], bias: bool) -> Result<Linear> {
        Linear::load(weights, names, bias, self.kernels, self.low_precision, self.measuring, &self.weights)
    }

    fn load_norm(&self, weights: &Weights, name: &str, spec: &NormSpec) -> Result<Norm> {
        Norm::load(weights, name, spec.kind, spec.eps, spec.bias)
    }

    fn load_attention(
        &self,
        weights: &Weights,
        norms: Option<[String; 2]>,
        architecture: &Architecture,
        layer: &LayerSpec,
    ) -> Result<Attention> {
        Attention::load(weights, norms, architecture, layer, &self.ropes)
    }

    fn load_dense(&self, layer: Dense) -> Result<Dense> {
        Ok(layer)
    }

    fn embed(&self, texts: Texts<'_>, tables: &Embedding) -> Result<Matrix<f32>> {
        let mut x = self.take(texts.tokens(), tables.width());
        self.clock.rest(|| {
            x.for_each_row(|token, row| {
                tables.row(self.kernels, texts, token, row, &mut self.own_scratch().0);
            });
        });
        Ok(x)
    }

    fn attention(
        &self,
        x: &Matrix<f32>,
        norm: Option<&Norm>,
        qkv: &Linear,
        attention: &Attention,
        texts: Texts<'_>,
        before: Option<&Projected>,
    ) -> Result<(Operand, Projected)> {
        let normed = self.operand(x.all(), norm, qkv);
        let source = normed.as_ref().map_or(Source::F32(x.all()), Operand::source);
        let projected = self.projected(source, qkv, attention, texts, before);
        Ok((self.attended(&projected, attention, texts, before), projected))
    }

    fn project_add_norm(
        &self,
        operand: &Operand,
        layer: &Linear,
        x: &mut Matrix<f32>,
        norm: Option<&Norm>,
    ) -> Result<()> {
        for (first, block) in operand.source().blocks() {
            self.add_product(block, layer, x, first, norm);
        }
        Ok(())
    }

    fn mlp_add_norm(
        &self,
        x: &mut Matrix<f32>,
        [before, after]: [Option<&Norm>; 2],
        up: &Linear,
        down: &Linear,
        spec: &MlpSpec,
    ) -> Result<()> {
        for (first, rows) in blocks(x.rows) {
            let block = x.all().rows(first, rows);
            let normed = self.operand(block, before, up);
            let inner = self.inner(normed.as_ref().map_or(Source::F32(block), Operand::source), up, down, spec);
            drop(normed);
            self.add_product(inner.source(), down, x, first, after);
        }
        Ok(())
    }

    fn norm(&self, x: &mut Matrix<f32>, norm: &Norm) -> Result<()> {
        self.clock.rest(|| x.for_each_row(|_, row| norm.apply(self.kernels, row, None, 0)));
        Ok(())
    }

    fn pool(&self, parts: &[(Matrix<f32>, Texts<'_>)], pooling: Pooling) -> Result<Matrix<f32>> {
        let count = parts.iter().map(|(_, texts)| texts.count()).sum();
        let mut pooled = self.take(count, parts.first().map_or(0, |(x, _)| x.columns));
        self.clock.rest(|| {
            pooled.for_each_row(|text, row| {
                let (x, texts, text) = part_of_text(parts, text);
                pool_rows(|token| x.row(token), texts.range(text), texts.unpooled(text), pooling, row);
            });
        });
        Ok(pooled)
    }

    fn dense(&self, x: &Matrix<f32>, layer: &Dense) -> Result<Matrix<f32>> {
        let mut y = self.take(x.rows, layer.outputs());
        self.clock.rest(|| y.for_each_row(|i, row| layer.apply(self.kernels, x.row(i), row)));
        Ok(y)
    }

    fn pick(&self, parts: &[(Operand, Texts<'_>)], token: Token) -> Result<Operand> {
        let count = parts.iter().map(|(_, texts)| texts.count()).sum();
        Ok(match parts.first() {
            Some((Operand::Words(first), _)) => {
                let mut picked = Buffers::matrix(&self.words, count, first.columns);
                picked.for_each_row(|text, row| {
                    let (x, texts, text) = part_of_text(parts, text);
                    if let Operand::Words(x) = x {
                        row.copy_from_slice(x.row(token.place(&texts.range(text), texts.unpooled(text))));
                    }
                });
                Operand::Words(picked)
            }
            first => {
                let columns = first.map_or(0, |(x, _)| if let Operand::F32(x) = x { x.columns } else { 0 });
                let mut picked = self.take(count, columns);
                picked.for_each_row(|text, row| {
                    let (x, texts, text) = part_of_text(parts, text);
                    if let Operand::F32(x) = x {
                        row.copy_from_slice(x.row(token.place(&texts.range(text), texts.unpooled(text))));
                    }
                });
                Operand::F32(picked)
            }
        })
    }

    fn part(&self, tokens: usize) -> usize {
        if tokens >= PART * profile::threads() { PART } else { tokens }
    }

    fn profile(&self) -> Profile {
        self.clock.profile()
    }

    fn read(&self, x: &Matrix<f32>, out: &mut [f32]) -> Result<()> {
        for (i, out) in out.chunks_exact_mut(x.columns.max(1)).enumerate() {
            out.copy_from_slice(x.row(i));
        }
        Ok(())
    }
}

/// The part that contains text `text`, the part's texts, and the text's number within the part.
fn part_of_text<'a, 'b, T>(parts: &'a [(T, Texts<'b>)], mut text: usize) -> (&'a T, Texts<'b>, usize) {
    for (x, texts) in parts {
        if text < texts.count() {
            return (x, *texts, text);
        }
        text -= texts.count();
    }
    unreachable!("callers stay below the number of texts")
}

/// A view of words as bf16 values: `columns` per row, `k_group` per word.
fn words_output(y: &mut Matrix<u32>, columns: usize, k_group: usize) -> Output<'_> {
    Output::Bf16 { words: y.view_mut().slice_move(s![.., HEADER..]), columns, k_group }
}

/// Calls `f` on pieces of `columns` columns, which are whole panels of `nr`, in parallel, with the
/// number of the first panel and the piece of `y`.
///
/// There are a few pieces per thread, so that an idle thread finds work. Every piece reads all of
/// A, which is small compared with the weights.
fn for_each_piece(mut y: Output<'_>, nr: usize, f: impl Fn(usize, Output<'_>) + Sync) {
    let pieces = match profile::threads() {
        1 => 1,
        threads => 4 * threads,
    };
    let panels = y.dim().1.div_ceil(nr).div_ceil(pieces);
    profile::operation(|| y.pieces(panels * nr).for_each(|(i, c)| profile::piece(|| f(i * panels, c))));
}
