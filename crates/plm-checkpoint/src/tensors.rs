//! The tensors of a model by name, and their digest.

use std::collections::BTreeMap;
use std::path::Path;

use plm_core::Digest;
use rayon::prelude::*;

use crate::{Error, StoredTensor, save, stored};

/// The tensors that a model uses, by their canonical names and in the order of these.
#[derive(Clone, Debug)]
pub struct Tensors(BTreeMap<String, StoredTensor>);

impl Tensors {
    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&StoredTensor> {
        self.0.get(name)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Each tensor with its name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &StoredTensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The number of values in all tensors.
    pub fn num_parameters(&self) -> u64 {
        let numbers = |tensor: &StoredTensor| tensor.shape().iter().product::<usize>() as u64;
        self.0.values().map(numbers).sum()
    }

    /// A digest of `preface` and of all tensors.
    ///
    /// The preface holds what else the model's family wants to distinguish: a version of what is
    /// hashed, and settings that the tensors do not show. How files divide the tensors makes no
    /// difference. Reads all weights, on the threads of the current rayon pool, and refuses any
    /// that no model can compute with.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if a tensor has NaN or infinity in it, [`Error::AdapterTensor`] if it
    /// has that when an adapter is merged into it, [`Error::Read`] if a weights file can't be read.
    pub fn digest(&self, preface: &str) -> Result<Digest, Error> {
        // One line per tensor has the digest of its bytes. Threads share the work that way.
        let lines = self
            .0
            .par_iter()
            .map(|(name, tensor)| {
                let mut hasher = blake3::Hasher::new();
                let mut is_finite = true;
                tensor.for_each_piece(|bytes| {
                    hasher.update(bytes);
                    is_finite &= stored::is_finite(bytes, tensor.dtype());
                })?;
                if !is_finite {
                    return Err(Error::NotFinite {
                        path: tensor.path().to_owned(),
                        name: name.clone(),
                    });
                }
                tensor.check_change()?;
                let (dtype, shape) = (tensor.dtype(), tensor.shape());
                Ok(format!("{name} {dtype} {shape:?} {}\n", hasher.finalize()))
            })
            .collect::<Result<Vec<String>, Error>>()?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(preface.as_bytes());
        for line in lines {
            hasher.update(line.as_bytes());
        }
        Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
    }

    /// Creates the directory `dir`, with `config` as its `config.json` and these tensors as its
    /// `model.safetensors`, in the order of their names.
    ///
    /// # Errors
    /// [`Error::Write`] if a file can't be written, [`Error::Read`] if the weights can't be read.
    pub fn save(&self, dir: &Path, config: &str) -> Result<(), Error> {
        save::to(dir, config, &self.0)
    }
}

impl FromIterator<(String, StoredTensor)> for Tensors {
    fn from_iter<T: IntoIterator<Item = (String, StoredTensor)>>(tensors: T) -> Self {
        Self(tensors.into_iter().collect())
    }
}
