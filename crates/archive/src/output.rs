//! Chunks go to the hidden file.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;
use zerocopy::little_endian::U64;
use zerocopy::{FromZeros, IntoBytes};
use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, Strategy};

use crate::encryption::cipher::{self, Cipher, NONCE_LEN, TAG_LEN};
use crate::error::WriteError;
use crate::format::{
    CHUNK_MAGIC, ChunkHeader, ChunkKind, Codec, DICTIONARY_COPIES, End, FOOTER_MAGIC, FileHeader,
    Footer, HEADER_LEN, InnerHeader, padding, self_hash,
};
use crate::source;

/// What a chunk is to hold.
#[derive(Clone, Copy)]
pub(crate) struct Chunk<'a> {
    pub(crate) kind: ChunkKind,
    pub(crate) version: u16,
    pub(crate) codec: Codec,
    pub(crate) first_row: u64,
    pub(crate) references: &'a [u64],
    pub(crate) payload: &'a [u8],
}

/// The header of a chunk whose payload is as it will be stored.
#[derive(Clone, Copy)]
struct Stored<'a> {
    kind: ChunkKind,
    codec: Codec,
    version: u16,
    first_row: u64,
    references: &'a [u64],
    raw_len: usize,
}

/// The dictionary that small blocks are compressed with, and where its copies lie.
struct Dictionary {
    compressor: Compressor<'static>,
    places: [u64; DICTIONARY_COPIES],
}

/// The hidden file beside the output, locked.
pub(crate) struct Output {
    file: File,
    partial: PathBuf,
    path: PathBuf,
    overwrite: bool,
    archive: u64,
    /// Where the archive is encrypted.
    cipher: Option<Arc<Cipher>>,
    position: u64,
    failed: bool,
    level: i32,
    /// For exchange blocks, and for all else.
    compressors: [Compressor<'static>; 2],
    dictionary: Option<Dictionary>,
    compressed: Vec<u8>,
    buffer: Vec<u8>,
    /// Tests: the file takes no more than this many bytes.
    #[cfg(test)]
    pub(crate) capacity: Option<u64>,
}

impl Output {
    pub(crate) fn create(
        path: &Path,
        overwrite: bool,
        archive: u64,
        level: i32,
        cipher: Option<Arc<Cipher>>,
    ) -> Result<Self, WriteError> {
        let partial = partial_path(path)?;
        if !overwrite && path.symlink_metadata().is_ok() {
            return Err(WriteError::Exists { path: path.into() });
        }
        let mut open = OpenOptions::new();
        open.read(true).write(true);
        let file = match open.clone().create_new(true).open(&partial) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(in_the_way(&open, partial));
            }
            Err(source) => return Err(io_error("create", &partial)(source)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(WriteError::Busy { path: partial }),
            // Network file systems may have no locks. `create_new` has kept others out already.
            Err(TryLockError::Error(_)) => {}
        }
        let compressors = compressors(level)?;
        let header = FileHeader::new(archive, cipher.is_some());
        let mut output = Self {
            file,
            partial,
            path: path.into(),
            overwrite,
            archive,
            cipher,
            position: 0,
            failed: false,
            level,
            compressors,
            dictionary: None,
            compressed: Vec::new(),
            buffer: Vec::new(),
            #[cfg(test)]
            capacity: None,
        };
        output.buffer.extend_from_slice(header.as_bytes());
        if let Err(error) = output.write() {
            // Nothing is in it, and it would be in the way of the next writer.
            drop(fs::remove_file(&output.partial));
            return Err(error);
        }
        Ok(output)
    }

    /// Goes on behind the last whole chunk of an interrupted file, which is locked.
    pub(crate) fn resume(
        mut file: File,
        partial: &Path,
        path: &Path,
        archive: u64,
        position: u64,
        cipher: Option<Arc<Cipher>>,
    ) -> Result<Self, WriteError> {
        file.set_len(position)
            .and_then(|()| file.seek(SeekFrom::Start(position)))
            .map_err(io_error("cut the torn end of", partial))?;
        let level = DEFAULT_LEVEL;
        let compressors = compressors(level)?;
        Ok(Self {
            file,
            partial: partial.into(),
            path: path.into(),
            overwrite: false,
            archive,
            cipher,
            position,
            failed: false,
            level,
            compressors,
            dictionary: None,
            compressed: Vec::new(),
            buffer: Vec::new(),
            #[cfg(test)]
            capacity: None,
        })
    }

    /// The hidden file.
    pub(crate) fn partial(&self) -> &Path {
        &self.partial
    }

    /// The key, where the archive is encrypted.
    pub(crate) fn cipher(&self) -> Option<Arc<Cipher>> {
        self.cipher.clone()
    }

