//! Makes one sequence per record, in each column, of the columns of packed batches.
//!
//! Here the windows of a long record become one, as the output's kind says. Columns are large if
//! they have a row per residue, so what does not change is not copied: columns of a batch without
//! windows are moved, and records that fail are taken out of them in place.

use std::collections::{BTreeMap, HashMap};
use std::iter::Peekable;
use std::sync::Arc;

use plm_core::{
    Column, Dtype, EmbeddedBatch, EmbeddedRow, EncodedBatch, Note, OutputSpec, PackedBatch,
    PackedSequence, Per, RowId, Window, kept_rows,
};

use super::ReadRow;
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

/// The records of a planned batch.
pub(super) struct Assembled {
    /// The records that have values.
    pub(super) embedded: EmbeddedBatch,
    /// The number of these that have the values of an identical record.
    pub(super) identical: u64,
    pub(super) failed: Vec<FailedRow>,
}

/// Gives each record its values in every column: the encoder's own, what the output's kind makes of
/// its windows', or those of an identical record.
///
/// If any value of a record is not finite, or larger than the store takes, the record is left out
/// of all columns and returned as failed.
///
/// `encoded` are the packed batches of one planned batch, in order. The sequences of a record
/// follow each other, in the order of `rows`. A record with the values of another comes after it.
pub(super) fn assemble(
    mut encoded: Vec<Encoded>,
    rows: Vec<ReadRow>,
    outputs: &[Output<'_>],
) -> Assembled {
    let is_computed = |row: &ReadRow| row.computed == row.row.row;
    match &*encoded {
        // Nearly every batch: each record is a sequence.
        [(packed, _)] if packed.num_sequences() == rows.len() && rows.iter().all(is_computed) => {
            let (_, batch) = encoded.remove(0);
            let rows = rows.into_iter().map(|row| row.row).collect();
            whole(batch, rows, outputs)
        }
        _ => joined(&encoded, rows, outputs),
    }
}

/// The records of a batch without windows and without identical records.
fn whole(batch: EncodedBatch, mut rows: Vec<EmbeddedRow>, outputs: &[Output<'_>]) -> Assembled {
    let mut refusals = BTreeMap::new();
    for (sequence, note) in batch.notes() {
        match note {
            Note::InF32 => rows[sequence].in_f32 = true,
            Note::Failed(reason) => {
                refusals.insert(sequence, (reason.clone(), RowFailure::GivenUp));
            }
        }
    }
    let mut columns = batch.into_columns();
    for (column, output) in columns.iter().zip(outputs) {
        if column.is_within(output.largest_value) {
            continue;
        }
        for sequence in 0..rows.len() {
            if !refusals.contains_key(&sequence)
                && let Err(refusal) = check(column, sequence, output, outputs)
            {
                refusals.insert(sequence, refusal);
            }
        }
    }
    if refusals.is_empty() {
        return Assembled {
            embedded: EmbeddedBatch { rows, columns },
            identical: 0,
            failed: Vec::new(),
        };
    }
    for column in &mut columns {
        column.retain(|sequence| !refusals.contains_key(&sequence));
    }
    let mut failed = Vec::with_capacity(refusals.len());
    let mut embedded = Vec::with_capacity(rows.len() - refusals.len());
    for (sequence, row) in rows.into_iter().enumerate() {
        match refusals.remove(&sequence) {
            None => embedded.push(row),
            Some(refusal) => failed.push(failed_row(row, refusal)),
        }
    }
    let rows = embedded;
    Assembled {
        embedded: EmbeddedBatch { rows, columns },
        identical: 0,
        failed,
    }
}

/// The records of packed batches in which some records are several windows, or have the values of
/// another.
fn joined(encoded: &[Encoded], rows: Vec<ReadRow>, outputs: &[Output<'_>]) -> Assembled {
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
    let mut columns = empty_columns(encoded, &rows, outputs);
    let mut failed = Vec::new();
    let mut embedded = Vec::with_capacity(rows.len());
    let mut identical = 0;
    let mut computed_rows: Vec<(RowId, Computed)> = Vec::new();
    for ReadRow { mut row, computed } in rows {
        let place = embedded.len();
        let added = if computed == row.row {
            let added = add(row.row, &mut sequences, outputs, &mut columns).and_then(|in_f32| {
                for (column, output) in columns.iter().zip(outputs) {
                    check(column, place, output, outputs)?;
                }
                Ok((place, in_f32))
            });
            computed_rows.push((computed, added.clone()));
            added
        } else {
            // It is among the last few.
            let mut earlier = computed_rows.iter().rev();
            let added = earlier.find(|(row, _)| *row == computed);
            let (_, added) = added.expect("a record comes after the one with its values");
            if let &Ok((from, _)) = added {
                identical += 1;
                columns.iter_mut().for_each(|column| column.repeat(from));
            }
            added.clone()
        };
        match added {
            Ok((_, in_f32)) => {
                row.in_f32 = in_f32;
                embedded.push(row);
            }
            Err(refusal) => {
                columns.iter_mut().for_each(|column| column.truncate(place));
                failed.push(failed_row(row, refusal));
            }
        }
    }
    let rows = embedded;
    Assembled {
        embedded: EmbeddedBatch { rows, columns },
        identical,
        failed,
    }
}

/// Columns without sequences, with room for all of these rows.
fn empty_columns(encoded: &[Encoded], rows: &[ReadRow], outputs: &[Output<'_>]) -> Vec<Column> {
    let mut times = HashMap::<RowId, u64>::new();
    for row in rows {
        *times.entry(row.computed).or_default() += 1;
    }
    let columns = outputs.iter().enumerate().map(|(position, output)| {
        let of_sequences = || {
            // Windows have at least the rows of their records.
            encoded.iter().flat_map(|(packed, batch)| {
                let sequences = packed.sequences().iter();
                let ends = batch.columns()[position].offsets().windows(2);
                sequences.zip(ends).map(|(sequence, ends)| {
                    times.get(&sequence.row).unwrap_or(&0) * (ends[1] - ends[0])
                })
            })
        };
        let capacity = match output.spec.per() {
            Per::Sequence => rows.len() as u64,
            Per::Residue | Per::Pair => of_sequences().sum(),
        };
        Column::empty(output.spec.width, output.spec.dtype, capacity as usize)
    });
    columns.collect()
}

/// What became of a record that was computed: its place in the columns and whether it was in f32,
/// or why it has no values.
type Computed = Result<(usize, bool), Refusal>;

/// Why a record has no values.
type Refusal = (String, RowFailure);

fn failed_row(row: EmbeddedRow, (reason, kind): Refusal) -> FailedRow {
    FailedRow {
        row: row.row,
        reason,
        id: row.id,
        kind,
    }
}

/// Checks that a record's values in a column can be stored. `outputs` are all of the encoder's.
fn check(
    column: &Column,
    sequence: usize,
    output: &Output<'_>,
    outputs: &[Output<'_>],
) -> Result<(), Refusal> {
    let largest = output.largest_value;
    let Some(position) = column.first_beyond(sequence, largest) else {
        return Ok(());
    };
    let value = column.value(sequence, position);
    let place = place(column, sequence, position, output.spec);
    let name = match outputs {
        [_] if output.spec.per() == Per::Sequence => "vector".to_owned(),
        _ => output.spec.name(),
    };
    let gave = format!("the model gave {value} {place} of its {name}");
    let may_be_beyond_f16 = value.is_infinite() && column.dtype() == Dtype::F16;
    let is_wide = output.spec.per() != Per::Sequence;
    let reason = if value.is_finite() {
        format!("{gave}, beyond the {largest} that the stored number format holds: use f32")
    } else if may_be_beyond_f16 {
        let way = match is_wide {
            false => "use f32",
            true => "keep outputs per residue in f32",
        };
        format!("{gave}, which may be a value beyond 65504, the largest of f16: {way}")
    } else {
        gave
    };
    // A record may have both faults. That it is not finite is the worse one.
    let kind = match column.first_beyond(sequence, f32::MAX) {
        None => RowFailure::TooLarge,
        Some(_) if may_be_beyond_f16 && is_wide => RowFailure::MaybeBeyondF16,
        Some(_) => RowFailure::NotFinite,
    };
    Err((reason, kind))
}

/// Where a value of a record is, in words. Residues count from 1, as in biology.
fn place(column: &Column, sequence: usize, position: usize, spec: &OutputSpec) -> String {
    let (row, dimension) = (position / column.width(), position % column.width());
    match spec.per() {
        Per::Sequence => format!("in dimension {dimension}"),
        Per::Residue => format!("in dimension {dimension} of residue {}", row + 1),
        Per::Pair => {
            let ends = &column.offsets()[sequence..];
            let residues = (ends[1] - ends[0]).isqrt().max(1) as usize;
            format!(
                "for residues {} and {}",
                row / residues + 1,
                row % residues + 1
            )
        }
    }
}

/// One sequence of a packed batch, and its position in the encoded batch.
struct Sequence<'a> {
    sequence: &'a PackedSequence,
    batch: &'a EncodedBatch,
    position: usize,
}

/// Appends a record's values to each column. Returns whether any of them was computed in f32.
///
/// The values of a single sequence stay as they are, bit for bit, and so do rows per residue, each
/// of which is from one window ([`kept_rows`]). The output's kind makes one row of several
/// ([`OutputKind::of_windows`](plm_core::OutputKind::of_windows)). An error says why the record has
/// no values.
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
        if output.spec.per() == Per::Residue {
            let residues = |one: &Sequence<'a>| {
                let start = one.sequence.start;
                start..start + one.sequence.residue_count
            };
            let kept = kept_rows(&Vec::from_iter(own.iter().map(residues)));
            let pieces = own.iter().zip(kept);
            column.push_rows(pieces.map(|(one, rows)| {
                (
                    of(one),
                    one.position,
                    rows.start as usize..rows.end as usize,
                )
            }));
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
        assemble_all(encoded, rows, &[output])
    }

    /// Assembles records that are all computed by themselves.
    fn assemble_all(
        encoded: Vec<Encoded>,
        rows: Vec<EmbeddedRow>,
        outputs: &[Output<'_>],
    ) -> (EmbeddedBatch, Vec<FailedRow>) {
        let rows = rows.into_iter().map(|row| ReadRow {
            computed: row.row,
            row,
        });
        let assembled = assemble(encoded, rows.collect(), outputs);
        assert_eq!(assembled.identical, 0);
        (assembled.embedded, assembled.failed)
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
    fn identical_records_have_the_values_notes_and_failures_of_the_first() {
        // Record 1 is in two windows, 4 is computed in f32, and 6 fails.
        let (packed, mut pooled) = encoded(
            &[(1, 3), (1, 1), (4, 1), (6, 1), (9, 1)],
            &[1.0, 2.0, 5.0, 2.0, 4.0, 4.5, 6.0, f32::NAN, 9.0, 9.5],
        );
        pooled.note(2, Note::InF32);
        let spec = &OutputSpec::new(OutputKind::Mean, 0, 2);
        let output = Output {
            spec,
            largest_value: f32::MAX,
        };
        let rows = [(1, 1), (2, 1), (4, 4), (5, 4), (6, 6), (7, 6), (9, 9)];
        let rows = rows.map(|(at, computed)| ReadRow {
            row: row(at),
            computed: RowId(computed),
        });
        let assembled = assemble(vec![(packed, pooled)], rows.into(), &[output]);
        let embedded = assembled.embedded;
        let found: Vec<_> = embedded
            .rows
            .iter()
            .map(|row| (row.row.0, row.in_f32))
            .collect();
        let expected = [(1, false), (2, false), (4, true), (5, true), (9, false)];
        assert_eq!(found, expected);
        assert_eq!(
            numbers(&embedded),
            [2.0, 2.0, 2.0, 2.0, 4.0, 4.5, 4.0, 4.5, 9.0, 9.5]
        );
        assert_eq!(assembled.identical, 2);
        let failed: Vec<_> = assembled
            .failed
            .iter()
            .map(|row| (row.row.0, &*row.id))
            .collect();
        assert_eq!(failed, [(6, "seq6"), (7, "seq7")]);
        assert_eq!(assembled.failed[0].reason, assembled.failed[1].reason);
    }

    /// An output of this kind, whose values are f16.
    fn in_f16(kind: OutputKind, width: usize) -> OutputSpec {
        OutputSpec {
            dtype: Dtype::F16,
            ..OutputSpec::new(kind, 3, width)
        }
    }

    #[test]
    fn rows_of_residues_in_windows_keep_their_bits_in_f16() {
        let tokens = fake_tokens();
        let mut packer = Packer::new(&tokens, 1_000);
        packer.push(RowId(1), b"AA").unwrap();
        // Residues 0 to 3, and then 2 to 4 of another record.
        packer.push_window(RowId(2), 0, b"AAAA").unwrap();
        packer.push_window(RowId(2), 2, b"AAA").unwrap();
        let packed = Arc::new(packer.finish());
        // No two have the same bits.
        let halves: Vec<f16> = (0..9).map(|at| f16::from_bits(at * 3 + 1)).collect();
        let column = Column::with_offsets(1, vec![0, 2, 6, 9], halves.clone()).unwrap();
        let spec = in_f16(OutputKind::Residues, 1);
        let output = Output {
            spec: &spec,
            largest_value: f32::MAX,
        };
        let encoded = vec![(packed, EncodedBatch::new(vec![column]))];
        let (batch, failed) = assemble_all(encoded, vec![row(1), row(2)], &[output]);
        assert!(failed.is_empty());
        assert_eq!(batch.columns[0].offsets(), [0, 2, 7]);
        let expected = [0, 1, 2, 3, 4, 7, 8].map(|at: usize| halves[at]).to_vec();
        assert_eq!(batch.columns[0].values(), &Values::F16(expected));
    }

    #[test]
    fn columns_without_windows_are_moved_and_failed_records_taken_out_in_place() {
        let (packed, mut pooled) = encoded(
            &[(1, 1), (2, 1), (3, 1)],
            &[1.0, 1.5, 2.0, f32::NAN, 3.0, 3.5],
        );
        pooled.note(2, Note::InF32);
        let at = pooled.columns()[0].as_f32().unwrap().as_ptr();
        let rows = vec![row(1), row(2), row(3)];
        let (batch, failed) = assemble_one(vec![(packed, pooled)], rows, f32::MAX);
        assert_eq!(numbers(&batch), [1.0, 1.5, 3.0, 3.5]);
        assert_eq!(
            numbers(&batch).as_ptr(),
            at,
            "nothing was copied to other memory"
        );
        assert!(batch.rows[1].in_f32 && !batch.rows[0].in_f32);
        assert_eq!(failed.len(), 1);
    }

    #[test]
    fn a_value_that_cannot_be_stored_is_told_with_its_residue_or_pair() {
        let specs = [
            in_f16(OutputKind::Residues, 2),
            OutputSpec::new(OutputKind::Contacts, 3, 1),
        ];
        let outputs = specs.each_ref().map(|spec| Output {
            spec,
            largest_value: f32::MAX,
        });
        let reason_of = |residue: f32, contact: f32| {
            let (packed, _) = encoded(&[(1, 1), (2, 3)], &[0.0; 4]);
            let mut residues = [0.5; 8];
            residues[5] = residue;
            let mut contacts = [0.25; 10];
            contacts[1 + 5] = contact;
            let residues = residues.map(f16::from_f32).to_vec();
            let columns = vec![
                Column::with_offsets(2, vec![0, 1, 4], residues).unwrap(),
                Column::with_offsets(1, vec![0, 1, 10], contacts.to_vec()).unwrap(),
            ];
            let encoded = vec![(packed, EncodedBatch::new(columns))];
            let (batch, failed) = assemble_all(encoded, vec![row(1), row(2)], &outputs);
            assert_eq!(batch.rows, [row(1)]);
            assert_eq!(batch.columns[1].offsets(), [0, 1]);
            failed[0].reason.clone()
        };
        assert_eq!(
            reason_of(f32::INFINITY, 0.5),
            "the model gave inf in dimension 1 of residue 2 of its residues/layer_3, which may be a \
             value beyond 65504, the largest of f16: keep outputs per residue in f32"
        );
        assert_eq!(
            reason_of(f32::NAN, 0.5),
            "the model gave NaN in dimension 1 of residue 2 of its residues/layer_3"
        );
        assert_eq!(
            reason_of(0.5, f32::NAN),
            "the model gave NaN for residues 2 and 3 of its contacts/values"
        );
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
        let (batch, failed) = assemble_all(vec![(packed, batch)], rows, &outputs);
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
