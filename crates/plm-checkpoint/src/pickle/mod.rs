//! Reads what `torch.save` wrote: a pickle of tensors, of which nothing is run.
//!
//! A pickle is a program for a small stack machine of Python's, which may call any function by its
//! name. [`machine`] interprets its instructions. It knows a fixed list of names ([`globals`]),
//! turns each call of one into plain data, and refuses a file with any other name. [`tensors`]
//! walks through the data: a tensor in it is a place in a storage, and all else becomes JSON.
//!
//! PyTorch writes two containers. Since 1.6 it is a zip file ([`archive`]): the pickle is one of
//! its entries, and each storage another. Before that, and still on request, it is a sequence of
//! pickles with the storages after them ([`legacy`]). In both, storages are read by position.
//!
//! Files may come from anyone. The author of a file decides neither how much memory is taken nor
//! how deep a call goes: values refer to each other by number, so that nothing is copied, and each
//! loop has a limit that no model comes near.

mod archive;
mod globals;
mod legacy;
mod machine;
mod tape;
mod tensors;
mod value;

use std::sync::Arc;

use serde_json::Value as Json;

use crate::source::Source;
use crate::{Error, StoredTensor, stand_in};

pub(crate) use archive::MAGIC as ZIP_MAGIC;

/// What a file holds.
#[derive(Debug)]
pub(crate) struct Pickled {
    /// The tensors with their names, in the order of the pickle. In nested dictionaries, a name is
    /// the path of keys, joined by dots.
    pub(crate) tensors: Vec<(String, StoredTensor)>,
    /// All values that are not tensors, as far as JSON knows their like.
    pub(crate) values: Json,
}

/// Reads a file's pickle, and finds the place of each tensor. This reads no weights.
pub(crate) fn read(source: &Arc<Source>) -> Result<Pickled, Error> {
    let start = source.read(0, source.len().min(stand_in::BYTES))?;
    stand_in::check(source.path(), &start)?;
    if start.starts_with(ZIP_MAGIC) {
        archive::read(source)
    } else {
        legacy::read(source)
    }
}
