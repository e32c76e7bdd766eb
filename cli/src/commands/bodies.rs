//! Bodies for people.

use std::io::Write;

use anyhow::Result;
use tapedeck_archive::HeadView;
use tapedeck_interchange::protobuf;
use tapedeck_interchange::stream::{Chunk, Kind, Stream};
use tapedeck_model::Timestamp;

use crate::output;

/// Bodies are shown up to this size; `--body` writes them whole.
const SHOWN: usize = 64 << 10;

/// Rows of sixteen bytes that are shown of binary data.
const SHOWN_ROWS: usize = 16;

/// Parts of a multipart body that are listed.
const SHOWN_PARTS: usize = 100;

/// A body: JSON indented, forms and multipart bodies taken apart, text as it is, the rest as bytes.
pub(crate) fn pretty(body: &[u8], head: Option<&HeadView<'_>>, out: &mut impl Write) -> Result<()> {
    let field = |name| head.and_then(|head| head.field(name));
    let content_type = String::from_utf8_lossy(field("content-type").unwrap_or_default());
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    if kind.ends_with("json")
        && let Ok(value) = serde_json::from_slice::<serde_json::Value>(body)
    {
        return lines(serde_json::to_string_pretty(&value)?.as_bytes(), out);
    }
    if kind == "application/x-www-form-urlencoded"
        && let Ok(form) = std::str::from_utf8(body)
    {
        return pairs(form, out);
    }
    if kind.starts_with("multipart/")
        && let Some(boundary) = boundary(&content_type)
    {
        return multipart(body, boundary, out);
    }
    plain(body, out)
}

/// Text as it is, the rest as bytes.
fn plain(body: &[u8], out: &mut impl Write) -> Result<()> {
    match std::str::from_utf8(body) {
        Ok(text) if !text.contains('\0') => lines(body, out),
        Ok(_) | Err(_) => hex(body, out),
    }
}

/// The chunks of a stream, each with the time behind the first byte of its message.
pub(crate) fn stream(stream: &Stream, since: Timestamp, out: &mut impl Write) -> Result<()> {
    let name = match stream.kind {
        Kind::Grpc => "",
        Kind::Events => "event ",
        Kind::WebSocket => "frame ",
    };
    for (number, chunk) in stream.chunks.iter().enumerate() {
        let Chunk {
            offset: _,
            at,
            len,
            kind,
            compressed,
            whole,
            bytes,
        } = chunk;
        // gRPC has one kind only, and it is no news.
        let (before, kind) = match stream.kind {
            Kind::Grpc => (kind.as_str(), String::new()),
            Kind::Events | Kind::WebSocket => ("", format!("{}, ", output::visible(kind))),
        };
        writeln!(
            out,
            "{name}{before}{}{number} at +{}: {kind}{}{}{}",
            if before.is_empty() { "" } else { " " },
            output::duration(at.since(since)),
            output::bytes(*len),
            if *compressed { ", compressed" } else { "" },
            if *whole { "" } else { ", not whole" },
        )?;
        match bytes {
            Err(error) => writeln!(out, "({error})")?,
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) => match protobuf::dump(bytes).filter(|_| stream.kind == Kind::Grpc) {
                Some(fields) => lines(fields.as_bytes(), out)?,
                None => plain(bytes, out)?,
            },
        }
    }
    if stream.more {
        writeln!(out, "(and more; --body writes all)")?;
    }
    if let Some(offset) = stream.lost_from {
        writeln!(
            out,
            "(what follows offset {offset} cannot be told apart: bytes are missing there)"
        )?;
    }
    Ok(())
}

/// Bytes in rows of sixteen, with their text beside them.
fn hex(bytes: &[u8], out: &mut impl Write) -> Result<()> {
    writeln!(
        out,
        "({} of binary data)",
        output::bytes(bytes.len() as u64)
    )?;
    for (row, sixteen) in bytes.chunks(16).take(SHOWN_ROWS).enumerate() {
        let numbers: Vec<_> = sixteen.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String = sixteen
            .iter()
            .map(|byte| match byte {
                b' '..=b'~' => char::from(*byte),
                _ => '.',
            })
            .collect();
        writeln!(
            out,
            "  {:04x}  {:<47}  |{text}|",
            row * 16,
            numbers.join(" ")
        )?;
    }
    rest(bytes.len(), SHOWN_ROWS * 16, out)
}

/// The fields of a form, one a line, decoded.
fn pairs(form: &str, out: &mut impl Write) -> Result<()> {
    let mut text = String::new();
    for pair in form.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (form_text(name), form_text(value));
        text.push_str(&format!("{name} = {value}\n"));
    }
    lines(text.as_bytes(), out)
}

