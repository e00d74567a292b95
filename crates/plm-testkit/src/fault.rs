//! Faults on cue.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use plm_core::BoxError;

/// What a sequence does to every encoder that is given it, in whatever batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poison {
    /// The call fails.
    Error,
    /// The call panics.
    Panic,
    /// The call waits for the [`Gate`], and then answers as if nothing had been.
    Hang,
}

/// What goes wrong in the encoder of a rank, and with its device, so that no other can be loaded.
/// Calls are counted from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncoderFault {
    /// It never loads: an error.
    FailLoad,
    /// It never loads: a panic.
    PanicLoad,
    /// Loading waits for the [`Gate`].
    HangLoad,
    /// The call fails.
    FailEncode {
        /// The call.
        at: usize,
    },
    /// The call panics.
    PanicEncode {
        /// The call.
        at: usize,
    },
    /// The call fails, and the next encoder's too; the third does what it should.
    FailTwice {
        /// The call.
        at: usize,
    },
    /// The call fails, and loading another encoder waits for the [`Gate`].
    FailThenHangLoad {
        /// The call.
        at: usize,
    },
    /// The call waits for the [`Gate`], and then answers as if nothing had been.
    HangEncode {
        /// The call.
        at: usize,
    },
    /// The call answers with one vector too few.
    TooFewRows {
        /// The call.
        at: usize,
    },
    /// The call answers with vectors that are one number too long.
    WrongWidth {
        /// The call.
        at: usize,
    },
    /// Calls with more sequences than this fail for want of memory.
    OutOfMemory {
        /// As many as there is room for.
        over: usize,
    },
    /// Every call takes so long.
    Slow {
        /// How long.
        each: Duration,
    },
}

/// What goes wrong when a record is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFault {
    /// An error.
    Error,
    /// One residue less is read than the [`RecordInfo`](plm_core::RecordInfo) says, as if the file
    /// had changed since it was indexed.
    Shortened,
}

/// What goes wrong in the shard writer of a rank. Calls are counted from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkFault {
    /// The shard can't be opened.
    FailOpen,
    /// The write fails and loses what was buffered.
    FailWrite {
        /// The call.
        at: usize,
    },
    /// The write panics.
    PanicWrite {
        /// The call.
        at: usize,
    },
    /// The write waits for the [`Gate`], and then goes on as if nothing had been.
    HangWrite {
        /// The call.
        at: usize,
    },
    /// The flush fails and loses what was buffered.
    FailFlush {
        /// The call.
        at: usize,
    },
}

/// What everything that hangs is waiting for. Cloned, it is the same gate.
///
/// A test opens it once the run is over, to see that what comes back late changes nothing.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    shared: Arc<(Mutex<bool>, Condvar)>,
}

impl Gate {
    /// Lets everyone go on.
    pub fn open(&self) {
        let (is_open, opened) = &*self.shared;
        *is_open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        opened.notify_all();
    }

    /// Waits until the gate is open.
    pub fn wait(&self) {
        let (is_open, opened) = &*self.shared;
        let is_open = is_open.lock().unwrap_or_else(PoisonError::into_inner);
        drop(
            opened
                .wait_while(is_open, |is_open| !*is_open)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}

/// The error of an injected fault, with a cause of its own.
#[derive(Debug)]
pub struct Injected {
    message: &'static str,
    cause: InjectedCause,
}

impl Injected {
    /// The text of every injected error's cause.
    pub const CAUSE: &'static str = "injected by a test";

    pub(crate) fn error(message: &'static str) -> BoxError {
        Box::new(Self {
            message,
            cause: InjectedCause,
        })
    }
}

impl std::fmt::Display for Injected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.message)
    }
}

impl std::error::Error for Injected {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

#[derive(Debug)]
struct InjectedCause;

impl std::fmt::Display for InjectedCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(Injected::CAUSE)
    }
}

impl std::error::Error for InjectedCause {}
