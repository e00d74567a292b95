//! The whole way from FASTA to a reader with Python: h5py reads what a run wrote.
//!
//! `tests/run.sh` provides a Python with h5py and runs these; a bare `cargo test` ignores them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use plm_fleet::{
    Devices, Dtype, Layer, Model, OutputKind, OutputSet, Per, PlanConfig, RunConfig, SegmentConfig,
    run_multi_gpu_inference,
};
use plm_testkit::{FakeLoader, fake_rows, random_residues};

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/goldens");

/// Runs a Python program with arguments in `sys.argv`.
fn python(program: &str, arguments: &[&Path]) -> String {
    let python = std::env::var("PLM_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let output = Command::new(python)
        .arg("-c")
        .arg(program)
        .args(arguments)
        .output()
        .expect("Python starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs h5py: tests/run.sh has it"]
fn h5py_reads_each_output_and_knows_embeddings_as_the_first() {
    let scratch = tempfile::tempdir().unwrap();
    let fasta = Path::new(GOLDENS).join("real_banded.fasta");
    let outputs = OutputSet::new([OutputKind::Bos, OutputKind::Mean], [Layer(-1), Layer(2)]);
    let config = RunConfig {
        devices: "cpu:2".parse::<Devices>().unwrap(),
        outputs: Some(outputs),
        plan: PlanConfig::builder().max_residues(1_500).build().unwrap(),
        ..RunConfig::default()
    };
    let report =
        run_multi_gpu_inference([&fasta], &Model::PlmTiny, scratch.path(), &config).unwrap();
    let printed = python(
        r#"
import json, struct, sys
import h5py, numpy as np

golden_path, h5_path = sys.argv[1:]
with open(golden_path, "rb") as f:
    size = struct.unpack("<Q", f.read(8))[0]
    header = json.loads(f.read(size))
    body = f.read()

def golden(name):
    entry = header[name]
    start, end = entry["data_offsets"]
    return np.frombuffer(body[start:end], "<f4").reshape(entry["shape"])

def error(ours, reference):
    return np.linalg.norm(ours - reference) / np.linalg.norm(reference)

with h5py.File(h5_path, "r") as f:
    assert sorted(f) == ["bos", "embeddings", "lengths", "mean", "sequence_ids", "status"], sorted(f)
    assert sorted(f["mean"]) == sorted(f["bos"]) == ["layer_2", "layer_6"]
    assert f["embeddings"] == f["bos/layer_6"], "one dataset under two names"
    rows = len(f["sequence_ids"])
    for i in range(rows):
        assert error(f["bos/layer_6"][i], golden(f"{i}.bos")) < 2e-5
        assert error(f["mean/layer_6"][i], golden(f"{i}.mean")[6]) < 2e-5
        assert error(f["mean/layer_2"][i], golden(f"{i}.mean")[2]) < 2e-5
    print(rows, f["bos/layer_2"].shape[1])
"#,
        &[
            &Path::new(GOLDENS).join("plm-tiny.safetensors"),
            &report.embeddings_path.unwrap(),
        ],
    );
    assert_eq!(printed.trim(), format!("{} 128", report.records.total()));
}

#[test]
#[ignore = "needs h5py: tests/run.sh has it"]
fn h5py_reads_ids_in_input_order_with_the_vectors_of_the_reference() {
    let scratch = tempfile::tempdir().unwrap();
    let fasta = Path::new(GOLDENS).join("real_banded.fasta");
    let config = RunConfig {
        devices: "cpu:3".parse::<Devices>().unwrap(),
        plan: PlanConfig::builder()
            .max_residues(1_500)
            .max_batch_tokens(1_600)
            .build()
            .unwrap(),
        store: SegmentConfig::builder().max_rows(2).build().unwrap().into(),
        ..RunConfig::default()
    };
    let report =
        run_multi_gpu_inference([&fasta], &Model::PlmTiny, scratch.path(), &config).unwrap();

    // Ids and means of the reference come from the golden file, which transformers made.
    let printed = python(
        r#"
import json, struct, sys
import h5py, numpy as np

golden_path, h5_path = sys.argv[1:]
with open(golden_path, "rb") as f:
    size = struct.unpack("<Q", f.read(8))[0]
    header = json.loads(f.read(size))
    body = f.read()
names = json.loads(header["__metadata__"]["ids"])

def golden(name):
    entry = header[name]
    start, end = entry["data_offsets"]
    return np.frombuffer(body[start:end], "<f4").reshape(entry["shape"])

with h5py.File(h5_path, "r") as f:
    assert sorted(f) == ["embeddings", "lengths", "sequence_ids", "status"], sorted(f)
    assert list(f["sequence_ids"].asstr()[:]) == names, "ids are not in input order"
    vectors = f["embeddings"][:]
    assert vectors.dtype == np.float32 and vectors.shape == (len(names), 128)
    assert f["embeddings"].chunks is None and f["embeddings"].compression is None
    assert list(f["lengths"][:]) == [header[f"{i}.input_ids"]["shape"][0] - 2 for i in range(len(names))]
    assert not f["status"][:].any(), "all are embedded whole"
    worst = max(np.linalg.norm(vectors[i] - golden(f"{i}.mean")[-1]) / np.linalg.norm(golden(f"{i}.mean")[-1])
                for i in range(len(names)))
    assert worst < 2e-5, worst
    print(len(names), f.attrs["model"])
"#,
        &[
            &Path::new(GOLDENS).join("plm-tiny.safetensors"),
            report.embeddings_path.as_deref().unwrap(),
        ],
    );
    let records = fs::read_to_string(&fasta).unwrap().matches('>').count();
    assert_eq!(printed.trim(), format!("{records} plm-tiny"));
}

#[test]
#[ignore = "needs h5py: tests/run.sh has it"]
fn h5py_reads_half_precision_embeddings_as_float16() {
    let scratch = tempfile::tempdir().unwrap();
    let fasta = Path::new(GOLDENS).join("real_banded.fasta");
    let config = RunConfig {
        store: SegmentConfig::builder()
            .dtype(Dtype::F16)
            .build()
            .unwrap()
            .into(),
        ..RunConfig::default()
    };
    let report =
        run_multi_gpu_inference([&fasta], &Model::PlmTiny, scratch.path(), &config).unwrap();
    let printed = python(
        "import h5py, sys; print(h5py.File(sys.argv[1])['embeddings'].dtype)",
        &[report.embeddings_path.as_deref().unwrap()],
    );
    assert_eq!(printed.trim(), "float16");
}

#[test]
#[ignore = "needs h5py: tests/run.sh has it"]
fn h5py_reads_the_rows_of_each_protein_by_their_offsets() {
    let scratch = tempfile::tempdir().unwrap();
    let proteins: Vec<Vec<u8>> = (0..20)
        .map(|row| random_residues(row, 3 + row as usize))
        .collect();
    let records = proteins.iter().enumerate().map(|(row, residues)| {
        format!(
            ">p{row}\n{}\n",
            String::from_utf8(residues.clone()).unwrap()
        )
    });
    let fasta = scratch.path().join("in.fasta");
    fs::write(&fasta, records.collect::<String>()).unwrap();
    let loader = FakeLoader::new(5)
        .output(OutputKind::Residues, 7, Dtype::F16)
        .output(OutputKind::Logits, 3, Dtype::F32)
        .output(OutputKind::Contacts, 1, Dtype::F32);
    let config = RunConfig {
        devices: "cpu:2".parse().unwrap(),
        ..RunConfig::default()
    };
    let out = scratch.path().join("out");
    let model = Model::Loader(Arc::new(loader));
    let report = run_multi_gpu_inference([&fasta], &model, &out, &config).unwrap();
    let write = |name: &str, per: Per, width: usize| {
        let rows = proteins
            .iter()
            .flat_map(|residues| fake_rows(residues, per, width));
        let bytes: Vec<u8> = rows.flat_map(f32::to_le_bytes).collect();
        let path = scratch.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let printed = python(
        r#"
import sys
import h5py, numpy as np

path, residues, logits, contacts = sys.argv[1:]
read = lambda path, *shape: np.fromfile(path, "<f4").reshape(shape)
with h5py.File(path, "r") as f:
    assert f.attrs["format_version"] == 4
    assert sorted(f) == ["contacts", "embeddings", "lengths", "logits", "mean", "residues",
                         "sequence_ids", "status"], sorted(f)
    assert f["embeddings"] == f["mean/layer_0"]
    assert f["residues/offsets"] == f["logits/offsets"], "one dataset under two names"
    lengths = f["lengths"][:].astype("u8")
    offsets, pairs = f["residues/offsets"], f["contacts/offsets"]
    assert offsets.dtype == pairs.dtype == np.uint64
    assert (offsets[:] == np.concatenate([[0], np.cumsum(lengths)])).all()
    assert (pairs[:] == np.concatenate([[0], np.cumsum(lengths ** 2)])).all()
    expected = read(residues, -1, 7).astype("<f2")
    assert f["residues/layer_0"].dtype == np.float16
    assert (f["residues/layer_0"][:] == expected).all()
    assert (f["logits/values"][:] == read(logits, -1, 3)).all()
    expected = read(contacts, -1)
    assert f["contacts/values"].shape == expected.shape
    for i, length in enumerate(lengths):
        start, end = pairs[i:i + 2]
        values = f["contacts/values"][start:end].reshape(length, length)
        assert (values.ravel() == expected[start:end]).all()
        start, end = offsets[i:i + 2]
        assert len(f["residues/layer_0"][start:end]) == length
    for name in ["residues/layer_0", "logits/values", "contacts/values"]:
        assert f[name].attrs["kind"] == name.split("/")[0]
    print(len(lengths))
"#,
        &[
            &report.embeddings_path.unwrap(),
            &write("residues", Per::Residue, 7),
            &write("logits", Per::Residue, 3),
            &write("contacts", Per::Pair, 1),
        ],
    );
    assert_eq!(printed.trim(), "20");
}
