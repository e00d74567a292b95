//! The sizes in which ESM-2, ESM-1b and ESM-1v were released.

use plm_checkpoint::ReleasedModel;

use crate::Config;
use crate::alphabet::VOCABULARY;
use crate::model_config::Positions;

/// The sizes of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// The model's name on the Hugging Face hub, under `facebook/`.
    pub name: &'static str,
    /// The number of transformer layers.
    pub num_layers: usize,
    /// The width of a hidden state, and so of an embedding.
    pub hidden_size: usize,
    /// The number of attention heads; `head_dim = hidden_size / num_heads`.
    pub num_heads: usize,
    /// The width between the two products of a feed-forward block.
    pub ffn_size: usize,
    /// How the model knows where a token is in its sequence.
    pub positions: Positions,
}

/// The released models of ESM-2, the smallest first (Lin et al. 2023, supplementary table S1).
pub const RELEASED: [ModelShape; 6] = [
    released("esm2_t6_8M_UR50D", 6, 320, 20),
    released("esm2_t12_35M_UR50D", 12, 480, 20),
    released("esm2_t30_150M_UR50D", 30, 640, 20),
    released("esm2_t33_650M_UR50D", 33, 1280, 20),
    released("esm2_t36_3B_UR50D", 36, 2560, 40),
    released("esm2_t48_15B_UR50D", 48, 5120, 40),
];

/// The released models of ESM-1b (Rives et al. 2021, doi:10.1073/pnas.2016239118) and of ESM-1v
/// (Meier et al. 2021, doi:10.1101/2021.07.09.450648), which are five of one shape.
pub const RELEASED_ESM1: [ModelShape; 6] = [
    esm1("esm1b_t33_650M_UR50S", true),
    esm1("esm1v_t33_650M_UR90S_1", false),
    esm1("esm1v_t33_650M_UR90S_2", false),
    esm1("esm1v_t33_650M_UR90S_3", false),
    esm1("esm1v_t33_650M_UR90S_4", false),
    esm1("esm1v_t33_650M_UR90S_5", false),
];

impl ModelShape {
    /// The number of weights, with those of the language-model head and of the contact head.
    ///
    /// ```
    /// let parameters = plm_esm2::RELEASED.map(|shape| shape.num_parameters() / 1_000_000);
    /// assert_eq!(parameters, [7, 33, 148, 651, 2_839, 15_129]);
    /// assert_eq!(plm_esm2::RELEASED_ESM1[0].num_parameters() / 1_000_000, 652);
    /// ```
    pub fn num_parameters(&self) -> u64 {
        let Self {
            num_layers,
            hidden_size,
            num_heads,
            ffn_size,
            positions,
            ..
        } = *self;
        let product = |inputs: usize, outputs: usize| inputs * outputs + outputs;
        let norm = 2 * hidden_size;
        let layer = 4 * product(hidden_size, hidden_size)
            + product(hidden_size, ffn_size)
            + product(ffn_size, hidden_size)
            + 2 * norm;
        let positions = match positions {
            Positions::Rotary => 0,
            Positions::Learned { rows, has_norm } => {
                rows * hidden_size + if has_norm { norm } else { 0 }
            }
        };
        let embeddings = VOCABULARY.len() * hidden_size + positions;
        // Its decoder is the embeddings.
        let lm_head = product(hidden_size, hidden_size) + norm + VOCABULARY.len();
        let contact_head = product(num_layers * num_heads, 1);
        (embeddings + num_layers * layer + norm + lm_head + contact_head) as u64
    }
}

/// The released models and where they are: those of ESM-2, the smallest first, then the others.
///
/// Source: the model cards of `facebook` on the Hugging Face hub.
pub fn released_models() -> Vec<ReleasedModel> {
    let models = all().map(|shape| ReleasedModel {
        family: Config::of_shape(shape).family(),
        owner: OWNER,
        name: shape.name,
        parameters: shape.num_parameters(),
        num_layers: shape.num_layers,
        hidden_size: shape.hidden_size,
        licence: "MIT",
    });
    models.collect()
}

/// The shapes of all released models.
fn all() -> impl Iterator<Item = &'static ModelShape> {
    RELEASED.iter().chain(&RELEASED_ESM1)
}

/// The owner of the models' repositories on the hub.
const OWNER: &str = "facebook";

/// The Hugging Face repository of a released model, from its name without the owner; `None` for any
/// other name.
///
/// ```
/// let name = plm_esm2::hub_name("esm2_t6_8M_UR50D");
/// assert_eq!(name.as_deref(), Some("facebook/esm2_t6_8M_UR50D"));
/// let name = plm_esm2::hub_name("esm1v_t33_650M_UR90S_1");
/// assert_eq!(name.as_deref(), Some("facebook/esm1v_t33_650M_UR90S_1"));
/// assert_eq!(plm_esm2::hub_name("esm3"), None);
/// ```
pub fn hub_name(name: &str) -> Option<String> {
    let is_released = all().any(|shape| shape.name == name);
    is_released.then(|| format!("{OWNER}/{name}"))
}

const fn released(
    name: &'static str,
    num_layers: usize,
    hidden_size: usize,
    num_heads: usize,
) -> ModelShape {
    ModelShape {
        name,
        num_layers,
        hidden_size,
        num_heads,
        ffn_size: 4 * hidden_size,
        positions: Positions::Rotary,
    }
}

const fn esm1(name: &'static str, has_norm: bool) -> ModelShape {
    let positions = Positions::Learned {
        rows: 1_026,
        has_norm,
    };
    ModelShape {
        positions,
        ..released(name, 33, 1_280, 20)
    }
}
