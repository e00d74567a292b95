//! The numerics of 16-bit models on a CPU.

use candle_core::{DType, Result, Tensor};
use plm_core::Dtype;

/// Rounds tensors to the number format a model computes in.
///
/// A CPU multiplies in f32 either way. For the 16-bit formats, weights are rounded once and
/// every tensor between two operations is rounded (to nearest, ties to even), which is what a
/// device does that stores 16 bits and accumulates in 32. It gives those numerics, at no gain in speed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Precision(Dtype);

impl Precision {
    pub(crate) fn new(dtype: Dtype) -> Self {
        Self(dtype)
    }

    /// `tensor`, still f32, with values that the format can hold.
    pub(crate) fn round(self, tensor: Tensor) -> Result<Tensor> {
        let narrow = match self.0 {
            Dtype::F32 => return Ok(tensor),
            Dtype::Bf16 => DType::BF16,
            Dtype::F16 => DType::F16,
        };
        tensor.to_dtype(narrow)?.to_dtype(DType::F32)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn rounding_is_to_nearest_with_ties_to_even() {
        let rounded = |dtype, value: f32| {
            let tensor = Tensor::new(&[value], &Device::Cpu).unwrap();
            let tensor = Precision::new(dtype).round(tensor).unwrap();
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
