//! Reads and checks `config.json`, as transformers writes it for ESM C, or with the names that the
//! package `esm` has for sizes.

use std::fmt::Display;
use std::path::Path;

use plm_checkpoint::{ConfigFile, FoundTensors};
use plm_encoder::Error;
use serde::Deserialize;

use crate::ModelShape;
use crate::alphabet::{CLS, EMBEDDED, EOS, MASK, PAD};
use crate::names;
use crate::shapes::ffn_size;

/// The family in errors.
const FAMILY: &str = "ESM C (model_type \"esmc\")";
/// The most layers that a configuration may have. It decides how much memory is taken, and may come
/// from anyone. The largest ESM C has 80 layers.
const MAX_LAYERS: usize = 1 << 10;
/// The width of a head in all released models.
const HEAD_DIM: usize = 64;
/// The most that any other size in a configuration may be.
const MAX_SIZE: usize = 1 << 16;

/// An ESM C's architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The number of transformer layers.
    pub num_layers: usize,
    /// The width of a hidden state, and so of an embedding.
    pub hidden_size: usize,
    /// The number of attention heads.
    pub num_heads: usize,
    /// The number of gates, and of values, of a feed-forward block.
    pub ffn_size: usize,
}

impl Config {
    /// The number that layer norms add to the variance, in every ESM C.
    pub(crate) const LAYER_NORM_EPS: f32 = 1e-5;

    /// The configuration of a model of this shape.
    pub fn of_shape(shape: &ModelShape) -> Self {
        Self {
            num_layers: shape.num_layers,
            hidden_size: shape.hidden_size,
            num_heads: shape.num_heads,
            ffn_size: shape.ffn_size,
        }
    }

    /// The width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    /// What the output of each half of a layer is divided by, before the residual stream gets it.
    pub(crate) fn residual_divisor(&self) -> f32 {
        (self.num_layers as f64 / 36.0).sqrt() as f32
    }

    /// Reads a model's `config.json`.
    ///
    /// Sizes have transformers' names (`hidden_size`) or those of the package `esm` (`d_model`,
    /// `n_heads`, `n_layers`), whose feed-forward blocks have the width that follows from them.
    ///
    /// # Errors
    /// [`Error::OtherModel`] if it is of another model, [`plm_checkpoint::Error::Json`] if a field
    /// is missing or of another type, [`Error::Unsupported`] if a field has a value that this crate
    /// does not implement.
    pub fn of_file(file: &ConfigFile) -> Result<Self, Error> {
        let path = file.path();
        // Checked first: the file of another model would lack fields that it does not need.
        match file.model_type() {
            Some("esmc") | None => {}
            Some(model_type) => {
                return Err(Error::OtherModel {
                    path: path.to_owned(),
                    field: "model_type",
                    // It is quoted, so that it stays on one line.
                    found: format!("{model_type:?}"),
                    is: "",
                    family: FAMILY,
                });
            }
        }
        let file: File = file.fields()?;
        file.check(path)?;
        Ok(Self::of_fields(&file))
    }
}

impl Config {
    /// The configuration of a model of the package `esm` that is saved without one, as all released
    /// files are: it follows from the tensors' names and shapes. Heads are 64 wide, as in all
    /// released models.
    ///
    /// # Errors
    /// [`Error::NoSetting`] if the tensors are of no ESM C with such heads, [`Error::Unsupported`]
    /// if one of its sizes is too large.
    pub(crate) fn of_tensors(found: &FoundTensors) -> Result<Self, Error> {
        let sizes = names::sizes_in_esm(found)
            .filter(|sizes| sizes.hidden_size > 0 && sizes.hidden_size.is_multiple_of(HEAD_DIM));
        let names::Sizes {
            num_layers,
            hidden_size,
            ffn_size,
        } = sizes.ok_or_else(|| Error::NoSetting {
            path: found.place().to_owned(),
            field: "d_model",
            files: "files of ESM C with heads of 64",
        })?;
        let file = File {
            hidden_size,
            num_hidden_layers: num_layers,
            num_attention_heads: hidden_size / HEAD_DIM,
            intermediate_size: Some(ffn_size),
            ..File::default()
        };
        file.check(found.place())?;
        Ok(Self::of_fields(&file))
    }

