//! An archive is opened: a file, a folder, or several files.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use tapedeck_model::{Ledger, UnreadConnection};

use super::name::{EXTENSION, name_of_partial, segment_number};
use super::provenance::{RECORDING, SET};
use crate::block::view::{BodyView, Record};
use crate::encryption::keys::{Identities, Recipients};
use crate::error::{OpenError, ReadError};
use crate::output::partial_path;
use crate::page::row::Row;
use crate::page::view::Page;
use crate::provenance::{Provenance, StoredLedger};
use crate::reader::{Keyring, Place, Segment, Zone};
use crate::scratch::{BodyBuffer, Scratch};
use crate::source;

/// An open archive: one file, or several that are read as one. Any number of threads may read it
/// at once.
///
/// Opening reads the directory of the index of each file, which is about a ten-thousandth of it.
/// Index pages are checked when they are first looked at, blocks when they are loaded.
///
/// Exchanges are numbered from 0, file by file, in the order of writing. The files of a folder lie
/// in the order of their segment numbers, others in the order of their first exchange.
#[derive(Debug)]
pub struct Archive {
    /// At least one.
    segments: Vec<Segment>,
    labels: Vec<String>,
    n_rows: u64,
    /// What the first segment's source is numbered; the others follow.
    first_instance: u64,
    ledger: StoredLedger,
    provenance: Provenance,
    left_out: Vec<LeftOut>,
}

/// A file of a folder that could not be read; the others are.
#[derive(Debug)]
#[non_exhaustive]
pub struct LeftOut {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub error: OpenError,
}

/// A file of an archive.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SegmentInfo<'a> {
    /// The file.
    pub path: &'a Path,
    /// What stands before the `/` in the names of its exchanges.
    pub label: &'a str,
    /// The id of its first exchange.
    pub first_id: u64,
    /// Its exchanges.
    pub len: u64,
    /// The length of the file.
    pub file_len: u64,
    /// `false`: it is still being written, or its writer was interrupted. Seen is what was flushed
    /// when it was opened.
    pub is_sealed: bool,
}

impl Archive {
    /// The most files that are opened as one. Each is a mapping, of which Linux allows a process
    /// 65,530 (`vm.max_map_count`).
    pub const MAX_SEGMENTS: usize = 1 << 15;

    /// The connections of the files of one recording keep their ids; those of the next recording are
    /// moved by this much.
    pub(crate) const CONNECTIONS: u64 = 1 << 40;

