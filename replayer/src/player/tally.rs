//! The results of one worker: counters and histograms of a fixed size, merged exactly.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::player::endpoints::{EndpointId, ScenarioSignals, Signals};
use crate::player::outcome::{
    Cause, Failure, FailureCounts, GrpcStatus, Lost, NeverSent, NeverSentCounts, Reply, Timeline,
};
use crate::player::seconds::SecondTally;
use crate::player::summary::{SummaryError, TrendState, decode, encode};
use crate::player::watch::{Observed, Sample, Watch, Watched};

/// A distribution of durations: mean, minimum and maximum exactly, percentiles to three digits.
#[derive(Clone, Debug)]
pub struct Trend {
    histogram: Histogram<u64>,
    sum: u128,
    min: Duration,
    max: Duration,
}

impl Trend {
    /// Values below a tenth of a microsecond are alike to the clocks in use.
    const LOWEST: u64 = 100;
    /// Values above an hour count as an hour in percentiles.
    const HIGHEST: u64 = 3_600_000_000_000;
    /// As many values as 64 bits can count, of an hour each, and then some. A sum out of a file stays
    /// below, so that adding many of them up does not overflow.
    const MAX_SUM: u128 = 1 << 107;

    pub(crate) fn new() -> Self {
        Self::with_digits(3)
    }

    /// Percentiles to two digits, in an eighth of the memory.
    pub(crate) fn coarse() -> Self {
        Self::with_digits(2)
    }

    fn with_digits(digits: u8) -> Self {
        Self {
            histogram: Histogram::new_with_bounds(Self::LOWEST, Self::HIGHEST, digits)
                .expect("the bounds are valid"),
            sum: 0,
            min: Duration::MAX,
            max: Duration::ZERO,
        }
    }

    pub(crate) fn record(&mut self, value: Duration) {
        self.sum += value.as_nanos();
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.histogram
            .saturating_record(u64::try_from(value.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        let Self {
            histogram,
            sum,
            min,
            max,
        } = other;
        self.histogram
            .add(histogram)
            .expect("all trends have the same bounds");
        self.sum += sum;
        self.min = self.min.min(*min);
        self.max = self.max.max(*max);
    }

    pub(crate) fn to_state(&self) -> TrendState {
        let nanos = |value: Duration| u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        TrendState {
            histogram: encode(&self.histogram),
            sum_ns: self.sum.to_string(),
            min_ns: nanos(self.min()),
            max_ns: nanos(self.max),
        }
    }

    /// `empty` gives the bounds; `of` is its name in errors.
    pub(crate) fn of_state(
        state: &TrendState,
        empty: fn() -> Self,
        of: &str,
    ) -> Result<Self, SummaryError> {
        let damaged = |why| SummaryError::Histogram {
            of: of.to_owned(),
            why,
        };
        let empty = empty();
        let histogram = decode(&state.histogram, &empty.histogram).map_err(damaged)?;
        if histogram.is_empty() {
            return Ok(empty);
        }
        if state.min_ns > state.max_ns {
            return Err(damaged("its smallest value is larger than its largest"));
        }
        let sum = state
            .sum_ns
            .parse()
            .ok()
            .filter(|sum| *sum <= Self::MAX_SUM);
        Ok(Self {
            histogram,
            sum: sum.ok_or_else(|| damaged("its sum is no number, or too large"))?,
            min: Duration::from_nanos(state.min_ns),
            max: Duration::from_nanos(state.max_ns),
        })
    }

    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The mean; zero where there are no values.
    #[must_use]
    pub fn mean(&self) -> Duration {
        let mean = self.sum.checked_div(u128::from(self.count())).unwrap_or(0);
        Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX))
    }

    /// The smallest value; zero where there are none.
    #[must_use]
    pub fn min(&self) -> Duration {
        if self.count() == 0 {
            Duration::ZERO
        } else {
            self.min
        }
    }

    /// The largest value.
    #[must_use]
    pub const fn max(&self) -> Duration {
        self.max
    }

    /// The value that `percent` of the values do not exceed.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Duration {
        if self.count() == 0 {
            return Duration::ZERO;
        }
        Duration::from_nanos(self.histogram.value_at_percentile(percent)).clamp(self.min, self.max)
    }
}

