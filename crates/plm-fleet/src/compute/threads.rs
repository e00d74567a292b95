//! Starts the threads that the whole process shares, at a point where a failure can be an error.

use std::error::Error as _;
use std::io;
use std::sync::{Mutex, PoisonError};

use rayon::ThreadPoolBuilder;

use crate::Error;

/// Starts the threads that this library's crates share (rayon's global pool), unless they run
/// already.
///
/// Every function of this crate that computes does this first. A program that calls the other
/// crates one by one should do it too: the first use of a pool that can't be started panics.
///
/// # Errors
/// [`Error::Thread`] if the system gives no more threads. This process can't try again.
pub fn start_threads() -> Result<(), Error> {
    /// The result of the first call: the system's error code if it refused.
    static STARTED: Mutex<Option<Result<(), i32>>> = Mutex::new(None);

    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    let result = *started.get_or_insert_with(start);
    result.map_err(|code| Error::Thread {
        source: io::Error::from_raw_os_error(code),
    })
}

fn start() -> Result<(), i32> {
    /// EAGAIN, for a refusal without an error code.
    const NO_MORE_NOW: i32 = 11;

    let Err(error) = ThreadPoolBuilder::new().build_global() else {
        return Ok(());
    };
    match error.source() {
        // The program that uses this library has started a pool already.
        None => Ok(()),
        Some(source) => Err((source.downcast_ref::<io::Error>())
            .and_then(io::Error::raw_os_error)
            .unwrap_or(NO_MORE_NOW)),
    }
}
