//! One file is read: an archive, or a segment of one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use rkyv::util::AlignedVec;
use tapedeck_model::{ConnectionId, UnreadConnection};
use zerocopy::FromBytes;

use crate::block::view::{BodyView, Record};
use crate::encryption::cipher::{Budget, Opened};
use crate::encryption::keys::Identities;
use crate::error::{Damage, OpenError, ReadError};
use crate::format::{ChunkKind, HEADER_LEN, PageEntry};
use crate::inflate::Inflater;
use crate::page::builder::PageBuilder;
use crate::page::view::Page;
use crate::provenance::{Provenance, StoredLedger};
use crate::scan::Scan;
use crate::scratch::{BodyBuffer, Scratch};
use crate::source::{Chunk, Source, slice};
use crate::unread;

/// A file of an [`Archive`](crate::Archive). Its exchanges and pages are numbered within the
/// archive; "local" numbers count from 0 within the file.
#[derive(Debug)]
pub(crate) struct Segment {
    source: Source,
    path: PathBuf,
    is_sealed: bool,
    n_rows: u64,
    directory: Directory,
    /// The last page, where it is not in the file yet.
    tail: Option<Vec<u8>>,
    /// For each page, one of [`page_state`].
    page_states: Box<[AtomicU8]>,
    /// Where the file is encrypted, the pages that were looked at.
    opened_pages: Box<[OnceLock<OpenedPage>]>,
    budget: Arc<Budget>,
    ledger: StoredLedger,
    /// Where the lists of unread connections begin.
    unread: Vec<u64>,
    provenance: Provenance,
    place: Place,
}

/// Where a file stands in its archive.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    /// The number of its source.
    pub(crate) instance: u64,
    /// The id of its first exchange.
    pub(crate) first_row: u64,
    /// The number of its first page.
    pub(crate) first_page: usize,
    /// What is added to the ids of its connections: two recordings number theirs alike.
    pub(crate) first_connection: u64,
}

/// A page of an encrypted file.
#[derive(Debug)]
struct OpenedPage {
    opened: Opened,
    version: u16,
}

/// What opening needs besides the path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keyring {
    pub(crate) identities: Identities,
    pub(crate) budget: Arc<Budget>,
}

impl Keyring {
    pub(crate) fn new(identities: &Identities) -> Self {
        Self {
            identities: identities.clone(),
            budget: Arc::default(),
        }
    }
}

/// What opening finds in a file.
#[derive(Default)]
struct Contents {
    n_rows: u64,
    n_pages: usize,
    directory: Directory,
    tail: Option<Vec<u8>>,
    ledger: StoredLedger,
    unread: Vec<u64>,
    provenance: Provenance,
}

/// Where the entries of the directory lie.
#[derive(Debug)]
enum Directory {
    /// Here in the file.
    Mapped(std::ops::Range<usize>),
    /// The file is encrypted: decrypted.
    Opened(Opened),
    /// The file is still being written, and has none: made of its pages.
    Gathered(Vec<PageEntry>),
}

impl Default for Directory {
    fn default() -> Self {
        Self::Gathered(Vec::new())
    }
}

mod page_state {
    pub(super) const UNSEEN: u8 = 0;
    pub(super) const SOUND: u8 = 1;
}

impl Segment {
    /// Opens a sealed file.
    pub(crate) fn open(path: &Path, keyring: &Keyring) -> Result<Self, OpenError> {
        let source = Source::open(path, &keyring.identities)?;
        let damaged = |offset: u64| {
            move |damage| OpenError::Damaged {
                path: path.into(),
                offset,
                damage,
            }
        };
        let footer = source
            .footer()
            .map_err(|(offset, damage)| damaged(offset)(damage))?;
        let Some(footer) = footer else {
            return Err(OpenError::Unsealed { path: path.into() });
        };
        let mut inflater = Inflater::default();
        let unreadable = Damage::Structure("named values cannot be read");

        let at = footer.provenance.get();
        let provenance = source
            .chunk(at, ChunkKind::Provenance)
            .and_then(|chunk| chunk.payload(&mut inflater))
            .and_then(|payload| Provenance::decode(&payload).ok_or(unreadable))
            .map_err(damaged(at))?;
        let at = footer.ledger.get();
        let ledger_chunk = source.chunk(at, ChunkKind::Ledger).map_err(damaged(at))?;
        let ledger = ledger_chunk
            .payload(&mut inflater)
            .and_then(|payload| StoredLedger::decode(&payload).ok_or(unreadable))
            .map_err(damaged(at))?;
        let unread = ledger_chunk.references().collect();
        drop(ledger_chunk);
        let at = footer.directory.get();
        let n_rows = footer.n_rows.get();
        let chunk = source
            .chunk(at, ChunkKind::Directory)
            .map_err(damaged(at))?;
        let n_pages = chunk
            .plain()
            .ok_or(Damage::Unknown)
            .and_then(|entries| check_directory(entries, footer.n_pages.get(), n_rows))
            .map_err(damaged(at))?;
        let start = at as usize + HEADER_LEN;
        let entries = start..start + n_pages * size_of::<PageEntry>();
        let directory = match chunk.into_opened() {
            Some(opened) => Directory::Opened(opened),
            None => Directory::Mapped(entries),
        };
        let contents = Contents {
            n_rows,
            n_pages,
            directory,
            tail: None,
            ledger,
            unread,
            provenance,
        };
        Ok(Self::new(source, path, contents, keyring))
    }

