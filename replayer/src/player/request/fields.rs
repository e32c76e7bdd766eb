//! The fields of a recorded head, from either protocol.

/// Recorded header or trailer fields.
#[derive(Clone, Debug)]
pub(crate) enum Fields<'a> {
    /// HTTP/1: the lines behind the start line, as they stood on the wire.
    Lines(&'a [u8]),
    /// HTTP/2: names and values, pseudo-header fields included.
    Pairs(Vec<(&'a [u8], &'a [u8])>),
}

impl<'a> Fields<'a> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = Field<'a>> {
        let (mut lines, pairs): (&'a [u8], &[_]) = match self {
            Self::Lines(lines) => (lines, &[]),
            Self::Pairs(pairs) => (&[], pairs),
        };
        let pairs = pairs.iter().map(|(name, value)| Field {
            line: &[],
            name,
            value,
        });
        std::iter::from_fn(move || next_line(&mut lines)).chain(pairs)
    }
}

/// One field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    /// The whole line (lines, where folded) with its end; empty where it was never a line.
    pub(crate) line: &'a [u8],
    /// The name; empty for a line without a colon.
    pub(crate) name: &'a [u8],
    /// The value without the white space around it; folds keep their line breaks.
    pub(crate) value: &'a [u8],
}

impl<'a> Field<'a> {
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The elements of a comma-separated list, without empty ones.
    pub(crate) fn elements(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.value
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
            .filter(|element| !element.is_empty())
    }
}

/// Splits the start line from the field lines. Empty lines before it are passed over (RFC 9112
/// section 2.2).
pub(crate) fn behind_start_line(mut raw: &[u8]) -> &[u8] {
    loop {
        let (line, rest) = split_line(raw);
        raw = rest;
        if !line.trim_ascii().is_empty() || line.is_empty() {
            return raw;
        }
    }
}

fn next_line<'a>(lines: &mut &'a [u8]) -> Option<Field<'a>> {
    let all = *lines;
    let (first, mut rest) = split_line(all);
    if first.trim_ascii().is_empty() {
        return None;
    }
    // A line that begins with white space continues the one before (obs-fold).
    while matches!(rest.first(), Some(b' ' | b'\t')) {
        let (fold, behind) = split_line(rest);
        if fold.trim_ascii().is_empty() {
            break;
        }
        rest = behind;
    }
    *lines = rest;
    let line = all.get(..all.len() - rest.len()).unwrap_or_default();
    let (name, value) = match memchr::memchr(b':', line) {
        Some(colon) => (
            line.get(..colon).unwrap_or_default().trim_ascii_end(),
            line.get(colon + 1..).unwrap_or_default().trim_ascii(),
        ),
        None => (&[] as &[u8], line.trim_ascii()),
    };
    Some(Field { line, name, value })
}

fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
    bytes.split_at(end)
}
