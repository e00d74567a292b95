//! A checkpoint as what candle's layers load their weights from.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Error, Result, Shape, Tensor};
use candle_nn::{Init, var_builder::SimpleBackend};

use super::stored::StoredTensor;
use crate::precision::Precision;

/// Tensors that were checked when the checkpoint was opened, rounded to what the model computes in.
pub(super) struct Backend<'a>(
    pub(super) &'a BTreeMap<String, StoredTensor>,
    pub(super) Precision,
);

impl SimpleBackend for Backend<'_> {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _init: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let tensor = self.get_unchecked(name, dtype, device)?;
        if tensor.shape() != &shape {
            return Err(Error::UnexpectedShape {
                msg: format!("tensor {name}"),
                expected: shape,
                got: tensor.shape().clone(),
            });
        }
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let stored = self.0.get(name).ok_or_else(|| Error::CannotFindTensor {
            path: name.to_owned(),
        })?;
        let values = stored.to_f32().map_err(Error::wrap)?;
        let tensor = Tensor::from_vec(values, stored.shape(), &Device::Cpu)?;
        self.1.round(tensor)?.to_dtype(dtype)?.to_device(device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}
