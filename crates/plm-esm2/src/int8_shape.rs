//! Which models can be computed in int8. It depends on their kind and shape, so no GPU is needed to
//! know.

use plm_core::Dtype;
use plm_kernels::Int8Limits;

use crate::model_config::Positions;
use crate::{Checkpoint, Config, Error, NoInt8};

/// The orders of the Hadamard matrices that rotations are made of, apart from powers of two: the
/// matrix of order 1, and those of Paley for the primes 11 and 19.
const HADAMARD_ORDERS: [usize; 3] = [1, 12, 20];

/// The order whose product with a power of two is `size`, if there is one.
pub(crate) fn hadamard_order(size: usize) -> Option<usize> {
    let fits = |order: &usize| size.is_multiple_of(*order) && (size / order).is_power_of_two();
    HADAMARD_ORDERS.into_iter().find(fits)
}

/// Refuses int8 on the CPU, and for models without kernels for it.
pub(crate) fn check_int8(
    checkpoint: &Checkpoint,
    dtype: Dtype,
    is_on_gpu: bool,
) -> Result<(), Error> {
    let config = checkpoint.config();
    let why = match dtype {
        // The rotated stream of int8 begins with rotated embeddings. The gains of ESM-1b's layer
        // norm after these would have to be rotated too.
        Dtype::Int8 if config.positions != Positions::Rotary => NoInt8::Family(config.family()),
        Dtype::Int8 if !is_on_gpu => NoInt8::OnCpu,
        Dtype::Int8 if !suits(config) => NoInt8::Shape {
            hidden_size: config.hidden_size,
            ffn_size: config.ffn_size,
        },
        _ => return Ok(()),
    };
    Err(Error::NoInt8 {
        model: checkpoint.name().to_owned(),
        why,
    })
}

/// Whether there are kernels and a rotation for a model of this shape.
fn suits(config: &Config) -> bool {
    let fits = |outputs: usize| {
        outputs.is_multiple_of(Int8Limits::OUTPUTS_MULTIPLE) && outputs <= Int8Limits::MAX_INPUTS
    };
    fits(config.hidden_size)
        && fits(config.ffn_size)
        && hadamard_order(config.hidden_size).is_some()
}
