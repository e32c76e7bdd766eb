use std::io::{self, Write};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tapedeck_archive::{
    Archive, BodyBuffer, HeadView, MessageView, ReadError, Record, Row, Scratch,
};
use tapedeck_model::{Protocol, Timestamp};

use super::types::{
    Cache, Content, Cookie, Creator, Entry, NameValue, PostData, Request, Response, Tapedeck,
    Timings,
};
use crate::content;
use crate::text::{header_text, rfc3339};

/// Bodies longer than this with their coding undone are written as they were transferred: a HAR
/// is read whole into memory by every tool.
const DECODE_CAP: usize = 64 << 20;

/// What [`export`] wrote.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Exported {
    /// Entries written.
    pub entries: u64,
    /// Exchanges left out because their request was never seen: HAR has no entry without one.
    pub without_request: u64,
    /// Exchanges left out because they lie in a damaged part of the archive.
    pub unreadable: u64,
}

/// Why an export stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The output could not be written.
    #[error("failed to write the HAR: {0}")]
    Write(#[from] io::Error),
    /// An entry could not be put into JSON.
    #[error("failed to write the HAR: {0}")]
    Json(#[from] serde_json::Error),
}

/// Writes the exchanges of `rows` as one HAR 1.2 document, in the order of their beginning.
///
/// Memory does not grow with the archive but for 16 bytes an exchange, for the order.
///
/// # Errors
///
/// When the output cannot be written. Damaged parts of the archive are no error: they are counted.
pub fn export<'a>(
    archive: &'a Archive,
    rows: impl Iterator<Item = Row<'a>>,
    creator_version: &'static str,
    mut out: impl Write,
) -> Result<Exported, ExportError> {
    let mut order: Vec<(Timestamp, u64)> = rows.map(|row| (row.time(), row.id())).collect();
    order.sort_unstable();

    let creator = Creator {
        name: "tapedeck",
        version: creator_version,
    };
    write!(out, r#"{{"log":{{"version":"1.2","creator":"#)?;
    serde_json::to_writer(&mut out, &creator)?;
    write!(out, r#","pages":[],"entries":["#)?;

    let mut exported = Exported::default();
    let mut scratch = Scratch::default();
    let mut buffer = BodyBuffer::default();
    for (_, id) in order {
        match entry(archive, id, &mut scratch, &mut buffer) {
            Ok(Some(entry)) => {
                out.write_all(if exported.entries == 0 { b"\n" } else { b",\n" })?;
                serde_json::to_writer(&mut out, &entry)?;
                exported.entries += 1;
            }
            Ok(None) => exported.without_request += 1,
            Err(_) => exported.unreadable += 1,
        }
    }
    out.write_all(b"\n]}}\n")?;
    out.flush()?;
    Ok(exported)
}

fn entry(
    archive: &Archive,
    id: u64,
    scratch: &mut Scratch,
    buffer: &mut BodyBuffer,
) -> Result<Option<Entry>, ReadError> {
    let Some(row) = archive.row(id) else {
        return Ok(None);
    };
    let record = archive.load(id, scratch)?;
    let Some(asked) = record.request() else {
        return Ok(None);
    };
    let Some(head) = asked.head() else {
        return Ok(None);
    };

    let timings = timings(&asked, record.response().as_ref());
    let (response, undecoded) = match record.response() {
        Some(answered) => response(archive, &answered, buffer)?,
        None => (no_response(), None),
    };
    let entry = Entry {
        started_date_time: rfc3339(row.time()),
        time: timings.send + timings.wait + timings.receive,
        request: request(&row, &head, &asked, archive.body(&asked.body(), buffer)?),
        response,
        cache: Cache {},
        timings,
        server_ip_address: row.server().ip.to_string(),
        connection: row.connection().0.to_string(),
        tapedeck: custom(&row, &record, undecoded),
    };
    Ok(Some(entry))
}

fn request(row: &Row<'_>, head: &HeadView<'_>, asked: &MessageView<'_>, body: &[u8]) -> Request {
    let url = url(row);
    let content_type = head
        .field("content-type")
        .map(header_text)
        .unwrap_or_default();
    let post_data = (!body.is_empty()).then(|| {
        let (text, encoding) = body_text(body);
        PostData {
            mime_type: content_type.into_owned(),
            text,
            encoding,
        }
    });
    Request {
        method: head
            .method()
            .map(header_text)
            .unwrap_or_default()
            .into_owned(),
        query_string: query(&url),
        url,
        http_version: head.protocol().to_string(),
        cookies: cookies(head),
        headers: pairs(head),
        post_data,
        headers_size: head_size(head),
        body_size: asked.body().len().cast_signed(),
    }
}

fn response(
    archive: &Archive,
    answered: &MessageView<'_>,
    buffer: &mut BodyBuffer,
) -> Result<(Response, Option<String>), ReadError> {
    let transferred = archive.body(&answered.body(), buffer)?;
    let Some(head) = answered.head() else {
        let content = content("", transferred, None);
        return Ok((
            Response {
                content,
                ..no_response()
            },
            None,
        ));
    };
    let coding = head.field("content-encoding");
    let (decoded, undecoded) = match content::decode(coding, transferred, DECODE_CAP) {
        Ok(decoded) => (decoded, None),
        Err(_) => (
            transferred.into(),
            coding.map(|coding| header_text(coding).into_owned()),
        ),
    };
    let content_type = head
        .field("content-type")
        .map(header_text)
        .unwrap_or_default();
    let saved = (coding.is_some() && undecoded.is_none())
        .then(|| decoded.len() as i64 - transferred.len() as i64);
    let response = Response {
        status: head.status().unwrap_or_default(),
        status_text: header_text(head.reason()).into_owned(),
        http_version: head.protocol().to_string(),
        cookies: set_cookies(&head),
        headers: pairs(&head),
        content: content(&content_type, &decoded, saved),
        redirect_url: head
            .field("location")
            .map(header_text)
            .unwrap_or_default()
            .into_owned(),
        headers_size: head_size(&head),
        body_size: transferred.len() as i64,
    };
    Ok((response, undecoded))
}

fn no_response() -> Response {
    Response {
        status: 0,
        status_text: String::new(),
        http_version: String::new(),
        cookies: Vec::new(),
        headers: Vec::new(),
        content: content("", b"", None),
        redirect_url: String::new(),
        headers_size: -1,
        body_size: -1,
    }
}

fn content(content_type: &str, body: &[u8], compression: Option<i64>) -> Content {
    let mime_type = if content_type.is_empty() {
        "x-unknown"
    } else {
        content_type
    }
    .to_owned();
    let (text, encoding) = body_text(body);
    let text = (!body.is_empty()).then_some(text);
    Content {
        size: body.len() as u64,
        compression,
        mime_type,
        text,
        encoding,
    }
}

/// A body as JSON can hold it: as it is where it is text, else in base64.
fn body_text(body: &[u8]) -> (String, Option<&'static str>) {
    match std::str::from_utf8(body) {
        Ok(text) if !text.contains('\0') => (text.to_owned(), None),
        Ok(_) | Err(_) => (BASE64.encode(body), Some("base64")),
    }
}

fn custom(row: &Row<'_>, record: &Record<'_>, undecoded: Option<String>) -> Tapedeck {
    let trailers = |message: Option<MessageView<'_>>| {
        message
            .and_then(|message| message.trailers())
            .map(|head| pairs(&head))
            .unwrap_or_default()
    };
    Tapedeck {
        id: row.id(),
        client: row.client().to_string(),
        server: row.server().to_string(),
        stream: row.stream(),
        target: row.target().map(|target| header_text(&target).into_owned()),
        complete: row.complete(),
        request_missing: row.request_missing().names().collect(),
        response_missing: row.response_missing().names().collect(),
        request_reset_code: record.request().and_then(|asked| asked.reset_code()),
        response_reset_code: record.response().and_then(|answered| answered.reset_code()),
        request_trailers: trailers(record.request()),
        response_trailers: trailers(record.response()),
        interim: record
            .interim()
            .filter_map(|interim| interim.head.status())
            .collect(),
        undecoded,
        tunnel: row.tunnel(),
        anomalies: row
            .anomalies()
            .iter()
            .map(tapedeck_model::Anomaly::name)
            .collect(),
    }
}

/// Send, wait and receive always add up to the whole, also where the response began before the
/// request had ended.
fn timings(asked: &MessageView<'_>, answered: Option<&MessageView<'_>>) -> Timings {
    let mut timings = Timings {
        blocked: -1.0,
        dns: -1.0,
        connect: -1.0,
        ssl: -1.0,
        send: millis(asked.last_byte().since(asked.first_byte())),
        wait: 0.0,
        receive: 0.0,
    };
    if let Some(answered) = answered {
        let sent = asked.last_byte().min(answered.first_byte());
        timings.send = millis(sent.since(asked.first_byte()));
        timings.wait = millis(answered.first_byte().since(sent));
        timings.receive = millis(answered.last_byte().since(answered.first_byte()));
    }
    timings
}

fn millis(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e6
}

fn head_size(head: &HeadView<'_>) -> i64 {
    match head.protocol() {
        Protocol::Http10 | Protocol::Http11 => head.raw().len() as i64,
        Protocol::Http2 => -1,
    }
}

fn pairs(head: &HeadView<'_>) -> Vec<NameValue> {
    head.fields()
        .filter_map(|field| Some((field.name?, field.value?)))
        .filter(|(name, _)| !name.starts_with(b":"))
        .map(|(name, value)| NameValue {
            name: header_text(name).into_owned(),
            value: header_text(value).into_owned(),
        })
        .collect()
}

/// The absolute URL of a request (RFC 9112 section 3.3): as the target says, else put together.
fn url(row: &Row<'_>) -> String {
    let target = row.target().unwrap_or_default();
    if target.windows(3).any(|window| window == b"://") && !target.starts_with(b"/") {
        return uri_text(&target);
    }
    let scheme = row
        .scheme()
        .map(header_text)
        .unwrap_or_else(|| "http".into());
    let authority = match row.authority() {
        Some(authority) if !authority.is_empty() => uri_text(authority),
        _ => row.server().to_string(),
    };
    let path = if target.starts_with(b"/") {
        uri_text(&target)
    } else {
        String::new()
    };
    format!("{scheme}://{authority}{path}")
}

/// Bytes that no URI may hold, percent-encoded; everything else as it stood on the wire.
fn uri_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            0x21..=0x7e if !b"\"<>\\^`{|}".contains(byte) => text.push(char::from(*byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

fn query(url: &str) -> Vec<NameValue> {
    let Some((_, query)) = url.split_once('?') else {
        return Vec::new();
    };
    let query = query.split('#').next().unwrap_or_default();
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            NameValue {
                name: form_text(name),
                value: form_text(value),
            }
        })
        .collect()
}

/// A name or value of a form-encoded query, decoded; left as it is where it is no valid encoding.
fn form_text(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, later)) = rest.split_first() {
        let digits = later.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (byte, escaped) {
            (b'%', Some(escaped)) => {
                bytes.push(escaped);
                rest = later.get(2..).unwrap_or_default();
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(*byte),
        }
        rest = later;
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

fn cookies(head: &HeadView<'_>) -> Vec<Cookie> {
    values(head, "cookie")
        .flat_map(|value| {
            let text = header_text(value).into_owned();
            text.split(';').filter_map(cookie_pair).collect::<Vec<_>>()
        })
        .collect()
}

fn set_cookies(head: &HeadView<'_>) -> Vec<Cookie> {
    values(head, "set-cookie")
        .filter_map(|value| {
            let text = header_text(value);
            let mut attributes = text.split(';');
            let mut cookie = cookie_pair(attributes.next()?)?;
            for attribute in attributes {
                let (name, value) = attribute.split_once('=').unwrap_or((attribute, ""));
                match name.trim().to_ascii_lowercase().as_str() {
                    "path" => cookie.path = Some(value.trim().to_owned()),
                    "domain" => cookie.domain = Some(value.trim().to_owned()),
                    "httponly" => cookie.http_only = Some(true),
                    "secure" => cookie.secure = Some(true),
                    _ => {}
                }
            }
            Some(cookie)
        })
        .collect()
}

fn cookie_pair(pair: &str) -> Option<Cookie> {
    let (name, value) = pair.trim().split_once('=')?;
    Some(Cookie {
        name: name.trim().to_owned(),
        value: value.trim().to_owned(),
        ..Cookie::default()
    })
}

fn values<'a>(head: &HeadView<'a>, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
    head.fields()
        .filter(move |field| {
            field
                .name
                .is_some_and(|found| found.eq_ignore_ascii_case(name.as_bytes()))
        })
        .filter_map(|field| field.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_and_bad_escapes_kept() {
        let pairs = query("http://a/b?x=1&y=a+b%20c&z&bad=%zz&%ff=%ff#frag");
        let got: Vec<_> = pairs
            .iter()
            .map(|p| (p.name.as_str(), p.value.as_str()))
            .collect();
        assert_eq!(
            got,
            [
                ("x", "1"),
                ("y", "a b c"),
                ("z", ""),
                ("bad", "%zz"),
                ("%ff", "%ff")
            ]
        );
    }

    #[test]
    fn text_stays_text_and_the_rest_becomes_base64() {
        assert_eq!(body_text("ü".as_bytes()), ("ü".to_owned(), None));
        assert_eq!(
            body_text(&[0xff, 0xfe]),
            ("//4=".to_owned(), Some("base64"))
        );
        assert_eq!(body_text(b"a\0").1, Some("base64"));
    }

    #[test]
    fn a_url_holds_no_byte_that_a_uri_may_not() {
        assert_eq!(uri_text(b"/a b\xff%20?q=\"x\""), "/a%20b%FF%20?q=%22x%22");
    }
}
