//! Checks that a finished run is still what was written.

use std::path::Path;
use std::sync::Arc;

use plm_core::store::{Expected, StoreFault, StoredResult};
use plm_core::{Digest, Outcome, OutputSpec, RowId, Store, StoreError};
use plm_index::{FastaIndex, Input};

use super::kind::{Kind, check_is_result};
use super::ledger;
use crate::Error;
use crate::compute::start_threads;
use crate::out_dir::{Claim, Layout, RecordCounts, RunReport, store_at};

/// What a finished run holds that was found whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// `embeddings.h5` has this many rows, one for each record with a vector.
    pub rows: u64,
    /// A row of the first output has this many values.
    pub hidden_size: usize,
    /// `embeddings.h5` has these outputs, at least one, in the file's order.
    pub outputs: Vec<OutputSpec>,
    /// The digest covers the content of `embeddings.h5`.
    pub content_digest: Digest,
    /// The counts are those of the ledger.
    pub records: RecordCounts,
}

/// How many statuses are compared at a time.
const CHUNK_ROWS: u64 = 1 << 16;

/// Reads every byte of a finished run and checks it.
///
/// It checks digests, that no value is NaN or infinite, ids, lengths and order against the index,
/// and the ledger against both. For an `embeddings.h5` that is named by itself, it checks all that
/// needs no other file.
///
/// ```
/// use plm_fleet::{Model, RunConfig, run_multi_gpu_inference, verify_run};
/// # let scratch = tempfile::tempdir()?;
/// # let (fasta, out) = (scratch.path().join("in.fasta"), scratch.path().join("out"));
/// # std::fs::write(&fasta, ">one\nMKTAYIAK\n>two\nGSHMRYQ\n")?;
///
/// run_multi_gpu_inference([fasta], &Model::PlmTiny, &out, &RunConfig::default())?;
/// assert_eq!(verify_run(&out)?.rows, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// - [`Error::NotFinished`] if the run is not finished.
/// - [`Error::NoResult`] if the path is not a run. It says what the path is.
/// - [`Error::DamagedEmbeddings`], [`Error::Shards`], [`Error::Index`], [`Error::Ledger`] or
///   [`Error::DamagedReport`] if a file is damaged. They say which, and where.
pub fn verify_run(out_dir: impl AsRef<Path>) -> Result<VerifyReport, Error> {
    verify_run_with(&store_at(out_dir.as_ref()), out_dir)
}

