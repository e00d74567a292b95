//! The same command again: it continues, tries failures again, discards files, or repairs damage.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plm_core::{BoxError, Encoder, EncoderLoader, EncoderSpec, Rank};
use plm_fleet::{
    BatchTimeout, Devices, EmbeddingsFile, Error, LaneConfig, Model, Part, PlanConfig, Resume,
    RunConfig, RunReport, SegmentConfig, aggregate_parts, run_multi_gpu_inference, verify_run,
};
use plm_testkit::{FakeLoader, Gate, Poison, fake_vector, random_residues};

const HIDDEN_SIZE: usize = 8;

/// Thirty different proteins of twenty residues, and a folder for their runs.
struct Desk {
    scratch: tempfile::TempDir,
    proteins: Vec<Vec<u8>>,
}

impl Desk {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let proteins: Vec<Vec<u8>> = (0..30).map(|seed| random_residues(seed, 20)).collect();
        let record = |(row, residues): (usize, &Vec<u8>)| {
            format!(">p{row}\n{}\n", String::from_utf8_lossy(residues))
        };
        let fasta: String = proteins.iter().enumerate().map(record).collect();
        fs::write(scratch.path().join("in.fasta"), fasta).unwrap();
        Self { scratch, proteins }
    }

    fn out(&self) -> PathBuf {
        self.scratch.path().join("out")
    }

    fn loader(&self) -> FakeLoader {
        FakeLoader::new(HIDDEN_SIZE)
    }

    fn run(
        &self,
        loader: impl EncoderLoader + 'static,
        config: &RunConfig,
    ) -> Result<RunReport, Error> {
        let loader: Arc<dyn EncoderLoader> = Arc::new(loader);
        run_multi_gpu_inference(
            [self.scratch.path().join("in.fasta")],
            &Model::from(loader),
            self.out(),
            config,
        )
    }

    /// Asserts that the finished file has the right vector of each protein that has one.
    fn check(&self, without: &[usize]) {
        verify_run(self.out()).unwrap();
        let file = EmbeddingsFile::open(self.out().join("embeddings.h5")).unwrap();
        let rows: Vec<usize> = (0..30).filter(|row| !without.contains(row)).collect();
        let ids: Vec<String> = rows.iter().map(|row| format!("p{row}")).collect();
        assert_eq!(file.ids().unwrap(), ids);
        let vectors = file.read_rows(0..rows.len()).unwrap();
        for (place, &row) in rows.iter().enumerate() {
            let expected = fake_vector(&self.proteins[row], HIDDEN_SIZE);
            assert_eq!(vectors.row(place).to_vec(), expected, "p{row}");
        }
    }
}

/// Settings for six batches of five records, each in its own segment.
fn config() -> RunConfig {
    RunConfig {
        devices: "cpu:2".parse().unwrap(),
        plan: PlanConfig::builder()
            .max_residues(20)
            .max_batch_tokens(110)
            .build()
            .unwrap(),
        store: SegmentConfig::builder().max_rows(1).build().unwrap().into(),
        ..RunConfig::default()
    }
}

fn resume(resume: Resume) -> RunConfig {
    RunConfig { resume, ..config() }
}

/// Settings for one of two parts.
fn part(index: u32, resume: Resume) -> RunConfig {
    RunConfig {
        part: Part::new(index, 2).unwrap(),
        resume,
        ..config()
    }
}

