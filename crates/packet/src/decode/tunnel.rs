//! Tunnels: packets within packets. The innermost flow is what counts.
//!
//! Ids that both directions of a flow share become part of its scope (VXLAN and Geneve VNIs, NVGRE
//! subnets). Ids that name one direction do not, or requests and responses would never meet: MPLS
//! labels, GTP-U tunnel endpoints, GRE keys.

use super::bytes::{Bytes, be16};
use super::error::{DecodeError, Layer};
use super::{Context, Outcome, Result, ScopeKind, frame, ip};

/// UDP ports of tunnels.
mod port {
    pub(super) const L2TP: u16 = 1701;
    /// In either direction: only the relay has a fixed port.
    pub(super) const TEREDO: u16 = 3544;
    /// TaZmen Sniffer Protocol: what routers mirror to an analyser.
    pub(super) const TZSP: u16 = 37_008;
    pub(super) const GTP_U: u16 = 2152;
    pub(super) const GRE: u16 = 4754;
    pub(super) const VXLAN: u16 = 4789;
    pub(super) const VXLAN_GPE: u16 = 4790;
    pub(super) const GENEVE: u16 = 6081;
    pub(super) const MPLS: u16 = 6635;
    /// The Linux kernel's default before the assignment, which flannel still uses.
    pub(super) const VXLAN_LINUX: u16 = 8472;
}

/// A UDP datagram: a tunnel, or nothing of interest.
pub(super) fn udp<'a>(context: Context, mut bytes: Bytes<'a>) -> Result<'a> {
    let [s0, s1, p0, p1, l0, l1, _, _] = *bytes.take(Layer::Udp)?;
    if let Some(len @ 1..) = usize::from(be16(l0, l1)).checked_sub(8) {
        bytes = bytes.limit(len);
    }
    let inner = match be16(p0, p1) {
        port::VXLAN | port::VXLAN_LINUX => vxlan(context, bytes),
        port::VXLAN_GPE => vxlan_gpe(context, bytes),
        port::GENEVE => geneve(context, bytes),
        port::GTP_U => gtp_u(context, bytes),
        port::GRE => gre(context, bytes),
        port::MPLS => mpls(context, bytes),
        port::L2TP => l2tp(context, bytes),
        port::TZSP => tzsp(context, bytes),
        port::TEREDO => teredo(context, bytes),
        _ if be16(s0, s1) == port::TEREDO => teredo(context, bytes),
        _ => return Ok(Outcome::NotTcp),
    };
    // The port is only a hint: bytes that do not fit are some other protocol, not an error.
    match inner {
        Err(DecodeError::Malformed { .. }) => Ok(Outcome::NotTcp),
        // Keep-alives are shorter than any header.
        Err(DecodeError::Short { .. }) if bytes.cut == 0 && bytes.data.len() < 8 => {
            Ok(Outcome::NotTcp)
        }
        other => other,
    }
}

/// VXLAN (RFC 7348).
fn vxlan<'a>(context: Context, mut bytes: Bytes<'a>) -> Result<'a> {
    let [flags, _, _, _, v0, v1, v2, _] = *bytes.take(Layer::Vxlan)?;
    // Only the bit for a valid VNI; the group policy extension sets more.
    if flags & 0x08 == 0 {
        return Err(DecodeError::Malformed {
            layer: Layer::Vxlan,
        });
    }
    let vni = u32::from_be_bytes([0, v0, v1, v2]);
    frame::ethernet(context.inner()?.fold(ScopeKind::Vxlan, vni), bytes)
}

/// VXLAN with a next protocol (draft-ietf-nvo3-vxlan-gpe).
fn vxlan_gpe<'a>(context: Context, mut bytes: Bytes<'a>) -> Result<'a> {
    let [flags, _, _, next, v0, v1, v2, _] = *bytes.take(Layer::Vxlan)?;
    if flags & 0x0c != 0x0c {
        return Err(DecodeError::Malformed {
            layer: Layer::Vxlan,
        });
    }
    let vni = u32::from_be_bytes([0, v0, v1, v2]);
    let context = context.inner()?.fold(ScopeKind::Vxlan, vni);
    match next {
        1 => ip::v4(context, bytes),
        2 => ip::v6(context, bytes),
        3 => frame::ethernet(context, bytes),
        5 => mpls(context, bytes),
        _ => Ok(Outcome::NotTcp),
    }
}

