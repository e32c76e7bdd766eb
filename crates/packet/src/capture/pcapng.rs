//! pcapng: sections of blocks (draft-ietf-opsawg-pcapng).

use std::io::Read;
use std::ops::Range;

use tapedeck_model::Timestamp;

use super::error::CaptureError;
use super::reader::{ByteOrder, Found, MAX_PACKET};
use super::window::Window;
use crate::link::LinkType;

/// The block type of a section header: a palindrome, so that it reads in both byte orders.
pub(super) const SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// The state of a pcapng file.
pub(super) struct Pcapng {
    order: ByteOrder,
    /// Those of the current section.
    interfaces: Vec<Interface>,
    /// When the previous packet was captured: simple packets have no time of their own.
    last: Timestamp,
    /// Packets that the capturing side dropped, in earlier sections.
    dropped_before: u64,
    secrets: Vec<u8>,
    unknown_links: Vec<LinkType>,
}

mod block {
    pub(super) const INTERFACE: u32 = 1;
    pub(super) const OBSOLETE_PACKET: u32 = 2;
    pub(super) const SIMPLE_PACKET: u32 = 3;
    pub(super) const STATISTICS: u32 = 5;
    pub(super) const ENHANCED_PACKET: u32 = 6;
    pub(super) const SECRETS: u32 = 10;
    pub(super) const SECTION: u32 = 0x0a0d_0d0a;
}

/// The largest block of which more than a packet is read (descriptions, secrets): options of a few
/// MiB are already absurd. Longer blocks of kinds that nobody reads are passed over in pieces.
const MAX_BLOCK: u32 = 16 << 20;
/// Interfaces of one section. A capture of every veth of a large node has some thousands.
const MAX_INTERFACES: usize = 65_536;
/// Key log text kept from decryption secrets blocks: about 100,000 sessions.
const MAX_SECRETS: usize = 32 << 20;
/// Unknown link types that are told apart in the warning.
const MAX_UNKNOWN_LINKS: usize = 16;

impl Pcapng {
    pub(super) const fn new() -> Self {
        Self {
            order: ByteOrder::Little,
            interfaces: Vec::new(),
            last: Timestamp::EPOCH,
            dropped_before: 0,
            secrets: Vec::new(),
            unknown_links: Vec::new(),
        }
    }

    /// What the secrets blocks so far said.
    pub(super) fn secrets(&self) -> &[u8] {
        &self.secrets
    }

    /// Link types of interfaces that cannot be decoded.
    pub(super) fn unknown_links(&self) -> &[LinkType] {
        &self.unknown_links
    }

    /// Packets that the capturing side says it dropped.
    pub(super) fn dropped(&self) -> u64 {
        let here = self.interfaces.iter().map(|interface| interface.dropped);
        here.fold(self.dropped_before, u64::saturating_add)
    }

