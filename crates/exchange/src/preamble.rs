//! What proxies say before the conversation that they carry: the PROXY protocol (versions 1 and 2,
//! which load balancers put in front of HTTP, HTTP/2 and TLS), and SOCKS (versions 4, 4a and 5).
//!
//! It is looked for at the very beginning of a connection only, and taken off: what follows is what
//! the connection is about.

use std::borrow::Cow;

use tapedeck_model::{Direction, PerDirection};

/// Takes the preamble off both directions of a connection.
///
/// ```text
///   Start ──(client's first bytes)──┬─ PROXY ──► taken off ──► Done
///                                   ├─ SOCKS ──► taken off in both directions ──► Done
///                                   └─ anything else ──► Done
/// ```
#[derive(Debug, Default)]
pub(crate) struct Preamble {
    halves: PerDirection<Half>,
    socks: Option<Socks>,
}

#[derive(Debug, Default)]
struct Half {
    /// What came so far; at most a preamble.
    held: Vec<u8>,
    done: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Socks {
    V4,
    V5,
}

/// How the bytes of a direction begin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Begin {
    /// With a preamble of that length.
    Preamble(usize),
    /// With what may become one.
    NeedMore,
    /// With something else.
    Other,
}

impl Preamble {
    /// Whether there is nothing left to look for.
    pub(crate) const fn is_done(&self) -> bool {
        self.halves.to_server.done && (self.socks.is_none() || self.halves.to_client.done)
    }

    /// Takes bytes of a direction: how many of the bytes so far were a preamble, and what is left
    /// to read; nothing while that is not known.
    pub(crate) fn strip<'a>(
        &mut self,
        direction: Direction,
        data: &'a [u8],
    ) -> (usize, Cow<'a, [u8]>) {
        let speaks_first = direction == Direction::ToServer || self.socks.is_some();
        let half = &mut self.halves[direction];
        if half.done || !speaks_first {
            return (0, Cow::Borrowed(data));
        }
        let bytes = if half.held.is_empty() {
            Cow::Borrowed(data)
        } else {
            half.held.extend_from_slice(data);
            Cow::Owned(std::mem::take(&mut half.held))
        };
        let begin = match direction {
            Direction::ToServer => {
                let (begin, socks) = client(&bytes);
                self.socks = socks;
                begin
            }
            Direction::ToClient => server(&bytes, self.socks),
        };
        match begin {
            Begin::NeedMore => {
                half.held = bytes.into_owned();
                (0, Cow::Borrowed(&[]))
            }
            Begin::Other => {
                half.done = true;
                (0, bytes)
            }
            Begin::Preamble(len) => {
                half.done = true;
                let rest = match bytes {
                    Cow::Borrowed(bytes) => Cow::Borrowed(bytes.get(len..).unwrap_or_default()),
                    Cow::Owned(mut bytes) => {
                        bytes.drain(..len.min(bytes.len()));
                        Cow::Owned(bytes)
                    }
                };
                (len, rest)
            }
        }
    }

    /// The direction ends, or something of it was lost: what is held is no preamble.
    pub(crate) fn give_up(&mut self, direction: Direction) -> Vec<u8> {
        let half = &mut self.halves[direction];
        half.done = true;
        std::mem::take(&mut half.held)
    }
}

/// How the client begins, and the SOCKS version if it may be that.
fn client(bytes: &[u8]) -> (Begin, Option<Socks>) {
    match bytes.first() {
        Some(b'P') => (proxy_v1(bytes), None),
        Some(b'\r') => (proxy_v2(bytes), None),
        Some(4) => socks(socks4_request(bytes), Socks::V4),
        Some(5) => socks(socks5_request(bytes), Socks::V5),
        _ => (Begin::Other, None),
    }
}

fn socks(begin: Begin, version: Socks) -> (Begin, Option<Socks>) {
    (begin, (begin != Begin::Other).then_some(version))
}

/// `PROXY TCP4 192.0.2.1 198.51.100.1 40000 80` CR LF, at most 107 bytes.
fn proxy_v1(bytes: &[u8]) -> Begin {
    const NAME: &[u8] = b"PROXY ";
    const MAX: usize = 107;
    let seen = bytes.len().min(NAME.len());
    if bytes.get(..seen) != NAME.get(..seen) {
        return Begin::Other;
    }
    let kind = bytes.get(NAME.len()..).unwrap_or_default();
    let known = [b"TCP4 ".as_slice(), b"TCP6 ", b"UNKNOWN"];
    let fits = known.iter().any(|known| {
        let seen = kind.len().min(known.len());
        kind.get(..seen) == known.get(..seen)
    });
    if !fits {
        // A method of that name has a target behind it.
        return Begin::Other;
    }
    match memchr::memchr(b'\n', bytes) {
        Some(end) if end < MAX => Begin::Preamble(end + 1),
        None if bytes.len() < MAX => Begin::NeedMore,
        Some(_) | None => Begin::Other,
    }
}

