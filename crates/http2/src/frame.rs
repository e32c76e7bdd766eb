//! Frames (RFC 9113 sections 4.1 and 6): heads, and payloads as checked views.

use tapedeck_model::{Direction, StreamKey};

/// What a client says first (RFC 9113 section 3.4).
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The length of a frame head.
pub(crate) const HEAD_LEN: usize = 9;

/// The head of a frame.
///
/// ```text
/// +-----------------------------------------------+
/// |                 Length (24)                   |
/// +---------------+---------------+---------------+
/// |   Type (8)    |   Flags (8)   |
/// +-+-------------+---------------+-------------------------------+
/// |R|                 Stream Identifier (31)                      |
/// +-+-------------------------------------------------------------+
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FrameHead {
    pub(crate) len: u32,
    pub(crate) kind: Kind,
    pub(crate) flags: Flags,
    pub(crate) stream: StreamId,
    pub(crate) reserved: bool,
}

/// The type of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Data,
    Headers,
    Priority,
    RstStream,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    /// An extension; ignored (RFC 9113 section 5.5).
    Unknown(u8),
}

/// The flags of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Flags(u8);

/// An HTTP/2 stream identifier; zero is the connection.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct StreamId(pub(crate) u32);

/// The payload is not what its type asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Malformed;

impl FrameHead {
    pub(crate) fn parse(bytes: &[u8; HEAD_LEN]) -> Self {
        let [l0, l1, l2, kind, flags, stream @ ..] = *bytes;
        let stream = u32::from_be_bytes(stream);
        Self {
            len: u32::from_be_bytes([0, l0, l1, l2]),
            kind: Kind::from(kind),
            flags: Flags(flags),
            stream: StreamId(stream & (u32::MAX >> 1)),
            reserved: stream >> 31 == 1,
        }
    }

    /// Whether length and stream are what the type asks for.
    pub(crate) fn well_formed(&self) -> bool {
        let on_connection = self.stream == StreamId::CONNECTION;
        match self.kind {
            Kind::Data | Kind::Headers | Kind::Continuation => !on_connection,
            Kind::Priority => !on_connection && self.len == 5,
            Kind::RstStream => !on_connection && self.len == 4,
            Kind::PushPromise => !on_connection && self.len >= 4,
            Kind::Settings => {
                on_connection
                    && self.len.is_multiple_of(SETTING_LEN as u32)
                    && (self.len == 0 || !self.flags.contains(Flags::ACK))
            }
            Kind::Ping => on_connection && self.len == 8,
            Kind::GoAway => on_connection && self.len >= 8,
            Kind::WindowUpdate => self.len == 4,
            Kind::Unknown(_) => true,
        }
    }

    /// Whether the frame carries a part of a field block.
    pub(crate) fn has_fields(&self) -> bool {
        matches!(
            self.kind,
            Kind::Headers | Kind::PushPromise | Kind::Continuation
        )
    }
}

impl From<u8> for Kind {
    fn from(number: u8) -> Self {
        match number {
            0x0 => Self::Data,
            0x1 => Self::Headers,
            0x2 => Self::Priority,
            0x3 => Self::RstStream,
            0x4 => Self::Settings,
            0x5 => Self::PushPromise,
            0x6 => Self::Ping,
            0x7 => Self::GoAway,
            0x8 => Self::WindowUpdate,
            0x9 => Self::Continuation,
            other => Self::Unknown(other),
        }
    }
}

impl Flags {
    pub(crate) const END_STREAM: Self = Self(0x1);
    pub(crate) const ACK: Self = Self(0x1);
    pub(crate) const END_HEADERS: Self = Self(0x4);
    pub(crate) const PADDED: Self = Self(0x8);
    pub(crate) const PRIORITY: Self = Self(0x20);

    pub(crate) const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether flags are set that have a meaning for frames of that type, and no others.
    pub(crate) const fn defined_for(self, kind: Kind) -> bool {
        let defined = match kind {
            Kind::Data => Self::END_STREAM.0 | Self::PADDED.0,
            Kind::Headers => {
                Self::END_STREAM.0 | Self::END_HEADERS.0 | Self::PADDED.0 | Self::PRIORITY.0
            }
            Kind::PushPromise => Self::END_HEADERS.0 | Self::PADDED.0,
            Kind::Continuation => Self::END_HEADERS.0,
            Kind::Settings | Kind::Ping => Self::ACK.0,
            Kind::Priority | Kind::RstStream | Kind::GoAway | Kind::WindowUpdate => 0,
            Kind::Unknown(_) => u8::MAX,
        };
        self.0 & !defined == 0
    }
}

impl StreamId {
    pub(crate) const CONNECTION: Self = Self(0);

    /// The side that opens streams of this id sends in this direction.
    pub(crate) const fn opener(self) -> Direction {
        if self.0 % 2 == 1 {
            Direction::ToServer
        } else {
            Direction::ToClient
        }
    }

    pub(crate) const fn key(self) -> StreamKey {
        StreamKey(self.0 as u64)
    }
}

