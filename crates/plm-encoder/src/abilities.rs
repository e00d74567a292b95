//! What a model can give. It depends on its sizes, its heads and the number format, so no weights
//! are needed to know.

use plm_core::{Dtype, NoSuchLayer, OutputKind, OutputSet, OutputSpec, Per};

use crate::{Error, FamilyCheckpoint, Heads, NoInt8, Sizes};

/// What decides the outputs of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Abilities {
    sizes: Sizes,
    /// The number format that the model computes in.
    dtype: Dtype,
    heads: Heads,
}

impl Abilities {
    /// Of the model of a checkpoint in `dtype`.
    pub(crate) fn of(checkpoint: &dyn FamilyCheckpoint, dtype: Dtype) -> Self {
        Self {
            sizes: checkpoint.sizes(),
            dtype,
            heads: checkpoint.heads(),
        }
    }

    /// One spec for each output, or the reason why the model of this name can't give one of them.
    pub(crate) fn specs(&self, name: &str, outputs: &OutputSet) -> Result<Vec<OutputSpec>, Error> {
        let model = || name.to_owned();
        let resolved = outputs.resolve(self.sizes.num_layers);
        let resolved =
            resolved.map_err(|NoSuchLayer { layer, num_layers }| Error::NoSuchLayer {
                model: model(),
                layer,
                num_layers,
            })?;
        let given = resolved.into_iter().map(|(kind, layer)| {
            if let Some(why) = self.not_in_int8(kind, layer) {
                let model = model();
                return Err(Error::NoInt8 { model, why });
            }
            let width = self.width(kind).map_err(|lacks| Error::NoHead {
                model: model(),
                lacks,
                kind,
            })?;
            let dtype = match kind.per() {
                Per::Sequence => Dtype::F32,
                Per::Residue | Per::Pair => outputs.residues_dtype(),
            };
            Ok(OutputSpec {
                dtype,
                ..OutputSpec::new(kind, layer, width)
            })
        });
        given.collect()
    }

    /// Why int8 can't give this output, if it can't. The stream is rotated back after it is pooled,
    /// so only what is linear in a sequence's rows can be had.
    fn not_in_int8(&self, kind: OutputKind, layer: usize) -> Option<NoInt8> {
        match (self.dtype, kind) {
            (Dtype::Int8, OutputKind::Mean) if layer == self.sizes.num_layers => None,
            (Dtype::Int8, OutputKind::Mean) => Some(NoInt8::Layer(layer)),
            (Dtype::Int8, _) => Some(NoInt8::Output(kind)),
            _ => None,
        }
    }

    /// The width of an output; or what the model lacks to give it.
    fn width(&self, kind: OutputKind) -> Result<usize, &'static str> {
        match kind {
            OutputKind::Mean | OutputKind::Bos | OutputKind::Max | OutputKind::Residues => {
                Ok(self.sizes.hidden_size)
            }
            OutputKind::Logits => self.heads.logits,
            OutputKind::Contacts => self.heads.contacts.map(|()| 1),
        }
    }
}
