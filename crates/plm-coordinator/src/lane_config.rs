//! How the threads of a rank work together, and how long they may take.

use std::time::Duration;

use crate::Error;

/// When a call of a port counts as hung, and its rank is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchTimeout {
    /// No call ever counts as hung.
    Never,
    /// A call counts as hung after this time: reading a record, encoding a packed batch, writing or
    /// flushing.
    Fixed(Duration),
    /// Encoding a packed batch counts as hung by the rank's own pace.
    ///
    /// A packed batch may take `times` as long as it would at the pace of the rank's slowest so
    /// far, and `at_least` in any case. Pace is time over work. Work is the number of tokens, and
    /// tokens of long sequences count more, since their attention takes longer.
    ///
    /// A rank's first packed batch may take [`LaneConfig::load_timeout`], since a device may have
    /// to compile kernels for it. If it is more work than a full one of ordinary sequences, it may
    /// take longer in proportion. Any call that does not encode may take
    /// [`LaneConfig::load_timeout`].
    Pace {
        /// How many times as long as at the slowest pace so far.
        times: u32,
        /// The time that any packed batch may take.
        at_least: Duration,
    },
}

/// How lanes work. [`LaneConfig::builder`] makes it and checks it.
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
    write_queue_bytes: u64,
    load_timeout: Duration,
    batch_timeout: BatchTimeout,
    max_reloads: u32,
    stop_grace: Duration,
    input_patience: Duration,
}

/// Builds a [`LaneConfig`].
#[derive(Clone, Debug, Default)]
pub struct LaneConfigBuilder(LaneConfig);

impl LaneConfig {
    /// A builder with the defaults:
    ///
    /// | setting | default |
    /// |---|---|
    /// | [`queue_batches`](Self::queue_batches) | 2 |
    /// | [`write_queue_batches`](Self::write_queue_batches) | 16 |
    /// | [`write_queue_bytes`](Self::write_queue_bytes) | 2^30 |
    /// | [`load_timeout`](Self::load_timeout) | half an hour |
    /// | [`batch_timeout`](Self::batch_timeout) | 20 times the slowest pace, at least 2 minutes |
    /// | [`max_reloads`](Self::max_reloads) | 64 |
    /// | [`stop_grace`](Self::stop_grace) | 2 seconds |
    /// | [`input_patience`](Self::input_patience) | 2 minutes |
    pub fn builder() -> LaneConfigBuilder {
        LaneConfigBuilder::default()
    }

    /// The most packed batches that wait between a rank's producer and its device thread.
    pub fn queue_batches(&self) -> usize {
        self.queue_batches
    }

    /// The most encoded batches that wait between a rank's device thread and its writer. The device
    /// computes that many more while the writer is busy.
    pub fn write_queue_batches(&self) -> usize {
        self.write_queue_batches
    }

    /// The most bytes of values in encoded batches that wait for a rank's writer or are being
    /// written. The device thread waits until there is room, or until nothing else is there: a
    /// batch of more bytes is alone.
    ///
    /// Beside these, a rank holds the values of two batches at most: one that waits for room, and
    /// one that the device computes. A record whose windows don't fit into one packed batch counts
    /// as one batch. Values that identical records share count once, but the batch that is written
    /// has them for each: up to 16 times.
    pub fn write_queue_bytes(&self) -> u64 {
        self.write_queue_bytes
    }

    /// How long a rank may take to load its encoder. Opening the source, opening the shard, and
    /// dropping each of these may take as long. A run does not end before each rank has loaded or
    /// is over this limit.
    pub fn load_timeout(&self) -> Duration {
        self.load_timeout
    }

    /// When a call counts as hung.
    pub fn batch_timeout(&self) -> BatchTimeout {
        self.batch_timeout
    }

    /// How often a rank may load another encoder after one has failed. In a
    /// [`Session`](crate::Session), loads before the last batch that went well do not count.
    ///
    /// A batch that fails is cut into eight pieces at a time. So one sequence that no encoder
    /// survives costs about as many loads as the number of the batch's sequences has octal digits,
    /// and three more.
    pub fn max_reloads(&self) -> u32 {
        self.max_reloads
    }

    /// How long a stopped run waits for calls that read or encode. A thread that is still in a call
    /// is then left behind: it ends when the call returns, and changes nothing any more.
    pub fn stop_grace(&self) -> Duration {
        self.stop_grace
    }

    /// How long a rank tries to read a record that can't be read, or is not what was planned. It
    /// then ends the run.
    ///
    /// The rank opens the input again for each try. Its pauses grow from 20 milliseconds to 10
    /// seconds. If this is zero, it tries once more and does not pause.
    pub fn input_patience(&self) -> Duration {
        self.input_patience
    }

    /// How long reading a record, writing or flushing may take; `None` without a limit.
    pub(crate) fn call_limit(&self) -> Option<Duration> {
        match self.batch_timeout {
            BatchTimeout::Never => None,
            BatchTimeout::Fixed(limit) => Some(limit),
            BatchTimeout::Pace { .. } => Some(self.load_timeout),
        }
    }

    /// How long encoding this much [`work`] may take; `None` without a limit. `seconds_per_work` is
    /// the pace of the rank's slowest packed batch so far, if there was one.
    pub(crate) fn encode_limit(
        &self,
        work: f64,
        seconds_per_work: Option<f64>,
    ) -> Option<Duration> {
        let BatchTimeout::Pace { times, at_least } = self.batch_timeout else {
            return self.call_limit();
        };
        Some(match seconds_per_work {
            Some(pace) => seconds(pace * work * f64::from(times)).max(at_least),
            None => seconds(self.load_timeout.as_secs_f64() * (work / ORDINARY_WORK).max(1.0)),
        })
    }
}

