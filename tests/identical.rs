//! Proteins with the same residues are computed once. Nothing in the result shows it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use plm_fleet::{
    Dtype, Error, IdenticalSequences, IndexConfig, LaneConfig, Layer, LongSequences, Model,
    Observer, OutputKind, OutputSet, Part, PlanConfig, Resume, RunConfig, RunEvent, RunReport,
    SegmentConfig, StopToken, aggregate_parts, run_multi_gpu_inference, verify_run,
};
use plm_testkit::{FakeLoader, random_residues};
use tempfile::TempDir;

const RECORDS: u64 = 90;
/// Only so many of them differ.
const DIFFERENT: u64 = 40;

struct Desk(TempDir);

impl Desk {
    /// An input in which a few proteins come often, in lower case or with other line ends too.
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let record = |row: u64| {
            // The first five come many times.
            let of = if row < DIFFERENT { row } else { row % 5 };
            let residues = random_residues(of, 8 + of as usize % 25);
            let residues = String::from_utf8(residues).unwrap();
            let (first, rest) = residues.split_at(5);
            match row % 3 {
                0 => format!(">p{row}\n{residues}\n"),
                1 => format!(">p{row}\n{first}\n{}\n", rest.to_lowercase()),
                _ => format!(">p{row} again\n{first} {rest}*\n"),
            }
        };
        let text: String = (0..RECORDS).map(record).collect();
        fs::write(scratch.path().join("in.fasta"), text).unwrap();
        Self(scratch)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, out: &str, model: &Model, config: &RunConfig) -> Result<RunReport, Error> {
        run_multi_gpu_inference([self.path("in.fasta")], model, self.path(out), config)
    }
}

fn config(identical: IdenticalSequences, devices: &str) -> RunConfig {
    RunConfig {
        devices: devices.parse().unwrap(),
        index: IndexConfig::default(),
        plan: PlanConfig::builder()
            .max_batch_tokens(60)
            .max_residues(20)
            .long_sequences(LongSequences::Window {
                overlap_residues: 5,
            })
            .identical_sequences(identical)
            .build()
            .unwrap(),
        store: SegmentConfig::builder().max_rows(7).build().unwrap().into(),
        ..RunConfig::default()
    }
}

fn once(devices: &str) -> RunConfig {
    config(IdenticalSequences::ComputeOnce, devices)
}

/// The bytes of a result and of its ledger.
fn result(out: &Path) -> (Vec<u8>, Vec<u8>) {
    verify_run(out).unwrap();
    let read = |name: &str| fs::read(out.join(name)).unwrap();
    (read("embeddings.h5"), read("ledger.tsv"))
}

#[test]
fn the_ledger_names_the_first_record_with_the_same_residues() {
    let desk = Desk::new();
    let out = desk.path("out");
    desk.run(
        "out",
        &Model::Loader(Arc::new(FakeLoader::new(8))),
        &once("cpu"),
    )
    .unwrap();
    let ledger = fs::read_to_string(out.join("ledger.tsv")).unwrap();
    let mut told = 0;
    for (row, line) in (0..RECORDS).zip(ledger.lines().skip(1)) {
        let detail = line.rsplit('\t').next().unwrap();
        if row < DIFFERENT {
            assert!(!detail.contains("same residues"), "{line}");
        } else {
            let first = format!("same residues as p{}", row % 5);
            assert!(detail.ends_with(&first), "{line}");
            told += 1;
        }
    }
    assert_eq!(told, RECORDS - DIFFERENT);
}

#[test]
fn the_result_is_the_same_byte_for_byte_on_any_number_of_ranks_and_in_parts() {
    let desk = Desk::new();
    let model = Model::PlmTiny;
    for outputs in [
        None,
        Some(OutputSet::new(
            [OutputKind::Mean, OutputKind::Residues, OutputKind::Logits],
            [Layer(2), Layer::LAST],
        )),
    ] {
        let with = |config: RunConfig| RunConfig {
            outputs: outputs.clone(),
            ..config
        };
        let name = |what: &str| format!("{what}{}", outputs.is_some());
        let each = config(IdenticalSequences::ComputeEach, "cpu");
        let report = desk.run(&name("each"), &model, &with(each)).unwrap();
        assert_eq!(report.identical(), 0);
        let (computed, expected) = (report.tokens(), result(&desk.path(&name("each"))));

        for devices in ["cpu", "cpu:3"] {
            let out = name(devices);
            let report = desk.run(&out, &model, &with(once(devices))).unwrap();
            assert_eq!(result(&desk.path(&out)), expected, "{devices}");
            // The five come 2 * 10 and 3 * 10 times more: no group is over 16.
            assert_eq!(report.identical(), RECORDS - DIFFERENT);
            assert_eq!(report.sequences(), RECORDS);
            assert!(report.tokens() < computed);
        }

        let mut identical = 0;
        for index in 0..3 {
            let config = RunConfig {
                part: Part::new(index, 3).unwrap(),
                ..with(once("cpu:2"))
            };
            let report = desk.run(&name("parts"), &model, &config).unwrap();
            identical += report.identical();
        }
        let report = aggregate_parts(desk.path(&name("parts")), &[]).unwrap();
        assert_eq!(result(&desk.path(&name("parts"))), expected);
        assert_eq!((identical, report.identical()), (50, 50));
    }
}

