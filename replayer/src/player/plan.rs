//! What a run is going to do, worked out before it begins.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::player::demand::{self, Needs, least_connections, most_connections};
use crate::player::endpoints::{EndpointId, Endpoints};
use crate::player::options::{Limits, Options};
use crate::player::request::Fields;
use crate::player::scenario::{
    Arrivals, Detector, Executor, Iteration, Member, Mix, Scenario, SessionKey, Sessions, Window,
    hash, value_of, windows,
};
use crate::player::schedule::{
    Candidate, LeftOut, LeftOutCounts, Schedule, Speed, Topology, share,
};
use crate::player::source::Source;
use crate::player::worker::{Ahead, Cast, Part, Queue, Work};

/// Everything that is decided before the first request.
pub(crate) struct Plan {
    pub(crate) casts: Vec<Arc<Cast>>,
    pub(crate) queues: Vec<(u8, Arc<Queue>)>,
    pub(crate) topology: Topology,
    /// Of each worker: what it does.
    pub(crate) parts: Vec<Vec<Part>>,
    /// Exchanges in the archive.
    pub(crate) recorded: u64,
    pub(crate) left_out: LeftOutCounts,
    /// Requests that are to be sent; `None`: that is not known before.
    pub(crate) total: Option<u64>,
    /// When the last request or iteration is due at the latest.
    pub(crate) planned: Duration,
    /// What tells the users apart; `None`: no scenario asks.
    pub(crate) session_key: Option<Found>,
    /// Of each scenario: how many sessions and exchanges its iterations choose from.
    pub(crate) sizes: Vec<(usize, usize)>,
    /// Connections that are open at once at the least, as far as that can be told.
    pub(crate) connections: u64,
    /// Those that there may be where the target is slow, within the limits of the run.
    pub(crate) most_connections: u64,
    /// Users that there are at once, without those that arrivals add (k6's unplanned ones).
    pub(crate) users: u64,
    /// Of each scenario.
    pub(crate) outlines: Vec<Outline>,
    /// What is worth being made ready before the run: it is sent again and again. Sorted.
    pub(crate) ahead: Vec<u64>,
}

/// What one scenario comes to.
#[derive(Clone, Debug)]
pub(crate) struct Outline {
    /// When its last request or iteration is due at the latest, counted from the start of the run.
    pub(crate) end: Duration,
    /// Iterations; `None`: as many as the target lets there be.
    pub(crate) iterations: Option<u64>,
    /// Connections that it has at once if each of its users, or each recorded connection, has its own: at the least, and
    /// where the target is slow.
    pub(crate) connections: (u64, u64),
    /// By the ids of endpoints: whether it sends requests of it.
    pub(crate) endpoints: Vec<bool>,
}

/// A session key, and whether somebody asked for it.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) key: SessionKey,
    pub(crate) asked_for: bool,
}

/// Why there is no plan.
#[derive(Clone, Debug)]
pub(crate) enum Unplanned {
    /// A scenario finds nothing to send.
    Empty {
        scenario: String,
        left_out: LeftOutCounts,
        /// Sessions that its weights leave out.
        sessions: usize,
    },
    /// No request has the key that is to tell users apart.
    Key(SessionKey),
    /// A weight of a scenario is one of nothing.
    Weight { scenario: String, filter: String },
}

