//! Exchanges go from one archive into another, by blocks where whole blocks go.

use std::collections::{BTreeSet, HashMap};

use tapedeck_model::{BodyPart, Exchange, Message, Role};

use super::archive::Archive;
use crate::block::builder::BlockHandle;
use crate::block::view::MessageView;
use crate::error::{Damage, ReadError, WriteError};
use crate::format::{ChunkKind, MAX_PAGE_ROWS};
use crate::page::builder::{Bodies, StoredBody};
use crate::reader::Segment;
use crate::scratch::{BodyBuffer, Scratch};
use crate::source::Chunk;
use crate::writer::Writer;

/// Exchanges of an archive, by id: one bit for each.
#[derive(Clone, Debug)]
pub struct Selection {
    bits: Vec<u64>,
    len: u64,
}

impl Selection {
    /// None of an archive's exchanges.
    #[must_use]
    pub fn none(archive: &Archive) -> Self {
        let words = usize::try_from(archive.len().div_ceil(64)).unwrap_or(usize::MAX);
        Self {
            bits: vec![0; words],
            len: 0,
        }
    }

    /// Adds an exchange.
    pub fn insert(&mut self, id: u64) {
        let word = usize::try_from(id / 64).ok();
        if let Some(word) = word.and_then(|word| self.bits.get_mut(word)) {
            let bit = 1 << (id % 64);
            self.len += u64::from(*word & bit == 0);
            *word |= bit;
        }
    }

    /// Whether an exchange is in it.
    #[must_use]
    pub fn contains(&self, id: u64) -> bool {
        let word = usize::try_from(id / 64).ok();
        word.and_then(|word| self.bits.get(word))
            .is_some_and(|word| word & (1 << (id % 64)) != 0)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What [`copy`] copied.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Copied {
    /// Exchanges.
    pub exchanges: u64,
    /// Of these: not whole.
    pub incomplete: u64,
    /// Of these: without a request.
    pub without_request: u64,
    /// Of these: without a response.
    pub without_response: u64,
    /// Exchange blocks that were copied as they are stored.
    pub blocks_whole: u64,
    /// Exchange blocks of which some exchanges were written anew, or all, because they name bodies
    /// that do not all go along.
    pub blocks_anew: u64,
}

/// Why a copy stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// An exchange could not be read.
    #[error("failed to read exchange {id}")]
    Read {
        /// Its id.
        id: u64,
        /// Why.
        source: ReadError,
    },
    /// The new archive could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Copies exchanges, in their order. `progress` gets the number of those that were passed so far.
///
/// A block all of whose exchanges are chosen is copied as it is stored, with the body blocks that it
/// names; but a body block that an exchange names, too, which is left out, does not go along: what
/// was left out is nowhere in the new archive. The other exchanges are written anew. Rows of
/// damaged index pages are not copied.
pub fn copy(
    archive: &Archive,
    chosen: &Selection,
    writer: &mut Writer,
    progress: &mut dyn FnMut(u64),
) -> Result<Copied, CopyError> {
    let mut copied = Copied::default();
    for segment in archive.files() {
        let mut copy = Copy {
            segment,
            chosen,
            writer,
            copied,
            moved: HashMap::new(),
            scratch: Scratch::new(),
            buffer: BodyBuffer::new(),
        };
        copy.segment(progress)?;
        copied = copy.copied;
    }
    Ok(copied)
}

/// A block, as its index page sees it.
#[derive(Clone, Copy, Debug)]
struct Planned {
    offset: u64,
    first_id: u64,
    rows: u64,
    chosen: u64,
    /// Whether its rows are the records of the block, in order.
    is_plain: bool,
    page: usize,
}

impl Planned {
    fn is_whole(&self) -> bool {
        self.is_plain && self.rows == self.chosen
    }
}

struct Copy<'a> {
    segment: &'a Segment,
    chosen: &'a Selection,
    writer: &'a mut Writer,
    copied: Copied,
    /// Where the blocks that were copied as they are lie now.
    moved: HashMap<u64, u64>,
    scratch: Scratch,
    buffer: BodyBuffer,
}

impl Copy<'_> {
    fn segment(&mut self, progress: &mut dyn FnMut(u64)) -> Result<(), CopyError> {
        let plan = self.plan();
        let mut bodies = self.whole_bodies(&plan);
        let mut is_page_whole = true;
        let mut blocks = plan.iter().peekable();
        while let Some(block) = blocks.next() {
            // In the order of the file, so that a copy of everything is the same file.
            while let Some(offset) = bodies.pop_first() {
                if offset > block.offset {
                    bodies.insert(offset);
                    break;
                }
                if let Ok(chunk) = self.segment.source().chunk(offset, ChunkKind::Bodies) {
                    let new = self.writer.copy_chunk(&chunk, &[])?;
                    self.moved.insert(offset, new);
                }
            }
            if block.chosen > 0 {
                let is_whole = block.is_whole() && self.whole(block)?;
                if is_whole {
                    self.copied.blocks_whole += 1;
                } else {
                    self.copied.blocks_anew += 1;
                    self.anew(block)?;
                }
                is_page_whole &= is_whole;
            } else {
                is_page_whole = false;
            }
            if blocks.peek().is_none_or(|next| next.page != block.page) {
                // A page that goes along as it is stays one page.
                if is_page_whole {
                    self.writer.end_page()?;
                }
                is_page_whole = true;
            }
            progress(block.first_id.saturating_add(block.rows));
        }
        Ok(())
    }

