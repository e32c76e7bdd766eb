//! A whole run: plan, see that the target is there, send from several threads, add up.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use rustls::ClientConfig;
use tapedeck_archive::Archive;

use crate::player::archive::Recorded;
use crate::player::dry_run::{DryRun, described};
use crate::player::endpoints::{Endpoints, Label};
use crate::player::gate::{Gate, Pass};
use crate::player::options::Options;
use crate::player::outcome::NeverSent;
use crate::player::plan::{Empty, Plan};
use crate::player::report::Report;
use crate::player::request::Rules;
use crate::player::scenario::{Executor, Scenario};
use crate::player::schedule::{LeftOutCounts, Topology, share};
use crate::player::seconds::{SecondRow, Seconds};
use crate::player::source::Source;
use crate::player::stop::StopFlag;
use crate::player::tally::Tally;
use crate::player::target::{Route, Target, TargetAddress, TargetProtocol};
use crate::player::threshold::{Verdict, VerdictReason};
use crate::player::tls::{TlsError, negotiated, server_name};
use crate::player::transport::{
    AnyTransport, Connector, Counters, Destination, Http1Transport, Http2Transport, Names, Router,
    Secure, Stream, WhenBusy,
};
use crate::player::watch::{Observed, Watch, pinned, unknown_tag};
use crate::player::windows::Windows;
use crate::player::worker::{self, Cast, Job, Live, Part as WorkPart};

/// How a run is going.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Progress {
    /// Since the start; zero before it.
    pub elapsed: Duration,
    /// When the last request or iteration is due at the latest; zero at
    /// [`Speed::Max`](crate::player::Speed::Max).
    pub planned: Duration,
    /// Requests that are to be sent; `None`: that is not known before.
    pub total: Option<u64>,
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
    /// Active users.
    pub vus: u64,
    /// The seconds that became whole since the last time, where
    /// [`Options::every_second`] is set.
    pub seconds: Vec<SecondRow>,
}

/// Why a run did not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// No exchange of the archive is a request to send.
    #[error("{}", nothing_to_send(.left_out))]
    NothingToSend {
        /// The scenario that finds none.
        scenario: String,
        /// Why.
        left_out: LeftOutCounts,
    },
    /// More scenarios than [`Options::MAX_SCENARIOS`].
    #[error("{0} scenarios are too many: {max} are supported", max = Options::MAX_SCENARIOS)]
    TooManyScenarios(usize),
    /// A threshold names a tag that no request can have.
    #[error(
        "the threshold `{threshold}` names the tag {tag:?}: there are endpoint, method, status, \
         expected_response, scenario, and the tags of the scenarios"
    )]
    UnknownTag {
        /// The threshold.
        threshold: String,
        /// The tag.
        tag: String,
    },
    /// More connections are needed than file descriptors are allowed.
    #[error(
        "about {needed} connections are needed at once, and this process may open {allowed}: raise \
         the limit (ulimit -n), or share connections (--connections N)"
    )]
    TooFewDescriptors {
        /// Connections.
        needed: u64,
        /// What is left of the limit.
        allowed: u64,
    },
    /// More connections are needed to one address than there are local ports.
    #[error(
        "about {needed} connections are needed at once, and there are {allowed} local ports for \
         {addresses} addresses of the target: widen net.ipv4.ip_local_port_range, or share \
         connections (--connections N)"
    )]
    TooFewPorts {
        /// Connections.
        needed: u64,
        /// Ports, for all addresses of the target together.
        allowed: u64,
        /// Addresses of the target.
        addresses: usize,
    },
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
    /// TLS cannot be used as asked.
    #[error("TLS: {0}")]
    Tls(TlsError),
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

/// What [`run`] would do, without a word to the target.
pub fn dry_run(archive: Arc<Archive>, options: &Options) -> Result<DryRun, RunError> {
    let filter = options.filter.clone();
    let source = Recorded { archive, filter };
    let scenarios = checked_scenarios(options)?;
    let (plan, _) = planned(&source, options, &scenarios)?;
    Ok(DryRun::new(&plan, options, &scenarios))
}

fn checked_scenarios(options: &Options) -> Result<Vec<Scenario>, RunError> {
    let scenarios = options.all_scenarios();
    if scenarios.len() > Options::MAX_SCENARIOS {
        return Err(RunError::TooManyScenarios(scenarios.len()));
    }
    if let Some((threshold, tag)) = unknown_tag(&options.thresholds, &scenarios) {
        return Err(RunError::UnknownTag {
            threshold: threshold.to_string(),
            tag: tag.to_owned(),
        });
    }
    Ok(scenarios)
}

