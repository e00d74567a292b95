//! Which of the tensors in a model's files it is made of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::source::Source;
use crate::{Error, StoredTensor, Tensors, stored};

/// A tensor's name with the shape that it must have.
pub type TensorShape = (String, Vec<usize>);

/// Which tensors a model is made of, and what its files may call them: what a family of models
/// knows of one `config.json`.
///
/// Names here are *canonical*, one for all that a tensor goes by, but those that
/// [`canonical`](Self::canonical) is given.
pub trait Layout {
    /// What errors call a model of this family.
    fn family(&self) -> &str;

    /// The tensors that the model can't do without.
    fn required(&self) -> Vec<TensorShape>;

    /// The tensors that it uses where it finds all of them: those of a head.
    fn head(&self) -> Vec<TensorShape>;

    /// One name for all that a tensor goes by, from the name that a file has it under.
    fn canonical(&self, name: &str) -> String;

    /// What becomes of a tensor that is neither required nor of the head.
    fn other(&self, canonical_name: &str) -> Other;
}

/// What becomes of a tensor that a model does not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// Nothing is said of it: it may be in the files of any such model.
    Ignored,
    /// It is listed in [`Chosen::passed_over`]: what is computed does not depend on it.
    PassedOver,
    /// The checkpoint is refused: a model without it would compute something else.
    Refused,
}

/// All tensors of a model's files, under the names they have there.
#[derive(Clone, Debug)]
pub struct FoundTensors {
    dir: PathBuf,
    tensors: Vec<(String, StoredTensor)>,
}

/// What a checkpoint's files come to.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The tensors that the model uses, by their canonical names.
    pub used: Tensors,
    /// The names, as the files have them, of tensors that it does not use and that nobody expects
    /// there, or of a head that is not whole. In order.
    pub passed_over: Vec<String>,
}

impl FoundTensors {
    pub(crate) fn list(
        dir: &Path,
        sources: impl IntoIterator<Item = Result<Arc<Source>, Error>>,
    ) -> Result<Self, Error> {
        let mut tensors = Vec::new();
        for source in sources {
            tensors.extend(stored::list(&source?)?);
        }
        Ok(Self {
            dir: dir.to_owned(),
            tensors,
        })
    }

    /// The directory of the files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Each tensor with the name it has in its file, file by file, in the order in which they lie.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &StoredTensor)> {
        let tensors = self.tensors.iter();
        tensors.map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Sorts out what a model of this layout uses.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::TensorShape`], [`Error::TensorDtype`],
    /// [`Error::DuplicateTensor`], [`Error::UnexpectedTensor`], or [`Error::Adapter`] for tensors
    /// that would have to be merged with others first.
    pub fn choose(self, layout: &impl Layout) -> Result<Chosen, Error> {
        let required: BTreeMap<_, _> = layout.required().into_iter().collect();
        let head: BTreeMap<_, _> = layout.head().into_iter().collect();
        let mut used = BTreeMap::new();
        let mut of_head = BTreeMap::new();
        let mut passed_over = Vec::new();
        for (name, tensor) in self.tensors {
            let canonical_name = layout.canonical(&name);
            if let Some(shape) = head.get(&canonical_name) {
                let fits = tensor.shape() == shape && tensor.is_readable();
                if let Some((name, ..)) = of_head.insert(canonical_name, (name, tensor, fits)) {
                    passed_over.push(name);
                }
                continue;
            }
            let path = tensor.path().to_owned();
            let Some(shape) = required.get(&canonical_name) else {
                match layout.other(&canonical_name) {
                    Other::Ignored => {}
                    _ if is_of_adapter(&canonical_name) => return Err(Error::Adapter { path }),
                    Other::PassedOver => passed_over.push(name),
                    Other::Refused => {
                        return Err(Error::UnexpectedTensor {
                            path,
                            name,
                            family: layout.family().to_owned(),
                        });
                    }
                }
                continue;
            };
            if tensor.shape() != shape {
                return Err(Error::TensorShape {
                    path,
                    name,
                    found: tensor.shape().to_vec(),
                    expected: shape.clone(),
                });
            }
            if !tensor.is_readable() {
                return Err(Error::TensorDtype {
                    path,
                    name,
                    found: tensor.dtype().to_string(),
                });
            }
            if used.insert(canonical_name, tensor).is_some() {
                return Err(Error::DuplicateTensor { path, name });
            }
        }
        if let Some(name) = required.into_keys().find(|name| !used.contains_key(name)) {
            return Err(Error::MissingTensor {
                path: self.dir,
                name,
            });
        }
        // A head is of use as a whole.
        let is_whole = of_head.len() == head.len() && of_head.values().all(|(.., fits)| *fits);
        for (canonical_name, (name, tensor, _)) in of_head {
            if is_whole {
                used.insert(canonical_name, tensor);
            } else {
                passed_over.push(name);
            }
        }
        passed_over.sort_unstable();
        Ok(Chosen {
            used: used.into_iter().collect(),
            passed_over,
        })
    }
}

/// Whether a tensor is of an adapter that a model would have to be merged with.
fn is_of_adapter(name: &str) -> bool {
    const PARTS: [&str; 6] = [
        "lora_A",
        "lora_B",
        "lora_embedding_A",
        "lora_magnitude_vector",
        "base_layer",
        "ia3_l",
    ];
    name.split('.').any(|part| PARTS.contains(&part))
}
