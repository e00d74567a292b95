//! Matrix products by cublasLt, with one algorithm per weight.
//!
//! cublasLt by itself picks an algorithm for each shape, and so for each batch size; another
//! algorithm sums in another order, and a sequence's bits would depend on how many tokens are
//! packed beside it. Here the algorithm is picked once per weight, for a large batch, among those
//! that sum over the common dimension in one piece (no split-K), and serves every batch size.

use std::collections::HashMap;
use std::mem::size_of;
use std::ptr;
use std::sync::{Arc, Mutex};

use candle_core::cuda_backend::cudarc::cublaslt::{result, sys};
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaStream, CudaView, DevicePtr, DevicePtrMut, sys::CUdeviceptr,
};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{CudaDevice, DType, Error, Result, bail};

/// What NVIDIA recommends for Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;
/// The rows that algorithms are picked for.
const TYPICAL_ROWS: u64 = 16_384;

/// One device's handle to cublasLt.
#[derive(Debug)]
pub(crate) struct Blas {
    handle: sys::cublasLtHandle_t,
    stream: Arc<CudaStream>,
    workspace: CudaSlice<u8>,
    algorithms: Mutex<HashMap<Product, Algorithm>>,
}

/// What an algorithm is picked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Product {
    pub(super) dtype: DType,
    pub(super) inputs: u64,
    pub(super) outputs: u64,
    /// Whether a residual stream and a bias are added.
    pub(super) is_added_to: bool,
}

/// What is added to a product before it is rounded.
pub(super) struct Added<'a, T> {
    /// `[rows, outputs]`.
    pub(super) residual: &'a CudaView<'a, T>,
    /// `[outputs]`.
    pub(super) bias: &'a CudaView<'a, T>,
}

#[derive(Clone, Copy)]
struct Algorithm(sys::cublasLtMatmulAlgo_t);

impl std::fmt::Debug for Algorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Algorithm")
    }
}

// SAFETY: a cublasLt handle may be used from any thread (its documentation says so for the whole
// API but for the destruction of the handle, which `drop` does with exclusive access).
unsafe impl Send for Blas {}
// SAFETY: the handle may be used by several threads at once (see `Send`), the algorithms are after
// a lock, and the workspace is used by products on one stream only, which run one after the other.
unsafe impl Sync for Blas {}

impl Blas {
    /// A handle for products on `device`'s own stream.
    ///
    /// # Errors
    /// If the device has no memory left, or cublasLt is not there.
    pub(crate) fn new(device: &CudaDevice) -> Result<Arc<Self>> {
        let stream = device.cuda_stream();
        let handle = result::create_handle().map_err(Error::wrap)?;
        // SAFETY: cublasLt writes what it reads of it.
        let workspace = unsafe { stream.alloc(WORKSPACE_BYTES) }.w()?;
        Ok(Arc::new(Self {
            handle,
            stream,
            workspace,
            algorithms: Mutex::default(),
        }))
    }

    /// `y` `[rows, outputs]` = `x` `[rows, inputs]` times `weight` `[outputs, inputs]` transposed.
    pub(super) fn multiply<T: CudaDType>(
        &self,
        product: Product,
        rows: u64,
        x: &impl DevicePtr<T>,
        weight: &impl DevicePtr<T>,
        added: Option<&Added<'_, T>>,
        y: &mut impl DevicePtrMut<T>,
    ) -> Result<()> {
        let description = Description::new()?;
        let bias = added.map(|added| added.bias.device_ptr(&self.stream));
        if let Some((bias, _use)) = &bias {
            description.add_bias(*bias, product.dtype)?;
        }
        let residual = added.map(|added| added.residual.device_ptr(&self.stream));
        let (weight, _weight_use) = weight.device_ptr(&self.stream);
        let (x, _x_use) = x.device_ptr(&self.stream);
        let (y, _y_use) = y.device_ptr_mut(&self.stream);
        let (workspace, _workspace_use) = self.workspace.device_ptr(&self.stream);
        let algorithm = self.algorithm(product, &description)?;
        let layouts = Layouts::new(product, rows)?;
        let (onto, factor) = match &residual {
            Some((residual, _use)) => (*residual, 1.0_f32),
            None => (y, 0.0),
        };
        // SAFETY: the pointers are of operands of the layouts' shapes (the callers checked), on
        // this stream's device, and live until the guards beside them are dropped; the algorithm
        // was picked for this description.
        unsafe {
            result::matmul(
                self.handle,
                description.0,
                ptr::from_ref(&1.0_f32).cast(),
                ptr::from_ref(&factor).cast(),
                weight as *const _,
                layouts.weight.0,
                x as *const _,
                layouts.x.0,
                onto as *const _,
                layouts.y.0,
                y as *mut _,
                layouts.y.0,
                &algorithm.0,
                workspace as *mut _,
                WORKSPACE_BYTES,
                self.stream.cu_stream().cast(),
            )
        }
        .map_err(Error::wrap)
    }

