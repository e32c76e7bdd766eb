//! What can be read of an interrupted or damaged archive becomes a sealed one.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use rkyv::util::AlignedVec;
use tapedeck_model::exchange::BodyGap;
use tapedeck_model::{BodyPart, Exchange, Gap, GapCause, Message, Missing, Role};

use crate::block::view::{BodyView, MessageView, Record};
use crate::encryption::keys::{Identities, Recipients};
use crate::error::{OpenError, ReadError, WriteError};
use crate::format::ChunkKind;
use crate::inflate::Inflater;
use crate::output::{give_name, partial_path};
use crate::provenance::{Provenance, StoredLedger};
use crate::scan::Scan;
use crate::scratch::Scratch;
use crate::source::{Chunk, Source};
use crate::unread;
use crate::writer::{Summary, Writer, WriterOptions};

/// What [`recover`] saved.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Recovered {
    /// The new archive.
    pub summary: Summary,
    /// Places of the old one that could not be read.
    pub damaged_places: u64,
    /// Exchanges that were saved without all of their bodies; they say [`Missing::DAMAGED`].
    pub exchanges_without_body: u64,
    /// Exchanges that were saved.
    pub exchanges: u64,
}

/// Why nothing could be recovered. The old file is never changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// The old archive cannot be opened.
    #[error(transparent)]
    Open(OpenError),
    /// The new archive cannot be written.
    #[error(transparent)]
    Write(WriteError),
    /// The old archive is encrypted, and where it says to whom is damaged.
    #[error(
        "`{path}` is encrypted, and where it says to whom is damaged: say to whom what is recovered \
         is to be encrypted (`--encrypt-to`), or that it is not (`--decrypt`)"
    )]
    Recipients {
        /// The old archive.
        path: PathBuf,
    },
    /// The old archive is still being written.
    #[error("`{path}` is still being written")]
    Busy {
        /// The old archive.
        path: PathBuf,
    },
}

/// What is done about encryption when an archive is made of others.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Protection {
    /// It is encrypted to those that the others were encrypted to, if they were.
    #[default]
    AsBefore,
    /// It is not encrypted.
    None,
    /// It is encrypted to these.
    To(Recipients),
}

impl Protection {
    /// To whom an archive is encrypted that is made of one which comes from there.
    #[must_use]
    pub fn of(&self, provenance: &Provenance) -> Option<Recipients> {
        match self {
            Self::AsBefore => Recipients::of(provenance),
            Self::None => None,
            Self::To(these) => Some(these.clone()),
        }
    }
}

/// Writes every exchange that can be read of `path`, sealed or not, to a new archive.
///
/// `out` may be the name that the interrupted archive was to have.
pub fn recover(path: &Path, out: &Path) -> Result<Recovered, RecoverError> {
    recover_with(path, out, &Identities::none(), &Protection::AsBefore)
}

/// Like [`recover`], of an archive that may be encrypted.
pub fn recover_with(
    path: &Path,
    out: &Path,
    identities: &Identities,
    protection: &Protection,
) -> Result<Recovered, RecoverError> {
    let partial = partial_path(out).map_err(RecoverError::Write)?;
    let recover_to = |out: &Path| recover_to(path, out, identities, protection);
    if !is_same_file(path, &partial) {
        return recover_to(out);
    }
    // A writer of `out` would begin where the interrupted one still lies.
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let beside = out.with_file_name(format!(".{name}.recovered"));
    if out.symlink_metadata().is_ok() {
        return Err(RecoverError::Write(WriteError::Exists { path: out.into() }));
    }
    let recovered = recover_to(&beside)?;
    give_name(&beside, out, false).map_err(RecoverError::Write)?;
    Ok(recovered)
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        (Ok(_) | Err(_), _) => false,
    }
}

fn recover_to(
    path: &Path,
    out: &Path,
    identities: &Identities,
    protection: &Protection,
) -> Result<Recovered, RecoverError> {
    let (source, _) = Source::open_damaged(path).map_err(RecoverError::Open)?;
    let source = source
        .unlock(path, identities)
        .map_err(RecoverError::Open)?;
    if is_being_written(path) {
        return Err(RecoverError::Busy { path: path.into() });
    }
    let (provenance, ledger) = named_values(&source);
    if source.is_encrypted()
        && *protection == Protection::AsBefore
        && Recipients::of(&provenance).is_none()
    {
        return Err(RecoverError::Recipients { path: path.into() });
    }
    let mut options = WriterOptions::new(provenance);
    options.encrypt_to = protection.of(&options.provenance);
    let mut recovery = Recovery {
        writer: Writer::create(out, options).map_err(RecoverError::Write)?,
        source: &source,
        scratch: Scratch::new(),
        pieces: Scratch::new(),
        exchanges: 0,
        without_body: 0,
    };
    recovery.writer.keep_counters(ledger.unknown);
    let mut damaged_places = 0;
    for found in Scan::new(&source) {
        let is_read = match found.chunk {
            Ok(chunk) if chunk.kind == ChunkKind::Exchanges => recovery
                .block(found.offset, &chunk)
                .map_err(RecoverError::Write)?,
            Ok(chunk) if chunk.kind == ChunkKind::Unread => {
                recovery.unread(&chunk).map_err(RecoverError::Write)?
            }
            Ok(_) => true,
            Err(_) => false,
        };
        damaged_places += u64::from(!is_read);
    }
    Ok(Recovered {
        exchanges: recovery.exchanges,
        exchanges_without_body: recovery.without_body,
        damaged_places,
        summary: recovery
            .writer
            .seal(&ledger.ledger)
            .map_err(RecoverError::Write)?,
    })
}

