//! The operations on NVIDIA GPUs: our own kernels (`kernels/`), and matrix products by NVIDIA's
//! cuBLASLt.
//!
//! The stream between layers is f32; products read and write f32, f16 or bf16, the type that the
//! model was loaded in. An operation starts work without waiting for it; `read` waits for all of
//! it. Hidden states are computed as late as possible, so that one kernel computes a sum, its norm,
//! and the operand of the next product.
//!
//! Read `driver.rs` first, then `memory.rs`, `lane.rs`, `texts.rs`, `launches.rs`, and this file;
//! then `results.rs`.

#![allow(unsafe_code, reason = "a driver takes addresses")]

pub(crate) mod driver;
mod e4m3;
#[cfg(feature = "cuda-emulator")]
pub mod emulated;
mod lane;
mod launches;
mod load;
mod memory;
mod nvidia;
mod results;
mod texts;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use self::driver::{Driver, Fp8, Number};
use self::lane::{Lane, Lanes};
use self::launches::{Start, Sums, Tables};
pub(crate) use self::load::{Attention, Dense, Embedding, Linear, Norm, Ropes};
use self::memory::{Buffer, Pinned, Place};
use self::texts::{Addresses, Asked, Layout, Shape};
use super::{Backend, Token};
use crate::batch::Texts;
use crate::dense;
use crate::device::{DeviceState, Precision};
use crate::error::{Error, Result};
use crate::models::{Architecture, LayerSpec, MlpSpec, NormSpec, Pooling};
use crate::profile::KernelTime;
use crate::weights::Weights;

/// A GPU as a device, for one model.
pub(crate) struct Cuda {
    driver: Arc<dyn Driver>,
    number: Number,
    fp8: Option<Fp8>, // of products that read e4m3
    lanes: Arc<Lanes>,
    asked: OnceLock<Asked>,
    ropes: Ropes,
    records: AtomicBool,
    seen: Mutex<HashSet<Shape>>, // shapes that have been computed once
}

/// Rows on the device.
type Rows = Arc<Buffer>;

/// A batch on the device, with the lane that computes it.
pub(crate) struct OnDevice {
    lane: Arc<Lane>,
    lanes: Arc<Lanes>,
    layout: Layout,
    at: Addresses,
    recording: Option<Shape>,
    waited: AtomicBool,
    // The source and the target of the copy to the device.
    staging: Mutex<Option<Pinned>>,
    _inputs: Rows,
}

impl Drop for OnDevice {
    fn drop(&mut self) {
        if !*self.waited.get_mut() {
            // The pass failed, or nothing was read from it. If the device is lost, the next pass
            // reports it.
            if self.recording.is_some() {
                let _ = self.lane.driver.end_recording(self.lane.stream).map(|graph| {
                    // SAFETY: it has just been recorded and was never started.
                    unsafe { self.lane.driver.forget(graph) }
                });
            }
            let _ = self.lane.wait();
        }
        let staging = self.staging.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(staging) = staging {
            *locked(&self.lane.inputs) = Some(staging);
        }
        self.lanes.give(self.lane.clone());
    }
}

/// A hidden state, computed when an operation needs it.
pub(crate) struct Hidden {
    batch: Arc<OnDevice>,
    rows: usize,
    width: usize,
    state: Mutex<State>,
}

#[derive(Clone)]
enum State {
    /// x + residual, which have not been added yet.
    Sum { x: Sums, residual: Rows },
    /// In f32, and in the form that a product reads if that has been computed already.
    Ready { stream: Rows, operand: Option<Rows> },
}

/// Rows that a product reads.
pub(crate) struct Operand {
    batch: Arc<OnDevice>,
    rows: usize,
    width: usize,
    values: Rows,
}

