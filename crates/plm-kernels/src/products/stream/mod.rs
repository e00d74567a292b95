//! Products of a Hopper with 16-bit weights that layer norms are part of.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, PushKernelArg};
use candle_core::{DType, Result, Tensor, bail};
use half::{bf16, f16};

use super::tiles::{
    self, Bias, Factors, Gelu, Normalised, Nothing, ResidualMoments, Rotary, Swiglu, Then, Tile,
};
use crate::contract::HOPPER_HEAD_DIM;
use crate::cpu::check_shape;
use crate::cuda::{
    Format, Gpu, Mapped, Module, address, check_vectors, cuda, generation, kernel, module,
    rows_config, tensor, view,
};
use crate::{QueryKeyNorm, VarlenAttention};

static KERNELS: Module = module!("products_stream_hopper");

// The table of generations says from which width on these are used, and the kernel what it takes.
const _: () = match crate::Generation::HOPPER.stream_from {
    Some(least) => assert!(least == Tile::Narrow.least_inputs()),
    None => panic!(),
};

/// Rows of the residual stream, and of each what a layer norm needs to know.
#[derive(Clone, Debug)]
pub struct Stream {
    /// `[rows, hidden]`, in 16 bits.
    rows: Tensor,
    /// `[parts, rows, 2]`, in f32: the sum of some of a row's numbers, and of their squares.
    moments: Tensor,
}

/// A matrix of weights on a Hopper in 16 bits, and a bias, for a product with rows of the residual
/// stream over their deviation, or for one that is added to that stream.
#[derive(Clone, Debug)]
pub struct StreamLinear {
    /// `[outputs, inputs]`.
    weight: Tensor,
    /// `[outputs]`, in f32.
    bias: Tensor,
}

impl Stream {
    /// Of `rows` `[rows, hidden]`, f16 or bf16 on a Hopper.
    ///
    /// # Errors
    /// If shapes, formats or devices do not fit.
    pub fn new(rows: Tensor) -> Result<Self> {
        let moments = match rows.dtype() {
            DType::F16 => moments::<f16>(&rows),
            _ => moments::<bf16>(&rows),
        }?;
        Ok(Self { rows, moments })
    }

    /// `[rows, hidden]`.
    pub fn rows(&self) -> &Tensor {
        &self.rows
    }
}

impl StreamLinear {
    /// What the number of outputs is a multiple of.
    pub const OUTPUTS_MULTIPLE: usize = HOPPER_HEAD_DIM;

    /// Whether these are there, and the thing to use, for rows of `hidden` numbers in `dtype` on
    /// `gpu`, and for `ffn` between the two feed-forward products.
    ///
    /// # Errors
    /// If the driver fails.
    pub fn suits(gpu: &Gpu, dtype: DType, hidden: usize, ffn: usize) -> Result<bool> {
        let fits = dtype.size_in_bytes() == 2
            && [hidden, ffn]
                .iter()
                .all(|width| width.is_multiple_of(Self::OUTPUTS_MULTIPLE));
        let stream_from = gpu.generation()?.stream_from;
        Ok(fits && stream_from.is_some_and(|least| hidden >= least))
    }

    /// With `weight` `[outputs, inputs]`, f16 or bf16, and `bias` `[outputs]`, f32, both on a GPU.
    /// `outputs` is a multiple of [`OUTPUTS_MULTIPLE`](Self::OUTPUTS_MULTIPLE) and `inputs` of 8.
    ///
    /// A layer norm's gain is in the weight, then, and its shift in the bias. Its mean is taken
    /// away by nothing: where rows are to be taken over their deviation, those of the weight must
    /// have a mean of zero, or else those of the stream.
    ///
    /// # Errors
    /// If shapes, formats or devices do not fit, or the GPU is no Hopper.
    pub fn new(weight: Tensor, bias: Tensor) -> Result<Self> {
        let op = "stream";
        let (outputs, inputs) = weight.dims2()?;
        if !outputs.is_multiple_of(Self::OUTPUTS_MULTIPLE) {
            bail!("{op}: there is no kernel for {outputs} outputs");
        }
        check_vectors::<f16>(op, inputs)?;
        if !matches!(weight.dtype(), DType::F16 | DType::BF16) {
            bail!("{op}: {:?} is none of f16 and bf16", weight.dtype());
        }
        address::<f32>(op, "bias", &bias, &[outputs], &weight)?;
        let generation = generation(weight.device().as_cuda_device()?.cuda_stream().context())?;
        if generation.stream_from.is_none() {
            bail!(
                "{op}: there are no kernels for the generation {}",
                generation.name
            );
        }
        Ok(Self { weight, bias })
    }

