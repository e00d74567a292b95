//! Embeddings without files: sequences in, values out, on all devices.
//!
//! This room holds a session of plm-coordinator open, so that encoders are loaded once and kept. It
//! gives each sequence a row, and brings what becomes of the row back to the call that it came
//! from. It must not know directories, results, stores or the verb.

mod deliveries;
mod embeddings;
mod sequence_error;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use plm_coordinator::{
    LaneConfig, NoObserver, Observer, PlanConfig, PlannedOutcome, RankFailure, Session,
    SessionOptions, SkipReason,
};
use plm_core::{
    Column, Dtype, EncoderLoader, LargestBatches, Outcome, OutputSet, OutputSpec, Per, RecordInfo,
    RowId, WorldSize,
};
use plm_index::{GapPolicy, residues_of};

use self::deliveries::{Deliver, Deliveries, Watch};
pub use self::embeddings::Embeddings;
pub use self::sequence_error::SequenceError;
use crate::Error;
use crate::compute::{Devices, Model, PendingLoader, start_threads};

/// How many full batches a call to [`Embedder::embed`] may have in it for each rank. Some wait for
/// the device, it computes one, and the rest are done and wait for the caller.
const BATCHES_PER_RANK: u64 = 8;

/// The settings of an [`Embedder`]. They mean what those of [`RunConfig`](crate::RunConfig) mean.
#[derive(Clone)]
pub struct EmbedderConfig {
    /// The devices compute; each is one rank.
    pub devices: Devices,
    /// The model computes in this number format. `None` is f16 on GPUs and f32 on the CPU. On GPUs,
    /// everything is computed in f32 if 16 bits are too coarse for one of the outputs: see
    /// [`Loader::with_outputs`](plm_encoder::Loader::with_outputs).
    pub dtype: Option<Dtype>,
    /// The model gives these outputs. `None` is the mean of the last layer. It must be `None` for a
    /// [`Model::Loader`], which decides its own.
    pub outputs: Option<OutputSet>,
    /// The policy decides what happens to the gaps of an alignment, `-` and `.`.
    pub on_gap: GapPolicy,
    /// The plan's settings are the batch size ([`Devices::max_batch_tokens`] if none is set), the
    /// model's window, and what happens to longer sequences: those that it skips or fails at are
    /// [`SequenceError::TooLong`].
    pub plan: PlanConfig,
    /// The lanes' settings are the queues and deadlines of the ranks.
    pub lanes: LaneConfig,
    /// The observer is told of what happens, from the threads of the ranks. It knows sequences by
    /// their rows alone, which count all sequences of an embedder.
    pub observer: Arc<dyn Observer>,
}

impl Default for EmbedderConfig {
    fn default() -> Self {
        Self {
            devices: Devices::default(),
            dtype: None,
            outputs: None,
            on_gap: GapPolicy::default(),
            plan: PlanConfig::default(),
            lanes: LaneConfig::default(),
            observer: Arc::new(NoObserver),
        }
    }
}

impl fmt::Debug for EmbedderConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbedderConfig")
            .field("devices", &self.devices)
            .field("dtype", &self.dtype)
            .field("outputs", &self.outputs)
            .field("on_gap", &self.on_gap)
            .field("plan", &self.plan)
            .field("lanes", &self.lanes)
            .finish_non_exhaustive()
    }
}

/// What a model gives for one sequence: the same bits as in the result of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// The number of residues, including those that a truncation left out.
    pub residue_count: u32,
    /// How the sequence was embedded.
    pub outcome: Outcome,
    /// Whether the values were computed in f32 because the model's own format was too coarse.
    pub in_f32: bool,
    /// A column of this one sequence for each output, in the order of [`Embedder::outputs`], in the
    /// number format in which the values left the device.
    pub columns: Vec<Column>,
}

impl Embedding {
    /// The values of an output, by its position among [`Embedder::outputs`], in f32, which holds
    /// every f16 exactly: `[rows, width]`. An output per sequence has one row.
    ///
    /// # Panics
    /// If there is no such output.
    pub fn values(&self, output: usize) -> Vec<f32> {
        self.columns[output].sequence(0)
    }
}

