//! Segments as the bytes of packets and frames, checksums included.

use std::net::IpAddr;

use tapedeck_model::Segment;

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

/// The TCP header (20 bytes, no options) and payload. A segment with `cut` bytes is written with
/// what was captured of it; [`ip`] states its full length.
#[must_use]
pub fn tcp(segment: &Segment<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(20 + segment.payload.len());
    out.extend(segment.source.port.to_be_bytes());
    out.extend(segment.destination.port.to_be_bytes());
    out.extend(segment.seq.0.to_be_bytes());
    out.extend(segment.ack.0.to_be_bytes());
    out.extend([5 << 4, segment.flags.0]);
    out.extend(0xffff_u16.to_be_bytes());
    out.extend([0, 0, 0, 0]);
    out.extend(segment.payload);
    let sum = checksum(&[&pseudo_header(segment, out.len()), &out]);
    out[16..18].copy_from_slice(&sum.to_be_bytes());
    out
}

/// The IPv4 or IPv6 packet around [`tcp`].
///
/// # Panics
/// When the two endpoints are not of one family.
#[must_use]
pub fn ip(segment: &Segment<'_>) -> Vec<u8> {
    let payload = tcp(segment);
    let wire_len = payload.len() + segment.cut as usize;
    match (segment.source.ip, segment.destination.ip) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ipv4(source.octets(), destination.octets(), 6, wire_len, &payload)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ipv6(source.octets(), destination.octets(), 6, wire_len, &payload)
        }
        _ => panic!(
            "{} and {} are of two families",
            segment.source, segment.destination
        ),
    }
}

/// An IPv4 packet (no options) of that protocol number. `wire_len` is the length of the whole
/// payload, of which `payload` may be a part; a packet beyond 64 KiB gets a total length of 0, as
/// Linux writes it for super-packets.
#[must_use]
pub fn ipv4(
    source: [u8; 4],
    destination: [u8; 4],
    protocol: u8,
    wire_len: usize,
    payload: &[u8],
) -> Vec<u8> {
    let mut out = vec![0x45, 0];
    out.extend(u16::try_from(20 + wire_len).unwrap_or(0).to_be_bytes());
    out.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    out.extend(source);
    out.extend(destination);
    let sum = checksum(&[&out]);
    out[10..12].copy_from_slice(&sum.to_be_bytes());
    out.extend(payload);
    out
}

/// An IPv6 packet whose first next header is `next_header`; lengths as in [`ipv4`].
#[must_use]
pub fn ipv6(
    source: [u8; 16],
    destination: [u8; 16],
    next_header: u8,
    wire_len: usize,
    payload: &[u8],
) -> Vec<u8> {
    let mut out = vec![0x60, 0, 0, 0];
    out.extend(u16::try_from(wire_len).unwrap_or(0).to_be_bytes());
    out.extend([next_header, 64]);
    out.extend(source);
    out.extend(destination);
    out.extend(payload);
    out
}

/// A UDP datagram (checksum 0, which IPv4 and tunnels allow).
#[must_use]
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(source.to_be_bytes());
    out.extend(destination.to_be_bytes());
    out.extend(u16::try_from(8 + payload.len()).unwrap_or(0).to_be_bytes());
    out.extend([0, 0]);
    out.extend(payload);
    out
}

/// An Ethernet II frame, without padding and check sequence.
#[must_use]
pub fn ethernet_frame(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    out.extend(ether_type.to_be_bytes());
    out.extend(payload);
    out
}

/// The Ethernet frame around [`ip`].
#[must_use]
pub fn ethernet(segment: &Segment<'_>) -> Vec<u8> {
    ethernet_frame(ether_type(segment), &ip(segment))
}

/// The EtherType of the segment's IP version.
#[must_use]
pub const fn ether_type(segment: &Segment<'_>) -> u16 {
    match segment.source.ip {
        IpAddr::V4(_) => IPV4,
        IpAddr::V6(_) => IPV6,
    }
}

fn pseudo_header(segment: &Segment<'_>, len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for ip in [segment.source.ip, segment.destination.ip] {
        match ip {
            IpAddr::V4(ip) => out.extend(ip.octets()),
            IpAddr::V6(ip) => out.extend(ip.octets()),
        }
    }
    out.extend([0, 0, 0, 6]);
    out.extend(
        u32::try_from(len)
            .expect("a segment is shorter than 4 GiB")
            .to_be_bytes(),
    );
    out
}

/// The Internet checksum (RFC 1071) of the parts, each of which but the last has an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u64::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Conversation;

    #[test]
    fn checksums_verify() {
        for (a, b) in [
            ("10.0.0.1:1", "10.0.0.2:2"),
            ("[2001:db8::1]:1", "[2001:db8::2]:2"),
        ] {
            let mut talk = Conversation::new(a, b);
            talk.client(b"odd");
            let segment = talk.segments[0].as_segment();
            let bytes = tcp(&segment);
            assert_eq!(
                checksum(&[&pseudo_header(&segment, bytes.len()), &bytes]),
                0
            );
            if segment.source.ip.is_ipv4() {
                assert_eq!(checksum(&[&ip(&segment)[..20]]), 0);
            }
        }
    }
}
