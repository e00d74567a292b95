//! Which tensors an ESM-2 has, and the names that files have them under.

use std::collections::BTreeMap;
use std::path::Path;

use super::stored::StoredTensor;
use crate::alphabet::VOCABULARY;
use crate::{Config, Error};

/// A tensor that is there whenever the language-model head is.
pub(super) const LM_HEAD_PROBE: &str = "lm_head.dense.weight";

/// What files may hold that embeddings and logits do not need: tables that are computed, the decoder
/// that is tied to the embedding, the pooler of `EsmModel` and the contact head.
fn is_ignored(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "embeddings.position_ids",
        "embeddings.position_embeddings.weight",
        "rotary_embeddings.inv_freq",
        "lm_head.decoder.weight",
        "lm_head.decoder.bias",
        "pooler.dense.weight",
        "pooler.dense.bias",
        "contact_head.regression.weight",
        "contact_head.regression.bias",
    ];
    NAMES.contains(&name) || name.ends_with(".rotary_embeddings.inv_freq")
}

/// One name for all that a tensor goes by: `EsmForMaskedLM` puts `esm.` in front, and transformers has
/// written layer norms both as `weight`, `bias` and as `gamma`, `beta`.
fn canonical(name: &str) -> String {
    let name = name.strip_prefix("esm.").unwrap_or(name);
    match name.rsplit_once("LayerNorm.") {
        Some((stem, "gamma")) => format!("{stem}LayerNorm.weight"),
        Some((stem, "beta")) => format!("{stem}LayerNorm.bias"),
        _ => name.to_owned(),
    }
}

/// Every tensor of the encoder with its shape, in an order that depends on the configuration alone.
pub(super) fn encoder(config: &Config) -> Vec<(String, Vec<usize>)> {
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

/// Every tensor of the language-model head but its decoder, which is the token embedding.
pub(super) fn lm_head(config: &Config) -> Vec<(String, Vec<usize>)> {
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

/// The tensors that the model uses, by their canonical names; `path` is named where no file is to blame.
pub(super) fn check(
    found: Vec<(String, StoredTensor)>,
    config: &Config,
    path: &Path,
) -> Result<BTreeMap<String, StoredTensor>, Error> {
    let mut expected: BTreeMap<_, _> = encoder(config).into_iter().collect();
    if found.iter().any(|(name, _)| name.starts_with("lm_head.")) {
        expected.extend(lm_head(config));
    }
    let mut tensors = BTreeMap::new();
    for (name, tensor) in found {
        let canonical_name = canonical(&name);
        if is_ignored(&canonical_name) {
            continue;
        }
        let path = tensor.source().path().to_owned();
        let Some(shape) = expected.get(&canonical_name) else {
            return Err(Error::UnexpectedTensor { path, name });
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
        if tensors.insert(canonical_name, tensor).is_some() {
            return Err(Error::DuplicateTensor { path, name });
        }
    }
    match expected
        .into_keys()
        .find(|name| !tensors.contains_key(name))
    {
        None => Ok(tensors),
        Some(name) => Err(Error::MissingTensor {
            path: path.to_owned(),
            name,
        }),
    }
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
        for name in names {
            assert_eq!(canonical(name), "encoder.layer.0.LayerNorm.weight");
        }
        assert_eq!(
            canonical("lm_head.layer_norm.bias"),
            "lm_head.layer_norm.bias"
        );
    }
}
