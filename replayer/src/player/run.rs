//! A whole run: plan, see that the target is there, send from several threads, add up.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use tapedeck_archive::Archive;

use crate::player::archive::Recorded;
use crate::player::endpoints::{Endpoints, Label};
use crate::player::gate::{Gate, Pass};
use crate::player::options::Options;
use crate::player::outcome::NeverSent;
use crate::player::report::Report;
use crate::player::request::Rules;
use crate::player::schedule::{LeftOut, LeftOutCounts, Schedule, Speed, Topology, share};
use crate::player::source::Source;
use crate::player::stop::StopFlag;
use crate::player::tally::Tally;
use crate::player::target::{Target, TargetAddress, TargetProtocol};
use crate::player::threshold::{Verdict, VerdictReason};
use crate::player::transport::{
    Connector, Destination, Http1Transport, Http2Transport, Stream, WhenBusy, connect_once,
};
use crate::player::watch::{Observed, Watch, pinned};
use crate::player::worker::{self, Job, Live, Queue, Work};

/// How a run is going.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Progress {
    /// Since the start; zero before it.
    pub elapsed: Duration,
    /// When the last request is due; zero at [`Speed::Max`].
    pub planned: Duration,
    /// Requests that are to be sent.
    pub total: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Sent requests that failed.
    pub failed: u64,
    /// Requests that were given up before they were sent.
    pub never_sent: u64,
    /// Requests that wait for an answer.
    pub in_flight: u64,
    /// Open connections.
    pub connections: u64,
}

/// Why a run did not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// No exchange of the archive is a request to send.
    #[error("{}", nothing_to_send(.0))]
    NothingToSend(LeftOutCounts),
    /// The target's name has no address.
    #[error("cannot resolve {host:?}: {error}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        error: io::Error,
    },
    /// Nothing answers at the target.
    #[error("cannot connect to {target}: {error}; is the target running?")]
    Connect {
        /// The target.
        target: String,
        /// What the system said.
        error: io::Error,
    },
    /// A thread or its event loop could not be made.
    #[error("cannot start a worker: {0}")]
    Worker(io::Error),
}

fn nothing_to_send(left_out: &LeftOutCounts) -> String {
    if left_out.total() == 0 {
        return "the archive holds no exchanges".to_owned();
    }
    let kinds: Vec<_> = left_out
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(kind, n)| format!("{n} {}", kind.name().replace('_', " ")))
        .collect();
    format!(
        "the archive holds no request that can be sent ({})",
        kinds.join(", ")
    )
}

/// Sends the requests of an archive as the options say, on threads of its own. `progress` is called
/// on this one several times a second.
pub fn run(
    archive: Arc<Archive>,
    options: &Options,
    stop: &StopFlag,
    progress: impl Fn(Progress),
) -> Result<Report, RunError> {
    let filter = options.filter.clone();
    play(Recorded { archive, filter }, options, stop, progress)
}

