//! A running recording: threads that read streams of packets, each with an engine of its own, and
//! one output for all of them.
//!
//! ```text
//!   stream ─► engine ─┐
//!   stream ─► engine ─┼─► output          a connection is in one stream only
//!   stream ─► engine ─┘
//! ```
//!
//! There is no queue between the threads: what waits, waits in the ring between the kernel and its
//! stream, which is bounded and counted.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tapedeck_archive::{Destination, SetEvent, WriteError};
use tapedeck_exchange::{Engine, Limits, Recorder};
use tapedeck_model::{
    BodyPart, Connection, ConnectionId, Exchange, FlowKey, Head, Ledger, Scope, Timestamp,
    UnreadConnection, Workload, Workloads,
};

use super::ends::{End, Ends};
use super::key_log::KeyLogTail;
use super::output::{Archiver, Begin, Outlet, Sealed, Stats};
use crate::capture::{Backend, Opened};
use crate::sources::{Before, Drops, PacketSource, Policy, Queue, Source, SourceError, Tap};
use crate::sys::{self, Clock};

/// How long a stream may be waited for: as late as a wish to stop is seen.
const WAIT: Duration = Duration::from_millis(100);

/// After this silence a detached source is empty: longer than a packet socket keeps a block that is
/// not full.
const DRAIN: Duration = Duration::from_millis(300);

/// How often the source is asked what it dropped: as often as the output writes it down.
const ASK: Duration = Duration::from_secs(1);

/// How often a thread tells where it stands.
const PUBLISH: Duration = Duration::from_millis(500);

/// Packets reach us this much after their time at most (the block timeout of a packet socket is
/// the longest delay, with much to spare). The engines' clock runs behind by this.
const LATENESS: Duration = Duration::from_secs(1);

/// Connections whose ends a thread remembers, in each of two generations: as many as are open on a
/// busy node, at some 150 bytes each.
const REMEMBERED_ENDS: usize = 32 << 10;

/// How far recording steps back by default: on a processor that others want, too, it gets a tenth.
pub const NICE: u8 = 10;

/// Knows whose a socket is.
pub trait Attribution: Send + Sync {
    /// Whose the sockets of this end are; `None` where nothing is known.
    fn workload(&self, end: &End) -> Option<Arc<Workload>>;
}

/// Says of a connection that its exchanges are this program's own, and not to be recorded.
pub type IsOwn = Arc<dyn Fn(&Connection) -> bool + Send + Sync>;

/// What a session records with beside its source.
#[derive(Default)]
pub struct Setup {
    /// Knows whose sockets are.
    pub attribution: Option<Arc<dyn Attribution>>,
    /// Knows our own connections.
    pub is_own: Option<IsOwn>,
    /// Begins the next output when one has failed; `None`: that ends the session.
    pub again: Option<Begin>,
    /// The bounds of all engines together.
    pub limits: Limits,
    /// TLS key logs, read as they grow.
    pub key_logs: Vec<Arc<File>>,
    /// How far the threads that read, parse, compress and write step back when no processor is free, as
    /// nice(1) has it: [`NICE`], up to 19.
    pub nice: u8,
}

/// A running recording. Dropped without [`finish`](Self::finish), it leaves the output unsealed.
pub struct Session {
    backend: Backend,
    tap: Box<dyn Tap + Send>,
    workers: Vec<Worker>,
    shared: Arc<Shared>,
    start: Instant,
    /// Of sources that were replaced.
    dropped_before: Drops,
    /// What the source said last, and when it was asked.
    dropped: (Option<Instant>, Drops),
}

/// Where a session stands.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// For how long it has been running.
    pub elapsed: Duration,
    /// What was seen, kept and lost.
    pub ledger: Ledger,
    /// What the kernel dropped, by cause.
    pub drops: Drops,
    /// What became of the exchanges.
    pub output: Stats,
    /// How full the queues are.
    pub queues: Vec<Queue>,
    /// How far behind the wall clock the packet is that was read last, while there are more.
    pub lag: Duration,
}

/// What came of a session.
#[derive(Debug)]
pub struct Finished {
    /// What was seen, kept and lost.
    pub ledger: Ledger,
    /// What the kernel dropped, by cause.
    pub drops: Drops,
    /// What became of the exchanges.
    pub output: Stats,
    /// What was archived.
    pub archive: tapedeck_archive::Summary,
    /// What happened to segments since the last [`Session::tick`].
    pub events: Vec<SetEvent>,
}

