use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use tapedeck_archive::{
    Archive, BodyBuffer, Copied, MessageView, Record, Scratch, Selection, WriteError, Writer, copy,
};
use tapedeck_filter::Filter;
use tapedeck_model::{BodyPart, ConnectionId, Exchange, Ledger, Message, Role, UnreadConnection};

use super::{Chosen, keys};
use crate::args;
use crate::output;

/// A body leaves for the new archive in pieces of this size.
const PIECE: usize = 1 << 20;

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

/// Exchanges on their way into a new archive.
pub(super) struct Copy {
    writer: Writer,
    ledger: Ledger,
}

/// What reading one archive needs; kept from exchange to exchange.
#[derive(Default)]
pub(super) struct Reading {
    scratch: Scratch,
    buffer: BodyBuffer,
}

impl Copy {
    /// Begins with the ledger of what is copied; the exchanges in it are counted anew.
    pub(super) fn new(writer: Writer, mut ledger: Ledger) -> Self {
        ledger.exchanges = 0;
        ledger.exchanges_incomplete = 0;
        ledger.exchanges_without_request = 0;
        ledger.exchanges_without_response = 0;
        Self { writer, ledger }
    }

    /// How many exchanges were copied.
    pub(super) fn kept(&self) -> u64 {
        self.ledger.exchanges
    }

    /// Copies one exchange, on the connection that `renamed` gives for its own.
    pub(super) fn exchange(
        &mut self,
        archive: &Archive,
        id: u64,
        reading: &mut Reading,
        renamed: impl FnOnce(ConnectionId) -> Result<ConnectionId>,
    ) -> Result<()> {
        let Self { writer, ledger } = self;
        let record: Record<'_> = archive.load(id, &mut reading.scratch)?;
        let mut exchange: Exchange = record.to_exchange();
        exchange.key = ledger.exchanges;
        let connection = Arc::make_mut(&mut exchange.connection);
        connection.id = renamed(connection.id)?;
        let key = exchange.key;
        let messages = [
            (Role::Request, record.request(), &mut exchange.request),
            (Role::Response, record.response(), &mut exchange.response),
        ];
        for (role, view, message) in messages {
            if let (Some(view), Some(message)) = (view, message) {
                let buffer = &mut reading.buffer;
                body(archive, &view, writer, buffer, (key, role), message)?;
            }
        }
        writer.exchange(&exchange)?;
        ledger.exchanges += 1;
        ledger.exchanges_incomplete += u64::from(!exchange.complete());
        ledger.exchanges_without_request += u64::from(exchange.request.is_none());
        ledger.exchanges_without_response += u64::from(exchange.response.is_none());
        Ok(())
    }

    /// Adds a connection that could not be read.
    pub(super) fn unread(&mut self, unread: &UnreadConnection) -> Result<()> {
        Ok(self.writer.unread(unread)?)
    }

    /// Adds counters of newer versions.
    pub(super) fn keep_counters(&mut self, unknown: BTreeMap<String, u64>) {
        self.writer.keep_counters(unknown);
    }

    /// Completes the new archive; gives its length.
    pub(super) fn seal(self) -> Result<u64> {
        Ok(self.writer.seal(&self.ledger)?.file_len)
    }
}

fn body(
    archive: &Archive,
    view: &MessageView<'_>,
    writer: &mut Writer,
    buffer: &mut BodyBuffer,
    (key, role): (u64, Role),
    message: &mut Message,
) -> Result<()> {
    let part = BodyPart {
        key,
        role,
        data: Vec::new(),
    };
    let mut pieces = Pieces {
        writer,
        part,
        parts: 0,
        error: None,
    };
    let copied = archive.copy_body(&view.body(), buffer, &mut pieces);
    if let Some(error) = pieces.error {
        return Err(error.into());
    }
    copied?;
    message.body.parts = pieces.parts;
    message.body.tail = pieces.part.data;
    Ok(())
}

/// Hands the bytes of a body on in pieces, and keeps the rest.
struct Pieces<'a> {
    writer: &'a mut Writer,
    part: BodyPart,
    parts: u32,
    /// What the writer said; an `io::Error` cannot carry it.
    error: Option<WriteError>,
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE.saturating_sub(self.part.data.len());
        let now = bytes.get(..room).unwrap_or(bytes);
        self.part.data.extend_from_slice(now);
        if self.part.data.len() >= PIECE {
            if let Err(error) = self.writer.body_part(&self.part) {
                self.error = Some(error);
                return Err(io::ErrorKind::Other.into());
            }
            self.part.data.clear();
            self.parts += 1;
        }
        Ok(now.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
