//! Why a run ends before its batches are done, though nobody stopped it and ranks are left.
//!
//! What is wrong here is the input or the model, so more work would not help.

use std::time::Duration;

use plm_core::BoxError;

use crate::queue::Missing;
use crate::{CoordinatorReport, Error, FailedRow, UnreadRecord};

/// The reason why all ranks end. Only the first reason counts.
#[derive(Debug)]
pub(crate) enum Ending {
    /// A record could not be read for as long as
    /// [`LaneConfig::input_patience`](crate::LaneConfig::input_patience).
    InputUnreadable {
        record: Box<UnreadRecord>,
        waited: Duration,
        source: BoxError,
    },
    /// The model gives no vector that can be stored.
    NoVectors {
        /// The number of records that the model was given so far.
        records: u64,
        /// A record whose vector can't be stored.
        first: Box<FailedRow>,
    },
}

impl Ending {
    /// The error of a run that ended for this reason.
    pub(crate) fn into_error(self, missing: Missing, report: Box<CoordinatorReport>) -> Error {
        let Missing {
            batches: missing_batches,
            rows: missing_rows,
        } = missing;
        match self {
            Self::InputUnreadable {
                record,
                waited,
                source,
            } => Error::InputUnreadable {
                record,
                waited,
                missing_batches,
                missing_rows,
                report,
                source,
            },
            Self::NoVectors { records, first } => Error::NoVectors {
                records,
                first,
                missing_batches,
                missing_rows,
                report,
            },
        }
    }
}
