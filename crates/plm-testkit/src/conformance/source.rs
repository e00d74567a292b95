//! The contract of sources.

use std::collections::HashSet;

use plm_core::{RowId, SequenceSource};

/// Checks that the records of a source have unique names and that each reads as its `RecordInfo`
/// says, first in order and then backwards through a second reader.
///
/// # Panics
/// If that is not so, naming the row. Skipped records are neither read nor held to unique names.
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

fn read<'a>(source: &dyn SequenceSource, rows: impl Iterator<Item = &'a RowId>) -> Vec<Vec<u8>> {
    let mut reader = source
        .open()
        .unwrap_or_else(|error| panic!("the source does not open: {error}"));
    // Never cleared in between: replacing what is there is the reader's part of the contract.
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
    use super::*;
    use crate::MemorySource;

    #[test]
    #[should_panic(expected = "row 2 has a name that an earlier row has: \"a\"")]
    fn a_source_with_two_records_of_one_name_is_caught() {
        check_source(&MemorySource::new([("a", "MKV"), ("b", "G"), ("a", "W")]));
    }

    #[test]
    #[should_panic(expected = "row 1 has another number of residues")]
    fn a_source_that_reads_other_residues_than_it_says_is_caught() {
        check_source(&MemorySource::new([("a", "MKV"), ("b", "GG")]).shortened(RowId(1)));
    }

    #[test]
    fn skipped_records_may_repeat_a_name() {
        check_source(&MemorySource::new([("a", "MKV"), ("a", "G")]).skip(RowId(1)));
    }
}
