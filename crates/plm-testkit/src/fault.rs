//! The faults that fakes have on cue.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use plm_core::BoxError;

/// How every encoder fails on a poison sequence, in any batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poison {
    /// The call fails.
    Error,
    /// The call panics.
    Panic,
    /// The call waits for the [`Gate`], and then answers as if nothing had happened.
    Hang,
}

/// How the encoder of a rank fails. Calls are counted from 0.
///
/// Unless a variant says otherwise, the device is then broken: the rank can load no other encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncoderFault {
    /// Loading always fails.
    FailLoad,
    /// Loading always panics.
    PanicLoad,
    /// Loading waits for the [`Gate`].
    HangLoad,
    /// The call fails.
    FailEncode {
        /// The number of the call, from 0.
        at: usize,
    },
    /// The call panics.
    PanicEncode {
        /// The number of the call, from 0.
        at: usize,
    },
    /// The call fails, and so does the next encoder's. The third encoder has no fault.
    FailTwice {
        /// The number of the call, from 0.
        at: usize,
    },
    /// The call fails, and loading another encoder waits for the [`Gate`].
    FailThenHangLoad {
        /// The number of the call, from 0.
        at: usize,
    },
    /// The call waits for the [`Gate`], and then answers as if nothing had happened.
    HangEncode {
        /// The number of the call, from 0.
        at: usize,
    },
    /// The call gives one row too few.
    TooFewRows {
        /// The number of the call, from 0.
        at: usize,
    },
    /// The call gives rows with one value too many.
    WrongWidth {
        /// The number of the call, from 0.
        at: usize,
    },
    /// Calls with more than this number of sequences fail for lack of memory.
    OutOfMemory {
        /// The most sequences that there is room for.
        over: usize,
    },
    /// Every call is slow. The device is not broken.
    Slow {
        /// How long each call takes.
        each: Duration,
    },
}

/// How reading a record fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFault {
    /// The read is an error.
    Error,
    /// The read gives one residue less than the [`RecordInfo`](plm_core::RecordInfo) says, as if
    /// the file had changed since it was indexed.
    Shortened,
}

/// How the shard writer of a rank fails. Calls are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkFault {
    /// The shard can't be opened.
    FailOpen,
    /// The write fails and loses what was buffered.
    FailWrite {
        /// The number of the call, from 0.
        at: usize,
    },
    /// The write panics.
    PanicWrite {
        /// The number of the call, from 0.
        at: usize,
    },
    /// The write waits for the [`Gate`], and then continues as if nothing had happened.
    HangWrite {
        /// The number of the call, from 0.
        at: usize,
    },
    /// The flush fails and loses what was buffered.
    FailFlush {
        /// The number of the call, from 0.
        at: usize,
    },
}

/// The gate that everything that hangs waits for. A clone is the same gate.
///
/// A test opens it after the run has ended, to see that late answers change nothing.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    shared: Arc<(Mutex<bool>, Condvar)>,
}

impl Gate {
    /// Opens the gate for good: everyone continues.
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
    /// The text of the cause of every injected error.
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
