//! An output directory keeps the files of another run, and damaged files are made again.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use plm_fleet::{
    Devices, DuplicatePolicy, Error, IndexConfig, Model, Part, PlanConfig, Resume, RunConfig,
    RunReport, SegmentConfig, aggregate_parts, build_index, check_result, run_multi_gpu_inference,
    verify_run,
};
use tempfile::TempDir;

/// A scratch directory with two FASTA files, `a.fasta` and `b.fasta`.
struct Desk {
    scratch: TempDir,
}

impl Desk {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        for (name, first) in [("a.fasta", "MKV"), ("b.fasta", "MKW")] {
            let records = (1..12).map(|i| format!(">p{i}\n{}\n", first.repeat(i)));
            fs::write(scratch.path().join(name), records.collect::<String>()).unwrap();
        }
        Self { scratch }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn run(&self, fasta: &str, out: &str, config: &RunConfig) -> Result<RunReport, Error> {
        run_multi_gpu_inference([self.path(fasta)], &Model::PlmTiny, self.path(out), config)
    }

    fn embeddings(&self, out: &str) -> Vec<u8> {
        fs::read(self.path(out).join("embeddings.h5")).unwrap()
    }

    /// Every segment of a directory, in order.
    fn segments(&self, out: &str) -> Vec<PathBuf> {
        files(&self.path(out).join("shards"))
            .into_keys()
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "plmseg")
            })
            .collect()
    }
}

/// Small batches, each in its own segment.
fn config() -> RunConfig {
    RunConfig {
        devices: Devices::CPU,
        plan: PlanConfig::builder()
            .max_residues(40)
            .max_batch_tokens(42)
            .build()
            .unwrap(),
        store: SegmentConfig::builder().max_rows(1).build().unwrap().into(),
        ..RunConfig::default()
    }
}

fn part(index: u32) -> RunConfig {
    RunConfig {
        part: Part::new(index, 2).unwrap(),
        ..config()
    }
}

/// All files below a directory with their bytes. Directories have no bytes.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
            found.insert(path, Vec::new());
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

fn flip_a_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_run_or_an_index_of_other_inputs_leaves_every_byte_as_it_was() {
    let desk = Desk::new();
    desk.run("a.fasta", "out", &config()).unwrap();
    let before = files(&desk.path("out"));
    let other_run = desk.run("b.fasta", "out", &config());
    let policies = IndexConfig {
        on_duplicate: DuplicatePolicy::Rename,
        ..IndexConfig::default()
    };
    let index = |fasta, config| build_index([desk.path(fasta)], desk.path("out"), config);
    for refused in [
        other_run.map(|_| ()),
        index("b.fasta", IndexConfig::default()).map(|_| ()),
        index("a.fasta", policies).map(|_| ()),
    ] {
        assert!(
            matches!(refused, Err(Error::OtherRun { .. })),
            "{refused:?}"
        );
        assert!(files(&desk.path("out")) == before);
    }
    verify_run(desk.path("out")).unwrap();
}

#[test]
fn bad_input_leaves_a_finished_run_as_it_was() {
    let desk = Desk::new();
    desk.run("a.fasta", "out", &config()).unwrap();
    let before = files(&desk.path("out"));
    fs::write(desk.path("b.fasta"), ">bad\nMK7\n").unwrap();
    let refused = desk.run("b.fasta", "out", &config());
    assert!(matches!(refused, Err(Error::Index(_))), "{refused:?}");
    assert!(files(&desk.path("out")) == before);
}

#[test]
fn segments_that_are_damaged_or_gone_are_made_again() {
    let desk = Desk::new();
    desk.run("a.fasta", "out", &config()).unwrap();
    let expected = desk.embeddings("out");
    fs::remove_file(desk.path("out/embeddings.h5")).unwrap();
    fs::remove_file(desk.path("out/run.json")).unwrap();
    let segments = desk.segments("out");
    flip_a_byte(&segments[0]);
    fs::remove_file(segments.last().unwrap()).unwrap();

    let report = desk.run("a.fasta", "out", &config()).unwrap();
    assert!(desk.embeddings("out") == expected);
    assert_eq!(report.sequences(), 11);
    let computed: u64 = report.workers().map(|worker| worker.sequences).sum();
    assert!((2..11).contains(&computed), "{computed} were computed");
    verify_run(desk.path("out")).unwrap();
}

#[test]
fn a_part_that_is_whole_is_not_computed_again() {
    let desk = Desk::new();
    let first = desk.run("a.fasta", "out", &part(0)).unwrap();
    let before = files(&desk.path("out"));
    let again = desk.run("a.fasta", "out", &part(0)).unwrap();
    assert_eq!(again.parts, first.parts);
    assert!(files(&desk.path("out")) == before);
}

