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
fn a_segments_block_is_as_documented_and_says_what_its_hdf5_says() {
    let run = Run::new(9, 4, Dtype::F16);
    run.write(1, &[(Rank(2), [5, 0, 8].map(RowId).to_vec())]);
    let script = r"
import struct
file = open(sys.argv[1], 'rb').read()
start, end = struct.unpack('<QQ', file[-56:-40])
assert file[-8:] == b'PLMSEAL1' and file[-64:-56] == b'PLMBLOCK'
assert start == f['embeddings'].id.get_offset()
assert file[start:end] == f['embeddings'][:].tobytes()
(d,) = struct.unpack('<Q', file[-72:-64])
says = json.loads(file[-72 - d:-72])
header, n, id_bytes = says['header'], says['header']['rows'], says['id_bytes']
columns = file[-72 - d - 22 * n - id_bytes:-72 - d]
at = lambda start, end: columns[start * n:end * n]
assert at(0, 8) == f['rows'][:].tobytes()
assert at(8, 12) == f['lengths'][:].tobytes()
assert at(20, 21) == f['status'][:].tobytes()
assert at(21, 22) == f['in_f32'][:].tobytes()
ids = f['sequence_ids'][:].tolist()
assert struct.unpack(f'<{n}Q', at(12, 20)) == tuple(map(len, ids))
assert columns[22 * n:] == b''.join(ids)
assert says['content_digest'] == f.attrs['content_digest'].decode()
assert says['embeddings_digest'] == f['embeddings'].attrs['digest'].decode()
for name in ['format', 'format_version', 'run_digest', 'rank']:
    assert header[name] == f.attrs[name], name
assert (n, header['hidden_size'], header['dtype']) == (*f['embeddings'].shape, 'f16')
print(sorted(header), sorted(says))
";
    assert_eq!(
        python(&run.segments()[0], script),
        "['dtype', 'format', 'format_version', 'hidden_size', 'rank', 'rows', 'run_digest'] \
         ['content_digest', 'embeddings_digest', 'header', 'id_bytes']"
    );
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
