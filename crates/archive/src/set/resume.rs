//! An interrupted archive is sealed where it lies.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use rkyv::util::AlignedVec;

use crate::encryption::keys::Identities;
use crate::error::{Damage, OpenError, WriteError};
use crate::format::{ChunkKind, HEADER_LEN, PageEntry};
use crate::inflate::Inflater;
use crate::output::{Output, give_name, io_error};
use crate::page::builder::PageBuilder;
use crate::page::view::Page;
use crate::provenance::{Provenance, StoredLedger};
use crate::recover::RecoverError;
use crate::scan::Scan;
use crate::scratch::Scratch;
use crate::source::{Chunk, Keys, Source};
use crate::unread;
use crate::verify::verify_with;
use crate::writer::{Limits, Resumed, Summary, Writer};

/// Seals the hidden file of an interrupted writer under its name. Takes no more space than the index
/// of what it holds, gives back what bodies take whose exchanges never came, and can be interrupted at any time:
/// a disk that a long body has filled has room again.
///
/// `None`: there is damage before the torn end, or in a file that has no torn end. The file is as it was; [`recover`](crate::recover)
/// copies what is sound.
pub(crate) fn seal_in_place(
    partial: &Path,
    name: &Path,
    identities: &Identities,
) -> Result<Option<Summary>, RecoverError> {
    let open = OpenOptions::new().read(true).write(true).open(partial);
    let file = open.map_err(|source| RecoverError::Open(io(partial, source)))?;
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        return Err(RecoverError::Busy {
            path: partial.into(),
        });
    }
    if name.symlink_metadata().is_ok() {
        let path = name.into();
        return Err(RecoverError::Write(WriteError::Exists { path }));
    }
    let source = Source::open(partial, identities).map_err(RecoverError::Open)?;
    let Ok(footer) = source.footer() else {
        return Ok(None);
    };
    if let Some(footer) = footer {
        // It died between the footer and the name. Under its name, a file that cannot be opened would
        // be nobody's to recover.
        if !verify_with(partial, identities).is_ok_and(|report| report.is_whole()) {
            return Ok(None);
        }
        let sealed = Summary {
            exchanges: footer.n_rows.get(),
            file_len: source.bytes().len() as u64,
            ..Summary::default()
        };
        file.sync_all()
            .map_err(io_error("sync", partial))
            .and_then(|()| give_name(partial, name, false))
            .map_err(RecoverError::Write)?;
        return Ok(Some(sealed));
    }
    if !source.can_be_ended() {
        // What is written now would not be what the header says.
        return Ok(None);
    }
    let mut found = Whole::new(&source);
    let Ok(()) = found.walk() else {
        return Ok(None);
    };
    found
        .seal(file, partial, name)
        .map(Some)
        .map_err(RecoverError::Write)
}

fn io(path: &Path, source: std::io::Error) -> OpenError {
    OpenError::Io {
        action: "open",
        path: path.into(),
        source,
    }
}

/// The whole chunks of an interrupted file.
struct Whole<'a> {
    source: &'a Source,
    /// Behind what is kept.
    end: u64,
    /// Bodies lie behind that, which nothing refers to: records come after what they refer to.
    has_loose_bodies: bool,
    provenance: Option<u64>,
    ledger: StoredLedger,
    unread_chunks: Vec<u64>,
    n_unread: u64,
    directory: Vec<PageEntry>,
    page: PageBuilder,
    page_first_row: u64,
    n_rows: u64,
    inflater: Inflater,
    scratch: Scratch,
}

impl<'a> Whole<'a> {
    fn new(source: &'a Source) -> Self {
        Self {
            source,
            end: HEADER_LEN as u64,
            has_loose_bodies: false,
            provenance: None,
            ledger: StoredLedger::default(),
            unread_chunks: Vec::new(),
            n_unread: 0,
            directory: Vec::new(),
            page: PageBuilder::default(),
            page_first_row: 0,
            n_rows: 0,
            inflater: Inflater::default(),
            scratch: Scratch::new(),
        }
    }