#[test]
fn a_part_with_damaged_segments_is_made_good_before_it_is_merged() {
    let desk = Desk::new();
    desk.run("a.fasta", "whole", &config()).unwrap();
    for index in [0, 1] {
        desk.run("a.fasta", "out", &part(index)).unwrap();
    }
    let segments = desk.segments("out");
    // The first segment belongs to part 1, the last to part 2.
    flip_a_byte(&segments[0]);
    fs::remove_file(segments.last().unwrap()).unwrap();
    aggregate_parts(desk.path("out"), &[]).unwrap_err();
    desk.run("a.fasta", "out", &part(0)).unwrap();
    let before = files(&desk.path("out"));
    let missing = aggregate_parts(desk.path("out"), &[]).unwrap_err();
    // Without a merge there is no ledger either, not even a temporary one.
    assert!(files(&desk.path("out")) == before);
    assert!(
        matches!(
            missing,
            Error::Shards(plm_fleet::shards::Error::MissingRows { .. })
        ),
        "{missing}"
    );
    desk.run("a.fasta", "out", &part(1)).unwrap();
    let report = aggregate_parts(desk.path("out"), &[]).unwrap();
    assert_eq!(report.sequences(), 11);
    assert!(desk.embeddings("out") == desk.embeddings("whole"));
}

#[test]
fn a_result_of_another_run_is_not_taken_for_this_ones_when_the_fingerprint_is_gone() {
    let desk = Desk::new();
    desk.run("a.fasta", "out", &config()).unwrap();
    let fingerprint = desk.path("out/fingerprint.json");
    let original = fs::read(&fingerprint).unwrap();
    fs::remove_file(&fingerprint).unwrap();
    let before = files(&desk.path("out"));
    let refused = desk.run("b.fasta", "out", &config()).map(|_| ());
    let index = build_index(
        [desk.path("b.fasta")],
        desk.path("out"),
        IndexConfig::default(),
    );
    for refused in [refused, index.map(|_| ())] {
        let error = refused.unwrap_err();
        assert!(
            matches!(&error, Error::OtherRun { path, .. } if path.ends_with("embeddings.h5")),
            "{error}"
        );
        assert!(files(&desk.path("out")) == before);
    }
    // The run that owns the directory restores its fingerprint.
    desk.run("a.fasta", "out", &config()).unwrap();
    assert_eq!(fs::read(&fingerprint).unwrap(), original);
    verify_run(desk.path("out")).unwrap();
}

#[test]
fn a_result_of_another_run_is_not_taken_for_this_ones_under_this_ones_fingerprint() {
    let desk = Desk::new();
    for (fasta, out) in [("a.fasta", "a"), ("b.fasta", "b")] {
        desk.run(fasta, out, &config()).unwrap();
    }
    fs::copy(
        desk.path("b/fingerprint.json"),
        desk.path("a/fingerprint.json"),
    )
    .unwrap();
    let before = files(&desk.path("a"));
    let error = desk.run("b.fasta", "a", &config()).unwrap_err();
    assert!(
        matches!(&error, Error::OtherRun { path, .. } if path.ends_with("embeddings.h5")),
        "{error}"
    );
    aggregate_parts(desk.path("a"), &[]).unwrap_err();
    assert!(files(&desk.path("a")) == before);
}

#[test]
fn segments_of_another_run_are_not_mixed_in_when_the_fingerprint_is_gone() {
    let desk = Desk::new();
    desk.run("a.fasta", "out", &part(0)).unwrap();
    fs::remove_file(desk.path("out/fingerprint.json")).unwrap();
    let before = files(&desk.path("out"));
    let refused = desk.run("b.fasta", "out", &part(0));
    assert!(
        matches!(
            refused,
            Err(Error::Shards(plm_fleet::shards::Error::OtherRun { .. }))
        ),
        "{refused:?}"
    );
    assert!(files(&desk.path("out")) == before);
}

#[test]
fn a_damaged_fingerprint_or_result_is_named_and_nothing_is_overwritten() {
    let desk = Desk::new();
    desk.run("a.fasta", "out", &config()).unwrap();
    for (name, words) in [
        ("fingerprint.json", "remove this file and run again"),
        ("embeddings.h5", "move it away and run again"),
    ] {
        let path = desk.path("out").join(name);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let before = files(&desk.path("out"));
        let error = desk
            .run("a.fasta", "out", &config())
            .unwrap_err()
            .to_string();
        assert!(error.contains(name) && error.contains(words), "{error}");
        assert!(files(&desk.path("out")) == before);
        // This follows the error's advice.
        fs::remove_file(&path).unwrap();
        desk.run("a.fasta", "out", &config()).unwrap();
        assert!(fs::read(&path).unwrap() == whole, "{name}");
    }
}

