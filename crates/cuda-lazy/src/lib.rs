//! Link-time stand-ins for the CUDA libraries, so that one program runs on machines with CUDA and
//! without.
//!
//! Bindings such as cudarc's ask the linker for `-lcuda`, `-lcublas` and so on. A program linked
//! that way can neither be built where those libraries are missing nor started there: the loader
//! refuses it before `main`. With the feature `link`, this crate's build script puts static
//! libraries of those names on the linker's search path. Each function in them, when it is first
//! called, opens the real library, finds the real function and jumps there; later calls are one
//! indirect jump.
//!
//! | stand-in | opens | where it is absent, functions return |
//! |---|---|---|
//! | `libcuda.a` | `libcuda.so.1` | `CUDA_ERROR_NO_DEVICE` (100) |
//! | `libcublas.a` | `libcublas.so.13` | `CUBLAS_STATUS_NOT_INITIALIZED` (1) |
//! | `libcublasLt.a` | `libcublasLt.so.13` | `CUBLAS_STATUS_NOT_INITIALIZED` (1) |
//! | `libcurand.a` | `libcurand.so.10` | `CURAND_STATUS_NOT_INITIALIZED` (101) |
//! | `libnvrtc.a` | `libnvrtc.so.13` | `NVRTC_ERROR_OUT_OF_MEMORY` (1) |
//! | `libcudart.a` | nothing: it is CUDA's own static runtime, from `CUDA_HOME` | |
//!
//! So a machine without CUDA is an ordinary error of the first call. A function that the installed
//! library is too old to have is the same error.
//!
//! Libraries are looked for where the loader looks; then in an activated Python or Conda
//! environment (`VIRTUAL_ENV`, `CONDA_PREFIX`), since that is where PyTorch's copy of them is; then
//! in the usual places of a CUDA toolkit and of pip's `nvidia` packages. The environment is read
//! once per library, at its first call.
//!
//! A toolkit's own libraries may be on the search path as well. The linker takes a library from the
//! first folder that has it; cargo lists folders in the order of the packages' names, and this one
//! comes before `cudarc`.
//!
//! There is nothing to call here: depending on the crate is enough. The functions' names are those
//! that cudarc 0.19 binds, in `symbols/`. x86-64 Linux only.
//!
//! This crate must not know what is computed with CUDA.
