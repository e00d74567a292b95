//! Reads zstd streams, with all their frames in a row (RFC 8878).

use std::error;
use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// The largest window that is allowed. `zstd` has the same limit by default, and none of its levels
/// needs more.
pub(crate) const MAX_WINDOW_BYTES: u64 = 1 << 27;

/// Whether a stream starts with a frame, or with a skippable one, as pzstd writes.
pub(crate) fn starts_with_frame(head: &[u8]) -> bool {
    head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
        || (head.get(1..4) == Some(&[0x2a, 0x4d, 0x18]) && head[0] & 0xf0 == 0x50)
}

/// The text of a zstd stream. It takes memory for the window that a frame asks for, up to
/// [`MAX_WINDOW_BYTES`].
pub(crate) struct ZstdReader<R> {
    source: R,
    decoder: FrameDecoder,
    /// Whether a frame has started and not ended.
    is_in_frame: bool,
    /// The bytes of the frame's text that have been read.
    frame_text_bytes: u64,
}

impl<R: BufRead> ZstdReader<R> {
    pub(crate) fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW_BYTES);
        Self {
            source,
            decoder,
            is_in_frame: false,
            frame_text_bytes: 0,
        }
    }

    pub(crate) fn into_inner(self) -> R {
        self.source
    }

    /// Starts the next frame; returns `false` if there is none.
    fn start_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => {
                    self.is_in_frame = true;
                    self.frame_text_bytes = 0;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => self.skip(u64::from(length))?,
                Err(error) => return Err(io_error(error)),
            }
        }
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let mut skipped = self.source.by_ref().take(bytes);
        if io::copy(&mut skipped, &mut io::sink())? == bytes {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// Checks the text that was read against the frame's own checksum and size.
    fn end_frame(&mut self) -> io::Result<()> {
        self.is_in_frame = false;
        let written = self.decoder.get_checksum_from_data();
        if written.is_some() && written != self.decoder.get_calculated_checksum() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the checksum does not match",
            ));
        }
        // Zero if the frame does not state its size.
        let content_bytes = self.decoder.content_size();
        if content_bytes != 0 && content_bytes != self.frame_text_bytes {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the size does not match",
            ));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for ZstdReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.is_in_frame {
                if buf.is_empty() || !self.start_frame()? {
                    return Ok(0);
                }
            } else if self.decoder.can_collect() > 0 {
                let count = self.decoder.read(buf)?;
                self.frame_text_bytes += count as u64;
                return Ok(count);
            } else if self.decoder.is_finished() {
                self.end_frame()?;
            } else {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(io_error)?;
            }
        }
    }
}

/// An error of the source as it is, or one of the decoder in one sentence, without repetitions.
fn io_error(error: FrameDecoderError) -> io::Error {
    let mut innermost: &(dyn error::Error + 'static) = &error;
    loop {
        if let Some(of_source) = innermost.downcast_ref::<io::Error>() {
            return match of_source.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None if of_source.kind() == io::ErrorKind::UnexpectedEof => {
                    io::Error::new(io::ErrorKind::UnexpectedEof, "it ends within a frame")
                }
                None => io::Error::new(of_source.kind(), of_source.to_string()),
            };
        }
        if let Some(ReadFrameHeaderError::BadMagicNumber(_)) = innermost.downcast_ref() {
            let message = "what follows its last frame is no frame";
            return io::Error::new(io::ErrorKind::InvalidData, message);
        }
        match innermost.source() {
            Some(source) => innermost = source,
            None => break,
        }
    }
    if let FrameDecoderError::WindowSizeTooBig { .. } = error {
        return io::Error::new(io::ErrorKind::InvalidData, error);
    }
    io::Error::new(io::ErrorKind::InvalidData, innermost.to_string())
}

/// Whether an error of a [`ZstdReader`] is about the compressed bytes, and not about reading them.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData
    )
}

/// The window that a frame asks for, if it is refused for that.
pub(crate) fn window_bytes(error: &io::Error) -> Option<u64> {
    match error.get_ref()?.downcast_ref()? {
        FrameDecoderError::WindowSizeTooBig { requested, .. } => Some(*requested),
        _ => None,
    }
}
