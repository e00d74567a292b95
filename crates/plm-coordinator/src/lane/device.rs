//! The encoder of a rank, which is loaded anew when it fails: a sequence that no encoder survives costs itself, and no rank.
//!
//! A batch that an encoder failed on is given to the next one in pieces, and what fails in pieces of its own, until single
//! sequences are left. What fails alone is tried once more, then in f32, and at last given up, if the encoder encodes a
//! plain sequence: if it does not, it is the device that is at fault, and the rank is out.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use plm_core::{BoxError, Encoder, Note, PackedBatch, Packer, PooledBatch, RowId};

use super::{Lane, Role};
use crate::lane_config::work;
use crate::{OBSERVED, RankFailure, RunEvent, Stage};

/// Into how many pieces a batch is cut: to load an encoder takes longer than to encode some of them.
const PIECES: usize = 8;

/// A sequence that there is nothing wrong with.
const PLAIN: &[u8] = b"MAGSTLLKAV";

/// An encoder's answer is not what its spec promises.
#[derive(Debug, thiserror::Error)]
#[error(
    "the encoder gave {vectors} vectors of {hidden_size} for {num_sequences} sequences and a hidden_size of {spec_hidden_size}"
)]
struct WrongShape {
    vectors: usize,
    hidden_size: usize,
    num_sequences: usize,
    spec_hidden_size: usize,
}

/// Stays on the thread that loaded it.
pub(super) struct Device<'a> {
    lane: &'a Lane,
    /// None between an encoder that failed and the next.
    encoder: Option<Box<dyn Encoder + 'a>>,
    reloads: u32,
    /// Of the packed batch that took longest for what there was to do.
    seconds_per_work: Option<f64>,
}

impl<'a> Device<'a> {
    pub(super) fn load(lane: &'a Lane) -> Result<Self, RankFailure> {
        let mut device = Self {
            lane,
            encoder: None,
            reloads: 0,
            seconds_per_work: None,
        };
        let started = Instant::now();
        device.load_encoder()?;
        let load = started.elapsed();
        lane.tally().load = load;
        if lane.failure().is_none() {
            let (rank, seconds) = (lane.rank, load.as_secs_f64());
            tracing::info!(rank = rank.0, seconds, "encoder loaded");
            lane.job.emit(&RunEvent::RankLoaded { rank, seconds });
        }
        Ok(device)
    }

    /// Drops the encoder.
    pub(super) fn unload(&mut self) -> Result<(), RankFailure> {
        let limit = Some(self.lane.job.config.load_timeout());
        let _dropping = self.lane.watch(Role::Encode).begin(Stage::Encode, limit);
        let encoder = self.encoder.take();
        self.lane.attempt(Stage::Encode, || {
            drop(encoder);
            Ok(())
        })
    }

    /// That the device encodes what there is nothing wrong with, with another encoder if need be.
    pub(super) fn prove(&mut self) -> Result<(), RankFailure> {
        let Some(plain) = self.plain_sequence() else {
            return Ok(());
        };
        if let Err(failure) = self.vectors(&plain) {
            self.replace(failure)?;
            self.vectors(&plain)?;
        }
        Ok(())
    }

    /// Tells the encoder of a batch that comes.
    pub(super) fn begin(&mut self, packed: &PackedBatch) -> Result<(), RankFailure> {
        if packed.num_sequences() == 0 {
            return Ok(());
        }
        match self.call(packed, |encoder, packed| {
            encoder.begin(packed);
            Ok(())
        }) {
            Ok(()) => Ok(()),
            // The next encoder has not been told of the batches before this one, and need not be.
            Err(failure) => self.replace(failure),
        }
    }

    /// The vectors of a batch; none if the run was stopped while they were looked for.
    pub(super) fn encode(
        &mut self,
        packed: &PackedBatch,
    ) -> Result<Option<PooledBatch>, RankFailure> {
        let hidden_size = self.lane.job.loader.spec().hidden_size;
        if packed.num_sequences() == 0 {
            let none = PooledBatch::new(0, hidden_size, Vec::new());
            return Ok(Some(none.expect("no values are no vectors")));
        }
        match self.vectors(packed) {
            Ok(pooled) => Ok(Some(pooled)),
            Err(failure) => {
                self.replace(failure)?;
                self.in_pieces(packed)
            }
        }
    }

