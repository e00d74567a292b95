//! ESM-2 (Lin et al. 2023, doi:10.1126/science.ade2574) and its predecessors ESM-1b (Rives et al.
//! 2021, doi:10.1073/pnas.2016239118) and ESM-1v (Meier et al. 2021,
//! doi:10.1101/2021.07.09.450648) in candle: alphabet, configuration, weights and a packed forward
//! pass. The three have the same layers. They differ in how they know positions ([`Positions`]).
//!
//! [`Checkpoint`] reads a model in the layouts of Hugging Face and fair-esm, and refuses one that
//! this crate would compute wrongly. [`Esm2`] runs the model over packed batches. [`Esm2Loader`]
//! makes it the encoder of each rank of a run. The bits of a sequence's result depend on its
//! residues, the checkpoint, the number format and the kind of device alone: not on its neighbours,
//! the batch size or the number of threads.
//!
//! [`plm_checkpoint`] finds and reads the files, and [`plm_encoder`] makes everything around the
//! layers. This crate must not know what a FASTA file is, how batches are scheduled, or where
//! vectors go.
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

mod alphabet;
mod checkpoint;
mod encoder;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(all(test, not(feature = "cuda")))]
#[path = "no_gpu.rs"]
mod gpu;
mod int8_shape;
mod layer;
mod model_config;
mod shapes;
mod tensors;

#[cfg(feature = "cuda")]
pub use plm_kernels::Gpu;
pub use plm_kernels::{Generation, GpuDescription, GpuError, GpuKind, count_gpus, describe_gpu};

pub use plm_encoder::{
    CpuOptions, Error, GPU_BATCH_TOKENS, Loader, Model, NoInt8, Origin, Started, output_specs,
};

pub use alphabet::{VOCABULARY, token_map};
pub use checkpoint::Checkpoint;
pub use encoder::{Esm2, Esm2Loader};
pub use model_config::{Config, Positions};
pub use shapes::{ModelShape, RELEASED, RELEASED_ESM1, hub_name, released_models};

/// The examples of README.md are tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
