//! Where what was found goes: an archive, or a row of them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tapedeck_archive::{Destination, SetEvent, WriteError};
use tapedeck_model::{BodyPart, Connection, Exchange, Head, Ledger, UnreadConnection};

use super::open_segment::OpenSegment;
use crate::words::in_words;

/// Begins an output, or begins it again after one has failed. Says what happened to segments, also where it fails.
pub type Begin = Box<dyn FnMut(&mut Vec<SetEvent>) -> Result<Destination, WriteError> + Send>;

/// How long after a failure a new output is tried: a full disk is seldom emptied sooner.
const RETRY: Duration = Duration::from_secs(2);

/// What is left behind by a failure is read through at each try: those take a tenth of the time at most.
const RETRY_SHARE: u32 = 10;

/// What takes what the engines find. Engines cannot stop for an error, so whoever takes keeps it, and
/// counts what comes meanwhile.
pub trait Outlet: Send {
    /// Is told whose a long body is, before its first part comes.
    fn body_begins(&mut self, key: u64, connection: &Arc<Connection>, request: Option<&Head>) {
        let _ = (key, connection, request);
    }

    /// Takes a piece of a long body, ahead of its exchange.
    fn body_part(&mut self, part: &BodyPart);

    /// Takes an exchange that is over.
    fn exchange(&mut self, exchange: &Exchange);

    /// Takes a connection that could not be read.
    fn unread(&mut self, connection: &UnreadConnection);

    /// Is told of an exchange of this program's own, which is left out.
    fn own(&mut self);

    /// Lets time pass: what was taken becomes safe, segments begin and end. Called some times a second.
    fn tick(&mut self, ledger: &mut dyn FnMut() -> Ledger);

    /// The error that ends the recording.
    ///
    /// # Errors
    ///
    /// That one, once.
    fn check(&mut self) -> Result<(), WriteError>;

    /// What became of the exchanges so far.
    fn stats(&self) -> Stats;

    /// What happened to segments since this was last asked for.
    fn take_events(&mut self) -> Vec<SetEvent>;

    /// Completes what is being written.
    ///
    /// # Errors
    ///
    /// When that cannot be written.
    fn seal(self: Box<Self>, ledger: &Ledger) -> Result<Sealed, WriteError>;
}

/// Puts everything into one output.
pub(super) struct Archiver {
    output: Option<Destination>,
    segment: OpenSegment,
    /// When that was begun.
    began: Instant,
    /// Begins the next output after a failure; `None`: a failure ends the recording.
    again: Option<Begin>,
    failed_at: Instant,
    retry: Duration,
    /// Exchanges of which parts are in the output, and those of which parts were lost: bodies that begin in their
    /// middle would look like others.
    begun: HashSet<u64>,
    torn: HashSet<u64>,
    error: Option<WriteError>,
    stats: Stats,
    /// What happened to segments, not yet told.
    events: Vec<SetEvent>,
}

/// What an output came to.
#[derive(Debug, Default)]
pub struct Sealed {
    /// What was archived.
    pub archive: tapedeck_archive::Summary,
    /// What became of the exchanges.
    pub stats: Stats,
    /// What happened to segments, not yet told.
    pub events: Vec<SetEvent>,
}

/// What became of the exchanges.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Stats {
    /// Exchanges that were taken, and are not lost.
    pub exchanges: u64,
    /// Exchanges that were too large for any archive.
    pub too_large: u64,
    /// Exchanges that came while no archive could be written, or whose segment failed.
    pub lost: u64,
    /// Those of them that had been taken: their segment failed before they were safe, or was removed.
    pub taken_back: u64,
    /// Exchanges of this program's own control endpoint, left out.
    pub own: u64,
    /// How often writing failed.
    pub failures: u64,
    /// Why nothing is written now, in words.
    pub failing: Option<String>,
}

impl Archiver {
    pub(super) fn new(output: Destination, again: Option<Begin>) -> Self {
        Self {
            segment: OpenSegment::of(&output),
            output: Some(output),
            began: Instant::now(),
            again,
            failed_at: Instant::now(),
            retry: RETRY,
            begun: HashSet::new(),
            torn: HashSet::new(),
            error: None,
            stats: Stats::default(),
            events: Vec::new(),
        }
    }

