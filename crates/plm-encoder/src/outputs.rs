//! What a forward pass gives, on its way to columns.

use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use half::f16;
use plm_core::{Column, Dtype, OutputSpec, Per, ValuePool, Values};

use crate::{Error, PooledNorm};

/// A batch that a model has started to compute.
#[derive(Debug)]
pub struct Started {
    /// For each piece of the batch, in order, the values of each output.
    pub(crate) pieces: Vec<Vec<Fetched>>,
    /// The outputs that were asked for.
    pub(crate) specs: Vec<OutputSpec>,
    /// The residues of each sequence of the batch.
    pub(crate) residue_counts: Vec<u32>,
    /// The norm that pooled rows still need; `None` if they need none.
    pub(crate) pooled_norm: Option<Arc<dyn PooledNorm>>,
    /// The memory of outputs with many rows per sequence.
    pub(crate) memory: ValuePool,
}

impl Started {
    /// Waits for the outputs. Returns the column of each, in the order of
    /// [`Model::output_specs`](crate::Model::output_specs).
    ///
    /// # Errors
    /// [`Error::Tensor`] if the GPU has failed.
    pub fn finish(self) -> Result<Vec<Column>, Error> {
        let Self {
            pieces,
            specs,
            residue_counts,
            pooled_norm,
            memory,
        } = self;
        // Small columns would take the place of large ones in the pool.
        let fresh = ValuePool::default();
        let memory_of = |spec: &OutputSpec| match spec.per() {
            Per::Sequence => &fresh,
            Per::Residue | Per::Pair => &memory,
        };
        let mut of_specs: Vec<Vec<Values>> = specs.iter().map(|_| Vec::new()).collect();
        for piece in pieces {
            for ((of_spec, of_piece), spec) in of_specs.iter_mut().zip(piece).zip(&specs) {
                of_spec.push(of_piece.wait(memory_of(spec))?);
            }
        }
        let columns = of_specs.into_iter().zip(&specs).map(|(pieces, spec)| {
            let mut values = joined(pieces, spec.dtype);
            if let (Some(norm), Values::F32(values)) = (&pooled_norm, &mut values) {
                let mut scratch = vec![0.0; spec.width];
                let rows = values.chunks_exact_mut(spec.width);
                rows.for_each(|row| norm.apply(row, &mut scratch));
            }
            let mut rows = 0;
            let ends = residue_counts.iter().map(|&residues| {
                rows += spec.per().rows(residues);
                rows
            });
            let offsets = std::iter::once(0).chain(ends).collect();
            Column::with_offsets(spec.width, offsets, values)
                .expect("each sequence gives the rows of its output")
                .in_pool(memory_of(spec))
        });
        Ok(columns.collect())
    }
}

/// Values on the CPU, or on their way there from a GPU.
#[derive(Debug)]
pub enum Fetched {
    /// They are on the CPU.
    Here(Values),
    /// A device is still to give them.
    OnTheirWay(Box<dyn OnTheirWay>),
}

/// Values that a device has not given yet.
pub trait OnTheirWay: fmt::Debug + Send {
    /// Waits for the values, and puts them into memory of this pool.
    ///
    /// # Errors
    /// If the device has failed.
    fn wait(self: Box<Self>, memory: &ValuePool) -> TensorResult<Values>;
}

impl Fetched {
    /// The values, after they have arrived.
    fn wait(self, memory: &ValuePool) -> TensorResult<Values> {
        match self {
            Self::Here(values) => Ok(values),
            Self::OnTheirWay(values) => values.wait(memory),
        }
    }
}

/// The values of all pieces, which are in `dtype`, one after the other.
fn joined(mut pieces: Vec<Values>, dtype: Dtype) -> Values {
    if pieces.len() == 1 {
        return pieces.swap_remove(0);
    }
    match dtype {
        Dtype::F16 => Values::F16(concat(&pieces, |piece| match piece {
            Values::F16(values) => values,
            Values::F32(_) => unreachable!("an output has one format in all pieces"),
        })),
        _ => Values::F32(concat(&pieces, |piece| match piece {
            Values::F32(values) => values,
            Values::F16(_) => unreachable!("an output has one format in all pieces"),
        })),
    }
}

fn concat<T: Clone>(pieces: &[Values], values: impl Fn(&Values) -> &[T]) -> Vec<T> {
    let all: Vec<&[T]> = pieces.iter().map(values).collect();
    all.concat()
}

/// A tensor of any format and device, as f32 on the CPU. It is converted on the CPU: candle
/// compiles its own kernels at their first use, which takes seconds.
///
/// # Errors
/// If the device fails.
pub fn on_cpu(tensor: &Tensor) -> TensorResult<Tensor> {
    tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)
}

/// The values of a tensor in f16 or f32 on the CPU, row by row.
pub(crate) fn to_values(tensor: &Tensor) -> TensorResult<Values> {
    let flat = tensor.flatten_all()?;
    Ok(match flat.dtype() {
        DType::F16 => Values::F16(flat.to_vec1::<f16>()?),
        _ => Values::F32(flat.to_vec1()?),
    })
}
