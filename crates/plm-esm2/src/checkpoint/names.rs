//! Which tensors an ESM-2 has, and their names in files.

use plm_checkpoint::{FoundTensors, Layout, Other, TensorShape};

use crate::alphabet::VOCABULARY;
use crate::{Config, Error};

/// A tensor of the language-model head: if it exists, the head does.
pub(super) const LM_HEAD_PROBE: &str = "lm_head.dense.weight";

/// The weights of the contact head's regression: if they exist, the head does.
pub(super) const CONTACT_WEIGHTS: &str = "contact_head.regression.weight";

/// The bias of the contact head's regression.
pub(super) const CONTACT_BIAS: &str = "contact_head.regression.bias";

/// A tensor by which a trunk is found: every ESM-2 has one with this name.
const TRUNK_PROBE: &str = "embeddings.word_embeddings.weight";

/// Whether the files of any ESM-2 may have a tensor that is not used: tables that can be computed,
/// and the decoder that is tied to the embedding.
fn is_ignored(name: &str) -> bool {
    const NAMES: [&str; 5] = [
        "embeddings.position_ids",
        "embeddings.position_embeddings.weight",
        "rotary_embeddings.inv_freq",
        "lm_head.decoder.weight",
        "lm_head.decoder.bias",
    ];
    NAMES.contains(&name) || name.ends_with(".rotary_embeddings.inv_freq")
}

/// Whether a tensor is of the trunk. A model without it would compute something else.
fn is_of_trunk(name: &str) -> bool {
    name.starts_with("embeddings.") || name.starts_with("encoder.")
}

/// The tensors of an ESM-2 of one configuration, and the prefix of their names in some files.
pub(super) struct Names<'a> {
    config: &'a Config,
    prefix: Prefix,
}

impl<'a> Names<'a> {
    /// The names under which `found` has a trunk.
    ///
    /// # Errors
    /// [`Error::SeveralTrunks`] if it has more than one.
    pub(super) fn find(found: &FoundTensors, config: &'a Config) -> Result<Self, Error> {
        let prefix = Prefix::find(found, config)?;
        Ok(Self { config, prefix })
    }
}

impl Layout for Names<'_> {
    fn family(&self) -> &str {
        "ESM-2"
    }

    fn required(&self) -> Vec<TensorShape> {
        encoder(self.config)
    }

    fn heads(&self) -> Vec<Vec<TensorShape>> {
        vec![lm_head(self.config), contact_head(self.config)]
    }

    fn canonical(&self, name: &str) -> String {
        self.prefix.canonical(name)
    }

    fn other(&self, canonical_name: &str) -> Other {
        if is_ignored(canonical_name) {
            Other::Ignored
        } else if is_of_trunk(canonical_name) {
            Other::Refused
        } else {
            Other::PassedOver
        }
    }
}

/// The prefix of a trunk's names: nothing in `EsmModel`, `esm.` in `EsmForMaskedLM`, and more in
/// models that wrap these.
#[derive(Debug)]
struct Prefix(String);

impl Prefix {
    /// The prefix of the only trunk with the width of `config` among these tensors.
    fn find(found: &FoundTensors, config: &Config) -> Result<Self, Error> {
        let mut prefixes: Vec<&str> = found
            .iter()
            .filter(|(_, tensor)| {
                matches!(tensor.shape(), &[rows, width] if rows == VOCABULARY.len() && width == config.hidden_size)
            })
            .filter_map(|(name, _)| name.strip_suffix(TRUNK_PROBE))
            .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
            .collect();
        // A tensor that is there twice under one name is refused later.
        prefixes.sort_unstable();
        prefixes.dedup();
        match prefixes[..] {
            // The error then names the tensor of an `EsmForMaskedLM` that is missing or wrong.
            [] => Ok(Self("esm.".to_owned())),
            [one] => Ok(Self(one.to_owned())),
            // One trunk has both names: its tensors that are there twice are refused later.
            [_, _] if prefixes.contains(&"") && prefixes.contains(&"esm.") => {
                Ok(Self("esm.".to_owned()))
            }
            _ => Err(Error::SeveralTrunks {
                path: found.dir().to_owned(),
                prefixes: prefixes.into_iter().map(str::to_owned).collect(),
            }),
        }
    }

