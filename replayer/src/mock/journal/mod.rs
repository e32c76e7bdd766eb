//! What a mock writes down: what it received and answered, and what upstreams answered.
//!
//! One thread writes both archives. The serving threads hand it what there is to write, through a
//! queue that is bounded by bytes ([`Limits::journal_bytes`](super::Limits::journal_bytes)), and
//! never wait: what finds no room is dropped, and counted in the ledger of its archive.

mod answered;
mod heads;
mod writer;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tapedeck_archive::{Provenance, WriteError, Writer, WriterOptions};
use tapedeck_model::exchange::{Arrival, BodyPart, Connection};
use tapedeck_model::{Missing, Role, Timestamp};

pub(crate) use answered::{Tee, answered};
pub(crate) use heads::KeptHead;

/// What became of an archive that a mock writes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Written {
    /// Exchanges in it, or on their way to it.
    pub exchanges: u64,
    /// Exchanges that are not in it: the disk was slower than the clients
    /// ([`Limits::journal_bytes`](super::Limits::journal_bytes)), or it failed.
    pub dropped: u64,
    /// Why it ends before its time.
    pub failed: Option<String>,
}

/// The archives that a mock writes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Book {
    /// What came, and what was answered.
    Received,
    /// What upstreams answered.
    Recorded,
}

impl Book {
    const ALL: [Self; 2] = [Self::Received, Self::Recorded];

    /// As provenance says it.
    const fn source(self) -> &'static str {
        match self {
            Self::Received => "received by a mock",
            Self::Recorded => "answers of upstreams, through a mock",
        }
    }
}

/// Which of the archives something is for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct For {
    pub(crate) received: bool,
    pub(crate) recorded: bool,
}

impl For {
    const fn is_for(self, book: Book) -> bool {
        match book {
            Book::Received => self.received,
            Book::Recorded => self.recorded,
        }
    }
}

/// The serving threads' end of the queue.
#[derive(Debug)]
pub(crate) struct Journal {
    queue: Sender<Note>,
    /// Bytes that the queue may still take.
    room: AtomicUsize,
    keys: AtomicU64,
    tallies: [Option<Tally>; 2],
    /// Faults that struck connections: no exchange tells of those.
    connection_faults: AtomicU64,
}

/// A journal, and the thread that writes it.
type Begun = (Arc<Journal>, JoinHandle<()>);

/// What became of the exchanges for one archive.
#[derive(Debug, Default)]
struct Tally {
    exchanges: AtomicU64,
    dropped: AtomicU64,
    failed: Mutex<Option<String>>,
}

/// What the writing thread is told.
#[derive(Debug)]
enum Note {
    Entry(Box<Entry>, Room),
    Part(BodyPart, For, Room),
    End,
}

/// A request and what was answered, as far as the serving threads take it apart.
#[derive(Debug)]
struct Entry {
    key: u64,
    connection: Arc<Connection>,
    /// The first of its connection.
    is_first: bool,
    stream: u64,
    to: For,
    request: Kept,
    interim: Vec<KeptHead>,
    response: Option<Kept>,
    /// Something went wrong on purpose.
    faulty: bool,
    tunnel: bool,
}

/// A message.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) head: KeptHead,
    /// What of the body did not go ahead in parts.
    pub(crate) body: Bytes,
    /// Bytes of the whole body, and how many parts of it went ahead.
    pub(crate) len: u64,
    pub(crate) parts: u32,
    pub(crate) trailers: Option<KeptHead>,
    pub(crate) arrivals: Vec<Arrival>,
    pub(crate) first_byte: Timestamp,
    pub(crate) last_byte: Timestamp,
    pub(crate) missing: Missing,
    pub(crate) reset_code: Option<u32>,
}

impl Kept {
    /// A whole message that came, or was sent, at once.
    pub(crate) fn whole(head: KeptHead, body: Bytes, at: Timestamp) -> Self {
        Self {
            head,
            len: body.len() as u64,
            body,
            parts: 0,
            trailers: None,
            arrivals: Vec::new(),
            first_byte: at,
            last_byte: at,
            missing: Missing::NONE,
            reset_code: None,
        }
    }

