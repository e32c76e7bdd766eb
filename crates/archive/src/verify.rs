//! Is everything there, and if not, what is lost?

use std::collections::HashMap;
use std::path::Path;

use rkyv::util::AlignedVec;
use zerocopy::{FromBytes, IntoBytes};

use crate::block::view::{BodyView, Piece, Record};
use crate::dictionary::Dictionary;
use crate::encryption::keys::Identities;
use crate::error::{Damage, OpenError};
use crate::format::{ChunkKind, Footer, PageEntry};
use crate::inflate::Inflater;
use crate::page::builder::{Bodies, PageBuilder};
use crate::page::view::Page;
use crate::provenance::{Provenance, StoredLedger};
use crate::scan::{Found, Scan};
use crate::scratch::Scratch;
use crate::source::{Chunk, Source};
use crate::unread;

/// What [`verify`] found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Whether the file was completed: footer, directory and ledger are there and sound.
    pub sealed: bool,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Whether it is encrypted, and no identity was given: nothing is known of its exchanges.
    pub locked: bool,
    /// The length of the file.
    pub file_len: u64,
    /// Exchanges whose records can be read.
    pub exchanges_readable: u64,
    /// Exchanges that the file had and that cannot be read. What an interrupted writer had not
    /// written is not counted: nothing is known of it.
    pub exchanges_lost: u64,
    /// Readable exchanges that miss bytes of a body.
    pub exchanges_without_body: u64,
    /// Connections in readable lists of unread ones.
    pub unread_connections: u64,
    /// Everything that is wrong, by place.
    pub damages: Vec<DamageReport>,
    /// Damages beyond the first [`VerifyReport::MAX_DAMAGES`].
    pub damages_not_listed: u64,
}

impl VerifyReport {
    /// How many damages are listed: enough to see what happened to a disk.
    pub const MAX_DAMAGES: usize = 1000;

    /// Whether every byte is as it was written.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.sealed && self.damages.is_empty()
    }
}

/// A damaged place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DamageReport {
    /// Where it begins.
    pub offset: u64,
    /// How many bytes are concerned.
    pub len: u64,
    /// What lies there, as far as that can be told.
    pub what: &'static str,
    /// What is wrong.
    pub damage: Damage,
}

/// Reads a whole archive, sealed or not, and checks everything in it: checksums, structure, bodies, and
/// that the index says what the records say. Does not stop at the first damage.
///
/// Of an encrypted archive, what can be seen without its key: every checksum, the lengths, the footer.
/// [`VerifyReport::locked`] says so.
pub fn verify(path: &Path) -> Result<VerifyReport, OpenError> {
    verify_with(path, &Identities::none())
}

/// Like [`verify`], and opens what is encrypted. Without an identity it is [`verify`].
pub fn verify_with(path: &Path, identities: &Identities) -> Result<VerifyReport, OpenError> {
    let (source, header_damage) = Source::open_damaged(path)?;
    let source = if identities.is_empty() {
        source
    } else {
        source.unlock(path, identities)?
    };
    let mut verifier = Verifier::new(&source);
    if let Some(damage) = header_damage {
        verifier.damaged(0, crate::format::HEADER_LEN as u64, "header", damage);
    }
    for found in Scan::new(&source) {
        verifier.found(found);
    }
    Ok(verifier.finish())
}

struct Verifier<'a> {
    source: &'a Source,
    report: VerifyReport,
    inflater: Inflater,
    buffer: AlignedVec,
    scratch: Scratch,
    /// How many bytes pieces may point into, for each sound block so far: bodies lie before the
    /// records that name them.
    blocks: HashMap<u64, u32>,
    /// The page as the exchange blocks since the last one say it should be.
    page: PageBuilder,
    /// Whether all blocks of that page were sound.
    is_page_known: bool,
    /// The row that follows the last one known of.
    next_row: u64,
    /// The row that follows the last page.
    page_row: u64,
    entries: Vec<PageEntry>,
    /// Where the sound lists of unread connections lie, and where the last ledger says so.
    unread: Vec<u64>,
    listed_unread: Vec<u64>,
    ledger: Option<u64>,
    provenance: Option<u64>,
    directory: Option<u64>,
    /// The first copy of the wrapped key.
    keys: Option<Vec<u8>>,
}

impl<'a> Verifier<'a> {
    fn new(source: &'a Source) -> Self {
        Self {
            report: VerifyReport {
                file_len: source.bytes().len() as u64,
                encrypted: source.is_encrypted(),
                locked: source.is_locked(),
                ..VerifyReport::default()
            },
            source,
            inflater: Inflater::default(),
            buffer: AlignedVec::new(),
            scratch: Scratch::new(),
            blocks: HashMap::new(),
            page: PageBuilder::default(),
            is_page_known: true,
            next_row: 0,
            page_row: 0,
            entries: Vec::new(),
            unread: Vec::new(),
            listed_unread: Vec::new(),
            ledger: None,
            provenance: None,
            directory: None,
            keys: None,
        }
    }

