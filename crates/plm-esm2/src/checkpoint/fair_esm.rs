//! The layout of fair-esm, in which ESM-2 was first released: `esm2_t33_650M_UR50D.pt`, and the
//! contact head in `esm2_t33_650M_UR50D-contact-regression.pt` beside it. ESM-1b and ESM-1v came in
//! the same one, but that there is no contact head of ESM-1v.
//!
//! The source is `esm/pretrained.py`, `esm/model/esm1.py` and `esm/model/esm2.py` of PyPI's
//! fair-esm 2.0.

use plm_checkpoint::FoundTensors;

use super::names::{EMBEDDING_NORM, POSITIONS};
use crate::Config;
use crate::model_config::Positions;

/// What the name of the file with the contact head ends with, after the model's.
pub(super) const CONTACT_REGRESSION: &str = "-contact-regression.pt";

/// The name of the embedding in an `ESM2`.
pub(super) const TRUNK_PROBE: &str = "embed_tokens.weight";

/// What the names of the tensors of the layer norm before the first block begin with.
const NORM_BEFORE: &str = "emb_layer_norm_before.";

/// The configuration of a file, from its settings and its tensors: an ESM-1b has a layer norm
/// before its first block, and no setting says so.
pub(super) fn with_norm(config: Config, found: &FoundTensors) -> Config {
    let positions = match config.positions {
        Positions::Rotary => Positions::Rotary,
        Positions::Learned { rows, .. } => Positions::Learned {
            rows,
            has_norm: found.iter().any(|(name, _)| name.contains(NORM_BEFORE)),
        },
    };
    Config {
        positions,
        ..config
    }
}

/// The canonical name of a tensor in files whose trunk has this prefix.
pub(super) fn canonical(prefix: &str, name: &str) -> String {
    // Heads are beside the trunk, or beside the encoder that holds it.
    let encoder = prefix.strip_suffix("sentence_encoder.").unwrap_or(prefix);
    let model = encoder.strip_suffix("encoder.").unwrap_or(encoder);
    if let Some(of_trunk) = name.strip_prefix(prefix)
        && let Some(canonical) = of_model(of_trunk)
    {
        return canonical;
    }
    let of_head = (name.strip_prefix(encoder)).or_else(|| name.strip_prefix(model));
    match of_head {
        // The decoder is tied to the embedding.
        Some("lm_head.weight") => "lm_head.decoder.weight".to_owned(),
        Some(head) if head.starts_with("lm_head.") || head.starts_with("contact_head.") => {
            head.to_owned()
        }
        _ => name.to_owned(),
    }
}

/// The canonical name of a tensor of the trunk.
fn of_model(name: &str) -> Option<String> {
    if name == TRUNK_PROBE {
        return Some("embeddings.word_embeddings.weight".to_owned());
    }
    if name == "embed_positions.weight" {
        return Some(POSITIONS.to_owned());
    }
    if let Some(parameter) = name.strip_prefix(NORM_BEFORE) {
        return Some(format!("{EMBEDDING_NORM}.{parameter}"));
    }
    if name.starts_with("emb_layer_norm_") || name.starts_with("embed_") {
        return Some(format!("encoder.{name}"));
    }
    let (layer, part) = name.strip_prefix("layers.")?.split_once('.')?;
    let (module, parameter) = part.rsplit_once('.')?;
    let module = match module {
        "self_attn.q_proj" => "attention.self.query",
        "self_attn.k_proj" => "attention.self.key",
        "self_attn.v_proj" => "attention.self.value",
        "self_attn.rot_emb" => "attention.self.rotary_embeddings",
        "self_attn.out_proj" => "attention.output.dense",
        "self_attn_layer_norm" => "attention.LayerNorm",
        "fc1" => "intermediate.dense",
        "fc2" => "output.dense",
        "final_layer_norm" => "LayerNorm",
        other => other,
    };
    Some(format!("encoder.layer.{layer}.{module}.{parameter}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_each_form_lead_to_one() {
        let last = "encoder.layer.11.output.dense.bias";
        let embedding = "embeddings.word_embeddings.weight";
        for prefix in [
            "",
            "model.",
            "encoder.sentence_encoder.",
            "model.encoder.sentence_encoder.",
        ] {
            let of_trunk = |name: &str| canonical(prefix, &format!("{prefix}{name}"));
            assert_eq!(of_trunk("embed_tokens.weight"), embedding);
            assert_eq!(of_trunk("layers.11.fc2.bias"), last);
            assert_eq!(of_trunk("embed_positions.weight"), POSITIONS);
            let norm = of_trunk("emb_layer_norm_before.bias");
            assert_eq!(norm, "embeddings.layer_norm.bias");
            let other = of_trunk("layers.1.self_attn.bias_k");
            assert_eq!(other, "encoder.layer.1.self_attn.bias_k");
        }
        for (name, expected) in [
            ("model.encoder.lm_head.bias", "lm_head.bias"),
            ("model.encoder.lm_head.weight", "lm_head.decoder.weight"),
            (
                "model.contact_head.regression.bias",
                "contact_head.regression.bias",
            ),
            ("model.encoder.other", "model.encoder.other"),
        ] {
            let found = canonical("model.encoder.sentence_encoder.", name);
            assert_eq!(found, expected);
        }
    }
}
