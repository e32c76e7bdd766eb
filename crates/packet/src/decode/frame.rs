//! Link layers: from the first byte of a packet to IP.

use super::bytes::{Bytes, be16};
use super::error::{DecodeError, Layer};
use super::{Context, Outcome, Result, ScopeKind, ip, tunnel, wlan};
use crate::link::{LinkType, RawPacket};

/// Ethernet types.
mod ether_type {
    pub(super) const IPV4: u16 = 0x0800;
    pub(super) const TRANSPARENT_ETHERNET: u16 = 0x6558;
    pub(super) const VLAN: u16 = 0x8100;
    pub(super) const IPV6: u16 = 0x86dd;
    pub(super) const MPLS: u16 = 0x8847;
    pub(super) const MPLS_MULTICAST: u16 = 0x8848;
    pub(super) const PPPOE_SESSION: u16 = 0x8864;
    pub(super) const QINQ: u16 = 0x88a8;
    /// Backbone service tags (IEEE 802.1ah): an Ethernet frame within another.
    pub(super) const BACKBONE: u16 = 0x88e7;
    /// High-availability Seamless Redundancy (IEC 62439-3): every frame twice around a ring.
    pub(super) const HSR: u16 = 0x892f;
    pub(super) const QINQ_OLD: u16 = 0x9100;
    pub(super) const QINQ_OLDER: u16 = 0x9200;
    /// Below this an Ethernet type is a length (IEEE 802.3).
    pub(super) const FIRST: u16 = 0x0600;
}

/// A packet from its link layer on.
pub(super) fn link<'a>(context: Context, packet: &RawPacket<'a>) -> Result<'a> {
    let beyond = usize::try_from(packet.wire_len).unwrap_or(usize::MAX);
    let mut bytes = Bytes {
        data: packet.data,
        cut: beyond.saturating_sub(packet.data.len()),
    };
    match packet.link {
        LinkType::ETHERNET => ethernet(context, bytes),
        LinkType::LINUX_SLL => {
            let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, t0, t1] = *bytes.take(Layer::Link)?;
            typed(context, be16(t0, t1), bytes)
        }
        LinkType::LINUX_SLL2 => {
            let [t0, t1, ..] = *bytes.take::<20>(Layer::Link)?;
            typed(context, be16(t0, t1), bytes)
        }
        LinkType::RAW | LinkType::RAW_BSD | LinkType::RAW_OPENBSD => {
            ip::any(context, bytes, Layer::Link)
        }
        LinkType::IPV4 => ip::v4(context, bytes),
        LinkType::IPV6 => ip::v6(context, bytes),
        LinkType::NULL | LinkType::LOOP => {
            let family = *bytes.take(Layer::Link)?;
            // NULL is in the order of the machine that captured, which the file need not share.
            let family = u32::from_be_bytes(family).min(u32::from_le_bytes(family));
            family_ip(context, family, bytes)
        }
        LinkType::PPP | LinkType::PPP_HDLC => tunnel::ppp(context, bytes),
        LinkType::PPP_WITH_DIR => {
            bytes.skip(1, Layer::Link)?;
            tunnel::ppp(context, bytes)
        }
        LinkType::FRELAY => frame_relay(context, bytes),
        LinkType::ATM_RFC1483 => match bytes.version() {
            Some(4 | 6) => ip::any(context, bytes, Layer::Link),
            _ => llc(context, bytes),
        },
        LinkType::FDDI => {
            bytes.skip(13, Layer::Link)?;
            llc(context, bytes)
        }
        LinkType::IEEE802_5 => token_ring(context, bytes),
        LinkType::IEEE802_11 | LinkType::PRISM | LinkType::RADIOTAP | LinkType::AVS => {
            wlan::captured(context, packet.link, bytes)
        }
        LinkType::ENC => {
            bytes.skip(12, Layer::Link)?;
            ip::any(context, bytes, Layer::Link)
        }
        LinkType::PFLOG => {
            let [len, family, ..] = *bytes.take::<4>(Layer::Link)?;
            // Without its padding.
            let rest = usize::from(len).next_multiple_of(4).saturating_sub(4);
            bytes.skip(rest, Layer::Link)?;
            family_ip(context, family.into(), bytes)
        }
        LinkType::PPI => {
            let [_, _, l0, l1, t0, t1, _, _] = *bytes.take(Layer::Link)?;
            let Some(rest) = usize::from(u16::from_le_bytes([l0, l1])).checked_sub(8) else {
                return Err(DecodeError::Malformed { layer: Layer::Link });
            };
            bytes.skip(rest, Layer::Link)?;
            behind(context, packet, u16::from_le_bytes([t0, t1]), bytes)
        }
        LinkType::PPP_ETHER => pppoe(context, bytes),
        LinkType::C_HDLC => {
            let [_, _, t0, t1] = *bytes.take(Layer::Link)?;
            typed(context, be16(t0, t1), bytes)
        }
        LinkType::NFLOG => nflog(context, bytes),
        LinkType::PKTAP => {
            // The header's length, a record type, and the link type of what follows it; all in the
            // byte order of the machine, and Macs are little-endian.
            let [l0, l1, l2, l3, _, _, _, _, t0, t1, _, _] = *bytes.take(Layer::Link)?;
            let len = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
            let Some(rest) = len.checked_sub(12) else {
                return Err(DecodeError::Malformed { layer: Layer::Link });
            };
            bytes.skip(rest, Layer::Link)?;
            behind(context, packet, u16::from_le_bytes([t0, t1]), bytes)
        }
        unknown => Err(DecodeError::UnknownLink(unknown)),
    }
}

