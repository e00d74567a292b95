//! The digest of a checkpoint's content.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::stored::StoredTensor;
use crate::{Config, Error};

/// Bumped when what is hashed changes, so that old and new digests never meet.
const VERSION: &str = "plm-esm2 weights 1";

/// BLAKE3 over one line per tensor: its name, format, shape and the BLAKE3 of its bytes. Tensors are
/// hashed each for itself so that threads can share the work.
pub(super) fn of(
    config: &Config,
    tensors: &BTreeMap<String, StoredTensor>,
) -> Result<String, Error> {
    let lines = tensors
        .par_iter()
        .map(|(name, tensor)| {
            let mut hasher = blake3::Hasher::new();
            tensor.for_each_piece(|bytes| {
                hasher.update(bytes);
            })?;
            let (dtype, shape) = (tensor.dtype(), tensor.shape());
            Ok(format!("{name} {dtype} {shape:?} {}\n", hasher.finalize()))
        })
        .collect::<Result<Vec<String>, Error>>()?;

    // What the tensors' shapes do not say.
    let Config {
        num_heads,
        layer_norm_eps,
        token_dropout,
        ..
    } = config;
    let mut hasher = blake3::Hasher::new();
    hasher.update(
        format!(
            "{VERSION}\nheads {num_heads} eps {layer_norm_eps:e} token_dropout {token_dropout}\n"
        )
        .as_bytes(),
    );
    for line in lines {
        hasher.update(line.as_bytes());
    }
    Ok(format!("blake3:{}", hasher.finalize()))
}
