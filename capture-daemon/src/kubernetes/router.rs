//! Sends each exchange into the archives of the recordings that ask for it.
//!
//! Each recording has a folder of its own, named after its uid, with a set of segments: its retention,
//! its limit and its snapshots are its own, and an exchange that two recordings ask for is in both.
//! Traffic of pods that nothing is known of yet waits in the [`Quarantine`].

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tapedeck_archive::{SegmentedWriter, SetEvent, SetOptions, Summary, WriteError};
use tapedeck_model::{
    BodyPart, Connection, Endpoint, Exchange, Head, Ledger, UnreadConnection, Workload, Workloads,
};

use super::quarantine::{Held, Limits, Quarantine};
use super::selection::Wanted;
use super::world::{Verdict, World};
use crate::capture::{OpenSegment, Outlet, Sealed, Stats};
use crate::words::in_words;

/// How the segments of a recording are written.
pub type HowToWrite = Arc<dyn Fn(&Wanted) -> Result<SetOptions, WriteError> + Send + Sync>;

/// How long after a failure a new archive is tried: a full disk is seldom emptied sooner.
const RETRY: Duration = Duration::from_secs(2);

/// Sends exchanges to where they are wanted.
pub struct Router {
    world: Arc<World>,
    folder: PathBuf,
    how: HowToWrite,
    writings: BTreeMap<String, Writing>,
    quarantine: Quarantine,
    /// Where the parts of long bodies go, by the key of their exchange.
    bodies: HashMap<u64, Destiny>,
    /// What the engines said when they were asked last.
    ledger: Ledger,
    stats: Stats,
    events: Vec<SetEvent>,
}

/// What is done with the parts of a body.
enum Destiny {
    /// They go to these recordings, in the archive that each had then.
    Goes(Vec<(Arc<Wanted>, u64)>),
    /// Nobody knows yet.
    Waits {
        connection: Arc<Connection>,
        target: Option<Vec<u8>>,
        parts: Vec<BodyPart>,
    },
    /// There was no room to wait.
    Dropped,
}

/// The archive of a recording.
struct Writing {
    wanted: Arc<Wanted>,
    writer: Option<SegmentedWriter>,
    segment: OpenSegment,
    began: Instant,
    failed_at: Option<Instant>,
    /// Which archive this is, among all of this run: what went ahead of an exchange is in one of them.
    epoch: u64,
    /// What the engines said when the first one began.
    before: Ledger,
    /// What became of its exchanges since.
    own: Ledger,
    /// Bytes of sealed segments.
    sealed: u64,
}

