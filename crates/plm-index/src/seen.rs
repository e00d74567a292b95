//! Knows which ids exist, and the first record with each.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use xxhash_rust::xxh3::xxh3_64;

use crate::index::Records;

/// The first record of every id. The ids themselves stay in [`Records`], and are compared there.
#[derive(Default)]
pub(crate) struct SeenIds {
    owners: HashTable<Owner>,
}

/// A record that has an id.
struct Owner {
    /// The hash of the id. With it, growing the table reads no id, which would be a cache miss for
    /// each.
    hash: u32,
    row: u32,
}

impl Owner {
    /// 64 bits of all bits of the hash: the table uses the upper and the lower ones.
    fn spread(hash: u32) -> u64 {
        u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

impl SeenIds {
    /// Lets `row`, a record of `records`, claim its id. Returns the earlier record that has it, if
    /// there is one. A skipped record gives its id to one that is not skipped.
    pub(crate) fn claim(&mut self, records: &Records, row: u32) -> Option<u32> {
        let id = records.id(row as usize);
        let hash = xxh3_64(id.as_bytes()) as u32;
        let entry = self.owners.entry(
            Owner::spread(hash),
            |owner| owner.hash == hash && records.id(owner.row as usize) == id,
            |owner| Owner::spread(owner.hash),
        );
        match entry {
            Entry::Vacant(vacant) => {
                vacant.insert(Owner { hash, row });
                None
            }
            Entry::Occupied(mut occupied) => {
                let owner = occupied.get_mut();
                let is_skipped = |row: u32| records.entries[row as usize].skipped.is_some();
                if is_skipped(owner.row) && !is_skipped(row) {
                    owner.row = row;
                    return None;
                }
                Some(owner.row)
            }
        }
    }

    /// Whether a record has `id`.
    pub(crate) fn contains(&self, records: &Records, id: &str) -> bool {
        let hash = xxh3_64(id.as_bytes()) as u32;
        self.owners
            .find(Owner::spread(hash), |owner| {
                owner.hash == hash && records.id(owner.row as usize) == id
            })
            .is_some()
    }
}
