//! Requests out of the bytes of an HTTP/1 connection, without I/O.
//!
//! ```text
//!          head complete             body complete            consume()
//!   Head ────────────────► Length | Chunked ─────────► Ready ───────────► Head
//! ```
//!
//! Strict where leniency lets two parties disagree about where a request ends (RFC 9112 section
//! 11.2): two lengths, a length beside a coding, an unknown coding, a bare LF in chunks. Lenient
//! elsewhere: a recorded client is to find its answer.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::super::answer::{Http1Client, length};
use super::super::call::{Call, Headers};
use super::super::options::Limits;

/// How an HTTP/2 connection begins (RFC 9113 section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads one request after the other.
pub(crate) struct RequestReader {
    max_head: usize,
    max_body: usize,
    /// What was received and not consumed. Of a chunked body, only what is not decoded yet.
    input: Vec<u8>,
    /// Where the current request starts.
    start: usize,
    state: State,
    head: Head,
    /// The decoded body of a chunked request.
    decoded: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// `searched`: no end of the head lies before this offset behind `start`; zero: not tried.
    Head {
        searched: usize,
    },
    /// The body is the next `len` bytes behind the head.
    Length {
        len: usize,
    },
    Chunked(Chunk),
    /// `end`: where the request ends, behind `start`.
    Ready {
        end: usize,
    },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Chunk {
    Size,
    Data {
        left: usize,
    },
    DataEnd,
    /// `seen`: bytes of trailer lines so far.
    Trailers {
        seen: usize,
    },
}

/// Where the parts of a head lie behind `start`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Head {
    len: usize,
    method: Range<usize>,
    target: Range<usize>,
    host: Option<Range<usize>>,
    content_type: Option<Range<usize>>,
    authorization: Option<Range<usize>>,
    cookie: Option<Range<usize>>,
    upgrade: Option<Range<usize>>,
    http10: bool,
    close: bool,
    /// The client waits for 100 before it sends the body.
    expects: bool,
}

/// What a reader needs or has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// More bytes.
    NeedMore,
    /// To tell the client that it may send the body; then more bytes.
    SendContinue,
    /// A request is there: [`RequestReader::call`].
    Ready,
    /// The connection must end with this answer.
    Refuse(Refusal),
}

/// An answer to what is no acceptable request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) why: &'static str,
}

/// What a connection waits for: each has its own time limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    Idle,
    Head,
    Body,
}

