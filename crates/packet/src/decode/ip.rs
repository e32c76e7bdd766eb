//! IPv4 (RFC 791), IPv6 (RFC 8200), and what they carry.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::bytes::{Bytes, be16};
use super::defrag::{DatagramKey, Fragment};
use super::error::{DecodeError, Layer};
use super::{Context, Outcome, Result, tcp, tunnel};

/// Protocol numbers (IPv4 protocol, IPv6 next header).
pub(super) mod protocol {
    pub(in crate::decode) const HOP_BY_HOP: u8 = 0;
    pub(in crate::decode) const IPV4: u8 = 4;
    pub(in crate::decode) const TCP: u8 = 6;
    pub(in crate::decode) const UDP: u8 = 17;
    pub(in crate::decode) const IPV6: u8 = 41;
    pub(in crate::decode) const ROUTING: u8 = 43;
    pub(in crate::decode) const FRAGMENT: u8 = 44;
    pub(in crate::decode) const GRE: u8 = 47;
    pub(in crate::decode) const AH: u8 = 51;
    pub(in crate::decode) const DESTINATION: u8 = 60;
    pub(in crate::decode) const MOBILITY: u8 = 135;
    pub(in crate::decode) const MPLS: u8 = 137;
    pub(in crate::decode) const HIP: u8 = 139;
    pub(in crate::decode) const SHIM6: u8 = 140;
}

/// An IP packet whose version only its first bits tell.
pub(super) fn any<'a>(context: Context, bytes: Bytes<'a>, layer: Layer) -> Result<'a> {
    match bytes.version() {
        Some(4) => v4(context, bytes),
        Some(6) => v6(context, bytes),
        Some(_) => Err(DecodeError::Malformed { layer }),
        None => Err(DecodeError::Short {
            layer,
            needed: 1,
            len: 0,
        }),
    }
}

/// An IPv4 packet.
pub(super) fn v4<'a>(context: Context, mut bytes: Bytes<'a>) -> Result<'a> {
    const MORE_FRAGMENTS: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;
    let context = context.inner()?;
    let [
        version_ihl,
        _,
        l0,
        l1,
        id0,
        id1,
        f0,
        f1,
        _,
        protocol,
        _,
        _,
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3,
    ] = *bytes.take::<20>(Layer::Ipv4)?;
    let malformed = DecodeError::Malformed { layer: Layer::Ipv4 };
    let header_len = usize::from(version_ihl & 0xf) * 4;
    if version_ihl >> 4 != 4 || header_len < 20 {
        return Err(malformed);
    }
    // A total length of 0 is a super-packet: segmentation offload (TSO, GRO, BIG TCP) hands over
    // more than 16 bits can say, and the frame's own length counts.
    let total_len = usize::from(be16(l0, l1));
    if total_len != 0 {
        let Some(len) = total_len.checked_sub(header_len) else {
            return Err(malformed);
        };
        bytes = bytes.limit(len.saturating_add(header_len - 20));
    }
    bytes.skip(header_len - 20, Layer::Ipv4)?;
    let source = IpAddr::V4(Ipv4Addr::new(s0, s1, s2, s3));
    let destination = IpAddr::V4(Ipv4Addr::new(d0, d1, d2, d3));
    let fragment = be16(f0, f1);
    if fragment & (MORE_FRAGMENTS | OFFSET) != 0 {
        return Ok(Outcome::Fragment(Fragment {
            key: DatagramKey {
                source,
                destination,
                scope: context.scope,
                id: be16(id0, id1).into(),
                protocol,
            },
            at: context.at,
            offset: usize::from(fragment & OFFSET) * 8,
            more: fragment & MORE_FRAGMENTS != 0,
            bytes,
        }));
    }
    payload(context, protocol, source, destination, bytes)
}

/// An IPv6 packet.
pub(super) fn v6<'a>(context: Context, mut bytes: Bytes<'a>) -> Result<'a> {
    let context = context.inner()?;
    let [version, _, _, _, l0, l1, next_header, _] = *bytes.take::<8>(Layer::Ipv6)?;
    if version >> 4 != 6 {
        return Err(DecodeError::Malformed { layer: Layer::Ipv6 });
    }
    let source = IpAddr::V6(Ipv6Addr::from(*bytes.take::<16>(Layer::Ipv6)?));
    let destination = IpAddr::V6(Ipv6Addr::from(*bytes.take::<16>(Layer::Ipv6)?));
    // 0 is a jumbogram (RFC 2675) or a super-packet, as in IPv4.
    let payload_len = usize::from(be16(l0, l1));
    if payload_len != 0 {
        bytes = bytes.limit(payload_len);
    }
    payload(context, next_header, source, destination, bytes)
}

/// What an IP packet carries, behind any extension headers.
pub(super) fn payload<'a>(
    context: Context,
    mut next: u8,
    source: IpAddr,
    destination: IpAddr,
    mut bytes: Bytes<'a>,
) -> Result<'a> {
    // RFC 8200 section 4.1 lists seven extension headers, one of them possibly twice.
    for _ in 0..=8 {
        match next {
            protocol::TCP => return tcp::segment(context, source, destination, bytes),
            protocol::UDP => return tunnel::udp(context, bytes),
            protocol::IPV4 => return v4(context, bytes),
            protocol::IPV6 => return v6(context, bytes),
            protocol::GRE => return tunnel::gre(context, bytes),
            protocol::MPLS => return tunnel::mpls(context, bytes),
            protocol::AH => {
                let [following, len] = *bytes.take::<2>(Layer::Ah)?;
                // RFC 4302 section 2.2: in 32-bit words, minus 2.
                bytes.skip(usize::from(len) * 4 + 6, Layer::Ah)?;
                next = following;
            }
            protocol::FRAGMENT if source.is_ipv6() => {
                let [following, _, o0, o1, i0, i1, i2, i3] = *bytes.take::<8>(Layer::Ipv6)?;
                let field = be16(o0, o1);
                // An atomic fragment (RFC 6946) is a whole packet.
                if field & 0xfff9 != 0 {
                    return Ok(Outcome::Fragment(Fragment {
                        key: DatagramKey {
                            source,
                            destination,
                            scope: context.scope,
                            id: u32::from_be_bytes([i0, i1, i2, i3]),
                            protocol: following,
                        },
                        at: context.at,
                        offset: usize::from(field & 0xfff8),
                        more: field & 1 != 0,
                        bytes,
                    }));
                }
                next = following;
            }
            protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::DESTINATION
            | protocol::MOBILITY
            | protocol::HIP
            | protocol::SHIM6
                if source.is_ipv6() =>
            {
                let [following, len] = *bytes.take::<2>(Layer::Ipv6)?;
                bytes.skip(usize::from(len) * 8 + 6, Layer::Ipv6)?;
                next = following;
            }
            _ => return Ok(Outcome::NotTcp),
        }
    }
    Err(DecodeError::Malformed { layer: Layer::Ipv6 })
}
