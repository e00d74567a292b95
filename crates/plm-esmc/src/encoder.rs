//! What ESM C says about its checkpoints to `plm-encoder`.

use plm_core::{Digest, Dtype, TokenMap};
use plm_encoder::{
    Error, FamilyCheckpoint, Heads, Loader, Model, NoInt8, Origin, Parts, Place, Sizes, Vocabulary,
};
#[cfg(feature = "cuda")]
use plm_kernels::Gpu;

use crate::alphabet::{EMBEDDED, MASK, PAD, token_map};
use crate::tensors::Tensors;
use crate::{Checkpoint, Config};

/// It changes whenever a new version gives vectors other bits.
const NUMERICS: u32 = 2;

/// An ESM C in memory.
///
/// Layer 0 is the embedding, and the last layer is after the final layer norm. Logits are 64 wide,
/// as the model gives them: the first 33 are of [`VOCABULARY`](crate::VOCABULARY), and no token has
/// the others. There are no contacts.
///
/// ```
/// use plm_core::{Dtype, Layer, OutputKind, OutputSet, Packer, RowId};
/// use plm_esmc::{Checkpoint, Esmc, ModelShape, token_map};
///
/// let shape = ModelShape {
///     name: "two layers",
///     num_layers: 2,
///     hidden_size: 64,
///     num_heads: 2,
///     ffn_size: 192,
/// };
/// let model = Esmc::new(&Checkpoint::random(&shape, 1), Dtype::F32)?;
/// let tokens = token_map();
/// let mut packer = Packer::new(&tokens, 64);
/// packer.push(RowId(0), b"MKTAYIAKQR")?;
///
/// // The rows of all residues in layer 1, and their logits.
/// let outputs = OutputSet::new([OutputKind::Residues, OutputKind::Logits], [Layer(1)]);
/// let columns = model.forward(&packer.finish(), &outputs)?;
/// assert_eq!(columns[0].sequence(0).len(), 10 * 64);
/// assert_eq!(columns[1].sequence(0).len(), 10 * 64);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type Esmc = Model;

/// Makes ESM C encoders. On the CPU, all of them share one copy of the weights. On GPUs, each has
/// its own GPU.
pub type EsmcLoader = Loader<Checkpoint>;

impl FamilyCheckpoint for Checkpoint {
    fn family(&self) -> &'static str {
        "ESM C"
    }

    fn name(&self) -> &str {
        Self::name(self)
    }

    fn passed_over(&self) -> &[String] {
        Self::passed_over(self)
    }

    fn origin(&self) -> Option<&Origin> {
        Self::origin(self)
    }

    fn sizes(&self) -> Sizes {
        let Config {
            num_layers,
            hidden_size,
            num_heads,
            ffn_size,
        } = *self.config();
        Sizes {
            num_layers,
            hidden_size,
            num_heads,
            // Gates and values, and what becomes of them.
            ffn_numbers: 3 * ffn_size,
        }
    }

    fn tokens(&self) -> TokenMap {
        token_map()
    }

    fn vocabulary(&self) -> Vocabulary {
        Vocabulary {
            len: EMBEDDED,
            pad: PAD,
            mask: MASK,
        }
    }

    fn heads(&self) -> Heads {
        Heads {
            logits: match self.has_lm_head() {
                true => Ok(EMBEDDED),
                false => Err("lm_head or sequence_head tensors"),
            },
            contacts: Err("contact head, as no ESM C has"),
        }
    }

    fn num_parameters(&self) -> u64 {
        Self::num_parameters(self)
    }

    fn numerics(&self) -> u32 {
        NUMERICS
    }

    /// In bf16, means of random models have 0.9997 to 0.9999 of f32 (`docs/numerics.md`).
    fn keeps_means(&self, dtype: Dtype) -> bool {
        dtype != Dtype::Bf16
    }

    fn weights_digest(&self) -> Result<Digest, Error> {
        Self::weights_digest(self)
    }

    fn check_dtype(&self, dtype: Dtype, _is_on_gpu: bool) -> Result<(), Error> {
        let model = || Self::name(self).to_owned();
        match dtype {
            Dtype::Int8 => Err(Error::NoInt8 {
                model: model(),
                why: NoInt8::Family("ESM C"),
            }),
            Dtype::F32 | Dtype::F16 | Dtype::Bf16 => Ok(()),
        }
    }

    fn parts(&self, dtype: Dtype, place: &dyn Place) -> Result<Parts, Error> {
        let tensors = Tensors::new(self, dtype, place);
        let layers = Box::new(tensors.plain_layers()?);
        Ok(tensors.parts(tensors.embeddings()?, layers)?)
    }

    #[cfg(feature = "cuda")]
    fn parts_on_gpu(&self, dtype: Dtype, gpu: &Gpu) -> Result<Parts, Error> {
        crate::gpu::parts(self, dtype, gpu)
    }
}
