//! Heads and trailers from field sections (RFC 9113 section 8).

use tapedeck_model::{Field, Head, Protocol, Role, Span, StartLine};

use crate::hpack::Section;

/// What a section says beside being one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Facts {
    /// It has pseudo-header fields: it is a head and no trailer section.
    pub(crate) pseudo: bool,
    /// A name could not be decoded: it may have any field.
    pub(crate) name_unknown: bool,
    /// The first name could not be decoded: it may be a pseudo-header field.
    pub(crate) first_unknown: bool,
    /// A name or value could not be decoded.
    pub(crate) unknown: bool,
    /// A pseudo-header field is repeated, unknown, or behind a regular field.
    pub(crate) malformed: bool,
    method: Option<Span>,
    path: Option<Span>,
    status: Option<Span>,
    scheme: bool,
    authority: bool,
    protocol: bool,
    status_named: bool,
    method_named: bool,
    path_named: bool,
    content_length: Option<Span>,
    lengths_differ: bool,
}

/// What the rest of the connection has to know of a head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Summary {
    pub(crate) status: Option<u16>,
    pub(crate) method: Method,
    pub(crate) content_length: ContentLength,
}

/// What a request means for the body of its response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Method {
    Unknown,
    Connect,
    Head,
    Other,
}

/// The content-length of a head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ContentLength {
    /// There is none, or it could not be decoded.
    None,
    /// So many bytes.
    Bytes(u64),
    /// Not a number, or several that differ.
    Invalid,
}

impl Facts {
    pub(crate) fn of(section: &Section) -> Self {
        let mut facts = Self::default();
        let mut regular = false;
        facts.first_unknown = section
            .fields
            .first()
            .is_some_and(|field| field.name_unknown);
        for field in &section.fields {
            facts.unknown |= field.name_unknown || field.value_unknown;
            if field.name_unknown {
                facts.name_unknown = true;
                continue;
            }
            let name = field.name.of(&section.raw);
            if name.first() == Some(&b':') {
                facts.pseudo = true;
                let lawful = facts.take_pseudo(name, field);
                facts.malformed |= regular || !lawful;
            } else {
                regular = true;
                if name == b"content-length" && !field.value_unknown {
                    facts.take_length(field.value, &section.raw);
                }
            }
        }
        facts
    }

    /// The section as a head of that role, and whether its pseudo-header fields are as they must
    /// be. `whole`: no field is missing.
    pub(crate) fn head(self, section: Section, role: Role, whole: bool) -> (Head, Summary, bool) {
        let raw = &section.raw;
        let status = self.status.and_then(|span| status(span.of(raw)));
        let method = match self.method.map(|span| span.of(raw)) {
            None => Method::Unknown,
            Some(b"CONNECT") => Method::Connect,
            Some(b"HEAD") => Method::Head,
            Some(_) => Method::Other,
        };
        let content_length = match self.content_length.map(|span| number(span.of(raw))) {
            None => ContentLength::None,
            Some(Some(len)) if !self.lengths_differ => ContentLength::Bytes(len),
            Some(_) => ContentLength::Invalid,
        };
        let certain = whole && !self.name_unknown;
        let start = match role {
            Role::Request => StartLine::Request {
                method: self.method,
                target: self.path,
            },
            Role::Response => StartLine::Response {
                status,
                reason: Span::default(),
            },
        };
        let good = !self.malformed
            && match role {
                Role::Request => !self.status_named && (!certain || self.asks(method)),
                Role::Response => {
                    !self.asks_anything()
                        && (!certain || self.status_named)
                        && (self.status.is_none() || status.is_some())
                }
            };
        let summary = Summary {
            status,
            method,
            content_length,
        };
        (into_head(section, start), summary, good)
    }

    /// The section as trailers, and whether it may be some.
    pub(crate) fn trailers(self, section: Section) -> (Head, bool) {
        (into_head(section, StartLine::None), !self.pseudo)
    }

    /// Whether everything is there that a request needs (RFC 9113 sections 8.3.1 and 8.5, RFC 8441
    /// section 4).
    fn asks(&self, method: Method) -> bool {
        let target = self.scheme && self.path_named;
        self.method_named
            && if method == Method::Connect && !self.protocol {
                self.authority && !self.scheme && !self.path_named
            } else {
                target
            }
    }

    fn asks_anything(&self) -> bool {
        self.method_named || self.path_named || self.scheme || self.authority || self.protocol
    }

