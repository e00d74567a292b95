//! The power is cut at any operation, and the file system keeps only what it must. The run resumes
//! all the same.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use plm_testkit::SplitMix64;

use crate::disk::{Cut, cut_power};
use crate::effort::Effort;
use crate::points::{Fault, Kind, Manner, Operation};
use crate::scene::Scene;
use crate::subject::How;
use crate::tell;

/// One of each kind of cut.
fn cuts(seed: u64) -> [Cut; 5] {
    [
        Cut::Lost,
        Cut::NamesStay,
        Cut::Zeros,
        Cut::Coins(seed),
        Cut::Coins(!seed),
    ]
}

/// The log has all operations: doing them again makes the same files.
pub(crate) fn the_disk_is_known(_effort: Effort) {
    let scene = Scene::new();
    let half = Scene::count_operations(How::PLAIN) / 2;
    let kill = Fault {
        at: half,
        manner: Manner::KillHalf,
    };
    for fault in [Some(kill), None] {
        scene.run(How::PLAIN, fault);
        let there = scene.contents();
        assert_all_was_told(&scene, &there);
        cut_power(&scene.tap, Cut::Kept);
        let again = scene.contents();
        assert!(there.keys().eq(again.keys()));
        for (path, bytes) in &there {
            assert!(again[path] == *bytes, "{}", path.display());
        }
    }
    scene.assert_finished();
}

/// Asserts that every byte of every file comes from a logged write.
fn assert_all_was_told(scene: &Scene, contents: &BTreeMap<PathBuf, Vec<u8>>) {
    let operations = scene.tap.operations();
    for (path, bytes) in contents {
        let inode = fs::metadata(path).expect("it is there").ino();
        let mut untold = bytes.clone();
        let of_this_file = |operation: &&Operation| operation.inode == inode;
        for operation in operations.iter().filter(of_this_file) {
            if let Kind::Write { offset, length } = operation.kind {
                let end = untold.len().min((offset + length) as usize);
                untold[end.min(offset as usize)..end].fill(0);
            }
        }
        let is_new = operations
            .iter()
            .filter(of_this_file)
            .any(|operation| operation.kind == Kind::Create);
        assert!(
            !is_new || untold.iter().all(|&byte| byte == 0),
            "{} holds what no write has put there",
            path.display()
        );
    }
}

/// Kills a run at an operation, and cuts the power there. In every other case two tries are killed
/// before the cut, so the second must sync what the first left unsynced.
pub(crate) fn power_is_cut_at_any_operation(effort: Effort) {
    let count = Scene::count_operations(How::PLAIN);
    let mut cases = 0;
    let mut most_lost = 0;
    for (turn, at) in effort.points(count, 16).into_iter().enumerate() {
        for cut in effort.kinds(&cuts(at), turn) {
            let scene = Scene::new();
            let mut random = SplitMix64::new(at ^ (turn as u64) << 20);
            let fault = |at, manner| Some(Fault { at, manner });
            scene.run(How::PLAIN, fault(at, Manner::KillAfter));
            if random.below(2) == 0 {
                let again = 1 + random.below(count - at + 1);
                scene.run(How::PLAIN, fault(again, Manner::KillHalf));
            }
            let segments = Named::count(&scene);
            cut_power(&scene.tap, cut);
            scene.assert_sound();
            most_lost = most_lost.max(segments.assert_kept(&scene));
            scene.run(How::PLAIN, None).assert_success();
            scene.assert_finished();
            cases += 1;
        }
    }
    tell(&format!(
        "the power was cut {cases} times; at most {most_lost} segments were lost; a run takes {count} operations"
    ));
}

/// A run that reports its end is durable, even if the last try only found what earlier tries had
/// left unsynced.
pub(crate) fn power_is_cut_after_the_end(effort: Effort) {
    let merge = How::part(0, 0);
    let parts = [How::part(0, 2), How::part(1, 2)];
    for (before, last) in [(&[][..], How::PLAIN), (&parts[..], merge)] {
        let scene = Scene::new();
        let run_before = |scene: &Scene| {
            for &how in before {
                scene.run(how, None).assert_success();
            }
        };
        run_before(&scene);
        scene.run(last, None).assert_success();
        let count = scene
            .tap
            .operations()
            .last()
            .expect("it makes files")
            .number;
        // Most errors would show near the end. The very last try is not killed before.
        for at in count - effort.times(6, count - 1)..=count + 1 {
            let scene = Scene::new();
            run_before(&scene);
            if at <= count {
                let manner = Manner::KillBefore;
                scene.run(last, Some(Fault { at, manner }));
            }
            scene.run(last, None).assert_success();
            cut_power(&scene.tap, Cut::Lost);
            // A removed file may be back until it is removed again.
            scene.assert_whole();
            scene.run(last, None).assert_success();
            scene.assert_finished();
        }
    }
}

/// The segments that got their names, by try and rank, in order.
struct Named(BTreeMap<(u32, PathBuf), Vec<PathBuf>>);

impl Named {
    fn count(scene: &Scene) -> Self {
        let mut named: BTreeMap<_, Vec<PathBuf>> = BTreeMap::new();
        let (mut tries, mut last_number) = (0, u64::MAX);
        for operation in scene.tap.operations() {
            tries += u32::from(operation.number < last_number);
            last_number = operation.number;
            let Kind::Rename { to } = operation.kind else {
                continue;
            };
            if is_segment(&to) {
                let rank = to.parent().expect("it is in a directory").to_owned();
                named.entry((tries, rank)).or_default().push(to);
            }
        }
        Self(named)
    }

    /// Asserts that each rank of each try has lost at most its last segment, and gives the number
    /// of lost ones.
    fn assert_kept(&self, scene: &Scene) -> usize {
        let there = scene.segments();
        let mut all_lost = 0;
        for named in self.0.values() {
            let mut lost = named.iter().filter(|path| !there.contains(path));
            let first = lost.next();
            assert!(
                lost.next().is_none() && first.is_none_or(|path| named.last() == Some(path)),
                "a segment that was followed by another is lost: {first:?}"
            );
            all_lost += usize::from(first.is_some());
        }
        all_lost
    }
}

fn is_segment(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("segment_") && name.ends_with(".plmseg")
}
