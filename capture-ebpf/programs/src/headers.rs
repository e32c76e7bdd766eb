//! The headers of a packet: as much as is needed to know its TCP payload and its ports.

use aya_ebpf::programs::SkBuffContext;
use tapedeck_ebpf_abi::{Counter, flow_hash};

use crate::loss;

const IPV4: u32 = 0x0800_u16.to_be() as u32;
const IPV6: u32 = 0x86dd_u16.to_be() as u32;

const TCP: u8 = 6;

/// IPv6 extension headers (RFC 8200 section 4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;

/// Extension headers that are stepped over: each kind at most once, Destination Options twice.
const MAX_EXTENSIONS: usize = 4;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// What the headers of a TCP segment say.
pub struct Headers {
    /// The length of the packet, from the IP header on.
    pub packet_len: u32,
    /// The length of the TCP payload.
    pub payload_len: u32,
    pub source: u16,
    pub destination: u16,
    /// The TCP flags.
    pub flags: u8,
    /// See [`flow_hash`].
    pub hash: u64,
}

impl Headers {
    /// Whether the segment is the first of its connection.
    #[inline(always)]
    pub fn begins(&self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }

    /// Whether the segment is one of the first two of its connection.
    #[inline(always)]
    pub fn is_handshake(&self) -> bool {
        self.flags & SYN != 0
    }

    /// Whether the segment opens or closes its connection.
    #[inline(always)]
    pub fn opens_or_closes(&self) -> bool {
        self.flags & (SYN | FIN | RST) != 0
    }
}

/// The headers of the packet; `None` where it carries no TCP.
#[inline(always)]
pub fn read(ctx: &SkBuffContext) -> Option<Headers> {
    // The length is that of the skb: a super-packet above 64 KiB has a zero in its IP header.
    let packet_len = ctx.len();
    match ctx.skb.protocol() {
        IPV4 => ipv4(ctx, packet_len),
        IPV6 => ipv6(ctx, packet_len),
        _ => None,
    }
}

#[inline(always)]
fn ipv4(ctx: &SkBuffContext, packet_len: u32) -> Option<Headers> {
    // The shortest TCP packet has exactly these 40 bytes: one load in all common cases.
    let head: [u8; 40] = ctx.load(0).ok()?;
    if head[9] != TCP {
        return None;
    }
    // A later fragment has no TCP header. Sockets send none that matter here, and what arrives at
    // one has been put together.
    if u16::from_be_bytes([head[6], head[7]]) & 0x1fff != 0 {
        return None;
    }
    let tcp = u32::from(head[0] & 0xf) * 4;
    let addresses = ([0, 0, 0, word(&head, 12)], [0, 0, 0, word(&head, 16)]);
    if tcp == 20 {
        let header = [
            head[20], head[21], head[22], head[23], head[24], head[25], head[26], head[27],
            head[28], head[29], head[30], head[31], head[32], head[33],
        ];
        return segment(packet_len, tcp, header, addresses);
    }
    let header: [u8; 14] = ctx.load(tcp as usize).ok()?;
    segment(packet_len, tcp, header, addresses)
}

#[inline(always)]
fn ipv6(ctx: &SkBuffContext, packet_len: u32) -> Option<Headers> {
    let fixed: [u8; 40] = ctx.load(0).ok()?;
    let mut next = fixed[6];
    let mut tcp = 40;
    for _ in 0..MAX_EXTENSIONS {
        if next != HOP_BY_HOP && next != ROUTING && next != DESTINATION {
            break;
        }
        let extension: [u8; 2] = ctx.load(tcp as usize).ok()?;
        next = extension[0];
        tcp += (u32::from(extension[1]) + 1) * 8;
    }
    if next != TCP {
        return None;
    }
    let header: [u8; 14] = ctx.load(tcp as usize).ok()?;
    let addresses = (
        [
            word(&fixed, 8),
            word(&fixed, 12),
            word(&fixed, 16),
            word(&fixed, 20),
        ],
        [
            word(&fixed, 24),
            word(&fixed, 28),
            word(&fixed, 32),
            word(&fixed, 36),
        ],
    );
    segment(packet_len, tcp, header, addresses)
}

/// Four bytes of an address. Their order is the same for both ends, so it does not matter.
#[inline(always)]
fn word(header: &[u8; 40], at: usize) -> u32 {
    u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

#[inline(always)]
fn segment(
    packet_len: u32,
    tcp: u32,
    header: [u8; 14],
    (from, to): ([u32; 4], [u32; 4]),
) -> Option<Headers> {
    let len = tcp + u32::from(header[12] >> 4) * 4;
    let Some(payload_len) = packet_len.checked_sub(len) else {
        loss::count(Counter::Malformed, 1);
        return None;
    };
    let source = u16::from_be_bytes([header[0], header[1]]);
    let destination = u16::from_be_bytes([header[2], header[3]]);
    Some(Headers {
        packet_len,
        payload_len,
        source,
        destination,
        flags: header[13],
        hash: flow_hash(from, to, (source, destination)),
    })
}
