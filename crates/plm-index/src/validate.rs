//! Checks a loaded index: a file with the right digest may still be wrong.
//!
//! Whether records are where the index says is checked when they are read.

use plm_core::RowId;

use crate::index::{Entry, Flags, Records};
use crate::notes::Note;
use crate::parse::MAX_RESIDUES;
use crate::rename::UNNAMED;
use crate::{
    BadRecordPolicy, DuplicatePolicy, FastaIndex, GapPolicy, IdRule, IndexConfig, NamelessPolicy,
    SkipReason,
};

/// Checks everything that reading records, and writing their ids, relies on. The error is the first
/// wrong row, and what is wrong with it.
pub(crate) fn validate(index: &FastaIndex) -> Result<(), (u32, &'static str)> {
    let Records {
        entries,
        ids,
        notes,
        ..
    } = &index.records;
    let mut notes = notes.iter().peekable();
    let mut id_start = 0;
    // The file and the line of the record before.
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
        let end_offset = index.end_offset(RowId(row.into()));
        let note = notes.next_if(|note| note.row == row);
        check_id(id, row, entry, index.config.id)
            .and_then(|()| check_place(entry, line_before, end_offset))
            .and_then(|()| check_policy(entry, &index.config))
            .and_then(|()| match note {
                Some(note) => check_note(note, entry, end_offset, index.config.on_gap),
                None => Ok(()),
            })
            .map_err(|what| (row, what))?;
    }
    match notes.next() {
        None => Ok(()),
        Some(note) => Err((note.row, "its note is out of order")),
    }
}

fn check_id(id: &str, row: u32, entry: &Entry, rule: IdRule) -> Result<(), &'static str> {
    // Writers of ids rely on it: an id stays in its line and column, and has no NUL byte.
    if rule == IdRule::Header {
        if id.bytes().any(|byte| byte.is_ascii_control()) || id.trim_ascii() != id {
            return Err("its id is not one line");
        }
    } else if id
        .bytes()
        .any(|byte| byte == 0 || byte.is_ascii_whitespace())
    {
        return Err("its id is not one word");
    }
    if id.is_empty() != (entry.skipped == Some(SkipReason::NoName)) {
        return Err("it has no id, or was skipped for having none");
    }
    let is_number = |digits: &str| digits.parse::<u64>().is_ok();
    if entry.flags.has(Flags::RENAMED)
        && !id
            .rsplit_once('_')
            .is_some_and(|(_, digits)| is_number(digits))
    {
        return Err("it was renamed and has no number");
    }
    if entry.flags.has(Flags::UNNAMED) {
        let after_row = id
            .strip_prefix(UNNAMED)
            .and_then(|rest| rest.strip_prefix(&row.to_string()));
        let is_of_row = after_row
            .is_some_and(|rest| rest.is_empty() || rest.strip_prefix('_').is_some_and(is_number));
        if !is_of_row || entry.flags.has(Flags::RENAMED) {
            return Err("it was named after another row");
        }
    }
    Ok(())
}

/// Checks that a record's text has room for the letters that its note counts.
fn check_note(
    note: &Note,
    entry: &Entry,
    end_offset: u64,
    on_gap: GapPolicy,
) -> Result<(), &'static str> {
    let text_bytes = end_offset - entry.sequence_offset();
    let letters = u64::from(entry.residue_count) + u64::from(note.dropped);
    let gaps_are_among = match on_gap {
        GapPolicy::Keep => entry.residue_count,
        GapPolicy::Drop => note.dropped,
    };
    if note.is_empty()
        || letters > text_bytes
        || note.gaps > gaps_are_among
        || note.insertions > entry.residue_count
    {
        return Err("its note can't be");
    }
    Ok(())
}

/// Checks that a record's line and residues are possible in its text, which ends at `end_offset`.
fn check_place(entry: &Entry, line_before: u64, end_offset: u64) -> Result<(), &'static str> {
    // Each line before this one has at least one byte.
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

/// Checks that a record is skipped or renamed only where the policies allow it.
fn check_policy(entry: &Entry, config: &IndexConfig) -> Result<(), &'static str> {
    let is_allowed = match entry.skipped {
        None => true,
        Some(SkipReason::Duplicate) => config.on_duplicate == DuplicatePolicy::Skip,
        Some(SkipReason::Empty) => config.on_empty == BadRecordPolicy::Skip,
        Some(SkipReason::NoName) => config.nameless() == NamelessPolicy::Skip,
        Some(_) => config.on_invalid == BadRecordPolicy::Skip,
    };
    let has = |flag| entry.flags.has(flag);
    if is_allowed
        && (!has(Flags::RENAMED) || config.on_duplicate == DuplicatePolicy::Rename)
        && (!has(Flags::UNNAMED) || config.nameless() == NamelessPolicy::Name)
    {
        Ok(())
    } else {
        Err("its policy does not leave it out or rename it")
    }
}
