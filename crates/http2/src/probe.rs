//! Telling HTTP/2 from other protocols.

use tapedeck_model::{Role, Timestamp};

use crate::frame::{self, FrameHead, HEAD_LEN, Kind, PREFACE};
use crate::scan::{self, DEFAULT_FRAME_SIZE, Expect};
use crate::search::{Found, Search};

/// Whether bytes look like HTTP/2.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Probe {
    /// They do; the direction carries requests or responses. `None`: frames from the middle of a
    /// connection that are of either side.
    Yes(Option<Role>),
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
            Probe::Yes(Some(Role::Request))
        } else {
            Probe::NeedMore
        };
    }
    if begins_server(bytes) {
        return Probe::Yes(Some(Role::Response));
    }
    let mut search = Search::default();
    search.fill(Timestamp::EPOCH, bytes);
    if search.run(&Expect::default(), PROBE_WINDOW) == Found::Frames {
        return Probe::Yes(role(search.held()));
    }
    let patience = if search.hopes() {
        PROBE_WINDOW
    } else {
        PATIENCE
    };
    if bytes.len() < patience {
        Probe::NeedMore
    } else {
        Probe::No
    }
}

/// The most bytes that [`probe`] asks for: three of the largest ordinary frames.
pub const PROBE_WINDOW: usize = 3 * (DEFAULT_FRAME_SIZE as usize + HEAD_LEN);

/// Whether the bytes begin with a SETTINGS frame that acknowledges nothing: what a server says
/// first (RFC 9113 section 3.4).
fn begins_server(bytes: &[u8]) -> bool {
    bytes
        .first_chunk()
        .is_some_and(|head| scan::is_server_preface(&FrameHead::parse(head)))
}

/// What a direction carries, by the first field of the first HEADERS whose first field tells.
fn role(bytes: &[u8]) -> Option<Role> {
    let mut rest = bytes;
    while let Some((head, behind)) = rest.split_first_chunk() {
        let head = FrameHead::parse(head);
        let Some((payload, behind)) = behind.split_at_checked(head.len as usize) else {
            break;
        };
        if head.kind == Kind::PushPromise {
            return Some(Role::Response);
        }
        let fragment = frame::fragment(&head, payload);
        if let (Kind::Headers, Ok((fields, _))) = (head.kind, fragment) {
            // Indices of the static table, in an indexed field or as the name of a literal.
            let index = match fields.first() {
                Some(first @ 0x80..) => first & 0x7f,
                Some(first @ 0x40..=0x7f) => first & 0x3f,
                Some(first) => first & 0x0f,
                None => 0,
            };
            match index {
                1..=7 => return Some(Role::Request),
                8..=14 => return Some(Role::Response),
                _ => {}
            }
        }
        rest = behind;
    }
    None
}

/// Bytes without a place that could be a head, after which hope is given up. A capture often begins
/// in the middle of a frame, and the next head is then some packets away.
const PATIENCE: usize = 2048;

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
        assert_eq!(probe(PREFACE), Probe::Yes(Some(Role::Request)));
        let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";
        assert_eq!(probe(&settings[..8]), Probe::NeedMore);
        assert_eq!(probe(&settings[..9]), Probe::Yes(Some(Role::Response)));
    }

    #[test]
    fn a_chain_tells_and_says_whose_it_is() {
        for (frames, role) in [
            ([PING, GET, PING], Some(Role::Request)),
            ([OK, BODY, PING], Some(Role::Response)),
            ([PING, PING, BODY], None),
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

    /// What other protocols have in their middle, as SMB and Cassandra's drivers sent it.
    #[test]
    fn zeros_and_small_numbers_are_no_frames() {
        let frame = |len: usize, kind: u8, flags: u8, stream: u32| {
            let [_, length @ ..] = u32::try_from(len).unwrap().to_be_bytes();
            let head = [&length[..], &[kind, flags], &stream.to_be_bytes()].concat();
            [&head[..], &vec![0xfe; len]].concat()
        };
        for chain in [
            [(24, 0, 8, 77), (0, 16, 0, 1_280), (112, 0, 0, 135_168)],
            [(8_192, 0, 0, 17), (0, 0, 1, 47_104), (4, 16, 0, 0)],
            [(4, 0, 0, 17), (0, 0, 0, 33), (6, 0, 0, 65_535)],
            [
                (125, 0, 0, 7_754_565),
                (118, 0, 0, 7_295_813),
                (119, 0, 0, 7_361_349),
            ],
        ] {
            let bytes: Vec<u8> = chain
                .into_iter()
                .flat_map(|(len, kind, flags, stream)| frame(len, kind, flags, stream))
                .collect();
            let verdict = probe(&bytes);
            assert!(!matches!(verdict, Probe::Yes(_)), "{chain:?}: {verdict:?}");
        }
        // The middle of a download is told all the same.
        let download = [
            frame(9_000, 0, 0, 5),
            frame(9_000, 0, 0, 7),
            frame(9_000, 0, 0, 5),
        ];
        assert_eq!(probe(&download.concat()), Probe::Yes(None));
    }

    #[test]
    fn no_undecided_verdict_beyond_the_window() {
        let mut long = b"\0\x40\0\0\0\0\0\0\x01".to_vec();
        long.resize(PROBE_WINDOW, b'x');
        assert_eq!(probe(&long), Probe::No);
        assert_eq!(probe(&long[..100]), Probe::NeedMore);
    }
}
