//! From packets to an archive.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tapedeck_archive::{WriteError, Writer};
use tapedeck_exchange::{Engine, Limits, Recorder};
use tapedeck_model::{BodyPart, Exchange, Ledger, Timestamp, UnreadConnection};

use crate::capture::{Backend, Opened};
use crate::sources::{Drops, PacketSource, SourceError};
use crate::sys::{self, Clock};

/// When to stop by itself. The flag given to [`run`] stops it at any time.
#[derive(Clone, Debug, Default)]
pub struct Until {
    /// After this time.
    pub duration: Option<Duration>,
    /// After this many exchanges, or a few more.
    pub exchanges: Option<u64>,
}

/// How a recording ended.
#[derive(Debug)]
pub enum Ended {
    /// The flag was set.
    Stopped,
    /// After the time that was asked for.
    Duration,
    /// After the exchanges that were asked for.
    Exchanges,
    /// The kernel failed the source. What was seen before is in the archive.
    SourceFailed(SourceError),
}

/// Where a recording stands.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// For how long it has been running.
    pub elapsed: Duration,
    /// Packets seen.
    pub packets: u64,
    /// Packets that the kernel dropped.
    pub dropped: u64,
    /// Exchanges archived.
    pub exchanges: u64,
}

/// What came of a recording.
#[derive(Debug)]
pub struct Summary {
    /// How it captured.
    pub backend: Backend,
    /// How it ended.
    pub ended: Ended,
    /// What was seen, kept and lost.
    pub ledger: Ledger,
    /// What the kernel dropped, by cause.
    pub drops: Drops,
    /// Exchanges that were too large for the archive, and are not in it.
    pub too_large: u64,
    /// The sealed archive.
    pub archive: tapedeck_archive::Summary,
}

