//! A window over a stream: contiguous bytes on demand, one buffer.

use std::io::{self, Read};
use std::ops::Range;

use super::error::CaptureError;

/// Reads ahead in pieces of this size: large enough that a read costs nothing per packet, small
/// enough to stay in the second-level cache.
const READ_AHEAD: usize = 256 << 10;

/// The next bytes of a stream.
pub(super) struct Window<R> {
    source: R,
    buffer: Vec<u8>,
    /// `buffer[start..end]` is read but not consumed. `start <= end <= buffer.len()`.
    start: usize,
    end: usize,
    /// How many bytes of the stream lie before `start`.
    offset: u64,
    /// The compressed data ended in the middle.
    is_cut: bool,
}

impl<R: Read> Window<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source,
            buffer: vec![0; READ_AHEAD],
            start: 0,
            end: 0,
            offset: 0,
            is_cut: false,
        }
    }

    /// How many bytes were consumed.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes that are there without reading.
    pub(super) const fn available(&self) -> usize {
        self.end - self.start
    }

    /// The next `len` bytes, or fewer at the end of the stream. They stay unconsumed.
    ///
    /// # Errors
    /// [`CaptureError::CutCompressed`] where there are none because the compressed data was cut: no
    /// capture ends so, even if it does between two packets.
    pub(super) fn peek(&mut self, len: usize) -> Result<&[u8], CaptureError> {
        if self.available() < len {
            self.fill(len)?;
            if self.available() == 0 && self.is_cut {
                return Err(CaptureError::CutCompressed {
                    offset: self.offset,
                });
            }
        }
        let end = self.start.saturating_add(len).min(self.end);
        Ok(self.buffer.get(self.start..end).unwrap_or_default())
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`CaptureError::Cut`] where the stream ends before.
    pub(super) fn need(&mut self, len: usize, what: &'static str) -> Result<&[u8], CaptureError> {
        if self.available() < len {
            self.fill(len)?;
            if self.available() < len {
                return Err(CaptureError::Cut {
                    what,
                    offset: self.offset,
                    needed: len as u64,
                    available: self.available() as u64,
                });
            }
        }
        Ok(self
            .buffer
            .get(self.start..self.start + len)
            .unwrap_or_default())
    }

    /// The next bytes as an array; see [`need`](Self::need).
    pub(super) fn need_array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<&[u8; N], CaptureError> {
        let offset = self.offset;
        let bytes = self.need(N, what)?;
        bytes
            .first_chunk()
            .ok_or(CaptureError::Damaged { what, offset })
    }

    /// Consumes bytes that were peeked at, and says where in the buffer they are until the next
    /// call.
    pub(super) fn consume(&mut self, len: usize) -> Range<usize> {
        let len = len.min(self.available());
        let range = self.start..self.start + len;
        self.start += len;
        self.offset += len as u64;
        range
    }

    /// Consumes `len` bytes without looking at them, however many.
    pub(super) fn skip(&mut self, mut len: u64, what: &'static str) -> Result<(), CaptureError> {
        let (offset, needed) = (self.offset, len);
        loop {
            let step = usize::try_from(len)
                .unwrap_or(usize::MAX)
                .min(self.available());
            self.consume(step);
            len -= step as u64;
            if len == 0 {
                return Ok(());
            }
            if self.peek(1)?.is_empty() {
                return Err(CaptureError::Cut {
                    what,
                    offset,
                    needed,
                    available: needed - len,
                });
            }
        }
    }

    /// Bytes that [`consume`](Self::consume) spoke of.
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.buffer.get(range).unwrap_or_default()
    }

    #[cold]
    fn fill(&mut self, len: usize) -> Result<(), CaptureError> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        while self.end < len {
            let Some(free) = self.buffer.get_mut(self.end..) else {
                break;
            };
            match self.source.read(free) {
                Ok(0) => break,
                Ok(n) => self.end += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Only decompression says so. What it gave before is good.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.is_cut = true;
                    break;
                }
                Err(source) => {
                    let offset = self.offset + self.end as u64;
                    return Err(CaptureError::Read { offset, source });
                }
            }
        }
        Ok(())
    }
}
