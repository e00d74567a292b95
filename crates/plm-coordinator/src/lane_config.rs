//! How the threads of a rank work together, and how long they may take.

use std::time::Duration;

use crate::Error;

/// When a call of a port has hung, so that its rank is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchTimeout {
    /// Never.
    Never,
    /// When it takes longer than this: reading a record, encoding a packed batch, writing or
    /// flushing.
    Fixed(Duration),
    /// When encoding a packed batch takes `times` as long as the rank's slowest one so far would
    /// have for as much work, and `at_least` that. Work is counted in tokens, of which those of
    /// long sequences count more, as attention goes. All that is not encoding may take
    /// [`LaneConfig::load_timeout`]; so may a rank's first packed batch, on which a device may have
    /// to compile its kernels, and longer in proportion if it is more work than a full one of
    /// ordinary sequences.
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
    input_patience: Duration,
}

/// Builds a [`LaneConfig`].
#[derive(Clone, Debug, Default)]
pub struct LaneConfigBuilder(LaneConfig);

impl LaneConfig {
    /// A builder with the defaults: two batches on their way to the encoder and sixteen to the
    /// writer, half an hour to load, twenty times its usual time and at least two minutes for a
    /// batch, 64 reloads, two seconds to stop, two minutes for an input that can't be read.
    pub fn builder() -> LaneConfigBuilder {
        LaneConfigBuilder::default()
    }

    /// How many packed batches may lie between a rank's producer and its device thread.
    pub fn queue_batches(&self) -> usize {
        self.queue_batches
    }

    /// How many encoded batches may lie between a rank's device thread and its writer: for as many
    /// the device goes on while a segment is written.
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

    /// How often a rank's encoder may be loaded anew after it has failed. A sequence that no
    /// encoder survives takes about as many as there are octal digits in the number of sequences of
    /// its batch, and three more.
    pub fn max_reloads(&self) -> u32 {
        self.max_reloads
    }

    /// How long a stopped run waits for calls that read or encode. Threads that are still in one
    /// are then left behind: they end when it returns, and change nothing any more.
    pub fn stop_grace(&self) -> Duration {
        self.stop_grace
    }

    /// How long a rank tries to read a record that can't be read, or is not what was planned,
    /// before it ends the run. The pauses between its tries grow from 20 milliseconds to 10
    /// seconds, and the input is opened anew for each. If this is zero, it opens the input anew
    /// once and does not pause.
    pub fn input_patience(&self) -> Duration {
        self.input_patience
    }

    /// How long reading a record, writing or flushing may take.
    pub(crate) fn call_limit(&self) -> Option<Duration> {
        match self.batch_timeout {
            BatchTimeout::Never => None,
            BatchTimeout::Fixed(limit) => Some(limit),
            BatchTimeout::Pace { .. } => Some(self.load_timeout),
        }
    }

    /// How long encoding so much [`work`] may take a rank whose slowest packed batch took so many
    /// seconds for each unit.
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

/// Sequences of so many tokens cost twice as much a token as short ones: attention takes as long as
/// all else. In small models; in others only longer ones do, and what counts too much makes no call
/// too late.
const ATTENTION_TOKENS: f64 = 1024.0;

/// The largest batches that are usual, of sequences that are.
const ORDINARY_WORK: f64 = 2.0 * 33_792.0;

/// What there is to do for sequences of these token counts, in tokens of short ones.
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

    /// See [`LaneConfig::input_patience`].
    pub fn input_patience(mut self, patience: Duration) -> Self {
        self.0.input_patience = patience;
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
        // 650M on ten cores that multiply 3e11 numbers a second: 33 layers, of products and of
        // attention.
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

        // Likewise behind short ones, whose pace is another.
        let short = work(std::iter::repeat_n(100, 160));
        let pace = takes(100.0).as_secs_f64() * 160.0 / short;
        assert!(config.encode_limit(long, Some(pace)).unwrap() > 3 * takes(tokens as f64));

        // What is ordinary has the time that it had.
        let ordinary = work(std::iter::repeat_n(1_024, 33));
        let limit = config.encode_limit(ordinary, None).unwrap();
        assert!(limit <= config.load_timeout() + Duration::from_secs(1));
    }
}
