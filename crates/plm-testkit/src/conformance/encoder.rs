//! The check of encoders.

use std::sync::Arc;

use plm_core::{Encoder, EncoderLoader, PackedBatch, Packer, Rank, RowId, Ticket};

/// The values of one sequence in each output, in f32: `[outputs][rows * width]`.
type Rows = Vec<Vec<f32>>;

/// Checks that the values of a sequence depend on the sequence alone, bit for bit, in each output.
///
/// Each sequence must give the same values alone, in a batch with the others, in the opposite
/// order, beside itself, after other batches, submitted in advance, and from another encoder. The
/// values must be finite and as the loader's spec says.
///
/// # Panics
/// If the contract is broken: the message names the sequence by its position in `sequences`. Also
/// if a sequence is empty or has a residue that the spec has no token for.
pub fn check_encoder(loader: &dyn EncoderLoader, sequences: &[&[u8]]) {
    let mut encoder = load(loader);
    let alone: Vec<Rows> = sequences
        .iter()
        .map(|&sequence| encode(loader, &mut *encoder, &[sequence]).remove(0))
        .collect();
    for (position, rows) in alone.iter().enumerate() {
        assert!(
            rows.iter().flatten().all(|value| value.is_finite()),
            "sequence {position} has numbers that are not finite"
        );
    }

    let order: Vec<usize> = (0..sequences.len()).collect();
    let reversed: Vec<usize> = order.iter().rev().copied().collect();
    let doubled: Vec<usize> = order.iter().flat_map(|&position| [position; 2]).collect();
    for (how, positions) in [
        ("with the others", &order),
        ("in the opposite order", &reversed),
        ("beside itself", &doubled),
        ("with the others once more", &order),
    ] {
        check_batch(loader, &mut *encoder, sequences, &alone, (how, positions));
    }
    check_submitted(loader, &mut *encoder, sequences, &alone);
    drop(encoder);
    let how = "from another encoder";
    check_batch(
        loader,
        &mut *load(loader),
        sequences,
        &alone,
        (how, &reversed),
    );
}

fn load(loader: &dyn EncoderLoader) -> Box<dyn Encoder + '_> {
    loader
        .load(Rank(0))
        .unwrap_or_else(|error| panic!("rank 0 does not load: {error}"))
}

fn check_batch(
    loader: &dyn EncoderLoader,
    encoder: &mut dyn Encoder,
    sequences: &[&[u8]],
    alone: &[Rows],
    (how, positions): (&str, &[usize]),
) {
    let batch: Vec<&[u8]> = positions
        .iter()
        .map(|&position| sequences[position])
        .collect();
    for (rows, &position) in encode(loader, encoder, &batch).iter().zip(positions) {
        assert!(
            bits(rows) == bits(&alone[position]),
            "sequence {position} has other numbers {how} than alone: {rows:?} for {:?}",
            alone[position]
        );
    }
}

fn bits(rows: &Rows) -> Vec<Vec<u32>> {
    let bits = |row: &Vec<f32>| row.iter().map(|x| x.to_bits()).collect();
    rows.iter().map(bits).collect()
}

/// Checks each sequence alone, with two batches submitted before the first is finished. A third
/// ticket is dropped.
fn check_submitted(
    loader: &dyn EncoderLoader,
    encoder: &mut dyn Encoder,
    sequences: &[&[u8]],
    alone: &[Rows],
) {
    let batches: Vec<Arc<PackedBatch>> = sequences
        .iter()
        .map(|&sequence| pack(loader, &[sequence]))
        .collect();
    for (two, alone) in batches.chunks(2).zip(alone.chunks(2)) {
        let tickets: Vec<Ticket> = two.iter().map(|batch| encoder.submit(batch)).collect();
        drop(encoder.submit(&batches[0]));
        for (ticket, alone) in tickets.into_iter().zip(alone) {
            let rows = finish(loader, encoder, ticket).remove(0);
            assert_eq!(
                bits(&rows),
                bits(alone),
                "a sequence has other numbers if its batch was submitted in advance"
            );
        }
    }
}

