//! TCP segments as Ethernet frames, checksums included.

use std::net::{IpAddr, Ipv6Addr};

use tapedeck_model::{Endpoint, TcpFlags};

/// Payload bytes of a segment: what fits into an Ethernet frame behind an IPv6 and a TCP header.
pub(super) const MAX_SEGMENT: usize = 1440;

/// One segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment<'a> {
    pub(super) source: Endpoint,
    pub(super) destination: Endpoint,
    /// Tells flows apart whose endpoints are the same; see [`tags`].
    pub(super) lane: u32,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: TcpFlags,
    pub(super) payload: &'a [u8],
    /// Payload bytes behind these that were on the wire but are not in the file. The checksum is
    /// right if they were zeros.
    pub(super) cut: u16,
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
/// VLAN ids that mean something: 1 to this (IEEE 802.1Q).
const VLANS: u32 = 4094;

const IP_HEADER: [usize; 2] = [20, 40];
const TCP: u8 = 6;

impl Segment<'_> {
    /// Puts the frame into `out`, in place of what was there.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        // Locally administered addresses: the smaller endpoint is the first, whoever sends.
        let macs = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
        let order = usize::from(self.source > self.destination);
        for mac in [macs.get(1 - order), macs.get(order)].into_iter().flatten() {
            out.extend(mac);
        }
        for (ethertype, vlan) in tags(self.lane).into_iter().flatten() {
            out.extend(ethertype.to_be_bytes());
            out.extend(vlan.to_be_bytes());
        }
        let syn = self.flags.contains(TcpFlags::SYN);
        let tcp_header = if syn { 28 } else { 20 };
        let tcp_len = tcp_header + self.payload.len() + usize::from(self.cut);
        let pseudo = match (self.source.ip, self.destination.ip) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                out.extend(ETHERTYPE_IPV4.to_be_bytes());
                let at = out.len();
                out.extend([0x45, 0]);
                out.extend((20 + tcp_len as u16).to_be_bytes());
                // Don't fragment, 64 hops.
                out.extend([0, 0, 0x40, 0, 64, TCP, 0, 0]);
                out.extend(source.octets());
                out.extend(destination.octets());
                let sum = checksum(sum(0, out.get(at..).unwrap_or_default()));
                put(out, at + 10, sum);
                sum_all(&[&source.octets(), &destination.octets()])
            }
            (source, destination) => {
                out.extend(ETHERTYPE_IPV6.to_be_bytes());
                out.extend([0x60, 0, 0, 0]);
                out.extend((tcp_len as u16).to_be_bytes());
                out.extend([TCP, 64]);
                let (source, destination) = (v6(source).octets(), v6(destination).octets());
                out.extend(source);
                out.extend(destination);
                sum_all(&[&source, &destination])
            }
        };
        let at = out.len();
        out.extend(self.source.port.to_be_bytes());
        out.extend(self.destination.port.to_be_bytes());
        out.extend(self.seq.to_be_bytes());
        out.extend(self.ack.to_be_bytes());
        out.extend([(tcp_header as u8 / 4) << 4, self.flags.0]);
        out.extend([0xff, 0xff, 0, 0, 0, 0]);
        if syn {
            // Maximum segment size; windows in units of 128 bytes.
            out.extend([2, 4]);
            out.extend((MAX_SEGMENT as u16).to_be_bytes());
            out.extend([1, 3, 3, 7]);
        }
        out.extend(self.payload);
        let total = sum(
            pseudo + u64::from(TCP) + tcp_len as u64,
            out.get(at..).unwrap_or_default(),
        );
        put(out, at + 16, checksum(total));
    }

    /// The longest payload with which the length of the packet still fits its field.
    pub(super) const fn max_cut() -> u16 {
        u16::MAX - IP_HEADER[1] as u16 - 20
    }
}

