//! From states to reports, and several reports to one.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize as _;
use serde_json::Value;

use crate::player::endpoints::{ScenarioSignals, Signals};
use crate::player::guard::judged;
use crate::player::options::Options;
use crate::player::outcome::{Failure, GrpcStatus, NeverSent};
use crate::player::report::{Report, ScenarioPlan, Vus};
use crate::player::resources::share_of;
use crate::player::schedule::{LeftOut, LeftOutCounts};
use crate::player::stop::Stop;
use crate::player::summary::state::{ScenarioState, SignalsState, TallyState};
use crate::player::summary::{MergeError, SecondState, State, SummaryError};
use crate::player::tally::{Comparison, Tally, Trend};
use crate::player::threshold::{Threshold, Verdict, VerdictReason};
use crate::player::watch::{Watch, Watched};
use crate::player::windows::Windows;

/// What the verdicts of a run rest on, beside the values over the whole of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    /// The threshold that ended the run, by its index.
    pub(crate) aborted: Option<(usize, Verdict)>,
    /// Every second, for the thresholds over windows; `None`: there were too many to keep.
    pub(crate) seconds: Option<Vec<SecondState>>,
}

/// Numbers beyond this are not exact in JSON; no count of a run comes near, and a thousand of them
/// still fit 64 bits.
const MAX_NUMBER: u64 = 1 << 53;
/// Endpoints that are told apart in a sum; each takes 30 KiB. Those beyond are one.
const MAX_ENDPOINTS: usize = 1000;
/// A file may not ask for more memory than it has length: each takes up to 300 KiB.
const MAX_THRESHOLDS: usize = 1000;
/// The endpoint of what is beyond a limit.
const OTHERS: &str = "(others)";

impl Report {
    /// Reads what [`Report::to_json`] wrote.
    pub fn from_summary(text: &str) -> Result<Self, SummaryError> {
        let mut summary: Value = serde_json::from_str(text)?;
        let state = summary
            .pointer_mut("/tapedeck/state")
            .map(Value::take)
            .ok_or(SummaryError::NoState)?;
        let version = state.get("version").and_then(Value::as_u64);
        match version.map(u32::try_from) {
            Some(Ok(1..=State::VERSION)) => {}
            Some(found) => {
                return Err(SummaryError::Version {
                    found: found.unwrap_or(u32::MAX),
                    known: State::VERSION,
                });
            }
            None => return Err(SummaryError::NoState),
        }
        check_numbers(&state)?;
        State::deserialize(state)?.into_report()
    }

    /// The report of one run that did what all of these did, side by side: counts are added up,
    /// distributions merged, and the thresholds judged anew on the outcome.
    ///
    /// Runs are taken to have begun together: the longest tells how long it took, and second n of
    /// one is second n of the others. What was the most of several (users, connections, requests in
    /// flight) is added up, as it is for the threads of one run.
    pub fn merge(reports: Vec<Self>) -> Result<Self, MergeError> {
        let mut reports = reports.into_iter();
        let mut sum = reports.next().ok_or(MergeError::Nothing)?;
        for report in reports {
            sum.add(&report)?;
        }
        sum.judge()?;
        Ok(sum)
    }

    fn add(&mut self, other: &Self) -> Result<(), MergeError> {
        self.check_alike(other)?;
        let scenarios = self.places_of_scenarios(other)?;
        let endpoints = self.places_of_endpoints(other);
        let mut moved = other.tally.clone();
        moved.endpoints = vec![None; self.endpoints.len()];
        for (signals, place) in other.tally.endpoints.iter().zip(endpoints) {
            if let (Some(signals), Some(slot)) = (signals, moved.endpoints.get_mut(place)) {
                slot.get_or_insert_with(|| Box::new(Signals::new()))
                    .merge(signals);
            }
        }
        moved.scenarios = Vec::new();
        for (signals, place) in other.tally.scenarios.iter().zip(scenarios) {
            moved.scenario(place).merge(signals);
        }
        moved.watched = self.tally.watched.in_order_of(&other.tally.watched);
        self.tally.watched.widen(&other.tally.watched);
        self.tally.merge(&moved);

        self.vus = Vus {
            last: self.vus.last + other.vus.last,
            least: self.vus.least + other.vus.least,
            most: self.vus.most + other.vus.most,
        };
        self.vus_max += other.vus_max;
        self.pooled = self
            .pooled
            .zip(other.pooled)
            .map(|(a, b)| a.saturating_add(b));
        self.workers = self.workers.saturating_add(other.workers);
        self.recorded += other.recorded;
        self.left_out.merge(&other.left_out);
        self.planned = self.planned.max(other.planned);
        self.elapsed = self.elapsed.max(other.elapsed);
        self.cpu += other.cpu;
        self.target_use.extend(other.target_use.iter().cloned());
        let queries = other.target_queries.iter().cloned();
        self.target_queries.extend(queries);
        self.stopped = self.stopped.max(other.stopped);
        if self.target != other.target {
            self.target = format!("{}, {}", self.target, other.target);
        }
        self.add_evidence(other)
    }

