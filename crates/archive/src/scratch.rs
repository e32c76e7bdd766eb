//! Buffers that readers bring along, so that reading allocates nothing once they are warm.

use rkyv::util::AlignedVec;

use crate::block::layout::Layout;
use crate::block::v1;
use crate::block::view::{BlockOrigin, Record, access};
use crate::error::Damage;
use crate::format::ChunkKind;
use crate::inflate::Inflater;
use crate::source::{Chunk, Source};

/// One decompressed block, reused from load to load. Loading an exchange of the same block again
/// costs nothing but a lookup, so that it pays to keep a scratch for exchanges read in order.
#[derive(Debug, Default)]
pub struct Scratch {
    buffer: AlignedVec,
    layout: Layout,
    references: Vec<u64>,
    inflater: Inflater,
    /// Which block is there: the number of the open archive, the place, and the kind.
    loaded: Option<(u64, u64, ChunkKind)>,
    /// Where a block is decrypted before it is decompressed.
    opened: AlignedVec,
}

impl Scratch {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn holds(&self, archive: u64, offset: u64) -> bool {
        let loaded = self.loaded;
        loaded.is_some_and(|(held, at, _)| (held, at) == (archive, offset))
    }

    /// The buffer in which a block is decrypted.
    pub(crate) fn take_opened(&mut self) -> AlignedVec {
        std::mem::take(&mut self.opened)
    }

    /// Gives the buffer back.
    pub(crate) fn give_opened(&mut self, chunk: Chunk<'_>) {
        if let Some(opened) = chunk.into_opened() {
            self.opened = opened.into_buffer();
        }
    }

    /// Decompresses a block and checks everything in it.
    pub(crate) fn fill(
        &mut self,
        chunk: &Chunk<'_>,
        source: &Source,
        offset: u64,
    ) -> Result<(), Damage> {
        self.loaded = None;
        let dictionary = source.dictionary(chunk)?;
        self.inflater
            .inflate_with(chunk, dictionary.as_deref(), &mut self.buffer)?;
        self.references.clear();
        self.references.extend(chunk.references());
        self.layout.clear();
        if chunk.kind == ChunkKind::Exchanges {
            if chunk.version == 1 {
                (self.buffer, self.references) = v1::upgrade(&self.buffer, &self.references)?;
            }
            self.layout.compute(access(&self.buffer)?, chunk.version)?;
        }
        self.loaded = Some((source.instance(), offset, chunk.kind));
        Ok(())
    }

    /// How many records the block has.
    pub(crate) fn n_records(&self) -> usize {
        self.layout.len()
    }

    /// A record of the block.
    pub(crate) fn record(&self, number: usize) -> Result<Record<'_>, Damage> {
        let (archive, offset, _) = self.loaded.ok_or(Damage::Kind)?;
        let start = self
            .layout
            .start(number)
            .ok_or(Damage::Structure("a row names no record"))?;
        // Checked when the block came; checking again costs next to nothing, since every type in
        // it is plain data, and saves the unchecked access.
        let block = access(&self.buffer)?;
        let origin = BlockOrigin {
            archive,
            offset,
            references: &self.references,
        };
        Record::new(block, number, start, origin)
    }

    /// The bytes that pieces point into.
    pub(crate) fn bytes(&self) -> Result<&[u8], Damage> {
        let (_, _, kind) = self.loaded.ok_or(Damage::Kind)?;
        if kind == ChunkKind::Exchanges {
            return Ok(access(&self.buffer)?.bodies.as_slice());
        }
        Ok(&self.buffer)
    }
}

/// A body in one piece, reused from body to body.
#[derive(Debug)]
pub struct BodyBuffer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) block: Scratch,
    pub(crate) limit: u64,
}

impl BodyBuffer {
    /// A buffer for bodies up to [`BodyBuffer::DEFAULT_LIMIT`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(Self::DEFAULT_LIMIT)
    }

    /// A buffer for bodies up to `limit` bytes. An archive of a few bytes can claim a body of many
    /// GiB, all of it the same bytes; this is what keeps it from the memory.
    #[must_use]
    pub fn with_limit(limit: u64) -> Self {
        Self {
            bytes: Vec::new(),
            block: Scratch::new(),
            limit,
        }
    }

    pub(crate) fn block(&mut self) -> &mut Scratch {
        &mut self.block
    }

    /// 256 MiB.
    pub const DEFAULT_LIMIT: u64 = 256 << 20;
}

impl Default for BodyBuffer {
    fn default() -> Self {
        Self::new()
    }
}
