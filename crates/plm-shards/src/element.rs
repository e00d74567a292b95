//! How one number of a vector is stored.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;
use hdf5::Datatype;
use plm_core::{Dtype, Values};

// Vectors are written and read as raw bytes, without HDF5's conversions.
const _: () = assert!(
    cfg!(target_endian = "little"),
    "embeddings are stored little-endian"
);

/// A number format in which vectors can be stored. numpy knows both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    F16,
}

impl Element {
    pub(crate) fn from_dtype(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::Bf16 | Dtype::Int8 => None,
        }
    }

    pub(crate) fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
        }
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    pub(crate) fn datatype(self) -> hdf5::Result<Datatype> {
        match self {
            Self::F32 => Datatype::from_type::<f32>(),
            Self::F16 => Datatype::from_type::<f16>(),
        }
    }

    /// The largest magnitude that stays finite when it is stored.
    pub(crate) fn largest_value(self) -> f32 {
        match self {
            Self::F32 => f32::MAX,
            // Half a step beyond `f16::MAX` rounds to infinity; anything less, to `f16::MAX`.
            Self::F16 => 65_520_f32.next_down(),
        }
    }

    /// Appends the bytes of numbers. Numbers that are already in this format keep their bits. f32
    /// is rounded to the nearest f16, ties to even.
    pub(crate) fn encode(self, values: &Values, bytes: &mut Vec<u8>) {
        self.encode_some(values, 0..values.len(), bytes);
    }

    /// The bytes of some of the numbers, as [`encode`](Self::encode) makes them. Numbers that are
    /// already in this format are not copied; the bytes of others are put into `scratch`.
    ///
    /// # Panics
    /// If there are no such numbers.
    pub(crate) fn stored<'a>(
        self,
        values: &'a Values,
        numbers: Range<usize>,
        scratch: &'a mut Vec<u8>,
    ) -> &'a [u8] {
        match (self, values) {
            (Self::F32, Values::F32(values)) => bytemuck::cast_slice(&values[numbers]),
            (Self::F16, Values::F16(values)) => bytemuck::cast_slice(&values[numbers]),
            (Self::F32, Values::F16(_)) | (Self::F16, Values::F32(_)) => {
                scratch.clear();
                self.encode_some(values, numbers, scratch);
                scratch
            }
        }
    }

    fn encode_some(self, values: &Values, numbers: Range<usize>, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        bytes.resize(start + numbers.len() * self.bytes(), 0);
        let stored = &mut bytes[start..];
        match (self, values) {
            (Self::F32, Values::F32(values)) => {
                let values = &values[numbers];
                for (stored, value) in stored.chunks_exact_mut(4).zip(values) {
                    stored.copy_from_slice(&value.to_le_bytes());
                }
            }
            (Self::F32, Values::F16(values)) => {
                let values = &values[numbers];
                for (stored, value) in stored.chunks_exact_mut(4).zip(values) {
                    stored.copy_from_slice(&value.to_f32().to_le_bytes());
                }
            }
            (Self::F16, Values::F32(values)) => {
                let values = &values[numbers];
                let mut rounded = vec![f16::ZERO; values.len()];
                rounded.convert_from_f32_slice(values);
                copy_halves(&rounded, stored);
            }
            (Self::F16, Values::F16(values)) => copy_halves(&values[numbers], stored),
        }
    }

    /// The values of stored bytes, in the format in which they are stored.
    ///
    /// # Panics
    /// If the bytes are not a whole number of values.
    pub(crate) fn values(self, bytes: &[u8]) -> Values {
        match self {
            Self::F32 => {
                let (values, rest) = bytes.as_chunks::<4>();
                assert!(rest.is_empty(), "rows are whole");
                let values = values.iter().map(|&bytes| f32::from_le_bytes(bytes));
                Values::F32(values.collect())
            }
            Self::F16 => {
                let (values, rest) = bytes.as_chunks::<2>();
                assert!(rest.is_empty(), "rows are whole");
                let values = values.iter().map(|&bytes| f16::from_le_bytes(bytes));
                Values::F16(values.collect())
            }
        }
    }

    /// The values of stored bytes, in f32.
    ///
    /// # Panics
    /// If the bytes are not a whole number of values.
    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self.values(bytes) {
            Values::F32(values) => values,
            Values::F16(values) => values.into_iter().map(f16::to_f32).collect(),
        }
    }

    /// The position of the first stored value that is NaN or infinite.
    pub(crate) fn first_not_finite(self, bytes: &[u8]) -> Option<usize> {
        // Both formats mark such values by an exponent of all ones. The first pass has no early
        // exit, so the compiler vectorises it. It is almost always the only pass.
        match self {
            Self::F32 => {
                let not_finite =
                    |bytes: &[u8; 4]| u32::from_le_bytes(*bytes) & 0x7f80_0000 == 0x7f80_0000;
                let values = bytes.as_chunks::<4>().0;
                let any = values
                    .iter()
                    .fold(false, |any, value| any | not_finite(value));
                any.then(|| values.iter().position(not_finite)).flatten()
            }
            Self::F16 => {
                let not_finite = |bytes: &[u8; 2]| u16::from_le_bytes(*bytes) & 0x7c00 == 0x7c00;
                let values = bytes.as_chunks::<2>().0;
                let any = values
                    .iter()
                    .fold(false, |any, value| any | not_finite(value));
                any.then(|| values.iter().position(not_finite)).flatten()
            }
        }
    }
}