/// A signature, version and command, family, and the length of the addresses and options.
fn proxy_v2(bytes: &[u8]) -> Begin {
    const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
    let seen = bytes.len().min(SIGNATURE.len());
    if bytes.get(..seen) != SIGNATURE.get(..seen) {
        return Begin::Other;
    }
    let Some([version, _, high, low]) = bytes.get(12..).and_then(<[u8]>::first_chunk) else {
        return Begin::NeedMore;
    };
    if version >> 4 != 2 {
        return Begin::Other;
    }
    whole(bytes, 16 + usize::from(u16::from_be_bytes([*high, *low])))
}

/// Version, command, port, address, user, NUL; with 4a (address 0.0.0.x) a name and NUL behind it.
fn socks4_request(bytes: &[u8]) -> Begin {
    // Longer names are refused by servers.
    const MAX_TEXT: usize = 256;
    if !matches!(bytes.get(1), None | Some(1 | 2)) {
        return Begin::Other;
    }
    let Some(text) = bytes.get(8..) else {
        return Begin::NeedMore;
    };
    let is_4a = matches!(bytes.get(4..8), Some([0, 0, 0, last]) if *last != 0);
    let mut len = 8;
    let mut rest = text;
    for _ in 0..=usize::from(is_4a) {
        match memchr::memchr(0, rest) {
            Some(end) if end <= MAX_TEXT => {
                len += end + 1;
                rest = rest.get(end + 1..).unwrap_or_default();
            }
            None if rest.len() <= MAX_TEXT => return Begin::NeedMore,
            Some(_) | None => return Begin::Other,
        }
    }
    Begin::Preamble(len)
}

/// Greeting (RFC 1928 section 3), user and password where they are asked for (RFC 1929), request.
fn socks5_request(bytes: &[u8]) -> Begin {
    let Some([_, methods]) = bytes.first_chunk() else {
        return Begin::NeedMore;
    };
    if *methods == 0 {
        return Begin::Other;
    }
    let mut at = 2 + usize::from(*methods);
    if bytes.get(at) == Some(&1) {
        let user = bytes.get(at + 1).copied();
        let behind = user.map(|user| at + 2 + usize::from(user));
        let Some((behind, password)) = behind.and_then(|at| Some((at, bytes.get(at)?))) else {
            return Begin::NeedMore;
        };
        at = behind + 1 + usize::from(*password);
    }
    socks5_message(bytes, at, 1..=3)
}

/// How the server answers.
fn server(bytes: &[u8], socks: Option<Socks>) -> Begin {
    match socks {
        Some(Socks::V4) => match bytes {
            [] | [0] => Begin::NeedMore,
            [0, 0x5a, ..] => whole(bytes, 8),
            _ => Begin::Other,
        },
        Some(Socks::V5) => {
            // The choice of a method; the verdict on user and password; the answer.
            let at = match bytes.get(2) {
                Some(1) => 4,
                _ => 2,
            };
            match bytes {
                [5, 0 | 2, ..] => socks5_message(bytes, at, 0..=0),
                [5] => Begin::NeedMore,
                _ => Begin::Other,
            }
        }
        None => Begin::Other,
    }
}

/// Version, command or answer, reserved, address, port.
fn socks5_message(bytes: &[u8], at: usize, codes: std::ops::RangeInclusive<u8>) -> Begin {
    let rest = bytes.get(at..).unwrap_or_default();
    if !matches!(rest.first(), None | Some(5))
        || rest.get(1).is_some_and(|code| !codes.contains(code))
    {
        return Begin::Other;
    }
    let Some([_, _, _, kind, first]) = rest.first_chunk() else {
        return Begin::NeedMore;
    };
    let address = match kind {
        1 => 4,
        3 => 1 + usize::from(*first),
        4 => 16,
        _ => return Begin::Other,
    };
    whole(bytes, at + 4 + address + 2)
}

