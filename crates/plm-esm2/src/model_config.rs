//! Reads and checks `config.json`, as transformers writes it for ESM-2, ESM-1b and ESM-1v.

mod fair_esm;

use std::fmt::Display;
use std::path::Path;

use plm_checkpoint::ConfigFile;
use plm_kernels::TokenDropout;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::alphabet::{EOS, MASK, PAD, VOCABULARY};
use crate::{Error, ModelShape};

/// The family in errors.
const FAMILY: &str = "ESM-2, ESM-1b and ESM-1v (model_type \"esm\")";
/// The most layers that a configuration may have. It decides how much memory is taken, and may come
/// from anyone. The largest ESM-2 has 48 layers and a feed-forward block of 20,480.
const MAX_LAYERS: usize = 1 << 10;
/// The most that any other size in a configuration may be.
const MAX_SIZE: usize = 1 << 16;
/// The row of the first position: padding has the one before it.
const FIRST_POSITION: usize = PAD as usize + 1;
/// The fewest rows of a table of positions: those of BOS, of a residue and of EOS.
const MIN_POSITION_ROWS: usize = FIRST_POSITION + 3;

/// The rows of a table of positions if a `config.json` has no number: what transformers takes then,
/// and what ESM-1b and ESM-1v have.
const DEFAULT_POSITION_ROWS: usize = 1_026;

/// How a model knows where a token is in its sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// Queries and keys are rotated, as in ESM-2. Sequences may have any length.
    Rotary,
    /// A row of a table is added to each token's embedding, as in ESM-1b and ESM-1v (Rives et al.
    /// 2021, doi:10.1073/pnas.2016239118; Meier et al. 2021, doi:10.1101/2021.07.09.450648).
    Learned {
        /// The rows of the table. The first two are no positions: a sequence may have as many
        /// tokens as there are others.
        rows: usize,
        /// Whether a layer norm is between embeddings and the first block. ESM-1b has it, ESM-1v
        /// does not.
        has_norm: bool,
    },
}

/// The architecture of an ESM-2, ESM-1b or ESM-1v.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The number of transformer layers.
    pub num_layers: usize,
    /// The width of a hidden state, and so of an embedding.
    pub hidden_size: usize,
    /// The number of attention heads.
    pub num_heads: usize,
    /// The width between the two products of a feed-forward block.
    pub ffn_size: usize,
    /// The number that layer norms add to the variance.
    pub layer_norm_eps: f32,
    /// Whether embeddings are rescaled for token dropout, as in all released models.
    pub token_dropout: bool,
    /// How the model knows where a token is.
    pub positions: Positions,
}

impl Config {
    /// The configuration of a model of this shape, as its family was released.
    pub fn of_shape(shape: &ModelShape) -> Self {
        Self {
            num_layers: shape.num_layers,
            hidden_size: shape.hidden_size,
            num_heads: shape.num_heads,
            ffn_size: shape.ffn_size,
            layer_norm_eps: 1e-5,
            token_dropout: true,
            positions: shape.positions,
        }
    }

