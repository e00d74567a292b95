//! Every kind of output from FASTA to one file, to several, and without files.

use plm_core::Dtype;
use plm_fleet::{
    Embedder, EmbedderConfig, EmbeddingsFile, Layer, Model, OutputKind, OutputSet, PlanConfig,
    RunConfig, StoreConfig, run_multi_gpu_inference, store_by_name,
};
use plm_testkit::random_residues;

const RECORDS: u64 = 300;

/// Asserts that runs to one file and to several, and an embedder, give the same bits.
pub(crate) fn every_way_out_gives_the_same_bits() {
    let folder = tempfile::tempdir().expect("there is room");
    let fasta = folder.path().join("in.fasta");
    let proteins: Vec<(String, String)> = (0..RECORDS)
        .map(|row| {
            let residues = random_residues(row, 5 + (row * 37 % 400) as usize);
            let residues = String::from_utf8(residues).expect("letters are UTF-8");
            (format!("p{row}"), residues)
        })
        .collect();
    let records = (proteins.iter()).map(|(id, residues)| format!(">{id}\n{residues}\n"));
    std::fs::write(&fasta, records.collect::<String>()).expect("there is room");
    let outputs = OutputSet::new(OutputKind::ALL, [Layer(2), Layer::LAST]);
    let plan = PlanConfig::builder()
        .max_batch_tokens(4_096)
        .max_residues(300);
    let plan = plan.build().expect("it is a plan");
    for dtype in [Dtype::F16, Dtype::Bf16, Dtype::F32] {
        let run = |name: &str, max_file_bytes| {
            let store = StoreConfig {
                max_file_bytes,
                ..StoreConfig::default()
            };
            let config = RunConfig {
                devices: "cuda:0".parse().expect("it is a device"),
                dtype: Some(dtype),
                outputs: Some(outputs.clone()),
                plan: plan.clone(),
                store: store_by_name("hdf5", store).expect("it has the name"),
                ..RunConfig::default()
            };
            let out = folder.path().join(format!("{name}_{dtype}"));
            run_multi_gpu_inference([&fasta], &Model::PlmTiny, &out, &config).expect("it runs");
            EmbeddingsFile::open_sealed(out.join("embeddings.h5")).expect("it is one")
        };
        let (one, several) = (run("one", None), run("several", Some(8 << 20)));
        assert!(several.files().len() > 3, "{:?}", several.files());
        let config = EmbedderConfig {
            devices: "cuda:0".parse().expect("it is a device"),
            dtype: Some(dtype),
            outputs: Some(outputs.clone()),
            plan: plan.clone(),
            ..EmbedderConfig::default()
        };
        let embedder = Embedder::new(&Model::PlmTiny, &config).expect("it starts");
        assert_eq!(embedder.outputs().len(), one.outputs().len());
        let embedded = embedder.embed(proteins.clone());
        for (row, (id, embedding)) in embedded.enumerate() {
            let embedding = embedding.expect("it has values");
            for (position, output) in one.outputs().iter().enumerate() {
                let of = |file: &EmbeddingsFile| {
                    file.read_column(position, row..row + 1)
                        .expect("it can be read")
                };
                let (stored, name) = (of(&one), output.name());
                assert_eq!(of(&several), stored, "{id}, {name}, {dtype}");
                let given = embedding.columns[position].sequence(0);
                assert!(given == stored.sequence(0), "{id}, {name}, {dtype}");
            }
        }
    }
}
