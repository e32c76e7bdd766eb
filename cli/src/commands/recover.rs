use std::process::ExitCode;

use anyhow::{Context, Error, Result, bail};
use tapedeck_archive::{Protection, SetEvent, recover_folder_with, recover_with};

use super::keys;
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
    let identities = keys::identities(&args.identity)?;
    let protection = keys::protection(&args.reencryption)?;
    let recovered = recover_with(&args.archive, &out, &identities, &protection)?;
    if protection == Protection::None && !identities.is_empty() {
        keys::in_the_clear(&out);
    }
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
    if keys::protection(&args.reencryption)? != Protection::AsBefore {
        bail!("what is recovered in a folder stays encrypted as it is: leave out these options");
    }
    let identities = keys::identities(&args.identity)?;
    let events = recover_folder_with(&args.archive, &identities)
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