    /// The vectors of a batch that an encoder has failed on.
    fn in_pieces(&mut self, packed: &PackedBatch) -> Result<Option<PooledBatch>, RankFailure> {
        let hidden_size = self.lane.job.loader.spec().hidden_size;
        let num_sequences = packed.num_sequences();
        let mut values = vec![0.0; num_sequences * hidden_size];
        let mut notes = Vec::new();
        let mut suspects = Vec::new();
        let mut pieces = VecDeque::from(cut(0..num_sequences));
        while let Some(piece) = pieces.pop_front() {
            if self.lane.job.stop.is_stopped() {
                return Ok(None);
            }
            match self.vectors(&packed.select(piece.clone())) {
                Ok(pooled) => {
                    values[piece.start * hidden_size..piece.end * hidden_size]
                        .copy_from_slice(pooled.values());
                    let pooled_notes = pooled.notes();
                    notes.extend(pooled_notes.map(|(at, note)| (piece.start + at, note.clone())));
                }
                Err(failure) => {
                    if piece.len() == 1 {
                        suspects.push((piece.start, failure.clone()));
                    } else {
                        pieces.extend(cut(piece));
                    }
                    self.replace(failure)?;
                }
            }
        }
        for (sequence, failure) in suspects {
            let (vector, note) = self.alone(&packed.select([sequence]), failure)?;
            if let Some(vector) = vector {
                values[sequence * hidden_size..][..hidden_size].copy_from_slice(vector.values());
            }
            notes.extend(note.map(|note| (sequence, note)));
        }
        let mut pooled = PooledBatch::new(num_sequences, hidden_size, values)
            .expect("there is room for every vector");
        for (sequence, note) in notes {
            pooled.note(sequence, note);
        }
        Ok(Some(pooled))
    }

    /// The vector of a sequence that an encoder has failed on alone, and what is to be noted of it.
    fn alone(
        &mut self,
        alone: &PackedBatch,
        failure: RankFailure,
    ) -> Result<(Option<PooledBatch>, Option<Note>), RankFailure> {
        match self.vectors(alone) {
            Ok(vector) => {
                let note = vector.note_of(0).cloned();
                return Ok((Some(vector), note));
            }
            Err(failure) => self.replace(failure)?,
        }
        if let Some(vector) = self.in_f32(alone)? {
            let note = vector.note_of(0).cloned().unwrap_or(Note::InF32);
            return Ok((Some(vector), Some(note)));
        }
        self.give_up(failure).map(|note| (None, Some(note)))
    }

    /// The vector of a sequence in f32, if the encoder can do that and survives it.
    fn in_f32(&mut self, alone: &PackedBatch) -> Result<Option<PooledBatch>, RankFailure> {
        let answer = self
            .call(alone, Encoder::encode_in_f32)
            .and_then(|answer| match answer {
                Some(pooled) => self.checked(alone, pooled).map(Some),
                None => Ok(None),
            });
        match answer {
            Ok(answer) => Ok(answer),
            Err(failure) => self.replace(failure).map(|()| None),
        }
    }

    /// What is to be noted of a sequence that encoders fail on; the failure is the rank's if the encoder fails on others too.
    fn give_up(&mut self, failure: RankFailure) -> Result<Note, RankFailure> {
        let Some(plain) = self.plain_sequence() else {
            return Err(failure);
        };
        self.vectors(&plain)?;
        Ok(Note::Failed(format!(
            "encoders fail on it, also alone: {}",
            failure.words()
        )))
    }

    /// A sequence that any encoder that works can encode.
    fn plain_sequence(&self) -> Option<PackedBatch> {
        let tokens = &self.lane.job.loader.spec().tokens;
        let mut packer = Packer::new(tokens, PLAIN.len() + tokens.special_tokens() as usize);
        packer.push(RowId(0), PLAIN).ok()?;
        Some(packer.finish())
    }

