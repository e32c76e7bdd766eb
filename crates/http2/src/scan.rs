//! Finding frames in the middle of a byte stream, and telling HTTP/2 from other protocols.
//!
//! Nothing marks the beginning of a frame. But a head says where the next head is, and a real one
//! obeys the rules of its type: a random one passes about once in 2^23. So a place is taken for the
//! beginning of a frame when a chain of [`CHAIN`] heads starts there. The verdict depends on bytes
//! alone, never on how they were cut into packets.
//!
//! What is left are coincidences at the place where the search begins: the end of a real frame that
//! reads as the head of an empty one. Empty frames are therefore not believed there, and the streams of a chain have to be near each other, and near those that are known.

use tapedeck_model::{Direction, Role};

use crate::frame::{Flags, FrameHead, HEAD_LEN, Kind, PREFACE, StreamId};

/// Whether bytes look like HTTP/2.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Probe {
    /// They do; the direction carries requests or responses.
    Yes(Role),
    /// They do not.
    No,
    /// More bytes are needed to tell.
    NeedMore,
}

/// Whether the first bytes of one direction, as far as they were seen, look like HTTP/2: the
/// client's preface, the server's, or a chain of frames from the middle of a connection.
///
/// Undecided directions stay at [`Probe::NeedMore`] for at most [`PROBE_WINDOW`] bytes.
#[must_use]
pub fn probe(bytes: &[u8]) -> Probe {
    let common = bytes.len().min(PREFACE.len());
    if bytes.get(..common) == PREFACE.get(..common) {
        return if common == PREFACE.len() {
            Probe::Yes(Role::Request)
        } else {
            Probe::NeedMore
        };
    }
    if begins_server(bytes) {
        return Probe::Yes(Role::Response);
    }
    let mut undecided = false;
    for start in 0..bytes.len() {
        let rest = bytes.get(start..).unwrap_or_default();
        match examine(rest, &Expect::default()) {
            Verdict::Frames => return Probe::Yes(role(rest)),
            Verdict::Undecided(heads) => undecided |= start == 0 || heads > 0,
            Verdict::Other => {}
        }
    }
    let patience = if undecided { PROBE_WINDOW } else { PATIENCE };
    if bytes.len() < patience {
        Probe::NeedMore
    } else {
        Probe::No
    }
}

/// The most bytes that [`probe`] asks for: three of the largest ordinary frames.
pub const PROBE_WINDOW: usize = 3 * (DEFAULT_FRAME_SIZE as usize + HEAD_LEN);

/// The initial SETTINGS_MAX_FRAME_SIZE (RFC 9113 section 6.5.2).
pub(crate) const DEFAULT_FRAME_SIZE: u32 = 16 << 10;

/// Whether a frame starts at the beginning of some bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// Yes.
    Frames,
    /// No.
    Other,
    /// So many heads in a row, then the bytes end.
    Undecided(usize),
}

/// What is known of the frames that are looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expect {
    /// Their length, at most.
    pub(crate) max_len: u32,
    /// The highest stream that was seen; zero: none was.
    pub(crate) highest: u32,
    /// Where they go, if that is known.
    pub(crate) direction: Option<Direction>,
}

impl Default for Expect {
    fn default() -> Self {
        Self {
            max_len: DEFAULT_FRAME_SIZE,
            highest: 0,
            direction: None,
        }
    }
}

/// Follows the chain of frames from the beginning of `bytes`. More bytes never change a verdict
/// other than `Undecided`.
pub(crate) fn examine(bytes: &[u8], expect: &Expect) -> Verdict {
    let mut rest = bytes;
    let mut chain = Chain {
        block: None,
        lowest: u32::MAX,
        highest: 0,
    };
    for heads in 0..CHAIN {
        let Some((head, behind)) = rest.split_first_chunk() else {
            // Reject on the length alone where that is possible: it is in most bytes.
            return match rest.first() {
                Some(&first) if u32::from(first) > expect.max_len >> 16 => Verdict::Other,
                _ => Verdict::Undecided(heads),
            };
        };
        let head = FrameHead::parse(head);
        let unlikely = heads == 0 && doubtful(&head);
        if unlikely
            || !plausible(&head, expect.max_len)
            || !chain.accepts(&head, expect, heads == 0)
        {
            return Verdict::Other;
        }
        let Some(behind) = behind.get(head.len as usize..) else {
            return Verdict::Undecided(heads + 1);
        };
        rest = behind;
    }
    Verdict::Frames
}

/// The verdict where no byte will follow: a shorter chain will do if it ends with the bytes.
pub(crate) fn examine_last(bytes: &[u8], expect: &Expect) -> bool {
    if examine(bytes, expect) == Verdict::Other {
        return false;
    }
    let mut rest = bytes;
    while let Some((head, behind)) = rest.split_first_chunk() {
        let len = FrameHead::parse(head).len as usize;
        let Some(behind) = behind.get(len..) else {
            return false;
        };
        rest = behind;
    }
    rest.is_empty() && !bytes.is_empty()
}

