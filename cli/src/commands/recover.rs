use std::process::ExitCode;

use anyhow::Result;

use crate::args;
use crate::output;

pub(crate) fn run(args: &args::Recover) -> Result<ExitCode> {
    let recovered = tapedeck_archive::recover(&args.archive, &args.output)?;
    output::say(format_args!(
        "{}: {} exchanges recovered, {}",
        args.output.display(),
        recovered.exchanges,
        output::bytes(recovered.summary.file_len),
    ));
    if recovered.damaged_places > 0 {
        output::warn(format_args!(
            "{} places could not be read; `tapedeck verify {}` lists them",
            recovered.damaged_places,
            args.archive.display(),
        ));
    }
    if recovered.exchanges_without_body > 0 {
        output::warn(format_args!(
            "{} exchanges were saved without all of their bodies",
            recovered.exchanges_without_body
        ));
    }
    Ok(ExitCode::SUCCESS)
}
