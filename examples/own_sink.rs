//! Runs plm-fleet with its own sink: every vector becomes a line of text, without HDF5.
//!
//!     cargo run --release --example own_sink -- proteins.fasta.gz OUT
//! A run of the facade resumes and ends in one verified result, so it needs a whole store
//! (docs/adding-a-store.md). A program that only takes columns can use the coordinator itself, as
//! this example does: an index, a model and a plan go in, and lines come out.
#![expect(clippy::print_stdout, reason = "examples talk to people")]

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plm_coordinator::{BatchPlan, PlanConfig, RunOptions};
use plm_core::{
    BoxError, Dtype, EmbeddedBatch, EmbeddingSink, EncoderLoader, Rank, ShardWriter, WorldSize,
    Written,
};
use plm_esm2::{Checkpoint, CpuOptions, Esm2Loader};
use plm_index::{FastaIndex, IndexConfig, Input};

/// Writes one file of lines for each rank: `row`, `id` and the values, tab-separated.
struct LineSink {
    directory: PathBuf,
}

/// The file of one rank. Lines are durable after they are synced. Until then they are `Buffered`,
/// so the coordinator lets them be computed again if this rank fails.
struct LineWriter {
    file: BufWriter<File>,
}

impl EmbeddingSink for LineSink {
    fn open_shard(&self, rank: Rank) -> Result<Box<dyn ShardWriter + '_>, BoxError> {
        let path = self.directory.join(format!("rank_{:05}.tsv", rank.0));
        Ok(Box::new(LineWriter {
            file: BufWriter::new(File::create(path)?),
        }))
    }
}

impl ShardWriter for LineWriter {
    fn write(&mut self, batch: EmbeddedBatch) -> Result<Written, BoxError> {
        // There is one column for each output, and the model was asked for one.
        let column = &batch.columns[0];
        for (place, row) in batch.rows.iter().enumerate() {
            write!(self.file, "{}\t{}", row.row.0, row.id)?;
            for value in column.sequence(place) {
                write!(self.file, "\t{value}")?;
            }
            writeln!(self.file)?;
        }
        Ok(Written::Buffered)
    }

    fn flush(&mut self) -> Result<(), BoxError> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        Ok(())
    }
}

fn embed(fasta: &str, out: &Path) -> Result<u64, BoxError> {
    fs::create_dir_all(out)?;
    let index = FastaIndex::build(&[Input::from(fasta)], out, &IndexConfig::default())?;
    let world = WorldSize::new(2)?;
    let loader = Esm2Loader::new(
        Checkpoint::plm_tiny(),
        CpuOptions::all_cores(NonZeroUsize::new(2).ok_or("two is not zero")?),
        Dtype::F32,
    )?;
    let plan = BatchPlan::new(&index, &loader.spec().tokens, &PlanConfig::default())?;
    let report = plm_coordinator::run(
        Arc::new(index),
        Arc::new(loader),
        Arc::new(LineSink {
            directory: out.to_owned(),
        }),
        RunOptions::new(Arc::new(plan), world),
    )?;
    Ok(report.workers.iter().map(|worker| worker.sequences).sum())
}

fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args().skip(1);
    let (Some(fasta), Some(out)) = (arguments.next(), arguments.next()) else {
        return Err("usage: own_sink FASTA OUT".into());
    };
    println!("{} lines", embed(&fasta, Path::new(&out))?);
    Ok(())
}
