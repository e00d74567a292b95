//! The check of sinks.

use plm_core::{
    Column, EmbeddedBatch, EmbeddedRow, EmbeddingSink, Outcome, OutputSpec, Rank, RowId,
    ShardWriter, Written,
};

use crate::SplitMix64;

/// A row and its values in each column, in f32, as read back from a sink.
type Stored = (EmbeddedRow, Vec<Vec<f32>>);

/// Checks that an empty sink stores what writers call durable, and nothing else.
///
/// A writer calls rows durable by [`Written::Durable`] or by a flush. They must come back bit for
/// bit, from several ranks. A writer that is dropped with rows in its buffer must forget them.
/// `read_back` returns everything that is stored, in any order.
///
/// # Panics
/// If the contract is broken: the message names the row.
pub fn check_sink(
    sink: &dyn EmbeddingSink,
    outputs: &[OutputSpec],
    mut read_back: impl FnMut() -> Vec<Stored>,
) {
    let mut written = Vec::new();
    let mut durable = 0;
    for rank in [Rank(0), Rank(1)] {
        let mut shard = open(sink, rank);
        for _ in 0..7 {
            let batch = next_batch(&mut written, outputs);
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
    if write(&mut *shard, next_batch(&mut written, outputs)) == Written::Durable {
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

/// Three new rows, with names that can't be file names.
fn next_batch(written: &mut Vec<Stored>, outputs: &[OutputSpec]) -> EmbeddedBatch {
    let first = written.len();
    for row in first as u64..first as u64 + 3 {
        let mut random = SplitMix64::new(row);
        let rows: Vec<Vec<f32>> = outputs
            .iter()
            .map(|output| {
                // Numbers that f16 holds exactly.
                let numbers = (0..output.width).map(|_| (random.next_f64() * 1024.0).floor());
                numbers.map(|number| number as f32).collect()
            })
            .collect();
        written.push((
            EmbeddedRow {
                row: RowId(row),
                id: format!("sp|{row}|../ü"),
                residue_count: row as u32 + 1,
                outcome: Outcome::Embedded,
                in_f32: false,
            },
            rows,
        ));
    }
    let new = &written[first..];
    let columns = outputs.iter().enumerate().map(|(position, output)| {
        let mut column = Column::empty(output.width, output.dtype, new.len());
        for (_, rows) in new {
            column.push(rows[position].iter().copied());
        }
        column
    });
    EmbeddedBatch {
        rows: new.iter().map(|(row, _)| row.clone()).collect(),
        columns: columns.collect(),
    }
}

/// Checks that exactly the first `durable` rows are stored. Not one more: the run computes again
/// what a dropped writer held, so a row that was kept would be stored twice.
fn check_stored(written: &[Stored], durable: usize, mut stored: Vec<Stored>) {
    stored.sort_by_key(|(row, _)| row.row);
    assert_eq!(
        stored.len(),
        durable,
        "{durable} rows are durable and {} can be read back",
        stored.len()
    );
    for ((row, rows), (expected_row, expected_rows)) in stored.iter().zip(written) {
        assert_eq!(row, expected_row, "another row is stored than was written");
        let bits = |rows: &[Vec<f32>]| -> Vec<Vec<u32>> {
            let bits = |row: &Vec<f32>| row.iter().map(|value| value.to_bits()).collect();
            rows.iter().map(bits).collect()
        };
        assert!(
            bits(rows) == bits(expected_rows),
            "{} has other numbers than were written",
            row.row
        );
    }
}

#[cfg(test)]
mod tests {
    use plm_core::{BoxError, Dtype, OutputKind};

    use super::*;
    use crate::MemorySink;

    /// A sink that calls everything durable, though only a flush makes it so.
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
        rows.map(|stored| (stored.row, stored.columns)).collect()
    }

    fn outputs() -> [OutputSpec; 2] {
        let bos = OutputSpec::new(OutputKind::Bos, 1, 3);
        [
            OutputSpec::new(OutputKind::Mean, 1, 4),
            OutputSpec {
                dtype: Dtype::F16,
                ..bos
            },
        ]
    }

    #[test]
    fn a_sink_that_keeps_its_word_passes_at_any_segment_size() {
        for segment_batches in [1, 2, 3, 7, 100] {
            let sink = MemorySink::new(segment_batches);
            check_sink(&sink, &outputs(), || stored(&sink));
        }
    }

    /// A sink whose writers flush when they are dropped.
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
        check_sink(&sink, &outputs(), || stored(&sink.0));
    }

    #[test]
    #[should_panic(expected = "3 rows are durable and 0 can be read back")]
    fn a_sink_that_promises_what_it_has_not_stored_is_caught() {
        let sink = Boastful(MemorySink::new(3));
        check_sink(&sink, &outputs(), || stored(&sink.0));
    }
}
