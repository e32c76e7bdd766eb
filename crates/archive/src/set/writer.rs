//! A recording that rolls through segments.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tapedeck_model::{BodyPart, Exchange, Ledger, Timestamp, UnreadConnection};
use xxhash_rust::xxh3::xxh3_64;

use super::empty::Empty;
use super::name::{EXTENSION, name_of_partial, segment_name, segment_number};
use super::provenance::{RECORDING, SEGMENT, SET};
use super::resume::seal_in_place;
use super::retention::{Cause, Kept, Retention, Shelf};
use crate::encryption::keys::Identities;
use crate::error::{OpenError, WriteError};
use crate::format::{ChunkKind, HEADER_LEN, MAGIC};
use crate::inflate::Inflater;
use crate::output::{io_error, partial_path};
use crate::provenance::Provenance;
use crate::recover::{Protection, RecoverError, recover_with};
use crate::scan::Scan;
use crate::source::Source;
use crate::writer::{Summary, Writer, WriterOptions};

/// How a set of segments is written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SetOptions {
    /// Of each segment. [`Provenance::created`] is now: the clock of the set counts from there.
    pub writer: WriterOptions,
    /// The next segment begins when one has so many bytes, or a few more.
    pub segment_size: u64,
    /// The next segment begins when one is so old.
    pub segment_age: Duration,
    /// How much is kept.
    pub retention: Retention,
}

impl SetOptions {
    /// Segments of 256 MiB or five minutes, all of which are kept.
    #[must_use]
    pub fn new(provenance: Provenance) -> Self {
        Self {
            writer: WriterOptions::new(provenance),
            segment_size: 256 << 20,
            segment_age: Duration::from_secs(300),
            retention: Retention::default(),
        }
    }
}