/// Queries, keys and values of some tokens, next to each other.
pub(crate) struct Projected {
    values: Rows,
    rows: usize,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether there is a GPU.
pub(crate) fn is_here() -> bool {
    #[cfg(feature = "cuda-emulator")]
    if emulated::driver(0).is_some() {
        return true;
    }
    nvidia::is_here()
}

fn open(number: usize) -> Result<Arc<dyn Driver>> {
    #[cfg(feature = "cuda-emulator")]
    if let Some(driver) = emulated::driver(number) {
        return Ok(driver);
    }
    nvidia::open(number)
}

impl Cuda {
    /// GPU number `number`, for a model whose products are computed in `precision`; `Auto` is bf16
    /// if the card has tensor cores for it and they support the sizes of `architecture`, and f32
    /// otherwise.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no such GPU, [`Error::InvalidOption`] for a precision that it
    /// does not support.
    pub(crate) fn new(number: usize, precision: Precision, architecture: &Architecture) -> Result<(Self, Precision)> {
        let driver = open(number)?;
        let properties = driver.properties();
        let (number, precision, fp8) = load::number(precision, architecture, properties, || driver.fp8())?;
        if fp8 == Some(Fp8::AfterProduct) {
            tracing::info!(
                device = properties.label,
                "its cuBLASLt has no scale per row for fp8: our kernels scale after products"
            );
        }
        let lanes = Arc::new(Lanes::new(&driver));
        let records = AtomicBool::new(!driver.properties().apart);
        let cuda = Self {
            driver,
            number,
            fp8,
            lanes,
            asked: OnceLock::new(),
            ropes: Ropes::default(),
            records,
            seen: Mutex::default(),
        };
        Ok((cuda, precision))
    }

