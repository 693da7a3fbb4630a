//! The verbs on our kernels. Packed weights are shared, hidden states come from a store of buffers and go back to it: a batch
//! that is no larger than one before allocates nothing.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::Pod;
use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder, s};
use rayon::prelude::*;

use super::Ops;
use crate::Result;
use crate::batch::Texts;
use crate::config::{ModelConfig, Pooling};
use crate::kernels::{
    Activation, Aligned, Format, HEADER, Head, Kernels, Narrow, NarrowHead, NarrowProduct, NarrowRows, Output, Packed,
    PackedNarrow, Product, Rows, Scratch, row_stride, scratch_len, to_bf16,
};
use crate::profile::{Clock, Profile};
use crate::weights::{Tensor, Weights};

/// Values that one task of a row-wise verb takes, in whole rows: 32 KiB.
const VALUES: usize = 8 << 10;

/// Tokens that a thread computes by itself, where there are as many for each: few enough that hidden states stay in its second-level cache
/// from verb to verb, enough that every weight that is read is used often.
const PART: usize = 128;

/// The CPU as a device. Its verbs run on the current rayon pool.
pub(crate) struct Cpu {
    kernels: &'static Kernels,
    narrow: Option<&'static Narrow>, // what linear layers are computed with, if not f32
    buffers: Arc<Buffers<f32>>,
    words: Arc<Buffers<u32>>, // narrowed hidden states
    clock: Clock,
    // One a thread of the pool, for attention: in f32, or in bf16.
    scratch: Vec<Mutex<(Aligned<f32>, Scratch)>>,
}

impl Cpu {
    /// A device that computes with `kernels`, linear layers in `format` if not in f32, on pools of up to `threads` threads.
    pub(crate) fn new(kernels: &'static Kernels, format: Option<Format>, threads: usize) -> Self {
        Self {
            kernels,
            narrow: format.map(|format| kernels.narrow(format)),
            buffers: Arc::default(),
            words: Arc::default(),
            clock: Clock::default(),
            scratch: (0..threads).map(|_| Mutex::default()).collect(),
        }
    }

    /// A hidden state of any content.
    fn take(&self, rows: usize, columns: usize) -> Matrix<f32> {
        Buffers::matrix(&self.buffers, rows, columns)
    }

    /// Rows of any content for `columns` values, `group` to a word.
    fn take_narrow(&self, rows: usize, columns: usize, group: usize) -> Matrix<u32> {
        Buffers::matrix(&self.words, rows, HEADER + columns.div_ceil(group))
    }
}

/// Buffers that are free for the next hidden state.
#[derive(Default)]
struct Buffers<T>(Mutex<Vec<Aligned<T>>>);

impl<T: Pod> Buffers<T> {
    fn matrix(home: &Arc<Self>, rows: usize, columns: usize) -> Matrix<T> {
        let stride = row_stride(columns);
        Matrix { data: home.take(rows * stride), rows, columns, stride, home: home.clone() }
    }

    /// The smallest free buffer that is large enough, else the largest, grown.
    fn take(&self, len: usize) -> Aligned<T> {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = (0..free.len()).filter(|&i| free[i].len() >= len).min_by_key(|&i| free[i].len());
        let index = fitting.or_else(|| (0..free.len()).max_by_key(|&i| free[i].len()));
        let mut buffer = index.map_or_else(Aligned::default, |i| free.swap_remove(i));
        buffer.at_least(len);
        buffer
    }

    fn give(&self, buffer: Aligned<T>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// A (rows × columns) matrix in a borrowed buffer, which goes back when it is dropped.
pub(crate) struct Matrix<T: Pod> {
    data: Aligned<T>, // rows · stride values or more
    rows: usize,
    columns: usize,
    stride: usize,
    home: Arc<Buffers<T>>,
}

impl<T: Pod> Matrix<T> {
    fn view(&self) -> ArrayView2<'_, T> {
        let shape = (self.rows, self.columns).strides((self.stride, 1));
        ArrayView2::from_shape(shape, &self.data).expect("`take` made the buffer for this shape")
    }

    fn view_mut(&mut self) -> ArrayViewMut2<'_, T> {
        let shape = (self.rows, self.columns).strides((self.stride, 1));
        ArrayViewMut2::from_shape(shape, &mut self.data).expect("`take` made the buffer for this shape")
    }

    fn row(&self, row: usize) -> &[T] {
        &self.data[row * self.stride..][..self.columns]
    }
}

