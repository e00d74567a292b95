//! Whole FASTA files are indexed and read back.

mod bombs;
mod compressed;
mod damage;
mod found;
mod hostile;
mod layouts;
mod memory;
mod mutations;
mod open_files;
mod oracle;
mod policies;
mod problems;
mod reuse;
mod torture;

use std::fs;
use std::path::{Path, PathBuf};

use plm_core::RowId;
use plm_index::{Error, FastaIndex, IndexConfig, Input};
use tempfile::TempDir;

/// A folder with input files, and room for spool files.
struct Workspace {
    folder: TempDir,
}

impl Workspace {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn spool(&self) -> PathBuf {
        self.path("spool")
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn build(&self, paths: &[&Path], config: &IndexConfig) -> Result<FastaIndex, Error> {
        let inputs: Vec<Input> = paths.iter().map(|path| Input::from(*path)).collect();
        FastaIndex::build(&inputs, &self.spool(), config)
    }
}

/// The index of one file of this content, under the default policies.
fn index_of(content: impl AsRef<[u8]>) -> Result<FastaIndex, Error> {
    let workspace = Workspace::new();
    let path = workspace.write("input", content);
    workspace.build(&[&path], &IndexConfig::default())
}

/// The ids and residues of all records, read from the last to the first.
fn read_all(index: &FastaIndex) -> Vec<(String, String)> {
    let mut reader = index.reader();
    let mut residues = Vec::new();
    let mut records: Vec<_> = (0..index.len())
        .rev()
        .map(|row| {
            reader.read(RowId(row), &mut residues).unwrap();
            let record = index.record(RowId(row));
            assert_eq!(residues.len(), record.residue_count as usize);
            let residues = String::from_utf8(residues.clone()).unwrap();
            (record.id.to_owned(), residues)
        })
        .collect();
    records.reverse();
    records
}

fn pairs(records: &[(&str, &str)]) -> Vec<(String, String)> {
    records
        .iter()
        .map(|(id, residues)| ((*id).to_owned(), (*residues).to_owned()))
        .collect()
}