macro_rules! trends {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// The distributions that a run measures.
        #[derive(Clone, Debug)]
        pub struct Trends {
            $($(#[$doc])* pub $field: Trend,)*
        }

        impl Trends {
            /// The names of their metrics.
            pub(crate) const NAMES: &'static [&'static str] = &[$(stringify!($field)),*];
            /// Where `iteration_duration` stands among them: the first.
            pub(crate) const ITERATION_DURATION: usize = 0;

            fn new() -> Self {
                Self { $($field: Trend::new(),)* }
            }

            fn merge(&mut self, other: &Self) {
                let Self { $($field,)* } = other;
                $(self.$field.merge($field);)*
            }

            fn record(&mut self, measures: &Measures) {
                $(if let Some(value) = measures.$field {
                    self.$field.record(value);
                })*
            }

            /// That of the metric.
            pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Trend> {
                match name { $(stringify!($field) => Some(&mut self.$field),)* _ => None }
            }

            /// Each with the name of its metric.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Trend)> {
                [$((stringify!($field), &self.$field)),*].into_iter()
            }
        }

        /// What one request adds to the distributions.
        #[derive(Debug, Default)]
        pub(crate) struct Measures {
            $(pub(crate) $field: Option<Duration>,)*
        }

        impl Measures {
            /// By the index in [`Trends::NAMES`].
            pub(crate) fn at(&self, index: usize) -> Option<Duration> {
                [$(self.$field),*].get(index).copied().flatten()
            }
        }
    };
}

trends! {
    /// From the beginning of an iteration to its end, think time included. An iteration of a
    /// recorded schedule is one request.
    iteration_duration,
    /// From the due time to the last byte of the answer. A target that stalls cannot hide behind
    /// requests that were not sent meanwhile: they were due. Requests that timed out are in it with
    /// the time that they waited; those that failed otherwise are not.
    http_req_duration,
    /// The same of gRPC calls, however they ended.
    grpc_req_duration,
    /// From the first byte sent to the last byte of the answer: what k6 calls
    /// `http_req_duration`.
    service_time,
    /// From the due time until the player turned to the request: its own lateness.
    schedule_lag,
    /// From then until the first byte went out: waiting for a connection, or for a stream.
    http_req_blocked,
    /// Opening a connection, for the requests that needed one.
    http_req_connecting,
    /// Agreeing on TLS, for the requests that needed a connection.
    http_req_tls_handshaking,
    /// From the first byte sent to the last byte sent.
    http_req_sending,
    /// From the last byte sent to the first byte of the answer.
    http_req_waiting,
    /// From the first to the last byte of the answer.
    http_req_receiving,
}

/// How the statuses of the answers compare with those that were recorded.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Comparison {
    /// Answers with the recorded status.
    pub same: u64,
    /// Answers with another status.
    pub different: u64,
    /// Answers to requests of which no recorded status is known.
    pub unknown: u64,
    /// The differences by (recorded, now).
    pub changes: BTreeMap<(u16, u16), u64>,
    /// Differences beyond [`Comparison::MAX_CHANGES`] kinds.
    pub other_changes: u64,
}

impl Comparison {
    /// Kinds of differences that are kept apart: a target that draws its statuses by lot could
    /// name a million.
    pub const MAX_CHANGES: usize = 256;

    pub(crate) fn record(&mut self, recorded: Option<u16>, now: u16) {
        match recorded {
            None => self.unknown += 1,
            Some(recorded) if recorded == now => self.same += 1,
            Some(recorded) => {
                self.different += 1;
                self.change((recorded, now), 1);
            }
        }
    }

    fn change(&mut self, change: (u16, u16), n: u64) {
        if self.changes.len() < Self::MAX_CHANGES || self.changes.contains_key(&change) {
            *self.changes.entry(change).or_default() += n;
        } else {
            self.other_changes += n;
        }
    }

    fn merge(&mut self, other: &Self) {
        let Self {
            same,
            different,
            unknown,
            changes,
            other_changes,
        } = other;
        self.same += same;
        self.different += different;
        self.unknown += unknown;
        self.other_changes += other_changes;
        for (change, n) in changes {
            self.change(*change, *n);
        }
    }
}

/// What a request belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) endpoint: EndpointId,
    pub(crate) scenario: u8,
}

