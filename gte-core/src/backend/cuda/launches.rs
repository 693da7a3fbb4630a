//! One function per kernel, with its geometry, its arguments in order, and the check that its
//! buffers are large enough. The kernels' own files (`kernels/*.cu`) say what they do.

use std::ops::Deref;
use std::sync::Arc;

use super::driver::{Geometry, Number, Pointer, Product, Stream};
use super::load::Residual;
use super::memory::{Buffer, Place, Resident};
use super::{Dense, Driver, Norm};
use crate::error::Result;
use crate::kernels::{Activation, Mask};
use crate::models::{AttentionSpec, Gate, HeadActivation, MlpSpec, Pooling};

/// Where kernels are launched, and the number type of products.
#[derive(Clone, Copy)]
pub(super) struct Start<'a> {
    pub(super) driver: &'a dyn Driver,
    pub(super) stream: Stream,
    pub(super) number: Number,
}

/// What a product has written, and what is left for the kernel that reads it.
#[derive(Clone)]
pub(super) struct Sums {
    pub(super) values: Arc<Buffer>,                          // (rows × outputs)
    pub(super) scales: Option<(Arc<Buffer>, Arc<Resident>)>, // f32 (rows) and f32 (outputs)
    pub(super) bias: Option<Arc<Resident>>,                  // f32 (outputs)
}

/// Memory by reference, or null.
type Memory<'a> = Option<&'a dyn Place>;

/// The address of memory of at least `bytes` bytes, or null.
fn at(memory: Memory<'_>, bytes: usize) -> u64 {
    memory.map_or(0, |memory| {
        assert!(memory.bytes() >= bytes, "{} bytes, but the kernel requires {bytes}", memory.bytes());
        memory.pointer()
    })
}

fn int(value: usize) -> u64 {
    u64::from(i32::try_from(value).expect("sizes of a batch fit 31 bits") as u32)
}

fn float(value: f32) -> u64 {
    u64::from(value.to_bits())
}

pub(super) fn number_of(norm: Option<&Norm>) -> u64 {
    norm.map_or(0, |norm| norm.kind)
}

fn of_activation(activation: Activation) -> u64 {
    match activation {
        Activation::None => 0,
        Activation::Gelu => 1,
        Activation::GeluTanh => 2,
        Activation::Silu => 3,
        Activation::Relu => 4,
    }
}

fn of_head(activation: HeadActivation) -> u64 {
    match activation {
        HeadActivation::Identity => 0,
        HeadActivation::Gelu => 1,
        HeadActivation::GeluTanh => 2,
        HeadActivation::Silu => 3,
        HeadActivation::Relu => 4,
        HeadActivation::Tanh => 5,
        HeadActivation::Sigmoid => 6,
    }
}

fn of_pooling(pooling: Pooling) -> u64 {
    match pooling {
        Pooling::Cls => 0,
        Pooling::LastToken => 1,
        Pooling::Mean => 2,
    }
}

/// The number of threads per row.
fn of_row(width: usize) -> usize {
    32 * width.div_ceil(256)
}

/// The embedding tables, as the kernel reads them.
pub(super) struct Tables<'a> {
    pub(super) words: &'a Resident,
    pub(super) stored: Number,
    pub(super) positions: Option<&'a Resident>,
    pub(super) types: Option<&'a Resident>,
    pub(super) several_types: bool,
    pub(super) norm: Option<&'a Norm>,
}

