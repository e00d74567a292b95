//! Tensors in safetensors files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use safetensors::Dtype;

use crate::Error;
use crate::header::{self, Header};
use crate::source::Source;

/// Where a tensor lies, and as what. Its values are read each time that they are asked for.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    source: Arc<Source>,
    dtype: Dtype,
    shape: Vec<usize>,
    start: u64,
    len: u64,
}

/// All tensors of a file, under the names they have there, in the order in which they lie.
///
/// Reads the header only, and trusts nothing in it: tensors must lie one after the other, and the
/// file must end where the last one does.
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
            // What is beyond any file is refused below.
            start: data_start.saturating_add(end),
            len,
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

impl StoredTensor {
    /// A tensor of f32 in memory, row by row.
    ///
    /// # Panics
    /// If there are more or fewer values than `shape` has room for.
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
        }
    }

    /// The file that it lies in.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// The format of its numbers there.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Its sizes, the outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many bytes it takes.
    pub(crate) fn num_bytes(&self) -> u64 {
        self.len
    }

    /// Calls `f` with the tensor's bytes, in order, in pieces.
    pub(crate) fn for_each_piece(&self, f: impl FnMut(&[u8])) -> Result<(), Error> {
        self.source.for_each_piece(self.start, self.len, f)
    }

    /// Whether its format is one that [`values`](Self::values) widens: F32, F16 or BF16.
    pub fn is_readable(&self) -> bool {
        matches!(self.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }

    /// Its values, row by row, widened to f32 and put through `convert`.
    ///
    /// Reads and converts on the threads of the current rayon pool: a large model is billions of
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
        match self.dtype {
            Dtype::F16 => self.read(|word| convert(half::f16::from_le_bytes(word).to_f32())),
            Dtype::BF16 => self.read(|word| convert(half::bf16::from_le_bytes(word).to_f32())),
            Dtype::F32 => self.read(|word| convert(f32::from_le_bytes(word))),
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

    /// What `convert` makes of each row of a matrix, widened to f32: as many numbers, and one
    /// besides. On the same threads, which hold some rows at a time in f32.
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
        /// Numbers that a thread holds in f32 at a time: what its cache holds.
        const STRETCH: usize = 1 << 18;

        let [height, width] = self.shape[..] else {
            panic!("{:?} is no matrix", self.shape);
        };
        let rows = (STRETCH / width).max(1);
        let mut numbers = vec![T::default(); height * width];
        let mut besides = vec![0.0; height];
        numbers
            .par_chunks_mut(rows * width)
            .zip(besides.par_chunks_mut(rows))
            .enumerate()
            .try_for_each_init(Vec::new, |widened, (number, (numbers, besides))| {
                widened.resize(numbers.len(), 0.0);
                self.widen_into(widened, number * rows * width)?;
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

    /// As many numbers as there is room for in `to`, from number `first` on, widened to f32.
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