/// What happened to segments, for whoever keeps a log.
#[derive(Debug)]
#[non_exhaustive]
pub enum SetEvent {
    /// A segment is complete.
    Sealed {
        /// The segment.
        path: PathBuf,
        /// What it came to.
        summary: Summary,
    },
    /// A segment that an earlier writer was interrupted in is complete, too.
    Recovered {
        /// The segment.
        path: PathBuf,
        /// What it came to.
        summary: Summary,
    },
    /// Such a segment could not be sealed. It stays as it is; the next start tries again.
    NotRecovered {
        /// Its hidden file.
        path: PathBuf,
        /// Why.
        error: RecoverError,
    },
    /// A segment that held no exchange was removed. What its ledger said is in that of the next one.
    Empty {
        /// The segment.
        path: PathBuf,
    },
    /// A segment was deleted, because of [`Retention`].
    Deleted {
        /// The segment.
        path: PathBuf,
        /// Its length.
        len: u64,
        /// Why.
        cause: Cause,
    },
    /// A segment is to be deleted, and cannot be.
    NotDeleted {
        /// The segment.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// Writes a recording into a folder, as segments that are sealed one after the other.
///
/// Each segment is a whole archive; [`Archive::open`](crate::Archive::open) reads all of them as one.
/// A crash leaves one that is not sealed, and the next writer in the folder seals it. Nothing rolls
/// and nothing is deleted but in [`SegmentedWriter::tick`], which the caller calls some times a
/// second. After an error the writer is of no more use: drop it, and create another one.
///
/// The clock is read once, by the caller, for [`Provenance::created`]; from then on time is what
/// `tick` says has passed. A clock that is set makes nothing older.
#[derive(Debug)]
pub struct SegmentedWriter {
    folder: PathBuf,
    options: SetOptions,
    /// Names the set, and the run.
    set: String,
    recording: String,
    writer: Writer,
    number: u64,
    path: PathBuf,
    /// When the segment began.
    begun: Duration,
    /// Bytes that came from the segment before.
    carried: u64,
    /// What the ledger was then.
    before: Ledger,
    /// What segments said that were removed, because they held nothing else.
    inherited: Ledger,
    shelf: Shelf,
    /// Of the segments sealed so far.
    total: Summary,
    now: Duration,
    /// Kept open: it holds the lock.
    _lock: File,
    #[cfg(test)]
    pub(crate) capacity: Option<u64>,
}

impl SegmentedWriter {
    /// Begins a recording in a folder, which is made if it does not exist. What an interrupted
    /// writer left there is sealed first.
    pub fn create(folder: &Path, options: SetOptions) -> Result<(Self, Vec<SetEvent>), WriteError> {
        let mut events = Vec::new();
        let writer = Self::create_telling(folder, options, &mut events)?;
        Ok((writer, events))
    }

    /// The same; `events` gets what happened to segments even where no recording can begin, as on a full
    /// disk.
    pub fn create_telling(
        folder: &Path,
        options: SetOptions,
        events: &mut Vec<SetEvent>,
    ) -> Result<Self, WriteError> {
        match fs::create_dir(folder) {
            Err(_) if folder.is_dir() => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(WriteError::NotAFolder {
                    path: folder.into(),
                });
            }
            created => created.map_err(io_error("create", folder))?,
        }
        let created = options.writer.provenance.created;
        let mut name = options.writer.provenance.encode();
        let (lock, set) = lock(folder, &hex(&name))?;
        let mut found = Found::in_folder(folder, &set, created, options.retention, events)?;
        let mut shelf = std::mem::take(&mut found.shelf);
        shelf.tidy(options.retention, created, 0, events);
        name.extend_from_slice(&found.next.to_le_bytes());
        let recording = hex(&name);
        let (mut writer, path) = begin(folder, &options, &set, &recording, found.next, created)?;
        let inherited = Empty::of(&mut shelf)
            .pass_on(&mut writer, events)
            .inspect_err(|_| discard(&path))?;
        Ok(Self {
            folder: folder.into(),
            options,
            set,
            recording,
            writer,
            number: found.next,
            path,
            begun: Duration::ZERO,
            carried: 0,
            before: Ledger::default(),
            inherited: inherited.ledger,
            shelf,
            total: Summary::default(),
            now: Duration::ZERO,
            _lock: lock,
            #[cfg(test)]
            capacity: None,
        })
    }

    /// Stores a piece of a long body, ahead of its exchange.
    pub fn body_part(&mut self, part: &BodyPart) -> Result<(), WriteError> {
        self.writer.body_part(part)
    }

    /// Adds an exchange.
    pub fn exchange(&mut self, exchange: &Exchange) -> Result<(), WriteError> {
        self.writer.exchange(exchange)
    }

    /// Adds a connection that could not be read.
    pub fn unread(&mut self, unread: &UnreadConnection) -> Result<(), WriteError> {
        self.writer.unread(unread)
    }

    /// Tells how much time has passed since [`Provenance::created`]. Does what [`Writer::tick`] does,
    /// begins the next segment when it is time, and deletes what is no longer to be kept.
    ///
    /// The ledger is that of the whole recording; each segment gets its part.
    pub fn tick(
        &mut self,
        now: Duration,
        ledger: impl FnOnce() -> Ledger,
    ) -> Result<Vec<SetEvent>, WriteError> {
        self.now = self.now.max(now);
        let mut events = Vec::new();
        if self.is_full() {
            self.roll(&ledger(), &mut events)?;
        } else {
            let Self {
                before, inherited, ..
            } = self;
            self.writer
                .tick(self.now, || part(&ledger(), before, inherited))?;
        }
        let now = self.wall(self.now);
        let open_len = self.writer.file_len();
        self.shelf
            .tidy(self.options.retention, now, open_len, &mut events);
        Ok(events)
    }

    /// Completes the last segment. The summary is of all segments of this recording.
    pub fn seal(mut self, ledger: &Ledger) -> Result<(Summary, Vec<SetEvent>), WriteError> {
        let mut events = Vec::new();
        let sealed = self.wall(self.now);
        let ledger = part(ledger, &self.before, &self.inherited);
        let summary = self.writer.seal(&ledger)?;
        add(&mut self.total, &summary);
        // It is the last to go, however long it is.
        let len = summary.file_len;
        self.shelf
            .tidy(self.options.retention, sealed, len, &mut events);
        let path = self.path;
        events.push(SetEvent::Sealed { path, summary });
        Ok((self.total, events))
    }

    /// Where the segments are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How long the open segment is by now.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.writer.file_len()
    }

    #[cfg(test)]
    pub(crate) fn fill_disk_at(&mut self, capacity: u64) {
        self.writer.fill_disk_at(capacity);
        self.capacity = Some(capacity);
    }

    fn wall(&self, now: Duration) -> Timestamp {
        self.options.writer.provenance.created.saturating_add(now)
    }

    /// Whether the next segment is to begin.
    ///
    /// Parts of exchanges that go on are copied into it. While those are much of the segment, it
    /// grows on, up to four times its bounds: else a few long downloads would be copied from segment
    /// to segment.
    fn is_full(&self) -> bool {
        let written = self.writer.file_len().saturating_sub(self.carried);
        let age = self.now.saturating_sub(self.begun);
        let is_over = |factor: u32| {
            written >= self.options.segment_size.saturating_mul(factor.into())
                || age >= self.options.segment_age.saturating_mul(factor)
        };
        is_over(1)
            && !self.writer.is_empty()
            && (self.writer.open_len() <= written / 4 || is_over(4))
    }

