//! The values that thresholds are evaluated on: one for each series that a threshold names, so that
//! the cost and the memory depend on the thresholds alone, and not on tags that nobody asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::player::endpoints::{EndpointId, Label};
use crate::player::outcome::GrpcStatus;
use crate::player::plan::Outline;
use crate::player::scenario::Scenario;
use crate::player::summary::{KeptState, SummaryError};
use crate::player::tally::{Measures, Trend};
use crate::player::threshold::{
    Counter, Gauge, Metric, Rate, Series, Tags, Threshold, Value, Verdict, VerdictReason, verdict,
};

/// What became of one request, and how long its parts took.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) endpoint: EndpointId,
    pub(crate) scenario: u8,
    /// 0: no answer.
    pub(crate) status: u16,
    /// How a gRPC call ended; `None`: it is none, or was not answered.
    pub(crate) grpc: Option<GrpcStatus>,
    pub(crate) sent: bool,
    /// It was stopped before it could show anything.
    pub(crate) stopped: bool,
    pub(crate) as_recorded: Option<bool>,
    pub(crate) measures: Measures,
}

impl Sample {
    /// Whether it was tried in vain: unanswered, answered outside of what is [`expected`](Self::expected), or a gRPC
    /// call that says so.
    pub(crate) fn failed(&self) -> bool {
        let grpc_failed = self.grpc.is_some_and(|status| status != GrpcStatus::OK);
        !self.stopped && (!self.expected() || grpc_failed)
    }

    /// What k6's default expects: 200 to 399.
    pub(crate) const fn expected(&self) -> bool {
        is_expected(self.status)
    }
}

/// What k6's default expects.
pub(crate) const fn is_expected(status: u16) -> bool {
    200 <= status && status < 400
}

/// The thresholds of a run, made ready for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    thresholds: Vec<Threshold>,
    /// Each different one once.
    series: Vec<Series>,
    /// Of each endpoint: the series that its requests may be in.
    of_endpoint: Vec<Vec<usize>>,
    /// Of each scenario: whether each series may hold its requests and iterations.
    of_scenario: Vec<Vec<bool>>,
    /// Of each series: whether there is anything that a value of it could come from.
    possible: Vec<bool>,
    /// Somebody wants to see every second.
    every_second: bool,
}

impl Watch {
    pub(crate) fn new(thresholds: &[Threshold], labels: &[Label], scenarios: &[Scenario]) -> Self {
        let series = series_of(thresholds);
        let of_endpoint: Vec<Vec<usize>> = labels
            .iter()
            .map(|label| {
                let may = |(_, series): &(usize, &Series)| {
                    let metric = series.metric;
                    metric.is_tagged() && !metric.is_of_iterations() && may_be(&series.tags, label)
                };
                let found = series.iter().enumerate().filter(may);
                found.map(|(index, _)| index).collect()
            })
            .collect();
        let of_scenario: Vec<Vec<bool>> = scenarios
            .iter()
            .map(|scenario| series.iter().map(|s| is_in(&s.tags, scenario)).collect())
            .collect();
        let is_possible = |(index, series): (usize, &Series)| {
            let request = of_endpoint.iter().any(|of| of.contains(&index));
            let in_scenario = |of: &Vec<bool>| of.get(index) == Some(&true);
            (request || series.metric.is_of_iterations()) && of_scenario.iter().any(in_scenario)
        };
        Self {
            thresholds: thresholds.to_vec(),
            possible: series.iter().enumerate().map(is_possible).collect(),
            of_scenario,
            series,
            of_endpoint,
            every_second: false,
        }
    }

    /// The same of a run that sends no more than this, scenario by scenario.
    pub(crate) fn of_outlines(mut self, outlines: &[Outline]) -> Self {
        for (index, series) in self.series.iter().enumerate() {
            if series.metric.is_of_iterations() {
                continue;
            }
            let sends = |(endpoint, sends): (usize, &bool)| {
                *sends
                    && self
                        .of_endpoint
                        .get(endpoint)
                        .is_some_and(|of| of.contains(&index))
            };
            let in_scenario = |(scenario, outline): (usize, &Outline)| {
                let of = self.of_scenario.get(scenario).and_then(|of| of.get(index));
                of == Some(&true) && outline.endpoints.iter().enumerate().any(sends)
            };
            let is_sent = outlines.iter().enumerate().any(in_scenario);
            if let Some(possible) = self.possible.get_mut(index) {
                *possible &= is_sent && !series.tags.is_contradiction();
            }
        }
        self
    }

