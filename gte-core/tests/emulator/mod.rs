//! The emulated GPU of a test process: the CUDA kernels as a shared library, which g++ makes of
//! their sources.
#![allow(clippy::unwrap_used, dead_code, reason = "shared by tests, each of which uses a part")]

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use gte_core::cuda_emulator::{Emulated, Emulation, install};

/// Makes `Device::Cuda(0)` the emulated GPU; one with an address sanitizer under
/// `GTE_TEST_EMULATOR=asan`.
pub(crate) fn gpu() -> &'static Emulated {
    static GPU: OnceLock<&Emulated> = OnceLock::new();
    GPU.get_or_init(|| {
        let kind = std::env::var("GTE_TEST_EMULATOR").unwrap_or_default();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gte-core/tests/check_cuda_kernels.sh");
        // Not the sanitizer of this process: bash and g++ do without.
        let made = Command::new(script).arg("--library").arg(&kind).env_remove("LD_PRELOAD").output().unwrap();
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "the kernels are not compiled for the CPU, which needs g++: {said}");
        let path = String::from_utf8(made.stdout).unwrap();
        install(Path::new(path.trim()), Emulation { apart: kind == "asan", ..Emulation::default() }).unwrap()
    })
}
