//! The bytes of a file, and the chunks in them.

use std::borrow::Cow;
use std::fs::File;
use std::path::Path;

use memmap2::Mmap;
use rkyv::util::AlignedVec;
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::FromBytes;
use zstd::bulk::Decompressor;

use crate::error::{Damage, OpenError};
use crate::format::{
    ChunkHeader, ChunkKind, Codec, FOOTER_LEN, FOOTER_MAGIC, FileHeader, Footer, HEADER_LEN, MAGIC,
    MAJOR, self_hash,
};

/// A mapped file whose header is sound.
#[derive(Debug)]
pub(crate) struct Source {
    map: Mmap,
    pub(crate) archive: u64,
}

impl Source {
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let io_error = |action| {
            move |source| OpenError::Io {
                action,
                path: path.to_owned(),
                source,
            }
        };
        let file = File::open(path).map_err(io_error("open"))?;
        let metadata = file.metadata().map_err(io_error("look at"))?;
        if !metadata.is_file() {
            return Err(OpenError::NotAFile { path: path.into() });
        }
        if metadata.len() == 0 {
            return Err(OpenError::Empty { path: path.into() });
        }
        let map = map(&file).map_err(io_error("map"))?;
        let not_an_archive = || OpenError::NotAnArchive { path: path.into() };
        if !map.starts_with(&MAGIC) {
            return Err(not_an_archive());
        }
        // A file cut within its first 64 bytes.
        let (header, _) = FileHeader::read_from_prefix(&map).map_err(|_| not_an_archive())?;
        if header.hash.get() != self_hash(&header) {
            return Err(OpenError::Damaged {
                path: path.into(),
                offset: 0,
                damage: Damage::Header,
            });
        }
        if header.readable_by.get() > MAJOR {
            return Err(OpenError::TooNew {
                path: path.into(),
                found: header.major.get(),
            });
        }
        Ok(Self {
            archive: header.archive.get(),
            map,
        })
    }

    /// Every byte of the file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The footer, where a sound one ends the file.
    pub(crate) fn footer(&self) -> Option<Footer> {
        let (_, bytes) = self.map.split_last_chunk::<FOOTER_LEN>()?;
        let footer = Footer::read_from_bytes(bytes).ok()?;
        let is_sound = footer.magic == FOOTER_MAGIC
            && footer.hash.get() == self_hash(&footer)
            && footer.archive.get() == self.archive
            && footer.file_len.get() == self.map.len() as u64;
        is_sound.then_some(footer)
    }

    /// The header of the chunk at this offset, if a sound one is there, and the chunk lies within
    /// the file.
    pub(crate) fn chunk_header(&self, offset: u64) -> Result<&ChunkHeader, Damage> {
        let start = usize::try_from(offset).map_err(|_| Damage::Outside)?;
        let bytes = self.map.get(start..).ok_or(Damage::Outside)?;
        let (header, rest) = ChunkHeader::ref_from_prefix(bytes).map_err(|_| Damage::Outside)?;
        if !header.is_sound(self.archive, offset) {
            return Err(Damage::Header);
        }
        if header.body_len() > rest.len() as u64 {
            return Err(Damage::Outside);
        }
        Ok(header)
    }

    /// The chunk at this offset, of this kind, with its checksum verified.
    pub(crate) fn chunk(&self, offset: u64, kind: ChunkKind) -> Result<Chunk<'_>, Damage> {
        let chunk = self.any_chunk(offset)?;
        if chunk.kind == kind {
            Ok(chunk)
        } else {
            Err(Damage::Kind)
        }
    }

    /// The chunk at this offset, of any kind that is known, with its checksum verified.
    pub(crate) fn any_chunk(&self, offset: u64) -> Result<Chunk<'_>, Damage> {
        let header = self.chunk_header(offset)?;
        let kind = ChunkKind::from_number(header.kind).ok_or(Damage::Unknown)?;
        let codec = Codec::from_number(header.codec).ok_or(Damage::Unknown)?;
        if header.version.get() != VERSION_OF_CHUNKS {
            return Err(Damage::Unknown);
        }
        let start = offset as usize + HEADER_LEN;
        let body = self
            .map
            .get(start..start.saturating_add(header.body_len() as usize))
            .ok_or(Damage::Outside)?;
        if header.payload_hash.get() != xxh3_64(body) {
            return Err(Damage::Checksum);
        }
        let (references, stored) = body
            .split_at_checked(header.n_references.get() as usize * 8)
            .ok_or(Damage::Outside)?;
        let raw_len = header.raw_len.get() as usize;
        if raw_len > kind.max_raw() || (codec == Codec::Raw && raw_len != stored.len()) {
            return Err(Damage::Length);
        }
        Ok(Chunk {
            kind,
            codec,
            first_row: header.first_row.get(),
            references,
            stored,
            raw_len,
        })
    }
}

