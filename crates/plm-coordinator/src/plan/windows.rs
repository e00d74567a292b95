//! The overlapping windows of a record.

use std::ops::Range;

/// The windows over `0..covered_residues`: `max_residues` each, with `overlap_residues` shared
/// between neighbours. The last ends with the record and may be shorter, but the one before never
/// covers all of it.
#[derive(Clone, Debug)]
pub(crate) struct Windows {
    /// `None` once a window has reached the end.
    next_start: Option<u32>,
    covered_residues: u32,
    max_residues: u32,
    overlap_residues: u32,
}

impl Windows {
    /// The windows of a record; one if all residues fit into it. The overlap must be below
    /// `max_residues`.
    pub(super) fn new(covered_residues: u32, max_residues: u32, overlap_residues: u32) -> Self {
        Self {
            next_start: (covered_residues > 0).then_some(0),
            covered_residues,
            max_residues,
            overlap_residues,
        }
    }

    /// The number of tokens of all windows together, with `special_tokens` around each.
    pub(super) fn total_tokens(&self, special_tokens: u32) -> u64 {
        let step = self.max_residues - self.overlap_residues;
        let seams = self
            .covered_residues
            .saturating_sub(self.max_residues)
            .div_ceil(step);
        let [covered, seams, overlap, special] = [
            self.covered_residues,
            seams,
            self.overlap_residues,
            special_tokens,
        ]
        .map(u64::from);
        covered + seams * overlap + (seams + 1) * special
    }
}

impl Iterator for Windows {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let start = self.next_start?;
        let end = start
            .saturating_add(self.max_residues)
            .min(self.covered_residues);
        self.next_start = (end < self.covered_residues).then(|| end - self.overlap_residues);
        Some(start as usize..end as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(covered: u32, max: u32, overlap: u32) -> Vec<Range<usize>> {
        Windows::new(covered, max, overlap).collect()
    }

    #[test]
    fn windows_advance_by_what_they_do_not_share() {
        assert_eq!(windows(10, 4, 1), [0..4, 3..7, 6..10]);
        assert_eq!(windows(11, 4, 1), [0..4, 3..7, 6..10, 9..11]);
        assert_eq!(windows(9, 4, 0), [0..4, 4..8, 8..9]);
        assert_eq!(windows(6, 4, 3), [0..4, 1..5, 2..6]);
    }

    #[test]
    fn a_sequence_that_fits_is_one_window() {
        for (covered, overlap) in [(4, 2), (1, 0)] {
            let windows = windows(covered, 4, overlap);
            assert_eq!(
                (windows.len(), windows[0].clone()),
                (1, 0..covered as usize)
            );
        }
    }

    #[test]
    fn the_tokens_of_all_windows_are_what_they_add_up_to() {
        for covered in 1..60 {
            for max in 1..12 {
                for overlap in 0..max {
                    let all = Windows::new(covered, max, overlap);
                    let added: usize = all.clone().map(|window| window.len() + 2).sum();
                    assert_eq!(
                        all.total_tokens(2),
                        added as u64,
                        "{covered} residues, windows of {max}, {overlap} shared"
                    );
                }
            }
        }
    }

    #[test]
    fn windows_do_not_overflow() {
        let end = u32::MAX as usize;
        assert_eq!(
            windows(u32::MAX, u32::MAX - 1, 0),
            [0..end - 1, end - 1..end]
        );
    }
}