    /// Opens a file that is still being written, or was when its writer died: what is seen is what
    /// was in its blocks by now.
    pub(crate) fn open_unsealed(path: &Path, keyring: &Keyring) -> Result<Self, OpenError> {
        let source = Source::open(path, &keyring.identities)?;
        let mut entries = Vec::new();
        let mut contents = Contents::default();
        let mut inflater = Inflater::default();
        // Behind the last page.
        let mut blocks = Vec::new();
        for found in Scan::new(&source) {
            let Ok(chunk) = found.chunk else {
                // The tail of a writer that is at work, or was.
                break;
            };
            match chunk.kind {
                ChunkKind::Provenance => {
                    let payload = chunk.payload(&mut inflater).ok();
                    let read = payload.and_then(|payload| Provenance::decode(&payload));
                    contents.provenance = read.unwrap_or(contents.provenance);
                }
                ChunkKind::Ledger => {
                    let payload = chunk.payload(&mut inflater).ok();
                    let read = payload.and_then(|payload| StoredLedger::decode(&payload));
                    contents.ledger = read.unwrap_or(contents.ledger);
                }
                ChunkKind::Unread => contents.unread.push(found.offset),
                ChunkKind::Page if chunk.first_row == contents.n_rows => {
                    let page = chunk
                        .plain()
                        .map(|payload| Page::parse(payload, chunk.version, chunk.first_row));
                    let Some(Ok(page)) = page else { break };
                    entries.push(page.entry(found.offset));
                    contents.n_rows += page.len() as u64;
                    blocks.clear();
                }
                ChunkKind::Exchanges => blocks.push(found.offset),
                ChunkKind::Bodies
                | ChunkKind::Dictionary
                | ChunkKind::Directory
                | ChunkKind::Encrypted
                | ChunkKind::End
                | ChunkKind::Keys
                | ChunkKind::Page => {}
            }
        }
        if let Some((page, entry)) = tail(&source, &blocks, contents.n_rows) {
            contents.n_rows += u64::from(entry.n_rows.get());
            entries.push(entry);
            contents.tail = Some(page);
        }
        contents.n_pages = entries.len();
        contents.directory = Directory::Gathered(entries);
        let mut segment = Self::new(source, path, contents, keyring);
        segment.is_sealed = false;
        Ok(segment)
    }

    fn new(source: Source, path: &Path, contents: Contents, keyring: &Keyring) -> Self {
        let Contents {
            n_rows,
            n_pages,
            directory,
            tail,
            ledger,
            unread,
            provenance,
        } = contents;
        let n_opened = if source.is_encrypted() { n_pages } else { 0 };
        Self {
            source,
            path: path.into(),
            opened_pages: (0..n_opened).map(|_| OnceLock::new()).collect(),
            budget: Arc::clone(&keyring.budget),
            is_sealed: true,
            n_rows,
            directory,
            tail,
            page_states: (0..n_pages)
                .map(|_| AtomicU8::new(page_state::UNSEEN))
                .collect(),
            ledger,
            unread,
            provenance,
            place: Place::default(),
        }
    }