fn flip_a_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_poison_sequence_fails_alone_and_is_tried_again_only_when_that_is_asked_for() {
    let desk = Desk::new();
    let poisoned = || {
        desk.loader()
            .poison(&desk.proteins[7], Poison::Error)
            .poison(&desk.proteins[19], Poison::Panic)
    };
    let report = desk.run(poisoned(), &config()).unwrap();
    assert_eq!((report.records.embedded, report.records.failed), (28, 2));
    assert!(report.failed_ranks.is_empty());
    desk.check(&[7, 19]);
    let ledger = fs::read_to_string(desk.out().join("ledger.tsv")).unwrap();
    let line = ledger.lines().nth(8).unwrap();
    assert!(
        line.starts_with("7\tp7\tfailed\t")
            && line.ends_with(
                "encoders fail on it, also alone: the device met poison: injected by a test"
            ),
        "{line}"
    );

    // A finished run is not touched.
    let again = desk.run(desk.loader(), &config()).unwrap();
    assert_eq!(again, report);
    // One of the records no longer fails.
    let half_well = desk.loader().poison(&desk.proteins[19], Poison::Error);
    let report = desk.run(half_well, &resume(Resume::RetryFailed)).unwrap();
    assert_eq!((report.records.embedded, report.records.failed), (29, 1));
    let computed: u64 = report.workers().map(|worker| worker.sequences).sum();
    assert_eq!(computed, 1);
    desk.check(&[19]);
    let report = desk
        .run(desk.loader(), &resume(Resume::RetryFailed))
        .unwrap();
    assert_eq!(report.records.failed, 0);
    desk.check(&[]);
    // If there is no failure to try again, nothing is touched.
    let again = desk
        .run(desk.loader(), &resume(Resume::RetryFailed))
        .unwrap();
    assert_eq!(again, report);
}

#[test]
fn what_takes_all_ranks_with_it_is_found_out_over_several_tries() {
    let desk = Desk::new();
    let lanes = LaneConfig::builder()
        .batch_timeout(BatchTimeout::Fixed(Duration::from_millis(1_500)))
        .build()
        .unwrap();
    let config = RunConfig {
        devices: Devices::CPU,
        lanes,
        ..config()
    };
    let mut gates: Vec<Gate> = Vec::new();
    let mut try_again = || {
        let loader = desk.loader().poison(&desk.proteins[7], Poison::Hang);
        gates.push(loader.gate());
        desk.run(loader, &config)
    };
    let missing = |result: Result<RunReport, Error>| match result {
        Err(Error::Coordinator(plm_fleet::coordinator::Error::AllRanksFailed {
            missing_rows,
            ..
        })) => missing_rows,
        other => panic!("{other:?}"),
    };
    let suspects = desk.out().join("shards/suspects.json");
    // The second of six batches hangs, and so does the only rank.
    let first = missing(try_again());
    assert_eq!(first, 25);
    assert!(suspects.exists());
    // The suspects come after all other batches, one at a time, in the order of the input. So the
    // record that hangs and the two after it are missing. If the next batch was submitted already,
    // its five records are missing too.
    let second = missing(try_again());
    assert!(second == 3 || second == 8, "{second} of {first}");
    let once_alone = fs::read_to_string(&suspects).unwrap();
    // One try alone is not enough to give the record up. The records after it wait for a second
    // try.
    assert_eq!(missing(try_again()), second);
    let twice_alone = fs::read_to_string(&suspects).unwrap();
    assert_ne!(once_alone, twice_alone, "the second try counts");
    let report = try_again().unwrap();
    assert_eq!(report.records.failed, 1);
    assert!(
        report.failed_rows[0]
            .reason
            .contains("2 tries ended at it alone"),
        "{:?}",
        report.failed_rows
    );
    desk.check(&[7]);
    assert!(!suspects.exists());

    let report = desk
        .run(
            desk.loader(),
            &RunConfig {
                resume: Resume::RetryFailed,
                ..config.clone()
            },
        )
        .unwrap();
    assert_eq!(report.records.failed, 0);
    desk.check(&[]);
    gates.iter().for_each(Gate::open);
}

#[test]
fn a_record_that_failed_in_a_try_that_did_not_end_is_not_tried_again_unasked() {
    let desk = Desk::new();
    let config = RunConfig {
        devices: Devices::CPU,
        lanes: LaneConfig::builder()
            .batch_timeout(BatchTimeout::Fixed(Duration::from_millis(1_500)))
            .build()
            .unwrap(),
        ..config()
    };
    let loader = desk
        .loader()
        .poison(&desk.proteins[2], Poison::Error)
        .poison(&desk.proteins[29], Poison::Hang);
    let gate = loader.gate();
    desk.run(loader, &config).unwrap_err();
    // Neither record fails any more.
    let report = desk.run(desk.loader(), &config).unwrap();
    assert_eq!(report.records.failed, 1);
    desk.check(&[2]);
    let retry = RunConfig {
        resume: Resume::RetryFailed,
        ..config
    };
    desk.run(desk.loader(), &retry).unwrap();
    desk.check(&[]);
    gate.open();
}