    /// Reads blocks up to the next packet.
    pub(super) fn next<R: Read>(
        &mut self,
        window: &mut Window<R>,
    ) -> Result<Option<Found>, CaptureError> {
        loop {
            if window.available() == 0 && window.peek(1)?.is_empty() {
                return Ok(None);
            }
            let offset = window.offset();
            let [k0, k1, k2, k3, l0, l1, l2, l3] = *window.need_array("a block")?;
            if [k0, k1, k2, k3] == SECTION {
                self.order = section_order(window)?;
            }
            let kind = self.order.u32([k0, k1, k2, k3]);
            let len = self.order.u32([l0, l1, l2, l3]);
            let max = match kind {
                block::INTERFACE | block::STATISTICS | block::SECRETS | block::SECTION => MAX_BLOCK,
                block::OBSOLETE_PACKET | block::SIMPLE_PACKET | block::ENHANCED_PACKET => {
                    MAX_PACKET as u32
                }
                _ => u32::MAX - 3,
            };
            if !(12..=max).contains(&len) {
                let (len, max) = (len.into(), max.into());
                return Err(CaptureError::BadLength {
                    what: "a block",
                    offset,
                    len,
                    min: 12,
                    max,
                });
            }
            // Some writers forget to pad; every reader rounds up.
            let len = len.next_multiple_of(4);
            let found = match kind {
                block::OBSOLETE_PACKET | block::SIMPLE_PACKET | block::ENHANCED_PACKET => {
                    Some(self.packet(kind, window, offset, len as usize)?)
                }
                block::INTERFACE | block::STATISTICS | block::SECRETS | block::SECTION => {
                    let body = body(window, self.order, offset, len as usize)?;
                    self.description(kind, window.bytes(body), offset)?;
                    None
                }
                _ => {
                    window.skip(len.into(), "a block")?;
                    None
                }
            };
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// A block that is not a packet.
    fn description(&mut self, kind: u32, body: &[u8], offset: u64) -> Result<(), CaptureError> {
        let order = self.order;
        match kind {
            block::SECTION => {
                let Some([_, _, _, _, a0, a1, i0, i1]) = body.first_chunk().copied() else {
                    return Err(CaptureError::Damaged {
                        what: "a short section header",
                        offset,
                    });
                };
                let (major, minor) = (order.u16([a0, a1]), order.u16([i0, i1]));
                if major != 1 {
                    return Err(CaptureError::UnsupportedVersion {
                        format: "pcapng",
                        major,
                        minor,
                    });
                }
                self.dropped_before = self.dropped();
                self.interfaces.clear();
            }
            block::INTERFACE => {
                let Some(interface) = Interface::read(order, body) else {
                    let what = "a short interface description";
                    return Err(CaptureError::Damaged { what, offset });
                };
                if self.interfaces.len() == MAX_INTERFACES {
                    let what = "more interfaces in one section than any machine has";
                    return Err(CaptureError::Damaged { what, offset });
                }
                let link = interface.link;
                if link.name().is_none()
                    && self.unknown_links.len() < MAX_UNKNOWN_LINKS
                    && !self.unknown_links.contains(&link)
                {
                    self.unknown_links.push(link);
                }
                self.interfaces.push(interface);
            }
            block::STATISTICS => self.statistics(body),
            _ => self.keep_secrets(body),
        }
        Ok(())
    }

    /// Interface statistics: counters since the capture began, so that the last block counts.
    fn statistics(&mut self, body: &[u8]) {
        const DROPPED_BY_INTERFACE: u16 = 5;
        const DROPPED_BY_KERNEL: u16 = 7;
        let order = self.order;
        let Some((head, rest)) = body.split_first_chunk::<12>() else {
            return;
        };
        let [n0, n1, n2, n3, ..] = *head;
        let Some(interface) = self
            .interfaces
            .get_mut(order.u32([n0, n1, n2, n3]) as usize)
        else {
            return;
        };
        let dropped = options(order, rest)
            .filter(|(code, _)| matches!(*code, DROPPED_BY_INTERFACE | DROPPED_BY_KERNEL))
            .filter_map(|(_, value)| value.first_chunk().map(|value| order.u64(*value)));
        interface.dropped = dropped.fold(0, u64::saturating_add);
    }

    /// Decryption secrets: only TLS key logs are of use.
    fn keep_secrets(&mut self, body: &[u8]) {
        /// "TLSK"
        const TLS_KEY_LOG: u32 = 0x544c_534b;
        let order = self.order;
        let Some((head, rest)) = body.split_first_chunk::<8>() else {
            return;
        };
        let [k0, k1, k2, k3, l0, l1, l2, l3] = *head;
        let len = order.u32([l0, l1, l2, l3]) as usize;
        if order.u32([k0, k1, k2, k3]) != TLS_KEY_LOG {
            return;
        }
        let text = rest.get(..len).unwrap_or(rest);
        if self.secrets.len().saturating_add(text.len()) < MAX_SECRETS {
            self.secrets.extend_from_slice(text);
            if self.secrets.last().is_some_and(|last| *last != b'\n') {
                self.secrets.push(b'\n');
            }
        }
    }

    /// A packet block of any kind.
    fn packet<R: Read>(
        &mut self,
        kind: u32,
        window: &mut Window<R>,
        offset: u64,
        len: usize,
    ) -> Result<Found, CaptureError> {
        let order = self.order;
        let body = body(window, order, offset, len)?;
        let bytes = window.bytes(body.clone());
        let short = CaptureError::Damaged {
            what: "a packet block without its header",
            offset,
        };
        let Some(header) = PacketHeader::read(kind, order, bytes) else {
            return Err(short);
        };
        let PacketHeader {
            interface,
            ticks,
            captured,
            wire_len,
            fixed,
        } = header;
        let Some(described) = self.interfaces.get(interface as usize) else {
            let known = self.interfaces.len();
            return Err(CaptureError::UnknownInterface {
                offset,
                interface,
                known,
            });
        };
        let room = body.len().saturating_sub(fixed);
        let captured = captured.map_or_else(
            || described.snap(wire_len).min(room),
            |captured| usize::try_from(captured).unwrap_or(usize::MAX),
        );
        if captured > room {
            return Err(CaptureError::BadLength {
                what: "a packet",
                offset,
                len: captured as u64,
                min: 0,
                max: room as u64,
            });
        }
        let at = ticks.map_or(self.last, |ticks| described.time(ticks));
        self.last = at;
        let start = body.start + fixed;
        Ok(Found {
            at,
            link: described.link,
            data: start..start + captured,
            wire_len,
        })
    }
}

/// Consumes a whole block and says where its body is, between the head and the repeated length.
fn body<R: Read>(
    window: &mut Window<R>,
    order: ByteOrder,
    offset: u64,
    len: usize,
) -> Result<Range<usize>, CaptureError> {
    let block = window.need(len, "a block")?;
    let first = block.get(4..8);
    if first.is_none() || block.last_chunk::<4>().map(<[u8; 4]>::as_slice) != first {
        // The two differ by padding with writers that forget to pad.
        let repeated = block.last_chunk().map_or(0, |tail| order.u32(*tail));
        if (repeated as usize).checked_next_multiple_of(4) != Some(len) {
            let what = "a block whose two lengths differ";
            return Err(CaptureError::Damaged { what, offset });
        }
    }
    let range = window.consume(len);
    Ok(range.start + 8..range.end - 4)
}

/// The byte order of the section that begins here.
fn section_order<R: Read>(window: &mut Window<R>) -> Result<ByteOrder, CaptureError> {
    const MAGIC: u32 = 0x1a2b_3c4d;
    let offset = window.offset();
    let [_, _, _, _, _, _, _, _, magic @ ..] = *window.need_array::<12>("a section header")?;
    [ByteOrder::Little, ByteOrder::Big]
        .into_iter()
        .find(|order| order.u32(magic) == MAGIC)
        .ok_or(CaptureError::Damaged {
            what: "a section header without its magic number",
            offset,
        })
}

/// The fixed part of a packet block.
struct PacketHeader {
    interface: u32,
    ticks: Option<u64>,
    captured: Option<u32>,
    wire_len: u32,
    fixed: usize,
}

impl PacketHeader {
    fn read(kind: u32, order: ByteOrder, body: &[u8]) -> Option<Self> {
        if kind == block::SIMPLE_PACKET {
            let wire_len = order.u32(*body.first_chunk()?);
            return Some(Self {
                interface: 0,
                ticks: None,
                captured: None,
                wire_len,
                fixed: 4,
            });
        }
        let [
            n0,
            n1,
            n2,
            n3,
            h0,
            h1,
            h2,
            h3,
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
        ] = *body.first_chunk()?;
        let interface = if kind == block::OBSOLETE_PACKET {
            // The other half counts drops.
            order.u16([n0, n1]).into()
        } else {
            order.u32([n0, n1, n2, n3])
        };
        let high = u64::from(order.u32([h0, h1, h2, h3]));
        Some(Self {
            interface,
            ticks: Some(high << 32 | u64::from(order.u32([t0, t1, t2, t3]))),
            captured: Some(order.u32([c0, c1, c2, c3])),
            wire_len: order.u32([w0, w1, w2, w3]),
            fixed: 20,
        })
    }
}

/// An interface of the current section.
struct Interface {
    link: LinkType,
    snaplen: u32,
    resolution: Resolution,
    offset_nanos: i128,
    dropped: u64,
}

/// What one tick is.
#[derive(Clone, Copy)]
enum Resolution {
    Nanos(u64),
    /// Ticks per nanosecond.
    PerNano(u64),
    /// 2^-n seconds.
    Binary(u8),
}

impl Interface {
    fn read(order: ByteOrder, body: &[u8]) -> Option<Self> {
        const IF_TSRESOL: u16 = 9;
        const IF_TSOFFSET: u16 = 14;
        let ([l0, l1, _, _, s0, s1, s2, s3], rest) = body.split_first_chunk()?;
        let mut interface = Self {
            link: LinkType(order.u16([*l0, *l1])),
            snaplen: order.u32([*s0, *s1, *s2, *s3]),
            resolution: Resolution::Nanos(1_000),
            offset_nanos: 0,
            dropped: 0,
        };
        for (code, value) in options(order, rest) {
            match (code, value) {
                (IF_TSRESOL, [exponent, ..]) => {
                    interface.resolution = match exponent {
                        0..=9 => Resolution::Nanos(10_u64.pow(9 - u32::from(*exponent))),
                        // 64 bits of anything finer are less than a nanosecond.
                        10..=127 => 10_u64
                            .checked_pow(u32::from(*exponent) - 9)
                            .map_or(Resolution::Nanos(0), Resolution::PerNano),
                        _ => Resolution::Binary(exponent & 0x7f),
                    };
                }
                (IF_TSOFFSET, value) => {
                    let seconds = value.first_chunk().map_or(0, |value| order.u64(*value));
                    interface.offset_nanos = i128::from(seconds.cast_signed()) * 1_000_000_000;
                }
                _ => {}
            }
        }
        Some(interface)
    }

    fn time(&self, ticks: u64) -> Timestamp {
        let nanos = match self.resolution {
            Resolution::Nanos(nanos) => u128::from(ticks) * u128::from(nanos),
            Resolution::PerNano(per_nano) => u128::from(ticks / per_nano),
            Resolution::Binary(bits) => (u128::from(ticks) * 1_000_000_000) >> bits,
        };
        let nanos = i128::try_from(nanos)
            .unwrap_or(i128::MAX)
            .saturating_add(self.offset_nanos);
        let saturated = if nanos < 0 { i64::MIN } else { i64::MAX };
        Timestamp::from_nanos(i64::try_from(nanos).unwrap_or(saturated))
    }

    /// How much of a packet of that length a simple packet block holds.
    const fn snap(&self, wire_len: u32) -> usize {
        if self.snaplen == 0 || wire_len < self.snaplen {
            wire_len as usize
        } else {
            self.snaplen as usize
        }
    }
}

/// The options of a block, up to the end mark or the first that does not fit.
fn options(order: ByteOrder, mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let ([c0, c1, l0, l1], rest) = bytes.split_first_chunk()?;
        let code = order.u16([*c0, *c1]);
        let len = usize::from(order.u16([*l0, *l1]));
        if code == 0 {
            return None;
        }
        let value = rest.get(..len)?;
        bytes = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((code, value))
    })
}
