use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use tapedeck_archive::VerifyReport;

use crate::args;
use crate::output;

pub(crate) fn run(args: &args::Verify) -> Result<ExitCode> {
    let report = tapedeck_archive::verify(&args.archive)
        .with_context(|| format!("failed to verify {}", args.archive.display()))?;
    let mut out = BufWriter::new(io::stdout().lock());
    print(args, &report, &mut out)?;
    out.flush()?;
    Ok(if report.is_whole() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(crate::FAILED)
    })
}

fn print(args: &args::Verify, report: &VerifyReport, out: &mut impl Write) -> io::Result<()> {
    let path = args.archive.display();
    let len = output::bytes(report.file_len);
    if report.is_whole() {
        return writeln!(
            out,
            "{path}: whole, {} exchanges, {len}",
            report.exchanges_readable
        );
    }
    let state = if report.sealed {
        "damaged"
    } else {
        "never sealed"
    };
    writeln!(
        out,
        "{path}: {state}, {len}; {} exchanges can be read, {} are lost",
        report.exchanges_readable, report.exchanges_lost
    )?;
    if report.exchanges_without_body > 0 {
        writeln!(
            out,
            "{} exchanges miss bytes of a body",
            report.exchanges_without_body
        )?;
    }
    for damage in &report.damages {
        writeln!(
            out,
            "at {:#x}, {} bytes, {}: {}",
            damage.offset, damage.len, damage.what, damage.damage
        )?;
    }
    if report.damages_not_listed > 0 {
        writeln!(out, "and {} more damaged places", report.damages_not_listed)?;
    }
    Ok(())
}
