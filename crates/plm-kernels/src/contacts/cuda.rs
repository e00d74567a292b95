//! Contacts on any GPU: launches of `generic.cu`.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, LaunchConfig, PushKernelArg};
use candle_core::{CudaDevice, DType, Result, Tensor, bail};
use half::f16;

use super::{ContactHead, check_all_layers, check_next_layer};
use crate::contract::{CONTACT_THREADS, CONTACT_TILE};
use crate::cpu::check_shape;
use crate::cuda::{Format, Module, cuda, for_format, kernel, launch_config, module, tensor, view};
use crate::{CuSeqlens, VarlenAttention};

static KERNELS: Module = module!("contacts_generic");

const OP: &str = "contacts";

/// What is kept of the maps of all sequences, and memory that one layer uses after the other.
pub(super) struct Sums {
    device: CudaDevice,
    layers: usize,
    /// The tiles of residues of the longest sequence.
    tiles: usize,
    /// `[num_sequences]`: where the pairs of each begin.
    pair_offsets: CudaSlice<u64>,
    /// `[num_sequences]`: where the sums by column of each begin, among those of a head.
    column_offsets: CudaSlice<u64>,
    /// The sums by column of a head: of each tile of rows, one for each residue.
    columns_of_head: u64,
    /// The weighted sum of all maps: `L x L` for each sequence.
    maps: CudaSlice<f32>,
    /// `[layers * heads, total_tokens]`: what corrections are products of. Nobody reads those of
    /// special tokens.
    factors: CudaSlice<f32>,
    /// `[heads, total_tokens]`: the highest score of each row of a layer's maps.
    highest: CudaSlice<f32>,
    /// `[heads, total_tokens]`: one over the sum of each row's exponentials.
    shares: CudaSlice<f32>,
    /// `[heads, total_tokens]`: the sum of each row's probabilities, over residues.
    row_sums: CudaSlice<f32>,
    /// `[heads, columns_of_head]`.
    column_sums: CudaSlice<f32>,
}

/// Queries and keys with positions.
struct Projection<'a, T> {
    /// `[total_tokens, stride]`: a row begins with queries and keys.
    x: CudaView<'a, T>,
    stride: usize,
    hidden: usize,
}

impl Sums {
    pub(super) fn new(
        head: &ContactHead,
        cu_seqlens: &CuSeqlens,
        device: &CudaDevice,
    ) -> Result<Self> {
        let residues = || cu_seqlens.residues().map(|rows| rows.len());
        let tiles_of = |residues: usize| residues.div_ceil(CONTACT_TILE);
        let pairs: usize = residues().map(|residues| residues * residues).sum();
        let columns_of_head: usize = residues()
            .map(|residues| tiles_of(residues) * residues)
            .sum();
        let num_sequences = cu_seqlens.num_sequences();
        let rows = head.num_heads * cu_seqlens.total_tokens();
        // SAFETY: kernels write what other kernels read of these, before them on the same stream.
        let unwritten = |len: usize| unsafe { device.alloc::<f32>(len) };
        // SAFETY: as above.
        let offsets = || unsafe { device.alloc::<u64>(num_sequences) };
        let mut sums = Self {
            device: device.clone(),
            layers: 0,
            tiles: tiles_of(residues().max().unwrap_or(0)),
            pair_offsets: offsets()?,
            column_offsets: offsets()?,
            columns_of_head: columns_of_head as u64,
            maps: device.alloc_zeros::<f32>(pairs)?,
            factors: unwritten(head.layers * rows)?,
            highest: unwritten(rows)?,
            shares: unwritten(rows)?,
            row_sums: unwritten(rows)?,
            column_sums: unwritten(head.num_heads * columns_of_head)?,
        };
        let there = cu_seqlens.on_device(device, DType::F32)?;
        let function = kernel(device, &KERNELS, "contact_offsets")?;
        let stream = device.cuda_stream();
        let count = num_sequences as i32;
        let mut launch = stream.launch_builder(&function);
        launch
            .arg(&there.offsets)
            .arg(&count)
            .arg(&mut sums.pair_offsets)
            .arg(&mut sums.column_offsets);
        // SAFETY: `contact_offsets` takes the `num_sequences + 1` offsets of sequences that have
        // residues, their number, and twice `[num_sequences]`, for one warp. All of it lives until
        // the stream has run the kernel.
        unsafe { launch.launch(launch_config(1, 1, 32)) }.w()?;
        Ok(sums)
    }

