//! From a raw packet to its TCP segment.
//!
//! Each layer is a function from its bytes to the next layer. A layer that states its own length
//! cuts off what lies behind it (Ethernet padding, check sequences) and learns how much of it the
//! capture left out. Tags and tunnel ids are folded into the segment's
//! [`Scope`] on the way, where both directions of a flow share them.

mod bytes;
mod defrag;
mod error;
mod frame;
mod ip;
mod tcp;
mod tunnel;
mod wlan;

#[cfg(test)]
mod tests;

pub use defrag::{DefragLimits, Defragmenter};
pub use error::{DecodeError, Layer};

use tapedeck_model::{Scope, Segment, Timestamp};

use crate::link::RawPacket;
use defrag::Fragment;

/// What a packet turned out to be.
#[derive(Clone, Copy, Debug)]
pub enum Decoded<'a> {
    /// A TCP segment.
    Segment(Segment<'a>),
    /// Something else: ARP, UDP, an encrypted tunnel.
    NotTcp,
    /// A fragment of an IP packet that is not complete.
    Fragment,
    /// The headers cannot be read.
    Undecodable(DecodeError),
}

/// Decodes one packet. Fragments stay fragments: see [`Defragmenter`].
#[must_use]
pub fn decode<'a>(packet: &RawPacket<'a>) -> Decoded<'a> {
    match frame::link(Context::new(packet), packet) {
        Ok(Outcome::Segment(segment)) => Decoded::Segment(segment),
        Ok(Outcome::NotTcp) => Decoded::NotTcp,
        Ok(Outcome::Fragment(_)) => Decoded::Fragment,
        Err(error) => Decoded::Undecodable(error),
    }
}

/// What the layers hand up.
enum Outcome<'a> {
    Segment(Segment<'a>),
    NotTcp,
    Fragment(Fragment<'a>),
}

type Result<'a> = std::result::Result<Outcome<'a>, DecodeError>;

/// What the outer layers tell the inner ones.
#[derive(Clone, Copy)]
struct Context {
    at: Timestamp,
    scope: Scope,
    /// How many layers there may still be below: tags, labels and tunnels all count, so that no
    /// packet makes the decoder recurse without end.
    layers_left: u8,
}

/// Real packets stack about eight: two VLAN tags, MPLS, Ethernet in VXLAN, another tag, and IP in
/// IP. Twice that is generous, and keeps the stack of the decoder small.
const MAX_LAYERS: u8 = 16;

impl Context {
    const fn new(packet: &RawPacket<'_>) -> Self {
        Self {
            at: packet.at,
            scope: packet.scope,
            layers_left: MAX_LAYERS,
        }
    }

    /// The context of the next layer.
    const fn inner(self) -> std::result::Result<Self, DecodeError> {
        match self.layers_left.checked_sub(1) {
            Some(layers_left) => Ok(Self {
                layers_left,
                ..self
            }),
            None => Err(DecodeError::TooManyLayers { limit: MAX_LAYERS }),
        }
    }

    /// Folds a tag or network id into the scope. Both directions of a flow must carry the same.
    const fn fold(self, kind: ScopeKind, id: u32) -> Self {
        let tag = ((kind as u64) << 32) | id as u64;
        // An odd multiplier is a bijection on 64 bits: a chain of one id never collides with
        // another, and longer chains do so with a chance of 2^-64.
        let scope = (self.scope.0.rotate_left(29) ^ tag).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self {
            scope: Scope(scope),
            ..self
        }
    }
}

/// What kind of id was folded into a scope: VLAN 7 and VNI 7 are different networks. The numbers
/// begin at 1 so that no fold leaves scope 0, which means "none".
#[derive(Clone, Copy)]
enum ScopeKind {
    Vlan = 1,
    Vxlan = 2,
    Geneve = 3,
    Nvgre = 4,
}
