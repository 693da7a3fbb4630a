//! `trait Driver`: what the operations require of a GPU. `nvidia/` is the real one; `emulated.rs`
//! runs the same kernels on the CPU, for tests.
//!
//! Streams, graphs and pinned memory are handles, and addresses are numbers. `lane.rs` and
//! `memory.rs` own them, and `launches.rs` checks that every buffer of a kernel is large enough.

use crate::error::Result;
use crate::profile::KernelTime;

/// An address in the memory of the device; 0 is null.
pub(super) type Pointer = u64;

/// A queue of work that the device executes in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stream(pub(super) usize);

/// Recorded work that can be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Graph(pub(super) usize);

/// The properties of a device.
#[derive(Clone, Debug)]
pub(super) struct Properties {
    /// The device as a user names it: `cuda:0`.
    pub(super) label: String,
    /// The card's name.
    pub(super) name: String,
    /// Ten times the compute capability: 80 for 8.0.
    pub(super) capability: u32,
    /// Whether each buffer is an allocation of its own, so that a sanitizer finds accesses out of
    /// bounds. Passes are not recorded then.
    pub(super) apart: bool,
}

/// The device's memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) free: usize,
    pub(super) total: usize,
}

/// The number of blocks of a launch, of threads per block, and of bytes of shared memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) blocks: (usize, usize),
    pub(super) threads: usize,
    pub(super) shared: usize,
}

/// The number type that products read and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Number {
    F32,
    F16,
    Bf16,
}

impl Number {
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// Where the scales of e4m3 are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fp8 {
    /// In the product, which has a scale per row of both operands.
    InProduct,
    /// In the kernel that reads the product's sums.
    AfterProduct,
}

/// y ← x · weightᵀ + bias, with sums in f32. Results do not depend on `rows`. With scales, which
/// only e4m3 has, each sum is multiplied by those of its row and of its output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    /// The type of y and bias, and of x and weight unless they are e4m3.
    pub(super) number: Number,
    pub(super) e4m3: bool,
    pub(super) x: Pointer,                   // (rows × inputs)
    pub(super) weight: Pointer,              // (outputs × inputs)
    pub(super) scales: Option<[Pointer; 2]>, // f32 (rows) and f32 (outputs)
    pub(super) bias: Pointer,                // (outputs), or null
    pub(super) y: Pointer,                   // (rows × outputs)
    pub(super) rows: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

/// A GPU. Every method may be called from any thread.
///
/// Errors: [`Error::DeviceMemory`](crate::error::Error::DeviceMemory) if memory is full,
/// [`Error::DeviceLost`](crate::error::Error::DeviceLost) if the device no longer responds,
/// [`Error::Device`](crate::error::Error::Device) otherwise.
pub(super) trait Driver: Send + Sync {
    fn properties(&self) -> &Properties;
    fn memory(&self) -> Result<Memory>;
    /// Where the scales of e4m3 are applied on this device, or why it has no products of e4m3.
    fn fp8(&self) -> std::result::Result<Fp8, String>;
    /// The share of the last moments in which the device computed, if it is known.
    fn utilization(&self) -> Option<f32>;

    /// Memory of the device, aligned to 256 bytes, with undefined content.
    fn allocate(&self, bytes: usize) -> Result<Pointer>;
    /// # Safety
    /// `allocate` returned it, and no pending work reads or writes it.
    unsafe fn free(&self, pointer: Pointer);
    /// Pinned memory of the host, which the device can copy from and to, filled with zeros.
    fn pin(&self, bytes: usize) -> Result<*mut u8>;
    /// # Safety
    /// `pin` returned it for this number of bytes, and no pending copy reads or writes it.
    unsafe fn unpin(&self, pointer: *mut u8, bytes: usize);

    fn open_stream(&self) -> Result<Stream>;
    /// # Safety
    /// `open_stream` returned it, and it is no longer used.
    unsafe fn close_stream(&self, stream: Stream);
    /// Waits for all work of the stream.
    fn wait(&self, stream: Stream) -> Result<()>;

    /// Copies to the device and waits for the copy.
    ///
    /// # Safety
    /// `to` has room for these bytes, and no work uses them meanwhile.
    unsafe fn store(&self, from: &[u8], to: Pointer) -> Result<()>;
    /// # Safety
    /// Both have `bytes` bytes, `from` is pinned, and neither is freed or changed before the copy
    /// is complete.
    unsafe fn upload(&self, stream: Stream, from: *const u8, to: Pointer, bytes: usize) -> Result<()>;
    /// # Safety
    /// Both have `bytes` bytes, and neither is freed before the copy is complete.
    unsafe fn download(&self, stream: Stream, from: Pointer, to: *mut u8, bytes: usize) -> Result<()>;
    /// Launches a kernel. Each argument is a word whose first bytes are its value.
    ///
    /// # Safety
    /// The arguments are those of the kernel, and the memory they point to has the size that the
    /// kernel requires and exists until the work is complete.
    unsafe fn launch(&self, stream: Stream, kernel: &str, geometry: Geometry, arguments: &[u64]) -> Result<()>;
    /// # Safety
    /// The matrices have the sizes in `product`, and exist until the work is complete.
    unsafe fn product(&self, stream: Stream, product: &Product) -> Result<()>;

    /// From here on, work of the stream is recorded and not executed.
    fn start_recording(&self, stream: Stream) -> Result<()>;
    fn end_recording(&self, stream: Stream) -> Result<Graph>;
    /// # Safety
    /// The memory that the recorded work reads and writes still exists.
    unsafe fn repeat(&self, graph: Graph, stream: Stream) -> Result<()>;
    /// # Safety
    /// `end_recording` returned it, and it is not running.
    unsafe fn forget(&self, graph: Graph);

    /// Sets whether each kernel is timed from here on, for measurements.
    fn time_kernels(&self, on: bool);
    /// The times of all completed kernels since the last call.
    fn kernel_times(&self) -> Vec<KernelTime>;
}