    /// Goes through the file. An error: there is damage before the torn end.
    fn walk(&mut self) -> Result<(), Damage> {
        let mut scan = Scan::new(self.source);
        while let Some(found) = scan.next() {
            let kind = match found.chunk {
                Ok(chunk) => {
                    self.chunk(found.offset, &chunk)?;
                    chunk.kind
                }
                // Nothing sound is behind it: that is where the writer was.
                Err(_) if scan.next().is_none() => break,
                Err(damage) => return Err(damage),
            };
            match kind {
                ChunkKind::Bodies | ChunkKind::Dictionary => self.has_loose_bodies = true,
                // The last one is known, and written again.
                ChunkKind::Ledger | ChunkKind::Directory | ChunkKind::End
                    if self.has_loose_bodies => {}
                _ => {
                    self.end = found.offset + found.len;
                    self.has_loose_bodies = false;
                }
            }
        }
        if self.provenance.is_some() {
            Ok(())
        } else {
            Err(Damage::Structure("it does not say where it comes from"))
        }
    }

    fn chunk(&mut self, offset: u64, chunk: &Chunk<'_>) -> Result<(), Damage> {
        let unreadable = Damage::Structure("named values cannot be read");
        match chunk.kind {
            ChunkKind::Provenance => {
                let payload = chunk.payload(&mut self.inflater)?;
                Provenance::decode(&payload).ok_or(unreadable)?;
                self.provenance = Some(offset);
            }
            ChunkKind::Ledger => {
                let payload = chunk.payload(&mut self.inflater)?;
                self.ledger = StoredLedger::decode(&payload).ok_or(unreadable)?;
            }
            ChunkKind::Unread => {
                let mut buffer = AlignedVec::new();
                self.inflater.inflate(chunk, &mut buffer)?;
                self.unread_chunks.push(offset);
                self.n_unread += unread::decode(&buffer)?.len() as u64;
            }
            ChunkKind::Exchanges => self.exchanges(offset, chunk)?,
            ChunkKind::Page => {
                let payload = chunk.plain().ok_or(Damage::Unknown)?;
                let page = Page::parse(payload, chunk.version, chunk.first_row)?;
                let next = page.first_row().saturating_add(page.len() as u64);
                if page.first_row() != self.page_first_row || next != self.n_rows {
                    return Err(Damage::Structure("the page is of other blocks"));
                }
                self.directory.push(page.entry(offset));
                self.page = PageBuilder::default();
                self.page_first_row = self.n_rows;
            }
            // Of an earlier attempt to seal it.
            ChunkKind::Directory | ChunkKind::End => {}
            ChunkKind::Bodies | ChunkKind::Dictionary | ChunkKind::Keys => {}
            ChunkKind::Encrypted => return Err(Damage::Kind),
        }
        Ok(())
    }

    fn exchanges(&mut self, offset: u64, chunk: &Chunk<'_>) -> Result<(), Damage> {
        if chunk.first_row != self.n_rows {
            return Err(Damage::Structure("the block is out of order"));
        }
        self.scratch.fill(chunk, self.source, offset)?;
        self.n_rows += self.page.add_block(offset, &self.scratch)? as u64;
        Ok(())
    }

    fn seal(self, file: File, partial: &Path, name: &Path) -> Result<Summary, WriteError> {
        let archive = self.source.archive();
        let cipher = self.source.cipher();
        // What is behind the end is cut off now: nothing there may be looked at any more.
        let keys = self.source.keys().next().map(Keys::into_bytes);
        let output = Output::resume(file, partial, name, archive, self.end, cipher)?;
        let resumed = Resumed {
            output,
            provenance: self.provenance.unwrap_or_default(),
            directory: self.directory,
            page: self.page,
            page_first_row: self.page_first_row,
            n_rows: self.n_rows,
            unread_chunks: self.unread_chunks,
            n_unread: self.n_unread,
            unknown_counters: self.ledger.unknown,
            keys,
        };
        let mut writer = Writer::resume(resumed, Limits::default())?;
        if self.has_loose_bodies {
            // The ledger may have been among what was cut off: before anything else can fail, it is back.
            writer.write_ledger(&self.ledger.ledger, &[])?;
        }
        writer.seal(&self.ledger.ledger)
    }
}
