//! ESM-2 (Lin et al. 2023, doi:10.1126/science.ade2574) in candle: alphabet, configuration, weights
//! and a packed forward pass.
//!
//! [`Checkpoint`] reads a model in Hugging Face's layout, and refuses one that this crate would
//! compute wrongly. [`Esm2`] runs the model over packed batches. [`Esm2Loader`] makes it the
//! encoder of each rank of a run. The bits of a sequence's result depend on its residues, the
//! checkpoint, the number format and the kind of device alone: not on its neighbours, the batch
//! size or the number of threads.
//!
//! [`plm_checkpoint`] finds and reads the files. This crate must not know what a FASTA file is, how
//! batches are scheduled, or where vectors go.
//!
//! ```
//! use plm_core::{Dtype, OutputSet, Packer, RowId};
//! use plm_esm2::{Checkpoint, Esm2, token_map};
//!
//! let model = Esm2::new(&Checkpoint::plm_tiny(), Dtype::F32)?;
//!
//! let tokens = token_map();
//! let mut packer = Packer::new(&tokens, 64);
//! packer.push(RowId(0), b"MKTAYIAKQR")?;
//! packer.push(RowId(1), b"GSHM")?;
//!
//! // By default, the mean of the last layer over each sequence's residues.
//! let columns = model.forward(&packer.finish(), &OutputSet::default())?;
//! let means = &columns[0];
//! assert_eq!((means.num_sequences(), means.width()), (2, 128));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![cfg_attr(
    not(feature = "cuda"),
    allow(
        dead_code,
        reason = "only GPUs use some items; a build with the feature shows those that nothing uses"
    )
)]

mod abilities;
mod alphabet;
mod checkpoint;
mod cpu;
mod cpu_ranks;
mod error;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(not(feature = "cuda"))]
#[path = "no_gpu.rs"]
mod gpu;
mod int8_shape;
mod layer;
mod lm_head;
mod loader;
mod memory;
mod micro_batch;
mod model;
mod model_config;
mod outputs;
mod place;
mod ranks;
mod shapes;
mod splitmix;
mod tensors;

#[cfg(feature = "cuda")]
pub use plm_kernels::Gpu;
pub use plm_kernels::{Generation, GpuDescription, GpuError, GpuKind, count_gpus, describe_gpu};

pub use alphabet::{VOCABULARY, token_map};
pub use checkpoint::{Checkpoint, Origin};
pub use cpu_ranks::CpuOptions;
pub use error::{Error, NoInt8};
pub use loader::{Esm2Loader, output_specs};
pub use model::Esm2;
pub use model_config::Config;
pub use outputs::Started;
pub use shapes::{ModelShape, RELEASED, hub_name};

/// The batch size, in tokens, that suits GPUs.
pub const GPU_BATCH_TOKENS: u32 = Generation::FULL_BATCH_TOKENS;

/// The examples of README.md are tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
