//! The encoder of a rank, and the next one when it fails.
//!
//! A sequence that no encoder survives must cost only itself, and no rank. So if an encoder fails
//! on a batch, the next one gets the batch in pieces. A piece that fails is cut again, down to
//! single sequences. A sequence that fails alone is tried once more, then in f32. If the encoder
//! then still encodes a plain sequence, that sequence is given up. If not, the device is broken,
//! and the rank is out.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use plm_core::{
    BoxError, EncodedBatch, Encoder, Note, OutputSpec, PackedBatch, Packer, RowId, Ticket,
};

use super::{Lane, Role};
use crate::lane_config::work;
use crate::{OBSERVED, RankFailure, RunEvent, Stage};

/// The number of pieces that a batch is cut into. Not two: loading an encoder takes longer than
/// encoding a few pieces.
const PIECES: usize = 8;

/// A sequence that any sound encoder can encode.
const PLAIN: &[u8] = b"MAGSTLLKAV";

/// A batch that was submitted to an encoder.
pub(super) enum Submitted {
    /// The ticket, and how many reloads there were before its encoder: no other encoder takes it.
    Ticket(Ticket, u32),
    /// A batch that the encoder failed on, or that has no sequences.
    Batch(Arc<PackedBatch>),
}

/// The device of a rank, on the thread that loaded its encoder.
pub(super) struct Device<'a> {
    lane: &'a Lane,
    /// `None` between an encoder that failed and the next one.
    encoder: Option<Box<dyn Encoder + 'a>>,
    /// How many encoders have failed: no two encoders have the same number.
    reloads: u32,
    /// How many of these count towards [`LaneConfig::max_reloads`](crate::LaneConfig::max_reloads).
    reloads_spent: u32,
    /// The slowest pace of a packed batch so far, if one was encoded.
    seconds_per_work: Option<f64>,
}

impl<'a> Device<'a> {
    pub(super) fn load(lane: &'a Lane) -> Result<Self, RankFailure> {
        let mut device = Self {
            lane,
            encoder: None,
            reloads: 0,
            reloads_spent: 0,
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
        let _dropping = self.lane.watch(Role::Encode).enter(Stage::Encode, limit);
        let encoder = self.encoder.take();
        self.lane.attempt(Stage::Encode, || {
            drop(encoder);
            Ok(())
        })
    }

    /// Checks that the device encodes a plain sequence, with another encoder if this one fails.
    pub(super) fn prove(&mut self) -> Result<(), RankFailure> {
        let Some(plain) = self.plain_sequence() else {
            return Ok(());
        };
        if let Err(failure) = self.encoded(&plain, None) {
            self.replace(failure)?;
            self.encoded(&plain, None)?;
        }
        Ok(())
    }

    /// Submits a batch to the encoder, and replaces the encoder if it fails.
    pub(super) fn submit(&mut self, packed: &Arc<PackedBatch>) -> Result<Submitted, RankFailure> {
        if packed.num_sequences() == 0 {
            return Ok(Submitted::Batch(Arc::clone(packed)));
        }
        match self.call(packed, |encoder| Ok(encoder.submit(packed))) {
            Ok(ticket) => Ok(Submitted::Ticket(ticket, self.reloads)),
            Err(failure) => {
                self.replace(failure)?;
                Ok(Submitted::Batch(Arc::clone(packed)))
            }
        }
    }

    /// The columns of a submitted batch, in pieces if need be. `None` if the run was stopped before
    /// all pieces were done.
    pub(super) fn finish(
        &mut self,
        submitted: Submitted,
    ) -> Result<Option<EncodedBatch>, RankFailure> {
        let (packed, ticket) = match submitted {
            // With other reloads, the encoder that gave the ticket is gone, and the ticket is void.
            Submitted::Ticket(ticket, reloads) if reloads == self.reloads => {
                (Arc::clone(ticket.batch()), Some(ticket))
            }
            Submitted::Ticket(ticket, _) => (Arc::clone(ticket.batch()), None),
            Submitted::Batch(packed) => (packed, None),
        };
        if packed.num_sequences() == 0 {
            return Ok(Some(EncodedBatch::empty(self.outputs())));
        }
        match self.encoded(&packed, ticket) {
            Ok(encoded) => {
                if self.lane.job.is_session {
                    // It may go on for ever, and what failed lies behind.
                    self.reloads_spent = 0;
                }
                Ok(Some(encoded))
            }
            Err(failure) => {
                self.replace(failure)?;
                self.in_pieces(&packed)
            }
        }
    }

    /// The columns of a batch that an encoder has failed on, computed in pieces. `None` if the run
    /// was stopped meanwhile.
    fn in_pieces(&mut self, packed: &PackedBatch) -> Result<Option<EncodedBatch>, RankFailure> {
        let num_sequences = packed.num_sequences();
        let mut done: Vec<(Range<usize>, EncodedBatch)> = Vec::new();
        let mut failed_alone = Vec::new();
        let mut pieces = VecDeque::from(cut(0..num_sequences));
        while let Some(piece) = pieces.pop_front() {
            if self.lane.job.stop.is_stopped() {
                return Ok(None);
            }
            match self.encoded(&Arc::new(packed.select(piece.clone())), None) {
                Ok(encoded) => done.push((piece, encoded)),
                Err(failure) => {
                    if piece.len() == 1 {
                        failed_alone.push((piece, failure.clone()));
                    } else {
                        pieces.extend(cut(piece));
                    }
                    self.replace(failure)?;
                }
            }
        }
        for (piece, failure) in failed_alone {
            let alone = Arc::new(packed.select(piece.clone()));
            done.push((piece, self.alone(&alone, failure)?));
        }
        done.sort_unstable_by_key(|(piece, _)| piece.start);
        let mut all = EncodedBatch::empty(self.outputs());
        for (piece, encoded) in done {
            all.append(&encoded, 0..piece.len());
        }
        Ok(Some(all))
    }

    /// The columns of a sequence that an encoder has failed on alone, or its failure in a note.
    fn alone(
        &mut self,
        alone: &Arc<PackedBatch>,
        failure: RankFailure,
    ) -> Result<EncodedBatch, RankFailure> {
        match self.encoded(alone, None) {
            Ok(encoded) => return Ok(encoded),
            Err(failure) => self.replace(failure)?,
        }
        if let Some(mut encoded) = self.in_f32(alone)? {
            if encoded.note_of(0).is_none() {
                encoded.note(0, Note::InF32);
            }
            return Ok(encoded);
        }
        let reason = self.give_up(failure)?;
        Ok(EncodedBatch::failed(self.outputs(), 1, &reason))
    }

    /// The columns of a sequence in f32, if the encoder has that way and survives it.
    fn in_f32(&mut self, alone: &PackedBatch) -> Result<Option<EncodedBatch>, RankFailure> {
        let answer = self
            .call(alone, |encoder| encoder.encode_in_f32(alone))
            .and_then(|answer| match answer {
                Some(encoded) => self.checked(alone, encoded).map(Some),
                None => Ok(None),
            });
        match answer {
            Ok(answer) => Ok(answer),
            Err(failure) => self.replace(failure).map(|()| None),
        }
    }

    /// Why a sequence that encoders fail on has no values, in words. If the encoder fails on a
    /// plain sequence too, the failure is the rank's.
    fn give_up(&mut self, failure: RankFailure) -> Result<String, RankFailure> {
        let Some(plain) = self.plain_sequence() else {
            return Err(failure);
        };
        self.encoded(&plain, None)?;
        Ok(format!(
            "encoders fail on it, also alone: {}",
            failure.words()
        ))
    }

    /// A batch of one plain sequence. `None` if the model's alphabet lacks its residues.
    fn plain_sequence(&self) -> Option<Arc<PackedBatch>> {
        let tokens = &self.lane.job.loader.spec().tokens;
        let mut packer = Packer::new(tokens, PLAIN.len() + tokens.special_tokens() as usize);
        packer.push(RowId(0), PLAIN).ok()?;
        Some(Arc::new(packer.finish()))
    }

    fn outputs(&self) -> &'a [OutputSpec] {
        &self.lane.job.loader.spec().outputs
    }

