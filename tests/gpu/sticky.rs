//! Errors after which a process can't use CUDA any more.
//!
//! The driver treats some errors of kernels as fatal for the process. On two H100s (driver 580),
//! such an error on one GPU also breaks the other's context. So it may end a run, which the next
//! process resumes.

use std::env;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use plm_core::{
    BoxError, Dtype, EncodedBatch, Encoder, EncoderLoader, EncoderSpec, PackedBatch, Rank, RowId,
    Ticket,
};
use plm_esm2::{Checkpoint, Esm2Loader, Gpu, RELEASED};
use plm_fleet::{Error, Model, run_multi_gpu_inference};

use crate::runs::{Fault, config, run_thousand, vectors, write_thousand};

/// The variable that names the folder in which a child process runs and breaks.
pub(crate) const BREAK: &str = "PLM_FLEET_TEST_BREAKS_IN";

pub(crate) fn a_run_that_a_sticky_error_ended_goes_on() {
    let out = tempfile::tempdir().expect("there is room");
    write_thousand(out.path());
    let told = another_process(BREAK, out.path());
    assert!(
        told.contains("CUDA_ERROR") && told.contains("rank 1"),
        "{told}"
    );

    let went_on = run_thousand(out.path(), "broken", &[0, 1], None).expect("it goes on");
    let whole = run_thousand(out.path(), "whole", &[0], None).expect("it runs");
    assert_eq!(vectors(&went_on), vectors(&whole));
}

/// The output of this program as a child process that does something else.
fn another_process(variable: &str, out: &Path) -> String {
    let this = env::current_exe().expect("it runs");
    let ended = Command::new(this)
        .env(variable, out)
        .output()
        .expect("it starts");
    let told = String::from_utf8_lossy(&ended.stdout).into_owned();
    println!("{told}");
    assert!(ended.status.success(), "{ended:?}");
    told
}

/// Runs until the second GPU breaks, and tells how the run ends.
pub(crate) fn run_and_break(out: &Path) {
    let fault = Fault {
        ranks: &[1],
        happens: || break_gpu(1),
    };
    match run_thousand(out, "broken", &[0, 1], Some(fault)) {
        Ok(report) => println!("finished all the same; {}", report.failed_ranks[0]),
        Err(Error::Coordinator(error)) => {
            let report = error.report().expect("the ranks had begun");
            report.failures().for_each(|failure| println!("{failure}"));
        }
        Err(error) => println!("{error}"),
    }
}

/// The variable that names the folder in which a child process, and those that replace it, run over
/// a sequence that breaks GPUs.
pub(crate) const POISON: &str = "PLM_FLEET_TEST_POISON_IN";

/// The row of the sequence that breaks GPUs.
const POISON_ROW: RowId = RowId(500);

pub(crate) fn a_sequence_that_breaks_gpus_fails_alone() {
    let out = tempfile::tempdir().expect("there is room");
    write_thousand(out.path());
    let told = another_process(POISON, out.path());
    // The tries have the sequence in its batch, alone, and alone again. The last is without it.
    assert_eq!(told.matches("CUDA_ERROR").count(), 3, "{told}");
    let ledger = out.path().join("poisoned/ledger.tsv");
    let ledger = fs::read_to_string(ledger).expect("it is finished");
    let failed: Vec<&str> = ledger
        .lines()
        .filter(|line| line.contains("\tfailed\t"))
        .collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(
        failed[0].starts_with("500\tprotein_500\t")
            && failed[0].contains("2 tries ended at it alone"),
        "{}",
        failed[0]
    );
}

/// Runs over a sequence that breaks GPUs. If that ends the run, another process replaces this one.
pub(crate) fn run_with_poison(out: &Path) {
    let gpu = Gpu::open(0).expect("it is there");
    let free_gib = gpu.memory().expect("it has some").free_bytes >> 30;
    let checkpoint = Checkpoint::random(&RELEASED[2], 5);
    let loader = Esm2Loader::on_gpus(checkpoint, vec![0], Dtype::Bf16).expect("it can be read");
    let loader: Arc<dyn EncoderLoader> = Arc::new(Poisoned(loader));
    let ended = run_multi_gpu_inference(
        [out.join("proteins.fasta")],
        &Model::Loader(loader),
        out.join("poisoned"),
        &config("cuda:0"),
    );
    match ended {
        Ok(report) => println!("{free_gib} GiB free: {:?}", report.records),
        Err(Error::Coordinator(error)) => {
            let report = error.report().expect("the ranks had begun");
            assert!(!report.suspects.is_empty());
            println!("{free_gib} GiB free: {error}");
            let this = env::current_exe().expect("it runs");
            let refused = Command::new(this).env(POISON, out).exec();
            panic!("{refused}");
        }
        Err(error) => panic!("{error}"),
    }
}

/// Breaks the GPU at [`POISON_ROW`].
struct Poisoned(Esm2Loader);

struct PoisonedEncoder<'a>(Box<dyn Encoder + 'a>);

impl EncoderLoader for Poisoned {
    fn spec(&self) -> &EncoderSpec {
        self.0.spec()
    }

    fn load(&self, rank: Rank) -> Result<Box<dyn Encoder + '_>, BoxError> {
        Ok(Box::new(PoisonedEncoder(self.0.load(rank)?)))
    }
}

impl Encoder for PoisonedEncoder<'_> {
    fn submit(&mut self, batch: &Arc<PackedBatch>) -> Ticket {
        self.0.submit(batch)
    }

    fn finish(&mut self, ticket: Ticket) -> Result<EncodedBatch, BoxError> {
        let mut rows = ticket
            .batch()
            .sequences()
            .iter()
            .map(|sequence| sequence.row);
        if rows.any(|row| row == POISON_ROW) {
            break_gpu(0)?;
        }
        self.0.finish(ticket)
    }
}

/// Runs a kernel that traps.
#[allow(unsafe_code, reason = "kernels are launched by pointer")]
fn break_gpu(ordinal: usize) -> Result<(), BoxError> {
    use candle_core::cuda_backend::cudarc::driver::LaunchConfig;
    use candle_core::{CudaDevice, backend::BackendDevice};

    const TRAP: &str =
        ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry trap_here() { trap; }";

    let gpu = CudaDevice::new(ordinal)?;
    let trap = gpu.get_or_load_custom_func("trap_here", "trap", TRAP)?;
    // SAFETY: the kernel takes no arguments and touches no memory. It is meant to fail.
    unsafe { trap.builder().launch(LaunchConfig::for_num_elems(1)) }?;
    // The next call to the GPU shows the error.
    Ok(())
}