/// Whether the bytes begin with a SETTINGS frame that acknowledges nothing: what a server says
/// first (RFC 9113 section 3.4).
fn begins_server(bytes: &[u8]) -> bool {
    bytes
        .first_chunk()
        .is_some_and(|head| is_server_preface(&FrameHead::parse(head)))
}

/// Whether this is the head of the frame that a server says first.
pub(crate) fn is_server_preface(head: &FrameHead) -> bool {
    head.kind == Kind::Settings
        && !head.flags.contains(Flags::ACK)
        && head.len <= MAX_SETTINGS_LEN
        && plausible(head, DEFAULT_FRAME_SIZE)
}

/// Whether a frame of a real peer could have this head.
fn plausible(head: &FrameHead, max_len: u32) -> bool {
    !head.reserved
        && head.len <= max_len
        && head.well_formed()
        && head.flags.defined_for(head.kind)
        && match head.kind {
            // Extensions in use: ALTSVC, ORIGIN, PRIORITY_UPDATE.
            Kind::Unknown(kind) => matches!(kind, 0x0a | 0x0c | 0x10),
            Kind::Settings => head.len <= MAX_SETTINGS_LEN,
            _ => true,
        }
}

/// Whether a head is too common a coincidence to begin with. Nine bytes of small numbers, at the end
/// of a real frame, easily read as the head of an empty one (the acknowledgment of SETTINGS alone is
/// distinct enough), and hardly any server still opens streams.
fn doubtful(head: &FrameHead) -> bool {
    let acknowledges = head.kind == Kind::Settings && head.flags.contains(Flags::ACK);
    let empty = head.len == 0 && !acknowledges;
    let pushed = head.stream != StreamId::CONNECTION && head.stream.opener() == Direction::ToClient;
    empty || pushed
}

/// A chain of frames, as far as it was followed.
#[derive(Debug)]
struct Chain {
    /// The stream of a field block that goes on.
    block: Option<StreamId>,
    lowest: u32,
    highest: u32,
}

impl Chain {
    /// Whether the frame may come where it does.
    fn accepts(&mut self, head: &FrameHead, expect: &Expect, first: bool) -> bool {
        // A field block is not interrupted, and CONTINUATION comes only within one (RFC 9113
        // section 6.10).
        let continues = head.kind == Kind::Continuation;
        let in_order = match self.block {
            Some(stream) => continues && head.stream == stream,
            None => !continues || first,
        };
        if head.has_fields() {
            self.block = (!head.flags.contains(Flags::END_HEADERS)).then_some(head.stream);
        }
        if head.stream != StreamId::CONNECTION {
            self.lowest = self.lowest.min(head.stream.0);
            self.highest = self.highest.max(head.stream.0);
        }
        let known = if expect.highest == 0 {
            self.lowest
        } else {
            expect.highest
        };
        // A client sends messages on its own streams only, and promises nothing.
        let of_client = expect.direction == Some(Direction::ToServer);
        let carries = head.has_fields() || head.kind == Kind::Data;
        let wrong_side = head.kind == Kind::PushPromise
            || (carries && head.stream.opener() == Direction::ToClient);
        in_order
            && self.highest.saturating_sub(self.lowest) < NEAR
            && self.highest < known.saturating_add(NEAR)
            && !(of_client && wrong_side)
    }
}

/// What a direction carries, by the first field of the first HEADERS whose first field tells.
fn role(bytes: &[u8]) -> Role {
    let mut rest = bytes;
    while let Some((head, behind)) = rest.split_first_chunk() {
        let head = FrameHead::parse(head);
        let Some((payload, behind)) = behind.split_at_checked(head.len as usize) else {
            break;
        };
        if head.kind == Kind::PushPromise {
            return Role::Response;
        }
        let fragment = crate::frame::fragment(&head, payload);
        if let (Kind::Headers, Ok((fields, _))) = (head.kind, fragment) {
            // Indices of the static table, in an indexed field or as the name of a literal.
            let index = match fields.first() {
                Some(first @ 0x80..) => first & 0x7f,
                Some(first @ 0x40..=0x7f) => first & 0x3f,
                Some(first) => first & 0x0f,
                None => 0,
            };
            match index {
                1..=7 => return Role::Request,
                8..=14 => return Role::Response,
                _ => {}
            }
        }
        rest = behind;
    }
    Role::Request
}

/// Bytes without a place that could be a head, after which hope is given up. A capture often begins
/// in the middle of a frame, and the next head is then some packets away.
const PATIENCE: usize = 2048;

/// Streams in use at one time are no further apart. A call takes some 50 bytes, so no gap that is
/// worth a search holds more.
const NEAR: u32 = 1 << 20;

