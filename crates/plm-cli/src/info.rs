//! `plm-fleet info`: describes the program, or what a path leads to.

use std::fmt::Write;
use std::path::Path;

use plm_fleet::hub::Error as HubError;
use plm_fleet::kernels::{GpuError, count_gpus, describe_gpu, gpu_memory};
use plm_fleet::shards::Error as ShardError;
use plm_fleet::{
    Checked, EmbeddingsFile, Error, FastaIndex, Kind, Model, ModelInfo, OutputKind, Per, RunReport,
    check_result, kind_of,
};

use crate::Exit;
use crate::args::InfoArgs;
use crate::commands::outputs_of;
use crate::models;
use crate::summary;
use crate::voice::show;
use crate::words::{bytes, count, number};

/// The most bytes of vectors that are read and checked: more would take longer than a second.
const MOST_BYTES: u64 = 1 << 30;

/// The most files of a model that are listed one by one.
const MOST_FILES: usize = 4;

pub(crate) fn info(args: &InfoArgs) -> Result<Exit, Error> {
    let text = match &args.path {
        None => program()?,
        Some(path) => match &args.adapter {
            None => describe(path)?,
            adapter => model(&models::find_cached(path, adapter.as_deref())?.info()?),
        },
    };
    show(&text);
    Ok(Exit::Done)
}

/// Describes what a path leads to, or a model that the cache has by this name.
fn describe(path: &Path) -> Result<String, Error> {
    if path.symlink_metadata().is_err() {
        match models::find_cached(path, None) {
            Ok(Model::Checkpoint(directory)) if directory == path => {}
            Ok(found) => return Ok(model(&found.info()?)),
            // `owner/name` may be a path with a slip of the pen.
            Err(Error::Hub(HubError::NotCached { .. })) if path.components().count() == 2 => {}
            Err(error) => return Err(error),
        }
    }
    let path = path.to_owned();
    Ok(match kind_of(&path)? {
        Kind::FinishedRun => {
            let report = RunReport::of_run(&path)?;
            let checked = checked(&check_result(&path, MOST_BYTES)?, &report, &path);
            let run = summary::run(&report, &outputs_of(&report, &path)?, &path);
            format!("{run}\n{checked}")
        }
        Kind::UnfinishedRun(progress) if progress.holders.is_empty() => format!(
            "{}: a run that is {progress}\n  next        {}",
            path.display(),
            match progress.parts {
                Some((done, count)) if done == count =>
                    format!("all parts are done: plm-fleet aggregate {}", path.display()),
                Some(_) =>
                    "plm-fleet embed with the same arguments, for each part that is not done"
                        .to_owned(),
                None => "plm-fleet embed with the same arguments resumes it".to_owned(),
            }
        ),
        Kind::UnfinishedRun(progress) => format!("{}: a run that is {progress}", path.display()),
        Kind::IndexedDirectory => {
            let path = path.join("index.plm");
            summary::index(&FastaIndex::load(&path)?, &path)
        }
        Kind::Index => summary::index(&FastaIndex::load(&path)?, &path),
        Kind::ModelDirectory | Kind::PyTorch => model(&Model::Checkpoint(path).info()?),
        Kind::AdapterDirectory => model(&models::find_cached(&path, None)?.info()?),
        Kind::Embeddings => embeddings(&path)?,
        kind => return Err(Error::NothingKnown { path, kind }),
    })
}

/// The line that says how much of a result was read and checked.
fn checked(read: &Checked, report: &RunReport, path: &Path) -> String {
    let result = report.embeddings_path.as_deref().and_then(Path::file_name);
    let result = result.unwrap_or_default().display();
    let what = match read {
        Checked::Everything => format!("every byte of {result} is as it was written"),
        Checked::AllButVectors => format!(
            "all of {result} but its vectors, which `plm-fleet verify {}` reads",
            path.display()
        ),
    };
    format!("  checked     {what}")
}

/// Describes this program: its version, devices and built-in model.
fn program() -> Result<String, Error> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    Ok(format!(
        "plm-fleet {}\n  devices     cpu ({}){}\n  built in    {}",
        plm_fleet::VERSION,
        count(cores, "core"),
        gpus(),
        model(&Model::PlmTiny.info()?)
    ))
}

/// One line per GPU, or why there is none.
fn gpus() -> String {
    let count = match count_gpus() {
        Ok(0) => return "; no GPU is visible".to_owned(),
        Err(GpuError::NotBuilt) => return "; this program was built without CUDA".to_owned(),
        Err(error) => return format!("; {error}"),
        Ok(count) => count,
    };
    let describe = |ordinal| match (describe_gpu(ordinal), gpu_memory(ordinal)) {
        (Ok(gpu), Ok(memory)) => format!(
            "cuda:{ordinal} ({}, {} of {} GiB free)",
            gpu.name,
            memory.free_bytes >> 30,
            memory.total_bytes >> 30
        ),
        (Err(error), _) | (_, Err(error)) => crate::sentence(&error),
    };
    (0..count)
        .map(|ordinal| format!("\n              {}", describe(ordinal)))
        .collect()
}

