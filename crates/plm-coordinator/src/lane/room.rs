//! Room for encoded batches, in bytes.
//!
//! A batch of means takes a few hundred kilobytes; one of residues takes a hundred megabytes or
//! more. So the device thread waits for a slow writer by the bytes that it holds, and not only by
//! the number of its batches.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::link::Fence;

/// The bytes of encoded batches that the writer of a rank has not written yet.
pub(super) struct Room {
    limit: u64,
    taken: Mutex<u64>,
    /// Says that bytes were given back. One message is enough for any number of times.
    given_back: (Sender<()>, Receiver<()>),
}

impl Room {
    /// Room for `limit` bytes.
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            taken: Mutex::default(),
            given_back: bounded(1),
        }
    }

    /// Waits until there is room for so many bytes, or until nothing is taken, and takes it. False
    /// if the fence is closed.
    #[must_use]
    pub(super) fn take(&self, bytes: u64, fence: &Fence) -> bool {
        loop {
            {
                let mut taken = self.taken();
                if *taken == 0 || taken.saturating_add(bytes) <= self.limit {
                    *taken += bytes;
                    return true;
                }
            }
            if fence.receive(&self.given_back.1).is_none() {
                return false;
            }
        }
    }

    /// Takes so many bytes without waiting, for what belongs to a batch that has taken room.
    pub(super) fn take_more(&self, bytes: u64) {
        *self.taken() += bytes;
    }

    /// Gives bytes back that were taken.
    pub(super) fn give_back(&self, bytes: u64) {
        *self.taken() -= bytes;
        // If there is a message already, the one that waits will look anyway.
        let _ = self.given_back.0.try_send(());
    }

    fn taken(&self) -> MutexGuard<'_, u64> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use plm_testkit::within;

    use super::*;

    #[test]
    fn bytes_wait_for_room_and_a_batch_over_the_limit_waits_for_all_of_it() {
        within(Duration::from_secs(10), || {
            let (room, fence) = (Room::new(10), Fence::new());
            assert!(room.take(4, &fence) && room.take(6, &fence));
            thread::scope(|scope| {
                let waiting = scope.spawn(|| room.take(25, &fence));
                thread::sleep(Duration::from_millis(5));
                room.give_back(4);
                thread::sleep(Duration::from_millis(5));
                assert!(!waiting.is_finished(), "6 bytes are still taken");
                room.give_back(6);
                assert!(waiting.join().unwrap());
                room.take_more(100);
                room.give_back(125);
                assert!(room.take(10, &fence));
            });
        });
    }

    #[test]
    fn a_closed_fence_ends_the_wait_for_room() {
        within(Duration::from_secs(10), || {
            let (room, fence) = (Room::new(10), Fence::new());
            assert!(room.take(10, &fence));
            thread::scope(|scope| {
                let waiting = scope.spawn(|| room.take(1, &fence));
                thread::sleep(Duration::from_millis(5));
                fence.close();
                assert!(!waiting.join().unwrap());
            });
        });
    }
}
