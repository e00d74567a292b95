//! Turns protein FASTA files into embeddings (ESM-2, ESM C, ESM-1b, ESM-1v) in one HDF5 file, on
//! every device of a machine.
//!
//! The verb is [`run_multi_gpu_inference`]. It indexes the input, plans packed batches, runs one
//! rank for each device, merges what the ranks wrote into `embeddings.h5` in the order of the
//! input, and verifies that file. [`aggregate_parts`] merges a run that was spread over several
//! processes, [`verify_run`] reads a finished run again, [`export`] writes it in other formats, and
//! [`EmbeddingsFile`] reads its vectors.
//!
//! ```
//! use plm_fleet::{EmbeddingsFile, Model, RunConfig, run_multi_gpu_inference};
//! # let scratch = tempfile::tempdir()?;
//! # let (fasta, out) = (scratch.path().join("in.fasta"), scratch.path().join("out"));
//! # let text = ">insulin_b\nFVNQHLCGSHLVEALYLVCGERGFFYTPKT\n>insulin_a\nGIVEQCCTSICSLYQLENYCN\n";
//! # std::fs::write(&fasta, text)?;
//!
//! let report = run_multi_gpu_inference([fasta], &Model::PlmTiny, out, &RunConfig::default())?;
//! let file = EmbeddingsFile::open(report.embeddings_path.expect("not a part"))?;
//! assert_eq!(file.ids()?, ["insulin_b", "insulin_a"]);
//! assert_eq!(file.read_rows(0..2)?.dim(), (2, 128));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Embedder`] is the same without files: it keeps a model loaded on all devices, takes sequences
//! from any number of threads, and gives their values back.
//!
//! ```
//! use plm_fleet::{Embedder, EmbedderConfig, Model};
//!
//! let embedder = Embedder::new(&Model::PlmTiny, &EmbedderConfig::default())?;
//! let insulin = embedder.embed_one("FVNQHLCGSHLVEALYLVCGERGFFYTPKT")?;
//! assert_eq!(insulin.values(0).len(), 128);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//! - `hdf5-bundled` (the default) compiles HDF5 and links it into the program. This needs CMake
//!   3.26 or newer.
//! - `hdf5-system` links the system's HDF5, 1.10.7 or newer (Debian and Ubuntu: `libhdf5-dev`). To
//!   use it alone, switch the default off: `default-features = false`. With both features, the
//!   bundled one is used. With neither, the build stops. Vectors and digests do not depend on the
//!   choice.
//! - `cuda` computes on NVIDIA's GPUs. Building it needs the compiler of CUDA 13.0.
//! - `hub` lets [`Model::find`] download models from the Hugging Face hub. Without it, only its
//!   cache is looked at, and there is no network code.
//!
//! # Crates
//! This crate joins the others, and knows neither how anything is computed nor how it is stored.
//! [`index`] finds records in FASTA files, [`hub`] finds models by name, [`checkpoint`] reads a
//! model's files, [`esm2`] and [`esmc`] are families of models, [`encoder`] is what they share,
//! [`kernels`] has their operations on the CPU and on GPUs, [`coordinator`] plans and runs the
//! ranks, [`shards`] writes segments and merges them into HDF5, and [`exporting`] writes other
//! formats. They meet at the ports of [`core`]. Each can be used by itself.

mod compute;
mod embedder;
mod error;
mod out_dir;
mod result;
mod run;
mod store;

pub use plm_checkpoint as checkpoint;
pub use plm_coordinator as coordinator;
pub use plm_core as core;
pub use plm_encoder as encoder;
pub use plm_esm2 as esm2;
pub use plm_esmc as esmc;
pub use plm_export as exporting;
pub use plm_hub as hub;
pub use plm_index as index;
pub use plm_kernels as kernels;
pub use plm_shards as shards;

pub use plm_coordinator::{
    BatchTimeout, FailedRow, IdenticalSequences, LaneConfig, LongSequences, NoObserver, Observer,
    Part, PlanConfig, RankFailure, RunEvent, StopToken, WorkerReport,
};
pub use plm_core::{
    Dtype, Layer, Outcome, OutputKind, OutputSet, OutputSpec, ParseDtypeError, Per, Store,
};
pub use plm_export::{Choice as ExportChoice, Format as ExportFormat, Progress as ExportProgress};
pub use plm_index::{
    BadRecordPolicy, DuplicatePolicy, FastaIndex, Findings, GapPolicy, IdRule, IndexConfig, Input,
    NamelessPolicy, Tally,
};
pub use plm_shards::{EmbeddingsFile, Hdf5Store, SegmentConfig, SegmentConfigBuilder};

pub use compute::{
    AdaptedModel, AdapterInfo, Architecture, Devices, KnownModel, Model, ModelError, ModelInfo,
    ModelOrigin, ParseDevicesError, Remedy, released_models, start_threads,
};
pub use embedder::{Embedder, EmbedderConfig, Embedding, Embeddings, SequenceError};
pub use error::Error;
pub use out_dir::{
    Damage, DamagedSegment, PartReport, RecordCounts, RunReport, StageSeconds, outputs_of_run,
};
pub use result::{
    Checked, ExportConfig, ExportReport, Kind, RunProgress, VerifyReport, aggregate_parts,
    aggregate_parts_with, check_result, export, export_with, kind_of, verify_run,
    verify_run_against, verify_run_with,
};
pub use run::{Resume, RunConfig, build_index, run_multi_gpu_inference};
pub use store::{StoreConfig, store_by_name, store_names};

/// The version of plm-fleet, which all its crates share.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The examples of README.md are tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