/// Geneve (RFC 8926).
fn geneve<'a>(context: Context, mut bytes: Bytes<'a>) -> Result<'a> {
    let [version_options, _, t0, t1, v0, v1, v2, _] = *bytes.take(Layer::Geneve)?;
    if version_options >> 6 != 0 {
        return Err(DecodeError::Malformed {
            layer: Layer::Geneve,
        });
    }
    bytes.skip(usize::from(version_options & 0x3f) * 4, Layer::Geneve)?;
    let vni = u32::from_be_bytes([0, v0, v1, v2]);
    frame::typed(
        context.inner()?.fold(ScopeKind::Geneve, vni),
        be16(t0, t1),
        bytes,
    )
}

/// GTP-U version 1 (3GPP TS 29.281 section 5.1).
fn gtp_u<'a>(context: Context, mut bytes: Bytes<'a>) -> Result<'a> {
    const VERSION_1_GTP: u8 = 0x30;
    const EXTENSION: u8 = 0x04;
    const OPTIONAL_FIELDS: u8 = 0x07;
    const USER_DATA: u8 = 255;
    let [flags, message_type, l0, l1, _, _, _, _] = *bytes.take(Layer::Gtp)?;
    if flags & 0xf0 != VERSION_1_GTP {
        return Err(DecodeError::Malformed { layer: Layer::Gtp });
    }
    if message_type != USER_DATA {
        return Ok(Outcome::NotTcp);
    }
    bytes = bytes.limit(be16(l0, l1).into());
    if flags & OPTIONAL_FIELDS != 0 {
        let [_, _, _, mut next] = *bytes.take(Layer::Gtp)?;
        while flags & EXTENSION != 0 && next != 0 {
            // Its length counts four-byte words; the last byte names the next extension.
            let [words] = *bytes.take(Layer::Gtp)?;
            let Some(content) = (usize::from(words) * 4).checked_sub(2) else {
                return Err(DecodeError::Malformed { layer: Layer::Gtp });
            };
            bytes.skip(content, Layer::Gtp)?;
            [next] = *bytes.take(Layer::Gtp)?;
        }
    }
    ip::any(context.inner()?, bytes, Layer::Gtp)
}

/// GRE (RFC 2784, RFC 2890), NVGRE (RFC 7637) and ERSPAN.
pub(super) fn gre<'a>(context: Context, mut bytes: Bytes<'a>) -> Result<'a> {
    const CHECKSUM: u8 = 0x80;
    const ROUTING: u8 = 0x40;
    const KEY: u8 = 0x20;
    const SEQUENCE: u8 = 0x10;
    const ERSPAN_II: u16 = 0x88be;
    const ERSPAN_III: u16 = 0x22eb;
    const TRANSPARENT_ETHERNET: u16 = 0x6558;
    const WCCP: u16 = 0x883e;
    const PPP: u16 = 0x880b;
    let [flags, version, t0, t1] = *bytes.take(Layer::Gre)?;
    // Source routing is long dead.
    if version & 0x07 > 1 || flags & ROUTING != 0 {
        return Ok(Outcome::NotTcp);
    }
    let mut context = context.inner()?;
    if version & 0x07 == 1 {
        // PPTP's (RFC 2637 section 4.1): the key is a length and a call, and there may be an
        // acknowledgment.
        const ACKNOWLEDGMENT: u8 = 0x80;
        let numbers = [flags & SEQUENCE, version & ACKNOWLEDGMENT];
        let numbers = numbers.into_iter().filter(|there| *there != 0).count();
        let [l0, l1, _, _] = *bytes.take(Layer::Gre)?;
        bytes.skip(4 * numbers, Layer::Gre)?;
        return match be16(l0, l1) {
            len @ 1.. if be16(t0, t1) == PPP => ppp(context, bytes.limit(len.into())),
            _ => Ok(Outcome::NotTcp),
        };
    }
    if flags & CHECKSUM != 0 {
        bytes.skip(4, Layer::Gre)?;
    }
    let protocol = be16(t0, t1);
    if flags & KEY != 0 {
        let [k0, k1, k2, _] = *bytes.take(Layer::Gre)?;
        if protocol == TRANSPARENT_ETHERNET {
            let subnet = u32::from_be_bytes([0, k0, k1, k2]);
            context = context.fold(ScopeKind::Nvgre, subnet);
        }
    }
    if flags & SEQUENCE != 0 {
        bytes.skip(4, Layer::Gre)?;
    }
    match protocol {
        ERSPAN_II => {
            // Type I has no sequence number and no header of its own.
            if flags & SEQUENCE != 0 {
                bytes.skip(8, Layer::Gre)?;
            }
            frame::ethernet(context, bytes)
        }
        ERSPAN_III => {
            let [.., last] = *bytes.take::<12>(Layer::Gre)?;
            // The last bit announces a platform-specific subheader.
            if last & 1 != 0 {
                bytes.skip(8, Layer::Gre)?;
            }
            frame::ethernet(context, bytes)
        }
        WCCP => {
            // Version 2 has a redirect header before the packet, version 1 has not.
            if bytes.version() != Some(4) {
                bytes.skip(4, Layer::Gre)?;
            }
            ip::v4(context, bytes)
        }
        PPP => ppp(context, bytes),
        other => frame::typed(context, other, bytes),
    }
}