fn planned<S: Source>(
    source: &S,
    options: &Options,
    scenarios: &[Scenario],
) -> Result<(Plan, Endpoints), RunError> {
    let (methods, paths) = pinned(&options.thresholds);
    let mut endpoints = Endpoints::new(methods, paths);
    let plan = Plan::new(source, options, scenarios, &mut endpoints);
    let plan = plan
        .map_err(|Empty { scenario, left_out }| RunError::NothingToSend { scenario, left_out })?;
    Ok((plan, endpoints))
}

pub(crate) fn play<S: Source + 'static>(
    source: S,
    options: &Options,
    stop: &StopFlag,
    progress: impl Fn(Progress),
) -> Result<Report, RunError> {
    let scenarios = checked_scenarios(options)?;
    let (mut plan, endpoints) = planned(&source, options, &scenarios)?;
    let watch = Watch::new(&options.thresholds, endpoints.labels(), &scenarios);
    let watch = Arc::new(watch.with_every_second(options.every_second));
    let descriptors = raise_descriptor_limit();
    if plan.connections > u64::from(descriptors) {
        return Err(RunError::TooFewDescriptors {
            needed: plan.connections,
            allowed: descriptors.into(),
        });
    }
    let mut reached = reach_all(options, &rules(options, plan.topology))?;
    if let [only] = reached.as_slice() {
        check_ports(&only.destination, plan.connections)?;
    }
    let spares = reached.iter_mut().map(|reached| reached.spare.take());
    let spares: Vec<Option<StdStream>> = spares.collect();

    let workers = u32::try_from(plan.parts.len()).unwrap_or(u32::MAX).max(1);
    let cpu_before = cpu_time();
    let job = Arc::new(Job {
        source,
        gate: Gate::new(workers),
        timeout: options.timeout,
        grace: options.grace,
        reuse: options.reuse,
        min_iteration: options.min_iteration,
        max_in_flight: (options.limits.in_flight / workers).max(1),
        max_request_bytes: options.limits.request_bytes / u64::from(workers),
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
        reached,
        routes: options.routes.clone(),
        topology: plan.topology,
        workers,
        // A pool is its own limit.
        connections: (options.limits.connections.min(descriptors) / workers).max(1),
    };

    let parts = std::mem::take(&mut plan.parts);
    let mut guard = Guard::new(&watch, stop, cpu_before, workers as usize);
    let vus = VusSeen::default();
    let observe = |live: &[Arc<Live>]| {
        let mut now = add_up(
            live,
            Progress {
                elapsed: elapsed(&job),
                planned: plan.planned,
                total: plan.total,
                ..Progress::default()
            },
        );
        vus.look(now.vus);
        guard.look(elapsed(&job), live, &vus, &plan);
        now.seconds = guard.whole_seconds(elapsed(&job), live);
        for row in &mut now.seconds {
            (row.in_flight, row.connections, row.vus) = (now.in_flight, now.connections, now.vus);
        }
        progress(now);
    };
    let mut tally = crew.send(parts, spares, observe)?;
    for (scenario, queue) in &plan.queues {
        tally.never_sent.add_n(NeverSent::Stopped, queue.left());
        tally.drop_iterations(*scenario, queue.left());
    }
    for cast in &plan.casts {
        tally.drop_iterations(cast.index(), cast.left());
    }
    let (elapsed, cpu) = (elapsed(&job), cpu_time().saturating_sub(cpu_before));
    let mut observed = tally.observed();
    (observed.vus, observed.vus_max) = (vus.most(), vus_max(&plan, &scenarios));
    let verdicts = guard.verdicts(&observed, elapsed, share_of(cpu, elapsed));
    Ok(Report {
        endpoints: endpoints.labels().iter().map(Label::name).collect(),
        thresholds: verdicts,
        target: options.target.to_string(),
        scenarios: described(&plan, &scenarios),
        session_key: plan.session_key.as_ref().map(|found| found.key.clone()),
        vus: vus.range(),
        vus_max: observed.vus_max,
        pooled: match plan.topology {
            Topology::Recorded => None,
            Topology::Pooled(connections) => Some(connections.get()),
        },
        workers,
        recorded: plan.recorded,
        left_out: plan.left_out,
        planned: plan.planned,
        elapsed,
        cpu,
        stopped: stop.state(),
        tally,
    })
}

/// What the run changes about every request, whatever its target.
fn rules(options: &Options, topology: Topology) -> Rules {
    Rules {
        authority: String::new(),
        path_prefix: String::new(),
        preserve_host: options.preserve_host,
        keep_connection_options: topology == Topology::Recorded,
        tls: false,
        set: options.headers.clone(),
        removed: options.removed_headers.clone(),
    }
}

/// The users that were active, as seen several times a second.
#[derive(Debug, Default)]
struct VusSeen {
    last: Cell<u64>,
    least: Cell<Option<u64>>,
    most: Cell<u64>,
}

impl VusSeen {
    fn look(&self, now: u64) {
        self.last.set(now);
        self.least
            .set(Some(self.least.get().map_or(now, |least| least.min(now))));
        self.most.set(self.most.get().max(now));
    }

    const fn most(&self) -> u64 {
        self.most.get()
    }

    fn range(&self) -> (u64, u64) {
        (self.least.get().unwrap_or(0), self.most.get())
    }
}

/// Users that there are at most: those of arrivals as many as came to be.
fn vus_max(plan: &Plan, scenarios: &[Scenario]) -> u64 {
    let of = |(cast, scenario): (&Arc<Cast>, &Scenario)| match scenario.executor {
        Executor::ConstantArrivalRate { .. } | Executor::RampingArrivalRate { .. } => {
            u64::from(cast.allocated())
        }
        _ => scenario.executor.most_vus().into(),
    };
    plan.casts.iter().zip(scenarios).map(of).sum()
}

/// Ends the run when a threshold says so.
struct Guard<'a> {
    watch: &'a Arc<Watch>,
    stop: &'a StopFlag,
    cpu_before: Duration,
    next: Duration,
    /// The threshold that ended the run, by its index.
    aborted: Option<(usize, Verdict)>,
    seconds: Seconds,
    windows: Windows,
}

