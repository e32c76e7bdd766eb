//! Exchanges go into a file.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use rkyv::util::AlignedVec;
use tapedeck_model::exchange::Body;
use tapedeck_model::{BodyPart, Exchange, Head, Ledger, Message, Missing, Role, UnreadConnection};
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::{FromZeros, IntoBytes};

use crate::block::builder::{BlockBuilder, Location, Placement};
use crate::bodies::{BodyStore, Name, is_dense};
use crate::dictionary::Trainer;
use crate::encryption::cipher::Cipher;
use crate::encryption::keys::Recipients;
use crate::error::{Damage, WriteError};
use crate::format::{ChunkKind, Codec, Footer, MAX_DICTIONARY, MAX_PAGE_ROWS, MAX_RAW, PageEntry};
use crate::output::{Chunk, DEFAULT_LEVEL, Output};
use crate::page::builder::{Bodies, PageBuilder, StoredBody};
use crate::provenance::{self, Provenance, StoredLedger};
use crate::scratch::Scratch;
use crate::set::provenance::SET;
use crate::source::{self, Source, WRAPPED, slice};
use crate::unread::{self, UnreadBuilder};

/// How an archive is written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WriterOptions {
    /// Where the traffic comes from.
    pub provenance: Provenance,
    /// Replace the output if it exists, at the moment of sealing; until then it stays.
    pub overwrite: bool,
    /// The zstd level of blocks. The default is zstd's own, with parameters chosen for HTTP.
    pub level: i32,
    /// Who can read the archive. `None`: everybody who has it.
    pub encrypt_to: Option<Recipients>,
    /// What the writer may hold.
    pub limits: Limits,
}

impl WriterOptions {
    /// The defaults, for traffic from there.
    #[must_use]
    pub fn new(provenance: Provenance) -> Self {
        Self {
            provenance,
            overwrite: false,
            level: DEFAULT_LEVEL,
            encrypt_to: None,
            limits: Limits::default(),
        }
    }
}

/// What a [`Writer`] holds at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Raw bytes of a block. A reader decompresses this much for one exchange: at 256 KiB in about 100
    /// microseconds, and 99 times of 100 in about 200 (ADR 12).
    pub block: usize,
    /// Raw bytes of exchange blocks, or bytes of the file, between two index pages. A crash costs
    /// no more.
    pub group: usize,
    /// A body up to this length lies in the block of its record.
    pub inline_body: usize,
    /// A body from this length on is stored once, wherever it comes again. Shorter ones are not
    /// looked up: zstd finds those nearby, and a reference costs a reader another block.
    pub min_shared_body: usize,
    /// Bodies whose places are remembered, so that equal ones are stored once. About 100 bytes
    /// each.
    pub remembered_bodies: usize,
    /// Long bodies under way at once. Parts of further ones are not stored: their exchanges say
    /// [`Missing::PARTIAL`], and [`Summary::body_parts_refused`] counts.
    pub open_bodies: usize,
    /// Bytes of the dictionary that small blocks are compressed with: those of little traffic, which
    /// [`Writer::tick`] closes early. It is trained on the first of them. 0: none is.
    pub dictionary: usize,
    /// Small blocks of which it is trained: more gained nothing on recordings of one call a second.
    pub learned_blocks: usize,
    /// How long [`Writer::tick`] may leave an exchange in memory only. A crash costs no more.
    pub hold: Duration,
}

