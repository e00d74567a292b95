//! The device thread: loads an encoder, runs it, drops it, all in one place.

use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use plm_core::{BoxError, Encoder, PackedBatch, PooledBatch};

use super::{Lane, Packed, Role, ToEncode, ToWrite};
use crate::{RunEvent, Stage};

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

/// Loads the encoder, says so through `loaded`, and encodes until there is nothing more to come.
pub(super) fn run(
    lane: &Lane,
    loaded: &Sender<()>,
    inbox: &Receiver<ToEncode>,
    to_write: &Sender<ToWrite>,
) {
    let Some(mut encoder) = lane.guard(Stage::Load, || load(lane)) else {
        return;
    };
    lane.guard(Stage::Encode, || {
        if lane.fence.send(loaded, ()) {
            encode_all(lane, &mut *encoder, inbox, to_write)?;
        }
        Ok(())
    });
    // Only now that a failure is known: dropping an encoder whose device has failed may hang too.
    lane.guard(Stage::Encode, || {
        let limit = Some(lane.job.config.load_timeout());
        let _dropping = lane.watch(Role::Encode).begin(Stage::Encode, limit);
        drop(encoder);
        Ok(())
    });
}

fn load(lane: &Lane) -> Result<Box<dyn Encoder + '_>, BoxError> {
    let started = Instant::now();
    let limit = Some(lane.job.config.load_timeout());
    let loading = lane.watch(Role::Encode).begin(Stage::Load, limit);
    let encoder = lane.job.loader.load(lane.rank)?;
    drop(loading);
    let load = started.elapsed();
    lane.tally().load = load;
    if lane.failure().is_none() {
        let (rank, seconds) = (lane.rank, load.as_secs_f64());
        tracing::info!(rank = rank.0, seconds, "encoder loaded");
        lane.job.emit(&RunEvent::RankLoaded { rank, seconds });
    }
    Ok(encoder)
}

fn encode_all(
    lane: &Lane,
    encoder: &mut dyn Encoder,
    inbox: &Receiver<ToEncode>,
    to_write: &Sender<ToWrite>,
) -> Result<(), BoxError> {
    let mut ahead = None;
    loop {
        let message = match ahead.take() {
            Some(message) => message,
            None => {
                let waiting = Instant::now();
                let Some(message) = lane.fence.receive(inbox) else {
                    return Ok(());
                };
                lane.tally().wait += waiting.elapsed();
                begin(lane, encoder, &message);
                message
            }
        };
        if lane.job.stop.is_stopped() {
            return Ok(());
        }
        let message = match message {
            ToEncode::Flush => ToWrite::Flush,
            ToEncode::Packed(packed) => {
                let encoding = Instant::now();
                // The device is to have its next batch before it is done with this one.
                ahead = inbox.try_recv().ok();
                if let Some(next) = &ahead {
                    begin(lane, encoder, next);
                }
                let vectors = encode(lane, encoder, &packed.packed)?;
                let encode = encoding.elapsed();
                lane.tally().encode += encode;
                ToWrite::Encoded {
                    packed,
                    vectors,
                    encode,
                }
            }
        };
        let waiting = Instant::now();
        if !lane.fence.send(to_write, message) {
            return Ok(());
        }
        lane.tally().wait += waiting.elapsed();
    }
}

fn begin(lane: &Lane, encoder: &mut dyn Encoder, message: &ToEncode) {
    if let ToEncode::Packed(Packed { packed, .. }) = message
        && packed.num_sequences() > 0
    {
        let limit = lane.job.config.batch_timeout();
        let _beginning = lane.watch(Role::Encode).begin(Stage::Encode, limit);
        encoder.begin(packed);
    }
}

fn encode(
    lane: &Lane,
    encoder: &mut dyn Encoder,
    packed: &PackedBatch,
) -> Result<PooledBatch, BoxError> {
    let spec_hidden_size = lane.job.loader.spec().hidden_size;
    let num_sequences = packed.num_sequences();
    if num_sequences == 0 {
        return Ok(PooledBatch::new(0, spec_hidden_size, Vec::new())?);
    }
    let limit = lane.job.config.batch_timeout();
    let encoding = lane.watch(Role::Encode).begin(Stage::Encode, limit);
    let pooled = encoder.encode(packed)?;
    drop(encoding);
    let (vectors, hidden_size) = (pooled.vectors().len(), pooled.hidden_size());
    if (vectors, hidden_size) != (num_sequences, spec_hidden_size) {
        return Err(WrongShape {
            vectors,
            hidden_size,
            num_sequences,
            spec_hidden_size,
        }
        .into());
    }
    Ok(pooled)
}
