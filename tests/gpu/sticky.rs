//! Errors after which a GPU's context is of no use any more.

use plm_core::BoxError;

use crate::runs::run_with_fault;

pub(crate) fn a_gpu_with_a_sticky_error_is_left_alone() {
    let failure = run_with_fault(break_the_second_gpu);
    assert!(failure.contains("CUDA_ERROR"), "{failure}");
}

/// Runs a kernel that traps.
#[cfg(feature = "cuda")]
#[allow(unsafe_code, reason = "kernels are launched by pointer")]
fn break_the_second_gpu() -> Result<(), BoxError> {
    use candle_core::cuda_backend::cudarc::driver::LaunchConfig;
    use candle_core::{CudaDevice, backend::BackendDevice};

    const TRAP: &str =
        ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry trap_here() { trap; }";

    let gpu = CudaDevice::new(1)?;
    let trap = gpu.get_or_load_custom_func("trap_here", "trap", TRAP)?;
    // SAFETY: it takes nothing and touches nothing; that it fails is the point.
    unsafe { trap.builder().launch(LaunchConfig::for_num_elems(1)) }?;
    // The trap shows in what is asked of the GPU next.
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn break_the_second_gpu() -> Result<(), BoxError> {
    Err("there is no GPU to break".into())
}
