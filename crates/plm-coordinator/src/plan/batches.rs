//! The plan: which rows are in which batch, and which batches a rank takes.

use std::ops::Range;

use plm_core::{
    BatchIndex, LargestBatches, OutputKind, Per, Rank, RecordInfo, RowId, SequenceSource, Stride,
    TokenMap, WorldSize,
};

use super::first_fit::{Fitted, Item, first_fit_decreasing};
use super::identical::Identical;
use super::windows::Windows;
use super::{IdenticalSequences, LongSequences, Part, PlanConfig, PlannedOutcome, SkipReason};
use crate::{Balance, Error};

/// Which rows go into which batch.
///
/// A plan takes 8 bytes for each row and a few for each batch: 50 MB for six million rows. If there
/// are identical records, it takes one byte more for each row.
///
/// ```
/// use plm_coordinator::{BatchPlan, PlanConfig};
/// use plm_core::BatchIndex;
/// use plm_testkit::{MemorySource, fake_tokens};
///
/// let source = MemorySource::new([("a", "MK"), ("b", "MKVLA"), ("c", "G")]);
/// let config = PlanConfig::builder().max_residues(6).max_batch_tokens(10).build()?;
/// let plan = BatchPlan::new(&source, &fake_tokens(), &config)?;
///
/// let rows: Vec<u64> = plan.rows(BatchIndex(0)).iter().map(|row| row.0).collect();
/// assert_eq!(rows, [1, 2]); // 5 + 2 and 1 + 2 tokens fill the batch
/// assert_eq!(plan.num_batches(), 2);
/// # Ok::<(), plm_coordinator::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BatchPlan {
    config: PlanConfig,
    special_tokens: u32,
    source_len: u64,
    fitted: Fitted,
    /// The first of the batches that are set apart, which are the last ones of the plan.
    first_apart: Option<BatchIndex>,
}

impl BatchPlan {
    /// Plans all records of a source that are not skipped, for a model with these tokens.
    ///
    /// # Errors
    /// [`Error::SequenceTooLong`] if a record has more than `max_residues` residues under
    /// [`LongSequences::Fail`].
    pub fn new(
        source: &dyn SequenceSource,
        tokens: &TokenMap,
        config: &PlanConfig,
    ) -> Result<Self, Error> {
        let rows = (0..source.len()).map(RowId);
        Self::of(source, rows, tokens, config)
    }