    fn fail(&mut self, error: WriteError) {
        let lost = self.segment.fail();
        self.stats.exchanges = self.stats.exchanges.saturating_sub(lost);
        self.stats.lost += lost;
        self.stats.taken_back += lost;
        self.stats.failures += 1;
        self.failed_at = Instant::now();
        self.retry = RETRY;
        // What was flushed of it stays, for `recover` or the next begin.
        self.output = None;
        self.torn.extend(self.begun.drain());
        if self.again.is_some() {
            self.stats.failing = Some(in_words(&error));
        } else {
            self.error = Some(error);
        }
    }

    fn try_again(&mut self) {
        let Some(again) = &mut self.again else { return };
        if self.output.is_some() || self.failed_at.elapsed() < self.retry {
            return;
        }
        let start = Instant::now();
        let mut events = Vec::new();
        match again(&mut events) {
            Ok(output) => {
                self.segment.next_output(&output);
                self.output = Some(output);
                self.began = Instant::now();
                self.stats.failing = None;
            }
            Err(error) => {
                self.failed_at = Instant::now();
                self.retry = RETRY.max(start.elapsed() * RETRY_SHARE);
                self.stats.failing = Some(in_words(&error));
                // It would be told again and again.
                events.retain(|event| !matches!(event, SetEvent::NotRecovered { .. }));
            }
        }
        self.events.extend(events);
    }
}

/// The ledger of the engines, with what became of the exchanges that they found.
fn with_outcome(mut ledger: Ledger, stats: &Stats) -> Ledger {
    ledger.exchanges = stats.exchanges;
    ledger.exchanges_not_chosen += stats.own;
    ledger.exchanges_dropped += stats.lost + stats.too_large;
    ledger
}

impl Outlet for Archiver {
    fn body_part(&mut self, part: &BodyPart) {
        let Some(output) = &mut self.output else {
            self.torn.insert(part.key);
            return;
        };
        if self.torn.contains(&part.key) {
            return;
        }
        self.begun.insert(part.key);
        if let Err(error) = output.body_part(part) {
            self.fail(error);
        }
    }

    fn unread(&mut self, connection: &UnreadConnection) {
        if let Some(output) = &mut self.output
            && let Err(error) = output.unread(connection)
        {
            self.fail(error);
        }
    }

    fn exchange(&mut self, exchange: &Exchange) {
        self.begun.remove(&exchange.key);
        let is_torn = self.torn.remove(&exchange.key);
        let Some(output) = self.output.as_mut().filter(|_| !is_torn) else {
            self.stats.lost += 1;
            return;
        };
        match output.exchange(exchange) {
            Ok(()) => {
                self.stats.exchanges += 1;
                self.segment.took();
            }
            // One monster among the exchanges is no reason to lose the others.
            Err(WriteError::ExchangeTooLarge { .. }) => self.stats.too_large += 1,
            Err(error) => {
                self.stats.lost += 1;
                self.fail(error);
            }
        }
    }

    fn own(&mut self) {
        self.stats.own += 1;
    }

    fn tick(&mut self, ledger: &mut dyn FnMut() -> Ledger) {
        self.try_again();
        if let Some(output) = &mut self.output {
            // The ledger is asked for where what came before is written down with it.
            let looked = self.segment.look(Instant::now());
            let (segment, stats) = (&self.segment, &self.stats);
            let mut written = None;
            let ledger = || {
                let whole = with_outcome(ledger(), stats);
                segment.part(written.insert(whole))
            };
            match looked.and_then(|()| output.tick(self.began.elapsed(), ledger)) {
                Ok(events) => {
                    self.segment.ticked(written, &events);
                    self.events.extend(events);
                }
                Err(error) => self.fail(error),
            }
        }
    }

    fn check(&mut self) -> Result<(), WriteError> {
        self.error.take().map_or(Ok(()), Err)
    }

    fn stats(&self) -> Stats {
        self.stats.clone()
    }

    fn take_events(&mut self) -> Vec<SetEvent> {
        std::mem::take(&mut self.events)
    }

