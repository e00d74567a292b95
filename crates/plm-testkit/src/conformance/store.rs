//! The check of stores.

use std::fs;
use std::path::{Path, PathBuf};

use plm_core::store::{
    Amount, Entry, Expected, Merge, Planned, StoreFault, StoredResult, StoredRun,
};
use plm_core::{
    Column, Digest, Dtype, EmbeddedBatch, EmbeddedRow, InputDigest, Outcome, OutputKind,
    OutputSpec, Provenance, Rank, RecordInfo, RowId, SequenceSource, Store, Written,
};

use crate::MemorySource;

const RUN_DIGEST: Digest = Digest::from_bytes([0; 32]);
const ROWS: u64 = 24;
/// The record without a row, as if it had failed.
const FAILED: RowId = RowId(5);
const IN_F32: RowId = RowId(7);
/// The distance between the bytes that are flipped, one at a time.
const FLIP_EVERY: usize = 23;
/// If a result is several files, all of them are read after each flip. So bytes of only this many
/// are flipped, at a distance this many times as large.
const FLIPPED_FILES: usize = 3;
const FLIPS_APART: usize = 16;

/// Reads the values of a result, in its order, in f32: `[records][outputs][values]`.
pub type ReadValues<'a> = &'a dyn Fn(&Path) -> Vec<Vec<Vec<f32>>>;

/// Checks a store in an empty directory. `read` returns the values of a result.
///
/// If the store keeps outputs per residue and per pair of residues, they are checked too.
///
/// - The store finds what writers called durable, and nothing else.
/// - It notices each damaged byte of a part, and of a draft that parts share. The damaged file is
///   set aside, and its rows are written again.
/// - The parts become one result in the order of the input, whose bytes depend on the rows alone.
/// - The result's ids, lengths, offsets and columns are read in any range of records.
/// - It notices each damaged byte of the result.
/// - Files take no more room than the store said.
/// - It discards its own files, and nothing else.
///
/// # Panics
/// If the contract is broken.
pub fn check_store(store: &dyn Store, directory: &Path, read: ReadValues<'_>) {
    let vectors = [
        OutputSpec::new(OutputKind::Mean, 2, 3),
        OutputSpec {
            dtype: Dtype::F16,
            ..OutputSpec::new(OutputKind::Bos, 1, 2)
        },
    ];
    let of_residues = [
        OutputSpec {
            dtype: Dtype::F16,
            ..OutputSpec::new(OutputKind::Residues, 2, 3)
        },
        OutputSpec::new(OutputKind::Contacts, 2, 1),
    ];
    let check = |name: &str, outputs: &[OutputSpec], unplanned: &[RowId]| {
        if outputs.iter().all(|output| store.keeps(output)) {
            check_case(
                &Case::new(store, &directory.join(name), outputs, unplanned),
                read,
            )
        } else {
            Vec::new()
        }
    };
    check("vectors", &vectors, &[]);
    let [mean, bos] = vectors;
    let [residues, contacts] = of_residues;
    let mixed = [residues.clone(), mean, contacts, bos];
    let failed = check("with_residues", &mixed, &[]);
    let unplanned = check("without_failures", &mixed, &[FAILED]);
    if store.max_file_bytes().is_none() {
        // Which records each of several files has follows from the plan, also from those that fail.
        assert!(failed == unplanned, "a result depends on its rows alone");
    }
    check("residues", &[residues], &[FAILED]);
}

/// Checks a store with one run, and gives the bytes of its result.
fn check_case(case: &Case<'_>, read: ReadValues<'_>) -> Vec<u8> {
    case.check_empty();
    case.check_what_is_durable();
    case.check_parts_that_are_not_whole();
    case.write(&case.parts[1], 0, case.rest());
    case.check_damaged_parts();
    case.check_damaged_draft();
    let result = case.check_merge(read);
    case.check_damaged_result();
    case.check_discard();
    result
}

/// A store, and a run in two parts.
struct Case<'a> {
    store: &'a dyn Store,
    run: StoredRun,
    source: MemorySource,
    parts: [PathBuf; 2],
    /// The records that the plan gives no row.
    unplanned: Vec<RowId>,
    result: PathBuf,
    provenance: Provenance,
}