struct Worker {
    streams: Sender<Box<dyn PacketSource + Send>>,
    status: Arc<Mutex<Status>>,
    thread: JoinHandle<()>,
}

/// What a thread tells about itself.
#[derive(Clone, Debug, Default)]
struct Status {
    ledger: Ledger,
    lag: Duration,
}

struct Shared {
    /// The source sees nothing new: read what is left, and end.
    draining: AtomicBool,
    /// The first failure of a stream.
    failed: Mutex<Option<SourceError>>,
    has_failed: AtomicBool,
    outlet: Mutex<Box<dyn Outlet>>,
}

impl Session {
    /// Begins to record what the source sees.
    ///
    /// # Errors
    ///
    /// When the system cannot start a thread.
    pub fn start(
        opened: Opened,
        output: Destination,
        mut setup: Setup,
    ) -> Result<Self, std::io::Error> {
        let archiver = Archiver::new(output, setup.again.take());
        Self::start_into(opened, Box::new(archiver), setup)
    }

    /// The same, into whatever takes it. [`Setup::again`] is of no use there.
    ///
    /// # Errors
    ///
    /// When the system cannot start a thread.
    pub fn start_into(
        opened: Opened,
        outlet: Box<dyn Outlet>,
        setup: Setup,
    ) -> Result<Self, std::io::Error> {
        let Opened {
            source: Source { streams, tap },
            backend,
            before,
            cgroup: _,
            passed_over: _,
        } = opened;
        let Setup {
            attribution,
            is_own,
            again: _,
            limits,
            key_logs,
            nice,
        } = setup;
        let shared = Arc::new(Shared {
            draining: AtomicBool::new(false),
            failed: Mutex::new(None),
            has_failed: AtomicBool::new(false),
            outlet: Mutex::new(outlet),
        });
        let count = streams.len();
        let limits = limits.share(count);
        let start = |(index, stream): (usize, Box<dyn PacketSource + Send>)| {
            let status = Arc::new(Mutex::new(Status::default()));
            let (sender, streams) = channel();
            let reading = Reading {
                stream,
                streams,
                key_logs: key_logs.iter().cloned().map(KeyLogTail::new).collect(),
                engine: Engine::numbered(limits.clone(), index as u64, count as u64),
                recorder: Recording {
                    shared: Arc::clone(&shared),
                    ends: Ends::new(REMEMBERED_ENDS),
                    before: Arc::clone(&before),
                    predates: HashMap::new(),
                    attribution: attribution.clone(),
                    is_own: is_own.clone(),
                },
                status: Arc::clone(&status),
                nice,
            };
            let thread = thread::Builder::new()
                .name(format!("capture-{index}"))
                .spawn(move || reading.run())?;
            Ok(Worker {
                streams: sender,
                status,
                thread,
            })
        };
        let workers = streams
            .into_iter()
            .enumerate()
            .map(start)
            .collect::<Result<_, std::io::Error>>()?;
        Ok(Self {
            backend,
            tap,
            workers,
            shared,
            start: Instant::now(),
            dropped_before: Drops::default(),
            dropped: (None, Drops::default()),
        })
    }

    /// How it captures.
    #[must_use]
    pub const fn backend(&self) -> Backend {
        self.backend
    }

    /// How many streams it reads.
    #[must_use]
    pub const fn streams(&self) -> usize {
        self.workers.len()
    }

    /// Where it stands.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell what it dropped.
    pub fn snapshot(&mut self) -> Result<Snapshot, SourceError> {
        let drops = self.drops()?;
        let mut ledger = merged(&self.workers);
        let lags = self.workers.iter().map(|worker| lock(&worker.status).lag);
        let lag = lags.max().unwrap_or_default();
        add_drops(&mut ledger, &drops);
        Ok(Snapshot {
            elapsed: self.start.elapsed(),
            ledger,
            drops,
            output: lock(&self.shared.outlet).stats(),
            queues: self.tap.queues(),
            lag,
        })
    }

    /// Lets the output's time pass: what was recorded becomes safe, and segments begin and end.
    /// Returns what happened to them. Called some times a second.
    ///
    /// # Errors
    ///
    /// When the output failed for good.
    pub fn tick(&mut self) -> Result<Vec<SetEvent>, WriteError> {
        // Before the output is taken, never under it: libpcap's reader holds its handle while it hands packets
        // on to the output, and each would wait for the other.
        if self.dropped.0.is_none_or(|at| at.elapsed() >= ASK) {
            self.dropped = (Some(Instant::now()), self.tap.drops().unwrap_or_default());
        }
        let Self {
            workers,
            shared,
            dropped_before,
            dropped,
            ..
        } = self;
        let mut outlet = lock(&shared.outlet);
        // Asked for once a second, while we are called twenty times; a thread holds its own for a moment
        // only.
        outlet.tick(&mut || {
            let mut ledger = merged(workers);
            add_drops(&mut ledger, dropped_before);
            add_drops(&mut ledger, &dropped.1);
            ledger
        });
        outlet.check()?;
        Ok(outlet.take_events())
    }

