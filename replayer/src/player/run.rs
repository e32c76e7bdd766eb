//! A whole run: plan, see that the target is there, send from several threads, add up.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tapedeck_archive::Archive;

use crate::player::archive::Recorded;
use crate::player::crew::{Crew, Ended, add_up};
use crate::player::dry_run::{DryRun, described};
use crate::player::endpoints::{Endpoints, Label};
use crate::player::gate::Gate;
use crate::player::guard::{Guard, VusSeen, vus_max};
use crate::player::observe::{Observer, TargetSecond};
use crate::player::options::Options;
use crate::player::outcome::NeverSent;
use crate::player::plan::{Plan, Unplanned};
use crate::player::query::Asker;
use crate::player::reach::{Reached, StdStream, reach_all};
use crate::player::report::{Report, ScenarioPlan};
use crate::player::request::Rules;
use crate::player::resources::{check_ports, has_quota, raise_descriptor_limit, scarce, share_of};
use crate::player::scenario::{Scenario, SessionKey};
use crate::player::schedule::{LeftOut, LeftOutCounts, Topology};
use crate::player::seconds::{SecondRow, SoFar};
use crate::player::source::Source;
use crate::player::stop::StopFlag;
use crate::player::tally::Tally;
use crate::player::tls::TlsError;
use crate::player::watch::{UnknownTag, Watch, pinned, unknown_tag};
use crate::player::worker::{Ahead, Cap, Job, Live};

/// How a run is going.
#[derive(Clone, Debug, Default)]
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
    /// Bytes written to connections.
    pub bytes_sent: u64,
    /// Bytes read from connections.
    pub bytes_received: u64,
    /// The load models, in the order of the report.
    pub scenarios: Arc<[ScenarioPlan]>,
    /// The seconds that became whole since the last time, where
    /// [`Options::every_second`] is set.
    pub seconds: Vec<SecondRow>,
    /// All of them together.
    pub so_far: Option<Arc<SoFar>>,
    /// What the target took in the last second, where it is observed.
    pub target: Option<TargetSecond>,
    /// What Prometheus said of it last, where it is asked.
    pub target_query: Option<f64>,
    /// What is to be known before anything is sent; told once.
    pub warnings: Vec<String>,
}

/// Why a run did not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// No exchange of the archive is a request to send.
    #[error("{}", nothing_to_send(.scenario.as_deref(), .left_out, *.sessions))]
    NothingToSend {
        /// The scenario that finds none, where there are several.
        scenario: Option<String>,
        /// Why.
        left_out: LeftOutCounts,
        /// Sessions that it would find, had they a weight.
        sessions: usize,
    },
    /// A weight above 0 is that of nothing.
    #[error(
        "the scenario {scenario:?}: the filter `{filter}` of a weight chooses none of its exchanges"
    )]
    NothingOfWeight {
        /// The scenario.
        scenario: String,
        /// The filter.
        filter: String,
    },
    /// No request has what is to tell users apart.
    #[error(
        "no request that users are to send has {0}, which is to tell users apart (--session-by, sessionBy); without it \
         the player finds something that does"
    )]
    NoSessionKey(SessionKey),
    /// More scenarios than [`Options::MAX_SCENARIOS`].
    #[error("{0} scenarios are too many: {max} are supported", max = Options::MAX_SCENARIOS)]
    TooManyScenarios(usize),
    /// A threshold names a tag that no request can have.
    #[error("the threshold `{threshold}` names {tag}")]
    UnknownTag {
        /// The threshold.
        threshold: String,
        /// The tag, and those that there are.
        tag: UnknownTag,
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
    /// The target cannot be observed as asked.
    #[error("cannot observe {what}: {error}")]
    Observe {
        /// What was to be looked at.
        what: String,
        /// What the system said.
        error: io::Error,
    },
    /// Somebody answers at the target, but the two agree on no TLS.
    #[error("no TLS with {target}: {error}{}", of_tls(.error))]
    Handshake {
        /// The target.
        target: String,
        /// What is wrong.
        error: rustls::Error,
    },
    /// TLS cannot be used as asked.
    #[error("TLS: {0}")]
    Tls(TlsError),
    /// A thread or its event loop could not be made, or did not come to its end.
    #[error("a worker failed: {0}")]
    Worker(io::Error),
}

