//! What can't be exported is refused before anything is written, and what fails leaves nothing.

use std::cell::Cell;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use plm_core::{Dtype, OutputKind, OutputSpec};
use plm_export::{Choice, Error, Export, Format};
use plm_testkit::MemoryResult;

fn result(ids: &[&str]) -> MemoryResult {
    let outputs = vec![
        OutputSpec::new(OutputKind::Mean, 6, 4),
        OutputSpec::new(OutputKind::Mean, 0, 4),
        OutputSpec {
            dtype: Dtype::F16,
            ..OutputSpec::new(OutputKind::Residues, 6, 4)
        },
        OutputSpec::new(OutputKind::Logits, 6, 33),
    ];
    let records: Vec<(&str, u32)> = ids.iter().map(|id| (*id, 3)).collect();
    MemoryResult::random(1, outputs, &records)
}

fn of(kinds: &[OutputKind], layers: &[usize]) -> Choice {
    Choice {
        kinds: kinds.to_vec(),
        layers: layers.to_vec(),
        ids: None,
    }
}

/// A folder, and the number of entries in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn count(&self) -> usize {
        fs::read_dir(self.0.path()).unwrap().count()
    }
}

fn write(result: &MemoryResult, format: Format, choice: &Choice, path: &Path) -> Result<(), Error> {
    let go_on = |_| ControlFlow::Continue(());
    Export::new(result, format, choice)?.write(path, &go_on)
}

#[test]
fn outputs_are_chosen_by_kind_and_layer() {
    use OutputKind::{Logits, Mean, Residues};
    let result = result(&["a"]);
    for (kinds, layers, names) in [
        (
            &[][..],
            &[][..],
            "mean/layer_6 mean/layer_0 residues/layer_6 logits/values",
        ),
        (&[Mean], &[], "mean/layer_6 mean/layer_0"),
        (&[], &[0], "mean/layer_0 logits/values"),
        (&[Residues, Mean], &[6], "mean/layer_6 residues/layer_6"),
        (&[Logits], &[], "logits/values"),
    ] {
        let export = Export::new(&result, Format::Npy, &of(kinds, layers)).unwrap();
        let found: Vec<String> = export.outputs().map(OutputSpec::name).collect();
        assert_eq!(found.join(" "), names);
    }
}