/// The VLAN tags of a lane: none, one, or two.
fn tags(lane: u32) -> [Option<(u16, u16)>; 2] {
    let vlan = |number: u32| (number % VLANS + 1) as u16;
    let Some(lane) = lane.checked_sub(1) else {
        return [None, None];
    };
    let outer = lane / VLANS;
    let inner = (ETHERTYPE_VLAN, vlan(lane));
    match outer.checked_sub(1) {
        None => [None, Some(inner)],
        Some(outer) => [Some((ETHERTYPE_QINQ, vlan(outer))), Some(inner)],
    }
}

/// An address where one of the pair is IPv6.
const fn v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn put(out: &mut [u8], at: usize, value: u16) {
    if let Some(field) = out.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

fn sum_all(parts: &[&[u8]]) -> u64 {
    parts.iter().fold(0, |total, part| sum(total, part))
}

/// Adds to an Internet checksum (RFC 1071).
fn sum(mut total: u64, bytes: &[u8]) -> u64 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    for pair in pairs {
        total += u64::from(u16::from_be_bytes(*pair));
    }
    if let [last] = rest {
        total += u64::from(u16::from_be_bytes([*last, 0]));
    }
    total
}

fn checksum(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

#[cfg(test)]
mod tests {
    use tapedeck_model::{SeqNum, Timestamp};
    use tapedeck_testkit::wire;

    use super::*;

    fn encoded(source: &str, destination: &str, lane: u32) -> Vec<u8> {
        let endpoint = |text: &str| {
            let (ip, port) = text.rsplit_once(' ').unwrap();
            Endpoint::new(ip.parse().unwrap(), port.parse().unwrap())
        };
        let segment = Segment {
            source: endpoint(source),
            destination: endpoint(destination),
            lane,
            seq: 7,
            ack: 9,
            flags: TcpFlags::ACK.union(TcpFlags::PSH),
            payload: b"odd",
            cut: 0,
        };
        let mut out = Vec::new();
        segment.encode(&mut out);
        let expected = wire::ip(&tapedeck_model::Segment {
            at: Timestamp::EPOCH,
            source: segment.source,
            destination: segment.destination,
            scope: tapedeck_model::Scope(0),
            seq: SeqNum(7),
            ack: SeqNum(9),
            flags: segment.flags,
            payload: segment.payload,
            cut: 0,
        });
        let n_tags = tags(lane).into_iter().flatten().count();
        assert_eq!(&out[14 + 4 * n_tags..], expected, "{source}, {destination}");
        out
    }

    #[test]
    fn packets_are_those_of_the_test_kit() {
        for lane in [0, 1, 4094, 4095, 9000] {
            encoded("10.0.0.1 1234", "10.0.0.2 80", lane);
            encoded("2001:db8::1 1234", "2001:db8::2 80", lane);
        }
    }

    #[test]
    fn lanes_are_told_apart_by_their_tags() {
        assert_eq!(encoded("10.0.0.1 1", "10.0.0.2 2", 0)[12..14], [8, 0]);
        assert_eq!(
            encoded("10.0.0.1 1", "10.0.0.2 2", 1)[12..18],
            [0x81, 0, 0, 1, 8, 0]
        );
        assert_eq!(
            encoded("10.0.0.1 1", "10.0.0.2 2", 4095)[12..22],
            [0x88, 0xa8, 0, 1, 0x81, 0, 0, 1, 8, 0]
        );
        let mut lanes: Vec<_> = (0..20_000).map(tags).collect();
        lanes.sort_unstable();
        lanes.dedup();
        assert_eq!(lanes.len(), 20_000);
    }

    #[test]
    fn a_pair_of_two_families_is_one_of_ipv6() {
        let segment = Segment {
            source: Endpoint::new("10.0.0.1".parse().unwrap(), 1),
            destination: Endpoint::new("2001:db8::2".parse().unwrap(), 2),
            lane: 0,
            seq: 0,
            ack: 0,
            flags: TcpFlags::SYN,
            payload: &[],
            cut: Segment::max_cut(),
        };
        let mut out = Vec::new();
        segment.encode(&mut out);
        assert_eq!((out.len(), &out[12..14]), (14 + 40 + 28, &[0x86, 0xdd][..]));
    }
}