pub(crate) fn play<S: Source + 'static>(
    source: S,
    options: &Options,
    stop: &StopFlag,
    progress: impl Fn(Progress),
) -> Result<Report, RunError> {
    let (methods, paths) = pinned(&options.thresholds);
    let mut endpoints = Endpoints::new(methods, paths);
    let schedule = Schedule::new(source.candidates(), options.speed, &mut endpoints);
    let watch = Arc::new(Watch::new(&options.thresholds, endpoints.labels()));
    let mut left_out = schedule.left_out.clone();
    left_out.add_n(LeftOut::Unreadable, source.unreadable());
    let total = schedule.entries.len() as u64;
    if total == 0 {
        return Err(RunError::NothingToSend(left_out));
    }
    let planned = schedule.span();
    let plan = Plan::new(options, schedule);
    let (destination, spare) = reach(&options.target, options.timeout)?;
    let connections = plan.connections_within(options.limits.connections);

    let cpu_before = cpu_time();
    let job = Arc::new(Job {
        source,
        rules: Rules {
            authority: options.target.authority.clone(),
            path_prefix: options.target.path_prefix.clone(),
            preserve_host: options.preserve_host,
            keep_connection_options: plan.topology == Topology::Recorded,
        },
        gate: Gate::new(plan.workers),
        timeout: options.timeout,
        grace: options.grace,
        max_in_flight: (options.limits.in_flight / plan.workers).max(1),
        max_request_bytes: options.limits.request_bytes / u64::from(plan.workers),
        stop: stop.watch(),
        watch: Arc::clone(&watch),
    });
    let elapsed = |job: &Job<S>| {
        job.gate
            .start()
            .map_or(Duration::ZERO, |start| start.elapsed())
    };
    let crew = Crew {
        job: Arc::clone(&job),
        protocol: options.target.protocol,
        destination,
        when_busy: match plan.topology {
            Topology::Recorded => WhenBusy::Open,
            Topology::Pooled(_) => WhenBusy::Wait,
        },
    };

    let pooled = match plan.topology {
        Topology::Recorded => None,
        Topology::Pooled(connections) => Some(connections.get()),
    };
    let (workers, queue) = (plan.workers, plan.queue.clone());
    let mut guard = Guard::new(&watch, stop, cpu_before);
    let observe = |live: &[Arc<Live>]| {
        guard.look(elapsed(&job), live);
        progress(add_up(
            live,
            Progress {
                elapsed: elapsed(&job),
                planned,
                total,
                ..Progress::default()
            },
        ));
    };
    let mut tally = crew.send(plan, connections, spare, observe)?;
    let unclaimed = queue.map_or(0, |queue| queue.left());
    tally.never_sent.add_n(NeverSent::Stopped, unclaimed);
    let (elapsed, cpu) = (elapsed(&job), cpu_time().saturating_sub(cpu_before));
    let verdicts = guard.verdicts(&tally.observed(), elapsed, share_of(cpu, elapsed));
    Ok(Report {
        endpoints: endpoints.labels().iter().map(Label::name).collect(),
        thresholds: verdicts,
        target: options.target.to_string(),
        speed: options.speed,
        pooled,
        workers,
        recorded: total + left_out.total(),
        left_out,
        planned,
        elapsed,
        cpu,
        stopped: stop.state(),
        tally,
    })
}

/// Ends the run when a threshold says so.
struct Guard<'a> {
    watch: &'a Arc<Watch>,
    stop: &'a StopFlag,
    cpu_before: Duration,
    next: Duration,
    /// The threshold that ended the run, by its index.
    aborted: Option<(usize, Verdict)>,
}

impl<'a> Guard<'a> {
    /// k6's.
    const EVERY: Duration = Duration::from_secs(2);

    const fn new(watch: &'a Arc<Watch>, stop: &'a StopFlag, cpu_before: Duration) -> Self {
        Self {
            watch,
            stop,
            cpu_before,
            next: Self::EVERY,
            aborted: None,
        }
    }

    fn look(&mut self, elapsed: Duration, live: &[Arc<Live>]) {
        if !self.watch.aborts() || self.aborted.is_some() || elapsed < self.next {
            return;
        }
        self.next = elapsed + Self::EVERY;
        let mut observed = Observed::nothing(self.watch);
        for live in live {
            live.add_observed(&mut observed);
        }
        let cpu = cpu_time().saturating_sub(self.cpu_before);
        let share = share_of(cpu, elapsed);
        if let Some((index, mut verdict)) = self.watch.abort(&observed, elapsed, share) {
            verdict.reason = VerdictReason::Aborted(elapsed);
            self.aborted = Some((index, verdict));
            // As in k6, what is in flight is not awaited: the verdict stands.
            self.stop.stop();
            self.stop.stop();
        }
    }

