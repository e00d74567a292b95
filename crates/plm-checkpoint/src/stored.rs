//! Tensors in weights files, which are read when their values are asked for.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use safetensors::Dtype;

use crate::Error;
use crate::change::Change;
use crate::header::{self, Header};
use crate::source::Source;

/// A tensor's place in a file, its number format and its shape. Each call reads its values.
///
/// ```
/// use plm_checkpoint::StoredTensor;
///
/// let tensor = StoredTensor::of_values([1.0, 2.0, 3.0, 4.0], vec![2, 2]);
/// assert_eq!(tensor.values(|value| 2.0 * value)?, [2.0, 4.0, 6.0, 8.0]);
/// # Ok::<(), plm_checkpoint::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct StoredTensor {
    source: Arc<Source>,
    /// The number format in the file.
    dtype: Dtype,
    /// The sizes, the outermost first.
    shape: Vec<usize>,
    /// The offset of the tensor's bytes in the file.
    start: u64,
    /// The number of the tensor's bytes. They fit `dtype` and `shape`.
    len: u64,
    /// The steps from one number to the next along each size, for a tensor whose numbers do not lie
    /// one after the other, row by row.
    strides: Option<Arc<[u64]>>,
    /// What an adapter makes of its values.
    change: Option<Arc<Change>>,
}

/// All tensors of a safetensors file with their names there, in the order of their bytes.
///
/// Reads only the header, and trusts nothing in it: each tensor must start where the one before it
/// ends, and the file must end with the last one.
pub(crate) fn list(source: &Arc<Source>) -> Result<Vec<(String, StoredTensor)>, Error> {
    let Header {
        data_start,
        tensors,
    } = header::read(source)?;
    let mut end = 0;
    let mut stored = Vec::with_capacity(tensors.len());
    for (name, info) in tensors {
        let len = header::check(&info, end).map_err(|problem| Error::TensorLayout {
            path: source.path().to_owned(),
            name: name.clone(),
            problem,
        })?;
        let tensor = StoredTensor {
            source: source.clone(),
            dtype: info.dtype,
            shape: info.shape,
            // An offset beyond any file is refused below.
            start: data_start.saturating_add(end),
            len,
            strides: None,
            change: None,
        };
        end += len;
        stored.push((name, tensor));
    }
    let expected = data_start.saturating_add(end);
    if source.len() == expected {
        return Ok(stored);
    }
    Err(Error::FileLength {
        path: source.path().to_owned(),
        found: source.len(),
        expected,
    })
}

/// Whether whole numbers of this format are all finite: neither NaN nor infinite. Formats that are
/// not [read](StoredTensor::is_readable) count as finite.
pub(crate) fn is_finite(numbers: &[u8], dtype: Dtype) -> bool {
    // Such a number has ones alone in its exponent. Without a way out, the loops are vectorized.
    let of_16_bits = |exponent: u16| {
        let words = numbers.as_chunks().0.iter().copied();
        let beyond = words.map(|word| u16::from_le_bytes(word) & exponent == exponent);
        !beyond.fold(false, |any, beyond| any | beyond)
    };
    match dtype {
        Dtype::F16 => of_16_bits(0x7c00),
        Dtype::BF16 => of_16_bits(0x7f80),
        Dtype::F32 => {
            const EXPONENT: u32 = 0x7f80_0000;
            let words = numbers.as_chunks().0.iter().copied();
            let beyond = words.map(|word| u32::from_le_bytes(word) & EXPONENT == EXPONENT);
            !beyond.fold(false, |any, beyond| any | beyond)
        }
        _ => true,
    }
}

