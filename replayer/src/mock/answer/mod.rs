//! A recorded response, made ready to be sent in either protocol.
//!
//! What is kept: status, reason, every end-to-end field with its order, case and duplicates
//! (`Date` too), body, trailers, interim responses. What belongs to a connection is made anew:
//! hop-by-hop fields (RFC 9110 section 7.6.1) go, the framing is consistent with the body. The
//! field that frames stands where the recorded one stood.
//!
//! Fields come from archives, and archives come from strangers: a name that is no token is left
//! out, and no value can end its line.

use std::ops::Range;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::chaos::Action;

/// Name and value of a field.
pub(crate) type Pair<'a> = (&'a [u8], &'a [u8]);

/// A recorded response as the archive tells it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recording<'a> {
    /// The method of its request: the answer to HEAD has no body.
    pub(crate) method: &'a [u8],
    pub(crate) status: u16,
    /// `None` in HTTP/2, which has none.
    pub(crate) reason: Option<&'a [u8]>,
    /// Pseudo-header fields, where there are any, are left out here.
    pub(crate) fields: Vec<Pair<'a>>,
    pub(crate) body: &'a [u8],
    pub(crate) trailers: Vec<Pair<'a>>,
    pub(crate) interim: Vec<InterimRecording<'a>>,
    pub(crate) timing: Timing,
}

/// A recorded interim response.
#[derive(Clone, Debug, Default)]
pub(crate) struct InterimRecording<'a> {
    pub(crate) status: u16,
    pub(crate) reason: Option<&'a [u8]>,
    pub(crate) fields: Vec<Pair<'a>>,
    /// Since the end of the request.
    pub(crate) at: Duration,
}

/// When the parts of an answer came.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Timing {
    /// First byte, since the end of the request.
    pub(crate) first_byte: Duration,
    /// Pauses within the body: the bytes from this offset on came this long after the first byte.
    pub(crate) arrivals: Vec<(usize, Duration)>,
}

/// A response, ready to be sent.
#[derive(Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    /// Status line and fields, each with its line end, without the empty line.
    head: Bytes,
    /// Where in `head` the line with `Transfer-Encoding` stands; empty where there is none.
    coding: Range<usize>,
    /// The content length was not recorded, but HTTP/1 needs it.
    length_added: bool,
    /// The empty line, and the body as it is framed.
    rest: Bytes,
    /// Where in `rest` the body stands.
    body: Range<usize>,
    /// `rest` is framed in chunks. (The answer to HEAD may have a coding without a body.)
    chunks: bool,
    /// Where in `rest` the lines of the trailers stand.
    trailers: Range<usize>,
    interim: Vec<Interim>,
    timing: Timing,
    http2: OnceLock<Http2Heads>,
}

/// An interim response, ready to be sent.
#[derive(Debug)]
pub(crate) struct Interim {
    status: StatusCode,
    /// The whole response in HTTP/1.
    pub(crate) http1: Bytes,
    /// Since the end of the request.
    pub(crate) at: Duration,
}

/// Made when an HTTP/2 client asks first: most mocks serve one protocol.
#[derive(Debug)]
struct Http2Heads {
    fields: HeaderMap,
    trailers: Option<HeaderMap>,
}

impl Answer {
    /// Makes a recording ready. `None` for a status that no final response can have.
    pub(crate) fn compose(recording: &Recording<'_>) -> Option<Self> {
        let status = StatusCode::from_u16(recording.status).ok()?;
        (!status.is_informational()).then(|| Self::with_status(recording, status))
    }

    /// An answer that was not recorded: a failure of the mock itself.
    pub(crate) fn not_recorded(
        method: &[u8],
        status: StatusCode,
        content_type: &[u8],
        body: &[u8],
    ) -> Self {
        let recording = Recording {
            method,
            status: status.as_u16(),
            fields: vec![
                (b"content-type", content_type),
                // Tells it from a recorded answer of the same status.
                (b"x-tapedeck-mock", b"not-recorded"),
            ],
            body,
            ..Recording::default()
        };
        Self::with_status(&recording, status)
    }

