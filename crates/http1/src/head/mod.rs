//! The tokeniser: where a head ends, and its parts as spans into its bytes.
//!
//! It is lenient, because what a server and a client understood each other by is what happened.
//! Oddities are named; only a start line can make a head unreadable.

use memchr::{memchr, memchr_iter, memchr2, memrchr};
use tapedeck_model::{Anomalies, Anomaly, Field, Head, Protocol, Role, Span, StartLine};

/// A head or trailer section that was read.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) head: Head,
    pub(crate) anomalies: Anomalies,
    /// The start line says nothing that can be acted on.
    pub(crate) unreadable: bool,
    /// A request line without a version: an HTTP/0.9 request, whose response has no head.
    pub(crate) simple: bool,
}

/// Which lines are read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Section {
    /// A start line, then fields.
    Head(Role),
    /// Fields only.
    Trailers,
}

/// Where the search for the end of a section stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Scan {
    /// The line end to look behind next; everything before it was looked at.
    from: usize,
    /// Line ends seen.
    pub(crate) lines: usize,
}

impl Scan {
    /// At the first byte.
    pub(crate) const START: Self = Self { from: 0, lines: 0 };

    /// The length of the section that `bytes` begin with, the empty line included. `bytes` is what
    /// it was at the last call, and more. [`Scan::lines`] then is the number of lines, and `ends` has
    /// where they end, if this was the first call.
    pub(crate) fn end(
        &mut self,
        bytes: &[u8],
        section: Section,
        ends: &mut LineEnds,
    ) -> Option<usize> {
        if section == Section::Trailers && self.lines == 0 {
            // An empty section has no line end before its empty line.
            match bytes {
                [b'\n', ..] => return Some(1),
                [b'\r', b'\n', ..] => return Some(2),
                _ => {}
            }
        }
        let unread = bytes.get(self.from..)?;
        for at in memchr_iter(b'\n', unread) {
            self.lines += 1;
            ends.note(self.from + at);
            if self.lines == 1
                && section == Section::Head(Role::Request)
                && is_simple(bytes.get(..self.from + at).unwrap_or_default())
            {
                return Some(self.from + at + 1);
            }
            let behind = match unread.get(at.saturating_add(1)..) {
                Some([b'\n', ..]) => 2,
                Some([b'\r', b'\n', ..]) => 3,
                // Whether the line that begins here is empty is not known yet.
                Some([] | [b'\r']) | None => {
                    self.lines -= 1;
                    self.from += at;
                    return None;
                }
                Some(_) => continue,
            };
            self.lines += 1;
            ends.note(self.from + at + behind - 1);
            return Some(self.from + at + behind);
        }
        self.from = bytes.len();
        None
    }
}

/// Where the first lines of a section end, so that they are looked for once. Heads of more lines
/// than this are rare.
#[derive(Debug)]
pub(crate) struct LineEnds {
    ends: [u32; Self::MAX],
    len: usize,
}

impl LineEnds {
    const MAX: usize = 32;

    /// None.
    pub(crate) const NONE: Self = Self {
        ends: [0; Self::MAX],
        len: 0,
    };

    fn note(&mut self, end: usize) {
        if let (Some(place), Ok(end)) = (self.ends.get_mut(self.len), u32::try_from(end)) {
            *place = end;
        }
        self.len += 1;
    }

    /// Where all of so many lines end, if all of them were noted.
    fn all(&self, lines: usize) -> Option<&[u32]> {
        let ends = self.ends.get(..self.len)?;
        (self.len == lines && lines > 0).then_some(ends)
    }
}

/// Whether a request line is that of HTTP/0.9, which has no version, and no fields behind it. Only
/// GET is that old.
fn is_simple(line: &[u8]) -> bool {
    line.starts_with(b"GET ") && !last_word(line).starts_with(b"HTTP/")
}

fn last_word(line: &[u8]) -> &[u8] {
    let line = line.trim_ascii_end();
    let start = memrchr(b' ', line).map_or(0, |space| space + 1);
    line.get(start..).unwrap_or_default()
}

