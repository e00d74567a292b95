//! Merges an adapter into the tensors of its base model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Adapter;
use super::parts::{Lora, Named, Whole};
use crate::change::{Change, LowRank};
use crate::{Error, Layout, Other, StoredTensor, TensorShape};

/// A base model whose own tensors have been chosen.
pub(crate) struct Base<'a, L> {
    /// The directory of the model's files, or the only file.
    pub(crate) place: &'a Path,
    pub(crate) layout: &'a L,
    /// The tensors that the model uses, by their canonical names.
    pub(crate) used: &'a mut BTreeMap<String, StoredTensor>,
    pub(crate) passed_over: &'a mut Vec<String>,
}

/// Merges an adapter into a model, as peft's `merge_and_unload` does, but when values are read.
///
/// # Errors
/// [`Error::ForeignAdapter`], [`Error::AdapterTensor`] or [`Error::HalfAdapter`] if it does not fit
/// the model.
pub(crate) fn merge(adapter: &Adapter, base: Base<'_, impl Layout>) -> Result<(), Error> {
    let shapes = Shapes {
        trunk: base.layout.required().into_iter().collect(),
        heads: base.layout.heads(),
    };
    let mut merging = Merging {
        trunk: shapes.find_trunk(adapter, &base)?,
        adapter,
        base,
        shapes,
        changes: BTreeMap::new(),
    };
    merging.take_whole()?;
    merging.take_lora()?;
    merging.check_targets()?;
    for (name, change) in merging.changes {
        let tensor = merging.base.used.get_mut(&name);
        let tensor = tensor.expect("only tensors that are used are changed");
        *tensor = tensor.changed(change);
    }
    Ok(())
}

/// An adapter on its way into a model.
struct Merging<'a, L> {
    adapter: &'a Adapter,
    base: Base<'a, L>,
    shapes: Shapes,
    trunk: Trunk,
    /// What becomes of tensors, by their canonical names.
    changes: BTreeMap<String, Change>,
}

