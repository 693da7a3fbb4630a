//! An emulated GPU for tests: the same kernels on the CPU (`emulator/`), and matrix products as
//! plain loops. It is behind the feature `cuda-emulator`, which no release has.
//!
//! Work is executed immediately, or recorded and executed when it is repeated. Memory contains NaNs
//! until it is written.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use half::{bf16, f16};
use libloading::Library;

use super::driver::{Driver, Fp8, Geometry, Graph, Memory, Number, Pointer, Product, Properties, Stream};
use super::e4m3;
use crate::error::{Error, Result};
use crate::profile::KernelTime;

/// `gte_emulator_launch` of `emulator/library.cpp`.
type Entry = unsafe extern "C" fn(*const c_char, c_uint, c_uint, c_uint, usize, *mut *mut c_void) -> c_int;

/// The emulated GPUs of this process, if a test has installed them.
static GPUS: OnceLock<[Arc<Emulated>; 2]> = OnceLock::new();

/// The compute capability of the second one, times ten: Ada's, where products of e4m3 have no scale
/// per row.
const ADA: u32 = 89;

/// Settings of an emulated GPU.
#[derive(Clone, Copy, Debug)]
pub struct Emulation {
    /// Its memory in bytes.
    pub memory: usize,
    /// Ten times its compute capability.
    pub capability: u32,
    /// Whether each buffer is an allocation of its own, for an address sanitizer.
    pub apart: bool,
}

impl Default for Emulation {
    fn default() -> Self {
        Self { memory: 1 << 30, capability: 90, apart: false }
    }
}

/// Makes `Device::Cuda(0)` of this process an emulated GPU, and `Device::Cuda(1)` another one of
/// compute capability 8.9. `library` is the shared library of the kernels. Returns the first one.
/// Further calls return that of the first call.
///
/// # Errors
/// [`Error::Device`] if the library cannot be loaded.
pub fn install(library: &Path, settings: Emulation) -> Result<&'static Emulated> {
    if GPUS.get().is_none() {
        let ada = Emulation { capability: ADA, ..settings };
        let made = [Emulated::new(library, 0, settings)?, Emulated::new(library, 1, ada)?];
        let _ = GPUS.set(made.map(Arc::new));
    }
    GPUS.get().map(|gpus| &*gpus[0]).ok_or_else(|| failed("cuda:0", "no emulator".into()))
}

/// The emulated GPU of this number.
pub(super) fn driver(number: usize) -> Option<Arc<dyn Driver>> {
    GPUS.get()?.get(number).map(|gpu| gpu.clone() as Arc<dyn Driver>)
}

fn failed(label: &str, reason: String) -> Error {
    Error::Device { device: label.into(), reason }
}

/// At least as many arguments as any kernel has.
const MOST_ARGUMENTS: usize = 16;

/// An emulated GPU.
pub struct Emulated {
    _library: Library,
    entry: Entry,
    properties: Properties,
    memory: AtomicUsize,
    lost: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    used: usize,
    allocations: u64,
    launches: u64,
    repeats: u64,
    sizes: HashMap<usize, usize>,               // of allocations, by address
    streams: HashMap<usize, Option<Vec<Work>>>, // the recording of each stream, if one has begun
    graphs: HashMap<usize, Arc<Vec<Work>>>,
    next: usize,
    timed: Option<HashMap<String, (u64, f64)>>,
}

#[derive(Clone)]
enum Work {
    Upload(usize, Pointer, usize),
    Download(Pointer, usize, usize),
    Launch(String, Geometry, Vec<u64>),
    Product(Product),
}

impl std::fmt::Debug for Emulated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Emulated").field(&self.properties).finish()
    }
}

impl Emulated {
    fn new(path: &Path, number: usize, settings: Emulation) -> Result<Self> {
        let label = format!("cuda:{number}");
        let error = |e: libloading::Error| failed(&label, format!("{}: {e}", path.display()));
        // SAFETY: the library is our own and does nothing when it is loaded; the function has this
        // type (`library.cpp`).
        let (library, entry) = unsafe {
            let library = Library::new(path).map_err(error)?;
            let entry = *library.get::<Entry>(b"gte_emulator_launch").map_err(error)?;
            (library, entry)
        };
        Ok(Self {
            _library: library,
            entry,
            properties: Properties {
                label,
                name: "emulated GPU".into(),
                capability: settings.capability,
                apart: settings.apart,
            },
            memory: AtomicUsize::new(settings.memory),
            lost: AtomicBool::new(false),
            state: Mutex::default(),
        })
    }

