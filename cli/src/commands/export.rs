use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use tapedeck_interchange::har;

use super::Chosen;
use crate::args::{self, ExportFormat};
use crate::output;

pub(crate) fn run(args: &args::Export) -> Result<ExitCode> {
    match &args.format {
        ExportFormat::Har(args) => export_har(args),
    }
}

fn export_har(args: &args::ExportHar) -> Result<ExitCode> {
    let archive = super::open(&args.archive)?;
    let chosen = Chosen::new(&archive, args.filter.as_ref());
    let exported = match &args.output {
        Some(path) => {
            let file = File::create(path)
                .with_context(|| format!("failed to create {}", path.display()))?;
            write_har(&chosen, BufWriter::new(file))
                .with_context(|| format!("failed to write {}", path.display()))?
        }
        None => write_har(&chosen, BufWriter::new(io::stdout().lock()))?,
    };
    if exported.without_request > 0 {
        output::warn(format_args!(
            "{} answers were left out: their requests were never seen, and HAR has no entry \
             without one",
            exported.without_request
        ));
    }
    let code = chosen.finish()?;
    if exported.unreadable == 0 {
        return Ok(code);
    }
    output::warn(format_args!(
        "{} exchanges were left out: they lie in damaged parts of the archive; `tapedeck verify` \
         says where",
        exported.unreadable
    ));
    Ok(ExitCode::from(crate::FAILED))
}

fn write_har(chosen: &Chosen<'_>, out: impl Write) -> Result<har::Exported> {
    Ok(har::export(
        chosen.archive,
        chosen.rows(),
        env!("CARGO_PKG_VERSION"),
        out,
    )?)
}
