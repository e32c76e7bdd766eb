//! What waits behind a hole.

use std::collections::BTreeMap;

use tapedeck_model::Timestamp;

use crate::age_queue::Ticket;

/// The part of a half that only exists while something is out of order.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// By offset. They neither overlap nor begin before the next byte to deliver.
    chunks: BTreeMap<u64, Chunk>,
    /// What the chunks cost, bookkeeping included.
    memory: usize,
    /// Captured bytes in the chunks.
    bytes: u64,
    /// Where and how the half ends, once that is known.
    pub(crate) ending: Option<Ending>,
    /// How far the receiver has acknowledged.
    pub(crate) acked: u64,
    /// What `acked` was when the grace for it began.
    pub(crate) mark: u64,
    /// The place among the halves that wait for a hole to fill.
    pub(crate) hole: Option<Ticket>,
    /// The place among the halves that are behind their receiver's acknowledgment.
    pub(crate) behind: Option<Ticket>,
}

/// Bytes that wait.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// When they were captured.
    pub(crate) at: Timestamp,
    /// Which offset of the other direction their sender had received: they are not delivered
    /// before it.
    pub(crate) needs: u64,
    pub(crate) content: Content,
}

#[derive(Debug)]
pub(crate) enum Content {
    Data(Box<[u8]>),
    /// Bytes that the snapshot length cut off.
    Cut(u64),
}

/// How a half ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    pub(crate) offset: u64,
    pub(crate) kind: EndKind,
    pub(crate) at: Timestamp,
    pub(crate) needs: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum EndKind {
    Fin,
    Reset,
}

/// What became of bytes that were to wait.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Inserted {
    /// Bytes that were waiting already.
    pub(crate) duplicate: u64,
    /// Some of those were different.
    pub(crate) conflict: bool,
}

/// A node of the tree with its share of the spare room, and the allocator's header: measured at
/// about 100 bytes for one-byte chunks.
const CHUNK_OVERHEAD: usize = 112;

impl Backlog {
    /// Whether there is nothing to remember.
    pub(crate) fn is_idle(&self) -> bool {
        self.chunks.is_empty()
            && self.ending.is_none()
            && self.hole.is_none()
            && self.behind.is_none()
    }

    pub(crate) const fn memory(&self) -> usize {
        self.memory
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where the first chunk begins, and when it was captured.
    pub(crate) fn first(&self) -> Option<(u64, &Chunk)> {
        self.chunks
            .first_key_value()
            .map(|(offset, chunk)| (*offset, chunk))
    }

    /// Where the last chunk ends.
    pub(crate) fn end(&self) -> Option<u64> {
        self.chunks
            .last_key_value()
            .map(|(offset, chunk)| offset + chunk.len())
    }

    /// Where the front hole ends: at the first chunk, or at the end of the half.
    pub(crate) fn hole_end(&self) -> Option<u64> {
        let ending = self.ending.map(|ending| ending.offset);
        self.first().map(|(offset, _)| offset).or(ending)
    }

    /// Whether any chunk touches that range.
    pub(crate) fn overlaps(&self, start: u64, end: u64) -> bool {
        self.first().is_some_and(|(first, _)| first < end)
            && self.end().is_some_and(|last| last > start)
    }

    /// Adds bytes. Those that are there already win: they came first.
    pub(crate) fn insert(
        &mut self,
        offset: u64,
        data: &[u8],
        at: Timestamp,
        needs: u64,
    ) -> Inserted {
        let mut inserted = Inserted::default();
        let end = offset + data.len() as u64;
        let slice = |from: u64, to: u64| {
            data.get((from - offset) as usize..(to - offset) as usize)
                .unwrap_or_default()
        };
        let mut free = Vec::new();
        let mut position = offset;
        for (start, chunk) in self.touching(offset, end) {
            let chunk_end = start + chunk.len();
            if start > position {
                free.push((position, start));
            }
            let (from, to) = (position.max(start), end.min(chunk_end));
            inserted.duplicate += to - from;
            inserted.conflict |= match &chunk.content {
                Content::Data(bytes) => {
                    bytes.get((from - start) as usize..(to - start) as usize)
                        != Some(slice(from, to))
                }
                Content::Cut(_) => false,
            };
            position = to;
        }
        if position < end {
            free.push((position, end));
        }
        for (from, to) in free {
            let bytes = slice(from, to);
            self.bytes += bytes.len() as u64;
            self.put(
                from,
                Chunk {
                    at,
                    needs,
                    content: Content::Data(bytes.into()),
                },
            );
        }
        inserted
    }

    /// Adds the mark of bytes that the snapshot length cut off, where nothing else is.
    pub(crate) fn insert_cut(&mut self, offset: u64, end: u64, at: Timestamp, needs: u64) {
        let mut free = Vec::new();
        let mut position = offset;
        for (start, chunk) in self.touching(offset, end) {
            if start > position {
                free.push((position, start));
            }
            position = start + chunk.len();
        }
        if position < end {
            free.push((position, end));
        }
        for (from, to) in free {
            self.put(
                from,
                Chunk {
                    at,
                    needs,
                    content: Content::Cut(to - from),
                },
            );
        }
    }

    /// Takes the first chunk out.
    pub(crate) fn pop(&mut self) -> Option<Chunk> {
        let (_, chunk) = self.chunks.pop_first()?;
        self.forget(&chunk);
        Some(chunk)
    }

    /// Drops what lies behind `offset` and says how many captured bytes that was.
    pub(crate) fn truncate(&mut self, offset: u64) -> u64 {
        let before = self.bytes;
        while let Some((start, mut chunk)) = self.chunks.pop_last() {
            if start + chunk.len() <= offset {
                self.chunks.insert(start, chunk);
                break;
            }
            self.forget(&chunk);
            if start < offset {
                let keep = offset - start;
                match &mut chunk.content {
                    Content::Data(bytes) => {
                        *bytes = bytes.get(..keep as usize).unwrap_or_default().into();
                        self.bytes += keep;
                    }
                    Content::Cut(len) => *len = keep,
                }
                self.put(start, chunk);
                break;
            }
        }
        before - self.bytes
    }

    /// The chunks that touch that range, in order.
    fn touching(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, &Chunk)> {
        let before = self.chunks.range(..start).next_back();
        let before = before.filter(|(offset, chunk)| *offset + chunk.len() > start);
        before
            .into_iter()
            .chain(self.chunks.range(start..end))
            .map(|(offset, chunk)| (*offset, chunk))
    }

    fn put(&mut self, offset: u64, chunk: Chunk) {
        self.memory += chunk.cost();
        self.chunks.insert(offset, chunk);
    }

    fn forget(&mut self, chunk: &Chunk) {
        self.memory -= chunk.cost();
        if let Content::Data(bytes) = &chunk.content {
            self.bytes -= bytes.len() as u64;
        }
    }
}

impl Chunk {
    const fn len(&self) -> u64 {
        match &self.content {
            Content::Data(bytes) => bytes.len() as u64,
            Content::Cut(len) => *len,
        }
    }

    const fn cost(&self) -> usize {
        CHUNK_OVERHEAD
            + match &self.content {
                Content::Data(bytes) => bytes.len(),
                Content::Cut(_) => 0,
            }
    }
}