impl RequestReader {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            max_head: limits.head_bytes,
            max_body: limits.body_bytes,
            input: Vec::with_capacity(READ),
            start: 0,
            state: State::Head { searched: 0 },
            head: Head::default(),
            decoded: Vec::new(),
        }
    }

    /// Where to append received bytes, with room for some.
    pub(crate) fn space(&mut self) -> &mut Vec<u8> {
        // Requests before `start` are answered: keep what follows at the front.
        if self.start == self.input.len() {
            self.input.clear();
            self.start = 0;
        } else if self.start >= READ {
            self.input.drain(..self.start);
            self.start = 0;
        }
        let wanted = match self.state {
            // A large body comes in few large reads, but memory follows what really came.
            State::Length { .. } | State::Chunked(_) => READ.max(self.input.len()).min(MAX_READ),
            State::Head { .. } | State::Ready { .. } => READ / 2,
        };
        if self.input.capacity() - self.input.len() < wanted {
            self.input.reserve(wanted);
        }
        &mut self.input
    }

    /// Goes on with what was received.
    pub(crate) fn advance(&mut self) -> Step {
        let step = match self.state {
            State::Head { searched } => self.read_head(searched),
            State::Length { len } => self.read_length(len),
            State::Chunked(chunk) => self.read_chunks(chunk),
            State::Ready { .. } => Ok(Step::Ready),
        };
        step.unwrap_or_else(Step::Refuse)
    }

    /// The request. Meaningful after [`Step::Ready`].
    pub(crate) fn call(&self) -> Call<'_> {
        let request = self.input.get(self.start..).unwrap_or_default();
        let part = |range: &Range<usize>| request.get(range.clone()).unwrap_or_default();
        let body = match self.state {
            State::Ready { end } if self.decoded.is_empty() => {
                request.get(self.head.len..end).unwrap_or_default()
            }
            _ => &self.decoded,
        };
        Call {
            method: part(&self.head.method),
            authority: self.head.host.as_ref().map(part),
            target: part(&self.head.target),
            content_type: self.head.content_type.as_ref().map(part),
            session: self
                .head
                .authorization
                .as_ref()
                .or(self.head.cookie.as_ref())
                .map(part),
            headers: Headers::Lines(request.get(..self.head.len).unwrap_or_default()),
            body,
        }
    }

    /// Whether it asks to go on as WebSocket.
    pub(crate) fn wants_websocket(&self) -> bool {
        let Some(upgrade) = &self.head.upgrade else {
            return false;
        };
        let request = self.input.get(self.start..).unwrap_or_default();
        let value = request.get(upgrade.clone()).unwrap_or_default();
        value.eq_ignore_ascii_case(b"websocket") && !self.head.http10
    }

    /// What its answer depends on. Meaningful after [`Step::Ready`].
    pub(crate) const fn client(&self) -> Http1Client {
        Http1Client {
            http10: self.head.http10,
            close: self.head.close,
        }
    }

    /// Forgets the request that was ready.
    pub(crate) fn consume(&mut self) {
        if let State::Ready { end } = self.state {
            self.start += end;
            // What one large request took is not kept for the life of the connection.
            if self.decoded.capacity() > MAX_KEPT {
                self.decoded = Vec::new();
            }
            self.decoded.clear();
            if self.input.capacity() > MAX_KEPT && self.input.len() - self.start < MAX_KEPT {
                let rest = self.input.get(self.start..).unwrap_or_default();
                let mut input = Vec::with_capacity(rest.len().max(READ));
                input.extend_from_slice(rest);
                self.input = input;
                self.start = 0;
            }
            self.state = State::Head { searched: 0 };
        }
    }

    /// What is being waited for.
    pub(crate) const fn phase(&self) -> Phase {
        match self.state {
            State::Head { .. } if self.start == self.input.len() => Phase::Idle,
            State::Head { .. } => Phase::Head,
            State::Length { .. } | State::Chunked(_) | State::Ready { .. } => Phase::Body,
        }
    }

    /// The first bytes of what was received and not consumed.
    pub(crate) fn unread(&self) -> &[u8] {
        self.input.get(self.start..).unwrap_or_default()
    }

    /// Bytes held.
    pub(crate) const fn memory(&self) -> usize {
        self.input.capacity() + self.decoded.capacity()
    }

    fn read_head(&mut self, searched: usize) -> Result<Step, Refusal> {
        let bytes = self.input.get(self.start..).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(Step::NeedMore);
        }
        // Mostly the whole head is there at once. Where it drips in, it is parsed again only when
        // its end has been seen: anything else costs the square of its length.
        if searched > 0 && !ends_head(bytes, searched) {
            return self.wait_for_head();
        }
        let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut parsed = httparse::Request::new(&mut []);
        match parsed.parse_with_uninit_headers(bytes, &mut headers) {
            Ok(httparse::Status::Complete(len)) if len <= self.max_head => {
                let (head, body) = Head::of(bytes, len, &parsed)?;
                self.head = head;
                self.begin_body(body)
            }
            Ok(httparse::Status::Complete(_)) => Err(HEAD_TOO_LARGE),
            Ok(httparse::Status::Partial) => self.wait_for_head(),
            Err(httparse::Error::TooManyHeaders) => Err(TOO_MANY_FIELDS),
            Err(httparse::Error::Version) => Err(VERSION),
            Err(_) => Err(MALFORMED),
        }
    }

    fn wait_for_head(&mut self) -> Result<Step, Refusal> {
        let len = self.input.len() - self.start;
        if len > self.max_head {
            return Err(HEAD_TOO_LARGE);
        }
        // An end may be in the middle of coming: look at the last three bytes again.
        self.state = State::Head {
            searched: len.saturating_sub(3).max(1),
        };
        Ok(Step::NeedMore)
    }

    fn begin_body(&mut self, body: BodyLength) -> Result<Step, Refusal> {
        self.state = match body {
            BodyLength::Known(0) => State::Ready { end: self.head.len },
            BodyLength::Known(len) => match usize::try_from(len) {
                Ok(len) if len <= self.max_body => State::Length { len },
                _ => return Err(BODY_TOO_LARGE),
            },
            BodyLength::Chunked => State::Chunked(Chunk::Size),
        };
        // RFC 9110 section 10.1.1: no need to say so when the body is coming already.
        let comes = self.input.len() > self.start + self.head.len;
        if self.head.expects && !comes && !matches!(self.state, State::Ready { .. }) {
            return Ok(Step::SendContinue);
        }
        Ok(self.advance())
    }

    fn read_length(&mut self, len: usize) -> Result<Step, Refusal> {
        let end = self.head.len + len;
        if self.input.len() - self.start < end {
            return Ok(Step::NeedMore);
        }
        self.state = State::Ready { end };
        Ok(Step::Ready)
    }

    /// Decodes what came of a chunked body. Decoded bytes leave `input`, so that the body is held
    /// once, and requests that follow stay.
    fn read_chunks(&mut self, mut chunk: Chunk) -> Result<Step, Refusal> {
        let from = self.start + self.head.len;
        let mut rest = self.input.get(from..).unwrap_or_default();
        let done = loop {
            match chunk {
                Chunk::Size => {
                    let Some((line, after)) = split_line(rest, MAX_CHUNK_LINE)? else {
                        break false;
                    };
                    rest = after;
                    chunk = match chunk_size(line)? {
                        0 => Chunk::Trailers { seen: 0 },
                        left if left > self.max_body - self.decoded.len() => {
                            return Err(BODY_TOO_LARGE);
                        }
                        left => Chunk::Data { left },
                    };
                }
                Chunk::Data { left } => {
                    let (data, after) = rest.split_at(left.min(rest.len()));
                    self.decoded.extend_from_slice(data);
                    rest = after;
                    if data.len() < left {
                        chunk = Chunk::Data {
                            left: left - data.len(),
                        };
                        break false;
                    }
                    chunk = Chunk::DataEnd;
                }
                Chunk::DataEnd => match rest {
                    [b'\r', b'\n', after @ ..] => {
                        rest = after;
                        chunk = Chunk::Size;
                    }
                    [] | [b'\r'] => break false,
                    _ => return Err(MALFORMED_CHUNK),
                },
                Chunk::Trailers { seen } => {
                    let room = self.max_head - seen;
                    let Some((line, after)) = split_line(rest, room)? else {
                        break false;
                    };
                    rest = after;
                    if line.is_empty() {
                        break true;
                    }
                    // Trailers of requests are compared with nothing: they only must end.
                    chunk = Chunk::Trailers {
                        seen: (seen + line.len() + 2).min(self.max_head),
                    };
                }
            }
        };
        let used = self.input.len() - from - rest.len();
        self.input.drain(from..from + used);
        if done {
            self.state = State::Ready { end: self.head.len };
            return Ok(Step::Ready);
        }
        self.state = State::Chunked(chunk);
        Ok(Step::NeedMore)
    }
}