fn whole(bytes: &[u8], len: usize) -> Begin {
    if bytes.len() < len {
        Begin::NeedMore
    } else {
        Begin::Preamble(len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UP: Direction = Direction::ToServer;
    const DOWN: Direction = Direction::ToClient;

    /// What is left of a conversation, whole and byte by byte.
    #[track_caller]
    fn check(steps: &[(Direction, &[u8])], left: [&str; 2]) {
        for piece in [usize::MAX, 1, 3] {
            let mut preamble = Preamble::default();
            let mut rest: PerDirection<Vec<u8>> = PerDirection::default();
            for (direction, data) in steps {
                for data in data.chunks(piece.min(data.len())) {
                    rest[*direction].extend_from_slice(&preamble.strip(*direction, data).1);
                }
            }
            for direction in Direction::BOTH {
                rest[direction].extend(preamble.give_up(direction));
            }
            let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
            assert_eq!([text(&rest.to_server), text(&rest.to_client)], left);
        }
    }

    #[test]
    fn the_proxy_protocol_is_taken_off() {
        let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x50\0\x50";
        for head in [
            b"PROXY TCP4 192.0.2.1 198.51.100.1 40000 80\r\n".as_slice(),
            b"PROXY UNKNOWN\r\n",
            v2,
        ] {
            let up = [head, b"GET /"].concat();
            check(&[(UP, &up), (DOWN, b"HTTP/1.1")], ["GET /", "HTTP/1.1"]);
        }
    }

    #[test]
    fn socks_is_taken_off_in_both_directions() {
        check(
            &[
                (UP, b"\x05\x02\0\x02"),
                (DOWN, b"\x05\x02"),
                (UP, b"\x01\x01u\x02pw"),
                (DOWN, b"\x01\0"),
                (UP, b"\x05\x01\0\x03\x01a\0\x50"),
                (DOWN, b"\x05\0\0\x01\x01\x02\x03\x04\0\x50"),
                (UP, b"GET /"),
                (DOWN, b"HTTP/1.1"),
            ],
            ["GET /", "HTTP/1.1"],
        );
        for request in [
            b"\x04\x01\0\x50\x01\x02\x03\x04user\0".as_slice(),
            b"\x04\x01\0\x50\0\0\0\x01user\0a.example\0",
        ] {
            check(
                &[
                    (UP, request),
                    (DOWN, b"\0\x5a\0\x50\x01\x02\x03\x04"),
                    (UP, b"GET /"),
                    (DOWN, b"HTTP/1.1"),
                ],
                ["GET /", "HTTP/1.1"],
            );
        }
    }

    #[test]
    fn anything_else_is_left_as_it_is() {
        for up in [
            b"GET / HTTP/1.1\r\n".as_slice(),
            b"PRI * HTTP/2.0\r\n",
            b"PROXY / HTTP/1.1\r\n",
            b"PROPFIND / HTTP/1.1\r\n",
            b"\r\nGET / HTTP/1.1\r\n",
            b"\x05\0hello",
            b"\x05\x01\0\x09",
            b"\x04\x09",
            b"\x16\x03\x01",
        ] {
            check(
                &[(UP, up), (DOWN, b"\x05\0answer")],
                [&up.escape_ascii().to_string(), "\\x05\\x00answer"],
            );
        }
    }

    /// How many bytes were a preamble, and what is left, with the directions in turn.
    fn strip(steps: &[(bool, Vec<u8>)], piece: usize) -> (usize, PerDirection<Vec<u8>>) {
        let mut preamble = Preamble::default();
        let mut rest: PerDirection<Vec<u8>> = PerDirection::default();
        let mut taken = 0;
        for (up, data) in steps {
            let direction = if *up { UP } else { DOWN };
            for data in data.chunks(piece) {
                let (len, left) = preamble.strip(direction, data);
                taken += len;
                rest[direction].extend_from_slice(&left);
            }
        }
        for direction in Direction::BOTH {
            rest[direction].extend(preamble.give_up(direction));
        }
        (taken, rest)
    }

    proptest! {
        /// Whatever comes, in whatever pieces: nothing is invented, nothing is lost.
        #[test]
        fn any_bytes_come_out_again(
            steps in proptest::collection::vec((any::<bool>(), proptest::collection::vec(
                prop_oneof![Just(0_u8), Just(1), Just(2), Just(4), Just(5), Just(0x5a), any::<u8>()],
                1..30,
            )), 0..6),
        ) {
            let all: usize = steps.iter().map(|(_, data)| data.len()).sum();
            let whole = strip(&steps, usize::MAX);
            for piece in [usize::MAX, 1, 3] {
                let (taken, rest) = strip(&steps, piece);
                prop_assert_eq!(taken + rest.to_server.len() + rest.to_client.len(), all);
                prop_assert_eq!((taken, &rest), (whole.0, &whole.1));
            }
        }
    }
}
