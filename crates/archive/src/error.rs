//! One error type for each operation.

use std::io;
use std::path::PathBuf;

use crate::encryption::age::WrapError;
use crate::format::MAJOR;

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The output exists. Nothing was touched.
    #[error("`{path}` exists already")]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// Another process writes the same archive.
    #[error("`{path}` is being written by another process")]
    Busy {
        /// The hidden file that the other process writes to.
        path: PathBuf,
    },
    /// The hidden file of an interrupted writer is in the way. Its exchanges can be recovered.
    #[error(
        "`{path}` is left over from a recording that was interrupted: \
         recover it (`tapedeck recover`) or delete it first"
    )]
    Leftover {
        /// The hidden file.
        path: PathBuf,
    },
    /// The path does not end in a file name.
    #[error("`{path}` does not name a file")]
    NoFileName {
        /// The path.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// An earlier write failed, and what it wrote may be torn: nothing more is written. What was
    /// flushed before can be recovered from the hidden file.
    #[error("`{path}` takes no more exchanges, because an earlier write failed")]
    Failed {
        /// The hidden file.
        path: PathBuf,
    },
    /// The heads of one exchange are larger than a block may be. The exchange was not written; the
    /// archive goes on.
    #[error("an exchange of {len} bytes without its bodies; the limit is {limit}")]
    ExchangeTooLarge {
        /// Bytes of its heads and tables.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// Parts of bodies could not be read back, to go on into the next segment with their exchanges.
    #[error("cannot read back `{path}`, where bodies began whose exchanges go on")]
    Carry {
        /// The hidden file of the segment.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What is to hold the segments is something else.
    #[error("`{path}` is not a folder: segments are written into one")]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// The recipients of an archive could not be used, or there are no random numbers.
    #[error("cannot encrypt")]
    Encrypt {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A block could not be encoded.
    #[error("cannot encode a block")]
    Encode {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why an archive could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file system refused.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A folder, a device, a socket.
    #[error("`{path}` is not a regular file")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A folder without an archive.
    #[error("there is no archive (`*.tape`) in `{path}`")]
    NoArchives {
        /// The folder.
        path: PathBuf,
    },
    /// More files than are opened as one archive.
    #[error("`{path}` holds more than {limit} archives: open a part of them, or merge them")]
    TooManyFiles {
        /// The folder.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// Segments come and go faster than they are opened.
    #[error("the archives in `{path}` change too fast: try again")]
    Restless {
        /// The folder.
        path: PathBuf,
    },
    /// A file without a byte.
    #[error("`{path}` is empty")]
    Empty {
        /// The path.
        path: PathBuf,
    },
    /// Something else.
    #[error("`{path}` is not a Tapedeck archive")]
    NotAnArchive {
        /// The path.
        path: PathBuf,
    },
    /// Written by a newer Tapedeck.
    #[error(
        "`{path}` has format version {found}, and this program reads versions up to {MAJOR}: \
         use a newer Tapedeck"
    )]
    TooNew {
        /// The path.
        path: PathBuf,
        /// The version of the file.
        found: u16,
    },
    /// It is encrypted, and there is nothing to open it with.
    #[error("`{path}` is encrypted: `--identity FILE` opens it")]
    NoIdentity {
        /// The path.
        path: PathBuf,
    },
    /// It is encrypted to others.
    #[error(
        "{} `{path}`, which is encrypted to {}",
        none_of(*identities),
        others(*recipients)
    )]
    WrongIdentity {
        /// The path.
        path: PathBuf,
        /// How many identities were tried.
        identities: usize,
        /// To how many it is encrypted.
        recipients: usize,
    },
    /// The key of an encrypted archive is damaged, wherever it lies in the file. Nothing of the archive
    /// can be read without it.
    #[error("cannot decrypt `{path}`: {damage}")]
    Key {
        /// The path.
        path: PathBuf,
        /// What is wrong.
        damage: WrapError,
    },
    /// There is no footer: the writer was interrupted, or the file was cut.
    #[error(
        "`{path}` was never sealed, or was cut: `tapedeck recover` saves the exchanges that are in it"
    )]
    Unsealed {
        /// The path.
        path: PathBuf,
    },
    /// What every reader needs is damaged: header, footer, directory, ledger or provenance.
    #[error("`{path}` is damaged at byte {offset} ({damage}): `tapedeck recover` saves the rest")]
    Damaged {
        /// The path.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What.
        damage: Damage,
    },
}

/// Why an exchange or a body could not be read. Others of the same archive may well be readable.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The archive has no such exchange.
    #[error("there is no exchange {id}; the archive has {len}")]
    NoSuchExchange {
        /// The id asked for.
        id: u64,
        /// How many there are.
        len: u64,
    },
    /// The bytes it lies in are damaged.
    #[error("the archive is damaged at byte {offset} ({damage})")]
    Damaged {
        /// Where the chunk begins.
        offset: u64,
        /// What.
        damage: Damage,
    },
    /// A body is longer than the buffer may become.
    #[error("a body of {len} bytes; the limit is {limit}")]
    BodyTooLarge {
        /// Its length.
        len: u64,
        /// The limit of the [`BodyBuffer`](crate::BodyBuffer).
        limit: u64,
    },
    /// A body was taken from another archive than the one it is read from.
    #[error("the body belongs to another archive")]
    ForeignBody,
    /// The writer that a body was copied to refused.
    #[error("cannot write the body: {kind}")]
    Output {
        /// Why.
        kind: io::ErrorKind,
    },
}

/// What is wrong with bytes of an archive.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// It points outside of the file.
    #[error("it lies outside of the file")]
    Outside,
    /// The checksum of a header does not match.
    #[error("the checksum of the header does not match")]
    Header,
    /// The checksum of the contents does not match.
    #[error("the checksum of the contents does not match")]
    Checksum,
    /// Something else than expected is there.
    #[error("another kind of data is there than expected")]
    Kind,
    /// A part of this format that this version does not know.
    #[error("the format of this part is not known to this program")]
    Unknown,
    /// A length is beyond the limit.
    #[error("a length is beyond the limit")]
    Length,
    /// The compressed data cannot be decompressed.
    #[error("the compressed data cannot be decompressed")]
    Compression,
    /// The dictionary that it was compressed with cannot be read.
    #[error("the dictionary that it was compressed with is missing, or damaged")]
    Dictionary,
    /// The structure contradicts itself.
    #[error("its structure contradicts itself: {0}")]
    Structure(&'static str),
    /// What was encrypted was changed, or moved, by someone without the key.
    #[error("it is not what was encrypted there")]
    Forged,
    /// The decrypted pages of the index would take more memory than the limit.
    #[error("the index of an encrypted archive takes more than 1 GiB: read fewer files at once")]
    TooMuch,
    /// The bytes between two parts are not zero.
    #[error("the padding is not zero")]
    Padding,
}

/// "none of the 2 identities opens".
fn none_of(identities: usize) -> String {
    match identities {
        1 => "the identity does not open".to_owned(),
        _ => format!("none of the {identities} identities opens"),
    }
}

/// "2 others".
fn others(recipients: usize) -> String {
    match recipients {
        1 => "another".to_owned(),
        _ => format!("{recipients} others"),
    }
}
