//! What a loader says about its encoders.

use std::fs;
use std::num::NonZeroUsize;

use plm_core::{Dtype, EncoderLoader};
use plm_esm2::{Checkpoint, CpuOptions, Esm2Loader};

#[test]
fn the_backend_of_the_cpu_has_the_vector_instructions() {
    let options = CpuOptions::all_cores(NonZeroUsize::MIN);
    let loader = Esm2Loader::new(Checkpoint::plm_tiny(), options, Dtype::F32).unwrap();
    let backend = &loader.spec().backend;
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap();
    let has = |flag: &&str| flags.split_whitespace().any(|word| word == *flag);
    match ["avx512f", "fma"].into_iter().find(has) {
        Some(flag) => assert!(backend.starts_with(&format!("cpu, {flag}, ")), "{backend}"),
        None => assert!(backend.starts_with("cpu, "), "{backend}"),
    }
}