    fn roll(&mut self, ledger: &Ledger, events: &mut Vec<SetEvent>) -> Result<(), WriteError> {
        let at = self.wall(self.now);
        let number = self.number + 1;
        let (mut next, path) = begin(
            &self.folder,
            &self.options,
            &self.set,
            &self.recording,
            number,
            at,
        )?;
        #[cfg(test)]
        if let Some(capacity) = self.capacity {
            next.fill_disk_at(capacity);
        }
        self.writer.carry(&mut next)?;
        self.carried = next.file_len();
        let done = std::mem::replace(&mut self.writer, next);
        let path = std::mem::replace(&mut self.path, path);
        let told = part(ledger, &self.before, &self.inherited);
        self.inherited = Ledger::default();
        let summary = done.seal(&told)?;
        self.number = number;
        self.begun = self.now;
        self.before = ledger.clone();
        add(&mut self.total, &summary);
        self.shelf.push(Kept {
            path: path.clone(),
            len: summary.file_len,
            sealed: at,
        });
        events.push(SetEvent::Sealed { path, summary });
        Ok(())
    }
}

/// Where a recording goes: one file, or a set of segments.
#[derive(Debug)]
pub enum Destination {
    /// One archive.
    File(Box<Writer>),
    /// Segments in a folder.
    Set(Box<SegmentedWriter>),
}

impl Destination {
    /// Stores a piece of a long body, ahead of its exchange.
    pub fn body_part(&mut self, part: &BodyPart) -> Result<(), WriteError> {
        match self {
            Self::File(writer) => writer.body_part(part),
            Self::Set(writer) => writer.body_part(part),
        }
    }

    /// Adds an exchange.
    pub fn exchange(&mut self, exchange: &Exchange) -> Result<(), WriteError> {
        match self {
            Self::File(writer) => writer.exchange(exchange),
            Self::Set(writer) => writer.exchange(exchange),
        }
    }

    /// Adds a connection that could not be read.
    pub fn unread(&mut self, unread: &UnreadConnection) -> Result<(), WriteError> {
        match self {
            Self::File(writer) => writer.unread(unread),
            Self::Set(writer) => writer.unread(unread),
        }
    }

    /// Tells how much time has passed; see [`Writer::tick`] and [`SegmentedWriter::tick`].
    pub fn tick(
        &mut self,
        now: Duration,
        ledger: impl FnOnce() -> Ledger,
    ) -> Result<Vec<SetEvent>, WriteError> {
        match self {
            Self::File(writer) => writer.tick(now, ledger).map(|_| Vec::new()),
            Self::Set(writer) => writer.tick(now, ledger),
        }
    }

    /// Completes it.
    pub fn seal(self, ledger: &Ledger) -> Result<(Summary, Vec<SetEvent>), WriteError> {
        match self {
            Self::File(writer) => writer.seal(ledger).map(|summary| (summary, Vec::new())),
            Self::Set(writer) => writer.seal(ledger),
        }
    }
}

impl From<Writer> for Destination {
    fn from(writer: Writer) -> Self {
        Self::File(Box::new(writer))
    }
}

impl From<SegmentedWriter> for Destination {
    fn from(writer: SegmentedWriter) -> Self {
        Self::Set(Box::new(writer))
    }
}

/// The name of the file whose lock keeps a second writer out of a folder. It holds the id of the
/// set.
const LOCK: &str = ".tapedeck-set";

/// Takes the lock of a folder; gives the id of its set, which is `fresh` where it has none yet.
fn lock(folder: &Path, fresh: &str) -> Result<(File, String), WriteError> {
    let path = folder.join(LOCK);
    let mut open = OpenOptions::new();
    open.read(true).write(true).create(true).truncate(false);
    let mut file = open.open(&path).map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(WriteError::Busy {
                path: folder.into(),
            });
        }
        // Network file systems may have no locks. Hidden files are created exclusively still.
        Err(TryLockError::Error(_)) => {}
    }
    let mut set = String::new();
    let read = (&mut file).take(64).read_to_string(&mut set);
    let set = set.trim();
    if read.is_ok() && set.len() == fresh.len() && set.bytes().all(|b| b.is_ascii_hexdigit()) {
        let set = set.to_owned();
        return Ok((file, set));
    }
    file.set_len(0)
        .and_then(|()| std::io::Seek::rewind(&mut file))
        .and_then(|()| file.write_all(format!("{fresh}\n").as_bytes()))
        .and_then(|()| file.sync_all())
        .map_err(io_error("write to", &path))?;
    Ok((file, fresh.to_owned()))
}

