//! How much the tests try: a sample in every test run, everything on request.

use std::env;

/// How much the tests try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// All tests together take about a minute.
    Sample,
    /// Every operation is broken in every manner.
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

    /// The operations of `1..=count` to break: all of them, or `sample` evenly spread ones.
    pub(crate) fn points(self, count: u64, sample: u64) -> Vec<u64> {
        match self {
            Self::Full => (1..=count).collect(),
            Self::Sample => {
                // Some operations come in pairs. An offset of each test's own avoids hitting only
                // the first of each.
                let offset = (sample * 7) % (count / sample).max(1);
                (0..sample)
                    .map(|point| 1 + offset + point * count / sample)
                    .filter(|&at| at <= count)
                    .collect()
            }
        }
    }

    /// All of some kinds, or one of them, in turn.
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
