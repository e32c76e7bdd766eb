//! Requests as HTTP/1 bytes.

use std::io::Write as _;

use tapedeck_model::Protocol;

use crate::player::request::fields::Field;
use crate::player::request::recorded::{
    RecordedRequest, Rules, Untranslatable, connection_options, is_hop_by_hop,
};

/// A request as the bytes to write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Http1Request {
    /// Head and framed body.
    pub(crate) wire: Box<[u8]>,
    /// Where the body begins in `wire`.
    pub(crate) head_len: usize,
    /// The body is held back until the target asks for it (RFC 9110 section 10.1.1).
    pub(crate) expects_continue: bool,
    /// The answer has no body, whatever its head says.
    pub(crate) is_head: bool,
    /// It is a gRPC call, which nobody answers over HTTP/1.
    pub(crate) is_grpc: bool,
    /// It may be sent again where a kept connection turned out to be closed (RFC 9110 section
    /// 9.2.2).
    pub(crate) is_idempotent: bool,
}

impl Http1Request {
    pub(crate) fn new(
        recorded: &RecordedRequest<'_>,
        rules: &Rules,
    ) -> Result<Self, Untranslatable> {
        let from_http2 = recorded.protocol == Protocol::Http2;
        let mut writer = HeadWriter {
            out: Vec::with_capacity(512 + recorded.body.len()),
            recorded,
            rules,
            options: connection_options(&recorded.fields),
            framing: Framing::of(recorded),
            expects_continue: false,
            wrote: Wrote::default(),
        };
        writer.start_line()?;
        if from_http2 {
            writer.field(b"Host", recorded.authority(rules))?;
            writer.wrote.host = true;
        }
        for field in recorded.fields.iter() {
            writer.recorded_field(&field)?;
        }
        for (name, value) in &rules.set {
            writer.field(name.as_bytes(), value.as_bytes())?;
        }
        writer.framing_fields(from_http2)?;
        writer.out.extend_from_slice(b"\r\n");

        let HeadWriter {
            mut out,
            framing,
            expects_continue,
            ..
        } = writer;
        let head_len = out.len();
        match framing {
            Framing::Length => out.extend_from_slice(recorded.body),
            Framing::Chunked => write_chunked(recorded, &mut out)?,
        }
        Ok(Self {
            expects_continue: expects_continue && out.len() > head_len,
            // A copy: to cut the buffer short would leave a hole behind each of a hundred thousand requests.
            wire: out.as_slice().into(),
            head_len,
            is_head: recorded.method == b"HEAD",
            is_grpc: recorded.is_grpc(rules),
            is_idempotent: matches!(
                recorded.method,
                b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE"
            ),
        })
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Framing {
    Length,
    Chunked,
}

impl Framing {
    fn of(recorded: &RecordedRequest<'_>) -> Self {
        let chunked = recorded.fields.iter().any(|field| {
            field.is("transfer-encoding")
                && field
                    .elements()
                    .last()
                    .is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked"))
        });
        // Only chunked bodies have a place for trailers (RFC 9112 section 7.1.2).
        if chunked || recorded.trailers().next().is_some() {
            Self::Chunked
        } else {
            Self::Length
        }
    }
}

/// Fields of which there is one at most.
#[derive(Default)]
struct Wrote {
    host: bool,
    cookie: bool,
    connection: bool,
    length: bool,
    coding: bool,
}

struct HeadWriter<'r> {
    out: Vec<u8>,
    recorded: &'r RecordedRequest<'r>,
    rules: &'r Rules,
    options: Vec<&'r [u8]>,
    framing: Framing,
    expects_continue: bool,
    wrote: Wrote,
}

impl HeadWriter<'_> {
    fn start_line(&mut self) -> Result<(), Untranslatable> {
        let method = self.recorded.method;
        if method.is_empty() || !method.iter().all(u8::is_ascii_graphic) {
            return Err(Untranslatable::Method);
        }
        self.out.extend_from_slice(method);
        self.out.push(b' ');
        let start = self.out.len();
        self.recorded.write_target(self.rules, &mut self.out);
        let target = self.out.get(start..).unwrap_or_default();
        // White space would end the target, a line break the head.
        if target.is_empty() || target.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
            return Err(Untranslatable::Target);
        }
        self.out.extend_from_slice(match self.recorded.protocol {
            Protocol::Http10 => b" HTTP/1.0\r\n",
            Protocol::Http11 | Protocol::Http2 => b" HTTP/1.1\r\n",
        });
        Ok(())
    }

    fn recorded_field(&mut self, field: &Field<'_>) -> Result<(), Untranslatable> {
        if field.name.first() == Some(&b':') || self.rules.drops(field) {
            return Ok(());
        }
        if field.is("host") {
            return self.host(field);
        }
        if field.is("transfer-encoding") {
            if self.framing == Framing::Chunked {
                self.wrote.coding = true;
                return self.verbatim(field);
            }
            return Ok(());
        }
        if field.is("content-length") {
            return self.content_length(field);
        }
        if field.is("connection") {
            return self.connection();
        }
        if is_hop_by_hop(field, &self.options) {
            return Ok(());
        }
        if field.is("cookie") && field.line.is_empty() {
            return self.cookie();
        }
        if field.is("expect") {
            self.expects_continue |= field.value.eq_ignore_ascii_case(b"100-continue");
        }
        self.verbatim(field)
    }

    fn host(&mut self, field: &Field<'_>) -> Result<(), Untranslatable> {
        if std::mem::replace(&mut self.wrote.host, true) {
            return Ok(());
        }
        if self.rules.preserve_host || field.value == self.rules.authority.as_bytes() {
            return self.verbatim(field);
        }
        let rules = self.rules;
        self.field(field.name, rules.authority.as_bytes())
    }

    fn content_length(&mut self, field: &Field<'_>) -> Result<(), Untranslatable> {
        if self.framing == Framing::Chunked || std::mem::replace(&mut self.wrote.length, true) {
            return Ok(());
        }
        let len = self.recorded.body.len().to_string();
        if field.value == len.as_bytes() {
            return self.verbatim(field);
        }
        self.field(field.name, len.as_bytes())
    }

    /// Of the connection's options only those about its end are the request's to repeat.
    fn connection(&mut self) -> Result<(), Untranslatable> {
        if !self.rules.keep_connection_options
            || std::mem::replace(&mut self.wrote.connection, true)
        {
            return Ok(());
        }
        let has = |option: &[u8]| {
            self.options
                .iter()
                .any(|given| given.eq_ignore_ascii_case(option))
        };
        if has(b"close") {
            self.field(b"Connection", b"close")
        } else if has(b"keep-alive") && self.recorded.protocol == Protocol::Http10 {
            self.field(b"Connection", b"keep-alive")
        } else {
            Ok(())
        }
    }

    /// HTTP/2 may split a cookie into crumbs; HTTP/1 wants one field (RFC 9113 section 8.2.3).
    fn cookie(&mut self) -> Result<(), Untranslatable> {
        if std::mem::replace(&mut self.wrote.cookie, true) {
            return Ok(());
        }
        let crumbs: Vec<&[u8]> = self
            .recorded
            .fields
            .iter()
            .filter(|field| field.is("cookie"))
            .map(|field| field.value)
            .collect();
        self.field(b"cookie", &crumbs.join(&b"; "[..]))
    }

    fn framing_fields(&mut self, from_http2: bool) -> Result<(), Untranslatable> {
        match self.framing {
            Framing::Chunked if !self.wrote.coding => self.field(b"Transfer-Encoding", b"chunked"),
            Framing::Length if !self.wrote.length => {
                // RFC 9110 section 8.6: a method that means something by its body says so even
                // when there is none. HTTP/2 has no need to.
                let says_zero =
                    from_http2 && matches!(self.recorded.method, b"POST" | b"PUT" | b"PATCH");
                if self.recorded.body.is_empty() && !says_zero {
                    return Ok(());
                }
                self.field(
                    b"Content-Length",
                    self.recorded.body.len().to_string().as_bytes(),
                )
            }
            Framing::Chunked | Framing::Length => Ok(()),
        }
    }

    fn verbatim(&mut self, field: &Field<'_>) -> Result<(), Untranslatable> {
        if field.line.is_empty() {
            return self.field(field.name, field.value);
        }
        write_line(field.line, &mut self.out);
        Ok(())
    }

    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Untranslatable> {
        write_field(name, value, &mut self.out)
    }
}

fn write_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) -> Result<(), Untranslatable> {
    // HTTP/2 can carry bytes that would break out of a line here.
    let breaks_out = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
    if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) || value.iter().any(breaks_out) {
        return Err(Untranslatable::Field);
    }
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

fn write_line(line: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(line);
    // The last line of a damaged head: without an end the next one would become part of it.
    if line.last() != Some(&b'\n') {
        out.extend_from_slice(b"\r\n");
    }
}

/// The archive does not keep where one chunk ended and the next began.
const CHUNK: usize = 64 << 10;

fn write_chunked(recorded: &RecordedRequest<'_>, out: &mut Vec<u8>) -> Result<(), Untranslatable> {
    for chunk in recorded.body.chunks(CHUNK) {
        write!(out, "{:x}\r\n", chunk.len()).expect("a Vec takes every write");
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n");
    for field in recorded.trailers() {
        if field.line.is_empty() {
            write_field(field.name, field.value, out)?;
        } else {
            write_line(field.line, out);
        }
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}
