//! Inputs can't be read, for a while or for good. No record fails, nothing incomplete is published,
//! and the same command makes the bytes of an undisturbed run.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::effort::Effort;
use crate::points::{Errno, Fault, Manner, ReadFault, ReadManner};
use crate::reference::fasta;
use crate::scene::Scene;
use crate::subject::{self, Ended, FAILED, How, Running};
use crate::tell;

/// A run whose inputs are in their own folder.
struct Reading {
    scene: Scene,
    originals: Vec<(PathBuf, Vec<u8>)>,
}

impl Reading {
    fn new() -> Self {
        let scene = Scene::with_own_inputs();
        let read = |path: &PathBuf| {
            let content = fs::read(path).expect("it is there");
            (path.clone(), content)
        };
        let originals = scene.inputs.iter().map(read).collect();
        Self { scene, originals }
    }

    /// A run of a plain file.
    fn plain(&self) -> &Path {
        &self.originals[0].0
    }

    /// The folder with the unpacked texts of compressed files.
    fn unpacked(&self) -> PathBuf {
        self.scene.out().join("inputs")
    }

    fn start(&self, how: How, fault: Option<ReadFault>, stop: Option<Fault>) -> Running {
        let scene = &self.scene;
        let mut command = subject::command(&scene.inputs, &scene.out(), how);
        let inputs = [scene.input_folder(), self.unpacked()];
        scene.tap.watch_reads(&mut command, &inputs, fault);
        subject::start(command, &scene.tap, stop)
    }

    /// How many reads such a run takes.
    fn count(how: How) -> u64 {
        let reading = Self::new();
        reading.start(how, None, None).wait().assert_success();
        let count = reading.scene.tap.reads();
        let records = reading.scene.reference.records.len() as u64;
        assert!(count >= records / 2, "only {count} reads were seen");
        count
    }

    /// Asserts that a run ended because of its input, that nothing was published and no record
    /// failed, and that the same command resumes.
    fn assert_goes_on(&self, ended: &Ended, how: How) {
        assert_eq!(ended.code(), FAILED, "{}", ended.told);
        let message: Vec<&str> = ended.told.lines().collect();
        assert!(
            matches!(message[..], [line] if line.starts_with("error: record ") && line.contains("could not be read")),
            "one line that says so: {}",
            ended.told
        );
        self.scene.assert_sound();
        for file in self.scene.files() {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let published = ["embeddings.h5", "ledger.tsv", "run.json", "part.json"];
            assert!(!published.contains(&&*name), "{name} is there");
            if name == "metrics.jsonl" {
                let lines = fs::read_to_string(&file).expect("it is there");
                assert!(!lines.contains("row_failed"), "{lines}");
            }
            assert_ne!(name, "suspects.json", "no record is suspected");
        }
        let durable = self.scene.durable_rows();
        let ends = self.scene.log_ends();
        self.scene.run(how, None).assert_success();
        let total = self.scene.reference.records.len() as u64;
        if how.part == How::PLAIN.part {
            let written = self.scene.progress_since(&ends).written_rows;
            assert_eq!(written, total - durable, "rows that were not durable");
        }
    }

    fn assert_finished(&self, how: How) {
        if how.part != How::PLAIN.part {
            for part in [How::part(1 - how.part.0, 2), How::part(0, 0)] {
                self.scene.run(part, None).assert_success();
            }
        }
        self.scene.assert_finished();
    }

    /// Restores the input.
    fn mend(&self) {
        let folder = self.scene.input_folder();
        if !folder.exists() {
            fs::rename(self.scene.folder().join("away"), &folder).expect("it is ours");
        }
        for (path, content) in &self.originals {
            if fs::read(path).is_ok_and(|found| found == *content) {
                continue;
            }
            // The copy is made in two steps, so a reader meets half of the file.
            let (first, rest) = content.split_at(content.len() / 2);
            fs::write(path, first).expect("there is room");
            thread::sleep(Duration::from_millis(30));
            fs::write(path, [first, rest].concat()).expect("there is room");
        }
    }

    /// Waits until a rank waits for its input.
    fn wait_for_wait(&self) {
        let metrics = self.scene.out().join("logs/metrics.jsonl");
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(60) {
            let lines = fs::read_to_string(&metrics).unwrap_or_default();
            let events = lines
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if events
                .into_iter()
                .any(|event| event["event"] == "input_wait")
            {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("nobody waits for the input");
    }
}

/// Settings for one part in every fourth turn, else for the whole run.
fn how(turn: usize) -> How {
    match turn % 4 {
        3 => How::part(1, 2),
        2 => How {
            ranks: 1,
            ..How::PLAIN
        },
        _ => How::PLAIN,
    }
}

pub(crate) fn reads_that_fail_for_good(effort: Effort) {
    let errors = [Errno::Stale, Errno::Io, Errno::Access];
    let (mut failed, mut finished) = (0, 0);
    let points = effort.points(Reading::count(How::PLAIN), 12);
    for (turn, at) in points.into_iter().enumerate() {
        for errno in effort.kinds(&errors, turn) {
            let (reading, how) = (Reading::new(), how(turn));
            let manner = ReadManner::All(errno);
            let fault = Some(ReadFault { at, manner });
            let ended = reading.start(how, fault, None).wait();
            // A part has fewer reads than the whole run.
            if ended.code() == 0 {
                assert!(reading.scene.tap.reads() < at, "{}", ended.told);
                finished += 1;
            } else {
                reading.assert_goes_on(&ended, how);
                failed += 1;
            }
            reading.assert_finished(how);
        }
    }
    assert!(failed > finished, "{failed} failed and {finished} finished");
    tell(&format!(
        "reads failed for good {} times: {failed} runs ended for it and went on, {finished} had \
         read all before",
        failed + finished
    ));
}

pub(crate) fn reads_that_fail_for_a_while(effort: Effort) {
    let manners = [
        ReadManner::Some(1, Errno::Stale),
        ReadManner::OfOpenFiles,
        ReadManner::Some(4, Errno::Io),
        ReadManner::Some(6, Errno::Access),
    ];
    let mut count = 0;
    let points = effort.points(Reading::count(How::PLAIN), 12);
    for (turn, at) in points.into_iter().enumerate() {
        // The choice differs for each kind of run.
        for manner in effort.kinds(&manners, turn + turn / 4) {
            let how = How {
                patience: How::PATIENT,
                ..how(turn)
            };
            let reading = Reading::new();
            let fault = Some(ReadFault { at, manner });
            reading.start(how, fault, None).wait().assert_success();
            reading.assert_finished(how);
            count += 1;
        }
    }
    tell(&format!(
        "reads failed for a while {count} times: all runs ended undisturbed"
    ));
}

/// What happens to the input while a run works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Replaced,
    CutShort,
    Emptied,
    Removed,
    FolderMoved,
}

impl Change {
    const ALL: [Self; 5] = [
        Self::Emptied,
        Self::FolderMoved,
        Self::Replaced,
        Self::Removed,
        Self::CutShort,
    ];

