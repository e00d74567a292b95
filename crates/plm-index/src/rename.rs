//! New ids for records whose id an earlier record has.

use hashbrown::HashMap;

use crate::index::Records;
use crate::seen::SeenIds;

/// Calls the records at `rows` (ascending) `id_2`, `id_3`, ..., passing over ids of the input.
///
/// Only now, with all of the input seen, can it be known which ids are free. Two new ids are never
/// the same: up to the last `_` stands the old id, and each old id counts for itself.
pub(crate) fn rename_repeats(records: &mut Records, seen: SeenIds, rows: &[u32]) {
    let mut next_numbers: HashMap<&str, u64> = HashMap::new();
    let mut new_ids = Vec::with_capacity(rows.len());
    for &row in rows {
        let id = records.id(row as usize);
        let number = next_numbers.entry(id).or_insert(2);
        loop {
            let candidate = format!("{id}_{number}");
            *number += 1;
            if !seen.contains(records, &candidate) {
                new_ids.push(candidate);
                break;
            }
        }
    }
    drop(next_numbers);
    drop(seen);
    replace_ids(records, rows, &new_ids);
}

fn replace_ids(records: &mut Records, rows: &[u32], new_ids: &[String]) {
    let mut replacements = rows.iter().zip(new_ids).peekable();
    let mut ids = String::with_capacity(records.ids.len() + new_ids.len() * "_2".len());
    let mut start = 0;
    for (position, entry) in records.entries.iter_mut().enumerate() {
        let end = entry.id_end as usize;
        match replacements.next_if(|(row, _)| **row as usize == position) {
            Some((_, new_id)) => {
                ids.push_str(new_id);
                entry.renamed = true;
            }
            None => ids.push_str(&records.ids[start..end]),
        }
        entry.id_end = ids.len() as u64;
        start = end;
    }
    records.ids = ids;
}