    /// Sets its memory in bytes. Existing allocations stay.
    pub fn set_memory(&self, bytes: usize) {
        self.memory.store(bytes, Ordering::Relaxed);
    }

    /// Sets whether it has fallen off the bus.
    pub fn set_lost(&self, lost: bool) {
        self.lost.store(lost, Ordering::Relaxed);
    }

    /// Whether its library has a kernel of this name.
    pub fn has_kernel(&self, name: &str) -> bool {
        // No blocks: nothing runs, with arguments that are null.
        let nothing = Geometry { blocks: (0, 0), threads: 32, shared: 0 };
        self.call(name, nothing, &[0; MOST_ARGUMENTS]).is_ok()
    }

    /// The allocated bytes, and the numbers of allocations, kernels and repeated recordings so far.
    pub fn counts(&self) -> (usize, u64, u64, u64) {
        let state = self.state();
        (state.used, state.allocations, state.launches, state.repeats)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(&self) -> Result<()> {
        match self.lost.load(Ordering::Relaxed) {
            true => Err(Error::DeviceLost {
                device: self.properties.label.clone(),
                reason: "it has fallen off the bus".into(),
            }),
            false => Ok(()),
        }
    }

    fn failed(&self, reason: &str) -> Error {
        failed(&self.properties.label, reason.into())
    }

    fn acquire(&self, bytes: usize, of_device: bool) -> Result<*mut u8> {
        self.alive()?;
        let mut state = self.state();
        let full = || Error::DeviceMemory { device: self.properties.label.clone(), bytes };
        if of_device && state.used + bytes > self.memory.load(Ordering::Relaxed) {
            return Err(full());
        }
        let layout = layout(bytes);
        // SAFETY: the size is not 0, and the bytes are written before they are read.
        let pointer = unsafe {
            let pointer = alloc(layout);
            if pointer.is_null() {
                return Err(full());
            }
            std::ptr::write_bytes(pointer, if of_device { 0xFF } else { 0 }, layout.size());
            pointer
        };
        state.used += if of_device { bytes } else { 0 };
        state.allocations += u64::from(of_device);
        state.sizes.insert(pointer as usize, bytes);
        Ok(pointer)
    }

    fn release(&self, pointer: usize, of_device: bool) {
        let mut state = self.state();
        if let Some(bytes) = state.sizes.remove(&pointer) {
            state.used -= if of_device { bytes } else { 0 };
            // SAFETY: `acquire` allocated it with this layout, and it is no longer in the table.
            unsafe { dealloc(pointer as *mut u8, layout(bytes)) }
        }
    }

    /// Executes work, or records it.
    fn work(&self, stream: Stream, work: Work) -> Result<()> {
        self.alive()?;
        let mut state = self.state();
        match state.streams.get_mut(&stream.0) {
            Some(Some(recorded)) => {
                recorded.push(work);
                return Ok(());
            }
            Some(None) => {}
            None => return Err(self.failed("no such stream")),
        }
        drop(state);
        self.run(&work)
    }

    fn run(&self, work: &Work) -> Result<()> {
        let start = std::time::Instant::now();
        let name = match work {
            Work::Upload(from, to, bytes) => {
                // SAFETY: the caller of `upload`, `download` or `store` guarantees it.
                unsafe { std::ptr::copy_nonoverlapping(*from as *const u8, *to as *mut u8, *bytes) };
                return Ok(());
            }
            Work::Download(from, to, bytes) => {
                // SAFETY: the caller of `upload`, `download` or `store` guarantees it.
                unsafe { std::ptr::copy_nonoverlapping(*from as *const u8, *to as *mut u8, *bytes) };
                return Ok(());
            }
            Work::Launch(kernel, geometry, arguments) => {
                self.call(kernel, *geometry, arguments)?;
                self.state().launches += 1;
                kernel.clone()
            }
            Work::Product(product) => {
                self.supports(product)?;
                multiply(product);
                format!("product {} → {}", product.inputs, product.outputs)
            }
        };
        if let Some(timed) = &mut self.state().timed {
            let of_name = timed.entry(name).or_default();
            *of_name = (of_name.0 + 1, of_name.1 + start.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// Refuses what cuBLASLt refuses of products of e4m3 (`nvidia/products.rs`).
    fn supports(&self, product: &Product) -> Result<()> {
        let Product { number, e4m3, x, weight, scales, y, inputs, outputs, .. } = *product;
        let aligned = [x, weight, y].into_iter().all(|pointer| pointer.is_multiple_of(16));
        let sizes = inputs.is_multiple_of(16) && (outputs * number.bytes()).is_multiple_of(16);
        match (e4m3, self.fp8()) {
            (false, _) if scales.is_none() => Ok(()),
            (true, Ok(Fp8::InProduct)) if aligned && sizes => Ok(()),
            (true, Ok(Fp8::AfterProduct)) if aligned && sizes && scales.is_none() => Ok(()),
            _ => Err(self.failed(&format!("CUBLAS_STATUS_NOT_SUPPORTED: {product:?}"))),
        }
    }

    fn call(&self, kernel: &str, geometry: Geometry, arguments: &[u64]) -> Result<()> {
        let name = CString::new(kernel).map_err(|e| self.failed(&e.to_string()))?;
        let mut words = arguments.to_vec();
        let mut pointers: Vec<*mut c_void> = words.iter_mut().map(|word| std::ptr::from_mut(word).cast()).collect();
        let (x, y) = geometry.blocks;
        // SAFETY: the caller of `launch` guarantees that the arguments are those of the kernel,
        // which reads one pointer per argument and the first bytes of each word.
        let code = unsafe {
            (self.entry)(
                name.as_ptr(),
                x as u32,
                y as u32,
                geometry.threads as u32,
                geometry.shared,
                pointers.as_mut_ptr(),
            )
        };
        match code {
            0 => Ok(()),
            _ => Err(self.failed(&format!("no kernel `{kernel}`"))),
        }
    }
}

/// Memory of the device is aligned to 256 bytes. Its size is exactly the requested one, so that a
/// sanitizer knows its end.
fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes.max(1), 256).expect("a size that fits an address space")
}

/// y ← x · weightᵀ + bias, with sums in f32 whose order does not depend on the number of rows.
fn multiply(product: &Product) {
    let Product { number, rows, inputs, outputs, .. } = *product;
    let read = |pointer: Pointer, count: usize| -> Vec<f32> {
        // SAFETY: the caller of `product` guarantees that the matrices have these sizes.
        unsafe {
            match number {
                Number::F32 => std::slice::from_raw_parts(pointer as *const f32, count).to_vec(),
                Number::F16 => {
                    let values = std::slice::from_raw_parts(pointer as *const f16, count);
                    values.iter().map(|v| v.to_f32()).collect()
                }
                Number::Bf16 => {
                    let values = std::slice::from_raw_parts(pointer as *const bf16, count);
                    values.iter().map(|v| v.to_f32()).collect()
                }
            }
        }
    };
    let of_e4m3 = |pointer: Pointer, count: usize| -> Vec<f32> {
        // SAFETY: as above, with a byte per number.
        let codes = unsafe { std::slice::from_raw_parts(pointer as *const u8, count) };
        codes.iter().map(|&code| e4m3::to_f32(code)).collect()
    };
    let scales = |pointer: Pointer, count: usize| -> Vec<f32> {
        // SAFETY: as above; scales are f32.
        unsafe { std::slice::from_raw_parts(pointer as *const f32, count).to_vec() }
    };
    let operand = |pointer, count| if product.e4m3 { of_e4m3(pointer, count) } else { read(pointer, count) };
    let (x, weight) = (operand(product.x, rows * inputs), operand(product.weight, outputs * inputs));
    let (of_rows, of_outputs) = match product.scales {
        Some([of_rows, of_outputs]) => (scales(of_rows, rows), scales(of_outputs, outputs)),
        None => (vec![1.0; rows], vec![1.0; outputs]),
    };
    let bias = if product.bias == 0 { vec![0.0; outputs] } else { read(product.bias, outputs) };
    let sums = x.chunks_exact(inputs).zip(of_rows).flat_map(|(x, of_row)| {
        let of_output = |((row, bias), of_output): ((&[f32], &f32), &f32)| {
            // Sixteen sums in parallel, for the CPU's vectors.
            let mut sums = [0f32; 16];
            let (a, b) = (x.chunks(16), row.chunks(16));
            a.zip(b).for_each(|(a, b)| sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b));
            sums.iter().sum::<f32>() * (of_row * of_output) + bias
        };
        weight.chunks_exact(inputs).zip(&bias).zip(&of_outputs).map(of_output).collect::<Vec<_>>()
    });
    for (i, value) in sums.enumerate() {
        // SAFETY: as above, for (rows × outputs) values.
        unsafe {
            match number {
                Number::F32 => (product.y as *mut f32).add(i).write(value),
                Number::F16 => (product.y as *mut f16).add(i).write(f16::from_f32(value)),
                Number::Bf16 => (product.y as *mut bf16).add(i).write(bf16::from_f32(value)),
            }
        }
    }
}

impl Driver for Emulated {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn memory(&self) -> Result<Memory> {
        self.alive()?;
        let total = self.memory.load(Ordering::Relaxed);
        Ok(Memory { free: total.saturating_sub(self.state().used), total })
    }

