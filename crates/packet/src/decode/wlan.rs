//! Wireless LAN frames (IEEE 802.11), as monitors capture them: data frames that are not encrypted.

use super::bytes::Bytes;
use super::error::{DecodeError, Layer};
use super::{Context, Outcome, Result, frame};
use crate::link::LinkType;

/// A frame with what the capturing program put before it.
pub(super) fn captured<'a>(context: Context, link: LinkType, mut bytes: Bytes<'a>) -> Result<'a> {
    let malformed = DecodeError::Malformed { layer: Layer::Link };
    let (taken, len) = match link {
        LinkType::RADIOTAP => {
            let [_, _, l0, l1] = *bytes.take(Layer::Link)?;
            (4, usize::from(u16::from_le_bytes([l0, l1])))
        }
        LinkType::PRISM | LinkType::AVS => {
            let [v0, v1, v2, v3, l0, l1, l2, l3] = *bytes.take(Layer::Link)?;
            let len = [l0, l1, l2, l3];
            // AVS headers come under the number of Prism, too. Theirs begin with a version in
            // network order; Prism's are in the order of the machine.
            let len = match [v0, v1, v2, v3] {
                [0x80, 0x21, 0x10, _] | [0, 0, _, _] => u32::from_be_bytes(len),
                _ => u32::from_le_bytes(len),
            };
            (8, usize::try_from(len).unwrap_or(usize::MAX))
        }
        _ => (0, 0),
    };
    bytes.skip(len.checked_sub(taken).ok_or(malformed)?, Layer::Link)?;
    data_frame(context, bytes)
}

/// A data frame; all others carry nothing of interest.
fn data_frame<'a>(context: Context, mut bytes: Bytes<'a>) -> Result<'a> {
    const VERSION_AND_TYPE: u8 = 0x0f;
    const DATA: u8 = 0x08;
    const NO_DATA: u8 = 0x40;
    const QOS: u8 = 0x80;
    const BOTH_SYSTEMS: u8 = 0x03;
    const MORE_FRAGMENTS: u8 = 0x04;
    const PROTECTED: u8 = 0x40;
    const ORDER: u8 = 0x80;
    const AGGREGATE: u8 = 0x80;
    let [kind, flags, ..] = *bytes.take::<22>(Layer::Link)?;
    let [fragment, _] = *bytes.take(Layer::Link)?;
    if kind & (VERSION_AND_TYPE | NO_DATA) != DATA
        || flags & (MORE_FRAGMENTS | PROTECTED) != 0
        || fragment & 0x0f != 0
    {
        return Ok(Outcome::NotTcp);
    }
    if flags & BOTH_SYSTEMS == BOTH_SYSTEMS {
        // A fourth address.
        bytes.skip(6, Layer::Link)?;
    }
    if kind & QOS != 0 {
        let [control, _] = *bytes.take(Layer::Link)?;
        // Several frames in one, of which a packet cannot be more than one.
        if control & AGGREGATE != 0 {
            return Ok(Outcome::NotTcp);
        }
        if flags & ORDER != 0 {
            bytes.skip(4, Layer::Link)?;
        }
        // Some cards pad the header to a multiple of four bytes.
        if let Some([_, _, 0xaa, 0xaa, 0x03]) = bytes.data.first_chunk() {
            bytes.skip(2, Layer::Link)?;
        }
    }
    frame::llc(context, bytes)
}