/// PPP: `ff 03` may be there or not; the protocol may be one byte long (RFC 1661 section 6.5).
pub(super) fn ppp<'a>(context: Context, mut bytes: Bytes<'a>) -> Result<'a> {
    if let Some((&[0xff, 0x03], rest)) = bytes.data.split_first_chunk() {
        bytes.data = rest;
    }
    let [first] = *bytes.take(Layer::Ppp)?;
    let protocol = if first & 1 == 1 {
        first.into()
    } else {
        let [second] = *bytes.take(Layer::Ppp)?;
        be16(first, second)
    };
    match protocol {
        0x0021 => ip::v4(context, bytes),
        0x0057 => ip::v6(context, bytes),
        0x0281 => mpls(context, bytes),
        _ => Ok(Outcome::NotTcp),
    }
}

/// L2TP version 2 (RFC 2661 section 3.1).
fn l2tp<'a>(context: Context, mut bytes: Bytes<'a>) -> Result<'a> {
    const CONTROL: u8 = 0x80;
    const LENGTH: u8 = 0x40;
    const SEQUENCE: u8 = 0x08;
    const OFFSET: u8 = 0x02;
    let [flags, version] = *bytes.take(Layer::Udp)?;
    if version & 0x0f != 2 {
        return Err(DecodeError::Malformed { layer: Layer::Udp });
    }
    if flags & CONTROL != 0 {
        return Ok(Outcome::NotTcp);
    }
    let optional = 2 * usize::from(flags & LENGTH != 0) + 4 * usize::from(flags & SEQUENCE != 0);
    // The tunnel and the session differ by direction.
    bytes.skip(optional + 4, Layer::Udp)?;
    if flags & OFFSET != 0 {
        let [o0, o1] = *bytes.take(Layer::Udp)?;
        bytes.skip(be16(o0, o1).into(), Layer::Udp)?;
    }
    ppp(context.inner()?, bytes)
}

/// Teredo (RFC 4380 section 5.1.1): IPv6, behind an authentication and an origin where they are.
fn teredo<'a>(context: Context, mut bytes: Bytes<'a>) -> Result<'a> {
    if let Some((&[0, 1, id, auth], _)) = bytes.data.split_first_chunk() {
        // The two values, a nonce and a confirmation.
        bytes.skip(4 + usize::from(id) + usize::from(auth) + 9, Layer::Udp)?;
    }
    if let Some([0, 0]) = bytes.data.first_chunk() {
        bytes.skip(8, Layer::Udp)?;
    }
    ip::v6(context.inner()?, bytes)
}

/// TZSP: tagged fields up to an end mark, then a frame.
fn tzsp<'a>(context: Context, mut bytes: Bytes<'a>) -> Result<'a> {
    const ETHERNET: u16 = 1;
    const PADDING: u8 = 0;
    const END: u8 = 1;
    let [version, kind, p0, p1] = *bytes.take(Layer::Udp)?;
    // Received and transmitted packets; the others carry none.
    if version != 1 || kind > 1 {
        return Err(DecodeError::Malformed { layer: Layer::Udp });
    }
    loop {
        match *bytes.take(Layer::Udp)? {
            [PADDING] => {}
            [END] => break,
            [_] => {
                let [len] = *bytes.take(Layer::Udp)?;
                bytes.skip(len.into(), Layer::Udp)?;
            }
        }
    }
    match be16(p0, p1) {
        ETHERNET => frame::ethernet(context.inner()?, bytes),
        _ => Ok(Outcome::NotTcp),
    }
}

/// A stack of MPLS labels (RFC 3032). Nothing says what lies below: the first four bits tell IP
/// from a pseudowire's control word (RFC 4385).
pub(super) fn mpls<'a>(mut context: Context, mut bytes: Bytes<'a>) -> Result<'a> {
    loop {
        context = context.inner()?;
        let [_, _, bottom, _] = *bytes.take(Layer::Mpls)?;
        if bottom & 1 == 1 {
            break;
        }
    }
    match bytes.version() {
        Some(4) => ip::v4(context, bytes),
        Some(6) => ip::v6(context, bytes),
        Some(0) => {
            bytes.skip(4, Layer::Mpls)?;
            frame::ethernet(context, bytes)
        }
        _ => Ok(Outcome::NotTcp),
    }
}