enum BodyLength {
    Known(u64),
    Chunked,
}

impl Head {
    fn of(
        bytes: &[u8],
        len: usize,
        parsed: &httparse::Request<'_, '_>,
    ) -> Result<(Self, BodyLength), Refusal> {
        let place = |part: &[u8]| {
            // Every part is a slice of `bytes`.
            let start = part.as_ptr().addr() - bytes.as_ptr().addr();
            start..start + part.len()
        };
        let http10 = parsed.version == Some(0);
        let mut head = Self {
            len,
            method: place(parsed.method.unwrap_or_default().as_bytes()),
            target: place(parsed.path.unwrap_or_default().as_bytes()),
            http10,
            close: http10,
            ..Self::default()
        };
        let mut stated: Option<u64> = None;
        let mut chunked = false;
        for field in parsed.headers.iter() {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            match field.name.len() {
                4 if is("host") => {
                    if head.host.is_some() {
                        return Err(TWO_HOSTS);
                    }
                    head.host = Some(place(field.value));
                }
                6 if is("expect") => {
                    if !field.value.eq_ignore_ascii_case(b"100-continue") {
                        return Err(EXPECTATION);
                    }
                    // An HTTP/1.0 client knows no interim responses (RFC 9110 section 10.1.1).
                    head.expects = !http10;
                }
                6 if is("cookie") => head.cookie = Some(place(field.value)),
                7 if is("upgrade") => head.upgrade = Some(place(field.value)),
                10 if is("connection") => head.connection(field.value),
                12 if is("content-type") => head.content_type = Some(place(field.value)),
                13 if is("authorization") => head.authorization = Some(place(field.value)),
                14 if is("content-length") => {
                    let value = length(field.value).ok_or(INVALID_LENGTH)?;
                    if stated.replace(value).is_some() {
                        return Err(TWO_LENGTHS);
                    }
                }
                17 if is("transfer-encoding") => {
                    if chunked || http10 || !field.value.eq_ignore_ascii_case(b"chunked") {
                        return Err(CODING);
                    }
                    chunked = true;
                }
                _ => {}
            }
        }
        match (stated, chunked) {
            (Some(_), true) => Err(LENGTH_AND_CODING),
            (stated, false) => Ok((head, BodyLength::Known(stated.unwrap_or(0)))),
            (None, true) => Ok((head, BodyLength::Chunked)),
        }
    }