impl Plan {
    pub(crate) fn new<S: Source>(
        source: &S,
        options: &Options,
        scenarios: &[Scenario],
        endpoints: &mut Endpoints,
    ) -> Result<Self, Unplanned> {
        let mut scratch = S::Scratch::default();
        let Chosen {
            all,
            mut left_out,
            recorded,
        } = Chosen::new(source, scenarios, &mut scratch);
        let session_key = scenarios.iter().any(Scenario::has_sessions).then(|| {
            let asked_for = options.session_by.clone();
            Found {
                asked_for: asked_for.is_some(),
                key: asked_for.unwrap_or_else(|| detect(source, &all, &mut scratch)),
            }
        });

        let topology = topology(options, scenarios);
        let unchosen = left_out.clone();
        let mut drafts: Vec<Draft> = Vec::new();
        let mut has_key = false;
        let mut sizes = Vec::new();
        for (index, scenario) in (0_u8..).zip(scenarios) {
            let mine = all
                .iter()
                .filter(|(_, chosen_by)| chosen_by.contains(&index));
            let candidates = mine.map(|(candidate, _)| *candidate);
            let draft = match scenario.executor {
                Executor::Recorded { speed, duration } => {
                    let schedule = Schedule::new(candidates, speed, duration, index, endpoints);
                    left_out.merge(&schedule.left_out);
                    sizes.push((0, schedule.entries.len()));
                    Draft::Recorded(schedule, speed, duration)
                }
                _ => {
                    let key = session_key.as_ref().map(|found| &found.key);
                    let members: Vec<Member> = candidates
                        .map(|c| member(source, scenario, &c, key, endpoints, &mut scratch))
                        .collect();
                    has_key |= members.iter().any(|member| member.user.is_some());
                    check_weights(source, scenario, &members, &mut scratch)?;
                    let sessions = Sessions::new(members, scenario.iteration);
                    let weights: Vec<u32> = scenario.weights.iter().map(|w| w.weight).collect();
                    let mix = Mix::new(&sessions, &weights);
                    sizes.push((sessions.len(), sessions.exchanges()));
                    Draft::Users(sessions, mix)
                }
            };
            if draft.is_empty() {
                let others = all.iter().filter(|(_, by)| !by.contains(&index)).count();
                return Err(draft.empty(scenario, unchosen, others));
            }
            drafts.push(draft);
        }

        check_key(session_key.as_ref(), has_key)?;
        let outlines = scenarios.iter().zip(&drafts);
        let outlines: Vec<Outline> = outlines
            .map(|(scenario, draft)| draft.outline(scenario))
            .collect();
        let planned = outlines.iter().map(|outline| outline.end);
        let planned = planned.max().unwrap_or_default();
        let total = drafts.iter().try_fold(0_u64, |sum, draft| match draft {
            Draft::Recorded(schedule, ..) => Some(sum + schedule.entries.len() as u64),
            Draft::Users(..) => None,
        });
        let each = || {
            let drafts = drafts.iter().map(Draft::schedule);
            scenarios.iter().zip(drafts)
        };
        let at_once = |needs: Needs| match topology {
            Topology::Pooled(connections) => connections.get().into(),
            Topology::Recorded => demand::most(each(), needs),
        };
        let connections = at_once(least_connections);
        let most = u64::from(options.limits.connections);
        let most_connections = at_once(most_connections).min(most).max(connections);
        let users = demand::most(each(), demand::users);
        let workers = workers(options, &drafts, scenarios, topology);
        let ahead = ahead(&drafts, scenarios, options.limits.ahead_beside(connections));
        let mut plan = Self {
            casts: Vec::new(),
            queues: Vec::new(),
            topology,
            parts: (0..workers.get()).map(|_| Vec::new()).collect(),
            recorded,
            left_out,
            total,
            planned,
            session_key,
            sizes,
            connections,
            most_connections,
            outlines,
            users,
            ahead,
        };
        for ((index, scenario), draft) in (0_u8..).zip(scenarios).zip(drafts) {
            plan.add(options, index, scenario, draft, workers);
        }
        Ok(plan)
    }

