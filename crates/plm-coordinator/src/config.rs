//! How the threads of a rank work together, and how long they may take.

use std::time::Duration;

use crate::Error;

/// When a call of a port has hung, so that its rank is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchTimeout {
    /// Never.
    Never,
    /// When it takes longer than this: reading a record, encoding a packed batch, writing or flushing.
    Fixed(Duration),
    /// When encoding a packed batch takes `times` as long as the rank's slowest one so far would have for as many tokens, and
    /// `at_least` that. A rank's first packed batch, on which a device may have to compile its kernels, and all that is not
    /// encoding, may take [`LaneConfig::load_timeout`].
    Pace {
        /// How many times as long.
        times: u32,
        /// What any packed batch may take.
        at_least: Duration,
    },
}

/// How lanes work. Made by [`LaneConfig::builder`], which checks it.
///
/// ```
/// use std::time::Duration;
/// use plm_coordinator::{BatchTimeout, LaneConfig};
///
/// let config = LaneConfig::builder()
///     .batch_timeout(BatchTimeout::Fixed(Duration::from_secs(600)))
///     .build()?;
/// assert_eq!(config.queue_batches(), 2);
/// # Ok::<(), plm_coordinator::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneConfig {
    queue_batches: usize,
    write_queue_batches: usize,
    load_timeout: Duration,
    batch_timeout: BatchTimeout,
    max_reloads: u32,
    stop_grace: Duration,
}

/// Builds a [`LaneConfig`].
#[derive(Clone, Debug, Default)]
pub struct LaneConfigBuilder(LaneConfig);

impl LaneConfig {
    /// A builder with the defaults: two batches on their way to the encoder and sixteen to the writer, half an hour to load, twenty
    /// times its usual time and at least two minutes for a batch, 64 reloads, two seconds to stop.
    pub fn builder() -> LaneConfigBuilder {
        LaneConfigBuilder::default()
    }

    /// How many packed batches may lie between a rank's producer and its device thread.
    pub fn queue_batches(&self) -> usize {
        self.queue_batches
    }

    /// How many encoded batches may lie between a rank's device thread and its writer: for as many the device goes on while a
    /// segment is written.
    pub fn write_queue_batches(&self) -> usize {
        self.write_queue_batches
    }

    /// How long a rank may take to load its encoder, and as long each to open the source and its
    /// shard and to drop what it opened. A run does not end before all its ranks have loaded or are
    /// over this limit.
    pub fn load_timeout(&self) -> Duration {
        self.load_timeout
    }

    /// When a call has hung.
    pub fn batch_timeout(&self) -> BatchTimeout {
        self.batch_timeout
    }

    /// How often a rank's encoder may be loaded anew after it has failed. A sequence that no encoder survives takes about as
    /// many as there are octal digits in the number of sequences of its batch, and three more.
    pub fn max_reloads(&self) -> u32 {
        self.max_reloads
    }

    /// How long a stopped run waits for calls that read or encode. Threads that are still in one are then left behind: they
    /// end when it returns, and change nothing any more.
    pub fn stop_grace(&self) -> Duration {
        self.stop_grace
    }

    /// How long reading a record, writing or flushing may take.
    pub(crate) fn call_limit(&self) -> Option<Duration> {
        match self.batch_timeout {
            BatchTimeout::Never => None,
            BatchTimeout::Fixed(limit) => Some(limit),
            BatchTimeout::Pace { .. } => Some(self.load_timeout),
        }
    }

    /// How long encoding so many tokens may take a rank whose slowest packed batch took so many seconds a token.
    pub(crate) fn encode_limit(
        &self,
        tokens: usize,
        seconds_per_token: Option<f64>,
    ) -> Option<Duration> {
        let (BatchTimeout::Pace { times, at_least }, Some(pace)) =
            (self.batch_timeout, seconds_per_token)
        else {
            return self.call_limit();
        };
        let seconds = pace * tokens as f64 * f64::from(times);
        let limit = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        Some(limit.max(at_least))
    }
}

impl Default for LaneConfig {
    fn default() -> Self {
        Self {
            queue_batches: 2,
            write_queue_batches: 16,
            load_timeout: Duration::from_secs(30 * 60),
            batch_timeout: BatchTimeout::Pace {
                times: 20,
                at_least: Duration::from_secs(120),
            },
            max_reloads: 64,
            stop_grace: Duration::from_secs(2),
        }
    }
}

impl LaneConfigBuilder {
    /// See [`LaneConfig::queue_batches`].
    pub fn queue_batches(mut self, batches: usize) -> Self {
        self.0.queue_batches = batches;
        self
    }

    /// See [`LaneConfig::write_queue_batches`].
    pub fn write_queue_batches(mut self, batches: usize) -> Self {
        self.0.write_queue_batches = batches;
        self
    }

    /// See [`LaneConfig::load_timeout`].
    pub fn load_timeout(mut self, timeout: Duration) -> Self {
        self.0.load_timeout = timeout;
        self
    }

    /// See [`LaneConfig::batch_timeout`].
    pub fn batch_timeout(mut self, timeout: BatchTimeout) -> Self {
        self.0.batch_timeout = timeout;
        self
    }

    /// See [`LaneConfig::max_reloads`].
    pub fn max_reloads(mut self, reloads: u32) -> Self {
        self.0.max_reloads = reloads;
        self
    }

    /// See [`LaneConfig::stop_grace`].
    pub fn stop_grace(mut self, grace: Duration) -> Self {
        self.0.stop_grace = grace;
        self
    }

    /// The configuration, checked.
    ///
    /// # Errors
    /// [`Error::ZeroSetting`] if a number or a limit is zero.
    pub fn build(self) -> Result<LaneConfig, Error> {
        let LaneConfig {
            queue_batches,
            write_queue_batches,
            load_timeout,
            batch_timeout,
            ..
        } = self.0;
        let batch_timeout_is_zero = match batch_timeout {
            BatchTimeout::Never => false,
            BatchTimeout::Fixed(limit) => limit.is_zero(),
            BatchTimeout::Pace { times, .. } => times == 0,
        };
        for (setting, is_zero) in [
            ("queue_batches", queue_batches == 0),
            ("write_queue_batches", write_queue_batches == 0),
            ("load_timeout", load_timeout.is_zero()),
            ("batch_timeout", batch_timeout_is_zero),
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
            (builder().write_queue_batches(0), "write_queue_batches"),
            (builder().load_timeout(Duration::ZERO), "load_timeout"),
            (
                builder().batch_timeout(BatchTimeout::Fixed(Duration::ZERO)),
                "batch_timeout",
            ),
        ] {
            match wrong.build() {
                Err(Error::ZeroSetting { setting }) => assert_eq!(setting, name),
                other => panic!("{name} is zero: {other:?}"),
            }
        }
    }

    #[test]
    fn the_time_for_a_batch_follows_the_pace() {
        let config = LaneConfig::builder()
            .batch_timeout(BatchTimeout::Pace {
                times: 10,
                at_least: Duration::from_secs(5),
            })
            .build()
            .unwrap();
        let seconds = Duration::from_secs;
        assert_eq!(
            config.encode_limit(1_000, None),
            Some(config.load_timeout()),
            "the first one"
        );
        assert_eq!(config.encode_limit(1_000, Some(0.25)), Some(seconds(2_500)));
        assert_eq!(config.encode_limit(1, Some(0.25)), Some(seconds(5)));
        assert_eq!(config.encode_limit(1, Some(1e300)), Some(Duration::MAX));
    }
}
