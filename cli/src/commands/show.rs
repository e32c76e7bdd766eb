use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use tapedeck_archive::{Archive, BodyBuffer, HeadView, MessageView, Record, Row, Scratch};
use tapedeck_interchange::{content, grpc, header_text, rfc3339};
use tapedeck_model::{Anomaly, Missing, Protocol, Role};

use crate::args::{self, BodySide};
use crate::output;

/// Bodies are decoded and shown up to this size; `--body` writes them whole.
const SHOWN: usize = 64 << 10;

/// Messages of a stream that are shown; `--body` writes all.
const SHOWN_MESSAGES: usize = 100;

/// What a content coding may grow to before it is shown.
const DECODE_CAP: usize = 16 << 20;

pub(crate) fn run(args: &args::Show) -> Result<ExitCode> {
    let archive = super::open(&[&args.archive])?;
    let id = archive.find(&args.id);
    let Some((id, row)) = id.and_then(|id| Some((id, archive.row(id)?))) else {
        bail!(
            "no exchange {} in {}: it holds {}; `tapedeck ls` lists them",
            args.id,
            args.archive.display(),
            archive.len()
        );
    };
    let mut scratch = Scratch::default();
    let record = archive
        .load(id, &mut scratch)
        .with_context(|| format!("failed to read exchange {}", args.id))?;
    let mut out = BufWriter::new(io::stdout().lock());
    match args.body {
        Some(side) => raw_body(&archive, &record, side, &mut out)?,
        None => show(&archive, &row, &record, &mut out)?,
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn raw_body(
    archive: &Archive,
    record: &Record<'_>,
    side: BodySide,
    out: &mut impl Write,
) -> Result<()> {
    let (message, name) = match side {
        BodySide::Request => (record.request(), "request"),
        BodySide::Response => (record.response(), "response"),
    };
    let message = message.with_context(|| format!("the {name} was never seen"))?;
    let mut buffer = BodyBuffer::default();
    out.write_all(archive.body(&message.body(), &mut buffer)?)?;
    Ok(())
}

fn show(archive: &Archive, row: &Row<'_>, record: &Record<'_>, out: &mut impl Write) -> Result<()> {
    writeln!(out, "exchange    {}", archive.name(row.id()))?;
    writeln!(out, "time        {}", rfc3339(row.time()))?;
    writeln!(out, "client      {}", row.client())?;
    writeln!(out, "server      {}", row.server())?;
    writeln!(
        out,
        "protocol    {}, connection {}, stream {}{}{}",
        row.protocol(),
        row.connection().0,
        row.stream(),
        if row.tunnel() { ", tunnel" } else { "" },
        if row.pushed() {
            ", pushed by the server"
        } else {
            ""
        },
    )?;
    timing(record, out)?;
    writeln!(out, "request     {}", whole(row.request_missing()))?;
    writeln!(out, "response    {}", whole(row.response_missing()))?;
    if !row.anomalies().is_empty() {
        let names: Vec<_> = row.anomalies().iter().map(Anomaly::name).collect();
        writeln!(out, "anomalies   {}", names.join(", "))?;
    }
    let mut buffer = BodyBuffer::default();
    if let Some(request) = record.request() {
        message(archive, &request, Role::Request, &mut buffer, out)?;
    }
    for interim in record.interim() {
        writeln!(out)?;
        head(&interim.head, '<', out)?;
    }
    if let Some(response) = record.response() {
        message(archive, &response, Role::Response, &mut buffer, out)?;
    }
    Ok(())
}

fn timing(record: &Record<'_>, out: &mut impl Write) -> Result<()> {
    let Some(request) = record.request() else {
        return Ok(());
    };
    let sending = output::duration(request.last_byte().since(request.first_byte()));
    write!(out, "timing      request {sending}")?;
    if let Some(response) = record.response() {
        let waiting = response.first_byte().since(request.last_byte());
        let receiving = response.last_byte().since(response.first_byte());
        write!(
            out,
            ", wait {}, response {}",
            output::duration(waiting),
            output::duration(receiving)
        )?;
    }
    writeln!(out)?;
    Ok(())
}

fn whole(missing: Missing) -> String {
    if missing.is_empty() {
        return "whole".to_owned();
    }
    format!(
        "not whole: {}",
        missing.names().collect::<Vec<_>>().join(", ")
    )
}

fn message(
    archive: &Archive,
    message: &MessageView<'_>,
    role: Role,
    buffer: &mut BodyBuffer,
    out: &mut impl Write,
) -> Result<()> {
    let mark = match role {
        Role::Request => '>',
        Role::Response => '<',
    };
    writeln!(out)?;
    let view = message.head();
    match &view {
        Some(view) => head(view, mark, out)?,
        None => writeln!(out, "{mark} (the head was lost)")?,
    }
    body(archive, message, view.as_ref(), buffer, out)?;
    if let Some(trailers) = message.trailers() {
        writeln!(out, "{mark} (trailers)")?;
        head(&trailers, mark, out)?;
    }
    Ok(())
}

/// The start line and the fields of a head, one a line; in HTTP/2 the pseudo-header fields stand
/// for the start line.
fn head(head: &HeadView<'_>, mark: char, out: &mut impl Write) -> Result<()> {
    let mut line = |text: &str| writeln!(out, "{mark} {}", output::visible(text));
    if head.protocol() != Protocol::Http2
        && let Some(start) = head.raw().split(|byte| *byte == b'\n').next()
        && (head.method().is_some() || head.status().is_some())
    {
        line(header_text(start).trim_end_matches('\r'))?;
    }
    for field in head.fields() {
        let text = |bytes: Option<&[u8]>| match bytes {
            Some(bytes) => header_text(bytes).into_owned(),
            None => "(unknown)".to_owned(),
        };
        line(&format!("{}: {}", text(field.name), text(field.value)))?;
    }
    Ok(())
}

fn body(
    archive: &Archive,
    message: &MessageView<'_>,
    head: Option<&HeadView<'_>>,
    buffer: &mut BodyBuffer,
    out: &mut impl Write,
) -> Result<()> {
    let view = message.body();
    if view.is_empty() && view.gaps().next().is_none() {
        return Ok(());
    }
    let transferred = archive.body(&view, buffer)?;
    writeln!(out)?;
    if head
        .and_then(|head| head.field("content-type"))
        .is_some_and(grpc::is_grpc)
    {
        grpc_messages(message, transferred, head, out)?;
    } else {
        let coding = head.and_then(|head| head.field("content-encoding"));
        match &content::decode(coding, transferred, DECODE_CAP) {
            Ok(decoded) => pretty(decoded, head, out)?,
            Err(error) => {
                writeln!(out, "({error}; as transferred:)")?;
                pretty(transferred, None, out)?;
            }
        }
    }
    for gap in view.gaps() {
        let len = if gap.gap.len == 0 {
            "some".to_owned()
        } else {
            gap.gap.len.to_string()
        };
        writeln!(
            out,
            "({len} bytes are missing at offset {}: {:?})",
            gap.offset, gap.gap.cause
        )?;
    }
    Ok(())
}

/// The messages of a gRPC body, each with the time of its first byte behind that of the head.
fn grpc_messages(
    message: &MessageView<'_>,
    body: &[u8],
    head: Option<&HeadView<'_>>,
    out: &mut impl Write,
) -> Result<()> {
    let view = message.body();
    // Where bytes are missing, so is the place of the next prefix.
    let end = view
        .gaps()
        .next()
        .and_then(|gap| usize::try_from(gap.offset).ok())
        .unwrap_or(body.len());
    let body = body.get(..end).unwrap_or(body);
    let coding = head.and_then(|head| head.field("grpc-encoding"));
    for (number, one) in grpc::messages(body).enumerate() {
        if number == SHOWN_MESSAGES {
            writeln!(out, "(and more messages; --body writes all)")?;
            break;
        }
        let at = view
            .arrivals()
            .take_while(|arrival| arrival.offset <= one.offset as u64)
            .last()
            .map_or_else(|| message.first_byte(), |arrival| arrival.at);
        writeln!(
            out,
            "message {number} at +{}: {}{}{}",
            output::duration(at.since(message.first_byte())),
            output::bytes(one.len.into()),
            if one.compressed { ", compressed" } else { "" },
            if one.is_whole() { "" } else { ", not whole" },
        )?;
        match one.decoded(coding, DECODE_CAP) {
            Ok(decoded) => pretty(&decoded, None, out)?,
            Err(error) => writeln!(out, "({error})")?,
        }
    }
    Ok(())
}

/// A body for people: JSON indented, text as it is, the rest as a count and its first bytes.
fn pretty(body: &[u8], head: Option<&HeadView<'_>>, out: &mut impl Write) -> Result<()> {
    let content_type = head
        .and_then(|head| head.field("content-type"))
        .unwrap_or_default();
    let is_json = content_type
        .windows(4)
        .any(|window| window.eq_ignore_ascii_case(b"json"));
    if is_json && let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) {
        let text = serde_json::to_string_pretty(&value)?;
        return lines(text.as_bytes(), out);
    }
    match std::str::from_utf8(body) {
        Ok(text) if !text.contains('\0') => lines(body, out),
        Ok(_) | Err(_) => {
            writeln!(out, "({} of binary data)", output::bytes(body.len() as u64))?;
            for (idx, row) in body.chunks(16).take(4).enumerate() {
                let hex: Vec<_> = row.iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(out, "  {:04x}  {}", idx * 16, hex.join(" "))?;
            }
            Ok(())
        }
    }
}

fn lines(text: &[u8], out: &mut impl Write) -> Result<()> {
    let shown = text.get(..SHOWN).unwrap_or(text);
    for line in String::from_utf8_lossy(shown).lines() {
        writeln!(out, "{}", output::visible(&line.replace('\t', "    ")))?;
    }
    if text.len() > shown.len() {
        let rest = (text.len() - shown.len()) as u64;
        writeln!(out, "(and {} more; --body writes all)", output::bytes(rest))?;
    }
    Ok(())
}
