//! The bytes of a file, and the chunks in them.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use memmap2::Mmap;
use rkyv::util::AlignedVec;
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::{FromBytes, IntoBytes};

use crate::block::view::{BodyView, Piece};
use crate::dictionary::{Dictionaries, Dictionary};
use crate::encryption::age::WrapError;
use crate::encryption::cipher::{Cipher, Opened};
use crate::encryption::keys::Identities;
use crate::error::{Damage, OpenError, ReadError};
use crate::format::{
    ALIGNMENT, CHUNK_MAGIC, ChunkHeader, ChunkKind, Codec, DICTIONARY_COPIES, End, FOOTER_LEN,
    FOOTER_MAGIC, FileHeader, Footer, HEADER_LEN, MAGIC, MAJOR, MAJOR_OF_COLUMNS, self_hash,
};
use crate::inflate::Inflater;
use crate::provenance;
use crate::scratch::Scratch;

/// A mapped file whose header is sound.
#[derive(Debug)]
pub(crate) struct Source {
    map: Mmap,
    /// [`FileHeader::archive`].
    archive: u64,
    /// The major version that the header says; 0 where it is damaged.
    major: u16,
    is_encrypted: bool,
    /// Its key, if it is encrypted and was opened with an identity.
    cipher: Option<Arc<Cipher>>,
    /// Unique in this process: what a [`Scratch`] holds is told apart by it.
    instance: u64,
    /// The dictionaries that were used last.
    dictionaries: Dictionaries,
    verified: Verified,
}

impl Source {
    /// Opens a file whose header is sound, and decrypts its key where it is encrypted.
    pub(crate) fn open(path: &Path, identities: &Identities) -> Result<Self, OpenError> {
        Self::open_locked(path)?.unlock(path, identities)
    }

    /// Opens a file whose header is sound. What is encrypted in it stays so.
    pub(crate) fn open_locked(path: &Path) -> Result<Self, OpenError> {
        let map = open_map(path)?;
        let header = check_header(&map, path)?;
        Ok(Self::new(map, header))
    }

    /// Opens a file whatever its header says, if only one of its first chunks tells to which archive
    /// it belongs. Says what is wrong with the header. What is encrypted in it stays so.
    pub(crate) fn open_damaged(path: &Path) -> Result<(Self, Option<Damage>), OpenError> {
        let map = open_map(path)?;
        let error = match check_header(&map, path) {
            Ok(header) => return Ok((Self::new(map, header), None)),
            Err(error @ OpenError::TooNew { .. }) => return Err(error),
            Err(error) => error,
        };
        let offsets = (0..SEARCHED.min(map.len())).step_by(ALIGNMENT);
        let found = offsets.into_iter().find_map(|offset| {
            let (header, _) = ChunkHeader::ref_from_prefix(map.get(offset..)?).ok()?;
            let archive = header.archive.get();
            let kind = ChunkKind::from_number(header.kind);
            let is_encrypted = matches!(kind, Some(ChunkKind::Keys | ChunkKind::Encrypted));
            let told = Told {
                archive,
                major: 0,
                is_encrypted,
            };
            header.is_sound(archive, offset as u64).then_some(told)
        });
        match found {
            Some(told) => Ok((Self::new(map, told), Some(Damage::Header))),
            None => Err(error),
        }
    }

    fn new(map: Mmap, told: Told) -> Self {
        let Told {
            archive,
            major,
            is_encrypted,
        } = told;
        Self {
            map,
            archive,
            major,
            is_encrypted,
            cipher: None,
            instance: NEXT_INSTANCE.fetch_add(1, Ordering::Relaxed),
            dictionaries: Dictionaries::default(),
            verified: Verified::default(),
        }
    }