    /// GELU(`x` `[rows, inputs]` over its deviation times the weight transposed + bias): `[rows,
    /// outputs]`. `eps` is added to the variance.
    ///
    /// # Errors
    /// If shapes, formats or devices do not fit.
    pub fn forward_gelu(&self, x: &Stream, eps: f32) -> Result<Tensor> {
        self.normalised(x, eps, &Gelu::default())
    }

    /// SwiGLU(`x` `[rows, inputs]` over its deviation times the weight transposed + bias): `[rows,
    /// outputs / 2]`. `eps` is added to the variance. Of each 64 outputs, the first 32 are gates,
    /// and the others their values: [`interleave_gates`](Self::interleave_gates) makes such a
    /// weight.
    ///
    /// # Errors
    /// If shapes, formats or devices do not fit.
    pub fn forward_swiglu(&self, x: &Stream, eps: f32) -> Result<Tensor> {
        self.normalised(x, eps, &Swiglu::default())
    }

    /// Rows of `gates` and of `values`, both `[rows, ..]`, in the order that
    /// [`forward_swiglu`](Self::forward_swiglu) takes outputs in: `[2 * rows, ..]`. The number of
    /// rows is a multiple of 32.
    ///
    /// # Errors
    /// If shapes or formats do not fit.
    pub fn interleave_gates(gates: &Tensor, values: &Tensor) -> Result<Tensor> {
        const TOGETHER: usize = HOPPER_HEAD_DIM / 2;

        let rows = gates.dim(0)?;
        let in_stretches = |x: &Tensor| x.reshape((rows / TOGETHER, TOGETHER, ()));
        let both = Tensor::cat(&[in_stretches(gates)?, in_stretches(values)?], 1)?;
        let mut dims = gates.dims().to_vec();
        dims[0] *= 2;
        both.reshape(dims)
    }

    /// `attention` of the projection of `x` `[total_tokens, hidden]`, over its deviation, by this
    /// weight `[3 * hidden, hidden]` and bias, of which `norm` normalises queries and keys:
    /// `[total_tokens, hidden]`. `eps` is added to the variance of `x`.
    ///
    /// # Errors
    /// Those of [`VarlenAttention::forward`], or if [`QueryKeyNorm::suits`] says no.
    pub fn forward_normalised_attention(
        &self,
        x: &Stream,
        eps: f32,
        norm: &QueryKeyNorm,
        attention: &VarlenAttention<'_>,
    ) -> Result<Tensor> {
        let qkv = self.project(x, eps)?;
        norm.rotate_inplace(&qkv, attention)?;
        attention.forward_rotated(&qkv)
    }

    /// `attention` of the projection of `x` `[total_tokens, hidden]`, over its deviation, by this
    /// weight `[3 * hidden, hidden]` and bias: `[total_tokens, hidden]`. `eps` is added to the
    /// variance.
    ///
    /// # Errors
    /// Those of [`VarlenAttention::forward`].
    pub fn forward_attention(
        &self,
        x: &Stream,
        eps: f32,
        attention: &VarlenAttention<'_>,
    ) -> Result<Tensor> {
        let (outputs, hidden) = self.weight.dims2()?;
        let rows = &x.rows;
        if outputs == 3 * hidden && hidden == attention.num_heads * HOPPER_HEAD_DIM {
            let then = Rotary::new(attention, rows.layout(), rows)?;
            return attention.forward_rotated(&self.normalised(x, eps, &then)?);
        }
        let no_bias = Tensor::zeros(outputs, rows.dtype(), rows.device())?;
        attention.forward(&self.project(x, eps)?, &no_bias)
    }

    /// The projection of `x` `[rows, inputs]`, over its deviation, by this weight and bias: `[rows,
    /// outputs]`. `eps` is added to the variance.
    pub(super) fn project(&self, x: &Stream, eps: f32) -> Result<Tensor> {
        self.normalised(x, eps, &Nothing::default())
    }

