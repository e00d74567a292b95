//! Copies between host and device that the host does not wait for.
//!
//! The driver copies asynchronously from and to page-locked memory alone, which is slow to get:
//! buffers are used again.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaSlice, CudaStream, CudaView, DevicePtr, DevicePtrMut, PinnedHostSlice, result,
};

/// Page-locked memory, and when the last copy from or to it is over.
#[derive(Debug)]
struct Buffer {
    words: PinnedHostSlice<u32>,
    copied: CudaEvent,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Not before the last copy is over. Of a device that has failed none is under way.
        // SAFETY: the event is alive.
        let _ = unsafe { result::event::synchronize(self.copied.cu_event()) };
    }
}

/// The page-locked buffers of one stream.
#[derive(Clone, Debug)]
pub(super) struct Staging {
    stream: Arc<CudaStream>,
    idle: Arc<Mutex<Vec<Buffer>>>,
}

impl Staging {
    pub(super) fn new(stream: Arc<CudaStream>) -> Self {
        Self {
            stream,
            idle: Arc::default(),
        }
    }

    /// `words` on the device, for what is put on the stream next.
    pub(super) fn upload(&self, words: &[u32]) -> Result<CudaSlice<u32>> {
        let mut buffer = self.take(words.len())?;
        buffer.words.as_mut_slice().w()?[..words.len()].copy_from_slice(words);
        // SAFETY: the copy below writes every element.
        let mut there = unsafe { self.stream.alloc::<u32>(words.len()) }.w()?;
        {
            let (to, _use) = there.device_ptr_mut(&self.stream);
            let from = &buffer.words.as_slice().w()?[..words.len()];
            // SAFETY: both are alive and of this length. The buffer is neither written to again nor
            // freed before `copied`.
            unsafe { result::memcpy_htod_async(to, from, self.stream.cu_stream()) }.w()?;
        }
        self.mark(&buffer)?;
        self.give_back(buffer);
        Ok(there)
    }

    /// Begins to copy `values` to the host.
    pub(super) fn download(&self, values: &CudaView<'_, f32>) -> Result<Download> {
        let len = values.len();
        let mut buffer = self.take(len)?;
        let (from, _use) = values.device_ptr(&self.stream);
        let to = &mut buffer.words.as_mut_slice().w()?[..len];
        // SAFETY: both are alive and of this many 4-byte numbers. Nobody looks at the buffer before
        // `copied`.
        unsafe { result::memcpy_dtoh_async(to, from, self.stream.cu_stream()) }.w()?;
        self.mark(&buffer)?;
        Ok(Download {
            buffer: Some(buffer),
            len,
            staging: self.clone(),
        })
    }

    /// Marks the end of the copy that was put on the stream last.
    fn mark(&self, buffer: &Buffer) -> Result<()> {
        let marked = buffer.copied.record(&self.stream);
        if marked.is_err() {
            // Without the mark nothing but the stream's end tells when the copy is over.
            // SAFETY: the stream is alive.
            let _ = unsafe { result::stream::synchronize(self.stream.cu_stream()) };
        }
        marked.w()
    }

    /// A buffer of `len` words or more that no copy uses.
    fn take(&self, len: usize) -> Result<Buffer> {
        let is_free = |buffer: &Buffer| buffer.words.len() >= len && buffer.copied.is_complete();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(free) = idle.iter().position(is_free) {
            return Ok(idle.swap_remove(free));
        }
        drop(idle);
        let context = self.stream.context();
        let len = len.next_power_of_two().max(1 << 12);
        // SAFETY: words are set before they are read, by the host or by a copy.
        let words = unsafe { context.alloc_pinned_with_flags(len, 0) }.w()?;
        let copied = context.new_event(None).w()?;
        Ok(Buffer { words, copied })
    }

    fn give_back(&self, buffer: Buffer) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(buffer);
    }
}

/// Numbers on their way from the device to the host.
#[derive(Debug)]
pub struct Download {
    /// Until it is given back.
    buffer: Option<Buffer>,
    len: usize,
    staging: Staging,
}

impl Download {
    /// Waits for the numbers: until the device has done all that was asked of it before this
    /// download.
    ///
    /// # Errors
    /// If the device failed in what it did until then.
    pub fn wait(mut self) -> Result<Vec<f32>> {
        let buffer = self.buffer.take().expect("only this takes it, once");
        buffer.copied.synchronize().w()?;
        let words = &buffer.words.as_slice().w()?[..self.len];
        let values = words.iter().map(|&word| f32::from_bits(word)).collect();
        self.staging.give_back(buffer);
        Ok(values)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            // Still being written to, perhaps; `take` sees to that.
            self.staging.give_back(buffer);
        }
    }
}
