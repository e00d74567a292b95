//! How the threads of a rank work together, and how long they may take.

use std::time::Duration;

use crate::Error;

/// How lanes work. Made by [`LaneConfig::builder`], which checks it.
///
/// ```
/// use std::time::Duration;
/// use plm_coordinator::LaneConfig;
///
/// let config = LaneConfig::builder()
///     .batch_timeout(Some(Duration::from_secs(600)))
///     .build()?;
/// assert_eq!(config.queue_batches(), 2);
/// # Ok::<(), plm_coordinator::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneConfig {
    queue_batches: usize,
    load_timeout: Duration,
    batch_timeout: Option<Duration>,
}

/// Builds a [`LaneConfig`].
#[derive(Clone, Debug, Default)]
pub struct LaneConfigBuilder(LaneConfig);

impl LaneConfig {
    /// A builder with the defaults: two batches between threads, half an hour to load, no limit on
    /// a batch.
    pub fn builder() -> LaneConfigBuilder {
        LaneConfigBuilder::default()
    }

    /// How many packed batches may lie between two threads of a rank.
    pub fn queue_batches(&self) -> usize {
        self.queue_batches
    }

    /// How long a rank may take to load its encoder, and as long each to open the source and its
    /// shard and to drop what it opened. A run does not end before all its ranks have loaded or are
    /// over this limit.
    pub fn load_timeout(&self) -> Duration {
        self.load_timeout
    }

    /// How long reading a record, encoding a packed batch, or writing or flushing may each take;
    /// `None` waits forever. What takes longer has hung: its rank is out. It should leave room for
    /// the slowest batch, which may be the first one on a device that compiles its kernels.
    pub fn batch_timeout(&self) -> Option<Duration> {
        self.batch_timeout
    }
}

impl Default for LaneConfig {
    fn default() -> Self {
        Self {
            queue_batches: 2,
            load_timeout: Duration::from_secs(30 * 60),
            batch_timeout: None,
        }
    }
}

impl LaneConfigBuilder {
    /// How many packed batches may lie between two threads of a rank.
    pub fn queue_batches(mut self, batches: usize) -> Self {
        self.0.queue_batches = batches;
        self
    }

    /// See [`LaneConfig::load_timeout`].
    pub fn load_timeout(mut self, timeout: Duration) -> Self {
        self.0.load_timeout = timeout;
        self
    }

    /// See [`LaneConfig::batch_timeout`].
    pub fn batch_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.0.batch_timeout = timeout;
        self
    }

    /// The configuration, checked.
    ///
    /// # Errors
    /// [`Error::ZeroSetting`] if a number or a limit is zero.
    pub fn build(self) -> Result<LaneConfig, Error> {
        let LaneConfig {
            queue_batches,
            load_timeout,
            batch_timeout,
        } = self.0;
        for (setting, is_zero) in [
            ("queue_batches", queue_batches == 0),
            ("load_timeout", load_timeout.is_zero()),
            (
                "batch_timeout",
                batch_timeout.is_some_and(|limit| limit.is_zero()),
            ),
        ] {
            if is_zero {
                return Err(Error::ZeroSetting { setting });
            }
        }
        Ok(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_refused_by_name() {
        let builder = LaneConfig::builder;
        for (wrong, name) in [
            (builder().queue_batches(0), "queue_batches"),
            (builder().load_timeout(Duration::ZERO), "load_timeout"),
            (
                builder().batch_timeout(Some(Duration::ZERO)),
                "batch_timeout",
            ),
        ] {
            match wrong.build() {
                Err(Error::ZeroSetting { setting }) => assert_eq!(setting, name),
                other => panic!("{name} is zero: {other:?}"),
            }
        }
    }
}
