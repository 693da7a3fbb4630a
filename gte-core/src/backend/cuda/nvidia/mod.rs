//! NVIDIA's driver, which is loaded when a model is opened on a GPU, so that the same program runs
//! on machines without one. The program contains the kernels as PTX. The driver compiles it for the
//! card and caches the result (`CUDA_CACHE_PATH`).

mod monitor;
mod products;
mod ptx;

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use libloading::{Library, Symbol};

use self::monitor::Monitor;
use self::products::Products;
use super::driver::{Driver, Fp8, Geometry, Graph, Memory, Pointer, Product, Properties, Stream};
use crate::error::{Error, Result};
use crate::profile::KernelTime;

/// Bytes of shared memory that every launch may use. More must be requested.
const USUAL_SHARED: usize = 48 << 10;

/// `CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING`
const BLOCKING_WITHOUT_TIME: u32 = 1 | 2;

/// The version of the oldest driver that reads the kernels' PTX: that of CUDA 11.8.
const OLDEST: i32 = 11_080;

/// GPU number `number` of those in `CUDA_VISIBLE_DEVICES`.
///
/// # Errors
/// [`Error::Device`], which says what is missing.
pub(super) fn open(number: usize) -> Result<Arc<dyn Driver>> {
    let label = format!("cuda:{number}");
    let missing = |reason: String| Error::Device { device: label.clone(), reason };
    // SAFETY: it loads the driver's library, which is NVIDIA's own.
    if !unsafe { sys::is_culib_present() } {
        return Err(missing("no CUDA driver: libcuda.so.1 was not found".into()));
    }
    let failed = |what: &str, e: DriverError| missing(format!("{what}: {}", words(e)));
    result::init().map_err(|e| failed("the CUDA driver does not start", e))?;
    let mut version = 0;
    // SAFETY: it writes one integer, which exists.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(|e| failed("its version", e))?;
    if version < OLDEST {
        let found = format!("{}.{}", version / 1000, version % 1000 / 10);
        return Err(missing(format!("its driver supports CUDA {found}, and 11.8 or newer is required (driver 520)")));
    }
    let count = result::device::get_count().map_err(|e| failed("GPUs cannot be counted", e))?;
    if number >= count.max(0) as usize {
        return Err(missing(format!("no such GPU: there are {count}")));
    }
    let device = result::device::get(number as i32).map_err(|e| failed("no such GPU", e))?;
    let name = result::device::get_name(device).map_err(|e| failed("its name", e))?;
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let attribute = |which| {
        // SAFETY: the driver returned this device.
        unsafe { result::device::get_attribute(device, which) }.map_err(|e| failed("its compute capability", e))
    };
    let capability = (10 * attribute(MAJOR)? + attribute(MINOR)?) as u32;
    if capability < 75 {
        let found = format!("{}.{}", capability / 10, capability % 10);
        return Err(missing(format!("{name} has compute capability {found}, and 7.5 (Turing) or newer is required")));
    }
    // SAFETY: as above; it is released when the driver is dropped.
    let context = unsafe { result::primary_ctx::retain(device) }.map_err(|e| failed("no context", e))?;
    let properties = Properties { label: label.clone(), name, capability, apart: false };
    let mut nvidia = Nvidia {
        properties,
        device,
        context,
        modules: Mutex::default(),
        functions: RwLock::default(),
        products: None,
        monitor: None,
        timed: Mutex::default(),
    };
    nvidia.enter()?;
    nvidia.products = Some(Products::new(&label)?);
    nvidia.monitor = result::device::get_uuid(device).ok().and_then(|uuid| Monitor::new(&uuid.bytes));
    Ok(Arc::new(nvidia))
}

/// Whether there is a driver, and a GPU.
pub(super) fn is_here() -> bool {
    // SAFETY: it loads the driver's library, which is NVIDIA's own.
    let driver = unsafe { sys::is_culib_present() };
    driver && result::init().is_ok() && result::device::get_count().is_ok_and(|count| count > 0)
}

/// The driver's own error message.
fn words(e: DriverError) -> String {
    let text =
        |text: std::result::Result<&CStr, DriverError>| text.map_or("?".into(), |t| t.to_string_lossy().into_owned());
    format!("{} ({})", text(e.error_string()), text(e.error_name()))
}

struct Nvidia {
    properties: Properties,
    device: sys::CUdevice,
    context: sys::CUcontext,
    modules: Mutex<HashMap<&'static str, sys::CUmodule>>,
    functions: RwLock<HashMap<String, Function>>,
    products: Option<Products>,
    monitor: Option<Monitor>,
    timed: Mutex<Option<Vec<Timed>>>,
}

