//! The contract of encoders.

use plm_core::{Encoder, EncoderLoader, PackedBatch, Packer, Rank, RowId};

/// Checks that a vector depends on its sequence and on nothing else, bit for bit: each sequence
/// alone, all of them in one batch, in the opposite order, beside itself, after other batches, begun in advance and
/// from an encoder loaded anew all give the same vector, finite and of the spec's `hidden_size`.
///
/// # Panics
/// If that is not so, naming the sequence by its position in `sequences`; or if a sequence is empty
/// or holds a residue that the loader's spec has no token for.
pub fn check_encoder(loader: &dyn EncoderLoader, sequences: &[&[u8]]) {
    let mut encoder = load(loader);
    let alone: Vec<Vec<f32>> = sequences
        .iter()
        .map(|&sequence| encode(loader, &mut *encoder, &[sequence]).remove(0))
        .collect();
    for (position, vector) in alone.iter().enumerate() {
        assert!(
            vector.iter().all(|value| value.is_finite()),
            "sequence {position} has a vector that is not finite"
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
    check_begun(loader, &mut *encoder, sequences, &alone);
    drop(encoder);
    let how = "from an encoder loaded anew";
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
    alone: &[Vec<f32>],
    (how, positions): (&str, &[usize]),
) {
    let batch: Vec<&[u8]> = positions
        .iter()
        .map(|&position| sequences[position])
        .collect();
    for (vector, &position) in encode(loader, encoder, &batch).iter().zip(positions) {
        let same = vector
            .iter()
            .zip(&alone[position])
            .all(|(packed, alone)| packed.to_bits() == alone.to_bits());
        assert!(
            same,
            "sequence {position} has another vector {how} than alone: {vector:?} for {:?}",
            alone[position]
        );
    }
}

/// Each sequence alone, two begun at a time before the first of them is encoded.
fn check_begun(
    loader: &dyn EncoderLoader,
    encoder: &mut dyn Encoder,
    sequences: &[&[u8]],
    alone: &[Vec<f32>],
) {
    let batches: Vec<PackedBatch> = sequences
        .iter()
        .map(|&sequence| pack(loader, &[sequence]))
        .collect();
    for (two, alone) in batches.chunks(2).zip(alone.chunks(2)) {
        two.iter().for_each(|batch| encoder.begin(batch));
        for (batch, alone) in two.iter().zip(alone) {
            let vectors = run(loader, encoder, batch);
            let bits = |vector: &[f32]| vector.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(
                bits(&vectors[0]),
                bits(alone),
                "a sequence has another vector if its batch was begun in advance"
            );
        }
    }
}

fn encode(
    loader: &dyn EncoderLoader,
    encoder: &mut dyn Encoder,
    sequences: &[&[u8]],
) -> Vec<Vec<f32>> {
    run(loader, encoder, &pack(loader, sequences))
}

fn pack(loader: &dyn EncoderLoader, sequences: &[&[u8]]) -> PackedBatch {
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
    packer.finish()
}

fn run(
    loader: &dyn EncoderLoader,
    encoder: &mut dyn Encoder,
    batch: &PackedBatch,
) -> Vec<Vec<f32>> {
    let pooled = encoder
        .encode(batch)
        .unwrap_or_else(|error| panic!("the encoder failed: {error}"));
    let hidden_size = loader.spec().hidden_size;
    assert_eq!(
        pooled.hidden_size(),
        hidden_size,
        "hidden_size is not the spec's"
    );
    assert_eq!(
        pooled.vectors().len(),
        batch.num_sequences(),
        "not one vector per sequence"
    );
    pooled.vectors().map(<[f32]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use plm_core::{BoxError, EncoderSpec, PooledBatch};

    use super::*;
    use crate::FakeLoader;

    /// Adds the batch's size to every vector: what padding bugs look like from outside.
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
        fn encode(&mut self, batch: &PackedBatch) -> Result<PooledBatch, BoxError> {
            let pooled = self.0.encode(batch)?;
            let leak = batch.num_sequences() as f32;
            let values = pooled.values().iter().map(|value| value + leak).collect();
            Ok(PooledBatch::new(
                batch.num_sequences(),
                pooled.hidden_size(),
                values,
            )?)
        }
    }

    #[test]
    fn an_encoder_that_keeps_its_sequences_apart_passes() {
        check_encoder(&FakeLoader::new(4), &[b"MKV", b"G", b"WWWWWW"]);
    }

    #[test]
    #[should_panic(expected = "sequence 0 has another vector with the others than alone")]
    fn an_encoder_that_lets_neighbours_in_is_caught() {
        check_encoder(&Leaky(FakeLoader::new(4)), &[b"MKV", b"G"]);
    }

    #[test]
    #[should_panic(expected = "sequence 1 has a vector that is not finite")]
    fn an_encoder_that_answers_with_nan_is_caught() {
        check_encoder(&FakeLoader::new(4).nan_for(b"G"), &[b"MKV", b"G"]);
    }
}