/// A model on all devices, ready for sequences: for services, notebooks and streams.
///
/// Encoders are loaded once, and kept until it is dropped. [`embed`](Self::embed) takes any number
/// of sequences and gives their values back. Any number of threads may call it at once; what they
/// ask for is computed together while the devices are busy.
///
/// It has the engine of [`run_multi_gpu_inference`](crate::run_multi_gpu_inference): batches are
/// packed, identical sequences computed once, a device that fails is survived by the others, and a
/// sequence that no encoder survives fails alone. If all devices fail, every sequence that is left
/// ends in [`SequenceError::Ended`].
///
/// ```
/// use plm_fleet::{Embedder, EmbedderConfig, Model};
///
/// let embedder = Embedder::new(&Model::PlmTiny, &EmbedderConfig::default())?;
/// let proteins = [("a", "MKTAYIAKQR"), ("b", "MK7"), ("c", "GSHMRYQ")];
/// for (id, embedded) in embedder.embed(proteins) {
///     match embedded {
///         Ok(embedding) => assert_eq!(embedding.values(0).len(), 128, "{id}"),
///         Err(error) => assert_eq!(error.to_string(), "'7' after 2 residues is no residue"),
///     }
/// }
/// # Ok::<(), plm_fleet::Error>(())
/// ```
pub struct Embedder {
    // Dropped first, so that no rank delivers what nobody knows.
    session: Session,
    deliveries: Arc<Deliveries>,
    loader: Arc<dyn EncoderLoader>,
    config: EmbedderConfig,
    world: WorldSize,
    next_row: AtomicU64,
}

impl Embedder {
    /// Loads a model on the devices of `config`, and returns once the first of them is ready.
    ///
    /// # Errors
    /// - [`Error::Devices`] or [`Error::NotOncePerRank`] if a device can't be used.
    /// - [`Error::Checkpoint`], [`Error::UnknownModelType`] or [`Error::Model`] if the model is
    ///   refused, or can't give the outputs.
    /// - [`Error::NoPositions`] if the window has more residues than the model has positions for.
    /// - [`Error::Coordinator`] if no device could load it.
    pub fn new(model: &Model, config: &EmbedderConfig) -> Result<Self, Error> {
        start_threads()?;
        let devices = config.devices.resolve()?;
        let config = EmbedderConfig {
            plan: (config.plan.clone()).or_max_batch_tokens(devices.max_batch_tokens()?),
            devices,
            ..config.clone()
        };
        let (dtype, outputs) = (config.dtype, config.outputs.as_ref());
        let model = model.open()?;
        model.check_window(&config.plan)?;
        let loading = PendingLoader::start(model, &config.devices, dtype, outputs)?;
        let loader = loading.wait()?;
        let world = config.devices.world_size()?;
        let deliveries = Arc::new(Deliveries::default());
        let at_end = Arc::clone(&deliveries);
        let session = Session::start(
            Arc::clone(&loader),
            Arc::new(Deliver(Arc::clone(&deliveries))),
            SessionOptions {
                world,
                plan: config.plan.clone(),
                lanes: config.lanes.clone(),
                observer: Arc::new(Watch {
                    deliveries: Arc::clone(&deliveries),
                    next: Arc::clone(&config.observer),
                }),
            },
            move |ended| at_end.end(ended),
        )
        .map_err(|source| Error::Thread { source })?;
        let embedder = Self {
            session,
            deliveries,
            loader,
            config,
            world,
            next_row: AtomicU64::new(0),
        };
        if embedder.deliveries.wait_until_loaded() {
            return Ok(embedder);
        }
        let report = embedder.session.close()?;
        Err(Error::Coordinator(plm_coordinator::Error::AllRanksFailed {
            missing_batches: 0,
            missing_rows: 0,
            report: Box::new(report),
        }))
    }

    /// The outputs of the model: what each of [`Embedding::columns`] is.
    pub fn outputs(&self) -> &[OutputSpec] {
        &self.loader.spec().outputs
    }

    /// The ranks that have failed so far. The others do their work.
    pub fn failed_ranks(&self) -> Vec<RankFailure> {
        self.deliveries.failed_ranks()
    }

