//! ESM-1b and ESM-1v from FASTA to one file: their window, and what is refused beyond it.

use std::fs;
use std::path::{Path, PathBuf};

use plm_core::{PackedBatch, Packer, RowId};
use plm_fleet::{
    Devices, Dtype, Embedder, EmbedderConfig, EmbeddingsFile, Error, Layer, LongSequences, Model,
    OutputKind, OutputSet, PlanConfig, RunConfig, run_multi_gpu_inference, verify_run,
};
use plm_testkit::random_residues;
use safetensors::SafeTensors;

/// The relative error that f32 arithmetic may cause: ||ours - reference|| / ||reference||.
const TOLERANCE: f64 = 2e-5;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// A model with positions for 38 residues, BOS and EOS.
fn tiny(kind: &str) -> Model {
    Model::Checkpoint(path(&format!("pickles/{kind}/fair/{kind}_t2_tiny.pt")))
}

fn config(plan: PlanConfig, outputs: OutputSet) -> RunConfig {
    RunConfig {
        devices: Devices::CPU,
        outputs: Some(outputs),
        plan,
        ..RunConfig::default()
    }
}

#[test]
fn a_run_gives_the_references_vectors_and_says_what_the_model_is() {
    for (kind, family) in [("esm1b", "ESM-1b"), ("esm1v", "ESM-1v")] {
        let model = Model::Checkpoint(path("goldens").join(kind));
        let info = model.info().unwrap().architecture.unwrap();
        assert_eq!((info.family, info.most_residues), (family, Some(1_022)));

        let out = tempfile::tempdir().unwrap();
        let outputs = OutputSet::new([OutputKind::Mean, OutputKind::Max], [Layer(0), Layer::LAST]);
        // The default window, which is that of these models.
        let config = config(PlanConfig::default(), outputs);
        let input = path("goldens/banded.fasta");
        let report = run_multi_gpu_inference([&input], &model, out.path(), &config).unwrap();
        let file = EmbeddingsFile::open(report.embeddings_path.unwrap()).unwrap();
        let goldens = fs::read(path("goldens").join(kind).join("goldens.safetensors")).unwrap();
        let goldens = SafeTensors::deserialize(&goldens).unwrap();
        for output in file.outputs() {
            let rows = file.read_rows_of(&output.name(), 0..file.rows()).unwrap();
            for (row, ours) in rows.rows().into_iter().enumerate() {
                let all = goldens.tensor(&format!("{row}.{}", output.kind)).unwrap();
                let (words, _) = all.data().as_chunks::<4>();
                let of_layer = &words[output.layer * ours.len()..][..ours.len()];
                let golden = of_layer
                    .iter()
                    .map(|&word| f64::from(f32::from_le_bytes(word)));
                let square = |x: f64| x * x;
                let both = ours.iter().zip(golden.clone());
                let error: f64 = both.map(|(&a, b)| square(f64::from(a) - b)).sum();
                let error = (error / golden.map(square).sum::<f64>()).sqrt();
                assert!(error <= TOLERANCE, "{} of {row}: {error}", output.name());
            }
        }
        verify_run(out.path()).unwrap();
    }
}

#[test]
fn a_window_past_the_last_position_is_refused_before_anything_is_written() {
    let scratch = tempfile::tempdir().unwrap();
    let (input, out) = (scratch.path().join("in.fasta"), scratch.path().join("out"));
    // What the input has does not matter.
    fs::write(&input, ">short\nMK\n").unwrap();
    let plan = |residues| {
        PlanConfig::builder()
            .max_residues(residues)
            .build()
            .unwrap()
    };
    for residues in [39, 1_022] {
        let config = config(plan(residues), OutputSet::default());
        let refusal = run_multi_gpu_inference([&input], &tiny("esm1b"), &out, &config).unwrap_err();
        let words = format!(
            "esm1b_t2_tiny has positions for 38 residues, and max_residues is {residues}: lower max_residues"
        );
        assert_eq!(refusal.to_string(), words);
        assert!(refusal.is_refusal());
        assert!(!out.exists());

        let config = EmbedderConfig {
            devices: Devices::CPU,
            plan: plan(residues),
            ..EmbedderConfig::default()
        };
        let refusal = Embedder::new(&tiny("esm1b"), &config).unwrap_err();
        assert!(matches!(refusal, Error::NoPositions { .. }), "{refusal}");
    }
    let config = config(plan(38), OutputSet::default());
    run_multi_gpu_inference([&input], &tiny("esm1b"), &out, &config).unwrap();
}

/// A protein as one sequence.
fn alone(tokens: &plm_core::TokenMap, residues: &[u8]) -> PackedBatch {
    let mut packer = Packer::new(tokens, 1 << 10);
    packer.push(RowId(0), residues).unwrap();
    packer.finish()
}

#[test]
fn a_long_protein_has_the_mean_of_windows_that_each_start_at_the_first_position() {
    let protein = random_residues(1, 70);
    // Windows of 38 that share 10.
    let windows = [&protein[..38], &protein[28..66], &protein[56..]];
    for kind in ["esm1b", "esm1v"] {
        let checkpoint = path(&format!("pickles/{kind}/reference"));
        let checkpoint = plm_esm2::Checkpoint::open(checkpoint).unwrap();
        let model = plm_esm2::Esm2::new(&checkpoint, Dtype::F32).unwrap();
        let tokens = plm_esm2::token_map();
        let mut expected = vec![0.0; 16];
        let total: usize = windows.iter().map(|window| window.len()).sum();
        for window in windows {
            let mean = model.forward(&alone(&tokens, window), &OutputSet::default());
            let mean = mean.unwrap()[0].sequence(0);
            for (sum, value) in expected.iter_mut().zip(mean) {
                *sum += f64::from(value) * window.len() as f64 / total as f64;
            }
        }
        let plan = PlanConfig::builder().max_residues(38);
        let plan = plan.long_sequences(LongSequences::Window {
            overlap_residues: 10,
        });
        let config = EmbedderConfig {
            devices: Devices::CPU,
            plan: plan.build().unwrap(),
            ..EmbedderConfig::default()
        };
        let embedder = Embedder::new(&tiny(kind), &config).unwrap();
        let found = embedder.embed_one(&protein).unwrap().values(0);
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-6,
                "{found} {expected}"
            );
        }
    }
}