    /// An answer that chaos gives in place of the recorded one.
    pub(crate) fn instead(method: &[u8], action: &Action) -> Self {
        let (code, escaped, status);
        let recording = match action {
            Action::Answer {
                status: number,
                body,
                content_type,
            } => {
                status = *number;
                let media = content_type.as_deref().map(str::as_bytes);
                Recording {
                    method,
                    fields: media
                        .map(|media| (&b"content-type"[..], media))
                        .into_iter()
                        .collect(),
                    body: body.as_bytes(),
                    ..Recording::default()
                }
            }
            Action::Grpc {
                status: number,
                message,
            } => {
                status = 200;
                code = number.to_string();
                escaped = percent_encoded(message);
                // "Trailers-Only": one block of fields, no body.
                Recording {
                    method,
                    fields: vec![
                        (b"content-type", b"application/grpc"),
                        (b"grpc-status", code.as_bytes()),
                        (b"grpc-message", escaped.as_bytes()),
                    ],
                    ..Recording::default()
                }
            }
            _ => {
                status = 500;
                Recording::default()
            }
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let recording = Recording {
            status: status.as_u16(),
            ..recording
        };
        Self::with_status(&recording, status)
    }

    fn with_status(recording: &Recording<'_>, status: StatusCode) -> Self {
        let framing = Framing::of(recording);
        let head = Http1Head::compose(recording, status, framing);
        let mut rest = Vec::with_capacity(recording.body.len() + 64);
        rest.extend_from_slice(b"\r\n");
        let (body, trailers) = match framing {
            Framing::Bodyless { .. } => (2..2, 2..2),
            Framing::Length => {
                rest.extend_from_slice(recording.body);
                (2..rest.len(), 2..2)
            }
            Framing::Chunked => {
                if !recording.body.is_empty() {
                    rest.extend_from_slice(chunk_line(recording.body.len()).as_bytes());
                }
                let start = rest.len();
                rest.extend_from_slice(recording.body);
                let body = start..rest.len();
                if !recording.body.is_empty() {
                    rest.extend_from_slice(b"\r\n");
                }
                rest.extend_from_slice(LAST_CHUNK);
                let start = rest.len();
                for field in &recording.trailers {
                    write_field(&mut rest, *field);
                }
                let trailers = start..rest.len();
                rest.extend_from_slice(b"\r\n");
                (body, trailers)
            }
        };
        Self {
            status,
            head: head.bytes.into(),
            coding: head.coding,
            length_added: head.length_added,
            rest: rest.into(),
            body,
            chunks: framing == Framing::Chunked,
            trailers,
            interim: recording
                .interim
                .iter()
                .filter_map(Interim::compose)
                .collect(),
            timing: recording.timing.clone(),
            http2: OnceLock::new(),
        }
    }

    /// About how many bytes of memory it takes.
    pub(crate) fn weight(&self) -> usize {
        let fixed = size_of::<Self>() + 128;
        let interim: usize = self.interim.iter().map(|one| one.http1.len() + 64).sum();
        // The HTTP/2 head, if it is made, is about as long as the HTTP/1 head.
        fixed + interim + 2 * self.head.len() + self.rest.len()
    }

    pub(crate) fn interim(&self) -> &[Interim] {
        &self.interim
    }

    pub(crate) const fn timing(&self) -> &Timing {
        &self.timing
    }

    pub(crate) fn body(&self) -> Bytes {
        self.rest.slice(self.body.clone())
    }

    /// The trailers, as lines.
    pub(crate) fn trailer_lines(&self) -> &[u8] {
        self.rest.get(self.trailers.clone()).unwrap_or_default()
    }

    /// Writes the head for an HTTP/1 client. Gives what follows it, and whether the connection must
    /// be closed behind that.
    pub(crate) fn http1(&self, out: &mut Vec<u8>, client: Http1Client) -> (Bytes, bool) {
        let close = self.http1_head(out, client);
        if self.ends_with_connection(client) {
            out.extend_from_slice(b"\r\n");
            return (self.body(), close);
        }
        (self.rest.clone(), close)
    }

    /// The whole answer for an HTTP/1 client, and where its parts lie.
    pub(crate) fn http1_wire(&self, client: Http1Client) -> Wire {
        let mut bytes = Vec::with_capacity(self.head.len() + self.rest.len() + 64);
        let (rest, close) = self.http1(&mut bytes, client);
        let start = bytes.len();
        bytes.extend_from_slice(&rest);
        let behind = |part: &Range<usize>| start + part.start..start + part.end;
        let (head, body, trailers) = if self.ends_with_connection(client) {
            (start, start..bytes.len(), 0..0)
        } else {
            (start + 2, behind(&self.body), behind(&self.trailers))
        };
        Wire {
            bytes,
            head,
            body,
            trailers,
            close,
        }
    }

    /// Writes the head without the empty line. Gives whether the connection must be closed.
    pub(crate) fn http1_head(&self, out: &mut Vec<u8>, client: Http1Client) -> bool {
        if self.ends_with_connection(client) {
            out.extend_from_slice(self.head.get(..self.coding.start).unwrap_or_default());
            out.extend_from_slice(self.head.get(self.coding.end..).unwrap_or_default());
            out.extend_from_slice(CLOSE);
            return true;
        }
        out.extend_from_slice(&self.head);
        match client {
            Http1Client { close: true, .. } => out.extend_from_slice(CLOSE),
            Http1Client { http10: true, .. } => out.extend_from_slice(KEEP_ALIVE),
            Http1Client { .. } => {}
        }
        client.close
    }

    /// What follows [`Answer::http1_head`], in pieces with the time that each was recorded at since
    /// the first byte.
    pub(crate) fn http1_pieces(&self, client: Http1Client) -> Vec<(Duration, Bytes)> {
        let chunks = self.chunks && !self.ends_with_connection(client);
        let mut at = Duration::ZERO;
        let mut pieces = vec![(at, Bytes::from_static(b"\r\n"))];
        for (due, part) in self.body_pieces() {
            at = due;
            if chunks {
                pieces.push((at, Bytes::from(chunk_line(part.len()))));
                pieces.push((at, part));
                pieces.push((at, Bytes::from_static(b"\r\n")));
            } else {
                pieces.push((at, part));
            }
        }
        if chunks {
            let end = self.trailers.start - LAST_CHUNK.len();
            pieces.push((at, self.rest.slice(end..)));
        }
        pieces
    }

    /// HTTP/1.0 knows no chunks: the end of the connection ends the body.
    fn ends_with_connection(&self, client: Http1Client) -> bool {
        client.http10 && !self.coding.is_empty()
    }

    /// The body in the pieces that it was recorded in, none of them empty.
    pub(crate) fn body_pieces(&self) -> impl Iterator<Item = (Duration, Bytes)> {
        let body = self.body();
        let marks = &self.timing.arrivals;
        let first = marks.first().map_or(body.len(), |(offset, _)| *offset);
        let starts = std::iter::once((0, Duration::ZERO)).chain(marks.iter().copied());
        let ends = std::iter::once(first)
            .chain(marks.iter().skip(1).map(|(offset, _)| *offset))
            .chain(std::iter::once(body.len()));
        starts.zip(ends).filter_map(move |((start, at), end)| {
            let (start, end) = (start.min(body.len()), end.min(body.len()));
            (start < end).then(|| (at, body.slice(start..end)))
        })
    }

    /// The head in HTTP/2.
    pub(crate) fn http2(&self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = self.status;
        *response.headers_mut() = self.http2_heads().fields.clone();
        response
    }

    /// The trailers in HTTP/2.
    pub(crate) fn http2_trailers(&self) -> Option<&HeaderMap> {
        self.http2_heads().trailers.as_ref()
    }

    fn http2_heads(&self) -> &Http2Heads {
        self.http2.get_or_init(|| {
            let mut fields = header_map(behind_first_line(&self.head));
            fields.remove(http::header::TRANSFER_ENCODING);
            if self.length_added {
                fields.remove(http::header::CONTENT_LENGTH);
            }
            let trailers = self.rest.get(self.trailers.clone()).unwrap_or_default();
            let trailers = header_map(trailers);
            Http2Heads {
                fields,
                trailers: (!trailers.is_empty()).then_some(trailers),
            }
        })
    }
}

impl Interim {
    fn compose(recording: &InterimRecording<'_>) -> Option<Self> {
        let status = StatusCode::from_u16(recording.status).ok()?;
        // 100 is sent when *this* client waits for it; 101 would make a tunnel.
        if !status.is_informational() || matches!(recording.status, 100 | 101) {
            return None;
        }
        let mut out = status_line(status, recording.reason);
        for field in end_to_end(&recording.fields) {
            if !is(&field, "transfer-encoding") && !is(&field, "content-length") {
                write_field(&mut out, field);
            }
        }
        out.extend_from_slice(b"\r\n");
        Some(Self {
            status,
            http1: out.into(),
            at: recording.at,
        })
    }