    fn found(&mut self, found: Found<'_>) {
        let Found {
            offset, len, kind, ..
        } = found;
        let what = kind.map_or("unreadable bytes", ChunkKind::name);
        if found.is_padding_damaged {
            self.damaged(offset, len, what, Damage::Padding);
        }
        let checked = found.chunk.and_then(|chunk| self.chunk(offset, &chunk));
        if let Err(damage) = checked {
            if matches!(
                kind,
                None | Some(ChunkKind::Exchanges | ChunkKind::Encrypted)
            ) {
                self.is_page_known = false;
            }
            self.damaged(offset, len, what, damage);
        }
    }

    fn chunk(&mut self, offset: u64, chunk: &Chunk<'_>) -> Result<(), Damage> {
        match chunk.kind {
            ChunkKind::Exchanges => self.exchanges(offset, chunk),
            ChunkKind::Bodies => {
                self.inflater.inflate(chunk, &mut self.buffer)?;
                self.blocks.insert(offset, self.buffer.len() as u32);
                Ok(())
            }
            ChunkKind::Page => self.page(offset, chunk),
            ChunkKind::Ledger => {
                let payload = chunk.payload(&mut self.inflater)?;
                StoredLedger::decode(&payload).ok_or(UNREADABLE)?;
                self.ledger = Some(offset);
                self.listed_unread = chunk.references().collect();
                Ok(())
            }
            ChunkKind::Provenance => {
                let payload = chunk.payload(&mut self.inflater)?;
                Provenance::decode(&payload).ok_or(UNREADABLE)?;
                self.provenance = Some(offset);
                Ok(())
            }
            ChunkKind::Directory => self.directory(offset, chunk),
            ChunkKind::Unread => self.unread(offset, chunk),
            ChunkKind::Dictionary => {
                Dictionary::new(&chunk.payload(&mut self.inflater)?).map(|_| ())
            }
            ChunkKind::Keys => self.keys(chunk),
            // Nothing is known of what is in it without a key; the end is read with the footer.
            ChunkKind::Encrypted | ChunkKind::End => Ok(()),
        }
    }

    fn exchanges(&mut self, offset: u64, chunk: &Chunk<'_>) -> Result<(), Damage> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let checked = self.records(offset, chunk, &mut scratch);
        self.scratch = scratch;
        checked
    }