#[derive(Clone, Copy)]
struct Function(sys::CUfunction);

/// A kernel with the events before and after it.
struct Timed {
    name: String,
    start: sys::CUevent,
    end: sys::CUevent,
}

// SAFETY: contexts, modules, functions and events are handles that any thread may use.
unsafe impl Send for Nvidia {}
// SAFETY: as above; mutable state is behind locks.
unsafe impl Sync for Nvidia {}

fn stream_of(stream: Stream) -> sys::CUstream {
    stream.0 as sys::CUstream
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Nvidia {
    fn error(&self, e: DriverError, what: &str) -> Error {
        use sys::cudaError_enum as Code;
        let device = self.properties.label.clone();
        let reason = format!("{what}: {}", words(e));
        match e.0 {
            // After one of these errors, the context no longer works.
            Code::CUDA_ERROR_ILLEGAL_ADDRESS
            | Code::CUDA_ERROR_LAUNCH_FAILED
            | Code::CUDA_ERROR_LAUNCH_TIMEOUT
            | Code::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | Code::CUDA_ERROR_MISALIGNED_ADDRESS
            | Code::CUDA_ERROR_INVALID_PC
            | Code::CUDA_ERROR_HARDWARE_STACK_ERROR
            | Code::CUDA_ERROR_ECC_UNCORRECTABLE
            | Code::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | Code::CUDA_ERROR_DEVICE_UNAVAILABLE
            | Code::CUDA_ERROR_CONTAINED
            | Code::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | Code::CUDA_ERROR_INVALID_CONTEXT
            | Code::CUDA_ERROR_DEINITIALIZED
            | Code::CUDA_ERROR_NO_DEVICE
            | Code::CUDA_ERROR_UNKNOWN => Error::DeviceLost { device, reason },
            _ => Error::Device { device, reason },
        }
    }

    fn checked<T>(&self, result: std::result::Result<T, DriverError>, what: &str) -> Result<T> {
        result.map_err(|e| self.error(e, what))
    }

    /// Makes the device current for this thread.
    fn enter(&self) -> Result<()> {
        // SAFETY: the context is retained for as long as `self` exists.
        self.checked(unsafe { result::ctx::set_current(self.context) }, "its context")
    }

    fn memory_for<T>(&self, result: std::result::Result<T, DriverError>, bytes: usize) -> Result<T> {
        match result {
            Err(e) if e.0 == sys::cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY => {
                Err(Error::DeviceMemory { device: self.properties.label.clone(), bytes })
            }
            other => self.checked(other, "memory"),
        }
    }

    /// The kernel with this name. The driver compiles a module when its first kernel is needed.
    fn function(&self, kernel: &str) -> Result<Function> {
        if let Some(&function) = self.functions.read().unwrap_or_else(PoisonError::into_inner).get(kernel) {
            return Ok(function);
        }
        let (file, text) = ptx::of(kernel, self.properties.capability).ok_or_else(|| Error::Device {
            device: self.properties.label.clone(),
            reason: format!("no kernel `{kernel}` for its compute capability"),
        })?;
        let mut modules = locked(&self.modules);
        let module = match modules.get(file) {
            Some(&module) => module,
            None => {
                // SAFETY: the text ends with a zero byte, and the driver only reads it.
                let module = unsafe { result::module::load_data(text.as_ptr().cast::<c_void>()) };
                let module = self.checked(module, &format!("the kernels of {file}"))?;
                modules.insert(file, module);
                module
            }
        };
        let name = CString::new(kernel).expect("names of kernels are words");
        // SAFETY: the module is loaded, and it stays loaded for as long as the context exists.
        let found = unsafe { result::module::get_function(module, name) };
        let function = Function(self.checked(found, &format!("the kernel `{kernel}`"))?);
        self.functions.write().unwrap_or_else(PoisonError::into_inner).insert(kernel.to_owned(), function);
        Ok(function)
    }

    /// Starts work, between two events if kernels are timed.
    fn timed(&self, stream: Stream, name: impl FnOnce() -> String, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut timed = locked(&self.timed);
        let Some(all) = &mut *timed else {
            drop(timed);
            return work();
        };
        let event = || -> Result<sys::CUevent> {
            let event = self.checked(result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT), "an event")?;
            // SAFETY: event and stream exist.
            self.checked(unsafe { result::event::record(event, stream_of(stream)) }, "an event")?;
            Ok(event)
        };
        let start = event()?;
        work()?;
        all.push(Timed { name: name(), start, end: event()? });
        Ok(())
    }
}