    /// The canonical name of a tensor. transformers has written layer norms as `weight` and `bias`,
    /// and as `gamma` and `beta`.
    fn canonical(&self, name: &str) -> String {
        let of_trunk = name
            .strip_prefix(&*self.0)
            .filter(|_| !self.0.is_empty())
            .or_else(|| name.strip_prefix("esm."));
        // A head has the trunk's prefix without `esm.`.
        let wrappers = self.0.strip_suffix("esm.").unwrap_or(&self.0);
        let name = of_trunk
            .or_else(|| name.strip_prefix(wrappers))
            .unwrap_or(name);
        match name.rsplit_once("LayerNorm.") {
            Some((stem, "gamma")) => format!("{stem}LayerNorm.weight"),
            Some((stem, "beta")) => format!("{stem}LayerNorm.bias"),
            _ => name.to_owned(),
        }
    }
}

/// Every tensor of the encoder with its shape. The order depends on the configuration alone.
pub(super) fn encoder(config: &Config) -> Vec<TensorShape> {
    let (hidden, ffn) = (config.hidden_size, config.ffn_size);
    let layer: [(&str, Vec<usize>); 16] = [
        ("attention.self.query.weight", vec![hidden, hidden]),
        ("attention.self.query.bias", vec![hidden]),
        ("attention.self.key.weight", vec![hidden, hidden]),
        ("attention.self.key.bias", vec![hidden]),
        ("attention.self.value.weight", vec![hidden, hidden]),
        ("attention.self.value.bias", vec![hidden]),
        ("attention.output.dense.weight", vec![hidden, hidden]),
        ("attention.output.dense.bias", vec![hidden]),
        ("attention.LayerNorm.weight", vec![hidden]),
        ("attention.LayerNorm.bias", vec![hidden]),
        ("intermediate.dense.weight", vec![ffn, hidden]),
        ("intermediate.dense.bias", vec![ffn]),
        ("output.dense.weight", vec![hidden, ffn]),
        ("output.dense.bias", vec![hidden]),
        ("LayerNorm.weight", vec![hidden]),
        ("LayerNorm.bias", vec![hidden]),
    ];
    let embedding = "embeddings.word_embeddings.weight".to_owned();
    let mut tensors = vec![(embedding, vec![VOCABULARY.len(), hidden])];
    for index in 0..config.num_layers {
        tensors.extend(
            layer
                .iter()
                .map(|(name, shape)| (format!("encoder.layer.{index}.{name}"), shape.clone())),
        );
    }
    for parameter in ["weight", "bias"] {
        let name = format!("encoder.emb_layer_norm_after.{parameter}");
        tensors.push((name, vec![hidden]));
    }
    tensors
}

/// Every tensor of the language-model head except its decoder, which is the token embedding.
pub(super) fn lm_head(config: &Config) -> Vec<TensorShape> {
    let hidden = config.hidden_size;
    let tensors: [(&str, Vec<usize>); 5] = [
        (LM_HEAD_PROBE, vec![hidden, hidden]),
        ("lm_head.dense.bias", vec![hidden]),
        ("lm_head.layer_norm.weight", vec![hidden]),
        ("lm_head.layer_norm.bias", vec![hidden]),
        ("lm_head.bias", vec![VOCABULARY.len()]),
    ];
    tensors.map(|(name, shape)| (name.to_owned(), shape)).into()
}

/// Both tensors of the contact head.
pub(super) fn contact_head(config: &Config) -> Vec<TensorShape> {
    let maps = config.num_layers * config.num_heads;
    vec![
        (CONTACT_WEIGHTS.to_owned(), vec![1, maps]),
        (CONTACT_BIAS.to_owned(), vec![1]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_names_of_a_tensor_lead_to_one() {
        let names = [
            "esm.encoder.layer.0.LayerNorm.gamma",
            "esm.encoder.layer.0.LayerNorm.weight",
            "encoder.layer.0.LayerNorm.gamma",
            "encoder.layer.0.LayerNorm.weight",
        ];
        for prefix in ["", "esm."] {
            let prefix = Prefix(prefix.to_owned());
            for name in names {
                assert_eq!(prefix.canonical(name), "encoder.layer.0.LayerNorm.weight");
            }
            let head = "lm_head.layer_norm.bias";
            assert_eq!(prefix.canonical(head), head);
        }
        let wrapped = Prefix("base_model.model.esm.".to_owned());
        assert_eq!(
            wrapped.canonical("base_model.model.esm.encoder.layer.0.LayerNorm.beta"),
            "encoder.layer.0.LayerNorm.bias"
        );
        assert_eq!(
            wrapped.canonical("base_model.model.lm_head.bias"),
            "lm_head.bias"
        );
    }
}
