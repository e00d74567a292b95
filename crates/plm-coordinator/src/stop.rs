//! The token that ends a run early.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tells a run to stop: each rank drops what it has not encoded, and makes the rest durable.
///
/// A clone is the same token. [`stop`](Self::stop) is one store to an atomic, so even a signal
/// handler may call it.
///
/// ```
/// use plm_coordinator::StopToken;
///
/// let token = StopToken::new();
/// let held_by_the_run = token.clone();
/// token.stop();
/// assert!(held_by_the_run.is_stopped());
/// ```
#[derive(Clone, Debug, Default)]
pub struct StopToken(Arc<AtomicBool>);

impl StopToken {
    /// A token that does not ask for a stop yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the run to stop. It can't be taken back.
    pub fn stop(&self) {
        // Relaxed: the flag guards no other memory.
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`stop`](Self::stop) has been called.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
