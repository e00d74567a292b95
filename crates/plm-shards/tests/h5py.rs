//! h5py, a reader that is not ours, reads what was written.
//!
//! `PLM_TEST_PYTHON` names the Python; the default is `python3`.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Run, outcome, vector, vector_of};
use plm_core::{Dtype, Rank, RowId, SequenceSource};
use plm_shards::{Error, verify};

/// What a Python script prints that has the file `path` open as `f`.
fn python(path: &Path, script: &str) -> String {
    let open = "import h5py, sys, json\nf = h5py.File(sys.argv[1], 'r')";
    run_python(path, &format!("{open}\n{script}"))
}

/// What a Python script prints whose argument is `path`.
fn run_python(path: &Path, script: &str) -> String {
    let interpreter = std::env::var("PLM_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
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
fn a_segment_is_as_documented() {
    let run = Run::of_outputs(9, &[4, 2], Dtype::F16);
    let rows = [5, 0, 8].map(RowId);
    run.write(1, &[(Rank(2), rows.to_vec())]);
    let script = r"
import numpy, struct
file = open(sys.argv[1], 'rb').read()
start, end = struct.unpack('<QQ', file[-56:-40])
assert file[-8:] == b'PLMSEAL1' and file[-64:-56] == b'PLMBLOCK'
assert file[:start] == b'PLMSEG5\n'
(d,) = struct.unpack('<Q', file[-72:-64])
says = json.loads(file[-72 - d:-72])
header, n, id_bytes = says['header'], says['header']['rows'], says['id_bytes']
columns = file[-72 - d - 22 * n - id_bytes:-72 - d]
row_bytes = sum(output['width'] * 2 for output in header['outputs'])
assert start + n * row_bytes == end == len(file) - 72 - d - len(columns)
at = lambda type, start, end: numpy.frombuffer(columns[start * n:end * n], type).tolist()
print(numpy.frombuffer(file[start:end], '<f2').tobytes().hex())
print(at('<u8', 0, 8), at('<u4', 8, 12), at('u1', 20, 21), at('u1', 21, 22))
ids, place = [], 22 * n
for length in at('<u8', 12, 20):
    ids.append(columns[place:place + length].decode())
    place += length
assert place == len(columns)
print(json.dumps(ids, ensure_ascii=False))
print(*header.items())
print(sorted(says))
";
    let of = |position, width| rows.map(|row| vector_of(row, position, width)).concat();
    let stored: String = (of(0, 4).into_iter().chain(of(1, 2)))
        .flat_map(|value| half::f16::from_f32(value).to_le_bytes())
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let ids = rows.map(|row| run.input.record(row).id.to_owned());
    let expected = format!(
        "{stored}\n[5, 0, 8] [15, 10, 18] [2, 0, 2] [0, 0, 0]\n[\"{}\"]\n\
         ('format', 'plm-shards segment') ('format_version', 5) ('run_digest', '{}') ('rank', 2) \
         ('rows', 3) ('outputs', [{{'name': 'mean/layer_6', 'width': 4, 'dtype': 'f16'}}, \
         {{'name': 'bos/layer_6', 'width': 2, 'dtype': 'f16'}}])\n\
         ['content_digest', 'header', 'id_bytes', 'output_digests']",
        ids.join("\", \""),
        common::RUN_DIGEST
    );
    let segment = &run.segments()[0];
    assert_eq!(
        run_python(segment, &format!("import sys, json\n{script}")),
        expected
    );
}

/// Opens a result for writing and changes nothing. Many scripts open files this way to read them.
const OPENED: [&str; 5] = [
    "h5py.File(p, 'r+').close()",
    "h5py.File(p, 'a').close()",
    "h5py.File(p, 'a', libver='latest').close()",
    r"
with h5py.File(p, 'r+') as f:
    f['embeddings'][:], f['sequence_ids'][:], dict(f.attrs), dict(f['status'].attrs)
    f.flush()",
    r"
with h5py.File(p, 'r+') as f, h5py.File(p + '.copy', 'w') as g:
    f.copy('embeddings', g)",
];

#[test]
#[ignore = "needs h5py"]
fn a_file_that_was_opened_for_writing_is_still_the_one_that_was_sealed() {
    for widths in [&[4][..], &[4, 2, 3]] {
        let run = Run::of_outputs(9, widths, Dtype::F32);
        run.write_all();
        run.aggregate().unwrap();
        let before = std::fs::read(run.output()).unwrap();
        for script in OPENED {
            run_python(
                &run.output(),
                &format!("import h5py, sys\np = sys.argv[1]\n{script}\nprint()"),
            );
            run.assert_right();
            assert!(std::fs::read(run.output()).unwrap() == before, "{script}");
        }
    }
}

#[test]
#[ignore = "needs h5py"]
fn what_another_program_changes_is_damage() {
    for script in [
        "f['embeddings'][1, 2] += 1",
        "f['lengths'][3] = 7",
        "f['sequence_ids'][0] = 'other'",
        "f.attrs['model'] = 'other'",
        "f.attrs['note'] = 'mine'",
        "f['mine'] = [1, 2, 3]",
        "del f['status']",
        "f['bos/layer_6'][1, 1] += 1",
        "f['bos/layer_6'].attrs['kind'] = 'mean'",
        "f['mean/mine'] = f['bos/layer_6']",
        "del f['embeddings']",
    ] {
        let run = Run::of_outputs(9, &[4, 2], Dtype::F32);
        run.write_all();
        run.aggregate().unwrap();
        let change = format!(
            "import h5py, sys\nwith h5py.File(sys.argv[1], 'r+') as f:\n    {script}\nprint()"
        );
        run_python(&run.output(), &change);
        let error = verify(run.output(), None).unwrap_err();
        assert!(
            matches!(error, Error::BadEmbeddings { .. }),
            "{script}: {error}"
        );
    }
}

#[test]
#[ignore = "needs h5py"]
fn every_text_is_a_text_in_h5py() {
    let run = Run::new(3, 4, Dtype::F32);
    run.write_all();
    run.aggregate().unwrap();
    let script = r"
places = {'/': f, **f}
types = lambda at: {name: type(value).__name__ for name, value in at.attrs.items()}
print({place: types(at) for place, at in places.items() if place != '/'})
print(sorted(name for name, type in types(f).items() if type != 'str'))
print(f.attrs['content_digest'], len(f['lengths'].attrs['digest']))
";
    let report = verify(run.output(), None).unwrap();
    assert_eq!(
        python(&run.output(), script),
        format!(
            "{{'embeddings': {{'digest': 'str'}}, 'lengths': {{'digest': 'str'}}, \
             'sequence_ids': {{'digest': 'str'}}, \
             'status': {{'digest': 'str', 'outcomes': 'ndarray'}}}}\n\
             ['format_version', 'layer']\n{} 71",
            report.content_digest
        )
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
print(f.attrs['content_digest'])
print(list(f['status'].attrs['outcomes']))
";
        let expected = [
            &format!(
                "plm-fleet embeddings|2|{}|esm2_t6_8M_UR50D|blake3:of-the-weights|6|\
                 mean over residues|excluded|bf16|{dtype}|plm-fleet|0.0.0",
                common::RUN_DIGEST
            ),
            &format!(
                "[{{'name': 'protéome.fasta', 'digest': '{}'}}]",
                common::INPUT_DIGEST
            ),
            &report.content_digest.to_string(),
            "['embedded', 'truncated', 'windowed', 'skipped', 'failed']",
        ];
        assert_eq!(python(&run.output(), script), expected.join("\n"));
    }
}

#[test]
#[ignore = "needs h5py"]
fn each_output_is_a_dataset_that_says_what_it_is() {
    let run = Run::of_outputs(9, &[4, 2, 3], Dtype::F32);
    run.write_all();
    let report = run.aggregate().unwrap();
    let script = r"
names = json.loads(f.attrs['outputs'])
print(names, f.attrs['format_version'])
for name in names:
    at = f[name]
    print(name, at.dtype, at.shape, at.chunks, bytes(at[:].tobytes()).hex())
    print({key: at.attrs[key] for key in sorted(at.attrs) if key != 'digest'})
print(f['embeddings'] == f[names[0]], sorted(f), f.attrs['content_digest'])
print(*(f.attrs[name] for name in ['layer', 'pooling', 'special_tokens', 'dtype']), sep='|')
";
    let mut expected = vec!["['mean/layer_6', 'bos/layer_6', 'mean/layer_5'] 3".to_owned()];
    for (position, output) in run.format.outputs().iter().enumerate() {
        let values = (0..9).flat_map(|row| vector_of(RowId(row), position, output.width));
        let bytes = values.flat_map(f32::to_le_bytes);
        let hex: String = bytes.map(|byte| format!("{byte:02x}")).collect();
        let (name, width) = (output.name(), output.width);
        expected.push(format!("{name} float32 (9, {width}) None {hex}"));
        expected.push(format!(
            "{{'dtype': 'f32', 'kind': '{}', 'layer': {}, 'pooling': '{}', 'special_tokens': '{}', \
             'width': {width}}}",
            output.kind, output.layer, output.pooling, output.special_tokens
        ));
    }
    expected.push(format!(
        "True ['bos', 'embeddings', 'lengths', 'mean', 'sequence_ids', 'status'] {}",
        report.content_digest
    ));
    expected.push("6|mean over residues|excluded|f32".to_owned());
    // numpy 2 prints numbers with their types.
    let script = format!("import numpy\nnumpy.set_printoptions(legacy='1.25')\n{script}");
    assert_eq!(python(&run.output(), &script), expected.join("\n"));
}

#[test]
#[ignore = "needs h5py"]
fn h5py_reads_an_empty_result() {
    let run = Run::new(0, 4, Dtype::F32);
    std::fs::create_dir(run.shards()).unwrap();
    run.aggregate().unwrap();
    assert_eq!(python(&run.output(), COLUMNS), expected(&run, &[]));
}
