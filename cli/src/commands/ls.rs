use std::borrow::Cow;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use tapedeck_archive::Row;
use tapedeck_interchange::{header_text, rfc3339};
use tapedeck_model::Anomaly;

use super::Chosen;
use crate::args::{self, Format};
use crate::output;

pub(crate) fn run(args: &args::Ls) -> Result<ExitCode> {
    let archive = super::open(&args.archive)?;
    let chosen = Chosen::new(&archive, args.filter.as_ref());
    let mut out = BufWriter::new(io::stdout().lock());
    match args.format {
        Format::Table => table(&chosen, &mut out)?,
        Format::Json => {
            for row in chosen.rows() {
                serde_json::to_writer(&mut out, &Line::of(&row))?;
                out.write_all(b"\n")?;
            }
        }
    }
    out.flush()?;
    chosen.finish()
}

/// One exchange as `ls --format json` prints it. The keys are part of the command's contract:
/// only added, never changed. `null` where the wire did not say.
#[derive(Debug, Serialize)]
pub(crate) struct Line<'a> {
    /// Counts from 0 within an archive.
    pub(crate) id: u64,
    /// When the exchange began: RFC 3339, nanoseconds.
    pub(crate) time: String,
    pub(crate) client: String,
    pub(crate) server: String,
    pub(crate) protocol: String,
    pub(crate) method: Option<Cow<'a, str>>,
    pub(crate) scheme: Option<Cow<'a, str>>,
    pub(crate) authority: Option<Cow<'a, str>>,
    /// The request target as on the wire, query included.
    pub(crate) path: Option<Cow<'a, str>>,
    pub(crate) status: Option<u16>,
    /// Without transfer coding, content coding kept.
    pub(crate) request_body_len: Option<u64>,
    pub(crate) response_body_len: Option<u64>,
    /// Seconds from the first byte of the request to the last of the response.
    pub(crate) duration: Option<f64>,
    /// Seconds from the last byte of the request to the first of the response.
    pub(crate) time_to_first_byte: Option<f64>,
    pub(crate) complete: bool,
    /// Why the request is not whole; empty when it is.
    pub(crate) request_missing: Vec<&'static str>,
    pub(crate) response_missing: Vec<&'static str>,
    pub(crate) connection: u64,
    /// The ordinal within an HTTP/1 connection, or the stream id in HTTP/2.
    pub(crate) stream: u64,
    pub(crate) tunnel: bool,
    pub(crate) pushed: bool,
    pub(crate) anomalies: Vec<&'static str>,
}

impl<'a> Line<'a> {
    pub(crate) fn of(row: &Row<'a>) -> Self {
        Line {
            id: row.id(),
            time: rfc3339(row.time()),
            client: row.client().to_string(),
            server: row.server().to_string(),
            protocol: row.protocol().to_string(),
            method: row.method().map(header_text),
            scheme: row.scheme().map(header_text),
            authority: row.authority().map(header_text),
            path: row.target().map(header_text),
            status: row.status(),
            request_body_len: row.request_body_len(),
            response_body_len: row.response_body_len(),
            duration: row.duration().map(|duration| duration.as_secs_f64()),
            time_to_first_byte: row.first_byte().map(|duration| duration.as_secs_f64()),
            complete: row.complete(),
            request_missing: row.request_missing().names().collect(),
            response_missing: row.response_missing().names().collect(),
            connection: row.connection().0,
            stream: row.stream(),
            tunnel: row.tunnel(),
            pushed: row.pushed(),
            anomalies: row.anomalies().iter().map(Anomaly::name).collect(),
        }
    }
}

fn table(chosen: &Chosen<'_>, out: &mut impl Write) -> Result<()> {
    writeln!(
        out,
        "{:>6}  {:<15}  {:<8}  {:>3}  {:>9}  {:>9}  {:>9}  {:<1}  {:<7} TARGET",
        "ID", "TIME", "PROTO", "ST", "REQ", "RESP", "DURATION", " ", "METHOD"
    )?;
    for row in chosen.rows() {
        let time = rfc3339(row.time());
        let clock = time.get(11..26).unwrap_or(&time);
        let none = || "-".to_owned();
        let size = |len: Option<u64>| len.map_or_else(none, output::bytes);
        writeln!(
            out,
            "{:>6}  {clock:<15}  {:<8}  {:>3}  {:>9}  {:>9}  {:>9}  {}  {:<7} {}{}",
            row.id(),
            row.protocol().to_string(),
            row.status().map_or_else(none, |status| status.to_string()),
            size(row.request_body_len()),
            size(row.response_body_len()),
            row.duration().map_or_else(none, output::duration),
            if row.complete() { ' ' } else { '!' },
            row.method()
                .map_or_else(none, |method| output::visible(&header_text(method))),
            row.authority()
                .map(|text| output::visible(&header_text(text)))
                .unwrap_or_default(),
            row.target()
                .map_or_else(none, |target| output::visible(&header_text(target))),
        )?;
    }
    Ok(())
}