/// The driver's `cuEventElapsedTime`. cudarc only calls its second version, which drivers have
/// since CUDA 12.8; all of them have the first one.
fn elapsed_time() -> Option<Symbol<'static, ElapsedTime>> {
    static DRIVER: OnceLock<Option<Library>> = OnceLock::new();
    // SAFETY: the driver's library is loaded already, and its function has this type (cuda.h).
    let library = DRIVER.get_or_init(|| unsafe { Library::new("libcuda.so.1") }.ok());
    // SAFETY: as above.
    unsafe { library.as_ref()?.get(b"cuEventElapsedTime").ok() }
}

type ElapsedTime = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;

impl Driver for Nvidia {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn memory(&self) -> Result<Memory> {
        self.enter()?;
        let (free, total) = self.checked(result::mem_get_info(), "its memory")?;
        Ok(Memory { free, total })
    }

    fn fp8(&self) -> std::result::Result<Fp8, String> {
        let Some(products) = &self.products else { unreachable!("`open` has made them") };
        products.fp8()
    }

    fn utilization(&self) -> Option<f32> {
        self.monitor.as_ref().and_then(Monitor::utilization)
    }

    fn allocate(&self, bytes: usize) -> Result<Pointer> {
        self.enter()?;
        // SAFETY: the memory is written before it is read.
        self.memory_for(unsafe { result::malloc_sync(bytes.max(1)) }, bytes)
    }

    unsafe fn free(&self, pointer: Pointer) {
        // SAFETY: guaranteed by the caller. A lost device has nothing to free and returns an error,
        // which is ignored.
        let _ = self.enter().map(|()| unsafe { result::free_sync(pointer) });
    }

    fn pin(&self, bytes: usize) -> Result<*mut u8> {
        self.enter()?;
        // SAFETY: the memory is written below.
        let pointer = self.checked(unsafe { result::malloc_host(bytes, 0) }, "pinned memory of the host")?.cast::<u8>();
        // SAFETY: it has just been allocated with this size.
        unsafe { std::ptr::write_bytes(pointer, 0, bytes) };
        Ok(pointer)
    }

    unsafe fn unpin(&self, pointer: *mut u8, _bytes: usize) {
        // SAFETY: guaranteed by the caller.
        let _ = self.enter().map(|()| unsafe { result::free_host(pointer.cast()) });
    }

    fn open_stream(&self) -> Result<Stream> {
        self.enter()?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
        Ok(Stream(self.checked(stream, "a stream")? as usize))
    }

    unsafe fn close_stream(&self, stream: Stream) {
        // SAFETY: guaranteed by the caller.
        let _ = self.enter().map(|()| unsafe { result::stream::destroy(stream_of(stream)) });
    }

    fn wait(&self, stream: Stream) -> Result<()> {
        self.enter()?;
        // An event that blocks is used because waiting for a stream spins, and a server's few CPUs
        // have texts to tokenize.
        let mut event = std::ptr::null_mut();
        // SAFETY: closing a stream is its last use, so it is open here; the event is created and
        // destroyed here.
        let done = unsafe {
            let made = sys::cuEventCreate(&mut event, BLOCKING_WITHOUT_TIME).result();
            let done = made
                .and_then(|()| result::event::record(event, stream_of(stream)))
                .and_then(|()| result::event::synchronize(event));
            if !event.is_null() {
                let _ = result::event::destroy(event);
            }
            done
        };
        self.checked(done, "while computing")
    }

    unsafe fn store(&self, from: &[u8], to: Pointer) -> Result<()> {
        self.enter()?;
        // SAFETY: guaranteed by the caller.
        self.checked(unsafe { result::memcpy_htod_sync(to, from) }, "a copy")?;
        // The call may return before all of pageable memory has been copied, and other streams do
        // not wait for it.
        // SAFETY: the default stream always exists.
        self.checked(unsafe { result::stream::synchronize(result::stream::null()) }, "a copy")
    }

