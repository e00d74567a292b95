//! How much is tried: a sample in every test run, everything when asked for.

use std::env;

/// How much is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// About a minute in all.
    Sample,
    /// Every operation, in every manner.
    Full,
}

impl Effort {
    const VARIABLE: &str = "PLM_FLEET_RELIABILITY";

    pub(crate) fn asked_for() -> Self {
        match env::var(Self::VARIABLE).as_deref() {
            Ok("full") => Self::Full,
            Ok(other) => panic!("{}={other}: it is full, or not set", Self::VARIABLE),
            Err(_) => Self::Sample,
        }
    }

    /// Operations of `1..=count` to break: all of them, or `sample` that are spread evenly.
    pub(crate) fn points(self, count: u64, sample: u64) -> Vec<u64> {
        match self {
            Self::Full => (1..=count).collect(),
            Self::Sample => {
                // Off the even numbers of things that come in pairs, and differently for each test.
                let offset = (sample * 7) % (count / sample).max(1);
                (0..sample)
                    .map(|point| 1 + offset + point * count / sample)
                    .filter(|&at| at <= count)
                    .collect()
            }
        }
    }

    /// All of some kinds, or one, in turn.
    pub(crate) fn kinds<T: Copy>(self, kinds: &[T], turn: usize) -> Vec<T> {
        match self {
            Self::Full => kinds.to_vec(),
            Self::Sample => vec![kinds[turn % kinds.len()]],
        }
    }

    /// A number of tries.
    pub(crate) fn times(self, sample: u64, full: u64) -> u64 {
        match self {
            Self::Full => full,
            Self::Sample => sample,
        }
    }
}
