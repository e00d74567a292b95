//! Exports a finished run to a file of another tool.

use std::fmt;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use plm_coordinator::StopToken;
use plm_core::{OutputSpec, Store, StoreError};
use plm_export::{Choice, Export, Format, Progress};

use super::kind::{Kind, check_is_result};
use super::ledger;
use super::verify::{Checked, check_values, damaged};
use crate::Error;
use crate::compute::start_threads;
use crate::out_dir::{Claim, Layout, store_at};

/// The values of a result are checked first if they take at most this many bytes.
const MOST_CHECKED_BYTES: u64 = 1 << 30;

/// The settings of an export.
///
/// ```
/// use plm_fleet::{ExportChoice, ExportConfig, ExportFormat, OutputKind};
///
/// let config = ExportConfig {
///     choice: ExportChoice { kinds: vec![OutputKind::Mean], ..ExportChoice::default() },
///     ..ExportConfig::new(ExportFormat::Parquet)
/// };
/// assert_eq!(config.dest, None);
/// ```
#[derive(Clone)]
pub struct ExportConfig {
    /// The export has this format.
    pub format: Format,
    /// The export has these outputs and records. The default is all of them.
    pub choice: Choice,
    /// The export is written here. `None` is beside the result, with its name and the format's
    /// [ending](Format::ending): `out.parquet` for `out`.
    pub dest: Option<PathBuf>,
    /// The function is told of the progress, from the calling thread.
    pub progress: Arc<dyn Fn(Progress) + Send + Sync>,
    /// The token ends the export early when it is asked to. Nothing is left then.
    pub stop: StopToken,
}

impl ExportConfig {
    /// All of a result in this format, beside it.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            choice: Choice::default(),
            dest: None,
            progress: Arc::new(|_| ()),
            stop: StopToken::default(),
        }
    }
}

impl fmt::Debug for ExportConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportConfig")
            .field("format", &self.format)
            .field("choice", &self.choice)
            .field("dest", &self.dest)
            .finish_non_exhaustive()
    }
}

/// An export that was written.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ExportReport {
    /// The export is here: a directory for [`Format::Npy`], and a file otherwise.
    pub path: PathBuf,
    /// The export has this many records.
    pub records: u64,
    /// The export has these outputs, at least one.
    pub outputs: Vec<OutputSpec>,
    /// The values take this many bytes in the result.
    pub values_bytes: u64,
    /// So much of the result was checked before it was exported.
    pub checked: Checked,
    /// The export took this long, with the checks.
    pub seconds: f64,
}

/// Writes a finished run, or an `embeddings.h5` alone, in another format.
///
/// The result's seal is checked first, and its values too if they take at most 1 GiB;
/// [`verify_run`](crate::verify_run) checks them in any case. Memory is bounded, whatever the size.
///
/// ```
/// use plm_fleet::{ExportConfig, ExportFormat, Model, RunConfig, export, run_multi_gpu_inference};
/// # let scratch = tempfile::tempdir()?;
/// # let (fasta, out) = (scratch.path().join("in.fasta"), scratch.path().join("out"));
/// # std::fs::write(&fasta, ">one\nMKTAYIAK\n>two\nGSHMRYQ\n")?;
///
/// run_multi_gpu_inference([fasta], &Model::PlmTiny, &out, &RunConfig::default())?;
/// let report = export(&out, &ExportConfig::new(ExportFormat::Npy))?;
/// assert!(report.path.join("mean_layer_6.npy").exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// - [`Error::NotFinished`] or [`Error::NoResult`] if there is no result.
/// - [`Error::DamagedEmbeddings`] or [`Error::Shards`] if it is not what was written.
/// - [`Error::OtherRun`] if it is of another run than the directory's `fingerprint.json`.
/// - [`Error::Export`] if it lacks what was chosen, if the format can't hold that, if there is
///   something at the export's place or too little room there, if it can't be written, or if it was
///   stopped.
pub fn export(out_dir: impl AsRef<Path>, config: &ExportConfig) -> Result<ExportReport, Error> {
    export_with(&store_at(out_dir.as_ref()), out_dir, config)
}

