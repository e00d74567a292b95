//! Results of several files: they read as one does, and keep all that one does.

use std::fs;
use std::path::{Path, PathBuf};

use plm_fleet::{
    Dtype, EmbeddingsFile, Error, ExportConfig, ExportFormat, Part, Resume, RunConfig,
    SegmentConfig, StoreConfig, aggregate_parts, check_result, export, store_by_name, verify_run,
};
use plm_testkit::FakeLoader;

use crate::desk::{Desk, MAX_RESIDUES, RECORDS, computed, config, loader, slow, stopping};

/// All records take some 70 KB, and one up to 3.
const MAX_FILE_BYTES: u64 = 16_000;

/// Settings for several files.
fn in_files(config: RunConfig) -> RunConfig {
    let store = SegmentConfig::builder().max_rows(3);
    RunConfig {
        store: store.max_file_bytes(MAX_FILE_BYTES).build().unwrap().into(),
        ..config
    }
}

/// The names of the files in a directory whose names start so, in order.
fn names(directory: &Path, start: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(start)).collect();
    names.sort_unstable();
    names
}

/// The bytes of all files of a result, by their names.
fn all_bytes(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let names = names(directory, "embeddings").into_iter();
    names
        .map(|name| (name.clone(), fs::read(directory.join(name)).unwrap()))
        .collect()
}

fn last_file(directory: &Path) -> PathBuf {
    directory.join(names(directory, "embeddings-").pop().unwrap())
}

#[test]
fn a_result_of_several_files_reads_as_one() {
    let desk = Desk::new();
    desk.run("one", &config()).unwrap();
    desk.run("several", &in_files(config())).unwrap();
    desk.check("several", &[]);
    let open = |out: &str| EmbeddingsFile::open(desk.path(out).join("embeddings.h5")).unwrap();
    let (one, several) = (open("one"), open("several"));
    assert_eq!(one.files(), []);
    let files = several.files();
    assert!((4..=8).contains(&files.len()), "{files:?}");
    assert_eq!(several.outputs(), one.outputs());
    assert_eq!(several.vectors_bytes(), one.vectors_bytes());
    for start in (0..=RECORDS).step_by(3) {
        for end in (start..=RECORDS).step_by(5) {
            let range = || start..end;
            assert_eq!(
                several.read_ids(range()).unwrap(),
                one.read_ids(range()).unwrap()
            );
            for position in 0..one.outputs().len() {
                let [ours, theirs] = [&several, &one].map(|file| {
                    let column = file.read_column(position, range()).unwrap();
                    (column, file.read_offsets(position, range()).unwrap())
                });
                assert_eq!(ours, theirs, "{start}..{end}");
            }
        }
    }
    // Each file is a result of its records, and no larger than it may be.
    let mut next = 0;
    for (path, records) in files {
        assert_eq!(records.start, next);
        next = records.end;
        let report = verify_run(&path).unwrap();
        assert_eq!(report.rows as usize, records.len());
        let file = EmbeddingsFile::open_sealed(&path).unwrap();
        assert_eq!(file.ids().unwrap(), one.read_ids(records).unwrap());
        assert!(file.vectors_bytes() <= MAX_FILE_BYTES);
    }
    assert_eq!(next, RECORDS);
    check_result(desk.path("several"), u64::MAX).unwrap();
    // So do exports.
    let [of_one, of_several] = ["one", "several"].map(|out| {
        let config = ExportConfig::new(ExportFormat::Npy);
        export(desk.path(out), &config).unwrap().path
    });
    let exported = names(&of_one, "");
    assert!(exported.len() >= 6, "{exported:?}");
    assert_eq!(names(&of_several, ""), exported);
    for name in exported {
        let [one, several] = [&of_one, &of_several].map(|path| fs::read(path.join(&name)).unwrap());
        assert!(one == several, "{name}");
    }
}

#[test]
fn its_bytes_are_the_same_whatever_the_ranks_and_parts_and_stops() {
    let desk = Desk::new();
    desk.run("whole", &in_files(config())).unwrap();
    let expected = all_bytes(&desk.path("whole"));
    let other = RunConfig {
        devices: "cpu:3".parse().unwrap(),
        ..in_files(config())
    };
    desk.run("other", &other).unwrap();
    assert!(all_bytes(&desk.path("other")) == expected);
    for index in [1, 0] {
        let part = RunConfig {
            part: Part::new(index, 2).unwrap(),
            ..in_files(config())
        };
        desk.run("parts", &part).unwrap();
    }
    let drafts = names(&desk.path("parts"), "embeddings");
    assert_eq!(drafts.len(), expected.len() - 1);
    assert!(drafts.iter().all(|name| name.ends_with(".h5.draft")));
    aggregate_parts(desk.path("parts"), &[]).unwrap();
    assert!(all_bytes(&desk.path("parts")) == expected);

    let stopped = desk.run_of(slow(loader()), "stopped", &in_files(stopping(3)));
    assert!(matches!(stopped.unwrap_err(), Error::Coordinator(_)));
    let report = desk.run("stopped", &in_files(config())).unwrap();
    assert!(computed(&report) < RECORDS as u64);
    assert!(all_bytes(&desk.path("stopped")) == expected);
}