/// A packet whose header names the link type of what follows it.
fn behind<'a>(context: Context, packet: &RawPacket<'a>, kind: u16, bytes: Bytes<'a>) -> Result<'a> {
    let wire_len = u32::try_from(bytes.data.len().saturating_add(bytes.cut));
    let inner = RawPacket {
        link: LinkType(kind),
        data: bytes.data,
        wire_len: wire_len.unwrap_or(u32::MAX),
        ..*packet
    };
    link(context.inner()?, &inner)
}

/// An Ethernet frame.
pub(super) fn ethernet<'a>(context: Context, mut bytes: Bytes<'a>) -> Result<'a> {
    let [_, _, _, _, _, _, _, _, _, _, _, _, t0, t1] = *bytes.take(Layer::Link)?;
    typed(context, be16(t0, t1), bytes)
}

/// What an Ethernet type announces, tags first.
pub(super) fn typed<'a>(mut context: Context, mut kind: u16, mut bytes: Bytes<'a>) -> Result<'a> {
    loop {
        match kind {
            ether_type::IPV4 => return ip::v4(context, bytes),
            ether_type::IPV6 => return ip::v6(context, bytes),
            ether_type::VLAN | ether_type::QINQ | ether_type::QINQ_OLD | ether_type::QINQ_OLDER => {
                let [c0, c1, t0, t1] = *bytes.take(Layer::Vlan)?;
                context = context.inner()?;
                // Id 0 is a priority tag: no network of its own (IEEE 802.1Q section 9.6).
                match be16(c0, c1) & 0x0fff {
                    0 => {}
                    id => context = context.fold(ScopeKind::Vlan, id.into()),
                }
                kind = be16(t0, t1);
            }
            ether_type::MPLS | ether_type::MPLS_MULTICAST => return tunnel::mpls(context, bytes),
            ether_type::PPPOE_SESSION => return pppoe(context, bytes),
            ether_type::HSR => {
                let [_, _, _, _, t0, t1] = *bytes.take(Layer::Link)?;
                context = context.inner()?;
                kind = be16(t0, t1);
            }
            ether_type::BACKBONE => {
                bytes.skip(4, Layer::Link)?;
                return ethernet(context.inner()?, bytes);
            }
            ether_type::TRANSPARENT_ETHERNET => return ethernet(context.inner()?, bytes),
            length if length < ether_type::FIRST => return llc(context, bytes),
            _ => return Ok(Outcome::NotTcp),
        }
    }
}