/// Does what [`export`] does, for a run with another [store](crate::RunConfig::store).
///
/// # Errors
/// Those of [`export`].
pub fn export_with(
    store: &Arc<dyn Store>,
    out_dir: impl AsRef<Path>,
    config: &ExportConfig,
) -> Result<ExportReport, Error> {
    let started = Instant::now();
    start_threads()?;
    let out_dir = out_dir.as_ref();
    let layout = Layout::new(out_dir, store);
    let kind = check_is_result(store, out_dir)?;
    let file = match kind {
        Kind::Embeddings => out_dir.to_owned(),
        _ => layout.embeddings(),
    };
    let path = match &config.dest {
        Some(path) => path.clone(),
        None => beside(out_dir, &kind, config.format)?,
    };
    plm_export::check_absent(&path).map_err(Error::Export)?;
    let with_remedy = |error: StoreError| match kind {
        Kind::Embeddings => error.into(),
        _ => damaged(&layout, error),
    };
    let of_export = |error: plm_export::Error| match error {
        plm_export::Error::Read(error) => with_remedy(error),
        plm_export::Error::UnknownId {
            path,
            line,
            id,
            others,
            ..
        } => Error::Export(plm_export::Error::UnknownId {
            outcome: match kind {
                Kind::Embeddings => None,
                _ => ledger::without_vector(&layout.ledger(), &id),
            },
            path,
            line,
            id,
            others,
        }),
        error => Error::Export(error),
    };
    let result = store.open_result(&file).map_err(with_remedy)?;
    if kind != Kind::Embeddings {
        Claim::check_result(&layout, &*result)?;
    }
    let export = Export::new(&*result, config.format, &config.choice).map_err(of_export)?;
    let checked = check_values(&*result, MOST_CHECKED_BYTES).map_err(with_remedy)?;
    let watch = |progress: Progress| {
        (config.progress)(progress);
        match config.stop.is_stopped() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    export.write(&path, &watch).map_err(of_export)?;
    Ok(ExportReport {
        path,
        records: export.num_records(),
        outputs: export.outputs().cloned().collect(),
        values_bytes: export.values_bytes(),
        checked,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The place of an export beside the result: its name, with the format's ending.
fn beside(result: &Path, kind: &Kind, format: Format) -> Result<PathBuf, Error> {
    // The last part of `.` or `..` is no name.
    let path = match result.file_name() {
        Some(_) => result.to_owned(),
        None => fs::canonicalize(result).map_err(Error::io(result))?,
    };
    let name = match kind {
        Kind::Embeddings => path.file_stem(),
        _ => path.file_name(),
    };
    let mut name = name.unwrap_or("embeddings".as_ref()).to_owned();
    name.push(format.ending());
    Ok(path.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_beside_its_result() {
        for (result, kind, expected) in [
            ("runs/out", Kind::FinishedRun, "runs/out.tsv"),
            ("out/", Kind::FinishedRun, "out.tsv"),
            ("a.b", Kind::FinishedRun, "a.b.tsv"),
            ("out/embeddings.h5", Kind::Embeddings, "out/embeddings.tsv"),
            ("/", Kind::FinishedRun, "/embeddings.tsv"),
        ] {
            let path = beside(Path::new(result), &kind, Format::Tsv).unwrap();
            assert_eq!(path, Path::new(expected), "{result}");
        }
        let here = std::env::current_dir().unwrap();
        let path = beside(Path::new("."), &Kind::FinishedRun, Format::Npy).unwrap();
        let name = here.file_name().unwrap().to_str().unwrap();
        assert_eq!(path, here.with_file_name(format!("{name}_npy")));
    }
}