impl Router {
    /// Writes below `folder`. What an interrupted run left there is sealed when its recording goes on.
    ///
    /// # Errors
    ///
    /// When the folder cannot be made.
    pub fn new(
        world: Arc<World>,
        folder: &Path,
        limits: Limits,
        how: HowToWrite,
    ) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self {
            world,
            folder: folder.to_owned(),
            how,
            writings: BTreeMap::new(),
            quarantine: Quarantine::new(limits),
            bodies: HashMap::new(),
            ledger: Ledger::default(),
            stats: Stats::default(),
            events: Vec::new(),
        })
    }

    /// Where the exchange of that connection goes, by now.
    fn wanted_by(
        &self,
        connection: &Connection,
        target: Option<&[u8]>,
        is_last: bool,
    ) -> Option<Vec<Arc<Wanted>>> {
        match self.world.verdict(connection, is_last) {
            Verdict::Unknown => None,
            Verdict::Goes(mut wanted) => {
                wanted.retain(|of| of.takes_target(target));
                Some(wanted)
            }
        }
    }

    /// Writes an exchange, and what was held of it, into the archives of these recordings.
    fn write(&mut self, wanted: &[Arc<Wanted>], exchange: &Exchange, parts: &[BodyPart]) {
        let mut is_archived = false;
        let named = self.named(exchange);
        let exchange = named.as_ref().unwrap_or(exchange);
        for of in wanted {
            self.world.count(&of.uid, |tally| tally.seen += 1);
            let written = self.with_writer(of, |writer| {
                for part in parts {
                    writer.body_part(part)?;
                }
                writer.exchange(exchange)
            });
            is_archived |= self.note(of, exchange, written);
        }
        self.stats.exchanges += u64::from(is_archived);
    }

    /// Counts what became of an exchange. Whether it is in the archive.
    fn note(
        &mut self,
        wanted: &Wanted,
        exchange: &Exchange,
        written: Option<Result<(), WriteError>>,
    ) -> bool {
        let lost = match written {
            Some(Ok(())) => {
                let is_whole = exchange.complete();
                if let Some(writing) = self.writings.get_mut(&wanted.uid) {
                    writing.segment.took();
                    let own = &mut writing.own;
                    own.exchanges += 1;
                    own.exchanges_incomplete += u64::from(!is_whole);
                    own.exchanges_without_request += u64::from(exchange.request.is_none());
                    own.exchanges_without_response += u64::from(exchange.response.is_none());
                }
                self.world.count(&wanted.uid, |tally| {
                    tally.archived += 1;
                    if !is_whole {
                        *tally.lost.entry("exchanges_incomplete").or_default() += 1;
                    }
                });
                return true;
            }
            // One monster among the exchanges is no reason to lose the others.
            Some(Err(WriteError::ExchangeTooLarge { .. })) => {
                self.stats.too_large += 1;
                "exchanges_too_large"
            }
            Some(Err(_)) | None => {
                self.stats.lost += 1;
                "exchanges_not_written"
            }
        };
        if let Some(writing) = self.writings.get_mut(&wanted.uid) {
            writing.own.exchanges_dropped += 1;
        }
        self.world.count(&wanted.uid, |tally| {
            *tally.lost.entry(lost).or_default() += 1;
        });
        false
    }

    /// The exchange with names that came to be known since.
    fn named(&self, exchange: &Exchange) -> Option<Exchange> {
        let of = &exchange.connection.workloads;
        let name = |of: Option<&Workload>, end: Endpoint| match of {
            Some(of) => self.world.named(of).map(Arc::new),
            None => self
                .world
                .at(end.ip, exchange.connection.opened)
                .map(Arc::new),
        };
        let connection = &exchange.connection;
        let client = name(of.client.as_deref(), connection.client);
        let server = name(of.server.as_deref(), connection.server);
        if client.is_none() && server.is_none() {
            return None;
        }
        let workloads = Workloads {
            client: client.or_else(|| of.client.clone()),
            server: server.or_else(|| of.server.clone()),
        };
        let mut named = exchange.clone();
        Arc::make_mut(&mut named.connection).workloads = workloads;
        Some(named)
    }

    /// Does something with the archive of a recording; `None` where there is none.
    fn with_writer<T>(
        &mut self,
        wanted: &Arc<Wanted>,
        run: impl FnOnce(&mut SegmentedWriter) -> Result<T, WriteError>,
    ) -> Option<Result<T, WriteError>> {
        self.open(wanted);
        let writing = self.writings.get_mut(&wanted.uid)?;
        let result = run(writing.writer.as_mut()?);
        if let Err(error) = &result
            && !matches!(error, WriteError::ExchangeTooLarge { .. })
        {
            let why = in_words(error);
            self.fail(&wanted.uid, why);
        }
        Some(result)
    }

    /// Begins the archive of a recording, unless there is one, or it has just failed.
    fn open(&mut self, wanted: &Arc<Wanted>) {
        let uid = &wanted.uid;
        let writing = self.writings.entry(uid.clone()).or_insert_with(|| Writing {
            wanted: Arc::clone(wanted),
            writer: None,
            segment: OpenSegment::default(),
            began: Instant::now(),
            failed_at: None,
            epoch: 0,
            before: self.ledger.clone(),
            own: Ledger::default(),
            sealed: 0,
        });
        let has_just_failed = writing.failed_at.is_some_and(|at| at.elapsed() < RETRY);
        if writing.writer.is_some() || has_just_failed {
            return;
        }
        let folder = self.folder.join(uid);
        let mut events = Vec::new();
        let created = (self.how)(wanted)
            .and_then(|options| SegmentedWriter::create_telling(&folder, options, &mut events));
        if created.is_err() {
            // It would be told again and again.
            events.retain(|event| !matches!(event, SetEvent::NotRecovered { .. }));
        }
        self.events.extend(events);
        match created {
            Ok(writer) => {
                if writing.epoch == 0 {
                    // Of runs before this one, too.
                    writing.sealed = size_of_folder(&folder).saturating_sub(writer.file_len());
                }
                writing.writer = Some(writer);
                writing.segment.next_folder(&folder);
                writing.began = Instant::now();
                writing.failed_at = None;
                writing.epoch += 1;
                self.world.count(uid, |tally| tally.failing = None);
            }
            Err(error) => {
                let why = in_words(&error);
                let uid = uid.clone();
                self.fail(&uid, why);
            }
        }
    }

    fn fail(&mut self, uid: &str, why: String) {
        // One that was deleted, and its folder with it, before we let go of it, has lost nothing.
        let is_deleted = self.world.has_recording(uid) == Some(false);
        self.stats.failures += u64::from(!is_deleted);
        let mut lost = 0;
        if let Some(writing) = self.writings.get_mut(uid) {
            // What was flushed of it stays, for the next writer in the folder.
            writing.writer = None;
            writing.failed_at = Some(Instant::now());
            lost = writing.segment.fail();
            writing.own.exchanges = writing.own.exchanges.saturating_sub(lost);
            writing.own.exchanges_dropped += lost;
        }
        if is_deleted {
            lost = 0;
        }
        // An exchange may be in the archive of another recording, too: here it is lost all the same.
        self.stats.lost += lost;
        self.world.count(uid, |tally| {
            tally.failing = Some(why);
            tally.archived = tally.archived.saturating_sub(lost);
            if lost > 0 {
                *tally.lost.entry("exchanges_not_written").or_default() += lost;
            }
        });
    }

    /// Seals the archives of recordings that are over, and of those that are to be kept otherwise from
    /// now on; removes what was recorded for those that were deleted.
    fn settle(&mut self) {
        let active = self.world.active();
        let find = |uid: &str| active.iter().find(|of| of.uid == uid);
        let over: Vec<String> = self
            .writings
            .iter()
            .filter(|(uid, writing)| {
                find(uid).is_none_or(|of| of.spec.retention != writing.wanted.spec.retention)
            })
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in over {
            if let Some(mut writing) = self.writings.remove(&uid) {
                let ledger = writing.segment.part(&writing.ledger(&self.ledger));
                if let Some(Err(error)) = writing.writer.take().map(|writer| writer.seal(&ledger)) {
                    let why = in_words(&error);
                    self.world.count(&uid, |tally| tally.failing = Some(why));
                }
            }
        }
        let lost = self.writings.values().filter(|of| of.failed_at.is_some());
        let failing: Vec<_> = lost.map(|of| of.wanted.uid.clone()).collect();
        self.stats.failing = failing.iter().find_map(|uid| self.world.failing(uid));
        for uid in failing {
            // An archive that could be begun says that there is room again.
            if let Some(wanted) = find(&uid) {
                self.open(&Arc::clone(wanted));
            }
        }
    }

    fn release(&mut self) {
        if self.quarantine.is_empty() {
            return;
        }
        let world = Arc::clone(&self.world);
        let is_known =
            |connection: &Connection| matches!(world.verdict(connection, false), Verdict::Goes(_));
        for (held, is_over) in self.quarantine.release(Instant::now(), is_known) {
            if is_over {
                self.world.count_quarantine(|counts| counts.expired += 1);
            }
            match held {
                Held::Exchange(exchange, parts) => {
                    let wanted = self.wanted_by(&exchange.connection, target(&exchange), true);
                    self.write(&wanted.unwrap_or_default(), &exchange, &parts);
                }
                Held::Unread(unread) => {
                    let wanted = self.wanted_by(&unread.connection, None, true);
                    self.write_unread(&wanted.unwrap_or_default(), &unread);
                }
            }
        }
    }

    fn write_unread(&mut self, wanted: &[Arc<Wanted>], unread: &UnreadConnection) {
        let workloads = &unread.connection.workloads;
        let pods = [&workloads.client, &workloads.server].into_iter().flatten();
        let pods: Vec<String> = pods
            .filter_map(|of| {
                let of = self.world.named(of).unwrap_or_else(|| (**of).clone());
                Some(format!("{}/{}", of.namespace?, of.pod?))
            })
            .collect();
        for of in wanted {
            drop(self.with_writer(of, |writer| writer.unread(unread)));
            self.world.count(&of.uid, |tally| {
                let (count, some) = tally.unread.entry(unread.reason.name()).or_default();
                *count += 1;
                if some.len() < MOST_NAMED {
                    some.extend(pods.iter().cloned());
                }
            });
        }
    }

    /// Where parts go that have no place yet; what is known by now is written.
    fn decide(&mut self, key: u64) {
        let Some(Destiny::Waits {
            connection, target, ..
        }) = self.bodies.get(&key)
        else {
            return;
        };
        let Some(wanted) = self.wanted_by(connection, target.as_deref(), false) else {
            return;
        };
        let Some(Destiny::Waits { parts, .. }) = self.bodies.remove(&key) else {
            return;
        };
        self.quarantine.release_apart(len(&parts));
        let goes: Vec<_> = wanted
            .into_iter()
            .map(|of| {
                let written = self.with_writer(&of, |writer| {
                    parts.iter().try_for_each(|part| writer.body_part(part))
                });
                let is_there = matches!(written, Some(Ok(())));
                let epoch = self.writings.get(&of.uid).map_or(0, |of| of.epoch);
                (of, if is_there { epoch } else { 0 })
            })
            .collect();
        self.bodies.insert(key, Destiny::Goes(goes));
    }

    /// An exchange whose parts went ahead into these archives.
    fn follow(&mut self, goes: Vec<(Arc<Wanted>, u64)>, exchange: &Exchange) {
        for (wanted, epoch) in goes {
            let is_there = self
                .writings
                .get(&wanted.uid)
                .is_some_and(|of| of.writer.is_some() && of.epoch == epoch);
            if is_there {
                self.write(&[wanted], exchange, &[]);
            } else {
                // Its archive was sealed or failed before it was over.
                self.world.count(&wanted.uid, |tally| tally.seen += 1);
                self.note(&wanted, exchange, None);
            }
        }
    }
}