    /// Decrypts the key, where the file is encrypted.
    pub(crate) fn unlock(
        mut self,
        path: &Path,
        identities: &Identities,
    ) -> Result<Self, OpenError> {
        if !self.is_encrypted() {
            return Ok(self);
        }
        if identities.is_empty() {
            return Err(OpenError::NoIdentity { path: path.into() });
        }
        let mut failure = WrapError::Damaged("it is not in the file");
        // Where one copy is damaged, there may be a better one.
        let unwrapped = self.keys().find_map(|keys| {
            let unwrapped = match keys.value(WRAPPED) {
                Some(wrapped) => Cipher::unwrap(wrapped, identities),
                None => Err(WrapError::Damaged("named values cannot be read")),
            };
            unwrapped.map_err(|error| failure = error).ok()
        });
        self.cipher = unwrapped.map(Arc::new);
        match failure {
            _ if self.cipher.is_some() => Ok(self),
            WrapError::NotForUs { recipients } => Err(OpenError::WrongIdentity {
                path: path.into(),
                identities: identities.len(),
                recipients,
            }),
            damage => Err(OpenError::Key {
                path: path.into(),
                damage,
            }),
        }
    }

    /// Opens it with a key that is at hand.
    pub(crate) fn with_cipher(self, cipher: Option<Arc<Cipher>>) -> Self {
        Self { cipher, ..self }
    }

    /// Whether what is in it is encrypted.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// Whether it is encrypted, and its key is not at hand.
    pub(crate) fn is_locked(&self) -> bool {
        self.is_encrypted() && self.cipher.is_none()
    }

    /// The key, where it is encrypted and was opened.
    pub(crate) fn cipher(&self) -> Option<Arc<Cipher>> {
        self.cipher.clone()
    }

