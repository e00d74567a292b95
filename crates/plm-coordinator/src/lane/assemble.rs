//! Makes one row per record, in each column, of the columns of packed batches.
//!
//! Here the windows of a long record become one row, as the output's kind says.

use std::iter::Peekable;
use std::sync::Arc;

use plm_core::{
    Column, EmbeddedBatch, EmbeddedRow, EncodedBatch, Note, OutputSpec, PackedBatch,
    PackedSequence, RowId, Window,
};

use crate::{FailedRow, RowFailure};

/// A packed batch and its columns.
pub(super) type Encoded = (Arc<PackedBatch>, EncodedBatch);

/// One output of the encoder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output<'a> {
    pub(super) spec: &'a OutputSpec,
    /// The largest magnitude that the store takes.
    pub(super) largest_value: f32,
}

/// Gives each record its row in every column: the encoder's own, or what the output's kind makes of
/// its windows' rows.
///
/// If any value of a record is not finite, or larger than the store takes, the record is left out
/// of all columns and returned as failed.
///
/// `encoded` are the packed batches of one planned batch, in order. The sequences of a record
/// follow each other, in the order of `rows`.
pub(super) fn assemble(
    mut encoded: Vec<Encoded>,
    rows: Vec<EmbeddedRow>,
    outputs: &[Output<'_>],
) -> (EmbeddedBatch, Vec<FailedRow>) {
    // Nearly every batch needs no change. Its columns are moved, not copied.
    if let [(packed, batch)] = &*encoded
        && packed.num_sequences() == rows.len()
        && batch.notes().len() == 0
        && (batch.columns().iter().zip(outputs))
            .all(|(column, output)| column.is_within(output.largest_value))
        && let Some((_, batch)) = encoded.pop()
    {
        let columns = batch.into_columns();
        return (EmbeddedBatch { rows, columns }, Vec::new());
    }

    let mut sequences = encoded
        .iter()
        .flat_map(|(packed, batch)| {
            let sequences = packed.sequences().iter().enumerate();
            sequences.map(move |(position, sequence)| Sequence {
                sequence,
                batch,
                position,
            })
        })
        .peekable();
    let mut failed = Vec::new();
    let mut embedded = Vec::with_capacity(rows.len());
    let mut columns: Vec<Column> = outputs
        .iter()
        .map(|Output { spec, .. }| Column::empty(spec.width, spec.dtype, rows.len()))
        .collect();
    for mut row in rows {
        let added = add(row.row, &mut sequences, outputs, &mut columns).and_then(|in_f32| {
            check_last(&columns, outputs)?;
            Ok(in_f32)
        });
        match added {
            Ok(in_f32) => {
                row.in_f32 = in_f32;
                embedded.push(row);
            }
            Err((reason, kind)) => {
                let kept = embedded.len();
                columns.iter_mut().for_each(|column| column.truncate(kept));
                failed.push(FailedRow {
                    row: row.row,
                    reason,
                    id: row.id,
                    kind,
                });
            }
        }
    }
    let rows = embedded;
    (EmbeddedBatch { rows, columns }, failed)
}

/// Why a record has no row.
type Refusal = (String, RowFailure);

/// Checks that the last row of each column can be stored.
fn check_last(columns: &[Column], outputs: &[Output<'_>]) -> Result<(), Refusal> {
    for (column, output) in columns.iter().zip(outputs) {
        let last = column.num_sequences() - 1;
        let Some(dimension) = column.first_beyond(last, output.largest_value) else {
            continue;
        };
        let vector = match columns {
            [_] => "vector".to_owned(),
            _ => output.spec.name(),
        };
        let value = column.sequence(last)[dimension];
        let gave = format!("the model gave {value} in dimension {dimension} of its {vector}");
        let largest = output.largest_value;
        let reason = if value.is_finite() {
            format!("{gave}, beyond the {largest} that the stored number format holds: use f32")
        } else {
            gave
        };
        // A row may have both faults. That it is not finite is the worse one.
        let kind = match column.first_beyond(last, f32::MAX) {
            None => RowFailure::TooLarge,
            Some(_) => RowFailure::NotFinite,
        };
        return Err((reason, kind));
    }
    Ok(())
}

/// One sequence of a packed batch, and its position in the encoded batch.
struct Sequence<'a> {
    sequence: &'a PackedSequence,
    batch: &'a EncodedBatch,
    position: usize,
}

/// Appends a record's row to each column. Returns whether any of it was computed in f32.
///
/// The row of a single sequence stays as it is, bit for bit. The output's kind makes one row of
/// several windows ([`OutputKind::of_windows`](plm_core::OutputKind::of_windows)). An error says
/// why the record has no row.
fn add<'a>(
    row: RowId,
    sequences: &mut Peekable<impl Iterator<Item = Sequence<'a>>>,
    outputs: &[Output<'_>],
    columns: &mut [Column],
) -> Result<bool, Refusal> {
    let own: Vec<Sequence<'_>> =
        std::iter::from_fn(|| sequences.next_if(|next| next.sequence.row == row)).collect();
    let notes = || {
        let notes = own.iter().map(|one| one.batch.note_of(one.position));
        notes.flatten()
    };
    for note in notes() {
        if let Note::Failed(reason) = note {
            return Err((reason.clone(), RowFailure::GivenUp));
        }
    }
    for (position, (column, output)) in columns.iter_mut().zip(outputs).enumerate() {
        let of = |one: &Sequence<'a>| &one.batch.columns()[position];
        if let [one] = &*own {
            column.append(of(one), one.position..one.position + 1);
            continue;
        }
        let window = |one: &Sequence<'a>| Window {
            start: one.sequence.start,
            residue_count: one.sequence.residue_count,
            values: of(one).sequence(one.position),
        };
        let windows: Vec<_> = own.iter().map(window).collect();
        column.push(output.spec.kind.of_windows(&windows).into_iter());
    }
    Ok(notes().any(|note| *note == Note::InF32))
}

