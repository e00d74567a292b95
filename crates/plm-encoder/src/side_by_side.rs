//! Layers that are loaded some at a time.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// All of `0..count`, by `make`, `at_a_time`. If that is one, the calling thread makes them all.
///
/// Otherwise threads of their own do: some layers are read and rounded while others are copied to
/// the GPU, and a GPU that hangs keeps no threads that others need. Each layer takes room for some
/// of its weights twice.
///
/// That tensors are then used by another thread than made them is sound: a GPU has one stream,
/// whichever thread puts work on it, and all are made before the first is used.
///
/// # Errors
/// The first one of `make`, by thread.
pub fn side_by_side<T: Send, E: Send>(
    count: usize,
    at_a_time: usize,
    make: impl Fn(usize) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    if at_a_time == 1 {
        return (0..count).map(make).collect();
    }
    let next = AtomicUsize::new(0);
    let make_some = || -> Result<Vec<(usize, T)>, E> {
        std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed))
            .take_while(|&index| index < count)
            .map(|index| Ok((index, make(index)?)))
            .collect()
    };
    let by_thread = thread::scope(|scope| {
        let threads: Vec<_> = (0..count.min(at_a_time))
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, make_some).ok())
            .collect();
        if threads.is_empty() {
            // The system gives no more of them.
            return Ok(vec![make_some()?]);
        }
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect::<Result<Vec<_>, E>>()
    })?;
    let mut all: Vec<_> = by_thread.into_iter().flatten().collect();
    all.sort_unstable_by_key(|(index, _)| *index);
    Ok(all.into_iter().map(|(_, made)| made).collect())
}
