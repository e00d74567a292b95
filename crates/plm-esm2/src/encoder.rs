//! What ESM-2, ESM-1b and ESM-1v say about their checkpoints to `plm-encoder`.

use plm_core::{Digest, Dtype, TokenMap};
use plm_encoder::{
    Error, FamilyCheckpoint, Heads, Loader, Model, Origin, Parts, Place, Sizes, Vocabulary,
};
#[cfg(feature = "cuda")]
use plm_kernels::Gpu;

use crate::alphabet::{MASK, PAD, VOCABULARY, token_map};
use crate::int8_shape::check_int8;
use crate::model_config::Positions;
use crate::tensors::Tensors;
use crate::{Checkpoint, Config};

/// It changes whenever a new version gives vectors other bits.
const NUMERICS: u32 = 3;

/// An ESM-2, ESM-1b or ESM-1v in memory.
///
/// ```
/// use plm_core::{Dtype, Layer, OutputKind, OutputSet, Packer, RowId};
/// use plm_esm2::{Checkpoint, Esm2, token_map};
///
/// let model = Esm2::new(&Checkpoint::plm_tiny(), Dtype::F32)?;
/// let tokens = token_map();
/// let mut packer = Packer::new(&tokens, 64);
/// packer.push(RowId(0), b"MKTAYIAKQR")?;
///
/// // The rows of all residues in layer 3, and their logits.
/// let outputs = OutputSet::new([OutputKind::Residues, OutputKind::Logits], [Layer(3)]);
/// let columns = model.forward(&packer.finish(), &outputs)?;
/// assert_eq!(columns[0].sequence(0).len(), 10 * 128);
/// assert_eq!(columns[1].sequence(0).len(), 10 * 33);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type Esm2 = Model;

/// Makes encoders of ESM-2, ESM-1b and ESM-1v. On the CPU, all of them share one copy of the
/// weights. On GPUs, each has its own GPU.
///
/// ```
/// use std::num::NonZeroUsize;
/// use std::sync::Arc;
///
/// use plm_core::{Dtype, EncoderLoader, Packer, Rank, RowId};
/// use plm_esm2::{Checkpoint, CpuOptions, Esm2Loader, token_map};
///
/// let options = CpuOptions::all_cores(NonZeroUsize::MIN);
/// let loader = Esm2Loader::new(Checkpoint::plm_tiny(), options, Dtype::F32)?;
/// assert_eq!(loader.spec().outputs[0].name(), "mean/layer_6");
///
/// let tokens = token_map();
/// let mut packer = Packer::new(&tokens, 64);
/// packer.push(RowId(0), b"MKTAYIAKQR")?;
///
/// let mut encoder = loader.load(Rank(0))?;
/// let ticket = encoder.submit(&Arc::new(packer.finish()));
/// let encoded = encoder.finish(ticket)?;
/// assert_eq!(encoded.columns()[0].width(), 128);
/// # Ok::<(), plm_core::BoxError>(())
/// ```
pub type Esm2Loader = Loader<Checkpoint>;

impl FamilyCheckpoint for Checkpoint {
    fn family(&self) -> &'static str {
        self.config().family()
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
            ..
        } = *self.config();
        Sizes {
            num_layers,
            hidden_size,
            num_heads,
            ffn_numbers: ffn_size,
        }
    }

    fn tokens(&self) -> TokenMap {
        token_map()
    }

    fn max_sequence_tokens(&self) -> Option<usize> {
        self.config().max_sequence_tokens()
    }

    fn vocabulary(&self) -> Vocabulary {
        Vocabulary {
            len: VOCABULARY.len(),
            pad: PAD,
            mask: MASK,
        }
    }

    fn heads(&self) -> Heads {
        let has = |head: bool, lacks| if head { Ok(()) } else { Err(lacks) };
        let lm_head = match self.embedding_is_changed() {
            true => "lm_head of its own beside the embedding that the adapter changes",
            false => "lm_head tensors",
        };
        Heads {
            logits: has(self.has_lm_head(), lm_head).map(|()| VOCABULARY.len()),
            contacts: has(self.has_contact_head(), "contact_head tensors"),
        }
    }

    fn num_parameters(&self) -> u64 {
        Self::num_parameters(self)
    }

    fn gpu_bytes(&self, dtype: Dtype) -> u64 {
        let all = self.num_parameters();
        if dtype != Dtype::Int8 {
            return all * dtype.bytes();
        }
        // The matrices of all layers but the first; the rest is bf16.
        let config = self.config();
        let (hidden, ffn) = (config.hidden_size as u64, config.ffn_size as u64);
        let in_8_bits = (config.num_layers as u64 - 1) * (4 * hidden * hidden + 2 * hidden * ffn);
        in_8_bits * Dtype::Int8.bytes() + (all - in_8_bits) * Dtype::Bf16.bytes()
    }

    fn numerics(&self) -> u32 {
        NUMERICS
    }

    fn weights_digest(&self) -> Result<Digest, Error> {
        Self::weights_digest(self)
    }

    fn digest_with_contact_head(&self, weights: &Digest) -> Result<Digest, Error> {
        Self::digest_with_contact_head(self, weights)
    }

    /// In bf16, contacts of an ESM-1b have 0.99987 of the reference (`docs/numerics.md`).
    fn keeps_means(&self, dtype: Dtype) -> bool {
        self.config().positions == Positions::Rotary || dtype != Dtype::Bf16
    }

    fn check_dtype(&self, dtype: Dtype, is_on_gpu: bool) -> Result<(), Error> {
        check_int8(self, dtype, is_on_gpu)
    }

    fn parts(&self, dtype: Dtype, place: &dyn Place) -> Result<Parts, Error> {
        let tensors = Tensors::new(self, dtype, place)?;
        tensors.parts(tensors.embeddings.clone(), tensors.plain()?)
    }

    #[cfg(feature = "cuda")]
    fn parts_on_gpu(&self, dtype: Dtype, gpu: &Gpu) -> Result<Parts, Error> {
        crate::gpu::parts(self, dtype, gpu)
    }
}
