//! Heads, put together from what a HAR says of them.

use serde_json::Value;
use tapedeck_model::{Field, Head, Protocol, Span, StartLine};

use super::entry::Url;

/// The fields of a message, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields {
    pairs: Vec<(String, String)>,
}

impl Fields {
    pub(super) fn of(headers: &Value) -> Self {
        let mut pairs = Vec::new();
        for header in headers.as_array().map(Vec::as_slice).unwrap_or_default() {
            let (Some(name), Some(value)) = (header["name"].as_str(), header["value"].as_str())
            else {
                continue;
            };
            // Browsers put several fields of one name into one value, a line each.
            for line in value
                .split(['\r', '\n'])
                .filter(|line| !line.is_empty() || value.is_empty())
            {
                if is_name(name) {
                    pairs.push((name.to_owned(), line.trim().to_owned()));
                }
            }
        }
        Self { pairs }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// What Content-Length says.
    pub(super) fn length(&self) -> Option<i64> {
        self.get("content-length")?.parse().ok()
    }

    /// The body has no content coding any more: neither has the head.
    pub(super) fn drop_coding(&mut self) {
        self.pairs
            .retain(|(name, _)| !name.eq_ignore_ascii_case("content-encoding"));
    }

    fn get(&self, wanted: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.as_str())
    }

    /// Sees to it that the body can be found: Content-Length says how long it is, unless chunks do.
    /// `len`: `None` where the head may say what it likes.
    fn fit(&mut self, len: Option<u64>, needed: bool) {
        let Some(len) = len else { return };
        let chunked = self
            .get("transfer-encoding")
            .is_some_and(|coding| coding.to_ascii_lowercase().contains("chunked"));
        if chunked {
            return;
        }
        let len = len.to_string();
        let mut said = false;
        for (name, value) in &mut self.pairs {
            if name.eq_ignore_ascii_case("content-length") {
                value.clone_from(&len);
                said = true;
            }
        }
        if !said && needed {
            self.pairs.push(("Content-Length".to_owned(), len));
        }
    }
}

/// The head of a request. `target`: where it is not that of the URL. `len`: the length of its body, where
/// its head has to tell it.
pub(super) fn request_head(
    protocol: Protocol,
    method: &str,
    target: Option<&str>,
    url: &Url<'_>,
    mut fields: Fields,
    len: Option<u64>,
) -> Head {
    if protocol == Protocol::Http2 {
        let whole = [
            (":method", method),
            (":scheme", url.scheme),
            (":authority", url.authority),
            (":path", target.unwrap_or(url.target)),
        ];
        // A tunnel to an authority has neither scheme nor path (RFC 9113 section 8.5).
        let bare = method == "CONNECT" && target.is_none();
        fields.pairs.retain(|(name, _)| !name.starts_with(':'));
        let pseudo = whole
            .into_iter()
            .filter(|(name, _)| !bare || !matches!(*name, ":scheme" | ":path"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        fields.fit(len, false);
        fields.pairs.splice(0..0, pseudo);
        let (raw, spans) = joined(&fields);
        let start = StartLine::Request {
            method: spans.first().map(|field| field.value),
            target: spans.get(3).map(|field| field.value),
        };
        return Head {
            raw,
            protocol,
            start,
            fields: spans,
        };
    }
    fields.pairs.retain(|(name, _)| !name.starts_with(':'));
    if fields.get("host").is_none() && protocol == Protocol::Http11 {
        let host = ("Host".to_owned(), url.authority.to_owned());
        fields.pairs.insert(0, host);
    }
    fields.fit(len, len.is_some_and(|len| len > 0));
    let target = target.unwrap_or(url.target);
    let line = format!("{method} {target} {protocol}\r\n");
    let start = StartLine::Request {
        method: Some(span(0, method.len())),
        target: Some(span(method.len() + 1, target.len())),
    };
    lines(protocol, line, start, &fields)
}

/// The head of a response. `len`: the length of its body, where its head has to tell it.
pub(super) fn response_head(
    protocol: Protocol,
    status: u16,
    reason: &str,
    mut fields: Fields,
    len: Option<u64>,
) -> Head {
    fields.pairs.retain(|(name, _)| !name.starts_with(':'));
    if protocol == Protocol::Http2 {
        fields.fit(len, false);
        let pseudo = (":status".to_owned(), status.to_string());
        fields.pairs.insert(0, pseudo);
        let (raw, spans) = joined(&fields);
        return Head {
            raw,
            protocol,
            start: StartLine::Response {
                status: Some(status),
                reason: Span::default(),
            },
            fields: spans,
        };
    }
    let is_final = status >= 200;
    fields.fit(len.filter(|_| is_final), true);
    let reason: String = reason.chars().filter(|c| !c.is_control()).collect();
    let before = format!("{protocol} {status} ");
    let start = StartLine::Response {
        status: Some(status),
        reason: span(before.len(), reason.len()),
    };
    lines(protocol, format!("{before}{reason}\r\n"), start, &fields)
}

/// A trailer section.
pub(super) fn section(protocol: Protocol, fields: Fields) -> Head {
    if protocol == Protocol::Http2 {
        let (raw, fields) = joined(&fields);
        return Head {
            raw,
            protocol,
            start: StartLine::None,
            fields,
        };
    }
    lines(protocol, String::new(), StartLine::None, &fields)
}

/// Names and values one after the other, as HTTP/2 heads are kept.
fn joined(fields: &Fields) -> (Vec<u8>, Vec<Field>) {
    let mut raw = Vec::new();
    let mut spans = Vec::new();
    for (name, value) in &fields.pairs {
        spans.push(Field {
            name: span(raw.len(), name.len()),
            value: span(raw.len() + name.len(), value.len()),
            ..Field::default()
        });
        raw.extend(name.as_bytes());
        raw.extend(value.as_bytes());
    }
    (raw, spans)
}

fn lines(protocol: Protocol, line: String, start: StartLine, fields: &Fields) -> Head {
    let mut raw = line.into_bytes();
    let mut spans = Vec::new();
    for (name, value) in &fields.pairs {
        spans.push(Field {
            name: span(raw.len(), name.len()),
            value: span(raw.len() + name.len() + 2, value.len()),
            ..Field::default()
        });
        raw.extend(format!("{name}: {value}\r\n").as_bytes());
    }
    raw.extend(b"\r\n");
    Head {
        raw,
        protocol,
        start,
        fields: spans,
    }
}

/// An entry is shorter than 4 GiB.
const fn span(start: usize, len: usize) -> Span {
    Span {
        start: start as u32,
        len: len as u32,
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .strip_prefix(':')
            .unwrap_or(name)
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b':')
}
