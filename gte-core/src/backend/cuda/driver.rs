//! `trait Driver`: what the verbs ask of a GPU. `nvidia/` is the real one, `emulated.rs` a CPU that runs the same
//! kernels for tests.
//!
//! Streams, graphs and pinned memory are handles, and addresses are numbers: who owns what is in `lane.rs`, and that
//! what a kernel is given is large enough in `launches.rs`.

use crate::error::Result;
use crate::profile::KernelTime;

/// An address in the memory of the device; 0 is null.
pub(super) type Pointer = u64;

/// A queue of work that is done in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stream(pub(super) usize);

/// Recorded work that can be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Graph(pub(super) usize);

/// What a device is.
#[derive(Clone, Debug)]
pub(super) struct Properties {
    /// The device as it is asked for: `cuda:0`.
    pub(super) label: String,
    /// The card's name.
    pub(super) name: String,
    /// Ten times the compute capability: 80 for 8.0.
    pub(super) capability: u32,
    /// Whether buffers lie apart, so that a sanitizer sees what is written beside one. Nothing is recorded then.
    pub(super) apart: bool,
}

/// Bytes of the device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) free: usize,
    pub(super) total: usize,
}

/// The blocks of a launch, their threads, and bytes of shared memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) blocks: (usize, usize),
    pub(super) threads: usize,
    pub(super) shared: usize,
}

/// The type of what products read and write.
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

/// y ← x · weightᵀ + bias, sums in f32. Results do not depend on `rows`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    pub(super) number: Number,
    pub(super) x: Pointer,      // (rows × inputs)
    pub(super) weight: Pointer, // (outputs × inputs)
    pub(super) bias: Pointer,   // (outputs), or null
    pub(super) y: Pointer,      // (rows × outputs)
    pub(super) rows: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

/// A GPU. Every method may be called from any thread.
///
/// Errors: [`Error::DeviceMemory`](crate::error::Error::DeviceMemory) where there is no room,
/// [`Error::DeviceLost`](crate::error::Error::DeviceLost) where the device answers no more,
/// [`Error::Device`](crate::error::Error::Device) for all else.
pub(super) trait Driver: Send + Sync {
    fn properties(&self) -> &Properties;
    fn memory(&self) -> Result<Memory>;
    /// The share of the last moments in which the device computed, where it is known.
    fn utilization(&self) -> Option<f32>;

    /// Memory of the device, aligned to 256 bytes, of any content.
    fn allocate(&self, bytes: usize) -> Result<Pointer>;
    /// # Safety
    /// `allocate` gave it, and no work that is not done yet reads or writes it.
    unsafe fn free(&self, pointer: Pointer);
    /// Memory of the host that the device copies from and to by itself.
    fn pin(&self, bytes: usize) -> Result<*mut u8>;
    /// # Safety
    /// `pin` gave it, for as many bytes, and no copy that is not done yet reads or writes it.
    unsafe fn unpin(&self, pointer: *mut u8, bytes: usize);

    fn open_stream(&self) -> Result<Stream>;
    /// # Safety
    /// `open_stream` gave it, and nobody uses it any more.
    unsafe fn close_stream(&self, stream: Stream);
    /// Waits until all work of the stream is done.
    fn wait(&self, stream: Stream) -> Result<()>;

    /// Copies to the device and waits for it.
    ///
    /// # Safety
    /// `to` has room for as many bytes, which no work uses meanwhile.
    unsafe fn store(&self, from: &[u8], to: Pointer) -> Result<()>;
    /// # Safety
    /// Both have `bytes` bytes, `from` is pinned, and neither goes away or is changed before the copy is done.
    unsafe fn upload(&self, stream: Stream, from: *const u8, to: Pointer, bytes: usize) -> Result<()>;
    /// # Safety
    /// Both have `bytes` bytes, and neither goes away before the copy is done.
    unsafe fn download(&self, stream: Stream, from: Pointer, to: *mut u8, bytes: usize) -> Result<()>;
    /// Starts a kernel. Each argument is a word whose first bytes are its value.
    ///
    /// # Safety
    /// The arguments are those of the kernel, and what they point to is as large as it asks for and stays until the
    /// work is done.
    unsafe fn launch(&self, stream: Stream, kernel: &str, geometry: Geometry, arguments: &[u64]) -> Result<()>;
    /// # Safety
    /// The matrices are of the sizes that it says, and stay until the work is done.
    unsafe fn product(&self, stream: Stream, product: &Product) -> Result<()>;

    /// From here on work of the stream is recorded and not done.
    fn start_recording(&self, stream: Stream) -> Result<()>;
    fn end_recording(&self, stream: Stream) -> Result<Graph>;
    /// # Safety
    /// What the recorded work reads and writes is still there.
    unsafe fn repeat(&self, graph: Graph, stream: Stream) -> Result<()>;
    /// # Safety
    /// `end_recording` gave it, and it is not running.
    unsafe fn forget(&self, graph: Graph);

    /// Whether each kernel is timed from here on; for measurements.
    fn time_kernels(&self, on: bool);
    /// What has been timed and is done; the times begin anew.
    fn kernel_times(&self) -> Vec<KernelTime>;
}
