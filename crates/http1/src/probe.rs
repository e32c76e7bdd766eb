//! Whether bytes look like the beginning of an HTTP/1 message: for detection, and for finding the
//! place again behind a loss.

use tapedeck_model::Role;

use crate::head;

/// What [`probe()`] says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Probe {
    /// The beginning of an HTTP/1 message of that role.
    Yes(Role),
    /// Something else.
    No,
    /// Too few bytes to tell.
    NeedMore,
}

/// Whether the first bytes of one direction are HTTP/1, and whose side that direction is.
///
/// An answer holds for every longer input that begins with the same bytes, so that detection does
/// not depend on how the bytes were split. `NeedMore` ends within about 8 KiB.
///
/// ```
/// use tapedeck_http1::{Probe, probe};
/// use tapedeck_model::Role;
///
/// assert_eq!(probe(b"GET /"), Probe::Yes(Role::Request));
/// assert_eq!(probe(b"HTTP/1.1 200 OK\r\n"), Probe::Yes(Role::Response));
/// assert_eq!(probe(b"PRI * HTTP/2.0\r\n"), Probe::No);
/// assert_eq!(probe(b"PURGE /x HTT"), Probe::NeedMore);
/// ```
#[must_use]
pub fn probe(bytes: &[u8]) -> Probe {
    // RFC 9112 section 2.2: clients may send an empty line before a request.
    let blank = bytes
        .iter()
        .take_while(|byte| matches!(byte, b'\r' | b'\n'))
        .count();
    if blank > MAX_BLANK {
        return Probe::No;
    }
    start_line(bytes.get(blank..).unwrap_or_default())
}

/// As [`probe()`], at the first byte of a line.
pub(crate) fn start_line(bytes: &[u8]) -> Probe {
    match status_line(bytes) {
        Probe::No => request_line(bytes),
        other => other,
    }
}

/// `HTTP/1.` DIGIT SP DIGIT. The role is told by seven bytes, but prose about HTTP has those too.
/// `ICY SP DIGIT` is what streaming servers (SHOUTcast) say in the place of HTTP/1.0.
pub(crate) fn status_line(bytes: &[u8]) -> Probe {
    match pattern(bytes, b"HTTP/1.0 0") {
        Probe::No => pattern(bytes, b"ICY 0"),
        other => other,
    }
}

/// Whether bytes are that text, where `0` stands for a digit and a space for some.
fn pattern(bytes: &[u8], expected: &[u8]) -> Probe {
    let mut rest = bytes;
    for expected in expected {
        let Some((byte, behind)) = rest.split_first() else {
            return Probe::NeedMore;
        };
        let fits = match expected {
            b'0' => byte.is_ascii_digit(),
            _ => byte == expected,
        };
        if !fits {
            return Probe::No;
        }
        rest = behind;
        if *expected == b' ' {
            rest = skip_spaces(rest);
        }
    }
    Probe::Yes(Role::Response)
}

/// What follows up to [`MAX_SPACES`] spaces: some programs write two where one is due.
fn skip_spaces(bytes: &[u8]) -> &[u8] {
    let spaces = bytes.iter().take(MAX_SPACES);
    let spaces = spaces.take_while(|byte| **byte == b' ').count();
    bytes.get(spaces..).unwrap_or_default()
}

/// A known method and an absolute path, or any token, a target and `HTTP/1.`.
pub(crate) fn request_line(bytes: &[u8]) -> Probe {
    let method_len = head::token_len(bytes);
    if method_len == 0 && !bytes.is_empty() || method_len > MAX_METHOD {
        return Probe::No;
    }
    let Some((method, rest)) = bytes.split_at_checked(method_len) else {
        return Probe::No;
    };
    let Some((b' ', rest)) = rest.split_first() else {
        return if rest.is_empty() {
            Probe::NeedMore
        } else {
            Probe::No
        };
    };
    if METHODS.contains(&method) {
        let rest = skip_spaces(rest);
        // An absolute path tells HTTP from its relatives: RTSP, SIP and ICAP name a scheme.
        if rest.first() == Some(&b'/') {
            return Probe::Yes(Role::Request);
        }
        // A request without a target: servers answer it with 400.
        let seen = rest.len().min(NO_TARGET.len());
        if rest.get(..seen) == NO_TARGET.get(..seen) {
            return if seen == NO_TARGET.len() {
                Probe::Yes(Role::Request)
            } else {
                Probe::NeedMore
            };
        }
        return target_and_version(rest);
    }
    target_and_version(rest)
}

/// A known method, a target and `HTTP/1.`: what a request must have to be found behind a gap, where
/// `ET` may be all that is left of a method.
pub(crate) fn known_request_line(bytes: &[u8]) -> Probe {
    let method_len = head::token_len(bytes);
    match bytes.split_at_checked(method_len) {
        Some((method, [b' ', rest @ ..])) if METHODS.contains(&method) => target_and_version(rest),
        Some((method, [])) if METHODS.iter().any(|known| known.starts_with(method)) => {
            Probe::NeedMore
        }
        _ => Probe::No,
    }
}

