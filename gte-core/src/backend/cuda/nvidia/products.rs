//! Matrix products with cuBLASLt, which is loaded with the driver.
//!
//! A layer uses one algorithm for any number of rows. It is chosen once per number of inputs and
//! outputs and type, for a fixed number of rows, among those that need no workspace and do not
//! split a sum. The sum of each output then has the same order in every batch, so that a text's
//! vector does not depend on the rest of its batch. (Asking the heuristics for each batch would
//! choose different algorithms, with different orders, for different numbers of rows.)
//!
//! What the library requires of products of e4m3
//! (<https://docs.nvidia.com/cuda/cublas/#cublasltmatmul>), and all calls here meet:
//! - A is transposed and B is not ("TN"), the only layout on compute capability 8.9, 9.0 and 12.x.
//! - Pointers and the bytes of a row are multiples of 16, so inputs and outputs are multiples of 16
//!   (`load.rs`). The number of rows is free.
//! - Sums and scales are f32. D is bf16, f16 or f32; its epilogue may add a bias, in bf16 for bf16.
//! - One scale per matrix, 1 if no pointer is set, works from 8.9 on, a scale per row on 9.0 only
//!   (<https://docs.nvidia.com/cuda/cublas/#outer-vector-scaling-for-fp8-data-types>).
//!
//! The library has e4m3 on 8.9 since CUDA 12.1, and a scale per row since 12.9. Its "fast
//! accumulation" on Ada and Hopper is less accurate, and off by default.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::{result, sys};

use super::super::driver::{Fp8, Number, Product, Stream};
use super::stream_of;
use crate::error::{Error, Result};

/// The number of rows for which algorithms are chosen: a batch that fills a large card. With few
/// rows, a smaller tile would be faster, but it could sum in a different order.
const ROWS: u64 = 4096;

/// `CUBLAS_OP_T`
const TURNED: i32 = 1;

/// `CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F`: a scale for each row of both operands.
const SCALE_PER_ROW: i32 = 3;

/// The properties that determine an algorithm: type, inputs, outputs, whether a bias is added,
/// whether operands are e4m3, and whether those have scales.
type Key = (Number, usize, usize, bool, bool, bool);

pub(super) struct Products {
    handle: sys::cublasLtHandle_t,
    label: String,
    chosen: Mutex<HashMap<Key, sys::cublasLtMatmulAlgo_t>>,
}

// SAFETY: one handle of the library may be used from any thread.
unsafe impl Send for Products {}
// SAFETY: as above; mutable state is behind a lock.
unsafe impl Sync for Products {}

impl Drop for Products {
    fn drop(&mut self) {
        // SAFETY: it was created in `new` and is no longer used.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Products {
    /// # Errors
    /// [`Error::Device`] if the library cannot be loaded.
    pub(super) fn new(label: &str) -> Result<Self> {
        // SAFETY: it loads the library, which is NVIDIA's own.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::Device {
                device: label.into(),
                reason: "there is a driver, but no libcublasLt.so of CUDA 12 or 13: install it with `pip install nvidia-cublas` or \
                         Debian's libcublaslt12, or take it from NVIDIA's images, and set LD_LIBRARY_PATH to its folder"
                    .into(),
            });
        }
        let handle = result::create_handle().map_err(|e| failed(label, "cuBLASLt", e))?;
        Ok(Self { handle, label: label.into(), chosen: Mutex::default() })
    }

    /// Where the scales of e4m3 are applied, or why there are no products of e4m3: the library is
    /// asked for an algorithm with and without a scale per row, as before a product.
    pub(super) fn fp8(&self) -> std::result::Result<Fp8, String> {
        // An address that is aligned, and that nothing reads.
        let any = 4096;
        let (number, e4m3, rows, inputs, outputs) = (Number::Bf16, true, 1, 1024, 1024);
        let sums = Product { number, e4m3, x: any, weight: any, scales: None, bias: 0, y: any, rows, inputs, outputs };
        if self.choose(&Product { scales: Some([any, any]), bias: any, ..sums }).is_ok() {
            return Ok(Fp8::InProduct);
        }
        self.choose(&sums).map(|_| Fp8::AfterProduct).map_err(|error| {
            // SAFETY: the library is loaded.
            let version = unsafe { sys::cublasLtGetVersion() };
            format!(
                "its cuBLASLt {}.{} has no product of e4m3 for this card ({error}); CUDA 12.1 and newer have it for compute \
                 capability 8.9",
                version / 10_000,
                version / 100 % 100
            )
        })
    }

    /// # Safety
    /// The matrices have the sizes in `product`, and exist until the work is complete.
    pub(super) unsafe fn compute(&self, stream: Stream, product: &Product) -> Result<()> {
        let call = Call::new(product).map_err(|e| failed(&self.label, &name_of(product), e))?;
        let algorithm = self.algorithm(product)?;
        let (one, zero) = (1f32, 0f32);
        // The library's matrices are column-major: to it, y is (outputs × rows), and the weight is
        // (inputs × outputs) and transposed.
        // SAFETY: guaranteed by the caller; handles and scalars exist during the call, which reads
        // the scalars immediately.
        let done = unsafe {
            result::matmul(
                self.handle,
                call.description,
                std::ptr::from_ref(&one).cast(),
                std::ptr::from_ref(&zero).cast(),
                product.weight as *const c_void,
                call.weight,
                product.x as *const c_void,
                call.x,
                product.y as *const c_void,
                call.y,
                product.y as *mut c_void,
                call.y,
                &algorithm,
                std::ptr::null_mut(),
                0,
                stream_of(stream).cast(),
            )
        };
        done.map_err(|e| failed(&self.label, &name_of(product), e))
    }

    /// The algorithm for all products with these inputs, outputs and type.
    fn algorithm(&self, product: &Product) -> Result<sys::cublasLtMatmulAlgo_t> {
        let Product { number, inputs, outputs, e4m3, .. } = *product;
        let key = (number, inputs, outputs, product.bias != 0, e4m3, product.scales.is_some());
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(algorithm) = chosen.get(&key) {
            return Ok(*algorithm);
        }
        let found = self.choose(product).map_err(|e| failed(&self.label, &name_of(product), e))?;
        chosen.insert(key, found);
        Ok(found)
    }

    fn choose(&self, product: &Product) -> std::result::Result<sys::cublasLtMatmulAlgo_t, CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t::{
            CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES as WORKSPACE,
            CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK as REDUCTIONS,
        };
        let call = Call::new(&Product { rows: ROWS as usize, ..*product })?;
        let preference = result::create_matmul_pref()?;
        let (workspace, reductions) = (0usize, sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_NONE as u32);
        // SAFETY: the handles have just been created; attributes are read immediately, each with
        // its own size.
        unsafe {
            let found = result::set_matmul_pref_attribute(
                preference,
                WORKSPACE,
                std::ptr::from_ref(&workspace).cast(),
                size_of_val(&workspace),
            )
            .and_then(|()| {
                result::set_matmul_pref_attribute(
                    preference,
                    REDUCTIONS,
                    std::ptr::from_ref(&reductions).cast(),
                    size_of_val(&reductions),
                )
            })
            .and_then(|()| {
                result::get_matmul_algo_heuristic(
                    self.handle,
                    call.description,
                    call.weight,
                    call.x,
                    call.y,
                    call.y,
                    preference,
                )
            });
            let _ = result::destroy_matmul_pref(preference);
            found.map(|found| found.algo)
        }
    }
}