/// What a worker counted and measured.
#[derive(Clone, Debug)]
pub struct Tally {
    /// The distributions.
    pub trends: Trends,
    /// Answers by status code.
    pub statuses: BTreeMap<u16, u64>,
    /// How gRPC calls ended.
    pub grpc: BTreeMap<GrpcStatus, u64>,
    /// Sent requests without an answer.
    pub failures: FailureCounts,
    /// Requests that were not sent.
    pub never_sent: NeverSentCounts,
    /// What was said about the first of each kind of loss.
    pub first_causes: BTreeMap<&'static str, String>,
    /// The statuses against the recorded ones.
    pub comparison: Comparison,
    /// Requests that were sent twice because a kept connection turned out to be closed.
    pub resent: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// The most that were open at once in a worker, summed over the workers.
    pub peak_connections: u64,
    /// The most requests in flight at once in a worker, summed over the workers.
    pub peak_in_flight: u64,
    /// Bytes written to connections.
    pub bytes_sent: u64,
    /// Bytes read from connections.
    pub bytes_received: u64,
    /// Time that workers spent looking for answers when there were none, and they had nothing else to do: in a flood
    /// they do not sleep in between.
    pub polled: Duration,
    /// By endpoint, in the order of [`Report::endpoints`](crate::player::Report::endpoints); `None`
    /// for those without requests, as for those behind the end.
    pub endpoints: Vec<Option<Box<Signals>>>,
    /// By scenario, in the order of [`Report::scenarios`](crate::player::Report::scenarios).
    pub scenarios: Vec<ScenarioSignals>,
    pub(crate) watched: Watched,
    /// This second by itself, where somebody wants it.
    pub(crate) second: Option<Box<SecondTally>>,
}

impl Tally {
    pub(crate) fn new(watch: &Arc<Watch>) -> Self {
        Self {
            endpoints: Vec::new(),
            scenarios: Vec::new(),
            watched: Watched::new(watch),
            second: watch
                .wants_seconds()
                .then(|| Box::new(SecondTally::new(watch))),
            trends: Trends::new(),
            statuses: BTreeMap::new(),
            grpc: BTreeMap::new(),
            failures: FailureCounts::default(),
            never_sent: NeverSentCounts::default(),
            first_causes: BTreeMap::new(),
            comparison: Comparison::default(),
            resent: 0,
            connections: 0,
            peak_connections: 0,
            peak_in_flight: 0,
            bytes_sent: 0,
            bytes_received: 0,
            polled: Duration::ZERO,
        }
    }

    /// What thresholds need of a run that goes on, without the distributions of all requests: those
    /// take a fraction of a millisecond to copy, and requests are due meanwhile.
    pub(crate) fn observed(&self) -> Observed {
        Observed {
            watched: self.watched.clone(),
            vus: 0,
            vus_max: 0,
            peak_connections: self.peak_connections,
            peak_in_flight: self.peak_in_flight,
            bytes_sent: self.bytes_sent,
            bytes_received: self.bytes_received,
            polled: self.polled,
        }
    }

