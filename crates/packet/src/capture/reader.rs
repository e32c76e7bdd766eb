//! The reader of captures.

use std::fmt;
use std::io::Read;
use std::ops::Range;

use tapedeck_model::{Scope, Timestamp};

use super::error::CaptureError;
use super::pcap::Pcap;
use super::pcapng::{self, Pcapng};
use super::snoop::{self, Snoop};
use super::source::Source;
use super::window::Window;
use crate::link::{LinkType, RawPacket};

/// The longest packet that is read. Linux's BIG TCP makes packets of 512 KiB; capture programs stop
/// at 256 KiB. More is a damaged length field, and would otherwise be believed up to 4 GiB.
pub(super) const MAX_PACKET: usize = 4 << 20;

/// Reads the packets of a capture, in order, from any byte stream.
///
/// What the stream is shows its content: pcap in both byte orders, with microseconds or
/// nanoseconds; pcapng; snoop; any of them within gzip or zstd.
///
/// ```
/// # use tapedeck_testkit::{Conversation, pcap_of};
/// # let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:80");
/// # talk.client(b"GET / HTTP/1.1\r\n\r\n");
/// # let file = &pcap_of(&talk.segments)[..];
/// use tapedeck_packet::{CaptureReader, Decoded, decode};
///
/// let mut reader = CaptureReader::open(file)?;
/// while let Some(packet) = reader.next_packet()? {
///     if let Decoded::Segment(segment) = decode(&packet) {
///         assert_eq!(segment.payload, b"GET / HTTP/1.1\r\n\r\n");
///     }
/// }
/// # Ok::<(), tapedeck_packet::CaptureError>(())
/// ```
pub struct CaptureReader<R: Read> {
    window: Window<Source<R>>,
    format: Format,
    done: bool,
}

enum Format {
    Pcap(Pcap),
    Pcapng(Pcapng),
    Snoop(Snoop),
}

impl<R: Read> CaptureReader<R> {
    /// Reads the beginning of a capture.
    ///
    /// # Errors
    /// When it is not a capture, is empty or cut within its header, or holds nothing but packets of
    /// an unknown link type.
    pub fn open(input: R) -> Result<Self, CaptureError> {
        let source =
            Source::open(input).map_err(|source| CaptureError::Read { offset: 0, source })?;
        let mut window = Window::new(source);
        let start = window.peek(4)?;
        if start.is_empty() {
            return Err(CaptureError::Empty);
        }
        let Some(magic) = start.first_chunk().copied() else {
            return Err(CaptureError::NotACapture {
                start: start.to_vec(),
            });
        };
        let format = if magic == pcapng::SECTION {
            Format::Pcapng(Pcapng::new())
        } else if magic == snoop::MAGIC {
            Format::Snoop(Snoop::open(&mut window)?)
        } else if let Some(variant) = Pcap::probe(magic) {
            Format::Pcap(Pcap::open(variant, &mut window)?)
        } else {
            return Err(CaptureError::NotACapture {
                start: magic.to_vec(),
            });
        };
        Ok(Self {
            window,
            format,
            done: false,
        })
    }

    /// The next packet; `None` at the end.
    ///
    /// # Errors
    /// Once, where the capture is cut, damaged or unreadable; every packet before that place was
    /// returned, and `None` follows.
    pub fn next_packet(&mut self) -> Result<Option<RawPacket<'_>>, CaptureError> {
        if self.done {
            return Ok(None);
        }
        let found = match &mut self.format {
            Format::Pcap(pcap) => pcap.next(&mut self.window),
            Format::Pcapng(pcapng) => pcapng.next(&mut self.window),
            Format::Snoop(snoop) => snoop.next(&mut self.window),
        };
        let Some(Found {
            at,
            link,
            data,
            wire_len,
        }) = found.inspect_err(|_| self.done = true)?
        else {
            self.done = true;
            return Ok(None);
        };
        let data = self.window.bytes(data);
        // Some writers leave the length on the wire at 0.
        let wire_len = wire_len.max(u32::try_from(data.len()).unwrap_or(u32::MAX));
        Ok(Some(RawPacket {
            at,
            link,
            data,
            wire_len,
            scope: Scope(0),
        }))
    }

    /// How many bytes of the (decompressed) capture were read as packets.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.window.offset()
    }

    /// Packets that the capturing side says it dropped (pcapng interface statistics, snoop records),
    /// so far.
    #[must_use]
    pub fn dropped_packets(&self) -> u64 {
        match &self.format {
            Format::Pcap(_) => 0,
            Format::Pcapng(pcapng) => pcapng.dropped(),
            Format::Snoop(snoop) => snoop.dropped(),
        }
    }

    /// Link types, of interfaces described so far, whose packets [`decode`](crate::decode()) cannot
    /// read: worth one warning. (A pcap file of such a type does not open.)
    #[must_use]
    pub fn unknown_links(&self) -> &[LinkType] {
        match &self.format {
            Format::Pcap(_) | Format::Snoop(_) => &[],
            Format::Pcapng(pcapng) => pcapng.unknown_links(),
        }
    }

    /// The TLS key log text of the decryption secrets blocks so far (pcapng), line by line.
    #[must_use]
    pub fn tls_key_log(&self) -> &[u8] {
        match &self.format {
            Format::Pcap(_) | Format::Snoop(_) => &[],
            Format::Pcapng(pcapng) => pcapng.secrets(),
        }
    }
}

impl<R: Read> fmt::Debug for CaptureReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            window,
            format,
            done,
        } = self;
        let format = match format {
            Format::Pcap(_) => "pcap",
            Format::Pcapng(_) => "pcapng",
            Format::Snoop(_) => "snoop",
        };
        f.debug_struct("CaptureReader")
            .field("format", &format)
            .field("offset", &window.offset())
            .field("done", done)
            .finish_non_exhaustive()
    }
}

/// A packet by its place in the window's buffer.
pub(super) struct Found {
    pub(super) at: Timestamp,
    pub(super) link: LinkType,
    pub(super) data: Range<usize>,
    pub(super) wire_len: u32,
}

/// The byte order that a file is written in.
#[derive(Clone, Copy)]
pub(super) enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    pub(super) const fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    pub(super) const fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    pub(super) const fn u64(self, bytes: [u8; 8]) -> u64 {
        match self {
            Self::Little => u64::from_le_bytes(bytes),
            Self::Big => u64::from_be_bytes(bytes),
        }
    }
}