    /// Adds the maps of a layer whose queries and keys are in `qkv` `[total_tokens, 3 * hidden]`,
    /// and are still to get `bias`, scale and positions, if there is a bias.
    pub(super) fn add_layer(
        &mut self,
        head: &ContactHead,
        cu_seqlens: &CuSeqlens,
        attention: &VarlenAttention<'_>,
        qkv: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<()> {
        check_next_layer(head, self.layers)?;
        let total_tokens = cu_seqlens.total_tokens();
        let (_, width) = qkv.dims2()?;
        check_shape(OP, "qkv", qkv.layout(), &[total_tokens, width])?;
        let dtype = qkv.dtype();
        match bias {
            Some(bias) => {
                let rotated = for_format!(
                    OP,
                    dtype,
                    self.rotated(head, cu_seqlens, attention, qkv, bias)
                )?;
                let projection = Projection {
                    x: rotated.slice(..),
                    stride: 2 * (width / 3),
                    hidden: width / 3,
                };
                self.add(head, cu_seqlens, &projection)?;
            }
            None => for_format!(OP, dtype, self.add_rotated(head, cu_seqlens, qkv))?,
        }
        self.layers += 1;
        Ok(())
    }

    /// Queries and keys `[total_tokens, 2 * hidden]` in f32, with bias, scale and positions.
    fn rotated<T: Format>(
        &self,
        head: &ContactHead,
        cu_seqlens: &CuSeqlens,
        attention: &VarlenAttention<'_>,
        qkv: &Tensor,
        bias: &Tensor,
    ) -> Result<CudaSlice<f32>> {
        let (total_tokens, width) = qkv.dims2()?;
        let hidden = width / 3;
        let head_dim = hidden / head.num_heads;
        let positions = attention.rotary.positions();
        let table = attention.rotary.table();
        check_shape(OP, "bias", bias.layout(), &[width])?;
        check_shape(OP, "rotary", table.layout(), &[2, positions, head_dim / 2])?;
        attention.check_positions()?;
        let there = cu_seqlens.on_device(&self.device, T::DTYPE)?;
        let (qkv, qkv_layout) = qkv.storage_and_layout();
        let (bias, bias_layout) = bias.storage_and_layout();
        let (table, table_layout) = table.storage_and_layout();
        let qkv = view::<T>(OP, "qkv", cuda(OP, &qkv)?, qkv_layout)?;
        let bias = view::<T>(OP, "bias", cuda(OP, &bias)?, bias_layout)?;
        let table = view::<f32>(OP, "rotary", cuda(OP, &table)?, table_layout)?;
        // SAFETY: the kernel writes every element before anything reads it, on the same stream: its
        // grid has all tokens, and a block all columns.
        let mut rotated = unsafe { self.device.alloc::<f32>(total_tokens * 2 * hidden) }?;
        let function = kernel(
            &self.device,
            &KERNELS,
            &format!("contact_rotate_{}", T::NAME),
        )?;
        let stream = self.device.cuda_stream();
        let (positions, hidden, head_dim) = (positions as i32, hidden as i32, head_dim as i32);
        let mut launch = stream.launch_builder(&function);
        launch
            .arg(&qkv)
            .arg(&bias)
            .arg(&table)
            .arg(&there.positions)
            .arg(&positions)
            .arg(&hidden)
            .arg(&head_dim)
            .arg(&mut rotated);
        // SAFETY: `contact_rotate_*` takes `qkv` `[total_tokens, 3 * hidden]`, `bias` `[3 *
        // hidden]`, `rotary` `[2, positions, head_dim / 2]`, the position of each token, which the
        // table has, three ints and `rotated` `[total_tokens, 2 * hidden]`. All of it lives until
        // the stream has run the kernel.
        unsafe { launch.launch(launch_config(total_tokens, 1, CONTACT_THREADS)) }.w()?;
        Ok(rotated)
    }

    fn add_rotated<T: Format>(
        &mut self,
        head: &ContactHead,
        cu_seqlens: &CuSeqlens,
        qkv: &Tensor,
    ) -> Result<()> {
        let (_, width) = qkv.dims2()?;
        let (storage, layout) = qkv.storage_and_layout();
        let projection = Projection {
            x: view::<T>(OP, "qkv", cuda(OP, &storage)?, layout)?,
            stride: width,
            hidden: width / 3,
        };
        self.add(head, cu_seqlens, &projection)
    }

    /// Adds the maps of a layer.
    fn add<T: Format>(
        &mut self,
        head: &ContactHead,
        cu_seqlens: &CuSeqlens,
        projection: &Projection<'_, T>,
    ) -> Result<()> {
        let heads = head.num_heads;
        let (total_tokens, sequences) = (cu_seqlens.total_tokens(), cu_seqlens.num_sequences());
        let there = cu_seqlens.on_device(&self.device, T::DTYPE)?;
        let (storage, layout) = head.weights.storage_and_layout();
        let weights = view::<f32>(OP, "weights", cuda(OP, &storage)?, layout)?;
        let weights = weights.slice(self.layers * heads..(self.layers + 1) * heads);
        let mut factors = self.factors.slice_mut(
            self.layers * heads * total_tokens..(self.layers + 1) * heads * total_tokens,
        );
        let function = |name: &str| kernel(&self.device, &KERNELS, name);
        let stream = self.device.cuda_stream();
        let (stride, hidden) = (projection.stride as i32, projection.hidden as i32);
        let head_dim = hidden / heads as i32;
        let (tokens, count) = (total_tokens as i32, heads as i32);
        let num_sequences = sequences as i32;

        let rows = function(&format!("contact_rows_{}", T::NAME))?;
        let mut launch = stream.launch_builder(&rows);
        launch
            .arg(&projection.x)
            .arg(&stride)
            .arg(&hidden)
            .arg(&head_dim)
            .arg(&there.offsets)
            .arg(&tokens)
            .arg(&mut self.highest)
            .arg(&mut self.shares)
            .arg(&mut self.row_sums);
        // SAFETY: `contact_rows_*` takes `x` `[total_tokens, stride]`, whose rows begin with
        // `hidden` numbers of queries and of keys, three ints, the offsets of the sequences, each
        // of which has residues, an int, and three times `[heads, total_tokens]`. All of it lives
        // until the stream has run the kernel.
        unsafe { launch.launch(grid(sequences, self.tiles, heads)) }.w()?;

        let maps = function(&format!("contact_maps_{}", T::NAME))?;
        let mut launch = stream.launch_builder(&maps);
        launch
            .arg(&projection.x)
            .arg(&stride)
            .arg(&hidden)
            .arg(&head_dim)
            .arg(&there.offsets)
            .arg(&self.pair_offsets)
            .arg(&self.column_offsets)
            .arg(&tokens)
            .arg(&count)
            .arg(&weights)
            .arg(&self.highest)
            .arg(&self.shares)
            .arg(&mut self.maps)
            .arg(&mut self.column_sums)
            .arg(&self.columns_of_head);
        // SAFETY: `contact_maps_*` takes `x` and what says what it is as above, the offsets of the
        // sequences, of their pairs and of their sums by column, two ints, `weights` `[heads]`,
        // what the kernel before has made of the rows, `maps` of all pairs, `column_sums` `[heads,
        // columns_of_head]` and that number. All of it lives until the stream has run the kernel.
        unsafe { launch.launch(grid(sequences, self.tiles, self.tiles)) }.w()?;

        let sums = function("contact_sums")?;
        let mut launch = stream.launch_builder(&sums);
        launch
            .arg(&there.offsets)
            .arg(&self.column_offsets)
            .arg(&num_sequences)
            .arg(&tokens)
            .arg(&self.row_sums)
            .arg(&self.column_sums)
            .arg(&self.columns_of_head)
            .arg(&mut factors);
        let blocks = total_tokens.div_ceil(CONTACT_THREADS);
        // SAFETY: `contact_sums` takes the offsets of the sequences and of their sums by column,
        // two ints, `row_sums` `[heads, total_tokens]`, `column_sums` `[heads, columns_of_head]`,
        // that number, and `factors` `[heads, total_tokens]`. All of it lives until the stream has
        // run the kernel.
        unsafe { launch.launch(launch_config(blocks, heads, CONTACT_THREADS)) }.w()?;

        let divide = function("contact_factors")?;
        let mut launch = stream.launch_builder(&divide);
        launch.arg(&there.offsets).arg(&tokens).arg(&mut factors);
        // SAFETY: `contact_factors` takes the offsets of the sequences, an int and `factors`
        // `[heads, total_tokens]`, which live until the stream has run the kernel.
        unsafe { launch.launch(launch_config(sequences, heads, CONTACT_THREADS)) }.w()?;
        Ok(())
    }

    pub(super) fn finish(
        self,
        head: &ContactHead,
        cu_seqlens: &CuSeqlens,
        dtype: DType,
    ) -> Result<Tensor> {
        check_all_layers(head, self.layers)?;
        match dtype {
            DType::F32 => self.finish_in::<f32>(head, cu_seqlens),
            DType::F16 => self.finish_in::<f16>(head, cu_seqlens),
            other => bail!("{OP}: {other:?} is none of f16 and f32"),
        }
    }

    fn finish_in<To: Format>(&self, head: &ContactHead, cu_seqlens: &CuSeqlens) -> Result<Tensor> {
        let pairs = self.maps.len();
        let there = cu_seqlens.on_device(&self.device, DType::F32)?;
        let (storage, layout) = head.weights.storage_and_layout();
        let weights = view::<f32>(OP, "weights", cuda(OP, &storage)?, layout)?;
        // SAFETY: the kernel writes every element before anything reads it, on the same stream: its
        // grid has the tiles of all sequences.
        let mut contacts = unsafe { self.device.alloc::<To>(pairs) }?;
        let function = kernel(
            &self.device,
            &KERNELS,
            &format!("contact_pairs_{}", To::NAME),
        )?;
        let stream = self.device.cuda_stream();
        let tokens = cu_seqlens.total_tokens() as i32;
        let num_maps = (head.layers * head.num_heads) as i32;
        let mut launch = stream.launch_builder(&function);
        launch
            .arg(&there.offsets)
            .arg(&self.pair_offsets)
            .arg(&tokens)
            .arg(&num_maps)
            .arg(&weights)
            .arg(&head.bias)
            .arg(&self.maps)
            .arg(&self.factors)
            .arg(&mut contacts);
        // SAFETY: `contact_pairs_*` takes the offsets of the sequences and of their pairs, two
        // ints, `weights` `[num_maps]`, a float, `maps` of all pairs, `factors` `[num_maps,
        // total_tokens]` and `contacts` of all pairs. All of it lives until the stream has run the
        // kernel.
        unsafe { launch.launch(grid(cu_seqlens.num_sequences(), self.tiles, self.tiles)) }.w()?;
        Ok(tensor(contacts, &self.device, pairs))
    }
}

/// A grid of sequences, and of `y` and `z` for each.
fn grid(sequences: usize, y: usize, z: usize) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (sequences as u32, y as u32, z as u32),
        block_dim: (CONTACT_THREADS as u32, 1, 1),
        shared_mem_bytes: 0,
    }
}