    fn fp8(&self) -> std::result::Result<Fp8, String> {
        match self.properties.capability {
            90 => Ok(Fp8::InProduct),
            ADA.. => Ok(Fp8::AfterProduct),
            _ => Err("it has no product of e4m3".into()),
        }
    }

    fn utilization(&self) -> Option<f32> {
        None
    }

    fn allocate(&self, bytes: usize) -> Result<Pointer> {
        self.acquire(bytes, true).map(|pointer| pointer as Pointer)
    }

    unsafe fn free(&self, pointer: Pointer) {
        self.release(pointer as usize, true);
    }

    fn pin(&self, bytes: usize) -> Result<*mut u8> {
        self.acquire(bytes, false)
    }

    unsafe fn unpin(&self, pointer: *mut u8, _bytes: usize) {
        self.release(pointer as usize, false);
    }

    fn open_stream(&self) -> Result<Stream> {
        self.alive()?;
        let mut state = self.state();
        state.next += 1;
        let stream = state.next;
        state.streams.insert(stream, None);
        Ok(Stream(stream))
    }

    unsafe fn close_stream(&self, stream: Stream) {
        self.state().streams.remove(&stream.0);
    }

    fn wait(&self, _stream: Stream) -> Result<()> {
        self.alive()
    }

    unsafe fn store(&self, from: &[u8], to: Pointer) -> Result<()> {
        self.alive()?;
        self.run(&Work::Upload(from.as_ptr() as usize, to, from.len()))
    }

