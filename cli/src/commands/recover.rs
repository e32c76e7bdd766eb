use std::process::ExitCode;

use anyhow::{Context, Error, Result, bail};
use tapedeck_archive::SetEvent;

use crate::args;
use crate::output;

pub(crate) fn run(args: &args::Recover) -> Result<ExitCode> {
    if args.archive.is_dir() {
        return folder(args);
    }
    let out = match &args.output {
        Some(out) => out.clone(),
        None => args
            .archive
            .file_name()
            .and_then(|name| name.to_str()?.strip_prefix('.')?.strip_suffix(".partial"))
            .map(|name| args.archive.with_file_name(name))
            .context("where to? -o names the new archive")?,
    };
    let recovered = tapedeck_archive::recover(&args.archive, &out)?;
    output::say(format_args!(
        "{}: {} exchanges recovered, {}",
        out.display(),
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

/// Seals what was interrupted in a folder.
fn folder(args: &args::Recover) -> Result<ExitCode> {
    if args.output.is_some() {
        bail!("a folder is recovered where it is: leave out -o");
    }
    let events = tapedeck_archive::recover_folder(&args.archive)
        .with_context(|| format!("failed to recover {}", args.archive.display()))?;
    if events.is_empty() {
        output::say(format_args!(
            "{}: nothing was interrupted",
            args.archive.display()
        ));
    }
    let mut code = ExitCode::SUCCESS;
    for event in events {
        match event {
            SetEvent::Recovered { path, summary } => output::say(format_args!(
                "{}: {} exchanges recovered, {}",
                path.display(),
                summary.exchanges,
                output::bytes(summary.file_len),
            )),
            SetEvent::NotRecovered { path, error } => {
                output::error(&Error::new(error).context(path.display().to_string()));
                code = ExitCode::from(crate::FAILED);
            }
            _ => {}
        }
    }
    Ok(code)
}