    fn add(
        &mut self,
        options: &Options,
        index: u8,
        scenario: &Scenario,
        draft: Draft,
        workers: NonZeroU32,
    ) {
        let n = workers.get();
        let (sessions, mix, schedule) = match draft {
            Draft::Users(sessions, mix) => (sessions, mix, None),
            Draft::Recorded(schedule, speed, duration) => {
                let nobody = Sessions::default();
                let mix = Mix::new(&nobody, &[]);
                (nobody, mix, Some((schedule, speed, duration)))
            }
        };
        let cast = Arc::new(Cast::new(index, scenario, sessions, mix));
        self.casts.push(Arc::clone(&cast));
        let works: Vec<(Work, u32)> = match schedule {
            Some((schedule, Speed::Times(_), _)) => schedule
                .into_shards(workers, self.topology)
                .into_iter()
                .map(|shard| (Work::Timed(shard.entries), shard.lanes))
                .collect(),
            Some((schedule, Speed::Max, duration)) => {
                let lanes = match self.topology {
                    Topology::Pooled(lanes) => lanes.get(),
                    Topology::Recorded => Options::MAX_SPEED_CONNECTIONS.get(),
                };
                // Over HTTP/1 it is one, which shows when the target is reached.
                let at_once = options.streams.get();
                let queue = Queue::new(schedule.entries, lanes.saturating_mul(at_once));
                let queue = Arc::new(queue);
                self.queues.push((index, Arc::clone(&queue)));
                let work = |worker| {
                    let lanes = share(lanes, n, worker);
                    let queue = Arc::clone(&queue);
                    (
                        Work::Closed {
                            queue,
                            lanes,
                            at_once,
                            duration,
                        },
                        lanes,
                    )
                };
                (0..n).map(work).collect()
            }
            None => users(scenario, n),
        };
        for (parts, (work, lanes)) in self.parts.iter_mut().zip(works) {
            let first_lane = parts
                .last()
                .map_or(0, |part: &Part| part.first_lane.saturating_add(part.lanes));
            parts.push(Part {
                cast: Arc::clone(&cast),
                work,
                first_lane,
                lanes,
            });
        }
    }
}

/// One scenario's part of a plan.
enum Draft {
    Recorded(Schedule, Speed, Option<Duration>),
    Users(Sessions, Mix),
}

impl Draft {
    fn outline(&self, scenario: &Scenario) -> Outline {
        let executor = &scenario.executor;
        let (span, iterations) = match self {
            Self::Recorded(schedule, _, duration) => (
                schedule.span().min(duration.unwrap_or(Duration::MAX)),
                Some(schedule.entries.len() as u64),
            ),
            Self::Users(..) => (
                executor.duration().unwrap_or_default(),
                executor.most_iterations(),
            ),
        };
        let mut endpoints = Vec::new();
        let mut sends = |endpoint: EndpointId| {
            let index = endpoint.index();
            if endpoints.len() <= index {
                endpoints.resize(index + 1, false);
            }
            endpoints[index] = true;
        };
        match self {
            Self::Recorded(schedule, ..) => schedule
                .entries
                .iter()
                .for_each(|entry| sends(entry.endpoint)),
            Self::Users(sessions, mix) => {
                let sent = mix.sent(executor.most_iterations()).into_iter();
                let steps = sent.flat_map(|session| sessions.session(session).0);
                steps.for_each(|step| sends(step.endpoint));
            }
        }
        let own = |needs| demand::most([(scenario, self.schedule())], needs);
        Outline {
            end: scenario.start.saturating_add(span),
            iterations,
            connections: (own(least_connections), own(most_connections)),
            endpoints,
        }
    }

    const fn schedule(&self) -> Option<&Schedule> {
        match self {
            Self::Recorded(schedule, ..) => Some(schedule),
            Self::Users(..) => None,
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Recorded(schedule, ..) => schedule.entries.is_empty(),
            Self::Users(_, mix) => mix.session(0).is_none(),
        }
    }

    /// Why it is empty; `left_out` is what is of no use to any scenario, and `others` what is to others only.
    fn empty(&self, scenario: &Scenario, mut left_out: LeftOutCounts, others: usize) -> Unplanned {
        left_out.add_n(LeftOut::NotChosen, others as u64);
        let sessions = match self {
            Self::Recorded(schedule, ..) => {
                left_out.merge(&schedule.left_out);
                0
            }
            Self::Users(sessions, _) => sessions.len(),
        };
        Unplanned::Empty {
            scenario: scenario.name.clone(),
            left_out,
            sessions,
        }
    }
}

