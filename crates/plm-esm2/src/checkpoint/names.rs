//! Which tensors an ESM-2 has, and their names in files.

use std::mem;

use plm_checkpoint::{FoundTensors, Layout, Other, TensorShape};

use super::fair_esm;
use crate::alphabet::VOCABULARY;
use crate::{Config, Error};

/// A tensor of the language-model head: if it exists, the head does.
pub(super) const LM_HEAD_PROBE: &str = "lm_head.dense.weight";

/// The weights of the contact head's regression: if they exist, the head does.
pub(super) const CONTACT_WEIGHTS: &str = "contact_head.regression.weight";

/// The bias of the contact head's regression.
pub(super) const CONTACT_BIAS: &str = "contact_head.regression.bias";

/// The token embedding, by which a trunk is found: every ESM-2 has one with this name, or with
/// fair-esm's.
pub(super) const EMBEDDING: &str = "embeddings.word_embeddings.weight";

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

    /// The library whose names the files use.
    pub(super) fn library(&self) -> &'static str {
        match self.prefix {
            Prefix::Transformers(_) => "transformers",
            Prefix::FairEsm(_) => "fair-esm",
        }
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

/// The prefix of a trunk's names, and whose names they are.
#[derive(Debug)]
enum Prefix {
    /// Of transformers: nothing in `EsmModel`, `esm.` in `EsmForMaskedLM`, and more in models that
    /// wrap these.
    Transformers(String),
    /// Of fair-esm: nothing in an `ESM2`, `encoder.sentence_encoder.` as it was trained, and more
    /// in what wraps these.
    FairEsm(String),
}

impl Prefix {
    /// The prefix of the only trunk with the width of `config` among these tensors.
    fn find(found: &FoundTensors, config: &Config) -> Result<Self, Error> {
        let embeddings = found.iter().filter(|(_, tensor)| {
            matches!(tensor.shape(), &[rows, width] if rows == VOCABULARY.len() && width == config.hidden_size)
        });
        let prefix_of = |name: &'_ str| -> Option<(bool, String)> {
            let (is_fair_esm, prefix) = match name.strip_suffix(EMBEDDING) {
                Some(prefix) => (false, prefix),
                None => (true, name.strip_suffix(fair_esm::TRUNK_PROBE)?),
            };
            let is_whole = prefix.is_empty() || prefix.ends_with('.');
            is_whole.then(|| (is_fair_esm, prefix.to_owned()))
        };
        let mut prefixes: Vec<_> = embeddings.filter_map(|(name, _)| prefix_of(name)).collect();
        // A tensor that is there twice under one name is refused later.
        prefixes.sort_unstable();
        prefixes.dedup();
        match &mut prefixes[..] {
            // The error then names the tensor of an `EsmForMaskedLM` that is missing or wrong.
            [] => Ok(Self::Transformers("esm.".to_owned())),
            [(false, one)] => Ok(Self::Transformers(mem::take(one))),
            [(true, one)] => Ok(Self::FairEsm(mem::take(one))),
            // One trunk has both names: its tensors that are there twice are refused later.
            [(false, bare), (false, esm)] if bare.is_empty() && esm == "esm." => {
                Ok(Self::Transformers(mem::take(esm)))
            }
            _ => Err(Error::SeveralTrunks {
                path: found.place().to_owned(),
                prefixes: prefixes.into_iter().map(|(_, prefix)| prefix).collect(),
            }),
        }
    }

    /// The canonical name of a tensor.
    fn canonical(&self, name: &str) -> String {
        match self {
            Self::Transformers(prefix) => of_transformers(prefix, name),
            Self::FairEsm(prefix) => fair_esm::canonical(prefix, name),
        }
    }
}

/// The canonical name of a tensor of transformers, whose trunk has this prefix. It has written
/// layer norms as `weight` and `bias`, and as `gamma` and `beta`.
fn of_transformers(prefix: &str, name: &str) -> String {
    let of_trunk = name
        .strip_prefix(prefix)
        .filter(|_| !prefix.is_empty())
        .or_else(|| name.strip_prefix("esm."));
    // A head has the trunk's prefix without `esm.`.
    let wrappers = prefix.strip_suffix("esm.").unwrap_or(prefix);
    let name = of_trunk
        .or_else(|| name.strip_prefix(wrappers))
        .unwrap_or(name);
    match name.rsplit_once("LayerNorm.") {
        Some((stem, "gamma")) => format!("{stem}LayerNorm.weight"),
        Some((stem, "beta")) => format!("{stem}LayerNorm.bias"),
        _ => name.to_owned(),
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
    let mut tensors = vec![(EMBEDDING.to_owned(), vec![VOCABULARY.len(), hidden])];
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
            let prefix = Prefix::Transformers(prefix.to_owned());
            for name in names {
                assert_eq!(prefix.canonical(name), "encoder.layer.0.LayerNorm.weight");
            }
            let head = "lm_head.layer_norm.bias";
            assert_eq!(prefix.canonical(head), head);
        }
        let wrapped = Prefix::Transformers("base_model.model.esm.".to_owned());
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
