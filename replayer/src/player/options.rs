//! What a run is asked to do.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use tapedeck_filter::Filter;

use crate::player::observe::Observe;
use crate::player::query::Query;
use crate::player::resolve::Resolve;
use crate::player::scenario::{Executor, Scenario, SessionKey};
use crate::player::schedule::Speed;
use crate::player::target::{Route, Target};
use crate::player::threshold::Threshold;
use crate::player::tls::TlsOptions;

/// Everything that a run is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the requests go.
    pub target: Target,
    /// Where the requests of some recorded authorities go instead.
    pub routes: Vec<Route>,
    /// Names whose addresses are not looked up.
    pub resolve: Vec<Resolve>,
    /// How long the addresses of a name are used before it is looked up again: a target that is moved or scaled out
    /// while the run lasts is followed.
    pub dns_ttl: Duration,
    /// Whom to believe over TLS.
    pub tls: TlsOptions,
    /// Fields that are sent with every request, in place of those of the same name.
    pub headers: Vec<(String, String)>,
    /// Fields that are not sent.
    pub removed_headers: Vec<String>,
    /// How fast, where there are no [`Options::scenarios`].
    pub speed: Speed,
    /// Nothing is sent that is due later, where there are no [`Options::scenarios`].
    pub duration: Option<Duration>,
    /// The load models; empty: everything as recorded.
    pub scenarios: Vec<Scenario>,
    /// What tells users apart; `None`: whatever the recording shows.
    pub session_by: Option<SessionKey>,
    /// How connections are used again.
    pub reuse: Reuse,
    /// No iteration of a user is followed by its next sooner than this after its beginning.
    pub min_iteration: Duration,
    /// How many requests of users may begin in a second; `None`: as many as they want to. What waits for its turn is due
    /// then. Requests at recorded instants are not held back.
    pub max_rate: Option<NonZeroU64>,
    /// How many connections to share. `None`: as recorded, and [`Options::MAX_SPEED_CONNECTIONS`]
    /// at [`Speed::Max`].
    pub connections: Option<NonZeroU32>,
    /// At [`Speed::Max`] over HTTP/2: how many requests are open at once on each connection.
    pub streams: NonZeroU32,
    /// How long one request may take, from the moment the player turns to it until its answer is
    /// whole.
    pub timeout: Duration,
    /// Send the recorded `Host` and `:authority`, not those of the target.
    pub preserve_host: bool,
    /// How many threads send. `None`: one for each processor, [`Options::MAX_WORKERS`] at most.
    pub workers: Option<NonZeroU32>,
    /// Which exchanges are meant; `None`: all.
    pub filter: Option<Filter>,
    /// Tell of every second ([`Progress::seconds`](crate::player::Progress::seconds)).
    pub every_second: bool,
    /// Send also what was not recorded whole, as far as it was: without the bytes of its body, and the
    /// fields, that are missing.
    pub include_incomplete: bool,
    /// Whose use of processor and memory is told beside the rest.
    pub observe: Option<Observe>,
    /// What Prometheus is asked of the target, about every second.
    pub observe_query: Option<Query>,
    /// What must hold; those that may end the run are looked at every 2 s, as in k6.
    pub thresholds: Vec<Threshold>,
    /// What the run may use.
    pub limits: Limits,
}

impl Options {
    /// Connections at [`Speed::Max`] when none are asked for: enough to keep a server on one
    /// machine busy, few enough for its default accept queue.
    pub const MAX_SPEED_CONNECTIONS: NonZeroU32 = NonZeroU32::new(64).expect("not zero");
    /// Streams of a connection at [`Speed::Max`] when none are asked for: below the 100 that
    /// servers allow at least (RFC 9113 section 6.5.2).
    pub const MAX_SPEED_STREAMS: NonZeroU32 = NonZeroU32::new(32).expect("not zero");
    /// A tenth of k6's, which tests less that changes.
    pub const DNS_TTL: Duration = Duration::from_secs(30);
    /// k6's default.
    pub const TIMEOUT: Duration = Duration::from_secs(60);
    /// More threads than this have never been measured.
    pub const MAX_WORKERS: u32 = 16;

    /// More have no place in one report.
    pub const MAX_SCENARIOS: usize = 100;
    /// The name of the scenario that is made of [`Options::speed`].
    pub const RECORDED: &'static str = "recorded";

    /// The load models of the run.
    pub(crate) fn all_scenarios(&self) -> Vec<Scenario> {
        if !self.scenarios.is_empty() {
            return self.scenarios.clone();
        }
        let executor = Executor::Recorded {
            speed: self.speed,
            duration: self.duration,
        };
        vec![Scenario::new(Self::RECORDED, executor)]
    }

    /// A run at recorded speed, on recorded connections.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self {
            target,
            routes: Vec::new(),
            resolve: Vec::new(),
            dns_ttl: Self::DNS_TTL,
            tls: TlsOptions::default(),
            headers: Vec::new(),
            removed_headers: Vec::new(),
            speed: Speed::RECORDED,
            duration: None,
            scenarios: Vec::new(),
            session_by: None,
            reuse: Reuse::Always,
            min_iteration: Duration::ZERO,
            max_rate: None,
            connections: None,
            streams: Self::MAX_SPEED_STREAMS,
            timeout: Self::TIMEOUT,
            preserve_host: false,
            workers: None,
            filter: None,
            every_second: false,
            include_incomplete: false,
            observe: None,
            observe_query: None,
            thresholds: Vec::new(),
            limits: Limits::default(),
        }
    }
}

/// How connections are used again.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Reuse {
    /// As long as both sides want to.
    #[default]
    Always,
    /// Not by another iteration: k6's `noVUConnectionReuse`.
    WithinIteration,
    /// By no other request: k6's `noConnectionReuse`.
    Never,
}

/// What a run may use. What would exceed a limit is never sent, and counted.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once. The default leaves most of the 28,000 ports that Linux has for
    /// one address of a target to connections that are still closing (TIME_WAIT).
    pub connections: u32,
    /// Requests in flight at once: a target that stalls at 10,000 requests/s reaches the default
    /// in ten seconds; each takes about 2 KiB.
    pub in_flight: u32,
    /// Bytes of requests that are prepared or in flight: recorded uploads may be long.
    pub request_bytes: u64,
    /// Bytes of requests that are made ready before the run, where iterations send them again and again: 100,000
    /// of 400 bytes. Connections take from it, so that with 10,000 of them the player stays below 100 MiB.
    pub ahead_bytes: u64,
}

impl Limits {
    /// What is left of [`Limits::ahead_bytes`] beside so many connections: each takes 2 KiB of it, of the
    /// about 5 that it needs.
    pub(crate) fn ahead_beside(&self, connections: u64) -> u64 {
        self.ahead_bytes
            .saturating_sub(connections.saturating_mul(2 << 10))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            in_flight: 100_000,
            request_bytes: 512 << 20,
            ahead_bytes: 52 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_take_from_what_is_made_ready() {
        let limits = Limits::default();
        assert_eq!(limits.ahead_beside(0), limits.ahead_bytes);
        assert!(limits.ahead_beside(10_000) > limits.ahead_bytes / 2);
        assert_eq!(limits.ahead_beside(1 << 20), 0);
    }
}