impl<'a> Case<'a> {
    fn new(
        store: &'a dyn Store,
        directory: &Path,
        outputs: &[OutputSpec],
        unplanned: &[RowId],
    ) -> Self {
        fs::create_dir_all(directory).expect("there is room");
        let stored = |output: &OutputSpec| OutputSpec {
            dtype: store.stored_dtype(output),
            ..output.clone()
        };
        let records = (0..ROWS).map(|row| (id(row), "M".repeat(row as usize % 4 + 1)));
        let records: Vec<(String, String)> = records.collect();
        let records = records.iter().map(|(id, residues)| (&**id, &**residues));
        Self {
            store,
            run: StoredRun {
                max_file_bytes: store.max_file_bytes(),
                digest: RUN_DIGEST,
                outputs: outputs.iter().map(stored).collect(),
                truncated_to: None,
            },
            source: MemorySource::new(records),
            parts: ["one", "two"].map(|part| directory.join("parts").join(part)),
            unplanned: unplanned.to_vec(),
            result: directory.join(store.result_name()),
            provenance: Provenance {
                model: "fake".to_owned(),
                model_revision: None,
                weights_digest: "none:0".to_owned(),
                adapter_digest: None,
                model_dtype: Dtype::F32,
                program: "a test".to_owned(),
                program_version: "0".to_owned(),
                inputs: vec![InputDigest {
                    name: "input.fasta".to_owned(),
                    digest: RUN_DIGEST,
                }],
            },
        }
    }

