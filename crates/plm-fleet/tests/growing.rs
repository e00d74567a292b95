//! An input grows while it is embedded.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use plm_fleet::{
    Devices, Model, Observer, RunConfig, RunEvent, run_multi_gpu_inference, verify_run,
};

/// Adds a record to a file when the ranks start.
struct Writer(PathBuf);

impl Observer for Writer {
    fn event(&self, event: &RunEvent<'_>) {
        if matches!(event, RunEvent::Started { .. }) {
            let mut file = File::options().append(true).open(&self.0).unwrap();
            file.write_all(b">late\nMKVL\n").unwrap();
        }
    }
}

#[test]
fn an_input_that_grows_during_a_run_is_named_in_the_report() {
    let scratch = tempfile::tempdir().unwrap();
    let [still, growing] = ["still.fasta", "growing.fasta"].map(|name| scratch.path().join(name));
    fs::write(&still, ">a\nMKV\n").unwrap();
    fs::write(&growing, ">b\nMKL\n").unwrap();
    let out = scratch.path().join("out");
    let run = |config: &RunConfig| {
        run_multi_gpu_inference([&still, &growing], &Model::PlmTiny, &out, config).unwrap()
    };
    let report = run(&RunConfig {
        devices: Devices::CPU,
        observer: Arc::new(Writer(growing.clone())),
        ..RunConfig::default()
    });
    assert_eq!(report.sequences(), 2);
    assert_eq!(report.changed_inputs, [growing.display().to_string()]);
    verify_run(&out).unwrap();
}