    /// The copies of the wrapped key. All but the first are searched for: they are of use where that is
    /// damaged.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Keys> {
        let end = if self.is_encrypted { self.map.len() } else { 0 };
        let offsets = (HEADER_LEN..end).step_by(ALIGNMENT);
        offsets.filter_map(|offset| {
            let bytes = self.map.get(offset..)?;
            if !bytes.starts_with(&CHUNK_MAGIC) {
                return None;
            }
            let chunk = self.chunk(offset as u64, ChunkKind::Keys).ok()?;
            chunk.plain().map(|payload| Keys(payload.to_vec()))
        })
    }

    /// [`FileHeader::archive`].
    pub(crate) fn archive(&self) -> u64 {
        self.archive
    }

    /// The number by which a [`Scratch`] knows this file.
    pub(crate) fn instance(&self) -> u64 {
        self.instance
    }

    /// Gives it another number; nothing of it is in a [`Scratch`] yet.
    pub(crate) fn set_instance(&mut self, instance: u64) {
        self.instance = instance;
    }

    /// Whether index pages, ledger and directory of today can end it: they are as they were since
    /// version 2.
    pub(crate) fn can_be_ended(&self) -> bool {
        (MAJOR_OF_COLUMNS..=MAJOR).contains(&self.major)
    }

    /// Every byte of the file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The footer as it lies in the file, where a sound one ends it. That of an encrypted file only says
    /// where its [`End`] lies.
    pub(crate) fn outer_footer(&self) -> Option<Footer> {
        let (_, bytes) = self.map.split_last_chunk::<FOOTER_LEN>()?;
        let footer = Footer::read_from_bytes(bytes).ok()?;
        let is_sound = footer.magic == FOOTER_MAGIC
            && footer.hash.get() == self_hash(&footer)
            && footer.archive.get() == self.archive
            && footer.file_len.get() == self.map.len() as u64;
        is_sound.then_some(footer)
    }

    /// The footer, where a sound one ends the file. An error: what it says is encrypted, and damaged.
    pub(crate) fn footer(&self) -> Result<Option<Footer>, (u64, Damage)> {
        let Some(footer) = self.outer_footer() else {
            return Ok(None);
        };
        if !self.is_encrypted() {
            return Ok(Some(footer));
        }
        let offset = footer.directory.get();
        let end = self.chunk(offset, ChunkKind::End).and_then(|chunk| {
            let payload = chunk.plain().ok_or(Damage::Unknown)?;
            End::read_from_bytes(payload).map_err(|_| Damage::Length)
        });
        let end = end.map_err(|damage| (offset, damage))?;
        Ok(Some(Footer {
            provenance: end.provenance,
            ledger: end.ledger,
            directory: end.directory,
            n_pages: end.n_pages,
            n_rows: end.n_rows,
            ..footer
        }))
    }

    /// The header of the chunk at this offset, if a sound one is there, and the chunk lies within
    /// the file.
    pub(crate) fn chunk_header(&self, offset: u64) -> Result<&ChunkHeader, Damage> {
        let header = self.checked_header(offset)?;
        if !header.is_sound(self.archive, offset) {
            return Err(Damage::Header);
        }
        let behind = self.map.len() as u64 - offset - HEADER_LEN as u64;
        if header.body_len() > behind {
            return Err(Damage::Outside);
        }
        Ok(header)
    }

    /// The header at this offset, where a sound one was found before.
    pub(crate) fn checked_header(&self, offset: u64) -> Result<&ChunkHeader, Damage> {
        let start = usize::try_from(offset).map_err(|_| Damage::Outside)?;
        let bytes = self.map.get(start..).ok_or(Damage::Outside)?;
        let (header, _) = ChunkHeader::ref_from_prefix(bytes).map_err(|_| Damage::Outside)?;
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

    /// The chunk at this offset, of any kind that is known, with its checksum verified, and decrypted.
    pub(crate) fn any_chunk(&self, offset: u64) -> Result<Chunk<'_>, Damage> {
        self.any_chunk_into(offset, AlignedVec::new())
    }

    /// Like [`Source::any_chunk`]; what is decrypted goes into a buffer that is reused.
    fn any_chunk_into(&self, offset: u64, buffer: AlignedVec) -> Result<Chunk<'_>, Damage> {
        let header = self.chunk_header(offset)?;
        let kind = ChunkKind::from_number(header.kind).ok_or(Damage::Unknown)?;
        let is_envelope = matches!(kind, ChunkKind::Keys | ChunkKind::Encrypted);
        if is_envelope != self.is_encrypted() {
            return Err(Damage::Kind);
        }
        let start = offset as usize + HEADER_LEN;
        let body = self
            .map
            .get(start..start.saturating_add(header.body_len() as usize))
            .ok_or(Damage::Outside)?;
        // Bodies that do not shrink are read where they lie, many times some of them, and their checksum
        // would be most of what that takes.
        let is_read_in_place = kind == ChunkKind::Bodies && header.codec == Codec::Raw as u8;
        if !(is_read_in_place && self.verified.has(offset)) {
            if header.payload_hash.get() != xxh3_64(body) {
                return Err(Damage::Checksum);
            }
            if is_read_in_place {
                self.verified.insert(offset);
            }
        }
        let (references, stored) = body
            .split_at_checked(header.n_references.get() as usize * 8)
            .ok_or(Damage::Outside)?;
        let chunk = Described {
            kind,
            codec: header.codec,
            version: header.version.get(),
            first_row: header.first_row.get(),
            raw_len: header.raw_len.get() as usize,
        }
        .chunk(Data::Mapped { references, stored })?;
        let Some(cipher) = self
            .cipher
            .as_ref()
            .filter(|_| kind == ChunkKind::Encrypted)
        else {
            return Ok(chunk);
        };
        let opened = cipher.decrypt(header.as_bytes(), stored, buffer)?;
        let inner = opened.header();
        let kind = ChunkKind::from_number(inner.kind).ok_or(Damage::Unknown)?;
        if matches!(kind, ChunkKind::Keys | ChunkKind::Encrypted) {
            return Err(Damage::Kind);
        }
        Described {
            kind,
            codec: inner.codec,
            version: inner.version.get(),
            first_row: inner.first_row.get(),
            raw_len: inner.raw_len.get() as usize,
        }
        .chunk(Data::Opened(opened))
    }

    /// Gives the bytes of a body piece by piece.
    pub(crate) fn for_each_piece(
        &self,
        body: &BodyView<'_>,
        block: &mut Scratch,
        each: impl FnMut(&[u8]) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        self.for_each_piece_within(body, 0..u64::MAX, block, each)
    }

    /// Gives those bytes of a body that lie within a range, piece by piece. Blocks that hold none of
    /// them are not touched.
    pub(crate) fn for_each_piece_within(
        &self,
        body: &BodyView<'_>,
        range: Range<u64>,
        block: &mut Scratch,
        mut each: impl FnMut(&[u8]) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let mut at = 0_u64;
        for piece in body.pieces() {
            let (start, len) = (piece.start, piece.len);
            let place = at;
            at = at.saturating_add(len.into());
            if at <= range.start {
                continue;
            }
            if place >= range.end {
                return Ok(());
            }
            let Some(offset) = self.piece_offset(body, &piece)? else {
                let offset = body.origin.offset;
                let bytes = slice(body.own_bytes(), start, len)
                    .map_err(|damage| ReadError::Damaged { offset, damage })?;
                each(within(bytes, place, &range))?;
                continue;
            };
            let damaged = |damage| ReadError::Damaged { offset, damage };
            let mapped = self.mapped_bodies(offset).map_err(damaged)?;
            let bytes = match mapped {
                Some(bytes) => Ok(bytes),
                None => self.load_block(offset, block).and_then(|()| block.bytes()),
            };
            let bytes = bytes
                .and_then(|bytes| slice(bytes, start, len))
                .map_err(damaged)?;
            each(within(bytes, place, &range))?;
        }
        match within(body.inline, at, &range) {
            [] => Ok(()),
            bytes => each(bytes),
        }
    }

    /// Where the block of a piece begins; `None` where it is the record's own.
    pub(crate) fn piece_offset(
        &self,
        body: &BodyView<'_>,
        piece: &Piece,
    ) -> Result<Option<u64>, ReadError> {
        let origin = &body.origin;
        if origin.archive != self.instance {
            return Err(ReadError::ForeignBody);
        }
        let Some(reference) = piece.reference else {
            return Ok(None);
        };
        let found = origin.references.get(reference).copied();
        found.map(Some).ok_or(ReadError::Damaged {
            offset: origin.offset,
            damage: Damage::Structure("a body names no block"),
        })
    }

    /// The body block at this offset, where it can be read in the mapped file: what is stored as it is, and
    /// not encrypted.
    pub(crate) fn mapped_bodies(&self, offset: u64) -> Result<Option<&[u8]>, Damage> {
        let header = self.chunk_header(offset)?;
        if header.kind != ChunkKind::Bodies as u8 || header.codec != Codec::Raw as u8 {
            return Ok(None);
        }
        Ok(self.any_chunk(offset)?.mapped())
    }

    /// Sees to it that the scratch holds the block at this offset, checked: of exchanges or of bodies.
    pub(crate) fn load_block(&self, offset: u64, scratch: &mut Scratch) -> Result<(), Damage> {
        if scratch.holds(self.instance, offset) {
            return Ok(());
        }
        let chunk = self.any_chunk_into(offset, scratch.take_opened())?;
        if !matches!(chunk.kind, ChunkKind::Bodies | ChunkKind::Exchanges) {
            return Err(Damage::Kind);
        }
        scratch.fill(&chunk, self, offset)?;
        scratch.give_opened(chunk);
        Ok(())
    }

    /// The dictionary that a chunk was compressed with: the first of its copies that can be read.
    pub(crate) fn dictionary(&self, chunk: &Chunk<'_>) -> Result<Option<Arc<Dictionary>>, Damage> {
        if chunk.codec != Codec::Dictionary {
            return Ok(None);
        }
        let found = chunk.dictionaries().find_map(|offset| {
            let read = || {
                let chunk = self.chunk(offset, ChunkKind::Dictionary)?;
                Dictionary::new(&chunk.payload(&mut Inflater::default())?)
            };
            self.dictionaries.get(offset, read).ok()
        });
        found.map(Some).ok_or(Damage::Dictionary)
    }
}