    /// Requests that were answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Requests that were sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.answered() + self.failures.total()
    }

    /// Answers that k6 would call failed by default: other than 200 to 399.
    #[must_use]
    pub fn unexpected_statuses(&self) -> u64 {
        self.statuses
            .iter()
            .filter(|(status, _)| !(200..400).contains(*status))
            .map(|(_, n)| n)
            .sum()
    }

    /// gRPC calls that ended otherwise than they were to, and all.
    #[must_use]
    pub fn grpc_failed(&self) -> (u64, u64) {
        let all = self.grpc.values().sum();
        (all - self.grpc.get(&GrpcStatus::OK).unwrap_or(&0), all)
    }

    pub(crate) fn answer(
        &mut self,
        origin: Origin,
        timeline: &Timeline,
        now: Instant,
        Reply { status, grpc }: Reply,
        recorded: Option<u16>,
    ) {
        if let Some(grpc) = grpc {
            *self.grpc.entry(grpc).or_default() += 1;
        }
        let duration = now.saturating_duration_since(timeline.due);
        *self.statuses.entry(status).or_default() += 1;
        self.comparison.record(recorded, status);
        self.resent += u64::from(timeline.resent.get());
        let sent = timeline.sent.get().unwrap_or(now);
        let first_byte = timeline.first_byte.get().unwrap_or(now);
        // An early answer comes before the request is sent whole.
        let sent_whole = timeline
            .sent_whole
            .get()
            .unwrap_or(first_byte)
            .min(first_byte);
        self.record(&Sample {
            endpoint: origin.endpoint,
            scenario: origin.scenario,
            status,
            grpc,
            sent: true,
            stopped: false,
            as_recorded: recorded.map(|recorded| recorded == status),
            measures: Measures {
                http_req_duration: Some(duration),
                grpc_req_duration: grpc.map(|_| duration),
                service_time: Some(now.saturating_duration_since(sent)),
                http_req_sending: Some(sent_whole.saturating_duration_since(sent)),
                http_req_waiting: Some(first_byte.saturating_duration_since(sent_whole)),
                http_req_receiving: Some(now.saturating_duration_since(first_byte)),
                ..begin(timeline)
            },
        });
    }

    pub(crate) fn lose(
        &mut self,
        origin: Origin,
        timeline: &Timeline,
        now: Instant,
        lost: Lost,
        cause: &Cause,
    ) {
        self.resent += u64::from(timeline.resent.get());
        match lost {
            Lost::Failed(failure) => {
                self.failures.add(failure);
                self.explain(failure.name(), cause);
                let waited = || now.saturating_duration_since(timeline.due);
                self.record(&Sample {
                    endpoint: origin.endpoint,
                    scenario: origin.scenario,
                    status: 0,
                    grpc: None,
                    sent: true,
                    stopped: false,
                    as_recorded: None,
                    measures: Measures {
                        http_req_duration: (failure == Failure::TimedOut).then(waited),
                        ..begin(timeline)
                    },
                });
            }
            Lost::NeverSent(reason) => self.skip(origin, reason, cause),
        }
    }

    /// Counts a request that is not sent.
    pub(crate) fn skip(&mut self, origin: Origin, reason: NeverSent, cause: &Cause) {
        self.never_sent.add(reason);
        self.explain(reason.name(), cause);
        self.record(&Sample {
            endpoint: origin.endpoint,
            scenario: origin.scenario,
            status: 0,
            grpc: None,
            sent: false,
            stopped: reason == NeverSent::Stopped,
            as_recorded: None,
            measures: Measures::default(),
        });
    }

    pub(crate) fn record(&mut self, sample: &Sample) {
        self.trends.record(&sample.measures);
        self.watched.record(sample);
        if let Some(second) = &mut self.second {
            second.record(sample);
        }
        self.signals(sample.endpoint.index()).record(sample);
        let scenario = self.scenario(sample.scenario.into());
        scenario.requests.record(sample);
    }

    /// Counts an iteration that came to its end.
    pub(crate) fn iteration(&mut self, scenario: u8, duration: Duration) {
        self.trends.iteration_duration.record(duration);
        self.watched.record_iteration(scenario, duration);
        if let Some(second) = &mut self.second {
            second.record_iteration(scenario, duration);
        }
        let signals = self.scenario(scenario.into());
        signals.iterations += 1;
        signals.iteration_duration.record(duration);
    }

    /// Counts an iteration that was given up in the middle.
    pub(crate) fn interrupted(&mut self, scenario: u8) {
        self.scenario(scenario.into()).interrupted += 1;
    }

    /// Counts iterations that did not begin.
    pub(crate) fn drop_iterations(&mut self, scenario: u8, n: u64) {
        self.watched.record_dropped(scenario, n);
        if let Some(second) = &mut self.second {
            second.record_dropped(scenario, n);
        }
        self.scenario(scenario.into()).dropped += n;
    }

    /// Iterations of all scenarios that came to their end.
    #[must_use]
    pub fn iterations(&self) -> u64 {
        self.scenarios
            .iter()
            .map(|signals| signals.iterations)
            .sum()
    }

    /// Iterations of all scenarios that did not begin.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.scenarios.iter().map(|signals| signals.dropped).sum()
    }

    /// Iterations of all scenarios that were given up in the middle.
    #[must_use]
    pub fn interruptions(&self) -> u64 {
        self.scenarios
            .iter()
            .map(|signals| signals.interrupted)
            .sum()
    }

    pub(crate) fn scenario(&mut self, scenario: usize) -> &mut ScenarioSignals {
        if self.scenarios.len() <= scenario {
            self.scenarios
                .resize_with(scenario + 1, ScenarioSignals::new);
        }
        &mut self.scenarios[scenario]
    }

    fn signals(&mut self, endpoint: usize) -> &mut Signals {
        if self.endpoints.len() <= endpoint {
            self.endpoints.resize_with(endpoint + 1, || None);
        }
        self.endpoints[endpoint].get_or_insert_with(|| Box::new(Signals::new()))
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        let Self {
            trends,
            statuses,
            grpc,
            failures,
            never_sent,
            first_causes,
            comparison,
            resent,
            connections,
            peak_connections,
            peak_in_flight,
            bytes_sent,
            bytes_received,
            polled,
            endpoints,
            scenarios,
            watched,
            // A second is over when its worker is.
            second: _,
        } = other;
        for (index, signals) in scenarios.iter().enumerate() {
            self.scenario(index).merge(signals);
        }
        for (index, signals) in endpoints.iter().enumerate() {
            if let Some(signals) = signals {
                self.signals(index).merge(signals);
            }
        }
        self.watched.merge(watched);
        self.trends.merge(trends);
        for (status, n) in statuses {
            *self.statuses.entry(*status).or_default() += n;
        }
        for (status, n) in grpc {
            *self.grpc.entry(*status).or_default() += n;
        }
        self.failures.merge(failures);
        self.never_sent.merge(never_sent);
        for (kind, cause) in first_causes {
            self.first_causes
                .entry(kind)
                .or_insert_with(|| cause.clone());
        }
        self.comparison.merge(comparison);
        self.resent += resent;
        self.connections += connections;
        self.peak_connections += peak_connections;
        self.peak_in_flight += peak_in_flight;
        self.bytes_sent += bytes_sent;
        self.bytes_received += bytes_received;
        self.polled += *polled;
    }

    fn explain(&mut self, kind: &'static str, cause: &Cause) {
        if !matches!(cause, Cause::None) {
            self.first_causes
                .entry(kind)
                .or_insert_with(|| cause.to_string());
        }
    }
}