    /// Thresholds that were evaluated, each with whether its series could have values: nothing more
    /// is recorded for them.
    pub(crate) fn of_summary(thresholds: &[(Threshold, bool)]) -> Self {
        let (all, possible): (Vec<Threshold>, Vec<bool>) = thresholds.iter().cloned().unzip();
        let series = series_of(&all);
        let is_possible = |series: &Series| {
            let mut of = all.iter().zip(&possible);
            of.any(|(threshold, possible)| *possible && threshold.series == *series)
        };
        Self {
            possible: series.iter().map(is_possible).collect(),
            thresholds: all,
            series,
            ..Self::default()
        }
    }

    /// Whether a value of its series could come from anything.
    pub(crate) fn is_threshold_possible(&self, threshold: &Threshold) -> bool {
        let index = self.series.iter().position(|s| *s == threshold.series);
        index.is_some_and(|index| self.is_possible(index))
    }

    /// Those that thresholds over windows are about.
    fn is_windowed(&self, series: &Series) -> bool {
        let mut thresholds = self.thresholds.iter();
        thresholds.any(|threshold| threshold.over.is_some() && threshold.series == *series)
    }

    /// The same, and every second is wanted.
    pub(crate) fn with_every_second(self, wanted: bool) -> Self {
        Self {
            every_second: wanted,
            ..self
        }
    }

    /// Whether any may end the run.
    pub(crate) fn aborts(&self) -> bool {
        self.thresholds.iter().any(|threshold| threshold.abort)
    }

    /// Whether every second counts: for windows, or for a time series.
    pub(crate) fn wants_seconds(&self) -> bool {
        self.every_second
            || self
                .thresholds
                .iter()
                .any(|threshold| threshold.over.is_some())
    }

    pub(crate) fn thresholds(&self) -> &[Threshold] {
        &self.thresholds
    }

    /// One that is about windows, evaluated on one of them.
    pub(crate) fn verdict_on(
        &self,
        threshold: &Threshold,
        window: &Watched,
        over: Duration,
    ) -> Verdict {
        verdict(threshold, &self.watched_value(threshold, window), over)
    }

    /// Every threshold, evaluated.
    pub(crate) fn verdicts(
        &self,
        observed: &Observed,
        elapsed: Duration,
        cpu: f64,
    ) -> Vec<Verdict> {
        let verdict =
            |threshold| verdict(threshold, &self.value(threshold, observed, cpu), elapsed);
        self.thresholds.iter().map(verdict).collect()
    }

    /// The threshold that ends the run now. As in k6, one without samples yet does not.
    pub(crate) fn abort(
        &self,
        observed: &Observed,
        elapsed: Duration,
        cpu: f64,
    ) -> Option<(usize, Verdict)> {
        let due = |(_, threshold): &(usize, &Threshold)| {
            threshold.abort && threshold.over.is_none() && elapsed >= threshold.delay
        };
        let due = self.thresholds.iter().enumerate().filter(due);
        due.map(|(index, threshold)| {
            let value = self.value(threshold, observed, cpu);
            (index, verdict(threshold, &value, elapsed))
        })
        .find(|(_, verdict)| !verdict.ok && verdict.reason == VerdictReason::Compared)
    }

    fn value<'a>(&self, threshold: &Threshold, observed: &'a Observed, cpu: f64) -> Value<'a> {
        match threshold.series.metric {
            Metric::Counter(Counter::DataSent) => Value::Counter(observed.bytes_sent),
            Metric::Counter(Counter::DataReceived) => Value::Counter(observed.bytes_received),
            Metric::Gauge(Gauge::Vus) => Value::Gauge(observed.vus as f64),
            Metric::Gauge(Gauge::VusMax) => Value::Gauge(observed.vus_max as f64),
            Metric::Gauge(Gauge::Connections) => Value::Gauge(observed.peak_connections as f64),
            Metric::Gauge(Gauge::InFlight) => Value::Gauge(observed.peak_in_flight as f64),
            Metric::Gauge(Gauge::Processor) => Value::Gauge(cpu),
            Metric::Counter(Counter::Requests | Counter::Iterations | Counter::Dropped)
            | Metric::Rate(_)
            | Metric::Trend(_) => self.watched_value(threshold, &observed.watched),
        }
    }

    fn watched_value<'a>(&self, threshold: &Threshold, watched: &'a Watched) -> Value<'a> {
        let index = self.series.iter().position(|s| *s == threshold.series);
        index
            .filter(|index| self.is_possible(*index))
            .and_then(|index| watched.values.get(index))
            .map_or(Value::Nothing, Kept::value)
    }
}