fn encode(loader: &dyn EncoderLoader, encoder: &mut dyn Encoder, sequences: &[&[u8]]) -> Vec<Rows> {
    let ticket = encoder.submit(&pack(loader, sequences));
    finish(loader, encoder, ticket)
}

fn pack(loader: &dyn EncoderLoader, sequences: &[&[u8]]) -> Arc<PackedBatch> {
    let tokens = &loader.spec().tokens;
    let special_tokens = tokens.special_tokens() as usize;
    let total_tokens = sequences
        .iter()
        .map(|sequence| sequence.len() + special_tokens)
        .sum();
    let mut packer = Packer::new(tokens, total_tokens);
    for (sequence, row) in sequences.iter().zip(0..) {
        packer
            .push(RowId(row), sequence)
            .unwrap_or_else(|error| panic!("sequence {row} can't be packed: {error}"));
    }
    Arc::new(packer.finish())
}

/// The values of each sequence of a submitted batch.
fn finish(loader: &dyn EncoderLoader, encoder: &mut dyn Encoder, ticket: Ticket) -> Vec<Rows> {
    let batch = Arc::clone(ticket.batch());
    let num_sequences = batch.num_sequences();
    let encoded = encoder
        .finish(ticket)
        .unwrap_or_else(|error| panic!("the encoder failed: {error}"));
    if let Err(error) = encoded.check(&loader.spec().outputs, batch.residue_counts()) {
        panic!("not what the spec says: {error}");
    }
    let columns = encoded.columns();
    let rows = |sequence| {
        columns
            .iter()
            .map(|column| column.sequence(sequence))
            .collect()
    };
    (0..num_sequences).map(rows).collect()
}

#[cfg(test)]
mod tests {
    use plm_core::{BoxError, Column, Dtype, EncodedBatch, EncoderSpec, OutputKind};

    use super::*;
    use crate::FakeLoader;

    /// A loader of encoders that add the batch's size to every value, as a padding bug might.
    struct Leaky(FakeLoader);

    struct LeakyEncoder<'a>(Box<dyn Encoder + 'a>);

    impl EncoderLoader for Leaky {
        fn spec(&self) -> &EncoderSpec {
            self.0.spec()
        }

        fn load(&self, rank: Rank) -> Result<Box<dyn Encoder + '_>, BoxError> {
            Ok(Box::new(LeakyEncoder(self.0.load(rank)?)))
        }
    }

    impl Encoder for LeakyEncoder<'_> {
        fn finish(&mut self, ticket: Ticket) -> Result<EncodedBatch, BoxError> {
            let leak = ticket.batch().num_sequences() as f32;
            let columns = self.0.finish(ticket)?.into_columns();
            let columns = columns.into_iter().map(|column| {
                let values = column.as_f32().expect("the fake gives f32");
                let leaked: Vec<f32> = values.iter().map(|value| value + leak).collect();
                Column::new(column.width(), leaked)
            });
            Ok(EncodedBatch::new(columns.collect::<Result<_, _>>()?))
        }
    }

    #[test]
    fn an_encoder_that_keeps_its_sequences_apart_passes() {
        let loader = FakeLoader::new(4).output(OutputKind::Bos, 3, Dtype::F16);
        check_encoder(&loader, &[b"MKV", b"G", b"WWWWWW"]);
    }

    #[test]
    #[should_panic(expected = "sequence 0 has other numbers with the others than alone")]
    fn an_encoder_that_lets_neighbours_in_is_caught() {
        check_encoder(&Leaky(FakeLoader::new(4)), &[b"MKV", b"G"]);
    }

    #[test]
    #[should_panic(expected = "sequence 1 has numbers that are not finite")]
    fn an_encoder_that_answers_with_nan_is_caught() {
        check_encoder(&FakeLoader::new(4).nan_for(b"G"), &[b"MKV", b"G"]);
    }
}
