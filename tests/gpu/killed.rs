//! A process is killed in the middle of a run on two GPUs.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use plm_core::{Dtype, EncoderLoader};
use plm_esm2::{Checkpoint, Esm2Loader, RELEASED};
use plm_fleet::{Model, RunConfig, RunReport, SegmentConfig, run_multi_gpu_inference, verify_run};

use crate::runs::{config, write_fasta};

/// The variable that names the folder of a child process's run.
pub(crate) const RUN: &str = "PLM_FLEET_TEST_RUNS_IN";

/// A time far longer than a run takes.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn a_killed_run_ends_with_the_bytes_of_an_unbroken_one() {
    let out = tempfile::tempdir().expect("there is room");
    write_fasta(&out.path().join("proteins.fasta"), 8_000);
    let whole = run_into(out.path(), "whole", "cuda:0");

    let this = env::current_exe().expect("it runs");
    let mut kept = Vec::new();
    for kill in 1..=3 {
        let mut child = Command::new(&this)
            .env(RUN, out.path())
            .spawn()
            .expect("it starts");
        let started = Instant::now();
        while segments(out.path()) < 20 * kill {
            let ended = child.try_wait().expect("it can be asked");
            assert_eq!(ended, None, "it was to be killed before it ended");
            assert!(started.elapsed() < PATIENCE, "it gets nowhere");
            thread::sleep(Duration::from_millis(1));
        }
        child.kill().expect("it can be killed");
        child.wait().expect("it was killed");
        assert!(!out.path().join("killed/embeddings.h5").exists());
        kept.push(segments(out.path()));
    }
    let resumed = run_into(out.path(), "killed", "cuda:0,1");
    let computed: u64 = resumed.workers().map(|worker| worker.sequences).sum();
    println!("killed with {kept:?} segments; {computed} of 8000 were computed in the end");
    assert!(computed < 8_000 - 60 * 64);
    verify_run(out.path().join("killed")).expect("it is whole");
    let bytes = |report: &RunReport| {
        let path = report.embeddings_path.as_ref().expect("it is finished");
        fs::read(path).expect("it is there")
    };
    assert!(bytes(&resumed) == bytes(&whole));
}

/// The process that is killed.
pub(crate) fn run(out: &Path) {
    run_into(out, "killed", "cuda:0,1");
}

fn run_into(out: &Path, to: &str, devices: &str) -> RunReport {
    let ordinals = if devices == "cuda:0" {
        vec![0]
    } else {
        vec![0, 1]
    };
    let checkpoint = Checkpoint::random(&RELEASED[2], 5);
    let loader = Esm2Loader::on_gpus(checkpoint, ordinals, Dtype::Bf16).expect("it can be read");
    let loader: Arc<dyn EncoderLoader> = Arc::new(loader);
    let config = RunConfig {
        store: SegmentConfig::builder()
            .max_rows(64)
            .build()
            .expect("it is a size")
            .into(),
        ..config(devices)
    };
    let fasta = out.join("proteins.fasta");
    run_multi_gpu_inference([fasta], &Model::Loader(loader), out.join(to), &config)
        .expect("it runs")
}

/// The segments that exist.
fn segments(out: &Path) -> usize {
    let count = |rank: u32| {
        let directory = out.join(format!("killed/shards/rank_{rank:05}"));
        let names = fs::read_dir(directory).into_iter().flatten().flatten();
        names
            .filter(|entry| entry.path().extension().is_some_and(|end| end == "plmseg"))
            .count()
    };
    count(0) + count(1)
}