/// Does what [`verify_run`] does, for a run with another [store](crate::RunConfig::store).
///
/// # Errors
/// Those of [`verify_run`].
pub fn verify_run_with(
    store: &Arc<dyn Store>,
    out_dir: impl AsRef<Path>,
) -> Result<VerifyReport, Error> {
    start_threads()?;
    let layout = Layout::new(out_dir.as_ref(), store);
    if check_is_result(store, layout.root())? == Kind::Embeddings {
        return verify_alone(&**store, layout.root());
    }
    for path in [layout.claim(), layout.index()] {
        if !path.exists() {
            return Err(Error::NothingThere { path });
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
    let run = claim.fingerprint.stored_run()?;
    let expected = Expected {
        run: &run,
        source: &index,
        without_row: &without_vector,
    };
    let verified = store
        .verify(&layout.embeddings(), Some(&expected))
        .map_err(|error| damaged(&layout, error))?;
    compare_statuses(&layout, &outcomes)?;

    let mut records = RecordCounts::default();
    outcomes.iter().for_each(|&outcome| records.count(outcome));
    let report = RunReport::read(&layout)?;
    if report.records != records {
        return Err(Error::Ledger {
            path: layout.ledger(),
            line: 1,
            problem: format!(
                "it tells of {}, and run.json of {}",
                words(&records),
                words(&report.records)
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
        rows: verified.rows,
        hidden_size: run.outputs[0].width,
        outputs: run.outputs,
        content_digest: verified.content_digest,
        records,
    })
}

/// How much of a result was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Every byte was checked.
    Everything,
    /// Every byte but the vectors' was checked.
    AllButVectors,
}

/// Checks the `embeddings.h5` of a finished run against its seal.
///
/// If its vectors take at most `most_bytes`, it checks them against their digests too.
/// [`verify_run`] checks more.
///
/// # Errors
/// [`Error::DamagedEmbeddings`] if the file is not what was written, and [`Error::OtherRun`] if it
/// is of another run than the directory's `fingerprint.json`.
pub fn check_result(out_dir: impl AsRef<Path>, most_bytes: u64) -> Result<Checked, Error> {
    let out_dir = out_dir.as_ref();
    let layout = Layout::new(out_dir, &store_at(out_dir));
    let result = layout.store().open_result(&layout.embeddings());
    let result = result.map_err(|error| damaged(&layout, error))?;
    Claim::check_result(&layout, &*result)?;
    check_values(&*result, most_bytes).map_err(|error| damaged(&layout, error))
}

/// Checks the values of a result if they take at most `most_bytes`. Opening has checked the rest.
pub(super) fn check_values(
    result: &dyn StoredResult,
    most_bytes: u64,
) -> Result<Checked, StoreError> {
    if result.values_bytes() > most_bytes {
        return Ok(Checked::AllButVectors);
    }
    result.check_values()?;
    Ok(Checked::Everything)
}

fn words(counts: &RecordCounts) -> String {
    format!(
        "{} embedded, {} truncated, {} windowed, {} skipped and {} failed records",
        counts.embedded, counts.truncated, counts.windowed, counts.skipped, counts.failed
    )
}

/// Turns the error of a damaged result into one that says how to make the result again.
pub(super) fn damaged(layout: &Layout, error: StoreError) -> Error {
    match error.fault {
        StoreFault::DamagedResult => Error::damaged_embeddings(layout, error),
        _ => error.into(),
    }
}

/// Checks all of a result that needs no index and no ledger.
fn verify_alone(store: &dyn Store, path: &Path) -> Result<VerifyReport, Error> {
    let verified = store.verify(path, None)?;
    let mut records = RecordCounts::default();
    let result = store.open_result(path)?;
    let mut start = 0;
    while start < result.rows() {
        let end = result.rows().min(start + CHUNK_ROWS);
        let outcomes = result.outcomes(start..end)?;
        outcomes
            .into_iter()
            .for_each(|outcome| records.count(outcome));
        start = end;
    }
    Ok(VerifyReport {
        rows: verified.rows,
        hidden_size: verified.outputs[0].width,
        outputs: verified.outputs,
        content_digest: verified.content_digest,
        records,
    })
}

/// Does what [`verify_run`] does, and checks that the run was made from these FASTA files.
///
/// They must have the same records in the same order, with the same ids and residues. Their names
/// and their compression do not matter. Compressed files are unpacked in the system's folder for
/// temporary files.
///
/// # Errors
/// Those of [`verify_run`]; [`Error::OtherInput`] with the first record that differs;
/// [`Error::Index`] if a file can't be read.
pub fn verify_run_against<I: Into<Input>>(
    out_dir: impl AsRef<Path>,
    inputs: impl IntoIterator<Item = I>,
) -> Result<VerifyReport, Error> {
    let out_dir = out_dir.as_ref();
    let report = verify_run(out_dir)?;
    let layout = Layout::new(out_dir, &store_at(out_dir));
    if out_dir.is_file() {
        return Err(Error::NoResult {
            path: out_dir.to_owned(),
            kind: Kind::Embeddings,
        });
    }
    let index = FastaIndex::load(&layout.index())?;
    let inputs: Vec<Input> = inputs.into_iter().map(Into::into).collect();
    let spool = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
    let given = FastaIndex::build(&inputs, spool.path(), &index.config())?;
    match first_difference(&index, &given) {
        None => Ok(report),
        Some(difference) => Err(Error::OtherInput {
            path: out_dir.to_owned(),
            difference,
        }),
    }
}

/// The first record that differs between the run's input and the given one, in words.
fn first_difference(run: &FastaIndex, given: &FastaIndex) -> Option<String> {
    for (run, given) in run.records().zip(given.records()) {
        let differs = if run.id != given.id {
            format!("is {:?} there and {:?} here", run.id, given.id)
        } else if (run.residue_count, run.skipped) != (given.residue_count, given.skipped) {
            format!(
                "({:?}) has {} residues there and {} here",
                run.id, run.residue_count, given.residue_count
            )
        } else if run.residues_hash != given.residues_hash {
            format!("({:?}) has other residues there than here", run.id)
        } else {
            continue;
        };
        return Some(format!(
            "{} {differs} ({}, line {}, byte {})",
            run.row, given.file.name, given.line, given.byte_offset
        ));
    }
    (run.len() != given.len()).then(|| {
        format!(
            "it has {} records and there are {} here",
            run.len(),
            given.len()
        )
    })
}

/// Checks that `/status` says what the ledger says.
fn compare_statuses(layout: &Layout, outcomes: &[Outcome]) -> Result<(), Error> {
    let result = layout.store().open_result(&layout.embeddings())?;
    let mut expected = (2..)
        .zip(outcomes)
        .filter(|(_, outcome)| outcome.has_vector());
    let mut start = 0;
    while start < result.rows() {
        let end = result.rows().min(start + CHUNK_ROWS);
        for status in result.outcomes(start..end)? {
            let (line, &outcome) = expected
                .next()
                .expect("as many rows as outcomes with a vector were verified");
            if status != outcome {
                return Err(Error::Ledger {
                    path: layout.ledger(),
                    line,
                    problem: format!(
                        "it says {outcome}, and {} says {status}",
                        layout.store().result_name()
                    ),
                });
            }
        }
        start = end;
    }
    Ok(())
}