/// A wrapped key: named values, in the clear.
pub(crate) struct Keys(Vec<u8>);

/// The name of the wrapped key itself.
pub(crate) const WRAPPED: &str = "age";

impl Keys {
    /// The payload as it is stored.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// A value by its name.
    pub(crate) fn value(&self, name: &str) -> Option<&[u8]> {
        let values = provenance::decode(&self.0)?;
        let found = values.into_iter().find(|(found, _)| *found == name);
        found.map(|(_, value)| value)
    }
}

/// Which body blocks in the mapped file had a checksum that matched, so that it is computed about once for
/// each. A block that two others displaced is looked at again.
#[derive(Default)]
struct Verified(OnceLock<Box<[AtomicU64]>>);

impl Verified {
    /// 16 KiB a file, once there is anything to be remembered: half a GiB of blocks.
    const PLACES: usize = 2048;

    fn has(&self, offset: u64) -> bool {
        self.place(offset)
            .is_some_and(|place| place.load(Ordering::Relaxed) == offset)
    }

    fn insert(&self, offset: u64) {
        self.0
            .get_or_init(|| (0..Self::PLACES).map(|_| AtomicU64::new(0)).collect());
        if let Some(place) = self.place(offset) {
            // Nothing but the number itself is told from thread to thread.
            place.store(offset, Ordering::Relaxed);
        }
    }