    /// Exchanges that were taken so far.
    #[must_use]
    pub fn exchanges(&self) -> u64 {
        lock(&self.shared.outlet).stats().exchanges
    }

    /// Whether a stream failed, or the output did for good: nothing more comes.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.shared.has_failed.load(Ordering::Acquire)
    }

    /// Why a stream failed.
    pub fn take_failure(&mut self) -> Option<SourceError> {
        lock(&self.shared.failed).take()
    }

    /// Whether new connections are recorded. `false`: the source cannot refuse any.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn admit(&mut self, admit: bool) -> Result<bool, SourceError> {
        self.tap.admit(admit)
    }

    /// Puts other rules in force; see [`Tap::set_policy`].
    ///
    /// # Errors
    ///
    /// When the source cannot follow them; those before stay in force.
    pub fn set_policy(&mut self, policy: &Policy) -> Result<Vec<String>, SourceError> {
        self.tap.set_policy(policy)
    }

    /// Goes on with another source of the same kind, which is seeing packets already: what both
    /// see is told by its sequence numbers, and no connection is lost.
    ///
    /// # Errors
    ///
    /// The new source, where it is of another kind or number of streams: its connections would
    /// reach other threads than those that know them.
    pub fn replace(&mut self, opened: Opened) -> Result<(), Box<Opened>> {
        if opened.backend != self.backend || opened.source.streams.len() != self.workers.len() {
            return Err(Box::new(opened));
        }
        let Source { streams, tap } = opened.source;
        let mut before = std::mem::replace(&mut self.tap, tap);
        // A source that has just failed may not be able to say what it dropped.
        if before.detach().is_ok()
            && let Ok(drops) = before.drops()
        {
            self.dropped_before.merge(&drops);
        }
        self.dropped = (None, Drops::default());
        for (worker, stream) in self.workers.iter().zip(streams) {
            // A thread that is gone has left its failure behind.
            drop(worker.streams.send(stream));
        }
        Ok(())
    }

    /// Takes what the source still has, ends every connection, and seals the output.
    ///
    /// # Errors
    ///
    /// When the kernel or the output fails.
    ///
    /// # Panics
    ///
    /// With a thread's panic, when one did.
    pub fn finish(mut self) -> Result<Finished, FinishError> {
        let failed = self.has_failed();
        let detached = self.tap.detach();
        if !failed {
            detached?;
        }
        let drops = self.drops().or_else(|error| {
            if failed {
                Ok(self.dropped_before.clone())
            } else {
                Err(error)
            }
        })?;
        self.shared.draining.store(true, Ordering::Release);
        let mut ledger = Ledger::default();
        for worker in self.workers {
            if let Err(panic) = worker.thread.join() {
                std::panic::resume_unwind(panic);
            }
            ledger.merge(&lock(&worker.status).ledger);
        }
        add_drops(&mut ledger, &drops);
        let Some(shared) = Arc::into_inner(self.shared) else {
            unreachable!("the threads are gone, and nobody else has it");
        };
        let outlet = shared
            .outlet
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let Sealed {
            archive,
            stats,
            events,
        } = outlet.seal(&ledger)?;
        Ok(Finished {
            ledger,
            drops,
            output: stats,
            archive,
            events,
        })
    }

    fn drops(&mut self) -> Result<Drops, SourceError> {
        let mut drops = self.tap.drops()?;
        drops.merge(&self.dropped_before);
        Ok(drops)
    }
}