fn hex(bytes: &[u8]) -> String {
    format!("{:016x}", xxh3_64(bytes))
}

/// Begins a segment.
fn begin(
    folder: &Path,
    options: &SetOptions,
    set: &str,
    recording: &str,
    number: u64,
    at: Timestamp,
) -> Result<(Writer, PathBuf), WriteError> {
    let mut options = options.writer.clone();
    options.overwrite = false;
    options.provenance.created = at;
    let names = [
        (SET, set.to_owned()),
        (SEGMENT, number.to_string()),
        (RECORDING, recording.to_owned()),
    ];
    let names = names.map(|(name, value)| (name.to_owned(), value));
    options.provenance.extra.extend(names);
    let path = folder.join(segment_name(number, at));
    let writer = Writer::create(&path, options).inspect_err(|error| {
        let is_ours = !matches!(
            error,
            WriteError::Exists { .. } | WriteError::Busy { .. } | WriteError::Leftover { .. }
        );
        if is_ours {
            discard(&path);
        }
    })?;
    Ok((writer, path))
}

/// Removes the hidden file of a segment that could not be begun. There is nothing in it, and it would be
/// in the way of the next attempt.
fn discard(path: &Path) {
    drop(partial_path(path).map(fs::remove_file));
}

/// What one segment is to say of the ledger of the whole recording.
fn part(ledger: &Ledger, before: &Ledger, inherited: &Ledger) -> Ledger {
    let mut part = ledger.since(before);
    part.merge(inherited);
    part
}

fn add(total: &mut Summary, segment: &Summary) {
    let Summary {
        exchanges,
        file_len,
        deduplicated_bytes,
        unread_connections,
        body_parts_refused,
    } = segment;
    total.exchanges += exchanges;
    total.file_len += file_len;
    total.deduplicated_bytes += deduplicated_bytes;
    total.unread_connections += unread_connections;
    total.body_parts_refused += body_parts_refused;
}

/// What is in the folder of a set.
struct Found {
    /// Sealed segments of the set, oldest first.
    shelf: Shelf,
    /// The number that no file has yet.
    next: u64,
}

impl Found {
    /// Looks at the files of a folder; seals what was interrupted. What is not to be kept is deleted before:
    /// sealing takes room.
    fn in_folder(
        folder: &Path,
        set: &str,
        now: Timestamp,
        retention: Retention,
        events: &mut Vec<SetEvent>,
    ) -> Result<Self, WriteError> {
        let list = io_error("list", folder);
        let files: Result<Vec<_>, _> = fs::read_dir(folder)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
        let mut segments = Vec::new();
        for path in files.map_err(list)? {
            let sealed = name_of_partial(&path);
            let Some(number) = segment_number(sealed.as_ref().unwrap_or(&path)) else {
                continue;
            };
            segments.push((number, path, sealed));
        }
        segments.sort();
        let mut found = Self {
            shelf: Shelf::default(),
            next: 1,
        };
        let mut interrupted = Vec::new();
        let mut interrupted_len = 0;
        for (number, path, sealed) in segments {
            found.next = found.next.max(number.saturating_add(1));
            // Copies of other sets' segments may lie here, too: those are not ours to touch.
            let of = set_of(&path);
            match sealed {
                Some(_) if !matches!(of, Ok(Some(_))) && is_unbegun(&path) => {
                    drop(fs::remove_file(&path));
                }
                _ if !matches!(of, Ok(Some(of)) if of == set) => {}
                None => found.keep(path, now),
                Some(name) => {
                    interrupted_len += fs::metadata(&path).map_or(0, |file| file.len());
                    interrupted.push((path, name));
                }
            }
        }
        found.shelf.tidy(retention, now, interrupted_len, events);
        for (path, name) in interrupted {
            match finish(&path, &name, &Identities::none()) {
                Ok(summary) => {
                    let path = name.clone();
                    events.push(SetEvent::Recovered { path, summary });
                    found.keep(name, now);
                }
                // Where there is no room for an index, there is none for what would come.
                Err(RecoverError::Write(error)) if is_full(&error, &path) => return Err(error),
                Err(error) => {
                    // Who only writes cannot seal it, but deletes it when its time has come.
                    if matches!(error, RecoverError::Open(OpenError::NoIdentity { .. })) {
                        found.keep(path.clone(), now);
                    }
                    events.push(SetEvent::NotRecovered { path, error });
                }
            }
        }
        found.shelf.sort();
        Ok(found)
    }

