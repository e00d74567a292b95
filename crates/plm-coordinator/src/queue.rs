//! Which rank works on which batch, and which batches are durable.
//!
//! The queue must not know what a batch holds, how it is computed, or what a sink is.
//!
//! # How no batch is lost and none is stored twice
//!
//! A batch is always in one place: *queued* for some rank, *leased* to a rank (which reads or
//! encodes it, or has it in a channel), *in the sink* of a rank (its writer may have it, durable or
//! not), or *durable*. All moves are made under one lock:
//!
//! - queued -> leased: [`take`](WorkQueue::take), by the rank's producer.
//! - leased -> in the sink: [`enter_sink`](WorkQueue::enter_sink), by the rank's writer, *before*
//!   it calls the sink. A fenced rank is refused, so that its late results are dropped.
//! - in the sink -> durable: [`durable`](WorkQueue::durable), *after* the sink has said so. A
//!   fenced rank may still say it: what the sink has stored is stored.
//! - leased -> queued: [`fence`](WorkQueue::fence), when a rank fails or hangs. The sink has never
//!   seen these batches, and because of `enter_sink` it never will from this rank.
//! - in the sink -> queued: [`release`](WorkQueue::release), by the rank's writer thread, *after*
//!   its shard writer is gone. Nothing can make these batches durable any more.
//!
//! So another rank never holds a batch that a sink may still store: from the call of a write until
//! the sink says that the batch is durable, it belongs to the writer, fenced or not. If a *writer*
//! hangs, this has a price: the batches in its sink stay in doubt, and nobody may do them again.
//! [`abandon`](WorkQueue::abandon) tells the other ranks not to wait for them.
//!
//! # How one batch does not take all ranks with it
//!
//! If an encoder fails and its rank with it, the records of the batch that it held are *suspects*:
//! they may do the same to the next rank. An earlier run may have left suspects too, which the plan
//! sets apart. Batches of suspects come after all others, one at a time, while no other batch is
//! leased. If one takes the last rank with it, all others are in a sink, and it is known which
//! batch it was.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use plm_core::{BatchIndex, Rank, WorldSize};

use crate::batches::Batches;
use crate::{BatchPlan, Part, RankFailure, StopToken, Suspect};

/// The batches of a part, shared by all lanes of a run.
#[derive(Debug)]
pub(crate) struct WorkQueue {
    batches: Arc<Batches>,
    part: Part,
    world: WorldSize,
    stop: StopToken,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// The batches of each rank: `[world]`.
    ranks: Vec<RankWork>,
    /// The batches of suspects, queued for any rank once no other batch is queued.
    apart: VecDeque<BatchIndex>,
    /// The batches that ranks have failed on and that are not durable.
    suspicions: BTreeMap<BatchIndex, Suspicion>,
    missing: Missing,
    /// Whether more batches may be planned, so that ranks without work wait.
    open: bool,
    /// Whether no more batches are given out.
    ended: bool,
}

/// What ranks have seen of a batch that they failed on.
#[derive(Debug)]
struct Suspicion {
    lost_ranks: u32,
    /// How the last of these ranks failed, in words.
    failure: String,
}

/// The batches of one rank, by their state.
#[derive(Debug, Default)]
struct RankWork {
    queued: VecDeque<BatchIndex>,
    leased: BTreeSet<BatchIndex>,
    in_sink: Vec<BatchIndex>,
    /// Whether the rank is out, so that what it delivers now is refused.
    fenced: bool,
    /// Whether the rank's writer hangs, so that nobody waits for what is in its sink.
    abandoned: bool,
}

/// How much is not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) batches: u64,
    pub(crate) rows: u64,
}

/// What a rank does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// It does this batch.
    Batch(BatchIndex),
    /// It waits: other ranks have work that may come back.
    Drained,
    /// It ends: there is nothing more to do.
    Ended,
}

impl State {
    /// Whether everything is durable, or in doubt for good, and nothing more comes.
    fn is_finished(&self) -> bool {
        if self.open {
            return false;
        }
        let abandoned = self.ranks.iter().filter(|work| work.abandoned);
        let in_doubt: usize = abandoned.map(|work| work.in_sink.len()).sum();
        self.missing.batches == in_doubt as u64
    }

    /// The rank with the most queued batches; of several, the lowest.
    fn fullest(&mut self) -> Option<&mut RankWork> {
        self.ranks
            .iter_mut()
            .filter(|work| !work.queued.is_empty())
            .rev()
            .max_by_key(|work| work.queued.len())
    }

    /// Whether the next batch of suspects may be given out.
    fn may_try_apart(&self) -> bool {
        !self.apart.is_empty() && self.ranks.iter().all(|work| work.leased.is_empty())
    }
}

