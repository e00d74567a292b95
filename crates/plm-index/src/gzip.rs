//! Reads gzip as `gzip -d` does: several members in a row, and zeros after the last.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

/// The text of all members of a gzip stream.
///
/// Zeros after the last member are ignored, as gzip, zcat and Python's gzip do: tapes and some
/// copying programs fill files up with them. Anything else there is an error.
pub(crate) struct GzipReader<R: BufRead> {
    /// The member that is being read; `None` only while the next one replaces it.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> GzipReader<R> {
    pub(crate) fn new(stream: R) -> Self {
        Self {
            member: Some(GzDecoder::new(stream)),
        }
    }

    /// The compressed stream.
    pub(crate) fn into_inner(self) -> R {
        self.member.expect(THERE).into_inner()
    }
}

const THERE: &str = "each member is replaced by the next";

impl<R: BufRead> Read for GzipReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let member = self.member.as_mut().expect(THERE);
            let count = member.read(buf)?;
            if count > 0 || buf.is_empty() {
                return Ok(count);
            }
            let stream = member.get_mut();
            match stream.fill_buf()?.first() {
                None => return Ok(0),
                Some(0) => return skip_zeros(stream).map(|()| 0),
                Some(_) => {}
            }
            let stream = self.member.take().expect(THERE).into_inner();
            self.member = Some(GzDecoder::new(stream));
        }
    }
}

/// Reads to the end of a stream, all of whose bytes must be zeros.
fn skip_zeros(stream: &mut impl BufRead) -> io::Result<()> {
    loop {
        let bytes = stream.fill_buf()?;
        if bytes.is_empty() {
            return Ok(());
        }
        if bytes.iter().any(|&byte| byte != 0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "something stands after the zeros that follow its last member",
            ));
        }
        let count = bytes.len();
        stream.consume(count);
    }
}
