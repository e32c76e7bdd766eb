//! Heads of HTTP messages, byte for byte.

use std::fmt;

/// The protocol that an exchange was spoken in.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Protocol {
    /// HTTP/1.0 (or a request that named no version).
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        })
    }
}

/// What a message is to its exchange.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Role {
    /// What was asked.
    Request,
    /// What was answered.
    Response,
}

/// A range of bytes in [`Head::raw`].
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Span {
    /// The first byte.
    pub start: u32,
    /// The number of bytes.
    pub len: u32,
}

impl Span {
    /// The bytes of this range; empty where the range does not lie within `raw`.
    #[must_use]
    pub fn of(self, raw: &[u8]) -> &[u8] {
        let start = self.start as usize;
        raw.get(start..start.saturating_add(self.len as usize))
            .unwrap_or_default()
    }
}

/// One header field line.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Field {
    /// The name, as sent.
    pub name: Span,
    /// The value, without the white space around it. A folded value (obs-fold) keeps its line
    /// breaks.
    pub value: Span,
    /// The name could not be decoded (HPACK); the span is empty.
    pub name_unknown: bool,
    /// The value could not be decoded (HPACK); the span is empty.
    pub value_unknown: bool,
}

/// The first line of a head, or the pseudo-header fields that stand for it in HTTP/2.
///
/// `None` means that the wire did not say, or said it in a way that could not be decoded.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum StartLine {
    /// `GET /x HTTP/1.1`; `:method` and `:path`.
    Request {
        /// The method.
        method: Option<Span>,
        /// The request target as it stood on the wire, query included.
        target: Option<Span>,
    },
    /// `HTTP/1.1 200 OK`; `:status`.
    Response {
        /// The status code.
        status: Option<u16>,
        /// The reason phrase; empty where there was none.
        reason: Span,
    },
    /// No start line: a trailer section.
    None,
}

/// The start line and the header fields of a message, or a trailer section.
///
/// In HTTP/1 `raw` is the head as it stood on the wire, from the first byte of the start line to
/// the empty line, both included: order, case, duplicates and white space are kept. In HTTP/2 it is
/// the decoded names and values, one after the other in the order of the wire; the pseudo-header
/// fields are ordinary [`Field`]s there.
///
/// Of a head that a gap cut, it is the whole lines before the gap.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Head {
    /// The bytes that all spans point into.
    pub raw: Vec<u8>,
    /// The version that the message names.
    pub protocol: Protocol,
    /// The start line.
    pub start: StartLine,
    /// The header fields, in the order of the wire.
    pub fields: Vec<Field>,
}

impl Head {
    /// The method of a request.
    #[must_use]
    pub fn method(&self) -> Option<&[u8]> {
        match self.start {
            StartLine::Request { method, .. } => method.map(|span| span.of(&self.raw)),
            StartLine::Response { .. } | StartLine::None => None,
        }
    }

    /// The target of a request, as on the wire.
    #[must_use]
    pub fn target(&self) -> Option<&[u8]> {
        match self.start {
            StartLine::Request { target, .. } => target.map(|span| span.of(&self.raw)),
            StartLine::Response { .. } | StartLine::None => None,
        }
    }

    /// The status code of a response.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        match self.start {
            StartLine::Response { status, .. } => status,
            StartLine::Request { .. } | StartLine::None => None,
        }
    }

    /// The fields as pairs of bytes; those whose name is unknown are left out, unknown values are
    /// empty.
    pub fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields
            .iter()
            .filter(|field| !field.name_unknown)
            .map(|field| (field.name.of(&self.raw), field.value.of(&self.raw)))
    }

    /// The value of the first field of that name, compared without case. `None` where there is
    /// none, or where its value is unknown.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields
            .iter()
            .find(|field| {
                !field.name_unknown
                    && field
                        .name
                        .of(&self.raw)
                        .eq_ignore_ascii_case(name.as_bytes())
            })
            .filter(|field| !field.value_unknown)
            .map(|field| field.value.of(&self.raw))
    }

    /// Whether any name or value could not be decoded.
    #[must_use]
    pub fn has_unknown(&self) -> bool {
        self.fields
            .iter()
            .any(|field| field.name_unknown || field.value_unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_outside_is_empty_not_a_panic() {
        assert_eq!(Span { start: 1, len: 2 }.of(b"abc"), b"bc");
        assert_eq!(Span { start: 2, len: 2 }.of(b"abc"), b"");
        assert_eq!(
            Span {
                start: u32::MAX,
                len: u32::MAX
            }
            .of(b"abc"),
            b""
        );
    }
}
