use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Result;
use tapedeck_archive::{Archive, MergeInput, Provenance, Selection, merge};

use super::cut::copy_chosen;
use super::{Chosen, keys};
use crate::args;
use crate::output;

/// Puts the exchanges of several archives into one, by the time of their beginning.
pub(crate) fn run(args: &args::Merge) -> Result<ExitCode> {
    let mut archives = Vec::new();
    for path in &args.archives {
        archives.push((
            path.display().to_string(),
            super::open(&[path], &args.identity)?,
        ));
    }
    if let [(_, archive)] = archives.as_slice() {
        return alone(args, archive);
    }
    let mut code = ExitCode::SUCCESS;
    for (_, archive) in &archives {
        // What lies in damaged parts is said, and not copied.
        if Chosen::new(archive, None).finish()? != ExitCode::SUCCESS {
            code = ExitCode::from(crate::FAILED);
        }
    }
    let inputs_read = archives.iter().map(|(_, archive)| archive);
    let to = keys::inherited(inputs_read, &args.output, &args.reencryption)?;
    let inputs: Vec<MergeInput<'_>> = archives
        .iter()
        .map(|(name, archive)| MergeInput {
            name,
            archive,
            chosen: None,
        })
        .collect();
    let merged = merge::<anyhow::Error>(&inputs, || {
        super::create(&args.output, provenance(&archives), args.force, to)
    })?;
    output::say(format_args!(
        "{}: {} exchanges of {} archives, {}",
        args.output.display(),
        merged.ledger.exchanges,
        archives.len(),
        output::bytes(merged.file_len),
    ));
    Ok(code)
}

/// One archive, or the segments of one set, into a file: there is nothing to be put between them, so
/// that whole blocks are copied, and the order stays.
fn alone(args: &args::Merge, archive: &Archive) -> Result<ExitCode> {
    let chosen = Chosen::new(archive, None);
    let mut selection = Selection::none(archive);
    chosen.rows().for_each(|row| selection.insert(row.id()));
    let code = chosen.finish()?;
    let to = keys::inherited([archive].into_iter(), &args.output, &args.reencryption)?;
    let writer = super::create(&args.output, archive.provenance().clone(), args.force, to)?;
    let (copied, file_len) = copy_chosen(archive, &selection, 0, writer)?;
    output::say(format_args!(
        "{}: {} exchanges of {} files, {}",
        args.output.display(),
        copied.exchanges,
        archive.segments().count(),
        output::bytes(file_len),
    ));
    Ok(code)
}

/// The distinct values of the archives, one behind the other, and everything of each by number.
fn provenance(archives: &[(String, Archive)]) -> Provenance {
    let distinct = |value: fn(&Provenance) -> &String| {
        let values: BTreeSet<&str> = archives
            .iter()
            .map(|(_, archive)| value(archive.provenance()).as_str())
            .filter(|value| !value.is_empty())
            .collect();
        values.into_iter().collect::<Vec<_>>().join(", ")
    };
    let mut merged = Provenance {
        source: distinct(|provenance| &provenance.source),
        host: distinct(|provenance| &provenance.host),
        capture_filter: distinct(|provenance| &provenance.capture_filter),
        ..super::provenance()
    };
    for (number, (name, archive)) in archives.iter().enumerate() {
        let Provenance {
            source,
            host,
            software,
            capture_filter,
            created,
            extra,
        } = archive.provenance();
        let values = [
            ("archive", name.clone()),
            ("source", source.clone()),
            ("host", host.clone()),
            ("software", software.clone()),
            ("capture_filter", capture_filter.clone()),
            ("created", tapedeck_interchange::rfc3339(*created)),
        ];
        let extra = extra
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()));
        for (name, value) in values.into_iter().chain(extra) {
            merged
                .extra
                .insert(format!("merged.{number}.{name}"), value);
        }
    }
    merged
}