    /// One that has ended the run failed, whatever came behind it.
    fn verdicts(self, observed: &Observed, elapsed: Duration, cpu: f64) -> Vec<Verdict> {
        let mut verdicts = self.watch.verdicts(observed, elapsed, cpu);
        if let Some((index, aborted)) = self.aborted
            && let Some(verdict) = verdicts.get_mut(index)
        {
            *verdict = aborted;
        }
        verdicts
    }
}

fn share_of(cpu: Duration, elapsed: Duration) -> f64 {
    if elapsed.is_zero() {
        0.0
    } else {
        cpu.as_secs_f64() / elapsed.as_secs_f64()
    }
}

/// Who sends what.
struct Plan {
    workers: u32,
    topology: Topology,
    /// Of each worker: what it sends, and on how many lanes.
    work: Vec<(Work, u32)>,
    queue: Option<Arc<Queue>>,
}

impl Plan {
    fn new(options: &Options, schedule: Schedule) -> Self {
        let topology = match (options.connections, options.speed) {
            (Some(connections), _) => Topology::Pooled(connections),
            (None, Speed::Max) => Topology::Pooled(Options::MAX_SPEED_CONNECTIONS),
            (None, Speed::Times(_)) => Topology::Recorded,
        };
        let lanes = match topology {
            Topology::Recorded => schedule.lanes,
            Topology::Pooled(connections) => connections.get(),
        };
        let workers = options.workers.map_or_else(
            || {
                let processors = std::thread::available_parallelism().map_or(1, usize::from);
                u32::try_from(processors)
                    .unwrap_or(u32::MAX)
                    .min(Options::MAX_WORKERS)
            },
            NonZeroU32::get,
        );
        // A worker without a lane would have nothing to do.
        let workers = NonZeroU32::new(workers.min(lanes)).unwrap_or(NonZeroU32::MIN);
        let n = workers.get();

        let mut queue = None;
        let work = match options.speed {
            Speed::Times(_) => schedule
                .into_shards(workers, topology)
                .into_iter()
                .map(|shard| (Work::Timed(shard.entries), shard.lanes))
                .collect(),
            Speed::Max => {
                let at_once = match options.target.protocol {
                    TargetProtocol::Http1 => 1,
                    TargetProtocol::Http2 => options.streams.get(),
                };
                let shared = Arc::new(Queue::new(schedule.entries, lanes.saturating_mul(at_once)));
                queue = Some(Arc::clone(&shared));
                let work = |worker| {
                    let lanes = share(lanes, n, worker);
                    let queue = Arc::clone(&shared);
                    (
                        Work::Closed {
                            queue,
                            lanes,
                            at_once,
                        },
                        lanes,
                    )
                };
                (0..n).map(work).collect()
            }
        };
        Self {
            workers: n,
            topology,
            work,
            queue,
        }
    }

    /// How many connections each worker may open. A pool is its own limit.
    fn connections_within(&self, limit: u32) -> u32 {
        let limit = limit.min(raise_descriptor_limit());
        (limit / self.workers).max(1)
    }
}

/// What the threads share.
struct Crew<S> {
    job: Arc<Job<S>>,
    protocol: TargetProtocol,
    destination: Destination,
    when_busy: WhenBusy,
}

