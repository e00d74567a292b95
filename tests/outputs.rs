//! Several outputs in one pass. Each equals the reference, whatever the ranks and batches, and one
//! has the bits of a default run.

use std::fs;
use std::path::{Path, PathBuf};

use plm_fleet::{
    Devices, Dtype, EmbeddingsFile, Error, Layer, LongSequences, Model, OutputKind, OutputSet,
    PlanConfig, RunConfig, RunReport, SegmentConfig, run_multi_gpu_inference, verify_run,
};
use plm_testkit::random_residues;
use safetensors::SafeTensors;
use tempfile::TempDir;

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/goldens");

/// The relative error that f32 arithmetic may cause: ||ours - reference|| / ||reference||.
const TOLERANCE: f64 = 2e-5;

fn fasta() -> PathBuf {
    Path::new(GOLDENS).join("real_banded.fasta")
}

/// The means of all layers of plm-tiny, and the BOS rows of its first, third and last layer.
fn outputs() -> OutputSet {
    let layers = [0, 1, 2, 3, 4, 5, -1].map(Layer);
    OutputSet::new([OutputKind::Mean, OutputKind::Bos], layers)
}

fn config(devices: &str, max_batch_tokens: u32, outputs: Option<OutputSet>) -> RunConfig {
    RunConfig {
        devices: devices.parse::<Devices>().unwrap(),
        outputs,
        plan: PlanConfig::builder()
            .max_batch_tokens(max_batch_tokens)
            .max_residues(1_500)
            .build()
            .unwrap(),
        store: SegmentConfig::builder().max_rows(4).build().unwrap().into(),
        ..RunConfig::default()
    }
}

fn run(config: &RunConfig) -> (TempDir, RunReport) {
    let out = tempfile::tempdir().unwrap();
    let report = run_multi_gpu_inference([fasta()], &Model::PlmTiny, out.path(), config).unwrap();
    assert!(report.failed_ranks.is_empty());
    assert!(report.failed_rows.is_empty());
    (out, report)
}

fn numbers(goldens: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    let tensor = goldens.tensor(name).unwrap();
    let numbers = tensor.data().chunks_exact(4);
    numbers
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()).into())
        .collect()
}

fn relative_error(ours: &[f32], reference: &[f64]) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let difference = ours.iter().zip(reference).map(|(&a, b)| f64::from(a) - b);
    let norm = |squares: f64| squares.sqrt();
    norm(difference.map(|x| x * x).sum()) / norm(reference.iter().map(|x| x * x).sum())
}

#[test]
fn every_layers_mean_and_the_bos_are_those_of_the_reference() {
    let (out, report) = run(&config("cpu:2", 4_096, Some(outputs())));
    let bytes = fs::read(Path::new(GOLDENS).join("plm-tiny.safetensors")).unwrap();
    let goldens = SafeTensors::deserialize(&bytes).unwrap();
    let file = EmbeddingsFile::open(report.embeddings_path.unwrap()).unwrap();
    let names: Vec<String> = file.outputs().iter().map(|output| output.name()).collect();
    let expected: Vec<String> = ["mean", "bos"]
        .iter()
        .flat_map(|kind| (0..=6).map(move |layer| format!("{kind}/layer_{layer}")))
        .collect();
    assert_eq!(names, expected);
    for row in 0..file.rows() {
        let means = numbers(&goldens, &format!("{row}.mean"));
        for (layer, mean) in means.chunks(128).enumerate() {
            let ours = file.read_rows_of(&format!("mean/layer_{layer}"), row..row + 1);
            let error = relative_error(ours.unwrap().as_slice().unwrap(), mean);
            assert!(error < TOLERANCE, "row {row}, layer {layer}: {error:.1e}");
        }
        let bos = numbers(&goldens, &format!("{row}.bos"));
        let ours = file.read_rows_of("bos/layer_6", row..row + 1).unwrap();
        let error = relative_error(ours.as_slice().unwrap(), &bos);
        assert!(error < TOLERANCE, "row {row}, BOS: {error:.1e}");
    }
    // A read without a name gives the first output.
    let first = file.read_rows(0..file.rows()).unwrap();
    let by_name = file.read_rows_of("mean/layer_0", 0..file.rows()).unwrap();
    assert_eq!(first, by_name);
    verify_run(out.path()).unwrap();
}

/// All outputs of plm-tiny's first, third and last layer, with residues in f32.
fn all_outputs() -> OutputSet {
    let layers = [0, 2, -1].map(Layer);
    OutputSet::new(OutputKind::ALL, layers).with_residues_dtype(Dtype::F32)
}

