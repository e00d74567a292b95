//! The checks of sources.

use std::collections::HashSet;

use plm_core::{BoxError, RowId, SequenceSource};

/// Checks that the records of a source have unique names, and that each reads as its `RecordInfo`
/// says.
///
/// Records are read in order, and backwards through a second reader. Skipped records are not read,
/// and may share names.
///
/// # Panics
/// If the contract is broken: the message names the row.
pub fn check_source(source: &dyn SequenceSource) {
    let rows: Vec<RowId> = (0..source.len())
        .map(RowId)
        .filter(|&row| !source.record(row).skipped)
        .collect();
    let mut ids = HashSet::new();
    for &row in &rows {
        let id = source.record(row).id;
        assert!(
            ids.insert(id),
            "{row} has a name that an earlier row has: {id:?}"
        );
    }
    let forwards = read(source, rows.iter());
    let mut backwards = read(source, rows.iter().rev());
    backwards.reverse();
    for ((row, first), second) in rows.iter().zip(forwards).zip(backwards) {
        assert_eq!(first, second, "{row} reads differently the second time");
    }
}

/// Checks a source whose input is spoiled and then mended. Returns the first error.
///
/// While the input is spoiled, each record must be an error or read as before, with any reader. A
/// reader that is opened after the input was mended must read all records as before.
///
/// # Panics
/// If the contract is broken: the message names the row. Also if no read was an error.
pub fn check_source_recovers(
    source: &dyn SequenceSource,
    spoil: impl FnOnce(),
    mend: impl FnOnce(),
) -> BoxError {
    let rows: Vec<RowId> = (0..source.len())
        .map(RowId)
        .filter(|&row| !source.record(row).skipped)
        .collect();
    let before = read(source, rows.iter());
    let earlier = source
        .open()
        .unwrap_or_else(|error| panic!("the source does not open: {error}"));
    spoil();
    let mut first_error = None;
    for mut reader in std::iter::once(Ok(earlier)).chain(std::iter::once_with(|| source.open())) {
        for (&row, before) in rows.iter().zip(&before) {
            let mut residues = Vec::new();
            let read = match &mut reader {
                Ok(reader) => reader.read(row, &mut residues),
                Err(_) => break,
            };
            match read {
                Ok(()) => assert_eq!(&residues, before, "{row} reads differently"),
                Err(error) => drop(first_error.get_or_insert(error)),
            }
        }
        first_error = first_error.or(reader.err());
    }
    mend();
    for ((row, before), after) in rows.iter().zip(before).zip(read(source, rows.iter())) {
        assert_eq!(before, after, "{row} reads differently once it is mended");
    }
    first_error.expect("what is spoiled is an error to someone")
}

fn read<'a>(source: &dyn SequenceSource, rows: impl Iterator<Item = &'a RowId>) -> Vec<Vec<u8>> {
    let mut reader = source
        .open()
        .unwrap_or_else(|error| panic!("the source does not open: {error}"));
    // Never cleared in between: the contract is that a reader replaces what is there.
    let mut residues = b"left over".to_vec();
    rows.map(|&row| {
        reader
            .read(row, &mut residues)
            .unwrap_or_else(|error| panic!("{row} can't be read: {error}"));
        assert_eq!(
            residues.len(),
            source.record(row).residue_count as usize,
            "{row} has another number of residues than its record says"
        );
        let stray = residues
            .iter()
            .find(|residue| !matches!(residue, b'A'..=b'Z' | b'.' | b'-'));
        assert_eq!(stray, None, "{row} holds a byte that is no residue");
        residues.clone()
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use plm_core::{RecordInfo, SequenceReader};

    use super::*;
    use crate::{Injected, MemorySource, ReadFault};

    #[test]
    #[should_panic(expected = "row 2 has a name that an earlier row has: \"a\"")]
    fn a_source_with_two_records_of_one_name_is_caught() {
        check_source(&MemorySource::new([("a", "MKV"), ("b", "G"), ("a", "W")]));
    }

    #[test]
    #[should_panic(expected = "row 1 has another number of residues")]
    fn a_source_that_reads_other_residues_than_it_says_is_caught() {
        check_source(
            &MemorySource::new([("a", "MKV"), ("b", "GG")]).fault(RowId(1), ReadFault::Shortened),
        );
    }

    /// A source with a switch that spoils it. Every record is then `answer`, or an error without
    /// it.
    struct Switched {
        records: MemorySource,
        is_spoiled: AtomicBool,
        answer: Option<&'static [u8]>,
    }

    impl Switched {
        fn new(answer: Option<&'static [u8]>) -> Self {
            Self {
                records: MemorySource::new([("a", "MKV"), ("b", "GG")]),
                is_spoiled: AtomicBool::new(false),
                answer,
            }
        }

        fn check(&self) -> BoxError {
            let turn = |is_spoiled| self.is_spoiled.store(is_spoiled, Ordering::Relaxed);
            check_source_recovers(self, || turn(true), || turn(false))
        }
    }

    impl SequenceSource for Switched {
        fn len(&self) -> u64 {
            self.records.len()
        }

        fn record(&self, row: RowId) -> RecordInfo<'_> {
            self.records.record(row)
        }

        fn open(&self) -> Result<Box<dyn SequenceReader + '_>, BoxError> {
            Ok(Box::new(Reader(self)))
        }
    }

    struct Reader<'a>(&'a Switched);

    impl SequenceReader for Reader<'_> {
        fn read(&mut self, row: RowId, residues: &mut Vec<u8>) -> Result<(), BoxError> {
            *residues = match (self.0.is_spoiled.load(Ordering::Relaxed), self.0.answer) {
                (false, _) => self.0.records.residues(row).to_vec(),
                (true, Some(answer)) => answer.to_vec(),
                (true, None) => return Err(Injected::error("the file is away")),
            };
            Ok(())
        }
    }

    #[test]
    fn a_source_that_comes_back_is_the_one_it_was() {
        assert_eq!(Switched::new(None).check().to_string(), "the file is away");
    }

    #[test]
    #[should_panic(expected = "row 1 reads differently")]
    fn a_source_that_gives_other_residues_meanwhile_is_caught() {
        Switched::new(Some(b"MKV")).check();
    }

    #[test]
    fn skipped_records_may_repeat_a_name() {
        check_source(&MemorySource::new([("a", "MKV"), ("a", "G")]).skip(RowId(1)));
    }
}
