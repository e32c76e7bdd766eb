//! Where what was found goes: an archive, or a row of them.

use std::time::{Duration, Instant};

use tapedeck_archive::{Destination, SetEvent, WriteError};
use tapedeck_model::{BodyPart, Exchange, Ledger, UnreadConnection};

use crate::words::in_words;

/// Begins an output, or begins it again after one has failed. With what happened to segments.
pub type Begin = Box<dyn FnMut() -> Result<(Destination, Vec<SetEvent>), WriteError> + Send>;

/// How long after a failure a new output is tried: a full disk is seldom emptied sooner, and a try
/// costs little.
const RETRY: Duration = Duration::from_secs(2);

/// Puts what the engines find into the output. Engines cannot stop for an error, so it is kept, and
/// what comes meanwhile is counted.
pub(super) struct Archiver {
    output: Option<Destination>,
    /// When that was begun.
    began: Instant,
    /// Begins the next output after a failure; `None`: a failure ends the recording.
    again: Option<Begin>,
    failed_at: Instant,
    error: Option<WriteError>,
    pub(super) stats: Stats,
    /// What happened to segments, not yet told.
    pub(super) events: Vec<SetEvent>,
}

/// What an output came to.
pub(super) struct Sealed {
    pub(super) archive: tapedeck_archive::Summary,
    pub(super) stats: Stats,
    pub(super) events: Vec<SetEvent>,
}

/// What became of the exchanges.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Stats {
    /// Exchanges that were taken.
    pub exchanges: u64,
    /// Exchanges that were too large for any archive.
    pub too_large: u64,
    /// Exchanges that came while no archive could be written.
    pub lost: u64,
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
            output: Some(output),
            began: Instant::now(),
            again,
            failed_at: Instant::now(),
            error: None,
            stats: Stats::default(),
            events: Vec::new(),
        }
    }

    pub(super) fn body_part(&mut self, part: &BodyPart) {
        if let Some(output) = &mut self.output
            && let Err(error) = output.body_part(part)
        {
            self.fail(error);
        }
    }

    pub(super) fn unread(&mut self, connection: &UnreadConnection) {
        if let Some(output) = &mut self.output
            && let Err(error) = output.unread(connection)
        {
            self.fail(error);
        }
    }

    pub(super) fn exchange(&mut self, exchange: &Exchange) {
        let Some(output) = &mut self.output else {
            self.stats.lost += 1;
            return;
        };
        match output.exchange(exchange) {
            Ok(()) => self.stats.exchanges += 1,
            // One monster among the exchanges is no reason to lose the others.
            Err(WriteError::ExchangeTooLarge { .. }) => self.stats.too_large += 1,
            Err(error) => {
                self.stats.lost += 1;
                self.fail(error);
            }
        }
    }

    /// Lets time pass: what was recorded becomes safe, segments begin and end. Called some times a
    /// second.
    pub(super) fn tick(&mut self, ledger: impl FnOnce() -> Ledger) {
        self.try_again();
        if let Some(output) = &mut self.output {
            match output.tick(self.began.elapsed(), ledger) {
                Ok(events) => self.events.extend(events),
                Err(error) => self.fail(error),
            }
        }
    }

    /// The error that ends the recording.
    pub(super) fn check(&mut self) -> Result<(), WriteError> {
        self.error.take().map_or(Ok(()), Err)
    }

    pub(super) fn seal(mut self, ledger: &Ledger) -> Result<Sealed, WriteError> {
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

    fn fail(&mut self, error: WriteError) {
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