    /// Plans these rows of a source, which are in increasing order.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub(crate) fn of_rows(
        source: &dyn SequenceSource,
        rows: &[RowId],
        tokens: &TokenMap,
        config: &PlanConfig,
    ) -> Result<Self, Error> {
        Self::of(source, rows.iter().copied(), tokens, config)
    }

    fn of(
        source: &dyn SequenceSource,
        rows: impl Iterator<Item = RowId> + Clone,
        tokens: &TokenMap,
        config: &PlanConfig,
    ) -> Result<Self, Error> {
        let special_tokens = tokens.special_tokens();
        let is_planned = |row: &RowId| {
            let outcome = config.outcome(&source.record(*row));
            !matches!(outcome, PlannedOutcome::Skipped(_))
        };
        let identical = match config.identical_sequences() {
            IdenticalSequences::ComputeOnce => {
                Identical::find(source, rows.clone().filter(is_planned))
            }
            IdenticalSequences::ComputeEach => Identical::default(),
        };
        let mut copies = identical.copies().iter().peekable();
        let mut items = Vec::new();
        let mut first_too_long = None;
        let mut too_long_rows = 0;
        for row in rows {
            let record = source.record(row);
            match config.outcome(&record) {
                PlannedOutcome::Skipped(SkipReason::TooLong { .. }) => {
                    first_too_long.get_or_insert(row);
                    too_long_rows += 1;
                }
                PlannedOutcome::Skipped(_) => {}
                _ if copies.next_if_eq(&&row).is_some() => {}
                _ => items.push(Item {
                    tokens: config
                        .windows(record.residue_count)
                        .total_tokens(special_tokens),
                    row,
                }),
            }
        }
        if config.long_sequences() == LongSequences::Fail
            && let Some(row) = first_too_long
        {
            let record = source.record(row);
            return Err(Error::SequenceTooLong {
                row,
                id: record.id.to_owned(),
                residue_count: record.residue_count,
                max_residues: config.max_residues(),
                others: too_long_rows - 1,
            });
        }
        let fitted = first_fit_decreasing(items, u64::from(config.max_batch_tokens()));
        Ok(Self {
            fitted: with_copies(fitted, &identical),
            config: config.clone(),
            special_tokens,
            source_len: source.len(),
            first_apart: None,
        })
    }

    /// Checks that outputs of these kinds can be given for all rows of the plan.
    ///
    /// # Errors
    /// [`Error::PairsOfWindows`] if an output has a row per pair of residues, and records are
    /// computed in windows: no window has the pairs of two windows.
    ///
    /// # Panics
    /// If `source` is not the one that the plan was made for.
    pub fn check_outputs(
        &self,
        kinds: impl IntoIterator<Item = OutputKind>,
        source: &dyn SequenceSource,
    ) -> Result<(), Error> {
        let pairs = kinds.into_iter().find(|kind| kind.per() == Per::Pair);
        let (Some(output), LongSequences::Window { .. }) = (pairs, self.config.long_sequences())
        else {
            return Ok(());
        };
        let max_residues = self.config.max_residues();
        let residues = |row: RowId| source.record(row).residue_count;
        let rows = self.fitted.rows.iter().copied();
        let in_windows = rows.filter(|&row| residues(row) > max_residues);
        let Some(row) = in_windows.clone().min() else {
            return Ok(());
        };
        Err(Error::PairsOfWindows {
            output,
            row,
            id: source.record(row).id.to_owned(),
            residue_count: residues(row),
            max_residues,
            others: in_windows.count() as u64 - 1,
        })
    }

    /// A plan of the same batches without the rows in `done`, which an earlier try has made
    /// durable.
    ///
    /// `done` is in increasing order. A batch that becomes empty keeps its index, and no rank takes
    /// it.
    ///
    /// # Panics
    /// If `source` is not the one that the plan was made for.
    #[must_use]
    pub fn without(&self, done: &[RowId], source: &dyn SequenceSource) -> Self {
        let mut fitted = Fitted::default();
        for batch in (0..self.num_batches()).map(BatchIndex) {
            let mut tokens = 0;
            for group in self.groups(batch) {
                let left = group.iter().copied();
                let left = left.filter(|row| done.binary_search(row).is_err());
                tokens += self.push_group(&mut fitted, left, source);
            }
            fitted.ends.push(fitted.rows.len());
            fitted.tokens.push(tokens);
        }
        Self {
            fitted,
            config: self.config.clone(),
            ..*self
        }
    }

    /// Adds rows with the same residues to the last batch. Returns the number of tokens that they
    /// take: those of one of them.
    fn push_group(
        &self,
        fitted: &mut Fitted,
        rows: impl IntoIterator<Item = RowId>,
        source: &dyn SequenceSource,
    ) -> u64 {
        let mut rows = rows.into_iter();
        let Some(first) = rows.next() else {
            return 0;
        };
        fitted.push(first, rows);
        let residue_count = source.record(first).residue_count;
        self.windows(residue_count)
            .total_tokens(self.special_tokens)
    }

    /// A plan that takes the suspects of a part out of their batches and gives each a batch of its
    /// own, after all others. Identical records stay together.
    ///
    /// Ranks compute these batches one at a time. So it shows which record, if any, costs a rank:
    /// see [`Suspect`](crate::Suspect). `suspects` is in increasing order. Rows that are in no
    /// batch of the part are ignored.
    ///
    /// # Panics
    /// If `source` is not the one that the plan was made for.
    #[must_use]
    pub fn apart(self, suspects: &[RowId], part: Part, source: &dyn SequenceSource) -> Self {
        let is_suspect = |row: &RowId| suspects.binary_search(row).is_ok();
        let mut groups: Vec<Vec<RowId>> = self
            .part_batches(part)
            .flat_map(|batch| self.groups(batch))
            .filter(|group| group.iter().any(is_suspect))
            .map(<[RowId]>::to_vec)
            .collect();
        if groups.is_empty() {
            return self;
        }
        groups.sort_unstable();
        let mut rows = groups.concat();
        rows.sort_unstable();
        let mut plan = self.without(&rows, source);
        plan.first_apart = Some(BatchIndex(plan.num_batches()));
        for group in groups {
            // The batches of other parts stay empty.
            while !part.has(BatchIndex(plan.num_batches())) {
                plan.push_batch([], source);
            }
            plan.push_batch(group, source);
        }
        plan
    }

    /// Adds a batch of rows with the same residues.
    fn push_batch(&mut self, group: impl IntoIterator<Item = RowId>, source: &dyn SequenceSource) {
        let mut fitted = std::mem::take(&mut self.fitted);
        let tokens = self.push_group(&mut fitted, group, source);
        fitted.ends.push(fitted.rows.len());
        fitted.tokens.push(tokens);
        self.fitted = fitted;
    }

    /// Whether a batch holds a suspect that was set apart.
    pub(crate) fn is_apart(&self, batch: BatchIndex) -> bool {
        self.first_apart.is_some_and(|first| batch >= first)
    }

    /// The configuration that the plan was made with.
    pub fn config(&self) -> &PlanConfig {
        &self.config
    }

    /// The number of special tokens of each sequence.
    pub fn special_tokens(&self) -> u32 {
        self.special_tokens
    }

    /// The number of records of the source that the plan was made for, skipped ones included.
    pub fn source_len(&self) -> u64 {
        self.source_len
    }

    /// The number of batches.
    pub fn num_batches(&self) -> u64 {
        self.fitted.ends.len() as u64
    }

    /// The number of rows in all batches, identical ones included.
    pub fn num_rows(&self) -> u64 {
        self.fitted.rows.len() as u64
    }

    /// The number of tokens of all batches, special tokens included. Those of identical records
    /// count once.
    pub fn total_tokens(&self) -> u64 {
        self.fitted.tokens.iter().sum()
    }

    /// The rows of a batch, longest first. Rows with the same residues follow each other.
    ///
    /// # Panics
    /// If there is no such batch.
    pub fn rows(&self, batch: BatchIndex) -> &[RowId] {
        &self.fitted.rows[self.positions(batch)]
    }

    /// The rows of a batch in groups with the same residues, by their hashes. The first row of each
    /// group is computed, and so is any other whose residues turn out to be others.
    ///
    /// # Panics
    /// If there is no such batch.
    pub fn groups(&self, batch: BatchIndex) -> impl Iterator<Item = &[RowId]> {
        let mut rest = self.positions(batch);
        std::iter::from_fn(move || {
            let start = rest.next()?;
            while rest.start < rest.end && self.fitted.is_copy(rest.start) {
                rest.next();
            }
            Some(&self.fitted.rows[start..rest.start])
        })
    }

    fn positions(&self, batch: BatchIndex) -> Range<usize> {
        let position = batch.0 as usize;
        let start = position
            .checked_sub(1)
            .map_or(0, |before| self.fitted.ends[before]);
        start..self.fitted.ends[position]
    }

    /// The number of tokens of a batch, special tokens included. Those of identical records count
    /// once.
    ///
    /// It is over `max_batch_tokens` for a record that is longer than that, or whose windows don't
    /// fit together. The record is then alone in its batch, and its windows become several packed
    /// batches.
    ///
    /// # Panics
    /// If there is no such batch.
    pub fn tokens(&self, batch: BatchIndex) -> u64 {
        self.fitted.tokens[batch.0 as usize]
    }

    /// How full the batches are, in `0.0..=1.0`; 1 for an empty plan.
    ///
    /// It is the number of tokens over the room of the fewest packed batches that could hold them.
    pub fn fill(&self) -> f64 {
        let limit = u64::from(self.config.max_batch_tokens());
        let of_window = u64::from(self.config.max_residues()) + u64::from(self.special_tokens);
        let room = |&tokens: &u64| match tokens {
            // Windows may be longer than a batch: each fills a packed batch of its own size.
            tokens if tokens > limit && of_window > limit => tokens,
            tokens => tokens.div_ceil(limit) * limit,
        };
        let room: u64 = self.fitted.tokens.iter().map(room).sum();
        if room == 0 {
            return 1.0;
        }
        self.total_tokens() as f64 / room as f64
    }

    /// What the plan does with a record of the source.
    pub fn outcome(&self, record: &RecordInfo<'_>) -> PlannedOutcome {
        self.config.outcome(record)
    }

    /// The batches of a part that are not empty, in order.
    pub fn part_batches(&self, part: Part) -> impl Iterator<Item = BatchIndex> {
        self.rank_batches(part, Rank(0), WorldSize::ONE)
    }

    /// The batches of a part that are meant for a rank, by stride, without empty ones.
    ///
    /// # Panics
    /// If `rank` is not in `world`.
    pub fn rank_batches(
        &self,
        part: Part,
        rank: Rank,
        world: WorldSize,
    ) -> impl Iterator<Item = BatchIndex> {
        let num_batches = part.num_batches(self.num_batches());
        Stride::new(rank, world, num_batches)
            .map(move |position| part.batch(position))
            .filter(|&batch| !self.rows(batch).is_empty())
    }

    /// How evenly the plan spreads the tokens of a part over the ranks of a world.
    pub fn balance(&self, part: Part, world: WorldSize) -> Balance {
        let rank_tokens = |rank| {
            self.rank_batches(part, rank, world)
                .map(|batch| self.tokens(batch))
                .sum()
        };
        Balance::new(world.ranks().map(rank_tokens).collect())
    }

    /// The largest batches of a part, and the row of the longest sequence in them. `None` if the
    /// part has no batches. `source` is the one that the plan was made for.
    pub fn largest_batches(
        &self,
        part: Part,
        world: WorldSize,
        source: &dyn SequenceSource,
    ) -> Option<(RowId, LargestBatches)> {
        let special_tokens = self.special_tokens as usize;
        let max_batch_tokens = self.config.max_batch_tokens() as usize;
        // The longest sequences so far and their rows, longest first.
        let mut longest: Vec<(usize, RowId)> = Vec::new();
        let mut shared_tokens = 0;
        for batch in self.part_batches(part) {
            let mut longest_window = 0;
            for group in self.groups(batch) {
                let row = group[0];
                let first_window = self.windows(source.record(row).residue_count).next();
                let tokens = first_window.map_or(0, |window| window.len() + special_tokens);
                longest_window = longest_window.max(tokens);
                let place = longest.partition_point(|&(other, _)| other >= tokens);
                if place < world.get() as usize {
                    longest.insert(place, (tokens, row));
                    longest.truncate(world.get() as usize);
                }
            }
            let tokens = usize::try_from(self.tokens(batch)).unwrap_or(usize::MAX);
            if tokens > longest_window && longest_window <= max_batch_tokens {
                shared_tokens = shared_tokens.max(tokens.min(max_batch_tokens));
            }
        }
        let &(_, row) = longest.first()?;
        let largest = LargestBatches {
            longest_sequences: longest.into_iter().map(|(tokens, _)| tokens).collect(),
            shared_tokens,
        };
        Some((row, largest))
    }

    /// The most tokens that a packed batch of this batch may have.
    pub(crate) fn max_packed_tokens(
        &self,
        batch: BatchIndex,
        source: &dyn SequenceSource,
    ) -> usize {
        let special_tokens = self.special_tokens as usize;
        let max_batch_tokens = self.config.max_batch_tokens() as usize;
        // A record with windows over max_batch_tokens is alone. Its first window is its longest.
        let longest = self.rows(batch).first().and_then(|&row| {
            let residue_count = source.record(row).residue_count;
            self.windows(residue_count).next()
        });
        longest.map_or(max_batch_tokens, |window| {
            max_batch_tokens.max(window.len() + special_tokens)
        })
    }

    /// The windows of a planned record; one if it is computed whole.
    pub(crate) fn windows(&self, residue_count: u32) -> Windows {
        self.config.windows(residue_count)
    }
}

/// The same batches with the rows that have the residues of one in them.
fn with_copies(mut fitted: Fitted, identical: &Identical) -> Fitted {
    if identical.is_empty() {
        return fitted;
    }
    let firsts = std::mem::take(&mut fitted.rows);
    let ends = std::mem::take(&mut fitted.ends);
    let mut start = 0;
    for end in ends {
        for &first in &firsts[start..end] {
            fitted.push(first, identical.copies_of(first));
        }
        fitted.ends.push(fitted.rows.len());
        start = end;
    }
    fitted
}