impl StoredTensor {
    /// A tensor of f32 in memory, from its values row by row.
    ///
    /// # Panics
    /// If `shape` needs more or fewer values.
    pub fn of_values(values: impl IntoIterator<Item = f32>, shape: Vec<usize>) -> Self {
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        let numbers: usize = shape.iter().product();
        assert_eq!(
            bytes.len(),
            numbers * size_of::<f32>(),
            "the values fill the shape"
        );
        let source = Source::bytes(PathBuf::from("a tensor in memory"), bytes);
        Self {
            len: source.len(),
            source: Arc::new(source),
            dtype: Dtype::F32,
            shape,
            start: 0,
            strides: None,
            change: None,
        }
    }

    /// The same tensor, of which an adapter makes something else.
    pub(crate) fn changed(&self, change: Change) -> Self {
        Self {
            change: Some(Arc::new(change)),
            ..self.clone()
        }
    }

    /// Whether an adapter changes its values.
    ///
    /// [`values`](Self::values) and [`rows`](Self::rows) are the changed ones. A
    /// [digest](crate::Tensors::digest) covers those in the file, since the adapter has its own.
    pub fn is_changed(&self) -> bool {
        self.change.is_some()
    }

    /// A tensor in a storage of a file, which has all of it. It begins at the byte `start`. Its
    /// numbers lie row by row, or these `strides` apart; it then has no number twice.
    pub(crate) fn in_storage(
        source: &Arc<Source>,
        dtype: Dtype,
        shape: Vec<usize>,
        start: u64,
        strides: Option<&[u64]>,
    ) -> Self {
        let numbers: usize = shape.iter().product();
        Self {
            source: source.clone(),
            dtype,
            len: numbers as u64 * dtype.bitsize() as u64 / 8,
            shape,
            start,
            strides: strides.map(Arc::from),
            change: None,
        }
    }

