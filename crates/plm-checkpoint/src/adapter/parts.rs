//! Sorts the tensors of an adapter by what they are of each module.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::settings::Settings;
use crate::{Error, StoredTensor};

/// What the names of all tensors of an adapter begin with, since peft wraps the model twice.
const WRAPPERS: &str = "base_model.model.";

/// A tensor with its name in the file.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) tensor: StoredTensor,
}

/// LoRA in one module. Both matrices fit each other and the settings.
#[derive(Clone, Debug)]
pub(super) struct Lora {
    /// `[rank, inputs]`.
    pub(super) a: Named,
    /// `[outputs, rank]`.
    pub(super) b: Named,
    pub(super) is_embedding: bool,
    /// `[outputs]`, in DoRA.
    pub(super) magnitude: Option<Named>,
    pub(super) scale: f32,
}

/// A tensor of the model that the adapter has whole.
#[derive(Clone, Debug)]
pub(super) struct Whole {
    pub(super) named: Named,
    /// Whether the tensor is of a module with LoRA.
    pub(super) is_of_lora: bool,
    /// Whether the module is one of `modules_to_save`. Others were trained in their place.
    pub(super) is_saved: bool,
}

/// The tensors of an adapter. Modules and tensors have the names that they have in the model.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    pub(super) lora: BTreeMap<String, Lora>,
    pub(super) whole: BTreeMap<String, Whole>,
}

/// What a tensor is, by its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    A,
    B,
    EmbeddingA,
    EmbeddingB,
    Magnitude,
}

impl Parts {
    /// Sorts the tensors of a file.
    ///
    /// # Errors
    /// [`Error::AdapterTensor`], [`Error::DuplicateTensor`], [`Error::TensorDtype`].
    pub(super) fn sort(
        tensors: Vec<(String, StoredTensor)>,
        settings: &Settings,
    ) -> Result<Self, Error> {
        let mut of_lora: BTreeMap<String, BTreeMap<Role, Named>> = BTreeMap::new();
        let mut whole = BTreeMap::new();
        let names: BTreeSet<String> = tensors.iter().map(|(name, _)| name.clone()).collect();
        for (name, tensor) in tensors {
            if is_second_bias(&name, &names) {
                continue;
            }
            let named = Named { name, tensor };
            if !named.tensor.is_readable() {
                return Err(Error::TensorDtype {
                    path: named.tensor.path().to_owned(),
                    found: named.tensor.dtype().to_string(),
                    name: named.name,
                });
            }
            let doubled = match placed(&named)? {
                Placed::Lora(module, role) => {
                    of_lora.entry(module).or_default().insert(role, named)
                }
                Placed::Whole(name, is_of_lora) => {
                    let module = name.rsplit_once('.').map_or("", |(module, _)| module);
                    let tensor = Whole {
                        is_of_lora,
                        is_saved: settings.is_saved(module)?,
                        named,
                    };
                    whole.insert(name, tensor).map(|whole| whole.named)
                }
            };
            if let Some(Named { name, tensor }) = doubled {
                return Err(Error::DuplicateTensor {
                    path: tensor.path().to_owned(),
                    name,
                });
            }
        }
        let lora = of_lora.into_iter().map(|(module, tensors)| {
            let lora = lora(&module, tensors, settings)?;
            Ok((module, lora))
        });
        let lora: BTreeMap<_, _> = lora.collect::<Result<_, Error>>()?;
        for (name, tensor) in &whole {
            let has_lora = |(module, _): (&str, &str)| lora.contains_key(module);
            if tensor.is_of_lora != name.rsplit_once('.').is_some_and(has_lora) {
                return Err(tensor.named.refused(
                    "which peft does not load with these settings: save the adapter again with the \
                     peft that reads it",
                ));
            }
        }
        Ok(Self { lora, whole })
    }

    /// All tensors by what they are of which module, and the factor of each module in a line.
    pub(super) fn content(&self) -> (Vec<(String, StoredTensor)>, String) {
        let (mut tensors, mut scales) = (Vec::new(), String::new());
        for (module, lora) in &self.lora {
            let [a, b] = match lora.is_embedding {
                false => ["lora_A", "lora_B"],
                true => ["lora_embedding_A", "lora_embedding_B"],
            };
            tensors.push((format!("{module}.{a}"), lora.a.tensor.clone()));
            tensors.push((format!("{module}.{b}"), lora.b.tensor.clone()));
            if let Some(magnitude) = &lora.magnitude {
                let name = format!("{module}.lora_magnitude_vector");
                tensors.push((name, magnitude.tensor.clone()));
            }
            // Writing to a String does not fail.
            let _ = writeln!(scales, "{module} {:08x}", lora.scale.to_bits());
        }
        for (name, whole) in &self.whole {
            tensors.push((name.clone(), whole.named.tensor.clone()));
        }
        (tensors, scales)
    }
}

