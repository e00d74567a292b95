//! Uses an index that exists already, if it is still of the inputs' content.

use std::io;
use std::path::Path;

use plm_core::sweep;

use crate::stage::{Staged, looked_at, stage};
use crate::{Error, FastaIndex, IndexConfig, Input, InputFile, build};

/// Whether an index had to be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The index file was of this content and these policies.
    Reused,
    /// There was no index file, or one of other content or other policies.
    Built,
}

impl FastaIndex {
    /// Loads the index at `index_path` if it is of the same content under the same policies.
    /// Otherwise it builds one, as [`build`](Self::build) does, and saves it there.
    ///
    /// Content is compared by digest, so all inputs are read. Their paths and times do not matter:
    /// if inputs were moved, their index is used with the new paths.
    ///
    /// # Errors
    /// Those of [`build`](Self::build) and [`save`](Self::save). An index file that can't be used
    /// is no error: the index is built.
    ///
    /// # Examples
    /// ```
    /// use plm_index::{FastaIndex, Freshness, IndexConfig, Input};
    ///
    /// let folder = tempfile::tempdir()?;
    /// let fasta = folder.path().join("proteins.fasta");
    /// std::fs::write(&fasta, ">a\nMKV\n")?;
    /// let (inputs, config) = ([Input::from(fasta)], IndexConfig::default());
    ///
    /// let path = folder.path().join("index.plm");
    /// for expected in [Freshness::Built, Freshness::Reused] {
    ///     let (index, freshness) =
    ///         FastaIndex::load_or_build(&inputs, &path, folder.path(), &config)?;
    ///     assert_eq!((index.len(), freshness), (1, expected));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn load_or_build(
        inputs: &[Input],
        index_path: &Path,
        spool_dir: &Path,
        config: &IndexConfig,
    ) -> Result<(Self, Freshness), Error> {
        let staged = stage(inputs, spool_dir, &mut io::stdin())?;
        let (index, freshness) = load_or_build(staged, index_path, config)?;
        index.warn();
        Ok((index, freshness))
    }
}

fn load_or_build(
    staged: Vec<Staged>,
    index_path: &Path,
    config: &IndexConfig,
) -> Result<(FastaIndex, Freshness), Error> {
    sweep(index_path);
    if let Some(mut index) = load_usable(index_path, config) {
        let inputs: Vec<InputFile> = staged
            .iter()
            .map(Staged::describe)
            .collect::<Result<_, _>>()?;
        if has_content(&index, &inputs) {
            index.looked_at = looked_at(&staged);
            if index.inputs != inputs {
                index.inputs = inputs;
                index.save(index_path)?;
            }
            return Ok((index, Freshness::Reused));
        }
        tracing::info!(path = %index_path.display(), "the inputs changed since they were indexed");
    }
    let index = build::build(staged, config)?;
    index.save(index_path)?;
    Ok((index, Freshness::Built))
}

fn load_usable(index_path: &Path, config: &IndexConfig) -> Option<FastaIndex> {
    match FastaIndex::load(index_path) {
        Ok(index) if index.config == *config => Some(index),
        Ok(_) => {
            tracing::info!(path = %index_path.display(), "the index was built under other policies");
            None
        }
        Err(Error::ReadIndex { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!("{error}");
            None
        }
    }
}

fn has_content(index: &FastaIndex, inputs: &[InputFile]) -> bool {
    index.inputs.len() == inputs.len()
        && index.inputs.iter().zip(inputs).all(|(indexed, input)| {
            indexed.digest == input.digest && indexed.text_digest == input.text_digest
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    use plm_core::RowId;

    fn index_stdin(stdin: &mut dyn Read, folder: &Path) -> (FastaIndex, Freshness) {
        let staged = stage(&[Input::Stdin], &folder.join("spool"), stdin).unwrap();
        load_or_build(staged, &folder.join("index.plm"), &IndexConfig::default()).unwrap()
    }

    #[test]
    fn standard_input_is_spooled_and_compared_by_content() {
        let folder = tempfile::tempdir().unwrap();
        let (first, freshness) = index_stdin(&mut &b">a\nMK\n>b\nGG"[..], folder.path());
        assert_eq!(freshness, Freshness::Built);
        let mut residues = Vec::new();
        first.reader().read(RowId(1), &mut residues).unwrap();
        assert_eq!(residues, b"GG");
        assert_eq!(first.inputs()[0].name, "standard input");

        let (again, freshness) = index_stdin(&mut &b">a\nMK\n>b\nGG"[..], folder.path());
        assert_eq!((&again, freshness), (&first, Freshness::Reused));

        let (_, freshness) = index_stdin(&mut &b">a\nMK\n>b\nGH"[..], folder.path());
        assert_eq!(freshness, Freshness::Built);
    }
}
