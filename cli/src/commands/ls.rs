use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use anyhow::Result;
use tapedeck_interchange::jsonl::Line;
use tapedeck_interchange::{header_text, rfc3339};

use super::{Chosen, connections};
use crate::args::{self, Format};
use crate::output;

pub(crate) fn run(args: &args::Ls) -> Result<ExitCode> {
    let archive = super::open(&args.archive)?;
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
            for row in chosen.rows() {
                serde_json::to_writer(&mut out, &Line::of(&row))?;
                out.write_all(b"\n")?;
            }
        }
    }
    out.flush()?;
    chosen.finish()
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
                .map_or_else(none, |target| output::visible(&header_text(&target))),
        )?;
    }
    Ok(())
}
