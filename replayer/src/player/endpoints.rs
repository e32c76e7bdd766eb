//! The endpoints of a run: methods and path templates, found before the first request is sent.

use std::collections::HashMap;

use serde_json::{Value, json};
use tapedeck_model::path_template;

use crate::player::tally::Trend;
use crate::player::watch::Sample;

/// One of the [`Endpoints`] of a run.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct EndpointId(u16);

impl EndpointId {
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What requests have in common that are measured together.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Label {
    /// `None`: of several methods.
    pub(crate) method: Option<String>,
    /// `None`: of several paths.
    pub(crate) path: Option<String>,
}

impl Label {
    /// `GET /users/{id}`; what is beyond the limits is in `GET (others)` or `(others)`.
    pub(crate) fn name(&self) -> String {
        match (&self.method, &self.path) {
            (Some(method), Some(path)) => format!("{method} {path}"),
            (Some(method), None) => format!("{method} (others)"),
            (None, _) => "(others)".to_owned(),
        }
    }
}

/// Gives requests their endpoint while a run is planned. Those that a threshold names keep theirs
/// beyond the limit.
#[derive(Debug)]
pub(crate) struct Endpoints {
    labels: Vec<Label>,
    ids: HashMap<String, EndpointId>,
    pinned_methods: Vec<String>,
    pinned_paths: Vec<String>,
}

impl Endpoints {
    /// Endpoints that are told apart: a report is for people, and each costs every worker 30 KiB.
    pub(crate) const MAX: usize = 200;
    /// With those that thresholds name: a stranger's methods could make many of one path.
    const MAX_PINNED: usize = 2 * Self::MAX;
    const METHODS: [&str; 9] = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
    ];

    pub(crate) fn new(pinned_methods: Vec<String>, pinned_paths: Vec<String>) -> Self {
        Self {
            labels: Vec::new(),
            ids: HashMap::new(),
            pinned_methods,
            pinned_paths,
        }
    }

    pub(crate) fn id(&mut self, method: &[u8], target: &[u8]) -> EndpointId {
        let method = String::from_utf8_lossy(method).into_owned();
        let known =
            Self::METHODS.contains(&method.as_str()) || self.pinned_methods.contains(&method);
        if !known {
            return self.intern(Label::default());
        }
        let path = path_template(target);
        let name = format!("{method} {path}");
        if let Some(id) = self.ids.get(&name) {
            return *id;
        }
        let limit = if self.pinned_paths.contains(&path) || self.pinned_paths.contains(&name) {
            Self::MAX_PINNED
        } else {
            Self::MAX
        };
        let path = (self.labels.len() < limit).then_some(path);
        self.intern(Label {
            method: Some(method),
            path,
        })
    }

    pub(crate) fn labels(&self) -> &[Label] {
        &self.labels
    }

    fn intern(&mut self, label: Label) -> EndpointId {
        let next = EndpointId(u16::try_from(self.labels.len()).unwrap_or(u16::MAX));
        let id = *self.ids.entry(label.name()).or_insert(next);
        if id == next {
            self.labels.push(label);
        }
        id
    }
}

/// What a worker counted and measured of one endpoint.
#[derive(Clone, Debug)]
pub struct Signals {
    /// Requests that were sent.
    pub sent: u64,
    /// Requests that were sent, or could not be; those that a stop kept back are not in it.
    pub attempted: u64,
    /// Of those attempted: unanswered, answered outside of 200 to 399, or with a gRPC status other than OK.
    pub failed: u64,
    /// From the due time to the last byte of the answer; percentiles to two digits.
    pub duration: Trend,
}

impl Signals {
    pub(crate) fn new() -> Self {
        Self {
            sent: 0,
            attempted: 0,
            failed: 0,
            duration: Trend::coarse(),
        }
    }

    pub(crate) fn record(&mut self, sample: &Sample) {
        self.sent += u64::from(sample.sent);
        self.attempted += u64::from(!sample.stopped);
        self.failed += u64::from(sample.failed());
        if let Some(duration) = sample.measures.http_req_duration {
            self.duration.record(duration);
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        let Self {
            sent,
            attempted,
            failed,
            duration,
        } = other;
        self.sent += sent;
        self.attempted += attempted;
        self.failed += failed;
        self.duration.merge(duration);
    }

    pub(crate) fn to_json(&self, name: &str, seconds: f64) -> Value {
        let millis = |percent| self.duration.percentile(percent).as_secs_f64() * 1e3;
        let rate = if seconds > 0.0 {
            self.sent as f64 / seconds
        } else {
            0.0
        };
        json!({
            "endpoint": name,
            "count": self.sent,
            "rate": rate,
            "attempted": self.attempted,
            "failed": self.failed,
            "p50": millis(50.0),
            "p95": millis(95.0),
            "p99": millis(99.0),
            "max": self.duration.max().as_secs_f64() * 1e3,
        })
    }
}

/// What a worker counted and measured of one scenario.
#[derive(Clone, Debug)]
pub struct ScenarioSignals {
    /// Its requests.
    pub requests: Signals,
    /// Iterations that came to their end.
    pub iterations: u64,
    /// Iterations that were given up in the middle: their time was over, or the run was stopped.
    pub interrupted: u64,
    /// Iterations that did not begin: no user was free, or the time was over before.
    pub dropped: u64,
    /// From their beginning to their end, without those interrupted; percentiles to two digits.
    pub iteration_duration: Trend,
}

impl ScenarioSignals {
    pub(crate) fn new() -> Self {
        Self {
            requests: Signals::new(),
            iterations: 0,
            interrupted: 0,
            dropped: 0,
            iteration_duration: Trend::coarse(),
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        let Self {
            requests,
            iterations,
            interrupted,
            dropped,
            iteration_duration,
        } = other;
        self.requests.merge(requests);
        self.iterations += iterations;
        self.interrupted += interrupted;
        self.dropped += dropped;
        self.iteration_duration.merge(iteration_duration);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_one_template_share_an_endpoint() {
        let mut endpoints = Endpoints::new(Vec::new(), Vec::new());
        let a = endpoints.id(b"GET", b"/users/1?x");
        assert_eq!(endpoints.id(b"GET", b"/users/2"), a);
        assert_ne!(endpoints.id(b"POST", b"/users/2"), a);
        let names: Vec<_> = endpoints.labels().iter().map(Label::name).collect();
        assert_eq!(names, ["GET /users/{id}", "POST /users/{id}"]);
    }

    #[test]
    fn strangers_cannot_make_endpoints_without_end() {
        let mut endpoints = Endpoints::new(vec!["PURGE".into()], vec!["/pay".into()]);
        for n in 0..10 * Endpoints::MAX {
            let path = format!("/p{n}x");
            endpoints.id(b"GET", path.as_bytes());
            endpoints.id(format!("M{n}").as_bytes(), path.as_bytes());
        }
        // The others of each known method, and those of all unknown ones.
        assert!(endpoints.labels().len() <= Endpoints::MAX + 2);
        let pay = endpoints.id(b"PURGE", b"/pay");
        assert_eq!(endpoints.labels()[pay.index()].name(), "PURGE /pay");
        let other = endpoints.id(b"PURGE", b"/other");
        assert_eq!(endpoints.labels()[other.index()].name(), "PURGE (others)");
    }
}
