//! Products of rows with a matrix of weights by our own kernel for a Hopper, with what stands
//! before and after them in it.
//!
//! `linear.cuh` says how it works. This module must not know which layer a product is of.

mod factors;
mod then;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaView, DevicePtr, LaunchConfig, PushKernelArg,
};
use candle_core::{CudaDevice, Result};

use crate::contract::{
    NARROW_TILE_OUTPUTS, TILE_CLUSTER, TILE_LEAST_INPUTS_PER_OUTPUT, TILE_ROWS, TILE_SHARED_BYTES,
    TILE_THREADS, WIDE_TILE_OUTPUTS,
};
use crate::cuda::{Format, Module, TensorMap, kernel, module, multiprocessors};
pub(crate) use factors::{Bias, Factors, Normalised, Scales};
pub(crate) use then::{
    Gelu, Nothing, PositiveGelu, Residual, ResidualMoments, Rotary, Swiglu, Then,
};

static WIDE: Module = module!("products_tiles_wide_hopper", Some(TILE_SHARED_BYTES));
static NARROW: Module = module!("products_tiles_narrow_hopper", Some(TILE_SHARED_BYTES));
/// The blocks of a cluster.
const CLUSTER: u32 = TILE_CLUSTER as u32;

/// How many outputs a tile has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tile {
    /// There are kernels for all operands.
    Wide,
    /// There are kernels for operands of 16 bits.
    Narrow,
}

impl Tile {
    /// That which multiplies the fewest zeros for a product in 16 bits of these dimensions.
    pub(crate) fn of(inputs: usize, outputs: usize) -> Self {
        let multiplied = |tile: Self| {
            let padded = outputs.next_multiple_of(tile.outputs());
            padded * inputs.max(tile.least_inputs())
        };
        // Among equals, the one that reads its operands less often.
        match multiplied(Self::Narrow) < multiplied(Self::Wide) {
            true => Self::Narrow,
            false => Self::Wide,
        }
    }

    pub(crate) const fn outputs(self) -> usize {
        match self {
            Self::Wide => WIDE_TILE_OUTPUTS,
            Self::Narrow => NARROW_TILE_OUTPUTS,
        }
    }

    /// In fewer inputs, zeros are multiplied.
    pub(crate) const fn least_inputs(self) -> usize {
        self.outputs() * TILE_LEAST_INPUTS_PER_OUTPUT
    }

    fn kernels(self) -> &'static Module {
        match self {
            Self::Wide => &WIDE,
            Self::Narrow => &NARROW,
        }
    }
}

/// `x` `[rows, inputs]` times `weight` `[outputs, inputs]` transposed, and what `factors` and
/// `then` say: `[rows, outputs / F::OUTPUTS_PER_COLUMN]`. `outputs` is a multiple of
/// [`HOPPER_HEAD_DIM`]. The addresses in
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
    tile: Tile,
) -> Result<CudaSlice<Y>> {
    // SAFETY: the kernel writes every element of `y`: its grid goes over all tiles.
    let mut y = unsafe { device.alloc::<Y>(rows * outputs / F::OUTPUTS_PER_COLUMN) }?;
    if rows == 0 {
        return Ok(y);
    }
    let stream = device.cuda_stream();
    let name = format!("linear_{}_{}", F::NAME, A::NAME);
    let function = kernel(device, tile.kernels(), &name)?;
    let (x, _x_use) = x.device_ptr(&stream);
    let (weight, _weight_use) = weight.device_ptr(&stream);
    let x = TensorMap::new::<A::Operand>(x, (rows, inputs), TILE_ROWS)?;
    let weight =
        TensorMap::weights::<A::Operand>(weight, (outputs, inputs), tile.outputs() / TILE_CLUSTER)?;
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
    // outputs` numbers or as many fewer as `then` leaves, and three ints. What the maps have past
    // the ends of their matrices reads as zeros.
    unsafe { launch.launch(config) }.w()?;
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_gets_the_tiles_that_waste_least() {
        use Tile::{Narrow, Wide};
        // The four products of ESM-2 650M and 3B, of ESM C 600M and of 300M.
        let products = [
            (1280, 3840, Wide),
            (1280, 1280, Wide),
            (1280, 5120, Wide),
            (5120, 1280, Wide),
            (2560, 7680, Wide),
            (2560, 2560, Wide),
            (1152, 3456, Narrow),
            (1152, 1152, Narrow),
            (1152, 6144, Wide),
            (3072, 1152, Narrow),
            (960, 2880, Narrow),
            (960, 960, Narrow),
            (960, 5120, Narrow),
            (2560, 960, Narrow),
        ];
        for (inputs, outputs, expected) in products {
            assert_eq!(Tile::of(inputs, outputs), expected, "{inputs}, {outputs}");
        }
    }
}
