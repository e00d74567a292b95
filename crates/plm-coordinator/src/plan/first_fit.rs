//! First-fit decreasing, which makes full batches of records with many lengths.
//!
//! A batch starts with the longest record left. It then takes the longest that still fits, until
//! none does. So each record, longest first, is in the first batch with room for it.
//!
//! The simpler way is to fill a batch in order until a record does not fit (next-fit). It would
//! leave about half a long record's room empty in every batch. Here short records fill that room.

use std::cmp::Reverse;

use plm_core::RowId;

/// A record to place. All its windows stay together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    /// The number of tokens of all its windows, special tokens included; never 0.
    pub(super) tokens: u64,
    pub(super) row: RowId,
}

/// Batches as flat arrays, so that millions of batches need no allocation each.
#[derive(Clone, Debug, Default)]
pub(super) struct Fitted {
    /// The rows, batch after batch, longest first: `[num_rows]`.
    pub(super) rows: Vec<RowId>,
    /// Whether a row has the residues of the row before it. Rows after its end have not.
    pub(super) is_copy: Vec<bool>,
    /// Where each batch ends in `rows`: `[num_batches]`.
    pub(super) ends: Vec<usize>,
    /// The number of tokens of each batch: `[num_batches]`.
    pub(super) tokens: Vec<u64>,
}

impl Fitted {
    /// Adds a row to the last batch, and others with its residues.
    pub(super) fn push(&mut self, first: RowId, copies: impl IntoIterator<Item = RowId>) {
        self.rows.push(first);
        for copy in copies {
            self.is_copy.resize(self.rows.len(), false);
            self.is_copy.push(true);
            self.rows.push(copy);
        }
    }

    /// Whether the row at a position has the residues of the row before it.
    pub(super) fn is_copy(&self, position: usize) -> bool {
        self.is_copy.get(position) == Some(&true)
    }
}

/// Places every item. An item over `max_batch_tokens` gets a batch of its own.
///
/// Batches, and rows in them, are ordered by tokens, descending, and then by row. The result
/// depends on the items and the limit alone. Takes O(n log n).
pub(super) fn first_fit_decreasing(mut items: Vec<Item>, max_batch_tokens: u64) -> Fitted {
    items.sort_unstable_by_key(|item| (Reverse(item.tokens), item.row));
    let mut left = Remaining::new(&items);
    let mut fitted = Fitted {
        rows: Vec::with_capacity(items.len()),
        ..Fitted::default()
    };
    while let Some(longest) = left.longest_within(u64::MAX) {
        let mut tokens = left.take(longest, 1, &mut fitted.rows);
        while let Some(fitting) = left.longest_within(max_batch_tokens.saturating_sub(tokens)) {
            let free_tokens = max_batch_tokens - tokens;
            tokens += left.take(fitting, free_tokens, &mut fitted.rows);
        }
        fitted.ends.push(fitted.rows.len());
        fitted.tokens.push(tokens);
    }
    fitted
}

/// The items of one token count that are not placed yet: `next..end` of the sorted items.
struct Class {
    tokens: u64,
    next: usize,
    end: usize,
}

/// The items that are not placed yet, found by token count.
struct Remaining<'a> {
    /// All items, sorted by tokens, descending, and then by row.
    items: &'a [Item],
    /// The classes by tokens, descending.
    classes: Vec<Class>,
    /// The parent links of a union-find forest over the classes: `[num_classes + 1]`. A class with
    /// items left links to itself. A used-up class links to one nearer to the next class with
    /// items left, or to the end.
    onwards: Vec<usize>,
}

impl<'a> Remaining<'a> {
    /// All items, which must be sorted.
    fn new(items: &'a [Item]) -> Self {
        let mut classes = Vec::new();
        for class in items.chunk_by(|one, other| one.tokens == other.tokens) {
            let next = classes.last().map_or(0, |class: &Class| class.end);
            classes.push(Class {
                tokens: class[0].tokens,
                next,
                end: next + class.len(),
            });
        }
        Self {
            items,
            onwards: (0..=classes.len()).collect(),
            classes,
        }
    }