    /// Notes a pseudo-header field; `false`: it has no meaning, or was there before.
    fn take_pseudo(&mut self, name: &[u8], field: &Field) -> bool {
        let value = (!field.value_unknown).then_some(field.value);
        let (named, slot) = match name {
            b":method" => (&mut self.method_named, Some(&mut self.method)),
            b":path" => (&mut self.path_named, Some(&mut self.path)),
            b":status" => (&mut self.status_named, Some(&mut self.status)),
            b":scheme" => (&mut self.scheme, None),
            b":authority" => (&mut self.authority, None),
            b":protocol" => (&mut self.protocol, None),
            _ => return false,
        };
        if std::mem::replace(named, true) {
            return false;
        }
        if let Some(slot) = slot {
            *slot = value;
        }
        true
    }

    fn take_length(&mut self, value: Span, raw: &[u8]) {
        match self.content_length {
            Some(before) => self.lengths_differ |= before.of(raw) != value.of(raw),
            None => self.content_length = Some(value),
        }
    }
}

fn into_head(section: Section, start: StartLine) -> Head {
    Head {
        raw: section.raw,
        protocol: Protocol::Http2,
        start,
        fields: section.fields,
    }
}

/// Three digits (RFC 9110 section 15).
fn status(value: &[u8]) -> Option<u16> {
    match value {
        [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
            Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
        }
        _ => None,
    }
}

/// Digits and nothing else (RFC 9110 section 8.6).
fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hpack::Decoder;

    fn section(fields: &[(&str, &str)]) -> Section {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0);
            for text in [name, value] {
                block.push(text.len() as u8);
                block.extend(text.as_bytes());
            }
        }
        let mut section = Section::new(1 << 16, 0);
        Decoder::fresh(0).decode(&block, &mut section);
        section
    }

    #[track_caller]
    fn check(role: Role, fields: &[(&str, &str)], good: bool) {
        let section = section(fields);
        assert_eq!(Facts::of(&section).head(section, role, true).2, good);
    }

    #[test]
    fn requests_have_what_they_need() {
        const METHOD: (&str, &str) = (":method", "GET");
        const SCHEME: (&str, &str) = (":scheme", "http");
        const PATH: (&str, &str) = (":path", "/");
        const CONNECT: (&str, &str) = (":method", "CONNECT");
        const AUTHORITY: (&str, &str) = (":authority", "a");
        let protocol = (":protocol", "websocket");
        check(Role::Request, &[METHOD, SCHEME, PATH], true);
        check(
            Role::Request,
            &[METHOD, SCHEME, PATH, AUTHORITY, ("a", "b")],
            true,
        );
        check(Role::Request, &[METHOD, SCHEME, ("a", "b"), PATH], false);
        check(Role::Request, &[METHOD, SCHEME, PATH, PATH], false);
        check(Role::Request, &[METHOD, SCHEME], false);
        check(Role::Request, &[SCHEME, PATH], false);
        check(
            Role::Request,
            &[METHOD, SCHEME, PATH, (":status", "200")],
            false,
        );
        check(Role::Request, &[METHOD, SCHEME, PATH, (":new", "1")], false);
        check(Role::Request, &[CONNECT, AUTHORITY], true);
        check(Role::Request, &[CONNECT, AUTHORITY, PATH], false);
        check(
            Role::Request,
            &[CONNECT, protocol, SCHEME, PATH, AUTHORITY],
            true,
        );
    }

    #[test]
    fn responses_have_a_status() {
        check(Role::Response, &[(":status", "204"), ("a", "b")], true);
        check(Role::Response, &[(":status", "2O4")], false);
        check(Role::Response, &[(":status", "0204")], false);
        check(Role::Response, &[("a", "b")], false);
        check(Role::Response, &[(":status", "204"), (":path", "/")], false);
    }

    #[test]
    fn lengths_are_numbers_and_one() {
        let length = |fields: &[(&str, &str)]| {
            let section = section(fields);
            let (_, summary, _) = Facts::of(&section).head(section, Role::Response, true);
            summary.content_length
        };
        assert_eq!(length(&[]), ContentLength::None);
        assert_eq!(
            length(&[("content-length", "012")]),
            ContentLength::Bytes(12)
        );
        for bad in ["", "-1", "1,1", " 1", "99999999999999999999"] {
            assert_eq!(length(&[("content-length", bad)]), ContentLength::Invalid);
        }
        let (one, two) = (("content-length", "1"), ("content-length", "2"));
        assert_eq!(length(&[one, one]), ContentLength::Bytes(1));
        assert_eq!(length(&[one, two]), ContentLength::Invalid);
    }
}