#[test]
fn a_kill_before_the_last_name_loses_nothing() {
    let desk = Desk::new();
    for (out, outputs) in [("wide", loader()), ("narrow", FakeLoader::new(500))] {
        let out = desk.path(out);
        let name = out.file_name().unwrap().to_str().unwrap();
        desk.run_of(outputs.clone(), name, &in_files(config()))
            .unwrap();
        let expected = all_bytes(&out);
        assert!(expected.len() > 3);
        // A kill after some files had their names leaves these, and no report.
        for gone in ["embeddings.h5", "run.json", "ledger.tsv"] {
            fs::remove_file(out.join(gone)).unwrap();
        }
        let report = desk.run_of(outputs, name, &in_files(config())).unwrap();
        assert!(report.parts[0].damaged_segments.is_empty());
        assert!(all_bytes(&out) == expected);
        verify_run(&out).unwrap();
    }
}

#[test]
fn a_record_that_fails_changes_its_own_file() {
    let desk = Desk::new();
    desk.run("whole", &in_files(config())).unwrap();
    let failing = || loader().nan_for(&desk.proteins[8]);
    desk.run_of(failing(), "out", &in_files(config())).unwrap();
    desk.check("out", &[8]);
    let whole = all_bytes(&desk.path("whole"));
    let failed = all_bytes(&desk.path("out"));
    let differ = whole
        .iter()
        .zip(&failed)
        .filter(|(one, other)| one != other);
    let differ: Vec<&str> = differ.map(|((name, _), _)| &**name).collect();
    let [file, catalogue] = differ[..] else {
        panic!("{differ:?}")
    };
    assert!(file.starts_with("embeddings-0000"));
    assert_eq!(catalogue, "embeddings.h5");
    // A kill at that moment, and then a try in which the record does not fail.
    for gone in ["embeddings.h5", "run.json"] {
        fs::remove_file(desk.path("out").join(gone)).unwrap();
    }
    let again = RunConfig {
        resume: Resume::RetryFailed,
        ..in_files(config())
    };
    let report = desk.run("out", &again).unwrap();
    assert_eq!(computed(&report), 1);
    assert!(all_bytes(&desk.path("out")) == whole);
}

#[test]
fn damage_in_a_file_is_told_and_computed_again() {
    let desk = Desk::new();
    desk.run("out", &in_files(config())).unwrap();
    let out = desk.path("out");
    let expected = all_bytes(&out);
    let file = last_file(&out);
    let damage = |at: &dyn Fn(usize) -> usize| {
        let mut bytes = fs::read(&file).unwrap();
        let at = at(bytes.len());
        bytes[at] ^= 1;
        fs::write(&file, bytes).unwrap();
    };
    let missing = || fs::remove_file(&file).unwrap();
    let in_rows = || damage(&|bytes| bytes / 2);
    let in_seal = || damage(&|bytes| bytes - 20);
    for break_it in [&in_rows as &dyn Fn(), &in_seal, &missing] {
        break_it();
        let verified = verify_run(&out).map(drop);
        let embedded = desk.run("out", &in_files(config())).map(drop);
        for refused in [verified, embedded] {
            let error = refused.unwrap_err();
            assert!(
                matches!(error, Error::DamagedEmbeddings { .. }),
                "{error:?}"
            );
            let mut told = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(inner) = cause {
                told = format!("{told}: {inner}");
                cause = inner.source();
            }
            let name = file.file_name().unwrap().to_str().unwrap();
            assert!(
                told.contains(name) && told.contains("move this one file away"),
                "{told}"
            );
        }
        // This follows the error's advice.
        fs::remove_file(out.join("embeddings.h5")).unwrap();
        let report = desk.run("out", &in_files(config())).unwrap();
        assert!(computed(&report) < RECORDS as u64);
        assert!(all_bytes(&out) == expected);
        verify_run(&out).unwrap();
    }
}

#[test]
fn a_file_of_another_run_is_not_taken_for_one_of_the_result() {
    let desk = Desk::new();
    desk.run("out", &in_files(config())).unwrap();
    // The same records in files of the same names, but the means in f16.
    let store = SegmentConfig::builder().dtype(Dtype::F16);
    let in_f16 = RunConfig {
        store: store.max_file_bytes(MAX_FILE_BYTES).build().unwrap().into(),
        ..config()
    };
    desk.run("other", &in_f16).unwrap();
    let files = |out: &str| {
        let file = EmbeddingsFile::open(desk.path(out).join("embeddings.h5"));
        file.unwrap().files()
    };
    let (ours, theirs) = (files("out"), files("other"));
    let mut of_the_same_records = ours
        .iter()
        .zip(&theirs)
        .filter(|(one, other)| one.1 == other.1);
    let ((file, _), (theirs, _)) = of_the_same_records.next().unwrap();
    assert_eq!(file.file_name(), theirs.file_name());
    fs::copy(theirs, file).unwrap();
    let opened = EmbeddingsFile::open_sealed(desk.path("out").join("embeddings.h5"));
    let told = opened.unwrap_err().to_string();
    assert!(told.contains("it is not the file"), "{told}");
    let error = verify_run(desk.path("out")).unwrap_err();
    assert!(matches!(error, Error::DamagedEmbeddings { .. }), "{error}");
}

