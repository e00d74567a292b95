//! New ids: for records without one, and for those whose id an earlier record has.

use hashbrown::{HashMap, HashSet};

use crate::index::{Flags, Records};
use crate::seen::SeenIds;

/// What records without a name are called, before their row.
pub(crate) const UNNAMED: &str = "unnamed_";

/// Calls the records at `unnamed` (ascending) `unnamed_<row>`, and those at `repeats` (ascending)
/// `id_2`, `id_3`, ..., passing over ids of the input.
///
/// Only now, with all of the input seen, can it be known which ids are free. Two new ids of repeats
/// are never the same: up to the last `_` stands the old id, and each old id counts for itself.
/// Nor are two of records without a name, whose rows differ.
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

/// The first of `id_<number>` and those after it that is free; `number` is then the next one.
fn first_free(id: &str, number: &mut u64, is_free: impl Fn(&str) -> bool) -> String {
    loop {
        let candidate = format!("{id}_{number}");
        *number += 1;
        if is_free(&candidate) {
            return candidate;
        }
    }
}

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
