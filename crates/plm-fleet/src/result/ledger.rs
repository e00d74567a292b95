//! The ledger, which lists every record of the input with its one outcome and the reason.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use plm_coordinator::{FailedRow, PlanConfig, PlannedOutcome, SkipReason};
use plm_core::{Digest, DurableFile, Outcome, RowId, SequenceSource};
use plm_index::{FastaIndex, GapPolicy, IndexedRecord};

use crate::Error;
use crate::out_dir::RecordCounts;

const HEADER: &str =
    "row\tid\toutcome\tresidues\tsubstituted\tdropped\tfile\tline\tbyte_offset\tdetail";

/// The detail for vectors that the model's own format was too coarse for.
const IN_F32: &str = "computed in f32";

/// The detail for records that have the residues of an earlier one, whose id follows.
const SAME_RESIDUES: &str = "same residues as";

/// What became of every record of a finished run.
pub(super) struct Ledger<'a> {
    index: &'a FastaIndex,
    plan: &'a PlanConfig,
    failed: HashMap<RowId, &'a str>,
    /// These rows were computed in f32, in increasing order.
    in_f32: &'a [RowId],
}

impl<'a> Ledger<'a> {
    pub(super) fn new(
        index: &'a FastaIndex,
        plan: &'a PlanConfig,
        failed_rows: &'a [FailedRow],
    ) -> Self {
        Self {
            index,
            plan,
            failed: failed_rows
                .iter()
                .map(|failed| (failed.row, failed.reason.as_str()))
                .collect(),
            in_f32: &[],
        }
    }

    /// Adds the rows that were computed again in f32, in increasing order.
    pub(super) fn with_rows_in_f32(mut self, in_f32: &'a [RowId]) -> Self {
        self.in_f32 = in_f32;
        self
    }

    /// The first record with the residues of each later one, among the records that have a vector:
    /// row by row. Their hash and their number say it, as the index has them.
    fn same_residues(&self) -> HashMap<RowId, RowId> {
        let records = self.index.records();
        let embedded = records.filter(|record| self.outcome(record).0.has_vector());
        let keys = embedded.map(|record| (record.residues_hash, record.residue_count, record.row));
        let mut keys: Vec<(u64, u32, RowId)> = keys.collect();
        keys.sort_unstable();
        let same = keys.chunk_by(|one, other| (one.0, one.1) == (other.0, other.1));
        same.flat_map(|same| same[1..].iter().map(|key| (key.2, same[0].2)))
            .collect()
    }

    /// The outcome of a record, and the reason if it is not plain.
    fn outcome(&self, record: &IndexedRecord<'_>) -> (Outcome, Cow<'a, str>) {
        if let Some(reason) = self.failed.get(&record.row) {
            return (Outcome::Failed, Cow::Borrowed(reason));
        }
        let info = SequenceSource::record(self.index, record.row);
        let planned = self.plan.outcome(&info);
        let max_residues = self.plan.max_residues();
        let mut detail: Cow<'a, str> = match planned {
            PlannedOutcome::Embedded => match record.renamed_from {
                Some(original) => format!("duplicate of {original}, renamed").into(),
                None if record.is_unnamed => "no name, named after its row".into(),
                None => "".into(),
            },
            PlannedOutcome::Truncated => format!("first {max_residues} residues").into(),
            PlannedOutcome::Windowed => format!("windows of {max_residues} residues").into(),
            PlannedOutcome::Skipped(SkipReason::BySource) => record
                .skipped
                .map_or("".into(), |reason| reason.name().into()),
            PlannedOutcome::Skipped(reason) => reason.to_string().into(),
        };
        let mut add = |what: &str| {
            let separator = if detail.is_empty() { "" } else { "; " };
            detail = format!("{detail}{separator}{what}").into();
        };
        if planned.outcome().has_vector() {
            let gaps = match self.index.config().on_gap {
                GapPolicy::Keep => "kept",
                GapPolicy::Drop => "dropped",
            };
            for (letters, name, what) in [
                (record.gaps, "gap", gaps),
                (record.insertions, "insertion", "upper-cased"),
            ] {
                if letters > 0 {
                    let plural = if letters == 1 { "" } else { "s" };
                    add(&format!("{letters} {name}{plural} {what}"));
                }
            }
            if record.looks_like_nucleotides {
                add("looks like nucleotides");
            }
        }
        if self.in_f32.binary_search(&record.row).is_ok() {
            add(IN_F32);
        }
        (planned.outcome(), detail)
    }

    /// The outcome of every row, in order.
    pub(super) fn outcomes(&self) -> impl Iterator<Item = (RowId, Outcome)> {
        self.index
            .records()
            .map(|record| (record.row, self.outcome(&record).0))
    }

    pub(super) fn counts(&self) -> RecordCounts {
        let mut counts = RecordCounts::default();
        self.outcomes()
            .for_each(|(_, outcome)| counts.count(outcome));
        counts
    }

    /// Writes the ledger under a temporary name, to be committed as `path`, and gives its digest.
    pub(super) fn draft(&self, path: &Path) -> Result<(DurableFile, Digest), Error> {
        let write = || -> io::Result<_> {
            let mut file = DurableFile::create(path)?;
            let mut out = BufWriter::new(Digesting {
                file: file.file(),
                hasher: blake3::Hasher::new(),
            });
            writeln!(out, "{HEADER}")?;
            let same_residues = self.same_residues();
            for record in self.index.records() {
                let (outcome, mut detail) = self.outcome(&record);
                if let Some(&first) = same_residues.get(&record.row) {
                    let separator = if detail.is_empty() { "" } else { "; " };
                    let id = self.index.record(first).id;
                    detail = format!("{detail}{separator}{SAME_RESIDUES} {id}").into();
                }
                writeln!(
                    out,
                    "{}\t{}\t{outcome}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
                    record.row.0,
                    record.id,
                    record.residue_count,
                    record.substitutions,
                    record.dropped,
                    field(&record.file.name),
                    record.line,
                    record.byte_offset,
                    field(&detail),
                )?;
            }
            let out = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            let digest = digest_of(&out.hasher);
            Ok((file, digest))
        };
        write().map_err(Error::io(path))
    }
}