impl<'a> Guard<'a> {
    /// k6's.
    const EVERY: Duration = Duration::from_secs(2);

    fn new(
        watch: &'a Arc<Watch>,
        stop: &'a StopFlag,
        cpu_before: Duration,
        workers: usize,
    ) -> Self {
        Self {
            watch,
            stop,
            cpu_before,
            next: Self::EVERY,
            aborted: None,
            seconds: Seconds::new(workers),
            windows: Windows::new(watch),
        }
    }

    fn look(&mut self, elapsed: Duration, live: &[Arc<Live>], vus: &VusSeen, plan: &Plan) {
        if !self.watch.aborts() || self.aborted.is_some() || elapsed < self.next {
            return;
        }
        self.next = elapsed + Self::EVERY;
        let mut observed = Observed::nothing(self.watch);
        for live in live {
            live.add_observed(&mut observed);
        }
        observed.vus = vus.last.get();
        observed.vus_max = plan
            .casts
            .iter()
            .map(|cast| u64::from(cast.allocated()))
            .sum();
        let cpu = cpu_time().saturating_sub(self.cpu_before);
        let share = share_of(cpu, elapsed);
        if let Some((index, verdict)) = self.watch.abort(&observed, elapsed, share) {
            self.abort(index, verdict, elapsed);
        }
    }

    /// The seconds that have become whole.
    fn whole_seconds(&mut self, elapsed: Duration, live: &[Arc<Live>]) -> Vec<SecondRow> {
        for second in live.iter().flat_map(|live| live.take_seconds()) {
            self.seconds.add(second);
        }
        let mut rows = Vec::new();
        while let Some(second) = self.seconds.next() {
            rows.push(second.tally.row(second.number));
            let failed = self.windows.push(second.tally.watched, second.is_cut);
            if let Some((index, verdict)) = failed {
                self.abort(index, verdict, elapsed);
            }
        }
        rows
    }

