//! Errors after which CUDA is of no use in a process any more.
//!
//! The driver calls some errors of kernels fatal for the process; seen on two H100s (driver 580), one GPU's takes the other's
//! context with it. So a run may end by one, and goes on where it was in the next process.

use std::env;
use std::path::Path;
use std::process::Command;

use plm_core::BoxError;
use plm_fleet::Error;

use crate::runs::{run_thousand, vectors, write_thousand};

/// Names the folder in which a process of its own is to run and break.
pub(crate) const BREAK: &str = "PLM_FLEET_TEST_BREAKS_IN";

pub(crate) fn a_run_that_a_sticky_error_ended_goes_on() {
    let out = tempfile::tempdir().expect("there is room");
    write_thousand(out.path());
    let this = env::current_exe().expect("it runs");
    let broken = Command::new(this)
        .env(BREAK, out.path())
        .output()
        .expect("it starts");
    let told = String::from_utf8_lossy(&broken.stdout);
    println!("{told}");
    assert!(broken.status.success(), "{broken:?}");
    assert!(
        told.contains("CUDA_ERROR") && told.contains("rank 1"),
        "{told}"
    );

    let went_on = run_thousand(out.path(), "broken", &[0, 1], None).expect("it goes on");
    let whole = run_thousand(out.path(), "whole", &[0], None).expect("it runs");
    assert_eq!(vectors(&went_on), vectors(&whole));
}

/// Runs until the second GPU breaks, and tells how that ends.
pub(crate) fn run_and_break(out: &Path) {
    match run_thousand(out, "broken", &[0, 1], Some(break_the_second_gpu)) {
        Ok(report) => println!("finished all the same; {}", report.failed_ranks[0]),
        Err(Error::Coordinator(error)) => {
            let report = error.report().expect("the ranks had begun");
            report.failures().for_each(|failure| println!("{failure}"));
        }
        Err(error) => println!("{error}"),
    }
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
    // It shows in what is asked of the GPU next.
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn break_the_second_gpu() -> Result<(), BoxError> {
    Err("there is no GPU to break".into())
}