    fn of_fields(file: &File) -> Self {
        Self {
            num_layers: file.num_hidden_layers,
            hidden_size: file.hidden_size,
            num_heads: file.num_attention_heads,
            ffn_size: file.ffn_size(),
        }
    }
}

/// The fields that say what is computed.
#[derive(Default, Deserialize)]
struct File {
    #[expect(dead_code, reason = "required, and compared by `Config::of_file`")]
    model_type: String,
    #[serde(alias = "d_model")]
    hidden_size: usize,
    #[serde(alias = "n_layers")]
    num_hidden_layers: usize,
    #[serde(alias = "n_heads")]
    num_attention_heads: usize,
    intermediate_size: Option<usize>,
    vocab_size: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    tie_word_embeddings: Option<bool>,
    rope_parameters: Option<Rope>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
    pad_token_id: Option<u32>,
    mask_token_id: Option<u32>,
}

/// How positions turn queries and keys.
#[derive(Deserialize)]
struct Rope {
    rope_type: Option<String>,
    rope_theta: Option<f64>,
}

impl File {
    fn ffn_size(&self) -> usize {
        let of_width = || ffn_size(self.hidden_size);
        self.intermediate_size.unwrap_or_else(of_width)
    }

    /// Refuses values that this crate does not implement.
    fn check(&self, path: &Path) -> Result<(), Error> {
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
        let equals = |field, found: Option<&str>, supported: &str| {
            let found = found.unwrap_or(supported);
            must_be(
                field,
                &format_args!("{found:?}"),
                found == supported,
                &format_args!("{supported:?}"),
            )
        };
        let flag = |field, found: Option<bool>| {
            let found = found.unwrap_or(false);
            must_be(field, &found, !found, &false)
        };
        let token = |field, found: Option<u32>, supported: u32| {
            let found = found.unwrap_or(supported);
            must_be(field, &found, found == supported, &supported)
        };
        let size = |field, found: Option<usize>, supported: usize| {
            let found = found.unwrap_or(supported);
            must_be(field, &found, found == supported, &supported)
        };
        let up_to = |field, found: usize, max: usize| {
            let fits = (1..=max).contains(&found);
            must_be(field, &found, fits, &format_args!("1 to {max}"))
        };

        up_to("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS)?;
        up_to("num_attention_heads", self.num_attention_heads, MAX_SIZE)?;
        up_to("hidden_size", self.hidden_size, MAX_SIZE)?;
        if let Some(ffn_size) = self.intermediate_size {
            up_to("intermediate_size", ffn_size, MAX_SIZE)?;
        }
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
        let head_dim = self.hidden_size / self.num_attention_heads;
        size("head_dim", self.head_dim, head_dim)?;
        size(
            "num_key_value_heads",
            self.num_key_value_heads,
            self.num_attention_heads,
        )?;
        size("vocab_size", self.vocab_size, EMBEDDED)?;
        equals("hidden_act", self.hidden_act.as_deref(), "silu")?;
        flag("attention_bias", self.attention_bias)?;
        flag("mlp_bias", self.mlp_bias)?;
        flag("tie_word_embeddings", self.tie_word_embeddings)?;
        if let Some(rope) = &self.rope_parameters {
            equals("rope_type", rope.rope_type.as_deref(), "default")?;
            let theta = rope.rope_theta.unwrap_or(10_000.0);
            must_be("rope_theta", &theta, theta == 10_000.0, &"10000")?;
        }
        token("bos_token_id", self.bos_token_id, CLS)?;
        token("eos_token_id", self.eos_token_id, EOS)?;
        token("pad_token_id", self.pad_token_id, PAD)?;
        token("mask_token_id", self.mask_token_id, MASK)
    }
}