    /// Opens a sealed archive, or a folder of archives as one.
    ///
    /// Of a folder, every `*.tape` is read, and what is still being written, up to its last flush.
    /// What cannot be read is left out: [`Archive::left_out`] tells.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_all(&[path])
    }

    /// Opens an archive that may be encrypted.
    pub fn open_with(path: &Path, identities: &Identities) -> Result<Self, OpenError> {
        Self::open_all_with(&[path], identities)
    }

    /// Opens several files and folders as one archive. A file that is named must be readable; of a
    /// folder, what cannot be read is left out.
    pub fn open_all<P: AsRef<Path>>(paths: &[P]) -> Result<Self, OpenError> {
        Self::open_all_with(paths, &Identities::none())
    }

    /// Opens several files and folders, any of which may be encrypted, as one archive.
    pub fn open_all_with<P: AsRef<Path>>(
        paths: &[P],
        identities: &Identities,
    ) -> Result<Self, OpenError> {
        let keyring = &Keyring::new(identities);
        let mut segments = Vec::new();
        let mut left_out = Vec::new();
        for path in paths {
            let path = path.as_ref();
            if !path.is_dir() {
                segments.push(Segment::open(path, keyring)?);
                continue;
            }
            let room = Self::MAX_SEGMENTS.saturating_sub(segments.len());
            let opened = open_folder(path, room, keyring)?;
            segments.extend(opened.0);
            left_out.extend(opened.1);
        }
        match (paths, left_out.is_empty()) {
            ([path, ..], true) if segments.is_empty() => Err(OpenError::NoArchives {
                path: path.as_ref().into(),
            }),
            _ => Self::of(segments, left_out),
        }
    }

    fn of(mut segments: Vec<Segment>, mut left_out: Vec<LeftOut>) -> Result<Self, OpenError> {
        if segments.is_empty() {
            return Err(match left_out.pop() {
                Some(left_out) => left_out.error,
                None => OpenError::NoArchives {
                    path: PathBuf::new(),
                },
            });
        }
        sort(&mut segments);
        let first_instance = source::instances(segments.len() as u64);
        let mut recordings: HashMap<String, u64> = HashMap::new();
        let mut next = Place {
            instance: first_instance,
            ..Place::default()
        };
        for segment in &mut segments {
            let recording = segment.provenance().extra.get(RECORDING);
            // Nothing ties a file that names no recording to another.
            let name = recording.map_or_else(|| format!("#{}", next.instance), Clone::clone);
            let number = recordings.len() as u64;
            next.first_connection = 0;
            if !segment.is_empty() {
                let number = *recordings.entry(name).or_insert(number);
                next.first_connection = number.wrapping_mul(Self::CONNECTIONS);
            }
            segment.place(next);
            next.instance += 1;
            next.first_row = next.first_row.saturating_add(segment.len());
            next.first_page += segment.n_pages();
        }
        let mut ledger = StoredLedger::default();
        for segment in &segments {
            ledger.merge(segment.ledger());
        }
        let provenance = match segments.as_slice() {
            [one] => one.provenance().clone(),
            several => Provenance::of_several(several.iter().map(Segment::provenance)),
        };
        Ok(Self {
            labels: labels(&segments),
            n_rows: next.first_row,
            segments,
            first_instance,
            ledger,
            provenance,
            left_out,
        })
    }

    /// How many exchanges there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.n_rows
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.n_rows == 0
    }

    /// The files, in order.
    pub fn segments(&self) -> impl Iterator<Item = SegmentInfo<'_>> {
        let labels = self.labels.iter();
        self.segments
            .iter()
            .zip(labels)
            .map(|(segment, label)| SegmentInfo {
                path: segment.path(),
                label,
                first_id: segment.first_row(),
                len: segment.len(),
                file_len: segment.file_len(),
                is_sealed: segment.is_sealed(),
            })
    }

    /// The files of a folder that could not be read.
    #[must_use]
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// The name of an exchange for people: its id, or where there are several files, the label of
    /// its file and its number there, as in `17/203`. Unlike the id, the name stays when files before
    /// it are deleted.
    #[must_use]
    pub fn name(&self, id: u64) -> String {
        let number = self.segment_number(id);
        match (self.segments.get(number), self.labels.get(number)) {
            (Some(segment), Some(label)) if self.segments.len() > 1 => {
                format!("{label}/{}", id.saturating_sub(segment.first_row()))
            }
            _ => id.to_string(),
        }
    }

    /// The id of an exchange by its name or its id. `None`: there is no such exchange.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<u64> {
        let id = match name.rsplit_once('/') {
            None => name.parse().ok()?,
            Some((label, number)) => {
                let found = self.labels.iter().position(|known| known == label)?;
                let segment = self.segments.get(found)?;
                let number: u64 = number.parse().ok()?;
                (number < segment.len()).then(|| segment.first_row() + number)?
            }
        };
        (id < self.n_rows).then_some(id)
    }

    /// What the index knows of an exchange. `None` where there is no such exchange, or its index
    /// page is damaged ([`Archive::page_of`] tells which).
    #[must_use]
    pub fn row(&self, id: u64) -> Option<Row<'_>> {
        let page = self.page_of(id).ok()?;
        page.row(usize::try_from(id.checked_sub(page.first_row())?).ok()?)
    }

    /// Every row, by id, those of damaged index pages left out. [`Archive::pages`] tells of those;
    /// so does [`Archive::damaged_rows`], after the iteration.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.pages().flatten().flat_map(|page| page.rows())
    }

    /// The pages of the index, in order.
    pub fn pages(&self) -> impl Iterator<Item = Result<Page<'_>, ReadError>> {
        self.segments
            .iter()
            .flat_map(|segment| (0..segment.n_pages()).map(|number| segment.page(number)))
    }

    /// What the directory knows of each page, in order: enough to pass over most of them.
    pub fn zones(&self) -> impl Iterator<Item = Zone<'_>> {
        self.segments.iter().flat_map(Segment::zones)
    }

    /// The page of that number, in the order of [`Archive::zones`].
    pub fn page(&self, number: usize) -> Result<Page<'_>, ReadError> {
        let behind = self
            .segments
            .partition_point(|segment| segment.first_page() <= number);
        self.segments
            .get(behind.saturating_sub(1))
            .ok_or_else(|| self.no_such_exchange(self.n_rows))
            .and_then(|segment| segment.page(number - segment.first_page()))
    }

    /// The page that holds an exchange.
    pub fn page_of(&self, id: u64) -> Result<Page<'_>, ReadError> {
        let (segment, local) = self.segment_of(id)?;
        segment.page_of(local)
    }

    /// How many rows lie in index pages that are damaged. Reads the whole index, unless that was
    /// done before.
    #[must_use]
    pub fn damaged_rows(&self) -> u64 {
        let sound: u64 = self.pages().flatten().map(|page| page.len() as u64).sum();
        self.n_rows - sound
    }

    /// The loss ledger of the capture.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger.ledger
    }

    /// Counters of the ledger that this version does not know, by name.
    #[must_use]
    pub fn unknown_counters(&self) -> &BTreeMap<String, u64> {
        &self.ledger.unknown
    }

    /// The connections that could not be read, in the order in which they were written. An error
    /// stands for a list of them that is damaged; the iteration goes on behind it.
    pub fn unread(&self) -> impl Iterator<Item = Result<UnreadConnection, ReadError>> {
        self.segments.iter().flat_map(Segment::unread)
    }

    /// Where the archive comes from; of several files, what [`Provenance::of_several`] says.
    #[must_use]
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// To whom the files are encrypted; `None` for each that is not.
    pub fn recipients(&self) -> impl Iterator<Item = Option<Recipients>> {
        self.provenances().map(Recipients::of)
    }

    /// Where each file comes from, in the order of [`Archive::segments`].
    pub fn provenances(&self) -> impl Iterator<Item = &Provenance> + Clone {
        self.segments.iter().map(Segment::provenance)
    }

    /// Reads an exchange. Decompresses its block into `scratch`, unless it is there already.
    pub fn load<'s>(&self, id: u64, scratch: &'s mut Scratch) -> Result<Record<'s>, ReadError> {
        let (segment, local) = self.segment_of(id)?;
        segment.load(local, scratch)
    }

    /// The bytes of a body, in one piece. Those of a short one are where its record is, and those
    /// of an incompressible one in the mapped file: neither is copied.
    pub fn body<'b>(
        &'b self,
        body: &BodyView<'b>,
        buffer: &'b mut BodyBuffer,
    ) -> Result<&'b [u8], ReadError> {
        self.segment_of_body(body)?.body(body, buffer)
    }

    /// Some of the bytes of a body of any length: from `start` on, `len` of them or as many as there
    /// are. The buffer's limit bounds `len`.
    pub fn body_range<'b>(
        &self,
        body: &BodyView<'_>,
        start: u64,
        len: u64,
        buffer: &'b mut BodyBuffer,
    ) -> Result<&'b [u8], ReadError> {
        self.segment_of_body(body)?
            .body_range(body, start, len, buffer)
    }

    /// Writes the bytes of a body of any length, without holding more than a block of it.
    pub fn copy_body(
        &self,
        body: &BodyView<'_>,
        buffer: &mut BodyBuffer,
        out: &mut impl io::Write,
    ) -> Result<(), ReadError> {
        self.segment_of_body(body)?.copy_body(body, buffer, out)
    }

    pub(crate) fn files(&self) -> &[Segment] {
        &self.segments
    }

    fn segment_of(&self, id: u64) -> Result<(&Segment, u64), ReadError> {
        let segment = self.segments.get(self.segment_number(id));
        match segment {
            Some(segment) if id < self.n_rows => Ok((segment, id - segment.first_row())),
            _ => Err(self.no_such_exchange(id)),
        }
    }

    /// The number of the last segment that begins at or before an exchange: of several that begin
    /// there, all but that one are empty.
    fn segment_number(&self, id: u64) -> usize {
        let behind = self
            .segments
            .partition_point(|segment| segment.first_row() <= id);
        behind.saturating_sub(1)
    }

    fn segment_of_body(&self, body: &BodyView<'_>) -> Result<&Segment, ReadError> {
        let number = body.origin.archive.checked_sub(self.first_instance);
        number
            .and_then(|number| self.segments.get(usize::try_from(number).ok()?))
            .ok_or(ReadError::ForeignBody)
    }

    fn no_such_exchange(&self, id: u64) -> ReadError {
        ReadError::NoSuchExchange {
            id,
            len: self.n_rows,
        }
    }
}

