//! The contract of sinks.

use plm_core::{
    EmbeddedBatch, EmbeddedRow, EmbeddingSink, Outcome, PooledBatch, Rank, RowId, ShardWriter,
    Written,
};

use crate::SplitMix64;

/// A row and its vector, as read back from a sink.
type Stored = (EmbeddedRow, Vec<f32>);

/// Checks an empty sink: what a writer has called durable, by [`Written::Durable`] or by a flush,
/// can be read back bit for bit, from several ranks; a writer that is dropped with more in its
/// buffer leaves that behind and nothing else. `read_back` gives everything stored, in any order.
///
/// # Panics
/// If that is not so, naming the row.
pub fn check_sink(
    sink: &dyn EmbeddingSink,
    hidden_size: usize,
    mut read_back: impl FnMut() -> Vec<Stored>,
) {
    let mut written = Vec::new();
    let mut durable = 0;
    for rank in [Rank(0), Rank(1)] {
        let mut shard = open(sink, rank);
        for _ in 0..7 {
            let batch = next_batch(&mut written, hidden_size);
            if write(&mut *shard, batch) == Written::Durable {
                durable = written.len();
                check_stored(&written, durable, read_back());
            }
        }
        shard
            .flush()
            .unwrap_or_else(|error| panic!("{rank} does not flush: {error}"));
        durable = written.len();
        check_stored(&written, durable, read_back());
    }

    let mut shard = open(sink, Rank(2));
    if write(&mut *shard, next_batch(&mut written, hidden_size)) == Written::Durable {
        durable = written.len();
    }
    drop(shard);
    check_stored(&written, durable, read_back());

    open(sink, Rank(3))
        .flush()
        .unwrap_or_else(|error| panic!("a writer that was given nothing does not flush: {error}"));
    check_stored(&written, durable, read_back());
}

fn open(sink: &dyn EmbeddingSink, rank: Rank) -> Box<dyn ShardWriter + '_> {
    sink.open_shard(rank)
        .unwrap_or_else(|error| panic!("{rank} has no shard: {error}"))
}

fn write(shard: &mut dyn ShardWriter, batch: EmbeddedBatch) -> Written {
    shard
        .write(batch)
        .unwrap_or_else(|error| panic!("a batch can't be written: {error}"))
}

/// Three new rows, with names that are no file names.
fn next_batch(written: &mut Vec<Stored>, hidden_size: usize) -> EmbeddedBatch {
    let first = written.len();
    for row in first as u64..first as u64 + 3 {
        let mut random = SplitMix64::new(row);
        let vector = (0..hidden_size).map(|_| random.next_f64() as f32).collect();
        written.push((
            EmbeddedRow {
                row: RowId(row),
                id: format!("sp|{row}|../ü"),
                residue_count: row as u32 + 1,
                outcome: Outcome::Embedded,
                in_f32: false,
            },
            vector,
        ));
    }
    let new = &written[first..];
    EmbeddedBatch {
        rows: new.iter().map(|(row, _)| row.clone()).collect(),
        vectors: PooledBatch::new(
            new.len(),
            hidden_size,
            new.iter().flat_map(|(_, vector)| vector).copied().collect(),
        )
        .expect("each vector has hidden_size numbers"),
    }
}

/// Exactly the first `durable` rows must be stored. Not one more: the run computes again what a
/// writer was dropped with, and a row that had been kept would be there twice.
fn check_stored(written: &[Stored], durable: usize, mut stored: Vec<Stored>) {
    stored.sort_by_key(|(row, _)| row.row);
    assert_eq!(
        stored.len(),
        durable,
        "{durable} rows are durable and {} can be read back",
        stored.len()
    );
    for ((row, vector), (expected_row, expected_vector)) in stored.iter().zip(written) {
        assert_eq!(row, expected_row, "another row is stored than was written");
        let same = vector
            .iter()
            .map(|value| value.to_bits())
            .eq(expected_vector.iter().map(|value| value.to_bits()));
        assert!(same, "{} has another vector than was written", row.row);
    }
}

#[cfg(test)]
mod tests {
    use plm_core::BoxError;

    use super::*;
    use crate::MemorySink;

    /// Calls everything durable and passes only flushes on.
    struct Boastful(MemorySink);

    struct BoastfulWriter<'a>(Box<dyn ShardWriter + 'a>);

    impl EmbeddingSink for Boastful {
        fn open_shard(&self, rank: Rank) -> Result<Box<dyn ShardWriter + '_>, BoxError> {
            Ok(Box::new(BoastfulWriter(self.0.open_shard(rank)?)))
        }
    }

    impl ShardWriter for BoastfulWriter<'_> {
        fn write(&mut self, batch: EmbeddedBatch) -> Result<Written, BoxError> {
            self.0.write(batch)?;
            Ok(Written::Durable)
        }

        fn flush(&mut self) -> Result<(), BoxError> {
            self.0.flush()
        }
    }

    fn stored(sink: &MemorySink) -> Vec<Stored> {
        let rows = sink.durable().into_iter();
        rows.map(|stored| (stored.row, stored.vector)).collect()
    }

    #[test]
    fn a_sink_that_keeps_its_word_passes_at_any_segment_size() {
        for segment_batches in [1, 2, 3, 7, 100] {
            let sink = MemorySink::new(segment_batches);
            check_sink(&sink, 4, || stored(&sink));
        }
    }

    /// Flushes when it is dropped.
    struct Clinging(MemorySink);

    struct ClingingWriter<'a>(Box<dyn ShardWriter + 'a>);

    impl EmbeddingSink for Clinging {
        fn open_shard(&self, rank: Rank) -> Result<Box<dyn ShardWriter + '_>, BoxError> {
            Ok(Box::new(ClingingWriter(self.0.open_shard(rank)?)))
        }
    }

    impl ShardWriter for ClingingWriter<'_> {
        fn write(&mut self, batch: EmbeddedBatch) -> Result<Written, BoxError> {
            self.0.write(batch)
        }

        fn flush(&mut self) -> Result<(), BoxError> {
            self.0.flush()
        }
    }

    impl Drop for ClingingWriter<'_> {
        fn drop(&mut self) {
            self.0.flush().expect("a memory sink flushes");
        }
    }

    #[test]
    #[should_panic(expected = "42 rows are durable and 45 can be read back")]
    fn a_writer_that_keeps_what_it_did_not_promise_is_caught() {
        let sink = Clinging(MemorySink::new(4));
        check_sink(&sink, 4, || stored(&sink.0));
    }

    #[test]
    #[should_panic(expected = "3 rows are durable and 0 can be read back")]
    fn a_sink_that_promises_what_it_has_not_stored_is_caught() {
        let sink = Boastful(MemorySink::new(3));
        check_sink(&sink, 4, || stored(&sink.0));
    }
}
