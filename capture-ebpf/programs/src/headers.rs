//! The headers of a packet: as much as is needed to know its TCP payload and its ports.

use core::arch::asm;
use core::mem::offset_of;

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::programs::SkBuffContext;
use tapedeck_ebpf_abi::{Counter, flow_hash_of_folded, fold};

use crate::loss;

const IPV4: u32 = 0x0800_u16.to_be() as u32;
const IPV6: u32 = 0x86dd_u16.to_be() as u32;

const TCP: u8 = 6;

/// The length of IPv6's header without extensions.
const IPV6_HEADER: u32 = 40;

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
    /// Where the TCP header begins.
    tcp: u32,
    pub source: u16,
    pub destination: u16,
    /// The TCP flags.
    pub flags: u8,
    /// See [`tapedeck_ebpf_abi::flow_hash`].
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

    /// Puts the addresses and ports of the socket that sends the segment in the place of those in the
    /// packet, and returns 1 where they are others, else 0: what leaves has been translated already where
    /// its network namespace does that (NAT), while what arrives has been translated back.
    ///
    /// The number comes without a branch, for which the verifier would walk all that follows twice.
    #[inline(always)]
    pub fn set_sender(&mut self, ctx: &SkBuffContext) -> u32 {
        let Some(socket) = socket(ctx) else {
            return 0;
        };
        let (source, destination) = ports(socket);
        let (from, to) = if ctx.skb.protocol() == IPV4 {
            let (from, to) = addresses_v4(socket);
            ([0, 0, 0, from], [0, 0, 0, to])
        } else if self.tcp == IPV6_HEADER {
            addresses_v6(socket)
        } else {
            // Nobody translates packets with extension headers.
            return 0;
        };
        let hash = hash(fold(from), fold(to), source, destination);
        let difference = hash ^ self.hash;
        self.source = source;
        self.destination = destination;
        self.hash = hash;
        ((difference | difference.wrapping_neg()) >> 63) as u32
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
    let mut tcp = IPV6_HEADER;
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
        tcp,
        source,
        destination,
        flags: header[13],
        hash: hash(fold(from), fold(to), source, destination),
    })
}

/// A subprogram: in line there would be one for each kind of header.
#[inline(never)]
fn hash(from: u64, to: u64, source: u16, destination: u16) -> u64 {
    flow_hash_of_folded(from, to, (source, destination))
}

/// The socket that sends the packet; `None` where it is a listening one, which has no other end.
#[inline(always)]
fn socket(ctx: &SkBuffContext) -> Option<*const bpf_sock> {
    // SAFETY: the context is a live skb, the field may be read by this program type, and the socket, if
    // there is one, lives as long.
    let socket: *const bpf_sock = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    // SAFETY: the socket is not null.
    let is_connected = !socket.is_null() && unsafe { half::<DST_PORT>(socket) } != 0;
    is_connected.then_some(socket)
}

const DST_PORT: usize = offset_of!(bpf_sock, dst_port);
const SRC_PORT: usize = offset_of!(bpf_sock, src_port);
const SRC_IP4: usize = offset_of!(bpf_sock, src_ip4);
const DST_IP4: usize = offset_of!(bpf_sock, dst_ip4);
const SRC_IP6: usize = offset_of!(bpf_sock, src_ip6);
const DST_IP6: usize = offset_of!(bpf_sock, dst_ip6);

/// Four bytes of a socket.
///
/// The verifier wants a load of exactly a field's size, at a constant distance from the pointer; LLVM
/// would make one load of two fields, or compute the address first.
///
/// # Safety
///
/// The pointer is to a live socket.
#[inline(always)]
unsafe fn whole<const AT: usize>(socket: *const bpf_sock) -> u32 {
    let value: u64;
    // SAFETY: the caller vouches for the pointer, and the verifier for the place.
    unsafe {
        asm!(
            "{value} = *(u32 *)({socket} + {at})",
            value = out(reg) value,
            socket = in(reg) socket,
            at = const AT,
            options(nostack, preserves_flags, pure, readonly),
        );
    }
    value as u32
}

/// Two bytes of a socket; see [`whole`].
///
/// # Safety
///
/// The pointer is to a live socket.
#[inline(always)]
unsafe fn half<const AT: usize>(socket: *const bpf_sock) -> u16 {
    let value: u64;
    // SAFETY: as above.
    unsafe {
        asm!(
            "{value} = *(u16 *)({socket} + {at})",
            value = out(reg) value,
            socket = in(reg) socket,
            at = const AT,
            options(nostack, preserves_flags, pure, readonly),
        );
    }
    value as u16
}

/// Source and destination.
#[inline(always)]
fn ports(socket: *const bpf_sock) -> (u16, u16) {
    // SAFETY: whoever has a pointer has a live socket.
    unsafe {
        (
            whole::<SRC_PORT>(socket) as u16,
            u16::from_be(half::<DST_PORT>(socket)),
        )
    }
}

/// As they stand in a packet.
#[inline(always)]
fn addresses_v4(socket: *const bpf_sock) -> (u32, u32) {
    // SAFETY: as above.
    unsafe { (whole::<SRC_IP4>(socket), whole::<DST_IP4>(socket)) }
}

/// As they stand in a packet.
#[inline(always)]
fn addresses_v6(socket: *const bpf_sock) -> ([u32; 4], [u32; 4]) {
    // SAFETY: as above.
    unsafe {
        (
            [
                whole::<SRC_IP6>(socket),
                whole::<{ SRC_IP6 + 4 }>(socket),
                whole::<{ SRC_IP6 + 8 }>(socket),
                whole::<{ SRC_IP6 + 12 }>(socket),
            ],
            [
                whole::<DST_IP6>(socket),
                whole::<{ DST_IP6 + 4 }>(socket),
                whole::<{ DST_IP6 + 8 }>(socket),
                whole::<{ DST_IP6 + 12 }>(socket),
            ],
        )
    }
}

/// Writes the addresses and ports of the socket that sends it into a packet.
///
/// A subprogram: it is seldom run, and in line there would be one for each size of a record.
///
/// # Safety
///
/// `packet` is aligned to 4, and 128 bytes from there on may be written.
#[inline(never)]
pub unsafe fn write_sender(ctx: &SkBuffContext, packet: *mut u8) {
    let Some(socket) = socket(ctx) else {
        return;
    };
    let (source, destination) = ports(socket);
    // SAFETY: the caller vouches for the packet; all offsets are below 128, as a header of IPv4 has 60
    // bytes at most.
    unsafe {
        let tcp = if ctx.skb.protocol() == IPV4 {
            let (from, to) = addresses_v4(socket);
            packet.add(12).cast::<u32>().write(from);
            packet.add(16).cast::<u32>().write(to);
            usize::from(packet.read_volatile() & 0xf) * 4
        } else {
            let (from, to) = addresses_v6(socket);
            packet.add(8).cast::<[u32; 4]>().write(from);
            packet.add(24).cast::<[u32; 4]>().write(to);
            IPV6_HEADER as usize
        };
        packet
            .add(tcp)
            .cast::<[u16; 2]>()
            .write([source.to_be(), destination.to_be()]);
    }
}
