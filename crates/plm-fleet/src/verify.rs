//! Whether a finished run is what it was when it finished.

use std::path::Path;

use plm_core::{Outcome, RowId};
use plm_index::FastaIndex;
use plm_shards::{EmbeddingsFile, Expectation};

use crate::claim::Claim;
use crate::layout::Layout;
use crate::report::RunReport;
use crate::{Error, RecordCounts, ledger};

/// A finished run, found whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// The vectors in `embeddings.h5`.
    pub rows: u64,
    /// The length of each.
    pub hidden_size: usize,
    /// The digest of the file's content.
    pub content_digest: String,
    /// What the ledger says of the input's records.
    pub records: RecordCounts,
}

/// How many rows of the statuses are compared at a time.
const CHUNK_ROWS: usize = 1 << 16;

/// Reads every byte of a finished run and checks it: digests, no NaN, ids, lengths and order
/// against the index, and the ledger against both.
///
/// # Errors
/// [`Error::NotFinished`] if a file is missing; [`Error::Shards`], [`Error::Index`],
/// [`Error::Ledger`] or [`Error::DamagedReport`] say what is damaged, and where.
pub fn verify_run(out_dir: impl AsRef<Path>) -> Result<VerifyReport, Error> {
    let layout = Layout::new(out_dir.as_ref());
    for path in [
        layout.claim(),
        layout.index(),
        layout.embeddings(),
        layout.ledger(),
        layout.run_report(),
    ] {
        if !path.exists() {
            return Err(Error::NotFinished { path });
        }
    }
    let claim = Claim::read(&layout)?;
    let index = FastaIndex::load(&layout.index())?;
    claim.check_saved_index(&index, &layout.index())?;
    let outcomes = ledger::read(&layout.ledger(), &index)?;

    let without_vector: Vec<RowId> = (0..)
        .map(RowId)
        .zip(&outcomes)
        .filter(|(_, outcome)| !outcome.has_vector())
        .map(|(row, _)| row)
        .collect();
    let format = claim.fingerprint.run_format()?;
    let verified = plm_shards::verify(
        layout.embeddings(),
        Some(Expectation {
            source: &index,
            without_vector: &without_vector,
            format: &format,
        }),
    )?;
    compare_statuses(&layout, &outcomes)?;

    let mut records = RecordCounts::default();
    outcomes.iter().for_each(|&outcome| records.count(outcome));
    let report = RunReport::read(&layout.run_report())?;
    if report.records != records {
        return Err(Error::Ledger {
            path: layout.ledger(),
            line: 1,
            problem: format!(
                "its outcomes are {records:?} and those of run.json {:?}",
                report.records
            ),
        });
    }
    if report.ledger_digest.as_ref() != Some(&ledger::digest(&layout.ledger())?) {
        return Err(Error::Ledger {
            path: layout.ledger(),
            line: 1,
            problem: "its text, here or further on, is not the one that was written".to_owned(),
        });
    }
    Ok(VerifyReport {
        rows: verified.rows as u64,
        hidden_size: format.hidden_size(),
        content_digest: verified.content_digest,
        records,
    })
}

/// That `/status` says what the ledger says.
fn compare_statuses(layout: &Layout, outcomes: &[Outcome]) -> Result<(), Error> {
    let file = EmbeddingsFile::open(layout.embeddings())?;
    let mut expected = (2..)
        .zip(outcomes)
        .filter(|(_, outcome)| outcome.has_vector());
    let mut start = 0;
    while start < file.rows() {
        let end = file.rows().min(start + CHUNK_ROWS);
        for status in file.read_outcomes(start..end)? {
            let (line, &outcome) = expected
                .next()
                .expect("as many rows as outcomes with a vector were verified");
            if status != outcome {
                return Err(Error::Ledger {
                    path: layout.ledger(),
                    line,
                    problem: format!("it says {outcome}, and embeddings.h5 says {status}"),
                });
            }
        }
        start = end;
    }
    Ok(())
}
