//! The device thread, which loads an encoder, runs it and drops it.

use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use plm_core::BatchIndex;

use super::device::{Device, Submitted};
use super::{Lane, Packed, ToEncode, ToWrite};
use crate::RankFailure;

/// Loads the encoder, says so through `loaded`, and encodes until nothing more comes.
pub(super) fn run(
    lane: &Lane,
    loaded: &Sender<()>,
    inbox: &Receiver<ToEncode>,
    to_write: &Sender<ToWrite>,
) {
    let mut device = match Device::load(lane) {
        Ok(device) => device,
        Err(failure) => return lane.fail(failure),
    };
    if lane.fence.send(loaded, ())
        && let Err(failure) = encode_all(lane, &mut device, inbox, to_write)
    {
        lane.fail(failure);
    }
    // A failure is reported first: dropping an encoder whose device has failed may hang too.
    if let Err(failure) = device.unload() {
        lane.fail(failure);
    }
}

/// What the device thread has taken from its inbox.
enum Taken {
    Packed(Packed, Submitted),
    Flush,
}

fn encode_all(
    lane: &Lane,
    device: &mut Device<'_>,
    inbox: &Receiver<ToEncode>,
    to_write: &Sender<ToWrite>,
) -> Result<(), RankFailure> {
    let mut ahead = None;
    // Whether the last packed batch has left its planned batch unfinished.
    let mut continues = false;
    loop {
        let taken = match ahead.take() {
            Some(taken) => taken,
            None => {
                let waiting = Instant::now();
                let Some(message) = lane.fence.receive(inbox) else {
                    return Ok(());
                };
                lane.tally().wait += waiting.elapsed();
                submit(lane, device, message)?
            }
        };
        if lane.job.stop.is_stopped() {
            return Ok(());
        }
        let message = match taken {
            Taken::Flush => ToWrite::Flush,
            Taken::Packed(packed, submitted) => {
                let encoding = Instant::now();
                // The device gets its next batch before it is done with this one.
                if let Ok(next) = inbox.try_recv() {
                    ahead = Some(submit(lane, device, next)?);
                }
                let Some(encoded) = device.finish(submitted)? else {
                    return Ok(());
                };
                is_answered(lane, packed.batch);
                let encode = encoding.elapsed();
                lane.tally().encode += encode;
                let waiting = Instant::now();
                // The writer holds a planned batch until all of it is there, so its rest must not
                // wait for room.
                if continues {
                    lane.room.take_more(encoded.value_bytes());
                } else if !lane.room.take(encoded.value_bytes(), &lane.fence) {
                    return Ok(());
                }
                lane.tally().wait += waiting.elapsed();
                continues = packed.end.is_none();
                ToWrite::Encoded {
                    packed,
                    encoded,
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

fn submit(lane: &Lane, device: &mut Device<'_>, message: ToEncode) -> Result<Taken, RankFailure> {
    let ToEncode::Packed(packed) = message else {
        return Ok(Taken::Flush);
    };
    let batch = lane.job.queue.batches().get(packed.batch);
    if batch.is_some_and(|batch| batch.is_apart()) {
        // If the device fails by itself, no batch must be suspected.
        device.prove()?;
    }
    lane.in_encoder().push(packed.batch);
    let submitted = device.submit(&packed.packed)?;
    Ok(Taken::Packed(packed, submitted))
}

/// Notes that the encoder holds one packed batch less of this planned batch.
fn is_answered(lane: &Lane, batch: BatchIndex) {
    let mut in_encoder = lane.in_encoder();
    if let Some(position) = in_encoder.iter().position(|held| *held == batch) {
        in_encoder.remove(position);
    }
}
