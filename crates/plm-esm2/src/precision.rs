//! The numerics of 16-bit models.

use candle_core::{DType, Device, Result, Tensor};
use plm_core::Dtype;

/// The number format that a model computes in, on a device.
///
/// A CPU multiplies in f32 either way. For the 16-bit formats, weights are rounded once and every tensor between two
/// operations is rounded (to nearest, ties to even), which is what a GPU does that stores 16 bits and accumulates in 32. It
/// gives those numerics, at no gain in speed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Precision {
    dtype: Dtype,
    /// Tensors stay f32 and hold values that the format can.
    emulated: bool,
}

impl Precision {
    pub(crate) fn new(dtype: Dtype, device: &Device) -> Self {
        Self {
            dtype,
            emulated: device.is_cpu(),
        }
    }

    /// The format that tensors are stored in.
    pub(crate) fn stored(self) -> DType {
        if self.emulated {
            DType::F32
        } else {
            candle_dtype(self.dtype)
        }
    }

    /// `tensor`, stored as it is, with values that the format can hold.
    pub(crate) fn round(self, tensor: Tensor) -> Result<Tensor> {
        if self.dtype == Dtype::F32 || !self.emulated {
            return Ok(tensor);
        }
        tensor.to_dtype(candle_dtype(self.dtype))?.to_dtype(DType::F32)
    }
}

fn candle_dtype(dtype: Dtype) -> DType {
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
            let tensor = Precision::new(dtype, &Device::Cpu).round(tensor).unwrap();
            tensor.to_vec1::<f32>().unwrap()[0]
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
