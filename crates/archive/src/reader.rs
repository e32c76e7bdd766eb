//! An archive is read.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use rkyv::util::AlignedVec;
use tapedeck_model::{Ledger, UnreadConnection};
use zerocopy::FromBytes;

use crate::block::view::{BodyView, Record};
use crate::error::{Damage, OpenError, ReadError};
use crate::format::{ChunkKind, HEADER_LEN, PageEntry};
use crate::page::view::{Page, Row};
use crate::provenance::{Provenance, StoredLedger};
use crate::scratch::{BodyBuffer, Scratch};
use crate::source::{Inflater, Source, slice};
use crate::unread;

/// An open archive. Any number of threads may read it at once.
///
/// Opening reads the directory of the index, which is about a ten-thousandth of the file. Index
/// pages are checked when they are first looked at, blocks when they are loaded.
#[derive(Debug)]
pub struct Archive {
    source: Source,
    n_rows: u64,
    /// Where in the file the entries of the directory lie.
    directory: std::ops::Range<usize>,
    /// For each page, one of [`page_state`].
    page_states: Box<[AtomicU8]>,
    ledger: StoredLedger,
    /// Where the lists of unread connections begin.
    unread: Vec<u64>,
    provenance: Provenance,
}

mod page_state {
    pub(super) const UNSEEN: u8 = 0;
    pub(super) const SOUND: u8 = 1;
}

impl Archive {
    /// Opens a sealed archive.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let source = Source::open(path)?;
        let Some(footer) = source.footer() else {
            return Err(OpenError::Unsealed { path: path.into() });
        };
        let damaged = |offset: u64| {
            move |damage| OpenError::Damaged {
                path: path.into(),
                offset,
                damage,
            }
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
        let at = footer.directory.get();
        let n_rows = footer.n_rows.get();
        let directory = source
            .chunk(at, ChunkKind::Directory)
            .and_then(|chunk| chunk.plain().ok_or(Damage::Unknown))
            .and_then(|entries| check_directory(entries, footer.n_pages.get(), n_rows))
            .map_err(damaged(at))?;
        let start = at as usize + HEADER_LEN;
        Ok(Self {
            directory: start..start + directory * size_of::<PageEntry>(),
            page_states: (0..directory)
                .map(|_| AtomicU8::new(page_state::UNSEEN))
                .collect(),
            n_rows,
            ledger,
            unread,
            provenance,
            source,
        })
    }

