use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use tapedeck_archive::{Row, Scratch};
use tapedeck_interchange::jsonl::Line;
use tapedeck_interchange::{header_text, rfc3339, stream};
use tapedeck_model::Protocol;

use super::{Chosen, connections};
use crate::args::{self, Format};
use crate::output;

pub(crate) fn run(args: &args::Ls) -> Result<ExitCode> {
    let archive = super::open(&args.archive, &args.identity)?;
    let chosen = Chosen::new(&archive, args.filter.as_ref());
    let mut out = BufWriter::new(io::stdout().lock());
    if args.connections {
        connections::list(&archive, args.format, &mut out)?;
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    }
    match args.format {
        Format::Table => table(&chosen, &mut out)?,
        Format::Json => {
            let mut scratch = Scratch::default();
            for row in chosen.rows() {
                // Only what may be a call of gRPC is worth a look into its record.
                let may_be_grpc = row.protocol() == Protocol::Http2
                    && row.method() == Some(b"POST")
                    && row.status() == Some(200);
                let record = may_be_grpc.then(|| archive.load(row.id(), &mut scratch).ok());
                let grpc_status = record
                    .flatten()
                    .and_then(|record| stream::grpc_status(&record))
                    .map(|status| status.code);
                let name = (archive.segments().nth(1).is_some()).then(|| archive.name(row.id()));
                let line = Line::of(&row);
                serde_json::to_writer(
                    &mut out,
                    &Named {
                        line,
                        grpc_status,
                        name,
                    },
                )?;
                out.write_all(b"\n")?;
            }
        }
    }
    out.flush()?;
    chosen.finish()
}

/// A line, and where there are several files, the name that stays when some of them are deleted.
#[derive(Serialize)]
struct Named<'a> {
    #[serde(flatten)]
    line: Line<'a>,
    /// How a call of gRPC ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
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
            "{:>6}  {clock:<15}  {:<8}  {:>3}  {:>9}  {:>9}  {:>9}  {}  {:<7} {}",
            chosen.archive.name(row.id()),
            row.protocol().to_string(),
            row.status().map_or_else(none, |status| status.to_string()),
            size(row.request_body_len()),
            size(row.response_body_len()),
            row.duration().map_or_else(none, output::duration),
            if row.complete() { ' ' } else { '!' },
            row.method()
                .map_or_else(none, |method| output::visible(&header_text(method))),
            place(&row),
        )?;
    }
    Ok(())
}

/// Where a request went. A target in absolute or authority form (RFC 9112 section 3.2) names the
/// authority itself, and CONNECT over HTTP/2 has nothing else.
fn place(row: &Row<'_>) -> String {
    let authority = row.authority().unwrap_or_default();
    let bytes = match row.target() {
        Some(target) if target.starts_with(b"/") || *target == *b"*" => {
            [authority, &target].concat()
        }
        Some(target) => target.to_vec(),
        None if row.method() == Some(b"CONNECT") => authority.to_vec(),
        None => [authority, b"-"].concat(),
    };
    output::visible(&header_text(&bytes))
}