    fn vectors(&mut self, packed: &PackedBatch) -> Result<PooledBatch, RankFailure> {
        let started = Instant::now();
        let pooled = self.call(packed, Encoder::encode)?;
        let pace = started.elapsed().as_secs_f64() / work_of(packed);
        self.seconds_per_work = Some(
            self.seconds_per_work
                .map_or(pace, |slowest| slowest.max(pace)),
        );
        self.checked(packed, pooled)
    }

    /// The answer for a batch, if there is a vector of the right length for each of its sequences.
    fn checked(
        &self,
        packed: &PackedBatch,
        pooled: PooledBatch,
    ) -> Result<PooledBatch, RankFailure> {
        let spec_hidden_size = self.lane.job.loader.spec().hidden_size;
        let num_sequences = packed.num_sequences();
        let (vectors, hidden_size) = (pooled.vectors().len(), pooled.hidden_size());
        if (vectors, hidden_size) == (num_sequences, spec_hidden_size) {
            return Ok(pooled);
        }
        let wrong = WrongShape {
            vectors,
            hidden_size,
            num_sequences,
            spec_hidden_size,
        };
        Err(RankFailure::error(
            self.lane.rank,
            Stage::Encode,
            &wrong.into(),
        ))
    }

    /// One call of the encoder, within the time that there is for so much work.
    fn call<T>(
        &mut self,
        packed: &PackedBatch,
        call: impl FnOnce(&mut (dyn Encoder + 'a), &PackedBatch) -> Result<T, BoxError>,
    ) -> Result<T, RankFailure> {
        let config = &self.lane.job.config;
        let limit = config.encode_limit(work_of(packed), self.seconds_per_work);
        let _encoding = self.lane.watch(Role::Encode).begin(Stage::Encode, limit);
        let mut encoder = self.encoder.take().expect("one that fails is replaced");
        let (encoder, answer) = self.lane.attempt(Stage::Encode, || {
            let answer = call(&mut *encoder, packed)?;
            Ok((encoder, answer))
        })?;
        self.encoder = Some(encoder);
        Ok(answer)
    }

    /// Another encoder, after one that has failed; if there is to be none, that failure is the rank's.
    fn replace(&mut self, failure: RankFailure) -> Result<(), RankFailure> {
        let Lane { rank, job, .. } = self.lane;
        if self.reloads >= job.config.max_reloads() || self.lane.failure().is_some() {
            return Err(failure);
        }
        self.reloads += 1;
        if let Err(error) = self.load_encoder() {
            tracing::warn!(rank = rank.0, "no other encoder: {}", error.words());
            return Err(failure);
        }
        tracing::warn!(
            target: OBSERVED,
            rank = rank.0,
            "{failure}; its encoder was loaded anew"
        );
        self.lane.tally().reloads += 1;
        job.emit(&RunEvent::EncoderReloaded { failure: &failure });
        Ok(())
    }

    fn load_encoder(&mut self) -> Result<(), RankFailure> {
        let lane = self.lane;
        let limit = Some(lane.job.config.load_timeout());
        let _loading = lane.watch(Role::Encode).begin(Stage::Load, limit);
        // The device may have no room for two, nor the one that failed for its end.
        let failed = self.encoder.take();
        let encoder = lane.attempt(Stage::Load, || {
            drop(failed);
            lane.job.loader.load(lane.rank)
        })?;
        self.encoder = Some(encoder);
        Ok(())
    }
}

fn work_of(packed: &PackedBatch) -> f64 {
    let ends = packed.cu_seqlens().windows(2);
    work(ends.map(|ends| (ends[1] - ends[0]) as usize))
}

/// A stretch of sequences in pieces of nearly the same number.
fn cut(range: Range<usize>) -> Vec<Range<usize>> {
    let piece = range.len().div_ceil(PIECES).max(1);
    range
        .clone()
        .step_by(piece)
        .map(|start| start..(start + piece).min(range.end))
        .collect()
}