    unsafe fn upload(&self, stream: Stream, from: *const u8, to: Pointer, bytes: usize) -> Result<()> {
        self.work(stream, Work::Upload(from as usize, to, bytes))
    }

    unsafe fn download(&self, stream: Stream, from: Pointer, to: *mut u8, bytes: usize) -> Result<()> {
        self.work(stream, Work::Download(from, to as usize, bytes))
    }

    unsafe fn launch(&self, stream: Stream, kernel: &str, geometry: Geometry, arguments: &[u64]) -> Result<()> {
        self.work(stream, Work::Launch(kernel.to_owned(), geometry, arguments.to_vec()))
    }

    unsafe fn product(&self, stream: Stream, product: &Product) -> Result<()> {
        self.work(stream, Work::Product(*product))
    }

    fn start_recording(&self, stream: Stream) -> Result<()> {
        self.alive()?;
        match self.state().streams.get_mut(&stream.0) {
            Some(recorded @ None) => {
                *recorded = Some(Vec::new());
                Ok(())
            }
            _ => Err(self.failed("a recording within a recording")),
        }
    }

    fn end_recording(&self, stream: Stream) -> Result<Graph> {
        self.alive()?;
        let mut state = self.state();
        let recorded = state.streams.get_mut(&stream.0).and_then(Option::take);
        let recorded = recorded.ok_or_else(|| self.failed("nothing is being recorded"))?;
        state.next += 1;
        let graph = state.next;
        state.graphs.insert(graph, Arc::new(recorded));
        Ok(Graph(graph))
    }

    unsafe fn repeat(&self, graph: Graph, _stream: Stream) -> Result<()> {
        self.alive()?;
        let mut state = self.state();
        state.repeats += 1;
        let recorded = state.graphs.get(&graph.0).cloned();
        drop(state);
        recorded.ok_or_else(|| self.failed("no such graph"))?.iter().try_for_each(|work| self.run(work))
    }

    unsafe fn forget(&self, graph: Graph) {
        self.state().graphs.remove(&graph.0);
    }

    fn time_kernels(&self, on: bool) {
        self.state().timed = on.then(HashMap::new);
    }

    fn kernel_times(&self) -> Vec<KernelTime> {
        let mut state = self.state();
        let timed = state.timed.as_mut().map(std::mem::take).unwrap_or_default();
        timed.into_iter().map(|(name, (calls, seconds))| KernelTime { name, calls, seconds }).collect()
    }
}
