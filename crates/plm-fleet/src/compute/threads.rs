//! The threads that all of a process shares, started where their absence can still be an error.

use std::error::Error as _;
use std::io;
use std::sync::{Mutex, PoisonError};

use rayon::ThreadPoolBuilder;

use crate::Error;

/// Starts the threads that this library's crates share (rayon's global pool), unless they are
/// there. Every function here that computes does so first; a program may want to before it calls
/// the crates one by one, since what comes first to a pool that can't be started panics.
///
/// # Errors
/// [`Error::Thread`] if the system gives no more of them. Those are then gone for this process: the
/// pool can't be started a second time.
pub fn start_threads() -> Result<(), Error> {
    /// What became of it, once that is known: the system's code if it was refused.
    static STARTED: Mutex<Option<Result<(), i32>>> = Mutex::new(None);

    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    let result = *started.get_or_insert_with(start);
    result.map_err(|code| Error::Thread {
        source: io::Error::from_raw_os_error(code),
    })
}

fn start() -> Result<(), i32> {
    /// EAGAIN, which is what there is to say where the system says nothing.
    const NO_MORE_NOW: i32 = 11;

    let Err(error) = ThreadPoolBuilder::new().build_global() else {
        return Ok(());
    };
    match error.source() {
        // There is one already: that of whoever uses this library.
        None => Ok(()),
        Some(source) => Err((source.downcast_ref::<io::Error>())
            .and_then(io::Error::raw_os_error)
            .unwrap_or(NO_MORE_NOW)),
    }
}
