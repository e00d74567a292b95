//! From the encoder's vectors to one vector per record.

use std::iter::Peekable;

use plm_core::{EmbeddedBatch, EmbeddedRow, Note, PackedBatch, PooledBatch, RowId, Segment};

use crate::{FailedRow, RowFailure};

/// Gives each row its vector: the encoder's own, or the mean of its windows'. A row whose vector
/// is not finite, or holds a number of a magnitude above `largest_value`, is left out, and comes
/// back as failed.
///
/// `parts` are the packed batches of one planned batch, in order; the segments of a row follow each
/// other, in the order of `rows`.
pub(super) fn assemble(
    mut parts: Vec<(PackedBatch, PooledBatch)>,
    rows: Vec<EmbeddedRow>,
    hidden_size: usize,
    largest_value: f32,
) -> (EmbeddedBatch, Vec<FailedRow>) {
    // Also false for NaN.
    let is_storable = |value: &f32| value.abs() <= largest_value;
    // Nearly every batch is whole as it came: its vectors are moved, not copied.
    if let [(packed, pooled)] = &*parts
        && packed.num_sequences() == rows.len()
        && pooled.notes().len() == 0
        && pooled.values().iter().all(is_storable)
        && let Some((_, vectors)) = parts.pop()
    {
        return (EmbeddedBatch { rows, vectors }, Vec::new());
    }

    let mut pieces = parts
        .iter()
        .flat_map(|(packed, pooled)| {
            let segments = packed.segments().iter().zip(pooled.vectors()).enumerate();
            segments.map(|(sequence, (segment, vector))| Piece {
                segment,
                vector,
                note: pooled.note_of(sequence),
            })
        })
        .peekable();
    let mut values = Vec::with_capacity(rows.len() * hidden_size);
    let mut failed = Vec::new();
    let mut embedded = Vec::with_capacity(rows.len());
    for mut row in rows {
        let (vector, in_f32) = match combine(row.row, &mut pieces) {
            Ok(combined) => combined,
            Err(reason) => {
                failed.push(FailedRow {
                    row: row.row,
                    reason,
                    id: row.id,
                    kind: RowFailure::GivenUp,
                });
                continue;
            }
        };
        match vector.iter().position(|value| !is_storable(value)) {
            None => {
                values.extend(vector);
                row.in_f32 = in_f32;
                embedded.push(row);
            }
            Some(dimension) => failed.push(FailedRow {
                row: row.row,
                reason: reason(vector[dimension], dimension, largest_value),
                id: row.id,
                // Of a vector with both, that it is not finite is worse.
                kind: if vector.iter().all(|value| value.is_finite()) {
                    RowFailure::TooLarge
                } else {
                    RowFailure::NotFinite
                },
            }),
        }
    }
    let vectors = PooledBatch::new(embedded.len(), hidden_size, values)
        .expect("every vector kept has hidden_size values: the encoder's shape was checked");
    let rows = embedded;
    (EmbeddedBatch { rows, vectors }, failed)
}

fn reason(value: f32, dimension: usize, largest_value: f32) -> String {
    let gave = format!("the model gave {value} in dimension {dimension} of its vector");
    if value.is_finite() {
        format!("{gave}, beyond the {largest_value} that the stored number format holds: use f32")
    } else {
        gave
    }
}

/// One sequence of a batch, with its vector.
struct Piece<'a> {
    segment: &'a Segment,
    vector: &'a [f32],
    note: Option<&'a Note>,
}

/// The vector of a row from its pieces, and whether any took f32: a single piece's as it is, bit for bit; of several the mean,
/// weighted by residue counts, added in order in f64 and rounded once. Without a vector if a piece has none, with the reason.
fn combine<'a>(
    row: RowId,
    pieces: &mut Peekable<impl Iterator<Item = Piece<'a>>>,
) -> Result<(Vec<f32>, bool), String> {
    let own: Vec<Piece<'_>> =
        std::iter::from_fn(|| pieces.next_if(|piece| piece.segment.row == row)).collect();
    let failure = own.iter().find_map(|piece| match piece.note {
        Some(Note::Failed(reason)) => Some(reason.clone()),
        _ => None,
    });
    if let Some(reason) = failure {
        return Err(reason);
    }
    let in_f32 = own.iter().any(|piece| piece.note == Some(&Note::InF32));
    if let [piece] = &*own {
        return Ok((piece.vector.to_vec(), in_f32));
    }
    let first = own.first().expect("every row of a batch was packed");
    let mut sum = vec![0.0_f64; first.vector.len()];
    let mut total_residues = 0.0;
    for piece in &own {
        let residues = f64::from(piece.segment.residue_count);
        total_residues += residues;
        for (sum, &value) in sum.iter_mut().zip(piece.vector) {
            *sum += residues * f64::from(value);
        }
    }
    let mean = sum.into_iter().map(|sum| (sum / total_residues) as f32);
    Ok((mean.collect(), in_f32))
}