    /// The body blocks that only exchanges name whose blocks go along.
    fn whole_bodies(&self, plan: &[Planned]) -> BTreeSet<u64> {
        let (mut named, mut shared) = (BTreeSet::new(), Vec::new());
        for block in plan {
            let Ok(chunk) = self.segment.source().any_chunk(block.offset) else {
                continue;
            };
            if block.is_whole() {
                named.extend(chunk.references());
            } else {
                shared.extend(chunk.references());
            }
        }
        for offset in shared {
            named.remove(&offset);
        }
        // Bodies lie in exchange blocks, too, where they came first.
        for block in plan {
            named.remove(&block.offset);
        }
        named
    }

    /// The blocks of the segment, in order.
    fn plan(&self) -> Vec<Planned> {
        let mut plan: Vec<Planned> = Vec::new();
        for number in 0..self.segment.n_pages() {
            let Ok(page) = self.segment.page(number) else {
                continue;
            };
            for row in page.rows() {
                let Some((offset, record)) = row.place() else {
                    continue;
                };
                let is_next = |block: &&mut Planned| block.page == number && block.offset == offset;
                let chosen = u64::from(self.chosen.contains(row.id()));
                match plan.last_mut().filter(is_next) {
                    Some(block) => {
                        block.is_plain &= record as u64 == block.rows;
                        block.rows += 1;
                        block.chosen += chosen;
                    }
                    None => plan.push(Planned {
                        offset,
                        first_id: row.id(),
                        rows: 1,
                        chosen,
                        is_plain: record == 0,
                        page: number,
                    }),
                }
            }
        }
        plan
    }

    /// Copies a block as it is stored. `false`, and nothing was done, where that cannot be.
    fn whole(&mut self, block: &Planned) -> Result<bool, CopyError> {
        let source = self.segment.source();
        let Ok(chunk) = source.chunk(block.offset, ChunkKind::Exchanges) else {
            // Read one by one, it says which exchange is damaged.
            return Ok(false);
        };
        // Ids of connections lie in the block: where they are moved, it is another block.
        let is_as_it_is = chunk.version == ChunkKind::Exchanges.version()
            && self.segment.first_connection() == 0
            && block.rows <= MAX_PAGE_ROWS as u64;
        if !is_as_it_is {
            return Ok(false);
        }
        let filled = self.scratch.fill(&chunk, source, block.offset);
        if filled.is_err() || self.scratch.n_records() as u64 != block.rows {
            return Ok(false);
        }
        // Of what it names, all goes along, or it has to be written anew.
        let moved = chunk.references().map(|old| self.moved.get(&old).copied());
        let Some(moved) = moved.collect::<Option<Vec<u64>>>() else {
            return Ok(false);
        };
        let mut exchanges = Vec::new();
        for number in 0..self.scratch.n_records() {
            let record = self.scratch.record(number);
            let record = record.map_err(|damage| CopyError::Read {
                id: block.first_id.saturating_add(number as u64),
                source: ReadError::Damaged {
                    offset: block.offset,
                    damage,
                },
            })?;
            exchanges.push((record.to_exchange(), Bodies::of(&record)));
        }
        self.writer.begin_copied_block(exchanges.len())?;
        let mut references = moved;
        references.extend(self.dictionaries(&chunk)?);
        let new = self.writer.copy_chunk(&chunk, &references)?;
        self.moved.insert(block.offset, new);
        let rows = exchanges.len();
        for (exchange, mut bodies) in exchanges {
            for body in [&mut bodies.request, &mut bodies.response] {
                self.move_place(body.as_mut());
            }
            self.writer.index_copied(&exchange, bodies);
            self.count(&exchange);
        }
        self.writer.end_copied_block(new, rows, chunk.raw_len());
        Ok(true)
    }