fn target_and_version(rest: &[u8]) -> Probe {
    let Some(target_len) = rest
        .iter()
        .take(MAX_TARGET)
        .position(|byte| *byte <= b' ' || *byte == 0x7f)
    else {
        return if rest.len() < MAX_TARGET {
            Probe::NeedMore
        } else {
            Probe::No
        };
    };
    let version = rest.get(target_len..).unwrap_or_default();
    let seen = version.len().min(VERSION.len());
    if target_len == 0 || version.get(..seen) != VERSION.get(..seen) {
        return Probe::No;
    }
    match version.get(VERSION.len()) {
        Some(digit) if digit.is_ascii_digit() => Probe::Yes(Role::Request),
        Some(_) => Probe::No,
        None => Probe::NeedMore,
    }
}

const VERSION: &[u8] = b" HTTP/1.";
const NO_TARGET: &[u8] = b"HTTP/1.";

/// How many spaces too many are read over where one is due: real servers answer seventeen and more.
const MAX_SPACES: usize = 64;

/// Bytes of empty lines that may stand before the first message.
const MAX_BLANK: usize = 8;

/// The longest registered method, UPDATEREDIRECTREF, has 17 bytes.
pub(crate) const MAX_METHOD: usize = 32;

/// The longest target that is waited for where the method is unknown.
const MAX_TARGET: usize = 8000;

/// Methods that servers of today meet; the others need their version seen.
const METHODS: [&[u8]; 15] = [
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"DELETE",
    b"CONNECT",
    b"OPTIONS",
    b"TRACE",
    b"PATCH",
    b"PROPFIND",
    b"PROPPATCH",
    b"MKCOL",
    b"COPY",
    b"MOVE",
    b"REPORT",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: Probe) {
        assert_eq!(
            probe(bytes),
            expected,
            "{:?}",
            bytes.escape_ascii().to_string()
        );
    }

    const REQUEST: Probe = Probe::Yes(Role::Request);
    const RESPONSE: Probe = Probe::Yes(Role::Response);

    #[test]
    fn http_is_recognised() {
        check(b"GET / HTTP/1.1\r\n", REQUEST);
        check(b"\r\n\r\nPOST /x HTTP/1.0\r\n", REQUEST);
        check(b"GET /old\r\n", REQUEST);
        check(b"OPTIONS * HTTP/1.1\r\n", REQUEST);
        check(b"CONNECT a.example:443 HTTP/1.1\r\n", REQUEST);
        check(b"GET http://a.example/ HTTP/1.1\r\n", REQUEST);
        check(b"M-SEARCH * HTTP/1.1\r\n", REQUEST);
        check(b"X-OWN /\xc3\xa4 HTTP/1.1\r\n", REQUEST);
        check(b"HTTP/1.0 404 Not Found\r\n", RESPONSE);
        check(b"HTTP/1.1 2", RESPONSE);
        check(b"GET   /two HTTP/1.1\r\n", REQUEST);
        check(b"GET                  /many HTTP/1.1\r\n", REQUEST);
        check(b"GET HTTP/1.1\r\n", REQUEST);
        check(b"GET  HTTP/1.1\r\n", REQUEST);
        check(b"HTTP/1.1  200 OK\r\n", RESPONSE);
        check(b"ICY 200 OK\r\n", RESPONSE);
    }

    #[test]
    fn relatives_and_binary_protocols_are_not() {
        for bytes in [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(),
            b"OPTIONS rtsp://a/ RTSP/1.0\r\n",
            b"OPTIONS * RTSP/1.0\r\n",
            b"OPTIONS sip:a@b SIP/2.0\r\n",
            b"OPTIONS icap://a/ ICAP/1.0\r\n",
            b"HTTP/2 200\r\n",
            b"HTTP/1.1\r\n",
            b"\x16\x03\x01\x02\x00\x01",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"220 mail.example ESMTP\r\n",
            b"EHLO a.example\r\n",
            b"*3\r\n$3\r\nSET\r\n",
            b"get key\r\n",
            b"GET key\r\n",
            b"\x00\x00\x00\x2d\x00\x00",
            b"\x10\x0e\x00\x04MQTT",
            b"\r\n\r\n\r\n\r\n\r\n",
            b"GET                                                                  /\r\n",
            b"HTTP/1.1                                                                   2",
            b"ICY\r\n",
        ] {
            check(bytes, Probe::No);
        }
        check(&[b'A'; 33], Probe::No);
        let mut endless = b"OWN ".to_vec();
        endless.resize(9000, b'a');
        check(&endless, Probe::No);
    }

    #[test]
    fn too_little_is_not_an_answer() {
        for bytes in [
            b"".as_slice(),
            b"\r\n",
            b"G",
            b"GET",
            b"GET ",
            b"HTTP/1.1",
            b"HTTP/1.1  ",
            b"IC",
            b"GET  ",
            b"GET HTTP/1",
            b"PURGE /x HTTP/1.",
        ] {
            check(bytes, Probe::NeedMore);
        }
    }

    proptest! {
        #[test]
        fn an_answer_holds_for_every_longer_input(
            bytes in prop_oneof![
                "[\r\n]{0,9}(GET|OWN|PRI) ?[*/ -~]{0,12} ?HTTP/[0-2].[0-9]( [0-9]|\r\n)".prop_map(String::into_bytes),
                proptest::collection::vec(any::<u8>(), 0..40),
            ],
        ) {
            let answers: Vec<_> = (0..=bytes.len()).map(|len| probe(&bytes[..len])).collect();
            for pair in answers.windows(2) {
                prop_assert!(pair[0] == Probe::NeedMore || pair[0] == pair[1], "{:?}", answers);
            }
        }
    }
}