    /// Gives it its place in an archive.
    pub(crate) fn place(&mut self, place: Place) {
        self.source.set_instance(place.instance);
        self.place = place;
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.is_sealed
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// What is added to the ids of its connections.
    pub(crate) fn first_connection(&self) -> u64 {
        self.place.first_connection
    }

    pub(crate) fn file_len(&self) -> u64 {
        self.source.bytes().len() as u64
    }

    pub(crate) fn len(&self) -> u64 {
        self.n_rows
    }

    /// Whether nothing of it has a connection.
    pub(crate) fn is_empty(&self) -> bool {
        self.n_rows == 0 && self.unread.is_empty()
    }

    /// The id of its first exchange.
    pub(crate) fn first_row(&self) -> u64 {
        self.place.first_row
    }

    /// The number of its first page.
    pub(crate) fn first_page(&self) -> usize {
        self.place.first_page
    }

    pub(crate) fn n_pages(&self) -> usize {
        self.page_states.len()
    }

    pub(crate) fn ledger(&self) -> &StoredLedger {
        &self.ledger
    }

    pub(crate) fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// The least time of its first page.
    pub(crate) fn first_time(&self) -> Option<i64> {
        self.entries().first().map(|entry| entry.time_min.get())
    }

    pub(crate) fn zones(&self) -> impl Iterator<Item = Zone<'_>> {
        self.entries().iter().map(|entry| Zone {
            entry,
            first_row: self.place.first_row.saturating_add(entry.first_row.get()),
        })
    }

