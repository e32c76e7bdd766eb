//! Every constant and every fixed structure of the file, and nothing else.
//!
//! `docs/format.md` describes the same in prose and is normative. All integers are little endian.
//! Structures are read in place: every bit pattern is a valid value of each, so a stranger's
//! bytes can be wrong here but never unsound.

use xxhash_rust::xxh3::xxh3_64;
use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first bytes of every archive. As in PNG, the first byte is not ASCII and a line end of
/// each kind follows, so that a transfer in text mode is found at once.
pub(crate) const MAGIC: [u8; 8] = *b"\x89TAPE\r\n\x1a";
/// The first bytes of the footer.
pub(crate) const FOOTER_MAGIC: [u8; 8] = *b"\x89TAPEEND";
/// The first bytes of every chunk.
pub(crate) const CHUNK_MAGIC: [u8; 4] = *b"\x89TCK";

/// The major version: a reader refuses a larger one.
///
/// 1: the first. 2: narrow columns, in blocks and in the index; see ADR 6. 3: the same, encrypted; see
/// ADR 7. 4: either, with dictionaries; see ADR 10.
pub(crate) const MAJOR: u16 = 4;
/// The version since which blocks and pages are as they are.
pub(crate) const MAJOR_OF_COLUMNS: u16 = 2;
/// The version that says that a file is encrypted; later ones have a flag for it.
const MAJOR_OF_ENCRYPTION: u16 = 3;
/// The flags of a file's header.
pub(crate) mod file_flags {
    pub(crate) const ENCRYPTED: u16 = 1;
}
/// The minor version: a reader accepts a larger one, and passes over what it does not know.
///
/// 0: the first.
pub(crate) const MINOR: u16 = 0;

/// Everything in the file begins at a multiple of this.
pub(crate) const ALIGNMENT: usize = 16;
/// The largest raw length of a chunk: what a reader is ever made to allocate for one.
pub(crate) const MAX_RAW: usize = 16 << 20;
/// The largest number of rows of an index page, and with it of records of a block.
pub(crate) const MAX_PAGE_ROWS: usize = 8192;
/// The largest dictionary: zstd trains none that is larger.
pub(crate) const MAX_DICTIONARY: usize = 128 << 10;
/// How often a dictionary lies in a file: many blocks depend on it, and one damaged place must not cost
/// more than a block.
pub(crate) const DICTIONARY_COPIES: usize = 2;
/// The largest directory: 4 million pages.
pub(crate) const MAX_DIRECTORY: usize = 256 << 20;

/// What a chunk holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum ChunkKind {
    /// Named values: where the archive comes from.
    Provenance = 1,
    /// Records with their heads and small bodies.
    Exchanges = 2,
    /// Bytes of bodies.
    Bodies = 3,
    /// The columns of the rows of the exchange blocks before it.
    Page = 4,
    /// Named values: the loss ledger. The last one counts.
    Ledger = 5,
    /// Where the pages are.
    Directory = 6,
    /// Connections that could not be read.
    Unread = 7,
    /// Named values: the key of an encrypted archive, wrapped.
    Keys = 8,
    /// Any other chunk, encrypted.
    Encrypted = 9,
    /// What the footer of an encrypted archive keeps to itself: see [`End`].
    End = 10,
    /// A zstd dictionary.
    Dictionary = 11,
}

impl ChunkKind {
    pub(crate) const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Provenance,
            2 => Self::Exchanges,
            3 => Self::Bodies,
            4 => Self::Page,
            5 => Self::Ledger,
            6 => Self::Directory,
            7 => Self::Unread,
            8 => Self::Keys,
            9 => Self::Encrypted,
            10 => Self::End,
            11 => Self::Dictionary,
            _ => return None,
        })
    }

    /// The largest raw length of such a chunk.
    pub(crate) const fn max_raw(self) -> usize {
        match self {
            // Never copied, only mapped.
            Self::Directory => MAX_DIRECTORY,
            // Decrypted, it is no longer than it was in the file.
            Self::Encrypted => MAX_DIRECTORY + MAX_RAW,
            Self::Dictionary => MAX_DICTIONARY,
            _ => MAX_RAW,
        }
    }

    /// The version of the payload's structure that is written; readers read all before it, too.
    pub(crate) const fn version(self) -> u16 {
        match self {
            Self::Exchanges | Self::Page => 2,
            Self::Provenance | Self::Bodies | Self::Ledger | Self::Directory | Self::Unread => 1,
            Self::Keys | Self::Encrypted | Self::End | Self::Dictionary => 1,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Provenance => "provenance",
            Self::Exchanges => "exchange block",
            Self::Bodies => "body block",
            Self::Page => "index page",
            Self::Ledger => "ledger",
            Self::Directory => "directory",
            Self::Unread => "list of unread connections",
            Self::Keys => "wrapped key",
            Self::Encrypted => "encrypted part",
            Self::End => "end",
            Self::Dictionary => "dictionary",
        }
    }
}

