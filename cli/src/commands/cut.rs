use std::process::ExitCode;

use anyhow::Result;
use tapedeck_archive::{Archive, Copied, Selection, Writer, copy};
use tapedeck_filter::Filter;

use super::{Chosen, keys};
use crate::args;
use crate::output;

pub(crate) fn run(args: &args::Cut) -> Result<ExitCode> {
    let archive = super::open(&args.archive, &args.identity)?;
    let to = keys::inherited([&archive].into_iter(), &args.output, &args.reencryption)?;
    let writer = super::create(&args.output, archive.provenance().clone(), args.force, to)?;
    let cut = cut(&archive, &args.filter, writer)?;
    output::say(format_args!(
        "{}: {} of {} exchanges, {}",
        args.output.display(),
        cut.kept,
        cut.kept + cut.left_out,
        output::bytes(cut.file_len),
    ));
    Ok(cut.code)
}

/// What came of a cut.
pub(super) struct Cut {
    pub(super) kept: u64,
    pub(super) left_out: u64,
    pub(super) file_len: u64,
    /// A failure where parts of the old archive are damaged; that was said.
    pub(super) code: ExitCode,
}

/// Copies the exchanges that a filter chooses into a new archive, by blocks where it chooses all of a
/// block. The ledger of the old one goes along: what was lost then is lost still.
pub(super) fn cut(archive: &Archive, filter: &Filter, writer: Writer) -> Result<Cut> {
    let chosen = Chosen::new(archive, Some(filter));
    let mut selection = Selection::none(archive);
    chosen.rows().for_each(|row| selection.insert(row.id()));
    let code = chosen.finish()?;
    let left_out = archive.len().saturating_sub(selection.len());
    let (copied, file_len) = copy_chosen(archive, &selection, left_out, writer)?;
    Ok(Cut {
        kept: copied.exchanges,
        left_out,
        file_len,
        code,
    })
}

/// Copies what was chosen, and what is not of any exchange: the ledger, and connections that could not
/// be read.
pub(super) fn copy_chosen(
    archive: &Archive,
    selection: &Selection,
    left_out: u64,
    mut writer: Writer,
) -> Result<(Copied, u64)> {
    let progress = output::count_progress();
    progress.set_length(archive.len());
    let copied = copy(archive, selection, &mut writer, &mut |passed| {
        progress.set_position(passed);
    })?;
    progress.finish_and_clear();
    // Lists of them that are damaged are for `verify` to tell.
    for unread in archive.unread().flatten() {
        writer.unread(&unread)?;
    }
    writer.keep_counters(archive.unknown_counters().clone());
    let mut ledger = archive.ledger().clone();
    ledger.exchanges = copied.exchanges;
    ledger.exchanges_incomplete = copied.incomplete;
    ledger.exchanges_without_request = copied.without_request;
    ledger.exchanges_without_response = copied.without_response;
    ledger.exchanges_not_chosen += left_out;
    let file_len = writer.seal(&ledger)?.file_len;
    Ok((copied, file_len))
}