    /// The class of the longest remaining items of at most `max_tokens` tokens.
    fn longest_within(&mut self, max_tokens: u64) -> Option<usize> {
        let mut class = self
            .classes
            .partition_point(|class| class.tokens > max_tokens);
        while self.onwards[class] != class {
            // Halving the path makes later searches short.
            self.onwards[class] = self.onwards[self.onwards[class]];
            class = self.onwards[class];
        }
        (class < self.classes.len()).then_some(class)
    }

    /// Moves items of a class to `rows`: as many as fit into `free_tokens`, but at least one.
    /// Returns the number of their tokens.
    fn take(&mut self, position: usize, free_tokens: u64, rows: &mut Vec<RowId>) -> u64 {
        let class = &mut self.classes[position];
        let fitting = usize::try_from((free_tokens / class.tokens).max(1)).unwrap_or(usize::MAX);
        let taken = fitting.min(class.end - class.next);
        let items = &self.items[class.next..class.next + taken];
        rows.extend(items.iter().map(|item| item.row));
        class.next += taken;
        if class.next == class.end {
            self.onwards[position] = position + 1;
        }
        taken as u64 * class.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(tokens: &[u64], max_batch_tokens: u64) -> Vec<Vec<u64>> {
        let items = tokens
            .iter()
            .zip(0..)
            .map(|(&tokens, row)| Item {
                tokens,
                row: RowId(row),
            })
            .collect();
        let fitted = first_fit_decreasing(items, max_batch_tokens);
        let starts = [0].into_iter().chain(fitted.ends.iter().copied());
        starts
            .zip(&fitted.ends)
            .map(|(start, &end)| fitted.rows[start..end].iter().map(|row| row.0).collect())
            .collect()
    }

    /// The rule of the module docs, word by word and in quadratic time.
    fn fit_slowly(tokens: &[u64], max_batch_tokens: u64) -> Vec<Vec<u64>> {
        let mut left: Vec<(Reverse<u64>, u64)> = tokens
            .iter()
            .map(|&tokens| Reverse(tokens))
            .zip(0..)
            .collect();
        left.sort_unstable();
        let mut batches = Vec::new();
        while !left.is_empty() {
            let (Reverse(mut total), row) = left.remove(0);
            let mut batch = vec![row];
            while let Some(next) = left
                .iter()
                .position(|(tokens, _)| total + tokens.0 <= max_batch_tokens)
            {
                let (tokens, row) = left.remove(next);
                total += tokens.0;
                batch.push(row);
            }
            batches.push(batch);
        }
        batches
    }

    #[test]
    fn short_items_fill_the_room_that_long_ones_leave() {
        assert_eq!(
            fit(&[3, 7, 4, 6, 3, 7], 10),
            [vec![1, 0], vec![5, 4], vec![3, 2]]
        );
    }

    #[test]
    fn an_item_over_the_limit_is_alone() {
        assert_eq!(fit(&[1, 25, 2], 10), [vec![1], vec![2, 0]]);
    }

    #[test]
    fn nothing_makes_no_batch() {
        assert!(fit(&[], 10).is_empty());
    }

    #[test]
    fn the_fast_way_gives_the_same_batches_as_the_slow_one() {
        let mut seed = 1_u64;
        for _ in 0..300 {
            let mut next = |bound: u64| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 33) % bound
            };
            let count = next(60);
            let tokens: Vec<u64> = (0..count).map(|_| 1 + next(24)).collect();
            let max_batch_tokens = 1 + next(40);
            assert_eq!(
                fit(&tokens, max_batch_tokens),
                fit_slowly(&tokens, max_batch_tokens),
                "{tokens:?} at {max_batch_tokens}"
            );
        }
    }
}
