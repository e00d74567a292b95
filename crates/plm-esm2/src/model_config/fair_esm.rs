//! The settings in a file of fair-esm, from which its `ESM2` is made.
//!
//! The source is `esm/pretrained.py` of PyPI's fair-esm 2.0: the file of an ESM-2 has them in
//! `cfg.model`, that of an older model in `args`.

use plm_checkpoint::ConfigFile;
use serde_json::Value;

use super::{Config, File};
use crate::Error;
use crate::alphabet::VOCABULARY;

/// The files that have these settings, in the words of an error.
const FILES: &str = "fair-esm's files of ESM-2";
/// The number that the layer norms of `ESM2` add to the variance: the default of PyTorch.
const LAYER_NORM_EPS: f32 = 1e-5;
/// How much wider than a hidden state an `ESM2` is between the products of a feed-forward block.
const FFN_FACTOR: usize = 4;

/// Reads the settings of an ESM-2.
pub(super) fn config(file: &ConfigFile) -> Result<Config, Error> {
    let path = || file.path().to_owned();
    let values: Value = file.fields()?;
    if let (None, Some(arch)) = (values.pointer("/cfg/model"), values.pointer("/args/arch")) {
        return Err(Error::OtherModel {
            path: path(),
            field: "args.arch",
            found: arch.to_string(),
            is: ", as ESM-1b's and older models' files do",
            family: super::FAMILY,
        });
    }
    let setting = |field: &'static str| {
        let found = values.pointer(&format!("/{}", field.replace('.', "/")));
        found.ok_or_else(|| Error::NoSetting {
            path: path(),
            field,
            files: FILES,
        })
    };
    let size = |field| {
        let size = setting(field)?.as_u64().map(usize::try_from);
        size.and_then(Result::ok).ok_or_else(|| Error::NoSetting {
            path: path(),
            field,
            files: FILES,
        })
    };
    let num_hidden_layers = size("cfg.model.encoder_layers")?;
    let hidden_size = size("cfg.model.encoder_embed_dim")?;
    let fields = File {
        vocab_size: VOCABULARY.len(),
        hidden_size,
        num_hidden_layers,
        num_attention_heads: size("cfg.model.encoder_attention_heads")?,
        intermediate_size: hidden_size.saturating_mul(FFN_FACTOR),
        layer_norm_eps: LAYER_NORM_EPS,
        token_dropout: match setting("cfg.model.token_dropout")? {
            &Value::Bool(token_dropout) => token_dropout,
            _ => {
                return Err(Error::NoSetting {
                    path: path(),
                    field: "cfg.model.token_dropout",
                    files: FILES,
                });
            }
        },
        ..File::default()
    };
    Config::of_fields(fields, file.path())
}