fn name_of(product: &Product) -> String {
    format!("the product {} → {} of {} rows", product.inputs, product.outputs, product.rows)
}

fn failed(label: &str, what: &str, e: CublasError) -> Error {
    use sys::cublasStatus_t::{CUBLAS_STATUS_EXECUTION_FAILED, CUBLAS_STATUS_INTERNAL_ERROR};
    let (device, reason) = (label.to_owned(), format!("{what}: {e}"));
    match e.0 {
        CUBLAS_STATUS_EXECUTION_FAILED | CUBLAS_STATUS_INTERNAL_ERROR => Error::DeviceLost { device, reason },
        _ => Error::Device { device, reason },
    }
}

/// The description of a product for the library.
struct Call {
    description: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    y: sys::cublasLtMatrixLayout_t,
}

impl Call {
    fn new(product: &Product) -> std::result::Result<Self, CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let number = match product.number {
            Number::F32 => sys::cudaDataType::CUDA_R_32F,
            Number::F16 => sys::cudaDataType::CUDA_R_16F,
            Number::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        };
        let read = if product.e4m3 { sys::cudaDataType::CUDA_R_8F_E4M3 } else { number };
        let layout = |number, rows: usize, columns: usize| {
            result::create_matrix_layout(number, rows as u64, columns as u64, rows as i64)
        };
        let (null_desc, null) = (std::ptr::null_mut(), std::ptr::null_mut());
        // If creating a part fails, the others are dropped with this.
        let mut call = Self { description: null_desc, weight: null, x: null, y: null };
        // Full f32, because TF32 has only ten bits.
        call.description =
            result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType::CUDA_R_32F)?;
        call.weight = layout(read, product.inputs, product.outputs)?;
        call.x = layout(read, product.inputs, product.rows)?;
        call.y = layout(number, product.outputs, product.rows)?;
        let set = |attribute, value: *const c_void, bytes| {
            // SAFETY: the description has just been created; the value is read immediately and has
            // this many bytes.
            unsafe { result::set_matmul_desc_attribute(call.description, attribute, value, bytes) }
        };
        let turned = TURNED;
        set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, std::ptr::from_ref(&turned).cast(), size_of_val(&turned))?;
        if let Some([of_rows, of_outputs]) = product.scales {
            // The library's A is the weight, its B is x.
            let modes = [Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_MODE, Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_MODE];
            for mode in modes {
                set(mode, std::ptr::from_ref(&SCALE_PER_ROW).cast(), size_of_val(&SCALE_PER_ROW))?;
            }
            let pointers = [
                (Attribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, of_outputs),
                (Attribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, of_rows),
            ];
            for (attribute, scales) in pointers {
                set(attribute, std::ptr::from_ref(&scales).cast(), size_of_val(&scales))?;
            }
        }
        if product.bias != 0 {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32;
            set(
                Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE,
                std::ptr::from_ref(&epilogue).cast(),
                size_of_val(&epilogue),
            )?;
            let bias = product.bias;
            set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, std::ptr::from_ref(&bias).cast(), size_of_val(&bias))?;
        }
        Ok(call)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // SAFETY: each was created in `new` or is null, and is destroyed once.
        unsafe {
            for layout in [self.weight, self.x, self.y].into_iter().filter(|layout| !layout.is_null()) {
                let _ = result::destroy_matrix_layout(layout);
            }
            if !self.description.is_null() {
                let _ = result::destroy_matmul_desc(self.description);
            }
        }
    }
}