impl Limits {
    pub(crate) const DEFAULT: Self = Self {
        block: 256 << 10,
        group: 4 << 20,
        inline_body: 64 << 10,
        min_shared_body: 4 << 10,
        remembered_bodies: 64 << 10,
        open_bodies: 64 << 10,
        dictionary: 16 << 10,
        learned_blocks: 64,
        hold: Duration::from_secs(1),
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What a sealed archive came to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Summary {
    /// The exchanges.
    pub exchanges: u64,
    /// The length of the file.
    pub file_len: u64,
    /// Body bytes that were stored once already.
    pub deduplicated_bytes: u64,
    /// Connections that could not be read.
    pub unread_connections: u64,
    /// Body parts that were refused because of [`Limits::open_bodies`].
    pub body_parts_refused: u64,
}

/// Writes an archive.
///
/// Everything goes to a hidden file beside the output ([`partial_path`](crate::partial_path)), and
/// [`Writer::seal`] gives it its name. A writer that is dropped or killed before leaves the hidden
/// file behind; what was flushed into it can be recovered. Memory does not grow with the archive,
/// but for 64 bytes for each index page.
#[derive(Debug)]
pub struct Writer {
    output: Output,
    limits: Limits,
    block: BlockBuilder,
    page: PageBuilder,
    bodies: BodyStore,
    open_bodies: HashMap<(u64, Role), Vec<Location>>,
    directory: Vec<PageEntry>,
    provenance: u64,
    /// Learns what small blocks have in common.
    trainer: Trainer,
    /// Reused between blocks.
    buffer: AlignedVec,
    /// Raw bytes of exchange blocks since the last page.
    group_len: usize,
    /// Where the last page ended.
    group_start: u64,
    n_rows: u64,
    /// The first row of the page, and of the block.
    page_first_row: u64,
    block_first_row: u64,
    body_parts_refused: u64,
    unread: UnreadBuilder,
    n_unread: u64,
    /// Where the lists of unread connections begin: 8 bytes for each.
    unread_chunks: Vec<u64>,
    /// Counters of newer versions, in a copy.
    unknown_counters: BTreeMap<String, u64>,
    /// The wrapped key of an encrypted archive, as it is stored.
    keys: Option<Vec<u8>>,
    /// When [`Writer::tick`] flushed last, and how long the file was then.
    ticked: Duration,
    ticked_len: u64,
}

/// What an interrupted writer left in its file, for one that goes on behind it.
#[derive(Debug)]
pub(crate) struct Resumed {
    pub(crate) output: Output,
    pub(crate) provenance: u64,
    pub(crate) directory: Vec<PageEntry>,
    /// The rows of the blocks behind the last page.
    pub(crate) page: PageBuilder,
    pub(crate) page_first_row: u64,
    pub(crate) n_rows: u64,
    pub(crate) unread_chunks: Vec<u64>,
    pub(crate) n_unread: u64,
    pub(crate) unknown_counters: BTreeMap<String, u64>,
    pub(crate) keys: Option<Vec<u8>>,
}

impl Writer {
    /// Begins an archive. The output must not exist, unless [`WriterOptions::overwrite`] is set.
    pub fn create(path: &Path, options: WriterOptions) -> Result<Self, WriteError> {
        let WriterOptions {
            mut provenance,
            overwrite,
            level,
            encrypt_to,
            limits,
        } = options;
        Recipients::note(encrypt_to.as_ref(), &mut provenance);
        let encryption = encrypt_to.map(|to| Encryption::new(&to, &provenance));
        let encryption = encryption.transpose()?;
        let provenance = provenance.encode();
        let (archive, cipher, keys) = match encryption {
            // The hash of what is encrypted would tell it to those who can guess it.
            Some(it) => (it.archive, Some(it.cipher), Some(it.keys)),
            None => (xxh3_64(&provenance), None, None),
        };
        let mut output = Output::create(path, overwrite, archive, level, cipher)?;
        if let Some(keys) = &keys {
            write_keys(&mut output, keys)?;
        }
        // A block can come out five times as long as it was estimated.
        let block_limit = limits.block.clamp(1, MAX_RAW / 8);
        let provenance = output.chunk(Chunk {
            kind: ChunkKind::Provenance,
            version: 1,
            codec: Codec::Raw,
            first_row: 0,
            references: &[],
            payload: &provenance,
        })?;
        let resumed = Resumed {
            output,
            provenance,
            directory: Vec::new(),
            page: PageBuilder::default(),
            page_first_row: 0,
            n_rows: 0,
            unread_chunks: Vec::new(),
            n_unread: 0,
            unknown_counters: BTreeMap::new(),
            keys,
        };
        let limits = Limits {
            block: block_limit,
            inline_body: limits.inline_body.min(block_limit),
            dictionary: limits.dictionary.min(MAX_DICTIONARY),
            ..limits
        };
        Self::resume(resumed, limits)
    }

    /// Goes on where another writer was interrupted.
    pub(crate) fn resume(resumed: Resumed, limits: Limits) -> Result<Self, WriteError> {
        let Resumed {
            output,
            provenance,
            directory,
            page,
            page_first_row,
            n_rows,
            unread_chunks,
            n_unread,
            unknown_counters,
            keys,
        } = resumed;
        let bodies = BodyStore::new(
            limits.block,
            limits.min_shared_body,
            limits.remembered_bodies,
        );
        let bodies = bodies.map_err(|source| WriteError::Encrypt {
            source: source.into(),
        })?;
        Ok(Self {
            group_start: output.position(),
            ticked_len: output.position(),
            output,
            limits,
            block: BlockBuilder::default(),
            page,
            bodies,
            open_bodies: HashMap::new(),
            directory,
            provenance,
            trainer: Trainer::default(),
            buffer: AlignedVec::new(),
            group_len: 0,
            n_rows,
            page_first_row,
            block_first_row: n_rows,
            body_parts_refused: 0,
            unread: UnreadBuilder::default(),
            n_unread,
            unread_chunks,
            unknown_counters,
            keys,
            ticked: Duration::ZERO,
        })
    }

    /// Stores a piece of a long body, ahead of its exchange.
    pub fn body_part(&mut self, part: &BodyPart) -> Result<(), WriteError> {
        let key = (part.key, part.role);
        if self.open_bodies.len() >= self.limits.open_bodies && !self.open_bodies.contains_key(&key)
        {
            self.body_parts_refused += 1;
            return Ok(());
        }
        let pieces = self.open_bodies.entry(key).or_default();
        self.bodies.store(&part.data, &mut self.output, pieces)
    }

    /// Adds an exchange. It is in the file after the next [`Writer::flush`] at the latest.
    pub fn exchange(&mut self, exchange: &Exchange) -> Result<(), WriteError> {
        let len = heads_len(exchange);
        // Space for the columns, for inline bodies, and for what is in the block.
        let limit = MAX_RAW / 2 - 2 * self.limits.inline_body.min(MAX_RAW / 8);
        if len > limit {
            self.forget(exchange);
            return Err(WriteError::ExchangeTooLarge { len, limit });
        }
        let inline = |message: &Option<Message>| {
            let len = message
                .as_ref()
                .map_or(0, |message| message.body.tail.len());
            if len > self.limits.inline_body {
                0
            } else {
                len
            }
        };
        let len = len + inline(&exchange.request) + inline(&exchange.response);
        if self.block.n_records() > 0 && self.block.raw_len() + len > self.limits.block {
            self.close_block()?;
            if self.group_len >= self.limits.group {
                self.close_page()?;
            }
        }
        if self.page.is_full() || self.group_is_long() {
            self.close_group()?;
        }

        let request = self.place(exchange.key, Role::Request, exchange.request.as_ref())?;
        let response = self.place(exchange.key, Role::Response, exchange.response.as_ref())?;
        let exchange = with_true_lengths(exchange, &request, &response);
        let tails = self
            .block
            .push(&exchange, &request.placement, &response.placement);
        for (placed, start) in [(&request, tails.request), (&response, tails.response)] {
            if let Some(name) = placed.remember {
                let location = Location {
                    block: self.block.handle().clone(),
                    start,
                    len: placed.tail_len,
                };
                self.bodies.remember(name, location);
            }
        }
        let bodies = Bodies {
            request: exchange.request.is_some().then(|| request.stored()),
            response: exchange.response.is_some().then(|| response.stored()),
        };
        self.page.push(&exchange, bodies);
        self.n_rows += 1;
        Ok(())
    }

    /// Adds a connection that could not be read. It is in the file after the next
    /// [`Writer::flush`] at the latest.
    pub fn unread(&mut self, unread: &UnreadConnection) -> Result<(), WriteError> {
        self.unread.push(unread);
        if self.unread.raw_len() >= self.limits.block {
            self.close_unread()?;
        }
        Ok(())
    }

    /// Puts everything so far into the file, where a crash of this process cannot take it back.
    /// Live sources use [`Writer::tick`].
    pub fn flush(&mut self) -> Result<(), WriteError> {
        self.close_group()
    }

    /// Flushes, and adds the ledger so far: what is recovered after a crash then says what it
    /// lost up to here.
    pub fn checkpoint(&mut self, ledger: &Ledger) -> Result<(), WriteError> {
        self.close_group()?;
        // Where the lists of unread connections lie is found by a scan, should it come to that.
        self.write_ledger(ledger, &[]).map(|_| ())
    }

    /// Tells the time, counted from any instant. What came more than [`Limits::hold`] ago is on the
    /// disk when this returns, with the ledger as it is now: neither a killed process nor a power
    /// cut takes it back. Live sources call it some times a second; the bound is that of the
    /// limit and of how seldom they do. Says whether anything was written.
    pub fn tick(
        &mut self,
        now: Duration,
        ledger: impl FnOnce() -> Ledger,
    ) -> Result<bool, WriteError> {
        if now.saturating_sub(self.ticked) < self.limits.hold {
            return Ok(false);
        }
        self.ticked = now;
        if !self.holds_records() && self.output.position() == self.ticked_len {
            return Ok(false);
        }
        self.close_unread()?;
        self.close_block()?;
        // A block is found without its index page, which is longer than a block of one exchange:
        // readers of an unsealed file make it up.
        if self.page.n_rows() >= MIN_TICKED_ROWS || self.group_len >= self.limits.group {
            self.close_page()?;
        }
        self.write_ledger(&ledger(), &[])?;
        self.output.sync_data()?;
        self.ticked_len = self.output.position();
        Ok(true)
    }

    /// Whether anything is in memory only that a crash would cost.
    fn holds_records(&self) -> bool {
        self.block.n_records() > 0 || self.unread.n_connections() > 0
    }

    /// Whether the archive would be empty if it were sealed now.
    pub(crate) fn is_empty(&self) -> bool {
        self.n_rows == 0 && self.n_unread == 0 && !self.holds_records()
    }

    /// Bytes of bodies whose exchanges are not over.
    #[expect(clippy::disallowed_methods, reason = "a sum has no order")]
    pub(crate) fn open_len(&self) -> u64 {
        let pieces = self.open_bodies.values().flatten();
        pieces.map(|piece| u64::from(piece.len)).sum()
    }

    /// Adds a chunk that is stored elsewhere, as it is; says where it lies.
    pub(crate) fn copy_chunk(
        &mut self,
        chunk: &source::Chunk<'_>,
        references: &[u64],
    ) -> Result<u64, WriteError> {
        self.output.copy(chunk, self.n_rows, references)
    }

    /// Makes room for the rows of a block that is stored elsewhere.
    pub(crate) fn begin_copied_block(&mut self, rows: usize) -> Result<(), WriteError> {
        self.close_block()?;
        let is_full = self.page.n_rows() + rows > MAX_PAGE_ROWS;
        if is_full || self.group_len >= self.limits.group {
            self.close_page()?;
        }
        Ok(())
    }

    /// Adds the row of an exchange of that block.
    pub(crate) fn index_copied(&mut self, exchange: &Exchange, bodies: Bodies) {
        self.page.push(exchange, bodies);
        self.n_rows += 1;
    }

    /// Says where that block lies.
    pub(crate) fn end_copied_block(&mut self, offset: u64, n_records: usize, raw_len: usize) {
        self.page.block_written(offset, n_records);
        self.block_first_row = self.n_rows;
        self.group_len += raw_len;
    }

    /// Ends the index page.
    pub(crate) fn end_page(&mut self) -> Result<(), WriteError> {
        self.close_group()
    }

    /// Hands the parts of exchanges that are not over to the writer of the next segment, which
    /// will get those exchanges, and what was learned of small blocks.
    #[expect(clippy::disallowed_methods, reason = "what comes out is sorted")]
    pub(crate) fn carry(&mut self, next: &mut Self) -> Result<(), WriteError> {
        next.trainer = self.trainer.for_next();
        if self.open_bodies.is_empty() {
            return Ok(());
        }
        // So that every part lies in the file.
        self.close_group()?;
        self.bodies.flush(&mut self.output)?;
        let path = || self.output.partial().to_owned();
        let source = Source::open_locked(self.output.partial())
            .map_err(|source| WriteError::Carry {
                path: path(),
                source: source.into(),
            })?
            .with_cipher(self.output.cipher());
        let mut open: Vec<_> = self.open_bodies.drain().collect();
        // In the order of the file, so that each block is decompressed about once.
        open.sort_by_key(|((key, role), pieces)| {
            let offset = pieces.first().and_then(|piece| piece.block.offset());
            (offset, *key, *role == Role::Response)
        });
        let mut scratch = Scratch::new();
        for (key, pieces) in open {
            let mut carried = Vec::new();
            for piece in &pieces {
                let bytes = piece_of(&source, piece, &mut scratch);
                let bytes = bytes.map_err(|damage| WriteError::Carry {
                    path: path(),
                    source: damage.into(),
                })?;
                next.bodies.store(bytes, &mut next.output, &mut carried)?;
            }
            next.open_bodies.insert(key, carried);
        }
        Ok(())
    }

    /// Completes the archive and gives it its name. It is on the disk when this returns.
    pub fn seal(mut self, ledger: &Ledger) -> Result<Summary, WriteError> {
        self.close_group()?;
        self.bodies.flush(&mut self.output)?;
        let unread = std::mem::take(&mut self.unread_chunks);
        let ledger = self.write_ledger(ledger, &unread)?;
        let directory = self.write_directory()?;
        if let Some(keys) = &self.keys {
            // All depends on it: a damaged place must not cost both copies.
            write_keys(&mut self.output, keys)?;
        }
        let mut footer = Footer::new_zeroed();
        footer.provenance = self.provenance.into();
        footer.ledger = ledger.into();
        footer.directory = directory.into();
        footer.n_pages = (self.directory.len() as u64).into();
        footer.n_rows = self.n_rows.into();
        Ok(Summary {
            exchanges: self.n_rows,
            file_len: self.output.seal(footer)?,
            deduplicated_bytes: self.bodies.deduplicated,
            unread_connections: self.n_unread,
            body_parts_refused: self.body_parts_refused,
        })
    }

    /// How long the file is by now.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.output.position()
    }

    /// Counters that this version does not know ([`Archive::unknown_counters`]), to be written beside
    /// those of the ledger: for copies.
    ///
    /// [`Archive::unknown_counters`]: crate::Archive::unknown_counters
    pub fn keep_counters(&mut self, unknown: BTreeMap<String, u64>) {
        self.unknown_counters = unknown;
    }

    /// Writes down, for good, what archives said that this one follows and that are removed then.
    pub(crate) fn inherit(&mut self, stored: StoredLedger) -> Result<(), WriteError> {
        self.keep_counters(stored.unknown);
        self.write_ledger(&stored.ledger, &[])?;
        self.output.sync_data()
    }

    #[cfg(test)]
    pub(crate) fn fill_disk_at(&mut self, capacity: u64) {
        self.output.capacity = Some(capacity);
    }

    /// Decides where a body lies.
    fn place(
        &mut self,
        key: u64,
        role: Role,
        message: Option<&Message>,
    ) -> Result<Placed, WriteError> {
        let mut placed = Placed::default();
        if !self.open_bodies.is_empty() {
            placed.placement.pieces = self.open_bodies.remove(&(key, role)).unwrap_or_default();
        }
        let Some(message) = message else {
            return Ok(Placed::default());
        };
        let body = &message.body;
        let pieces = &mut placed.placement.pieces;
        let tail = body.tail.as_slice();
        if tail.len() > self.limits.inline_body || is_dense(tail) {
            self.bodies.store(tail, &mut self.output, pieces)?;
        } else if let Some(name) = self.bodies.name(tail) {
            if let Some(found) = self.bodies.find(name) {
                pieces.push(found);
            } else {
                placed.placement.tail_inline = true;
                placed.remember = Some(name);
            }
        } else {
            placed.placement.tail_inline = true;
        }
        placed.tail_len = tail.len() as u32;
        placed.len = placed
            .placement
            .pieces
            .iter()
            .map(|piece| u64::from(piece.len))
            .sum();
        if placed.placement.tail_inline {
            placed.len += tail.len() as u64;
        }
        Ok(placed)
    }

    /// Drops the parts of an exchange that is not written.
    fn forget(&mut self, exchange: &Exchange) {
        for role in [Role::Request, Role::Response] {
            self.open_bodies.remove(&(exchange.key, role));
        }
    }

    fn close_unread(&mut self) -> Result<(), WriteError> {
        let n_connections = self.unread.n_connections();
        if n_connections == 0 {
            return Ok(());
        }
        let payload = self.unread.finish().map_err(|source| WriteError::Encode {
            source: source.into(),
        })?;
        let offset = self.output.chunk(Chunk {
            kind: ChunkKind::Unread,
            version: unread::VERSION,
            codec: Codec::Zstd,
            first_row: self.n_unread,
            references: &[],
            payload: &payload,
        })?;
        self.unread_chunks.push(offset);
        self.n_unread += n_connections;
        Ok(())
    }

    fn close_group(&mut self) -> Result<(), WriteError> {
        self.close_unread()?;
        self.close_block()?;
        self.close_page()
    }

    fn close_block(&mut self) -> Result<(), WriteError> {
        if self.block.n_records() == 0 {
            return Ok(());
        }
        if self.block.awaits_bodies() {
            self.bodies.flush(&mut self.output)?;
        }
        let handle = self.block.handle().clone();
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let (bytes, references) =
            self.block
                .finish(buffer)
                .map_err(|source| WriteError::Encode {
                    source: source.into(),
                })?;
        let is_small = bytes.len() < SMALL_BLOCK;
        if is_small && let Some(dictionary) = self.trainer.ready() {
            self.output.begin_dictionary(dictionary)?;
        }
        let codec = if is_small {
            Codec::Dictionary
        } else {
            Codec::Zstd
        };
        let offset = self.output.chunk(Chunk {
            kind: ChunkKind::Exchanges,
            version: ChunkKind::Exchanges.version(),
            codec,
            first_row: self.block_first_row,
            references: &references,
            payload: &bytes,
        })?;
        if is_small {
            self.trainer.block(&bytes, &self.limits);
        }
        handle.written_at(offset);
        let n_records = self.n_rows - self.block_first_row;
        self.page.block_written(offset, n_records as usize);
        self.block_first_row = self.n_rows;
        self.group_len += bytes.len();
        self.buffer = bytes;
        Ok(())
    }

    /// Whether a crash now would cost the records of too many body bytes: those are in the file
    /// already, and mean nothing without their records.
    fn group_is_long(&self) -> bool {
        let stored = self.output.position().saturating_sub(self.group_start);
        self.page.n_rows() > 0 && stored >= self.limits.group as u64
    }

    fn close_page(&mut self) -> Result<(), WriteError> {
        if self.page.n_rows() == 0 {
            return Ok(());
        }
        let (bytes, mut entry) = self.page.finish(self.page_first_row);
        let offset = self.output.chunk(Chunk {
            kind: ChunkKind::Page,
            version: ChunkKind::Page.version(),
            codec: Codec::Raw,
            first_row: self.page_first_row,
            references: &[],
            payload: &bytes,
        })?;
        entry.offset = offset.into();
        self.directory.push(entry);
        self.page_first_row = self.n_rows;
        self.group_len = 0;
        self.group_start = self.output.position();
        Ok(())
    }

    pub(crate) fn write_ledger(
        &mut self,
        ledger: &Ledger,
        unread: &[u64],
    ) -> Result<u64, WriteError> {
        let stored = StoredLedger {
            ledger: ledger.clone(),
            unknown: self.unknown_counters.clone(),
        };
        self.output.chunk(Chunk {
            kind: ChunkKind::Ledger,
            version: 1,
            codec: Codec::Zstd,
            first_row: 0,
            references: unread,
            payload: &stored.encode(),
        })
    }

    /// Writes the directory, and says where.
    fn write_directory(&mut self) -> Result<u64, WriteError> {
        self.output.chunk(Chunk {
            kind: ChunkKind::Directory,
            version: 1,
            codec: Codec::Raw,
            first_row: 0,
            references: &[],
            payload: self.directory.as_bytes(),
        })
    }
}

/// Raw bytes from which on a block has so much of its own that a dictionary gains little.
const SMALL_BLOCK: usize = 64 << 10;

/// How many rows an index page has at least that [`Writer::tick`] writes: with so many, its tables take
/// five bytes a row. Whoever opens an unsealed file reads as many blocks at most.
const MIN_TICKED_ROWS: usize = 256;

/// The bytes of a piece of a file that is being written.
fn piece_of<'s>(
    source: &Source,
    piece: &Location,
    scratch: &'s mut Scratch,
) -> Result<&'s [u8], Damage> {
    let offset = piece.block.offset().ok_or(Damage::Outside)?;
    source.load_block(offset, scratch)?;
    slice(scratch.bytes()?, piece.start, piece.len)
}

