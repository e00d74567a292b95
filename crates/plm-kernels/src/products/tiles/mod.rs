//! Products of rows with a matrix of weights by our own kernel for a Hopper, with what stands
//! before and after them in it.
//!
//! `hopper.cu` says how it works. This module must not know which layer a product is of.

mod factors;
mod then;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaView, DevicePtr, LaunchConfig, PushKernelArg,
};
use candle_core::{CudaDevice, Result};

use crate::contract::{TILE_CLUSTER, TILE_ROWS, TILE_SHARED_BYTES, TILE_THREADS};
use crate::cuda::{Format, Module, TensorMap, kernel, module, multiprocessors};
pub(crate) use factors::{Bias, Factors, Normalised, Scales};
pub(crate) use then::{Gelu, Nothing, PositiveGelu, Residual, ResidualMoments, Rotary, Then};

static KERNELS: Module = module!("products_tiles_hopper", Some(TILE_SHARED_BYTES));
/// The blocks of a cluster.
const CLUSTER: u32 = TILE_CLUSTER as u32;

/// `[rows, outputs]`: `x` `[rows, inputs]` times `weight` `[outputs, inputs]` transposed, and what
/// `factors` and `then` say. `outputs` is a multiple of [`HOPPER_HEAD_DIM`]. The addresses in
/// `factors` and `then` are of memory of the shapes that their fields name, for these rows and
/// outputs, which lives until this returns.
///
/// # Errors
/// If there is no memory, or the GPU fails.
pub(crate) fn linear<A: Factors, F: Then, Y: Format>(
    device: &CudaDevice,
    x: &CudaView<'_, A::Operand>,
    weight: &CudaView<'_, A::Operand>,
    factors: &A,
    then: &F,
    (rows, inputs, outputs): (usize, usize, usize),
) -> Result<CudaSlice<Y>> {
    // SAFETY: the kernel writes every element of `y`: its grid goes over all tiles.
    let mut y = unsafe { device.alloc::<Y>(rows * outputs) }?;
    if rows == 0 {
        return Ok(y);
    }
    let stream = device.cuda_stream();
    let name = format!("linear_{}_{}", F::NAME, A::NAME);
    let function = kernel(device, &KERNELS, &name)?;
    let (x, _x_use) = x.device_ptr(&stream);
    let (weight, _weight_use) = weight.device_ptr(&stream);
    let x = TensorMap::new::<A::Operand>(x, (rows, inputs), TILE_ROWS)?;
    let weight = TensorMap::weights::<A::Operand>(weight, (outputs, inputs))?;
    let (rows, inputs, outputs) = (rows as i32, inputs as i32, outputs as i32);
    let mut launch = stream.launch_builder(&function);
    launch
        .arg(&x)
        .arg(&weight)
        .arg(factors)
        .arg(then)
        .arg(&mut y)
        .arg(&rows)
        .arg(&inputs)
        .arg(&outputs);
    let config = LaunchConfig {
        // Whole clusters.
        grid_dim: (multiprocessors(stream.context())? / CLUSTER * CLUSTER, 1, 1),
        block_dim: (TILE_THREADS as u32, 1, 1),
        shared_mem_bytes: TILE_SHARED_BYTES as u32,
    };
    // SAFETY: `linear_*` takes maps of `x` and `weight`, which `x_use` and `weight_use` keep until
    // it is queued, `factors` and `then` by value in the layout of the C++ structs, `y` of `rows *
    // outputs` numbers, and three ints. What the maps have past the ends of their matrices reads as
    // zeros.
    unsafe { launch.launch(config) }.w()?;
    Ok(y)
}
