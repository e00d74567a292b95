//! ESM-2 on GPUs: all that a build with the feature `cuda` adds.
//!
//! The number format and the GPU decide which layers a model has: those of the CPU (`layer`) with
//! products by cublasLt, those whose layer norms are part of the products (`stream_layer`), or
//! those of 8-bit integers (`int8`).

mod encoder;
mod int8;
mod kinds;
mod place;
mod ranks;
mod room;
mod side_by_side;
mod stream_layer;
mod weights;

use candle_core::Tensor;
use plm_core::Dtype;
use plm_kernels::{Gpu, StreamLinear, describe_gpu, is_out_of_memory};

use crate::int8_shape::check_int8;
use crate::place::Layers;
use crate::tensors::Tensors;
use crate::{Checkpoint, Error, Esm2};
use int8::Int8Layers;
pub(crate) use ranks::ranks;
use side_by_side::side_by_side;
use stream_layer::StreamLayers;

impl Esm2 {
    /// Loads a checkpoint to compute in `dtype` on a GPU: tensors are in that format, and sums
    /// within an operation f32. The model belongs to the thread that opened the GPU. Needs the
    /// feature `cuda`.
    ///
    /// # Errors
    /// [`Error::NoInt8`], or [`Error::Gpu`] if the GPU has no kernels for 8-bit integers; or if a
    /// weight can't be read, or the GPU has no room for them.
    pub fn on_gpu(checkpoint: &Checkpoint, dtype: Dtype, gpu: &Gpu) -> Result<Self, Error> {
        check_int8(checkpoint, dtype, true)?;
        if dtype == Dtype::Int8 {
            describe_gpu(gpu.ordinal())?.check_int8()?;
        }
        let layers = |tensors: &Tensors<'_>| layers(checkpoint, dtype, gpu, tensors);
        Self::assemble(checkpoint, dtype, Box::new(gpu.clone()), layers)
    }
}

/// The embeddings and the layers of a model in `dtype`.
fn layers(
    checkpoint: &Checkpoint,
    dtype: Dtype,
    gpu: &Gpu,
    tensors: &Tensors<'_>,
) -> Result<(Tensor, Box<dyn Layers>), Error> {
    let (config, embeddings) = (checkpoint.config(), &tensors.embeddings);
    if dtype == Dtype::Int8 {
        let (embeddings, layers) = Int8Layers::new(checkpoint, gpu)?;
        return Ok((embeddings, Box::new(layers)));
    }
    if StreamLinear::suits(gpu, embeddings.dtype(), config.hidden_size, config.ffn_size)? {
        let layers = StreamLayers::new(checkpoint, gpu, tensors)?;
        return Ok((embeddings.clone(), Box::new(layers)));
    }
    tensors.plain(side_by_side(config.num_layers, |index| {
        tensors.layer(index)
    })?)
}

impl Error {
    /// Whether a GPU had no room, so that something smaller may fit.
    fn is_out_of_memory(&self) -> bool {
        match self {
            Self::NoRoom { .. } => true,
            Self::Tensor(error) => is_out_of_memory(error),
            _ => false,
        }
    }
}
