//! Several archives become one, in the order of time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::{self, Write};
use std::sync::Arc;

use tapedeck_model::{BodyPart, ConnectionId, Exchange, Ledger, Message, Role, Timestamp};

use super::archive::Archive;
use super::copy::Selection;
use crate::block::view::MessageView;
use crate::error::{ReadError, WriteError};
use crate::scratch::{BodyBuffer, Scratch};
use crate::writer::Writer;

/// A body leaves for the new archive in pieces of this size.
const PIECE: usize = 1 << 20;

/// One of the archives that [`merge`] puts together.
#[derive(Clone, Copy, Debug)]
pub struct MergeInput<'a> {
    /// What errors call it.
    pub name: &'a str,
    /// The archive.
    pub archive: &'a Archive,
    /// Which of its exchanges; unset: all of them.
    pub chosen: Option<&'a Selection>,
}

/// What [`merge`] made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Merged {
    /// The ledger of the new archive.
    pub ledger: Ledger,
    /// Its length.
    pub file_len: u64,
}

/// Why a merge stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// An exchange could not be read.
    #[error("failed to copy exchange {id} of {name}")]
    Read {
        /// The archive.
        name: String,
        /// The exchange.
        id: u64,
        /// Why.
        source: ReadError,
    },
    /// The ids of connections of all archives together do not fit into 64 bits: only those of an archive
    /// that somebody made up.
    #[error("{name}: there is no room for the connection ids behind {id}")]
    Connections {
        /// The archive.
        name: String,
        /// The id.
        id: u64,
    },
    /// The new archive could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Puts the exchanges of several archives into one, by the time of their beginning; of equal times,
/// that of the first archive goes first. Completes the new archive. Rows of damaged index pages are not
/// copied. Memory: 16 bytes an exchange, for the order, and two blocks an archive.
///
/// The ledgers are added up: what was lost then is lost still. The new archive is begun, by `begin`, once it is
/// known that the others can be put together.
pub fn merge<E: From<MergeError>>(
    inputs: &[MergeInput<'_>],
    begin: impl FnOnce() -> Result<Writer, E>,
) -> Result<Merged, E> {
    let mut ledger = Ledger::default();
    let mut sources = Vec::new();
    let mut first_connection = 0;
    for input in inputs {
        let source = Source::new(*input, first_connection)?;
        first_connection = source.next_connection;
        ledger.merge(input.archive.ledger());
        ledger.exchanges_not_chosen = ledger.exchanges_not_chosen.saturating_add(source.left_out);
        sources.push(source);
    }
    let mut copy = Copy::new(begin()?, ledger);
    copy.all(&mut sources)?;
    Ok(copy.finish(&sources)?)
}

/// One archive on its way into another.
struct Source<'a> {
    input: MergeInput<'a>,
    scratch: Scratch,
    buffer: BodyBuffer,
    /// What is still to be copied, the last first.
    order: Vec<(Timestamp, u64)>,
    /// Its connection 0 gets this id, and so on: the ids of two archives never meet.
    first_connection: u64,
    /// The first id behind those of its connections.
    next_connection: u64,
    left_out: u64,
}

impl<'a> Source<'a> {
    fn new(input: MergeInput<'a>, first_connection: u64) -> Result<Self, MergeError> {
        let mut source = Self {
            input,
            scratch: Scratch::default(),
            buffer: BodyBuffer::default(),
            order: Vec::new(),
            first_connection,
            next_connection: first_connection,
            left_out: 0,
        };
        for row in input.archive.rows() {
            let id = source.renamed(row.connection())?;
            source.next_connection = source.next_connection.max(id.0.saturating_add(1));
            if input.chosen.is_none_or(|chosen| chosen.contains(row.id())) {
                source.order.push((row.time(), row.id()));
            } else {
                source.left_out = source.left_out.saturating_add(1);
            }
        }
        for unread in input.archive.unread().flatten() {
            let id = source.renamed(unread.connection.id)?;
            source.next_connection = source.next_connection.max(id.0.saturating_add(1));
        }
        source.order.sort_unstable_by_key(|place| Reverse(*place));
        Ok(source)
    }

    fn renamed(&self, id: ConnectionId) -> Result<ConnectionId, MergeError> {
        let renamed = self.first_connection.checked_add(id.0).map(ConnectionId);
        renamed.ok_or_else(|| MergeError::Connections {
            name: self.input.name.to_owned(),
            id: id.0,
        })
    }

