//! Which tensors an ESM-2, ESM-1b or ESM-1v has, and their names in files.

use std::mem;

use plm_checkpoint::{FoundTensors, Layout, Other, TensorShape};

use super::fair_esm;
use crate::alphabet::VOCABULARY;
use crate::model_config::Positions;
use crate::{Config, Error};

/// The token embedding, by which a trunk is found: every model has one with this name, or with
/// fair-esm's.
pub(crate) const EMBEDDING: &str = "embeddings.word_embeddings.weight";

/// The table of learned positions.
pub(crate) const POSITIONS: &str = "embeddings.position_embeddings.weight";

/// The layer norm before the first block.
pub(crate) const EMBEDDING_NORM: &str = "embeddings.layer_norm";

/// A tensor of the language-model head: if it exists, the head does.
pub(super) const LM_HEAD_PROBE: &str = "lm_head.dense.weight";

/// The weights of the contact head's regression: if they exist, the head does.
pub(super) const CONTACT_WEIGHTS: &str = "contact_head.regression.weight";

/// The bias of the contact head's regression.
pub(super) const CONTACT_BIAS: &str = "contact_head.regression.bias";

/// Whether the files of any such model may have a tensor that is not used: numbers that can be
/// computed, and the decoder that is tied to the embedding.
fn is_ignored(name: &str) -> bool {
    const NAMES: [&str; 3] = [
        "embeddings.position_ids",
        "lm_head.decoder.weight",
        "lm_head.decoder.bias",
    ];
    NAMES.contains(&name)
}

/// Whether a tensor is of rotary positions, which can be computed.
fn is_of_rotary(name: &str) -> bool {
    name.rsplit_once("rotary_embeddings.")
        .is_some_and(|(above, what)| {
            what == "inv_freq" && (above.is_empty() || above.ends_with('.'))
        })
}

/// Whether a tensor is of the trunk. A model without it would compute something else.
fn is_of_trunk(name: &str) -> bool {
    name.starts_with("embeddings.") || name.starts_with("encoder.")
}

/// The tensors of a model of one configuration, and the prefix of their names in some files.
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

    /// Whether the embedding of a masked token is zero, whatever the file has: fair-esm makes it so
    /// when it loads an ESM-1b or ESM-1v, and the models in transformers' layout were made of what
    /// it loads.
    pub(super) fn masks_are_zero(&self) -> bool {
        match (&self.prefix, self.config.positions) {
            (Prefix::FairEsm(_), Positions::Learned { .. }) => true,
            (Prefix::FairEsm(_), Positions::Rotary) | (Prefix::Transformers(_), _) => false,
        }
    }
}

impl Layout for Names<'_> {
    fn family(&self) -> &str {
        self.config.family()
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

    fn canonical_in_adapter(&self, name: &str) -> String {
        let canonical = self.canonical(name);
        match canonical == name {
            // The models of fair-esm have its names without the prefix of its files. Whatever the
            // files of the base are, it is the same model.
            true => fair_esm::canonical("", name),
            false => canonical,
        }
    }

    fn other(&self, canonical_name: &str) -> Other {
        // Older versions of transformers gave an ESM-2 a table of positions, and used none.
        let is_ignored = is_ignored(canonical_name)
            || match (self.config.positions, &self.prefix) {
                (Positions::Rotary, Prefix::Transformers(_)) => {
                    is_of_rotary(canonical_name) || canonical_name == POSITIONS
                }
                (Positions::Rotary, Prefix::FairEsm(_)) => is_of_rotary(canonical_name),
                (Positions::Learned { .. }, _) => false,
            };
        if is_ignored {
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
    /// Of fair-esm: nothing in an `ESM2` or a `ProteinBertModel`, `encoder.sentence_encoder.` as it
    /// was trained, and more in what wraps these.
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
    if let Positions::Learned { rows, has_norm } = config.positions {
        tensors.push((POSITIONS.to_owned(), vec![rows, hidden]));
        let norm = ["weight", "bias"].map(|parameter| format!("{EMBEDDING_NORM}.{parameter}"));
        tensors.extend(
            norm.into_iter()
                .filter(|_| has_norm)
                .map(|name| (name, vec![hidden])),
        );
    }
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
    use crate::{RELEASED, RELEASED_ESM1};

    #[test]
    fn positions_of_another_kind_are_ignored_only_where_a_library_writes_them_for_nothing() {
        let frequencies = "encoder.layer.3.attention.self.rotary_embeddings.inv_freq";
        let prefixes: [fn() -> Prefix; 2] = [
            || Prefix::Transformers(String::new()),
            || Prefix::FairEsm(String::new()),
        ];
        for (shape, name, expected) in [
            (&RELEASED[0], frequencies, [Other::Ignored; 2]),
            (&RELEASED[0], POSITIONS, [Other::Ignored, Other::Refused]),
            (&RELEASED_ESM1[0], frequencies, [Other::Refused; 2]),
        ] {
            let config = Config::of_shape(shape);
            let found = prefixes.map(|prefix| {
                let (config, prefix) = (&config, prefix());
                Names { config, prefix }.other(name)
            });
            assert_eq!(found, expected, "{name} of {}", shape.name);
        }
    }

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