#[test]
fn parts_must_agree_on_identical_sequences() {
    let desk = Desk::new();
    let part = |index| Part::new(index, 2).unwrap();
    let first = RunConfig {
        part: part(0),
        ..once("cpu")
    };
    desk.run("out", &Model::PlmTiny, &first).unwrap();
    let second = RunConfig {
        part: part(1),
        ..config(IdenticalSequences::ComputeEach, "cpu")
    };
    let error = desk.run("out", &Model::PlmTiny, &second).unwrap_err();
    assert!(matches!(error, Error::OtherRun { .. }));
    assert!(
        error
            .to_string()
            .contains("computes identical sequences once there"),
        "{error}"
    );
}

/// Stops the run after a few durable batches.
struct StopAfter(AtomicU64, u64, StopToken);

impl Observer for StopAfter {
    fn event(&self, event: &RunEvent<'_>) {
        if let RunEvent::BatchDurable { .. } = event
            && self.0.fetch_add(1, Ordering::Relaxed) + 1 == self.1
        {
            self.2.stop();
        }
    }
}

#[test]
fn tries_that_end_anywhere_and_change_their_minds_make_the_same_result() {
    let desk = Desk::new();
    let each = config(IdenticalSequences::ComputeEach, "cpu");
    desk.run("each", &Model::PlmTiny, &each).unwrap();
    let expected = result(&desk.path("each"));
    for (out, plans) in [
        ("once", [IdenticalSequences::ComputeOnce; 2]),
        (
            "changed",
            [
                IdenticalSequences::ComputeEach,
                IdenticalSequences::ComputeOnce,
            ],
        ),
        (
            "back",
            [
                IdenticalSequences::ComputeOnce,
                IdenticalSequences::ComputeEach,
            ],
        ),
    ] {
        let mut tries = 0;
        loop {
            let stop = StopToken::new();
            let observer = StopAfter(AtomicU64::new(0), 2 + tries % 3, stop.clone());
            // Nothing runs far ahead of the stop.
            let lanes = LaneConfig::builder()
                .queue_batches(1)
                .write_queue_batches(1);
            let config = RunConfig {
                observer: Arc::new(observer),
                stop,
                lanes: lanes.build().unwrap(),
                ..config(
                    plans[tries as usize % 2],
                    if tries % 2 == 0 { "cpu:2" } else { "cpu" },
                )
            };
            tries += 1;
            match desk.run(out, &Model::PlmTiny, &config) {
                Ok(_) => break,
                Err(error) => assert!(error.to_string().contains("stopped"), "{error}"),
            }
            assert!(tries < 100);
        }
        assert!(tries > 1, "it was never stopped");
        assert_eq!(result(&desk.path(out)), expected, "{out}");
    }
}

#[test]
fn what_fails_fails_for_each_record_and_is_tried_again_for_each() {
    let desk = Desk::new();
    // Row 3 comes again at 43, 48, ...: all rows from 40 on that leave 3.
    let residues = random_residues(3, 11);
    let failing = |nan: bool| {
        let loader = FakeLoader::new(6).output(OutputKind::Bos, 6, Dtype::F16);
        let loader = if nan {
            loader.nan_for(&residues)
        } else {
            loader
        };
        Model::Loader(Arc::new(loader))
    };
    let plan = |identical| {
        let plan = PlanConfig::builder()
            .max_batch_tokens(60)
            .identical_sequences(identical);
        RunConfig {
            plan: plan.build().unwrap(),
            ..config(identical, "cpu:2")
        }
    };
    let mut results = Vec::new();
    for identical in [
        IdenticalSequences::ComputeEach,
        IdenticalSequences::ComputeOnce,
    ] {
        let out = format!("{identical:?}");
        let report = desk.run(&out, &failing(true), &plan(identical)).unwrap();
        let failed: Vec<u64> = report
            .failed_rows
            .iter()
            .map(|failed| failed.row.0)
            .collect();
        let expected: Vec<u64> = (0..RECORDS)
            .filter(|row| *row == 3 || (*row > 39 && row % 5 == 3))
            .collect();
        assert_eq!(failed, expected);
        assert_eq!(report.records.failed, 11);
        let broken = result(&desk.path(&out));
        let config = RunConfig {
            resume: Resume::RetryFailed,
            ..plan(identical)
        };
        let report = desk.run(&out, &failing(false), &config).unwrap();
        assert_eq!(report.sequences(), RECORDS);
        results.push((broken, result(&desk.path(&out))));
    }
    assert_eq!(results[0], results[1]);
}
