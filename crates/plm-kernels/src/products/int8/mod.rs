//! Products of rows with a matrix of weights, both as 8-bit integers.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, DevicePtr, PushKernelArg};
use candle_core::{DType, Result, Tensor, bail};
use half::bf16;

use super::tiles::{self, Nothing, PositiveGelu, Residual, Rotary, Scales, Then, Tile};
use crate::VarlenAttention;
use crate::contract::HOPPER_HEAD_DIM;
use crate::cpu::check_shape;
use crate::cuda::{
    Module, address, cuda, generation, kernel, max_row_of_block, module, rows_config, tensor, view,
};
use crate::gpu::Int8Limits;

static KERNELS: Module = module!("products_int8_hopper");

const _: () = assert!(Int8Limits::MAX_INPUTS == max_row_of_block::<bf16>());

/// A matrix of weights on a Hopper as 8-bit integers with a scale per output, and a bias, to
/// multiply rows by that become such integers first, with a scale per row. Tensors between products
/// are bf16, sums whole numbers.
#[derive(Clone, Debug)]
pub struct Int8Linear {
    /// `[outputs, inputs]`.
    integers: Tensor,
    /// `[outputs]`.
    scales: Tensor,
    /// `[outputs]`.
    bias: Tensor,
    rows: Int8Rows,
}

/// How the rows that [`Int8Linear`] multiplies become 8-bit integers, with a
/// scale each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Int8Rows {
    /// From -127 to 127, by the largest magnitude of the row.
    Symmetric,
    /// The same, of the row divided by its root mean square, which is `sqrt(mean(x^2) + eps)`.
    Normalised {
        /// The mean square of a row of zeros.
        eps: f32,
    },
    /// Of rows without negative numbers: 256 steps from 0 to the largest of the row.
    Positive,
}

impl Int8Rows {
    /// As the kernels call it.
    fn name(self) -> &'static str {
        match self {
            Self::Symmetric => "symmetric",
            Self::Normalised { .. } => "normalised",
            Self::Positive => "positive",
        }
    }
}

impl Int8Linear {
    /// With a weight of `integers` `[outputs, inputs]`, signed ones by their bytes, times `scales`
    /// `[outputs]`, and `bias` `[outputs]`, for rows that become integers as `rows` says. All is on
    /// a GPU, and f32 but for the bytes. `outputs` is a multiple of
    /// [`Int8Limits::OUTPUTS_MULTIPLE`] and `inputs` of 16, up to
    /// [`Int8Limits::MAX_INPUTS`].
    ///
    /// # Errors
    /// If shapes, formats or devices do not fit, or the GPU is no Hopper.
    pub fn new(integers: Tensor, scales: Tensor, bias: Tensor, rows: Int8Rows) -> Result<Self> {
        let op = "int8";
        let (outputs, inputs) = integers.dims2()?;
        if !outputs.is_multiple_of(Int8Limits::OUTPUTS_MULTIPLE)
            || !inputs.is_multiple_of(16)
            || inputs > Int8Limits::MAX_INPUTS
        {
            bail!("{op}: there is no kernel for {inputs} inputs and {outputs} outputs");
        }
        if integers.dtype() != DType::U8 {
            bail!("{op}: integers are bytes, not {:?}", integers.dtype());
        }
        address::<f32>(op, "scales", &scales, &[outputs], &integers)?;
        address::<f32>(op, "bias", &bias, &[outputs], &integers)?;
        let generation = generation(integers.device().as_cuda_device()?.cuda_stream().context())?;
        if !generation.has_int8 {
            bail!(
                "{op}: there are no kernels for the generation {}",
                generation.name
            );
        }
        Ok(Self {
            integers,
            scales,
            bias,
            rows,
        })
    }

    /// (GELU(`x` `[rows, inputs]` times the weight transposed + bias) + 0.17) times `factors`
    /// `[outputs]`, which are bf16 and positive: `[rows, outputs]`, all of it positive: rows to
    /// take as [`Int8Rows::Positive`].
    ///
    /// # Errors
    /// If shapes, formats or devices do not fit, or this is for [`Int8Rows::Positive`] itself.
    pub fn forward_positive_gelu(&self, x: &Tensor, factors: &Tensor) -> Result<Tensor> {
        self.check_signed()?;
        let outputs = self.integers.dims()[0];
        let factors = address::<bf16>("int8", "factors", factors, &[outputs], x)?;
        self.multiply(x, &PositiveGelu { factors })
    }

