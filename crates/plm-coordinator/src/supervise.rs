//! Starts the lanes and watches them, so that a run ends even if some of its threads do not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;
use plm_core::{Rank, WorldSize};

use crate::RankFailure;
use crate::lane::{Job, Lane, LaneThread, Role, Watch, spawn};

/// How often to look for calls that have started since the last look.
const TICK: Duration = Duration::from_millis(20);

/// If a look comes this much too late, the whole process stood still, for example after Ctrl-Z.
const STANDSTILL: Duration = Duration::from_secs(2);

/// Runs every rank of a world until each of its threads has ended or is left behind.
pub(crate) fn supervise(job: &Arc<Job>, world: WorldSize) -> Vec<Arc<Lane>> {
    let (ended_here, ended) = unbounded();
    let mut lanes = Vec::new();
    let mut running = Vec::new();
    for rank in world.ranks() {
        let (lane, threads) = spawn(rank, job, &ended_here);
        lanes.push(lane);
        running.extend(threads);
    }
    let mut stopped = None;
    let mut last_look = Instant::now();
    while !running.is_empty() {
        let left = running
            .iter()
            .filter_map(|thread| watch(thread).time_left());
        let pause = left.fold(TICK, Duration::min);
        if let Ok(over) = ended.recv_timeout(pause) {
            join(&mut running, over);
        }
        let held_up = last_look.elapsed().saturating_sub(pause);
        if held_up >= STANDSTILL {
            running
                .iter()
                .for_each(|thread| watch(thread).forgive(held_up));
        }
        last_look = Instant::now();
        if job.stop.is_stopped() {
            let stopped: &mut Instant = stopped.get_or_insert_with(Instant::now);
            if stopped.elapsed() >= job.config.stop_grace() {
                running.retain(|thread| !is_left(thread));
            }
        }
        running.retain(|thread| !has_hung(thread));
    }
    lanes
}

fn watch(thread: &LaneThread) -> &Watch {
    thread.lane.watch(thread.role)
}

fn join(running: &mut Vec<LaneThread>, (rank, role): (Rank, Role)) {
    // A thread that was left behind and ends later is not in the list.
    let position = running
        .iter()
        .position(|thread| thread.lane.rank == rank && thread.role == role);
    if let Some(position) = position {
        let thread = running.swap_remove(position);
        thread
            .handle
            .join()
            .expect("a lane's threads catch the panics of what they call");
    }
}

/// Whether to leave a thread of a stopped run behind. The writer is always waited for.
fn is_left(thread: &LaneThread) -> bool {
    thread.lane.leave();
    thread.role != Role::Write
}

/// Whether a thread's call has taken too long. Its rank is then out. The thread itself can't be
/// ended, and is left behind.
fn has_hung(thread: &LaneThread) -> bool {
    let Some((stage, limit)) = watch(thread).overdue() else {
        return false;
    };
    let LaneThread { lane, role, .. } = thread;
    lane.fail(RankFailure::hung(lane.rank, stage, limit));
    if *role == Role::Write {
        lane.job.queue.abandon(lane.rank);
    }
    true
}