    /// Refuses another device than this is for.
    pub(super) fn check_device(&self, op: &str, device: &CudaDevice) -> Result<()> {
        if !Arc::ptr_eq(&device.cuda_stream(), &self.stream) {
            bail!("{op}: an operand is of another device, or of the same opened another time");
        }
        Ok(())
    }

    fn algorithm(&self, product: Product, description: &Description) -> Result<Algorithm> {
        let mut algorithms = self
            .algorithms
            .lock()
            .expect("nothing panics while it holds the algorithms");
        if let Some(algorithm) = algorithms.get(&product) {
            return Ok(*algorithm);
        }
        let layouts = Layouts::new(product, TYPICAL_ROWS)?;
        let preference = Preference::new()?;
        // SAFETY: all four are alive.
        let picked = unsafe {
            result::get_matmul_algo_heuristic(
                self.handle,
                description.0,
                layouts.weight.0,
                layouts.x.0,
                layouts.y.0,
                layouts.y.0,
                preference.0,
            )
        }
        .map_err(Error::wrap)?;
        Ok(*algorithms.entry(product).or_insert(Algorithm(picked.algo)))
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // A device that failed can't be cleaned up after.
        // SAFETY: `new` made it, and nobody else destroys it.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// Row-major operands, as cublasLt's column-major matrices.
struct Layouts {
    weight: MatrixLayout,
    x: MatrixLayout,
    y: MatrixLayout,
}

impl Layouts {
    fn new(product: Product, rows: u64) -> Result<Self> {
        let layout = |rows, columns| MatrixLayout::new(product.dtype, rows, columns);
        Ok(Self {
            weight: layout(product.inputs, product.outputs)?,
            x: layout(product.inputs, rows)?,
            y: layout(product.outputs, rows)?,
        })
    }
}

struct MatrixLayout(sys::cublasLtMatrixLayout_t);

impl MatrixLayout {
    fn new(dtype: DType, rows: u64, columns: u64) -> Result<Self> {
        let layout = result::create_matrix_layout(data_type(dtype)?, rows, columns, rows as i64)
            .map_err(Error::wrap)?;
        Ok(Self(layout))
    }
}

impl Drop for MatrixLayout {
    fn drop(&mut self) {
        // SAFETY: `new` made it. It is host memory, whose freeing does not fail.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

struct Description(sys::cublasLtMatmulDesc_t);

impl Description {
    fn new() -> Result<Self> {
        // The same for all formats: f32 sums, and for f32 operands no tf32.
        let sums = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let description = Self(
            result::create_matmul_desc(sums, sys::cudaDataType_t::CUDA_R_32F)
                .map_err(Error::wrap)?,
        );
        description.set(
            sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
            &1_i32,
        )?;
        Ok(description)
    }

    /// Adds `[outputs]` numbers at `bias` to each row.
    fn add_bias(&self, bias: CUdeviceptr, dtype: DType) -> Result<()> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;

        self.set(
            Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE,
            &sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
        )?;
        self.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        self.set(
            Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE,
            &data_type(dtype)?,
        )
    }

    fn set<V>(&self, attribute: sys::cublasLtMatmulDescAttributes_t, value: &V) -> Result<()> {
        // SAFETY: the description is alive, and cublasLt copies the value, whose size it checks.
        unsafe {
            result::set_matmul_desc_attribute(
                self.0,
                attribute,
                ptr::from_ref(value).cast(),
                size_of::<V>(),
            )
        }
        .map_err(Error::wrap)
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: `new` made it. It is host memory, whose freeing does not fail.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new() -> Result<Self> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;

        let preference = Self(result::create_matmul_pref().map_err(Error::wrap)?);
        preference.set(
            Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            &WORKSPACE_BYTES,
        )?;
        preference.set(
            Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
            &(sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_NONE as u32),
        )?;
        Ok(preference)
    }

    fn set<V>(
        &self,
        attribute: sys::cublasLtMatmulPreferenceAttributes_t,
        value: &V,
    ) -> Result<()> {
        // SAFETY: the preference is alive, and cublasLt copies the value, whose size it checks.
        unsafe {
            result::set_matmul_pref_attribute(
                self.0,
                attribute,
                ptr::from_ref(value).cast(),
                size_of::<V>(),
            )
        }
        .map_err(Error::wrap)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: `new` made it. It is host memory, whose freeing does not fail.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

fn data_type(dtype: DType) -> Result<sys::cudaDataType_t> {
    Ok(match dtype {
        DType::F32 => sys::cudaDataType_t::CUDA_R_32F,
        DType::F16 => sys::cudaDataType_t::CUDA_R_16F,
        DType::BF16 => sys::cudaDataType_t::CUDA_R_16BF,
        other => bail!("products are of f32, f16 and bf16, not {other:?}"),
    })
}