impl Watch {
    fn is_possible(&self, index: usize) -> bool {
        self.possible.get(index).copied().unwrap_or(false)
    }

    fn is_in_scenario(&self, scenario: u8, series: usize) -> bool {
        let of = self.of_scenario.get(usize::from(scenario));
        of.and_then(|of| of.get(series)).copied().unwrap_or(false)
    }
}

/// Each different one once.
fn series_of(thresholds: &[Threshold]) -> Vec<Series> {
    let mut series: Vec<Series> = Vec::new();
    for threshold in thresholds {
        if !series.contains(&threshold.series) {
            series.push(threshold.series.clone());
        }
    }
    series
}

/// A tag that no request of a run can have, and those that there are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnknownTag {
    name: String,
    /// Those of the scenarios.
    known: BTreeSet<String>,
}

impl fmt::Display for UnknownTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, known } = self;
        write!(f, "the tag {name:?}, which no request has; there are ")?;
        f.write_str("scenario, endpoint, method, status, expected_response")?;
        for known in known {
            write!(f, ", {known}")?;
        }
        match name.as_str() {
            // What is a matter of the script in k6 (name, group), or of the address.
            "name" | "group" | "url" => f.write_str("; requests of one kind are an endpoint here"),
            _ if known.is_empty() => f.write_str("; scenarios may have others (tags)"),
            _ => Ok(()),
        }
    }
}

/// The first threshold with a tag that no request of the run can have.
pub(crate) fn unknown_tag<'a>(
    thresholds: impl IntoIterator<Item = &'a Threshold>,
    scenarios: &[Scenario],
) -> Option<(&'a Threshold, UnknownTag)> {
    let known: BTreeSet<&String> = scenarios.iter().flat_map(|s| s.tags.keys()).collect();
    thresholds.into_iter().find_map(|threshold| {
        let mut names = threshold.series.tags.other.keys();
        let name = names.find(|name| !known.contains(name))?;
        let tag = UnknownTag {
            name: name.clone(),
            known: known.iter().map(|name| (*name).clone()).collect(),
        };
        Some((threshold, tag))
    })
}

fn is_in(tags: &Tags, scenario: &Scenario) -> bool {
    let named = |name: &String| *name == scenario.name;
    tags.scenario.as_ref().is_none_or(named)
        && (tags.other.iter()).all(|(name, value)| scenario.tags.get(name) == Some(value))
}

/// What thresholds ask to keep apart: methods, and paths.
pub(crate) fn pinned(thresholds: &[Threshold]) -> (Vec<String>, Vec<String>) {
    let tags = || thresholds.iter().map(|threshold| &threshold.series.tags);
    let paths: Vec<String> = tags().filter_map(|tags| tags.endpoint.clone()).collect();
    let named = paths.iter().filter_map(|path| path.split_once(' '));
    let methods = tags()
        .filter_map(|tags| tags.method.clone())
        .chain(named.map(|(method, _)| method.to_owned()))
        .collect();
    (methods, paths)
}

fn may_be(tags: &Tags, label: &Label) -> bool {
    let method = |method: &String| label.method.as_ref() == Some(method);
    let endpoint = |name: &String| label.path.as_ref() == Some(name) || label.name() == *name;
    tags.method.as_ref().is_none_or(method) && tags.endpoint.as_ref().is_none_or(endpoint)
}

/// What is looked at of a run, or of one of its workers, so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    pub(crate) watched: Watched,
    pub(crate) vus: u64,
    pub(crate) vus_max: u64,
    pub(crate) peak_connections: u64,
    pub(crate) peak_in_flight: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) polled: Duration,
}