#[test]
fn all_outputs_of_one_run_are_those_of_the_reference() {
    let (out, report) = run(&config("cpu:2", 4_096, Some(all_outputs())));
    let bytes = fs::read(Path::new(GOLDENS).join("plm-tiny.safetensors")).unwrap();
    let goldens = SafeTensors::deserialize(&bytes).unwrap();
    let has = |name: &str| goldens.tensor(name).is_ok();
    let file = EmbeddingsFile::open(report.embeddings_path.unwrap()).unwrap();
    // Three layers of four kinds, and two that are of no single layer.
    assert_eq!(file.outputs().len(), 14);
    for (position, output) in file.outputs().iter().enumerate() {
        let mut compared = 0;
        for row in 0..file.rows() {
            // The reference has nothing per residue of long proteins, and BOS of the last layer.
            let (what, parts) = match output.kind {
                OutputKind::Mean => ("mean", 7),
                OutputKind::Max => ("max", 7),
                OutputKind::Residues if output.layer < 6 => ("hidden", 7),
                OutputKind::Bos if output.layer < 6 => continue,
                kind => (kind.name(), 1),
            };
            let name = format!("{row}.{what}");
            if !has(&name) {
                continue;
            }
            let reference = numbers(&goldens, &name);
            let layer = if parts == 7 { output.layer } else { 0 };
            let values = reference.len() / parts;
            let reference = &reference[layer * values..][..values];
            let ours = file
                .read_column(position, row..row + 1)
                .unwrap()
                .sequence(0);
            let error = relative_error(&ours, reference);
            assert!(
                error < TOLERANCE,
                "{}, row {row}: {error:.1e}",
                output.name()
            );
            compared += 1;
        }
        let is_known = output.kind != OutputKind::Bos || output.layer == 6;
        assert_eq!(compared > 0, is_known, "{}", output.name());
    }
    verify_run(out.path()).unwrap();
}

#[test]
fn neither_ranks_nor_batches_change_a_byte_of_any_output() {
    // Residues in f16, as by default.
    let outputs = || Some(OutputSet::new(OutputKind::ALL, [Layer(1), Layer::LAST]));
    let (_one, expected) = run(&config("cpu:1", 1_024, outputs()));
    let bytes = |report: &RunReport| fs::read(report.embeddings_path.as_ref().unwrap()).unwrap();
    for (devices, max_batch_tokens) in [("cpu:3", 2_000), ("cpu:2", 50_000)] {
        let (_out, report) = run(&config(devices, max_batch_tokens, outputs()));
        assert!(bytes(&report) == bytes(&expected), "{devices}");
    }
}

#[test]
fn neither_ranks_nor_batches_nor_other_outputs_change_a_byte() {
    let (_one, expected) = run(&config("cpu:1", 1_024, Some(outputs())));
    let bytes = |report: &RunReport| fs::read(report.embeddings_path.as_ref().unwrap()).unwrap();
    for (devices, max_batch_tokens) in [("cpu:3", 2_000), ("cpu:7", 50_000)] {
        let (_out, report) = run(&config(devices, max_batch_tokens, Some(outputs())));
        assert!(bytes(&report) == bytes(&expected), "{devices}");
    }
    let (_plain, plain) = run(&config("cpu:2", 4_096, None));
    let last = |report: &RunReport, name| {
        let file = EmbeddingsFile::open(report.embeddings_path.as_ref().unwrap()).unwrap();
        let rows = file.read_rows_of(name, 0..file.rows()).unwrap();
        rows.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
    };
    assert_eq!(
        last(&plain, "mean/layer_6"),
        last(&expected, "mean/layer_6")
    );
}

#[test]
fn the_default_outputs_by_name_make_the_default_file() {
    let by_name = OutputSet::new([OutputKind::Mean], [Layer(6)]);
    let (_out, named) = run(&config("cpu:2", 4_096, Some(by_name)));
    let (_plain, plain) = run(&config("cpu:2", 4_096, None));
    let bytes = |report: &RunReport| fs::read(report.embeddings_path.as_ref().unwrap()).unwrap();
    assert!(bytes(&named) == bytes(&plain));
}

#[test]
fn a_protein_in_windows_has_the_mean_of_their_bos() {
    let scratch = tempfile::tempdir().unwrap();
    let protein = String::from_utf8(random_residues(1, 90)).unwrap();
    let windows = [&protein[..50], &protein[40..90]];
    let text = format!(
        ">whole\n{protein}\n>first\n{}\n>last\n{}\n",
        windows[0], windows[1]
    );
    let input = scratch.path().join("in.fasta");
    fs::write(&input, text).unwrap();
    let plan = PlanConfig::builder().max_residues(50);
    let plan = plan.long_sequences(LongSequences::Window {
        overlap_residues: 10,
    });
    let config = RunConfig {
        plan: plan.build().unwrap(),
        ..config("cpu:1", 4_096, Some(outputs()))
    };
    let out = scratch.path().join("out");
    let report = run_multi_gpu_inference([input], &Model::PlmTiny, out, &config).unwrap();
    let file = EmbeddingsFile::open(report.embeddings_path.unwrap()).unwrap();
    for output in file.outputs() {
        let rows = file.read_rows_of(&output.name(), 0..3).unwrap();
        let mean = (rows.row(1).to_owned() + rows.row(2)) / 2.0;
        let difference = (rows.row(0).to_owned() - mean).mapv(f32::abs);
        let largest = difference.iter().copied().fold(0.0, f32::max);
        assert!(largest < 1e-6, "{}: {largest}", output.name());
    }
}

