//! Every move of the proof sketch, and the order in which ranks get batches.

use plm_testkit::{MemorySource, fake_tokens};

use super::*;
use crate::PlanConfig;

const ONE: Rank = Rank(1);
const ZERO: Rank = Rank(0);

/// A queue of this many batches, with one sequence each.
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
