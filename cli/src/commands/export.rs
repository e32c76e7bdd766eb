use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use tapedeck_archive::Archive;
use tapedeck_interchange::{har, jsonl, pcap};

use super::{Chosen, keys};
use crate::args::{self, ExportFormat};
use crate::output;

/// Writes what was chosen, and gives the number of exchanges that could not be read.
type Export = fn(&Chosen<'_>, &Path, &mut dyn Write) -> Result<u64>;

pub(crate) fn run(args: &args::Export) -> Result<ExitCode> {
    let (args, write): (_, Export) = match &args.format {
        ExportFormat::Har(args) => (args, write_har),
        ExportFormat::Jsonl(args) => (args, write_jsonl),
        ExportFormat::Pcap(args) => (args, write_pcap),
    };
    let archive: Archive = super::open(&args.archive, &args.identity)?;
    if archive.recipients().any(|recipients| recipients.is_some()) {
        let output = args
            .output
            .as_deref()
            .unwrap_or_else(|| Path::new("standard output"));
        keys::in_the_clear(output);
    }
    let chosen = Chosen::new(&archive, args.filter.as_ref());
    let unreadable = match args
        .output
        .as_deref()
        .filter(|path| *path != Path::new("-"))
    {
        Some(path) => {
            let file = File::create(path)
                .with_context(|| format!("failed to create {}", path.display()))?;
            write(&chosen, path, &mut BufWriter::new(file))
                .with_context(|| format!("failed to write {}", path.display()))?
        }
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            write(&chosen, Path::new("-"), &mut out)?
        }
    };
    let code = chosen.finish()?;
    if unreadable == 0 {
        return Ok(code);
    }
    output::warn(format_args!(
        "{unreadable} exchanges were left out: they lie in damaged parts of the archive; \
         `tapedeck verify` says where",
    ));
    Ok(ExitCode::from(crate::FAILED))
}

fn write_har(chosen: &Chosen<'_>, _: &Path, out: &mut dyn Write) -> Result<u64> {
    let version = env!("CARGO_PKG_VERSION");
    let exported = har::export(chosen.archive, chosen.rows(), version, out)?;
    if exported.without_request > 0 {
        output::warn(format_args!(
            "{} answers were left out: their requests were never seen, and HAR has no entry \
             without one",
            exported.without_request
        ));
    }
    Ok(exported.unreadable)
}

fn write_jsonl(chosen: &Chosen<'_>, _: &Path, out: &mut dyn Write) -> Result<u64> {
    let exported = jsonl::export(chosen.archive, chosen.rows(), jsonl::Limits::default(), out)?;
    if exported.without_body > 0 {
        output::warn(format_args!(
            "{} exchanges have a body that is too long for a line; `tapedeck show ID --body` \
             writes it",
            exported.without_body
        ));
    }
    Ok(exported.unreadable)
}

fn write_pcap(chosen: &Chosen<'_>, path: &Path, out: &mut dyn Write) -> Result<u64> {
    let program = concat!("tapedeck ", env!("CARGO_PKG_VERSION"));
    let is_pcap = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("pcap"));
    let format = if is_pcap {
        pcap::Format::Pcap
    } else {
        pcap::Format::Pcapng
    };
    let exported = pcap::export(chosen.archive, chosen.rows(), format, program, out)?;
    if exported.misfits > 0 {
        output::warn(format_args!(
            "{} bytes were left out: no conversation could have carried them, such as those of a \
             body that is longer than its content-length",
            exported.misfits
        ));
    }
    if exported.times_moved > 0 {
        output::warn(format_args!(
            "{} packets have a time that the format cannot say; they have the nearest that it can",
            exported.times_moved
        ));
    }
    Ok(exported.unreadable)
}