/// The number of token characters (RFC 9110 section 5.6.2) at the beginning.
pub(crate) fn token_len(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .position(|byte| !TOKEN[usize::from(*byte)])
        .unwrap_or(bytes.len())
}

/// Reads a whole section; `lines` is what [`Scan`] counted.
pub(crate) fn parse(raw: Vec<u8>, section: Section, lines: usize, ends: &LineEnds) -> Parsed {
    let mut parsed = Parsed {
        head: Head {
            raw: Vec::new(),
            protocol: Protocol::Http11,
            start: StartLine::None,
            fields: Vec::with_capacity(lines.saturating_sub(1)),
        },
        anomalies: Anomalies::default(),
        unreadable: false,
        simple: false,
    };
    let mut at_start_line = matches!(section, Section::Head(_));
    let mut start = 0;
    let mut read = |line_end: usize| {
        let line = raw.get(start..line_end).unwrap_or_default();
        let line = if let [line @ .., b'\r'] = line {
            line
        } else {
            parsed.anomalies.insert(Anomaly::BareLf);
            line
        };
        if at_start_line {
            at_start_line = false;
            match section {
                Section::Head(Role::Request) => parsed.request_line(line),
                Section::Head(Role::Response) => parsed.status_line(line),
                Section::Trailers => {}
            }
        } else {
            parsed.field_line(line, start);
        }
        start = line_end + 1;
    };
    match ends.all(lines) {
        Some(ends) => ends.iter().for_each(|end| read(*end as usize)),
        None => memchr_iter(b'\n', &raw).for_each(read),
    }
    parsed.head.raw = raw;
    parsed
}

/// The head of a response of HTTP/0.9, which has none.
pub(crate) const fn empty_response() -> Head {
    Head {
        raw: Vec::new(),
        protocol: Protocol::Http10,
        start: StartLine::Response {
            status: None,
            reason: Span { start: 0, len: 0 },
        },
        fields: Vec::new(),
    }
}

impl Parsed {
    /// Whether nothing casts doubt on this being a head at all.
    pub(crate) fn sound(&self) -> bool {
        !self.unreadable
            && !self.simple
            && self
                .anomalies
                .iter()
                .all(|anomaly| matches!(anomaly, Anomaly::BareLf | Anomaly::ObsFold))
    }

    fn malformed(&mut self) {
        self.anomalies.insert(Anomaly::MalformedHead);
    }

    fn request_line(&mut self, line: &[u8]) {
        let method_len = token_len(line);
        let method = span(0, method_len);
        // Behind the method and its space; more white space is passed over.
        let rest = line
            .get(method_len..)
            .unwrap_or_default()
            .trim_ascii_start();
        let target_start = line.len() - rest.len();
        let rest = rest.trim_ascii_end();
        if method_len == 0
            || target_start != method_len + 1
            || target_start + rest.len() != line.len()
        {
            self.malformed();
        }
        // The version is looked for from the end: targets with spaces in them are sent.
        let version_start = match memrchr(b' ', rest) {
            Some(space) => space + 1,
            None => 0,
        };
        let (before, version) = rest.split_at_checked(version_start).unwrap_or((rest, &[]));
        let target = if let Some(protocol) = self.version(version) {
            self.head.protocol = protocol;
            before.trim_ascii_end()
        } else {
            self.simple = is_simple(line) && !rest.is_empty();
            self.unreadable = !self.simple;
            self.head.protocol = Protocol::Http10;
            self.malformed();
            rest
        };
        if target.is_empty()
            || target.len() + 1 < version_start
            || memchr2(b' ', b'\t', target).is_some()
        {
            self.malformed();
        }
        self.head.start = StartLine::Request {
            method: (method_len > 0).then_some(method),
            target: (!target.is_empty()).then(|| span(target_start, target.len())),
        };
    }

