//! What a model can give. It depends on its configuration, its heads and the number format, so no
//! weights are needed to know.

use plm_core::{Dtype, NoSuchLayer, OutputKind, OutputSet, OutputSpec, Per};

use crate::{Config, Error, NoInt8, VOCABULARY};

/// What decides the outputs of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Abilities<'a> {
    /// The model's name.
    pub(crate) model: &'a str,
    pub(crate) config: &'a Config,
    /// The number format that the model computes in.
    pub(crate) dtype: Dtype,
    /// Whether there is a masked-language-model head.
    pub(crate) has_lm_head: bool,
    pub(crate) has_contact_head: bool,
}

impl Abilities<'_> {
    /// One spec for each output, or the reason why the model can't give one of them.
    pub(crate) fn specs(&self, outputs: &OutputSet) -> Result<Vec<OutputSpec>, Error> {
        let model = || self.model.to_owned();
        let resolved = outputs.resolve(self.config.num_layers);
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
            match kind {
                OutputKind::Logits if !self.has_lm_head => {
                    Err(Error::NoLanguageModelHead { model: model() })
                }
                OutputKind::Contacts if !self.has_contact_head => {
                    Err(Error::NoContactHead { model: model() })
                }
                _ => Ok(self.spec(kind, layer, outputs)),
            }
        });
        given.collect()
    }

    /// Why int8 can't give this output, if it can't. The stream is rotated back after it is pooled,
    /// so only what is linear in a sequence's rows can be had.
    fn not_in_int8(&self, kind: OutputKind, layer: usize) -> Option<NoInt8> {
        match (self.dtype, kind) {
            (Dtype::Int8, OutputKind::Mean) if layer == self.config.num_layers => None,
            (Dtype::Int8, OutputKind::Mean) => Some(NoInt8::Layer(layer)),
            (Dtype::Int8, _) => Some(NoInt8::Output(kind)),
            _ => None,
        }
    }

    fn spec(&self, kind: OutputKind, layer: usize, outputs: &OutputSet) -> OutputSpec {
        let width = match kind {
            OutputKind::Mean | OutputKind::Bos | OutputKind::Max | OutputKind::Residues => {
                self.config.hidden_size
            }
            OutputKind::Logits => VOCABULARY.len(),
            OutputKind::Contacts => 1,
        };
        let dtype = match kind.per() {
            Per::Sequence => Dtype::F32,
            Per::Residue | Per::Pair => outputs.residues_dtype(),
        };
        OutputSpec {
            dtype,
            ..OutputSpec::new(kind, layer, width)
        }
    }
}
