//! A limit on how long a test may take.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Runs `test` on a thread of its own and gives back what it returns.
///
/// # Panics
/// If `test` panics, or is not done within `limit`: a deadlock fails a test instead of hanging it.
pub fn within<T: Send + 'static>(limit: Duration, test: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, answer) = mpsc::channel();
    let thread = thread::spawn(move || {
        // The receiver is gone only if the limit is past, and then nobody waits for the answer.
        let _ = done.send(test());
    });
    match answer.recv_timeout(limit) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("not done within {limit:?}"),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("a thread that ends well has sent its answer"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "not done within")]
    fn a_test_that_hangs_fails() {
        within(Duration::from_millis(5), || {
            thread::sleep(Duration::from_secs(5))
        });
    }

    #[test]
    #[should_panic(expected = "the test's own message")]
    fn a_panic_is_passed_on() {
        within(Duration::from_secs(5), || panic!("the test's own message"));
    }
}
