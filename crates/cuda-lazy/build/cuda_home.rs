//! CUDA's runtime, which programs link whole.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Puts the static runtime where `-lcudart` finds it. It opens the driver's library itself, when it
/// is first called.
pub(crate) fn copy_runtime(out_dir: &Path) {
    println!("cargo:rerun-if-env-changed=CUDA_HOME");
    let Some(home) = env::var_os("CUDA_HOME").map(PathBuf::from) else {
        panic!(
            "CUDA_HOME is not set: source crates/plm-kernels/cuda-tools.sh, or set it to a CUDA 13 toolkit"
        );
    };
    let candidates = ["lib64", "lib"].map(|folder| home.join(folder).join("libcudart_static.a"));
    let Some(runtime) = candidates.iter().find(|path| path.exists()) else {
        panic!("CUDA_HOME has no runtime: neither of {candidates:?} exists");
    };
    if let Err(error) = fs::copy(runtime, out_dir.join("libcudart.a")) {
        panic!("copying {}: {error}", runtime.display());
    }
}
