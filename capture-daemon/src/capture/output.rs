//! Where what was found goes: an archive, or a row of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tapedeck_archive::{Destination, SetEvent, WriteError};
use tapedeck_model::{BodyPart, Connection, Exchange, Head, Ledger, UnreadConnection};

use super::open_segment::OpenSegment;
use crate::words::in_words;

/// Begins an output, or begins it again after one has failed. With what happened to segments.
pub type Begin = Box<dyn FnMut() -> Result<(Destination, Vec<SetEvent>), WriteError> + Send>;

/// How long after a failure a new output is tried: a full disk is seldom emptied sooner, and a try
/// costs little.
const RETRY: Duration = Duration::from_secs(2);

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
        // What was flushed of it stays, for `recover` or the next begin.
        self.output = None;
        if self.again.is_some() {
            self.stats.failing = Some(in_words(&error));
        } else {
            self.error = Some(error);
        }
    }

    fn try_again(&mut self) {
        let Some(again) = &mut self.again else { return };
        if self.output.is_some() || self.failed_at.elapsed() < RETRY {
            return;
        }
        match again() {
            Ok((output, events)) => {
                self.segment = OpenSegment::of(&output);
                self.output = Some(output);
                self.began = Instant::now();
                self.events.extend(events);
                self.stats.failing = None;
            }
            Err(error) => {
                self.failed_at = Instant::now();
                self.stats.failing = Some(in_words(&error));
            }
        }
    }
}

impl Outlet for Archiver {
    fn body_part(&mut self, part: &BodyPart) {
        if let Some(output) = &mut self.output
            && let Err(error) = output.body_part(part)
        {
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
        let Some(output) = &mut self.output else {
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
            let mut is_safe = false;
            let ledger = || {
                is_safe = true;
                ledger()
            };
            let looked = self.segment.look(Instant::now());
            match looked.and_then(|()| output.tick(self.began.elapsed(), ledger)) {
                Ok(events) => {
                    self.segment.ticked(is_safe, &events);
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
        let mut archive = tapedeck_archive::Summary::default();
        if let Some(output) = self.output {
            let (summary, events) = output.seal(ledger)?;
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
