//! What every run must give, however it was broken: the bytes of an undisturbed run, and vectors
//! that the model alone computed, one sequence at a time.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use flate2::Compression;
use flate2::write::GzEncoder;
use plm_core::store::StoredRun;
use plm_core::{Column, EncoderLoader, Packer, Rank, RowId};
use plm_esm2::{Checkpoint, CpuOptions, Esm2Loader};
use plm_fleet::{
    Devices, Dtype, EmbeddingsFile, FastaIndex, Model, PlanConfig, RunConfig, SegmentConfig,
    run_multi_gpu_inference,
};
use plm_testkit::{SplitMix64, random_residues};
use tempfile::TempDir;

use crate::outputs::Outputs;

/// What the subjects embed, and the result that they must give.
pub(crate) struct Reference {
    _folder: TempDir,
    /// One input is a plain file. The other is compressed, and is unpacked into the run's
    /// directory.
    pub(crate) inputs: Vec<PathBuf>,
    pub(crate) records: Vec<Record>,
    pub(crate) embeddings: Vec<u8>,
    pub(crate) ledger: Vec<u8>,
    /// The index of the inputs.
    pub(crate) index: FastaIndex,
    /// What a store knows of this run.
    pub(crate) run: StoredRun,
}

/// A protein and its values.
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) residues: String,
    /// The values of each output, as they are stored: `[its rows, width]`.
    pub(crate) outputs: Vec<Column>,
}

const RECORDS: usize = 60;
/// How many of the proteins are in the compressed file.
const COMPRESSED: usize = 20;

impl Reference {
    pub(crate) fn get() -> &'static Self {
        static REFERENCES: [OnceLock<Reference>; 3] = [const { OnceLock::new() }; 3];
        let outputs = Outputs::of_this_test();
        REFERENCES[outputs.number() as usize].get_or_init(|| Self::make(outputs))
    }

    fn make(outputs: Outputs) -> Self {
        let folder = tempfile::tempdir().expect("there is room");
        let proteins = proteins();
        let inputs = write_inputs(&proteins, folder.path());
        let values = values_one_by_one(&proteins, outputs);
        let records: Vec<Record> = proteins
            .into_iter()
            .zip(values)
            .map(|((id, residues), outputs)| Record {
                id,
                residues,
                outputs,
            })
            .collect();

        let out = folder.path().join("out");
        let config = RunConfig {
            devices: Devices::CPU,
            outputs: outputs.set(),
            plan: PlanConfig::builder()
                .max_residues(40)
                .build()
                .expect("a plan"),
            store: outputs
                .of_size(SegmentConfig::builder())
                .build()
                .expect("segments")
                .into(),
            ..RunConfig::default()
        };
        run_multi_gpu_inference(inputs.iter(), &Model::PlmTiny, &out, &config)
            .expect("nothing happens to it");
        let read = |name: &str| fs::read(out.join(name)).expect("it is finished");
        let file = EmbeddingsFile::open(out.join("embeddings.h5")).expect("it is finished");
        let reference = Self {
            embeddings: read("embeddings.h5"),
            ledger: read("ledger.tsv"),
            index: FastaIndex::load(&out.join("index.plm")).expect("it is finished"),
            run: StoredRun {
                max_file_bytes: outputs.max_file_bytes(),
                digest: file.format().run_digest(),
                outputs: file.outputs().to_vec(),
                truncated_to: None,
            },
            inputs,
            records,
            _folder: folder,
        };
        assert_eq!(file.files().len() > 2, outputs == Outputs::Files);
        reference.assert_values(&out);
        reference
    }

    /// Asserts that `embeddings.h5` has all ids in order, each with the values of its own residues,
    /// to the last bit.
    pub(crate) fn assert_values(&self, out: &Path) {
        let file = EmbeddingsFile::open(out.join("embeddings.h5")).expect("it can be read");
        let ids: Vec<&str> = self.records.iter().map(|record| &*record.id).collect();
        assert_eq!(file.ids().expect("it can be read"), ids);
        for (place, record) in self.records.iter().enumerate() {
            for (position, expected) in record.outputs.iter().enumerate() {
                let found = file.read_column(position, place..place + 1);
                assert!(
                    found.expect("it can be read") == *expected,
                    "{} has other values than those of its residues",
                    record.id
                );
            }
        }
    }
}

/// Ids and residues. Some proteins have the same residues under different ids.
fn proteins() -> Vec<(String, String)> {
    let mut random = SplitMix64::new(7);
    let mut proteins: Vec<(String, String)> = Vec::new();
    for number in 0..RECORDS {
        let residues = match number % 10 {
            9 => proteins[random.below(number as u64) as usize].1.clone(),
            _ => {
                let count = 5 + random.below(36) as usize;
                String::from_utf8(random_residues(random.next_u64(), count)).expect("letters")
            }
        };
        proteins.push((format!("p{:04x}_{number}", random.below(1 << 16)), residues));
    }
    proteins
}

/// FASTA text.
pub(crate) fn fasta<'a>(proteins: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    proteins
        .into_iter()
        .map(|(id, residues)| format!(">{id}\n{residues}\n"))
        .collect()
}

fn write_inputs(proteins: &[(String, String)], folder: &Path) -> Vec<PathBuf> {
    let text = |proteins: &[(String, String)]| {
        fasta(proteins.iter().map(|(id, residues)| (&**id, &**residues)))
    };
    let (plain, compressed) = proteins.split_at(RECORDS - COMPRESSED);
    let paths = vec![folder.join("plain.fasta"), folder.join("more.fasta.gz")];
    fs::write(&paths[0], text(plain)).expect("there is room");
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder
        .write_all(text(compressed).as_bytes())
        .expect("memory has room");
    fs::write(&paths[1], encoder.finish().expect("memory has room")).expect("there is room");
    paths
}

fn values_one_by_one(proteins: &[(String, String)], outputs: Outputs) -> Vec<Vec<Column>> {
    let loader = Esm2Loader::new(
        Checkpoint::plm_tiny(),
        CpuOptions::all_cores(NonZeroUsize::MIN),
        Dtype::F32,
    )
    .expect("it is a model");
    let loader = match outputs.set() {
        Some(outputs) => loader.with_outputs(&outputs).expect("it gives them"),
        None => loader,
    };
    let mut encoder = loader.load(Rank(0)).expect("it is a model");
    let mut alone: HashMap<&str, Vec<Column>> = HashMap::new();
    proteins
        .iter()
        .map(|(_, residues)| {
            let values = alone.entry(residues).or_insert_with(|| {
                let tokens = &loader.spec().tokens;
                let mut packer = Packer::new(tokens, residues.len() + 2);
                packer
                    .push(RowId(0), residues.as_bytes())
                    .expect("it has room");
                let batch = Arc::new(packer.finish());
                let encoded = encoder.encode(&batch).expect("it computes");
                encoded.into_columns()
            });
            values.clone()
        })
        .collect()
}
