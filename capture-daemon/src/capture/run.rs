//! Recording into one archive, until somebody or something says stop.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tapedeck_archive::{Destination, SetEvent, WriteError};
use tapedeck_model::Ledger;

use super::session::{FinishError, Finished, Session, Setup, step_back};
use crate::capture::{Backend, Opened};
use crate::sources::ebpf::cgroup_id;
use crate::sources::{Drops, SourceError};

/// When to stop by itself. The flag given to [`run`] stops it at any time, and at once where the thread that
/// runs is unparked after it was set.
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
    /// The kernel failed the source, or its cgroup is gone. What was seen before is in the archive.
    SourceFailed(SourceError),
}

/// Where a recording stands.
#[derive(Debug)]
pub struct Progress {
    /// For how long it has been running.
    pub elapsed: Duration,
    /// Packets seen.
    pub packets: u64,
    /// Packets that the kernel dropped.
    pub dropped: u64,
    /// Exchanges archived.
    pub exchanges: u64,
    /// What happened to segments since the last time.
    pub events: Vec<SetEvent>,
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
    /// What happened to segments since the last [`Progress`].
    pub events: Vec<SetEvent>,
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
    /// No thread could be started.
    #[error("cannot start a thread")]
    Thread(#[from] std::io::Error),
}

impl From<FinishError> for RunError {
    fn from(error: FinishError) -> Self {
        match error {
            FinishError::Write(error) => Self::Write(error),
            FinishError::Source(error) => Self::Source(error),
        }
    }
}

/// How often the reasons to stop are looked at. Each look wakes a processor that may have slept.
const LOOK: Duration = Duration::from_millis(250);

/// How often somebody is told where it stands.
const WATCH: Duration = Duration::from_secs(1);

/// Records what the source sees into the archive, and seals it. `watch` is called once a second. The thread
/// that calls steps back as [`Setup::nice`] says, for good: it writes, too.
///
/// # Errors
///
/// When the archive cannot be written; what was flushed of it can be recovered.
pub fn run(
    mut opened: Opened,
    output: impl Into<Destination>,
    setup: Setup,
    until: &Until,
    stop: &AtomicBool,
    watch: &mut dyn FnMut(&Progress),
) -> Result<Summary, RunError> {
    let start = Instant::now();
    let nice = setup.nice;
    let cgroup = opened.cgroup.take();
    let mut session = Session::start(opened, output.into(), setup)?;
    step_back(nice);
    let (mut watched, mut events) = (start, Vec::new());
    let mut ended = loop {
        if stop.load(Ordering::Acquire) {
            break Ended::Stopped;
        }
        if let Some(error) = session.take_failure() {
            break Ended::SourceFailed(error);
        }
        let left = until
            .duration
            .map_or(LOOK, |duration| duration.saturating_sub(start.elapsed()));
        if left.is_zero() {
            break Ended::Duration;
        }
        if until
            .exchanges
            .is_some_and(|most| session.exchanges() >= most)
        {
            break Ended::Exchanges;
        }
        thread::park_timeout(left.min(LOOK));
        events.extend(session.tick()?);
        if watched.elapsed() >= WATCH {
            watched = Instant::now();
            if let Some((path, id)) = &cgroup
                && !is_there(path, *id)
            {
                break Ended::SourceFailed(SourceError::CgroupGone(path.clone()));
            }
            watch(&progress(&mut session, std::mem::take(&mut events))?);
        }
    };
    let backend = session.backend();
    let late_failure = session.take_failure();
    if let (Some(error), Ended::Stopped) = (late_failure, &ended) {
        ended = Ended::SourceFailed(error);
    }
    let Finished {
        ledger,
        drops,
        output,
        archive,
        events: last,
    } = session.finish()?;
    events.extend(last);
    Ok(Summary {
        backend,
        ended,
        ledger,
        drops,
        too_large: output.too_large,
        archive,
        events,
    })
}

/// A cgroup that is removed takes the programs on it along, without a word; one that takes its place is another one.
fn is_there(cgroup: &Path, id: u64) -> bool {
    cgroup_id(cgroup).is_ok_and(|now| now == id)
}

fn progress(session: &mut Session, events: Vec<SetEvent>) -> Result<Progress, SourceError> {
    let snapshot = session.snapshot()?;
    Ok(Progress {
        elapsed: snapshot.elapsed,
        packets: snapshot.ledger.packets_seen,
        dropped: snapshot.ledger.packets_dropped_by_kernel,
        exchanges: snapshot.output.exchanges,
        events,
    })
}