    fn place(&self, offset: u64) -> Option<&AtomicU64> {
        // Blocks are a quarter of a MiB for the most part, and begin at multiples of 16.
        let number = (offset / ALIGNMENT as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 53;
        self.0.get()?.get(number as usize % Self::PLACES)
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verified")
    }
}

/// How far a file is searched for its first chunk.
const SEARCHED: usize = 1 << 20;

/// Maps a file that is not empty.
fn open_map(path: &Path) -> Result<Mmap, OpenError> {
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
    map(&file).map_err(io_error("map"))
}

/// What the file's header tells of it.
struct Told {
    archive: u64,
    major: u16,
    is_encrypted: bool,
}

fn check_header(map: &[u8], path: &Path) -> Result<Told, OpenError> {
    let not_an_archive = || OpenError::NotAnArchive { path: path.into() };
    if !map.starts_with(&MAGIC) {
        return Err(not_an_archive());
    }
    // A file cut within its first 64 bytes.
    let (header, _) = FileHeader::read_from_prefix(map).map_err(|_| not_an_archive())?;
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
    Ok(Told {
        archive: header.archive.get(),
        major: header.major.get(),
        is_encrypted: header.is_encrypted(),
    })
}

/// A chunk whose checksum matches.
pub(crate) struct Chunk<'a> {
    pub(crate) kind: ChunkKind,
    /// Of the payload's structure: between 1 and [`ChunkKind::version`].
    pub(crate) version: u16,
    codec: Codec,
    pub(crate) first_row: u64,
    data: Data<'a>,
    raw_len: usize,
}

/// Where the bytes of a chunk are.
enum Data<'a> {
    /// In the mapped file.
    Mapped {
        references: &'a [u8],
        stored: &'a [u8],
    },
    /// They were decrypted.
    Opened(Opened),
}

/// What a header says of its chunk.
struct Described {
    kind: ChunkKind,
    codec: u8,
    version: u16,
    first_row: u64,
    raw_len: usize,
}

