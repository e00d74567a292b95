//! The libraries of each format read what was exported, and find each value bit for bit.
//!
//! `tests/run.sh` provides a Python with them and runs these; a bare `cargo test` ignores them.
//! `PLM_TEST_PYTHON` names the Python; the default is `python3`.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

use plm_core::store::StoredResult;
use plm_core::{Dtype, OutputKind, OutputSpec, Per, Values};
use plm_export::{Choice, Export, Format};
use plm_testkit::MemoryResult;
use serde_json::json;

/// Ids that are hard on formats: a path, dots, an escape, letters of two and three bytes.
const RECORDS: &[(&str, u32)] = &[
    ("sp|P12345|A_HUMAN", 7),
    ("a/b", 1),
    (".", 3),
    ("..", 2),
    ("a%2Fb", 4),
    ("%", 1),
    ("é → 蛋", 5),
    ("NA", 19),
    ("\"quoted\" 'id'", 2),
    ("1e5", 1),
];

fn output(kind: OutputKind, layer: usize, width: usize, dtype: Dtype) -> OutputSpec {
    OutputSpec {
        dtype,
        ..OutputSpec::new(kind, layer, width)
    }
}

fn outputs() -> Vec<OutputSpec> {
    vec![
        output(OutputKind::Mean, 6, 5, Dtype::F32),
        output(OutputKind::Residues, 6, 3, Dtype::F16),
        output(OutputKind::Bos, 0, 7, Dtype::F16),
        output(OutputKind::Logits, 6, 33, Dtype::F32),
        output(OutputKind::Contacts, 6, 1, Dtype::F16),
    ]
}

/// What `readers.py` compares with: the values of all outputs as they are.
fn write_truth(result: &MemoryResult, chosen: &[OutputSpec], folder: &Path) {
    fs::create_dir(folder).unwrap();
    let mut outputs = Vec::new();
    for (position, output) in result.outputs().iter().enumerate() {
        if !chosen.contains(output) {
            continue;
        }
        let column = result.whole(position);
        let (dtype, bytes): (_, Vec<u8>) = match column.values() {
            Values::F32(values) => ("<f4", values.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Values::F16(values) => ("<f2", values.iter().flat_map(|x| x.to_le_bytes()).collect()),
        };
        let name = output.name().replace('/', "_").replace("_values", "");
        fs::write(folder.join(&name), bytes).unwrap();
        outputs.push(json!({
            "column": name,
            "per": match output.per() {
                Per::Sequence => "sequence",
                Per::Residue => "residue",
                Per::Pair => "pair",
            },
            "width": output.width,
            "dtype": dtype,
            "offsets": column.offsets(),
        }));
    }
    let all = 0..result.rows();
    let outcomes = result.outcomes(all.clone()).unwrap();
    let truth = json!({
        "ids": result.ids(all.clone()).unwrap(),
        "lengths": result.lengths(all).unwrap(),
        "statuses": outcomes.iter().map(|outcome| outcome.name()).collect::<Vec<_>>(),
        "outputs": outputs,
    });
    fs::write(folder.join("truth.json"), truth.to_string()).unwrap();
}

/// Exports a result, and has it read.
fn check(result: &MemoryResult, format: Format, choice: &Choice) -> String {
    let scratch = tempfile::tempdir().unwrap();
    let export = Export::new(result, format, choice).unwrap();
    let path = scratch.path().join(format!("export{}", format.ending()));
    export.write(&path, &|_| ControlFlow::Continue(())).unwrap();
    let truth = scratch.path().join("truth");
    let chosen: Vec<OutputSpec> = export.outputs().cloned().collect();
    write_truth(result, &chosen, &truth);
    let python = std::env::var("PLM_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/readers.py");
    let run = Command::new(python)
        .args([script, format.name()])
        .args([path.as_path(), &truth])
        .args(&choice.ids)
        .output()
        .expect("Python starts");
    let said = String::from_utf8_lossy(&run.stdout);
    let complaint = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{format}: {said}{complaint}");
    assert!(said.ends_with("same\n"), "{said}");
    let (taken, estimate) = (bytes_at(&path), export.bytes());
    assert!(taken <= estimate, "{format}: {taken} of {estimate}");
    said.into_owned()
}

fn bytes_at(path: &Path) -> u64 {
    if path.is_file() {
        return fs::metadata(path).unwrap().len();
    }
    let entries = fs::read_dir(path).unwrap();
    entries.map(|entry| bytes_at(&entry.unwrap().path())).sum()
}

/// The outputs that a format can hold, at a time.
fn choices(format: Format) -> Vec<Choice> {
    let of = |kind| Choice {
        kinds: vec![kind],
        ..Choice::default()
    };
    match format {
        Format::Tsv => vec![of(OutputKind::Mean), of(OutputKind::Bos)],
        Format::H5PerId => outputs().iter().map(|output| of(output.kind)).collect(),
        _ => vec![Choice::default()],
    }
}

#[test]
#[ignore = "needs h5py, pyarrow and others: tests/run.sh has them"]
fn readers_like_h5py_find_each_value_bit_for_bit() {
    let result = MemoryResult::random(1, outputs(), RECORDS);
    for format in Format::ALL {
        for choice in choices(format) {
            check(&result, format, &choice);
        }
    }
}

#[test]
#[ignore = "needs h5py, pyarrow and others: tests/run.sh has them"]
fn readers_like_h5py_find_the_records_that_were_chosen_in_the_order_of_the_list() {
    let result = MemoryResult::random(2, outputs(), RECORDS);
    let scratch = tempfile::tempdir().unwrap();
    let ids = scratch.path().join("ids.txt");
    fs::write(&ids, "NA\r\n1e5\na/b\n.\n..\né → 蛋").unwrap();
    for format in Format::ALL {
        for choice in choices(format) {
            let ids = Some(ids.clone());
            check(&result, format, &Choice { ids, ..choice });
        }
    }
}

/// More records than are read at a time, and more bytes than a piece or a row group has.
#[test]
#[ignore = "needs h5py, pyarrow and others: tests/run.sh has them"]
fn readers_like_h5py_find_all_pieces_of_a_large_result() {
    let ids: Vec<String> = (0..4_200).map(|record| format!("id{record}")).collect();
    let residues = |record| match record {
        4_150 => 40_000,
        _ => record % 13 + 1,
    };
    let records: Vec<(&str, u32)> = (ids.iter().zip(0..))
        .map(|(id, record)| (id.as_str(), residues(record)))
        .collect();
    let outputs = vec![
        output(OutputKind::Mean, 6, 2, Dtype::F16),
        output(OutputKind::Residues, 6, 256, Dtype::F32),
    ];
    let result = MemoryResult::random(3, outputs, &records);
    for format in [Format::Npy, Format::Safetensors, Format::Parquet] {
        let said = check(&result, format, &Choice::default());
        assert_ne!(said, "1 row groups\nsame\n");
    }
}

/// As many datasets as make a tree of three levels, and a file of one.
#[test]
#[ignore = "needs h5py, pyarrow and others: tests/run.sh has them"]
fn readers_like_h5py_find_each_dataset_of_many_and_of_few() {
    for count in [1, 128, 129, 16_385] {
        let ids: Vec<String> = (0..count)
            .map(|record| format!("id{}", record * 7_919 % count))
            .collect();
        let records: Vec<(&str, u32)> = ids.iter().map(|id| (id.as_str(), 1)).collect();
        let outputs = vec![output(OutputKind::Mean, 6, 2, Dtype::F16)];
        let result = MemoryResult::random(3, outputs, &records);
        check(&result, Format::H5PerId, &Choice::default());
    }
}