/// What to do about it.
const fn of_tls(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidMessage(_) => "; does it speak plain http://?",
        rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer) => {
            "; --cacert FILE names an authority to believe"
        }
        _ => "",
    }
}

impl RunError {
    fn unplanned(unplanned: Unplanned, scenarios: usize) -> Self {
        match unplanned {
            Unplanned::Empty {
                scenario,
                left_out,
                sessions,
            } => Self::NothingToSend {
                scenario: (scenarios > 1).then_some(scenario),
                left_out,
                sessions,
            },
            Unplanned::Key(key) => Self::NoSessionKey(key),
            Unplanned::Weight { scenario, filter } => Self::NothingOfWeight { scenario, filter },
        }
    }
}

fn nothing_to_send(scenario: Option<&str>, left_out: &LeftOutCounts, sessions: usize) -> String {
    let why = if sessions > 0 {
        format!("none of the {sessions} sessions has a weight above 0")
    } else {
        nothing_chosen(left_out)
    };
    scenario.map_or_else(
        || why.clone(),
        |scenario| format!("the scenario {scenario:?} has nothing to send: {why}"),
    )
}

fn nothing_chosen(left_out: &LeftOutCounts) -> String {
    let exchanges = left_out.total();
    if exchanges == 0 {
        return "the archive holds no exchanges".to_owned();
    }
    if left_out.of(LeftOut::NotChosen) == exchanges {
        return format!("the filter chooses none of the {exchanges} exchanges");
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
    play(Recorded::new(archive, options), options, stop, progress)
}

/// What [`run`] would do, without a word to the target.
pub fn dry_run(archive: Arc<Archive>, options: &Options) -> Result<DryRun, RunError> {
    let source = Recorded::new(archive, options);
    let scenarios = checked_scenarios(options)?;
    let (plan, _) = planned(&source, options, &scenarios)?;
    let warnings = scarce(&plan, raise_descriptor_limit(&plan), None);
    Ok(DryRun::new(&plan, options, &scenarios, warnings))
}

fn checked_scenarios(options: &Options) -> Result<Vec<Scenario>, RunError> {
    let scenarios = options.all_scenarios();
    if scenarios.len() > Options::MAX_SCENARIOS {
        return Err(RunError::TooManyScenarios(scenarios.len()));
    }
    if let Some((threshold, tag)) = unknown_tag(&options.thresholds, &scenarios) {
        return Err(RunError::UnknownTag {
            threshold: threshold.to_string(),
            tag,
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
    let plan = plan.map_err(|unplanned| RunError::unplanned(unplanned, scenarios.len()))?;
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
    let watch = watch.of_outlines(&plan.outlines);
    let watch = Arc::new(watch.with_every_second(options.every_second));
    let (mut reached, descriptors, warnings) = reach_within_limits(options, &plan)?;
    if !warnings.is_empty() {
        progress(Progress {
            warnings,
            ..Progress::default()
        });
    }
    let mut observer = observer(options)?;
    let asker = asker(options)?;
    let spares = reached.iter_mut().map(|reached| reached.spare.take());
    let spares: Vec<Option<StdStream>> = spares.collect();

    let workers = u32::try_from(plan.parts.len()).unwrap_or(u32::MAX).max(1);
    let job = Arc::new(job(source, options, &scenarios, (workers, stop), &watch));
    let elapsed = |job: &Job<S>| job.gate.since().0;
    let crew = Crew {
        job: Arc::clone(&job),
        reached,
        routes: options.routes.clone(),
        topology: plan.topology,
        workers,
        ahead: Arc::new(Ahead::new(
            std::mem::take(&mut plan.ahead),
            workers,
            options.limits.ahead_beside(plan.connections),
        )),
        // A pool is its own limit.
        connections: options.limits.connections.min(descriptors),
    };

    let parts = std::mem::take(&mut plan.parts);
    let mut guard = Guard::new(&watch, stop, workers as usize);
    let vus = VusSeen::default();
    let described: Arc<[ScenarioPlan]> = described(&plan, &scenarios).into();
    let observe = |live: &[Arc<Live>], ended: Ended| {
        let mut now = add_up(
            live,
            Progress {
                elapsed: elapsed(&job),
                planned: plan.planned,
                total: plan.total,
                scenarios: Arc::clone(&described),
                ..Progress::default()
            },
        );
        now.target = observer
            .as_mut()
            .and_then(|observer| observer.look(now.elapsed));
        if ended == Ended::None && now.elapsed < now.planned {
            vus.look(now.elapsed, now.vus);
        }
        now.target_query = asker.as_ref().and_then(Asker::latest);
        guard.look(job.gate.since(), live, &vus, &plan);
        now.seconds = guard.whole_seconds(elapsed(&job), live);
        for row in &mut now.seconds {
            (row.in_flight, row.connections, row.vus) = (now.in_flight, now.connections, now.vus);
            row.target = now.target;
            row.target_query = now.target_query;
        }
        now.so_far = options.every_second.then(|| guard.so_far());
        progress(now);
    };
    let mut tally = crew.send(parts, spares, observe)?;
    count_left(&plan, &mut tally);
    let (elapsed, cpu) = job.gate.since();
    let mut observed = tally.observed();
    (observed.vus, observed.vus_max) = (vus.range().last, vus_max(&plan));
    let share = share_of(cpu.saturating_sub(tally.polled), elapsed);
    let (thresholds, evidence) = guard.verdicts(&observed, elapsed, share);
    Ok(Report {
        endpoints: endpoints.labels().iter().map(Label::name).collect(),
        target_use: observer
            .map(|observer| observer.sum(elapsed))
            .into_iter()
            .collect(),
        target_queries: asker.iter().map(Asker::sum).collect(),
        thresholds,
        evidence,
        target: options.target.to_string(),
        scenarios: described.to_vec(),
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

/// Tries the targets, and sees that this machine has what the run needs; gives also how many file descriptors there are
/// for connections, and what there may come to be too little of.
fn reach_within_limits(
    options: &Options,
    plan: &Plan,
) -> Result<(Vec<Reached>, u32, Vec<String>), RunError> {
    let descriptors = raise_descriptor_limit(plan);
    if plan.connections > u64::from(descriptors) {
        return Err(RunError::TooFewDescriptors {
            needed: plan.connections,
            allowed: descriptors.into(),
        });
    }
    let reached = reach_all(options, &rules(options, plan.topology))?;
    let ports = match reached.as_slice() {
        [only] => check_ports(&only.destination, plan.connections)?,
        _ => None,
    };
    let warnings = scarce(plan, descriptors, ports);
    Ok((reached, descriptors, warnings))
}

fn job<S>(
    source: S,
    options: &Options,
    scenarios: &[Scenario],
    (workers, stop): (u32, &StopFlag),
    watch: &Arc<Watch>,
) -> Job<S> {
    let graces = scenarios.iter().map(|scenario| scenario.graceful_stop);
    Job {
        source,
        gate: Gate::new(workers),
        timeout: options.timeout,
        grace: graces.max().unwrap_or(Scenario::GRACEFUL_STOP),
        reuse: options.reuse,
        min_iteration: options.min_iteration,
        cap: options.max_rate.map(|rate| Cap::new(Instant::now(), rate)),
        polls: !has_quota(),
        workers,
        max_in_flight: options.limits.in_flight,
        max_request_bytes: options.limits.request_bytes / u64::from(workers),
        stop: stop.watch(),
        watch: Arc::clone(watch),
    }
}

/// Counts what no worker has taken.
fn count_left(plan: &Plan, tally: &mut Tally) {
    for (scenario, queue) in &plan.queues {
        tally.never_sent.add_n(NeverSent::Stopped, queue.left());
        tally.drop_iterations(*scenario, queue.left());
    }
    for cast in &plan.casts {
        tally.drop_iterations(cast.index(), cast.left());
    }
}

fn asker(options: &Options) -> Result<Option<Asker>, RunError> {
    let asker = options.observe_query.as_ref().map(|query| {
        Asker::start(query).map_err(|error| RunError::Observe {
            what: query.to_string(),
            error,
        })
    });
    asker.transpose()
}

fn observer(options: &Options) -> Result<Option<Observer>, RunError> {
    let observer = options.observe.as_ref().map(|observe| {
        Observer::new(observe).map_err(|error| RunError::Observe {
            what: observe.to_string(),
            error,
        })
    });
    observer.transpose()
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