impl Observed {
    pub(crate) fn nothing(watch: &Arc<Watch>) -> Self {
        Self {
            watched: Watched::new(watch),
            ..Self::default()
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        let Self {
            watched,
            vus,
            vus_max,
            peak_connections,
            peak_in_flight,
            bytes_sent,
            bytes_received,
            polled,
        } = other;
        self.watched.merge(watched);
        self.vus += vus;
        self.vus_max += vus_max;
        self.peak_connections += peak_connections;
        self.peak_in_flight += peak_in_flight;
        self.bytes_sent += bytes_sent;
        self.bytes_received += bytes_received;
        self.polled += *polled;
    }
}

/// The values of one worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watched {
    watch: Arc<Watch>,
    values: Vec<Kept>,
}

/// What summaries carry of it.
impl Watched {
    pub(crate) const fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// The values by the text of their series.
    pub(crate) fn states(&self) -> impl Iterator<Item = (String, KeptState)> {
        let series = self.watch.series.iter().zip(&self.values);
        series.map(|(series, kept)| (series.text.clone(), kept.to_state()))
    }

    /// Of these, those that thresholds over windows are about.
    pub(crate) fn states_of_windows(&self) -> BTreeMap<String, KeptState> {
        let series = self.watch.series.iter().zip(&self.values);
        series
            .filter(|(series, _)| self.watch.is_windowed(series))
            .map(|(series, kept)| (series.text.clone(), kept.to_state()))
            .collect()
    }

    /// The same values again. A series that is not there has none.
    pub(crate) fn of_states(
        watch: &Arc<Watch>,
        states: &BTreeMap<String, KeptState>,
        trend: fn() -> Trend,
    ) -> Result<Self, SummaryError> {
        let mut watched = Self::with(watch, trend);
        for (series, kept) in watch.series.iter().zip(&mut watched.values) {
            if let Some(state) = states.get(&series.text) {
                *kept = kept.of_state(state, trend, &series.text)?;
            }
        }
        Ok(watched)
    }

    /// The values of another run, in the order of this one.
    pub(crate) fn in_order_of(&self, other: &Self) -> Self {
        let of = |series: &Series, own: &Kept| {
            let index = other
                .watch
                .series
                .iter()
                .position(|s| s.text == series.text);
            let theirs = index.and_then(|index| other.values.get(index));
            theirs.unwrap_or(own).clone()
        };
        let nothing = Self::new(&self.watch);
        let series = self.watch.series.iter().zip(&nothing.values);
        Self {
            watch: Arc::clone(&self.watch),
            values: series.map(|(series, own)| of(series, own)).collect(),
        }
    }

    /// What could be in a series of the other run could be in that of both.
    pub(crate) fn widen(&mut self, other: &Self) {
        let mut watch = Watch::clone(&self.watch);
        for (series, possible) in watch.series.iter().zip(&mut watch.possible) {
            let index = other
                .watch
                .series
                .iter()
                .position(|s| s.text == series.text);
            *possible |= index.is_some_and(|index| other.watch.is_possible(index));
        }
        self.watch = Arc::new(watch);
    }
}

#[derive(Clone, Debug)]
enum Kept {
    Count(u64),
    Share { hits: u64, total: u64 },
    Trend(Trend),
}

impl Watched {
    pub(crate) fn new(watch: &Arc<Watch>) -> Self {
        Self::with(watch, Trend::new)
    }

    /// For one second of many.
    pub(crate) fn coarse(watch: &Arc<Watch>) -> Self {
        Self::with(watch, Trend::coarse)
    }

    fn with(watch: &Arc<Watch>, trend: fn() -> Trend) -> Self {
        let kept = |series: &Series| match series.metric {
            Metric::Counter(_) | Metric::Gauge(_) => Kept::Count(0),
            Metric::Rate(_) => Kept::Share { hits: 0, total: 0 },
            Metric::Trend(_) => Kept::Trend(trend()),
        };
        Self {
            watch: Arc::clone(watch),
            values: watch.series.iter().map(kept).collect(),
        }
    }