    unsafe fn upload(&self, stream: Stream, from: *const u8, to: Pointer, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: guaranteed by the caller.
        let done = unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.cast(), bytes, stream_of(stream)) };
        self.checked(done.result(), "a copy")
    }

    unsafe fn download(&self, stream: Stream, from: Pointer, to: *mut u8, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: guaranteed by the caller.
        let done = unsafe { sys::cuMemcpyDtoHAsync_v2(to.cast(), from, bytes, stream_of(stream)) };
        self.checked(done.result(), "a copy")
    }

    unsafe fn launch(&self, stream: Stream, kernel: &str, geometry: Geometry, arguments: &[u64]) -> Result<()> {
        self.enter()?;
        let function = self.function(kernel)?.0;
        let (blocks, shared) = (geometry.blocks, geometry.shared);
        if shared > USUAL_SHARED {
            use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as SHARED;
            // SAFETY: the function exists for as long as its module.
            let done = unsafe { result::function::set_function_attribute(function, SHARED, shared as i32) };
            self.checked(done, &format!("{shared} bytes of shared memory for `{kernel}`"))?;
        }
        let mut words = arguments.to_vec();
        let mut pointers: Vec<*mut c_void> = words.iter_mut().map(|word| std::ptr::from_mut(word).cast()).collect();
        self.timed(
            stream,
            || kernel.to_owned(),
            || {
                // SAFETY: guaranteed by the caller. The driver copies the arguments: as many bytes
                // of each word as the kernel's parameter has, which are its first ones on a
                // little-endian machine.
                let done = unsafe {
                    result::launch_kernel(
                        function,
                        (blocks.0 as u32, blocks.1 as u32, 1),
                        (geometry.threads as u32, 1, 1),
                        shared as u32,
                        stream_of(stream),
                        &mut pointers,
                    )
                };
                self.checked(done, &format!("the kernel `{kernel}`"))
            },
        )
    }

    unsafe fn product(&self, stream: Stream, product: &Product) -> Result<()> {
        self.enter()?;
        let Some(products) = &self.products else { unreachable!("`open` has made them") };
        let name = || format!("product {} → {}", product.inputs, product.outputs);
        // SAFETY: guaranteed by the caller.
        self.timed(stream, name, || unsafe { products.compute(stream, product) })
    }

    fn start_recording(&self, stream: Stream) -> Result<()> {
        self.enter()?;
        use sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED as RELAXED;
        // SAFETY: the stream is open. In relaxed mode, other streams and threads may continue
        // meanwhile.
        self.checked(unsafe { result::stream::begin_capture(stream_of(stream), RELAXED) }, "a recording")
    }

    fn end_recording(&self, stream: Stream) -> Result<Graph> {
        self.enter()?;
        // SAFETY: the stream is open; the graph is created and destroyed here, and only its
        // executable form stays.
        unsafe {
            let graph = self.checked(result::stream::end_capture(stream_of(stream)), "a recording")?;
            let made = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags_enum(0));
            let _ = result::graph::destroy(graph);
            Ok(Graph(self.checked(made, "a recording")? as usize))
        }
    }

    unsafe fn repeat(&self, graph: Graph, stream: Stream) -> Result<()> {
        self.enter()?;
        // SAFETY: guaranteed by the caller.
        self.checked(
            unsafe { result::graph::launch(graph.0 as sys::CUgraphExec, stream_of(stream)) },
            "a recorded pass",
        )
    }

    unsafe fn forget(&self, graph: Graph) {
        // SAFETY: guaranteed by the caller.
        let _ = self.enter().map(|()| unsafe { result::graph::exec_destroy(graph.0 as sys::CUgraphExec) });
    }

    fn time_kernels(&self, on: bool) {
        let _ = self.kernel_times();
        *locked(&self.timed) = on.then(Vec::new);
    }

    fn kernel_times(&self) -> Vec<KernelTime> {
        let mut sums: HashMap<String, (u64, f64)> = HashMap::new();
        let mut timed = locked(&self.timed);
        let Some(all) = &mut *timed else { return Vec::new() };
        if self.enter().is_err() || result::ctx::synchronize().is_err() {
            return Vec::new();
        }
        let elapsed = elapsed_time();
        for Timed { name, start, end } in all.drain(..) {
            let mut milliseconds = 0.0;
            // SAFETY: both events were recorded on one stream, and each is destroyed once; the
            // function writes one number, which exists.
            unsafe {
                if let Some(elapsed) = &elapsed {
                    elapsed(&mut milliseconds, start, end);
                }
                let _ = (result::event::destroy(start), result::event::destroy(end));
            }
            let sum = sums.entry(name).or_default();
            *sum = (sum.0 + 1, sum.1 + f64::from(milliseconds) / 1e3);
        }
        sums.into_iter().map(|(name, (calls, seconds))| KernelTime { name, calls, seconds }).collect()
    }
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        let entered = self.enter();
        // Its handle belongs to the context, so it is dropped first.
        self.products = None;
        if entered.is_ok() {
            for &module in locked(&self.modules).values() {
                // SAFETY: it was loaded once, and no work is pending, because pending work holds
                // the driver.
                let _ = unsafe { result::module::unload(module) };
            }
        }
        // SAFETY: it was retained once in `open`.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}
