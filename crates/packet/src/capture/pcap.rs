//! pcap: a header, then packets (draft-ietf-opsawg-pcap).

use std::io::Read;

use tapedeck_model::Timestamp;

use super::error::CaptureError;
use super::reader::{ByteOrder, Found, MAX_PACKET};
use super::window::Window;
use crate::link::LinkType;

/// What the file's header says.
pub(super) struct Pcap {
    order: ByteOrder,
    nanos_per_tick: i64,
    link: LinkType,
    record_header: usize,
    /// Before version 2.3 the two lengths of a packet stood the other way round, and some writers
    /// of 2.3 kept to that.
    may_be_swapped: bool,
}

impl Pcap {
    /// Whether a file that begins so is a pcap file; how it is written, if so.
    pub(super) fn probe(magic: [u8; 4]) -> Option<Variant> {
        const MICROSECONDS: u32 = 0xa1b2_c3d4;
        const NANOSECONDS: u32 = 0xa1b2_3c4d;
        /// Alexey Kuznetzov's patched libpcap: eight more bytes a packet.
        const MODIFIED: u32 = 0xa1b2_cd34;
        [ByteOrder::Little, ByteOrder::Big]
            .into_iter()
            .find_map(|order| {
                let (nanos_per_tick, record_header) = match order.u32(magic) {
                    MICROSECONDS => (1_000, 16),
                    NANOSECONDS => (1, 16),
                    MODIFIED => (1_000, 24),
                    _ => return None,
                };
                Some(Variant {
                    order,
                    nanos_per_tick,
                    record_header,
                })
            })
    }

    /// Reads the file's header.
    pub(super) fn open<R: Read>(
        variant: Variant,
        window: &mut Window<R>,
    ) -> Result<Self, CaptureError> {
        let Variant {
            order,
            nanos_per_tick,
            record_header,
        } = variant;
        let [
            _,
            _,
            _,
            _,
            a0,
            a1,
            i0,
            i1,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            l0,
            l1,
            l2,
            l3,
        ] = *window.need_array("the file header")?;
        let (major, minor) = (order.u16([a0, a1]), order.u16([i0, i1]));
        if major != 2 {
            return Err(CaptureError::UnsupportedVersion {
                format: "pcap",
                major,
                minor,
            });
        }
        // The upper bits tell of frame check sequences, which IP's own length cuts off.
        let link = LinkType((order.u32([l0, l1, l2, l3]) & 0xffff) as u16);
        // With one link type for the whole file there is nothing to read behind this.
        if link.name().is_none() {
            return Err(CaptureError::UnknownLink(link));
        }
        window.consume(24);
        Ok(Self {
            order,
            nanos_per_tick,
            link,
            record_header,
            may_be_swapped: minor <= 3,
        })
    }

    /// Reads the next packet.
    pub(super) fn next<R: Read>(
        &self,
        window: &mut Window<R>,
    ) -> Result<Option<Found>, CaptureError> {
        const WHAT: &str = "a packet";
        if window.available() == 0 && window.peek(1)?.is_empty() {
            return Ok(None);
        }
        let offset = window.offset();
        let header = window.need(self.record_header, WHAT)?;
        let Some(
            [
                s0,
                s1,
                s2,
                s3,
                t0,
                t1,
                t2,
                t3,
                c0,
                c1,
                c2,
                c3,
                w0,
                w1,
                w2,
                w3,
            ],
        ) = header.first_chunk().copied()
        else {
            return Err(CaptureError::Damaged { what: WHAT, offset });
        };
        let order = self.order;
        let seconds = i64::from(order.u32([s0, s1, s2, s3]));
        let ticks = i64::from(order.u32([t0, t1, t2, t3]));
        let mut len = order.u32([c0, c1, c2, c3]);
        let mut wire_len = order.u32([w0, w1, w2, w3]);
        if self.may_be_swapped && len > wire_len {
            std::mem::swap(&mut len, &mut wire_len);
        }
        let len = len as usize;
        if len > MAX_PACKET {
            return Err(CaptureError::BadLength {
                what: WHAT,
                offset,
                len: len as u64,
                min: 0,
                max: MAX_PACKET as u64,
            });
        }
        window.need(self.record_header + len, WHAT)?;
        window.consume(self.record_header);
        Ok(Some(Found {
            // Neither factor can overflow: 32 bits of seconds are 2^62 nanoseconds.
            at: Timestamp::from_nanos(seconds * 1_000_000_000 + ticks * self.nanos_per_tick),
            link: self.link,
            data: window.consume(len),
            wire_len,
        }))
    }
}

/// How a pcap file is written.
pub(super) struct Variant {
    order: ByteOrder,
    nanos_per_tick: i64,
    record_header: usize,
}