/// What is known as soon as a request was sent.
fn begin(timeline: &Timeline) -> Measures {
    let blocked = |sent: Instant| sent.saturating_duration_since(timeline.taken);
    Measures {
        schedule_lag: Some(timeline.taken.saturating_duration_since(timeline.due)),
        http_req_blocked: timeline.sent.get().map(blocked),
        http_req_connecting: timeline.connecting.get(),
        http_req_tls_handshaking: timeline.tls_handshaking.get(),
        ..Measures::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trend_is_exact_at_its_ends_and_close_between() {
        let mut trend = Trend::new();
        assert_eq!(trend.percentile(99.0), Duration::ZERO);
        for micros in 1..=1000 {
            trend.record(Duration::from_micros(micros));
        }
        assert_eq!(trend.min(), Duration::from_micros(1));
        assert_eq!(trend.max(), Duration::from_millis(1));
        assert_eq!(trend.mean(), Duration::from_nanos(500_500));
        let p90 = trend.percentile(90.0).as_nanos() as f64;
        assert!((p90 / 900_000.0 - 1.0).abs() < 0.001, "{p90}");
        trend.record(Duration::from_secs(100_000));
        assert_eq!(trend.max(), Duration::from_secs(100_000));
    }

    #[test]
    fn merging_is_the_same_as_recording_in_one_place() {
        let (mut whole, mut parts) = (Trend::new(), [Trend::new(), Trend::new()]);
        for n in 0..10_000_u64 {
            let value = Duration::from_nanos(n * n * 37);
            whole.record(value);
            parts[(n % 2) as usize].record(value);
        }
        let [mut merged, other] = parts;
        merged.merge(&other);
        assert_eq!(merged.histogram, whole.histogram);
        assert_eq!(merged.mean(), whole.mean());
        assert_eq!((merged.min(), merged.max()), (whole.min(), whole.max()));
    }

    #[test]
    fn changes_of_status_are_bounded() {
        let mut comparison = Comparison::default();
        for now in 0..400 {
            comparison.record(Some(999), now);
        }
        assert_eq!(comparison.changes.len(), Comparison::MAX_CHANGES);
        assert_eq!(comparison.different, 400);
        assert_eq!(
            comparison.changes.values().sum::<u64>() + comparison.other_changes,
            400
        );
    }
}