    fn seal(mut self: Box<Self>, ledger: &Ledger) -> Result<Sealed, WriteError> {
        self.check()?;
        // There may be room by now, and it is the last chance to say what was lost.
        self.retry = Duration::ZERO;
        self.try_again();
        let mut archive = tapedeck_archive::Summary::default();
        if let Some(output) = self.output {
            let whole = with_outcome(ledger.clone(), &self.stats);
            let (summary, events) = output.seal(&self.segment.part(&whole))?;
            archive = summary;
            self.events.extend(events);
        }
        Ok(Sealed {
            archive,
            stats: self.stats,
            events: self.events,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tapedeck_archive::{Archive, Provenance, SegmentedWriter, SetOptions};
    use tapedeck_model::exchange::Body;
    use tapedeck_model::{
        Anomalies, ConnectionId, Endpoint, Message, Missing, Origin, Protocol, Role, Scope,
        Timestamp, Workloads,
    };

    use super::*;

    fn begin(folder: &Path) -> Begin {
        let folder = folder.to_owned();
        Box::new(move |events| {
            let options = SetOptions::new(Provenance::default());
            SegmentedWriter::create_telling(&folder, options, events).map(Destination::from)
        })
    }

    fn exchange(key: u64, parts: u32) -> Exchange {
        let end = |port| Endpoint {
            ip: std::net::Ipv4Addr::LOCALHOST.into(),
            port,
        };
        let response = Message {
            head: None,
            body: Body {
                len: 4 * u64::from(parts),
                parts,
                ..Body::default()
            },
            trailers: None,
            first_byte: Timestamp::EPOCH,
            last_byte: Timestamp::EPOCH,
            missing: Missing::default(),
            reset_code: None,
        };
        Exchange {
            key,
            connection: Arc::new(Connection {
                id: ConnectionId(1),
                client: end(1),
                server: end(80),
                scope: Scope(0),
                origin: Origin::Handshake,
                opened: Timestamp::EPOCH,
                tls: None,
                workloads: Workloads::default(),
            }),
            stream: key,
            protocol: Protocol::Http11,
            request: None,
            interim: Vec::new(),
            response: Some(response),
            request_absent: Missing::LOST,
            response_absent: Missing::default(),
            tunnel: false,
            pushed: false,
            anomalies: Anomalies::default(),
        }
    }

    /// Else its second half would be the beginning of another body.
    #[test]
    fn an_exchange_whose_body_was_torn_by_a_failure_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let mut again = begin(folder.path());
        let first = again(&mut Vec::new()).unwrap();
        let mut archiver = Archiver::new(first, Some(again));
        let part = |key, data: &[u8]| BodyPart {
            key,
            role: Role::Response,
            data: data.to_vec(),
        };
        let fail = |archiver: &mut Archiver| {
            let path = folder.path().to_owned();
            archiver.fail(WriteError::Failed { path });
            archiver.retry = Duration::ZERO;
        };
        // Torn while there is an output, and while there is none.
        archiver.body_part(&part(1, b"half"));
        fail(&mut archiver);
        archiver.body_part(&part(2, b"half"));
        archiver.tick(&mut Ledger::default);
        for key in [1, 2, 3] {
            archiver.body_part(&part(key, b"more"));
        }
        for (key, parts) in [(1, 2), (2, 2), (3, 1)] {
            archiver.exchange(&exchange(key, parts));
        }
        let stats = archiver.stats();
        assert_eq!((stats.exchanges, stats.lost), (1, 2));
        assert!(archiver.begun.is_empty() && archiver.torn.is_empty());
        Box::new(archiver).seal(&Ledger::default()).unwrap();
        let archive = Archive::open(folder.path()).unwrap();
        assert_eq!(archive.row(0).unwrap().stream(), 3);
        let ledger = archive.ledger();
        assert_eq!((archive.len(), ledger.exchanges), (1, 1));
        assert_eq!(ledger.exchanges_dropped, 2);
    }

    /// It is the last chance to say what was lost.
    #[test]
    fn what_was_lost_is_told_at_the_end_where_there_is_room_by_then() {
        let folder = tempfile::tempdir().unwrap();
        let mut again = begin(folder.path());
        let first = again(&mut Vec::new()).unwrap();
        let mut archiver = Archiver::new(first, Some(again));
        archiver.exchange(&exchange(1, 0));
        let path = folder.path().to_owned();
        archiver.fail(WriteError::Failed { path });
        archiver.exchange(&exchange(2, 0));
        let seen = Ledger {
            segments: 7,
            ..Ledger::default()
        };
        Box::new(archiver).seal(&seen).unwrap();
        let archive = Archive::open(folder.path()).unwrap();
        assert!(archive.is_empty());
        assert_eq!(archive.ledger().exchanges_dropped, 2);
        assert_eq!(archive.ledger().segments, 7);
    }
}