    /// Refuses what would be the result of no run.
    fn check_alike(&self, other: &Self) -> Result<(), MergeError> {
        let key = |report: &Self| {
            let key = report.session_key.as_ref().map(ToString::to_string);
            key.unwrap_or_else(|| "nothing".to_owned())
        };
        alike("what tells users apart", &key(self), &key(other))?;
        let connections = |report: &Self| match report.pooled {
            Some(_) => "pooled",
            None => "as recorded",
        };
        alike(
            "the use of connections",
            connections(self),
            connections(other),
        )?;
        let thresholds = |report: &Self| {
            let watch = report.tally.watched.watch();
            let mut texts: Vec<_> = watch
                .thresholds()
                .iter()
                .map(Threshold::to_string)
                .collect();
            texts.sort_unstable();
            match texts.is_empty() {
                true => "not there".to_owned(),
                false => texts.join(" | "),
            }
        };
        alike(
            "the list of thresholds",
            &thresholds(self),
            &thresholds(other),
        )
    }

    /// Where the scenarios of another report stand in this one. Those of one name must be one.
    fn places_of_scenarios(&mut self, other: &Self) -> Result<Vec<usize>, MergeError> {
        let mut places = Vec::new();
        for plan in &other.scenarios {
            let known = self.scenarios.iter().position(|own| own.name == plan.name);
            if let Some(own) = known.and_then(|index| self.scenarios.get_mut(index)) {
                let what = format!("scenario {}", plan.name);
                alike(&what, &own.meaning(), &plan.meaning())?;
                own.sessions = own.sessions.max(plan.sessions);
                own.exchanges = own.exchanges.max(plan.exchanges);
            }
            places.push(known.unwrap_or(self.scenarios.len()));
            if known.is_none() {
                self.scenarios.push(plan.clone());
            }
        }
        if self.scenarios.len() > Options::MAX_SCENARIOS {
            return Err(MergeError::Summary(SummaryError::TooMany {
                what: "scenarios",
                found: self.scenarios.len(),
                most: Options::MAX_SCENARIOS,
            }));
        }
        Ok(places)
    }

    /// Where the endpoints of another report stand in this one.
    fn places_of_endpoints(&mut self, other: &Self) -> Vec<usize> {
        let own = self.endpoints.iter().cloned();
        let mut known: BTreeMap<String, usize> = own.zip(0..).collect();
        let mut places = Vec::new();
        for name in &other.endpoints {
            let is_room = self.endpoints.len() < MAX_ENDPOINTS;
            let name = match is_room || known.contains_key(name) {
                true => name.as_str(),
                false => OTHERS,
            };
            let place = *known.entry(name.to_owned()).or_insert_with(|| {
                self.endpoints.push(name.to_owned());
                self.endpoints.len() - 1
            });
            places.push(place);
        }
        places
    }

    fn add_evidence(&mut self, other: &Self) -> Result<(), MergeError> {
        if self.evidence.aborted.is_none()
            && let Some((index, verdict)) = &other.evidence.aborted
        {
            let text = |report: &Self, index: usize| {
                let thresholds = report.tally.watched.watch().thresholds();
                thresholds.get(index).map(Threshold::to_string)
            };
            let theirs = text(other, *index);
            let mut own = 0..self.tally.watched.watch().thresholds().len();
            let index = own.find(|index| text(self, *index) == theirs);
            self.evidence.aborted = index.map(|index| (index, verdict.clone()));
        }
        let (Some(own), Some(theirs)) = (&mut self.evidence.seconds, &other.evidence.seconds)
        else {
            self.evidence.seconds = None;
            return Ok(());
        };
        if own.len() < theirs.len() {
            own.resize_with(theirs.len(), SecondState::default);
        }
        let watch = self.tally.watched.watch();
        for (own, theirs) in own.iter_mut().zip(theirs) {
            let mut sum = Watched::of_states(watch, &own.watched, Trend::coarse)?;
            sum.merge(&Watched::of_states(watch, &theirs.watched, Trend::coarse)?);
            own.watched = sum.states_of_windows();
            own.is_cut |= theirs.is_cut;
        }
        Ok(())
    }

