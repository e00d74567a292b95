//! A checkpoint as what candle's layers load their weights from.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Error, Result, Shape, Tensor};
use candle_nn::{Init, var_builder::SimpleBackend};
use plm_core::Dtype;

use super::stored::StoredTensor;

/// Tensors that were checked when the checkpoint was opened, rounded to what the model computes in.
pub(super) struct Backend<'a>(
    pub(super) &'a BTreeMap<String, StoredTensor>,
    pub(super) Dtype,
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
        round(&tensor, self.1)?.to_dtype(dtype)?.to_device(device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

/// `tensor` with values that `format` can hold: to nearest, ties to even.
fn round(tensor: &Tensor, format: Dtype) -> Result<Tensor> {
    tensor
        .to_dtype(candle_format(format))?
        .to_dtype(tensor.dtype())
}

/// As candle calls it.
pub(super) fn candle_format(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::BF16,
        Dtype::F16 => DType::F16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_nearest_with_ties_to_even() {
        let rounded = |dtype, value: f32| {
            let tensor = Tensor::new(&[value], &Device::Cpu).unwrap();
            round(&tensor, dtype).unwrap().to_vec1::<f32>().unwrap()[0]
        };
        let ulp = 1.0 / 128.0;
        assert_eq!(rounded(Dtype::Bf16, 1.0 + 0.5 * ulp), 1.0);
        assert_eq!(rounded(Dtype::Bf16, 1.0 + 1.5 * ulp), 1.0 + 2.0 * ulp);
        assert_eq!(rounded(Dtype::Bf16, 1.0 + 0.6 * ulp), 1.0 + ulp);
        let ulp = 1.0 / 1024.0;
        assert_eq!(rounded(Dtype::F16, 1.0 + 0.5 * ulp), 1.0);
        assert_eq!(rounded(Dtype::F16, 1.0 + 1.5 * ulp), 1.0 + 2.0 * ulp);
        assert_eq!(rounded(Dtype::F32, 1.0 + 1e-7), 1.0 + 1e-7);
    }
}
