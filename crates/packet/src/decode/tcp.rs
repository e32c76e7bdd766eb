//! The TCP header (RFC 9293 section 3.1).

use std::net::IpAddr;

use tapedeck_model::{Endpoint, Segment, SeqNum, TcpFlags};

use super::bytes::{Bytes, be16};
use super::error::{DecodeError, Layer};
use super::{Context, Outcome, Result};

/// Reads a TCP segment.
///
/// ```text
///  0                   1                   2                   3
/// |          source port          |       destination port        |
/// |                        sequence number                        |
/// |                     acknowledgment number                     |
/// |offset |  rsvd |     flags     |            window             |
/// |           checksum            |        urgent pointer         |
/// |                        options, padding                       |
/// ```
pub(super) fn segment<'a>(
    context: Context,
    source: IpAddr,
    destination: IpAddr,
    mut bytes: Bytes<'a>,
) -> Result<'a> {
    let [
        s0,
        s1,
        d0,
        d1,
        q0,
        q1,
        q2,
        q3,
        a0,
        a1,
        a2,
        a3,
        offset,
        flags,
        _,
        _,
        _,
        _,
        _,
        _,
    ] = *bytes.take::<20>(Layer::Tcp)?;
    let header_len = usize::from(offset >> 4) * 4;
    let Some(options_len) = header_len.checked_sub(20) else {
        return Err(DecodeError::Malformed { layer: Layer::Tcp });
    };
    bytes.skip(options_len, Layer::Tcp)?;
    Ok(Outcome::Segment(Segment {
        at: context.at,
        source: Endpoint::new(source, be16(s0, s1)),
        destination: Endpoint::new(destination, be16(d0, d1)),
        scope: context.scope,
        seq: SeqNum(u32::from_be_bytes([q0, q1, q2, q3])),
        ack: SeqNum(u32::from_be_bytes([a0, a1, a2, a3])),
        flags: TcpFlags(flags),
        payload: bytes.data,
        cut: u32::try_from(bytes.cut).unwrap_or(u32::MAX),
    }))
}