    /// Judges the thresholds on what is there.
    fn judge(&mut self) -> Result<(), MergeError> {
        let watch = Arc::clone(self.tally.watched.watch());
        let mut windows = Windows::new(&watch);
        match self.evidence.seconds.take() {
            Some(seconds) => {
                for second in &seconds {
                    let second_of = Watched::of_states(&watch, &second.watched, Trend::coarse)?;
                    windows.push(second_of, second.is_cut);
                }
            }
            None => {
                let mut thresholds = watch.thresholds().iter();
                if let Some(threshold) = thresholds.find(|threshold| threshold.over.is_some()) {
                    return Err(MergeError::NoSeconds(threshold.to_string()));
                }
            }
        }
        let mut observed = self.tally.observed();
        (observed.vus, observed.vus_max) = (self.vus.last, self.vus_max);
        let cpu = share_of(self.busy(), self.elapsed);
        let aborted = self.evidence.aborted.as_ref();
        self.thresholds = judged(&watch, &observed, self.elapsed, cpu, &windows, aborted);
        self.evidence.seconds = windows.into_history();
        Ok(())
    }
}

fn alike<T: Display + PartialEq + ?Sized>(
    what: &str,
    one: &T,
    other: &T,
) -> Result<(), MergeError> {
    if one == other {
        return Ok(());
    }
    Err(MergeError::Different {
        what: what.to_owned(),
        one: one.to_string(),
        other: other.to_string(),
    })
}

impl ScenarioPlan {
    /// What it was to do, as far as that does not depend on the recording.
    fn meaning(&self) -> String {
        let Self {
            executor,
            text,
            start,
            graceful_stop,
            ..
        } = self;
        format!("{text} ({executor}, from {start:?} on, gracefulStop {graceful_stop:?})")
    }
}

