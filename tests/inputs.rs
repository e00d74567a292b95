//! Inputs disappear, change and come back. No record fails for that, and none gets the vector of
//! other residues.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use plm_fleet::coordinator::Error as RunError;
use plm_fleet::core::Rank;
use plm_fleet::{
    Dtype, Error, FastaIndex, IndexConfig, Input, LaneConfig, LongSequences, Model, Observer,
    OutputKind, Part, PlanConfig, RunConfig, RunEvent, RunReport, SegmentConfig, aggregate_parts,
    run_multi_gpu_inference, verify_run,
};
use plm_testkit::{EncoderFault, FakeLoader, conformance, random_residues};
use tempfile::TempDir;

/// Proteins in their own folder.
struct Desk {
    scratch: TempDir,
}

const PROTEINS: usize = 150;

fn text(seed: u64) -> String {
    let record = |row: u64| {
        let residues = random_residues(seed + row, 20 + row as usize % 7);
        format!(">p{row}\n{}\n", String::from_utf8(residues).unwrap())
    };
    (0..PROTEINS as u64).map(record).collect()
}

impl Desk {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("in")).unwrap();
        let desk = Self { scratch };
        fs::write(desk.input(), text(1)).unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn input(&self) -> PathBuf {
        self.path("in/proteins.fasta")
    }

    /// Compresses the input.
    fn compressed(&self) -> PathBuf {
        let path = self.path("in/proteins.fasta.gz");
        let mut encoder = GzEncoder::new(File::create(&path).unwrap(), Compression::fast());
        encoder.write_all(text(1).as_bytes()).unwrap();
        encoder.finish().unwrap();
        path
    }

    fn run(&self, input: &Path, out: &str, config: &RunConfig) -> Result<RunReport, Error> {
        run_multi_gpu_inference([input], &Model::PlmTiny, self.path(out), config)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }
}

/// Settings for two ranks, with a segment for each batch of a few proteins.
fn config() -> RunConfig {
    RunConfig {
        devices: "cpu:2".parse().unwrap(),
        plan: PlanConfig::builder()
            .max_residues(30)
            .max_batch_tokens(64)
            .build()
            .unwrap(),
        store: SegmentConfig::builder().max_rows(1).build().unwrap().into(),
        lanes: lanes(Duration::from_millis(150)),
        ..RunConfig::default()
    }
}

/// The same settings with short queues, so much is yet to be read when the first vectors are
/// durable.
fn lanes(input_patience: Duration) -> LaneConfig {
    LaneConfig::builder()
        .input_patience(input_patience)
        .queue_batches(1)
        .write_queue_batches(1)
        .build()
        .unwrap()
}

/// Does something once, when some of the work is durable.
struct Once<F>(AtomicBool, F);

impl<F: Fn() + Send + Sync> Observer for Once<F> {
    fn event(&self, event: &RunEvent<'_>) {
        if matches!(event, RunEvent::BatchDurable { .. }) && !self.0.swap(true, Ordering::Relaxed) {
            self.1();
        }
    }
}

fn spoiled_by(spoil: impl Fn() + Send + Sync + 'static) -> RunConfig {
    RunConfig {
        observer: Arc::new(Once(AtomicBool::new(false), spoil)),
        ..config()
    }
}

#[test]
fn a_fasta_index_reads_as_before_once_its_files_are_as_before() {
    type Spoil = fn(&Path);
    let spoils: [(&str, Spoil, &str); 6] = [
        (
            "removed",
            |path| fs::remove_file(path).unwrap(),
            "No such file",
        ),
        (
            "emptied",
            |path| fs::write(path, "").unwrap(),
            "changed after it was indexed",
        ),
        (
            "cut short",
            |path| fs::write(path, &text(1)[..700]).unwrap(),
            "changed after it was indexed",
        ),
        (
            "other content",
            |path| fs::write(path, text(1_000)).unwrap(),
            "changed after it was indexed",
        ),
        (
            "a directory",
            |path| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            },
            "Is a directory",
        ),
        (
            "folder moved",
            |path| {
                let folder = path.parent().unwrap();
                fs::rename(folder, folder.with_extension("away")).unwrap();
            },
            "No such file",
        ),
    ];
    for is_compressed in [false, true] {
        for (name, spoil, words) in spoils {
            let desk = Desk::new();
            let input = match is_compressed {
                true => desk.compressed(),
                false => desk.input(),
            };
            let inputs = [Input::from(&input)];
            let index =
                FastaIndex::build(&inputs, &desk.path("spool"), &IndexConfig::default()).unwrap();
            let read = index.inputs()[0].path.clone();
            let mend = || {
                let _ = fs::remove_dir(&read);
                let folder = read.parent().unwrap();
                let _ = fs::rename(folder.with_extension("away"), folder);
                fs::write(&read, text(1)).unwrap();
            };
            let error = conformance::check_source_recovers(&index, || spoil(&read), mend);
            let mut said = error.to_string();
            if let Some(cause) = error.source() {
                said = format!("{said}: {cause}");
            }
            assert!(said.contains(words), "{name}: {said}");
            assert!(said.contains(&*read.to_string_lossy()), "{name}: {said}");
        }
    }
}

