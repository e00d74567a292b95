//! Two processes on one directory.

use std::fs;

use crate::effort::Effort;
use crate::points::{Fault, Kind, Manner};
use crate::scene::Scene;
use crate::subject::{How, REFUSED, Running};

/// A run that was stopped in the middle of its work, and holds the lock.
fn stopped_in_the_middle(scene: &Scene, how: How, at: u64) -> Running {
    let mut running = scene.start(
        how,
        Some(Fault {
            at,
            manner: Manner::Stop,
        }),
    );
    assert!(running.wait_for_stop(), "it ended before operation {at}");
    running
}

/// An operation in the middle of a run's work: a segment is about to get its name.
fn middle(how: How) -> u64 {
    let scene = Scene::new();
    scene.run(how, None).assert_success();
    let operations = scene.tap.operations();
    let renamed = operations.iter().filter(|operation| {
        matches!(&operation.kind, Kind::Rename { to } if to.extension().is_some_and(|extension| extension == "plmseg"))
    });
    let numbers: Vec<u64> = renamed.map(|operation| operation.number).collect();
    numbers[numbers.len() / 2]
}

pub(crate) fn the_second_is_refused_and_the_first_finishes(_effort: Effort) {
    for how in [How::PLAIN, How::part(1, 2)] {
        let scene = Scene::new();
        let first = stopped_in_the_middle(&scene, how, middle(how));
        let second = scene.run(how, None);
        assert_eq!(second.code(), REFUSED, "{}", second.told);
        let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux has it");
        let holder = format!("process {} on {}", first.process(), host.trim());
        assert!(second.told.contains(&holder), "{}", second.told);

        first.go_on();
        first.wait().assert_success();
        if how.part != How::PLAIN.part {
            scene.run(How::part(0, 2), None).assert_success();
            scene.run(How::part(0, 0), None).assert_success();
        }
        scene.assert_finished();
    }
}

pub(crate) fn a_killed_holder_holds_nothing(_effort: Effort) {
    let scene = Scene::new();
    let first = stopped_in_the_middle(&scene, How::PLAIN, middle(How::PLAIN));
    assert!(first.kill().was_killed());
    scene.run(How::PLAIN, None).assert_success();
    scene.assert_finished();
}

pub(crate) fn two_parts_work_at_once(_effort: Effort) {
    let scene = Scene::new();
    let first = stopped_in_the_middle(&scene, How::part(0, 2), middle(How::part(0, 2)));
    scene.run(How::part(1, 2), None).assert_success();
    let early = scene.run(How::part(0, 0), None);
    assert_ne!(early.code(), 0, "part 1 is not done");
    first.go_on();
    first.wait().assert_success();
    scene.run(How::part(0, 0), None).assert_success();
    scene.assert_finished();
}

/// Two runs start at the same instant in a directory that does not exist yet. Both finish, one
/// after the other, or one is refused. Two parts of one run are never refused.
pub(crate) fn two_start_at_the_same_instant(effort: Effort) {
    for turn in 0..effort.times(20, 200) {
        let scene = Scene::new();
        let hows = match turn % 4 {
            0 => [How::part(0, 2), How::part(1, 2)],
            _ => [How::PLAIN; 2],
        };
        let running = hows.map(|how| scene.start(how, None));
        let codes = running.map(|running| {
            let ended = running.wait();
            let code = ended.code();
            assert!(
                code == 0 || code == REFUSED && ended.told.contains(" is in use by "),
                "{}",
                ended.told
            );
            code
        });
        if turn % 4 == 0 {
            assert_eq!(codes, [0, 0]);
            scene.run(How::part(0, 0), None).assert_success();
        } else {
            assert!(codes.contains(&0), "{codes:?}");
        }
        scene.assert_finished();
    }
}