    fn start<'a>(&self, batch: &'a OnDevice) -> Start<'a> {
        Start { driver: &*batch.lane.driver, stream: batch.lane.stream, number: self.number }
    }

    /// Rows in f32, with undefined content.
    fn wide(&self, batch: &OnDevice, rows: usize, width: usize) -> Result<Rows> {
        batch.lane.buffer(4 * rows * width, batch.recording.is_some())
    }

    /// Rows in the type of products, with undefined content.
    fn own(&self, batch: &OnDevice, rows: usize, width: usize) -> Result<Rows> {
        batch.lane.buffer(self.number.bytes() * rows * width, batch.recording.is_some())
    }

    /// Starts the copy of a batch to the device.
    fn load_batch(&self, texts: Texts<'_>, asked: Asked) -> Result<Arc<OnDevice>> {
        let (lane, recording) = match self.lanes.reserved() {
            Some((lane, shape)) => (lane, Some(shape)),
            None => (self.lanes.take()?, None),
        };
        let layout = Layout::new(texts, recording, asked);
        let got = (|| {
            let mut staging = match recording {
                // The graph keeps it.
                Some(_) => Pinned::new(&lane.driver, layout.bytes)?,
                None => lane.pinned(&lane.inputs, layout.bytes)?,
            };
            layout.write(texts, asked, staging.bytes_mut());
            let inputs = lane.buffer(layout.bytes, recording.is_some())?;
            if recording.is_some() {
                lane.driver.start_recording(lane.stream)?;
            }
            Ok((staging, inputs))
        })();
        let (staging, inputs) = match got {
            Ok(got) => got,
            Err(error) => {
                self.lanes.give(lane);
                return Err(error);
            }
        };
        let (from, to) = (staging.bytes().as_ptr(), inputs.pointer());
        let batch = OnDevice {
            at: layout.at(to),
            lane,
            lanes: self.lanes.clone(),
            layout,
            recording,
            waited: AtomicBool::new(false),
            staging: Mutex::new(Some(staging)),
            _inputs: inputs,
        };
        // SAFETY: both have this many bytes; the batch owns both, and waits for the copy before it
        // is dropped.
        unsafe { batch.lane.driver.upload(batch.lane.stream, from, to, layout.bytes)? };
        Ok(Arc::new(batch))
    }

    fn hidden(batch: &Arc<OnDevice>, rows: usize, width: usize, state: State) -> Hidden {
        Hidden { batch: batch.clone(), rows, width, state: Mutex::new(state) }
    }

    fn ready(batch: &Arc<OnDevice>, rows: usize, width: usize, stream: Rows, operand: Option<Rows>) -> Hidden {
        Self::hidden(batch, rows, width, State::Ready { stream, operand })
    }

    /// norm(added + residual), where `added` is what a product has written.
    fn summed(&self, added: Sums, residual: &Hidden, norm: Option<&Norm>) -> Result<Hidden> {
        let (batch, rows, width) = (&residual.batch, residual.rows, residual.width);
        let residual = self.stream(residual)?;
        let Some(norm) = norm else {
            // It is added once the next norm is known.
            return Ok(Self::hidden(batch, rows, width, State::Sum { x: added, residual }));
        };
        let stream = self.wide(batch, rows, width)?;
        let operand = (self.number != Number::F32).then(|| self.own(batch, rows, width)).transpose()?;
        let into = operand.as_ref().map(|o| o as &dyn Place);
        let start = self.start(batch);
        start.add_norm(Some(&added), Some(&residual), Some(&stream), into, Some(norm), true, rows, width)?;
        Ok(Self::ready(batch, rows, width, stream, operand))
    }

    /// x + residual if they have not been added yet and, with `norm`, norm(x) in the form that the
    /// next product reads.
    fn added(&self, hidden: &Hidden, norm: Option<&Norm>) -> Result<(Rows, Option<Rows>)> {
        let (batch, rows, width) = (&hidden.batch, hidden.rows, hidden.width);
        let mut state = locked(&hidden.state);
        let (x, residual) = match &*state {
            State::Ready { stream, operand } => return Ok((stream.clone(), operand.clone())),
            State::Sum { x, residual } => (x.clone(), Some(residual.clone())),
        };
        let stream = self.wide(batch, rows, width)?;
        let both = norm.is_some() || self.number != Number::F32;
        let operand = both.then(|| self.own(batch, rows, width)).transpose()?;
        let residual = residual.as_ref().map(|r| r as &dyn Place);
        let start = self.start(batch);
        start.add_norm(
            Some(&x),
            residual,
            Some(&stream),
            operand.as_ref().map(|o| o as _),
            norm,
            false,
            rows,
            width,
        )?;
        // A normed operand is only for the product that needs it.
        let kept = if norm.is_some() { None } else { operand.clone() };
        *state = State::Ready { stream: stream.clone(), operand: kept };
        Ok((stream, operand))
    }

    fn stream(&self, hidden: &Hidden) -> Result<Rows> {
        Ok(self.added(hidden, None)?.0)
    }

    /// norm(x) in the form that a product reads.
    fn operand(&self, hidden: &Hidden, norm: Option<&Norm>) -> Result<Rows> {
        let (batch, rows, width) = (&hidden.batch, hidden.rows, hidden.width);
        let fresh = !matches!(&*locked(&hidden.state), State::Ready { .. });
        let (stream, operand) = self.added(hidden, norm)?;
        match (norm, operand) {
            (None, Some(operand)) => Ok(operand),
            (Some(_), Some(operand)) if fresh => Ok(operand),
            (None, None) if self.number == Number::F32 => Ok(stream),
            (norm, _) => {
                let operand = self.own(batch, rows, width)?;
                let start = self.start(batch);
                start.add_norm(None, Some(&stream), None, Some(&operand), norm, false, rows, width)?;
                if norm.is_none() {
                    *locked(&hidden.state) = State::Ready { stream, operand: Some(operand.clone()) };
                }
                Ok(operand)
            }
        }
    }

    /// x · weightᵀ. `biased` is whether the product adds the layer's bias. If not, or if it cannot,
    /// that is left.
    fn product(&self, batch: &OnDevice, x: &Rows, rows: usize, layer: &Linear, biased: bool) -> Result<Sums> {
        let y = self.own(batch, rows, layer.outputs)?;
        let (start, sizes) = (self.start(batch), (rows, layer.inputs, layer.outputs));
        let biased = biased && self.fp8 != Some(Fp8::AfterProduct);
        let bias = layer.bias.as_ref().filter(|_| biased).map(|bias| bias as &dyn Place);
        let left = layer.wide_bias.as_ref().filter(|_| !biased).cloned();
        let Some(of_outputs) = &layer.scales else {
            start.product(x, &layer.weight, false, None, bias, &y, sizes)?;
            return Ok(Sums { values: y, scales: None, bias: left });
        };
        let codes = batch.lane.buffer(rows * layer.inputs, batch.recording.is_some())?;
        let of_rows = self.wide(batch, rows, 1)?;
        start.quantize_fp8(x, &codes, &of_rows, rows, layer.inputs)?;
        let inside = self.fp8 == Some(Fp8::InProduct);
        let scales = inside.then_some([&of_rows as &dyn Place, of_outputs]);
        start.product(&codes, &layer.weight, true, scales, bias, &y, sizes)?;
        Ok(Sums { values: y, scales: (!inside).then(|| (of_rows, of_outputs.clone())), bias: left })
    }
}

impl Backend for Cuda {
    type Hidden = Hidden;
    type Operand = Operand;
    type Projected = Projected;
    type Embedding = Embedding;
    type Linear = Linear;
    type Norm = Norm;
    type Attention = Attention;
    type Dense = Dense;

    fn load_embedding(&self, weights: &Weights, architecture: &Architecture) -> Result<Embedding> {
        let embedding = Embedding::load(&self.driver, weights, architecture)?;
        let queries = if self.number == Number::F32 { 16 } else { 128 };
        let _ = self.asked.set(Asked { rule: embedding.rule, queries });
        Ok(embedding)
    }