    fn connection(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") && self.http10 {
                self.close = false;
            }
        }
    }
}

/// Whether an empty line ends at or behind `searched`.
fn ends_head(bytes: &[u8], searched: usize) -> bool {
    let mut from = searched.saturating_sub(3);
    while let Some(at) = bytes
        .get(from..)
        .and_then(|rest| rest.iter().position(|byte| *byte == b'\n'))
    {
        match bytes.get(from + at + 1..) {
            Some([b'\n', ..] | [b'\r', b'\n', ..]) => return true,
            _ => from += at + 1,
        }
    }
    false
}

/// The next line without its CRLF, and what follows. `None`: its end has not come yet.
fn split_line(bytes: &[u8], max: usize) -> Result<Option<Line<'_>>, Refusal> {
    let Some(end) = bytes.iter().take(max + 2).position(|byte| *byte == b'\n') else {
        return if bytes.len() > max + 1 {
            Err(MALFORMED_CHUNK)
        } else {
            Ok(None)
        };
    };
    let (line, rest) = bytes.split_at(end);
    let line = line.strip_suffix(b"\r").ok_or(MALFORMED_CHUNK)?;
    Ok(Some((line, rest.get(1..).unwrap_or_default())))
}

/// A line and what follows it.
type Line<'a> = (&'a [u8], &'a [u8]);

/// The size that a chunk line states; extensions are passed over (RFC 9112 section 7.1.1).
fn chunk_size(line: &[u8]) -> Result<usize, Refusal> {
    let digits = line
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    let (digits, extension) = line.split_at(digits);
    if !matches!(extension.trim_ascii_start().first(), None | Some(b';'))
        || extension.contains(&b'\r')
    {
        return Err(MALFORMED_CHUNK);
    }
    std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| usize::from_str_radix(digits, 16).ok())
        .ok_or(MALFORMED_CHUNK)
}

/// Room for one read: more than the head of any usual request.
const READ: usize = 8 << 10;
/// Room for one read within a large body.
const MAX_READ: usize = 256 << 10;
/// Buffers larger than this are given back when their request is answered.
const MAX_KEPT: usize = 64 << 10;
/// Fields of a head. Browsers send 20; nobody sends 128.
const MAX_FIELDS: usize = 128;
/// Bytes of a chunk's size and extensions.
const MAX_CHUNK_LINE: usize = 1 << 10;

const fn refusal(status: u16, why: &'static str) -> Refusal {
    Refusal { status, why }
}

const MALFORMED: Refusal = refusal(400, "this is not an HTTP/1 request");
const MALFORMED_CHUNK: Refusal = refusal(400, "the chunked body is malformed");
const TWO_HOSTS: Refusal = refusal(400, "the request has several Host fields");
const TWO_LENGTHS: Refusal = refusal(400, "the request has several Content-Length fields");
const INVALID_LENGTH: Refusal = refusal(400, "Content-Length is not a number");
const LENGTH_AND_CODING: Refusal = refusal(
    400,
    "the request has both Content-Length and Transfer-Encoding",
);
const CODING: Refusal = refusal(400, "Transfer-Encoding is not exactly 'chunked'");
const EXPECTATION: Refusal = refusal(417, "Expect is not '100-continue'");
const BODY_TOO_LARGE: Refusal = refusal(413, "the body exceeds the limit of this mock");
const HEAD_TOO_LARGE: Refusal = refusal(431, "the head exceeds the limit of this mock");
const TOO_MANY_FIELDS: Refusal = refusal(431, "the head has more than 128 fields");
const VERSION: Refusal = refusal(505, "the HTTP version is neither 1.0 nor 1.1");

#[cfg(test)]
mod tests;
