//! The utilization of a GPU, from NVIDIA's management library (NVML) if it is installed. Only four
//! of its functions are needed, so they are declared here instead of using a crate.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};

use libloading::Library;

type Device = *mut c_void;

/// `nvmlUtilization_t`
#[repr(C)]
#[derive(Default)]
struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

/// A GPU as NVML knows it.
pub(super) struct Monitor {
    rates: unsafe extern "C" fn(Device, *mut Utilization) -> c_int,
    device: Device,
    _library: Library,
}

// SAFETY: the library may be called from any thread (NVML API reference, "Thread safety").
unsafe impl Send for Monitor {}
// SAFETY: as above.
unsafe impl Sync for Monitor {}

impl Monitor {
    /// The GPU with this identifier, or `None` if the library is not installed or does not know it.
    /// A MIG instance has no utilization of its own.
    pub(super) fn new(uuid: &[c_char; 16]) -> Option<Self> {
        let hex: String = uuid.iter().map(|&byte| format!("{:02x}", byte as u8)).collect();
        let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        let name = CString::new(format!("GPU-{}", parts.join("-"))).ok()?;
        // SAFETY: it is NVIDIA's library, and its functions have these types (nvml.h); `device` is
        // written before it is read.
        unsafe {
            let library = Library::new("libnvidia-ml.so.1").ok()?;
            let start = library.get::<unsafe extern "C" fn() -> c_int>(b"nvmlInit_v2").ok()?;
            let find = library
                .get::<unsafe extern "C" fn(*const c_char, *mut Device) -> c_int>(b"nvmlDeviceGetHandleByUUID")
                .ok()?;
            let rates = *library.get(b"nvmlDeviceGetUtilizationRates").ok()?;
            let mut device: Device = std::ptr::null_mut();
            let found = start() == 0 && find(name.as_ptr(), &mut device) == 0;
            found.then_some(Self { rates, device, _library: library })
        }
    }

    /// The share of the last moments in which a kernel ran.
    pub(super) fn utilization(&self) -> Option<f32> {
        let mut rates = Utilization::default();
        // SAFETY: the library is loaded for as long as `self` exists, and it returned the device.
        let code = unsafe { (self.rates)(self.device, &mut rates) };
        (code == 0).then_some(rates.gpu as f32 / 100.0)
    }
}