/// A name or value of a form; left as it is where it is no valid encoding.
fn form_text(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        let digits = behind
            .get(..2)
            .and_then(|two| std::str::from_utf8(two).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (byte, escaped) {
            (b'%', Some(escaped)) => {
                bytes.push(escaped);
                rest = behind.get(2..).unwrap_or_default();
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

fn boundary(content_type: &str) -> Option<&str> {
    let parameters = content_type.split(';').skip(1);
    let mut boundaries = parameters.filter_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_boundary = name.trim().eq_ignore_ascii_case("boundary");
        is_boundary.then(|| value.trim().trim_matches('"'))
    });
    boundaries.next().filter(|boundary| !boundary.is_empty())
}

/// The parts of a multipart body (RFC 2046 section 5.1): the head of each, and how long it is.
fn multipart(body: &[u8], boundary: &str, out: &mut impl Write) -> Result<()> {
    let delimiter = format!("--{boundary}").into_bytes();
    let mut starts = Vec::new();
    let mut at = 0;
    while let Some(found) = find(body.get(at..).unwrap_or_default(), &delimiter) {
        starts.push(at + found);
        at += found + delimiter.len();
        if starts.len() > SHOWN_PARTS {
            break;
        }
    }
    if starts.len() < 2 {
        return plain(body, out);
    }
    for (number, ends) in starts.windows(2).take(SHOWN_PARTS).enumerate() {
        let [start, end] = ends else { continue };
        let part = body.get(start + delimiter.len()..*end).unwrap_or_default();
        let part = part.strip_prefix(b"\r\n").unwrap_or(part);
        let part = part.strip_suffix(b"\r\n").unwrap_or(part);
        let (head, content) = match find(part, b"\r\n\r\n") {
            Some(end) => (part.get(..end), part.get(end + 4..)),
            None => (Some(part), None),
        };
        let content = content.unwrap_or_default();
        let len = output::bytes(content.len() as u64);
        writeln!(out, "part {number}: {len}")?;
        lines(head.unwrap_or_default(), out)?;
        writeln!(out)?;
        let shown = content.get(..SHOWN / 64).unwrap_or(content);
        plain(shown, out)?;
        rest(content.len(), shown.len(), out)?;
    }
    if starts.len() > SHOWN_PARTS {
        writeln!(out, "(and more parts; --body writes all)")?;
    }
    Ok(())
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

fn lines(text: &[u8], out: &mut impl Write) -> Result<()> {
    let shown = text.get(..SHOWN).unwrap_or(text);
    for line in String::from_utf8_lossy(shown).lines() {
        writeln!(out, "{}", output::visible(&line.replace('\t', "    ")))?;
    }
    rest(text.len(), shown.len(), out)
}

/// Says what was left out.
fn rest(len: usize, shown: usize, out: &mut impl Write) -> Result<()> {
    if len > shown {
        let rest = output::bytes((len - shown) as u64);
        writeln!(out, "(and {rest} more; --body writes all)")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(print: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> String {
        let mut out = Vec::new();
        print(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn forms_are_decoded() {
        let text = shown(|out| pairs("a=1&b=x+y%21&c&bad=%zz&esc=%1b%5b31m", out));
        assert_eq!(
            text,
            "a = 1\nb = x y!\nc = \nbad = %zz\nesc = \u{fffd}[31m\n"
        );
    }

    #[test]
    fn multipart_bodies_are_taken_apart() {
        let body = "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\none\r\n\
                    --b\r\nContent-Type: image/png\r\n\r\n\x00\x01\r\n--b--\r\n";
        let text = shown(|out| multipart(body.as_bytes(), "b", out));
        for part in [
            "part 0: 3 B\n",
            "name=\"a\"\n\none\n",
            "part 1: 2 B\n",
            "2 B of binary",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(
            boundary("multipart/form-data; charset=x; Boundary=\"b\""),
            Some("b")
        );
        assert_eq!(boundary("multipart/form-data"), None);
        assert_eq!(shown(|out| multipart(b"no parts", "b", out)), "no parts\n");
    }

    #[test]
    fn bytes_have_their_text_beside_them() {
        let text = shown(|out| hex(b"\x00GET /\x1b[31m", out));
        assert!(text.contains("0000  00 47 45 54 20 2f 1b"), "{text}");
        assert!(text.ends_with("|.GET /.[31m|\n"), "{text}");
        let long = shown(|out| hex(&[0; 1000], out));
        assert!(
            long.ends_with("(and 744 B more; --body writes all)\n"),
            "{long}"
        );
    }
}