/// Why a recording failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The archive could not be written.
    #[error("cannot write the archive")]
    Write(#[from] WriteError),
    /// The kernel did not answer.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// How long the source may wait for packets: as late as the flag is seen.
const WAIT: Duration = Duration::from_millis(50);

/// After this silence a detached source is empty: longer than a packet socket keeps a block that is
/// not full.
const DRAIN: Duration = Duration::from_millis(200);

/// Blocks of the archive are closed this often, so that a crash costs no more than this.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// Packets reach us this much after their time at most (the block timeout of a packet socket is
/// the longest delay, with much to spare). The engine's clock runs behind by this.
const LATENESS: Duration = Duration::from_secs(1);

/// Records what the source sees into the archive, and seals it. `watch` is called once a second.
///
/// # Errors
///
/// When the archive cannot be written; what was flushed of it can be recovered.
pub fn run(
    opened: Opened,
    writer: Writer,
    until: &Until,
    stop: &AtomicBool,
    watch: &mut dyn FnMut(&Progress),
) -> Result<Summary, RunError> {
    let Opened {
        source,
        backend,
        passed_over: _,
    } = opened;
    let start = Instant::now();
    let mut recording = Recording {
        source,
        engine: Engine::new(Limits::default()),
        archive: Archiver {
            writer,
            exchanges: 0,
            is_dirty: false,
            too_large: 0,
            error: None,
        },
        start,
        flushed: start,
    };
    let ended = recording.record(until, stop, watch)?;
    recording.finish(backend, ended)
}

struct Recording {
    source: Box<dyn PacketSource + Send>,
    engine: Engine,
    archive: Archiver,
    start: Instant,
    flushed: Instant,
}

impl Recording {
    fn record(
        &mut self,
        until: &Until,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(&Progress),
    ) -> Result<Ended, RunError> {
        loop {
            if stop.load(Ordering::Acquire) {
                return Ok(Ended::Stopped);
            }
            let left = until.duration.map_or(WAIT, |duration| {
                duration.saturating_sub(self.start.elapsed())
            });
            if left.is_zero() {
                return Ok(Ended::Duration);
            }
            match self.read(left.min(WAIT)) {
                Ok(0) => self.engine.handle_timeout(late_now(), &mut self.archive),
                Ok(_) => {}
                Err(error) => return Ok(Ended::SourceFailed(error)),
            }
            self.archive.check()?;
            if until
                .exchanges
                .is_some_and(|most| self.archive.exchanges >= most)
            {
                return Ok(Ended::Exchanges);
            }
            if self.flushed.elapsed() >= FLUSH_INTERVAL {
                let progress = self.flush()?;
                watch(&progress);
            }
        }
    }

    fn read(&mut self, timeout: Duration) -> Result<usize, SourceError> {
        let Self {
            source,
            engine,
            archive,
            ..
        } = self;
        source.next_batch(timeout, &mut |packet| engine.packet(packet, archive))
    }

    fn flush(&mut self) -> Result<Progress, RunError> {
        self.flushed = Instant::now();
        // A busy source gives no batch of nothing, but its connections time out all the same.
        self.engine.handle_timeout(late_now(), &mut self.archive);
        let drops = self.source.drops()?;
        let ledger = self.ledger(&drops);
        self.archive.flush(&ledger)?;
        Ok(Progress {
            elapsed: self.start.elapsed(),
            packets: ledger.packets_seen,
            dropped: ledger.packets_dropped_by_kernel,
            exchanges: self.archive.exchanges,
        })
    }

    /// Takes what the source still has, ends every connection, and seals the archive.
    fn finish(mut self, backend: Backend, ended: Ended) -> Result<Summary, RunError> {
        if !matches!(ended, Ended::SourceFailed(_)) {
            self.source.detach()?;
            while self.read(DRAIN)? > 0 {
                self.archive.check()?;
            }
        }
        self.engine.finish(&mut self.archive);
        self.archive.check()?;
        let drops = self.source.drops()?;
        let ledger = self.ledger(&drops);
        let too_large = self.archive.too_large;
        let archive = self.archive.writer.seal(&ledger)?;
        Ok(Summary {
            backend,
            ended,
            ledger,
            drops,
            too_large,
            archive,
        })
    }

    fn ledger(&self, drops: &Drops) -> Ledger {
        let mut ledger = self.engine.ledger();
        ledger.packets_dropped_by_kernel += drops.total();
        ledger
    }
}

/// The time up to which every packet has come.
fn late_now() -> Timestamp {
    let lateness = i64::try_from(LATENESS.as_nanos()).unwrap_or(i64::MAX);
    Timestamp::from_nanos(sys::now(Clock::Wall).saturating_sub(lateness))
}

/// Puts what the engine finds into the archive. Keeps the first error until
/// [`check`](Self::check), as the engine cannot stop for it.
struct Archiver {
    writer: Writer,
    exchanges: u64,
    /// Something was written since the last flush.
    is_dirty: bool,
    too_large: u64,
    error: Option<WriteError>,
}

impl Archiver {
    fn check(&mut self) -> Result<(), WriteError> {
        self.error.take().map_or(Ok(()), Err)
    }

    fn flush(&mut self, ledger: &Ledger) -> Result<(), WriteError> {
        if self.is_dirty {
            self.writer.checkpoint(ledger)?;
            self.is_dirty = false;
        }
        Ok(())
    }
}

impl Recorder for Archiver {
    fn body_part(&mut self, part: &BodyPart) {
        if self.error.is_none() {
            self.is_dirty = true;
            self.error = self.writer.body_part(part).err();
        }
    }

    fn exchange(&mut self, exchange: &Exchange) {
        if self.error.is_some() {
            return;
        }
        match self.writer.exchange(exchange) {
            Ok(()) => {
                self.is_dirty = true;
                self.exchanges += 1;
            }
            // One monster among the exchanges is no reason to lose the others.
            Err(WriteError::ExchangeTooLarge { .. }) => self.too_large += 1,
            Err(error) => self.error = Some(error),
        }
    }

    fn unread(&mut self, connection: &UnreadConnection) {
        if self.error.is_none() {
            self.is_dirty = true;
            self.error = self.writer.unread(connection).err();
        }
    }
}