/// The exchanges of the first iterations, as many as there may be room for.
fn ahead(drafts: &[Draft], scenarios: &[Scenario], bytes: u64) -> Vec<u64> {
    let room = usize::try_from(bytes / Ahead::<()>::OVERHEAD).unwrap_or(usize::MAX);
    let mut ids: Vec<u64> = Vec::new();
    for (draft, scenario) in drafts.iter().zip(scenarios) {
        let Draft::Users(sessions, mix) = draft else {
            continue;
        };
        // Where there are weights, some have their turn again before others have their first.
        let round = mix.round();
        let iterations = scenario.executor.most_iterations().unwrap_or(round);
        let iterations = (0..iterations.min(round)).filter_map(|n| mix.session(n));
        let steps = iterations.flat_map(|session| sessions.session(session).0);
        ids.extend(steps.map(|step| step.id).take(room - ids.len().min(room)));
    }
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The work of each worker, and its lanes: users are dealt out in turn, arrivals as well.
fn users(scenario: &Scenario, n: u32) -> Vec<(Work, u32)> {
    if let Some(arrivals) = Arrivals::new(&scenario.executor) {
        let lanes = scenario.executor.most_vus();
        let work = |worker| {
            let arrivals = arrivals.clone();
            (
                Work::Arrivals {
                    arrivals,
                    n,
                    worker,
                },
                lanes,
            )
        };
        return (0..n).map(work).collect();
    }
    let mut shares: Vec<Vec<Arc<[Window]>>> = (0..n).map(|_| Vec::new()).collect();
    let windows = windows(&scenario.executor, scenario.graceful_stop);
    for (index, windows) in windows.into_iter().enumerate() {
        if let Some(share) = shares.get_mut(index % n as usize) {
            share.push(windows);
        }
    }
    shares
        .into_iter()
        .map(|users| {
            let lanes = u32::try_from(users.len()).unwrap_or(u32::MAX);
            (Work::Users(users), lanes)
        })
        .collect()
}

fn topology(options: &Options, scenarios: &[Scenario]) -> Topology {
    let flat_out = |scenario: &Scenario| {
        matches!(
            scenario.executor,
            Executor::Recorded {
                speed: Speed::Max,
                ..
            }
        )
    };
    match options.connections {
        Some(connections) => Topology::Pooled(connections),
        None if scenarios.iter().all(flat_out) => Topology::Pooled(Options::MAX_SPEED_CONNECTIONS),
        None => Topology::Recorded,
    }
}

/// A worker without a lane, or without a share of what is limited, would have nothing to do.
fn workers(
    options: &Options,
    drafts: &[Draft],
    scenarios: &[Scenario],
    topology: Topology,
) -> NonZeroU32 {
    let lanes = match topology {
        Topology::Pooled(connections) => connections.get(),
        Topology::Recorded => drafts
            .iter()
            .zip(scenarios)
            .map(|(draft, scenario)| match draft {
                Draft::Recorded(_, Speed::Max, _) => Options::MAX_SPEED_CONNECTIONS.get(),
                Draft::Recorded(schedule, ..) => schedule.lanes,
                Draft::Users(..) => scenario.executor.most_vus(),
            })
            .fold(0, u32::saturating_add),
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
    let Limits {
        connections,
        in_flight,
        ..
    } = options.limits;
    let workers = workers.min(lanes).min(connections).min(in_flight);
    NonZeroU32::new(workers).unwrap_or(NonZeroU32::MIN)
}

/// The exchanges that are sent, each with the scenarios that do.
struct Chosen<'a> {
    all: Vec<(Candidate<'a>, Scenarios)>,
    left_out: LeftOutCounts,
    recorded: u64,
}

/// Some of the scenarios of a run.
#[derive(Clone, Copy, Debug, Default)]
struct Scenarios(u128);

impl Scenarios {
    const fn contains(self, index: &u8) -> bool {
        self.0 >> (*index & 127) & 1 == 1
    }

    const fn with(self, index: u8) -> Self {
        Self(self.0 | 1 << (index & 127))
    }
}

impl<'a> Chosen<'a> {
    fn new<S: Source>(source: &'a S, scenarios: &[Scenario], scratch: &mut S::Scratch) -> Self {
        let mut chosen = Self {
            all: Vec::new(),
            left_out: LeftOutCounts::default(),
            recorded: source.unreadable(),
        };
        chosen
            .left_out
            .add_n(LeftOut::Unreadable, source.unreadable());
        for candidate in source.candidates() {
            chosen.recorded += 1;
            if let Some(reason) = candidate.left_out {
                chosen.left_out.add(reason);
                continue;
            }
            let mut by = Scenarios::default();
            let mut readable = true;
            for (index, scenario) in (0..).zip(scenarios) {
                let matches = match &scenario.filter {
                    None => Some(true),
                    Some(filter) => source.matches(candidate.id, filter, scratch),
                };
                readable &= matches.is_some();
                if matches == Some(true) {
                    by = by.with(index);
                }
            }
            match (by.0, readable) {
                (0, true) => chosen.left_out.add(LeftOut::NotChosen),
                (0, false) => chosen.left_out.add(LeftOut::Unreadable),
                _ => chosen.all.push((candidate, by)),
            }
        }
        chosen
    }
}

fn detect<S: Source>(
    source: &S,
    all: &[(Candidate<'_>, Scenarios)],
    scratch: &mut S::Scratch,
) -> SessionKey {
    let mut detector = Detector::default();
    for (candidate, _) in all.iter().take(Detector::SAMPLE) {
        source.with_head(candidate.id, scratch, |target, fields| {
            detector.look(target, fields);
        });
    }
    detector.found()
}

fn member<S: Source>(
    source: &S,
    scenario: &Scenario,
    candidate: &Candidate<'_>,
    key: Option<&SessionKey>,
    endpoints: &mut Endpoints,
    scratch: &mut S::Scratch,
) -> Member {
    let key = key
        .filter(|key| scenario.iteration == Iteration::Session && **key != SessionKey::Connection);
    let user = key.and_then(|key| {
        let of = |target: &[u8], fields: &Fields<'_>| value_of(key, target, fields).map(hash);
        source.with_head(candidate.id, scratch, of).flatten()
    });
    let mut groups = scenario.weights.iter();
    let group = groups
        .position(|weight| source.matches(candidate.id, &weight.filter, scratch) == Some(true));
    Member {
        id: candidate.id,
        at: candidate.at,
        took: candidate.took,
        connection: candidate.connection,
        user,
        endpoint: endpoints.id(candidate.method, &candidate.target.to_bytes()),
        group: group.unwrap_or(scenario.weights.len()),
    }
}

/// Users would be told apart by their connections, which is not what was asked for.
fn check_key(found: Option<&Found>, has_key: bool) -> Result<(), Unplanned> {
    match found {
        Some(Found { key, asked_for })
            if *asked_for && !has_key && *key != SessionKey::Connection =>
        {
            Err(Unplanned::Key(key.clone()))
        }
        _ => Ok(()),
    }
}

/// A weight that chooses nothing would be left out in silence, and the shares of the others be others.
fn check_weights<S: Source>(
    source: &S,
    scenario: &Scenario,
    members: &[Member],
    scratch: &mut S::Scratch,
) -> Result<(), Unplanned> {
    for (index, weight) in scenario.weights.iter().enumerate() {
        // What an earlier weight has taken may be of this one, too.
        let mut matches =
            |member: &Member| source.matches(member.id, &weight.filter, scratch) == Some(true);
        if weight.weight > 0
            && !members.is_empty()
            && !members.iter().any(|member| member.group == index)
            && !members.iter().any(&mut matches)
        {
            return Err(Unplanned::Weight {
                scenario: scenario.name.clone(),
                filter: weight.text.clone(),
            });
        }
    }
    Ok(())
}
