//! The settings in a file of fair-esm, from which its `ESM2` and `ProteinBertModel` are made.
//!
//! The source is `esm/pretrained.py` of PyPI's fair-esm 2.0: the file of an ESM-2 has them in
//! `cfg.model`, that of an older model in `args`. Of the older ones, those of the architecture
//! `roberta_large` are ESM-1b and ESM-1v.

use std::path::Path;

use plm_checkpoint::ConfigFile;
use serde_json::Value;

use super::{ABSOLUTE, Config, FIRST_POSITION, File, ROTARY};
use crate::Error;
use crate::alphabet::VOCABULARY;

/// The number that layer norms add to the variance: the default of PyTorch.
const LAYER_NORM_EPS: f32 = 1e-5;
/// How much wider than a hidden state an `ESM2` is between the products of a feed-forward block.
const FFN_FACTOR: usize = 4;

/// Reads the settings of a model.
pub(super) fn config(file: &ConfigFile) -> Result<Config, Error> {
    let values: Value = file.fields()?;
    let path = file.path();
    let fields = match (values.pointer("/cfg/model"), values.pointer("/args/arch")) {
        (None, Some(arch)) if arch == "roberta_large" => of_esm1(&Settings::new(&values, path))?,
        (None, Some(arch)) => {
            return Err(Error::OtherModel {
                path: path.to_owned(),
                field: "args.arch",
                found: arch.to_string(),
                is: match arch.as_str() {
                    Some("protein_bert_base") => ", as ESM-1's does",
                    Some("msa_transformer") => ", as the MSA Transformer's does",
                    _ => "",
                },
                family: super::FAMILY,
            });
        }
        _ => of_esm2(&Settings::new(&values, path))?,
    };
    Config::of_fields(fields, path)
}

/// The settings of an `ESM2`.
fn of_esm2(settings: &Settings<'_>) -> Result<File, Error> {
    let num_hidden_layers = settings.size("cfg.model.encoder_layers")?;
    let hidden_size = settings.size("cfg.model.encoder_embed_dim")?;
    Ok(File {
        num_hidden_layers,
        hidden_size,
        num_attention_heads: settings.size("cfg.model.encoder_attention_heads")?,
        intermediate_size: hidden_size.saturating_mul(FFN_FACTOR),
        token_dropout: settings.flag("cfg.model.token_dropout")?,
        position_embedding_type: ROTARY.to_owned(),
        ..File::of_fair_esm()
    })
}

/// The settings of a `ProteinBertModel` of the kind of ESM-1b.
fn of_esm1(settings: &Settings<'_>) -> Result<File, Error> {
    // A sequence may have as many tokens as this says; the table has more rows.
    let rows = |max_positions: usize| max_positions.saturating_add(FIRST_POSITION);
    Ok(File {
        num_hidden_layers: settings.size("args.encoder_layers")?,
        hidden_size: settings.size("args.encoder_embed_dim")?,
        num_attention_heads: settings.size("args.encoder_attention_heads")?,
        intermediate_size: settings.size("args.encoder_ffn_embed_dim")?,
        token_dropout: settings.flag("args.token_dropout")?,
        position_embedding_type: ABSOLUTE.to_owned(),
        max_position_embeddings: Some(rows(settings.size("args.max_positions")?)),
        ..File::of_fair_esm()
    })
}

impl File {
    /// What all of these models share.
    fn of_fair_esm() -> Self {
        Self {
            vocab_size: VOCABULARY.len(),
            layer_norm_eps: LAYER_NORM_EPS,
            ..Self::default()
        }
    }
}

/// The settings in a file, by their places in it.
struct Settings<'a> {
    values: &'a Value,
    path: &'a Path,
}

impl<'a> Settings<'a> {
    fn new(values: &'a Value, path: &'a Path) -> Self {
        Self { values, path }
    }

    /// The setting at `place`, if it is what `read` wants.
    fn get<T>(
        &self,
        place: &'static str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T, Error> {
        let found = (self.values).pointer(&format!("/{}", place.replace('.', "/")));
        found.and_then(read).ok_or_else(|| Error::NoSetting {
            path: self.path.to_owned(),
            field: place,
            files: match place.starts_with("args.") {
                true => "fair-esm's files of ESM-1b and ESM-1v",
                false => "fair-esm's files of ESM-2",
            },
        })
    }

    fn size(&self, place: &'static str) -> Result<usize, Error> {
        let size = |value: &Value| value.as_u64().and_then(|size| size.try_into().ok());
        self.get(place, size)
    }

    fn flag(&self, place: &'static str) -> Result<bool, Error> {
        self.get(place, Value::as_bool)
    }
}