    fn status_line(&mut self, line: &[u8]) {
        let version_len = memchr(b' ', line).unwrap_or(line.len());
        let (version, rest) = line.split_at_checked(version_len).unwrap_or((line, &[]));
        match self.version(version) {
            Some(protocol) => self.head.protocol = protocol,
            None => {
                self.malformed();
                self.unreadable = true;
            }
        }
        let rest = rest.strip_prefix(b" ").unwrap_or(rest);
        let code = rest.trim_ascii_start();
        let (status, reason) = match code.split_at_checked(3) {
            Some((digits, reason))
                if digits.iter().all(u8::is_ascii_digit)
                    && reason.first().is_none_or(|next| !next.is_ascii_digit()) =>
            {
                if !matches!(reason.first(), None | Some(b' ')) {
                    self.malformed();
                }
                let status = digits
                    .iter()
                    .fold(0, |value, digit| value * 10 + u16::from(digit - b'0'));
                (Some(status), reason.strip_prefix(b" ").unwrap_or(reason))
            }
            _ => (None, code),
        };
        if status.is_none_or(|status| status < 100) || code.len() != rest.len() {
            self.malformed();
        }
        self.head.start = StartLine::Response {
            status,
            reason: span(line.len() - reason.len(), reason.len()),
        };
    }

    /// The protocol that a version names; `None` where it is not one of HTTP/1 or before.
    fn version(&mut self, version: &[u8]) -> Option<Protocol> {
        match version {
            b"HTTP/1.1" => Some(Protocol::Http11),
            // SHOUTcast's answers are those of HTTP/1.0 but for the name.
            b"HTTP/1.0" | b"ICY" => Some(Protocol::Http10),
            _ => {
                let (name, number) = version.split_at_checked(5)?;
                if !name.eq_ignore_ascii_case(b"HTTP/") {
                    return None;
                }
                // A minor version that nobody has defined is fine (RFC 9110 section 2.5).
                if !matches!(number, [b'1', b'.', minor] if minor.is_ascii_digit())
                    || name != b"HTTP/"
                {
                    self.malformed();
                }
                if !number.first()?.is_ascii_digit() {
                    return None;
                }
                Some(match number {
                    [b'0', ..] | b"1.0" => Protocol::Http10,
                    _ => Protocol::Http11,
                })
            }
        }
    }

    fn field_line(&mut self, line: &[u8], start: usize) {
        let Some(first) = line.first() else {
            return;
        };
        if matches!(first, b' ' | b'\t') {
            self.folded_line(line, start);
            return;
        }
        let name_len = token_len(line);
        let (name_len, colon) = match line.get(name_len) {
            Some(b':') if name_len > 0 => (name_len, name_len),
            _ => match memchr(b':', line) {
                None | Some(0) => {
                    self.malformed();
                    return;
                }
                Some(colon) => {
                    let name = trim_end(line.get(..colon).unwrap_or_default());
                    if name.len() == name_len {
                        self.anomalies.insert(Anomaly::SpaceBeforeColon);
                    } else {
                        self.malformed();
                    }
                    (name.len(), colon)
                }
            },
        };
        let value = line.get(colon + 1..).unwrap_or_default();
        let trimmed = trim_start(value);
        let value_start = start + line.len() - trimmed.len();
        self.head.fields.push(Field {
            name: span(start, name_len),
            value: span(value_start, trim_end(trimmed).len()),
            name_unknown: false,
            value_unknown: false,
        });
    }

    /// A line that begins with white space goes on with the value before it (RFC 9112 section 5.2).
    fn folded_line(&mut self, line: &[u8], start: usize) {
        let Some(field) = self.head.fields.last_mut() else {
            self.malformed();
            return;
        };
        self.anomalies.insert(Anomaly::ObsFold);
        let text = trim_start(line);
        if text.is_empty() {
            return;
        }
        let end = span(start + line.len() - text.len(), trim_end(text).len());
        if field.value.len == 0 {
            field.value = end;
        } else {
            field.value.len = end
                .start
                .saturating_add(end.len)
                .saturating_sub(field.value.start);
        }
    }
}

/// Without the optional white space (RFC 9110 section 5.6.3) at the start.
fn trim_start(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

/// Without the optional white space at the end.
fn trim_end(mut bytes: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

fn span(start: usize, len: usize) -> Span {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Span {
        start: number(start),
        len: number(len),
    }
}

/// Token characters by byte.
static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128_u8 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests;