    fn records(
        &mut self,
        offset: u64,
        chunk: &Chunk<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Damage> {
        scratch.fill(chunk, self.source, offset)?;
        if chunk.first_row < self.next_row {
            return Err(Damage::Structure("the block is out of order"));
        }
        if chunk.first_row > self.next_row {
            // Blocks before this one are lost.
            self.is_page_known = false;
            self.report.exchanges_lost += chunk.first_row - self.next_row;
        }
        let bytes = scratch.bytes()?.len() as u32;
        self.blocks.insert(offset, bytes);
        for number in 0..scratch.n_records() {
            let record = scratch.record(number)?;
            let exchange = record.to_exchange();
            if !self.has_bodies(&record) {
                self.report.exchanges_without_body += 1;
            }
            self.page.push(&exchange, Bodies::of(&record));
        }
        self.page.block_written(offset, scratch.n_records());
        let n_records = scratch.n_records() as u64;
        self.report.exchanges_readable += n_records;
        self.next_row = chunk.first_row + n_records;
        Ok(())
    }

    fn has_bodies(&self, record: &Record<'_>) -> bool {
        let messages = record.request().into_iter().chain(record.response());
        messages.into_iter().all(|message| {
            let body = message.body();
            body.pieces().all(|piece| self.has_piece(&body, &piece))
        })
    }

    fn has_piece(&self, body: &BodyView<'_>, piece: &Piece) -> bool {
        let block = match piece.reference {
            None => Some(body.origin.offset),
            Some(reference) => body.origin.references.get(reference).copied(),
        };
        let end = piece.start.checked_add(piece.len);
        let len = block.and_then(|offset| self.blocks.get(&offset));
        end.zip(len).is_some_and(|(end, len)| end <= *len)
    }

    fn page(&mut self, offset: u64, chunk: &Chunk<'_>) -> Result<(), Damage> {
        let mut builder = std::mem::take(&mut self.page);
        let is_known = std::mem::replace(&mut self.is_page_known, true);
        let payload = chunk.plain().ok_or(Damage::Unknown)?;
        let page = Page::parse(payload, chunk.version, chunk.first_row)?;
        let next = chunk.first_row.saturating_add(page.len() as u64);
        if chunk.first_row < self.page_row {
            return Err(Damage::Structure("the page is out of order"));
        }
        if next > self.next_row {
            self.report.exchanges_lost += next - self.next_row;
            self.next_row = next;
        }
        page.check()?;
        let is_whole = chunk.first_row == self.page_row && is_known;
        self.page_row = next;
        if is_whole {
            let (rebuilt, mut entry) = builder.finish(chunk.first_row);
            let is_same = if chunk.version == ChunkKind::Page.version() {
                rebuilt == payload
            } else {
                let version = ChunkKind::Page.version();
                page.says_the_same(&Page::parse(&rebuilt, version, chunk.first_row)?)
            };
            if !is_same {
                return Err(Damage::Structure(
                    "the index does not say what the records say",
                ));
            }
            entry.offset = offset.into();
            self.entries.push(entry);
        }
        Ok(())
    }

    /// All copies of the wrapped key are alike.
    fn keys(&mut self, chunk: &Chunk<'_>) -> Result<(), Damage> {
        let payload = chunk.plain().ok_or(Damage::Unknown)?;
        if self.keys.get_or_insert_with(|| payload.to_vec()) == payload {
            Ok(())
        } else {
            Err(Damage::Forged)
        }
    }

    fn unread(&mut self, offset: u64, chunk: &Chunk<'_>) -> Result<(), Damage> {
        self.inflater.inflate(chunk, &mut self.buffer)?;
        let connections = unread::decode(&self.buffer)?;
        self.report.unread_connections += connections.len() as u64;
        self.unread.push(offset);
        Ok(())
    }

    fn directory(&mut self, offset: u64, chunk: &Chunk<'_>) -> Result<(), Damage> {
        let payload = chunk.plain().ok_or(Damage::Unknown)?;
        let entries = <[PageEntry]>::ref_from_bytes(payload).map_err(|_| DIRECTORY)?;
        self.directory = Some(offset);
        // Entries of pages that could not be rebuilt have nothing to be compared with.
        let is_as_rebuilt = self.entries.iter().all(|rebuilt| {
            let found = entries.binary_search_by_key(&rebuilt.offset.get(), |e| e.offset.get());
            found
                .ok()
                .and_then(|found| entries.get(found))
                .is_some_and(|entry| entry.as_bytes() == rebuilt.as_bytes())
        });
        let is_undamaged = self.report.damages.is_empty();
        if is_as_rebuilt && (!is_undamaged || entries.len() == self.entries.len()) {
            Ok(())
        } else {
            Err(DIRECTORY)
        }
    }

    fn finish(mut self) -> VerifyReport {
        match self.source.footer() {
            _ if self.source.is_locked() => {
                self.report.sealed = self.source.outer_footer().is_some();
            }
            Ok(Some(footer)) => self.footer(&footer),
            Ok(None) => self.report.sealed = false,
            Err((offset, damage)) => {
                self.report.sealed = true;
                let is_known = self.report.damages.iter().any(|it| it.offset == offset);
                if !is_known {
                    self.damaged(offset, 0, ChunkKind::End.name(), damage);
                }
            }
        }
        let Self { mut report, .. } = self;
        report.damages.sort_by_key(|damage| damage.offset);
        report
    }

    fn footer(&mut self, footer: &Footer) {
        self.report.sealed = true;
        let n_rows = footer.n_rows.get();
        if n_rows > self.next_row {
            self.report.exchanges_lost += n_rows - self.next_row;
        }
        let is_undamaged = self.report.damages.is_empty();
        let is_consistent = self.directory == Some(footer.directory.get())
            && self.ledger == Some(footer.ledger.get())
            && self.provenance == Some(footer.provenance.get())
            && self.entries.len() as u64 == footer.n_pages.get()
            && self.unread == self.listed_unread
            && self.next_row == n_rows
            && self.page_row == n_rows;
        if is_undamaged && !is_consistent {
            let offset = self.report.file_len - size_of::<Footer>() as u64;
            let damage = Damage::Structure("the footer belongs to other contents");
            self.damaged(offset, size_of::<Footer>() as u64, "footer", damage);
        }
    }

    fn damaged(&mut self, offset: u64, len: u64, what: &'static str, damage: Damage) {
        if self.report.damages.len() >= VerifyReport::MAX_DAMAGES {
            self.report.damages_not_listed += 1;
            return;
        }
        self.report.damages.push(DamageReport {
            offset,
            len,
            what,
            damage,
        });
    }
}

const UNREADABLE: Damage = Damage::Structure("named values cannot be read");
const DIRECTORY: Damage = Damage::Structure("the directory does not match the pages");