    fn weight(&self) -> usize {
        let trailers = self.trailers.as_ref().map_or(0, KeptHead::weight);
        let arrivals = self.arrivals.len() * size_of::<Arrival>();
        self.head.weight() + self.body.len() + trailers + arrivals
    }
}

/// Whose connection a request came on.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) connection: Arc<Connection>,
    /// Whether one of its exchanges was written down.
    pub(crate) noted: AtomicBool,
}

/// The clock, as archives tell time.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp::EPOCH.saturating_add(since.unwrap_or_default())
}

impl Journal {
    /// Begins the archives that are asked for. `None`: none is.
    pub(crate) fn start(
        received: Option<&Path>,
        recorded: Option<&Path>,
        bytes: usize,
    ) -> Result<Option<Begun>, JournalError> {
        let create = |path: Option<&Path>, book: Book| {
            path.map(|path| {
                let provenance = Provenance {
                    source: book.source().to_owned(),
                    software: concat!("tapedeck ", env!("CARGO_PKG_VERSION")).to_owned(),
                    created: now(),
                    ..Provenance::default()
                };
                Writer::create(path, WriterOptions::new(provenance))
            })
            .transpose()
        };
        let writers = [
            create(received, Book::Received)?,
            create(recorded, Book::Recorded)?,
        ];
        if writers.iter().all(Option::is_none) {
            return Ok(None);
        }
        let (queue, notes) = mpsc::channel();
        let tallies = writers
            .each_ref()
            .map(|writer| writer.as_ref().map(|_| Tally::default()));
        let journal = Arc::new(Self {
            queue,
            room: AtomicUsize::new(bytes),
            keys: AtomicU64::new(1),
            tallies,
            connection_faults: AtomicU64::new(0),
        });
        let thread = journal.spawn(notes, writers)?;
        Ok(Some((journal, thread)))
    }

    fn spawn(
        self: &Arc<Self>,
        notes: Receiver<Note>,
        writers: [Option<Writer>; 2],
    ) -> Result<JoinHandle<()>, JournalError> {
        let journal = Arc::clone(self);
        thread::Builder::new()
            .name("mock-journal".to_owned())
            .spawn(move || writer::run(&journal, &notes, writers))
            .map_err(JournalError::Thread)
    }

    /// Nothing more comes: the archives are sealed when what is in the queue is written.
    pub(crate) fn end(&self) {
        // Where the thread is gone, it has said why.
        let _gone = self.queue.send(Note::End).is_err();
    }

    /// Whether received requests are written down.
    pub(crate) const fn keeps_received(&self) -> bool {
        self.tallies[0].is_some()
    }

    /// Whether answers of upstreams are.
    pub(crate) const fn keeps_recorded(&self) -> bool {
        self.tallies[1].is_some()
    }

    /// Counts a fault that struck a connection.
    pub(crate) fn count_fault(&self) {
        self.connection_faults.fetch_add(1, Ordering::Relaxed);
    }

    /// What became of an archive; `None`: it was not asked for.
    pub(crate) fn written(&self, book: Book) -> Option<Written> {
        self.tally(book).map(|tally| Written {
            exchanges: tally.exchanges.load(Ordering::Relaxed),
            dropped: tally.dropped.load(Ordering::Relaxed),
            failed: tally.failed().clone(),
        })
    }