    fn next_time(&self) -> Option<Timestamp> {
        self.order.last().map(|(time, _)| *time)
    }
}

/// Exchanges on their way into a new archive.
struct Copy {
    writer: Writer,
    ledger: Ledger,
}

impl Copy {
    /// Begins with the ledger of what is copied; the exchanges in it are counted anew.
    fn new(writer: Writer, mut ledger: Ledger) -> Self {
        ledger.exchanges = 0;
        ledger.exchanges_incomplete = 0;
        ledger.exchanges_without_request = 0;
        ledger.exchanges_without_response = 0;
        Self { writer, ledger }
    }

    /// What is not of any exchange: connections that could not be read, counters of newer versions.
    fn finish(mut self, sources: &[Source<'_>]) -> Result<Merged, MergeError> {
        let mut unknown = BTreeMap::<String, u64>::new();
        for source in sources {
            // Lists of them that are damaged are for `verify` to tell.
            for mut unread in source.input.archive.unread().flatten() {
                let connection = Arc::make_mut(&mut unread.connection);
                connection.id = source.renamed(connection.id)?;
                self.writer.unread(&unread)?;
            }
            for (name, count) in source.input.archive.unknown_counters() {
                let sum = unknown.entry(name.clone()).or_default();
                *sum = sum.saturating_add(*count);
            }
        }
        self.writer.keep_counters(unknown);
        let Self { writer, ledger } = self;
        let file_len = writer.seal(&ledger)?.file_len;
        Ok(Merged { ledger, file_len })
    }

    /// Copies whatever comes first, until nothing is left.
    fn all(&mut self, sources: &mut [Source<'_>]) -> Result<(), MergeError> {
        let mut next: BinaryHeap<Reverse<(Timestamp, usize)>> = sources
            .iter()
            .enumerate()
            .filter_map(|(number, source)| Some(Reverse((source.next_time()?, number))))
            .collect();
        while let Some(Reverse((_, number))) = next.pop() {
            let Some(source) = sources.get_mut(number) else {
                continue;
            };
            if let Some((_, id)) = source.order.pop() {
                self.exchange(source, id)?;
            }
            next.extend(source.next_time().map(|time| Reverse((time, number))));
        }
        Ok(())
    }

    fn exchange(&mut self, source: &mut Source<'_>, id: u64) -> Result<(), MergeError> {
        let Self { writer, ledger } = self;
        let MergeInput { name, archive, .. } = source.input;
        let failed = |error| MergeError::Read {
            name: name.to_owned(),
            id,
            source: error,
        };
        let record = archive.load(id, &mut source.scratch).map_err(failed)?;
        let mut exchange: Exchange = record.to_exchange();
        exchange.key = ledger.exchanges;
        let connection = Arc::make_mut(&mut exchange.connection);
        let renamed = source.first_connection.checked_add(connection.id.0);
        // The record may name another one than its row: somebody may have made it up.
        connection.id = ConnectionId(renamed.ok_or_else(|| MergeError::Connections {
            name: name.to_owned(),
            id: connection.id.0,
        })?);
        let key = exchange.key;
        let messages = [
            (Role::Request, record.request(), &mut exchange.request),
            (Role::Response, record.response(), &mut exchange.response),
        ];
        for (role, view, message) in messages {
            if let (Some(view), Some(message)) = (view, message) {
                body(
                    archive,
                    &view,
                    writer,
                    &mut source.buffer,
                    (key, role),
                    message,
                )
                .map_err(|error| match error {
                    BodyError::Read(error) => failed(error),
                    BodyError::Write(error) => error.into(),
                })?;
            }
        }
        writer.exchange(&exchange)?;
        ledger.exchanges += 1;
        ledger.exchanges_incomplete += u64::from(!exchange.complete());
        ledger.exchanges_without_request += u64::from(exchange.request.is_none());
        ledger.exchanges_without_response += u64::from(exchange.response.is_none());
        Ok(())
    }
}

enum BodyError {
    Read(ReadError),
    Write(WriteError),
}

fn body(
    archive: &Archive,
    view: &MessageView<'_>,
    writer: &mut Writer,
    buffer: &mut BodyBuffer,
    (key, role): (u64, Role),
    message: &mut Message,
) -> Result<(), BodyError> {
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
        return Err(BodyError::Write(error));
    }
    copied.map_err(BodyError::Read)?;
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