/// How many heads in a row make a chain.
const CHAIN: usize = 3;

/// Seven settings are defined, and peers add a few: more than this is no SETTINGS frame.
const MAX_SETTINGS_LEN: u32 = 64 * 6;

#[cfg(test)]
mod tests {
    use super::*;

    const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0........";
    const GET: &[u8] = b"\0\0\x03\x01\x05\0\0\0\x05\x82\x86\x84";
    const OK: &[u8] = b"\0\0\x01\x01\x04\0\0\0\x05\x88";
    const BODY: &[u8] = b"\0\0\x02\0\x01\0\0\0\x05{}";

    #[test]
    fn prefaces_tell_at_once() {
        for len in 1..24 {
            assert_eq!(probe(&PREFACE[..len]), Probe::NeedMore);
        }
        assert_eq!(probe(PREFACE), Probe::Yes(Role::Request));
        let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";
        assert_eq!(probe(&settings[..8]), Probe::NeedMore);
        assert_eq!(probe(&settings[..9]), Probe::Yes(Role::Response));
    }

    #[test]
    fn a_chain_tells_and_says_whose_it_is() {
        for (frames, role) in [
            ([PING, GET, PING], Role::Request),
            ([OK, BODY, PING], Role::Response),
            ([PING, PING, BODY], Role::Request),
        ] {
            let bytes = frames.concat();
            for len in 1..bytes.len() - 8 {
                assert_ne!(probe(&bytes[..len]), Probe::No, "{len}");
            }
            assert_eq!(probe(&bytes), Probe::Yes(role));
            assert_eq!(
                probe(&[b"the rest of a body", &bytes[..]].concat()),
                Probe::Yes(role)
            );
        }
    }

    #[test]
    fn other_protocols_are_refused() {
        for other in [
            &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"PRI * HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
            b"*1\r\n$4\r\nPING\r\n",
            b"SSH-2.0-OpenSSH_9.6\r\n",
            &[0; 64],
            &[0xff; 64],
        ] {
            let more = other.repeat(PATIENCE / other.len() + 1);
            assert_eq!(probe(&more), Probe::No, "{other:?}");
        }
    }

    #[test]
    fn no_undecided_verdict_beyond_the_window() {
        let mut long = b"\0\x40\0\0\0\0\0\0\x01".to_vec();
        long.resize(PROBE_WINDOW, b'x');
        assert_eq!(probe(&long), Probe::No);
        assert_eq!(probe(&long[..100]), Probe::NeedMore);
    }

    #[test]
    fn interrupted_blocks_are_no_chain() {
        let begun = b"\0\0\x01\x01\0\0\0\0\x05\x82";
        let rest = b"\0\0\x01\x09\x04\0\0\0\x05\x86";
        let bytes = [&begun[..], rest, PING].concat();
        assert_eq!(examine(&bytes, &Expect::default()), Verdict::Frames);
        let bytes = [&begun[..], PING, PING].concat();
        assert_eq!(examine(&bytes, &Expect::default()), Verdict::Other);
        let bytes = [PING, rest, PING].concat();
        assert_eq!(examine(&bytes, &Expect::default()), Verdict::Other);
    }

    #[test]
    fn coincidences_are_not_believed() {
        // The end of a PRIORITY_UPDATE reads as an empty DATA frame on stream 0x1753d33.
        let update = b"\0\0\x07\x10\0\0\0\0\0\0\0\0\x01u=3";
        let bytes = [&update[..], PING, GET, PING].concat();
        let begins =
            |start: &usize| examine(&bytes[*start..], &Expect::default()) == Verdict::Frames;
        assert_eq!((0..20).filter(begins).collect::<Vec<_>>(), [0, 16]);
        // Streams far from each other, or of the wrong side.
        let far = [GET, PING, &b"\0\0\0\0\x01\x75\x3d\x33\x01"[..]].concat();
        assert_eq!(examine(&far, &Expect::default()), Verdict::Other);
        let even = [PING, &b"\0\0\x01\0\x01\0\0\0\x02x"[..], PING].concat();
        assert_eq!(examine(&even, &Expect::default()), Verdict::Frames);
        let expect = Expect {
            direction: Some(Direction::ToServer),
            ..Expect::default()
        };
        assert_eq!(examine(&even, &expect), Verdict::Other);
    }

    #[test]
    fn a_verdict_does_not_change_with_more_bytes() {
        let bytes = [BODY, GET, PING, OK, b"junk", BODY].concat();
        for start in 0..bytes.len() {
            let mut decided = None;
            for end in start..=bytes.len() {
                match (decided, examine(&bytes[start..end], &Expect::default())) {
                    (None, Verdict::Undecided(_)) => {}
                    (None, verdict) => decided = Some(verdict),
                    (Some(before), verdict) => assert_eq!(before, verdict, "{start}..{end}"),
                }
            }
        }
    }
}
