//! Parts of a plan, for runs that are spread over several processes.

use plm_core::{BatchIndex, WorldSize};

use crate::Error;

/// Part `index` of `count`: the batches `index`, `index + count`, `index + 2 * count`, ...
///
/// The parts of a plan share no batch and leave none out. So each process of a job array makes the
/// same plan and works on its own part.
///
/// ```
/// use plm_coordinator::Part;
///
/// let second = Part::new(1, 4)?;
/// assert_eq!((second.index(), second.count()), (1, 4));
/// assert!(Part::new(4, 4).is_err());
/// # Ok::<(), plm_coordinator::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    index: u32,
    count: WorldSize,
}

impl Part {
    /// The only part of a plan that is not spread.
    pub const WHOLE: Self = Self {
        index: 0,
        count: WorldSize::ONE,
    };

    /// Part `index`, from 0, of `count`.
    ///
    /// # Errors
    /// [`Error::NoSuchPart`] if `index` is not below `count`.
    pub fn new(index: u32, count: u32) -> Result<Self, Error> {
        let no_such_part = Error::NoSuchPart { index, count };
        match WorldSize::new(count) {
            Ok(count) if index < count.get() => Ok(Self { index, count }),
            _ => Err(no_such_part),
        }
    }

    /// The index of this part, from 0.
    pub fn index(self) -> u32 {
        self.index
    }

    /// The number of parts of the plan.
    pub fn count(self) -> u32 {
        self.count.get()
    }

    /// Whether this part is all of the plan.
    pub fn is_whole(self) -> bool {
        self.count == WorldSize::ONE
    }

    /// Whether a batch is in this part.
    pub(crate) fn has(self, batch: BatchIndex) -> bool {
        batch.0 % u64::from(self.count()) == u64::from(self.index)
    }

    /// How many of a plan's batches are in this part.
    pub(crate) fn num_batches(self, plan_batches: u64) -> u64 {
        plan_batches
            .saturating_sub(u64::from(self.index))
            .div_ceil(u64::from(self.count()))
    }

    /// The batch at a position among the batches of this part.
    pub(crate) fn batch(self, position: u64) -> BatchIndex {
        BatchIndex(u64::from(self.index) + position * u64::from(self.count()))
    }

    /// The position of a batch among those of this part: the inverse of [`batch`](Self::batch).
    pub(crate) fn position(self, batch: BatchIndex) -> u64 {
        (batch.0 - u64::from(self.index)) / u64::from(self.count())
    }
}

impl Default for Part {
    fn default() -> Self {
        Self::WHOLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_share_no_batch_and_leave_none_out() {
        for plan_batches in 0..12 {
            for count in 1..6 {
                let mut seen = Vec::new();
                for part in (0..count).map(|index| Part::new(index, count).unwrap()) {
                    for position in 0..part.num_batches(plan_batches) {
                        let batch = part.batch(position);
                        assert_eq!(part.position(batch), position);
                        assert!(part.has(batch));
                        seen.push(batch.0);
                    }
                }
                seen.sort_unstable();
                assert_eq!(seen, (0..plan_batches).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_part_outside_of_the_whole_is_refused() {
        for (index, count) in [(0, 0), (1, 1), (5, 3)] {
            assert!(matches!(
                Part::new(index, count),
                Err(Error::NoSuchPart { .. })
            ));
        }
    }
}