/// Pods that are named for a reason.
const MOST_NAMED: usize = 8;

impl Outlet for Router {
    fn body_begins(&mut self, key: u64, connection: &Arc<Connection>, request: Option<&Head>) {
        self.bodies.entry(key).or_insert_with(|| Destiny::Waits {
            connection: Arc::clone(connection),
            target: request.and_then(|head| head.target()).map(<[u8]>::to_vec),
            parts: Vec::new(),
        });
        self.decide(key);
    }

    fn body_part(&mut self, part: &BodyPart) {
        self.decide(part.key);
        match self.bodies.get_mut(&part.key) {
            Some(Destiny::Goes(goes)) => {
                for (wanted, epoch) in goes.clone() {
                    let is_there = self
                        .writings
                        .get(&wanted.uid)
                        .is_some_and(|of| of.writer.is_some() && of.epoch == epoch);
                    if is_there {
                        drop(self.with_writer(&wanted, |writer| writer.body_part(part)));
                    }
                }
            }
            Some(Destiny::Waits { parts, .. }) => {
                if self.quarantine.hold_apart(part.data.len()) {
                    parts.push(part.clone());
                } else {
                    self.quarantine.release_apart(len(parts));
                    self.bodies.insert(part.key, Destiny::Dropped);
                }
            }
            // Of a body that was never announced nobody can tell whose it is.
            Some(Destiny::Dropped) | None => {
                self.bodies.insert(part.key, Destiny::Dropped);
            }
        }
    }

