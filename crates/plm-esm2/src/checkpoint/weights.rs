//! A checkpoint as what candle's layers load their weights from.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Error, Result, Shape, Tensor, WithDType};
use candle_nn::{Init, var_builder::SimpleBackend};
use half::{bf16, f16};
use plm_core::Dtype;

use super::stored::StoredTensor;

/// Tensors that were checked when the checkpoint was opened, in the format that the model computes in.
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

    fn get_unchecked(&self, name: &str, _dtype: DType, device: &Device) -> Result<Tensor> {
        let stored = self.0.get(name).ok_or_else(|| Error::CannotFindTensor {
            path: name.to_owned(),
        })?;
        // The CPU computes in f32, with numbers that the format can hold.
        match (self.1, device) {
            (Dtype::F32, _) => load(stored, |x| x, device),
            (Dtype::Bf16, Device::Cpu) => load(stored, |x| bf16::from_f32(x).to_f32(), device),
            (Dtype::F16, Device::Cpu) => load(stored, |x| f16::from_f32(x).to_f32(), device),
            (Dtype::Bf16, _) => load(stored, bf16::from_f32, device),
            (Dtype::F16, _) => load(stored, f16::from_f32, device),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

fn load<T: WithDType + Default>(
    stored: &StoredTensor,
    convert: impl Fn(f32) -> T + Sync,
    device: &Device,
) -> Result<Tensor> {
    let values = stored.values(convert).map_err(Error::wrap)?;
    Tensor::from_vec(values, stored.shape(), device)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::checkpoint::source::Source;

    #[test]
    fn rounding_is_to_nearest_with_ties_to_even() {
        let rounded = |dtype, value: f32| {
            let source = Source::bytes(PathBuf::new(), value.to_le_bytes().to_vec());
            let tensors = [("x".to_owned(), StoredTensor::whole(source, vec![1]))];
            let backend = Backend(&tensors.into(), dtype);
            let tensor = backend.get_unchecked("x", DType::F32, &Device::Cpu);
            tensor.unwrap().to_vec1::<f32>().unwrap()[0]
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