/// Describes a model.
fn model(info: &ModelInfo) -> String {
    let sizes = info.architecture.map(|sizes| {
        format!(
            ": {}, {} layers, hidden size {}, {} heads of {}{}",
            sizes.family,
            sizes.num_layers,
            number(sizes.hidden_size as u64),
            sizes.num_heads,
            sizes.head_dim,
            (sizes.most_residues)
                .map(|most| format!(", up to {} residues", number(u64::from(most))))
                .unwrap_or_default()
        )
    });
    let origin = info.origin.as_ref().map(|origin| {
        let names = origin.files.iter().filter_map(|file| file.file_name());
        let names: Vec<_> = names.map(|name| name.display().to_string()).collect();
        let shown = match &names[..] {
            [first, .., last] if names.len() > MOST_FILES => format!("{first} to {last}"),
            names => names.join(", "),
        };
        let library = origin.library;
        format!("\n  read from   {shown}, with the names of {library}")
    });
    let outputs: Vec<_> = info.outputs.iter().map(|kind| kind.name()).collect();
    let revision = (info.revision.as_ref())
        .map(|revision| format!("\n  revision    {revision}"))
        .unwrap_or_default();
    let adapter = info.adapter.as_ref().map(|adapter| {
        let base = adapter.base.as_ref();
        let base = base.map_or(String::new(), |base| format!(", made for {base:?}"));
        format!(
            "\n  adapter     {}\n              {}{base}",
            adapter.digest,
            adapter.path.display()
        )
    });
    format!(
        "{}{}{revision}{}\n  outputs     {}\n  weights     {}{}",
        info.name,
        sizes.unwrap_or_default(),
        origin.unwrap_or_default(),
        outputs.join(", "),
        info.weights_digest,
        adapter.unwrap_or_default()
    )
}

/// Describes an embeddings file, which it reads and checks.
fn embeddings(path: &Path) -> Result<String, Error> {
    let file = match EmbeddingsFile::open_sealed(path) {
        Err(ShardError::OlderVersion { .. }) => EmbeddingsFile::open(path),
        file => file,
    }?;
    let read = match file.version() {
        1 => "nothing: files of format version 1 can be read but not checked".to_owned(),
        _ if file.vectors_bytes() <= MOST_BYTES => {
            file.check_vectors()?;
            "every byte is as it was written".to_owned()
        }
        _ => format!(
            "all but the vectors, which `plm-fleet verify {}` reads",
            path.display()
        ),
    };
    let (provenance, outputs) = (file.provenance(), file.outputs());
    let first =
        (outputs.iter().find(|output| output.per() == Per::Sequence)).unwrap_or(&outputs[0]);
    let holds = match first.per() {
        Per::Sequence => format!(
            "{} of {}, {}",
            count(file.rows() as u64, "vector"),
            number(first.width as u64),
            first.dtype
        ),
        Per::Residue | Per::Pair => count(file.rows() as u64, "protein"),
    };
    let revision = (provenance.model_revision.as_ref())
        .map(|revision| format!("\n  revision    {revision}"))
        .unwrap_or_default();
    let adapter = (provenance.adapter_digest.as_ref())
        .map(|digest| format!("\n  adapter     {digest}"))
        .unwrap_or_default();
    let mut text = format!(
        "{}: {holds}\n  model       {} ({}), layer {}{revision}\n  weights     {}{adapter}\n  pooling     {}, special \
         tokens {}\n  written by  {} {}\n  content     {}",
        path.display(),
        provenance.model,
        provenance.model_dtype,
        first.layer,
        provenance.weights_digest,
        first.pooling,
        first.special_tokens,
        provenance.program,
        provenance.program_version,
        file.content_digest(),
    );
    // Writing to a String does not fail.
    // The lines above say all of a mean that is alone.
    let is_mean_alone = matches!(file.outputs(), [only] if only.kind == OutputKind::Mean);
    let outputs = file.outputs().iter().enumerate();
    for (position, output) in outputs.filter(|_| !is_mean_alone) {
        let rows = file.read_offsets(position, file.rows()..file.rows())?[0];
        let _ = write!(
            text,
            "\n  output      /{}: {} of {}, {}, {}",
            output.name(),
            count(rows, "row"),
            number(output.width as u64),
            output.dtype,
            bytes(rows * output.width as u64 * output.dtype.bytes())
        );
    }
    for (path, records) in file.files() {
        let _ = write!(
            text,
            "\n  file        {}: {}",
            path.file_name().unwrap_or_default().display(),
            count(records.len() as u64, "protein")
        );
    }
    for input in &provenance.inputs {
        let _ = write!(text, "\n  input       {} {}", input.name, input.digest);
    }
    let _ = write!(text, "\n  checked     {read}");
    Ok(text)
}