    pub(crate) fn record(&mut self, sample: &Sample) {
        let of_endpoint = self.watch.of_endpoint.get(sample.endpoint.index());
        for index in of_endpoint.into_iter().flatten() {
            let (Some(series), Some(kept)) =
                (self.watch.series.get(*index), self.values.get_mut(*index))
            else {
                continue;
            };
            let tags = &series.tags;
            let status = tags.status.is_none_or(|status| status == sample.status)
                && self.watch.is_in_scenario(sample.scenario, *index);
            let expected = tags.expected_response;
            if status && expected.is_none_or(|expected| expected == sample.expected()) {
                kept.record(series.metric, sample);
            }
        }
    }

    /// An iteration that is over.
    pub(crate) fn record_iteration(&mut self, scenario: u8, duration: Duration) {
        self.of_iterations(scenario, |metric, kept| match (metric, kept) {
            (Metric::Counter(Counter::Iterations), Kept::Count(count)) => *count += 1,
            (Metric::Trend(_), Kept::Trend(trend)) => trend.record(duration),
            _ => {}
        });
    }

    /// Iterations that did not begin.
    pub(crate) fn record_dropped(&mut self, scenario: u8, n: u64) {
        self.of_iterations(scenario, |metric, kept| {
            if let (Metric::Counter(Counter::Dropped), Kept::Count(count)) = (metric, kept) {
                *count += n;
            }
        });
    }

    fn of_iterations(&mut self, scenario: u8, mut record: impl FnMut(Metric, &mut Kept)) {
        for (index, (series, kept)) in self.watch.series.iter().zip(&mut self.values).enumerate() {
            if series.metric.is_of_iterations() && self.watch.is_in_scenario(scenario, index) {
                record(series.metric, kept);
            }
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (kept, other) in self.values.iter_mut().zip(&other.values) {
            match (kept, other) {
                (Kept::Count(a), Kept::Count(b)) => *a += b,
                (Kept::Share { hits, total }, Kept::Share { hits: h, total: t }) => {
                    *hits += h;
                    *total += t;
                }
                (Kept::Trend(a), Kept::Trend(b)) => a.merge(b),
                // One run has one list of series.
                _ => {}
            }
        }
    }
}

impl Kept {
    fn to_state(&self) -> KeptState {
        match self {
            Self::Count(count) => KeptState::Count(*count),
            Self::Share { hits, total } => KeptState::Share {
                hits: *hits,
                total: *total,
            },
            Self::Trend(trend) => KeptState::Trend(trend.to_state()),
        }
    }

    /// `self` says of what kind it must be.
    fn of_state(
        &self,
        state: &KeptState,
        trend: fn() -> Trend,
        of: &str,
    ) -> Result<Self, SummaryError> {
        match (self, state) {
            (Self::Count(_), KeptState::Count(count)) => Ok(Self::Count(*count)),
            (Self::Share { .. }, KeptState::Share { hits, total }) if hits <= total => {
                Ok(Self::Share {
                    hits: *hits,
                    total: *total,
                })
            }
            (Self::Trend(_), KeptState::Trend(state)) => {
                Trend::of_state(state, trend, of).map(Self::Trend)
            }
            _ => Err(SummaryError::Contradiction(
                "the values of a threshold are not of the kind that its metric has",
            )),
        }
    }

    const fn value(&self) -> Value<'_> {
        match self {
            Self::Count(count) => Value::Counter(*count),
            Self::Share { hits, total } => Value::Rate {
                hits: *hits,
                total: *total,
            },
            Self::Trend(trend) => Value::Trend(trend),
        }
    }

    fn record(&mut self, metric: Metric, sample: &Sample) {
        match (self, metric) {
            (Self::Count(count), Metric::Counter(Counter::Requests)) => {
                *count += u64::from(sample.sent);
            }
            (Self::Share { hits, total }, Metric::Rate(rate)) => {
                let hit = match rate {
                    Rate::Failed => (!sample.stopped).then(|| !sample.expected()),
                    Rate::GrpcFailed => sample.grpc.map(|status| status != GrpcStatus::OK),
                    Rate::AsRecorded => sample.as_recorded,
                };
                *total += u64::from(hit.is_some());
                *hits += u64::from(hit == Some(true));
            }
            (Self::Trend(trend), Metric::Trend(index)) => {
                if let Some(value) = sample.measures.at(index) {
                    trend.record(value);
                }
            }
            _ => {}
        }
    }
}
