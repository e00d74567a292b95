//! How long a thread has been inside a call that may never return.

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

/// The call is over when this is dropped, be it by a panic.
pub(super) struct Watched<'a>(&'a Watch);

impl Watch {
    /// Enters a call of at most `limit`. Without a limit nothing is watched.
    pub(super) fn enter(&self, stage: Stage, limit: Option<Duration>) -> Watched<'_> {
        *self.lock() = limit.map(|limit| Call {
            stage,
            since: Instant::now(),
            limit,
        });
        Watched(self)
    }

    /// How much time the current call has left.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        let call = (*self.lock())?;
        Some(call.limit.saturating_sub(call.since.elapsed()))
    }

    /// The current call's stage and limit, if it is over the limit.
    pub(crate) fn overdue(&self) -> Option<(Stage, Duration)> {
        let call = (*self.lock())?;
        (call.since.elapsed() >= call.limit).then_some((call.stage, call.limit))
    }

    /// Does not count time in which the whole process stood still.
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