fn copy_halves(values: &[f16], stored: &mut [u8]) {
    for (stored, value) in stored.chunks_exact_mut(2).zip(values) {
        stored.copy_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(element: Element, values: impl Into<Values>) -> Vec<u8> {
        let mut bytes = vec![];
        element.encode(&values.into(), &mut bytes);
        bytes
    }

    #[test]
    fn values_come_back_as_they_were_rounded() {
        let vector = vec![0.0, -1.5, 1.0e-7, 65504.0, std::f32::consts::PI];
        for element in [Element::F32, Element::F16] {
            let bytes = encoded(element, vector.clone());
            let expected: Vec<f32> = match element {
                Element::F32 => vector.clone(),
                Element::F16 => vector.iter().map(|&v| f16::from_f32(v).to_f32()).collect(),
            };
            assert_eq!(element.decode(&bytes), expected);
        }
    }

    #[test]
    fn every_half_keeps_its_bits_or_its_value() {
        let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let bits = halves.iter().flat_map(|half| half.to_le_bytes());
        let bits: Vec<u8> = bits.collect();
        assert_eq!(encoded(Element::F16, halves.clone()), bits);
        let widened = Element::F32.decode(&encoded(Element::F32, halves.clone()));
        for (half, wide) in halves.into_iter().zip(widened) {
            assert!(half.is_nan() && wide.is_nan() || half.to_f32().to_bits() == wide.to_bits());
        }
    }

    #[test]
    fn numbers_in_the_stored_format_are_not_copied_and_others_are_rounded() {
        let numbers = [0.0, -1.5, 1.0e-7, 65504.0, std::f32::consts::PI];
        let halves = numbers.map(f16::from_f32);
        let mut scratch = vec![1; 3];
        for element in [Element::F32, Element::F16] {
            let of_both: [Values; 2] = [numbers.to_vec().into(), halves.to_vec().into()];
            for values in of_both {
                let bytes = encoded(element, values.clone());
                let stored = element.stored(&values, 1..4, &mut scratch);
                assert_eq!(stored, &bytes[element.bytes()..4 * element.bytes()]);
                let at = match &values {
                    Values::F32(values) => values[1..].as_ptr().cast(),
                    Values::F16(values) => values[1..].as_ptr().cast(),
                };
                let is_copy = stored.as_ptr() != at;
                assert_eq!(is_copy, values.dtype() != element.dtype());
            }
        }
    }

    #[test]
    fn values_that_are_not_finite_are_found() {
        for element in [Element::F32, Element::F16] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let bytes = encoded(element, vec![f32::MIN_POSITIVE, -0.0, bad, bad]);
                assert_eq!(element.first_not_finite(&bytes), Some(2));
                assert_eq!(
                    element.first_not_finite(&bytes[..2 * element.bytes()]),
                    None
                );
            }
        }
        for element in [Element::F32, Element::F16] {
            let largest = element.largest_value();
            let bytes = encoded(element, vec![largest, -largest, largest.next_up()]);
            assert_eq!(element.first_not_finite(&bytes), Some(2));
        }
        let bytes = encoded(Element::F16, vec![65504.0, 65520.0]);
        assert_eq!(
            Element::F16.first_not_finite(&bytes),
            Some(1),
            "f16 overflows"
        );
    }
}