/// Counts how many encoders were loaded.
struct Counting(FakeLoader, Arc<Mutex<u32>>);

impl EncoderLoader for Counting {
    fn spec(&self) -> &EncoderSpec {
        self.0.spec()
    }

    fn load(&self, rank: Rank) -> Result<Box<dyn Encoder + '_>, BoxError> {
        *self.1.lock().unwrap() += 1;
        self.0.load(rank)
    }
}

#[test]
fn a_restart_discards_this_run_or_another() {
    let desk = Desk::new();
    desk.run(desk.loader(), &config()).unwrap();
    let other = RunConfig {
        store: SegmentConfig::builder()
            .dtype(plm_fleet::Dtype::F16)
            .build()
            .unwrap()
            .into(),
        ..config()
    };
    let refused = desk.run(desk.loader(), &other).unwrap_err();
    assert!(matches!(refused, Error::OtherRun { .. }), "{refused}");
    // The library knows no command line. A program names its option for `Resume::Restart`.
    assert!(!refused.to_string().contains("--"), "{refused}");
    desk.check(&[]);
    let report = desk
        .run(
            desk.loader(),
            &RunConfig {
                resume: Resume::Restart,
                ..other
            },
        )
        .unwrap();
    let computed: u64 = report.workers().map(|worker| worker.sequences).sum();
    assert_eq!(computed, 30, "nothing of the other run was taken up");
    verify_run(desk.out()).unwrap();

    let loads = Arc::new(Mutex::new(0));
    let counting = Counting(desk.loader(), Arc::clone(&loads));
    desk.run(counting, &resume(Resume::Restart)).unwrap();
    assert_eq!(*loads.lock().unwrap(), 2, "it was done again");
    desk.check(&[]);
}

#[test]
fn a_disk_without_room_is_told_of_before_an_encoder_is_loaded() {
    let desk = Desk::new();
    let loads = Arc::new(Mutex::new(0));
    // The vectors would take a petabyte.
    let counting = Counting(FakeLoader::new(1 << 48), Arc::clone(&loads));
    let refused = desk.run(counting, &config()).unwrap_err();
    assert!(matches!(refused, Error::NoSpace { .. }), "{refused}");
    assert!(refused.is_refusal());
    assert!(refused.to_string().contains("GiB are free"), "{refused}");
    assert_eq!(*loads.lock().unwrap(), 0);
}

#[test]
fn a_part_that_restarts_leaves_the_other_parts_alone() {
    let desk = Desk::new();
    for index in [0, 1] {
        desk.run(desk.loader(), &part(index, Resume::Continue))
            .unwrap();
    }
    aggregate_parts(desk.out(), &[]).unwrap();
    desk.run(desk.loader(), &part(1, Resume::Restart)).unwrap();
    assert!(
        !desk.out().join("embeddings.h5").exists(),
        "it was made of what is discarded"
    );
    let loads = Arc::new(Mutex::new(0));
    let counting = Counting(desk.loader(), Arc::clone(&loads));
    desk.run(counting, &part(0, Resume::Continue)).unwrap();
    assert_eq!(*loads.lock().unwrap(), 0, "part 1 is still there");
    aggregate_parts(desk.out(), &[]).unwrap();
    desk.check(&[]);
}

#[test]
fn what_is_not_the_runs_is_neither_discarded_nor_tidied_away() {
    let desk = Desk::new();
    desk.run(desk.loader(), &config()).unwrap();
    let others = [
        "shards/mine.fasta",
        "shards/rank_00000/mine",
        "inputs/mine.fasta",
    ]
    .map(|name| desk.out().join(name));
    fs::create_dir_all(desk.out().join("inputs")).unwrap();
    for path in &others {
        fs::write(path, "not the run's").unwrap();
    }
    desk.run(desk.loader(), &resume(Resume::Restart)).unwrap();
    desk.check(&[]);
    for path in &others {
        assert!(path.exists(), "{} is gone", path.display());
    }
}

