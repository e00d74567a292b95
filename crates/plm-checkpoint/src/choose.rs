//! Chooses the tensors that a model uses among those in its files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::adapter::merge::{self, Base};
use crate::{Adapter, Error, StoredTensor, Tensors};

/// A tensor's name with the shape that it must have.
pub type TensorShape = (String, Vec<usize>);

/// Which tensors a model is made of, and how files name them. A family of models makes one of each
/// `config.json`.
///
/// A tensor may have several names in files, and has one *canonical* name here. Only
/// [`canonical`](Self::canonical) takes a name as a file has it.
///
/// ```
/// use plm_checkpoint::{Layout, Other, TensorShape};
///
/// /// One matrix, which some files call `toy.embedding`, and no heads.
/// struct Toy;
///
/// impl Layout for Toy {
///     fn family(&self) -> &str {
///         "Toy"
///     }
///     fn required(&self) -> Vec<TensorShape> {
///         vec![("embedding".to_owned(), vec![2, 2])]
///     }
///     fn heads(&self) -> Vec<Vec<TensorShape>> {
///         Vec::new()
///     }
///     fn canonical(&self, name: &str) -> String {
///         name.strip_prefix("toy.").unwrap_or(name).to_owned()
///     }
///     fn other(&self, _canonical_name: &str) -> Other {
///         Other::PassedOver
///     }
/// }
///
/// assert_eq!(Toy.canonical("toy.embedding"), "embedding");
/// ```
pub trait Layout {
    /// The family's name in errors.
    fn family(&self) -> &str;

    /// The tensors that the model needs, by their canonical names.
    fn required(&self) -> Vec<TensorShape>;

    /// The tensors of each head, by their canonical names. The model uses those of a head if all
    /// of them are there. No tensor is of two heads.
    fn heads(&self) -> Vec<Vec<TensorShape>>;

    /// The canonical name of a tensor, from its name in a file. An adapter's tensors may have
    /// canonical names whatever those in the model's files are.
    fn canonical(&self, name: &str) -> String;

    /// The canonical name of a tensor, from its name in the model that an adapter was made of. This
    /// may have other names than the model's files.
    fn canonical_in_adapter(&self, name: &str) -> String {
        self.canonical(name)
    }

    /// The canonical names of the tensors that a file keeps as one, one above the other and of
    /// equal heights, from that one's canonical name; empty if it is a tensor by itself.
    fn stacked(&self, _canonical_name: &str) -> Vec<String> {
        Vec::new()
    }

    /// What becomes of a tensor that is neither required nor of a head.
    fn other(&self, canonical_name: &str) -> Other;
}

/// What becomes of a tensor that a model does not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// Nothing: the files of any such model may have it.
    Ignored,
    /// It is listed in [`Chosen::passed_over`]. The results do not depend on it.
    PassedOver,
    /// The checkpoint is refused: without this tensor, the model would compute something else.
    Refused,
}

/// All tensors of a model's files, under their names there.
#[derive(Clone, Debug)]
pub struct FoundTensors {
    /// The directory of the files, or the only file.
    place: PathBuf,
    /// The tensors with their names in the files, file by file.
    tensors: Vec<(String, StoredTensor)>,
    /// What is merged into the tensors that are chosen.
    adapter: Option<Arc<Adapter>>,
}

/// The tensors of a checkpoint, sorted by [`FoundTensors::choose`].
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The tensors that the model uses, by their canonical names.
    pub used: Tensors,
    /// The names in the files of unexpected tensors, and of tensors of an incomplete head or of one
    /// that an adapter replaces. The model does not use them. They are sorted.
    pub passed_over: Vec<String>,
}

impl FoundTensors {
    /// The tensors that were found in `place`, file by file.
    pub(crate) fn new(place: &Path, tensors: Vec<(String, StoredTensor)>) -> Self {
        Self {
            place: place.to_owned(),
            tensors,
            adapter: None,
        }
    }

