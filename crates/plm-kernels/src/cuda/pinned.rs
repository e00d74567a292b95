//! Copies between host and device that the host does not wait for.
//!
//! The driver copies asynchronously from and to page-locked memory alone, which is slow to get:
//! buffers are used again.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, slice};

use candle_core::Result;
use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaSlice, CudaStream, CudaView, DevicePtr, DevicePtrMut, DeviceRepr,
    PinnedHostSlice, result,
};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use half::f16;

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
    pub(super) fn download<T: Downloaded>(&self, values: &CudaView<'_, T>) -> Result<Download<T>> {
        let len = values.len();
        let mut buffer = self.take(words_of::<T>(len))?;
        let (from, _use) = values.device_ptr(&self.stream);
        let words = &mut buffer.words.as_mut_slice().w()?[..words_of::<T>(len)];
        // SAFETY: the words are aligned for values of their size or less, hold `len` of these, and
        // are borrowed for as long as the slice.
        let to = unsafe { slice::from_raw_parts_mut(words.as_mut_ptr().cast::<T>(), len) };
        // SAFETY: both are alive and of this many values. Nobody looks at the buffer before
        // `copied`.
        unsafe { result::memcpy_dtoh_async(to, from, self.stream.cu_stream()) }.w()?;
        self.mark(&buffer)?;
        Ok(Download {
            buffer: Some(buffer),
            len,
            staging: self.clone(),
            values: PhantomData,
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

    /// A buffer of `len` words or more that no copy uses. It is not much larger: batches of tokens
    /// would otherwise take the buffers that rows of residues need.
    fn take(&self, len: usize) -> Result<Buffer> {
        let len = len.next_power_of_two().max(1 << 12);
        let is_free = |buffer: &Buffer| {
            (len..=2 * len).contains(&buffer.words.len()) && buffer.copied.is_complete()
        };
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(free) = idle.iter().position(is_free) {
            return Ok(idle.swap_remove(free));
        }
        drop(idle);
        let context = self.stream.context();
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

/// The words that `len` values of a format take.
fn words_of<T>(len: usize) -> usize {
    (len * size_of::<T>()).div_ceil(size_of::<u32>())
}

/// A number format in which values can be copied to the host.
///
/// # Safety
/// Any bits are a number of the format, and it is aligned as `u32` or less.
pub unsafe trait Downloaded:
    CudaDType + DeviceRepr + Copy + fmt::Debug + Send + 'static
{
}

// SAFETY: any 32 bits are one.
unsafe impl Downloaded for f32 {}
// SAFETY: any 16 bits are one.
unsafe impl Downloaded for f16 {}

/// Values on their way from the device to the host.
#[derive(Debug)]
pub struct Download<T: Downloaded> {
    /// Until it is given back.
    buffer: Option<Buffer>,
    len: usize,
    staging: Staging,
    values: PhantomData<T>,
}

impl<T: Downloaded> Download<T> {
    /// Waits for the values: until the device has done all that was asked of it before this
    /// download. `memory` gives an empty vector with room for as many values as it is asked for.
    ///
    /// # Errors
    /// If the device failed in what it did until then.
    pub fn wait(mut self, memory: impl FnOnce(usize) -> Vec<T>) -> Result<Vec<T>> {
        let buffer = self.buffer.take().expect("only this takes it, once");
        buffer.copied.synchronize().w()?;
        let words = &buffer.words.as_slice().w()?[..words_of::<T>(self.len)];
        // SAFETY: the words are aligned for values of their size or less, and hold `len` of these,
        // which the copy has written. They are borrowed for as long as the slice.
        let there = unsafe { slice::from_raw_parts(words.as_ptr().cast::<T>(), self.len) };
        let mut values = memory(self.len);
        values.extend_from_slice(there);
        self.staging.give_back(buffer);
        Ok(values)
    }
}

impl<T: Downloaded> Drop for Download<T> {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            // Still being written to, perhaps; `take` sees to that.
            self.staging.give_back(buffer);
        }
    }
}