    /// Where the next chunk will begin.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Writes a chunk, and says where it begins.
    pub(crate) fn chunk(&mut self, chunk: Chunk<'_>) -> Result<u64, WriteError> {
        let Chunk {
            kind,
            version,
            mut codec,
            first_row,
            references,
            payload,
        } = chunk;
        let limit = kind.max_raw();
        if payload.len() > limit {
            return Err(WriteError::ExchangeTooLarge {
                len: payload.len(),
                limit,
            });
        }
        let [exchanges, others] = &mut self.compressors;
        let (compressor, places): (_, &[u64]) = match &mut self.dictionary {
            Some(dictionary) if codec == Codec::Dictionary => {
                (&mut dictionary.compressor, &dictionary.places)
            }
            Some(_) | None if kind == ChunkKind::Exchanges => (exchanges, &[]),
            Some(_) | None => (others, &[]),
        };
        if codec == Codec::Dictionary && places.is_empty() {
            codec = Codec::Zstd;
        }
        if codec != Codec::Raw {
            self.compressed.clear();
            self.compressed
                .reserve(zstd::zstd_safe::compress_bound(payload.len()));
            let compressed = compressor
                .compress_to_buffer(payload, &mut self.compressed)
                .map_err(|source| WriteError::Encode {
                    source: source.into(),
                })?;
            // A gain of a few per cent is not worth the reader's time.
            if compressed >= payload.len() - payload.len() / 32 {
                codec = Codec::Raw;
            }
        }
        let with_dictionary;
        let references = if codec == Codec::Dictionary {
            with_dictionary = [references, places].concat();
            &with_dictionary
        } else {
            references
        };
        let stored = Stored {
            kind,
            codec,
            version,
            first_row,
            references,
            raw_len: payload.len(),
        };
        // Borrowed for the call only, because the buffer is reused.
        let compressed = std::mem::take(&mut self.compressed);
        let written = self.stored(
            stored,
            if codec == Codec::Raw {
                payload
            } else {
                &compressed
            },
        );
        self.compressed = compressed;
        written
    }

    /// Writes a dictionary, as often as it is kept. Chunks of [`Codec::Dictionary`] are compressed with it
    /// from now on; before, they are compressed without one.
    pub(crate) fn begin_dictionary(&mut self, dictionary: &[u8]) -> Result<(), WriteError> {
        let mut places = [0; DICTIONARY_COPIES];
        for place in &mut places {
            *place = self.chunk(Chunk {
                kind: ChunkKind::Dictionary,
                version: ChunkKind::Dictionary.version(),
                codec: Codec::Zstd,
                first_row: 0,
                references: &[],
                payload: dictionary,
            })?;
        }
        let made = Compressor::with_dictionary(self.level, dictionary).and_then(|mut made| {
            // The references say which one it is.
            made.set_parameter(CParameter::DictIdFlag(false))?;
            Ok(made)
        });
        let compressor = made.map_err(|source| WriteError::Encode {
            source: source.into(),
        })?;
        self.dictionary = Some(Dictionary { compressor, places });
        Ok(())
    }

    /// Writes a chunk of another file as it is stored there, and says where it begins.
    pub(crate) fn copy(
        &mut self,
        chunk: &source::Chunk<'_>,
        next_row: u64,
        references: &[u64],
    ) -> Result<u64, WriteError> {
        let (codec, bytes, raw_len) = chunk.stored();
        let first_row = if chunk.kind == ChunkKind::Exchanges {
            next_row
        } else {
            0
        };
        let stored = Stored {
            kind: chunk.kind,
            codec,
            version: chunk.version,
            first_row,
            references,
            raw_len,
        };
        self.stored(stored, bytes)
    }

    fn stored(&mut self, stored: Stored<'_>, bytes: &[u8]) -> Result<u64, WriteError> {
        match self.cipher.clone() {
            Some(cipher) if stored.kind != ChunkKind::Keys => {
                self.encrypted(&cipher, stored, bytes)
            }
            _ => self.plain(stored, bytes),
        }
    }

    fn plain(&mut self, stored: Stored<'_>, bytes: &[u8]) -> Result<u64, WriteError> {
        let Stored { references, .. } = stored;
        let header = self.header(stored, bytes.len());
        self.buffer.clear();
        self.buffer.extend_from_slice(header.as_bytes());
        for reference in references {
            self.buffer.extend_from_slice(&reference.to_le_bytes());
        }
        self.buffer.extend_from_slice(bytes);
        self.finish(header)
    }

