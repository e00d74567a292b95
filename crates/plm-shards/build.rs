//! Reports a missing or too old HDF5 in one sentence, before rustc reports it in many.
#![allow(
    clippy::print_stdout,
    reason = "it is how a build script talks to cargo"
)]

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let has = |key: &str| env::var_os(key).is_some();
    if !has("CARGO_FEATURE_HDF5_BUNDLED") && !has("CARGO_FEATURE_HDF5_SYSTEM") {
        println!(
            "cargo::error=plm-shards needs one of its features: hdf5-bundled (the default) \
             compiles HDF5 with CMake 3.26 or newer, hdf5-system links the system's \
             (Debian and Ubuntu: libhdf5-dev). plm-fleet and plm-cli have the same two."
        );
        return;
    }
    // hdf5-sys reports the version. File locks can be left out since 1.10.7, but not in 1.12.0.
    let locks_are_optional = has("DEP_HDF5_VERSION_1_12_1")
        || has("DEP_HDF5_VERSION_1_10_7") && !has("DEP_HDF5_VERSION_1_12_0");
    if !locks_are_optional {
        println!(
            "cargo::error=plm-shards needs HDF5 1.10.7 or newer (and not 1.12.0), and the system's \
             is older: name another by HDF5_DIR, or use the feature hdf5-bundled, which compiles \
             HDF5 with CMake 3.26 or newer."
        );
    }
}