#[cfg(test)]
mod tests {
    use plm_core::{Dtype, Outcome, OutputKind, Packer, Values, f16};
    use plm_testkit::fake_tokens;

    use super::*;

    fn encoded(sequences: &[(u64, usize)], values: &[f32]) -> Encoded {
        let tokens = fake_tokens();
        let mut packer = Packer::new(&tokens, 1_000);
        for &(row, residues) in sequences {
            packer.push(RowId(row), &vec![b'A'; residues]).unwrap();
        }
        let column = Column::new(2, values.to_vec()).unwrap();
        (Arc::new(packer.finish()), EncodedBatch::new(vec![column]))
    }

    fn assemble_one(
        encoded: Vec<Encoded>,
        rows: Vec<EmbeddedRow>,
        largest_value: f32,
    ) -> (EmbeddedBatch, Vec<FailedRow>) {
        let spec = &OutputSpec::new(OutputKind::Mean, 0, 2);
        let output = Output {
            spec,
            largest_value,
        };
        assemble(encoded, rows, &[output])
    }

    fn numbers(batch: &EmbeddedBatch) -> &[f32] {
        batch.columns[0].as_f32().unwrap()
    }

    fn row(row: u64) -> EmbeddedRow {
        EmbeddedRow {
            row: RowId(row),
            id: format!("seq{row}"),
            residue_count: 1,
            outcome: Outcome::Embedded,
            in_f32: false,
        }
    }

    #[test]
    fn windows_are_weighted_by_their_residues_across_packed_batches() {
        let packed = vec![
            encoded(&[(4, 3), (4, 3)], &[1.0, 2.0, 5.0, 0.5]),
            encoded(&[(4, 2)], &[-2.0, 8.0]),
        ];
        let (batch, failed) = assemble_one(packed, vec![row(4)], f32::MAX);
        // (3 * 1 + 3 * 5 - 2 * 2) / 8 and (3 * 2 + 3 * 0.5 + 2 * 8) / 8.
        assert_eq!(numbers(&batch), [1.75, 2.9375]);
        assert!(failed.is_empty());
    }