    /// In HTTP/2.
    pub(crate) fn http2(&self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = self.status;
        *response.headers_mut() = header_map(behind_first_line(&self.http1));
        response
    }
}

/// What the head for an HTTP/1 client depends on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Http1Client {
    /// The request was HTTP/1.0.
    pub(crate) http10: bool,
    /// The connection ends behind this answer.
    pub(crate) close: bool,
}

/// An answer as HTTP/1 sends it, for faults that touch its bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Wire {
    pub(crate) bytes: Vec<u8>,
    /// Length of the head, empty line included.
    pub(crate) head: usize,
    /// Where the body lies: its chunk, where it is chunked, without the framing.
    pub(crate) body: Range<usize>,
    /// Where the lines of the trailers lie.
    pub(crate) trailers: Range<usize>,
    /// Whether the connection ends behind it.
    pub(crate) close: bool,
}

impl Wire {
    /// Leaves the body out, which its head still announces.
    pub(crate) fn leave_head(&mut self) {
        self.bytes.truncate(self.head);
        self.body = self.head..self.head;
        self.trailers = 0..0;
    }

    /// Frames the body otherwise: with that line in place of the ones that frame it, and with
    /// those bytes before it. The connection ends behind it.
    pub(crate) fn reframe(&mut self, line: &str, before: &[u8]) {
        let body = self.bytes.get(self.body.clone()).unwrap_or_default();
        let head = self.bytes.get(..self.head).unwrap_or_default();
        let mut bytes = Vec::with_capacity(self.bytes.len() + line.len() + before.len());
        for one in head.split_inclusive(|byte| *byte == b'\n') {
            let name = one.split(|byte| *byte == b':').next().unwrap_or_default();
            let framing = [&b"content-length"[..], b"transfer-encoding"];
            if one != b"\r\n" && !framing.iter().any(|known| name.eq_ignore_ascii_case(known)) {
                bytes.extend_from_slice(one);
            }
        }
        bytes.extend_from_slice(line.as_bytes());
        bytes.extend_from_slice(b"\r\n\r\n");
        let start = bytes.len();
        bytes.extend_from_slice(before);
        bytes.extend_from_slice(body);
        *self = Self {
            head: start,
            body: start + before.len()..bytes.len(),
            trailers: 0..0,
            bytes,
            close: true,
        };
    }
}