    /// The columns of a batch: for its ticket, or computed from the start.
    fn encoded(
        &mut self,
        packed: &Arc<PackedBatch>,
        ticket: Option<Ticket>,
    ) -> Result<EncodedBatch, RankFailure> {
        let started = Instant::now();
        let encoded = self.call(packed, |encoder| match ticket {
            Some(ticket) => encoder.finish(ticket),
            None => encoder.encode(packed),
        })?;
        let pace = started.elapsed().as_secs_f64() / work_of(packed);
        self.seconds_per_work = Some(
            self.seconds_per_work
                .map_or(pace, |slowest| slowest.max(pace)),
        );
        self.checked(packed, encoded)
    }

    /// The columns of a batch, if they are what the encoder's spec promises.
    fn checked(
        &self,
        packed: &PackedBatch,
        encoded: EncodedBatch,
    ) -> Result<EncodedBatch, RankFailure> {
        match encoded.check(self.outputs(), packed.residue_counts()) {
            Ok(()) => Ok(encoded),
            Err(wrong) => {
                let rank = self.lane.rank;
                Err(RankFailure::error(rank, Stage::Encode, &wrong.into()))
            }
        }
    }

    /// Calls the encoder, watched by the time limit for this much work.
    fn call<T>(
        &mut self,
        packed: &PackedBatch,
        call: impl FnOnce(&mut (dyn Encoder + 'a)) -> Result<T, BoxError>,
    ) -> Result<T, RankFailure> {
        let config = &self.lane.job.config;
        let limit = config.encode_limit(work_of(packed), self.seconds_per_work);
        let _encoding = self.lane.watch(Role::Encode).enter(Stage::Encode, limit);
        let mut encoder = self
            .encoder
            .take()
            .expect("an encoder that fails is replaced");
        let (encoder, answer) = self.lane.attempt(Stage::Encode, || {
            let answer = call(&mut *encoder)?;
            Ok((encoder, answer))
        })?;
        self.encoder = Some(encoder);
        Ok(answer)
    }

    /// Loads another encoder after one has failed. If there is no other, that failure is the
    /// rank's.
    fn replace(&mut self, failure: RankFailure) -> Result<(), RankFailure> {
        let Lane { rank, job, .. } = self.lane;
        if self.reloads_spent >= job.config.max_reloads() || self.lane.failure().is_some() {
            return Err(failure);
        }
        self.reloads += 1;
        self.reloads_spent += 1;
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
        let _loading = lane.watch(Role::Encode).enter(Stage::Load, limit);
        // Dropped first, and watched: the device may have no room for two encoders, and dropping
        // one that failed may hang.
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

/// Cuts a range of sequences into pieces of nearly equal size.
fn cut(range: Range<usize>) -> Vec<Range<usize>> {
    let piece = range.len().div_ceil(PIECES).max(1);
    range
        .clone()
        .step_by(piece)
        .map(|start| start..(start + piece).min(range.end))
        .collect()
}