    #[test]
    fn a_record_in_one_piece_keeps_its_bits_beside_a_windowed_one() {
        let odd = [-0.0, f32::MIN_POSITIVE / 2.0];
        let packed = vec![encoded(
            &[(1, 3), (1, 3), (2, 7)],
            &[1.0, 1.0, 2.0, 2.0, odd[0], odd[1]],
        )];
        let (batch, _) = assemble_one(packed, vec![row(1), row(2)], f32::MAX);
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&numbers(&batch)[2..]), bits(&odd));
    }

    #[test]
    fn a_row_that_is_not_finite_is_left_out_alone() {
        for bad in [f32::NAN, f32::INFINITY] {
            let packed = vec![encoded(
                &[(1, 1), (2, 1), (3, 1)],
                &[1.0, 1.5, 2.0, bad, 3.0, 3.5],
            )];
            let (batch, failed) = assemble_one(packed, vec![row(1), row(2), row(3)], f32::MAX);
            assert_eq!(batch.rows, [row(1), row(3)]);
            assert_eq!(numbers(&batch), [1.0, 1.5, 3.0, 3.5]);
            assert_eq!((failed[0].row, &*failed[0].id), (RowId(2), "seq2"));
            assert!(
                failed[0].reason.contains("dimension 1"),
                "{}",
                failed[0].reason
            );
        }
    }

    #[test]
    fn what_an_encoder_notes_of_a_sequence_is_its_rows_alone() {
        let (packed, mut pooled) = encoded(
            &[(1, 1), (2, 1), (3, 1), (3, 1)],
            &[1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 5.0, 5.5],
        );
        pooled.note(1, Note::Failed("no room".to_owned()));
        pooled.note(3, Note::InF32);
        let rows = vec![row(1), row(2), row(3)];
        let (batch, failed) = assemble_one(vec![(packed, pooled)], rows, f32::MAX);
        let in_f32: Vec<_> = batch
            .rows
            .iter()
            .map(|row| (row.row.0, row.in_f32))
            .collect();
        assert_eq!(in_f32, [(1, false), (3, true)]);
        assert_eq!(numbers(&batch), [1.0, 1.5, 4.0, 4.5]);
        assert_eq!(
            (failed.len(), failed[0].row, &*failed[0].reason),
            (1, RowId(2), "no room")
        );
    }

    #[test]
    fn a_row_that_cannot_be_stored_is_left_out_alone_and_told_why() {
        for (value, is_kept) in [(8.0, true), (-8.0, true), (8.5, false), (-8.5, false)] {
            let packed = vec![encoded(&[(1, 1), (2, 1)], &[1.0, 1.5, value, 2.0])];
            let (batch, failed) = assemble_one(packed, vec![row(1), row(2)], 8.0);
            assert_eq!(batch.rows.len(), if is_kept { 2 } else { 1 });
            let reason = failed.first().map(|failed| &*failed.reason);
            assert_eq!(reason.is_none(), is_kept);
            assert!(
                reason.is_none_or(|reason| reason.contains("8.5 in dimension 0")
                    && reason.contains("beyond the 8 ")),
                "{reason:?}"
            );
        }
    }

    #[test]
    fn a_record_that_fails_in_one_column_is_left_out_of_all() {
        let specs = [
            OutputSpec::new(OutputKind::Mean, 3, 1),
            OutputSpec {
                dtype: Dtype::F16,
                ..OutputSpec::new(OutputKind::Bos, 3, 1)
            },
        ];
        let outputs = specs.each_ref().map(|spec| Output {
            spec,
            largest_value: 100.0,
        });
        let (packed, _) = encoded(&[(1, 1), (2, 1), (3, 1), (3, 3)], &[0.0; 8]);
        let halves = [1.0, 101.0, 2.0, 4.0].map(f16::from_f32).to_vec();
        let batch = EncodedBatch::new(vec![
            Column::new(1, vec![1.0_f32, 2.0, 3.0, 5.0]).unwrap(),
            Column::new(1, halves).unwrap(),
        ]);
        let rows = vec![row(1), row(2), row(3)];
        let (batch, failed) = assemble(vec![(packed, batch)], rows, &outputs);
        assert_eq!(batch.rows, [row(1), row(3)]);
        // Windows of one and three residues: (1 * 3 + 3 * 5) / 4 and (1 * 2 + 3 * 4) / 4.
        assert_eq!(numbers(&batch), [1.0, 4.5]);
        let expected = [1.0, 3.5].map(f16::from_f32).to_vec();
        assert_eq!(batch.columns[1].values(), &Values::F16(expected));
        assert_eq!((failed.len(), failed[0].row), (1, RowId(2)));
        assert!(
            failed[0]
                .reason
                .contains("101 in dimension 0 of its bos/layer_3")
        );
    }
}