/// The archives in a folder, by name. What is not sealed counts, too, under the name that it is to
/// have; see [`partial_path`](crate::partial_path) for the one that it has.
pub fn archives_in(folder: &Path) -> Result<BTreeSet<PathBuf>, OpenError> {
    let failed = |source| OpenError::Io {
        action: "list",
        path: folder.into(),
        source,
    };
    let is_archive = |path: &Path| {
        let is_hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        !is_hidden && path.extension().is_some_and(|found| found == EXTENSION)
    };
    let mut files = BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if is_archive(&path) {
            files.insert(path);
            continue;
        }
        let name = name_of_partial(&path).filter(|name| is_archive(name));
        if let Some(name) = name
            && !name.exists()
        {
            files.insert(name);
        }
    }
    Ok(files)
}

/// Opens the archives in a folder.
fn open_folder(
    folder: &Path,
    room: usize,
    keyring: &Keyring,
) -> Result<(Vec<Segment>, Vec<LeftOut>), OpenError> {
    let mut names = archives_in(folder)?;
    // A folder is not listed in one instant: a segment that is sealed, and so renamed, meanwhile
    // may be in the list under neither name. It is in the next one.
    for _ in 0..RETRIES {
        if names.is_empty() {
            return Err(OpenError::NoArchives {
                path: folder.into(),
            });
        }
        if names.len() > room {
            return Err(OpenError::TooManyFiles {
                path: folder.into(),
                limit: room,
            });
        }
        let (mut segments, mut left_out) = (Vec::new(), Vec::new());
        for path in &names {
            match open_file(path, keyring) {
                Ok(segment) => segments.push(segment),
                // It was deleted since, as segments are that nobody is to keep.
                Err(_) if !path.exists() && !is_being_written(path) => {}
                // Its writer has just created it, or died then: there is nothing to leave out.
                Err(OpenError::Empty { .. }) if !path.exists() => {}
                Err(error) => left_out.push(LeftOut {
                    path: path.clone(),
                    error,
                }),
            }
        }
        let before = std::mem::replace(&mut names, archives_in(folder)?);
        if names.is_subset(&before) {
            return Ok((segments, left_out));
        }
    }
    Err(OpenError::Restless {
        path: folder.into(),
    })
}