    fn exchange(&mut self, exchange: &Exchange) {
        self.decide(exchange.key);
        let parts = match self.bodies.remove(&exchange.key) {
            Some(Destiny::Goes(goes)) => return self.follow(goes, exchange),
            Some(Destiny::Dropped) => {
                self.world.count_quarantine(|counts| counts.full += 1);
                return;
            }
            Some(Destiny::Waits { parts, .. }) => {
                self.quarantine.release_apart(len(&parts));
                parts
            }
            None => Vec::new(),
        };
        let connection = &exchange.connection;
        if connection.workloads == Workloads::default() {
            self.world.count_unattributed();
            return;
        }
        if let Some(wanted) = self.wanted_by(connection, target(exchange), false) {
            self.write(&wanted, exchange, &parts);
            return;
        }
        let held = Held::Exchange(Box::new(exchange.clone()), parts);
        let is_held = self.quarantine.hold(Instant::now(), held);
        self.world.count_quarantine(|counts| {
            counts.held += u64::from(is_held);
            counts.full += u64::from(!is_held);
        });
    }

    fn unread(&mut self, connection: &UnreadConnection) {
        match self.wanted_by(&connection.connection, None, false) {
            Some(wanted) => self.write_unread(&wanted, connection),
            None => {
                let held = Held::Unread(Box::new(connection.clone()));
                if !self.quarantine.hold(Instant::now(), held) {
                    self.world.count_quarantine(|counts| counts.full += 1);
                }
            }
        }
    }

    fn own(&mut self) {
        self.stats.own += 1;
    }