/// How a body is delimited in HTTP/1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Framing {
    /// By its status or method: there is none. A 204 must not even state a length
    /// (RFC 9110 section 8.6); HEAD and 304 state that of the body they do not send.
    Bodyless {
        may_state_length: bool,
    },
    Length,
    Chunked,
}

impl Framing {
    fn of(recording: &Recording<'_>) -> Self {
        if recording.method == b"HEAD" || matches!(recording.status, 204 | 304) {
            return Self::Bodyless {
                may_state_length: recording.status != 204,
            };
        }
        let coded = |field: &Pair<'_>| is(field, "transfer-encoding");
        // Trailers need chunks (RFC 9112 section 7.1.2).
        if !recording.trailers.is_empty() || recording.fields.iter().any(coded) {
            Self::Chunked
        } else {
            Self::Length
        }
    }
}

/// The head of a response in HTTP/1, while it is written.
struct Http1Head {
    bytes: Vec<u8>,
    coding: Range<usize>,
    length_added: bool,
}

impl Http1Head {
    fn compose(recording: &Recording<'_>, status: StatusCode, framing: Framing) -> Self {
        let mut head = Self {
            bytes: status_line(status, recording.reason),
            coding: 0..0,
            length_added: false,
        };
        let mut framed = false;
        for field in end_to_end(&recording.fields) {
            if is(&field, "content-length") {
                let keep = match framing {
                    Framing::Bodyless { may_state_length } => {
                        may_state_length && length(field.1).is_some()
                    }
                    Framing::Length => true,
                    Framing::Chunked => false,
                };
                if keep && !framed {
                    framed = true;
                    head.length(field.0, field.1, recording.body.len(), framing);
                }
            } else if is(&field, "transfer-encoding") {
                let keep = match framing {
                    Framing::Bodyless { may_state_length } => may_state_length,
                    Framing::Length => false,
                    Framing::Chunked => true,
                };
                if keep && !framed {
                    framed = true;
                    head.chunked(field.0);
                }
            } else {
                write_field(&mut head.bytes, field);
            }
        }
        match framing {
            Framing::Length if !framed => {
                head.length_added = true;
                head.length(b"Content-Length", b"", recording.body.len(), framing);
            }
            Framing::Chunked if !framed => head.chunked(b"Transfer-Encoding"),
            Framing::Bodyless { .. } | Framing::Length | Framing::Chunked => {}
        }
        head
    }

