//! What is written is what h5py reads: the reference reader, which nobody here wrote.
//!
//! Python is `PLM_TEST_PYTHON`, or `python3`.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Run, outcome, vector};
use plm_core::{Dtype, Rank, RowId, SequenceSource};

/// What a Python script prints of the file `path`, open as `f`.
fn python(path: &Path, script: &str) -> String {
    let interpreter = std::env::var("PLM_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = format!("import h5py, sys, json\nf = h5py.File(sys.argv[1], 'r')\n{script}");
    let output = Command::new(interpreter)
        .arg("-c")
        .arg(script)
        .arg(path)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let printed = String::from_utf8(output.stdout).unwrap();
    printed.strip_suffix('\n').unwrap().to_owned()
}

const COLUMNS: &str = r"
print(f['embeddings'].dtype, f['embeddings'].shape, f['embeddings'].chunks)
print(json.dumps(f['sequence_ids'].asstr()[:].tolist(), ensure_ascii=False))
print(f['lengths'].dtype, f['lengths'][:].tolist())
print(f['status'].dtype, f['status'][:].tolist())
print(bytes(f['embeddings'][:].tobytes()).hex())
";

/// What [`COLUMNS`] should print.
fn expected(run: &Run, rows: &[RowId]) -> String {
    let mut stored = vec![];
    for &row in rows {
        for value in vector(row, run.format.hidden_size()) {
            match run.format.dtype() {
                Dtype::F16 => stored.extend(half::f16::from_f32(value).to_le_bytes()),
                _ => stored.extend(value.to_le_bytes()),
            }
        }
    }
    let column = |of: &dyn Fn(RowId) -> String| {
        rows.iter()
            .map(|&row| of(row))
            .collect::<Vec<_>>()
            .join(", ")
    };
    format!(
        "{} ({}, {}) None\n[{}]\nuint32 [{}]\nuint8 [{}]\n{}",
        if run.format.dtype() == Dtype::F16 {
            "float16"
        } else {
            "float32"
        },
        rows.len(),
        run.format.hidden_size(),
        column(&|row| format!("\"{}\"", run.input.record(row).id)),
        column(&|row| run.input.record(row).residue_count.to_string()),
        column(&|row| outcome(row).code().to_string()),
        stored
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>(),
    )
}

#[test]
#[ignore = "needs h5py"]
fn h5py_reads_segments() {
    for dtype in [Dtype::F32, Dtype::F16] {
        let run = Run::new(9, 4, dtype);
        let rows = [5, 0, 8].map(RowId);
        run.write(1, &[(Rank(2), rows.to_vec())]);
        let segment = &run.segments()[0];
        assert_eq!(python(segment, COLUMNS), expected(&run, &rows));
        let script = "print(f['rows'].dtype, f['rows'][:].tolist(), f.attrs['rank'], \
                      f.attrs['run_digest'])";
        let attributes = format!("uint64 [5, 0, 8] 2 {}", common::RUN_DIGEST);
        assert_eq!(python(segment, script), attributes);
    }
}

#[test]
#[ignore = "needs h5py"]
fn h5py_reads_the_result_and_where_it_comes_from() {
    for dtype in [Dtype::F32, Dtype::F16] {
        let mut run = Run::new(9, 4, dtype);
        run.without_vector = vec![RowId(2)];
        run.write_all();
        let report = run.aggregate().unwrap();
        let rows: Vec<RowId> = (0..9).filter(|&row| row != 2).map(RowId).collect();
        assert_eq!(python(&run.output(), COLUMNS), expected(&run, &rows));

        let script = r"
print(*(f.attrs[name] for name in ['format', 'format_version', 'run_digest', 'model',
    'weights_digest', 'layer', 'pooling', 'special_tokens', 'model_dtype', 'dtype', 'program',
    'program_version']), sep='|')
print(json.loads(f.attrs['inputs']))
print(f.attrs['content_digest'].decode())
print(list(f['status'].attrs['outcomes']))
";
        let expected = [
            &format!(
                "plm-fleet embeddings|1|{}|esm2_t6_8M_UR50D|blake3:of-the-weights|6|\
                 mean over residues|excluded|bf16|{dtype}|plm-fleet|0.0.0",
                common::RUN_DIGEST
            ),
            "[{'name': 'protéome.fasta', 'digest': 'blake3:of-the-input'}]",
            &report.content_digest,
            "['embedded', 'truncated', 'windowed', 'skipped', 'failed']",
        ];
        assert_eq!(python(&run.output(), script), expected.join("\n"));
    }
}

#[test]
#[ignore = "needs h5py"]
fn h5py_reads_an_empty_result() {
    let run = Run::new(0, 4, Dtype::F32);
    std::fs::create_dir(run.shards()).unwrap();
    run.aggregate().unwrap();
    assert_eq!(python(&run.output(), COLUMNS), expected(&run, &[]));
}
