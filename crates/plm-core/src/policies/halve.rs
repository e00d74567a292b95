//! Halving of batches that the device has no room for.
//!
//! No estimate of memory is exact, so a batch can be too large for its device. Its pieces rarely
//! are.

use crate::{EncodedBatch, OutputSpec, PackedBatch};

/// Encodes a batch with `forward`, and in halves if the device is full, down to single sequences.
///
/// `has_no_room` tells errors of a full device from others. A single sequence without room fails
/// alone, with a [`Note::Failed`](crate::Note::Failed); the others get their values. `device` names
/// the device in messages, for example `cuda:0`.
///
/// # Errors
/// The first error of `forward` that is not one of a full device.
///
/// ```
/// use plm_core::policies::halve;
/// use plm_core::{Column, EncodedBatch, OutputKind, OutputSpec, PackedBatch};
/// # use plm_core::{Packer, RowId, TokenMap};
/// # let tokens = TokenMap::new([(b'A', 5)], None, None);
/// # let mut packer = Packer::new(&tokens, 8);
/// # (0..4).try_for_each(|row| packer.push(RowId(row), b"AA"))?;
/// # let batch = packer.finish();
///
/// // A device with room for four tokens, and a batch of eight.
/// let forward = |batch: &PackedBatch| match batch.total_tokens() {
///     5.. => Err("out of memory"),
///     _ => {
///         let column = Column::new(1, vec![1.0_f32; batch.num_sequences()]);
///         Ok(EncodedBatch::new(vec![column.map_err(|_| "shape")?]))
///     }
/// };
/// let outputs = [OutputSpec::new(OutputKind::Mean, 0, 1)];
/// let is_full = |error: &&str| *error == "out of memory";
/// let encoded = halve(&batch, &outputs, "cuda:0", &is_full, &forward);
/// assert_eq!(encoded.map(|encoded| encoded.num_sequences()), Ok(4));
/// # Ok::<(), plm_core::PackError>(())
/// ```
pub fn halve<E>(
    batch: &PackedBatch,
    outputs: &[OutputSpec],
    device: &str,
    has_no_room: &impl Fn(&E) -> bool,
    forward: &impl Fn(&PackedBatch) -> Result<EncodedBatch, E>,
) -> Result<EncodedBatch, E> {
    let error = match forward(batch) {
        Ok(encoded) => return Ok(encoded),
        Err(error) => error,
    };
    if !has_no_room(&error) {
        return Err(error);
    }
    let (tokens, num_sequences) = (batch.total_tokens(), batch.num_sequences());
    if num_sequences <= 1 {
        let reason = format!("{device} has no room for its {tokens} tokens");
        return Ok(EncodedBatch::failed(outputs, num_sequences, &reason));
    }
    tracing::warn!(device, tokens, "no room for a batch: halving it");
    let half = num_sequences / 2;
    let mut all = EncodedBatch::empty(outputs);
    for piece in [0..half, half..num_sequences] {
        let count = piece.len();
        let encoded = halve(&batch.select(piece), outputs, device, has_no_room, forward)?;
        all.append(&encoded, 0..count);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::{Column, Note, OutputKind, Packer, RowId, TokenMap};

    #[derive(Debug, PartialEq)]
    enum Failure {
        Full,
        Broken,
    }

    /// Encodes sequences of these residue counts on a device with room for `room` tokens, and
    /// returns the tokens of each try too.
    fn encode(residues: &[usize], room: usize) -> (Result<EncodedBatch, Failure>, Vec<usize>) {
        let tokens = TokenMap::new([(b'A', 5)], Some(0), Some(2));
        let mut packer = Packer::new(&tokens, 1_000);
        for (&count, row) in residues.iter().zip(0..) {
            packer.push(RowId(row), &vec![b'A'; count]).unwrap();
        }
        let tries = RefCell::new(vec![]);
        let forward = |batch: &PackedBatch| {
            tries.borrow_mut().push(batch.total_tokens());
            if batch.total_tokens() > room {
                return Err(Failure::Full);
            }
            if room == 7 {
                return Err(Failure::Broken);
            }
            let rows = batch
                .sequences()
                .iter()
                .map(|sequence| sequence.row.0 as f32);
            let column = Column::new(1, rows.collect::<Vec<_>>()).unwrap();
            Ok(EncodedBatch::new(vec![column]))
        };
        let outputs = [OutputSpec::new(OutputKind::Mean, 0, 1)];
        let has_no_room = |failure: &Failure| *failure == Failure::Full;
        let encoded = halve(&packer.finish(), &outputs, "cuda:3", &has_no_room, &forward);
        (encoded, tries.into_inner())
    }

    #[test]
    fn pieces_are_put_together_in_order_and_one_without_room_fails_alone() {
        let (encoded, tries) = encode(&[1, 2, 30, 4, 5], 13);
        let encoded = encoded.unwrap();
        assert_eq!(tries, [52, 7, 45, 32, 13]);
        let rows = encoded.columns()[0].as_f32().unwrap();
        assert_eq!(rows, [0.0, 1.0, 0.0, 3.0, 4.0]);
        let notes: Vec<_> = encoded.notes().collect();
        let reason = "cuda:3 has no room for its 32 tokens".to_owned();
        assert_eq!(notes, [(2, &Note::Failed(reason))]);
    }

    #[test]
    fn another_error_is_no_matter_of_room() {
        let (encoded, tries) = encode(&[1, 2, 30], 7);
        // All three, and the first of the halves.
        assert_eq!((encoded, tries), (Err(Failure::Broken), vec![39, 3]));
    }
}
