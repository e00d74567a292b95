//! Runs tests that mount file systems, each in a process with its own mounts.

use std::env;
use std::process::Command;

/// The variable that tells a process that it has its own mounts.
const VARIABLE: &str = "PLM_FLEET_TEST_HAS_MOUNTS";

/// The command that gives a process its own mounts, as root or as any user, or `None` if there is
/// none.
fn unshare() -> Option<&'static [&'static str]> {
    const WAYS: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
    WAYS.into_iter().find(|way| {
        let mounted = Command::new("unshare")
            .args(*way)
            .args(["mount", "-t", "tmpfs", "none", "/tmp"])
            .output();
        mounted.is_ok_and(|mounted| mounted.status.success())
    })
}

/// Whether tests that mount can run.
pub(crate) fn are_possible() -> bool {
    is_alone() || unshare().is_some()
}

fn is_alone() -> bool {
    env::var_os(VARIABLE).is_some()
}

/// Runs a test where no other process sees its mounts: in another process, which is this program
/// with only that test.
pub(crate) fn alone(name: &str, test: impl FnOnce()) {
    if is_alone() {
        return test();
    }
    let way = unshare().expect("the test is ignored if there is no way");
    let status = Command::new("unshare")
        .args(way)
        .arg(env::current_exe().expect("this program has a path"))
        .args(["--exact", name, "--quiet"])
        .env(VARIABLE, "1")
        .status()
        .expect("unshare was there");
    assert!(status.success(), "in a process of its own, {name} failed");
}
