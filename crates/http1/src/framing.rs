//! What the fields of a head say about the body and the connection (RFC 9112 section 6.3).

use tapedeck_model::{Anomalies, Anomaly, Head, Protocol};

use crate::chunked::Chunked;

/// Where a body ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Framing {
    /// After so many bytes.
    Exact(u64),
    /// Where its chunks say.
    Chunked(Chunked),
    /// Where the connection does.
    UntilClose,
    /// A request whose end cannot be known: servers answer 400 and close.
    Unknowable,
}

/// What the fields of a head declare.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Declared {
    coding: Coding,
    length: Length,
    /// This is the last message of its direction.
    pub(crate) last: bool,
    /// Another protocol is asked for or agreed on.
    pub(crate) upgrade: bool,
    /// That protocol is HTTP/2 without TLS.
    pub(crate) h2c: bool,
    /// The client waits for 100 (Continue) before it sends the body.
    pub(crate) expect: bool,
    pub(crate) anomalies: Anomalies,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Coding {
    #[default]
    None,
    Chunked,
    Other,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Length {
    #[default]
    None,
    Is(u64),
    Invalid,
}

impl Declared {
    /// Reads the fields that matter.
    pub(crate) fn of(head: &Head) -> Self {
        let mut declared = Self::default();
        let (mut close, mut keep_alive) = (false, false);
        for field in &head.fields {
            // Most fields are told apart by their length alone.
            if !matches!(field.name.len, 6 | 7 | 10 | 14 | 17) {
                continue;
            }
            let (name, value) = (field.name.of(&head.raw), field.value.of(&head.raw));
            match name.len() {
                6 if name.eq_ignore_ascii_case(b"expect") => {
                    declared.expect |= value.eq_ignore_ascii_case(b"100-continue");
                }
                7 if name.eq_ignore_ascii_case(b"upgrade") => {
                    declared.upgrade = true;
                    declared.h2c |= elements(value).any(|name| name.eq_ignore_ascii_case(b"h2c"));
                }
                10 if name.eq_ignore_ascii_case(b"connection") => {
                    for option in elements(value) {
                        close |= option.eq_ignore_ascii_case(b"close");
                        keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                14 if name.eq_ignore_ascii_case(b"content-length") => declared.add_length(value),
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                    declared.add_coding(value);
                }
                _ => {}
            }
        }
        declared.last = close || (head.protocol == Protocol::Http10 && !keep_alive);
        if declared.length == Length::Invalid {
            declared.anomalies.insert(Anomaly::InvalidLength);
        }
        match declared.coding {
            Coding::None => {}
            Coding::Chunked if declared.length == Length::None => {}
            Coding::Chunked => declared.anomalies.insert(Anomaly::ConflictingLength),
            Coding::Other => declared.anomalies.insert(Anomaly::UnknownTransferCoding),
        }
        declared
    }

    /// The body of a request with these fields.
    pub(crate) const fn of_request(&self) -> Framing {
        match (self.coding, self.length) {
            (Coding::Chunked, _) => Framing::Chunked(Chunked::START),
            (Coding::Other, _) | (Coding::None, Length::Invalid) => Framing::Unknowable,
            (Coding::None, Length::Is(length)) => Framing::Exact(length),
            (Coding::None, Length::None) => Framing::Exact(0),
        }
    }

    /// The body of a response with these fields, to a request that is not HEAD.
    ///
    /// An invalid length is read as none, which is what browsers do.
    pub(crate) const fn of_response(&self, status: Option<u16>) -> Framing {
        match (status, self.coding, self.length) {
            (Some(100..200 | 204 | 304), ..) => Framing::Exact(0),
            (_, Coding::Chunked, _) => Framing::Chunked(Chunked::START),
            (_, Coding::None, Length::Is(length)) => Framing::Exact(length),
            (_, Coding::Other, _) | (_, Coding::None, Length::None | Length::Invalid) => {
                Framing::UntilClose
            }
        }
    }

    fn add_length(&mut self, value: &[u8]) {
        let mut any = false;
        // "5, 5" is what merging duplicates makes of them: valid where all agree.
        for element in elements(value) {
            any = true;
            self.length = match (self.length, decimal(element)) {
                (Length::None, Some(length)) => Length::Is(length),
                (Length::Is(length), Some(again)) if length == again => Length::Is(length),
                _ => Length::Invalid,
            };
        }
        if !any {
            self.length = Length::Invalid;
        }
    }

    fn add_coding(&mut self, value: &[u8]) {
        for element in elements(value) {
            // The last coding decides. "identity" was one until RFC 7230 and means nothing.
            if element.eq_ignore_ascii_case(b"chunked") {
                self.coding = Coding::Chunked;
            } else if !element.eq_ignore_ascii_case(b"identity") {
                self.coding = Coding::Other;
            }
        }
    }
}

/// The elements of a comma-separated list; empty ones do not count (RFC 9110 section 5.6.1).
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

fn decimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |value, byte| {
        let digit = char::from(*byte).to_digit(10)?;
        value.checked_mul(10)?.checked_add(digit.into())
    })
}

