//! Contacts between residues, from the attention maps of all layers.
//!
//! fair-esm's contact head (Rao et al. 2020, doi:10.1101/2020.12.15.422761) takes the attention
//! probabilities of every head of every layer, cuts BOS and EOS away, makes each map symmetric,
//! corrects it for the average product of its rows and columns (APC), and gives all of them to a
//! logistic regression. Maps of all heads at once would take hundreds of times the memory of the
//! result. Here each map `a` of `L x L` is made where its layer is computed, and two things are
//! kept of it:
//!
//! - its share of `sum w a`, the sum over all maps weighted by the regression, `L x L` for all
//!   together
//! - the sums of the rows of `a + a'`, over the square root of the sum of all of them: `L` numbers
//!   `q`, since the correction of an element is `q_i q_j`
//!
//! The logit of a pair is then `s_ij + s_ji - sum w q_i q_j`, plus the bias. All of it is f32, and
//! each sum runs in an order that a residue's position in its sequence fixes.

#[cfg(feature = "cuda")]
mod cuda;
mod host;

use std::fmt;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::{CuSeqlens, VarlenAttention};

/// The logistic regression of a contact head.
#[derive(Clone, Debug)]
pub struct ContactHead {
    /// `[layers, heads]`, in f32.
    weights: Tensor,
    bias: f32,
    layers: usize,
    num_heads: usize,
}

impl ContactHead {
    /// With a weight for each head of each layer, layer by layer, for a model on `device`.
    ///
    /// # Errors
    /// If the weights are not those of whole layers of `num_heads` heads, or the device fails.
    pub fn new(weights: Vec<f32>, bias: f32, num_heads: usize, device: &Device) -> Result<Self> {
        let count = weights.len();
        if num_heads == 0 || !count.is_multiple_of(num_heads) {
            bail!("contacts: {count} weights are not those of layers of {num_heads} heads");
        }
        let layers = count / num_heads;
        Ok(Self {
            weights: Tensor::from_vec(weights, (layers, num_heads), device)?,
            bias,
            layers,
            num_heads,
        })
    }
}

/// The contacts of some sequences, while their layers are computed one after the other.
///
/// Attention that is given it ([`VarlenAttention::contacts`]) adds its maps to it.
pub struct Contacts<'a> {
    head: &'a ContactHead,
    /// The sequences: the first ones of those that attention is over.
    cu_seqlens: &'a CuSeqlens,
    sums: Mutex<Sums>,
}

/// What is kept of the maps so far.
enum Sums {
    /// No layer was added.
    Empty,
    Host(host::Sums),
    #[cfg(feature = "cuda")]
    Cuda(Box<cuda::Sums>),
}

impl fmt::Debug for Contacts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contacts").finish_non_exhaustive()
    }
}

impl<'a> Contacts<'a> {
    /// Of these sequences, before any layer.
    ///
    /// # Errors
    /// If a sequence has no residues.
    pub fn new(head: &'a ContactHead, cu_seqlens: &'a CuSeqlens) -> Result<Self> {
        cu_seqlens.check_residues("contacts")?;
        Ok(Self {
            head,
            cu_seqlens,
            sums: Mutex::new(Sums::Empty),
        })
    }

    /// Adds the maps of the next layer: those of `attention` of `qkv` `[total_tokens, 3 * hidden]`,
    /// whose queries and keys are still to get `bias` `[3 * hidden]`, query scale and positions;
    /// with no bias they have all of it. The caller has checked these shapes.
    pub(crate) fn add_layer(
        &self,
        attention: &VarlenAttention<'_>,
        qkv: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<()> {
        if attention.num_heads != self.head.num_heads {
            bail!(
                "contacts: {} heads, and the regression is of {}",
                attention.num_heads,
                self.head.num_heads
            );
        }
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(&*sums, Sums::Empty) {
            *sums = match qkv.device() {
                Device::Cpu => Sums::Host(host::Sums::new(self.cu_seqlens)),
                #[cfg(feature = "cuda")]
                Device::Cuda(device) => {
                    let sums = cuda::Sums::new(self.head, self.cu_seqlens, device)?;
                    Sums::Cuda(Box::new(sums))
                }
                other => bail!("contacts: there is no implementation for {other:?}"),
            };
        }
        match &mut *sums {
            Sums::Host(sums) => {
                let Some(bias) = bias else {
                    bail!("contacts: queries and keys on the CPU are without positions");
                };
                sums.add_layer(self.head, self.cu_seqlens, attention, qkv, bias)
            }
            #[cfg(feature = "cuda")]
            Sums::Cuda(sums) => sums.add_layer(self.head, self.cu_seqlens, attention, qkv, bias),
            Sums::Empty => unreachable!("they were made just now"),
        }
    }

    /// The probabilities that residues touch, rounded to `dtype`, which is f16 or f32: for each
    /// sequence of `L` residues in order, `L x L`, row by row.
    ///
    /// # Errors
    /// If not every layer was added, or the device fails.
    pub fn finish(self, dtype: DType) -> Result<Tensor> {
        match self
            .sums
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
        {
            Sums::Empty => bail!("contacts: no layer was added"),
            Sums::Host(sums) => sums.finish(self.head, dtype),
            #[cfg(feature = "cuda")]
            Sums::Cuda(sums) => sums.finish(self.head, self.cu_seqlens, dtype),
        }
    }
}

/// Refuses a layer more than the regression is of.
fn check_next_layer(head: &ContactHead, layers: usize) -> Result<()> {
    if layers == head.layers {
        bail!("contacts: a layer was added, and the regression is of {layers}");
    }
    Ok(())
}

/// Refuses a result of fewer layers than the regression is of.
fn check_all_layers(head: &ContactHead, layers: usize) -> Result<()> {
    let expected = head.layers;
    if layers != expected {
        bail!("contacts: {layers} layers were added, and the regression is of {expected}");
    }
    Ok(())
}