impl<L: Layout> Merging<'_, L> {
    /// Takes the tensors that the adapter has whole. A head of which it has a copy of its own is
    /// passed over, and so is the base model's.
    fn take_whole(&mut self) -> Result<(), Error> {
        let mut replaced = BTreeSet::new();
        for (name, whole) in &self.adapter.parts.whole {
            let (canonical, shape) = match self.place(name) {
                Place::Trunk(canonical, shape) => (canonical, shape),
                Place::Head(canonical, shape) if !whole.is_saved => (canonical, shape),
                Place::Head(canonical, _) => {
                    replaced.insert(module_of(&canonical).to_owned());
                    self.pass_over([&whole.named]);
                    continue;
                }
                Place::Stacked(_) => return Err(whole.named.refused(STACKED)),
                Place::Elsewhere(canonical) => {
                    whole.check_elsewhere(self.base.layout.other(&canonical))?;
                    // It may be a part of a head that the model computes from its trunk.
                    if whole.is_saved {
                        replaced.insert(module_of(&canonical).to_owned());
                    }
                    self.pass_over([&whole.named]);
                    continue;
                }
            };
            if !self.base.used.contains_key(&canonical) {
                self.pass_over([&whole.named]);
                continue;
            }
            if whole.named.tensor.shape() != shape {
                return Err(whole.named.refused(format!(
                    "which is {:?} where the base model has {shape:?}: {OTHER_BASE}",
                    whole.named.tensor.shape()
                )));
            }
            let replacement = Change::Replaced(whole.named.tensor.clone());
            self.note(canonical, replacement, &whole.named)?;
        }
        for head in &self.shapes.heads {
            let is_replaced = |(name, _): &TensorShape| replaced.contains(module_of(name));
            if head.iter().any(is_replaced) {
                for (name, _) in head {
                    self.changes.remove(name);
                    if self.base.used.remove(name).is_some() {
                        self.base.passed_over.push(name.clone());
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes the matrices of LoRA.
    fn take_lora(&mut self) -> Result<(), Error> {
        for (module, lora) in &self.adapter.parts.lora {
            if self.adapter.settings.is_target(module)? == Some(false) {
                return Err(lora.b.refused(
                    "whose module adapter_config.json does not name, so that peft does not load \
                     it: save the adapter again",
                ));
            }
            let (canonical, shape) = match self.place(&format!("{module}.weight")) {
                Place::Trunk(canonical, shape) | Place::Head(canonical, shape) => {
                    (canonical, shape)
                }
                Place::Stacked(parts) => {
                    let split = lora.split_rows(parts.len());
                    let split = split.ok_or_else(|| lora.b.refused(no_module()))?;
                    for ((canonical, shape), lora) in parts.into_iter().zip(split) {
                        self.add(canonical, &shape, &lora)?;
                    }
                    continue;
                }
                Place::Elsewhere(canonical) => match self.base.layout.other(&canonical) {
                    Other::PassedOver => {
                        self.pass_over([&lora.a, &lora.b]);
                        continue;
                    }
                    Other::Ignored => return Err(lora.b.refused(COMPUTED)),
                    Other::Refused => return Err(lora.b.refused(no_module())),
                },
            };
            self.add(canonical, &shape, lora)?;
        }
        Ok(())
    }

    /// Adds LoRA to a tensor of this shape.
    fn add(&mut self, canonical: String, shape: &[usize], lora: &Lora) -> Result<(), Error> {
        // The head may be one that the model's files lack, or that is passed over.
        let Some(stored) = self.base.used.get(&canonical) else {
            self.pass_over([&lora.a, &lora.b]);
            return Ok(());
        };
        lora.check_shape(shape)?;
        let to = match self.changes.remove(&canonical) {
            Some(Change::Replaced(tensor)) => tensor,
            Some(Change::Added { .. }) => return Err(twice(&lora.b)),
            None => stored.clone(),
        };
        let low_rank = Box::new(lora.low_rank());
        self.note(canonical, Change::Added { to, low_rank }, &lora.b)
    }

    /// Refuses an adapter without the LoRA of a matrix that its settings name.
    fn check_targets(&self) -> Result<(), Error> {
        // The settings name modules as the model is called where it was trained.
        if !self.trunk.is_canonical {
            return Ok(());
        }
        let matrices = self
            .shapes
            .trunk
            .iter()
            .filter(|(_, shape)| shape.len() == 2);
        let modules = matrices.filter_map(|(name, _)| name.strip_suffix(".weight"));
        for module in modules.map(|module| format!("{}{module}", self.trunk.prefix)) {
            if !self.adapter.parts.lora.contains_key(&module)
                && self.adapter.settings.is_target(&module)? == Some(true)
            {
                return Err(Error::HalfAdapter {
                    path: self.adapter.path.clone(),
                    module,
                });
            }
        }
        Ok(())
    }

    /// Where a tensor of this name in the adapter is in the model.
    fn place(&self, name: &str) -> Place {
        let layout = self.base.layout;
        let of_trunk = name.strip_prefix(&self.trunk.prefix);
        if let Some(rest) = of_trunk
            && let Some((canonical, shape)) = self.shapes.of_trunk(rest, layout)
        {
            return Place::Trunk(canonical, shape.clone());
        }
        if let Some(parts) = of_trunk.and_then(|rest| self.shapes.stacked(rest, layout)) {
            return Place::Stacked(parts);
        }
        // A head is below the trunk's prefix or beside it, in whatever wraps the model.
        let canonical = match of_trunk {
            Some(rest) => layout.canonical_in_adapter(rest),
            None => layout.canonical(name),
        };
        let is_it = |known: &str| {
            let before = canonical.strip_suffix(known);
            before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        let mut heads = self.shapes.heads.iter().flatten();
        match heads.find(|(known, _)| is_it(known)) {
            Some((known, shape)) => Place::Head(known.clone(), shape.clone()),
            None => Place::Elsewhere(canonical),
        }
    }

    /// Notes a change of a tensor that has none yet.
    fn note(&mut self, canonical: String, change: Change, named: &Named) -> Result<(), Error> {
        match self.changes.insert(canonical, change) {
            None => Ok(()),
            Some(_) => Err(twice(named)),
        }
    }

    fn pass_over<const N: usize>(&mut self, tensors: [&Named; N]) {
        let names = tensors.map(|named| named.name.clone());
        self.base.passed_over.extend(names);
    }
}

/// The shapes of all tensors that a model may use.
struct Shapes {
    trunk: BTreeMap<String, Vec<usize>>,
    heads: Vec<Vec<TensorShape>>,
}

/// Where an adapter has the model's trunk.
struct Trunk {
    /// What its names have before the trunk's.
    prefix: String,
    /// Whether its names are the canonical ones after that.
    is_canonical: bool,
}

/// Where a tensor is in a model, with its canonical name and the shape that it has there.
enum Place {
    Trunk(String, Vec<usize>),
    Head(String, Vec<usize>),
    /// It is several of the trunk, one above the other.
    Stacked(Vec<TensorShape>),
    /// In no place that the model uses.
    Elsewhere(String),
}

impl Shapes {
    /// The only place where the names of an adapter lead to the trunk. Where LoRA is tells more
    /// than what was saved whole, for example a head's own layer norm.
    fn find_trunk(&self, adapter: &Adapter, base: &Base<'_, impl Layout>) -> Result<Trunk, Error> {
        let mut found: Option<Trunk> = None;
        for (module, lora) in &adapter.parts.lora {
            let name = format!("{module}.weight");
            let Some(trunk) = self.trunk_above(&name, base.layout) else {
                continue;
            };
            match &mut found {
                None => found = Some(trunk),
                Some(first) if first.prefix == trunk.prefix => {
                    first.is_canonical &= trunk.is_canonical;
                }
                Some(first) => {
                    return Err(lora.b.refused(format!(
                        "and others of a model below {:?}: an adapter of several models is not \
                         read",
                        first.prefix
                    )));
                }
            }
        }
        let mut whole = adapter.parts.whole.keys();
        let found = found.or_else(|| whole.find_map(|name| self.trunk_above(name, base.layout)));
        let lora = adapter.parts.lora.keys();
        match found {
            Some(found) => Ok(found),
            // An adapter may be in a head alone, which has its name below any prefix.
            None if lora.into_iter().any(|module| self.has_head(module)) => Ok(Trunk {
                prefix: String::new(),
                is_canonical: false,
            }),
            None => Err(Error::ForeignAdapter {
                path: adapter.path.clone(),
                model: base.place.to_owned(),
            }),
        }
    }

    /// Whether a module is in one of the heads.
    fn has_head(&self, module: &str) -> bool {
        let mut heads = self.heads.iter().flatten();
        heads.any(|(name, _)| module.split('.').any(|part| part == module_of(name)))
    }

    /// The trunk whose tensor a name is, with whatever stands before it.
    fn trunk_above(&self, name: &str, layout: &impl Layout) -> Option<Trunk> {
        let starts = name.match_indices('.').map(|(at, _)| at + 1);
        let splits = [0].into_iter().chain(starts).map(|at| name.split_at(at));
        let above = |is_canonical| {
            move |(prefix, _): (&str, &str)| Trunk {
                prefix: prefix.to_owned(),
                is_canonical,
            }
        };
        let is_canonical = |(_, rest): &(&str, &str)| self.trunk.contains_key(*rest);
        let is_known = |(_, rest): &(&str, &str)| {
            self.of_trunk(rest, layout).is_some() || self.stacked(rest, layout).is_some()
        };
        let canonical = splits.clone().find(is_canonical).map(above(true));
        canonical.or_else(|| splits.clone().find(is_known).map(above(false)))
    }

    /// The canonical name and the shape of a tensor of the trunk. A canonical name is taken as it
    /// is, whatever the names in the model's files are.
    fn of_trunk(&self, name: &str, layout: &impl Layout) -> Option<(String, &Vec<usize>)> {
        let mut names = [name.to_owned(), layout.canonical_in_adapter(name)].into_iter();
        names.find_map(|name| {
            let shape = self.trunk.get(&name)?;
            Some((name, shape))
        })
    }

    /// The tensors of the trunk that are one in the model of an adapter, one above the other, with
    /// their shapes.
    fn stacked(&self, name: &str, layout: &impl Layout) -> Option<Vec<TensorShape>> {
        let names = layout.stacked(&layout.canonical_in_adapter(name));
        let part = |name: String| {
            let shape = self.trunk.get(&name)?.clone();
            Some((name, shape))
        };
        let parts: Vec<TensorShape> = names.into_iter().map(part).collect::<Option<_>>()?;
        (!parts.is_empty()).then_some(parts)
    }
}

impl Whole {
    /// Refuses a tensor that is in no place that the model uses, if it needs it.
    fn check_elsewhere(&self, other: Other) -> Result<(), Error> {
        match other {
            Other::PassedOver => Ok(()),
            Other::Ignored if self.is_saved || self.named.name.ends_with(".bias") => Ok(()),
            Other::Ignored => Err(self.named.refused(COMPUTED)),
            Other::Refused => Err(self.named.refused(no_module())),
        }
    }
}

impl Lora {
    /// Refuses matrices that don't fit a tensor of this shape.
    fn check_shape(&self, shape: &[usize]) -> Result<(), Error> {
        let (inputs, outputs) = (self.a.tensor.shape()[1], self.b.tensor.shape()[0]);
        let own = match self.is_embedding {
            false => [outputs, inputs],
            true => [inputs, outputs],
        };
        if own == *shape {
            return Ok(());
        }
        let is_of_b = shape.get(usize::from(self.is_embedding)) != Some(&outputs);
        let named = if is_of_b { &self.b } else { &self.a };
        Err(named.refused(format!(
            "which is for a matrix of {own:?} where the base model has one of {shape:?}: \
             {OTHER_BASE}"
        )))
    }

    /// LoRA of each of so many matrices of equal heights that are one in the adapter's model;
    /// `None` if its rows can't be shared out. What is added to a row, and its norm in DoRA,
    /// depends on no other row.
    fn split_rows(&self, parts: usize) -> Option<Vec<Self>> {
        if self.is_embedding {
            return None;
        }
        let named = |of: &Named| {
            let tensors = of.tensor.split_rows(parts)?.into_iter();
            let named = tensors.map(|tensor| Named {
                name: of.name.clone(),
                tensor,
            });
            Some(named.collect::<Vec<_>>())
        };
        let magnitudes = match &self.magnitude {
            None => vec![None; parts],
            Some(magnitude) => named(magnitude)?.into_iter().map(Some).collect(),
        };
        let parts = named(&self.b)?.into_iter().zip(magnitudes);
        let part = |(b, magnitude)| Self {
            b,
            magnitude,
            ..self.clone()
        };
        Some(parts.map(part).collect())
    }

    fn low_rank(&self) -> LowRank {
        LowRank {
            a: self.a.tensor.clone(),
            b: self.b.tensor.clone(),
            b_name: self.b.name.clone(),
            is_embedding: self.is_embedding,
            scale: self.scale,
            magnitude: (self.magnitude.as_ref()).map(|named| named.tensor.clone()),
        }
    }
}

/// The outermost module of a tensor.
fn module_of(canonical_name: &str) -> &str {
    canonical_name.split('.').next().unwrap_or_default()
}

fn twice(named: &Named) -> Error {
    Error::DuplicateTensor {
        path: named.tensor.path().to_owned(),
        name: named.name.clone(),
    }
}

const OTHER_BASE: &str = "the adapter was made for another base model, name that one";

const COMPUTED: &str = "which the model computes from others: merge it with `merge_and_unload()` \
                        of peft, and save that";

const STACKED: &str = "which is several tensors of the model as one, and is read of LoRA alone: \
                       merge it with `merge_and_unload()` of peft, and save that";

fn no_module() -> String {
    format!("of a module that the base model does not have: {OTHER_BASE}")
}