/// LLC (IEEE 802.2) with SNAP, behind which the Ethernet type comes (RFC 1042).
pub(super) fn llc<'a>(context: Context, mut bytes: Bytes<'a>) -> Result<'a> {
    match bytes.data.split_first_chunk() {
        // The second organisation is that of bridge tunnels (IEEE 802.1H).
        Some((&[0xaa, 0xaa, 0x03, 0, 0, 0 | 0xf8, t0, t1], rest)) => {
            bytes.data = rest;
            typed(context.inner()?, be16(t0, t1), bytes)
        }
        // Bridged Ethernet, with padding before it (RFC 2684 section 5.2).
        Some((&[0xaa, 0xaa, 0x03, 0, 0x80, 0xc2, 0, 1 | 7], rest)) => {
            bytes.data = rest;
            bytes.skip(2, Layer::Link)?;
            ethernet(context.inner()?, bytes)
        }
        _ => Ok(Outcome::NotTcp),
    }
}

/// Frame Relay with NLPID (RFC 2427), or with an Ethernet type as Cisco has it.
fn frame_relay<'a>(context: Context, mut bytes: Bytes<'a>) -> Result<'a> {
    // The last byte of an address has its lowest bit set; it has four at most.
    for _ in 0..4 {
        let [address] = *bytes.take(Layer::Link)?;
        if address & 1 == 1 {
            break;
        }
    }
    let [control, id] = *bytes.take(Layer::Link)?;
    match (control, id) {
        (0x03, 0xcc) => ip::v4(context, bytes),
        (0x03, 0x8e) => ip::v6(context, bytes),
        (0x03, 0x00) => {
            let [_, _, _, _, t0, t1] = *bytes.take(Layer::Link)?;
            typed(context, be16(t0, t1), bytes)
        }
        _ => typed(context, be16(control, id), bytes),
    }
}

/// A Token Ring frame: the highest bit of the source address announces a route.
fn token_ring<'a>(context: Context, mut bytes: Bytes<'a>) -> Result<'a> {
    let [_, _, _, _, _, _, _, _, source, ..] = *bytes.take::<14>(Layer::Link)?;
    if source & 0x80 != 0 {
        let route = bytes.data.first().map_or(0, |first| first & 0x1f);
        bytes.skip(route.into(), Layer::Link)?;
    }
    llc(context, bytes)
}

/// A PPPoE session packet (RFC 2516). The session id stays out of the scope: it names a
/// subscriber's line, not a network.
fn pppoe<'a>(context: Context, mut bytes: Bytes<'a>) -> Result<'a> {
    let [version_type, code, _, _, l0, l1] = *bytes.take(Layer::Ppp)?;
    if version_type != 0x11 {
        return Err(DecodeError::Malformed { layer: Layer::Ppp });
    }
    if code != 0 {
        return Ok(Outcome::NotTcp);
    }
    tunnel::ppp(context.inner()?, bytes.limit(be16(l0, l1).into()))
}

/// An NFLOG message: a family, then attributes, one of which is the packet.
fn nflog<'a>(context: Context, mut bytes: Bytes<'a>) -> Result<'a> {
    const PAYLOAD: u16 = 9;
    const HEADER: usize = 4;
    let [family, version, _, _] = *bytes.take(Layer::Link)?;
    if version != 0 {
        return Err(DecodeError::Malformed { layer: Layer::Link });
    }
    loop {
        let [l0, l1, k0, k1] = *bytes.take(Layer::Link)?;
        // In the byte order of the machine that captured; attribute types are below 256, so the
        // zero byte tells which.
        let (len, kind) = if k1 == 0 {
            (u16::from_le_bytes([l0, l1]), u16::from_le_bytes([k0, k1]))
        } else {
            (be16(l0, l1), be16(k0, k1))
        };
        let Some(len) = usize::from(len).checked_sub(HEADER) else {
            return Err(DecodeError::Malformed { layer: Layer::Link });
        };
        if kind == PAYLOAD {
            return family_ip(context, family.into(), bytes.limit(len));
        }
        bytes.skip(len.next_multiple_of(4), Layer::Link)?;
        if bytes.data.is_empty() {
            return Ok(Outcome::NotTcp);
        }
    }
}

/// An IP packet behind a BSD or Linux address family.
fn family_ip<'a>(context: Context, family: u32, bytes: Bytes<'a>) -> Result<'a> {
    match family {
        2 => ip::v4(context, bytes),
        // Linux; NetBSD and OpenBSD; FreeBSD; macOS.
        10 | 24 | 28 | 30 => ip::v6(context, bytes),
        _ => Ok(Outcome::NotTcp),
    }
}
