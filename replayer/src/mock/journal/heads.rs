//! Heads as archives keep them, out of what was received and sent.

use http::{HeaderMap, StatusCode};
use tapedeck_model::{Field, Head, Protocol, Role, Span, StartLine};

/// A head as it came, or as it was sent.
#[derive(Clone, Debug)]
pub(crate) enum KeptHead {
    /// The lines of an HTTP/1 head, start line and empty line included.
    Lines(Vec<u8>),
    /// HTTP/2: the pseudo-header fields, and the others.
    Fields(Vec<(&'static str, Vec<u8>)>, HeaderMap),
}

impl KeptHead {
    /// The head of a final or interim response in HTTP/2.
    pub(crate) fn of_status(status: StatusCode, fields: HeaderMap) -> Self {
        let status = status.as_str().as_bytes().to_vec();
        Self::Fields(vec![(":status", status)], fields)
    }

    /// About how many bytes of memory it takes.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Lines(lines) => lines.capacity(),
            Self::Fields(pseudo, fields) => {
                let pseudo = pseudo.iter().map(|(_, value)| FIELD + value.len());
                let fields = fields
                    .iter()
                    .map(|(name, value)| FIELD + name.as_str().len() + value.len());
                pseudo.chain(fields).sum()
            }
        }
    }

    /// The head of a message of that role. `None`: it is no such head.
    pub(crate) fn of_message(&self, role: Role) -> Option<Head> {
        match self {
            Self::Lines(lines) => of_lines(lines, role),
            Self::Fields(pseudo, fields) => Some(of_fields(pseudo, fields, role)),
        }
    }

    /// The trailer section.
    pub(crate) fn of_trailers(&self) -> Head {
        match self {
            Self::Lines(lines) => Head {
                fields: field_lines(lines, 0),
                raw: lines.clone(),
                protocol: Protocol::Http11,
                start: StartLine::None,
            },
            Self::Fields(_, fields) => {
                let (raw, fields) = joined(&[], fields);
                Head {
                    raw,
                    protocol: Protocol::Http2,
                    start: StartLine::None,
                    fields,
                }
            }
        }
    }
}

fn of_lines(lines: &[u8], role: Role) -> Option<Head> {
    // Empty lines before a request are passed over (RFC 9112 section 2.2).
    let skipped = lines.iter().take_while(|byte| b"\r\n".contains(byte));
    let raw = lines.get(skipped.count()..)?.to_vec();
    let end = raw.iter().position(|byte| *byte == b'\n')?;
    let line = raw.get(..end)?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let first = line.iter().position(|byte| *byte == b' ')?;
    let last = line.iter().rposition(|byte| *byte == b' ')?;
    let (start, version) = match role {
        Role::Request => {
            let start = StartLine::Request {
                method: Some(span(0, first)),
                target: Some(span(first + 1, last.checked_sub(first + 1)?)),
            };
            (start, line.get(last + 1..)?)
        }
        Role::Response => {
            let status = line.get(first + 1..first + 4)?;
            let reason = (first + 5).min(line.len());
            let start = StartLine::Response {
                status: std::str::from_utf8(status).ok()?.parse().ok(),
                reason: span(reason, line.len() - reason),
            };
            (start, line.get(..first)?)
        }
    };
    let protocol = if version == b"HTTP/1.0" {
        Protocol::Http10
    } else {
        Protocol::Http11
    };
    Some(Head {
        fields: field_lines(&raw, end + 1),
        raw,
        protocol,
        start,
    })
}

/// The fields of the lines from this offset on.
fn field_lines(raw: &[u8], mut at: usize) -> Vec<Field> {
    let mut fields = Vec::new();
    for line in raw
        .get(at..)
        .unwrap_or_default()
        .split_inclusive(|byte| *byte == b'\n')
    {
        if let Some(colon) = line.iter().position(|byte| *byte == b':') {
            let value = line.get(colon + 1..).unwrap_or_default();
            let before = value.len() - value.trim_ascii_start().len();
            fields.push(Field {
                name: span(at, colon),
                value: span(at + colon + 1 + before, value.trim_ascii().len()),
                ..Field::default()
            });
        }
        at += line.len();
    }
    fields
}

