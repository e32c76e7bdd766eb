//! How full a BPF ring buffer is.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use super::event_ring::{Mapping, page_size};

/// The positions of a ring buffer's reader and writer.
#[derive(Debug)]
pub(crate) struct RingGauge {
    reader: Mapping,
    writer: Mapping,
    size: u64,
}

impl RingGauge {
    /// Of the ring buffer of that descriptor, which holds `size` bytes.
    pub(crate) fn new(ring: BorrowedFd<'_>, size: u64) -> io::Result<Self> {
        let page = page_size()?;
        Ok(Self {
            reader: Mapping::new(ring, 0, page, libc::PROT_READ)?,
            writer: Mapping::new(ring, page, page, libc::PROT_READ)?,
            size,
        })
    }

    /// Bytes that wait to be read.
    pub(crate) fn waiting(&self) -> u64 {
        let read = self.reader.position().load(Ordering::Acquire);
        let written = self.writer.position().load(Ordering::Acquire);
        written.saturating_sub(read)
    }

    /// Bytes that it holds.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }
}