    /// `attention` of the projection of `x` `[total_tokens, hidden]` by this weight `[3 * hidden,
    /// hidden]` and bias: `[total_tokens, hidden]`.
    ///
    /// # Errors
    /// Those of [`VarlenAttention::forward`], or if this is for [`Int8Rows::Positive`].
    pub fn forward_attention(&self, x: &Tensor, attention: &VarlenAttention<'_>) -> Result<Tensor> {
        self.check_signed()?;
        let (outputs, hidden) = self.integers.dims2()?;
        if outputs == 3 * hidden && hidden == attention.num_heads * HOPPER_HEAD_DIM {
            let then = Rotary::new(attention, x.layout(), x)?;
            return attention.forward_rotated(&self.multiply(x, &then)?);
        }
        let no_bias = Tensor::zeros(outputs, DType::BF16, x.device())?;
        attention.forward(&self.multiply(x, &Nothing::default())?, &no_bias)
    }

    /// `residual` `[rows, outputs]` + `x` `[rows, inputs]` times the weight transposed + bias.
    ///
    /// # Errors
    /// If shapes, formats or devices do not fit.
    pub fn forward_onto(&self, residual: &Tensor, x: &Tensor) -> Result<Tensor> {
        let dims = [x.dims2()?.0, self.integers.dims()[0]];
        let residual = address::<bf16>("int8", "residual", residual, &dims, x)?;
        self.multiply(x, &Residual { residual })
    }

    /// Positive rows only come where a product is added to the residual stream.
    fn check_signed(&self) -> Result<()> {
        if let Int8Rows::Positive = self.rows {
            bail!("int8: there is no such kernel for positive rows");
        }
        Ok(())
    }

    fn multiply<F: Then>(&self, x: &Tensor, then: &F) -> Result<Tensor> {
        let op = "int8";
        let (outputs, inputs) = self.integers.dims2()?;
        let rows = x.dims2()?.0;
        check_shape(op, "x", x.layout(), &[rows, inputs])?;
        let device = x.device().as_cuda_device()?;
        let (row_integers, row_scales) = quantise(x, self.rows)?;
        let row_scales = row_scales.device_ptr(&device.cuda_stream()).0;
        let [scales, bias] = [&self.scales, &self.bias]
            .map(|each| address::<f32>(op, "weights", each, &[outputs], x));
        let (scales, bias) = (scales?, bias?);
        let (x, x_layout) = row_integers.storage_and_layout();
        let (weight, weight_layout) = self.integers.storage_and_layout();
        let x = view::<u8>(op, "x", cuda(op, &x)?, x_layout)?;
        let weight = view::<u8>(op, "weight", cuda(op, &weight)?, weight_layout)?;
        let dims = (rows, inputs, outputs);
        let y: CudaSlice<bf16> = match self.rows {
            Int8Rows::Symmetric | Int8Rows::Normalised { .. } => {
                let scales = Scales::<true>::new(row_scales, scales, bias);
                tiles::linear(device, &x, &weight, &scales, then, dims, Tile::Wide)
            }
            Int8Rows::Positive => {
                let scales = Scales::<false>::new(row_scales, scales, bias);
                tiles::linear(device, &x, &weight, &scales, then, dims, Tile::Wide)
            }
        }?;
        Ok(tensor(y, device, (rows, outputs)))
    }
}

/// The rows of `x` `[rows, width]` as 8-bit integers, by their bytes, and their scales.
fn quantise(x: &Tensor, rows: Int8Rows) -> Result<(Tensor, CudaSlice<f32>)> {
    let op = "quantise";
    let (count, width) = x.dims2()?;
    let device = x.device().as_cuda_device()?;
    let (storage, layout) = x.storage_and_layout();
    let x: CudaView<'_, bf16> = view(op, "x", cuda(op, &storage)?, layout)?;
    // SAFETY: the kernel writes every element: its grid has all rows.
    let mut integers = unsafe { device.alloc::<u8>(count * width) }?;
    // SAFETY: the kernel writes the scale of every row.
    let mut scales = unsafe { device.alloc::<f32>(count) }?;
    let config = rows_config::<bf16>(op, count, width)?;
    if count > 0 {
        let name = format!("{op}_{}", rows.name());
        let function = kernel(device, &KERNELS, &name)?;
        let stream = device.cuda_stream();
        let eps = match rows {
            Int8Rows::Normalised { eps } => eps,
            Int8Rows::Symmetric | Int8Rows::Positive => 0.0,
        };
        let (kernel_rows, kernel_width) = (count as i32, width as i32);
        let mut launch = stream.launch_builder(&function);
        launch
            .arg(&x)
            .arg(&mut integers)
            .arg(&mut scales)
            .arg(&kernel_rows)
            .arg(&kernel_width)
            .arg(&eps);
        // SAFETY: `quantise_*` takes `x` `[rows, width]`, `integers` `[rows, width]`, `scales`
        // `[rows]`, two ints and a float, in vectors of which `width` is a multiple. All of it
        // lives until the kernel is queued.
        unsafe { launch.launch(config) }.w()?;
    }
    Ok((tensor(integers, device, (count, width)), scales))
}
