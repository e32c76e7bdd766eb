//! Reads HTTP/1 responses, without I/O: bytes go in, the end of the response comes out. The body is
//! measured and forgotten.
//!
//! ```text
//!        1xx                        Length(n) ──n bytes──┐
//!       ┌───┐                  ┌──► Chunked ──0 chunk──► Trailers ──empty line──┐
//!       ▼   │                  │                                                ▼
//! ───► Head ┴── final head ────┼──► UntilClose ──── end of the connection ──► Done
//!                              └──── no body: HEAD, 204, 304, length 0 ────────►
//! ```

use std::mem::MaybeUninit;

/// What is wrong with a response.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum ResponseError {
    #[error("the answer is not HTTP/1")]
    NotHttp1,
    #[error("the answer is HTTP/2; the target wants h2c://")]
    Http2,
    #[error("the answer is TLS; the target wants https://")]
    Tls,
    #[error("the head of the answer is longer than 256 KiB or has more than 256 fields")]
    HeadTooLarge,
    #[error("the content length of the answer is no number, or several that differ")]
    InvalidLength,
    #[error("a chunk of the answer is malformed")]
    MalformedChunk,
    #[error("the target switched protocols unasked")]
    Switched,
}

/// How far a response has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Progress {
    NeedMore,
    /// It is whole.
    Done(Answer),
}

/// A whole response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The connection may carry another request.
    pub(crate) reusable: bool,
}

/// Reads one response.
#[derive(Debug)]
pub(crate) struct ResponseReader {
    state: State,
    /// The beginning of a head, or of a chunk's size line, whose end has not come.
    pending: Vec<u8>,
    is_head: bool,
    status: u16,
    keep_alive: bool,
    continue_seen: bool,
}

impl ResponseReader {
    /// A proxy in front of the target may add a lot; no head that is sane is longer.
    const MAX_HEAD: usize = 256 << 10;
    /// See [`Self::MAX_HEAD`].
    const MAX_FIELDS: usize = 256;
    /// Chunk extensions are allowed, but nobody sends long ones.
    const MAX_CHUNK_LINE: usize = 4096;

    /// `is_head`: the request was a HEAD.
    pub(crate) const fn new(is_head: bool) -> Self {
        Self {
            state: State::Head,
            pending: Vec::new(),
            is_head,
            status: 0,
            keep_alive: false,
            continue_seen: false,
        }
    }

    /// Whether the target asked for the body (100), or for anything: an interim response.
    pub(crate) const fn continue_seen(&self) -> bool {
        self.continue_seen
    }

    /// Takes the next bytes of the connection.
    pub(crate) fn push(&mut self, mut input: &[u8]) -> Result<Progress, ResponseError> {
        loop {
            match &mut self.state {
                State::Head => match self.head(input)? {
                    Some(rest) => input = rest,
                    None => return Ok(Progress::NeedMore),
                },
                State::Length(left) | State::Chunk(left) => {
                    let taken = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(input.len());
                    *left -= taken as u64;
                    input = input.get(taken..).unwrap_or_default();
                    if *left > 0 {
                        return Ok(Progress::NeedMore);
                    }
                    self.state = match self.state {
                        State::Length(_) => State::Done,
                        _ => State::ChunkEnd,
                    };
                }
                State::ChunkSize | State::ChunkEnd | State::Trailers => {
                    let Some((line, rest)) = take_line(&mut self.pending, input)? else {
                        return Ok(Progress::NeedMore);
                    };
                    input = rest;
                    let text = line.trim_ascii();
                    self.state = match self.state {
                        State::ChunkEnd if text.is_empty() => State::ChunkSize,
                        State::ChunkEnd => return Err(ResponseError::MalformedChunk),
                        State::ChunkSize => match chunk_size(text)? {
                            0 => State::Trailers,
                            size => State::Chunk(size),
                        },
                        _ if text.is_empty() => State::Done,
                        _ => State::Trailers,
                    };
                    self.pending.clear();
                }
                State::UntilClose => return Ok(Progress::NeedMore),
                State::Done => {
                    return Ok(Progress::Done(Answer {
                        status: self.status,
                        // Bytes that nobody asked for make whatever follows suspect.
                        reusable: self.keep_alive && input.is_empty(),
                    }));
                }
            }
        }
    }

