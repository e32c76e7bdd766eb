//! snoop: what Solaris and its descendants write (RFC 1761).

use std::io::Read;

use tapedeck_model::Timestamp;

use super::error::CaptureError;
use super::reader::{ByteOrder, Found, MAX_PACKET};
use super::window::Window;
use crate::link::LinkType;

/// The first four of the eight bytes that such a file begins with.
pub(super) const MAGIC: [u8; 4] = *b"snoo";

/// What the file's header says.
pub(super) struct Snoop {
    link: LinkType,
    /// Packets that the capturing side dropped: each record says how many, from the beginning.
    dropped: u64,
}

const ORDER: ByteOrder = ByteOrder::Big;

impl Snoop {
    /// Reads the file's header.
    pub(super) fn open<R: Read>(window: &mut Window<R>) -> Result<Self, CaptureError> {
        let header = *window.need_array::<16>("the file header")?;
        let [name @ .., _, _, _, _, _, _, _, _] = header;
        let [.., v0, v1, v2, v3, l0, l1, l2, l3] = header;
        if name != *b"snoop\0\0\0" {
            return Err(CaptureError::NotACapture {
                start: name.to_vec(),
            });
        }
        let version = ORDER.u32([v0, v1, v2, v3]);
        if version != 2 {
            return Err(CaptureError::UnsupportedVersion {
                format: "snoop",
                major: u16::try_from(version).unwrap_or(u16::MAX),
                minor: 0,
            });
        }
        let link = match ORDER.u32([l0, l1, l2, l3]) {
            // IEEE 802.3, and Ethernet.
            0 | 4 => LinkType::ETHERNET,
            2 => LinkType::IEEE802_5,
            8 => LinkType::FDDI,
            _ => {
                return Err(CaptureError::Damaged {
                    what: "a data link other than Ethernet, Token Ring and FDDI",
                    offset: 12,
                });
            }
        };
        window.consume(16);
        Ok(Self { link, dropped: 0 })
    }

    /// Packets that the capturing side says it dropped.
    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Reads the next packet.
    pub(super) fn next<R: Read>(
        &mut self,
        window: &mut Window<R>,
    ) -> Result<Option<Found>, CaptureError> {
        const WHAT: &str = "a packet";
        const HEADER: usize = 24;
        if window.available() == 0 && window.peek(1)?.is_empty() {
            return Ok(None);
        }
        let offset = window.offset();
        let mut words = [0; HEADER / 4];
        let (bytes, _) = window.need_array::<HEADER>(WHAT)?.as_chunks();
        for (word, bytes) in words.iter_mut().zip(bytes) {
            *word = ORDER.u32(*bytes);
        }
        let [wire_len, len, record, dropped, seconds, micros] = words;
        let (len, record) = (len as usize, record as usize);
        // The record has its header, the packet, and padding of a few bytes.
        if len > MAX_PACKET || !(HEADER + len..=HEADER + len + MAX_PADDING).contains(&record) {
            return Err(CaptureError::BadLength {
                what: WHAT,
                offset,
                len: record as u64,
                min: (HEADER + len.min(MAX_PACKET)) as u64,
                max: (HEADER + len.min(MAX_PACKET) + MAX_PADDING) as u64,
            });
        }
        window.need(HEADER + len, WHAT)?;
        // The last record of a file that was cut may lack its padding.
        let padding = record - HEADER - len;
        let padding = window
            .peek(record)?
            .len()
            .saturating_sub(HEADER + len)
            .min(padding);
        self.dropped = self.dropped.max(dropped.into());
        window.consume(HEADER);
        let data = window.consume(len);
        window.consume(padding);
        Ok(Some(Found {
            at: Timestamp::from_nanos(
                i64::from(seconds) * 1_000_000_000 + i64::from(micros) * 1_000,
            ),
            link: self.link,
            data,
            wire_len,
        }))
    }
}

/// More than any writer pads with.
const MAX_PADDING: usize = 256;