/// Numbers of a file that sums of could not hold.
fn check_numbers(value: &Value) -> Result<(), SummaryError> {
    match value {
        Value::Number(number) => match number.as_u64() {
            Some(n) if n > MAX_NUMBER => Err(SummaryError::Contradiction(
                "a number is larger than any count of a run",
            )),
            _ => Ok(()),
        },
        Value::Array(items) => items.iter().try_for_each(check_numbers),
        Value::Object(fields) => fields.values().try_for_each(check_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
    }
}

fn at_most(what: &'static str, found: usize, most: usize) -> Result<(), SummaryError> {
    match found > most {
        true => Err(SummaryError::TooMany { what, found, most }),
        false => Ok(()),
    }
}

impl State {
    fn into_report(self) -> Result<Report, SummaryError> {
        at_most("scenarios", self.scenarios.len(), Options::MAX_SCENARIOS)?;
        at_most("endpoints", self.endpoints.len(), MAX_ENDPOINTS)?;
        at_most("thresholds", self.thresholds.len(), MAX_THRESHOLDS)?;
        let watch = self.watch()?;
        let aborted = self.aborted(&watch);
        let mut tally = self.tally.read(&watch)?;
        tally.watched = Watched::of_states(&watch, &self.watched, Trend::new)?;
        let mut endpoints = Vec::new();
        for (name, signals) in self.endpoints {
            tally.endpoints.push(Some(Box::new(signals.read(&name)?)));
            endpoints.push(name);
        }
        let mut scenarios = Vec::new();
        for state in &self.scenarios {
            let (plan, signals) = state.read()?;
            scenarios.push(plan);
            tally.scenarios.push(signals);
        }
        let mut left_out = LeftOutCounts::default();
        for (name, n) in self.left_out {
            let kind = LeftOut::named(&name).ok_or_else(|| unknown("cause", &name))?;
            left_out.add_n(kind, n);
        }
        let session_key = self.session_by.as_deref().map(|key| {
            let parsed = key.parse();
            parsed.map_err(|_| unknown("session key", key))
        });
        Ok(Report {
            target: self.target,
            scenarios,
            session_key: session_key.transpose()?,
            vus: Vus {
                last: self.vus_last.unwrap_or(self.vus.1),
                least: self.vus.0,
                most: self.vus.1,
            },
            vus_max: self.vus_max,
            pooled: self.pool_size,
            workers: self.workers,
            recorded: self.recorded,
            left_out,
            planned: Duration::from_nanos(self.planned_ns),
            elapsed: Duration::from_nanos(self.elapsed_ns),
            cpu: Duration::from_nanos(self.cpu_ns),
            stopped: if self.stopped_early {
                Stop::Finish
            } else {
                Stop::Run
            },
            tally,
            endpoints,
            target_use: self.target_use,
            target_queries: self.target_queries,
            // They are judged when all reports are added up.
            thresholds: Vec::new(),
            evidence: Evidence {
                aborted,
                seconds: self.seconds,
            },
        })
    }

    fn watch(&self) -> Result<Arc<Watch>, SummaryError> {
        let mut thresholds = Vec::new();
        for state in &self.thresholds {
            let threshold: Threshold = state
                .text
                .parse()
                .map_err(|_| unknown("threshold", &state.text))?;
            thresholds.push((threshold, state.possible));
        }
        Ok(Arc::new(Watch::of_summary(&thresholds)))
    }

    /// The threshold that ended the run, by its index.
    fn aborted(&self, watch: &Watch) -> Option<(usize, Verdict)> {
        let mut all = watch.thresholds().iter().zip(&self.thresholds).enumerate();
        all.find_map(|(index, (threshold, state))| {
            let aborted = state.aborted?;
            let reason = VerdictReason::Aborted(Duration::from_nanos(aborted.after_ns));
            Some((index, Verdict::failed(threshold, aborted.value, reason)))
        })
    }
}

impl TallyState {
    fn read(self, watch: &Arc<Watch>) -> Result<Tally, SummaryError> {
        let mut tally = Tally::new(watch);
        for (name, state) in &self.trends {
            let trend = Trend::of_state(state, Trend::new, name)?;
            let own = tally.trends.get_mut(name);
            *own.ok_or_else(|| unknown("metric", name))? = trend;
        }
        tally.statuses = self.statuses;
        for (name, n) in self.grpc {
            let status = GrpcStatus::named(&name).ok_or_else(|| unknown("gRPC status", &name))?;
            tally.grpc.insert(status, n);
        }
        for (name, n) in self.failures {
            let kind = Failure::named(&name).ok_or_else(|| unknown("failure", &name))?;
            tally.failures.add_n(kind, n);
        }
        for (name, n) in self.never_sent {
            let kind = NeverSent::named(&name).ok_or_else(|| unknown("cause", &name))?;
            tally.never_sent.add_n(kind, n);
        }
        for (name, cause) in self.first_causes {
            let failure = Failure::named(&name).map(Failure::name);
            let kind = failure.or_else(|| NeverSent::named(&name).map(NeverSent::name));
            let kind = kind.ok_or_else(|| unknown("cause", &name))?;
            tally.first_causes.insert(kind, cause);
        }
        let comparison = self.comparison;
        at_most(
            "changes of status",
            comparison.changes.len(),
            Comparison::MAX_CHANGES,
        )?;
        let changes = comparison.changes.into_iter();
        tally.comparison = Comparison {
            same: comparison.same,
            different: comparison.different,
            unknown: comparison.unknown,
            changes: changes
                .map(|(recorded, now, n)| ((recorded, now), n))
                .collect(),
            other_changes: comparison.other_changes,
        };
        tally.resent = self.resent;
        tally.connections = self.connections;
        tally.peak_connections = self.peak_connections;
        tally.peak_in_flight = self.peak_in_flight;
        tally.bytes_sent = self.bytes_sent;
        tally.bytes_received = self.bytes_received;
        tally.polled = Duration::from_nanos(self.polled_ns);
        Ok(tally)
    }
}

impl SignalsState {
    fn read(&self, of: &str) -> Result<Signals, SummaryError> {
        Ok(Signals {
            sent: self.sent,
            attempted: self.attempted,
            failed: self.failed,
            duration: Trend::of_state(&self.duration, Trend::coarse, of)?,
        })
    }
}

impl ScenarioState {
    fn read(&self) -> Result<(ScenarioPlan, ScenarioSignals), SummaryError> {
        let nanos = Duration::from_nanos;
        let speed = self.speed.as_deref().map(|speed| {
            let parsed = speed.parse();
            parsed.map_err(|_| unknown("speed", speed))
        });
        let timetable = self.timetable.iter();
        let plan = ScenarioPlan {
            name: self.name.clone(),
            executor: self.executor.clone(),
            text: self.text.clone(),
            is_open: self.is_open,
            speed: speed.transpose()?,
            start: nanos(self.start_ns),
            graceful_stop: nanos(self.graceful_stop_ns),
            sessions: self.sessions,
            exchanges: self.exchanges,
            timetable: timetable
                .map(|(at, what)| (nanos(*at), what.clone()))
                .collect(),
        };
        let name = &self.name;
        let signals = ScenarioSignals {
            requests: self.requests.read(name)?,
            iterations: self.iterations,
            interrupted: self.interrupted,
            dropped: self.dropped,
            iteration_duration: Trend::of_state(&self.iteration_duration, Trend::coarse, name)?,
        };
        Ok((plan, signals))
    }
}

fn unknown(what: &'static str, found: &str) -> SummaryError {
    SummaryError::Unknown {
        what,
        found: found.to_owned(),
    }
}