    /// The input is changed in place, and its time is set back.
    fn make(self, reading: &Reading) {
        let path = reading.plain();
        let modified = fs::metadata(path).and_then(|found| found.modified());
        let content = &reading.originals[0].1;
        match self {
            Self::Replaced => {
                let records = &reading.scene.reference.records[..40];
                let reversed: Vec<(String, String)> = records
                    .iter()
                    .map(|record| (record.id.clone(), record.residues.chars().rev().collect()))
                    .collect();
                let other = fasta(reversed.iter().map(|(id, residues)| (&**id, &**residues)));
                assert_eq!(other.len(), content.len());
                fs::write(path, other).expect("there is room");
            }
            Self::CutShort => fs::write(path, &content[..content.len() / 3]).expect("it is ours"),
            Self::Emptied => fs::write(path, "").expect("it is ours"),
            Self::Removed => fs::remove_file(path).expect("it is ours"),
            Self::FolderMoved => {
                let away = reading.scene.folder().join("away");
                fs::rename(reading.scene.input_folder(), away).expect("it is ours");
            }
        }
        if let Ok(file) = fs::File::options().write(true).open(path) {
            file.set_modified(modified.expect("it was there"))
                .expect("it is ours");
        }
    }

    /// The operation before which it happens. Open files can be read whatever happens to their
    /// names.
    fn is_before_any_is_read(self) -> bool {
        matches!(self, Self::Removed | Self::FolderMoved)
    }
}

/// The operations at which a run's ranks start, and at which it names its first segment.
fn points(how: How) -> [u64; 2] {
    let scene = Scene::new();
    scene.run(how, None).assert_success();
    let operations = scene.tap.operations();
    let number = |is_it: &dyn Fn(&Path) -> bool| {
        let found = operations.iter().find(|operation| is_it(&operation.path));
        found.expect("every run does that").number
    };
    [
        number(&|path| path.ends_with("metrics.jsonl")),
        number(&|path| path.to_string_lossy().contains("segment_")),
    ]
}

/// Settings with small batches, so much is yet to be read when the first segment exists.
const CHANGED: How = How {
    ranks: 1,
    batch_tokens: 60,
    segment_rows: 1,
    ..How::PLAIN
};

pub(crate) fn inputs_that_change_under_a_run(effort: Effort) {
    let [beginning, first_segment] = points(CHANGED);
    for turn in 0..effort.times(1, 4) {
        let how = How {
            ranks: 1 + turn % 3,
            ..CHANGED
        };
        for change in Change::ALL {
            for comes_back in [true, false] {
                let reading = Reading::new();
                // Several ranks may have read everything before the first segment exists.
                let at = if change.is_before_any_is_read() || how.ranks > 1 {
                    beginning
                } else {
                    first_segment
                };
                let stop = Fault {
                    at,
                    manner: Manner::Stop,
                };
                let patience = if comes_back {
                    How::PATIENT
                } else {
                    how.patience
                };
                let mut running = reading.start(How { patience, ..how }, None, Some(stop));
                assert!(running.wait_for_stop(), "it ended before operation {at}");
                change.make(&reading);
                running.go_on();
                if comes_back {
                    reading.wait_for_wait();
                    reading.mend();
                    running.wait().assert_success();
                } else {
                    let ended = running.wait();
                    let input = reading.plain().to_string_lossy();
                    assert!(ended.told.contains(&*input), "{change:?}: {}", ended.told);
                    reading.mend();
                    reading.assert_goes_on(&ended, how);
                }
                reading.assert_finished(how);
            }
        }
    }
}

pub(crate) fn unpacked_texts_that_vanish(_effort: Effort) {
    let [beginning, _] = points(CHANGED);
    let reading = Reading::new();
    let stop = Fault {
        at: beginning,
        manner: Manner::Stop,
    };
    let mut running = reading.start(CHANGED, None, Some(stop));
    assert!(running.wait_for_stop());
    fs::remove_dir_all(reading.unpacked()).expect("it is ours");
    running.go_on();
    let ended = running.wait();
    reading.assert_goes_on(&ended, CHANGED);
    reading.assert_finished(CHANGED);
}