    fn abort(&mut self, index: usize, mut verdict: Verdict, elapsed: Duration) {
        if self.aborted.is_none() {
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
        // A run that is shorter than a window is one.
        for (index, verdict) in verdicts.iter_mut().enumerate() {
            if let Some(worst) = self.windows.verdict(index) {
                *verdict = worst.clone();
            }
        }
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

/// What the threads share.
struct Crew<S> {
    job: Arc<Job<S>>,
    /// The targets: that of the run, and those of the routes.
    reached: Vec<Reached>,
    routes: Vec<Route>,
    topology: Topology,
    workers: u32,
    /// Connections of each worker, at most.
    connections: u32,
}

impl<S: Source + 'static> Crew<S> {
    const PROGRESS_EVERY: Duration = Duration::from_millis(200);

    /// Sends everything, and adds up.
    fn send(
        &self,
        parts: Vec<Vec<WorkPart>>,
        spares: Vec<Option<StdStream>>,
        mut observe: impl FnMut(&[Arc<Live>]),
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

    fn work(&self, share_of_work: Share<'_>) -> io::Result<Tally> {
        let Share {
            worker,
            parts,
            spares,
            live,
            pass,
        } = share_of_work;
        worker::run(&self.job, pass, live, parts, || self.router(worker, spares))
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
                self.connections,
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

/// What one thread gets.
struct Share<'a> {
    worker: u32,
    parts: Vec<WorkPart>,
    spares: Vec<Option<StdStream>>,
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
        progress.vus += live.vus.load(Ordering::Relaxed);
    }
    progress
}

/// A target that was reached once.
struct Reached {
    destination: Destination,
    secure: Option<Secure>,
    protocol: TargetProtocol,
    rules: Rules,
    /// The connection, which becomes the first of the run; none over TLS, which cannot be moved to
    /// another thread.
    spare: Option<StdStream>,
}

/// Resolves the targets and connects to each once, so that a target that is down is one clear
/// message and not a failure for each request.
fn reach_all(options: &Options, rules: &Rules) -> Result<Vec<Reached>, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Worker)?;
    let targets = std::iter::once(&options.target).chain(options.routes.iter().map(|r| &r.target));
    let targets: Vec<&Target> = targets.collect();
    let config = match targets.iter().any(|target| target.tls) {
        true => Some(options.tls.config().map_err(RunError::Tls)?),
        false => None,
    };
    runtime.block_on(async {
        let mut reached = Vec::new();
        for target in targets {
            let rules = Rules {
                authority: target.authority.clone(),
                path_prefix: target.path_prefix.clone(),
                tls: target.tls,
                ..rules.clone()
            };
            reached.push(reach(target, config.as_ref(), options.timeout, rules).await?);
        }
        Ok(reached)
    })
}

async fn reach(
    target: &Target,
    config: Option<&Arc<ClientConfig>>,
    timeout: Duration,
    rules: Rules,
) -> Result<Reached, RunError> {
    let connect_error = |error| RunError::Connect {
        target: target.to_string(),
        error,
    };
    let (destination, secure) = match &target.address {
        TargetAddress::Unix(path) => (Destination::Unix(path.clone()), None),
        TargetAddress::Tcp { host, port } => {
            let names = Names::look_up(host, *port).await;
            let names = names.map_err(|error| RunError::Resolve {
                host: host.clone(),
                error,
            })?;
            let secure = match config.filter(|_| target.tls) {
                None => None,
                Some(config) => Some(Secure {
                    config: Arc::clone(config),
                    name: server_name(host).map_err(RunError::Tls)?,
                }),
            };
            (Destination::Tcp(names), secure)
        }
    };
    let connector = Connector::new(destination.clone(), secure.clone(), 1, None, Rc::default());
    let connect = async {
        let stream = connector.open().await?;
        match (&secure, stream) {
            (Some(secure), Stream::Tcp(stream)) => secure.handshake(stream).await,
            (_, stream) => Ok(stream),
        }
    };
    let stream = tokio::time::timeout(timeout, connect)
        .await
        .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
        .map_err(connect_error)?;
    let (protocol, spare) = match stream {
        Stream::Tls(stream) => (negotiated(stream.get_ref().1.alpn_protocol()), None),
        Stream::Tcp(stream) => (target.protocol, Some(stream.into_std().map(StdStream::Tcp))),
        Stream::Unix(stream) => (
            target.protocol,
            Some(stream.into_std().map(StdStream::Unix)),
        ),
    };
    Ok(Reached {
        destination,
        secure,
        protocol,
        rules,
        spare: spare.transpose().map_err(connect_error)?,
    })
}

/// A stream on its way from one runtime to another.
enum StdStream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl StdStream {
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

/// Local ports for connections to one address.
fn local_ports() -> Option<u64> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ends = range.split_ascii_whitespace().map(str::parse::<u64>);
    let (from, until) = (ends.next()?.ok()?, ends.next()?.ok()?);
    Some(until.saturating_sub(from) + 1)
}

fn check_ports(destination: &Destination, needed: u64) -> Result<(), RunError> {
    let Destination::Tcp(names) = destination else {
        return Ok(());
    };
    let addresses = names.addresses.len();
    let Some(allowed) = local_ports().map(|ports| ports * addresses as u64) else {
        return Ok(());
    };
    if needed > allowed {
        return Err(RunError::TooFewPorts {
            needed,
            allowed,
            addresses,
        });
    }
    Ok(())
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
