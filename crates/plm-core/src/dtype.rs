//! Number formats of models and of stored embeddings.

use std::fmt;
use std::str::FromStr;

/// A number format.
///
/// ```
/// use plm_core::Dtype;
///
/// let dtype: Dtype = "bf16".parse()?;
/// assert_eq!(dtype, Dtype::Bf16);
/// assert_eq!(dtype.bytes(), 2);
/// # Ok::<(), plm_core::ParseDtypeError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE 754 binary32.
    #[default]
    F32,
    /// The upper half of binary32: 8 bits of exponent, 7 of mantissa.
    Bf16,
    /// IEEE 754 binary16: 5 bits of exponent, 10 of mantissa.
    F16,
    /// 8-bit integers in matrix products, with a scale for each row of the operands, and
    /// [`Bf16`](Self::Bf16) between products. Only Hopper GPUs compute in it, and nothing is stored
    /// in it.
    Int8,
}

/// A word that names no [`Dtype`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no number format: use f32, bf16, f16 or int8")]
pub struct ParseDtypeError(String);

impl Dtype {
    /// The number of bytes of one value.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::Int8 => 1,
        }
    }

    /// The format's short name, as [`FromStr`] reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Dtype {
    type Err = ParseDtypeError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        [Self::F32, Self::Bf16, Self::F16, Self::Int8]
            .into_iter()
            .find(|dtype| dtype.name() == word)
            .ok_or_else(|| ParseDtypeError(word.to_owned()))
    }
}
