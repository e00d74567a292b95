//! What the CPU implementations share: their operands as slices, and rows shared out to threads.

use candle_core::{CpuStorage, Layout, Result, bail};
use rayon::prelude::*;

/// Rows that one task works through: some tens of microseconds of work, so that handing tasks out
/// costs nothing and a long sequence still spreads over all threads.
const ROWS_PER_TASK: usize = 512;

/// The operand `what` of `op` as a slice.
pub(crate) fn f32_slice<'a>(
    op: &str,
    what: &str,
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        (CpuStorage::F32(_), None) => bail!("{op}: {what} must be contiguous"),
        _ => bail!("{op}: {what} must be f32"),
    }
}

/// The operand `what` of `op` as a slice to write to.
pub(crate) fn f32_slice_mut<'a>(
    op: &str,
    what: &str,
    storage: &'a mut CpuStorage,
    layout: &Layout,
) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        (CpuStorage::F32(_), None) => bail!("{op}: {what} must be contiguous"),
        _ => bail!("{op}: {what} must be f32"),
    }
}

/// Refuses an operand of another shape.
pub(crate) fn check_shape(op: &str, what: &str, layout: &Layout, dims: &[usize]) -> Result<()> {
    if layout.dims() != dims {
        bail!("{op}: {what} must be {dims:?}, is {:?}", layout.dims());
    }
    Ok(())
}

/// Runs `f` with the vector instructions of `arch`: loops inlined into it are compiled for them,
/// and `f32::mul_add` becomes one instruction.
///
/// The bound makes a closure given here an `FnOnce`, whose body is then what is called. `dispatch`
/// by itself leaves the kind open, and puts a shim in between that is not inlined in unoptimised
/// builds: the loops would run outside of the dispatched code, fifty times slower.
#[inline(always)]
pub(crate) fn vectorised(arch: pulp::Arch, f: impl FnOnce()) {
    struct Body<F>(F);

    impl<F: FnOnce()> pulp::NullaryFnOnce for Body<F> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            (self.0)();
        }
    }

    arch.dispatch(Body(f));
}

/// Calls `f(first_row, rows)` for stretches of rows of `values`, on all threads of the pool,
/// [`vectorised`] for this machine.
pub(crate) fn for_row_blocks(
    values: &mut [f32],
    row_len: usize,
    f: impl Fn(usize, &mut [f32]) + Sync,
) {
    let arch = pulp::Arch::new();
    values
        .par_chunks_mut(ROWS_PER_TASK * row_len.max(1))
        .enumerate()
        .for_each(|(block, rows)| {
            vectorised(
                arch,
                #[inline(always)]
                || f(block * ROWS_PER_TASK, rows),
            )
        });
}

/// As [`for_row_blocks`], for an op that writes two tensors of one shape:
/// `f(first_row, rows_of_a, rows_of_b)`.
pub(crate) fn for_row_block_pairs(
    a: &mut [f32],
    b: &mut [f32],
    row_len: usize,
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    let arch = pulp::Arch::new();
    let block_len = ROWS_PER_TASK * row_len.max(1);
    a.par_chunks_mut(block_len)
        .zip(b.par_chunks_mut(block_len))
        .enumerate()
        .for_each(|(block, (a, b))| {
            vectorised(
                arch,
                #[inline(always)]
                || f(block * ROWS_PER_TASK, a, b),
            )
        });
}