struct Recovery<'a> {
    writer: Writer,
    source: &'a Source,
    scratch: Scratch,
    /// Where pieces of bodies are decompressed, beside the block of the records.
    pieces: Scratch,
    exchanges: u64,
    without_body: u64,
}

impl Recovery<'_> {
    /// Writes the exchanges of a block. `false` where they cannot be read.
    fn block(&mut self, offset: u64, chunk: &Chunk<'_>) -> Result<bool, WriteError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let filled = scratch.fill(chunk, self.source, offset);
        for number in 0..scratch.n_records() {
            if let (Ok(()), Ok(record)) = (filled, scratch.record(number)) {
                self.record(&record)?;
            }
        }
        self.scratch = scratch;
        Ok(filled.is_ok())
    }

    /// Writes the connections of a list of unread ones. `false` where it cannot be read.
    fn unread(&mut self, chunk: &Chunk<'_>) -> Result<bool, WriteError> {
        let mut buffer = AlignedVec::new();
        let connections = Inflater::default()
            .inflate(chunk, &mut buffer)
            .and_then(|()| unread::decode(&buffer));
        let Ok(connections) = connections else {
            return Ok(false);
        };
        for connection in &connections {
            self.writer.unread(connection)?;
        }
        Ok(true)
    }

    fn record(&mut self, record: &Record<'_>) -> Result<(), WriteError> {
        let mut exchange = record.to_exchange();
        exchange.key = self.exchanges;
        let Exchange {
            key,
            request,
            response,
            ..
        } = &mut exchange;
        let key = *key;
        let mut is_whole = true;
        for (role, view, message) in [
            (Role::Request, record.request(), request),
            (Role::Response, record.response(), response),
        ] {
            if let (Some(view), Some(message)) = (view, message) {
                is_whole &= self.body(key, role, &view, message)?;
            }
        }
        self.without_body += u64::from(!is_whole);
        match self.writer.exchange(&exchange) {
            // Cannot be: it was in a block of the same limit.
            Err(WriteError::ExchangeTooLarge { .. }) => Ok(()),
            other => {
                self.exchanges += 1;
                other
            }
        }
    }

    /// Copies a body. `false`, and the message says so, where some of it is lost.
    fn body(
        &mut self,
        key: u64,
        role: Role,
        view: &MessageView<'_>,
        message: &mut Message,
    ) -> Result<bool, WriteError> {
        let body: BodyView<'_> = view.body();
        if body.pieces().len() == 0 {
            message.body.tail = body.inline.to_vec();
            return Ok(true);
        }
        let mut copied = 0_u64;
        let mut failure = None;
        let (writer, parts) = (&mut self.writer, &mut message.body.parts);
        let read = self
            .source
            .for_each_piece(&body, &mut self.pieces, |piece| {
                let part = BodyPart {
                    key,
                    role,
                    data: piece.to_vec(),
                };
                *parts += 1;
                copied += piece.len() as u64;
                writer.body_part(&part).map_err(|error| {
                    failure = Some(error);
                    ReadError::ForeignBody
                })
            });
        if let Some(error) = failure {
            return Err(error);
        }
        if read.is_ok() {
            return Ok(true);
        }
        message.body.gaps.push(BodyGap {
            offset: copied,
            gap: Gap {
                len: body.len().saturating_sub(copied),
                cause: GapCause::Lost,
            },
        });
        message.body.len = copied;
        message.missing.insert(Missing::DAMAGED);
        Ok(false)
    }
}

/// Provenance and the last ledger, as far as they can be read.
fn named_values(source: &Source) -> (Provenance, StoredLedger) {
    let mut inflater = Inflater::default();
    let mut provenance = Provenance::default();
    let mut ledger = StoredLedger::default();
    for chunk in Scan::new(source).filter_map(|found| found.chunk.ok()) {
        let is_named_values = matches!(chunk.kind, ChunkKind::Provenance | ChunkKind::Ledger);
        let Some(payload) = is_named_values
            .then(|| chunk.payload(&mut inflater).ok())
            .flatten()
        else {
            continue;
        };
        if chunk.kind == ChunkKind::Ledger {
            ledger = StoredLedger::decode(&payload).unwrap_or(ledger);
        } else {
            provenance = Provenance::decode(&payload).unwrap_or(provenance);
        }
    }
    (provenance, ledger)
}

/// Whether a writer holds its lock on a hidden file.
#[must_use]
pub fn is_being_written(path: &Path) -> bool {
    let lock = File::open(path).map(|file| file.try_lock_shared());
    matches!(lock, Ok(Err(TryLockError::WouldBlock)))
}
