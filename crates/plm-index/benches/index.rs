//! How fast an index is built and read, and what its parts cost by themselves.

use std::cmp::Reverse;
use std::fs;
use std::hint::black_box;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use noodles_fasta as fasta;
use plm_core::RowId;
use plm_index::{FastaIndex, IndexConfig, Input};
use tempfile::TempDir;

const RECORDS: usize = 100_000;
const SHORT_RECORDS: usize = 500_000;
const LETTERS: &[u8; 20] = b"LAGVSERTIDPKQNFYMHWC";

/// Records as UniProt writes them: lines of 60, 50 to 650 residues, 350 in the mean.
fn uniprot_like() -> Vec<u8> {
    let mut random = random_numbers();
    let mut text = Vec::new();
    for row in 0..RECORDS {
        writeln!(
            text,
            ">sp|P{row:07}|PROT_HUMAN Some protein OS=Homo sapiens OX=9606 GN=PROT{row} PE=1 SV=2"
        )
        .expect("memory takes all writes");
        let residues: Vec<u8> = (0..50 + random() % 601)
            .map(|_| LETTERS[random() % LETTERS.len()])
            .collect();
        for line in residues.chunks(60) {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
    }
    text
}

/// Translated reading frames: 49 to 166 residues on one line, and no description. Here the cost per
/// record counts more than the cost per letter.
fn short_records() -> Vec<u8> {
    let mut random = random_numbers();
    let mut text = Vec::new();
    for row in 0..SHORT_RECORDS {
        writeln!(text, ">r{row:06}_f{}", 1 + row % 6).expect("memory takes all writes");
        let residue_count = 49 + random() % 118;
        text.extend((0..residue_count).map(|_| LETTERS[random() % LETTERS.len()]));
        text.push(b'\n');
    }
    text
}

fn random_numbers() -> impl FnMut() -> usize {
    let mut state = 1_u64;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    }
}

fn build(input: &Path, spool: &Path) -> FastaIndex {
    FastaIndex::build(&[Input::from(input)], spool, &IndexConfig::default())
        .expect("the records are valid")
}

/// An input, and a folder for its index and spool files.
struct Fixture {
    folder: TempDir,
    input: PathBuf,
    text: Vec<u8>,
}

impl Fixture {
    fn new(text: Vec<u8>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let input = folder.path().join("plain.fasta");
        fs::write(&input, &text).expect("room for the input");
        Self {
            folder,
            input,
            text,
        }
    }

    fn group<'a>(&self, criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
        let mut group = criterion.benchmark_group(name);
        group
            .sample_size(10)
            .throughput(Throughput::Bytes(self.text.len() as u64));
        group
    }
}

fn plain_text(criterion: &mut Criterion) {
    let fixture = Fixture::new(uniprot_like());
    let mut group = fixture.group(criterion, "plain text");
    let folder = fixture.folder.path();
    group.bench_function("build", |bencher| {
        bencher.iter(|| build(&fixture.input, folder));
    });

    let index = build(&fixture.input, folder);
    let saved = folder.join("index.plm");
    index.save(&saved).expect("room for the index");
    group.bench_function("take up a saved index", |bencher| {
        let inputs = [Input::from(fixture.input.as_path())];
        bencher.iter(|| {
            FastaIndex::load_or_build(&inputs, &saved, folder, &IndexConfig::default())
                .expect("the records are valid")
        });
    });

    let mut rows: Vec<RowId> = (0..index.len()).map(RowId).collect();
    rows.sort_by_key(|row| Reverse(index.record(*row).residue_count));
    group.bench_function("read all residues, longest first", |bencher| {
        let mut reader = index.reader();
        let mut residues = Vec::new();
        bencher.iter(|| {
            for &row in &rows {
                reader
                    .read(row, &mut residues)
                    .expect("the file is as it was");
                black_box(&residues);
            }
        });
    });
}

fn short_plain_text(criterion: &mut Criterion) {
    let fixture = Fixture::new(short_records());
    let mut group = fixture.group(criterion, "plain text of short records");
    group.bench_function("build", |bencher| {
        bencher.iter(|| build(&fixture.input, fixture.folder.path()));
    });
}

fn gzip(criterion: &mut Criterion) {
    let fixture = Fixture::new(uniprot_like());
    let mut group = fixture.group(criterion, "gzip");
    let folder = fixture.folder.path();
    let input = folder.join("plain.fasta.gz");
    let file = fs::File::create(&input).expect("room for the input");
    let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::default());
    encoder
        .write_all(&fixture.text)
        .and_then(|()| encoder.finish())
        .expect("room for the input");

    group.bench_function("build without a spool file", |bencher| {
        bencher.iter_with_large_drop(|| {
            let spool = tempfile::tempdir_in(folder).expect("a temporary folder");
            (build(&input, spool.path()), spool)
        });
    });
    group.bench_function("build with its spool file", |bencher| {
        bencher.iter(|| build(&input, folder));
    });
}

/// What the parts of building a plain index cost by themselves: it can't be faster than these.
fn parts_alone(criterion: &mut Criterion) {
    let fixture = Fixture::new(uniprot_like());
    let mut group = fixture.group(criterion, "alone");
    let open = || fs::File::open(&fixture.input).expect("the file is there");
    group.bench_function("BLAKE3 of the file", |bencher| {
        bencher.iter(|| {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(open()).expect("the file can be read");
            hasher.finalize()
        });
    });
    group.bench_function("definitions and sequences of noodles", |bencher| {
        bencher.iter(|| {
            let mut reader = fasta::io::Reader::new(BufReader::with_capacity(1 << 18, open()));
            let mut definition = fasta::record::Definition::default();
            let mut sequence = Vec::new();
            while reader.read_definition(&mut definition).expect("valid") > 0 {
                sequence.clear();
                reader.read_sequence(&mut sequence).expect("valid");
                black_box((&definition, &sequence));
            }
        });
    });
}

criterion_group!(index, plain_text, short_plain_text, gzip, parts_alone);
criterion_main!(index);