#[test]
fn a_run_whose_result_has_another_byte_is_not_called_finished() {
    let desk = Desk::new();
    desk.run("a.fasta", "out", &config()).unwrap();
    let path = desk.path("out/embeddings.h5");
    let whole = fs::read(&path).unwrap();
    for place in (0..whole.len()).step_by(197) {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x10;
        fs::write(&path, &bytes).unwrap();
        for called_finished in [
            desk.run("a.fasta", "out", &config()).map(drop),
            aggregate_parts(desk.path("out"), &[]).map(drop),
            check_result(desk.path("out"), u64::MAX).map(drop),
            verify_run(desk.path("out")).map(drop),
        ] {
            let error = called_finished.unwrap_err();
            assert!(
                matches!(
                    error,
                    Error::DamagedEmbeddings {
                        segments_are_there: true,
                        ..
                    }
                ),
                "byte {place}: {error}"
            );
            let words = "move it away and run again, which makes it again from the segments";
            assert!(error.to_string().contains(words), "{error}");
        }
        assert!(fs::read(&path).unwrap() == bytes, "left as it is");
    }
    // This follows the error's advice.
    fs::remove_file(&path).unwrap();
    let report = desk.run("a.fasta", "out", &config()).unwrap();
    assert!(fs::read(&path).unwrap() == whole);
    assert_eq!(report.sequences(), 11);
}

#[test]
fn without_segments_a_damaged_result_is_said_to_be_computed_again() {
    let desk = Desk::new();
    desk.run("a.fasta", "out", &config()).unwrap();
    let whole = desk.embeddings("out");
    fs::remove_dir_all(desk.path("out/shards")).unwrap();
    assert_eq!(
        desk.run("a.fasta", "out", &config()).unwrap().sequences(),
        11
    );
    flip_a_byte(&desk.path("out/embeddings.h5"));
    let error = desk.run("a.fasta", "out", &config()).unwrap_err();
    assert!(
        error.to_string().contains("computes everything again"),
        "{error}"
    );
    fs::remove_file(desk.path("out/embeddings.h5")).unwrap();
    desk.run("a.fasta", "out", &config()).unwrap();
    assert!(desk.embeddings("out") == whole);
}

#[test]
fn a_report_has_the_paths_of_where_the_directory_is_now() {
    let desk = Desk::new();
    for index in [0, 1] {
        desk.run("a.fasta", "out", &part(index)).unwrap();
    }
    flip_a_byte(&desk.segments("out")[0]);
    desk.run("a.fasta", "out", &part(0)).unwrap();
    let merged = aggregate_parts(desk.path("out"), &[]).unwrap();
    let damaged = |report: &RunReport| report.parts[0].damaged_segments[0].path.clone();
    assert!(damaged(&merged).exists());

    fs::create_dir(desk.path("elsewhere")).unwrap();
    fs::rename(desk.path("out"), desk.path("elsewhere/moved")).unwrap();
    let moved = desk.path("elsewhere/moved");
    let report = RunReport::of_run(&moved).unwrap();
    assert_eq!(report.embeddings_path, Some(moved.join("embeddings.h5")));
    assert!(damaged(&report).starts_with(&moved) && damaged(&report).exists());
    let json = fs::read_to_string(moved.join("run.json")).unwrap();
    assert!(
        !json.contains(desk.scratch.path().to_str().unwrap()),
        "{json}"
    );
    // It is still the same merged run.
    assert_eq!(aggregate_parts(&moved, &[]).unwrap(), report);

    // The report names the files of parts in other directories by their present paths.
    let apart = aggregate_parts(desk.path("apart"), std::slice::from_ref(&moved)).unwrap();
    assert!(damaged(&apart).exists());
    assert_eq!(
        aggregate_parts(desk.path("apart"), std::slice::from_ref(&moved)).unwrap(),
        apart
    );
}