/// What an encrypted archive begins with.
struct Encryption {
    archive: u64,
    cipher: Arc<Cipher>,
    /// The payload of the chunk with the wrapped key.
    keys: Vec<u8>,
}

impl Encryption {
    fn new(to: &Recipients, provenance: &Provenance) -> Result<Self, WriteError> {
        let failed = |source: Unspecified| WriteError::Encrypt {
            source: source.into(),
        };
        let (cipher, wrapped) = Cipher::generate(to).map_err(failed)?;
        let mut archive = [0; 8];
        rand::fill(&mut archive).map_err(failed)?;
        let mut values = vec![(WRAPPED, wrapped.as_slice())];
        if let Some(set) = provenance.extra.get(SET) {
            // Retention has to tell its segments from others, without the key.
            values.push((SET, set.as_bytes()));
        }
        Ok(Self {
            archive: u64::from_le_bytes(archive),
            cipher: Arc::new(cipher),
            keys: provenance::encode(&values),
        })
    }
}

fn write_keys(output: &mut Output, keys: &[u8]) -> Result<u64, WriteError> {
    output.chunk(Chunk {
        kind: ChunkKind::Keys,
        version: ChunkKind::Keys.version(),
        codec: Codec::Raw,
        first_row: 0,
        references: &[],
        payload: keys,
    })
}