    /// Where the copies of a block's dictionary lie now. They go along with the first block that needs
    /// them; in place of one that is damaged stands the other.
    fn dictionaries(&mut self, chunk: &Chunk<'_>) -> Result<Vec<u64>, CopyError> {
        let mut places = Vec::new();
        for old in chunk.dictionaries() {
            if let Some(new) = self.moved.get(&old) {
                places.push(*new);
            } else if let Ok(dictionary) = self.segment.source().chunk(old, ChunkKind::Dictionary) {
                let new = self.writer.copy_chunk(&dictionary, &[])?;
                self.moved.insert(old, new);
                places.push(new);
            }
        }
        let n_copies = chunk.dictionaries().len();
        match places.first() {
            Some(first) => places.resize(n_copies, *first),
            // Cannot be: the block was just read with it.
            None if n_copies > 0 => {
                let (id, damage) = (self.segment.first_row(), Damage::Dictionary);
                let source = ReadError::Damaged { offset: 0, damage };
                return Err(CopyError::Read { id, source });
            }
            None => {}
        }
        Ok(places)
    }

    /// Says where a body lies now, for the index.
    fn move_place(&self, body: Option<&mut StoredBody>) {
        let Some((block, _)) = body.and_then(|body| body.place.as_mut()) else {
            return;
        };
        if let Some(new) = block.offset().and_then(|old| self.moved.get(&old)) {
            let moved = BlockHandle::default();
            moved.written_at(*new);
            *block = moved;
        }
    }

    /// Writes the chosen exchanges of a block anew.
    fn anew(&mut self, block: &Planned) -> Result<(), CopyError> {
        let ids = block.first_id..block.first_id.saturating_add(block.rows);
        for id in ids.filter(|id| self.chosen.contains(*id)) {
            let failed = |source| CopyError::Read { id, source };
            let mut scratch = std::mem::take(&mut self.scratch);
            let local = id.saturating_sub(self.segment.first_row());
            let record = self.segment.load(local, &mut scratch).map_err(failed)?;
            let mut exchange = record.to_exchange();
            exchange.key = self.copied.exchanges;
            let key = exchange.key;
            for (role, view, message) in [
                (Role::Request, record.request(), &mut exchange.request),
                (Role::Response, record.response(), &mut exchange.response),
            ] {
                if let (Some(view), Some(message)) = (view, message) {
                    self.body(id, (key, role), &view, message)?;
                }
            }
            self.writer.exchange(&exchange)?;
            self.count(&exchange);
            self.scratch = scratch;
        }
        Ok(())
    }

    fn body(
        &mut self,
        id: u64,
        (key, role): (u64, Role),
        view: &MessageView<'_>,
        message: &mut Message,
    ) -> Result<(), CopyError> {
        let mut part = BodyPart {
            key,
            role,
            data: Vec::new(),
        };
        let (mut parts, mut failure) = (0, None);
        let (writer, source) = (&mut *self.writer, self.segment.source());
        let read = source.for_each_piece(&view.body(), self.buffer.block(), |bytes| {
            part.data.extend_from_slice(bytes);
            if part.data.len() >= PART {
                parts += 1;
                writer.body_part(&part).map_err(|error| {
                    failure = Some(error);
                    ReadError::ForeignBody
                })?;
                part.data.clear();
            }
            Ok(())
        });
        if let Some(error) = failure {
            return Err(error.into());
        }
        read.map_err(|source| CopyError::Read { id, source })?;
        message.body.parts = parts;
        message.body.tail = part.data;
        Ok(())
    }

    fn count(&mut self, exchange: &Exchange) {
        self.copied.exchanges += 1;
        self.copied.incomplete += u64::from(!exchange.complete());
        self.copied.without_request += u64::from(exchange.request.is_none());
        self.copied.without_response += u64::from(exchange.response.is_none());
    }
}

/// A body that is written anew leaves in parts of about this length.
const PART: usize = 1 << 20;