/// How the payload of a chunk is stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Codec {
    /// As it is.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
    /// One zstd frame, compressed with a dictionary: the last references are where the copies of it lie.
    Dictionary = 2,
}

impl Codec {
    pub(crate) const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            2 => Some(Self::Dictionary),
            _ => None,
        }
    }
}

/// The first 64 bytes of the file.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct FileHeader {
    pub(crate) magic: [u8; 8],
    pub(crate) major: U16,
    pub(crate) minor: U16,
    /// The oldest major version whose readers can read this.
    pub(crate) readable_by: U16,
    /// Of [`file_flags`]. Zero before version 4.
    pub(crate) flags: U16,
    /// Hash of the provenance. Every chunk repeats it, so that one of another file is found.
    pub(crate) archive: U64,
    pub(crate) reserved2: [u8; 32],
    /// xxh3-64 of the bytes before.
    pub(crate) hash: U64,
}

/// The 64 bytes before every payload.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct ChunkHeader {
    pub(crate) magic: [u8; 4],
    pub(crate) kind: u8,
    pub(crate) codec: u8,
    /// Version of the payload's structure; see the kind.
    pub(crate) version: U16,
    /// References before the stored payload, 8 bytes each.
    pub(crate) n_references: U32,
    /// Length of the stored payload, references not included.
    pub(crate) stored_len: U32,
    /// Length of the payload once decoded.
    pub(crate) raw_len: U32,
    pub(crate) reserved: [u8; 4],
    /// Where in the file this header lies.
    pub(crate) offset: U64,
    /// [`FileHeader::archive`].
    pub(crate) archive: U64,
    /// The first row of an exchange block or page, the ordinal of the first connection of a list of
    /// unread ones; else zero.
    pub(crate) first_row: U64,
    /// xxh3-64 of the references and the stored payload.
    pub(crate) payload_hash: U64,
    /// xxh3-64 of the bytes before.
    pub(crate) hash: U64,
}

/// How much of a chunk's header is authenticated with what is encrypted behind it: everything but the
/// hashes. So a part cannot be moved, within its archive or into another.
pub(crate) const KEY_CONTEXT_LEN: usize = 48;

/// What the header of an encrypted chunk says only to those with the key: the first bytes of what is
/// encrypted. The fields are those of [`ChunkHeader`].
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct InnerHeader {
    pub(crate) kind: u8,
    pub(crate) codec: u8,
    pub(crate) version: U16,
    pub(crate) n_references: U32,
    pub(crate) raw_len: U32,
    pub(crate) reserved: [u8; 4],
    pub(crate) first_row: U64,
    pub(crate) reserved2: [u8; 8],
}

/// The fields of the [`Footer`] of an encrypted archive: the payload of its last chunk.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct End {
    pub(crate) provenance: U64,
    pub(crate) ledger: U64,
    pub(crate) directory: U64,
    pub(crate) n_pages: U64,
    pub(crate) n_rows: U64,
}

/// The last 96 bytes of a sealed file. Where it is encrypted, `directory` is where the [`End`] lies, and
/// the other fields behind the length are zero.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Footer {
    pub(crate) magic: [u8; 8],
    pub(crate) archive: U64,
    /// Length of the whole file.
    pub(crate) file_len: U64,
    pub(crate) provenance: U64,
    pub(crate) ledger: U64,
    pub(crate) directory: U64,
    pub(crate) n_pages: U64,
    pub(crate) n_rows: U64,
    pub(crate) reserved: [u8; 24],
    /// xxh3-64 of the bytes before.
    pub(crate) hash: U64,
}