#[test]
fn files_go_with_their_run_and_those_of_others_stay() {
    let desk = Desk::new();
    desk.run("out", &in_files(config())).unwrap();
    let differs = desk.run("out", &config()).unwrap_err().to_string();
    assert!(
        differs.contains("max_file_bytes is 16000 there and not set here"),
        "{differs}"
    );
    let restart = RunConfig {
        resume: Resume::Restart,
        ..config()
    };
    desk.run("out", &restart).unwrap();
    assert_eq!(names(&desk.path("out"), "embeddings"), ["embeddings.h5"]);

    // Also a finished run leaves what is not its own.
    desk.run("several", &in_files(config())).unwrap();
    let names = [
        "out/embeddings-00001-of-00002.h5",
        "out/embeddings.h5.draft",
        "several/embeddings-00005-of-00009.h5",
        "several/embeddings-00002-of-00005.h5.draft",
    ];
    for name in names {
        let notes = desk.path(name);
        let out = name.split_once('/').unwrap().0;
        for is_directory in [false, true] {
            match is_directory {
                true => fs::create_dir(&notes).unwrap(),
                false => fs::write(&notes, "notes of a lifetime").unwrap(),
            }
            let before = all_names(&desk.path(out));
            for config in [
                restart.clone(),
                in_files(restart.clone()),
                in_files(config()),
            ] {
                let refused = desk.run(out, &config).unwrap_err();
                assert!(
                    matches!(refused, Error::Foreign { .. }),
                    "{name}: {refused}"
                );
            }
            assert_eq!(all_names(&desk.path(out)), before);
            match is_directory {
                true => fs::remove_dir(&notes).unwrap(),
                false => {
                    assert_eq!(fs::read_to_string(&notes).unwrap(), "notes of a lifetime");
                    fs::remove_file(&notes).unwrap();
                }
            }
        }
    }
}

fn all_names(directory: &Path) -> Vec<String> {
    names(directory, "")
}

#[test]
fn a_file_whose_records_have_all_failed_has_no_rows() {
    let desk = Desk::new();
    let records = |out: &str| {
        let file = EmbeddingsFile::open(desk.path(out).join("embeddings.h5")).unwrap();
        file.files().into_iter().map(|(_, records)| records)
    };
    desk.run("whole", &in_files(config())).unwrap();
    let last: Vec<usize> = records("whole").next_back().unwrap().collect();
    let failing = last.iter().fold(loader(), |loader, &row| {
        // The model sees what is left of a truncated record.
        let residues = &desk.proteins[row];
        loader.nan_for(&residues[..residues.len().min(MAX_RESIDUES)])
    });
    desk.run_of(failing, "out", &in_files(config())).unwrap();
    desk.check("out", &last);
    assert_eq!(records("out").next_back().unwrap().len(), 0);
    let again = RunConfig {
        resume: Resume::RetryFailed,
        ..in_files(config())
    };
    desk.run("out", &again).unwrap();
    assert!(all_bytes(&desk.path("out")) == all_bytes(&desk.path("whole")));
}

#[test]
fn a_pipe_or_a_link_in_place_of_a_file_is_taken_for_what_it_is() {
    let desk = Desk::new();
    desk.run("out", &in_files(config())).unwrap();
    let catalogue = desk.path("out/embeddings.h5");
    // Engines of workflows stage files as links.
    let linked = desk.path("linked.h5");
    std::os::unix::fs::symlink(&catalogue, &linked).unwrap();
    let linked = EmbeddingsFile::open_sealed(&linked).unwrap();
    linked.check_vectors().unwrap();
    let file = last_file(&desk.path("out"));
    fs::remove_file(&file).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&file).status();
    assert!(made.unwrap().success());
    let error = EmbeddingsFile::open_sealed(&catalogue).unwrap_err();
    assert!(error.to_string().contains("it is not a file"), "{error}");
    assert!(verify_run(desk.path("out")).is_err());
}

#[test]
fn a_record_that_does_not_fit_is_refused_before_anything_is_computed() {
    let desk = Desk::new();
    let store = StoreConfig {
        max_file_bytes: Some(2_000),
        ..StoreConfig::default()
    };
    let config = RunConfig {
        store: store_by_name("hdf5", store).unwrap(),
        ..config()
    };
    let error = desk.run("out", &config).unwrap_err();
    assert!(error.is_refusal(), "{error}");
    let told = error.to_string();
    assert!(told.contains("2000: let files be larger"), "{told}");
    assert!(!desk.path("out").join("shards").exists());
}
