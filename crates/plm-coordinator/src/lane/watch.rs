//! How long a thread has been in a call that may never return.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Stage;

/// The call that a thread is in, if that call has a time limit.
#[derive(Debug, Default)]
pub(crate) struct Watch(Mutex<Option<Call>>);

#[derive(Clone, Copy, Debug)]
struct Call {
    stage: Stage,
    since: Instant,
    limit: Duration,
}

/// Marks the end of the call when it is dropped, also by a panic.
pub(super) struct Watched<'a>(&'a Watch);

impl Watch {
    /// Marks the start of a call of at most `limit`. Without a limit nothing is watched.
    pub(super) fn enter(&self, stage: Stage, limit: Option<Duration>) -> Watched<'_> {
        *self.lock() = limit.map(|limit| Call {
            stage,
            since: Instant::now(),
            limit,
        });
        Watched(self)
    }

    /// The time that the current call has left, if it has a limit.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        let call = (*self.lock())?;
        Some(call.limit.saturating_sub(call.since.elapsed()))
    }

    /// The stage and limit of the current call, if it is over the limit.
    pub(crate) fn overdue(&self) -> Option<(Stage, Duration)> {
        let call = (*self.lock())?;
        (call.since.elapsed() >= call.limit).then_some((call.stage, call.limit))
    }

    /// Leaves out time in which the whole process stood still.
    pub(crate) fn forgive(&self, standstill: Duration) {
        if let Some(call) = &mut *self.lock() {
            call.since += standstill;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Call>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}