impl<T: Pod + Send> Matrix<T> {
    /// `f` on every row with its number, in parallel.
    fn for_each_row(&mut self, f: impl Fn(usize, &mut [T]) + Sync) {
        let (stride, columns) = (self.stride, self.columns);
        let used = &mut self.data[..self.rows * stride];
        let count = (VALUES / columns.max(1)).max(1);
        used.par_chunks_mut(count * stride).enumerate().for_each(|(chunk, rows)| {
            for (i, row) in rows.chunks_mut(stride).enumerate() {
                f(chunk * count + i, &mut row[..columns]);
            }
        });
    }
}

impl<T: Pod> Drop for Matrix<T> {
    fn drop(&mut self) {
        self.home.give(std::mem::take(&mut self.data));
    }
}

/// A hidden state.
pub(crate) enum Hidden {
    /// (tokens × width)
    F32(Matrix<f32>),
    /// Each row a header and words, of bf16: what is made for the next product alone is rounded when it is stored, and half as long.
    Narrow(Matrix<u32>),
}

impl Hidden {
    fn rows(&self) -> usize {
        match self {
            Self::F32(x) => x.rows,
            Self::Narrow(x) => x.rows,
        }
    }

    /// The values of one that is not for a product alone.
    fn values(&self) -> &Matrix<f32> {
        match self {
            Self::F32(x) => x,
            Self::Narrow(_) => unreachable!("the encoder gives what comes out of attention to products alone"),
        }
    }
}

/// Word, position and token type rows, and their LayerNorm.
pub(crate) struct Embedding {
    words: Vec<f32>,     // (vocab × hidden)
    positions: Vec<f32>, // (max_positions × hidden), the row of token type 0 added
    norm: Norm,
}

/// A linear layer, packed for the kernels.
pub(crate) struct Linear {
    weight: Weight,
    bias: Vec<f32>, // (outputs)
}

enum Weight {
    F32(Packed),
    Narrow {
        narrow: &'static Narrow,
        weight: PackedNarrow,
        factors: Vec<f32>, // one an input of 8-bit products
    },
}

impl Linear {
    fn inputs(&self) -> usize {
        match &self.weight {
            Weight::F32(weight) => weight.panels().k,
            Weight::Narrow { factors, .. } => factors.len(),
        }
    }

    /// What inputs are multiplied with before they are narrowed, and weights were divided by; empty where nothing is.
    pub(crate) fn factors(&self) -> &[f32] {
        match &self.weight {
            Weight::F32(_) => &[],
            Weight::Narrow { factors, .. } => factors,
        }
    }
}

/// The factors that share the spread of the columns between `inputs` and weights: √(largest weight / largest input) of each column, with
/// a mean of one (SmoothQuant with α = ½). The inputs are a sample: what was small in it is not taken for smaller than a tenth of the rest.
fn smoothing(inputs: &Matrix<f32>, parts: &[Tensor]) -> Vec<f32> {
    let mut largest = vec![0f32; inputs.columns];
    for row in 0..inputs.rows {
        largest.iter_mut().zip(inputs.row(row)).for_each(|(l, x)| *l = l.max(x.abs()));
    }
    let mut weights = vec![0f32; inputs.columns];
    for part in parts {
        for row in part.clone().into_f32().chunks_exact(inputs.columns) {
            weights.iter_mut().zip(row).for_each(|(l, w)| *l = l.max(w.abs()));
        }
    }
    let mean = largest.iter().sum::<f32>() / largest.len() as f32;
    let ratio = |(x, w): (&f32, &f32)| (w.max(1e-6) / x.max(0.1 * mean).max(1e-6)).sqrt();
    let factors: Vec<f32> = largest.iter().zip(&weights).map(ratio).collect();
    let mean = factors.iter().sum::<f32>() / factors.len() as f32;
    // Few digits, so that a last digit of the sample's, which differs between instruction sets, makes no other weights.
    factors.into_iter().map(|f| f32::from_bits(to_bf16(f / mean))).collect()
}

/// A LayerNorm.
pub(crate) struct Norm {
    gamma: Vec<f32>, // (hidden)
    beta: Vec<f32>,  // (hidden)
    eps: f32,
}

impl Ops for Cpu {
    type Hidden = Hidden;
    type Embedding = Embedding;
    type Linear = Linear;
    type Norm = Norm;