fn of_fields(pseudo: &[(&'static str, Vec<u8>)], fields: &HeaderMap, role: Role) -> Head {
    let (raw, fields) = joined(pseudo, fields);
    let value = |name: &str| {
        let at = pseudo.iter().position(|(known, _)| *known == name)?;
        fields.get(at).map(|field| field.value)
    };
    let start = match role {
        Role::Request => StartLine::Request {
            method: value(":method"),
            target: value(":path"),
        },
        Role::Response => StartLine::Response {
            status: value(":status")
                .and_then(|status| std::str::from_utf8(status.of(&raw)).ok()?.parse().ok()),
            reason: Span::default(),
        },
    };
    Head {
        raw,
        protocol: Protocol::Http2,
        start,
        fields,
    }
}

/// Names and values one after the other, as HTTP/2 heads are kept.
fn joined(pseudo: &[(&'static str, Vec<u8>)], fields: &HeaderMap) -> (Vec<u8>, Vec<Field>) {
    let mut raw = Vec::new();
    let mut spans = Vec::with_capacity(pseudo.len() + fields.len());
    let pseudo = pseudo.iter().map(|(name, value)| (*name, value.as_slice()));
    let fields = fields
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()));
    for (name, value) in pseudo.chain(fields) {
        spans.push(Field {
            name: span(raw.len(), name.len()),
            value: span(raw.len() + name.len(), value.len()),
            ..Field::default()
        });
        raw.extend_from_slice(name.as_bytes());
        raw.extend_from_slice(value);
    }
    (raw, spans)
}

/// Heads are far shorter than 4 GiB: the limits of the servers and of `http` see to it.
fn span(start: usize, len: usize) -> Span {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Span {
        start: number(start),
        len: number(len),
    }
}

/// What a field of a map takes beside its bytes, and the places of the map that are kept free.
const FIELD: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_heads_without_losing_a_byte() {
        let lines = b"\r\nPOST /a?b HTTP/1.0\r\nHost:  shop \r\nEmpty:\r\nX-Y: 1: 2\r\n\r\n";
        let head = KeptHead::Lines(lines.to_vec())
            .of_message(Role::Request)
            .unwrap();
        assert_eq!(head.raw, lines[2..]);
        assert_eq!(head.protocol, Protocol::Http10);
        assert_eq!(head.method(), Some(&b"POST"[..]));
        assert_eq!(head.target(), Some(&b"/a?b"[..]));
        let pairs: Vec<_> = head.pairs().collect();
        let expect: [(&[u8], &[u8]); 3] = [(b"Host", b"shop"), (b"Empty", b""), (b"X-Y", b"1: 2")];
        assert_eq!(pairs, expect);
        for (line, status, reason) in [
            ("HTTP/1.1 200 OK\r\n\r\n", 200, "OK"),
            ("HTTP/1.1 404 Not Found\r\n\r\n", 404, "Not Found"),
            ("HTTP/1.1 500 \r\n\r\n", 500, ""),
        ] {
            let head = KeptHead::Lines(line.into())
                .of_message(Role::Response)
                .unwrap();
            assert_eq!(head.status(), Some(status));
            let StartLine::Response { reason: span, .. } = head.start else {
                panic!("{head:?}")
            };
            assert_eq!(span.of(&head.raw), reason.as_bytes());
        }
        for broken in ["", "\r\n", "GET\r\n\r\n", "HTTP/1.1 2\r\n"] {
            let head = KeptHead::Lines(broken.into());
            assert!(head.of_message(Role::Response).is_none(), "{broken:?}");
        }
    }

    #[test]
    fn fields_become_heads_with_their_pseudo_fields() {
        let mut fields = HeaderMap::new();
        fields.insert("x-a", "1".parse().unwrap());
        let pseudo = vec![(":method", b"GET".to_vec()), (":path", b"/p".to_vec())];
        let head = KeptHead::Fields(pseudo, fields.clone());
        let head = head.of_message(Role::Request).unwrap();
        assert_eq!(
            (head.method(), head.target()),
            (Some(&b"GET"[..]), Some(&b"/p"[..]))
        );
        assert_eq!(head.field("x-a"), Some(&b"1"[..]));
        let head = KeptHead::of_status(StatusCode::NOT_FOUND, fields);
        assert_eq!(head.of_trailers().pairs().count(), 1);
        let head = head.of_message(Role::Response).unwrap();
        assert_eq!(head.status(), Some(404));
    }
}