#[test]
fn parts_that_are_done_again_are_merged_again() {
    let desk = Desk::new();
    for index in [0, 1] {
        let poisoned = desk.loader().poison(&desk.proteins[7], Poison::Error);
        desk.run(poisoned, &part(index, Resume::Continue)).unwrap();
    }
    assert_eq!(aggregate_parts(desk.out(), &[]).unwrap().records.failed, 1);
    let merged = desk.scratch.path().join("merged");
    let dirs = [desk.out()];
    assert_eq!(aggregate_parts(&merged, &dirs).unwrap().records.failed, 1);
    for index in [0, 1] {
        let before = desk.run(desk.loader(), &part(index, Resume::Continue));
        let again = desk.run(desk.loader(), &part(index, Resume::RetryFailed));
        let (before, again) = (before.unwrap(), again.unwrap());
        assert_eq!(before.records.failed == 0, again.parts == before.parts);
        assert_eq!(again.records.failed, 0);
    }
    assert_eq!(aggregate_parts(&merged, &dirs).unwrap().records.failed, 0);
    verify_run(&merged).unwrap();
    assert_eq!(aggregate_parts(desk.out(), &[]).unwrap().records.failed, 0);
    desk.check(&[]);
}

#[test]
fn what_a_run_says_of_itself_is_written_anew_if_it_is_damaged() {
    let desk = Desk::new();
    let report = desk.run(desk.loader(), &config()).unwrap();
    for name in ["run.json", "ledger.tsv"] {
        let path = desk.out().join(name);
        let whole = fs::read(&path).unwrap();
        for damage in [
            |path: &Path| flip_a_byte(path),
            |path: &Path| fs::remove_file(path).unwrap(),
            |path: &Path| fs::write(path, "").unwrap(),
        ] {
            damage(&path);
            verify_run(desk.out()).unwrap_err();
            let again = desk.run(desk.loader(), &config()).unwrap();
            assert_eq!(again.records, report.records);
            desk.check(&[]);
            if name == "ledger.tsv" {
                assert!(fs::read(&path).unwrap() == whole);
            }
        }
    }
}

#[test]
fn damage_of_what_a_part_says_of_itself_costs_no_record() {
    let desk = Desk::new();
    let poisoned = || desk.loader().poison(&desk.proteins[7], Poison::Error);
    desk.run(poisoned(), &config()).unwrap();
    flip_a_byte(&desk.out().join("shards/part.json"));
    fs::remove_file(desk.out().join("run.json")).unwrap();
    let report = desk.run(poisoned(), &config()).unwrap();
    assert_eq!(report.records.failed, 1);
    desk.check(&[7]);
}

#[test]
fn a_damaged_segment_is_computed_again_and_reported() {
    let desk = Desk::new();
    desk.run(desk.loader(), &config()).unwrap();
    for name in ["embeddings.h5", "run.json"] {
        fs::remove_file(desk.out().join(name)).unwrap();
    }
    // On a busy machine one of the two ranks may have done all the work.
    let segment = ["shards/rank_00000", "shards/rank_00001"]
        .into_iter()
        .filter_map(|rank| fs::read_dir(desk.out().join(rank)).ok())
        .flatten()
        .map(|entry| entry.unwrap().path())
        .min()
        .unwrap();
    flip_a_byte(&segment);
    let report = desk.run(desk.loader(), &config()).unwrap();
    let [damaged] = &*report.parts[0].damaged_segments else {
        panic!("{:?}", report.parts);
    };
    let mut aside = segment.into_os_string();
    aside.push(".damaged");
    assert_eq!(damaged.path, PathBuf::from(aside));
    assert!(damaged.path.exists());
    desk.check(&[]);
}