/// The digest of a ledger on disk.
pub(super) fn digest(path: &Path) -> Result<Digest, Error> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(Error::io(path))?;
    hasher.update_reader(file).map_err(Error::io(path))?;
    Ok(digest_of(&hasher))
}

fn digest_of(hasher: &blake3::Hasher) -> Digest {
    Digest::from_bytes(hasher.finalize().into())
}

/// A writer that hashes what it writes.
struct Digesting<'a> {
    file: &'a mut File,
    hasher: blake3::Hasher,
}

impl Write for Digesting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Text without the characters that separate fields and lines. (Ids hold none of them.)
fn field(text: &str) -> Cow<'_, str> {
    if text.contains(['\t', '\n', '\r']) {
        text.replace(['\t', '\n', '\r'], " ").into()
    } else {
        text.into()
    }
}

/// Reads the outcome of every row back from a ledger. Each row must be there once, in order, and
/// under its id in the index.
pub(super) fn read(path: &Path, index: &FastaIndex) -> Result<Vec<Outcome>, Error> {
    let file = BufReader::new(File::open(path).map_err(Error::io(path))?);
    let mut outcomes = Vec::new();
    for (number, text) in (1..).zip(file.lines()) {
        let text = text.map_err(Error::io(path))?;
        let problem = |problem: String| Error::Ledger {
            path: path.to_owned(),
            line: number,
            problem,
        };
        if number == 1 {
            if text != HEADER {
                return Err(problem(format!("the header is not {HEADER:?}")));
            }
            continue;
        }
        let row = RowId(outcomes.len() as u64);
        if row.0 >= index.len() {
            return Err(problem(format!(
                "the index has {} records and the ledger more",
                index.len()
            )));
        }
        let id = index.record(row).id;
        let mut fields = text.split('\t');
        if fields.next() != Some(&row.0.to_string()) || fields.next() != Some(id) {
            return Err(problem(format!("it should be that of {row}, {id:?}")));
        }
        let outcome = fields.next().unwrap_or_default();
        let outcome = Outcome::ALL
            .into_iter()
            .find(|known| known.name() == outcome)
            .ok_or_else(|| problem(format!("{outcome:?} is not an outcome")))?;
        outcomes.push(outcome);
    }
    if (outcomes.len() as u64) < index.len() {
        return Err(Error::Ledger {
            path: path.to_owned(),
            line: outcomes.len() as u64 + 2,
            problem: format!(
                "the index has {} records and the ledger only {}",
                index.len(),
                outcomes.len()
            ),
        });
    }
    Ok(outcomes)
}

/// What became of the record with an id, in words, if a ledger says that it has no vector: for
/// example `was skipped: empty`. `None` too if there is no ledger, or none that can be read.
pub(super) fn without_vector(path: &Path, id: &str) -> Option<String> {
    let lines = BufReader::new(File::open(path).ok()?).lines();
    for line in lines.skip(1) {
        let line = line.ok()?;
        let fields: Vec<&str> = line.split('\t').collect();
        let &[_, of, outcome, .., detail] = &fields[..] else {
            return None;
        };
        let outcome = Outcome::ALL
            .into_iter()
            .find(|known| of == id && known.name() == outcome && !known.has_vector());
        match outcome {
            Some(Outcome::Failed) => return Some(format!("failed: {detail}")),
            Some(outcome) => return Some(format!("was {outcome}: {detail}")),
            None => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::out_dir::ours::LEDGER_START;

    #[test]
    fn a_ledger_starts_as_ledgers_are_known_by() {
        assert!(HEADER.as_bytes().starts_with(LEDGER_START));
    }
}