impl WorkQueue {
    /// A queue with each rank's stride of the part.
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
            open: false,
            ended: false,
        };
        Self {
            batches: Arc::new(Batches::Planned(plan)),
            part,
            world,
            stop,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// A queue of a session's batches, without any yet. It is open until it is
    /// [closed](Self::close).
    pub(crate) fn open(batches: Arc<Batches>, world: WorldSize, stop: StopToken) -> Self {
        let ranks = world.ranks().map(|_| RankWork::default());
        let state = State {
            ranks: ranks.collect(),
            apart: VecDeque::new(),
            suspicions: BTreeMap::new(),
            missing: Missing {
                batches: 0,
                rows: 0,
            },
            open: true,
            ended: false,
        };
        Self {
            batches,
            part: Part::WHOLE,
            world,
            stop,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// The batches, by their numbers.
    pub(crate) fn batches(&self) -> &Arc<Batches> {
        &self.batches
    }

    /// Wakes ranks that wait, after sequences were added to a session.
    pub(crate) fn added(&self) {
        // A rank that saw none waits already once the lock is free.
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Plans the sequences of a session that no rank will take any more, so that they count as
    /// missing.
    pub(crate) fn plan_rest(&self) {
        let mut state = self.lock();
        self.plan_pending(&mut state);
    }

    /// Says that nothing more comes: ranks end once all is durable.
    pub(crate) fn close(&self) {
        self.lock().open = false;
        self.changed.notify_all();
    }

    /// The rank that the plan means a batch for.
    pub(crate) fn planned_rank(&self, batch: BatchIndex) -> Rank {
        let rank = self.part.position(batch) % u64::from(self.world.get());
        // Below the world's size, which is a u32.
        Rank(rank as u32)
    }

    /// The next batch of a rank: one of its own, or the last of the fullest queue, which its owner
    /// would reach last. Batches of suspects come after all others.
    pub(crate) fn take(&self, rank: Rank) -> Take {
        let mut state = self.lock();
        if self.has_ended(&state, rank) {
            return Take::Ended;
        }
        if self.may_plan(&state) {
            self.plan_pending(&mut state);
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

    /// Whether sequences of a session are to be planned now: no batch is queued, and no suspects
    /// wait to be alone.
    fn may_plan(&self, state: &State) -> bool {
        let is_idle = state.ranks.iter().all(|work| work.queued.is_empty());
        is_idle && state.apart.is_empty() && self.batches.has_pending()
    }

    fn plan_pending(&self, state: &mut State) {
        for batch in self.batches.plan_pending() {
            state.missing.batches += 1;
            state.missing.rows += self.batches.num_rows(batch);
            let rank = self.planned_rank(batch).0 as usize;
            state.ranks[rank].queued.push_back(batch);
        }
        self.changed.notify_all();
    }

    /// Waits until [`take`](Self::take) has another answer than [`Take::Drained`].
    ///
    /// A stop need not wake those who wait: they wait for another rank's batches, that rank stops
    /// too, and the [`release`](Self::release) of its writer wakes everyone. (A session that stops
    /// [ends](Self::end) its queue too.)
    pub(crate) fn wait(&self, rank: Rank) {
        let mut state = self.lock();
        while !self.has_ended(&state, rank)
            && state.fullest().is_none()
            && !state.may_try_apart()
            && !self.may_plan(&state)
        {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Moves a leased batch into the sink of a rank. Returns false if the rank is fenced: it must
    /// not write the batch.
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

    /// Marks everything in the sink of a rank as durable.
    pub(crate) fn durable(&self, rank: Rank) {
        let mut state = self.lock();
        for batch in std::mem::take(&mut state.ranks[rank.0 as usize].in_sink) {
            state.suspicions.remove(&batch);
            state.missing.batches -= 1;
            state.missing.rows -= self.batches.num_rows(batch);
            self.batches.retire(batch);
        }
        self.changed.notify_all();
    }

    /// Takes a rank out, and gives back the batches that its sink has not seen. `in_encoder` are
    /// the batches that its encoder held, if the encoder failed; their records become suspects.
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

    /// Gives back all batches of a rank that are not durable, after its shard writer is gone.
    pub(crate) fn release(&self, rank: Rank) {
        let mut state = self.lock();
        let work = &mut state.ranks[rank.0 as usize];
        work.fenced = true;
        work.abandoned = false;
        let mut unfinished = std::mem::take(&mut work.leased);
        unfinished.extend(work.in_sink.drain(..));
        self.give_back(&mut state, unfinished);
    }

    /// Marks the shard writer of a rank as hung: nobody waits for what is in its sink.
    pub(crate) fn abandon(&self, rank: Rank) {
        self.lock().ranks[rank.0 as usize].abandoned = true;
        self.changed.notify_all();
    }

    /// Gives out no more batches. The run ends with those that ranks hold.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Whether no more batches are given out, because the run was stopped or ends.
    pub(crate) fn is_over(&self) -> bool {
        self.stop.is_stopped() || self.lock().ended
    }

    /// How much is not durable.
    pub(crate) fn missing(&self) -> Missing {
        self.lock().missing
    }

    /// The records that ranks have failed on and that are not durable, by batch.
    pub(crate) fn suspects(&self) -> Vec<Suspect> {
        let state = self.lock();
        let suspects = state.suspicions.iter().filter_map(|(&batch, suspicion)| {
            let batch = self.batches.get(batch)?;
            Some(Suspect {
                rows: batch.rows().to_vec(),
                different: batch.groups().count() as u64,
                lost_ranks: suspicion.lost_ranks,
                failure: suspicion.failure.clone(),
            })
        });
        suspects.collect()
    }

    fn has_ended(&self, state: &State, rank: Rank) -> bool {
        self.stop.is_stopped()
            || state.ended
            || state.ranks[rank.0 as usize].fenced
            || (state.is_finished() && !self.batches.has_pending())
    }

    /// Puts batches back at the front of the queues that they came from, in the plan's order.
    fn give_back(&self, state: &mut State, batches: BTreeSet<BatchIndex>) {
        for batch in batches.into_iter().rev() {
            let is_apart = (self.batches.get(batch)).is_some_and(|batch| batch.is_apart());
            if is_apart || state.suspicions.contains_key(&batch) {
                state.apart.push_front(batch);
                continue;
            }
            let planned = self.planned_rank(batch).0 as usize;
            state.ranks[planned].queued.push_front(batch);
        }
        self.changed.notify_all();
    }

    /// Locks the state. It is whole even if a holder of the lock panicked: no port is called under
    /// the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