#[cfg(test)]
mod tests {
    use plm_core::{Outcome, Packer};
    use plm_testkit::fake_tokens;

    use super::*;

    fn part(sequences: &[(u64, usize)], values: &[f32]) -> (PackedBatch, PooledBatch) {
        let tokens = fake_tokens();
        let mut packer = Packer::new(&tokens, 1_000);
        for &(row, residues) in sequences {
            packer.push(RowId(row), &vec![b'A'; residues]).unwrap();
        }
        let vectors = PooledBatch::new(sequences.len(), 2, values.to_vec()).unwrap();
        (packer.finish(), vectors)
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
        let parts = vec![
            part(&[(4, 3), (4, 3)], &[1.0, 2.0, 5.0, 0.5]),
            part(&[(4, 2)], &[-2.0, 8.0]),
        ];
        let (batch, failed) = assemble(parts, vec![row(4)], 2, f32::MAX);
        // (3 * 1 + 3 * 5 - 2 * 2) / 8 and (3 * 2 + 3 * 0.5 + 2 * 8) / 8.
        assert_eq!(batch.vectors.values(), [1.75, 2.9375]);
        assert!(failed.is_empty());
    }

    #[test]
    fn a_record_in_one_piece_keeps_its_bits_beside_a_windowed_one() {
        let odd = [-0.0, f32::MIN_POSITIVE / 2.0];
        let parts = vec![part(
            &[(1, 3), (1, 3), (2, 7)],
            &[1.0, 1.0, 2.0, 2.0, odd[0], odd[1]],
        )];
        let (batch, _) = assemble(parts, vec![row(1), row(2)], 2, f32::MAX);
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&batch.vectors.values()[2..]), bits(&odd));
    }

    #[test]
    fn a_row_that_is_not_finite_is_left_out_alone() {
        for bad in [f32::NAN, f32::INFINITY] {
            let parts = vec![part(
                &[(1, 1), (2, 1), (3, 1)],
                &[1.0, 1.5, 2.0, bad, 3.0, 3.5],
            )];
            let (batch, failed) = assemble(parts, vec![row(1), row(2), row(3)], 2, f32::MAX);
            assert_eq!(batch.rows, [row(1), row(3)]);
            assert_eq!(batch.vectors.values(), [1.0, 1.5, 3.0, 3.5]);
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
        let (packed, mut pooled) = part(
            &[(1, 1), (2, 1), (3, 1), (3, 1)],
            &[1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 5.0, 5.5],
        );
        pooled.note(1, Note::Failed("no room".to_owned()));
        pooled.note(3, Note::InF32);
        let rows = vec![row(1), row(2), row(3)];
        let (batch, failed) = assemble(vec![(packed, pooled)], rows, 2, f32::MAX);
        let in_f32: Vec<_> = batch
            .rows
            .iter()
            .map(|row| (row.row.0, row.in_f32))
            .collect();
        assert_eq!(in_f32, [(1, false), (3, true)]);
        assert_eq!(batch.vectors.values(), [1.0, 1.5, 4.0, 4.5]);
        assert_eq!(
            (failed.len(), failed[0].row, &*failed[0].reason),
            (1, RowId(2), "no room")
        );
    }

    #[test]
    fn a_row_that_cannot_be_stored_is_left_out_alone_and_told_why() {
        for (value, is_kept) in [(8.0, true), (-8.0, true), (8.5, false), (-8.5, false)] {
            let parts = vec![part(&[(1, 1), (2, 1)], &[1.0, 1.5, value, 2.0])];
            let (batch, failed) = assemble(parts, vec![row(1), row(2)], 2, 8.0);
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
}