    /// A copy in memory, in the same number format, whose row `row` is zero. Reads the tensor.
    ///
    /// ```
    /// use plm_checkpoint::StoredTensor;
    ///
    /// let tensor = StoredTensor::of_values([1.0, 2.0, 3.0, 4.0], vec![2, 2]);
    /// assert_eq!(tensor.with_zero_row(0)?.values(|value| value)?, [0.0, 0.0, 3.0, 4.0]);
    /// # Ok::<(), plm_checkpoint::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Read`] if the file can't be read.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn with_zero_row(&self, row: usize) -> Result<Self, Error> {
        assert!(row < self.shape[0], "no row {row} in {:?}", self.shape);
        let mut bytes = Vec::with_capacity(self.len as usize);
        self.for_each_piece(|piece| bytes.extend_from_slice(piece))?;
        // Zero is all zero bits in every format.
        let row_bytes = bytes.len() / self.shape[0];
        bytes[row * row_bytes..][..row_bytes].fill(0);
        Ok(Self {
            source: Arc::new(Source::bytes(self.path().to_owned(), bytes)),
            start: 0,
            strides: None,
            ..self.clone()
        })
    }

    /// The tensor as so many of equal heights, the first rows first; `None` if its rows can't be
    /// shared out evenly.
    pub(crate) fn split_rows(&self, parts: usize) -> Option<Vec<Self>> {
        let (&height, row) = self.shape.split_first()?;
        if parts == 0 || height == 0 || !height.is_multiple_of(parts) {
            return None;
        }
        let rows = height / parts;
        let shape: Vec<usize> = [rows].iter().chain(row).copied().collect();
        let len = self.len / parts as u64;
        let step = match self.strides.as_deref() {
            None => len,
            Some(strides) => rows as u64 * strides[0] * self.dtype.bitsize() as u64 / 8,
        };
        let part = |number| Self {
            source: self.source.clone(),
            dtype: self.dtype,
            shape: shape.clone(),
            start: self.start + number * step,
            len,
            strides: self.strides.clone(),
            change: None,
        };
        Some((0..parts as u64).map(part).collect())
    }

    /// The file that holds it.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// Its number format in the file.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Its sizes, the outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of bytes that its numbers take in the file.
    pub(crate) fn num_bytes(&self) -> u64 {
        self.len
    }

    /// Calls `f` with the tensor's bytes in the file, in order, in pieces.
    pub(crate) fn for_each_piece(&self, f: impl FnMut(&[u8])) -> Result<(), Error> {
        let tensor = self.row_by_row()?;
        tensor.source.for_each_piece(tensor.start, tensor.len, f)
    }

    /// This tensor, or a copy of it in memory whose numbers lie row by row.
    ///
    /// Few tensors need the copy: PyTorch keeps the strides of one that was transposed and saved.
    fn row_by_row(&self) -> Result<Cow<'_, Self>, Error> {
        let Some(strides) = &self.strides else {
            return Ok(Cow::Borrowed(self));
        };
        let number_bytes = self.dtype.bitsize() / 8;
        let (sizes, numbers) = (&self.shape, self.len as usize / number_bytes);
        let steps = || sizes.iter().zip(&**strides);
        // A tensor without numbers has no strides here.
        let span = 1 + steps()
            .map(|(&size, stride)| (size as u64 - 1) * stride)
            .sum::<u64>();
        let from = self.source.read(self.start, span * number_bytes as u64)?;
        let mut to = Vec::with_capacity(self.len as usize);
        for number in 0..numbers {
            // From the innermost size outwards, `rest` is what is left of the number.
            let (mut rest, mut at) = (number, 0);
            for (&size, &stride) in steps().rev() {
                at += (rest % size) * stride as usize;
                rest /= size;
            }
            to.extend_from_slice(&from[at * number_bytes..][..number_bytes]);
        }
        Ok(Cow::Owned(Self {
            source: Arc::new(Source::bytes(self.path().to_owned(), to)),
            start: 0,
            strides: None,
            ..self.clone()
        }))
    }

    /// Whether [`values`](Self::values) can widen its number format: F32, F16 or BF16.
    pub fn is_readable(&self) -> bool {
        matches!(self.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }

    /// Its values, row by row, widened to f32 and converted by `convert`.
    ///
    /// Reads and converts on the threads of the current rayon pool: a large model has billions of
    /// numbers.
    ///
    /// # Errors
    /// [`Error::Read`] if the file can't be read.
    ///
    /// # Panics
    /// If the tensor is not [readable](Self::is_readable).
    pub fn values<T: Clone + Default + Send>(
        &self,
        convert: impl Fn(f32) -> T + Sync,
    ) -> Result<Vec<T>, Error> {
        match self.change.as_deref() {
            None => {}
            Some(Change::Replaced(tensor)) => return tensor.values(convert),
            Some(Change::Added { .. }) => {
                let convert_row = |row: &mut [f32], numbers: &mut [T]| {
                    for (number, &value) in numbers.iter_mut().zip(&*row) {
                        *number = convert(value);
                    }
                    0.0
                };
                return Ok(self.rows(convert_row)?.0);
            }
        }
        let tensor = self.row_by_row()?;
        match self.dtype {
            Dtype::F16 => tensor.read(|word| convert(half::f16::from_le_bytes(word).to_f32())),
            Dtype::BF16 => tensor.read(|word| convert(half::bf16::from_le_bytes(word).to_f32())),
            Dtype::F32 => tensor.read(|word| convert(f32::from_le_bytes(word))),
            dtype => panic!("{dtype} is not widened: see is_readable"),
        }
    }

    fn read<T: Clone + Default + Send, const WORD_BYTES: usize>(
        &self,
        convert: impl Fn([u8; WORD_BYTES]) -> T + Sync,
    ) -> Result<Vec<T>, Error> {
        /// Numbers that a thread reads and converts at a time.
        const STRETCH: usize = 1 << 20;

        let mut values = vec![T::default(); self.shape.iter().product()];
        values
            .par_chunks_mut(STRETCH)
            .enumerate()
            .try_for_each(|(number, stretch)| {
                self.read_into(stretch, number * STRETCH, &convert)
            })?;
        Ok(values)
    }

    /// Converts a matrix row by row: `convert` takes a row in f32, writes as many numbers, and
    /// returns one more. Returns the numbers of all rows, and the one of each row.
    ///
    /// It runs on the threads of the current rayon pool, which hold a few rows in f32 at a time.
    ///
    /// # Errors
    /// [`Error::Read`] if the file can't be read.
    ///
    /// # Panics
    /// If the tensor is no matrix, or not [readable](Self::is_readable).
    pub fn rows<T: Clone + Default + Send>(
        &self,
        convert: impl Fn(&mut [f32], &mut [T]) -> f32 + Sync,
    ) -> Result<(Vec<T>, Vec<f32>), Error> {
        /// Numbers that a thread holds in f32 at a time: they fit its cache.
        const STRETCH: usize = 1 << 18;

        let [height, width] = self.shape[..] else {
            panic!("{:?} is no matrix", self.shape);
        };
        let (stored, added) = match self.change.as_deref() {
            None => (self, None),
            Some(Change::Replaced(tensor)) => (tensor, None),
            Some(Change::Added { to, low_rank }) => (to, Some(low_rank.read()?)),
        };
        let tensor = stored.row_by_row()?;
        let rows = (STRETCH / width).max(1);
        let mut numbers = vec![T::default(); height * width];
        let mut besides = vec![0.0; height];
        numbers
            .par_chunks_mut(rows * width)
            .zip(besides.par_chunks_mut(rows))
            .enumerate()
            .try_for_each_init(Vec::new, |widened, (number, (numbers, besides))| {
                widened.resize(numbers.len(), 0.0);
                tensor.widen_into(widened, number * rows * width)?;
                if let Some(added) = &added {
                    for (row, number) in widened.chunks_exact_mut(width).zip(number * rows..) {
                        added.add_to(row, number)?;
                    }
                }
                let both = widened
                    .chunks_exact_mut(width)
                    .zip(numbers.chunks_exact_mut(width));
                for ((row, numbers), beside) in both.zip(besides) {
                    *beside = convert(row, numbers);
                }
                Ok::<_, Error>(())
            })?;
        Ok((numbers, besides))
    }

    /// Refuses a tensor into which an adapter is merged, if it has NaN or infinity in it then. It
    /// is merged for that only if its numbers may become so large.
    ///
    /// # Errors
    /// [`Error::AdapterTensor`] if it has, [`Error::Read`] if a file can't be read.
    pub(crate) fn check_change(&self) -> Result<(), Error> {
        match self.change.as_deref() {
            Some(Change::Added { low_rank, .. }) if !low_rank.is_surely_finite()? => {
                self.rows(|_, _: &mut [()]| 0.0).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Fills `to` with the tensor's numbers from number `first` on, widened to f32.
    fn widen_into(&self, to: &mut [f32], first: usize) -> Result<(), Error> {
        match self.dtype {
            Dtype::F16 => self.read_into(to, first, |word| half::f16::from_le_bytes(word).to_f32()),
            Dtype::BF16 => {
                self.read_into(to, first, |word| half::bf16::from_le_bytes(word).to_f32())
            }
            Dtype::F32 => self.read_into(to, first, f32::from_le_bytes),
            dtype => panic!("{dtype} is not widened: see is_readable"),
        }
    }

    fn read_into<T, const WORD_BYTES: usize>(
        &self,
        to: &mut [T],
        first: usize,
        convert: impl Fn([u8; WORD_BYTES]) -> T,
    ) -> Result<(), Error> {
        let start = self.start + (first * WORD_BYTES) as u64;
        let len = (to.len() * WORD_BYTES) as u64;
        let mut places = to.iter_mut();
        self.source.for_each_piece(start, len, |bytes| {
            for (&word, place) in bytes.as_chunks().0.iter().zip(&mut places) {
                *place = convert(word);
            }
        })
    }
}