#[test]
fn a_layer_that_is_not_there_is_refused_before_anything_is_written() {
    let out = tempfile::tempdir().unwrap();
    for layer in [7, -8] {
        let outputs = OutputSet::new([OutputKind::Bos], [Layer(layer)]);
        let config = config("cpu:1", 4_096, Some(outputs));
        let place = out.path().join("out");
        let refusal = run_multi_gpu_inference([fasta()], &Model::PlmTiny, &place, &config);
        let error = refusal.unwrap_err();
        assert!(
            error.is_refusal() && matches!(error, Error::Model(_)),
            "{error}"
        );
        let words = error.to_string();
        assert!(words.contains(&format!("layer {layer}")), "{words}");
        assert!(!place.join("index.plm").exists());
    }
}

#[test]
fn a_run_with_other_outputs_is_refused_with_their_names() {
    let out = tempfile::tempdir().unwrap();
    let run = |outputs| {
        let config = config("cpu:2", 4_096, outputs);
        run_multi_gpu_inference([fasta()], &Model::PlmTiny, out.path(), &config)
    };
    let both = OutputSet::new([OutputKind::Mean, OutputKind::Bos], [Layer(0), Layer(-1)]);
    run(Some(both)).unwrap();
    let other_order = OutputSet::new([OutputKind::Bos], [Layer(-1)]);
    for (outputs, here) in [(None, "mean/layer_6"), (Some(other_order), "bos/layer_6")] {
        let refused = run(outputs).unwrap_err();
        assert!(matches!(refused, Error::OtherRun { .. }), "{refused}");
        let words = refused.to_string();
        let expected = format!(
            "outputs are mean/layer_0, mean/layer_6, bos/layer_0, bos/layer_6 there and {here} here"
        );
        assert!(words.contains(&expected), "{words}");
        assert!(!words.contains('{'), "{words}");
    }
}

#[test]
fn esmc_goes_from_fasta_to_file_as_esm2_does_and_contacts_are_refused() {
    let out = tempfile::tempdir().unwrap();
    let input = Path::new(GOLDENS).join("banded.fasta");
    let checkpoint = Path::new(GOLDENS).join("esmc/hd32-esm");
    let model = Model::Checkpoint(checkpoint.clone());
    let goldens = fs::read(Path::new(GOLDENS).join("esmc/hd32/goldens.safetensors")).unwrap();
    let goldens = SafeTensors::deserialize(&goldens).unwrap();

    let info = model.info().unwrap();
    assert_eq!(info.architecture.unwrap().family, "ESM C");
    assert_eq!(info.origin.unwrap().library, "esm");
    assert!(!info.outputs.contains(&OutputKind::Contacts));

    // A file of PyTorch without a configuration is known by its tensors.
    let file = Path::new(GOLDENS).join("esmc/one_head-pth/esmc_one_head.pth");
    let info = Model::Checkpoint(file).info().unwrap();
    assert_eq!(info.architecture.unwrap().family, "ESM C");

    let contacts = OutputSet::new([OutputKind::Contacts], [Layer(-1)]);
    let contacts = config("cpu:2", 4_096, Some(contacts));
    let refusal = run_multi_gpu_inference([&input], &model, out.path(), &contacts).unwrap_err();
    let words = "hd32-esm has no contact head, as no ESM C has, so it gives no contacts";
    assert_eq!(refusal.to_string(), words);
    assert!(refusal.is_refusal());

    let layers = [0, 1, 2, -1].map(Layer);
    let outputs = OutputSet::new([OutputKind::Mean, OutputKind::Bos], layers);
    let config = config("cpu:2", 4_096, Some(outputs));
    let report = run_multi_gpu_inference([&input], &model, out.path(), &config).unwrap();
    assert!(report.failed_rows.is_empty());
    let file = EmbeddingsFile::open(report.embeddings_path.unwrap()).unwrap();
    assert_eq!(file.outputs().len(), 8);
    for output in file.outputs() {
        let rows = file.read_rows_of(&output.name(), 0..file.rows()).unwrap();
        for (row, ours) in rows.rows().into_iter().enumerate() {
            let all = numbers(&goldens, &format!("{row}.{}", output.kind));
            let width = all.len() / 4;
            let ours: Vec<f32> = ours.iter().copied().collect();
            let error = relative_error(&ours, &all[output.layer * width..][..width]);
            assert!(error <= TOLERANCE, "{} of {row}: {error}", output.name());
        }
    }
    verify_run(out.path()).unwrap();
}