    /// Writes a chunk in another one, of which only the length can be seen.
    fn encrypted(
        &mut self,
        cipher: &Cipher,
        stored: Stored<'_>,
        bytes: &[u8],
    ) -> Result<u64, WriteError> {
        let Stored {
            kind,
            codec,
            version,
            first_row,
            references,
            raw_len,
        } = stored;
        let inner = InnerHeader {
            kind: kind as u8,
            codec: codec as u8,
            version: version.into(),
            n_references: (references.len() as u32).into(),
            raw_len: (raw_len as u32).into(),
            reserved: [0; 4],
            first_row: first_row.into(),
            reserved2: [0; 8],
        };
        let len = size_of::<InnerHeader>() + references.len() * 8 + bytes.len();
        let len = NONCE_LEN + len + TAG_LEN;
        let outer = Stored {
            kind: ChunkKind::Encrypted,
            codec: Codec::Raw,
            version: ChunkKind::Encrypted.version(),
            first_row: 0,
            references: &[],
            raw_len: len,
        };
        let header = self.header(outer, len);
        self.buffer.clear();
        self.buffer.extend_from_slice(header.as_bytes());
        cipher::begin(&mut self.buffer, &inner);
        for reference in references {
            self.buffer.extend_from_slice(&reference.to_le_bytes());
        }
        self.buffer.extend_from_slice(bytes);
        cipher
            .encrypt(&mut self.buffer, HEADER_LEN)
            .map_err(|source| WriteError::Encrypt {
                source: source.into(),
            })?;
        self.finish(header)
    }

    /// The header of a chunk that is written next, but for its hashes.
    fn header(&self, stored: Stored<'_>, stored_len: usize) -> ChunkHeader {
        let Stored {
            kind,
            codec,
            version,
            first_row,
            references,
            raw_len,
        } = stored;
        ChunkHeader {
            magic: CHUNK_MAGIC,
            kind: kind as u8,
            codec: codec as u8,
            version: version.into(),
            n_references: (references.len() as u32).into(),
            stored_len: (stored_len as u32).into(),
            raw_len: (raw_len as u32).into(),
            reserved: [0; 4],
            offset: self.position.into(),
            archive: self.archive.into(),
            first_row: first_row.into(),
            payload_hash: U64::ZERO,
            hash: U64::ZERO,
        }
    }

    /// Writes the chunk in the buffer, with the hashes in its header; says where it begins.
    fn finish(&mut self, mut header: ChunkHeader) -> Result<u64, WriteError> {
        if let Some((place, body)) = self.buffer.split_first_chunk_mut::<HEADER_LEN>() {
            header.payload_hash = xxh3_64(body).into();
            header.hash = self_hash(&header).into();
            place.copy_from_slice(header.as_bytes());
        }
        let padded = self.buffer.len() + padding(self.buffer.len());
        self.buffer.resize(padded, 0);
        let offset = self.position;
        self.write()?;
        Ok(offset)
    }

    /// Writes the footer, and gives the file its name. Says how long it is.
    pub(crate) fn seal(mut self, mut footer: Footer) -> Result<u64, WriteError> {
        if self.cipher.is_some() {
            footer = self.end(&footer)?;
        }
        footer.magic = FOOTER_MAGIC;
        footer.archive = self.archive.into();
        footer.file_len = (self.position + size_of::<Footer>() as u64).into();
        footer.hash = self_hash(&footer).into();
        self.buffer.clear();
        self.buffer.extend_from_slice(footer.as_bytes());
        // Everything else is on the disk before the footer says so.
        self.sync()?;
        self.write()?;
        self.sync()?;
        give_name(&self.partial, &self.path, self.overwrite)?;
        Ok(self.position)
    }

    /// Puts what the footer would say into a chunk, which is encrypted; gives the footer that only says
    /// where that lies.
    fn end(&mut self, footer: &Footer) -> Result<Footer, WriteError> {
        let end = End {
            provenance: footer.provenance,
            ledger: footer.ledger,
            directory: footer.directory,
            n_pages: footer.n_pages,
            n_rows: footer.n_rows,
        };
        let offset = self.chunk(Chunk {
            kind: ChunkKind::End,
            version: ChunkKind::End.version(),
            codec: Codec::Raw,
            first_row: 0,
            references: &[],
            payload: end.as_bytes(),
        })?;
        let mut footer = Footer::new_zeroed();
        footer.directory = offset.into();
        Ok(footer)
    }

    /// Waits until the file is on the disk.
    pub(crate) fn sync(&mut self) -> Result<(), WriteError> {
        let synced = self.file.sync_all();
        if synced.is_err() {
            // Linux forgets the failure once it was told: the next sync would succeed, wrongly.
            self.failed = true;
        }
        synced.map_err(io_error("sync", &self.partial))
    }

