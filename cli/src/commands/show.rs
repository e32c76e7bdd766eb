use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use tapedeck_archive::{Archive, BodyBuffer, HeadView, MessageView, Record, Row, Scratch};
use tapedeck_interchange::{content, header_text, rfc3339, stream};
use tapedeck_model::{Anomaly, Missing, Origin, Protocol, Role, Workload, Workloads};

use super::bodies;
use crate::args::{self, BodySide};
use crate::output;

/// What a content coding may grow to before it is shown.
const DECODE_CAP: usize = 16 << 20;

/// What is shown of a stream; `--body` writes all.
const SHOWN_STREAM: stream::Limits = stream::Limits {
    chunks: 100,
    decoded: DECODE_CAP,
};

pub(crate) fn run(args: &args::Show) -> Result<ExitCode> {
    let archive = super::open(&[&args.archive], &args.identity)?;
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
    let connection = record.connection();
    let Workloads { client, server } = &connection.workloads;
    writeln!(
        out,
        "client      {}{}",
        row.client(),
        whose(client.as_deref())
    )?;
    writeln!(
        out,
        "server      {}{}",
        row.server(),
        whose(server.as_deref())
    )?;
    writeln!(
        out,
        "protocol    {}, connection {}{}, stream {}{}{}",
        row.protocol(),
        row.connection().0,
        match connection.origin {
            Origin::Handshake => "",
            Origin::Midstream => " (seen from its middle on)",
            Origin::Predates => " (predates the capture)",
        },
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
    let messages = [record.request(), record.response()];
    if let Some(code) = messages.iter().flatten().find_map(MessageView::reset_code) {
        writeln!(out, "reset       {code} {}", reset_name(code))?;
    }
    if !row.anomalies().is_empty() {
        let names: Vec<_> = row.anomalies().iter().map(Anomaly::name).collect();
        writeln!(out, "anomalies   {}", names.join(", "))?;
    }
    let mut buffer = BodyBuffer::default();
    if let Some(request) = record.request() {
        message(archive, record, &request, Role::Request, &mut buffer, out)?;
    }
    for interim in record.interim() {
        writeln!(out)?;
        head(&interim.head, '<', out)?;
    }
    if let Some(response) = record.response() {
        message(archive, record, &response, Role::Response, &mut buffer, out)?;
    }
    if let Some(status) = stream::grpc_status(record) {
        let text = output::visible(&status.message);
        let colon = if text.is_empty() { "" } else { ": " };
        writeln!(out)?;
        writeln!(
            out,
            "grpc status {} {}{colon}{text}",
            status.code,
            status.name()
        )?;
    }
    if let Some(details) = stream::grpc_details(record) {
        let text = output::visible(&details.message);
        let types = output::visible(&details.types.join(", "));
        writeln!(out, "grpc detail {}: {text} ({types})", details.code)?;
    }
    Ok(())
}

/// Whose one end is, in a few words.
fn whose(workload: Option<&Workload>) -> String {
    let Some(workload) = workload else {
        return String::new();
    };
    let mut words = Vec::new();
    if let Some(pod) = &workload.pod {
        let namespace = workload.namespace.as_deref().unwrap_or("?");
        words.push(format!("pod {namespace}/{pod}"));
    }
    if let Some(container) = &workload.container {
        words.push(format!("container {container}"));
    }
    if let (Some(process), Some(pid)) = (&workload.process, workload.pid) {
        words.push(format!("{process}[{pid}]"));
    }
    if words.is_empty()
        && let Some(cgroup) = &workload.cgroup
    {
        words.push(format!("cgroup {cgroup}"));
    }
    format!("  {}", output::visible(&words.join(", ")))
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

/// The name of an error code of HTTP/2 (RFC 9113 section 7).
fn reset_name(code: u32) -> &'static str {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    let name = NAMES.get(code as usize);
    name.copied().unwrap_or("(of a number without a name)")
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
    record: &Record<'_>,
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
    body(archive, record, role, message, buffer, out)?;
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
    record: &Record<'_>,
    role: Role,
    message: &MessageView<'_>,
    buffer: &mut BodyBuffer,
    out: &mut impl Write,
) -> Result<()> {
    let view = message.body();
    if view.is_empty() && view.gaps().next().is_none() {
        return Ok(());
    }
    let transferred = archive.body(&view, buffer)?;
    let head = message.head();
    writeln!(out)?;
    if let Some(stream) = stream::chunks(record, role, transferred, SHOWN_STREAM) {
        bodies::stream(&stream, message.first_byte(), out)?;
    } else {
        let coding = head.and_then(|head| head.field("content-encoding"));
        match &content::decode(coding, transferred, DECODE_CAP) {
            Ok(decoded) => bodies::pretty(decoded, head.as_ref(), out)?,
            Err(error) => {
                writeln!(out, "({error}; as transferred:)")?;
                bodies::pretty(transferred, None, out)?;
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