#[test]
fn an_input_that_stays_away_publishes_nothing_and_the_same_command_goes_on() {
    for part in [Part::WHOLE, Part::new(0, 2).unwrap()] {
        let desk = Desk::new();
        let input = desk.input();
        let emptied = input.clone();
        let spoiled = RunConfig {
            part,
            ..spoiled_by(move || fs::write(&emptied, "").unwrap())
        };
        let error = desk.run(&input, "out", &spoiled).unwrap_err();
        let Error::Coordinator(RunError::InputUnreadable {
            record,
            missing_rows,
            report,
            ..
        }) = &error
        else {
            panic!("{error}");
        };
        assert_eq!(record.path.as_ref(), Some(&input));
        assert!(record.id.starts_with('p'));
        assert!(report.failed_rows.is_empty() && report.sequences() > 0);
        assert!(!error.is_refusal(), "it ends with 1");
        let missing = *missing_rows;
        let shards = match part.is_whole() {
            true => "out/shards",
            false => "out/shards/part_00001_of_00002",
        };
        for name in ["out/embeddings.h5", "out/ledger.tsv", "out/run.json"] {
            assert!(!desk.path(name).exists(), "{name} is there");
        }
        for name in ["part.json", "suspects.json"] {
            assert!(!desk.path(shards).join(name).exists(), "{name} is there");
        }

        fs::write(&input, text(1)).unwrap();
        let other = RunConfig { part, ..config() };
        let report = desk.run(&input, "out", &other).unwrap();
        let computed: u64 = report.workers().map(|worker| worker.sequences).sum();
        assert_eq!((computed, report.records.failed), (missing, 0));
        if !part.is_whole() {
            let other = RunConfig {
                part: Part::new(1, 2).unwrap(),
                ..config()
            };
            desk.run(&input, "out", &other).unwrap();
            aggregate_parts(desk.path("out"), &[]).unwrap();
        }
        desk.run(&input, "undisturbed", &config()).unwrap();
        for name in ["embeddings.h5", "ledger.tsv"] {
            let [found, expected] = ["out", "undisturbed"].map(|out| format!("{out}/{name}"));
            assert!(desk.read(&found) == desk.read(&expected), "{name}");
        }
        verify_run(desk.path("out")).unwrap();
    }
}

#[test]
fn a_wait_for_the_input_is_in_the_metrics() {
    let desk = Desk::new();
    let input = desk.input();
    let emptied = input.clone();
    let spoiled = RunConfig {
        lanes: lanes(Duration::from_secs(60)),
        ..spoiled_by(move || {
            fs::write(&emptied, "").unwrap();
            let emptied = emptied.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(300));
                fs::write(&emptied, text(1)).unwrap();
            });
        })
    };
    let report = desk.run(&input, "out", &spoiled).unwrap();
    assert_eq!(report.records.failed, 0);
    let metrics = String::from_utf8(desk.read("out/logs/metrics.jsonl")).unwrap();
    let events: Vec<serde_json::Value> = metrics
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let find = |name: &str| {
        let mut found = events.iter().filter(|event| event["event"] == name);
        found
            .next()
            .unwrap_or_else(|| panic!("no {name} in {metrics}"))
    };
    let (wait, back) = (find("input_wait"), find("input_back"));
    assert_eq!(wait["path"], *input.to_string_lossy());
    assert!(wait["id"].as_str().is_some_and(|id| id.starts_with('p')));
    assert!(wait["reason"].as_str().unwrap().contains("changed"));
    assert!(back["row"].is_u64() && back["waited_seconds"].as_f64() > Some(0.0));
}

#[test]
fn an_unpacked_input_that_is_lost_is_unpacked_again_by_the_same_command() {
    let desk = Desk::new();
    let input = desk.compressed();
    let unpacked = desk.path("out/inputs");
    let spoiled = spoiled_by(move || {
        for entry in fs::read_dir(&unpacked).unwrap() {
            // The file is emptied too, since readers may have it open.
            let path = entry.unwrap().path();
            fs::write(&path, "").unwrap();
            fs::remove_file(&path).unwrap();
        }
    });
    let error = desk.run(&input, "out", &spoiled).unwrap_err();
    assert!(
        matches!(&error, Error::Coordinator(RunError::InputUnreadable { .. })),
        "{error}"
    );
    let report = desk.run(&input, "out", &config()).unwrap();
    assert_eq!(report.records.failed, 0);
    verify_run(desk.path("out")).unwrap();
}

#[test]
fn contacts_of_a_protein_in_windows_are_refused_with_its_place_before_anything_is_loaded() {
    let desk = Desk::new();
    let input = desk.path("in/long.fasta");
    let text = format!(">short\nMKV\n>long\n{0}\n>longer\n{0}{0}\n", "MKVLAAG");
    fs::write(&input, text).unwrap();
    // Loading it would fail.
    let loader = FakeLoader::new(4)
        .output(OutputKind::Contacts, 1, Dtype::F32)
        .fault(Rank(0), EncoderFault::FailLoad);
    let model = Model::Loader(Arc::new(loader));
    let windows = LongSequences::Window {
        overlap_residues: 2,
    };
    let plan = PlanConfig::builder()
        .max_residues(5)
        .long_sequences(windows);
    let config = RunConfig {
        plan: plan.build().unwrap(),
        ..RunConfig::default()
    };
    let out = desk.path("out");
    let error = run_multi_gpu_inference([&input], &model, &out, &config).unwrap_err();
    assert!(error.is_refusal());
    assert_eq!(
        error.to_string(),
        format!(
            "{}, line 3, byte 11: \"long\" has 7 residues, over max_residues 5 (and so has one \
             more record), and contacts can't be put together from windows",
            input.display()
        )
    );
    assert!(!out.join("fingerprint.json").exists() && !out.join("shards").exists());
}