    /// The family that has this architecture, as people call it. What tells ESM-1b from ESM-1v is
    /// the layer norm before the first block.
    ///
    /// ```
    /// let config = plm_esm2::Config::of_shape(&plm_esm2::RELEASED[0]);
    /// assert_eq!(config.family(), "ESM-2");
    /// assert_eq!(config.max_sequence_tokens(), None);
    ///
    /// let config = plm_esm2::Config::of_shape(&plm_esm2::RELEASED_ESM1[0]);
    /// assert_eq!(config.family(), "ESM-1b");
    /// assert_eq!(config.max_sequence_tokens(), Some(1_024));
    /// ```
    pub fn family(&self) -> &'static str {
        match self.positions {
            Positions::Rotary => "ESM-2",
            Positions::Learned { has_norm: true, .. } => "ESM-1b",
            Positions::Learned {
                has_norm: false, ..
            } => "ESM-1v",
        }
    }

    /// The most tokens of a sequence, special tokens included; `None` if it may have any number.
    pub fn max_sequence_tokens(&self) -> Option<usize> {
        match self.positions {
            Positions::Rotary => None,
            Positions::Learned { rows, .. } => Some(rows - FIRST_POSITION),
        }
    }

    /// The width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    /// How the model embeds masked tokens; `None` if it does not use token dropout.
    pub(crate) fn dropout(&self) -> Option<TokenDropout> {
        self.token_dropout.then_some(TokenDropout {
            mask_token_id: MASK,
        })
    }

    /// Reads a model's `config.json`, or the settings in a file of fair-esm. The latter do not say
    /// whether a layer norm is before the first block of an ESM-1b: its tensors do, and here there
    /// is none.
    ///
    /// # Errors
    /// [`Error::OtherModel`] if it is of another model, [`plm_checkpoint::Error::Json`] or
    /// [`Error::NoSetting`] if a field is missing or of another type, [`Error::Unsupported`] if a
    /// field has a value that this crate does not implement.
    pub fn of_file(file: &ConfigFile) -> Result<Self, Error> {
        let path = file.path();
        if file.is_pickled() {
            return fair_esm::config(file);
        }
        // Checked first: the file of another model would lack fields that it does not need.
        if let Ok(kind) = file.fields::<Kind>() {
            kind.check(path)?;
        }
        Self::of_fields(file.fields()?, path)
    }

    /// The configuration of these fields, which are those of the file at `path`.
    fn of_fields(fields: File, path: &Path) -> Result<Self, Error> {
        let positions = fields.check(path)?;
        Ok(Self {
            num_layers: fields.num_hidden_layers,
            hidden_size: fields.hidden_size,
            num_heads: fields.num_attention_heads,
            ffn_size: fields.intermediate_size,
            layer_norm_eps: fields.layer_norm_eps,
            token_dropout: fields.token_dropout,
            positions,
        })
    }

    /// The configuration as a `config.json`.
    pub(crate) fn to_json(&self) -> Value {
        let mut json = json!({
            "model_type": "esm",
            "vocab_size": VOCABULARY.len(),
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "intermediate_size": self.ffn_size,
            "layer_norm_eps": self.layer_norm_eps,
            "position_embedding_type": ROTARY,
            "token_dropout": self.token_dropout,
        });
        if let Positions::Learned { rows, has_norm } = self.positions {
            json["position_embedding_type"] = ABSOLUTE.into();
            json["max_position_embeddings"] = rows.into();
            json["emb_layer_norm_before"] = has_norm.into();
            // Positions count from it.
            json["pad_token_id"] = PAD.into();
        }
        json
    }
}

/// The `position_embedding_type` of ESM-2.
const ROTARY: &str = "rotary";
/// That of ESM-1b and ESM-1v.
const ABSOLUTE: &str = "absolute";

/// The fields that say which model a file is of.
#[derive(Deserialize)]
struct Kind {
    model_type: Option<String>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    position_embedding_type: Option<String>,
    is_folding_model: Option<bool>,
}

impl Kind {
    /// Refuses a model that does not call itself one of these.
    fn check(&self, path: &Path) -> Result<(), Error> {
        // Values are quoted, so that they stay on one line.
        let other = |field, found: String, is| {
            let path = path.to_owned();
            Err(Error::OtherModel {
                path,
                field,
                found,
                is,
                family: FAMILY,
            })
        };
        match (&self.model_type, &self.architectures) {
            (Some(esm), _) if esm == "esm" => {}
            (Some(model_type), _) => return other("model_type", format!("{model_type:?}"), ""),
            (None, Some(names)) if !names.iter().any(|name| name.starts_with("Esm")) => {
                return other("architectures", format!("{names:?}"), "");
            }
            // The next step names the missing field.
            (None, _) => return Ok(()),
        }
        match &self.position_embedding_type {
            Some(kind) if ![ROTARY, ABSOLUTE].contains(&&**kind) => {
                return other("position_embedding_type", format!("{kind:?}"), "");
            }
            _ => {}
        }
        if self.is_folding_model == Some(true) {
            return other("is_folding_model", "true".to_owned(), ", as ESMFold's does");
        }
        Ok(())
    }
}