    pub(crate) fn with_adapter(self, adapter: Option<Arc<Adapter>>) -> Self {
        Self { adapter, ..self }
    }

    /// The directory of the files, or the file if there is only one.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// The files that have a tensor, each once.
    pub fn files(&self) -> Vec<&Path> {
        let mut files: Vec<&Path> = self
            .tensors
            .iter()
            .map(|(_, tensor)| tensor.path())
            .collect();
        files.dedup();
        files
    }

    /// Adds the tensors of another file, for example of one that holds a head.
    pub fn add(&mut self, other: Self) {
        self.tensors.extend(other.tensors);
    }

    /// Each tensor with its name in its file: file by file, in the order in which the file lists
    /// them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &StoredTensor)> {
        let tensors = self.tensors.iter();
        tensors.map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Chooses the tensors that a model of this layout uses, and checks them. An adapter is merged
    /// into them. A head of which it has a copy of its own is passed over.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::TensorShape`], [`Error::TensorDtype`],
    /// [`Error::DuplicateTensor`] or [`Error::UnexpectedTensor`] with the tensor's name;
    /// [`Error::Adapter`] for tensors of an adapter among the model's own;
    /// [`Error::AdapterTensor`], [`Error::ForeignAdapter`] or [`Error::HalfAdapter`] if the adapter
    /// does not fit the model.
    pub fn choose(self, layout: &impl Layout) -> Result<Chosen, Error> {
        let required: BTreeMap<_, _> = layout.required().into_iter().collect();
        let heads = layout.heads();
        let of_any_head: BTreeMap<_, _> = heads
            .iter()
            .flatten()
            .map(|(name, shape)| (name, shape))
            .collect();
        let mut used = BTreeMap::new();
        let mut of_heads = BTreeMap::new();
        let mut passed_over = Vec::new();
        for (name, tensor, canonical_name) in unstacked(self.tensors, layout) {
            if let Some(shape) = of_any_head.get(&canonical_name) {
                let fits = tensor.shape() == *shape && tensor.is_readable();
                if let Some((name, ..)) = of_heads.insert(canonical_name, (name, tensor, fits)) {
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
        if let Some(name) = required.keys().find(|name| !used.contains_key(*name)) {
            return Err(Error::MissingTensor {
                path: self.place,
                name: name.clone(),
            });
        }
        // A head is used as a whole or not at all.
        for head in &heads {
            let fits = |(name, _): &TensorShape| matches!(of_heads.get(name), Some((.., true)));
            let is_whole = head.iter().all(fits);
            for (canonical_name, _) in head {
                match of_heads.remove(canonical_name) {
                    Some((_, tensor, _)) if is_whole => {
                        used.insert(canonical_name.clone(), tensor);
                    }
                    Some((name, ..)) => passed_over.push(name),
                    None => {}
                }
            }
        }
        if let Some(adapter) = &self.adapter {
            let base = Base {
                place: &self.place,
                layout,
                used: &mut used,
                passed_over: &mut passed_over,
            };
            merge::merge(adapter, base)?;
        }
        passed_over.sort_unstable();
        Ok(Chosen {
            used: used.into_iter().collect(),
            passed_over,
        })
    }
}

/// Each tensor with its name in its file and its canonical name. One that the layout knows as
/// stacked is taken apart, if its rows can be shared out.
fn unstacked(
    tensors: Vec<(String, StoredTensor)>,
    layout: &impl Layout,
) -> impl Iterator<Item = (String, StoredTensor, String)> {
    tensors.into_iter().flat_map(|(name, tensor)| {
        let canonical_name = layout.canonical(&name);
        let names = layout.stacked(&canonical_name);
        match tensor.split_rows(names.len()) {
            Some(parts) => {
                let parts = parts.into_iter().zip(names);
                parts
                    .map(|(part, canonical_name)| (name.clone(), part, canonical_name))
                    .collect()
            }
            None => vec![(name, tensor, canonical_name)],
        }
    })
}

/// Whether a tensor is of an adapter, which must be merged with a model first.
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