    fn tick(&mut self, ledger: &mut dyn FnMut() -> Ledger) {
        self.ledger = ledger();
        self.release();
        let mut failed = Vec::new();
        for (uid, writing) in &mut self.writings {
            let whole = writing.ledger(&self.ledger);
            let Some(writer) = &mut writing.writer else {
                continue;
            };
            let looked = writing.segment.look(Instant::now());
            // The ledger is asked for where what came before is written down with it.
            let segment = &writing.segment;
            let mut written = None;
            let ledger = || segment.part(written.insert(whole));
            match looked.and_then(|()| writer.tick(writing.began.elapsed(), ledger)) {
                Ok(events) => {
                    writing.segment.ticked(written, &events);
                    let sealed = events.iter().map(|event| match event {
                        SetEvent::Sealed { summary, .. } => summary.file_len,
                        _ => 0,
                    });
                    writing.sealed += sealed.sum::<u64>();
                    let written = writing.sealed + writer.file_len();
                    let drops = lost_before_it(&writing.before, &self.ledger);
                    self.world.count(uid, |tally| {
                        tally.written = written;
                        tally.lost.extend(drops);
                    });
                    self.events.extend(events);
                }
                Err(error) => failed.push((uid.clone(), in_words(&error))),
            }
        }
        for (uid, why) in failed {
            self.fail(&uid, why);
        }
        self.settle();
    }

    fn check(&mut self) -> Result<(), WriteError> {
        Ok(())
    }

    fn stats(&self) -> Stats {
        self.stats.clone()
    }

    fn take_events(&mut self) -> Vec<SetEvent> {
        std::mem::take(&mut self.events)
    }

    fn seal(mut self: Box<Self>, ledger: &Ledger) -> Result<Sealed, WriteError> {
        self.ledger = ledger.clone();
        self.release();
        let mut sealed = Sealed::default();
        let mut failure = None;
        for (_, mut writing) in std::mem::take(&mut self.writings) {
            let ledger = writing.segment.part(&writing.ledger(&self.ledger));
            match writing.writer.take().map(|writer| writer.seal(&ledger)) {
                Some(Ok((summary, events))) => {
                    add(&mut sealed.archive, &summary);
                    self.events.extend(events);
                }
                Some(Err(error)) => failure = Some(error),
                None => {}
            }
        }
        sealed.stats = self.stats;
        sealed.events = self.events;
        failure.map_or(Ok(sealed), Err)
    }
}

impl Writing {
    /// What was seen, kept and lost since its first archive began: on the whole node, but for exchanges, which
    /// are its own.
    fn ledger(&self, now: &Ledger) -> Ledger {
        let mut ledger = now.since(&self.before);
        let seen = ledger.exchanges + ledger.exchanges_not_chosen;
        ledger.exchanges = self.own.exchanges;
        ledger.exchanges_dropped = self.own.exchanges_dropped;
        ledger.exchanges_not_chosen =
            seen.saturating_sub(self.own.exchanges + self.own.exchanges_dropped);
        ledger.exchanges_incomplete = self.own.exchanges_incomplete;
        ledger.exchanges_without_request = self.own.exchanges_without_request;
        ledger.exchanges_without_response = self.own.exchanges_without_response;
        ledger
    }
}

/// What was lost before anybody could tell whose it was: it may have been this recording's, and so counts
/// for each.
fn lost_before_it(before: &Ledger, now: &Ledger) -> Vec<(&'static str, u64)> {
    let since = now.since(before);
    [
        ("packets_dropped_by_kernel", since.packets_dropped_by_kernel),
        ("connections_refused", since.connections_refused),
    ]
    .into_iter()
    .filter(|(_, count)| *count > 0)
    .collect()
}

fn target(exchange: &Exchange) -> Option<&[u8]> {
    exchange.request.as_ref()?.head.as_ref()?.target()
}

fn len(parts: &[BodyPart]) -> usize {
    parts.iter().map(|part| part.data.len()).sum()
}

fn add(total: &mut Summary, one: &Summary) {
    total.exchanges += one.exchanges;
    total.file_len += one.file_len;
    total.deduplicated_bytes += one.deduplicated_bytes;
    total.unread_connections += one.unread_connections;
    total.body_parts_refused += one.body_parts_refused;
}

/// The bytes of the archives in a folder; 0 where there is none.
#[must_use]
pub fn size_of_folder(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let lens = entries.map(|entry| entry.metadata().map_or(0, |of| of.len()));
    lens.sum()
}
