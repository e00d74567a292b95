//! Signals to a run that is at work.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Desk;

/// Far longer than the program needs, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A run of a few dozen batches, on one rank.
const EMBED: &str = "embed in.fasta --out out --devices cpu:1 --max-batch-tokens 2048";

fn desk() -> Desk {
    let letters = b"LAGVSERTIDPKQNFYMHWC";
    let record = |row: usize| {
        // All differ, since identical ones would be computed once.
        let letter = |place: usize| match place {
            0 => row / 20,
            place => place * place + row * (place + 7),
        };
        let residues: String = (0..400)
            .map(|place| char::from(letters[letter(place) % 20]))
            .collect();
        format!(">p{row}\n{residues}\n")
    };
    Desk::with((0..200).map(record).collect::<String>())
}

/// A run that has started to compute, and what it says from then on.
struct Running {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Running {
    fn start(desk: &Desk) -> Self {
        // The program that runs the tests may ignore SIGHUP, and its children inherit that.
        Self::start_with(desk, "--default-signal=HUP")
    }

    /// Starts it with `env`, which can set how a signal is handled.
    fn start_with(desk: &Desk, signals: &str) -> Self {
        let mut child = Command::new("env")
            .arg(signals)
            .arg(assert_cmd::cargo::cargo_bin("plm-fleet"))
            .current_dir(desk.path(""))
            .args(EMBED.split_whitespace())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut running = Self { child, stderr };
        running.line_with("on 1 rank");
        running
    }

    /// The next line with these words.
    fn line_with(&mut self, words: &str) -> String {
        let mut line = String::new();
        while self.stderr.read_line(&mut line).unwrap() > 0 {
            if line.contains(words) {
                return line;
            }
            line.clear();
        }
        panic!("it ended without saying {words:?}");
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(
            Command::new("sh")
                .arg("-c")
                .arg(kill)
                .status()
                .unwrap()
                .success()
        );
    }

    /// Waits until something has been computed.
    fn wait_for_vectors(&mut self) {
        loop {
            self.signal("USR1");
            if !self.line_with("elapsed").contains(" 0 of ") {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The exit code, and how long it took to come.
    fn end(mut self) -> (Option<i32>, Duration) {
        let started = Instant::now();
        // The program must not wait for a reader of its output.
        thread::spawn(move || self.stderr.lines().for_each(drop));
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code(), started.elapsed());
            }
            assert!(started.elapsed() < PATIENCE, "it does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn the_first_signal_keeps_what_is_computed_and_the_same_command_goes_on() {
    let desk = desk();
    let whole = desk.run(&EMBED.replace("--out out", "--out whole"));
    assert_eq!(whole.code, Some(0), "{}", whole.stderr);
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129), ("XCPU", 152)] {
        let mut running = Running::start(&desk);
        running.wait_for_vectors();
        running.signal(signal);
        running.line_with("stopping");
        running.line_with("stopped: stopped on request, with ");
        let (ended, took) = running.end();
        assert_eq!(ended, Some(code));
        assert!(took < Duration::from_secs(10), "{took:?}");
        assert!(!desk.path("out/embeddings.h5").exists());
        let segments = fs::read_dir(desk.path("out/shards/rank_00000")).unwrap();
        assert!(segments.count() > 0, "what was computed is there");
    }
    let said = desk.run(EMBED);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        !said.stderr.contains("200 sequences, "),
        "it was not all done again: {}",
        said.stderr
    );
    let embeddings = |out: &str| fs::read(desk.path(out).join("embeddings.h5")).unwrap();
    assert!(embeddings("out") == embeddings("whole"));
}

#[test]
fn the_second_signal_ends_it_at_once() {
    let desk = desk();
    let mut running = Running::start(&desk);
    running.signal("TERM");
    running.line_with("stopping");
    running.signal("INT");
    let (ended, _) = running.end();
    assert!(matches!(ended, Some(130 | 143)), "{ended:?}");
    let said = desk.run("verify out");
    assert_eq!(said.code, Some(1));
}

#[test]
fn a_run_that_waits_for_its_input_says_so_and_hears_signals() {
    let desk = desk();
    let text = fs::read(desk.path("in.fasta")).unwrap();
    let mut running = Running::start(&desk);
    running.wait_for_vectors();
    fs::write(desk.path("in.fasta"), "").unwrap();
    let line = running.line_with("waiting for the input");
    assert!(line.contains("in.fasta changed after it was"), "{line}");
    running.signal("USR1");
    running.line_with("waiting for the input: 1 rank");
    running.signal("TERM");
    let (ended, took) = running.end();
    assert_eq!(ended, Some(143));
    assert!(took < Duration::from_secs(10), "{took:?}");

    // A run whose input comes back goes on by itself.
    fs::write(desk.path("in.fasta"), &text).unwrap();
    let mut running = Running::start(&desk);
    fs::write(desk.path("in.fasta"), "").unwrap();
    running.line_with("waiting for the input");
    fs::write(desk.path("in.fasta"), &text).unwrap();
    running.line_with("the input can be read again");
    assert_eq!(running.end().0, Some(0));
    assert_eq!(desk.run("verify out").code, Some(0));
}

#[test]
fn sigusr1_says_how_far_it_is() {
    let desk = desk();
    let mut running = Running::start(&desk);
    running.signal("USR1");
    let line = running.line_with("elapsed");
    assert!(line.contains(" of 200 sequences"), "{line}");
    running.signal("TERM");
    assert_eq!(running.end().0, Some(143));
}

#[test]
fn a_limit_of_computing_time_that_comes_again_and_again_ends_it_once() {
    let desk = desk();
    let mut running = Running::start(&desk);
    running.wait_for_vectors();
    for _ in 0..3 {
        running.signal("XCPU");
    }
    running.line_with("stopping");
    running.line_with("stopped: stopped on request, with ");
    assert_eq!(running.end().0, Some(152));
}

#[test]
fn under_nohup_a_hangup_is_nothing() {
    let desk = desk();
    let mut running = Running::start_with(&desk, "--ignore-signal=HUP");
    running.wait_for_vectors();
    running.signal("HUP");
    running.signal("USR1");
    running.line_with("elapsed");
    running.signal("HUP");
    running.signal("TERM");
    assert_eq!(
        running.end().0,
        Some(143),
        "it went on, and ended by the other"
    );
}

#[test]
fn a_run_without_a_terminal_says_a_line_every_ten_seconds() {
    let desk = desk();
    let mut running = Running::start(&desk);
    // It is stopped, so it computes nothing meanwhile.
    running.signal("STOP");
    thread::sleep(Duration::from_secs(11));
    running.signal("CONT");
    let line = running.line_with(" elapsed");
    assert!(line.contains(" of 200 sequences"), "{line}");
    running.signal("KILL");
    running.end();
}
