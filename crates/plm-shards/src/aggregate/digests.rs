//! Places for digests, which are known only when the file is whole.
//!
//! A digest is a text like the file's other attributes. HDF5 keeps such texts in a heap, and
//! rewriting one may take room that the disk does not have. So each digest is laid out as a
//! placeholder text of the same length, found in the file by plain reads, and replaced by plain
//! writes.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use hdf5::{Dataset, Location};
use plm_core::Digest;

use crate::layout::{self, DIGEST_BYTES};

/// How many bytes are searched at a time.
const PIECE_BYTES: usize = 1 << 20;

/// A placeholder text for each digest of a file.
pub(super) struct Placeholders {
    /// The first text is for the file, the others for its datasets.
    texts: Vec<String>,
}

/// Where the digests are in the file, in the order of the placeholders.
pub(super) type Places = Vec<u64>;

impl Placeholders {
    /// Makes texts for a file with this many datasets.
    ///
    /// They are random: ids in the file may come from anyone, and none may equal a placeholder. A
    /// finished file holds no placeholder.
    pub(super) fn new(datasets: usize) -> Self {
        let chance = RandomState::new();
        let text = |number: usize| {
            let words: Vec<[u8; 8]> = (0..4_usize)
                .map(|word| chance.hash_one((number, word)).to_le_bytes())
                .collect();
            format!("blake3:{}", blake3::hash(&words.concat()))
        };
        Self {
            texts: (0..=datasets).map(text).collect(),
        }
    }

    /// Writes the placeholder for the digest of the file.
    pub(super) fn of_file(&self, file: &Location) -> hdf5::Result<()> {
        layout::set_text(file, layout::CONTENT_DIGEST, &self.texts[0])
    }

    /// Writes the placeholders for the datasets, in the order in which the file's digest covers
    /// them.
    pub(super) fn of_datasets<'a>(
        &self,
        datasets: impl Iterator<Item = &'a Dataset>,
    ) -> hdf5::Result<()> {
        for (dataset, text) in datasets.zip(&self.texts[1..]) {
            layout::set_text(dataset, layout::DIGEST, text)?;
        }
        Ok(())
    }

    /// Finds the placeholders in the file. `rows` are not searched; they are in the order of the
    /// file. The placeholders were written first, so little is read.
    pub(super) fn find(&self, file: &File, rows: &[Range<u64>]) -> io::Result<Places> {
        let file_bytes = file.metadata()?.len();
        let mut found = vec![None; self.texts.len()];
        let mut start = 0;
        for next in rows.iter().chain([&(file_bytes..file_bytes)]) {
            self.find_within(file, start..next.start, &mut found)?;
            start = next.end;
        }
        let places: Option<Places> = found.into_iter().collect();
        places.ok_or_else(|| io::Error::other("the library has put a text elsewhere"))
    }

    fn find_within(
        &self,
        file: &File,
        Range { mut start, end }: Range<u64>,
        found: &mut [Option<u64>],
    ) -> io::Result<()> {
        let mut bytes = vec![0; PIECE_BYTES];
        while start < end && found.contains(&None) {
            let length = (end - start).min(PIECE_BYTES as u64) as usize;
            file.read_exact_at(&mut bytes[..length], start)?;
            for (place, window) in bytes[..length].windows(DIGEST_BYTES).enumerate() {
                if !window.starts_with(b"blake3:") {
                    continue;
                }
                if let Some(number) = (self.texts.iter()).position(|text| text.as_bytes() == window)
                {
                    found[number].get_or_insert(start + place as u64);
                }
            }
            // A placeholder may lie across the end of a piece.
            start += (PIECE_BYTES - DIGEST_BYTES + 1) as u64;
        }
        Ok(())
    }
}

/// Writes digests at their places.
pub(super) fn fill_in(
    file: &File,
    places: &Places,
    digests: impl Iterator<Item = Digest>,
) -> io::Result<()> {
    for (place, digest) in places.iter().zip(digests) {
        file.write_all_at(digest.to_string().as_bytes(), *place)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_wherever_they_are() {
        let placeholders = Placeholders::new(4);
        let file = tempfile::tempfile().unwrap();
        // Some lie across the ends of pieces, and one at the file's end.
        let piece = PIECE_BYTES as u64;
        let places = [96, piece - 30, 2 * piece - 71, 2 * piece + 1, 3 * piece];
        for (place, text) in places.iter().zip(&placeholders.texts) {
            file.write_all_at(text.as_bytes(), *place).unwrap();
        }
        assert_eq!(placeholders.find(&file, &[]).unwrap(), places);
        let between = [167..piece - 30, piece + 41..2 * piece - 71];
        assert_eq!(placeholders.find(&file, &between).unwrap(), places);
        let over_one = piece - 30..piece + 41;
        assert!(placeholders.find(&file, &[over_one]).is_err());
        let others = Placeholders::new(4);
        assert!(others.find(&file, &[]).is_err(), "other texts");
    }
}
