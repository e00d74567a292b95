//! Memory for values that is used again.

use std::sync::{Arc, Mutex, PoisonError};

use half::f16;

use crate::Values;

/// The memory of columns that were dropped, for the values of the next ones.
///
/// A batch of residues has tens of megabytes. The system hands out memory of that size page by
/// page, and clears each page first. Both together take longer than to copy the values. So an
/// encoder keeps a pool, takes memory from it, and names it to the column that it makes
/// ([`Column::in_pool`]). When the column is dropped, wherever that is, its memory comes back.
///
/// Clones are the same pool. It keeps the memory of up to four columns of a megabyte or more.
///
/// ```
/// use plm_core::{Column, ValuePool};
///
/// let pool = ValuePool::default();
/// let mut values = pool.f32(1 << 20);
/// values.resize(1 << 20, 0.5);
/// let at = values.as_ptr();
/// drop(Column::new(1 << 10, values)?.in_pool(&pool));
///
/// let again = pool.f32(1_000_000);
/// assert!(again.is_empty() && again.as_ptr() == at);
/// # Ok::<(), plm_core::ShapeError>(())
/// ```
///
/// [`Column::in_pool`]: crate::Column::in_pool
#[derive(Clone, Debug, Default)]
pub struct ValuePool(Arc<Mutex<Vec<Values>>>);

/// Less memory than this is not kept: allocators keep it without being told.
const LEAST_BYTES: usize = 1 << 20;
/// How many columns' memory a pool keeps: those that a writer is at work on, and those that wait.
const MOST_KEPT: usize = 4;

impl ValuePool {
    /// No values, in memory for at least `capacity` of them in f32.
    pub fn f32(&self, capacity: usize) -> Vec<f32> {
        self.take(capacity, |values| match values {
            Values::F32(values) => Some(values),
            Values::F16(_) => None,
        })
    }

    /// No values, in memory for at least `capacity` of them in f16.
    pub fn f16(&self, capacity: usize) -> Vec<f16> {
        self.take(capacity, |values| match values {
            Values::F16(values) => Some(values),
            Values::F32(_) => None,
        })
    }

    /// Memory that was given back, if some has the format that `of_format` knows and is not much
    /// larger, or new memory.
    fn take<T>(
        &self,
        capacity: usize,
        of_format: impl Fn(&mut Values) -> Option<&mut Vec<T>>,
    ) -> Vec<T> {
        // Batches differ a little in size, and pages that are never touched take no memory.
        let capacity = capacity.next_power_of_two();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |values: &mut Values| {
            let of_format = of_format(values);
            of_format.is_some_and(|values| (capacity..2 * capacity).contains(&values.capacity()))
        };
        // A cache may still hold some of the memory that came back last.
        let Some(fitting) = kept.iter_mut().rposition(fits) else {
            return Vec::with_capacity(capacity);
        };
        let mut values = kept.remove(fitting);
        let values = of_format(&mut values).expect("it has this format");
        values.clear();
        std::mem::take(values)
    }

    /// Keeps the memory of these values, in the place of the oldest if there is no room.
    pub(crate) fn give_back(&self, values: Values) {
        let bytes = match &values {
            Values::F32(values) => values.capacity() * size_of::<f32>(),
            Values::F16(values) => values.capacity() * size_of::<f16>(),
        };
        if bytes < LEAST_BYTES {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = (kept.len() >= MOST_KEPT).then(|| kept.remove(0));
        kept.push(values);
        drop(kept);
        drop(oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Column;

    const MANY: usize = 1_000_000;

    /// A column of `len` values in f16, and where they are.
    fn column(pool: &ValuePool, len: usize) -> (Column, usize) {
        let mut values = pool.f16(len);
        assert!(values.is_empty());
        values.resize(len, f16::ONE);
        let at = place(&values);
        (Column::new(1, values).unwrap().in_pool(pool), at)
    }

    /// Where values are in memory.
    fn place(values: &[f16]) -> usize {
        values.as_ptr().addr()
    }

    fn kept(pool: &ValuePool) -> usize {
        pool.0.lock().unwrap().len()
    }

    #[test]
    fn memory_comes_back_for_values_of_its_format_and_about_its_size() {
        let pool = ValuePool::default();
        let (first, at) = column(&pool, MANY);
        drop(first);
        assert!(pool.f32(MANY).is_empty());
        assert_ne!(place(&pool.f16(2 * MANY)), at, "it is too small");
        assert_ne!(place(&pool.f16(MANY / 2)), at, "it is too large");
        let (second, again) = column(&pool, MANY + 20);
        assert_eq!(again, at);
        assert_eq!(second.num_sequences(), MANY + 20);
    }

    #[test]
    fn a_copy_is_equal_and_has_memory_of_its_own() {
        let pool = ValuePool::default();
        let (original, at) = column(&pool, MANY);
        let copy = original.clone();
        assert_eq!(copy, original);
        drop(original);
        let (next, again) = column(&pool, MANY);
        assert_eq!(again, at);
        drop(copy);
        assert_eq!(kept(&pool), 0);
        drop(next);
        assert_eq!(kept(&pool), 1);
    }

    #[test]
    fn the_memory_of_a_few_large_columns_is_kept() {
        let pool = ValuePool::default();
        let columns: Vec<_> = (0..3 * MOST_KEPT).map(|_| column(&pool, MANY)).collect();
        let last = columns[columns.len() - 1].1;
        drop(columns);
        drop(column(&pool, 1_000));
        assert_eq!(kept(&pool), MOST_KEPT);
        assert_eq!(place(&pool.f16(MANY)), last, "it came back last");
    }
}