    fn load_embedding(&self, weights: &Weights, config: &ModelConfig) -> Result<Embedding> {
        let read = |name: &str| -> Result<Vec<f32>> { Ok(weights.read(name)?.into_f32()) };
        let types = read("embeddings.token_type_embeddings.weight")?;
        let mut positions = read("embeddings.position_embeddings.weight")?;
        // Every token of a single text is of type 0, so its row is a part of the position's.
        for row in positions.chunks_exact_mut(config.hidden) {
            row.iter_mut().zip(&types).for_each(|(p, t)| *p += t);
        }
        Ok(Embedding {
            words: read("embeddings.word_embeddings.weight")?,
            positions,
            norm: self.load_norm(weights, "embeddings.LayerNorm", config)?,
        })
    }

    fn looks_at_inputs(&self, weights: &Weights) -> bool {
        self.narrow.is_some_and(|narrow| narrow.format == Format::Int8) && !weights.has_factors()
    }

    fn load_linear(&self, weights: &Weights, names: &[String], inputs: Option<&Hidden>) -> Result<Linear> {
        let read = |part: &str| -> Result<Vec<Tensor>> {
            names.par_iter().map(|name| weights.read(&format!("{name}.{part}"))).collect()
        };
        let parts = read("weight")?;
        let bias = read("bias")?.into_iter().flat_map(Tensor::into_f32).collect();
        let shapes: Vec<(usize, usize)> = parts.iter().map(|tensor| (tensor.shape[0], tensor.shape[1])).collect();
        let weight = match self.narrow {
            None => {
                let values: Vec<Vec<f32>> = parts.into_par_iter().map(Tensor::into_f32).collect();
                let views: Vec<ArrayView2<'_, f32>> = shapes
                    .iter()
                    .zip(&values)
                    .map(|(&shape, values)| ArrayView2::from_shape(shape, values).expect("`Weights` checked the shape"))
                    .collect();
                Weight::F32(Packed::from_weights(&views, self.kernels.nr))
            }
            Some(narrow) => {
                let inner = shapes[0].1;
                let factors = match (narrow.format, inputs) {
                    (Format::Bf16, _) => Vec::new(),
                    (Format::Int8, Some(inputs)) => smoothing(inputs.values(), &parts),
                    (Format::Int8, None) => parts[0].factors().to_vec(),
                };
                let rows = |tensor: Tensor| match narrow.format {
                    Format::Bf16 => NarrowRows::Bf16(tensor.into_bf16()),
                    Format::Int8 => {
                        let (values, scales) = tensor.into_int8(&factors);
                        NarrowRows::Int8(values, scales)
                    }
                };
                let parts: Vec<NarrowRows> = parts.into_par_iter().map(rows).collect();
                let weight = PackedNarrow::from_weights(&parts, inner, narrow);
                let factors = if factors.is_empty() { vec![1.0; inner] } else { factors };
                Weight::Narrow { narrow, weight, factors }
            }
        };
        Ok(Linear { weight, bias })
    }

    fn load_norm(&self, weights: &Weights, name: &str, config: &ModelConfig) -> Result<Norm> {
        let read = |part: &str| -> Result<Vec<f32>> { Ok(weights.read(&format!("{name}.{part}"))?.into_f32()) };
        Ok(Norm { gamma: read("weight")?, beta: read("bias")?, eps: config.layer_norm_eps })
    }

    fn embed(&self, texts: Texts<'_>, tables: &Embedding) -> Result<Hidden> {
        let width = tables.norm.gamma.len();
        let mut x = self.take(texts.tokens(), width);
        let norm = &tables.norm;
        self.clock.rest(|| {
            x.for_each_row(|token, row| {
                let word = &tables.words[texts.ids()[token] as usize * width..][..width];
                row.copy_from_slice(word);
                let position = &tables.positions[texts.position(token) * width..][..width];
                (self.kernels.add_norm)(row, Some(position), &norm.gamma, &norm.beta, norm.eps, 0);
            })
        });
        Ok(Hidden::F32(x))
    }

    fn linear(&self, x: &Hidden, layer: &Linear) -> Result<Hidden> {
        let mut y = self.take(x.rows(), layer.bias.len());
        self.product(x, layer, Activation::None, Output::F32(y.view_mut()));
        Ok(Hidden::F32(y))
    }

