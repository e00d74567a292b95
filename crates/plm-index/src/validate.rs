//! What must hold in an index, for a file that is whole may still be wrong.
//!
//! Whether records lie at all where it says is not known before they are read, and checked then.

use plm_core::RowId;

use crate::index::{Entry, Records};
use crate::parse::MAX_RESIDUES;
use crate::{BadRecordPolicy, DuplicatePolicy, FastaIndex, IndexConfig, SkipReason};

/// Checks what reading records, and writing their ids anywhere, relies on. Gives the first row that
/// is wrong, and what is wrong with it.
pub(crate) fn validate(index: &FastaIndex) -> Result<(), (u32, &'static str)> {
    let Records { entries, ids, .. } = &index.records;
    let mut id_start = 0;
    // The file of the record before, and its line there.
    let mut last_line = (0, 0);
    for (row, entry) in (0..).zip(entries) {
        let file = index.file(RowId(u64::from(row)));
        if file as usize >= index.inputs.len() {
            return Err((row, "it is of no input"));
        }
        let id = usize::try_from(entry.id_end)
            .ok()
            .and_then(|id_end| ids.get(id_start..id_end))
            .ok_or((row, "its id is out of bounds"))?;
        id_start += id.len();
        let line_before = if last_line.0 == file { last_line.1 } else { 0 };
        last_line = (file, entry.line);
        check_id(id, entry)
            .and_then(|()| check_place(entry, line_before, index.end_offset(RowId(row.into()))))
            .and_then(|()| check_policy(entry, &index.config))
            .map_err(|what| (row, what))?;
    }
    Ok(())
}

fn check_id(id: &str, entry: &Entry) -> Result<(), &'static str> {
    // What ends a word in a definition line; outputs rely on it, and on there being no NUL byte.
    if id
        .bytes()
        .any(|byte| byte == 0 || byte.is_ascii_whitespace())
    {
        return Err("its id is not one word");
    }
    if id.is_empty() != (entry.skipped == Some(SkipReason::NoName)) {
        return Err("it has no id, or was skipped for having none");
    }
    let number = || id.rsplit_once('_')?.1.parse::<u64>().ok();
    if entry.renamed && number().is_none() {
        return Err("it was renamed and has no number");
    }
    Ok(())
}

/// `end_offset` is where the next record of the input starts, or the text ends.
fn check_place(entry: &Entry, line_before: u64, end_offset: u64) -> Result<(), &'static str> {
    // Each line before this one has a byte at least.
    if entry.line <= line_before || entry.line - 1 > entry.byte_offset {
        return Err("its line can't be");
    }
    let text_bytes = end_offset
        .checked_sub(entry.sequence_offset())
        .ok_or("it goes beyond the next one or the text")?;
    let has_none = matches!(
        entry.skipped,
        Some(SkipReason::Empty | SkipReason::InvalidLetter)
    );
    let residue_count = entry.residue_count;
    if u64::from(residue_count) > text_bytes.min(MAX_RESIDUES as u64)
        || entry.substitutions > residue_count
        || (residue_count == 0 && entry.skipped.is_none())
        || (residue_count > 0 && has_none)
    {
        return Err("its residues can't be as many");
    }
    Ok(())
}

/// A record is left out or renamed only where that was asked for.
fn check_policy(entry: &Entry, config: &IndexConfig) -> Result<(), &'static str> {
    let is_allowed = match entry.skipped {
        None => true,
        Some(SkipReason::Duplicate) => config.on_duplicate == DuplicatePolicy::Skip,
        Some(SkipReason::Empty) => config.on_empty == BadRecordPolicy::Skip,
        Some(_) => config.on_invalid == BadRecordPolicy::Skip,
    };
    if is_allowed && (!entry.renamed || config.on_duplicate == DuplicatePolicy::Rename) {
        Ok(())
    } else {
        Err("its policy does not leave it out or rename it")
    }
}
