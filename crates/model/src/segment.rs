//! TCP segments as the packet decoder hands them on.

use std::fmt;

use crate::flow::{Endpoint, Scope};
use crate::time::Timestamp;

/// One TCP segment, borrowed from the packet that carried it.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// When the packet was captured.
    pub at: Timestamp,
    /// The sender.
    pub source: Endpoint,
    /// The receiver.
    pub destination: Endpoint,
    /// The network that both live in.
    pub scope: Scope,
    /// Sequence number of the first payload byte (of the SYN where there is one).
    pub seq: SeqNum,
    /// The acknowledgment number; meaningful only with [`TcpFlags::ACK`].
    pub ack: SeqNum,
    /// The flags.
    pub flags: TcpFlags,
    /// The captured payload.
    pub payload: &'a [u8],
    /// Payload bytes that were on the wire behind `payload` but were not captured (snaplen).
    pub cut: u32,
}

/// A TCP sequence number: 32 bits that wrap.
#[derive(Clone, Copy, Default, Eq, Hash, PartialEq)]
pub struct SeqNum(pub u32);

impl SeqNum {
    /// How far this lies behind `base`, in either direction: exact while the two are less than
    /// 2 GiB apart.
    #[must_use]
    pub const fn distance_from(self, base: Self) -> i32 {
        self.0.wrapping_sub(base.0).cast_signed()
    }
}

impl fmt::Debug for SeqNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The flags of a TCP header (RFC 9293 section 3.1).
#[derive(Clone, Copy, Default, Eq, Hash, PartialEq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push function.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgment field is significant.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer field is significant.
    pub const URG: Self = Self(0x20);

    /// Whether every flag of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flags of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in "FSRPAUEC".chars().enumerate() {
            if self.0 & (1 << bit) != 0 {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_survives_the_wrap() {
        assert_eq!(SeqNum(5).distance_from(SeqNum(0xffff_fffb)), 10);
        assert_eq!(SeqNum(0xffff_fffb).distance_from(SeqNum(5)), -10);
    }
}
