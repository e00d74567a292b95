//! `plm-fleet info`: what something is.

use std::fmt::Write;
use std::path::Path;

use plm_fleet::esm2::{Checkpoint, Gpu, GpuError};
use plm_fleet::{EmbeddingsFile, Error, FastaIndex, RunReport};

use crate::Exit;
use crate::args::InfoArgs;
use crate::commands::show;
use crate::summary;
use crate::words::{count, number};

pub(crate) fn info(args: &InfoArgs) -> Result<Exit, Error> {
    let text = match &args.path {
        None => program()?,
        Some(path) if path.join("config.json").exists() => model(&Checkpoint::open(path)?)?,
        Some(path) if path.join("run.json").exists() => {
            summary::run(&RunReport::of_run(path)?, path)
        }
        Some(path) if path.extension().is_some_and(|extension| extension == "plm") => {
            let index = FastaIndex::load(path)?;
            summary::index(&index, path)
        }
        Some(path) if path.is_dir() => unfinished(path)?,
        Some(path) => embeddings(path)?,
    };
    show(&text);
    Ok(Exit::Done)
}

/// A directory that holds neither a model nor a finished run: one that was only indexed, or one
/// whose run has not come to its end.
fn unfinished(path: &Path) -> Result<String, Error> {
    if path.join("fingerprint.json").exists() {
        return Err(Error::NotFinished {
            path: path.join("run.json"),
        });
    }
    let index = path.join("index.plm");
    if index.exists() {
        return Ok(summary::index(&FastaIndex::load(&index)?, &index));
    }
    Err(Error::NothingKnown {
        path: path.to_owned(),
    })
}

fn program() -> Result<String, Error> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    Ok(format!(
        "plm-fleet {}\n  devices     cpu ({}){}\n  built in    {}",
        plm_fleet::VERSION,
        count(cores, "core"),
        gpus(),
        model(&Checkpoint::plm_tiny())?
    ))
}

/// The GPUs, a line each; or why there are none.
fn gpus() -> String {
    let count = match Gpu::count() {
        Ok(0) => return "; no GPU is visible".to_owned(),
        Err(GpuError::NotBuilt) => return "; this program was built without CUDA".to_owned(),
        Err(error) => return format!("; {error}"),
        Ok(count) => count,
    };
    let describe = |ordinal| match Gpu::open(ordinal) {
        Err(error) => crate::sentence(&error),
        Ok(gpu) => match (gpu.name(), gpu.memory()) {
            (Ok(name), Ok(memory)) => format!(
                "cuda:{ordinal} ({name}, {} of {} GiB free)",
                memory.free_bytes >> 30,
                memory.total_bytes >> 30
            ),
            (Err(error), _) | (_, Err(error)) => format!("cuda:{ordinal} ({error})"),
        },
    };
    (0..count)
        .map(|ordinal| format!("\n              {}", describe(ordinal)))
        .collect()
}

fn model(checkpoint: &Checkpoint) -> Result<String, Error> {
    let config = checkpoint.config();
    Ok(format!(
        "{}: ESM-2, {} layers, hidden size {}, {} heads of {}\n  weights     {}",
        checkpoint.name(),
        config.num_layers,
        number(config.hidden_size as u64),
        config.num_heads,
        config.head_dim(),
        checkpoint.weights_digest()?
    ))
}

fn embeddings(path: &Path) -> Result<String, Error> {
    let file = EmbeddingsFile::open(path)?;
    let provenance = file.provenance();
    let mut text = format!(
        "{}: {} of {}, {}\n  model       {} ({}), layer {}\n  weights     {}\n  pooling     {}, \
         special tokens {}\n  written by  {} {}\n  content     {}",
        path.display(),
        count(file.rows() as u64, "vector"),
        number(file.hidden_size() as u64),
        file.format().dtype(),
        provenance.model,
        provenance.model_dtype,
        provenance.layer,
        provenance.weights_digest,
        provenance.pooling,
        provenance.special_tokens,
        provenance.program,
        provenance.program_version,
        file.content_digest(),
    );
    for input in &provenance.inputs {
        // Writing to a String does not fail.
        let _ = write!(text, "\n  input       {} {}", input.name, input.digest);
    }
    Ok(text)
}
