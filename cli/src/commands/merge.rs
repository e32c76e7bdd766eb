use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use tapedeck_archive::{Archive, Provenance, Selection};
use tapedeck_model::{ConnectionId, Ledger, Timestamp};

use super::cut::{Copy, Reading, copy_chosen};
use super::{Chosen, keys};
use crate::args;
use crate::output;

/// Puts the exchanges of several archives into one, by the time of their beginning. Memory: 16
/// bytes an exchange, for the order, and two blocks an archive.
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
    let mut inputs = Vec::new();
    let mut first_connection = 0;
    for (name, archive) in &archives {
        let input = Input::new(name, archive, first_connection)?;
        first_connection = input.next_connection;
        inputs.push(input);
        // What lies in damaged parts is said, and not copied.
        let chosen = Chosen::new(archive, None);
        if chosen.finish()? != ExitCode::SUCCESS {
            code = ExitCode::from(crate::FAILED);
        }
    }
    let mut ledger = Ledger::default();
    for (_, archive) in &archives {
        ledger.merge(archive.ledger());
    }
    let inputs_read = archives.iter().map(|(_, archive)| archive);
    let to = keys::inherited(inputs_read, &args.output, &args.reencryption)?;
    let writer = super::create(&args.output, provenance(&archives), args.force, to)?;
    let mut copy = Copy::new(writer, ledger);
    merge(&mut inputs, &mut copy)?;
    let mut unknown = BTreeMap::<String, u64>::new();
    for input in &inputs {
        for mut unread in input.archive.unread().flatten() {
            let connection = Arc::make_mut(&mut unread.connection);
            connection.id = input.renamed(connection.id)?;
            copy.unread(&unread)?;
        }
        for (name, count) in input.archive.unknown_counters() {
            let sum = unknown.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*count);
        }
    }
    copy.keep_counters(unknown);
    let kept = copy.kept();
    let file_len = copy.seal()?;
    output::say(format_args!(
        "{}: {kept} exchanges of {} archives, {}",
        args.output.display(),
        archives.len(),
        output::bytes(file_len),
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

/// One archive on its way into another.
struct Input<'a> {
    name: &'a str,
    archive: &'a Archive,
    reading: Reading,
    /// What is still to be copied, the last first.
    order: Vec<(Timestamp, u64)>,
    /// Its connection 0 gets this id, and so on: the ids of two archives never meet.
    first_connection: u64,
    /// The first id behind those of its connections.
    next_connection: u64,
}

impl<'a> Input<'a> {
    fn new(name: &'a str, archive: &'a Archive, first_connection: u64) -> Result<Self> {
        let mut input = Self {
            name,
            archive,
            reading: Reading::default(),
            order: Vec::new(),
            first_connection,
            next_connection: first_connection,
        };
        for row in archive.rows() {
            let id = input.renamed(row.connection())?;
            input.next_connection = input.next_connection.max(id.0.saturating_add(1));
            input.order.push((row.time(), row.id()));
        }
        for unread in archive.unread().flatten() {
            let id = input.renamed(unread.connection.id)?;
            input.next_connection = input.next_connection.max(id.0.saturating_add(1));
        }
        input.order.sort_unstable_by_key(|place| Reverse(*place));
        Ok(input)
    }

    fn renamed(&self, id: ConnectionId) -> Result<ConnectionId> {
        let renamed = self.first_connection.checked_add(id.0);
        renamed.map(ConnectionId).with_context(|| {
            format!(
                "{}: there is no room for the connection ids behind {}",
                self.name, id.0
            )
        })
    }

    fn next_time(&self) -> Option<Timestamp> {
        self.order.last().map(|(time, _)| *time)
    }
}

/// Copies whatever comes first, until nothing is left. Of equal times, the archive that was named
/// first goes first.
fn merge(inputs: &mut [Input<'_>], copy: &mut Copy) -> Result<()> {
    let mut next: BinaryHeap<Reverse<(Timestamp, usize)>> = inputs
        .iter()
        .enumerate()
        .filter_map(|(number, input)| Some(Reverse((input.next_time()?, number))))
        .collect();
    while let Some(Reverse((_, number))) = next.pop() {
        let Some(input) = inputs.get_mut(number) else {
            continue;
        };
        let Some((_, id)) = input.order.pop() else {
            continue;
        };
        let mut reading = std::mem::take(&mut input.reading);
        let copied = copy.exchange(input.archive, id, &mut reading, |id| input.renamed(id));
        input.reading = reading;
        copied.with_context(|| format!("failed to copy exchange {id} of {}", input.name))?;
        next.extend(input.next_time().map(|time| Reverse((time, number))));
    }
    Ok(())
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
