//! Channels between the threads of a lane, whose waits end when the lane is fenced.
//!
//! A thread that hangs neither sends nor drops its end of a channel. So every wait on a channel is
//! also a wait for the fence, and the lane's other threads end by themselves.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select_biased};

/// A signal that is given once, and that any number of threads can wait for.
///
/// Nothing is ever sent through its channel. Dropping the sender is the signal.
pub(super) struct Fence {
    keeper: Mutex<Option<Sender<Infallible>>>,
    closed: Receiver<Infallible>,
}

impl Fence {
    pub(super) fn new() -> Self {
        let (keeper, closed) = bounded(0);
        Self {
            keeper: Mutex::new(Some(keeper)),
            closed,
        }
    }

    pub(super) fn close(&self) {
        *self.keeper.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Waits for `pause` at most. True if the fence is closed.
    pub(super) fn closes_within(&self, pause: Duration) -> bool {
        select_biased! {
            recv(self.closed) -> _ => true,
            default(pause) => false,
        }
    }

    /// Waits for the next message. `None` if the fence is closed, or nobody is left to send one.
    pub(super) fn receive<T>(&self, inbox: &Receiver<T>) -> Option<T> {
        select_biased! {
            recv(self.closed) -> _ => None,
            recv(inbox) -> message => message.ok(),
        }
    }

    /// Sends a message. False if the fence is closed, or nobody is left to receive it.
    #[must_use]
    pub(super) fn send<T>(&self, outbox: &Sender<T>, message: T) -> bool {
        select_biased! {
            recv(self.closed) -> _ => false,
            send(outbox, message) -> sent => sent.is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use plm_testkit::within;

    use super::*;

    #[test]
    fn a_closed_fence_wakes_those_who_wait_on_either_side() {
        within(Duration::from_secs(10), || {
            let fence = Fence::new();
            let (full, inbox) = bounded(1);
            assert!(fence.send(&full, 1));
            let (_quiet, empty) = bounded::<i32>(1);
            thread::scope(|scope| {
                let sending = scope.spawn(|| fence.send(&full, 2));
                let receiving = scope.spawn(|| fence.receive(&empty));
                thread::sleep(Duration::from_millis(5));
                fence.close();
                assert!(!sending.join().unwrap());
                assert_eq!(receiving.join().unwrap(), None);
            });
            assert_eq!(fence.receive(&inbox), None, "the fence comes first");
        });
    }
}
