//! Who works on which batch, and which batches are durable.
//!
//! # How no batch is lost and none is stored twice
//!
//! A batch is always in one place: *queued* for some rank, *leased* to a rank (being read, encoded,
//! or in a channel), *in the sink* of a rank (its writer may have it, durable or not), or
//! *durable*. All moves are made under one lock:
//!
//! - queued -> leased: [`take`](WorkQueue::take), by the rank's producer.
//! - leased -> in the sink: [`enter_sink`](WorkQueue::enter_sink), by the rank's writer, *before*
//!   it calls the sink. A fenced rank is refused, so that its late results are dropped.
//! - in the sink -> durable: [`durable`](WorkQueue::durable), *after* the sink has said so. A
//!   fenced rank may still say it: what the sink has stored is stored.
//! - leased -> queued: [`fence`](WorkQueue::fence), when a rank fails or hangs. The sink has never
//!   seen these batches, and `enter_sink` sees to it that it never will from this rank.
//! - in the sink -> queued: [`release`](WorkQueue::release), by the rank's writer thread, *after*
//!   its shard writer is gone, when nothing can make these batches durable any more.
//!
//! So there is no moment at which a batch that a sink may yet store is in another rank's hands: the
//! time between a write's return and the word that it was durable belongs to the writer, fenced or
//! not. The price is paid where a *writer* hangs: what is in its sink is in doubt for good, nobody
//! may do it again, and [`abandon`](WorkQueue::abandon) tells the others not to wait for it.
//!
//! # How one batch does not take all ranks with it
//!
//! A batch that a rank's encoder was at when the rank failed is a *suspect*: it may do the same to
//! the next. So suspects, and batches that the plan sets apart for what an earlier run has seen of
//! them, come after all others, one at a time and while no other batch is leased: if one of them
//! takes the last rank with it, everything else is in a sink, and it is known which it was.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use plm_core::{BatchIndex, Rank, WorldSize};

use crate::{BatchPlan, Part, RankFailure, StopToken, Suspect};

/// The batches of a part, shared by all lanes of a run.
#[derive(Debug)]
pub(crate) struct WorkQueue {
    plan: Arc<BatchPlan>,
    part: Part,
    world: WorldSize,
    stop: StopToken,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// `[world]`
    ranks: Vec<RankWork>,
    /// Queued for whoever comes, once nothing else is.
    apart: VecDeque<BatchIndex>,
    /// What ranks have failed on, until it is durable.
    suspicions: BTreeMap<BatchIndex, Suspicion>,
    missing: Missing,
    /// Whether batches are given out no more.
    ended: bool,
}

/// What is held against a batch.
#[derive(Debug)]
struct Suspicion {
    lost_ranks: u32,
    /// The last of the failures.
    failure: String,
}

#[derive(Debug, Default)]
struct RankWork {
    queued: VecDeque<BatchIndex>,
    leased: BTreeSet<BatchIndex>,
    in_sink: Vec<BatchIndex>,
    fenced: bool,
    abandoned: bool,
}

/// What is not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) batches: u64,
    pub(crate) rows: u64,
}

/// What a rank is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// This batch.
    Batch(BatchIndex),
    /// Nothing now, but other ranks have work that may yet come back.
    Drained,
    /// Nothing any more.
    Ended,
}

impl State {
    /// Whether everything is durable, or in doubt and out of reach.
    fn is_finished(&self) -> bool {
        let abandoned = self.ranks.iter().filter(|work| work.abandoned);
        let in_doubt: usize = abandoned.map(|work| work.in_sink.len()).sum();
        self.missing.batches == in_doubt as u64
    }

    /// The rank with the most queued batches, the lowest of several.
    fn fullest(&mut self) -> Option<&mut RankWork> {
        self.ranks
            .iter_mut()
            .filter(|work| !work.queued.is_empty())
            .rev()
            .max_by_key(|work| work.queued.len())
    }

    /// Whether the next batch that is set apart may be given out.
    fn may_try_apart(&self) -> bool {
        !self.apart.is_empty() && self.ranks.iter().all(|work| work.leased.is_empty())
    }
}

