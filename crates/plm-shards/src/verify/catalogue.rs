//! Reads the catalogue of a result of several files, and the files.

use std::ops::Range;

use plm_core::Digest;

use super::{
    COLUMN_ROWS, Digests, OTHER_DIGEST, VerifyReport, check_count, offsets, pieces, read_columns,
    verify,
};
use crate::digest::DatasetHasher;
use crate::embeddings::Parts;
use crate::expect::{Expectation, ExpectedRows};
use crate::{EmbeddingsFile, Error, layout};

/// Reads and checks everything in a catalogue but the digests, and gives these back.
pub(crate) fn read_catalogue(
    file: &EmbeddingsFile,
    expected: Option<(&Expectation<'_>, &ExpectedRows)>,
) -> Result<Digests, Error> {
    check_count(file, expected)?;
    let mut datasets = read_columns(file, expected)?.to_vec();
    datasets.extend(file.parts().map(digests_of_list).into_iter().flatten());
    datasets.extend(offsets::check(
        file,
        expected.map(|(expected, _)| expected),
    )?);
    Ok(Digests(datasets))
}

/// The names and digests of the datasets that list the files.
fn digests_of_list(parts: &Parts) -> [(String, Digest); 3] {
    let [mut names, mut digests, mut offsets] = std::array::from_fn(|_| DatasetHasher::default());
    for part in parts.iter() {
        names.text(&part.name);
        digests.text(&part.content_digest.to_string());
    }
    let starts = parts.iter().map(|part| part.records.start as u64);
    offsets.numbers_u64(&starts.collect::<Vec<_>>());
    offsets.numbers_u64(&[parts.rows() as u64]);
    [
        (layout::FILE_NAMES, names),
        (layout::FILE_DIGESTS, digests),
        (layout::FILE_OFFSETS, offsets),
    ]
    .map(|(name, hasher)| (name.to_owned(), hasher.finish()))
}

/// Reads every byte of the files, and checks that each has what the catalogue says.
pub(super) fn check_files(catalogue: &EmbeddingsFile, parts: &Parts) -> Result<(), Error> {
    for (number, part) in parts.iter().enumerate() {
        let file = parts.open_sealed(number)?;
        let VerifyReport { content_digest, .. } = verify(file.path(), None)?;
        if content_digest != part.content_digest {
            return Err(file.bad("", OTHER_DIGEST));
        }
        for records in pieces(file.rows(), COLUMN_ROWS) {
            let start = part.records.start;
            let of_all = start + records.start..start + records.end;
            let is_same = file.read_ids(records.clone())? == catalogue.read_ids(of_all.clone())?
                && file.read_lengths(records.clone())? == catalogue.read_lengths(of_all.clone())?
                && file.read_outcomes(records.clone())? == catalogue.read_outcomes(of_all)?;
            let is_same =
                is_same && has_same_offsets(catalogue, &file, part.records.start, records)?;
            if !is_same {
                return Err(file.bad("", "it has other records than the catalogue says"));
            }
        }
    }
    Ok(())
}

/// Whether a file's records have as many rows as the catalogue says. The first record of the file
/// is the catalogue's at `start`.
fn has_same_offsets(
    catalogue: &EmbeddingsFile,
    file: &EmbeddingsFile,
    start: usize,
    records: Range<usize>,
) -> Result<bool, Error> {
    for kind in layout::kinds_with_offsets(file.format()) {
        let per = kind.per();
        let first = catalogue.read_offsets_of(per, start..start)?[0];
        let of_all = start + records.start..start + records.end;
        let of_all = catalogue.read_offsets_of(per, of_all)?;
        let of_file = file.read_offsets_of(per, records.clone())?;
        if !of_all.iter().map(|offset| offset - first).eq(of_file) {
            return Ok(false);
        }
    }
    Ok(true)
}
