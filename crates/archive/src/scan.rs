//! A file is walked from chunk to chunk, over whatever is damaged.

use crate::error::Damage;
use crate::format::{ALIGNMENT, CHUNK_MAGIC, ChunkKind, FOOTER_LEN, HEADER_LEN};
use crate::source::{Chunk, Source};

/// The chunks of a file, in order, and the damaged places between them.
pub(crate) struct Scan<'a> {
    source: &'a Source,
    offset: u64,
    end: u64,
}

/// What lies at a place.
pub(crate) struct Found<'a> {
    pub(crate) offset: u64,
    /// Up to where the next thing is looked for.
    pub(crate) len: u64,
    /// What its header says it is, where that can be read.
    pub(crate) kind: Option<ChunkKind>,
    pub(crate) chunk: Result<Chunk<'a>, Damage>,
    /// Bytes behind the chunk that should be zero are not. The chunk is none the worse.
    pub(crate) is_padding_damaged: bool,
}

impl<'a> Scan<'a> {
    /// From the first chunk up to the footer, or the end where there is no sound one.
    pub(crate) fn new(source: &'a Source) -> Self {
        let len = source.bytes().len() as u64;
        let end = match source.outer_footer() {
            Some(_) => len - FOOTER_LEN as u64,
            None => len,
        };
        Self {
            source,
            offset: HEADER_LEN as u64,
            end,
        }
    }

    /// The first place at or behind `from` where a sound header lies; the end where none does.
    fn next_header(&self, from: u64) -> u64 {
        let bytes = self.source.bytes();
        let mut offset = from.next_multiple_of(ALIGNMENT as u64);
        while offset < self.end {
            let rest = bytes.get(offset as usize..).unwrap_or_default();
            if rest.starts_with(&CHUNK_MAGIC) && self.source.chunk_header(offset).is_ok() {
                return offset;
            }
            offset += ALIGNMENT as u64;
        }
        self.end
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        let offset = self.offset;
        if offset >= self.end {
            return None;
        }
        let header = self.source.chunk_header(offset).and_then(|header| {
            match offset.checked_add(header.chunk_len()) {
                Some(next) if next <= self.end => Ok((header, next)),
                _ => Err(Damage::Outside),
            }
        });
        let (header, next) = match header {
            Ok(found) => found,
            Err(damage) => {
                self.offset = self.next_header(offset + 1);
                return Some(Found {
                    offset,
                    len: self.offset - offset,
                    kind: None,
                    chunk: Err(damage),
                    is_padding_damaged: false,
                });
            }
        };
        self.offset = next;
        let padding = offset + HEADER_LEN as u64 + header.body_len();
        let padding = self.source.bytes().get(padding as usize..next as usize);
        let chunk = self.source.any_chunk(offset);
        let kind = chunk.as_ref().map(|chunk| chunk.kind).ok();
        Some(Found {
            offset,
            len: next - offset,
            kind: kind.or_else(|| ChunkKind::from_number(header.kind)),
            chunk,
            is_padding_damaged: padding.is_none_or(|bytes| bytes.iter().any(|byte| *byte != 0)),
        })
    }
}
