//! Irregularities of the wire: named, counted, never fatal.

use std::fmt;

macro_rules! anomalies {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// A named irregularity of the wire. It says that something was odd, not that anything
        /// is lost: [`Missing`](crate::Missing) says that.
        ///
        /// The numbers are part of the archive format: never reused, only added.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[repr(u8)]
        pub enum Anomaly {
            $($(#[$doc])* $variant = $number,)*
        }

        impl Anomaly {
            /// Every anomaly, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name, as shown to people and kept in the ledger.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

anomalies! {
    // TCP
    /// A retransmission carried other bytes than the first delivery; the first delivery wins.
    ConflictingOverlap = 0, "tcp-conflicting-overlap";
    /// A segment lay far outside of any window and was ignored.
    SegmentOutOfRange = 1, "tcp-segment-out-of-range";
    /// Data behind the FIN of its direction.
    DataAfterFin = 2, "tcp-data-after-fin";

    // HTTP/1
    /// A head could not be read as HTTP/1.
    MalformedHead = 16, "http1-malformed-head";
    /// A head exceeded the limit for heads.
    HeadTooLarge = 17, "http1-head-too-large";
    /// A line ended in a bare LF.
    BareLf = 18, "http1-bare-lf";
    /// A field value was folded over several lines (obs-fold).
    ObsFold = 19, "http1-obs-fold";
    /// White space between a field name and its colon.
    SpaceBeforeColon = 20, "http1-space-before-colon";
    /// Both Transfer-Encoding and Content-Length; the transfer coding wins (RFC 9112 section 6.3).
    ConflictingLength = 21, "http1-conflicting-length";
    /// Several Content-Length values that differ, or one that is not a number.
    InvalidLength = 22, "http1-invalid-length";
    /// A Transfer-Encoding whose last coding is not chunked.
    UnknownTransferCoding = 23, "http1-unknown-transfer-coding";
    /// A chunk size that is not a hexadecimal number, or no line end behind a chunk.
    MalformedChunk = 24, "http1-malformed-chunk";
    /// A response came before its request had ended.
    EarlyResponse = 25, "http1-early-response";
    /// A response that no request asked for.
    UnsolicitedResponse = 26, "http1-unsolicited-response";
    /// Empty lines or other bytes between messages.
    JunkBetweenMessages = 27, "http1-junk-between-messages";
    /// The connection was closed in the middle of a message.
    ClosedInMessage = 28, "http1-closed-in-message";
    /// Bytes behind the last message of a connection (`Connection: close`, close-delimited).
    DataAfterLastMessage = 29, "http1-data-after-last-message";
    /// More requests waited for a response at once than the limit.
    TooManyOutstanding = 30, "http1-too-many-outstanding";

    // HTTP of any version
    /// More interim responses came to one request than the limit.
    TooManyInterim = 32, "http-too-many-interim-responses";

    // HTTP/2
    /// The connection did not begin with the preface (seen mid-stream, or a peer in error).
    NoPreface = 48, "http2-no-preface";
    /// A frame with a payload that its type does not allow.
    MalformedFrame = 49, "http2-malformed-frame";
    /// A frame longer than the announced SETTINGS_MAX_FRAME_SIZE.
    FrameTooLarge = 50, "http2-frame-too-large";
    /// A frame on a stream whose state does not allow it.
    UnexpectedFrame = 51, "http2-unexpected-frame";
    /// A field block that HPACK cannot decode.
    HpackError = 52, "http2-hpack-error";
    /// A field refers to a dynamic table entry from before the capture or behind a gap.
    HpackUnknownEntry = 53, "http2-hpack-unknown-entry";
    /// A field section exceeded the limit.
    FieldSectionTooLarge = 54, "http2-field-section-too-large";
    /// A field block was interrupted by another frame.
    InterruptedFieldBlock = 55, "http2-interrupted-field-block";
    /// More streams were open at once than the limit.
    TooManyStreams = 56, "http2-too-many-streams";
    /// A body whose length is not what content-length says.
    ContentLengthMismatch = 57, "http2-content-length-mismatch";
    /// A pseudo-header field was missing, repeated, or behind a regular field.
    MalformedPseudoHeader = 58, "http2-malformed-pseudo-header";
    /// More SETTINGS were unacknowledged at once than the limit; they are no longer followed.
    TooManySettings = 59, "http2-too-many-settings";

    // The mock
    /// A mock made something go wrong on purpose, as its chaos file says.
    InjectedFault = 96, "mock-injected-fault";
}

impl Anomaly {
    /// The anomaly of that number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|anomaly| *anomaly as u8 == number)
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of anomalies.
#[derive(Clone, Copy, Default, Eq, Hash, PartialEq)]
pub struct Anomalies(u128);

impl Anomalies {
    /// Adds one.
    pub const fn insert(&mut self, anomaly: Anomaly) {
        self.0 |= 1 << (anomaly as u8);
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in the set, by number.
    pub fn iter(self) -> impl Iterator<Item = Anomaly> {
        Anomaly::ALL
            .iter()
            .copied()
            .filter(move |anomaly| self.0 & (1 << (*anomaly as u8)) != 0)
    }

    /// The set as bits: bit n is the anomaly of number n.
    #[must_use]
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// The set of these bits; bits without a meaning are kept, and print as nothing.
    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }
}

impl fmt::Debug for Anomalies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.iter().map(Anomaly::name))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fit_the_set_and_names_are_unique() {
        let mut names: Vec<_> = Anomaly::ALL.iter().map(|anomaly| anomaly.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Anomaly::ALL.len());
        for anomaly in Anomaly::ALL {
            assert!(
                (*anomaly as u8) < 128,
                "{anomaly} does not fit into Anomalies"
            );
            assert_eq!(Anomaly::from_number(*anomaly as u8), Some(*anomaly));
        }
    }

    #[test]
    fn a_set_gives_back_what_was_put_in() {
        let mut set = Anomalies::default();
        set.insert(Anomaly::HpackError);
        set.insert(Anomaly::BareLf);
        assert_eq!(
            set.iter().collect::<Vec<_>>(),
            [Anomaly::BareLf, Anomaly::HpackError]
        );
    }
}