#[test]
fn a_merge_that_is_refused_leaves_the_result_of_the_one_before() {
    let desk = Desk::new();
    for index in [0, 1] {
        desk.run("a.fasta", "out", &part(index)).unwrap();
    }
    aggregate_parts(desk.path("out"), &[]).unwrap();
    // Part 1 is done again. Part 2 has lost a segment since the merge.
    let restart = RunConfig {
        resume: Resume::Restart,
        ..part(0)
    };
    let result = ["embeddings.h5", "ledger.tsv", "run.json"].map(|name| {
        let path = desk.path("out").join(name);
        (path.clone(), fs::read(path).unwrap())
    });
    desk.run("a.fasta", "out", &restart).unwrap();
    for (path, bytes) in &result {
        fs::write(path, bytes).unwrap();
    }
    fs::remove_file(desk.segments("out").last().unwrap()).unwrap();
    let before = files(&desk.path("out"));
    aggregate_parts(desk.path("out"), &[]).unwrap_err();
    let mut after = files(&desk.path("out"));
    // The lock's file names its last holder, so it may differ.
    let lock = desk.path("out/shards/lock");
    after.insert(lock.clone(), before[&lock].clone());
    assert!(after == before);
}

#[test]
fn a_report_of_another_run_is_told_of_in_words() {
    let desk = Desk::new();
    desk.run("a.fasta", "out", &config()).unwrap();
    fs::write(desk.path("one.fasta"), ">p1\nMKV\n").unwrap();
    desk.run("one.fasta", "other", &config()).unwrap();
    fs::copy(desk.path("other/run.json"), desk.path("out/run.json")).unwrap();
    let error = verify_run(desk.path("out")).unwrap_err().to_string();
    let words = "it tells of 11 embedded, 0 truncated, 0 windowed, 0 skipped and 0 failed records, \
                 and run.json of 1 embedded";
    assert!(error.contains(words), "{error}");
}

#[test]
fn a_result_that_cannot_be_read_is_not_called_damaged() {
    let desk = Desk::new();
    desk.run("a.fasta", "out", &config()).unwrap();
    let path = desk.path("out/embeddings.h5");
    let permissions = fs::metadata(&path).unwrap().permissions();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&path).is_ok() {
        return; // The superuser may read everything.
    }
    let refused = desk.run("a.fasta", "out", &config()).unwrap_err();
    assert!(matches!(refused, Error::Shards(_)), "{refused}");
    fs::set_permissions(&path, permissions).unwrap();
    desk.run("a.fasta", "out", &config()).unwrap();
}

#[test]
fn a_result_whose_parts_were_removed_stays_merged() {
    let desk = Desk::new();
    for index in 0..2 {
        desk.run("a.fasta", "out", &part(index)).unwrap();
    }
    let merged = aggregate_parts(desk.path("out"), &[]).unwrap();
    fs::remove_dir_all(desk.path("out/shards/part_00001_of_00002")).unwrap();
    assert_eq!(aggregate_parts(desk.path("out"), &[]).unwrap(), merged);
    fs::remove_dir_all(desk.path("out/shards")).unwrap();
    let before = files(&desk.path("out"));
    assert_eq!(aggregate_parts(desk.path("out"), &[]).unwrap(), merged);
    assert_eq!(files(&desk.path("out")), before);

    // A damaged result does not count as finished. Without a result, parts are missing.
    flip_a_byte(&desk.path("out/embeddings.h5"));
    let damaged = aggregate_parts(desk.path("out"), &[]).unwrap_err();
    assert!(
        matches!(damaged, Error::DamagedEmbeddings { .. }),
        "{damaged}"
    );
    fs::remove_file(desk.path("out/embeddings.h5")).unwrap();
    let missing = aggregate_parts(desk.path("out"), &[]).unwrap_err();
    assert!(
        matches!(&missing, Error::MissingParts { missing, .. } if missing[..] == [1, 2]),
        "{missing}"
    );
}

#[test]
fn which_input_differs_is_said_in_a_line() {
    let desk = Desk::new();
    let names: Vec<String> = (0..40).map(|number| format!("{number}.fa")).collect();
    for name in &names {
        fs::write(desk.path(name), format!(">{name}\nMKV\n")).unwrap();
    }
    let run = |names: &[String]| {
        let inputs = names.iter().map(|name| desk.path(name));
        run_multi_gpu_inference(inputs, &Model::PlmTiny, desk.path("out"), &config())
    };
    run(&names).unwrap();
    let mut reversed = names.clone();
    reversed.reverse();
    let error = run(&reversed).unwrap_err().to_string();
    assert!(
        error.contains("the 40 inputs are in another order"),
        "{error}"
    );
    fs::write(desk.path("17.fa"), ">other\nMKW\n").unwrap();
    let error = run(&names).unwrap_err().to_string();
    assert!(
        error.contains("of 40 inputs, the content of number 18 (")
            && error.contains("17.fa) is another"),
        "{error}"
    );
    assert!(error.len() < 400, "{error}");
}