/// How often a folder may change while it is opened.
const RETRIES: usize = 100;

fn is_being_written(path: &Path) -> bool {
    partial_path(path).is_ok_and(|hidden| hidden.exists())
}

/// Opens a file of a folder; under its hidden name where it is not sealed.
fn open_file(path: &Path, keyring: &Keyring) -> Result<Segment, OpenError> {
    let hidden = partial_path(path).ok().filter(|_| !path.exists());
    let unsealed = hidden.map(|hidden| Segment::open_unsealed(&hidden, keyring));
    match unsealed {
        Some(Ok(segment)) => Ok(segment),
        // It may have been sealed since.
        Some(Err(error)) => Segment::open(path, keyring).map_err(|_| error),
        None => Segment::open(path, keyring),
    }
}

/// The segments of a set in the order of their numbers, which no clock disturbs; each set, and each
/// other file, by its first exchange.
fn sort(segments: &mut [Segment]) {
    let place = |segment: &Segment| {
        let number = segment_number(&sealed_name(segment.path()))?;
        let set = segment.provenance().extra.get(SET)?.clone();
        Some((set, number))
    };
    let mut starts: HashMap<String, i64> = HashMap::new();
    for segment in segments.iter() {
        if let (Some((set, _)), Some(time)) = (place(segment), segment.first_time()) {
            let start = starts.entry(set).or_insert(time);
            *start = time.min(*start);
        }
    }
    segments.sort_by_cached_key(|segment| {
        let own = segment
            .first_time()
            .unwrap_or_else(|| segment.provenance().created.as_nanos());
        let path = segment.path().to_owned();
        match place(segment) {
            Some((set, number)) => {
                let start = starts.get(&set).copied().unwrap_or(own);
                (start, set, number, path)
            }
            None => (own, String::new(), 0, path),
        }
    });
}

/// The name that a file has, or is to have.
fn sealed_name(path: &Path) -> PathBuf {
    name_of_partial(path).unwrap_or_else(|| path.to_owned())
}

/// What tells the files apart for people: the number of a segment, the name of another archive,
/// the place in the order where those are not distinct.
fn labels(segments: &[Segment]) -> Vec<String> {
    let labels: Vec<String> = segments
        .iter()
        .map(|segment| {
            let name = sealed_name(segment.path());
            let stem = name.file_stem().unwrap_or_default().to_string_lossy();
            segment_number(&name).map_or_else(|| stem.into_owned(), |number| number.to_string())
        })
        .collect();
    let distinct: HashSet<&String> = labels.iter().collect();
    if distinct.len() == labels.len() {
        return labels;
    }
    (1..=segments.len())
        .map(|place| place.to_string())
        .collect()
}
