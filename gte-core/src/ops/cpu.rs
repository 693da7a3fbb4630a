//! The verbs on our kernels. Packed weights are shared, hidden states come from a store of buffers and go back to it: a batch
//! that is no larger than one before allocates nothing.

use std::sync::{Arc, Mutex, PoisonError};

use ndarray::{ArrayView2, ArrayViewMut2, Axis, ShapeBuilder, s};
use rayon::prelude::*;

use super::{Activation, Ops};
use crate::Result;
use crate::batch::PackedBatch;
use crate::config::{ModelConfig, Pooling};
use crate::kernels::{
    Aligned, Format, Head, Kernels, Narrow, NarrowProduct, NarrowRows, Packed, PackedNarrow, Product, Rows, Scratch,
    row_stride, scratch_len, to_bf16,
};
use crate::profile::{Clock, Profile};
use crate::weights::{Tensor, Weights};

/// Rows that one task of a row-wise verb takes: some 64 KiB of a wide layer.
const ROWS: usize = 16;

/// The CPU as a device. Its verbs run on the current rayon pool.
pub(crate) struct Cpu {
    kernels: &'static Kernels,
    narrow: Option<&'static Narrow>, // what linear layers are computed with, if not f32
    buffers: Arc<Buffers<f32>>,
    words: Buffers<u32>, // narrowed hidden states
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
            words: Buffers::default(),
            clock: Clock::default(),
            scratch: (0..threads).map(|_| Mutex::default()).collect(),
        }
    }

    /// A hidden state of any content.
    fn take(&self, rows: usize, columns: usize) -> Hidden {
        let stride = row_stride(columns);
        let data = self.buffers.take(rows * stride);
        Hidden { data, rows, columns, stride, home: self.buffers.clone() }
    }
}

/// Buffers that are free for the next hidden state.
#[derive(Default)]
struct Buffers<T>(Mutex<Vec<Aligned<T>>>);

impl<T: Clone + Default> Buffers<T> {
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
pub(crate) struct Hidden {
    data: Aligned<f32>, // rows · stride values or more
    rows: usize,
    columns: usize,
    stride: usize,
    home: Arc<Buffers<f32>>,
}

impl Hidden {
    fn view(&self) -> ArrayView2<'_, f32> {
        let shape = (self.rows, self.columns).strides((self.stride, 1));
        ArrayView2::from_shape(shape, &self.data).expect("`take` made the buffer for this shape")
    }

