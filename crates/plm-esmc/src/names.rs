//! Which tensors an ESM C has, and their names in files.
//!
//! Each has the name here that transformers' `EsmcForMaskedLM` gives it, without `esmc.`. The
//! package `esm` has other names, and keeps the matrices of one product as one tensor.

use plm_checkpoint::{FoundTensors, Layout, Other, TensorShape};
use plm_encoder::Error;

use crate::Config;
use crate::alphabet::EMBEDDED;

/// The token embedding.
pub(crate) const EMBEDDING: &str = "embed_tokens.weight";

/// A tensor of the language-model head: if it exists, the head does.
pub(crate) const LM_HEAD_PROBE: &str = "lm_head.dense.weight";

/// The names in the package `esm` that lead to each name here, outside of layers.
const OF_ESM: [(&str, &str); 8] = [
    ("embed.weight", EMBEDDING),
    ("transformer.norm.weight", "norm.weight"),
    ("sequence_head.0.weight", LM_HEAD_PROBE),
    ("sequence_head.0.bias", "lm_head.dense.bias"),
    ("sequence_head.2.weight", "lm_head.layer_norm.weight"),
    ("sequence_head.2.bias", "lm_head.layer_norm.bias"),
    ("sequence_head.3.weight", "lm_head.decoder.weight"),
    ("sequence_head.3.bias", "lm_head.decoder.bias"),
];

/// The same in a layer.
const OF_ESM_LAYER: [(&str, &str); 10] = [
    ("attn.layernorm_qkv.0.weight", "input_layernorm.weight"),
    ("attn.layernorm_qkv.0.bias", "input_layernorm.bias"),
    ("attn.layernorm_qkv.1.weight", QKV),
    ("attn.q_ln.weight", "self_attn.q_norm.weight"),
    ("attn.k_ln.weight", "self_attn.k_norm.weight"),
    ("attn.out_proj.weight", "self_attn.o_proj.weight"),
    ("ffn.0.weight", "post_attention_layernorm.weight"),
    ("ffn.0.bias", "post_attention_layernorm.bias"),
    ("ffn.1.weight", GATE_UP),
    ("ffn.3.weight", "mlp.down_proj.weight"),
];

/// Queries, keys and values as one tensor of a layer.
const QKV: &str = "self_attn.qkv_proj.weight";
/// Gates and values as one tensor of a layer.
const GATE_UP: &str = "mlp.gate_up_proj.weight";

/// The sizes of a model that its tensors show.
pub(crate) struct Sizes {
    pub(crate) num_layers: usize,
    pub(crate) hidden_size: usize,
    pub(crate) ffn_size: usize,
}

/// The sizes of an `ESMC` of the package `esm`, by the names that it has without a prefix; `None`
/// if the tensors are of no such model.
pub(crate) fn sizes_in_esm(found: &FoundTensors) -> Option<Sizes> {
    let shape = |wanted: &str| {
        let mut all = found.iter();
        all.find_map(|(name, tensor)| (name == wanted).then(|| tensor.shape()))
    };
    let &[EMBEDDED, hidden_size] = shape(OF_ESM[0].0)? else {
        return None;
    };
    let &[_, ffn_size] = shape("transformer.blocks.0.ffn.3.weight")? else {
        return None;
    };
    // Every ESM C has it, and no ESM3 has only such layers.
    let layers = found
        .iter()
        .filter(|(name, _)| name.ends_with(".attn.q_ln.weight"));
    Some(Sizes {
        num_layers: layers.count(),
        hidden_size,
        ffn_size,
    })
}

/// The tensors of an ESM C of one configuration, and the prefix of their names in some files.
pub(crate) struct Names<'a> {
    config: &'a Config,
    prefix: String,
    library: &'static str,
}

impl<'a> Names<'a> {
    /// The library whose names the files use.
    pub(crate) fn library(&self) -> &'static str {
        self.library
    }

    /// The names under which `found` has a trunk: with nothing before them in `EsmcModel` and in
    /// `esm`, with `esmc.` in `EsmcForMaskedLM`, and with more in models that wrap these.
    ///
    /// # Errors
    /// [`Error::SeveralTrunks`] if it has more than one.
    pub(crate) fn find(found: &FoundTensors, config: &'a Config) -> Result<Self, Error> {
        let mut prefixes: Vec<&str> = found
            .iter()
            .filter(|(_, tensor)| *tensor.shape() == [EMBEDDED, config.hidden_size])
            .filter_map(|(name, _)| {
                let probes = [EMBEDDING, OF_ESM[0].0];
                probes.iter().find_map(|probe| name.strip_suffix(probe))
            })
            .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
            .collect();
        // A tensor that is there twice under one name is refused later.
        prefixes.sort_unstable();
        prefixes.dedup();
        let prefix = match prefixes[..] {
            // The error then names the tensor that is missing or wrong.
            [] => "esmc.".to_owned(),
            [one] => one.to_owned(),
            _ => {
                return Err(Error::SeveralTrunks {
                    path: found.place().to_owned(),
                    prefixes: prefixes.into_iter().map(str::to_owned).collect(),
                });
            }
        };
        let is_of_esm = found
            .iter()
            .any(|(name, _)| name.strip_prefix(&prefix) == Some(OF_ESM[0].0));
        Ok(Self {
            config,
            prefix,
            library: if is_of_esm { "esm" } else { "transformers" },
        })
    }
}