/// Why a session could not be finished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FinishError {
    /// The archive could not be written.
    #[error("cannot write the archive")]
    Write(#[from] WriteError),
    /// The kernel did not answer.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// The ledgers of all threads.
fn merged(workers: &[Worker]) -> Ledger {
    let mut ledger = Ledger::default();
    for worker in workers {
        ledger.merge(&lock(&worker.status).ledger);
    }
    ledger
}

fn add_drops(ledger: &mut Ledger, drops: &Drops) {
    ledger.packets_dropped_by_kernel += drops.total();
    ledger.connections_refused += drops.connections_refused;
}

/// One thread's work.
struct Reading {
    stream: Box<dyn PacketSource + Send>,
    streams: Receiver<Box<dyn PacketSource + Send>>,
    key_logs: Vec<KeyLogTail>,
    engine: Engine,
    recorder: Recording,
    status: Arc<Mutex<Status>>,
    nice: u8,
}

impl Reading {
    fn run(mut self) {
        step_back(self.nice);
        let mut published = Instant::now();
        loop {
            let is_draining = self.recorder.shared.draining.load(Ordering::Acquire);
            let next = self.streams.try_recv().ok();
            let is_last = is_draining || next.is_some();
            match self.read(if is_last { DRAIN } else { WAIT }) {
                Ok(0) if is_draining && next.is_none() => break,
                Ok(0) => self.engine.handle_timeout(late_now(), &mut self.recorder),
                Ok(_) => {}
                Err(error) => {
                    if next.is_none() {
                        self.fail(error);
                        break;
                    }
                }
            }
            if let Some(next) = next {
                self.change_to(next);
            }
            if published.elapsed() >= PUBLISH {
                published = Instant::now();
                // A busy source gives no batch of nothing, but its connections time out all the
                // same.
                self.engine.handle_timeout(late_now(), &mut self.recorder);
                self.publish();
            }
        }
        self.engine.finish(&mut self.recorder);
        self.publish();
    }

    /// Reads what is left of the stream, then goes on with the next one.
    fn change_to(&mut self, next: Box<dyn PacketSource + Send>) {
        // One that fails now has nothing left to say.
        while self.read(DRAIN).is_ok_and(|packets| packets > 0) {}
        self.stream = next;
    }

    fn read(&mut self, timeout: Duration) -> Result<usize, SourceError> {
        let Self {
            stream,
            key_logs,
            engine,
            recorder,
            ..
        } = self;
        let mut last = None;
        let packets = stream.next_batch(timeout, &mut |captured| {
            for log in &mut *key_logs {
                log.follow(captured.packet.at, engine);
            }
            recorder.ends.note_before(captured);
            engine.packet(&captured.packet, recorder);
            recorder.ends.note_after(captured);
            last = Some(captured.packet.at);
        })?;
        let lag = last.map_or(0, |at: Timestamp| {
            sys::now(Clock::Wall).saturating_sub(at.as_nanos())
        });
        lock(&self.status).lag = Duration::from_nanos(lag.try_into().unwrap_or(0));
        Ok(packets)
    }

    fn publish(&self) {
        lock(&self.status).ledger = self.engine.ledger();
    }

    fn fail(&self, error: SourceError) {
        let shared = &self.recorder.shared;
        lock(&shared.failed).get_or_insert(error);
        shared.has_failed.store(true, Ordering::Release);
    }
}

/// What an engine finds, on its way to the output.
struct Recording {
    shared: Arc<Shared>,
    ends: Ends,
    before: Arc<Before>,
    /// Which connection between these was there before the capture, where packets tell no socket:
    /// the first that is seen. A later one between the same ports is another.
    predates: HashMap<FlowKey, ConnectionId>,
    attribution: Option<Arc<dyn Attribution>>,
    is_own: Option<IsOwn>,
}

impl Recorder for Recording {
    fn body_begins(&mut self, key: u64, connection: &Arc<Connection>, request: Option<&Head>) {
        let mut connection = Arc::clone(connection);
        // Else they are asked for when its first exchange is over.
        if let Some(workloads) = self.workloads(&connection) {
            Arc::make_mut(&mut connection).workloads = workloads;
        }
        lock(&self.shared.outlet).body_begins(key, &connection, request);
    }

    fn body_part(&mut self, part: &BodyPart) {
        lock(&self.shared.outlet).body_part(part);
    }

    fn exchange(&mut self, exchange: &Exchange) {
        let is_own = self.is_own.as_ref();
        let mut outlet = lock(&self.shared.outlet);
        if is_own.is_some_and(|is_own| is_own(&exchange.connection)) {
            outlet.own();
        } else {
            outlet.exchange(exchange);
        }
    }

    fn unread(&mut self, connection: &UnreadConnection) {
        let is_own = self.is_own.as_ref();
        if !is_own.is_some_and(|is_own| is_own(&connection.connection)) {
            lock(&self.shared.outlet).unread(connection);
        }
    }

    fn predates(&mut self, connection: &Connection) -> bool {
        let Connection { client, server, .. } = connection;
        match self.ends.of(connection) {
            (None, None) => {
                let key = FlowKey::new(*client, *server, Scope(0));
                // Bounded by the connections that were there before.
                self.before.has_flow(*client, *server)
                    && *self.predates.entry(key).or_insert(connection.id) == connection.id
            }
            ends => [ends.0, ends.1]
                .into_iter()
                .flatten()
                .any(|end| self.before.has_socket(end.cookie)),
        }
    }

    fn workloads(&mut self, connection: &Connection) -> Option<Workloads> {
        let attribution = self.attribution.as_ref()?;
        let known = &connection.workloads;
        if known.client.is_some() && known.server.is_some() {
            return None;
        }
        let (client, server) = self.ends.of(connection);
        let of = |known: &Option<Arc<Workload>>, end: Option<End>| {
            known
                .clone()
                .or_else(|| end.and_then(|end| attribution.workload(&end)))
        };
        let workloads = Workloads {
            client: of(&known.client, client),
            server: of(&known.server, server),
        };
        (workloads != *known).then_some(workloads)
    }
}

/// Lets this thread, and no other, step back when no processor is free: see [`Setup::nice`]. For those
/// that call [`Session::tick`], which writes.
pub fn step_back(nice: u8) {
    // Where this is not allowed (a filter of system calls), it records all the same.
    drop(sys::step_back(nice));
}

/// The time up to which every packet has come.
fn late_now() -> Timestamp {
    let lateness = i64::try_from(LATENESS.as_nanos()).unwrap_or(i64::MAX);
    Timestamp::from_nanos(sys::now(Clock::Wall).saturating_sub(lateness))
}

/// A thread that panicked leaves a whole value behind: each is written in one step, or is a count.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source without streams, and an output, which notice when one is asked from within the other.
    #[derive(Clone, Default)]
    struct Pair {
        is_held: Arc<AtomicBool>,
        dropped: Arc<Mutex<Vec<u64>>>,
    }

    impl Tap for Pair {
        fn detach(&mut self) -> Result<(), SourceError> {
            Ok(())
        }

        fn drops(&mut self) -> Result<Drops, SourceError> {
            assert!(
                !self.is_held.load(Ordering::Acquire),
                "asked under the output, which the source's reader may be waiting for"
            );
            let mut drops = Drops::default();
            drops.add("ring-full", 7);
            Ok(drops)
        }

        fn set_policy(&mut self, _: &Policy) -> Result<Vec<String>, SourceError> {
            Ok(Vec::new())
        }
    }

    impl Outlet for Pair {
        fn body_begins(&mut self, _: u64, _: &Arc<Connection>, _: Option<&Head>) {}
        fn body_part(&mut self, _: &BodyPart) {}
        fn exchange(&mut self, _: &Exchange) {}
        fn unread(&mut self, _: &UnreadConnection) {}
        fn own(&mut self) {}

        fn tick(&mut self, ledger: &mut dyn FnMut() -> Ledger) {
            self.is_held.store(true, Ordering::Release);
            let dropped = ledger().packets_dropped_by_kernel;
            self.is_held.store(false, Ordering::Release);
            self.dropped.lock().unwrap().push(dropped);
        }

        fn check(&mut self) -> Result<(), WriteError> {
            Ok(())
        }

        fn stats(&self) -> Stats {
            Stats::default()
        }

        fn take_events(&mut self) -> Vec<SetEvent> {
            Vec::new()
        }

        fn seal(self: Box<Self>, _: &Ledger) -> Result<Sealed, WriteError> {
            unreachable!("the session is not finished")
        }
    }

    /// libpcap's reader holds its handle while it hands packets on: asked for its drops by who holds the
    /// output, it never answered.
    #[test]
    fn a_source_is_never_asked_by_who_holds_the_output() {
        let pair = Pair::default();
        let opened = Opened {
            source: Source {
                streams: Vec::new(),
                tap: Box::new(pair.clone()),
            },
            backend: Backend::AfPacket,
            before: Arc::default(),
            cgroup: None,
            passed_over: Vec::new(),
        };
        let setup = Setup {
            attribution: None,
            is_own: None,
            again: None,
            limits: Limits::default(),
            key_logs: Vec::new(),
            nice: 0,
        };
        let mut session = Session::start_into(opened, Box::new(pair.clone()), setup).unwrap();
        session.tick().unwrap();
        session.tick().unwrap();
        assert_eq!(*pair.dropped.lock().unwrap(), [7, 7]);
    }
}
