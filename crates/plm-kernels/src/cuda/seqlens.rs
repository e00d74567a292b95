//! Where sequences begin and end, on a device.

use std::sync::{Arc, Mutex};

use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::{CudaDevice, Result};

use crate::CuSeqlens;
use crate::contract::QUERY_TILE;

/// The offsets of a [`CuSeqlens`] on the device of its batch, and the tiles of its attention:
/// uploaded once per batch, for all layers.
#[derive(Debug)]
pub(crate) struct DeviceSeqlens {
    /// `[num_sequences + 1]`.
    pub(crate) offsets: CudaSlice<u32>,
    /// `[total_tokens]`: each token's position in its sequence.
    pub(crate) positions: CudaSlice<u32>,
    /// And how many query rows a tile has.
    tiles: Mutex<(usize, Arc<Tiles>)>,
}

/// Stretches of query rows, counted from each sequence's own start.
#[derive(Debug)]
pub(crate) struct Tiles {
    /// How many there are.
    pub(crate) count: usize,
    /// `[count, 2]`: the sequence, and the first query row, as the kernels' `QueryTile` has them.
    pub(crate) tiles: CudaSlice<u32>,
}

const _: () = {
    assert!(size_of::<[u32; 2]>() == QUERY_TILE.bytes);
    assert!(QUERY_TILE.fields[0].1 == 0 && QUERY_TILE.fields[1].1 == size_of::<u32>());
};

impl DeviceSeqlens {
    /// With the tiles of an attention in tiles of `query_rows`, by `upload`.
    pub(crate) fn new(
        cu_seqlens: &CuSeqlens,
        query_rows: usize,
        upload: impl Fn(&[u32]) -> Result<CudaSlice<u32>>,
    ) -> Result<Self> {
        let tiles = Tiles::new(cu_seqlens, query_rows, &upload)?;
        let positions: Vec<u32> = cu_seqlens
            .ranges()
            .flat_map(|range| 0..range.len() as u32)
            .collect();
        Ok(Self {
            offsets: upload(cu_seqlens.offsets())?,
            positions: upload(&positions)?,
            tiles: Mutex::new((query_rows, Arc::new(tiles))),
        })
    }

    /// The sequences cut into tiles of `query_rows`.
    pub(crate) fn tiles(
        &self,
        cu_seqlens: &CuSeqlens,
        query_rows: usize,
        device: &CudaDevice,
    ) -> Result<Arc<Tiles>> {
        let mut tiles = self
            .tiles
            .lock()
            .expect("nothing panics while it holds the tiles");
        if tiles.0 != query_rows {
            let other = Tiles::new(cu_seqlens, query_rows, |words| device.clone_htod(words))?;
            *tiles = (query_rows, Arc::new(other));
        }
        Ok(tiles.1.clone())
    }
}

impl Tiles {
    fn new(
        cu_seqlens: &CuSeqlens,
        query_rows: usize,
        upload: impl Fn(&[u32]) -> Result<CudaSlice<u32>>,
    ) -> Result<Self> {
        let list: Vec<u32> = cu_seqlens
            .ranges()
            .enumerate()
            .flat_map(|(sequence, range)| {
                let starts = (0..range.len()).step_by(query_rows);
                starts.flat_map(move |start| [sequence as u32, start as u32])
            })
            .collect();
        Ok(Self {
            count: list.len() / 2,
            tiles: upload(&list)?,
        })
    }
}