impl<S: Source + 'static> Crew<S> {
    const PROGRESS_EVERY: Duration = Duration::from_millis(200);

    /// Sends everything, and adds up.
    fn send(
        &self,
        plan: Plan,
        connections: u32,
        spare: StdStream,
        mut observe: impl FnMut(&[Arc<Live>]),
    ) -> Result<Tally, RunError> {
        let live: Vec<Arc<Live>> = plan.work.iter().map(|_| Arc::default()).collect();
        let mut spare = Some(spare);
        // All passes exist before the first thread does: where one cannot be made, those that wait
        // for it are let go.
        let parts: Vec<Part<'_>> = plan
            .work
            .into_iter()
            .zip(&live)
            .map(|((work, lanes), live)| Part {
                work,
                lanes,
                connections,
                spare: spare.take(),
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
            loop {
                match results.recv_timeout(Self::PROGRESS_EVERY) {
                    Ok(result) => tally.merge(&result.map_err(RunError::Worker)?),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                observe(&live);
            }
            Ok(tally)
        })
    }

    fn work(&self, part: Part<'_>) -> io::Result<Tally> {
        let Part {
            work,
            lanes,
            connections,
            spare,
            live,
            pass,
        } = part;
        let connector = || {
            let spare = spare.map(StdStream::into_tokio).transpose()?;
            Ok::<_, io::Error>(Connector::new(self.destination.clone(), connections, spare))
        };
        match self.protocol {
            TargetProtocol::Http1 => worker::run(&self.job, pass, live, work, || {
                Ok(Http1Transport::new(connector()?, lanes, self.when_busy))
            }),
            TargetProtocol::Http2 => worker::run(&self.job, pass, live, work, || {
                Ok(Http2Transport::new(connector()?, lanes))
            }),
        }
    }
}

/// What one thread gets.
struct Part<'a> {
    work: Work,
    lanes: u32,
    connections: u32,
    spare: Option<StdStream>,
    live: Arc<Live>,
    pass: Pass<'a>,
}

fn add_up(live: &[Arc<Live>], mut progress: Progress) -> Progress {
    for live in live {
        progress.answered += live.answered.load(Ordering::Relaxed);
        progress.failed += live.failed.load(Ordering::Relaxed);
        progress.never_sent += live.never_sent.load(Ordering::Relaxed);
        progress.in_flight += live.in_flight.load(Ordering::Relaxed);
        progress.connections += live.connections.load(Ordering::Relaxed);
    }
    progress
}

/// Resolves the target and connects to it once, so that a target that is down is one clear message
/// and not a failure for each request. The connection becomes the first of the run.
fn reach(target: &Target, timeout: Duration) -> Result<(Destination, StdStream), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Worker)?;
    let connect_error = |error| RunError::Connect {
        target: target.to_string(),
        error,
    };
    runtime.block_on(async {
        let destination = match &target.address {
            TargetAddress::Unix(path) => Destination::Unix(path.clone()),
            TargetAddress::Tcp { host, port } => {
                let addresses = tokio::net::lookup_host((host.as_str(), *port)).await;
                let addresses: Vec<SocketAddr> = addresses
                    .map_err(|error| RunError::Resolve {
                        host: host.clone(),
                        error,
                    })?
                    .collect();
                Destination::Tcp(addresses)
            }
        };
        let stream = tokio::time::timeout(timeout, connect_once(&destination))
            .await
            .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
            .map_err(connect_error)?;
        let stream = StdStream::from_tokio(stream).map_err(connect_error)?;
        Ok((destination, stream))
    })
}

/// A stream on its way from one runtime to another.
enum StdStream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl StdStream {
    fn from_tokio(stream: Stream) -> io::Result<Self> {
        match stream {
            Stream::Tcp(stream) => stream.into_std().map(Self::Tcp),
            Stream::Unix(stream) => stream.into_std().map(Self::Unix),
        }
    }

    fn into_tokio(self) -> io::Result<Stream> {
        match self {
            Self::Tcp(stream) => tokio::net::TcpStream::from_std(stream).map(Stream::Tcp),
            Self::Unix(stream) => tokio::net::UnixStream::from_std(stream).map(Stream::Unix),
        }
    }
}

/// Descriptors that are not connections: the archive, event loops, timers, standard streams.
const OTHER_DESCRIPTORS: u64 = 64;

/// Raises the soft limit of file descriptors to the hard one, as servers do, and gives the number
/// of connections that it allows.
fn raise_descriptor_limit() -> u32 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let effective = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    effective.map_or(u32::MAX, |limit| {
        u32::try_from(limit.saturating_sub(OTHER_DESCRIPTORS)).unwrap_or(u32::MAX)
    })
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