impl WorkQueue {
    /// Every rank's stride of the part.
    pub(crate) fn new(plan: Arc<BatchPlan>, part: Part, world: WorldSize, stop: StopToken) -> Self {
        let ranks = world.ranks().map(|rank| RankWork {
            queued: plan
                .rank_batches(part, rank, world)
                .filter(|&batch| !plan.is_apart(batch))
                .collect(),
            ..RankWork::default()
        });
        let apart = plan
            .part_batches(part)
            .filter(|&batch| plan.is_apart(batch));
        let rows = plan
            .part_batches(part)
            .map(|batch| plan.rows(batch).len() as u64);
        let state = State {
            ranks: ranks.collect(),
            apart: apart.collect(),
            suspicions: BTreeMap::new(),
            missing: Missing {
                batches: plan.part_batches(part).count() as u64,
                rows: rows.sum(),
            },
            ended: false,
        };
        Self {
            plan,
            part,
            world,
            stop,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// The rank that the plan means a batch for.
    pub(crate) fn planned_rank(&self, batch: BatchIndex) -> Rank {
        let rank = self.part.position(batch) % u64::from(self.world.get());
        // Below the world's size, which is a u32.
        Rank(rank as u32)
    }

    /// The next batch of a rank: its own, or one from the back of the fullest queue, where the
    /// batches lie that its owner would come to last; in the end those that are set apart.
    pub(crate) fn take(&self, rank: Rank) -> Take {
        let mut state = self.lock();
        if self.has_ended(&state, rank) {
            return Take::Ended;
        }
        let own = state.ranks[rank.0 as usize].queued.pop_front();
        let planned = own.or_else(|| state.fullest()?.queued.pop_back());
        let batch = match planned {
            Some(batch) => batch,
            None if state.may_try_apart() => state.apart.pop_front().expect("one is there"),
            None => return Take::Drained,
        };
        state.ranks[rank.0 as usize].leased.insert(batch);
        Take::Batch(batch)
    }

    /// Waits until [`take`](Self::take) has another answer than [`Take::Drained`].
    ///
    /// A stop needs no waking: whoever waits does so for another rank's batches, and that rank
    /// stops too, and its writer's [`release`](Self::release) wakes everyone.
    pub(crate) fn wait(&self, rank: Rank) {
        let mut state = self.lock();
        while !self.has_ended(&state, rank) && state.fullest().is_none() && !state.may_try_apart() {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Moves a leased batch into the sink of a rank. If that is false, the rank is fenced and must
    /// not write it.
    #[must_use]
    pub(crate) fn enter_sink(&self, rank: Rank, batch: BatchIndex) -> bool {
        let mut state = self.lock();
        let work = &mut state.ranks[rank.0 as usize];
        if work.fenced {
            return false;
        }
        let was_leased = work.leased.remove(&batch);
        debug_assert!(was_leased, "{rank} writes {batch}, which it does not hold");
        work.in_sink.push(batch);
        if state.may_try_apart() {
            self.changed.notify_all();
        }
        true
    }

    /// Everything in the sink of a rank is durable.
    pub(crate) fn durable(&self, rank: Rank) {
        let mut state = self.lock();
        for batch in std::mem::take(&mut state.ranks[rank.0 as usize].in_sink) {
            state.suspicions.remove(&batch);
            state.missing.batches -= 1;
            state.missing.rows -= self.plan.rows(batch).len() as u64;
        }
        self.changed.notify_all();
    }

    /// Takes a rank out, and gives back what its sink has not seen; `in_encoder` are the batches
    /// that its encoder failed on, if it was its encoder that failed.
    pub(crate) fn fence(&self, rank: Rank, failure: &RankFailure, in_encoder: &[BatchIndex]) {
        let mut state = self.lock();
        let work = &mut state.ranks[rank.0 as usize];
        work.fenced = true;
        let mut leased = std::mem::take(&mut work.leased);
        for &batch in in_encoder {
            if leased.remove(&batch) {
                let suspicion = state.suspicions.entry(batch).or_insert(Suspicion {
                    lost_ranks: 0,
                    failure: String::new(),
                });
                suspicion.lost_ranks += 1;
                suspicion.failure = failure.to_string();
                state.apart.push_back(batch);
            }
        }
        self.give_back(&mut state, leased);
    }

    /// The shard writer of a rank is gone: gives back everything it held and had not made durable.
    pub(crate) fn release(&self, rank: Rank) {
        let mut state = self.lock();
        let work = &mut state.ranks[rank.0 as usize];
        work.fenced = true;
        work.abandoned = false;
        let mut unfinished = std::mem::take(&mut work.leased);
        unfinished.extend(work.in_sink.drain(..));
        self.give_back(&mut state, unfinished);
    }

    /// The shard writer of a rank hangs: nobody is to wait for what is in its sink.
    pub(crate) fn abandon(&self, rank: Rank) {
        self.lock().ranks[rank.0 as usize].abandoned = true;
        self.changed.notify_all();
    }

    /// Gives out no more batches: the run is to end with what ranks have in their hands.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Whether no more batches are given out, since the run was stopped or is to end.
    pub(crate) fn is_over(&self) -> bool {
        self.stop.is_stopped() || self.lock().ended
    }

    /// What is not durable.
    pub(crate) fn missing(&self) -> Missing {
        self.lock().missing
    }

    /// The batches that ranks have failed on and that are not durable.
    pub(crate) fn suspects(&self) -> Vec<Suspect> {
        let state = self.lock();
        let suspects = state.suspicions.iter().map(|(&batch, suspicion)| Suspect {
            rows: self.plan.rows(batch).to_vec(),
            lost_ranks: suspicion.lost_ranks,
            failure: suspicion.failure.clone(),
        });
        suspects.collect()
    }

    fn has_ended(&self, state: &State, rank: Rank) -> bool {
        self.stop.is_stopped()
            || state.ended
            || state.ranks[rank.0 as usize].fenced
            || state.is_finished()
    }

    /// Puts batches back to the front of the queues they came from, in the plan's order.
    fn give_back(&self, state: &mut State, batches: BTreeSet<BatchIndex>) {
        for batch in batches.into_iter().rev() {
            if self.plan.is_apart(batch) || state.suspicions.contains_key(&batch) {
                state.apart.push_front(batch);
                continue;
            }
            let planned = self.planned_rank(batch).0 as usize;
            state.ranks[planned].queued.push_front(batch);
        }
        self.changed.notify_all();
    }

    /// The state is whole even if a holder of the lock has panicked: no port is called under it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use plm_testkit::{MemorySource, fake_tokens};

    use super::*;
    use crate::PlanConfig;

    const ONE: Rank = Rank(1);
    const ZERO: Rank = Rank(0);

    /// As many batches as asked for, of one sequence each.
    fn queue(batches: usize, world: u32) -> WorkQueue {
        let source = MemorySource::random(1, &vec![8; batches]);
        let config = PlanConfig::builder()
            .max_residues(8)
            .max_batch_tokens(10)
            .build()
            .unwrap();
        let plan = BatchPlan::new(&source, &fake_tokens(), &config).unwrap();
        let world = WorldSize::new(world).unwrap();
        WorkQueue::new(Arc::new(plan), Part::WHOLE, world, StopToken::new())
    }

    fn take(queue: &WorkQueue, rank: Rank) -> u64 {
        match queue.take(rank) {
            Take::Batch(batch) => batch.0,
            other => panic!("{rank} was given no batch but {other:?}"),
        }
    }

    fn write(queue: &WorkQueue, rank: Rank, batch: u64) {
        assert!(queue.enter_sink(rank, BatchIndex(batch)));
    }

    fn failure() -> RankFailure {
        RankFailure::hung(ZERO, crate::Stage::Encode, std::time::Duration::ZERO)
    }

    #[test]
    fn what_a_rank_failed_on_comes_last_and_alone() {
        let queue = queue(4, 2);
        assert_eq!([take(&queue, ZERO), take(&queue, ZERO)], [0, 2]);
        queue.fence(ZERO, &failure(), &[BatchIndex(0)]);
        assert_eq!(
            [take(&queue, ONE), take(&queue, ONE), take(&queue, ONE)],
            [1, 3, 2]
        );
        for batch in [1, 3, 2] {
            assert_eq!(queue.take(ONE), Take::Drained, "{batch} is still leased");
            write(&queue, ONE, batch);
        }
        let suspects = queue.suspects();
        assert_eq!((suspects.len(), suspects[0].lost_ranks), (1, 1));
        assert_eq!(take(&queue, ONE), 0);
        write(&queue, ONE, 0);
        queue.durable(ONE);
        assert!(queue.suspects().is_empty());
    }

    #[test]
    fn a_rank_takes_its_stride_and_then_the_last_of_the_fullest() {
        let queue = queue(7, 2);
        let taken: Vec<u64> = (0..7).map(|_| take(&queue, ONE)).collect();
        assert_eq!(taken, [1, 3, 5, 6, 4, 2, 0]);
        assert_eq!(queue.planned_rank(BatchIndex(6)), ZERO);
        assert_eq!(queue.take(ZERO), Take::Drained);
    }

    #[test]
    fn what_a_fenced_rank_had_not_written_goes_to_the_others() {
        let queue = queue(4, 2);
        assert_eq!([take(&queue, ZERO), take(&queue, ZERO)], [0, 2]);
        write(&queue, ZERO, 0);
        queue.fence(ZERO, &failure(), &[]);
        assert_eq!(queue.take(ZERO), Take::Ended);
        let taken: Vec<u64> = (0..3).map(|_| take(&queue, ONE)).collect();
        assert_eq!(taken, [1, 3, 2]);
        assert_eq!(queue.take(ONE), Take::Drained, "batch 0 may yet be durable");
    }

    #[test]
    fn late_results_of_a_fenced_rank_are_refused() {
        let queue = queue(1, 2);
        take(&queue, ZERO);
        queue.fence(ZERO, &failure(), &[]);
        assert!(!queue.enter_sink(ZERO, BatchIndex(0)));
        assert_eq!(take(&queue, ONE), 0);
    }

    #[test]
    fn what_was_in_the_sink_of_a_fenced_rank_may_become_durable() {
        let queue = queue(1, 2);
        take(&queue, ZERO);
        write(&queue, ZERO, 0);
        queue.fence(ZERO, &failure(), &[]);
        queue.durable(ZERO);
        queue.release(ZERO);
        assert_eq!(queue.missing().batches, 0);
        assert_eq!(queue.take(ONE), Take::Ended);
    }

    #[test]
    fn what_was_in_the_sink_comes_back_when_the_writer_is_gone() {
        let queue = queue(1, 2);
        take(&queue, ZERO);
        write(&queue, ZERO, 0);
        queue.fence(ZERO, &failure(), &[]);
        assert_eq!(queue.take(ONE), Take::Drained);
        queue.release(ZERO);
        assert_eq!(take(&queue, ONE), 0);
    }

    #[test]
    fn what_a_hung_writer_holds_is_left_alone() {
        let queue = queue(2, 2);
        take(&queue, ZERO);
        write(&queue, ZERO, 0);
        queue.fence(ZERO, &failure(), &[]);
        queue.abandon(ZERO);
        assert_eq!(take(&queue, ONE), 1);
        write(&queue, ONE, 1);
        queue.durable(ONE);
        assert_eq!(queue.take(ONE), Take::Ended);
        let missing = Missing {
            batches: 1,
            rows: 1,
        };
        assert_eq!(queue.missing(), missing);
    }

    #[test]
    fn a_run_that_is_to_end_gives_out_nothing_and_takes_what_is_in_hand() {
        let queue = queue(2, 1);
        take(&queue, ZERO);
        queue.end();
        assert_eq!(queue.take(ZERO), Take::Ended);
        write(&queue, ZERO, 0);
        queue.durable(ZERO);
        assert_eq!(queue.missing().batches, 1);
    }

    #[test]
    fn a_stopped_run_gives_out_nothing() {
        let queue = queue(2, 1);
        take(&queue, ZERO);
        queue.stop.stop();
        assert_eq!(queue.take(ZERO), Take::Ended);
    }
}