    /// The page of that local number.
    pub(crate) fn page(&self, number: usize) -> Result<Page<'_>, ReadError> {
        let no_such_page = ReadError::NoSuchExchange {
            id: self.n_rows,
            len: self.n_rows,
        };
        let (Some(entry), Some(state)) = (self.entries().get(number), self.page_states.get(number))
        else {
            return Err(no_such_page);
        };
        let offset = entry.offset.get();
        let page = match (&self.tail, self.opened_pages.get(number)) {
            (Some(tail), _) if offset == NOT_IN_FILE => {
                let first_id = self.place.first_row.saturating_add(entry.first_row.get());
                Page::parsed(tail, ChunkKind::Page.version(), first_id)
                    .map(|page| page.with_first_connection(self.place.first_connection))
            }
            (_, Some(place)) => self.opened_page(entry, place),
            (_, None) => self.check_page(entry, state),
        };
        page.map_err(|damage| ReadError::Damaged { offset, damage })
    }

    /// The page that holds the exchange of that local number.
    pub(crate) fn page_of(&self, local: u64) -> Result<Page<'_>, ReadError> {
        let behind = self
            .entries()
            .partition_point(|entry| entry.first_row.get() <= local);
        // The first page begins with row 0.
        self.page(behind.saturating_sub(1))
    }

    /// The connections that could not be read. An error stands for a list of them that is damaged.
    pub(crate) fn unread(&self) -> impl Iterator<Item = Result<UnreadConnection, ReadError>> {
        let mut inflater = Inflater::default();
        let mut buffer = AlignedVec::new();
        self.unread.iter().flat_map(move |offset| {
            let connections = self
                .source
                .chunk(*offset, ChunkKind::Unread)
                .and_then(|chunk| inflater.inflate(&chunk, &mut buffer))
                .and_then(|()| unread::decode(&buffer));
            let damaged = |damage| ReadError::Damaged {
                offset: *offset,
                damage,
            };
            let (mut found, error) = match connections {
                Ok(found) => (found, None),
                Err(damage) => (Vec::new(), Some(Err(damaged(damage)))),
            };
            for unread in &mut found {
                let id = &mut Arc::make_mut(&mut unread.connection).id;
                *id = ConnectionId(id.0.wrapping_add(self.place.first_connection));
            }
            found.into_iter().map(Ok).chain(error)
        })
    }

    /// Reads the exchange of that local number.
    pub(crate) fn load<'s>(
        &self,
        local: u64,
        scratch: &'s mut Scratch,
    ) -> Result<Record<'s>, ReadError> {
        let page = self.page_of(local)?;
        let damaged_at = |offset| move |damage| ReadError::Damaged { offset, damage };
        let place = (self.place.first_row + local)
            .checked_sub(page.first_row())
            .and_then(|number| usize::try_from(number).ok())
            .and_then(|number| page.row(number))
            .and_then(|row| row.place());
        let Some((offset, record)) = place else {
            let damage = Damage::Structure("a row points outside of its page");
            return Err(ReadError::Damaged { offset: 0, damage });
        };
        self.source
            .load_block(offset, scratch)
            .map_err(damaged_at(offset))?;
        let record = scratch.record(record).map_err(damaged_at(offset))?;
        Ok(record.with_first_connection(self.place.first_connection))
    }

    /// The bytes of a body, in one piece. Those of a short one are where its record is, and those
    /// of an incompressible one in the mapped file: neither is copied.
    pub(crate) fn body<'b>(
        &'b self,
        body: &BodyView<'b>,
        buffer: &'b mut BodyBuffer,
    ) -> Result<&'b [u8], ReadError> {
        let mut pieces = body.pieces();
        let first = pieces.next();
        if let Some(piece) = first.filter(|_| pieces.len() == 0 && body.inline.is_empty()) {
            let found = self.source.piece_offset(body, &piece)?;
            let offset = found.unwrap_or(body.origin.offset);
            let damaged = |damage| ReadError::Damaged { offset, damage };
            if found.is_none() {
                return slice(body.own_bytes(), piece.start, piece.len).map_err(damaged);
            }
            // What is encrypted or compressed goes into the buffer, below.
            if let Some(plain) = self.source.mapped_bodies(offset).map_err(damaged)? {
                return slice(plain, piece.start, piece.len).map_err(damaged);
            }
        }
        if first.is_none() {
            return Ok(body.inline);
        }
        let limit = buffer.limit;
        if body.len() > limit {
            return Err(ReadError::BodyTooLarge {
                len: body.len(),
                limit,
            });
        }
        let BodyBuffer { bytes, block, .. } = buffer;
        bytes.clear();
        self.source.for_each_piece(body, block, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// See [`Archive::body_range`](crate::Archive::body_range).
    pub(crate) fn body_range<'b>(
        &self,
        body: &BodyView<'_>,
        start: u64,
        len: u64,
        buffer: &'b mut BodyBuffer,
    ) -> Result<&'b [u8], ReadError> {
        let limit = buffer.limit;
        if len > limit {
            return Err(ReadError::BodyTooLarge { len, limit });
        }
        let BodyBuffer { bytes, block, .. } = buffer;
        bytes.clear();
        let end = start.saturating_add(len);
        self.source
            .for_each_piece_within(body, start..end, block, |piece| {
                bytes.extend_from_slice(piece);
                Ok(())
            })?;
        Ok(bytes)
    }

    /// Writes the bytes of a body of any length, without holding more than a block of it.
    pub(crate) fn copy_body(
        &self,
        body: &BodyView<'_>,
        buffer: &mut BodyBuffer,
        out: &mut impl io::Write,
    ) -> Result<(), ReadError> {
        self.source
            .for_each_piece(body, &mut buffer.block, |piece| {
                out.write_all(piece)
                    .map_err(|error| ReadError::Output { kind: error.kind() })
            })
    }

    fn entries(&self) -> &[PageEntry] {
        let bytes = match &self.directory {
            Directory::Mapped(range) => self.source.bytes().get(range.clone()),
            Directory::Opened(opened) => Some(opened.stored()),
            Directory::Gathered(entries) => return entries,
        };
        bytes
            .and_then(|bytes| <[PageEntry]>::ref_from_bytes(bytes).ok())
            .unwrap_or_default()
    }

    fn check_page<'a>(&'a self, entry: &PageEntry, state: &AtomicU8) -> Result<Page<'a>, Damage> {
        let offset = entry.offset.get();
        let first_row = entry.first_row.get();
        // The checksum is verified once. Nothing depends on another thread's view of it: two
        // threads at worst do the same work.
        let first_id = self.place.first_row.saturating_add(first_row);
        if state.load(Ordering::Relaxed) == page_state::SOUND {
            let header = self.source.checked_header(offset)?;
            let start = offset as usize + HEADER_LEN;
            let end = start.saturating_add(header.stored_len.get() as usize);
            let payload = self.source.bytes().get(start..end).ok_or(Damage::Outside)?;
            let page = Page::parsed(payload, header.version.get(), first_id)?;
            return Ok(page.with_first_connection(self.place.first_connection));
        }
        let chunk = self.source.chunk(offset, ChunkKind::Page)?;
        check_entry(entry, &chunk)?;
        let payload = chunk.mapped().ok_or(Damage::Unknown)?;
        let page = Page::parse(payload, chunk.version, first_id)?
            .with_first_connection(self.place.first_connection);
        state.store(page_state::SOUND, Ordering::Relaxed);
        Ok(page)
    }

    /// A page of an encrypted file: decrypted and checked once.
    fn opened_page<'a>(
        &'a self,
        entry: &PageEntry,
        place: &'a OnceLock<OpenedPage>,
    ) -> Result<Page<'a>, Damage> {
        let first_id = self.place.first_row.saturating_add(entry.first_row.get());
        let page = match place.get() {
            Some(page) => page,
            None => {
                let chunk = self.source.chunk(entry.offset.get(), ChunkKind::Page)?;
                check_entry(entry, &chunk)?;
                let version = chunk.version;
                let opened = chunk.into_opened().ok_or(Damage::Unknown)?;
                let len = opened.stored().len() as u64;
                if !self.budget.take(len) {
                    return Err(Damage::TooMuch);
                }
                if place.set(OpenedPage { opened, version }).is_err() {
                    // Another thread did the same.
                    self.budget.give(len);
                }
                place.get().ok_or(Damage::Unknown)?
            }
        };
        let page = Page::parsed(page.opened.stored(), page.version, first_id)?;
        Ok(page.with_first_connection(self.place.first_connection))
    }
}