/// The fields that say what is computed. A field that is no `Option` is required, although
/// transformers has a default for it: its defaults (no token dropout, an epsilon of 1e-12) are no
/// released model's.
#[derive(Default, Deserialize)]
struct File {
    #[expect(dead_code, reason = "required, and compared by `Kind`")]
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    layer_norm_eps: f32,
    position_embedding_type: String,
    max_position_embeddings: Option<usize>,
    token_dropout: bool,
    mask_token_id: Option<u32>,
    pad_token_id: Option<u32>,
    eos_token_id: Option<u32>,
    emb_layer_norm_before: Option<bool>,
    is_decoder: Option<bool>,
    add_cross_attention: Option<bool>,
    tie_word_embeddings: Option<bool>,
    rope_theta: Option<f64>,
    hidden_act: Option<String>,
}

impl File {
    /// Refuses values that this crate does not implement. Returns how the model knows positions.
    fn check(&self, path: &Path) -> Result<Positions, Error> {
        let must_be = |field, found: &dyn Display, fits: bool, supported: &dyn Display| {
            if fits {
                return Ok(());
            }
            Err(Error::Unsupported {
                path: path.to_owned(),
                field,
                found: found.to_string(),
                supported: supported.to_string(),
            })
        };
        // Values are quoted, so that they stay on one line.
        let equals = |field, found: &str, supported: &str| {
            must_be(
                field,
                &format_args!("{found:?}"),
                found == supported,
                &format_args!("{supported:?}"),
            )
        };
        let flag = |field, found: Option<bool>, supported: bool| {
            let found = found.unwrap_or(supported);
            must_be(field, &found, found == supported, &supported)
        };
        let token = |field, found: Option<u32>, supported: u32| {
            let found = found.unwrap_or(supported);
            must_be(field, &found, found == supported, &supported)
        };
        let up_to = |field, found: usize, max: usize| {
            let fits = (1..=max).contains(&found);
            must_be(field, &found, fits, &format_args!("1 to {max}"))
        };

        equals(
            "hidden_act",
            self.hidden_act.as_deref().unwrap_or("gelu"),
            "gelu",
        )?;
        flag("is_decoder", self.is_decoder, false)?;
        flag("add_cross_attention", self.add_cross_attention, false)?;
        flag("tie_word_embeddings", self.tie_word_embeddings, true)?;
        token("mask_token_id", self.mask_token_id, MASK)?;
        token("pad_token_id", self.pad_token_id, PAD)?;
        token("eos_token_id", self.eos_token_id, EOS)?;
        let rope_theta = self.rope_theta.unwrap_or(10_000.0);
        must_be("rope_theta", &rope_theta, rope_theta == 10_000.0, &"10000")?;
        let vocabulary = VOCABULARY.len();
        must_be(
            "vocab_size",
            &self.vocab_size,
            self.vocab_size == vocabulary,
            &vocabulary,
        )?;
        up_to("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS)?;
        up_to("num_attention_heads", self.num_attention_heads, MAX_SIZE)?;
        up_to("hidden_size", self.hidden_size, MAX_SIZE)?;
        up_to("intermediate_size", self.intermediate_size, MAX_SIZE)?;
        let eps = self.layer_norm_eps;
        must_be(
            "layer_norm_eps",
            &eps,
            eps.is_finite() && eps > 0.0,
            &"a positive number",
        )?;
        must_be(
            "hidden_size",
            &self.hidden_size,
            self.hidden_size
                .is_multiple_of(4 * self.num_attention_heads),
            &format_args!(
                "a multiple of 4 * num_attention_heads = 4 * {}",
                self.num_attention_heads
            ),
        )?;
        if self.position_embedding_type != ABSOLUTE {
            flag("emb_layer_norm_before", self.emb_layer_norm_before, false)?;
            return Ok(Positions::Rotary);
        }
        let rows = (self.max_position_embeddings).unwrap_or(DEFAULT_POSITION_ROWS);
        must_be(
            "max_position_embeddings",
            &rows,
            (MIN_POSITION_ROWS..=MAX_SIZE).contains(&rows),
            &format_args!("{MIN_POSITION_ROWS} to {MAX_SIZE}"),
        )?;
        Ok(Positions::Learned {
            rows,
            has_norm: self.emb_layer_norm_before == Some(true),
        })
    }
}