/// One page in the directory, with what a filter needs to pass over it.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct PageEntry {
    /// Where the page's chunk begins.
    pub(crate) offset: U64,
    pub(crate) first_row: U64,
    pub(crate) n_rows: U32,
    pub(crate) status_min: U16,
    pub(crate) status_max: U16,
    pub(crate) time_min: I64,
    pub(crate) time_max: I64,
    pub(crate) duration_min: U64,
    pub(crate) duration_max: U64,
    /// Whether any row has a status; whether any has a duration; whether any is incomplete.
    pub(crate) has_status: u8,
    pub(crate) has_duration: u8,
    pub(crate) has_incomplete: u8,
    pub(crate) reserved: [u8; 5],
}

/// The beginning of a page's payload. The descriptors of its columns follow; see `page::column`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct PageHeader {
    pub(crate) n_rows: U32,
    pub(crate) n_columns: U32,
    pub(crate) reserved: [u8; 8],
}

/// Length of the file header and of the chunk header.
pub(crate) const HEADER_LEN: usize = 64;
/// Length of the footer.
pub(crate) const FOOTER_LEN: usize = 96;

const _: () = assert!(size_of::<FileHeader>() == HEADER_LEN);
const _: () = assert!(size_of::<ChunkHeader>() == HEADER_LEN);
const _: () = assert!(size_of::<Footer>() == FOOTER_LEN);
const _: () = assert!(size_of::<PageEntry>() == 64);
const _: () = assert!(size_of::<PageHeader>() == 16);
const _: () = assert!(size_of::<InnerHeader>() == 32);
const _: () = assert!(std::mem::offset_of!(ChunkHeader, payload_hash) == KEY_CONTEXT_LEN);

/// The hash of a structure whose last 8 bytes are its own hash.
pub(crate) fn self_hash<T: IntoBytes + Immutable>(structure: &T) -> u64 {
    let bytes = structure.as_bytes();
    xxh3_64(
        bytes
            .split_last_chunk::<8>()
            .map_or(bytes, |(head, _)| head),
    )
}

/// How far the length is from a multiple of [`ALIGNMENT`].
pub(crate) const fn padding(len: usize) -> usize {
    len.wrapping_neg() % ALIGNMENT
}

impl FileHeader {
    pub(crate) fn new(archive: u64, is_encrypted: bool) -> Self {
        let flags = if is_encrypted {
            file_flags::ENCRYPTED
        } else {
            0
        };
        let mut header = Self {
            magic: MAGIC,
            major: MAJOR.into(),
            minor: MINOR.into(),
            readable_by: MAJOR.into(),
            flags: flags.into(),
            archive: archive.into(),
            reserved2: [0; 32],
            hash: U64::ZERO,
        };
        header.hash = self_hash(&header).into();
        header
    }

    /// Whether everything behind it is encrypted.
    pub(crate) fn is_encrypted(&self) -> bool {
        match self.readable_by.get() {
            ..MAJOR_OF_ENCRYPTION => false,
            MAJOR_OF_ENCRYPTION => true,
            _ => self.flags.get() & file_flags::ENCRYPTED != 0,
        }
    }
}

impl ChunkHeader {
    /// Length of everything between this header and the next one's earliest place.
    pub(crate) fn body_len(&self) -> u64 {
        u64::from(self.n_references.get()) * 8 + u64::from(self.stored_len.get())
    }

    /// Length of the whole chunk: header, references, payload, padding.
    pub(crate) fn chunk_len(&self) -> u64 {
        HEADER_LEN as u64 + self.body_len().next_multiple_of(ALIGNMENT as u64)
    }

    /// Whether the header is one, and lies where it says.
    pub(crate) fn is_sound(&self, archive: u64, offset: u64) -> bool {
        self.magic == CHUNK_MAGIC
            && self.hash.get() == self_hash(self)
            && self.archive.get() == archive
            && self.offset.get() == offset
    }
}
