//! Layers that only a Hopper has.
//!
//! The number format and the GPU decide which layers a model has: those of any place (`layer`),
//! those whose layer norms are part of the products (`stream_layer`), or those of 8-bit integers
//! (`int8`).

mod int8;
mod stream_layer;
mod weights;

use plm_core::Dtype;
use plm_encoder::{Error, Parts};
use plm_kernels::{Gpu, StreamLinear};

use crate::Checkpoint;
use crate::tensors::Tensors;
use int8::Int8Layers;
use stream_layer::stream_layers;

/// The weights of a model in `dtype`, which this GPU has kernels for.
pub(crate) fn parts(checkpoint: &Checkpoint, dtype: Dtype, gpu: &Gpu) -> Result<Parts, Error> {
    let tensors = Tensors::new(checkpoint, dtype, gpu)?;
    let (config, embeddings) = (checkpoint.config(), &tensors.embeddings);
    if dtype == Dtype::Int8 {
        let (embeddings, layers) = Int8Layers::new(checkpoint, gpu)?;
        return tensors.parts(embeddings, Box::new(layers));
    }
    let suits = StreamLinear::suits(gpu, embeddings.dtype(), config.hidden_size, config.ffn_size)?;
    tensors.parts(
        embeddings.clone(),
        match suits {
            true => Box::new(stream_layers(checkpoint, gpu, &tensors)?),
            false => tensors.plain()?,
        },
    )
}
