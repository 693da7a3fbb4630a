//! Matrix products by cuBLASLt, which is loaded with the driver.
//!
//! One algorithm serves a layer for any number of rows: it is chosen once per inputs, outputs and type, for a fixed
//! number of rows, among those that need no workspace and cut no sum in parts. Each output is then summed in one order
//! whatever the batch, and a text's vector does not depend on its company. (Heuristics that are asked per batch choose
//! another algorithm, with another order, for another number of rows.)

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::{result, sys};

use super::super::driver::{Number, Product, Stream};
use super::stream_of;
use crate::error::{Error, Result};

/// Rows that algorithms are chosen for: a batch that fills a large card. With few rows a smaller tile would be faster,
/// but it would be another sum.
const ROWS: u64 = 4096;

/// `CUBLAS_OP_T`
const TURNED: i32 = 1;

/// What an algorithm is chosen by: type, inputs, outputs, and whether a bias is added.
type Key = (Number, usize, usize, bool);

pub(super) struct Products {
    handle: sys::cublasLtHandle_t,
    label: String,
    chosen: Mutex<HashMap<Key, sys::cublasLtMatmulAlgo_t>>,
}

// SAFETY: the library bears to be called with one handle from any thread.
unsafe impl Send for Products {}
// SAFETY: as above; what changes is behind a lock.
unsafe impl Sync for Products {}

impl Drop for Products {
    fn drop(&mut self) {
        // SAFETY: created in `new`, and used by nobody any more.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Products {
    /// # Errors
    /// [`Error::Device`] where the library is not there.
    pub(super) fn new(label: &str) -> Result<Self> {
        // SAFETY: it looks for the library, which is NVIDIA's own.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::Device {
                device: label.into(),
                reason: "the driver is here, but libcublasLt.so of CUDA 13 or 12 is not: it comes with CUDA's runtime images, with \
                         Debian's libcublaslt12, and with `pip install nvidia-cublas`; LD_LIBRARY_PATH must lead to it"
                    .into(),
            });
        }
        let handle = result::create_handle().map_err(|e| failed(label, "cuBLASLt", e))?;
        Ok(Self { handle, label: label.into(), chosen: Mutex::default() })
    }

    /// # Safety
    /// The matrices are of the sizes that `product` says, and stay until the work is done.
    pub(super) unsafe fn compute(&self, stream: Stream, product: &Product) -> Result<()> {
        let call = Call::new(product).map_err(|e| failed(&self.label, &name_of(product), e))?;
        let algorithm = self.algorithm(product)?;
        let (one, zero) = (1f32, 0f32);
        // The library counts columns first: y is (outputs × rows) to it, the weight (inputs × outputs) and turned.
        // SAFETY: the caller's promise; handles and scalars are there for as long as the call, scalars are read at once.
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

    /// The algorithm of all products of these inputs, outputs and type.
    fn algorithm(&self, product: &Product) -> Result<sys::cublasLtMatmulAlgo_t> {
        let key = (product.number, product.inputs, product.outputs, product.bias != 0);
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
        // SAFETY: the handles were made just now; attributes are read at once, each of its own size.
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

/// How a product is described to the library.
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
        let layout = |rows: usize, columns: usize| {
            result::create_matrix_layout(number, rows as u64, columns as u64, rows as i64)
        };
        let (null_desc, null) = (std::ptr::null_mut(), std::ptr::null_mut());
        // Dropped in part where a part of it cannot be made.
        let mut call = Self { description: null_desc, weight: null, x: null, y: null };
        // f32 in full: TF32 has but ten bits.
        call.description =
            result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType::CUDA_R_32F)?;
        call.weight = layout(product.inputs, product.outputs)?;
        call.x = layout(product.inputs, product.rows)?;
        call.y = layout(product.outputs, product.rows)?;
        let set = |attribute, value: *const c_void, bytes| {
            // SAFETY: the description was made just now; the value is read at once and has so many bytes.
            unsafe { result::set_matmul_desc_attribute(call.description, attribute, value, bytes) }
        };
        let turned = TURNED;
        set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, std::ptr::from_ref(&turned).cast(), size_of_val(&turned))?;
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
        // SAFETY: each was created in `new`, or is null, and is destroyed once.
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