/// Every kind of chunk is at its first version.
const VERSION_OF_CHUNKS: u16 = 1;

/// A chunk whose checksum matches.
#[derive(Clone, Copy)]
pub(crate) struct Chunk<'a> {
    pub(crate) kind: ChunkKind,
    codec: Codec,
    pub(crate) first_row: u64,
    references: &'a [u8],
    stored: &'a [u8],
    raw_len: usize,
}

impl<'a> Chunk<'a> {
    /// The payload, where it is stored as it is.
    pub(crate) fn plain(&self) -> Option<&'a [u8]> {
        (self.codec == Codec::Raw).then_some(self.stored)
    }

    /// The payload of a chunk that is small and seldom read.
    pub(crate) fn payload(&self, inflater: &mut Inflater) -> Result<Cow<'a, [u8]>, Damage> {
        match self.plain() {
            Some(plain) => Ok(plain.into()),
            None => {
                let mut buffer = AlignedVec::new();
                inflater.inflate(self, &mut buffer)?;
                Ok(Cow::Owned(buffer.to_vec()))
            }
        }
    }

    pub(crate) fn references(&self) -> impl Iterator<Item = u64> + use<'a> {
        let (references, _) = self.references.as_chunks::<8>();
        references.iter().map(|bytes| u64::from_le_bytes(*bytes))
    }
}

/// A zstd context, made on first use and kept.
#[derive(Default)]
pub(crate) struct Inflater(Option<Decompressor<'static>>);

impl Inflater {
    /// Puts the payload of a chunk into the buffer, exactly.
    pub(crate) fn inflate(
        &mut self,
        chunk: &Chunk<'_>,
        buffer: &mut AlignedVec,
    ) -> Result<(), Damage> {
        // `raw_len` is no more than 16 MiB here, and what does not fit it is an error.
        buffer.resize(chunk.raw_len, 0);
        let len = match chunk.codec {
            Codec::Raw => {
                buffer.copy_from_slice(chunk.stored);
                chunk.raw_len
            }
            Codec::Zstd => {
                let context = match &mut self.0 {
                    Some(context) => context,
                    none => none.insert(Decompressor::new().map_err(|_| Damage::Compression)?),
                };
                context
                    .decompress_to_buffer(chunk.stored, &mut buffer[..])
                    .map_err(|_| Damage::Compression)?
            }
        };
        if len == chunk.raw_len {
            Ok(())
        } else {
            Err(Damage::Length)
        }
    }
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inflater")
    }
}

fn map(file: &File) -> std::io::Result<Mmap> {
    #[expect(
        unsafe_code,
        reason = "zero-copy reading needs a mapping, and there is no safe one"
    )]
    // SAFETY: the map is read-only and private to this process. Sealed archives never change:
    // writers only ever append to a hidden file, and give it its name when it is complete. Whoever
    // changes the file behind our back can make us read other bytes than were checked, which
    // safe code bears: every access in this crate is bounds-checked where it happens, and no
    // type with invalid bit patterns is ever seen through the map (`zerocopy` sees to that; rkyv
    // reads only buffers that we own). Whoever cuts it off makes us die of SIGBUS.
    unsafe {
        Mmap::map(file)
    }
}
