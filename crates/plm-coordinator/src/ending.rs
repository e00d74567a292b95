//! Why a run ends before its batches are done, though nobody stopped it and ranks are left.

use std::time::Duration;

use plm_core::BoxError;

use crate::queue::Missing;
use crate::{CoordinatorReport, Error, FailedRow, UnreadRecord};

/// What all ranks end for. The first counts.
#[derive(Debug)]
pub(crate) enum Ending {
    /// A record could not be read for as long as there was patience.
    InputUnreadable {
        record: Box<UnreadRecord>,
        waited: Duration,
        source: BoxError,
    },
    /// The model gives no vector that can be stored.
    NoVectors {
        /// The records that it was given so far.
        records: u64,
        first: Box<FailedRow>,
    },
}

impl Ending {
    /// The error of a run that ended so.
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