/// The tokens of a sequence whose attention takes as long as all else, so that each of its tokens
/// costs twice as much as one of a short sequence. This holds for small models. Larger models reach
/// it with longer sequences: there it counts too much work, which only makes limits longer.
const ATTENTION_TOKENS: f64 = 1024.0;

/// The work of the largest usual batch: 33,792 tokens, in sequences of 1,024 tokens.
const ORDINARY_WORK: f64 = 2.0 * 33_792.0;

/// The work of sequences with these token counts, in tokens of short sequences.
pub(crate) fn work(sequences: impl Iterator<Item = usize>) -> f64 {
    sequences
        .map(|tokens| tokens as f64 * (1.0 + tokens as f64 / ATTENTION_TOKENS))
        .sum()
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

impl Default for LaneConfig {
    fn default() -> Self {
        Self {
            queue_batches: 2,
            write_queue_batches: 16,
            write_queue_bytes: 1 << 30,
            load_timeout: Duration::from_secs(30 * 60),
            batch_timeout: BatchTimeout::Pace {
                times: 20,
                at_least: Duration::from_secs(120),
            },
            max_reloads: 64,
            stop_grace: Duration::from_secs(2),
            input_patience: Duration::from_secs(120),
        }
    }
}

impl LaneConfigBuilder {
    /// Sets [`LaneConfig::queue_batches`].
    pub fn queue_batches(mut self, batches: usize) -> Self {
        self.0.queue_batches = batches;
        self
    }

    /// Sets [`LaneConfig::write_queue_batches`].
    pub fn write_queue_batches(mut self, batches: usize) -> Self {
        self.0.write_queue_batches = batches;
        self
    }

    /// Sets [`LaneConfig::write_queue_bytes`].
    pub fn write_queue_bytes(mut self, bytes: u64) -> Self {
        self.0.write_queue_bytes = bytes;
        self
    }

    /// Sets [`LaneConfig::load_timeout`].
    pub fn load_timeout(mut self, timeout: Duration) -> Self {
        self.0.load_timeout = timeout;
        self
    }

    /// Sets [`LaneConfig::batch_timeout`].
    pub fn batch_timeout(mut self, timeout: BatchTimeout) -> Self {
        self.0.batch_timeout = timeout;
        self
    }

    /// Sets [`LaneConfig::max_reloads`].
    pub fn max_reloads(mut self, reloads: u32) -> Self {
        self.0.max_reloads = reloads;
        self
    }

    /// Sets [`LaneConfig::stop_grace`].
    pub fn stop_grace(mut self, grace: Duration) -> Self {
        self.0.stop_grace = grace;
        self
    }

    /// Sets [`LaneConfig::input_patience`].
    pub fn input_patience(mut self, patience: Duration) -> Self {
        self.0.input_patience = patience;
        self
    }

    /// Checks the configuration and returns it.
    ///
    /// # Errors
    /// [`Error::ZeroSetting`] if a queue or a limit is zero. `max_reloads`, `stop_grace` and
    /// `input_patience` may be.
    pub fn build(self) -> Result<LaneConfig, Error> {
        let LaneConfig {
            queue_batches,
            write_queue_batches,
            write_queue_bytes,
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
            ("write_queue_bytes", write_queue_bytes == 0),
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
            (builder().write_queue_bytes(0), "write_queue_bytes"),
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
            config.encode_limit(1_000.0, None),
            Some(config.load_timeout()),
            "the first one"
        );
        assert_eq!(config.encode_limit(1e3, Some(0.25)), Some(seconds(2_500)));
        assert_eq!(config.encode_limit(1.0, Some(0.25)), Some(seconds(5)));
        assert_eq!(config.encode_limit(1.0, Some(1e300)), Some(Duration::MAX));
    }

    #[test]
    fn a_long_protein_has_the_time_that_its_attention_takes() {
        let config = LaneConfig::default();
        // The 650M model, 33 layers of products and attention, on ten cores that do 3e11
        // multiplications a second.
        let (layers, hidden, rate) = (33.0, 1_280.0, 3e11);
        let takes = |tokens: f64| {
            let products = 12.0 * hidden * hidden * tokens;
            let attention = 2.0 * hidden * tokens * tokens;
            Duration::from_secs_f64(layers * (products + attention) / rate)
        };
        let tokens = 40_002;
        let long = work([tokens].into_iter());
        assert!(takes(tokens as f64) > config.load_timeout() / 4);
        assert!(config.encode_limit(long, None).unwrap() > 3 * takes(tokens as f64));

        // The same after short sequences, whose pace is another.
        let short = work(std::iter::repeat_n(100, 160));
        let pace = takes(100.0).as_secs_f64() * 160.0 / short;
        assert!(config.encode_limit(long, Some(pace)).unwrap() > 3 * takes(tokens as f64));

        // An ordinary batch has no more than the plain limit.
        let ordinary = work(std::iter::repeat_n(1_024, 33));
        let limit = config.encode_limit(ordinary, None).unwrap();
        assert!(limit <= config.load_timeout() + Duration::from_secs(1));
    }
}
