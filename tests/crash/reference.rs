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
use plm_core::{EncoderLoader, Packer, Rank, RowId};
use plm_esm2::{Checkpoint, CpuOptions, Esm2Loader};
use plm_fleet::shards::RunFormat;
use plm_fleet::{
    Devices, Dtype, EmbeddingsFile, Model, PlanConfig, RunConfig, run_multi_gpu_inference,
};
use plm_testkit::{SplitMix64, random_residues};
use tempfile::TempDir;

/// What the subjects embed, and the result that they must give.
pub(crate) struct Reference {
    _folder: TempDir,
    /// One input is a plain file. The other is compressed, and is unpacked into the run's
    /// directory.
    pub(crate) inputs: Vec<PathBuf>,
    pub(crate) records: Vec<Record>,
    pub(crate) embeddings: Vec<u8>,
    pub(crate) ledger: Vec<u8>,
    /// Segments of this run say this of themselves.
    pub(crate) format: RunFormat,
}

/// A protein and its vector.
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) residues: String,
    pub(crate) vector: Vec<f32>,
}

const RECORDS: usize = 60;
/// How many of the proteins are in the compressed file.
const COMPRESSED: usize = 20;

impl Reference {
    pub(crate) fn get() -> &'static Self {
        static REFERENCE: OnceLock<Reference> = OnceLock::new();
        REFERENCE.get_or_init(Self::make)
    }

    fn make() -> Self {
        let folder = tempfile::tempdir().expect("there is room");
        let proteins = proteins();
        let inputs = write_inputs(&proteins, folder.path());
        let vectors = vectors_one_by_one(&proteins);
        let records: Vec<Record> = proteins
            .into_iter()
            .zip(vectors)
            .map(|((id, residues), vector)| Record {
                id,
                residues,
                vector,
            })
            .collect();

        let out = folder.path().join("out");
        let config = RunConfig {
            devices: Devices::CPU,
            plan: PlanConfig::builder()
                .max_residues(40)
                .build()
                .expect("a plan"),
            ..RunConfig::default()
        };
        run_multi_gpu_inference(inputs.iter(), &Model::PlmTiny, &out, &config)
            .expect("nothing happens to it");
        let read = |name: &str| fs::read(out.join(name)).expect("it is finished");
        let file = EmbeddingsFile::open(out.join("embeddings.h5")).expect("it is finished");
        let reference = Self {
            embeddings: read("embeddings.h5"),
            ledger: read("ledger.tsv"),
            format: file.format().clone(),
            inputs,
            records,
            _folder: folder,
        };
        reference.assert_vectors(&out);
        reference
    }

    /// Asserts that `embeddings.h5` has all ids in order, each with the vector of its own residues,
    /// to the last bit.
    pub(crate) fn assert_vectors(&self, out: &Path) {
        let file = EmbeddingsFile::open(out.join("embeddings.h5")).expect("it can be read");
        let ids: Vec<&str> = self.records.iter().map(|record| &*record.id).collect();
        assert_eq!(file.ids().expect("it can be read"), ids);
        let vectors = file.read_rows(0..file.rows()).expect("it can be read");
        for (record, vector) in self.records.iter().zip(vectors.rows()) {
            let bits = |value: &f32| value.to_bits();
            assert!(
                vector.iter().map(bits).eq(record.vector.iter().map(bits)),
                "{} has another vector than its residues",
                record.id
            );
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

fn vectors_one_by_one(proteins: &[(String, String)]) -> Vec<Vec<f32>> {
    let loader = Esm2Loader::new(
        Checkpoint::plm_tiny(),
        CpuOptions::all_cores(NonZeroUsize::MIN),
        Dtype::F32,
    )
    .expect("it is a model");
    let mut encoder = loader.load(Rank(0)).expect("it is a model");
    let mut alone: HashMap<&str, Vec<f32>> = HashMap::new();
    proteins
        .iter()
        .map(|(_, residues)| {
            let vector = alone.entry(residues).or_insert_with(|| {
                let tokens = &loader.spec().tokens;
                let mut packer = Packer::new(tokens, residues.len() + 2);
                packer
                    .push(RowId(0), residues.as_bytes())
                    .expect("it has room");
                let batch = Arc::new(packer.finish());
                let encoded = encoder.encode(&batch).expect("it computes");
                encoded.columns()[0].sequence(0)
            });
            vector.clone()
        })
        .collect()
}
