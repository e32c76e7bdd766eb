//! The threads of a run.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::player::gate::Pass;
use crate::player::reach::{Reached, StdStream};
use crate::player::run::{Progress, RunError};
use crate::player::schedule::{Topology, share};
use crate::player::source::Source;
use crate::player::tally::Tally;
use crate::player::target::{Route, TargetProtocol};
use crate::player::transport::{
    AnyTransport, Connector, Counters, Http1Transport, Http2Transport, Routed, Router, WhenBusy,
};
use crate::player::worker::{self, Ahead, Job, Live, Part as WorkPart};

/// What the threads share.
pub(crate) struct Crew<S> {
    pub(crate) job: Arc<Job<S>>,
    /// The targets: that of the run, and those of the routes.
    pub(crate) reached: Vec<Reached>,
    pub(crate) routes: Vec<Route>,
    pub(crate) topology: Topology,
    pub(crate) workers: u32,
    /// Requests that are made ready before the run.
    pub(crate) ahead: Arc<Ahead<Routed>>,
    /// Connections of all workers together, at most.
    pub(crate) connections: u32,
}

impl<S: Source + 'static> Crew<S> {
    const PROGRESS_EVERY: Duration = Duration::from_millis(200);

    /// Sends everything, and adds up.
    pub(crate) fn send(
        &self,
        parts: Vec<Vec<WorkPart>>,
        spares: Vec<Option<StdStream>>,
        mut observe: impl FnMut(&[Arc<Live>], Ended),
    ) -> Result<Tally, RunError> {
        let live: Vec<Arc<Live>> = parts.iter().map(|_| Arc::default()).collect();
        let mut spares = Some(spares);
        // All passes exist before the first thread does: where one cannot be made, those that wait
        // for it are let go.
        let parts: Vec<Share<'_>> = (0..)
            .zip(parts)
            .zip(&live)
            .map(|((worker, parts), live)| Share {
                worker,
                parts,
                spares: spares.take().unwrap_or_default(),
                live: Arc::clone(live),
                pass: self.job.gate.pass(),
            })
            .collect();
        let mut tally = Tally::new(&self.job.watch);
        std::thread::scope(|scope| {
            let (done, results) = channel();
            for part in parts {
                let done = done.clone();
                std::thread::Builder::new()
                    .name("player".to_owned())
                    .spawn_scoped(scope, move || {
                        // The other end waits for every worker.
                        drop(done.send(self.work(part)));
                    })
                    .map_err(RunError::Worker)?;
            }
            drop(done);
            let mut ended = Ended::None;
            loop {
                match results.recv_timeout(Self::PROGRESS_EVERY) {
                    Ok(result) => {
                        tally.merge(&result.map_err(RunError::Worker)?);
                        ended = Ended::Some;
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                observe(&live, ended);
            }
            Ok(tally)
        })
    }

    fn work(&self, share_of_work: Share<'_>) -> io::Result<Tally> {
        let Share {
            worker,
            parts,
            spares,
            live,
            pass,
        } = share_of_work;
        let ahead = Arc::clone(&self.ahead);
        let router = || self.router(worker, spares);
        worker::run(&self.job, (worker, pass), live, ahead, parts, router)
    }

    /// The ways of one worker to all targets.
    fn router(&self, worker: u32, spares: Vec<Option<StdStream>>) -> io::Result<Router> {
        let when_busy = match self.topology {
            Topology::Recorded => WhenBusy::Open,
            Topology::Pooled(connections) => {
                WhenBusy::Wait(share(connections.get(), self.workers, worker))
            }
        };
        let counters: Rc<Counters> = Rc::default();
        let mut spares = spares.into_iter();
        let transport = |reached: &Reached| {
            let spare = spares.next().flatten();
            let connector = Connector::new(
                reached.destination.clone(),
                reached.secure.clone(),
                share(self.connections, self.workers, worker).max(1),
                spare.map(StdStream::into_tokio).transpose()?,
                Rc::clone(&counters),
            );
            let rules = reached.rules.clone();
            Ok(match reached.protocol {
                TargetProtocol::Http1 => {
                    AnyTransport::Http1(Http1Transport::new(connector, rules, when_busy))
                }
                TargetProtocol::Http2 => {
                    AnyTransport::Http2(Http2Transport::new(connector, rules, when_busy))
                }
            })
        };
        let targets = self.reached.iter().map(transport);
        let targets: Vec<AnyTransport> = targets.collect::<io::Result<_>>()?;
        Ok(Router::new(targets, self.routes.clone(), counters))
    }
}

/// Whether workers have come to their end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ended {
    None,
    Some,
}

/// What one thread gets.
struct Share<'a> {
    worker: u32,
    parts: Vec<WorkPart>,
    spares: Vec<Option<StdStream>>,
    live: Arc<Live>,
    pass: Pass<'a>,
}

pub(crate) fn add_up(live: &[Arc<Live>], mut progress: Progress) -> Progress {
    for live in live {
        progress.answered += live.answered.load(Ordering::Relaxed);
        progress.failed += live.failed.load(Ordering::Relaxed);
        progress.never_sent += live.never_sent.load(Ordering::Relaxed);
        progress.in_flight += live.in_flight.load(Ordering::Relaxed);
        progress.connections += live.connections.load(Ordering::Relaxed);
        progress.bytes_sent += live.bytes_sent.load(Ordering::Relaxed);
        progress.bytes_received += live.bytes_received.load(Ordering::Relaxed);
        progress.vus += live.vus.load(Ordering::Relaxed);
    }
    progress
}