#[test]
fn outputs_that_the_result_or_the_format_lacks_are_refused() {
    use OutputKind::{Contacts, Mean, Residues};
    let result = result(&["a"]);
    let all = "it has mean/layer_6, mean/layer_0, residues/layer_6, logits/values";
    for (format, choice, says) in [
        (Format::Npy, of(&[Contacts], &[]), "has no contacts:"),
        (Format::Npy, of(&[Mean, Contacts], &[]), all),
        (
            Format::Parquet,
            of(&[], &[6, 3]),
            "has no output of layer 3:",
        ),
        (
            Format::Parquet,
            of(&[Residues], &[0]),
            "has no residues of such a layer:",
        ),
        (
            Format::Tsv,
            of(&[Mean], &[]),
            "tsv holds one output: choose one of mean/layer_6, mean/layer_0",
        ),
        (
            Format::Tsv,
            of(&[Residues], &[]),
            "tsv holds one row per record, and residues/layer_6 has more",
        ),
    ] {
        let error = Export::new(&result, format, &choice).unwrap_err();
        assert!(error.is_refusal());
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn a_list_of_ids_that_is_wrong_is_refused_with_the_line() {
    let result = result(&["a", "b", "c"]);
    let folder = Folder::new();
    let path = folder.path("ids.txt");
    for (text, says) in [
        (
            "a\nx\nb\ny\n",
            "ids.txt, line 2: the result has no record \"x\", nor the one of another line",
        ),
        ("a\n\nx\n", "line 3: the result has no record \"x\""),
        ("c\na\nb\na\nq\n", "line 4: \"a\" is in line 2 already"),
        ("", "ids.txt names no record"),
        ("\n \r\n", "ids.txt names no record"),
        ("a\n\n a \n", "line 3: \"a\" is in line 1 already"),
    ] {
        fs::write(&path, text).unwrap();
        let choice = Choice {
            ids: Some(path.clone()),
            ..Choice::default()
        };
        let error = write(&result, Format::Npy, &choice, &folder.path("x")).unwrap_err();
        assert!(error.is_refusal());
        assert!(error.to_string().contains(says), "{error}");
    }
    fs::write(&path, b"a\n\xff\n").unwrap();
    for path in [path.clone(), folder.path("missing")] {
        let choice = Choice {
            ids: Some(path),
            ..Choice::default()
        };
        let error = Export::new(&result, Format::Npy, &choice).unwrap_err();
        assert!(matches!(error, Error::ReadIds { .. }), "{error}");
    }
    assert_eq!(folder.count(), 1, "nothing was written");
}

#[test]
fn an_id_that_would_end_its_field_is_refused() {
    let mean = of(&[OutputKind::Mean], &[0]);
    for (id, character, formats) in [
        ("a\tb", '\t', &[Format::Tsv][..]),
        (
            "a\nb",
            '\n',
            &[Format::Npy, Format::Safetensors, Format::Tsv],
        ),
        (
            "a\rb",
            '\r',
            &[Format::Npy, Format::Safetensors, Format::Tsv],
        ),
    ] {
        let result = result(&["fine", id]);
        let folder = Folder::new();
        for format in Format::ALL {
            let written = write(&result, format, &mean, &folder.path(format.name()));
            match written {
                Ok(()) => assert!(!formats.contains(&format), "{format} took {id:?}"),
                Err(Error::Id {
                    id: found,
                    character: of_it,
                    ..
                }) => {
                    assert!(formats.contains(&format), "{format}");
                    assert_eq!((&*found, of_it), (id, character));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn an_export_takes_the_place_of_nothing() {
    let result = result(&["a"]);
    let choice = of(&[OutputKind::Mean], &[6]);
    for format in Format::ALL {
        let folder = Folder::new();
        let path = folder.path("export");
        let refuse = |what: &str| {
            let error = write(&result, format, &choice, &path).unwrap_err();
            assert!(
                matches!(error, Error::Exists { .. }),
                "{format}, {what}: {error}"
            );
            assert!(error.is_refusal());
            assert_eq!(folder.count(), 1);
        };
        fs::create_dir(&path).unwrap();
        refuse("a directory");
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        refuse("a file");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        refuse("a link that leads nowhere");
        fs::remove_file(&path).unwrap();
        // One that comes while the export is written is not replaced either.
        let export = Export::new(&result, format, &choice).unwrap();
        let late = |_| {
            fs::write(&path, "mine").unwrap();
            ControlFlow::Continue(())
        };
        assert!(export.write(&path, &late).is_err(), "{format}");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert_eq!(folder.count(), 1, "{format}: nothing else is left");
    }
}

#[test]
fn an_export_that_is_stopped_leaves_nothing() {
    let result = result(&["a", "b"]);
    let choice = of(&[OutputKind::Mean], &[6]);
    for format in Format::ALL {
        let folder = Folder::new();
        let export = Export::new(&result, format, &choice).unwrap();
        let asked = Cell::new(0);
        let stop = |progress: plm_export::Progress| {
            assert!(progress.done_bytes <= progress.total_bytes);
            asked.set(asked.get() + 1);
            match progress.done_bytes {
                0 => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        };
        let error = export.write(&folder.path("export"), &stop).unwrap_err();
        assert!(matches!(error, Error::Stopped), "{format}: {error}");
        assert!(!error.is_refusal());
        assert_eq!((asked.get(), folder.count()), (2, 0), "{format}");
    }
}

#[test]
fn progress_ends_with_all_bytes() {
    let result = result(&["a", "b"]);
    for format in Format::ALL {
        let folder = Folder::new();
        let export = Export::new(&result, format, &of(&[OutputKind::Mean], &[0])).unwrap();
        let last = Cell::new(0);
        let watch = |progress: plm_export::Progress| {
            assert_eq!(progress.total_bytes, export.values_bytes());
            last.set(progress.done_bytes);
            ControlFlow::Continue(())
        };
        export.write(&folder.path("export"), &watch).unwrap();
        assert_eq!(last.get(), export.values_bytes(), "{format}");
    }
}

#[test]
fn a_place_that_can_not_be_written_is_an_error_with_the_path() {
    let result = result(&["a"]);
    let choice = of(&[OutputKind::Mean], &[6]);
    for format in Format::ALL {
        let path = Path::new("/no/such/folder/export");
        let error = write(&result, format, &choice, path).unwrap_err();
        assert!(error.to_string().contains("/no/such/folder"), "{error}");
    }
}