    fn load_linear(&self, weights: &Weights, names: &[String], bias: bool) -> Result<Linear> {
        Linear::load(&self.driver, (self.number, self.fp8.is_some()), weights, names, bias)
    }

    fn load_norm(&self, weights: &Weights, name: &str, spec: &NormSpec) -> Result<Norm> {
        Norm::load(&self.driver, weights, name, spec.kind, spec.eps, spec.bias)
    }

    fn load_attention(
        &self,
        weights: &Weights,
        norms: Option<[String; 2]>,
        architecture: &Architecture,
        layer: &LayerSpec,
    ) -> Result<Attention> {
        Attention::load(&self.driver, weights, norms, architecture, layer, &self.ropes)
    }

    fn load_dense(&self, layer: dense::Dense) -> Result<Dense> {
        Dense::load(&self.driver, layer)
    }

    fn embed(&self, texts: Texts<'_>, tables: &Embedding) -> Result<Hidden> {
        let asked = *self.asked.get().expect("the tables were loaded on this device");
        let batch = self.load_batch(texts, asked)?;
        let (rows, width, at) = (batch.layout.rows, tables.width, batch.at);
        let stream = self.wide(&batch, rows, width)?;
        let operand = tables.before_product && self.number != Number::F32;
        let operand = operand.then(|| self.own(&batch, rows, width)).transpose()?;
        let of_kernel = Tables {
            words: &tables.words,
            stored: tables.stored,
            positions: tables.positions.as_ref(),
            types: tables.types.as_ref(),
            several_types: tables.several_types,
            norm: tables.norm.as_ref(),
        };
        let ids = [at.ids, at.positions, at.types];
        self.start(&batch).embed(ids, &of_kernel, &stream, operand.as_ref().map(|o| o as _), rows, width)?;
        Ok(Self::ready(&batch, rows, width, stream, operand))
    }

    fn attention(
        &self,
        x: &Hidden,
        norm: Option<&Norm>,
        qkv: &Linear,
        attention: &Attention,
        _texts: Texts<'_>,
        before: Option<&Projected>,
    ) -> Result<(Operand, Projected)> {
        let (batch, rows, spec) = (&x.batch, x.rows, &attention.spec);
        let operand = self.operand(x, norm)?;
        let start = self.start(batch);
        let sums = self.product(batch, &operand, rows, qkv, true)?;
        if sums.scales.is_some() {
            start.finish(&sums, rows, qkv.outputs)?;
        }
        let values = sums.values;
        let first = before.map_or(0, |before| before.rows);
        let (norms, tables) = (attention.head_norms.as_ref(), attention.rope.as_deref());
        if norms.is_some() || tables.is_some() {
            start.rope(&values, batch.at.places, first, tables, norms, spec, rows)?;
        }
        let width = spec.widths()[0];
        let out = self.own(batch, rows, width)?;
        let tiles = (batch.at.tiles, batch.layout.tiles);
        let before = before.map(|before| (&before.values as &dyn Place, before.rows));
        start.attention(&values, before, tiles, &out, spec, attention.mask, rows)?;
        Ok((Operand { batch: batch.clone(), rows, width, values: out }, Projected { values, rows }))
    }

    fn project_add_norm(&self, operand: &Operand, layer: &Linear, x: &mut Hidden, norm: Option<&Norm>) -> Result<()> {
        let added = self.product(&operand.batch, &operand.values, operand.rows, layer, true)?;
        *x = self.summed(added, x, norm)?;
        Ok(())
    }

    fn mlp_add_norm(
        &self,
        x: &mut Hidden,
        [before, after]: [Option<&Norm>; 2],
        up: &Linear,
        down: &Linear,
        spec: &MlpSpec,
    ) -> Result<()> {
        let (batch, rows) = (&x.batch, x.rows);
        let operand = self.operand(x, before)?;
        // The kernel of the activation adds the bias, in f32.
        let both = self.product(batch, &operand, rows, up, false)?;
        let inner = self.own(batch, rows, spec.inner)?;
        self.start(batch).activate(&both, &inner, spec, rows)?;
        drop(both);
        let added = self.product(batch, &inner, rows, down, true)?;
        *x = self.summed(added, x, after)?;
        Ok(())
    }

    fn norm(&self, x: &mut Hidden, norm: &Norm) -> Result<()> {
        let (batch, rows, width) = (&x.batch, x.rows, x.width);
        let (added, residual) = match locked(&x.state).clone() {
            State::Ready { stream, .. } => (None, Some(stream)),
            State::Sum { x, residual } => (Some(x), Some(residual)),
        };
        let stream = self.wide(batch, rows, width)?;
        let residual = residual.as_ref().map(|r| r as _);
        self.start(batch).add_norm(added.as_ref(), residual, Some(&stream), None, Some(norm), true, rows, width)?;
        *locked(&x.state) = State::Ready { stream, operand: None };
        Ok(())
    }