    /// The connection ended. `None`: in the middle of the response.
    pub(crate) fn end(&self) -> Option<Answer> {
        matches!(self.state, State::UntilClose).then_some(Answer {
            status: self.status,
            reusable: false,
        })
    }

    /// Reads a head; gives back what is behind it, or `None` where it is not whole.
    fn head<'a>(&mut self, input: &'a [u8]) -> Result<Option<&'a [u8]>, ResponseError> {
        // Nearly every head comes in one piece, and is then read where it lies.
        let before = self.pending.len();
        let consumed = if before == 0 {
            self.parse(input)?
        } else {
            self.pending.extend_from_slice(input);
            let pending = std::mem::take(&mut self.pending);
            let consumed = self.parse(&pending);
            self.pending = pending;
            consumed?
        };
        match consumed {
            Some(consumed) => {
                self.pending = Vec::new();
                Ok(input.get(consumed - before..))
            }
            None => {
                if before == 0 {
                    self.pending.extend_from_slice(input);
                }
                if self.pending.len() > Self::MAX_HEAD {
                    return Err(ResponseError::HeadTooLarge);
                }
                Ok(None)
            }
        }
    }

    fn parse(&mut self, bytes: &[u8]) -> Result<Option<usize>, ResponseError> {
        let mut fields = [const { MaybeUninit::uninit() }; Self::MAX_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let mut config = httparse::ParserConfig::default();
        // Whatever browsers accept is an answer; the load is the point, not the grammar.
        config
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .ignore_invalid_headers_in_responses(true);
        let parsed = config.parse_response_with_uninit_headers(&mut response, bytes, &mut fields);
        let consumed = match parsed {
            Ok(httparse::Status::Complete(consumed)) => consumed,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(ResponseError::HeadTooLarge),
            // A server that speaks only HTTP/2 greets with a SETTINGS frame on stream 0.
            Err(_) if bytes.get(3..5) == Some(&[4, 0]) => return Err(ResponseError::Http2),
            // An alert, or a handshake record.
            Err(_) if matches!(bytes, [0x15 | 0x16, 3, ..]) => return Err(ResponseError::Tls),
            Err(_) => return Err(ResponseError::NotHttp1),
        };
        let status = response.code.unwrap_or_default();
        match status {
            101 => return Err(ResponseError::Switched),
            100..200 => {
                self.continue_seen = true;
                return Ok(Some(consumed));
            }
            _ => {}
        }
        self.status = status;
        let framing = Framing::read(response.headers)?;
        self.keep_alive = !framing.close && (response.version == Some(1) || framing.keep_alive);
        self.state = match framing.body {
            // RFC 9112 section 6.3, in its order.
            _ if self.is_head || matches!(status, 204 | 304) => State::Done,
            Body::Chunked => State::ChunkSize,
            Body::Length(0) => State::Done,
            Body::Length(length) => State::Length(length),
            Body::UntilClose => {
                self.keep_alive = false;
                State::UntilClose
            }
        };
        Ok(Some(consumed))
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    Head,
    Length(u64),
    ChunkSize,
    Chunk(u64),
    /// The line end behind a chunk.
    ChunkEnd,
    Trailers,
    UntilClose,
    Done,
}

#[derive(Clone, Copy)]
enum Body {
    Length(u64),
    Chunked,
    UntilClose,
}

struct Framing {
    body: Body,
    close: bool,
    keep_alive: bool,
}

impl Framing {
    fn read(fields: &[httparse::Header<'_>]) -> Result<Self, ResponseError> {
        let mut framing = Self {
            body: Body::UntilClose,
            close: false,
            keep_alive: false,
        };
        let mut coding: Option<&[u8]> = None;
        let mut length = None;
        for field in fields {
            let elements = || {
                field
                    .value
                    .split(|byte| *byte == b',')
                    .map(<[u8]>::trim_ascii)
            };
            if field.name.eq_ignore_ascii_case("content-length") {
                for element in elements() {
                    let value = decimal(element).ok_or(ResponseError::InvalidLength)?;
                    if length.replace(value).is_some_and(|before| before != value) {
                        return Err(ResponseError::InvalidLength);
                    }
                }
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                coding = elements().next_back();
            } else if field.name.eq_ignore_ascii_case("connection") {
                for element in elements() {
                    framing.close |= element.eq_ignore_ascii_case(b"close");
                    framing.keep_alive |= element.eq_ignore_ascii_case(b"keep-alive");
                }
            }
        }
        framing.body = match (coding, length) {
            (Some(coding), _) if coding.eq_ignore_ascii_case(b"chunked") => Body::Chunked,
            (Some(_), _) | (None, None) => Body::UntilClose,
            (None, Some(length)) => Body::Length(length),
        };
        Ok(framing)
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

fn chunk_size(line: &[u8]) -> Result<u64, ResponseError> {
    let end = line
        .iter()
        .position(|byte| matches!(byte, b';' | b' ' | b'\t'))
        .unwrap_or(line.len());
    let digits = line.get(..end).unwrap_or_default();
    std::str::from_utf8(digits)
        .ok()
        .filter(|digits| !digits.starts_with('+'))
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or(ResponseError::MalformedChunk)
}

type LineAndRest<'p, 'i> = (&'p [u8], &'i [u8]);

/// The next line, without copying it where it lies in `input` as a whole. The caller clears
/// `pending` when it is done with the line.
fn take_line<'p, 'i: 'p>(
    pending: &'p mut Vec<u8>,
    input: &'i [u8],
) -> Result<Option<LineAndRest<'p, 'i>>, ResponseError> {
    let end = input
        .iter()
        .position(|byte| *byte == b'\n')
        .map(|at| at + 1);
    let (line, rest) = input.split_at(end.unwrap_or(input.len()));
    if pending.len() + line.len() > ResponseReader::MAX_CHUNK_LINE {
        return Err(ResponseError::MalformedChunk);
    }
    if end.is_some() && pending.is_empty() {
        return Ok(Some((line, rest)));
    }
    pending.extend_from_slice(line);
    Ok(end.is_some().then_some((pending.as_slice(), rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REUSABLE: fn(u16) -> Answer = |status| Answer {
        status,
        reusable: true,
    };

    fn closes(status: u16) -> Answer {
        Answer {
            status,
            reusable: false,
        }
    }

    /// Reads in pieces of every size, and at every single split; all must say the same.
    #[track_caller]
    fn check(is_head: bool, bytes: &str, expect: Result<Answer, ResponseError>) {
        let bytes = bytes.as_bytes();
        let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let mut reader = ResponseReader::new(is_head);
            let mut last = Progress::NeedMore;
            for piece in pieces {
                last = reader.push(piece)?;
                assert!(reader.pending.len() <= bytes.len());
            }
            match last {
                Progress::Done(answer) => Ok(answer),
                Progress::NeedMore => Ok(reader.end().expect("the response must be whole")),
            }
        };
        for size in 1..=bytes.len() {
            assert_eq!(read(&mut bytes.chunks(size)), expect, "in pieces of {size}");
        }
        for at in 1..bytes.len() {
            let (a, b) = bytes.split_at(at);
            assert_eq!(read(&mut [a, b].into_iter()), expect, "split at {at}");
        }
    }

    #[test]
    fn framing_decides_where_a_response_ends() {
        check(
            false,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            Ok(REUSABLE(200)),
        );
        check(
            false,
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            Ok(REUSABLE(200)),
        );
        check(
            false,
            "HTTP/1.1 200\r\ncontent-length: 2, 2\r\n\r\nok",
            Ok(REUSABLE(200)),
        );
        check(
            true,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            Ok(REUSABLE(200)),
        );
        check(false, "HTTP/1.1 204 No\r\n\r\n", Ok(REUSABLE(204)));
        check(
            false,
            "HTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n",
            Ok(REUSABLE(304)),
        );
        check(
            false,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\nContent-Length: 1\r\n\r\n3;x=y\r\nabc\r\n0A \r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n",
            Ok(REUSABLE(200)),
        );
    }

    #[test]
    fn interim_responses_are_passed_over() {
        check(
            false,
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 201 Yes\r\nContent-Length: 0\r\n\r\n",
            Ok(REUSABLE(201)),
        );
        let mut reader = ResponseReader::new(false);
        assert_eq!(
            reader.push(b"HTTP/1.1 100 Continue\r\n\r\n"),
            Ok(Progress::NeedMore)
        );
        assert!(reader.continue_seen());
    }

    #[test]
    fn the_end_of_the_connection_ends_what_has_no_length() {
        check(
            false,
            "HTTP/1.1 200 OK\r\n\r\nuntil the end",
            Ok(closes(200)),
        );
        check(
            false,
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
            Ok(closes(200)),
        );
        let mut reader = ResponseReader::new(false);
        assert_eq!(
            reader.push(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell"),
            Ok(Progress::NeedMore)
        );
        assert_eq!(reader.end(), None);
    }

    #[test]
    fn the_connection_is_kept_only_when_both_sides_may() {
        let kept = "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n";
        check(false, kept, Ok(REUSABLE(200)));
        check(
            false,
            "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            Ok(closes(200)),
        );
        check(
            false,
            "HTTP/1.1 200 OK\r\nConnection: x, close\r\nContent-Length: 0\r\n\r\n",
            Ok(closes(200)),
        );
        let mut reader = ResponseReader::new(false);
        assert_eq!(
            reader.push(b"HTTP/1.1 204 OK\r\n\r\nHTTP/1.1 200 OK\r\n"),
            Ok(Progress::Done(closes(204)))
        );
    }

    #[test]
    fn what_is_not_http_is_said_to_be() {
        use ResponseError::{Http2, InvalidLength, MalformedChunk, NotHttp1, Switched};
        for (bytes, error) in [
            ("SSH-2.0-OpenSSH_9\r\n\r\n", NotHttp1),
            ("\0\0\x12\x04\0\0\0\0\0\0\0\0", Http2),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
                InvalidLength,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n",
                InvalidLength,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n",
                InvalidLength,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\n",
                MalformedChunk,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
                MalformedChunk,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
                MalformedChunk,
            ),
            ("HTTP/1.1 101 Switching\r\n\r\n", Switched),
        ] {
            let mut reader = ResponseReader::new(false);
            assert_eq!(reader.push(bytes.as_bytes()), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn heads_and_chunk_lines_are_bounded() {
        let mut reader = ResponseReader::new(false);
        let mut last = reader.push(b"HTTP/1.1 200 OK\r\nX: ");
        let mut pushed = 0;
        while last.is_ok() {
            last = reader.push(&[b'x'; 8192]);
            pushed += 8192;
            assert!(pushed <= 2 * ResponseReader::MAX_HEAD);
        }
        assert_eq!(last, Err(ResponseError::HeadTooLarge));

        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(257));
        let mut reader = ResponseReader::new(false);
        assert_eq!(
            reader.push(many.as_bytes()),
            Err(ResponseError::HeadTooLarge)
        );

        let mut reader = ResponseReader::new(false);
        reader
            .push(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;")
            .unwrap();
        assert_eq!(
            reader.push(&[b'x'; 8192]),
            Err(ResponseError::MalformedChunk)
        );
    }
}