    /// How many exchanges there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.n_rows
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.n_rows == 0
    }

    /// What the index knows of an exchange. `None` where there is no such exchange, or its index
    /// page is damaged ([`Archive::page_of`] tells which).
    #[must_use]
    pub fn row(&self, id: u64) -> Option<Row<'_>> {
        let page = self.page_of(id).ok()?;
        page.row(usize::try_from(id - page.first_row()).ok()?)
    }

    /// Every row, by id, those of damaged index pages left out. [`Archive::pages`] tells of those;
    /// so does [`Archive::damaged_rows`], after the iteration.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.pages().flatten().flat_map(|page| page.rows())
    }

    /// The pages of the index, in order.
    pub fn pages(&self) -> impl Iterator<Item = Result<Page<'_>, ReadError>> {
        (0..self.page_states.len()).map(|number| self.page(number))
    }

    /// What the directory knows of each page, in order: enough to pass over most of them.
    pub fn zones(&self) -> impl Iterator<Item = Zone<'_>> {
        self.entries().iter().map(|entry| Zone { entry })
    }

    /// The page of that number, in the order of [`Archive::zones`].
    pub fn page(&self, number: usize) -> Result<Page<'_>, ReadError> {
        let no_such_page = ReadError::NoSuchExchange {
            id: self.n_rows,
            len: self.n_rows,
        };
        let (Some(entry), Some(state)) = (self.entries().get(number), self.page_states.get(number))
        else {
            return Err(no_such_page);
        };
        let offset = entry.offset.get();
        self.check_page(entry, state)
            .map_err(|damage| ReadError::Damaged { offset, damage })
    }

    /// The page that holds an exchange.
    pub fn page_of(&self, id: u64) -> Result<Page<'_>, ReadError> {
        if id >= self.n_rows {
            return Err(ReadError::NoSuchExchange {
                id,
                len: self.n_rows,
            });
        }
        let behind = self
            .entries()
            .partition_point(|entry| entry.first_row.get() <= id);
        // The first page begins with row 0.
        self.page(behind.saturating_sub(1))
    }

    /// How many rows lie in index pages that are damaged. Reads the whole index, unless that was
    /// done before.
    #[must_use]
    pub fn damaged_rows(&self) -> u64 {
        let sound: u64 = self.pages().flatten().map(|page| page.len() as u64).sum();
        self.n_rows - sound
    }

    /// The loss ledger of the capture.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger.ledger
    }

    /// Counters of the ledger that this version does not know, by name.
    #[must_use]
    pub fn unknown_counters(&self) -> &BTreeMap<String, u64> {
        &self.ledger.unknown
    }

    /// The connections that could not be read, in the order in which they were written. An error
    /// stands for a list of them that is damaged; the iteration goes on behind it.
    pub fn unread(&self) -> impl Iterator<Item = Result<UnreadConnection, ReadError>> {
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
            let (found, error) = match connections {
                Ok(found) => (found, None),
                Err(damage) => (Vec::new(), Some(Err(damaged(damage)))),
            };
            found.into_iter().map(Ok).chain(error)
        })
    }

    /// Where the archive comes from.
    #[must_use]
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// Reads an exchange. Decompresses its block into `scratch`, unless it is there already.
    pub fn load<'s>(&self, id: u64, scratch: &'s mut Scratch) -> Result<Record<'s>, ReadError> {
        let page = self.page_of(id)?;
        let damaged_at = |offset| move |damage| ReadError::Damaged { offset, damage };
        let place = usize::try_from(id - page.first_row())
            .ok()
            .and_then(|number| page.row(number))
            .and_then(|row| row.place());
        let Some((offset, record)) = place else {
            let damage = Damage::Structure("a row points outside of its page");
            return Err(ReadError::Damaged { offset: 0, damage });
        };
        self.source
            .load_block(offset, ChunkKind::Exchanges, scratch)
            .map_err(damaged_at(offset))?;
        scratch.record(record).map_err(damaged_at(offset))
    }

    /// The bytes of a body, in one piece. Those of a short one are where its record is, and those
    /// of an incompressible one in the mapped file: neither is copied.
    pub fn body<'b>(
        &'b self,
        body: &BodyView<'b>,
        buffer: &'b mut BodyBuffer,
    ) -> Result<&'b [u8], ReadError> {
        if body.pieces.is_empty() {
            return Ok(body.inline);
        }
        if let ([piece], []) = (body.pieces, body.inline)
            && let Some(offset) = self
                .source
                .piece_offset(body, piece.reference.to_native())?
        {
            let damaged = |damage| ReadError::Damaged { offset, damage };
            let chunk = self.source.any_chunk(offset).map_err(damaged)?;
            if chunk.kind == ChunkKind::Bodies
                && let Some(plain) = chunk.plain()
            {
                return slice(plain, piece.start.to_native(), piece.len.to_native())
                    .map_err(damaged);
            }
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

    /// Writes the bytes of a body of any length, without holding more than a block of it.
    pub fn copy_body(
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
        let bytes = self.source.bytes().get(self.directory.clone());
        bytes
            .and_then(|bytes| <[PageEntry]>::ref_from_bytes(bytes).ok())
            .unwrap_or_default()
    }

    fn check_page<'a>(&'a self, entry: &PageEntry, state: &AtomicU8) -> Result<Page<'a>, Damage> {
        let offset = entry.offset.get();
        let first_row = entry.first_row.get();
        // The checksum is verified once. Nothing depends on another thread's view of it: two
        // threads at worst do the same work.
        let payload = if state.load(Ordering::Relaxed) == page_state::SOUND {
            let header = self.source.chunk_header(offset)?;
            let start = offset as usize + HEADER_LEN;
            let end = start.saturating_add(header.stored_len.get() as usize);
            self.source.bytes().get(start..end).ok_or(Damage::Outside)?
        } else {
            let chunk = self.source.chunk(offset, ChunkKind::Page)?;
            if chunk.first_row != first_row || chunk.references().next().is_some() {
                return Err(Damage::Structure("the directory names another page"));
            }
            chunk.plain().ok_or(Damage::Unknown)?
        };
        let page = Page::parse(payload, first_row)?;
        if page.len() != entry.n_rows.get() as usize {
            return Err(Damage::Structure("the directory names another page"));
        }
        state.store(page_state::SOUND, Ordering::Relaxed);
        Ok(page)
    }
}

/// What the directory knows of a page.
#[derive(Clone, Copy, Debug)]
pub struct Zone<'a> {
    entry: &'a PageEntry,
}

impl Zone<'_> {
    /// The id of the page's first row.
    #[must_use]
    pub fn first_row(&self) -> u64 {
        self.entry.first_row.get()
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
