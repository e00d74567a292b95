//! Numbers with a meaning of their own: rows of the input, batches of the plan, ranks of the world.
//!
//! Each is a type, so that the compiler refuses a row where a batch is meant.

use std::fmt;
use std::num::NonZeroU32;

/// A record's position in the input, from 0, over all files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(pub u64);

/// A batch's position in the plan, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchIndex(pub u64);

/// One of the workers of a run, from 0. A rank has one device and one lane of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank(pub u32);

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row {}", self.0)
    }
}

impl fmt::Display for BatchIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch {}", self.0)
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {}", self.0)
    }
}

/// The number of ranks of a run: at least 1.
///
/// ```
/// use plm_core::{Rank, WorldSize};
///
/// let world = WorldSize::new(2)?;
/// assert!(world.ranks().eq([Rank(0), Rank(1)]));
/// assert!(WorldSize::new(0).is_err());
/// # Ok::<(), plm_core::WorldSizeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorldSize(NonZeroU32);

/// A world without ranks was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a world needs at least one rank")]
pub struct WorldSizeError;

impl WorldSize {
    /// A world of one rank.
    pub const ONE: Self = Self(NonZeroU32::MIN);

    /// A world of `ranks` ranks.
    ///
    /// # Errors
    /// [`WorldSizeError`] if `ranks` is zero.
    pub fn new(ranks: u32) -> Result<Self, WorldSizeError> {
        NonZeroU32::new(ranks).map(Self).ok_or(WorldSizeError)
    }

    /// The number of ranks.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// All ranks of this world, in order.
    pub fn ranks(self) -> impl ExactSizeIterator<Item = Rank> {
        (0..self.get()).map(Rank)
    }
}

impl fmt::Display for WorldSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The positions of `0..len` that rank r of N takes: r, r+N, r+2N, ...
///
/// ```
/// use plm_core::{Rank, Stride, WorldSize};
///
/// let share: Vec<u64> = Stride::new(Rank(1), WorldSize::new(3)?, 8).collect();
/// assert_eq!(share, [1, 4, 7]);
/// # Ok::<(), plm_core::WorldSizeError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Stride {
    next: u64,
    step: u64,
    len: u64,
}

impl Stride {
    /// The positions, among `len` items, that `rank` takes in a world of `world` ranks.
    ///
    /// # Panics
    /// If `rank` is not in the world.
    pub fn new(rank: Rank, world: WorldSize, len: u64) -> Self {
        assert!(
            rank.0 < world.get(),
            "{rank} is not in a world of {world} ranks"
        );
        Self {
            next: u64::from(rank.0),
            step: u64::from(world.get()),
            len,
        }
    }
}

impl Iterator for Stride {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let position = self.next;
        (position < self.len).then(|| {
            self.next = position.saturating_add(self.step);
            position
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.len.saturating_sub(self.next).div_ceil(self.step);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_of_all_ranks_cover_every_position_once() {
        for world in 1..=9 {
            let world = WorldSize::new(world).unwrap();
            for len in 0..=20 {
                let mut seen: Vec<u64> = world
                    .ranks()
                    .flat_map(|rank| Stride::new(rank, world, len))
                    .collect();
                seen.sort_unstable();
                assert_eq!(seen, (0..len).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn size_hint_is_exact() {
        let stride = Stride::new(Rank(2), WorldSize::new(4).unwrap(), 11);
        assert_eq!(stride.size_hint(), (3, Some(3)));
        assert_eq!(stride.count(), 3);
    }
}