    fn view_mut(&mut self) -> ArrayViewMut2<'_, f32> {
        let shape = (self.rows, self.columns).strides((self.stride, 1));
        ArrayViewMut2::from_shape(shape, &mut self.data).expect("`take` made the buffer for this shape")
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.stride..][..self.columns]
    }

    /// `f` on every row with its number, in parallel.
    fn for_each_row(&mut self, f: impl Fn(usize, &mut [f32]) + Sync) {
        let (stride, columns) = (self.stride, self.columns);
        let used = &mut self.data[..self.rows * stride];
        used.par_chunks_mut(ROWS * stride).enumerate().for_each(|(chunk, rows)| {
            for (i, row) in rows.chunks_mut(stride).enumerate() {
                f(chunk * ROWS + i, &mut row[..columns]);
            }
        });
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        self.home.give(std::mem::take(&mut self.data));
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
fn smoothing(inputs: &Hidden, parts: &[Tensor]) -> Vec<f32> {
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
                    (Format::Int8, Some(inputs)) => smoothing(inputs, &parts),
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

    fn embed(&self, batch: &PackedBatch, tables: &Embedding) -> Result<Hidden> {
        let width = tables.norm.gamma.len();
        let mut x = self.take(batch.tokens(), width);
        let starts = batch.starts();
        let norm = &tables.norm;
        self.clock.rest(|| {
            x.for_each_row(|token, row| {
                // The last text that starts at or before this token.
                let start = starts[starts.partition_point(|&start| start <= token) - 1];
                let word = &tables.words[batch.ids()[token] as usize * width..][..width];
                row.copy_from_slice(word);
                let position = &tables.positions[(token - start) * width..][..width];
                (self.kernels.add_norm)(row, Some(position), &norm.gamma, &norm.beta, norm.eps);
            })
        });
        Ok(x)
    }

    fn linear(&self, x: &Hidden, layer: &Linear, activation: Activation) -> Result<Hidden> {
        let mut y = self.take(x.rows, layer.bias.len());
        self.clock.products(x.rows * x.columns * layer.bias.len(), || match &layer.weight {
            Weight::F32(weight) => {
                let (a, b) = (x.view(), weight.panels());
                for_each_piece(&mut y, b.nr, |first_panel, c| {
                    let bias = &layer.bias[first_panel * b.nr..][..c.ncols()];
                    (self.kernels.matmul)(Product { a, b, first_panel, c, bias, activation });
                });
            }
            Weight::Narrow { narrow, weight: b, factors } => {
                let stride = row_stride(narrow.row_words(x.columns));
                let mut words = self.words.take(x.rows * stride);
                words[..x.rows * stride].par_chunks_mut(ROWS * stride).enumerate().for_each(|(chunk, rows)| {
                    for (i, row) in rows.chunks_mut(stride).enumerate() {
                        (narrow.encode)(x.row(chunk * ROWS + i), factors, &mut row[..narrow.row_words(x.columns)]);
                    }
                });
                let (a, b) = (Rows { data: &words, stride }, b.panels());
                for_each_piece(&mut y, narrow.nr, |first_panel, c| {
                    let bias = &layer.bias[first_panel * narrow.nr..][..c.ncols()];
                    (narrow.matmul)(NarrowProduct { a, b, first_panel, c, bias, activation });
                });
                self.words.give(words);
            }
        });
        Ok(y)
    }

    fn attention(&self, qkv: &Hidden, batch: &PackedBatch, heads: usize) -> Result<Hidden> {
        let width = qkv.columns / 3;
        let d = width / heads;
        let mut out = self.take(qkv.rows, width);
        self.clock.attention(|| self.attend(&qkv.view(), batch.starts(), d, out.view_mut()));
        Ok(out)
    }

    fn add_norm(&self, mut x: Hidden, residual: &Hidden, norm: &Norm) -> Result<Hidden> {
        self.clock.rest(|| {
            x.for_each_row(|i, row| {
                (self.kernels.add_norm)(row, Some(residual.row(i)), &norm.gamma, &norm.beta, norm.eps);
            })
        });
        Ok(x)
    }

    fn pool(&self, x: &Hidden, batch: &PackedBatch, pooling: Pooling) -> Result<Hidden> {
        let mut pooled = self.take(batch.texts(), x.columns);
        let starts = batch.starts();
        self.clock.rest(|| {
            pooled.for_each_row(|text, row| {
                let (start, end) = (starts[text], starts[text + 1]);
                match pooling {
                    Pooling::Cls => row.copy_from_slice(x.row(start)),
                    Pooling::LastToken => row.copy_from_slice(x.row(end - 1)),
                    Pooling::Mean => {
                        row.fill(0.0);
                        for token in start..end {
                            row.iter_mut().zip(x.row(token)).for_each(|(sum, v)| *sum += v);
                        }
                        let scale = 1.0 / (end - start) as f32;
                        row.iter_mut().for_each(|v| *v *= scale);
                    }
                }
            })
        });
        Ok(pooled)
    }

    fn profile(&self) -> Profile {
        self.clock.profile()
    }

    fn read(&self, x: &Hidden, out: &mut [f32]) -> Result<()> {
        for (i, out) in out.chunks_exact_mut(x.columns).enumerate() {
            out.copy_from_slice(x.row(i));
        }
        Ok(())
    }
}

/// `f` on pieces of the columns of `y`, whole panels of `nr`, in parallel: the number of the first panel, and the columns.
///
/// A few pieces a thread, so that an idle one finds work; every piece reads all of A, which is small beside the weights.
fn for_each_piece(y: &mut Hidden, nr: usize, f: impl Fn(usize, ArrayViewMut2<'_, f32>) + Sync) {
    let pieces = match rayon::current_num_threads() {
        1 => 1,
        threads => 4 * threads,
    };
    let panels = y.columns.div_ceil(nr).div_ceil(pieces);
    y.view_mut()
        .axis_chunks_iter_mut(Axis(1), panels * nr)
        .into_par_iter()
        .enumerate()
        .for_each(|(i, c)| f(i * panels, c));
}

impl Cpu {
    /// Attention of the texts between `starts`, the first of which lies at row 0 of `out`: halves in parallel, down to one
    /// text, then its heads in parallel.
    fn attend(&self, qkv: &ArrayView2<'_, f32>, starts: &[usize], d: usize, mut out: ArrayViewMut2<'_, f32>) {
        let texts = starts.len() - 1;
        if texts > 1 {
            let half = texts / 2;
            let (left, right) = out.split_at(Axis(0), starts[half] - starts[0]);
            rayon::join(|| self.attend(qkv, &starts[..=half], d, left), || self.attend(qkv, &starts[half..], d, right));
            return;
        }
        let width = out.ncols();
        let text = qkv.slice(s![starts[0]..starts[1], ..]);
        out.axis_chunks_iter_mut(Axis(1), d).into_par_iter().enumerate().for_each(|(head, out)| {
            let part = |i: usize| text.slice(s![.., i * width + head * d..i * width + (head + 1) * d]);
            let head = Head { q: part(0), k: part(1), v: part(2), out };
            let thread = rayon::current_thread_index().unwrap_or(0);
            let mut scratch = self.scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
            let (scratch, narrow_scratch) = &mut *scratch;
            if self.narrow.is_some() {
                return self.kernels.narrow_attention()(head, narrow_scratch);
            }
            let needed = scratch_len(text.nrows(), d, self.kernels.nr);
            (self.kernels.attention)(head, scratch.at_least(needed));
        });
    }
}