    /// `stream` `[rows, outputs]` + `x` `[rows, inputs]` times the weight transposed + bias: added
    /// in f32 and rounded once.
    ///
    /// # Errors
    /// If shapes, formats or devices do not fit.
    pub fn forward_onto(&self, stream: &Tensor, x: &Tensor) -> Result<Stream> {
        let op = "stream";
        let (rows, outputs) = (x.dims2()?.0, self.weight.dims()[0]);
        let residual = match x.dtype() {
            DType::F16 => address::<f16>(op, "stream", stream, &[rows, outputs], x),
            _ => address::<bf16>(op, "stream", stream, &[rows, outputs], x),
        }?;
        let device = x.device().as_cuda_device()?;
        let parts = outputs.div_ceil(self.tile()?.outputs());
        // SAFETY: the kernel writes every element: each tile of outputs the sums of all rows.
        let moments = unsafe { device.alloc::<f32>(parts * rows * 2) }?;
        let then = ResidualMoments {
            residual,
            moments: moments.device_ptr(&device.cuda_stream()).0,
        };
        let rows_after = match x.dtype() {
            DType::F16 => self.multiply::<f16, _, _>(x, Bias::new, &then),
            _ => self.multiply::<bf16, _, _>(x, Bias::new, &then),
        }?;
        Ok(Stream {
            rows: rows_after,
            moments: tensor(moments, device, (parts, rows, 2)),
        })
    }

    fn tile(&self) -> Result<Tile> {
        let (outputs, inputs) = self.weight.dims2()?;
        Ok(Tile::of(inputs, outputs))
    }

    fn normalised<F: Then>(&self, x: &Stream, eps: f32, then: &F) -> Result<Tensor> {
        let op = "stream";
        let (parts, rows, _) = x.moments.dims3()?;
        let width = x.rows.dims2()?.1;
        let moments = address::<f32>(op, "moments", &x.moments, &[parts, rows, 2], &x.rows)?;
        match x.rows.dtype() {
            DType::F16 => {
                let factors = |bias| Normalised::new(bias, (moments, parts), width, eps);
                self.multiply::<f16, _, _>(&x.rows, factors, then)
            }
            _ => {
                let factors = |bias| Normalised::new(bias, (moments, parts), width, eps);
                self.multiply::<bf16, _, _>(&x.rows, factors, then)
            }
        }
    }

    fn multiply<T: Format + Mapped, A: Factors<Operand = T>, F: Then>(
        &self,
        x: &Tensor,
        factors: impl FnOnce(u64) -> A,
        then: &F,
    ) -> Result<Tensor> {
        let op = "stream";
        let (outputs, inputs) = self.weight.dims2()?;
        let rows = x.dims2()?.0;
        check_shape(op, "x", x.layout(), &[rows, inputs])?;
        address::<T>(op, "weight", &self.weight, &[outputs, inputs], x)?;
        let bias = address::<f32>(op, "bias", &self.bias, &[outputs], x)?;
        let device = x.device().as_cuda_device()?;
        let (x, x_layout) = x.storage_and_layout();
        let (weight, weight_layout) = self.weight.storage_and_layout();
        let x = view::<T>(op, "x", cuda(op, &x)?, x_layout)?;
        let weight = view::<T>(op, "weight", cuda(op, &weight)?, weight_layout)?;
        let dims = (rows, inputs, outputs);
        let tile = self.tile()?;
        let y = tiles::linear::<_, _, T>(device, &x, &weight, &factors(bias), then, dims, tile)?;
        Ok(tensor(y, device, (rows, outputs / F::OUTPUTS_PER_COLUMN)))
    }
}

/// `[1, rows, 2]`.
fn moments<T: Format>(rows: &Tensor) -> Result<Tensor> {
    let op = "moments";
    let (count, width) = rows.dims2()?;
    let device = rows.device().as_cuda_device()?;
    let (storage, layout) = rows.storage_and_layout();
    let x = view::<T>(op, "x", cuda(op, &storage)?, layout)?;
    // SAFETY: the kernel writes every element: its grid has all rows.
    let mut moments = unsafe { device.alloc::<f32>(count * 2) }?;
    let config = rows_config::<T>(op, count, width)?;
    if count > 0 {
        let function = kernel(device, &KERNELS, &format!("{op}_{}", T::NAME))?;
        let stream = device.cuda_stream();
        let (kernel_rows, kernel_width) = (count as i32, width as i32);
        let mut launch = stream.launch_builder(&function);
        launch
            .arg(&x)
            .arg(&mut moments)
            .arg(&kernel_rows)
            .arg(&kernel_width);
        // SAFETY: `moments_*` takes `x` `[rows, width]`, `moments` `[rows, 2]` and two ints, in
        // vectors of which `width` is a multiple. Both live until it is queued.
        unsafe { launch.launch(config) }.w()?;
    }
    Ok(tensor(moments, device, (1, count, 2)))
}