    /// Embeds sequences, which come with an id of any type: a name, a number, the sender of an
    /// answer. They may be text or bytes, in either case, as the sequence lines of a FASTA file may
    /// be.
    ///
    /// The answer is an iterator. It gives each id back with the sequence's values, or with the
    /// reason if it has none: in the order of the input, or
    /// [as they come](Embeddings::as_they_come). A sequence that fails does not end it.
    ///
    /// Nothing runs away. The iterator takes sequences from the input only when it is asked for the
    /// next one, and has at most 8 full batches of tokens for each rank in it, or one sequence if
    /// that is longer. It waits for its input, so an input that waits for a person holds back what
    /// is done already: a service calls this for each request. Dropping the iterator forgets what
    /// it has not given.
    ///
    /// ```
    /// use plm_fleet::{Embedder, EmbedderConfig, Model};
    ///
    /// let embedder = Embedder::new(&Model::PlmTiny, &EmbedderConfig::default())?;
    /// let endless = (0..).map(|number| (number, "MKTAYIAK"));
    /// let first = embedder.embed(endless).take(100);
    /// assert!(first.map(|(number, _)| number).eq(0..100));
    /// # Ok::<(), plm_fleet::Error>(())
    /// ```
    pub fn embed<I, Id, S>(&self, sequences: I) -> Embeddings<'_, I::IntoIter, Id>
    where
        I: IntoIterator<Item = (Id, S)>,
        S: AsRef<[u8]>,
    {
        Embeddings::new(self, sequences.into_iter())
    }

    /// Embeds one sequence, and waits for it.
    ///
    /// # Errors
    /// [`SequenceError`] if it has no values.
    ///
    /// ```
    /// use plm_fleet::{Embedder, EmbedderConfig, Model};
    ///
    /// let embedder = Embedder::new(&Model::PlmTiny, &EmbedderConfig::default())?;
    /// assert_eq!(embedder.embed_one("MKTAYIAK")?.residue_count, 8);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn embed_one(&self, sequence: impl AsRef<[u8]>) -> Result<Embedding, SequenceError> {
        let mut only = self.embed([((), sequence)]);
        let ((), embedded) = only.next().expect("each sequence has an answer");
        embedded
    }

    /// The most tokens that a call may have in it.
    fn most_tokens(&self) -> u64 {
        let batch = u64::from(self.config.plan.max_batch_tokens());
        BATCHES_PER_RANK * u64::from(self.world.get()) * batch
    }

    fn next_row(&self) -> RowId {
        // Relaxed: the number guards no other memory.
        RowId(self.next_row.fetch_add(1, Ordering::Relaxed))
    }

    /// The residues of a sequence, and the tokens that it takes, if it can be embedded.
    fn prepare(&self, sequence: &[u8]) -> Result<(Vec<u8>, u64), SequenceError> {
        let residues = residues_of(sequence, self.config.on_gap)?;
        let tokens = &self.loader.spec().tokens;
        if let Some(position) = residues
            .iter()
            .position(|&letter| tokens.token_id(letter).is_none())
        {
            return Err(SequenceError::UnknownResidue {
                residue: char::from(residues[position]),
                position: position as u64,
            });
        }
        let plan = &self.config.plan;
        let max_residues = plan.max_residues();
        let too_long = SequenceError::TooLong {
            residue_count: residues.len() as u64,
            max_residues,
        };
        let Ok(residue_count) = u32::try_from(residues.len()) else {
            return Err(too_long);
        };
        let outcome = plan.outcome(&RecordInfo {
            id: "",
            residue_count,
            skipped: false,
        });
        match outcome {
            PlannedOutcome::Skipped(SkipReason::TooLong { .. }) => return Err(too_long),
            PlannedOutcome::Skipped(_) => return Err(SequenceError::Empty),
            PlannedOutcome::Windowed => {
                if let Some(output) = self.outputs().iter().find(|one| one.per() == Per::Pair) {
                    return Err(SequenceError::PairsOfWindows {
                        output: output.kind,
                        residue_count,
                        max_residues,
                    });
                }
            }
            PlannedOutcome::Embedded | PlannedOutcome::Truncated => {}
        }
        let special = u64::from(tokens.special_tokens());
        let longest = u64::from(residue_count.min(max_residues)) + special;
        if longest > u64::from(plan.max_batch_tokens()) {
            let largest = LargestBatches {
                longest_sequences: vec![longest as usize; self.world.get() as usize],
                shared_tokens: plan.max_batch_tokens() as usize,
            };
            self.loader.check_room(&largest)?;
        }
        let tokens = plan.tokens(residue_count, tokens.special_tokens());
        Ok((residues, tokens))
    }
}

impl fmt::Debug for Embedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedder")
            .field("model", &self.loader.spec().model)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
