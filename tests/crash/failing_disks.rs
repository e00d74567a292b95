//! Disks are full, broken or read-only. The run ends with an ordinary error and no bad file under a
//! final name, and makes the same bytes when there is room.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::effort::Effort;
use crate::points::{Errno, Fault, Manner};
use crate::scene::Scene;
use crate::subject::{self, Ended, FAILED, How, REFUSED};
use crate::tell;

use plm_fleet::Error;

/// Asserts that a run on a broken disk ended as it should, and tells whether it is finished.
///
/// It may be finished: after a single failure another rank does the work, and a failed log does not
/// fail a run.
fn assert_orderly(scene: &Scene, ended: &Ended) -> bool {
    let code = ended.code();
    scene.assert_sound();
    if code == 0 {
        scene.reference.assert_values(&scene.out());
        return true;
    }
    assert_eq!(code, FAILED, "{}", ended.told);
    let message: Vec<&str> = ended.told.lines().collect();
    let disk = scene.tap.root.to_string_lossy();
    assert!(
        matches!(message[..], [line] if line.starts_with("error: ") && line.contains(&*disk)),
        "one line that names a path: {}",
        ended.told
    );
    false
}

pub(crate) fn operations_that_fail(effort: Effort) {
    let count = Scene::count_operations(How::PLAIN);
    let manners = [
        Manner::FailOn(Errno::NoSpace),
        Manner::Fail(Errno::NoSpace),
        Manner::Fail(Errno::Io),
        Manner::FailOn(Errno::Quota),
        Manner::FailOn(Errno::Io),
        Manner::FailOn(Errno::ReadOnly),
    ];
    let (mut finished, mut failed) = (0, 0);
    for (turn, at) in effort.points(count, 30).into_iter().enumerate() {
        for manner in effort.kinds(&manners, turn) {
            let scene = Scene::new();
            let ended = scene.run(How::PLAIN, Some(Fault { at, manner }));
            if assert_orderly(&scene, &ended) {
                finished += 1;
            } else {
                failed += 1;
            }
            scene.run(How::PLAIN, None).assert_success();
            scene.assert_finished();
        }
    }
    tell(&format!(
        "{} faults in files: {failed} runs failed, {finished} finished all the same",
        failed + finished
    ));
}

pub(crate) fn a_file_system_without_syncs(_: Effort) {
    let without = |errno| {
        Some(Fault {
            at: 0,
            manner: Manner::FailSyncs(errno),
        })
    };
    let scene = Scene::new();
    scene
        .run(How::PLAIN, without(Errno::Invalid))
        .assert_success();
    scene.assert_finished();
    // A broken disk is not a full one.
    let scene = Scene::new();
    fs::create_dir(scene.out()).expect("there is room");
    let ended = scene.run(How::PLAIN, without(Errno::Io));
    assert!(!assert_orderly(&scene, &ended), "it can't be finished");
    assert!(scene.segments().is_empty(), "nothing was durable");
}

pub(crate) fn file_systems_of_any_size(effort: Effort) {
    let scene = Scene::new();
    let step = effort.times(24, 4);
    let (mut failed, mut finished, mut largest) = (0, 0, 0);
    let beginning = beginning();
    for kib in (4_u64..).step_by(step as usize) {
        // The run checks the free space before it computes, so another process fills the rest
        // later.
        mount("size=8m", &scene.tap.root);
        let mut running = scene.start(
            How::PLAIN,
            Some(Fault {
                at: beginning,
                manner: Manner::Stop,
            }),
        );
        assert!(running.wait_for_stop(), "it ended before it began");
        let others = scene.tap.root.join("others");
        let free = plm_fleet::shards::available_bytes(&scene.tap.root).expect("it is mounted");
        let fill = vec![0; free.saturating_sub(kib * 1024) as usize];
        fs::write(&others, fill).expect("there is room for as much");
        running.go_on();
        let ended = running.wait();
        let enough = assert_orderly(&scene, &ended);
        fs::remove_file(&others).expect("it is ours");
        scene.run(How::PLAIN, None).assert_success();
        scene.assert_finished();
        unmount(&scene.tap.root);
        if enough {
            finished += 1;
        } else {
            failed += 1;
            largest = kib;
        }
        // Several tries are made, since chance decides whether logs or segments fill the rest.
        if finished == 3 {
            break;
        }
    }
    assert!(failed > 3, "some are too small");
    tell(&format!(
        "{failed} file systems were too small, of 4 KiB to {largest} KiB, in steps of {step} KiB"
    ));
}

