//! The stand-ins, linked and called, on a machine with CUDA or without.
#![cfg(feature = "link")]
#![allow(unsafe_code, reason = "what is tested here is called from C bindings")]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::thread;

#[link(name = "cuda")]
unsafe extern "C" {
    fn cuInit(flags: c_uint) -> c_int;
    fn cuGetErrorString(error: c_int, text: *mut *const c_char) -> c_int;
}

#[link(name = "cublasLt")]
unsafe extern "C" {
    fn cublasLtCreate(handle: *mut *mut c_void) -> c_int;
    fn cublasLtGetStatusString(status: c_int) -> *const c_char;
}

const SUCCESS: c_int = 0;
const NO_DEVICE: c_int = 100;
const NOT_INITIALIZED: c_int = 1;

#[test]
fn the_driver_answers_or_says_that_there_is_no_device() {
    // SAFETY: cuInit takes any flags; those but 0 it refuses.
    let status = unsafe { cuInit(0) };
    assert!(matches!(status, SUCCESS | NO_DEVICE), "{status}");

    let mut text = ptr::null();
    // SAFETY: `text` is writable, and what it points to afterwards is a constant.
    let explanation = unsafe {
        assert_eq!(cuGetErrorString(NO_DEVICE, &mut text), SUCCESS);
        CStr::from_ptr(text).to_str().unwrap()
    };
    assert!(!explanation.is_empty());
}

#[test]
fn an_absent_library_is_an_error_with_a_text() {
    let mut handle = ptr::null_mut();
    // SAFETY: `handle` is writable; a handle that is made lives as long as the process.
    let status = unsafe { cublasLtCreate(&mut handle) };
    // cublasLt without a GPU may be there as well, and has the same code for it.
    assert!(matches!(status, SUCCESS | NOT_INITIALIZED), "{status}");
    // SAFETY: the text is a constant.
    let text = unsafe { CStr::from_ptr(cublasLtGetStatusString(NOT_INITIALIZED)) };
    assert!(!text.to_bytes().is_empty());
}

#[test]
fn threads_may_race_for_the_first_call() {
    let statuses: Vec<c_int> = thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            // SAFETY: as above.
            .map(|_| scope.spawn(|| unsafe { cuInit(0) }))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(
        statuses.iter().all(|status| *status == statuses[0]),
        "{statuses:?}"
    );
}