    /// Writes the length of the body under the recorded name; without a body, the recorded length.
    fn length(&mut self, name: &[u8], recorded: &[u8], body: usize, framing: Framing) {
        if matches!(framing, Framing::Bodyless { .. }) {
            write_field(&mut self.bytes, (name, recorded));
        } else {
            write_field(&mut self.bytes, (name, body.to_string().as_bytes()));
        }
    }

    fn chunked(&mut self, name: &[u8]) {
        let start = self.bytes.len();
        write_field(&mut self.bytes, (name, b"chunked"));
        self.coding = start..self.bytes.len();
    }
}

/// gRPC's encoding of a status message ("gRPC over HTTP2", Responses).
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' => out.push_str("%25"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn status_line(status: StatusCode, reason: Option<&[u8]>) -> Vec<u8> {
    let mut line = Vec::with_capacity(512);
    line.extend_from_slice(b"HTTP/1.1 ");
    line.extend_from_slice(status.as_str().as_bytes());
    line.push(b' ');
    let canonical = status.canonical_reason().unwrap_or_default().as_bytes();
    line.extend(
        reason
            .unwrap_or(canonical)
            .iter()
            .map(|byte| in_line(*byte)),
    );
    line.extend_from_slice(b"\r\n");
    line
}

fn write_field(out: &mut Vec<u8>, (name, value): Pair<'_>) {
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return;
    }
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend(value.iter().map(|byte| in_line(*byte)));
    out.extend_from_slice(b"\r\n");
}

/// A byte as it may stand in a field value. Line breaks, of folded values or of an archive made
/// with malice, become spaces (RFC 9112 section 5.2, RFC 9110 section 5.5).
const fn in_line(byte: u8) -> u8 {
    match byte {
        b'\t' | b' '..=b'~' | 0x80.. => byte,
        _ => b' ',
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is(field: &Pair<'_>, name: &str) -> bool {
    field.0.eq_ignore_ascii_case(name.as_bytes())
}

/// The number that a Content-Length states.
pub(crate) fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The fields that do not belong to the connection they came on. `Transfer-Encoding` and
/// `Content-Length` are among them: they mark the place of the framing field.
fn end_to_end<'f, 'a>(fields: &'f [Pair<'a>]) -> impl Iterator<Item = Pair<'a>> + use<'f, 'a> {
    const HOP_BY_HOP: [&str; 6] = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "upgrade",
        "http2-settings",
    ];
    let named = |field: &Pair<'_>| {
        fields
            .iter()
            .filter(|connection| is(connection, "connection"))
            .flat_map(|(_, value)| value.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            // A field that frames is never dropped because somebody named it.
            .any(|option| {
                option.eq_ignore_ascii_case(field.0)
                    && !is(field, "transfer-encoding")
                    && !is(field, "content-length")
            })
    };
    fields
        .iter()
        .filter(move |field| {
            !field.0.starts_with(b":")
                && !HOP_BY_HOP.iter().any(|name| is(field, name))
                && !named(field)
        })
        .copied()
}

fn chunk_line(len: usize) -> String {
    format!("{len:x}\r\n")
}

fn behind_first_line(head: &[u8]) -> &[u8] {
    let end = head.iter().position(|byte| *byte == b'\n');
    end.and_then(|end| head.get(end + 1..)).unwrap_or_default()
}

/// The fields of lines that [`write_field`] wrote.
fn header_map(lines: &[u8]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            // A map of more than 32768 fields refuses: nobody records that.
            let _full = map.try_append(name, value);
        }
    }
    map
}

const LAST_CHUNK: &[u8] = b"0\r\n";
const CLOSE: &[u8] = b"Connection: close\r\n";
const KEEP_ALIVE: &[u8] = b"Connection: keep-alive\r\n";

#[cfg(test)]
mod tests;
