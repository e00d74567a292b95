//! A checkpoint's tensors, as a place and a number format take them: a backend of candle's
//! `VarBuilder`.

use std::convert::identity;

use candle_core::{DType, Device, Error, Result, Shape, Tensor, WithDType};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use half::vec::HalfBitsVecExt;
use half::{bf16, f16};
use plm_checkpoint::{StoredTensor, Tensors};
use plm_core::Dtype;

/// The tensors rounded to `dtype`, on `device`, by their canonical names. On the CPU they are
/// stored as f32, since all arithmetic is f32. They are read when they are asked for.
pub fn weights<'a>(tensors: &'a Tensors, dtype: Dtype, device: &Device) -> VarBuilder<'a> {
    divided_weights(tensors, 1.0, dtype, device)
}

/// As [`weights`], each number divided by `divisor` in f32 before it is rounded.
pub fn divided_weights<'a>(
    tensors: &'a Tensors,
    divisor: f32,
    dtype: Dtype,
    device: &Device,
) -> VarBuilder<'a> {
    let backend = Backend {
        tensors,
        divisor,
        dtype,
    };
    // The backend ignores this format, and uses its own.
    VarBuilder::from_backend(Box::new(backend), DType::F32, device.clone())
}

/// Tensors that were checked when the checkpoint was opened.
struct Backend<'a> {
    tensors: &'a Tensors,
    /// Every number is divided by this.
    divisor: f32,
    /// The number format to round to.
    dtype: Dtype,
}

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
        let stored = self
            .tensors
            .get(name)
            .ok_or_else(|| Error::CannotFindTensor {
                path: name.to_owned(),
            })?;
        // The CPU computes in f32, with numbers that the format can hold.
        let by = self.divisor;
        let to_bf16 = |x: f32| bf16::from_f32(x / by);
        let to_f16 = |x: f32| f16::from_f32(x / by);
        match (self.dtype, device) {
            (Dtype::F32, _) => load(stored, |x| x / by, identity, device),
            (Dtype::Bf16 | Dtype::Int8, Device::Cpu) => {
                load(stored, |x| to_bf16(x).to_f32(), identity, device)
            }
            (Dtype::F16, Device::Cpu) => load(stored, |x| to_f16(x).to_f32(), identity, device),
            (Dtype::Bf16 | Dtype::Int8, _) => load_bf16(stored, to_bf16, device),
            (Dtype::F16, _) => load_f16(stored, to_f16, device),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains(name)
    }
}

// 16-bit numbers are made as bits. A vector of integer zeros is made of pages that the system
// clears when a thread first touches them, so all threads share that work. A vector of `bf16` would
// be filled by one thread, which takes longer than all the rest.

fn load_bf16(
    stored: &StoredTensor,
    convert: impl Fn(f32) -> bf16 + Sync,
    device: &Device,
) -> Result<Tensor> {
    let to_bits = |x| convert(x).to_bits();
    load(stored, to_bits, Vec::reinterpret_into::<bf16>, device)
}

fn load_f16(
    stored: &StoredTensor,
    convert: impl Fn(f32) -> f16 + Sync,
    device: &Device,
) -> Result<Tensor> {
    let to_bits = |x| convert(x).to_bits();
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
            let tensor = weights(&tensors, dtype, &Device::Cpu).get(1, "x");
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
        let bf16s = load_bf16(&stored, bf16::from_f32, &Device::Cpu).unwrap();
        assert_eq!(
            bf16s.to_vec1::<bf16>().unwrap(),
            numbers.map(bf16::from_f32)
        );
        let f16s = load_f16(&stored, f16::from_f32, &Device::Cpu).unwrap();
        assert_eq!(f16s.to_vec1::<f16>().unwrap(), numbers.map(f16::from_f32));
    }

    #[test]
    fn weights_are_divided_before_they_are_rounded() {
        let stored = StoredTensor::of_values([1.0, 2.0], vec![2]);
        let tensors = [("x".to_owned(), stored)].into_iter().collect();
        let divided = |dtype| {
            let tensor = divided_weights(&tensors, 3.0, dtype, &Device::Cpu).get(2, "x");
            tensor.unwrap().to_vec1::<f32>().unwrap()
        };
        let thirds = [1.0_f32 / 3.0, 2.0 / 3.0];
        assert_eq!(divided(Dtype::F32), thirds);
        let rounded = thirds.map(|x| f16::from_f32(x).to_f32());
        assert_eq!(divided(Dtype::F16), rounded);
    }
}