pub(crate) fn a_file_system_that_is_read_only(_effort: Effort) {
    let scene = Scene::new();
    mount("size=64m", &scene.tap.root);
    for at in [0, 1, 100] {
        if at > 0 {
            let fault = Fault {
                at,
                manner: Manner::KillBefore,
            };
            assert!(scene.run(How::PLAIN, Some(fault)).was_killed());
        }
        mount("remount,ro", &scene.tap.root);
        let ended = scene.run(How::PLAIN, None);
        assert!(!assert_orderly(&scene, &ended));
        assert!(ended.told.contains("Read-only"), "{}", ended.told);
        mount("remount,rw", &scene.tap.root);
    }
    scene.run(How::PLAIN, None).assert_success();
    scene.assert_finished();
    unmount(&scene.tap.root);
}

/// The operation after which a run has checked the free space and starts its work. The thread that
/// merges ahead may have made some operations by then, or none: the smallest of several runs
/// counts.
fn beginning() -> u64 {
    const RUNS: usize = 4;
    let of_a_run = || {
        let scene = Scene::new();
        scene.run(How::PLAIN, None).assert_success();
        let operations = scene.tap.operations();
        let log = operations
            .iter()
            .find(|operation| operation.path.ends_with("out/logs/metrics.jsonl"));
        log.expect("there are logs").number
    };
    let numbers = (0..RUNS).map(|_| of_a_run());
    numbers.min().expect("there are runs")
}

pub(crate) fn a_file_system_that_is_too_small(_effort: Effort) {
    let scene = Scene::new();
    for size in ["size=64k", "size=256k"] {
        mount(size, &scene.tap.root);
        let ended = scene.run(How::PLAIN, None);
        assert_eq!(ended.code(), REFUSED, "{}", ended.told);
        assert!(ended.told.contains("are free"), "{}", ended.told);
        scene.assert_sound();
        assert!(scene.segments().is_empty());
        mount("remount,size=64m", &scene.tap.root);
        scene.run(How::PLAIN, None).assert_success();
        scene.assert_finished();
        unmount(&scene.tap.root);
    }
}

/// Runs in this process, since only the files that are left count.
pub(crate) fn a_restart_without_room(_effort: Effort) {
    let scene = Scene::new();
    mount("size=64m", &scene.tap.root);
    scene.run(How::PLAIN, None).assert_success();
    let before = scene.contents();
    let restart = || subject::restart(&scene.inputs, &scene.out(), How::PLAIN);
    let used: u64 = {
        let blocks = |path: &std::path::PathBuf| {
            let file = fs::metadata(path).expect("it is there");
            std::os::unix::fs::MetadataExt::blocks(&file) * 512
        };
        scene.files().iter().map(blocks).sum()
    };
    mount(
        &format!("remount,size={}", used + (64 << 10)),
        &scene.tap.root,
    );
    let refused = restart().expect_err("there is no room, also with all of the run gone");
    assert!(matches!(refused, Error::NoSpace { .. }), "{refused}");
    assert!(refused.is_refusal());
    assert!(
        scene.contents() == before,
        "something was deleted or written"
    );
    // There is room only after the old run is removed.
    let Error::NoSpace {
        needed_bytes,
        available_bytes,
        ..
    } = refused
    else {
        unreachable!("it was looked at");
    };
    let more = needed_bytes - available_bytes + (64 << 10);
    assert!(
        (64 << 10) + more < needed_bytes,
        "else nothing is to be freed"
    );
    mount(
        &format!("remount,size={}", used + (64 << 10) + more),
        &scene.tap.root,
    );
    restart().expect("what is discarded makes room");
    scene.assert_finished();
    unmount(&scene.tap.root);
}

/// Under root, the subject runs as another user, since root may write anywhere.
pub(crate) fn a_directory_without_permission(_effort: Effort) {
    const NOBODY: u32 = 65_534;
    let scene = Scene::new();
    let open = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    };
    open(scene.folder(), 0o755);
    open(&scene.tap.root, 0o555);
    let mut command = subject::command(&scene.inputs, &scene.out(), How::PLAIN);
    let is_root =
        fs::metadata("/proc/self").is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0);
    if is_root {
        command.uid(NOBODY);
    }
    let ended = subject::start(command, &scene.tap, None).wait();
    assert!(!assert_orderly(&scene, &ended));
    assert!(ended.told.contains("Permission denied"), "{}", ended.told);
    open(&scene.tap.root, 0o755);
    scene.run(How::PLAIN, None).assert_success();
    scene.assert_finished();
}

/// Mounts a tmpfs, or changes one.
fn mount(options: &str, place: &Path) {
    // If the source is named, mount does not add the present options when one is changed. The
    // kernel reports some options that it does not accept from a user.
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "none"])
        .arg(place)
        .output()
        .expect("mount is there");
    assert!(mounted.status.success(), "{mounted:?}");
}

fn unmount(place: &Path) {
    let unmounted = Command::new("umount").arg(place).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
}