impl Layout for Names<'_> {
    fn family(&self) -> &str {
        "ESM C"
    }

    fn required(&self) -> Vec<TensorShape> {
        trunk(self.config)
    }

    fn heads(&self) -> Vec<Vec<TensorShape>> {
        vec![lm_head(self.config)]
    }

    fn canonical(&self, name: &str) -> String {
        let of_trunk = name.strip_prefix(&self.prefix);
        // A head has the trunk's prefix without `esmc.`.
        let wrappers = self.prefix.strip_suffix("esmc.").unwrap_or(&self.prefix);
        let name = of_trunk
            .or_else(|| name.strip_prefix(wrappers))
            .unwrap_or(name);
        if let Some((layer, part)) = name
            .strip_prefix("transformer.blocks.")
            .and_then(|rest| rest.split_once('.'))
        {
            let known = OF_ESM_LAYER.iter().find(|(of_esm, _)| *of_esm == part);
            let part = known.map_or(part, |(_, part)| part);
            return format!("layers.{layer}.{part}");
        }
        let known = OF_ESM.iter().find(|(of_esm, _)| *of_esm == name);
        known.map_or(name, |(_, name)| name).to_owned()
    }

    fn stacked(&self, canonical_name: &str) -> Vec<String> {
        let parts: [(&str, &[&str]); 2] = [
            (
                QKV,
                &[
                    "self_attn.q_proj.weight",
                    "self_attn.k_proj.weight",
                    "self_attn.v_proj.weight",
                ],
            ),
            (GATE_UP, &["mlp.gate_proj.weight", "mlp.up_proj.weight"]),
        ];
        let of_layer = |(whole, parts): (&str, &[&str])| -> Option<Vec<String>> {
            let layer = canonical_name.strip_suffix(whole)?;
            Some(parts.iter().map(|part| format!("{layer}{part}")).collect())
        };
        parts.into_iter().find_map(of_layer).unwrap_or_default()
    }

    fn other(&self, canonical_name: &str) -> Other {
        // Tables that can be computed.
        if canonical_name.ends_with("inv_freq") {
            Other::Ignored
        } else if canonical_name.starts_with("layers.") || canonical_name.starts_with("norm.") {
            // Without it the model would compute something else.
            Other::Refused
        } else {
            Other::PassedOver
        }
    }
}

/// Every tensor of the trunk with its shape. The order depends on the configuration alone.
pub(crate) fn trunk(config: &Config) -> Vec<TensorShape> {
    let (hidden, ffn) = (config.hidden_size, config.ffn_size);
    let layer: [(&str, Vec<usize>); 13] = [
        ("input_layernorm.weight", vec![hidden]),
        ("input_layernorm.bias", vec![hidden]),
        ("self_attn.q_proj.weight", vec![hidden, hidden]),
        ("self_attn.k_proj.weight", vec![hidden, hidden]),
        ("self_attn.v_proj.weight", vec![hidden, hidden]),
        ("self_attn.q_norm.weight", vec![hidden]),
        ("self_attn.k_norm.weight", vec![hidden]),
        ("self_attn.o_proj.weight", vec![hidden, hidden]),
        ("post_attention_layernorm.weight", vec![hidden]),
        ("post_attention_layernorm.bias", vec![hidden]),
        ("mlp.gate_proj.weight", vec![ffn, hidden]),
        ("mlp.up_proj.weight", vec![ffn, hidden]),
        ("mlp.down_proj.weight", vec![hidden, ffn]),
    ];
    let mut tensors = vec![(EMBEDDING.to_owned(), vec![EMBEDDED, hidden])];
    for index in 0..config.num_layers {
        let named = |(name, shape): &(&str, Vec<usize>)| {
            let name = format!("layers.{index}.{name}");
            (name, shape.clone())
        };
        tensors.extend(layer.iter().map(named));
    }
    tensors.push(("norm.weight".to_owned(), vec![hidden]));
    tensors
}

/// Every tensor of the language-model head.
pub(crate) fn lm_head(config: &Config) -> Vec<TensorShape> {
    let hidden = config.hidden_size;
    let tensors: [(&str, Vec<usize>); 6] = [
        (LM_HEAD_PROBE, vec![hidden, hidden]),
        ("lm_head.dense.bias", vec![hidden]),
        ("lm_head.layer_norm.weight", vec![hidden]),
        ("lm_head.layer_norm.bias", vec![hidden]),
        ("lm_head.decoder.weight", vec![EMBEDDED, hidden]),
        ("lm_head.decoder.bias", vec![EMBEDDED]),
    ];
    tensors.map(|(name, shape)| (name.to_owned(), shape)).into()
}
