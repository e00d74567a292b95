//! A limit on how long a test may take.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Runs `test` on a thread of its own and returns its result. So a deadlock fails a test instead of
/// hanging it.
///
/// # Panics
/// If `test` panics, or is not done within `limit`.
///
/// ```
/// use std::time::Duration;
///
/// let answer = plm_testkit::within(Duration::from_secs(60), || 6 * 7);
/// assert_eq!(answer, 42);
/// ```
pub fn within<T: Send + 'static>(limit: Duration, test: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, answer) = mpsc::channel();
    let thread = thread::spawn(move || {
        // If the receiver is gone, the limit is over and nobody waits for the answer.
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
