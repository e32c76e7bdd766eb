//! What is not there, and why.

use std::fmt;

/// Bytes of a direction that were given up on: an explicit event, never silence.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Gap {
    /// How many bytes are missing. Zero: an unknown number.
    pub len: u64,
    /// Why.
    pub cause: GapCause,
}

/// Why bytes of a direction were given up on.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum GapCause {
    /// The peer acknowledged them, but the capture never saw them.
    Lost,
    /// The capture kept only the head of the packet.
    Snaplen,
    /// A memory or waiting-time limit was reached before they came.
    Limit,
}

macro_rules! missing {
    ($($(#[$doc:meta])* $konst:ident = $bit:literal, $name:literal;)*) => {
        /// Why a message is not whole: a set of causes. The empty set means that every byte is
        /// there.
        #[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct Missing(u16);

        impl Missing {
            /// Nothing is missing.
            pub const NONE: Self = Self(0);
            $($(#[$doc])* pub const $konst: Self = Self(1 << $bit);)*

            /// Every single cause with its name, in the order of their bits.
            pub const ALL: &'static [(Self, &'static str)] = &[$((Self::$konst, $name)),*];
        }
    };
}

missing! {
    /// Bytes were lost before the capture saw them.
    LOST = 0, "lost";
    /// Bytes were cut off by the capture's snapshot length.
    TRUNCATED = 1, "truncated";
    /// A limit of the reader was reached (body size, memory, waiting time).
    PARTIAL = 2, "partial";
    /// The beginning was before the capture.
    PREDATES_CAPTURE = 3, "predates-capture";
    /// The capture ended before the message did.
    UNFINISHED = 4, "unfinished";
    /// The sender gave the message up: RST, RST_STREAM, or a close in the middle.
    ABORTED = 5, "aborted";
    /// Header fields could not be decoded (HPACK state from before the capture or behind a gap).
    UNKNOWN_FIELDS = 6, "unknown-fields";
    /// The bytes could not be read as HTTP any further.
    MALFORMED = 7, "malformed";
    /// The whole message was never seen on the wire: a request never answered, an answer never
    /// asked.
    ABSENT = 8, "absent";
    /// The archive that kept it was damaged, and it was recovered without these bytes.
    DAMAGED = 9, "damaged";
    /// What was asked was not seen, and so it is not known whether what followed the head was its
    /// body: behind HEAD there is none, and behind CONNECT it is a tunnel.
    UNKNOWN_END = 10, "unknown-end";
}

impl Missing {
    /// Whether nothing is missing.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether every cause of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Adds the causes of `other`.
    pub const fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// The causes as bits, as the archive keeps them.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The set with these bits; bits without a meaning are kept, and print as nothing.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The names of the causes in this set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::ALL
            .iter()
            .filter(move |(cause, _)| self.contains(*cause))
            .map(|(_, name)| *name)
    }
}

impl From<GapCause> for Missing {
    fn from(cause: GapCause) -> Self {
        match cause {
            GapCause::Lost => Self::LOST,
            GapCause::Snaplen => Self::TRUNCATED,
            GapCause::Limit => Self::PARTIAL,
        }
    }
}

impl fmt::Debug for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_names_its_causes() {
        let mut missing = Missing::NONE;
        assert!(missing.is_empty());
        missing.insert(Missing::ABORTED);
        missing.insert(GapCause::Lost.into());
        assert_eq!(missing.names().collect::<Vec<_>>(), ["lost", "aborted"]);
        assert!(missing.contains(Missing::LOST) && !missing.contains(Missing::PARTIAL));
        assert_eq!(Missing::from_bits(missing.bits()), missing);
    }
}
