//! The input changes in place between two tries, and its time is set back.

use std::fs::{self, File};
use std::path::PathBuf;

use crate::effort::Effort;
use crate::points::{Fault, Kind, Manner};
use crate::reference::fasta;
use crate::scene::Scene;
use crate::subject::{How, REFUSED};

/// A run with its own inputs. A test may change the first of them.
struct Fickle {
    scene: Scene,
    original: Vec<u8>,
}

/// How many records the first input has.
const PLAIN_RECORDS: usize = 40;

impl Fickle {
    /// A run that stops when it names its first segment.
    fn new() -> (Self, Fault) {
        let scene = Scene::with_own_inputs();
        let counted = Scene::new();
        counted.run(Self::HOW, None).assert_success();
        let operations = counted.tap.operations();
        let first = operations.iter().find(|operation| {
            matches!(&operation.kind, Kind::Rename { to } if to.to_string_lossy().contains("segment_"))
        });
        let at = first.expect("it writes segments").number;
        let original = fs::read(&scene.inputs[0]).expect("it is there");
        (
            Self { scene, original },
            Fault {
                at,
                manner: Manner::Stop,
            },
        )
    }

    /// Settings with one rank and small batches, so much is yet to be read when the first segment
    /// exists.
    const HOW: How = How {
        ranks: 1,
        batch_tokens: 60,
        segment_rows: 1,
        ..How::PLAIN
    };

    fn input(&self) -> &PathBuf {
        &self.scene.inputs[0]
    }

    /// Writes other content of the same size, and sets the time back.
    fn change(&self, content: &[u8]) {
        let modified = fs::metadata(self.input()).and_then(|found| found.modified());
        fs::write(self.input(), content).expect("there is room");
        File::options()
            .write(true)
            .open(self.input())
            .and_then(|file| file.set_modified(modified?))
            .expect("it is ours");
    }

    /// Gives every record the residues of another of its size, or its own reversed.
    fn other_content(&self) -> Vec<u8> {
        let records = &self.scene.reference.records[..PLAIN_RECORDS];
        let reversed: Vec<(String, String)> = records
            .iter()
            .map(|record| (record.id.clone(), record.residues.chars().rev().collect()))
            .collect();
        let text = fasta(reversed.iter().map(|(id, residues)| (&**id, &**residues)));
        assert_eq!(text.len(), self.original.len());
        text.into_bytes()
    }
}

pub(crate) fn between_two_tries(_effort: Effort) {
    let (fickle, stop) = Fickle::new();
    let kill = Fault {
        manner: Manner::KillAfter,
        ..stop
    };
    assert!(fickle.scene.run(Fickle::HOW, Some(kill)).was_killed());
    fickle.change(&fickle.other_content());
    let before = fickle.scene.contents();
    let refused = fickle.scene.run(Fickle::HOW, None);
    assert_eq!(refused.code(), REFUSED, "{}", refused.told);
    let claim = fickle.scene.out().join("fingerprint.json");
    assert!(
        refused.told.contains(&*claim.to_string_lossy()),
        "{}",
        refused.told
    );
    assert!(fickle.scene.contents() == before, "the run is as it was");

    fickle.change(&fickle.original);
    fickle.scene.run(Fickle::HOW, None).assert_success();
    fickle.scene.reference.assert_values(&fickle.scene.out());
}