/// What became of a body.
#[derive(Debug, Default)]
struct Placed {
    placement: Placement,
    /// The name of an inline tail, once it is known where it lies.
    remember: Option<Name>,
    tail_len: u32,
    /// Length of the whole body.
    len: u64,
}

impl Placed {
    /// What the index says of it.
    fn stored(&self) -> StoredBody {
        let has_tail = self.placement.tail_inline && self.tail_len > 0;
        let place = match &self.placement.pieces[..] {
            [piece] if !has_tail => Some((piece.block.clone(), piece.start)),
            _ => None,
        };
        StoredBody {
            len: self.len,
            place,
        }
    }
}

/// The exchange, with body lengths as they are stored. Where that is less than its reader said,
/// parts were refused, and it says so.
fn with_true_lengths<'a>(
    exchange: &'a Exchange,
    request: &Placed,
    response: &Placed,
) -> Cow<'a, Exchange> {
    let is_short = |message: &Option<Message>, placed: &Placed| {
        message
            .as_ref()
            .is_some_and(|message| message.body.len > placed.len)
    };
    let short = [
        is_short(&exchange.request, request),
        is_short(&exchange.response, response),
    ];
    if short == [false, false] {
        return Cow::Borrowed(exchange);
    }
    let mut exchange = exchange.clone();
    for (message, is_short) in [&mut exchange.request, &mut exchange.response]
        .into_iter()
        .zip(short)
    {
        if let Some(message) = message.as_mut().filter(|_| is_short) {
            message.missing.insert(Missing::PARTIAL);
        }
    }
    Cow::Owned(exchange)
}

/// At most, in a block.
const FIELD_LEN: usize = 20;
const GAP_LEN: usize = 24;
const ARRIVAL_LEN: usize = 16;

/// About how many bytes an exchange takes in a block, its bodies not counted.
fn heads_len(exchange: &Exchange) -> usize {
    let head = |head: &Head| head.raw.len() + head.fields.len() * FIELD_LEN + 48;
    let message = |message: &Message| {
        let heads = message.head.as_ref().map_or(0, head);
        let trailers = message.trailers.as_ref().map_or(0, head);
        let Body { gaps, arrivals, .. } = &message.body;
        heads + trailers + gaps.len() * GAP_LEN + arrivals.len() * ARRIVAL_LEN
    };
    let interim = exchange.interim.iter().map(|interim| head(&interim.head));
    let request = exchange.request.as_ref().map_or(0, message);
    let response = exchange.response.as_ref().map_or(0, message);
    request + response + interim.sum::<usize>() + 512
}