impl Start<'_> {
    fn launch(&self, kernel: &str, blocks: (usize, usize), threads: usize, arguments: &[u64]) -> Result<()> {
        self.launch_with(kernel, blocks, threads, 0, arguments)
    }

    fn launch_with(
        &self,
        kernel: &str,
        blocks: (usize, usize),
        threads: usize,
        shared: usize,
        arguments: &[u64],
    ) -> Result<()> {
        // SAFETY: the functions below pass each kernel its own arguments, and check the sizes of
        // their buffers. Buffers belong to the arena of this stream, where nothing writes to them
        // before this work is complete (`memory.rs`), or to weights and prefixes, which exist until
        // the pass has waited.
        unsafe { self.driver.launch(self.stream, kernel, Geometry { blocks, threads, shared }, arguments) }
    }

    fn typed(&self, kernel: &str) -> String {
        let name = match self.number {
            Number::F32 => "f32",
            Number::F16 => "f16",
            Number::Bf16 => "bf16",
        };
        format!("{kernel}_{name}")
    }

    fn size(&self) -> usize {
        self.number.bytes()
    }

    /// The four arguments that are `Sums` in a kernel.
    fn sums(&self, sums: Option<&Sums>, rows: usize, outputs: usize) -> [u64; 4] {
        let Some(Sums { values, scales, bias }) = sums else { return [0; 4] };
        let [of_rows, of_outputs] =
            scales.as_ref().map_or([0; 2], |(x, weight)| [at(Some(x), 4 * rows), at(Some(weight), 4 * outputs)]);
        let bias = at(bias.as_ref().map(|bias| bias as _), 4 * outputs);
        [at(Some(values), self.size() * rows * outputs), of_rows, of_outputs, bias]
    }

    /// `ids`, `positions` and `types` are as in [`Addresses`](super::texts::Addresses). The engine
    /// has checked the ids.
    pub(super) fn embed(
        &self,
        [ids, positions, types]: [Pointer; 3],
        tables: &Tables<'_>,
        stream: &dyn Place,
        operand: Memory<'_>,
        rows: usize,
        width: usize,
    ) -> Result<()> {
        let stored = match tables.stored {
            Number::F32 => 0,
            Number::F16 => 1,
            Number::Bf16 => 2,
        };
        let types = if tables.several_types { types } else { 0 };
        let (gamma, beta, eps) = parts(tables.norm, width);
        let arguments = [
            ids,
            positions,
            types,
            at(Some(tables.words), width * tables.stored.bytes()),
            stored,
            at(tables.positions.map(|t| t as _), 4 * width),
            at(tables.types.map(|t| t as _), 4 * width),
            gamma,
            beta,
            float(eps),
            number_of(tables.norm),
            at(Some(stream), 4 * rows * width),
            at(operand, self.size() * rows * width),
            int(width),
        ];
        self.launch(&self.typed("embed"), (rows, 1), of_row(width), &arguments)
    }

    /// y = x + residual, z = norm(y): `stream` becomes z if `stream_is_normed` and y otherwise,
    /// `operand` becomes z.
    #[allow(clippy::too_many_arguments, reason = "the kernel's own")]
    pub(super) fn add_norm(
        &self,
        x: Option<&Sums>,
        residual: Memory<'_>,
        stream: Memory<'_>,
        operand: Memory<'_>,
        norm: Option<&Norm>,
        stream_is_normed: bool,
        rows: usize,
        width: usize,
    ) -> Result<()> {
        let (gamma, beta, eps) = parts(norm, width);
        let (wide, own) = (4 * rows * width, self.size() * rows * width);
        let [x, of_rows, of_outputs, bias] = self.sums(x, rows, width);
        let arguments = [
            x,
            of_rows,
            of_outputs,
            bias,
            at(residual, wide),
            at(stream, wide),
            at(operand, own),
            gamma,
            beta,
            float(eps),
            number_of(norm),
            u64::from(stream_is_normed),
            int(width),
        ];
        self.launch(&self.typed("add_norm"), (rows, 1), of_row(width), &arguments)
    }

    /// The activation after the MLP's first product: `y` is (rows × inner).
    pub(super) fn activate(&self, sums: &Sums, y: &dyn Place, spec: &MlpSpec, rows: usize) -> Result<()> {
        let (width, activation) = (spec.inner, of_activation(spec.activation));
        if spec.gate == Gate::None {
            return self.activate_rows(sums, y, activation, rows, width);
        }
        let [x, of_rows, of_outputs, bias] = self.sums(Some(sums), rows, 2 * width);
        let y = at(Some(y), self.size() * rows * width);
        let second = u64::from(spec.gate == Gate::Second);
        let arguments = [x, of_rows, of_outputs, bias, y, activation, second, int(width)];
        self.launch(&self.typed("gate"), (rows, width.div_ceil(1024)), 128, &arguments)
    }

    /// Does in place what is left to do with the sums of a product.
    pub(super) fn finish(&self, sums: &Sums, rows: usize, width: usize) -> Result<()> {
        self.activate_rows(sums, &sums.values, of_activation(Activation::None), rows, width)
    }

    fn activate_rows(&self, sums: &Sums, y: &dyn Place, activation: u64, rows: usize, width: usize) -> Result<()> {
        let [x, of_rows, of_outputs, bias] = self.sums(Some(sums), rows, width);
        let y = at(Some(y), self.size() * rows * width);
        let arguments = [x, of_rows, of_outputs, bias, y, activation, int(width)];
        self.launch(&self.typed("activate"), (rows, width.div_ceil(1024)), 128, &arguments)
    }

    /// Norms of heads and rotary positions, in place. `tables`: cosines and sines; `norms`: of
    /// queries and of keys.
    #[allow(clippy::too_many_arguments, reason = "the kernel's own")]
    pub(super) fn rope(
        &self,
        qkv: &dyn Place,
        places: Pointer,
        first: usize,
        tables: Option<&[Resident; 2]>,
        norms: Option<&[Norm; 2]>,
        spec: &AttentionSpec,
        rows: usize,
    ) -> Result<()> {
        let d = spec.head_dim;
        let lanes = if self.number == Number::F32 { 32 } else { d / 16 };
        let [cos, sin] = tables.map_or([0, 0], |tables| tables.each_ref().map(Place::pointer));
        let [of_queries, of_keys] = norms.map_or([0, 0], |norms| norms.each_ref().map(|n| at(Some(&n.gamma), 4 * d)));
        let width: usize = spec.widths().iter().sum();
        let arguments = [
            at(Some(qkv), self.size() * rows * width),
            places,
            int(first),
            cos,
            sin,
            of_queries,
            of_keys,
            float(norms.map_or(0.0, |norms| norms[0].eps)),
            int(rows),
            int(spec.heads),
            int(spec.kv_heads),
            int(d),
        ];
        let threads = rows * (spec.heads + spec.kv_heads) * lanes;
        self.launch(&self.typed("rope"), (threads.div_ceil(128), 1), 128, &arguments)
    }

    /// `out` is (rows × heads·d). `before` has the queries, keys and values of the tokens before
    /// each text, and their number.
    #[allow(clippy::too_many_arguments, reason = "the kernel's own")]
    pub(super) fn attention(
        &self,
        qkv: &dyn Place,
        before: Option<(&dyn Place, usize)>,
        (tiles, count): (Pointer, usize),
        out: &dyn Place,
        spec: &AttentionSpec,
        mask: Mask,
        rows: usize,
    ) -> Result<()> {
        let (d, width) = (spec.head_dim, spec.widths().iter().sum::<usize>());
        let before_tokens = before.map_or(0, |(_, tokens)| tokens);
        let (kind, reach) = match mask {
            Mask::Full => (0, 0),
            Mask::Causal => (1, 0),
            Mask::Window(reach) => (2, reach.min(1 << 30)),
        };
        let scale = std::f32::consts::LOG2_E / (d as f32).sqrt();
        let mut arguments = vec![
            at(Some(qkv), self.size() * rows * width),
            at(before.map(|(before, _)| before), self.size() * before_tokens * width),
            tiles,
            at(Some(out), self.size() * rows * spec.widths()[0]),
            int(spec.heads),
            int(spec.kv_heads),
            int(before_tokens),
            kind,
            int(reach),
            float(scale),
        ];
        let blocks = (count * spec.heads, 1);
        if self.number == Number::F32 {
            arguments.push(int(d));
            let shared = 4 * (16 * d + 32 * (d + 1) + 32 * d);
            return self.launch_with("attention_f32", blocks, 128, shared, &arguments);
        }
        let keys = if d <= 64 { 64 } else { 32 };
        self.launch_with(&format!("{}_{d}", self.typed("attention")), blocks, 128, (128 + 2 * keys) * d * 2, &arguments)
    }

    /// Pools x to one row per text: `y` is (texts × width).
    pub(super) fn pool(
        &self,
        x: &dyn Place,
        [starts, unpooled]: [Pointer; 2],
        y: &dyn Place,
        pooling: Pooling,
        (rows, texts, width): (usize, usize, usize),
    ) -> Result<()> {
        let (x, y) = (at(Some(x), 4 * rows * width), at(Some(y), 4 * texts * width));
        let arguments = [x, starts, unpooled, y, of_pooling(pooling), int(width)];
        self.launch("pool", (texts, width.div_ceil(128)), 256, &arguments)
    }

    /// The row of the first or last token of each text of an operand.
    pub(super) fn pick(
        &self,
        x: &dyn Place,
        [starts, unpooled]: [Pointer; 2],
        y: &dyn Place,
        pooling: Pooling,
        (rows, texts, width): (usize, usize, usize),
    ) -> Result<()> {
        let bytes = self.size() * width;
        let (x, y) = (at(Some(x), rows * bytes), at(Some(y), texts * bytes));
        self.launch("pick", (texts, 1), 128, &[x, starts, unpooled, y, of_pooling(pooling), int(bytes / 4)])
    }

    /// A layer after the encoder: `x` is (rows × inputs), `y` is (rows × outputs), both f32.
    pub(super) fn dense(&self, x: &dyn Place, layer: &Dense, y: &dyn Place, rows: usize) -> Result<()> {
        let (inputs, outputs) = (layer.inputs, layer.outputs);
        let (adds_input, projected) = match &layer.residual {
            Residual::Nothing => (0, None),
            Residual::Input => (1, None),
            Residual::Projected(weight) => (0, Some(weight as &dyn Place)),
        };
        let arguments = [
            at(Some(x), 4 * rows * inputs),
            at(Some(&layer.weight), 4 * outputs * inputs),
            at(layer.bias.as_ref().map(|bias| bias as _), 4 * outputs),
            at(projected, 4 * outputs * inputs),
            at(Some(y), 4 * rows * outputs),
            of_head(layer.activation),
            adds_input,
            int(inputs),
            int(outputs),
        ];
        self.launch("dense", (rows, outputs.div_ceil(8)), 32 * outputs.min(8), &arguments)
    }

    /// Scales each row of `x` to unit length: f32, in place.
    pub(super) fn unit(&self, x: &dyn Place, rows: usize, width: usize) -> Result<()> {
        self.launch("unit", (rows, 1), 128, &[at(Some(x), 4 * rows * width), int(width)])
    }

    /// Rows of bf16 in e4m3, with a scale per row.
    pub(super) fn quantize_fp8(
        &self,
        x: &dyn Place,
        codes: &dyn Place,
        scales: &dyn Place,
        rows: usize,
        width: usize,
    ) -> Result<()> {
        let (x, codes) = (at(Some(x), 2 * rows * width), at(Some(codes), rows * width));
        self.launch("quantize_fp8", (rows, 1), 128, &[x, codes, at(Some(scales), 4 * rows), int(width)])
    }

    /// y ← x · weightᵀ + bias. `e4m3` is whether x and weight are that; only then they can have
    /// scales, one per row of each.
    #[allow(clippy::too_many_arguments, reason = "the product's own")]
    pub(super) fn product(
        &self,
        x: &dyn Place,
        weight: &dyn Place,
        e4m3: bool,
        scales: Option<[&dyn Place; 2]>,
        bias: Memory<'_>,
        y: &dyn Place,
        (rows, inputs, outputs): (usize, usize, usize),
    ) -> Result<()> {
        let size = self.size();
        let read = if e4m3 { 1 } else { size };
        let product = Product {
            number: self.number,
            e4m3,
            x: at(Some(x), read * rows * inputs),
            weight: at(Some(weight), read * outputs * inputs),
            scales: scales.map(|[x, weight]| [at(Some(x), 4 * rows), at(Some(weight), 4 * outputs)]),
            bias: at(bias, size * outputs),
            y: at(Some(y), size * rows * outputs),
            rows,
            inputs,
            outputs,
        };
        // SAFETY: the sizes have just been checked; the memory exists long enough, as in
        // `launch_with`.
        unsafe { self.driver.product(self.stream, &product) }
    }
}

/// Scale, shift and eps of a norm of rows of `width` values.
fn parts(norm: Option<&Norm>, width: usize) -> (u64, u64, f32) {
    norm.map_or((0, 0, 0.0), |norm| {
        let beta = norm.beta.as_ref().map(|beta| beta as &dyn Place);
        (at(Some(&norm.gamma), 4 * width), at(beta, 4 * width), norm.eps)
    })
}

impl<T: Place> Place for std::sync::Arc<T> {
    fn pointer(&self) -> Pointer {
        self.deref().pointer()
    }
    fn bytes(&self) -> usize {
        self.deref().bytes()
    }
}