    fn attention(&self, x: &Hidden, layer: &Linear, texts: Texts<'_>, heads: usize) -> Result<Hidden> {
        let width = layer.bias.len() / 3;
        let d = width / heads;
        let Some(narrow) = self.narrow else {
            let Hidden::F32(qkv) = self.linear(x, layer)? else { unreachable!("products give f32") };
            let mut out = self.take(x.rows(), width);
            self.clock.attention(|| {
                self.attend(texts, 0, Output::F32(out.view_mut()), d, &|rows, head, out, (scratch, _)| {
                    let text = |part: usize| {
                        let from = part * width + head * d;
                        qkv.view().slice_move(s![rows.clone(), from..from + d])
                    };
                    let Output::F32(out) = out else { unreachable!("as it was given") };
                    let scratch = scratch.at_least(scratch_len(rows.len(), d, self.kernels.nr));
                    (self.kernels.attention)(Head { q: text(0), k: text(1), v: text(2), out }, scratch);
                });
            });
            return Ok(Hidden::F32(out));
        };
        let table = self.kernels.narrow_attention(d);
        let mut qkv = self.take_narrow(x.rows(), 3 * width, table.group);
        self.product(x, layer, Activation::None, narrow_output(&mut qkv, 3 * width, table.group));
        let attend = |out| {
            self.attend(texts, 0, out, d, &|rows: Range<usize>, head, out, (_, scratch)| {
                let part = |part: usize| {
                    let from = rows.start * qkv.stride + (part * width + head * d) / table.group;
                    Rows { data: &qkv.data[from..], stride: qkv.stride }
                };
                (table.compute)(NarrowHead { tokens: rows.len(), d, q: part(0), k: part(1), v: part(2), out }, scratch);
            });
        };
        // What is for a product in bf16 is stored as such. (A head of an odd width would begin within a word.)
        if narrow.format == Format::Bf16 && d.is_multiple_of(narrow.group) {
            let mut out = self.take_narrow(x.rows(), width, narrow.group);
            self.clock.attention(|| attend(narrow_output(&mut out, width, narrow.group)));
            Ok(Hidden::Narrow(out))
        } else {
            let mut out = self.take(x.rows(), width);
            self.clock.attention(|| attend(Output::F32(out.view_mut())));
            Ok(Hidden::F32(out))
        }
    }

    fn feed_forward(&self, x: &Hidden, up: &Linear, down: &Linear) -> Result<Hidden> {
        let columns = up.bias.len();
        let inner = match self.narrow {
            Some(narrow) if narrow.format == Format::Bf16 => {
                let mut inner = self.take_narrow(x.rows(), columns, narrow.group);
                self.product(x, up, Activation::Gelu, narrow_output(&mut inner, columns, narrow.group));
                Hidden::Narrow(inner)
            }
            _ => {
                let mut inner = self.take(x.rows(), columns);
                self.product(x, up, Activation::Gelu, Output::F32(inner.view_mut()));
                Hidden::F32(inner)
            }
        };
        self.linear(&inner, down)
    }

    fn add_norm(&self, x: Hidden, residual: &Hidden, norm: &Norm) -> Result<Hidden> {
        let Hidden::F32(mut x) = x else { unreachable!("products give f32") };
        let residual = residual.values();
        self.clock.rest(|| {
            x.for_each_row(|i, row| {
                (self.kernels.add_norm)(row, Some(residual.row(i)), &norm.gamma, &norm.beta, norm.eps, residual.stride);
            })
        });
        Ok(Hidden::F32(x))
    }

