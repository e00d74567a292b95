//! A checkpoint as a backend of candle's `VarBuilder`.

use std::convert::identity;

use candle_core::{DType, Device, Error, Result, Shape, Tensor, WithDType};
use candle_nn::{Init, var_builder::SimpleBackend};
use half::vec::HalfBitsVecExt;
use half::{bf16, f16};
use plm_checkpoint::{StoredTensor, Tensors};
use plm_core::Dtype;

/// Tensors that were checked when the checkpoint was opened, and the number format to round them
/// to.
pub(super) struct Backend<'a>(pub(super) &'a Tensors, pub(super) Dtype);

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
            (Dtype::F32, _) => load(stored, |x| x, identity, device),
            (Dtype::Bf16 | Dtype::Int8, Device::Cpu) => {
                load(stored, |x| bf16::from_f32(x).to_f32(), identity, device)
            }
            (Dtype::F16, Device::Cpu) => {
                load(stored, |x| f16::from_f32(x).to_f32(), identity, device)
            }
            (Dtype::Bf16 | Dtype::Int8, _) => load_bf16(stored, device),
            (Dtype::F16, _) => load_f16(stored, device),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

// 16-bit numbers are made as bits. A vector of integer zeros is made of pages that the system
// clears when a thread first touches them, so all threads share that work. A vector of `bf16` would
// be filled by one thread, which takes longer than all the rest.

fn load_bf16(stored: &StoredTensor, device: &Device) -> Result<Tensor> {
    let to_bits = |x| bf16::from_f32(x).to_bits();
    load(stored, to_bits, Vec::reinterpret_into::<bf16>, device)
}

fn load_f16(stored: &StoredTensor, device: &Device) -> Result<Tensor> {
    let to_bits = |x| f16::from_f32(x).to_bits();
    load(stored, to_bits, Vec::reinterpret_into::<f16>, device)
}

fn load<B: Clone + Default + Send, T: WithDType>(
    stored: &StoredTensor,
    convert: impl Fn(f32) -> B + Sync,
    reinterpret: impl FnOnce(Vec<B>) -> Vec<T>,
    device: &Device,
) -> Result<Tensor> {
    let values = stored.values(convert).map_err(Error::wrap)?;
    Tensor::from_vec(reinterpret(values), stored.shape(), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_nearest_with_ties_to_even() {
        let rounded = |dtype, value: f32| {
            let stored = StoredTensor::of_values([value], vec![1]);
            let tensors = [("x".to_owned(), stored)].into_iter().collect();
            let backend = Backend(&tensors, dtype);
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

    #[test]
    fn devices_get_the_numbers_that_the_cpu_rounds_to() {
        let numbers = [1.0_f32, -0.0, 1.0e-7, 0.1, 3.0e4, 7.0e4, f32::NEG_INFINITY];
        let stored = StoredTensor::of_values(numbers, vec![numbers.len()]);
        let bf16s = load_bf16(&stored, &Device::Cpu).unwrap();
        assert_eq!(
            bf16s.to_vec1::<bf16>().unwrap(),
            numbers.map(bf16::from_f32)
        );
        let f16s = load_f16(&stored, &Device::Cpu).unwrap();
        assert_eq!(f16s.to_vec1::<f16>().unwrap(), numbers.map(f16::from_f32));
    }
}