    fn keep(&mut self, path: PathBuf, now: Timestamp) {
        let Ok(metadata) = fs::metadata(&path) else {
            return;
        };
        let changed = metadata.modified().ok();
        let changed = changed.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        let changed = changed.map_or(now, |at| Timestamp::EPOCH.saturating_add(at));
        self.shelf.push(Kept {
            path,
            len: metadata.len(),
            // A clock that was ahead then does not keep it for ever.
            sealed: changed.min(now),
        });
    }
}

/// Whether there is no room for more of this file.
fn is_full(error: &WriteError, of: &Path) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error, WriteError::Io { path, source, .. }
        if path == of && matches!(source.kind(), StorageFull | QuotaExceeded))
}

/// Seals what an interrupted writer left; where that is damaged, what can be read of it.
pub(crate) fn finish(
    partial: &Path,
    name: &Path,
    identities: &Identities,
) -> Result<Summary, RecoverError> {
    if let Some(summary) = seal_in_place(partial, name, identities)? {
        return Ok(summary);
    }
    // Nothing is in an unfinished copy that is not in `partial`.
    let discard_copy = || {
        if let Some(text) = name.file_name().map(|name| name.to_string_lossy()) {
            let copy = name.with_file_name(format!(".{text}.recovered"));
            drop(fs::remove_file(&copy));
            drop(partial_path(&copy).map(fs::remove_file));
        }
    };
    // An earlier attempt may have left one.
    discard_copy();
    let recovered = recover_with(partial, name, identities, &Protection::AsBefore)
        .inspect_err(|_| discard_copy())?;
    // What could not be read is lost; the rest is in the new file.
    drop(fs::remove_file(partial));
    Ok(recovered.summary)
}

/// Seals what interrupted writers left in a folder. What cannot be sealed is told, and stays.
pub fn recover_folder(folder: &Path) -> Result<Vec<SetEvent>, WriteError> {
    recover_folder_with(folder, &Identities::none())
}

/// Like [`recover_folder`], of segments that may be encrypted. They stay encrypted as they are.
pub fn recover_folder_with(
    folder: &Path,
    identities: &Identities,
) -> Result<Vec<SetEvent>, WriteError> {
    let path = folder.join(LOCK);
    let lock = File::open(&path).map(|lock| lock.try_lock_shared().map(|()| lock));
    if matches!(lock, Ok(Err(TryLockError::WouldBlock))) {
        return Err(WriteError::Busy {
            path: folder.into(),
        });
    }
    let entries = fs::read_dir(folder).map_err(io_error("list", folder))?;
    let mut events = Vec::new();
    for entry in entries {
        let path = entry.map_err(io_error("list", folder))?.path();
        let name = name_of_partial(&path);
        let Some(name) = name.filter(|name| name.extension().is_some_and(|ext| ext == EXTENSION))
        else {
            continue;
        };
        events.push(match finish(&path, &name, identities) {
            Ok(summary) => SetEvent::Recovered {
                path: name,
                summary,
            },
            Err(error) => SetEvent::NotRecovered { path, error },
        });
    }
    Ok(events)
}

/// Whether a hidden file is that of a writer that died before it had said where its exchanges come
/// from: nothing else is in it.
fn is_unbegun(path: &Path) -> bool {
    match Source::open_locked(path) {
        Ok(source) => {
            let mut chunks = Scan::new(&source).filter_map(|found| found.chunk.ok());
            chunks.all(|chunk| chunk.kind == ChunkKind::Keys)
        }
        Err(_) => fs::read(path).is_ok_and(|bytes| {
            bytes.len() < HEADER_LEN && (bytes.starts_with(&MAGIC) || MAGIC.starts_with(&bytes))
        }),
    }
}

/// The set that a segment belongs to, as its first chunk says. `None`: it names none.
fn set_of(path: &Path) -> Result<Option<String>, OpenError> {
    let source = Source::open_locked(path)?;
    if source.is_encrypted() {
        let keys = source.keys().next();
        let set = keys.and_then(|keys| String::from_utf8(keys.value(SET)?.to_vec()).ok());
        return Ok(set);
    }
    let chunk = source.chunk(HEADER_LEN as u64, ChunkKind::Provenance);
    let payload = chunk.and_then(|chunk| chunk.payload(&mut Inflater::default()));
    let provenance = payload
        .ok()
        .and_then(|payload| Provenance::decode(&payload));
    Ok(provenance.and_then(|mut provenance| provenance.extra.remove(SET)))
}