impl Described {
    /// The chunk, if this program can read it.
    fn chunk(self, data: Data<'_>) -> Result<Chunk<'_>, Damage> {
        let Self {
            kind,
            codec,
            version,
            first_row,
            raw_len,
        } = self;
        let codec = Codec::from_number(codec).ok_or(Damage::Unknown)?;
        if version == 0 || version > kind.version() {
            return Err(Damage::Unknown);
        }
        if codec == Codec::Dictionary && kind != ChunkKind::Exchanges {
            return Err(Damage::Unknown);
        }
        let chunk = Chunk {
            kind,
            version,
            codec,
            first_row,
            data,
            raw_len,
        };
        let is_raw = codec == Codec::Raw;
        if raw_len > kind.max_raw() || (is_raw && raw_len != chunk.bytes().len()) {
            return Err(Damage::Length);
        }
        Ok(chunk)
    }
}

impl<'a> Chunk<'a> {
    fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Mapped { stored, .. } => stored,
            Data::Opened(opened) => opened.stored(),
        }
    }

    /// The payload, where it is stored as it is.
    pub(crate) fn plain(&self) -> Option<&[u8]> {
        (self.codec == Codec::Raw).then(|| self.bytes())
    }

    /// The payload, where it is stored as it is, in the mapped file.
    pub(crate) fn mapped(&self) -> Option<&'a [u8]> {
        match self.data {
            Data::Mapped { stored, .. } if self.codec == Codec::Raw => Some(stored),
            Data::Mapped { .. } | Data::Opened(_) => None,
        }
    }

    /// What was decrypted.
    pub(crate) fn into_opened(self) -> Option<Opened> {
        match self.data {
            Data::Opened(opened) => Some(opened),
            Data::Mapped { .. } => None,
        }
    }

    /// The payload of a chunk that is small and seldom read.
    pub(crate) fn payload(&self, inflater: &mut Inflater) -> Result<Vec<u8>, Damage> {
        match self.plain() {
            Some(plain) => Ok(plain.to_vec()),
            None => {
                let mut buffer = AlignedVec::new();
                inflater.inflate(self, &mut buffer)?;
                Ok(buffer.to_vec())
            }
        }
    }

    /// As it is stored: the codec, the bytes, and how long they are once decoded.
    pub(crate) fn stored(&self) -> (Codec, &[u8], usize) {
        (self.codec, self.bytes(), self.raw_len)
    }

    /// How long the payload is once decoded.
    pub(crate) fn raw_len(&self) -> usize {
        self.raw_len
    }

    /// The chunks whose bytes the payload points into.
    pub(crate) fn references(&self) -> impl ExactSizeIterator<Item = u64> {
        numbers(self.all_references().0)
    }

    /// Where the copies of the dictionary lie that the payload was compressed with.
    pub(crate) fn dictionaries(&self) -> impl ExactSizeIterator<Item = u64> {
        numbers(self.all_references().1)
    }

    fn all_references(&self) -> (&[[u8; 8]], &[[u8; 8]]) {
        let references = match &self.data {
            Data::Mapped { references, .. } => references,
            Data::Opened(opened) => opened.references(),
        };
        let (references, _) = references.as_chunks::<8>();
        let n_dictionaries = match self.codec {
            Codec::Dictionary => DICTIONARY_COPIES,
            Codec::Raw | Codec::Zstd => 0,
        };
        let n_others = references.len().saturating_sub(n_dictionaries);
        references.split_at_checked(n_others).unwrap_or_default()
    }
}

fn numbers(references: &[[u8; 8]]) -> impl ExactSizeIterator<Item = u64> {
    references.iter().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Part of the bytes that pieces point into.
pub(crate) fn slice(bytes: &[u8], start: u32, len: u32) -> Result<&[u8], Damage> {
    let start = start as usize;
    bytes
        .get(start..start.saturating_add(len as usize))
        .ok_or(Damage::Structure("a body lies outside of its block"))
}

/// Those of the bytes, which begin at `place` of a body, that lie within the range.
fn within<'b>(bytes: &'b [u8], place: u64, range: &Range<u64>) -> &'b [u8] {
    let len = bytes.len() as u64;
    let from = range.start.saturating_sub(place).min(len);
    let to = range.end.saturating_sub(place).min(len);
    bytes.get(from as usize..to as usize).unwrap_or_default()
}

static NEXT_INSTANCE: AtomicU64 = AtomicU64::new(1);

/// The first of that many numbers in a row, for the files of one archive.
pub(crate) fn instances(count: u64) -> u64 {
    NEXT_INSTANCE.fetch_add(count, Ordering::Relaxed)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_verified_is_remembered_until_it_is_displaced() {
        let verified = Verified::default();
        let offsets: Vec<u64> = (0..10_000).map(|n| 64 + n * ((256 << 10) + 64)).collect();
        assert!(offsets.iter().all(|offset| !verified.has(*offset)));
        for offset in &offsets {
            verified.insert(*offset);
            assert!(verified.has(*offset));
            assert!(!verified.has(*offset + 16), "another block");
        }
        let kept = offsets
            .iter()
            .filter(|offset| verified.has(**offset))
            .count();
        // Places that are shared by chance cost some; none has room for two.
        assert!(
            (Verified::PLACES / 2..=Verified::PLACES).contains(&kept),
            "{kept}"
        );
    }
}