/// The part of a field block in a HEADERS, PUSH_PROMISE or CONTINUATION frame, and the promised
/// stream. `payload` may be the beginning only; the fragment is then cut as well.
pub(crate) fn fragment<'a>(
    head: &FrameHead,
    payload: &'a [u8],
) -> Result<(&'a [u8], StreamId), Malformed> {
    let padded = head.flags.contains(Flags::PADDED) && head.kind != Kind::Continuation;
    let fixed = match head.kind {
        Kind::Headers if head.flags.contains(Flags::PRIORITY) => 5,
        Kind::PushPromise => 4,
        _ => 0,
    };
    let (padding, rest) = match payload.split_first() {
        Some((padding, rest)) if padded => (usize::from(*padding), rest),
        _ if padded => return Err(Malformed),
        _ => (0, payload),
    };
    let (fixed_part, rest) = rest.split_at_checked(fixed).ok_or(Malformed)?;
    let len = (head.len as usize)
        .checked_sub(usize::from(padded) + fixed + padding)
        .ok_or(Malformed)?;
    let promised = match (head.kind, fixed_part) {
        (Kind::PushPromise, &[a, b, c, d]) => {
            StreamId(u32::from_be_bytes([a, b, c, d]) & (u32::MAX >> 1))
        }
        _ => StreamId::CONNECTION,
    };
    Ok((rest.get(..len).unwrap_or(rest), promised))
}

/// The identifiers and values of a SETTINGS frame.
pub(crate) fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    payload.chunks_exact(SETTING_LEN).filter_map(|setting| {
        let (identifier, value) = setting.split_first_chunk::<2>()?;
        let value = value.first_chunk::<4>()?;
        Some((u16::from_be_bytes(*identifier), u32::from_be_bytes(*value)))
    })
}

/// The error code of RST_STREAM, or the last stream of GOAWAY: the first number of the payload.
pub(crate) fn number(payload: &[u8]) -> Option<u32> {
    payload
        .first_chunk()
        .map(|bytes| u32::from_be_bytes(*bytes))
}

const SETTING_LEN: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn head(len: u32, kind: u8, flags: u8, stream: u32) -> FrameHead {
        let [_, l0, l1, l2] = len.to_be_bytes();
        let [s0, s1, s2, s3] = stream.to_be_bytes();
        FrameHead::parse(&[l0, l1, l2, kind, flags, s0, s1, s2, s3])
    }

    #[test]
    fn a_head_is_read_bit_by_bit() {
        let head = head(0x12_3456, 1, 0x25, 0x8000_0003);
        assert_eq!((head.len, head.stream), (0x12_3456, StreamId(3)));
        assert!(head.reserved && head.kind == Kind::Headers);
        assert!(head.flags.contains(Flags::END_STREAM) && head.flags.contains(Flags::PRIORITY));
    }

    #[test]
    fn lengths_and_streams_are_checked_by_type() {
        for (len, kind, flags, stream, good) in [
            (0, 0, 0, 1, true),
            (0, 0, 0, 0, false),
            (5, 2, 0, 1, true),
            (4, 2, 0, 1, false),
            (4, 3, 0, 1, true),
            (4, 3, 0, 0, false),
            (12, 4, 0, 0, true),
            (13, 4, 0, 0, false),
            (6, 4, 1, 0, false),
            (0, 4, 1, 0, true),
            (3, 5, 4, 1, false),
            (8, 6, 0, 0, true),
            (7, 7, 0, 0, false),
            (4, 8, 0, 0, true),
            (4, 8, 0, 9, true),
            (0, 9, 0, 0, false),
            (77, 0xbe, 0, 0, true),
        ] {
            assert_eq!(head(len, kind, flags, stream).well_formed(), good, "{kind}");
        }
    }

    #[test]
    fn fragments_lose_padding_and_priority() {
        let check = |kind, flags, payload: &[u8], expect| {
            let head = head(payload.len() as u32, kind, flags, 1);
            assert_eq!(
                fragment(&head, payload),
                expect,
                "{kind} {flags:x} {payload:?}"
            );
        };
        check(1, 0, b"abc", Ok((&b"abc"[..], StreamId(0))));
        check(1, 0x8, b"\x02abc..", Ok((&b"abc"[..], StreamId(0))));
        check(
            1,
            0x28,
            b"\x01\0\0\0\0\x10abc.",
            Ok((&b"abc"[..], StreamId(0))),
        );
        check(
            5,
            0x8,
            b"\x01\x80\0\0\x02ab.",
            Ok((&b"ab"[..], StreamId(2))),
        );
        check(9, 0xff, b"\x02abc..", Ok((&b"\x02abc.."[..], StreamId(0))));
        check(1, 0x8, b"", Err(Malformed));
        check(1, 0x8, b"\x03ab", Err(Malformed));
        check(1, 0x20, b"\0\0\0\0", Err(Malformed));
        check(1, 0x8, b"\x02ab", Ok((&b""[..], StreamId(0))));
    }

    #[test]
    fn a_cut_payload_gives_a_cut_fragment() {
        let head = head(6, 1, 0x8, 1);
        for (payload, expect) in [(&b"\x02ab"[..], &b"ab"[..]), (b"\x02abc.", b"abc")] {
            assert_eq!(fragment(&head, payload), Ok((expect, StreamId(0))));
        }
    }
}