    fn pool(&self, parts: &[(Hidden, Texts<'_>)], pooling: Pooling) -> Result<Hidden> {
        let count = parts.iter().map(|(_, texts)| texts.count()).sum();
        let Some((first, _)) = parts.first() else { return Ok(Hidden::F32(self.take(0, 0))) };
        self.clock.rest(|| match first {
            Hidden::F32(first) => {
                let mut pooled = self.take(count, first.columns);
                pooled.for_each_row(|text, row| {
                    let (x, tokens) = part_of_text(parts, text);
                    let x = x.values();
                    match pooling {
                        Pooling::Cls => row.copy_from_slice(x.row(tokens.start)),
                        Pooling::LastToken => row.copy_from_slice(x.row(tokens.end - 1)),
                        Pooling::Mean => {
                            let scale = 1.0 / tokens.len() as f32;
                            row.fill(0.0);
                            for token in tokens {
                                row.iter_mut().zip(x.row(token)).for_each(|(sum, v)| *sum += v);
                            }
                            row.iter_mut().for_each(|v| *v *= scale);
                        }
                    }
                });
                Ok(Hidden::F32(pooled))
            }
            Hidden::Narrow(first) => {
                let mut pooled = Buffers::matrix(&self.words, count, first.columns);
                pooled.for_each_row(|text, row| {
                    let (x, tokens) = part_of_text(parts, text);
                    let Hidden::Narrow(x) = x else { unreachable!("all parts have one form") };
                    row.copy_from_slice(match pooling {
                        Pooling::Cls => x.row(tokens.start),
                        Pooling::LastToken => x.row(tokens.end - 1),
                        Pooling::Mean => unreachable!("a mean is of the last layer's output"),
                    });
                });
                Ok(Hidden::Narrow(pooled))
            }
        })
    }

    fn part(&self, tokens: usize) -> usize {
        if tokens >= PART * self.scratch.len() { PART } else { tokens }
    }

    fn profile(&self) -> Profile {
        self.clock.profile()
    }

    fn read(&self, x: &Hidden, out: &mut [f32]) -> Result<()> {
        let x = x.values();
        for (i, out) in out.chunks_exact_mut(x.columns).enumerate() {
            out.copy_from_slice(x.row(i));
        }
        Ok(())
    }
}

/// The part that has text `text` of all, and the text's place in it.
fn part_of_text<'a, T>(parts: &'a [(T, Texts<'_>)], mut text: usize) -> (&'a T, Range<usize>) {
    for (x, texts) in parts {
        if text < texts.count() {
            return (x, texts.range(text));
        }
        text -= texts.count();
    }
    unreachable!("callers count the texts of all parts")
}

/// Room for `columns` values of bf16 in rows of words, `group` in each.
fn narrow_output(y: &mut Matrix<u32>, columns: usize, group: usize) -> Output<'_> {
    Output::Bf16 { words: y.view_mut().slice_move(s![.., HEADER..]), columns, group }
}

/// `f` on pieces of `columns` columns, whole panels of `nr`, in parallel: the number of the first panel, and the piece of `y`.
///
/// A few pieces a thread, so that an idle one finds work; every piece reads all of A, which is small beside the weights.
fn for_each_piece(mut y: Output<'_>, nr: usize, f: impl Fn(usize, Output<'_>) + Sync) {
    let pieces = match rayon::current_num_threads() {
        1 => 1,
        threads => 4 * threads,
    };
    let panels = y.dim().1.div_ceil(nr).div_ceil(pieces);
    y.pieces(panels * nr).for_each(|(i, c)| f(i * panels, c));
}

/// What computes one head of a text: its rows, the head's number, its columns of the output, scratch.
type Attend<'a> = dyn Fn(Range<usize>, usize, Output<'_>, &mut (Aligned<f32>, Scratch)) + Sync + 'a;

impl Cpu {
    /// y ← activation(x · weight + bias)
    fn product(&self, x: &Hidden, layer: &Linear, activation: Activation, y: Output<'_>) {
        let (inputs, outputs) = (layer.inputs(), layer.bias.len());
        self.clock.products(x.rows() * inputs * outputs, || match &layer.weight {
            Weight::F32(weight) => {
                let (a, b) = (x.values().view(), weight.panels());
                for_each_piece(y, b.nr, |first_panel, c| {
                    let Output::F32(c) = c else { unreachable!("f32 is not narrowed") };
                    let bias = &layer.bias[first_panel * b.nr..][..c.ncols()];
                    (self.kernels.matmul)(Product { a, b, first_panel, c, bias, activation });
                });
            }
            Weight::Narrow { narrow, weight: b, factors } => {
                let encoded;
                let a = match x {
                    Hidden::Narrow(words) => words,
                    Hidden::F32(x) => {
                        let mut words = self.take_narrow(x.rows, inputs, narrow.group);
                        words.for_each_row(|i, row| (narrow.encode)(x.row(i), factors, row, x.stride));
                        encoded = words;
                        &encoded
                    }
                };
                let (a, b) = (Rows { data: &a.data, stride: a.stride }, b.panels());
                for_each_piece(y, narrow.nr, |first_panel, c| {
                    let bias = &layer.bias[first_panel * narrow.nr..][..c.dim().1];
                    (narrow.matmul)(NarrowProduct { a, b, first_panel, c, bias, activation });
                });
            }
        });
    }

    /// Attention of `texts`, whose rows are those of `out`, the first of them row `row`: halves in parallel, down to one text, then its heads
    /// of `d` values in parallel.
    fn attend(&self, texts: Texts<'_>, row: usize, mut out: Output<'_>, d: usize, compute: &Attend<'_>) {
        if texts.count() > 1 {
            let half = texts.count() / 2;
            let (first, rest) = (texts.slice(0..half), texts.slice(half..texts.count()));
            let (left, right) = out.split_at(first.tokens());
            rayon::join(
                || self.attend(first, row, left, d, compute),
                || self.attend(rest, row + first.tokens(), right, d, compute),
            );
            return;
        }
        out.pieces(d).for_each(|(head, out)| {
            let thread = rayon::current_thread_index().unwrap_or(0);
            let mut scratch = self.scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
            compute(row..row + texts.tokens(), head, out, &mut scratch);
        });
    }
}