/// Whether a tensor is a bias of a module of `modules_to_save`, whose bias is among these names
/// already: with `bias="all"`, peft writes the same once more, and the base model's.
fn is_second_bias(name: &str, names: &BTreeSet<String>) -> bool {
    [".modules_to_save.bias", ".original_module.bias"]
        .iter()
        .filter_map(|end| name.strip_suffix(end))
        .any(|module| names.contains(&format!("{module}.bias")))
}

impl Named {
    /// The error for this tensor; `problem` follows its name.
    pub(super) fn refused(&self, problem: impl Into<String>) -> Error {
        Error::AdapterTensor {
            path: self.tensor.path().to_owned(),
            name: self.name.clone(),
            problem: problem.into(),
        }
    }
}

/// Where a tensor belongs.
enum Placed {
    /// To LoRA in this module.
    Lora(String, Role),
    /// It is this tensor of the model, and of a module with LoRA if so.
    Whole(String, bool),
}

/// Where a tensor belongs, by its name. Older peft kept the name of the adapter in it, as in
/// `query.lora_A.default.weight`.
fn placed(named: &Named) -> Result<Placed, Error> {
    let name = named.name.strip_prefix(WRAPPERS).unwrap_or(&named.name);
    let parts: Vec<&str> = name.split('.').collect();
    let Some(at) = parts.iter().position(|part| part.starts_with("lora_")) else {
        let is_of_lora = parts.contains(&"base_layer");
        let kept = parts.iter().filter(|part| **part != "base_layer");
        let name: Vec<&str> = kept.copied().collect();
        return Ok(Placed::Whole(name.join("."), is_of_lora));
    };
    let role = match parts[at] {
        "lora_A" => Role::A,
        "lora_B" => Role::B,
        "lora_embedding_A" => Role::EmbeddingA,
        "lora_embedding_B" => Role::EmbeddingB,
        "lora_magnitude_vector" => Role::Magnitude,
        _ => return Err(named.refused(UNKNOWN)),
    };
    let ends_with_weight = parts.last() == Some(&"weight");
    let is_matrix = matches!(role, Role::A | Role::B);
    let rest = parts.len() - at - 1 - usize::from(ends_with_weight);
    if rest > 1 || (is_matrix && !ends_with_weight) {
        return Err(named.refused(UNKNOWN));
    }
    Ok(Placed::Lora(parts[..at].join("."), role))
}

const UNKNOWN: &str = "which is not of LoRA as it is read here: merge it with `merge_and_unload()` of peft, and save \
     that";

/// LoRA in a module, from its tensors.
fn lora(
    module: &str,
    mut tensors: BTreeMap<Role, Named>,
    settings: &Settings,
) -> Result<Lora, Error> {
    let is_embedding = !tensors.contains_key(&Role::A) && !tensors.contains_key(&Role::B);
    let (a, b) = match is_embedding {
        false => (Role::A, Role::B),
        true => (Role::EmbeddingA, Role::EmbeddingB),
    };
    let (a, b, magnitude) = (
        tensors.remove(&a),
        tensors.remove(&b),
        tensors.remove(&Role::Magnitude),
    );
    let other = tensors.into_values().next();
    let (a, b) = match (a, b, other) {
        (Some(a), Some(b), None) => (a, b),
        (_, _, Some(other)) => {
            return Err(
                other.refused("although its module has LoRA of another kind: save it again")
            );
        }
        (a, b, None) => {
            let half = a.or(b).or(magnitude).expect("a module has a tensor");
            return Err(half.refused(
                "without the other matrix of its module: it is half an adapter, save or fetch it \
                 again",
            ));
        }
    };
    let rank = settings.rank(module)?;
    let shapes = (a.tensor.shape(), b.tensor.shape());
    let outputs = match shapes {
        (&[of_a, inputs], &[outputs, of_b])
            if [of_a, of_b].map(|rank| rank as f64) == [rank; 2] && of_a > 0 && inputs > 0 =>
        {
            outputs
        }
        _ => {
            return Err(b.refused(format!(
                "which is {:?}, and lora_A {:?}, where rank {rank} of adapter_config.json makes \
                 them [_, {rank}] and [{rank}, _]: the file is another adapter's, or was saved in \
                 parts",
                shapes.1, shapes.0
            )));
        }
    };
    match (&magnitude, settings.use_dora) {
        (None, false) => {}
        (Some(magnitude), true) if magnitude.tensor.shape() == [outputs] && !is_embedding => {}
        (None, true) => {
            return Err(b.refused("without the lora_magnitude_vector of DoRA: save it again"));
        }
        (Some(magnitude), _) => return Err(magnitude.refused(UNKNOWN)),
    }
    let scale = settings.scale(module)?;
    if !scale.is_finite() {
        return Err(b.refused(format!(
            "whose factor by adapter_config.json is {scale}: save the adapter again"
        )));
    }
    Ok(Lora {
        scale,
        a,
        b,
        is_embedding,
        magnitude,
    })
}
