//! Where sequences begin and end, on a device.

use std::sync::{Arc, Mutex};

use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::{CudaDevice, Result};

use crate::CuSeqlens;

/// The offsets of a [`CuSeqlens`] on the device of its batch, and the tiles of its attention: uploaded once per
/// batch, for all layers.
#[derive(Debug)]
pub(crate) struct DeviceSeqlens {
    /// `[num_sequences + 1]`.
    pub(crate) offsets: CudaSlice<u32>,
    tiles: Mutex<Option<(usize, Arc<Tiles>)>>,
}

/// Stretches of query rows, counted from each sequence's own start.
#[derive(Debug)]
pub(crate) struct Tiles {
    /// How many there are.
    pub(crate) count: usize,
    /// `[count, 2]`: the sequence, and the first query row.
    pub(crate) tiles: CudaSlice<u32>,
}

impl DeviceSeqlens {
    pub(crate) fn new(offsets: &[u32], device: &CudaDevice) -> Result<Self> {
        Ok(Self {
            offsets: device.clone_htod(offsets)?,
            tiles: Mutex::new(None),
        })
    }

    /// The sequences cut into tiles of `query_rows`.
    pub(crate) fn tiles(
        &self,
        cu_seqlens: &CuSeqlens,
        query_rows: usize,
        device: &CudaDevice,
    ) -> Result<Arc<Tiles>> {
        let mut tiles = self.tiles.lock().expect("nothing panics while it holds the tiles");
        if let Some((rows, tiles)) = &*tiles
            && *rows == query_rows
        {
            return Ok(tiles.clone());
        }
        let list: Vec<u32> = cu_seqlens
            .ranges()
            .enumerate()
            .flat_map(|(sequence, range)| {
                let starts = (0..range.len()).step_by(query_rows);
                starts.flat_map(move |start| [sequence as u32, start as u32])
            })
            .collect();
        let made = Arc::new(Tiles {
            count: list.len() / 2,
            tiles: device.clone_htod(&list)?,
        });
        *tiles = Some((query_rows, made.clone()));
        Ok(made)
    }
}
