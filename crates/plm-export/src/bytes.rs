//! Values and numbers as bytes, little-endian.

use std::io::{self, Write};
use std::ops::Range;

use plm_core::Values;

/// How many values become bytes at a time.
const VALUES: usize = 1 << 16;

/// Writes some of the values as they are, without rounding.
pub(crate) fn write_values(
    values: &Values,
    range: Range<usize>,
    file: &mut impl Write,
) -> io::Result<()> {
    match values {
        Values::F32(values) => write_all(&values[range], |value| value.to_le_bytes(), file),
        Values::F16(values) => write_all(&values[range], |value| value.to_le_bytes(), file),
    }
}

/// Writes whole numbers.
pub(crate) fn write_i64(numbers: &[i64], file: &mut impl Write) -> io::Result<()> {
    write_all(numbers, |number| number.to_le_bytes(), file)
}

fn write_all<T: Copy, const N: usize>(
    values: &[T],
    to_bytes: impl Fn(T) -> [u8; N],
    file: &mut impl Write,
) -> io::Result<()> {
    let mut bytes = vec![0; VALUES.min(values.len()) * N];
    for values in values.chunks(VALUES) {
        let bytes = &mut bytes[..values.len() * N];
        for (bytes, &value) in bytes.chunks_exact_mut(N).zip(values) {
            bytes.copy_from_slice(&to_bytes(value));
        }
        file.write_all(bytes)?;
    }
    Ok(())
}