    /// Begins to write down a request. `None`: nobody asked for that, or there is no room.
    pub(crate) fn draft(
        self: &Arc<Self>,
        caller: &Caller,
        stream: u64,
        to: For,
        head: KeptHead,
        body: &[u8],
    ) -> Option<Draft> {
        let to = For {
            received: to.received && self.keeps_received(),
            recorded: to.recorded && self.keeps_recorded(),
        };
        if to == For::default() {
            return None;
        }
        let Some(room) = self.take(head.weight() + body.len() + OVERHEAD) else {
            self.count_dropped(to);
            return None;
        };
        let request = Kept::whole(head, Bytes::copy_from_slice(body), now());
        let entry = Box::new(Entry {
            key: self.keys.fetch_add(1, Ordering::Relaxed),
            connection: Arc::clone(&caller.connection),
            is_first: !caller.noted.swap(true, Ordering::Relaxed),
            stream,
            to,
            request,
            interim: Vec::new(),
            response: None,
            faulty: false,
            tunnel: false,
        });
        Some(Draft {
            journal: Arc::clone(self),
            entry: Some((entry, room)),
            said: None,
        })
    }

    fn take(self: &Arc<Self>, bytes: usize) -> Option<Room> {
        let taken = self
            .room
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| {
                room.checked_sub(bytes)
            });
        taken.ok().map(|_| Room {
            journal: Arc::clone(self),
            bytes,
        })
    }

    fn count_dropped(&self, to: For) {
        for book in Book::ALL {
            if let Some(tally) = self.tally(book).filter(|_| to.is_for(book)) {
                tally.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn tally(&self, book: Book) -> Option<&Tally> {
        match book {
            Book::Received => self.tallies[0].as_ref(),
            Book::Recorded => self.tallies[1].as_ref(),
        }
    }
}

impl Tally {
    fn failed(&self) -> MutexGuard<'_, Option<String>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of the queue that something takes until it is written.
#[derive(Debug)]
struct Room {
    journal: Arc<Journal>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.journal.room.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// A request that waits for its answer. Dropped before, it is written down without one.
#[derive(Debug)]
pub(crate) struct Draft {
    journal: Arc<Journal>,
    entry: Option<(Box<Entry>, Room)>,
    /// What the client goes on to say.
    said: Option<Said>,
}

/// A request that is answered while it still comes.
#[derive(Clone, Debug)]
pub(crate) struct Said(Arc<Mutex<Saying>>);

#[derive(Debug)]
struct Saying {
    journal: Arc<Journal>,
    body: Vec<u8>,
    room: Vec<Room>,
    times: Times,
    /// The queue had no room: the rest is not kept.
    full: bool,
}

/// When the pieces of a body came.
#[derive(Clone, Debug)]
pub(crate) struct Times {
    first: Timestamp,
    last: Timestamp,
    arrivals: Vec<Arrival>,
}

impl Times {
    fn begin() -> Self {
        let now = now();
        Self {
            first: now,
            last: now,
            arrivals: Vec::new(),
        }
    }

    /// Something comes now that begins at this offset.
    fn note(&mut self, offset: u64) {
        let at = now();
        if at.since(self.last) >= PAUSE && self.arrivals.len() < MAX_ARRIVALS {
            self.arrivals.push(Arrival { offset, at });
        }
        self.last = at;
    }
}

impl Said {
    /// A piece of the body has come.
    pub(crate) fn add(&self, data: &[u8]) {
        let mut saying = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if saying.full || data.is_empty() {
            return;
        }
        let Some(room) = saying.journal.take(data.len()) else {
            saying.full = true;
            return;
        };
        saying.room.push(room);
        let offset = saying.body.len() as u64;
        saying.times.note(offset);
        saying.body.extend_from_slice(data);
    }

    /// Nothing more comes.
    pub(crate) fn end(&self) {
        let mut saying = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        saying.times.last = now();
    }

    /// Makes it the request that is written down.
    fn settle(&self, request: &mut Kept, room: &mut Room) {
        let mut saying = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let body = std::mem::take(&mut saying.body);
        for mut more in saying.room.drain(..) {
            room.bytes += std::mem::take(&mut more.bytes);
        }
        request.len = body.len() as u64;
        request.body = body.into();
        request.first_byte = saying.times.first;
        request.last_byte = saying.times.last;
        request.arrivals = std::mem::take(&mut saying.times.arrivals);
        if saying.full {
            request.missing.insert(Missing::PARTIAL);
        }
    }
}

impl Draft {
    /// Something goes wrong with the answer on purpose.
    pub(crate) fn mark_faulty(&mut self) {
        if let Some((entry, _)) = &mut self.entry {
            entry.faulty = true;
        }
    }

    /// The request goes on while it is answered.
    pub(crate) fn goes_on(&mut self) -> Said {
        let said = Said(Arc::new(Mutex::new(Saying {
            journal: Arc::clone(&self.journal),
            body: Vec::new(),
            room: Vec::new(),
            times: Times::begin(),
            full: false,
        })));
        self.said = Some(said.clone());
        said
    }

    /// It became a tunnel.
    pub(crate) fn tunnel(&mut self) {
        if let Some((entry, _)) = &mut self.entry {
            entry.tunnel = true;
        }
    }

    /// An interim response.
    pub(crate) fn interim(&mut self, head: KeptHead) {
        if let Some((entry, _)) = &mut self.entry {
            entry.interim.push(head);
        }
    }

    /// The upstream did not answer; the mock did, in its place. Nobody is to take that for what the upstream says.
    pub(crate) fn unanswered(&mut self) {
        if let Some((entry, _)) = &mut self.entry {
            entry.to.recorded = false;
            if entry.to == For::default() {
                self.entry = None;
            }
        }
    }

    /// The server end of the connection that is written down: an upstream's.
    pub(crate) fn answered_by(&mut self, server: std::net::SocketAddr) {
        if let Some((entry, _)) = &mut self.entry {
            let mut connection = Connection::clone(&entry.connection);
            connection.server = tapedeck_model::Endpoint::new(server.ip(), server.port());
            entry.connection = Arc::new(connection);
        }
    }

    /// A piece of the answer's body, ahead of the rest. `false`: there is no room for it.
    pub(crate) fn part(&self, data: Vec<u8>) -> bool {
        let Some((entry, _)) = &self.entry else {
            return false;
        };
        let Some(room) = self.journal.take(data.len() + OVERHEAD) else {
            return false;
        };
        let part = BodyPart {
            key: entry.key,
            role: Role::Response,
            data,
        };
        let note = Note::Part(part, entry.to, room);
        self.journal.queue.send(note).is_ok()
    }

    /// The answer, which is over.
    pub(crate) fn answered(mut self, response: Option<Kept>) {
        self.hand_over(response);
    }

    fn hand_over(&mut self, response: Option<Kept>) {
        if let Some((mut entry, mut room)) = self.entry.take() {
            if let Some(said) = &self.said {
                said.settle(&mut entry.request, &mut room);
            }
            self.journal.hand_over(entry, room, response);
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.hand_over(None);
    }
}

impl Journal {
    fn hand_over(self: &Arc<Self>, mut entry: Box<Entry>, mut room: Room, response: Option<Kept>) {
        let more = response.as_ref().map_or(0, Kept::weight);
        let to = entry.to;
        let Some(mut taken) = self.take(more) else {
            return self.count_dropped(to);
        };
        // One share of the queue instead of two.
        room.bytes += std::mem::take(&mut taken.bytes);
        entry.response = response;
        if self.queue.send(Note::Entry(entry, room)).is_err() {
            self.count_dropped(to);
        }
    }
}

/// Why a journal could not be begun.
#[derive(Debug)]
pub(crate) enum JournalError {
    Write(WriteError),
    Thread(io::Error),
}

impl From<WriteError> for JournalError {
    fn from(error: WriteError) -> Self {
        Self::Write(error)
    }
}

/// A body that went on after this long is marked so.
const PAUSE: Duration = Duration::from_millis(1);
/// Marks of one body: 16 bytes each.
const MAX_ARRIVALS: usize = 4096;
/// What an entry takes beside its bytes: its connection, a place in the queue, and what the allocator adds.
const OVERHEAD: usize = size_of::<Entry>() + size_of::<Connection>() + 128;
