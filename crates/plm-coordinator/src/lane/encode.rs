//! The device thread: loads an encoder, runs it, drops it, all in one place.

use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use plm_core::PooledBatch;

use super::device::Device;
use super::{Lane, Packed, ToEncode, ToWrite};
use crate::RankFailure;

/// Loads the encoder, says so through `loaded`, and encodes until there is nothing more to come.
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
    // Only now that a failure is known: dropping an encoder whose device has failed may hang too.
    if let Err(failure) = device.unload() {
        lane.fail(failure);
    }
}

fn encode_all(
    lane: &Lane,
    device: &mut Device<'_>,
    inbox: &Receiver<ToEncode>,
    to_write: &Sender<ToWrite>,
) -> Result<(), RankFailure> {
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
                begin(lane, device, &message)?;
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
                    begin(lane, device, next)?;
                }
                let Some(vectors) = encode(lane, device, &packed)? else {
                    return Ok(());
                };
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

fn begin(lane: &Lane, device: &mut Device<'_>, message: &ToEncode) -> Result<(), RankFailure> {
    if let ToEncode::Packed(Packed { batch, packed, .. }) = message {
        if lane.job.plan.is_apart(*batch) {
            // Before it is held against it that a device fails.
            device.prove()?;
        }
        lane.in_encoder().push(*batch);
        device.begin(packed)?;
    }
    Ok(())
}

/// The vectors of a packed batch; none if the run was stopped meanwhile.
fn encode(
    lane: &Lane,
    device: &mut Device<'_>,
    Packed { batch, packed, .. }: &Packed,
) -> Result<Option<PooledBatch>, RankFailure> {
    let vectors = device.encode(packed)?;
    let mut in_encoder = lane.in_encoder();
    if let Some(position) = in_encoder.iter().position(|held| held == batch) {
        in_encoder.remove(position);
    }
    Ok(vectors)
}