    fn pool(&self, parts: &[(Hidden, Texts<'_>)], pooling: Pooling) -> Result<Hidden> {
        let [(x, texts)] = parts else { unreachable!("a GPU computes a batch in one part") };
        let (batch, width, count) = (&x.batch, x.width, texts.count());
        let (stream, pooled) = (self.stream(x)?, self.wide(batch, count, width)?);
        let starts = [batch.at.starts, batch.at.unpooled];
        self.start(batch).pool(&stream, starts, &pooled, pooling, (x.rows, count, width))?;
        Ok(Self::ready(batch, count, width, pooled, None))
    }

    fn dense(&self, x: &Hidden, layer: &Dense) -> Result<Hidden> {
        let (batch, rows, outputs) = (&x.batch, x.rows, layer.outputs);
        let (stream, y) = (self.stream(x)?, self.wide(batch, rows, outputs)?);
        let start = Start { number: Number::F32, ..self.start(batch) };
        if layer.is_product {
            let bias = layer.bias.as_ref().map(|bias| bias as &dyn Place);
            start.product(&stream, &layer.weight, false, None, bias, &y, (rows, layer.inputs, outputs))?;
        } else {
            start.dense(&stream, layer, &y, rows)?;
        }
        if layer.unit {
            start.unit(&y, rows, outputs)?;
        }
        Ok(Self::ready(batch, rows, outputs, y, None))
    }

    fn pick(&self, parts: &[(Operand, Texts<'_>)], token: Token) -> Result<Operand> {
        let [(x, texts)] = parts else { unreachable!("a GPU computes a batch in one part") };
        let (batch, width, count) = (&x.batch, x.width, texts.count());
        let picked = self.own(batch, count, width)?;
        let pooling = match token {
            Token::First => Pooling::Cls,
            Token::Last => Pooling::LastToken,
        };
        let starts = [batch.at.starts, batch.at.unpooled];
        self.start(batch).pick(&x.values, starts, &picked, pooling, (x.rows, count, width))?;
        Ok(Operand { batch: batch.clone(), rows: count, width, values: picked })
    }

    fn read(&self, x: &Hidden, out: &mut [f32]) -> Result<()> {
        let stream = self.stream(x)?;
        self.fetch(&x.batch, &stream, out)
    }

    fn repeat(
        &self,
        texts: Texts<'_>,
        pooling: Pooling,
        out: &mut [f32],
        pass: &mut dyn FnMut(&mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let shape = Shape::of(texts, pooling).filter(|_| self.records.load(Ordering::Relaxed));
        let Some(shape) = shape else { return pass(out) };
        // The first pass of a shape loads modules and chooses algorithms, which cannot be recorded.
        if locked(&self.seen).insert(shape) {
            return pass(out);
        }
        let lane = self.lanes.take()?;
        match self.repeat_on(&lane, shape, texts, out) {
            Ok(false) => self.lanes.reserve(lane, shape),
            done => {
                self.lanes.give(lane);
                return done.map(|_| ());
            }
        }
        let done = pass(out);
        // The pass failed before it took its lane.
        if let Some((lane, _)) = self.lanes.reserved() {
            self.lanes.give(lane);
        }
        match done {
            Err(error @ (Error::Device { .. } | Error::DeviceMemory { .. })) => {
                tracing::warn!(%error, "passes of small batches cannot be recorded: each kernel is launched again");
                self.records.store(false, Ordering::Relaxed);
                self.lanes.shrink();
                pass(out)
            }
            done => done,
        }
    }

    fn record(&self, on: bool) {
        self.records.store(on && !self.driver.properties().apart, Ordering::Relaxed);
    }

    fn shrink(&self) {
        self.lanes.shrink();
    }

    fn state(&self) -> Option<DeviceState> {
        let properties = self.driver.properties();
        let memory = self.driver.memory();
        Some(DeviceState {
            name: properties.name.clone(),
            memory: memory.as_ref().map_or(0, |memory| memory.total),
            free: memory.as_ref().map_or(0, |memory| memory.free),
            utilization: self.driver.utilization(),
        })
    }

    fn time_kernels(&self, on: bool) {
        self.driver.time_kernels(on);
        self.record(!on);
    }

    fn kernel_times(&self) -> Vec<KernelTime> {
        self.driver.kernel_times()
    }
}