#[cfg(test)]
mod tests {
    use tapedeck_model::Role;

    use super::*;
    use crate::head::{LineEnds, Section, parse};

    fn declared(version: &str, fields: &str) -> Declared {
        let raw = format!("HTTP/{version} 200 OK\r\n{fields}\r\n").into_bytes();
        Declared::of(&parse(raw, Section::Head(Role::Response), 8, &LineEnds::NONE).head)
    }

    #[track_caller]
    fn check(fields: &str, request: Framing, response: Framing, anomalies: &[Anomaly]) {
        let declared = declared("1.1", fields);
        assert_eq!(declared.of_request(), request, "request");
        assert_eq!(declared.of_response(Some(200)), response, "response");
        assert_eq!(declared.anomalies.iter().collect::<Vec<_>>(), anomalies);
    }

    const CHUNKED: Framing = Framing::Chunked(Chunked::START);
    use Anomaly::{ConflictingLength, InvalidLength, UnknownTransferCoding};
    use Framing::{Exact, Unknowable, UntilClose};

    #[test]
    fn every_combination_has_its_reading() {
        check("", Exact(0), UntilClose, &[]);
        check("Content-Length: 7\r\n", Exact(7), Exact(7), &[]);
        check("content-length:007\r\n", Exact(7), Exact(7), &[]);
        check(
            "Content-Length: 7, 7\r\nContent-Length: 7\r\n",
            Exact(7),
            Exact(7),
            &[],
        );
        check("Transfer-Encoding: Chunked\r\n", CHUNKED, CHUNKED, &[]);
        check(
            "Transfer-Encoding: gzip, chunked\r\n",
            CHUNKED,
            CHUNKED,
            &[],
        );
        check(
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
            CHUNKED,
            CHUNKED,
            &[],
        );
        check(
            "Transfer-Encoding: identity\r\nContent-Length: 7\r\n",
            Exact(7),
            Exact(7),
            &[],
        );
        check(
            "Transfer-Encoding: chunked\r\nContent-Length: 7\r\n",
            CHUNKED,
            CHUNKED,
            &[ConflictingLength],
        );
        for other in ["gzip", "chunked, gzip", "xchunked", "chunked;q=1"] {
            check(
                &format!("Transfer-Encoding: {other}\r\n"),
                Unknowable,
                UntilClose,
                &[UnknownTransferCoding],
            );
        }
        for invalid in [
            "",
            ",",
            "x",
            "-1",
            "+7",
            "0x7",
            "7 7",
            "7;",
            "1, 2",
            "18446744073709551616",
        ] {
            check(
                &format!("Content-Length: {invalid}\r\n"),
                Unknowable,
                UntilClose,
                &[InvalidLength],
            );
        }
        check(
            "Content-Length: 7\r\nContent-Length: 8\r\n",
            Unknowable,
            UntilClose,
            &[InvalidLength],
        );
    }

    #[test]
    fn some_statuses_have_no_body() {
        let declared = declared("1.1", "Content-Length: 7\r\n");
        for status in [100, 103, 199, 204, 304] {
            assert_eq!(declared.of_response(Some(status)), Exact(0), "{status}");
        }
        for status in [None, Some(99), Some(200), Some(205), Some(404)] {
            assert_eq!(declared.of_response(status), Exact(7), "{status:?}");
        }
    }

    #[test]
    fn the_last_message_says_so() {
        assert!(!declared("1.1", "").last);
        assert!(declared("1.1", "Connection: te, Close\r\n").last);
        assert!(declared("1.0", "").last);
        assert!(!declared("1.0", "Connection: Keep-Alive\r\n").last);
    }

    #[test]
    fn upgrades_and_expectations_are_seen() {
        let upgrade = declared("1.1", "Upgrade: websocket, h2c\r\nExpect: 100-Continue\r\n");
        assert!(upgrade.upgrade && upgrade.h2c && upgrade.expect);
        assert!(!declared("1.1", "Upgrade: h2cx\r\n").h2c);
    }
}