    fn expected(&self) -> Expected<'_> {
        Expected {
            run: &self.run,
            source: &self.source,
            without_row: &[FAILED],
        }
    }

    fn merge(&self) -> Merge<'_> {
        Merge {
            parts: &self.parts,
            expected: self.expected(),
            unplanned: &self.unplanned,
            provenance: &self.provenance,
            result: &self.result,
        }
    }

    fn planned(&self) -> Planned<'_> {
        self.merge().planned()
    }

    /// The records that have rows, in the order of the input.
    fn rows() -> Vec<u64> {
        (0..ROWS).filter(|&row| RowId(row) != FAILED).collect()
    }

    /// The rows of the first part.
    fn of_the_first() -> Vec<u64> {
        Self::rows()
            .into_iter()
            .filter(|row| row % 3 == 0)
            .collect()
    }

    /// The rows of the second part, last row first.
    fn rest(&self) -> Vec<u64> {
        let rest = Self::rows().into_iter().filter(|row| row % 3 != 0);
        rest.rev().collect()
    }

    /// The values of a record in an output: `[its rows, width]`.
    fn values(&self, row: u64, position: usize, output: &OutputSpec) -> Vec<f32> {
        let residue_count = self.source.record(RowId(row)).residue_count;
        let rows = output.per().rows(residue_count) as usize;
        values(row, position, rows * output.width)
    }

    fn batch(&self, rows: &[u64]) -> EmbeddedBatch {
        let outputs = self.run.outputs.iter().enumerate();
        let columns = outputs.map(|(position, output)| {
            let mut column = Column::empty(output.width, output.dtype, rows.len());
            for &row in rows {
                column.push(self.values(row, position, output).into_iter());
            }
            column
        });
        let record = |row| self.source.record(RowId(row));
        let rows = rows.iter().map(|&row| EmbeddedRow {
            row: RowId(row),
            id: record(row).id.to_owned(),
            residue_count: record(row).residue_count,
            outcome: outcome(row),
            in_f32: RowId(row) == IN_F32,
        });
        EmbeddedBatch {
            rows: rows.collect(),
            columns: columns.collect(),
        }
    }

    /// Writes rows, two at a time, and makes them durable.
    fn write(&self, part: &Path, rank: u32, rows: Vec<u64>) {
        let sink = told(self.store.open(part, &self.planned()), "a part is opened");
        let shard = sink.open_shard(Rank(rank));
        let mut shard = shard.unwrap_or_else(|error| panic!("no shard is opened: {error}"));
        for rows in rows.chunks(2) {
            let written = shard.write(self.batch(rows));
            written.unwrap_or_else(|error| panic!("a batch can't be written: {error}"));
        }
        let flushed = shard.flush();
        flushed.unwrap_or_else(|error| panic!("a shard does not flush: {error}"));
    }

    fn durable(&self, part: &Path) -> (Vec<u64>, Vec<PathBuf>) {
        let durable = told(
            self.store.durable(part, &self.planned()),
            "what is durable is told",
        );
        let rows = durable.rows.iter().map(|row| row.0).collect();
        let damaged = durable.damaged.into_iter();
        let damaged = damaged.inspect(|file| assert!(!file.reason.is_empty(), "it says why"));
        (rows, damaged.map(|file| file.path).collect())
    }

    fn check_empty(&self) {
        let part = &self.parts[0];
        assert_eq!(self.durable(part), (vec![], vec![]), "nothing is there yet");
        let files = told(self.store.files(part), "no directory holds no file");
        assert!(files.is_empty(), "{files:?}");
        let nothing = self.store.part_bytes(&self.run, Amount::default(), 4);
        assert_eq!(nothing, 0, "no rows take no room");
    }

    fn check_what_is_durable(&self) {
        let part = &self.parts[0];
        let rows = Self::of_the_first();
        let (one, other) = rows.split_at(rows.len() / 2);
        self.write(part, 0, one.to_vec());
        self.write(part, 1, other.to_vec());
        assert_eq!(
            self.durable(part),
            (rows.clone(), vec![]),
            "all that was flushed"
        );

        // A run computes again what a dropped writer held: it must not be there.
        let sink = told(
            self.store.open(part, &self.planned()),
            "a part is opened again",
        );
        let shard = sink.open_shard(Rank(0));
        let mut shard = shard.unwrap_or_else(|error| panic!("no shard is opened again: {error}"));
        let written = shard.write(self.batch(&[1]));
        let written = written.unwrap_or_else(|error| panic!("a batch can't be written: {error}"));
        drop(shard);
        let (mut found, damaged) = self.durable(part);
        assert!(damaged.is_empty(), "a dropped writer damages nothing");
        if written == Written::Durable {
            assert!(found.contains(&1), "a row that is durable is there");
            told(self.store.discard(part), "a part is discarded");
            self.write(part, 0, rows.clone());
            found = self.durable(part).0;
        }
        assert_eq!(found, rows, "what is durable, and nothing else");

        let parts = &self.parts[..1];
        let count = told(self.store.count_rows(parts, &self.run), "rows are counted");
        assert_eq!(count, rows.len() as u64);
        for entry in fs::read_dir(part).expect("the part is there").flatten() {
            let name = entry.file_name().into_string().expect("a name of its own");
            let is = match entry.path().is_dir() {
                true => Entry::Directory,
                false => Entry::File,
            };
            assert_eq!(self.store.entry(&name), Some(is), "{name} is its own");
        }
        assert_eq!(self.store.entry("notes.txt"), None, "that is nobody's");

        let other = StoredRun {
            digest: Digest::from_bytes([1; 32]),
            ..self.run.clone()
        };
        let of_other = Planned {
            expected: Expected {
                run: &other,
                ..self.planned().expected
            },
            ..self.planned()
        };
        assert!(
            self.store.durable(part, &of_other).is_err(),
            "it is another run's"
        );
    }

    fn check_parts_that_are_not_whole(&self) {
        fs::create_dir_all(&self.parts[1]).expect("there is room");
        let checked = self.store.check_parts(&self.parts, &self.expected());
        assert!(checked.is_err(), "rows are missing");
        assert!(self.store.merge(&self.merge()).is_err(), "rows are missing");
        assert!(!self.result.exists(), "half a result is none");
    }

    fn check_damaged_parts(&self) {
        let part = &self.parts[1];
        let whole = self.durable(part).0;
        let mut sorted = self.rest();
        sorted.sort_unstable();
        assert_eq!(whole, sorted);
        let in_f32 = self.store.rows_in_f32(&self.parts, &self.run);
        assert_eq!(told(in_f32, "rows in f32 are known"), [IN_F32]);

        let files = told(self.store.files(part), "files are listed");
        let file = files.first().expect("its rows are in a file");
        let bytes = fs::read(file).expect("it can be read");
        for at in (0..bytes.len()).step_by(FLIP_EVERY) {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            fs::write(file, changed).expect("there is room");
            let (rows, damaged) = self.durable(part);
            assert!(
                damaged.iter().eq([file]),
                "byte {at} was flipped: {damaged:?}"
            );
            assert!(rows.len() < whole.len(), "its rows are not durable");
            let checked = self.store.merge(&self.merge());
            assert!(
                checked.is_err() && !self.result.exists(),
                "byte {at} was flipped"
            );
        }
        let aside = told(self.store.set_aside(file), "a damaged file is set aside");
        assert!(
            aside.exists() && !file.exists(),
            "it is kept under another name"
        );
        let (rows, damaged) = self.durable(part);
        assert!(damaged.is_empty(), "a file set aside is not reported again");
        let lost = whole.iter().copied().filter(|row| !rows.contains(row));
        self.write(part, 0, lost.collect());
        assert!(aside.exists(), "its name is not used again");
        assert_eq!(self.durable(part), (whole, vec![]));
        let checked = self.store.check_parts(&self.parts, &self.expected());
        told(checked, "the parts are whole");
    }

    /// Keeps the files beside the result. A merge may use them up.
    fn keep_beside(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let beside = told(self.store.beside(&self.result), "files beside it are known");
        let kept = beside.into_iter().map(|file| {
            assert!(file.is_own, "{} is the store's own", file.path.display());
            let bytes = fs::read(&file.path).expect("it can be read");
            (file.path, bytes)
        });
        kept.collect()
    }

    fn put_back(kept: &[(PathBuf, Vec<u8>)]) {
        for (path, bytes) in kept {
            fs::write(path, bytes).expect("there is room");
        }
    }

    /// Removes the result, and puts back what it was made of.
    fn unmake(&self, kept: &[(PathBuf, Vec<u8>)]) {
        for (path, _) in self.keep_beside() {
            fs::remove_file(path).expect("it is there");
        }
        fs::remove_file(&self.result).expect("it is there");
        Self::put_back(kept);
    }

    fn check_damaged_draft(&self) {
        let kept = self.keep_beside();
        let draft = told(
            self.store.shared_draft(&self.run, &self.result),
            "a draft is known",
        );
        let Some(draft) = draft else {
            return;
        };
        let (path, bytes) = kept.first().expect("parts have written to it");
        assert_eq!(draft, *path);
        let mut whole = None;
        let mut told_of = 0;
        let distance = match kept.len() {
            1 => FLIP_EVERY,
            _ => FLIP_EVERY * FLIPS_APART,
        };
        for at in (0..bytes.len()).step_by(distance) {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            fs::write(path, changed).expect("there is room");
            let found = self.parts.iter().map(|part| {
                let found = self.store.durable(part, &self.planned());
                found.map(|found| found.damaged.is_empty())
            });
            let is_told = found.into_iter().any(|whole| !whole.unwrap_or(false));
            told_of += usize::from(is_told);
            let merged = self.store.merge(&self.merge());
            assert_eq!(merged.is_err(), is_told, "byte {at} was flipped");
            if !is_told {
                let result = fs::read(&self.result).expect("there is a result");
                let whole = whole.get_or_insert_with(|| result.clone());
                assert!(result == *whole, "byte {at} of the draft is of no use");
                self.unmake(&kept);
            }
            Self::put_back(&kept);
        }
        assert!(told_of > 0, "the rows in the draft are checked");

        for (path, _) in &kept {
            fs::remove_file(path).expect("it is there");
        }
        for part in &self.parts {
            let (rows, damaged) = self.durable(part);
            assert!(rows.is_empty() && !damaged.is_empty(), "its rows are gone");
        }
        Self::put_back(&kept);
        fs::write(path, "notes of a lifetime").expect("there is room");
        let beside = told(self.store.beside(&self.result), "files beside it are known");
        let is_own = beside.iter().any(|file| file.path == *path && file.is_own);
        assert!(!is_own, "those are notes");
        Self::put_back(&kept);
    }

    fn check_merge(&self, read: ReadValues<'_>) -> Vec<u8> {
        let kept = self.keep_beside();
        let amount = |rows: &[u64]| {
            let records = rows.iter().map(|&row| self.source.record(RowId(row)));
            Amount::of(records.map(|record| (record.id, record.residue_count)))
        };
        let files = told(self.store.files(&self.parts[0]), "files are listed");
        let said = amount(&Self::of_the_first());
        let said = self.store.part_bytes(&self.run, said, 2);
        let took: u64 = files.iter().map(|file| bytes_of(file)).sum();
        assert!(
            took <= said,
            "a part takes {took} bytes, and {said} were said"
        );

        told(self.store.merge(&self.merge()), "whole parts are merged");
        let bytes = self.bytes();
        let said = self
            .store
            .result_bytes(&self.run, &self.provenance, amount(&Self::rows()));
        let took: usize = bytes.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(took as u64 <= said, "{took} of {said} bytes");
        self.check_result(read);

        told(
            self.store.merge(&self.merge()),
            "a result that is there is left",
        );
        assert!(self.bytes() == bytes, "it was left as it is");
        for (path, _) in self.keep_beside() {
            let is_result = told(self.store.is_result(&path), "it can be looked at");
            assert!(
                is_result,
                "{}: a draft has become the result",
                path.display()
            );
        }
        for part in &self.parts {
            let (_, damaged) = self.durable(part);
            assert!(damaged.is_empty(), "the result has the rows of a draft");
        }
        match bytes.len() {
            1 => self.unmake(&kept),
            // A kill may leave other files without the one that says what they are.
            _ => fs::remove_file(&self.result).expect("it is there"),
        }

        let mut outcomes = Self::rows().into_iter().map(outcome);
        let draft = self.store.draft(&self.merge(), &mut outcomes, &|| true);
        match told(draft, "a draft is started, or none") {
            None => told(self.store.merge(&self.merge()), "parts are merged again"),
            Some(mut draft) => {
                while told(
                    draft.take_next(&self.merge()),
                    "a draft takes what is there",
                ) {}
                told(draft.sync(), "a draft is made durable");
                assert!(!self.result.exists(), "a draft has no name yet");
                told(draft.finish(&self.merge()), "a draft is finished");
            }
        }
        let again = self.bytes();
        assert!(again == bytes, "its bytes depend on the rows alone");
        again[0].1.clone()
    }

    /// The bytes of the result and of the files beside it.
    fn bytes(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let result = fs::read(&self.result).expect("there is a result");
        let mut all = vec![(self.result.clone(), result)];
        all.extend(self.keep_beside());
        all
    }

    fn check_result(&self, read: ReadValues<'_>) {
        assert!(told(
            self.store.is_result(&self.result),
            "it shows what it is"
        ));
        let result = told(self.store.open_result(&self.result), "a result is opened");
        assert_eq!(result.run_digest(), self.run.digest);
        assert_eq!(result.rows(), Self::rows().len() as u64);
        assert!(result.values_bytes() > 0, "values take room");
        told(
            result.check_values(),
            "its values are those that were written",
        );
        let outcomes = told(result.outcomes(0..result.rows()), "outcomes are read");
        let expected: Vec<Outcome> = Self::rows().into_iter().map(outcome).collect();
        assert_eq!(outcomes, expected, "outcomes are in the order of the input");
        self.check_reading(&*result);
        let found = read(&self.result);
        let outputs = || self.run.outputs.iter().enumerate();
        let of = |row| outputs().map(move |(at, output)| self.values(row, at, output));
        let expected: Vec<Vec<Vec<f32>>> = Self::rows()
            .into_iter()
            .map(|row| of(row).collect())
            .collect();
        assert!(
            found == expected,
            "values are those of their rows: {found:?}"
        );

        let mut digests = Vec::new();
        for expected in [None, Some(&self.expected())] {
            let verified = told(self.store.verify(&self.result, expected), "it is whole");
            assert_eq!(verified.rows, result.rows());
            assert_eq!(verified.outputs, self.run.outputs);
            digests.push(verified.content_digest);
        }
        assert_eq!(digests[0], digests[1], "one content has one digest");
        let others = Renamed(&self.source);
        let of_others = Expected {
            source: &others,
            ..self.expected()
        };
        let verified = self.store.verify(&self.result, Some(&of_others));
        assert!(verified.is_err(), "it is of another input");
        let without_another = Expected {
            without_row: &[FAILED, RowId(0)],
            ..self.expected()
        };
        let verified = self.store.verify(&self.result, Some(&without_another));
        assert!(verified.is_err(), "it has a row too many");
    }

    /// Every range of records is read as it was written, whatever the store's pieces are.
    fn check_reading(&self, result: &dyn StoredResult) {
        let outputs = result.outputs();
        assert_eq!(outputs, self.run.outputs, "outputs are as they are stored");
        let rows = Self::rows();
        for start in 0..=rows.len() {
            for end in start..=rows.len() {
                let range = || start as u64..end as u64;
                let rows = &rows[start..end];
                let record = |row: &u64| self.source.record(RowId(*row));
                let ids = told(result.ids(range()), "ids are read");
                assert!(ids.iter().eq(rows.iter().map(|row| record(row).id)));
                let lengths = told(result.lengths(range()), "lengths are read");
                let expected = rows.iter().map(|row| record(row).residue_count);
                assert!(lengths.into_iter().eq(expected), "lengths");
                let columns = self.batch(rows).columns;
                for (position, expected) in columns.into_iter().enumerate() {
                    let column = told(result.column(position, range()), "a column is read");
                    assert_eq!(column, expected, "records {start}..{end}");
                    let offsets = told(result.offsets(position, range()), "offsets are read");
                    let before = offsets[0];
                    let within = offsets.iter().map(|offset| offset - before);
                    assert!(within.eq(column.offsets().iter().copied()));
                    let all = told(result.column(position, 0..range().start), "it is read");
                    assert_eq!(all.offsets().last(), Some(&before), "rows before {start}");
                }
            }
        }
    }

    fn check_damaged_result(&self) {
        let all = self.bytes();
        let distance = match all.len() {
            1 => FLIP_EVERY,
            _ => FLIP_EVERY * FLIPS_APART,
        };
        for (path, bytes) in all.iter().take(FLIPPED_FILES) {
            self.check_damaged_file(path, bytes, distance);
        }
        for (path, bytes) in all.iter().skip(1) {
            fs::remove_file(path).expect("it is there");
            let opened = self.store.open_result(&self.result).err();
            let opened = opened.expect("a file of the result is missing");
            assert_eq!(opened.fault, StoreFault::DamagedResult, "{opened}");
            fs::write(path, bytes).expect("there is room");
        }
        fs::write(&self.result, "notes of a lifetime").expect("there is room");
        let is_result = told(
            self.store.is_result(&self.result),
            "anything can be looked at",
        );
        assert!(!is_result, "those are notes");
        let missing = self.store.verify(Path::new("/no/such/result"), None);
        let missing = missing.expect_err("there is none");
        assert_eq!(missing.fault, StoreFault::Io, "{missing}");
    }

    fn check_damaged_file(&self, path: &Path, bytes: &[u8], distance: usize) {
        for at in (0..bytes.len()).step_by(distance) {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1 << (at % 8);
            fs::write(path, changed).expect("there is room");
            for expected in [None, Some(&self.expected())] {
                let error = self.store.verify(&self.result, expected);
                let error = error.expect_err("a byte was flipped");
                assert_eq!(error.fault, StoreFault::DamagedResult, "byte {at}: {error}");
            }
            let opened = self.store.open_result(&self.result);
            let checked = opened.and_then(|result| result.check_values());
            assert!(checked.is_err(), "byte {at} was flipped");
            assert!(
                self.store.merge(&self.merge()).is_err(),
                "it is not overwritten"
            );
        }
        fs::write(path, bytes).expect("there is room");
    }

    fn check_discard(&self) {
        for part in &self.parts {
            let note = part.join("notes.txt");
            fs::write(&note, "mine").expect("there is room");
            let files = told(self.store.files(part), "files are listed");
            assert!(
                !files.is_empty() && !files.contains(&note),
                "the store's own"
            );
            told(self.store.discard(part), "a part is discarded");
            assert!(files.iter().all(|file| !file.exists()), "they are gone");
            assert!(note.exists(), "a note is not the store's");
            let files = told(self.store.files(part), "files are listed");
            assert!(files.is_empty(), "nothing is left: {files:?}");
            assert_eq!(self.durable(part), (vec![], vec![]));
        }
    }
}

/// A source whose last record has another name.
struct Renamed<'a>(&'a MemorySource);

impl SequenceSource for Renamed<'_> {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn record(&self, row: RowId) -> RecordInfo<'_> {
        let record = self.0.record(row);
        if row.0 + 1 < self.len() {
            return record;
        }
        RecordInfo {
            id: "another",
            ..record
        }
    }

    fn open(&self) -> Result<Box<dyn plm_core::SequenceReader + '_>, plm_core::BoxError> {
        self.0.open()
    }
}

fn id(row: u64) -> String {
    format!("sp|{row}|../ü{}", "n".repeat(row as usize % 7))
}

fn outcome(row: u64) -> Outcome {
    [Outcome::Embedded, Outcome::Truncated, Outcome::Windowed][row as usize % 3]
}

/// Values that f16 holds exactly, different for each row and output.
fn values(row: u64, position: usize, width: usize) -> Vec<f32> {
    let first = row as f32 * 8.0 + position as f32 * 512.0;
    (0..width).map(|at| first + at as f32).collect()
}

fn bytes_of(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |file| file.len())
}

fn told<T>(result: Result<T, plm_core::StoreError>, claim: &str) -> T {
    result.unwrap_or_else(|error| panic!("{claim}, but: {error}"))
}