/// Whether a chunk is the page that an entry of the directory names, and is sound.
fn check_entry(entry: &PageEntry, chunk: &Chunk<'_>) -> Result<(), Damage> {
    let other = Damage::Structure("the directory names another page");
    if chunk.first_row != entry.first_row.get() || chunk.references().next().is_some() {
        return Err(other);
    }
    let payload = chunk.plain().ok_or(Damage::Unknown)?;
    let page = Page::parse(payload, chunk.version, chunk.first_row)?;
    if page.len() == entry.n_rows.get() as usize {
        Ok(())
    } else {
        Err(other)
    }
}

/// Stands for the place of a page that is not in the file.
const NOT_IN_FILE: u64 = u64::MAX;

/// The page of the blocks that a writer has put behind the last one, as far as they can be read.
fn tail(source: &Source, blocks: &[u64], first_row: u64) -> Option<(Vec<u8>, PageEntry)> {
    let mut page = PageBuilder::default();
    let mut scratch = Scratch::new();
    for offset in blocks {
        let next = first_row.saturating_add(page.n_rows() as u64);
        let is_read = source
            .chunk(*offset, ChunkKind::Exchanges)
            .and_then(|chunk| match chunk.first_row == next {
                true => scratch.fill(&chunk, source, *offset),
                false => Err(Damage::Structure("the block is out of order")),
            })
            .and_then(|()| page.add_block(*offset, &scratch));
        if is_read.is_err() {
            // As behind damage: `recover` tells what it is.
            break;
        }
    }
    if page.n_rows() == 0 {
        return None;
    }
    let (bytes, mut entry) = page.finish(first_row);
    entry.offset = NOT_IN_FILE.into();
    Some((bytes, entry))
}

/// What the directory knows of a page.
#[derive(Clone, Copy, Debug)]
pub struct Zone<'a> {
    entry: &'a PageEntry,
    first_row: u64,
}

impl Zone<'_> {
    /// The id of the page's first row.
    #[must_use]
    pub fn first_row(&self) -> u64 {
        self.first_row
    }

    /// How many rows the page has.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.entry.n_rows.get() as usize
    }

    /// The smallest and the largest time, in nanoseconds since the Unix epoch.
    #[must_use]
    pub fn times(&self) -> (i64, i64) {
        (self.entry.time_min.get(), self.entry.time_max.get())
    }

    /// The smallest and the largest duration in nanoseconds; `None` where no row has one.
    #[must_use]
    pub fn durations(&self) -> Option<(u64, u64)> {
        let range = (self.entry.duration_min.get(), self.entry.duration_max.get());
        (self.entry.has_duration != 0).then_some(range)
    }

    /// The smallest and the largest status; `None` where no row has one.
    #[must_use]
    pub fn statuses(&self) -> Option<(u16, u16)> {
        let range = (self.entry.status_min.get(), self.entry.status_max.get());
        (self.entry.has_status != 0).then_some(range)
    }

    /// Whether any row is incomplete.
    #[must_use]
    pub fn has_incomplete(&self) -> bool {
        self.entry.has_incomplete != 0
    }
}

/// How many entries there are, after every one was seen to follow the one before.
fn check_directory(bytes: &[u8], n_pages: u64, n_rows: u64) -> Result<usize, Damage> {
    let wrong = Damage::Structure("the directory does not add up");
    let entries = <[PageEntry]>::ref_from_bytes(bytes).map_err(|_| wrong)?;
    let mut next = 0_u64;
    for entry in entries {
        if entry.first_row.get() != next || entry.n_rows.get() == 0 {
            return Err(wrong);
        }
        next += u64::from(entry.n_rows.get());
    }
    if entries.len() as u64 == n_pages && next == n_rows {
        Ok(entries.len())
    } else {
        Err(wrong)
    }
}
