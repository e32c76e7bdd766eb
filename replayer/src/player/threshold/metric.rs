//! The metrics that a threshold may name.

use crate::player::tally::Trends;

/// A metric, by its k6 type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Metric {
    Counter(Counter),
    Gauge(Gauge),
    Rate(Rate),
    /// The index in [`Trends::NAMES`].
    Trend(usize),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Counter {
    Requests,
    Iterations,
    Dropped,
    DataSent,
    DataReceived,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Gauge {
    Vus,
    VusMax,
    Connections,
    InFlight,
    Processor,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Rate {
    Failed,
    GrpcFailed,
    AsRecorded,
}

impl Metric {
    /// All but the trends.
    const NAMED: [(&'static str, Self); 13] = [
        ("http_reqs", Self::Counter(Counter::Requests)),
        ("iterations", Self::Counter(Counter::Iterations)),
        ("dropped_iterations", Self::Counter(Counter::Dropped)),
        ("data_sent", Self::Counter(Counter::DataSent)),
        ("data_received", Self::Counter(Counter::DataReceived)),
        ("http_req_failed", Self::Rate(Rate::Failed)),
        ("grpc_req_failed", Self::Rate(Rate::GrpcFailed)),
        ("status_as_recorded", Self::Rate(Rate::AsRecorded)),
        ("vus", Self::Gauge(Gauge::Vus)),
        ("vus_max", Self::Gauge(Gauge::VusMax)),
        ("connections_peak", Self::Gauge(Gauge::Connections)),
        ("in_flight_peak", Self::Gauge(Gauge::InFlight)),
        ("cpu_share", Self::Gauge(Gauge::Processor)),
    ];

    pub(crate) fn named(name: &str) -> Option<Self> {
        let trend = || Trends::NAMES.iter().position(|trend| *trend == name);
        Self::NAMED
            .iter()
            .find_map(|(known, metric)| (*known == name).then_some(*metric))
            .or_else(|| trend().map(Self::Trend))
    }

    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        let named = Self::NAMED.iter().map(|(name, _)| *name);
        named.chain(Trends::NAMES.iter().copied())
    }

    /// Whether its values belong to requests or iterations. Those of the others are of the run as
    /// a whole.
    pub(crate) const fn is_tagged(self) -> bool {
        matches!(
            self,
            Self::Counter(Counter::Requests | Counter::Iterations | Counter::Dropped)
                | Self::Rate(_)
                | Self::Trend(_)
        )
    }

    /// Whether its values belong to iterations.
    pub(crate) const fn is_of_iterations(self) -> bool {
        match self {
            Self::Counter(counter) => matches!(counter, Counter::Iterations | Counter::Dropped),
            Self::Trend(index) => index == Trends::ITERATION_DURATION,
            Self::Gauge(_) | Self::Rate(_) => false,
        }
    }

    pub(crate) const fn kind(self) -> &'static str {
        match self {
            Self::Counter(_) => "counter",
            Self::Gauge(_) => "gauge",
            Self::Rate(_) => "rate",
            Self::Trend(_) => "trend",
        }
    }

    /// The aggregations that k6 has for its type.
    pub(crate) const fn aggregations(self) -> &'static str {
        match self {
            Self::Counter(_) => "count, rate",
            Self::Gauge(_) => "value",
            Self::Rate(_) => "rate",
            Self::Trend(_) => "avg, min, max, med, p(N)",
        }
    }
}
