//! New ids for records without one, and for records that have the id of an earlier one.

use hashbrown::{HashMap, HashSet};

use crate::index::{Flags, Records};
use crate::seen::SeenIds;

/// The start of the id of a record without a name; its row follows.
pub(crate) const UNNAMED: &str = "unnamed_";

/// Renames the records at `unnamed` (ascending) to `unnamed_<row>`, and those at `repeats`
/// (ascending) to `id_2`, `id_3`, ... It skips ids of the input.
///
/// Which ids are free is known only after all of the input was read. Two repeats never get the same
/// id: it starts with the old id, up to the last `_`, and each old id has its own count. Two
/// records without a name have different rows.
pub(crate) fn rename(records: &mut Records, seen: SeenIds, unnamed: &[u32], repeats: &[u32]) {
    let mut names = HashSet::with_capacity(unnamed.len());
    let mut renamed = Vec::with_capacity(unnamed.len() + repeats.len());
    for &row in unnamed {
        let name = format!("{UNNAMED}{row}");
        let name = if seen.contains(records, &name) {
            first_free(&name, &mut 2, |id| !seen.contains(records, id))
        } else {
            name
        };
        names.insert(name.clone());
        renamed.push((row, name, Flags::UNNAMED));
    }
    let mut next_numbers: HashMap<&str, u64> = HashMap::new();
    for &row in repeats {
        let id = records.id(row as usize);
        let number = next_numbers.entry(id).or_insert(2);
        let is_free = |id: &str| !seen.contains(records, id) && !names.contains(id);
        renamed.push((row, first_free(id, number, is_free), Flags::RENAMED));
    }
    drop(next_numbers);
    drop(names);
    drop(seen);
    renamed.sort_unstable_by_key(|(row, ..)| *row);
    replace_ids(records, &renamed);
}

/// The first free one of `id_<number>`, `id_<number + 1>`, ... Sets `number` to the next one.
fn first_free(id: &str, number: &mut u64, is_free: impl Fn(&str) -> bool) -> String {
    loop {
        let candidate = format!("{id}_{number}");
        *number += 1;
        if is_free(&candidate) {
            return candidate;
        }
    }
}

/// Writes the ids anew, with those of `renamed` (ascending) replaced.
fn replace_ids(records: &mut Records, renamed: &[(u32, String, Flags)]) {
    let mut renamed = renamed.iter().peekable();
    let mut ids = String::with_capacity(records.ids.len());
    let mut start = 0;
    for (position, entry) in records.entries.iter_mut().enumerate() {
        let end = entry.id_end as usize;
        match renamed.next_if(|(row, ..)| *row as usize == position) {
            Some((_, new_id, flag)) => {
                ids.push_str(new_id);
                entry.flags = entry.flags.with(*flag);
            }
            None => ids.push_str(&records.ids[start..end]),
        }
        entry.id_end = ids.len() as u64;
        start = end;
    }
    records.ids = ids;
}