    /// Waits until the contents of the file are on the disk.
    pub(crate) fn sync_data(&mut self) -> Result<(), WriteError> {
        let synced = self.file.sync_data();
        self.failed |= synced.is_err();
        synced.map_err(io_error("sync", &self.partial))
    }

    fn write(&mut self) -> Result<(), WriteError> {
        if self.failed {
            return Err(WriteError::Failed {
                path: self.partial.clone(),
            });
        }
        #[cfg(test)]
        let written = match self.capacity {
            Some(capacity) if self.position + self.buffer.len() as u64 > capacity => {
                let fits = capacity.saturating_sub(self.position) as usize;
                self.file
                    .write_all(&self.buffer[..fits])
                    .and_then(|()| Err(io::ErrorKind::StorageFull.into()))
            }
            _ => self.file.write_all(&self.buffer),
        };
        #[cfg(not(test))]
        let written = self.file.write_all(&self.buffer);
        if let Err(source) = written {
            // Some of the chunk may be in the file: what follows would lie where no header says.
            self.failed = true;
            return Err(io_error("write to", &self.partial)(source));
        }
        self.position += self.buffer.len() as u64;
        Ok(())
    }
}

/// The level of compression at which blocks have parameters of our own.
pub(crate) const DEFAULT_LEVEL: i32 = 3;

/// For exchange blocks, and for all else. zstd takes its level 3 to match four bytes wherever it can in a
/// block of 256 KiB. In HTTP, with its tokens and ids, such matches cost more than what they stand for.
///
/// Exchange blocks are what writing takes its time for. At seven bytes, the plain search of zstd's `fast` finds
/// nearly all that `dfast` finds at six: blocks are about one per cent longer, done in two thirds of the time, and
/// three to four per cent shorter than at level 3 as it is. The target length is 0, or zstd would store literals as
/// they are, which costs a third in size. A table of 16,384 places is enough: twice as many gain at most 0.3 per cent,
/// and cost a tenth of the time or more, since they crowd the block out of the cache.
///
/// Bodies are longer, and shrink less: `dfast` at six bytes, with tables that are shorter than it
/// would take.
fn compressors(level: i32) -> Result<[Compressor<'static>; 2], WriteError> {
    let make = |parameters: &[CParameter]| -> io::Result<_> {
        let mut compressor = Compressor::new(level)?;
        if level == DEFAULT_LEVEL {
            for parameter in parameters {
                compressor.set_parameter(*parameter)?;
            }
        }
        Ok(compressor)
    };
    let exchanges = make(&[
        CParameter::Strategy(Strategy::ZSTD_fast),
        CParameter::MinMatch(7),
        CParameter::HashLog(14),
        CParameter::TargetLength(0),
    ]);
    let others = make(&[
        CParameter::Strategy(Strategy::ZSTD_dfast),
        CParameter::MinMatch(6),
        CParameter::HashLog(16),
        CParameter::ChainLog(14),
    ]);
    exchanges
        .and_then(|exchanges| Ok([exchanges, others?]))
        .map_err(|source| WriteError::Encode {
            source: source.into(),
        })
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output")
            .field("partial", &self.partial)
            .field("position", &self.position)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// The hidden file that an archive of this path is written to: `.shop.tape.partial` beside
/// `shop.tape`.
pub fn partial_path(path: &Path) -> Result<PathBuf, WriteError> {
    let Some(name) = path.file_name() else {
        return Err(WriteError::NoFileName { path: path.into() });
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".partial");
    Ok(path.with_file_name(hidden))
}

/// Whose the hidden file is that stands in the way.
fn in_the_way(open: &OpenOptions, path: PathBuf) -> WriteError {
    match open.open(&path).map(|file| file.try_lock()) {
        Ok(Err(TryLockError::WouldBlock)) => WriteError::Busy { path },
        _ => WriteError::Leftover { path },
    }
}

/// Gives a whole file its final name, for good.
pub(crate) fn give_name(file: &Path, name: &Path, overwrite: bool) -> Result<(), WriteError> {
    if !overwrite && name.symlink_metadata().is_ok() {
        return Err(WriteError::Exists { path: name.into() });
    }
    fs::rename(file, name).map_err(io_error("rename", file))?;
    let folder = match name.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) => Path::new("."),
        None => return Ok(()),
    };
    // The name is on the disk only once the folder is.
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(io_error("sync the folder", folder))
}

pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WriteError {
    let path = path.to_owned();
    move |source| WriteError::Io {
        action,
        path,
        source,
    }
}

const _: () = assert!(HEADER_LEN.is_multiple_of(crate::format::ALIGNMENT));
