//! The results of a run, for machines and for people.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::player::duration::show;
use crate::player::endpoints::{ScenarioSignals, Signals};
use crate::player::observe::TargetUse;
use crate::player::outcome::NeverSent;
use crate::player::query::QueryUse;
use crate::player::scenario::SessionKey;
use crate::player::schedule::{LeftOutCounts, Speed};
use crate::player::stop::Stop;
use crate::player::summary::{Evidence, State};
use crate::player::tally::{Tally, Trend};
use crate::player::threshold::Verdict;

/// A scenario as it was planned.
#[derive(Clone, Debug)]
pub struct ScenarioPlan {
    /// Its name.
    pub name: String,
    /// The name of its executor.
    pub executor: String,
    /// What it does, in words.
    pub text: String,
    /// Whether what it sends is due whatever the target does.
    pub is_open: bool,
    /// How fast recorded time passes; `None`: it keeps no recorded instants.
    pub speed: Option<Speed>,
    /// When it begins.
    pub start: Duration,
    /// How long its last iterations may go on.
    pub graceful_stop: Duration,
    /// Recorded sessions that its iterations choose from; 0: an iteration is one exchange of the
    /// schedule.
    pub sessions: usize,
    /// Recorded exchanges in these, or in its schedule.
    pub exchanges: usize,
    /// What is to be from when on, in words.
    pub timetable: Vec<(Duration, String)>,
}

impl fmt::Display for ScenarioPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.name, self.text, self.executor)?;
        if self.sessions > 0 {
            let (sessions, exchanges) = (self.sessions, self.exchanges);
            write!(f, ", from {sessions} sessions of {exchanges} exchanges")?;
        } else {
            write!(f, ", {} exchanges", self.exchanges)?;
        }
        if !self.start.is_zero() {
            write!(f, ", from {} on", show(self.start))?;
        }
        writeln!(f)
    }
}

/// Users that were active, as k6 tells them: looked at each second.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Vus {
    /// At the last look.
    pub last: u64,
    /// The fewest.
    pub least: u64,
    /// The most.
    pub most: u64,
}

/// The results of a run.
///
/// Where all scenarios keep the recorded schedule, every exchange is in it exactly once:
///
/// ```text
/// recorded = sent + never sent + left out      sent = answered + failed
/// ```
///
/// Where users repeat what was recorded, only the second holds.
#[derive(Clone, Debug)]
pub struct Report {
    /// Where the requests went.
    pub target: String,
    /// The load models.
    pub scenarios: Vec<ScenarioPlan>,
    /// What told users apart; `None`: nobody asked.
    pub session_key: Option<SessionKey>,
    /// The users that were active.
    pub vus: Vus,
    /// The users that there were, active or not.
    pub vus_max: u64,
    /// How many connections shared them; `None`: as recorded.
    pub pooled: Option<u32>,
    /// How many threads sent.
    pub workers: u32,
    /// Exchanges in the archive.
    pub recorded: u64,
    /// Of these: not meant to be sent, and why.
    pub left_out: LeftOutCounts,
    /// When the last request was due, counted from the start.
    pub planned: Duration,
    /// How long the run took.
    pub elapsed: Duration,
    /// Processor time of the player's process meanwhile.
    pub cpu: Duration,
    /// Whether it was stopped early.
    pub stopped: Stop,
    /// What was counted and measured.
    pub tally: Tally,
    /// The names of the endpoints of [`Tally::endpoints`].
    pub endpoints: Vec<String>,
    /// What became of the thresholds, in the order of the options.
    pub thresholds: Vec<Verdict>,
    /// What the target took, where it was observed; one of each process that did.
    pub target_use: Vec<TargetUse>,
    /// What Prometheus said of it, where it was asked; one of each process that did.
    pub target_queries: Vec<QueryUse>,
    pub(crate) evidence: Evidence,
}

impl Report {
    /// Requests that would have been answered by a target in good health, as far as the player can
    /// tell: all but those that it was told not to send.
    #[must_use]
    pub fn attempted(&self) -> u64 {
        let tally = &self.tally;
        tally.sent() + tally.never_sent.total() - tally.never_sent.of(NeverSent::Stopped)
    }

    /// Attempted requests without an answer, or with one outside of 200 to 399: what k6 counts as
    /// failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.attempted() - self.tally.answered() + self.tally.unexpected_statuses()
    }

    /// Whether every threshold holds.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.thresholds.iter().all(|verdict| verdict.ok)
    }

    /// The endpoints that were tried, those with the most requests first.
    #[must_use]
    pub fn by_endpoint(&self) -> Vec<(&str, &Signals)> {
        let signals = self.tally.endpoints.iter().map(Option::as_deref);
        let named = self.endpoints.iter().map(String::as_str).zip(signals);
        let mut tried: Vec<_> = named
            .filter_map(|(name, signals)| Some((name, signals?)))
            .collect();
        tried.sort_by_key(|(name, signals)| (std::cmp::Reverse(signals.attempted), *name));
        tried
    }

    /// Processor time in which there was something to do.
    pub(crate) const fn busy(&self) -> Duration {
        self.cpu.saturating_sub(self.tally.polled)
    }

    /// The share of time in which the player was busy: 1 is one whole processor.
    #[must_use]
    pub fn cpu_share(&self) -> f64 {
        ratio(self.busy().as_secs_f64(), self.elapsed.as_secs_f64())
    }

    /// The summary, in the shape of k6's `handleSummary`: `metrics.NAME.{type,contains,values}`,
    /// times in milliseconds.
    ///
    /// | metric | type | what |
    /// |---|---|---|
    /// | `http_reqs` | counter | requests sent |
    /// | `iterations` | counter | iterations that came to their end; of a recorded schedule each request is one |
    /// | `dropped_iterations` | counter | iterations that did not begin |
    /// | `vus`, `vus_max` | gauge | active users; users that there were |
    /// | `iteration_duration` | trend | as in k6 |
    /// | `data_sent`, `data_received` | counter | bytes on all connections |
    /// | `http_req_failed` | rate | of those attempted: unanswered, or answered outside of 200 to 399 |
    /// | `grpc_req_failed` | rate | ours: of the gRPC calls that were answered: with another status than OK |
    /// | `grpc_req_duration` | trend | `http_req_duration` of gRPC calls |
    /// | `http_req_duration` | trend | from the **due time** to the last byte; k6 counts from the sending |
    /// | `http_req_blocked`, `_connecting`, `_tls_handshaking`, `_sending`, `_waiting`, `_receiving` | trend | as in k6, but `_blocked` includes `_connecting` and `_tls_handshaking` |
    /// | `service_time` | trend | ours: what k6 calls `http_req_duration` |
    /// | `schedule_lag` | trend | ours: the player's own lateness |
    /// | `status_as_recorded` | rate | ours: answers with the recorded status |
    ///
    /// What has no place in a metric stands in `tapedeck`: `requests` (with `recorded = sent +
    /// never_sent + left_out` and `sent = answered + failed`), `statuses`, `grpc_statuses`, `failures`, `never_sent`
    /// and `left_out` by kind, `first_causes` (what was said about the first of each kind),
    /// `comparison` with the recorded statuses, `saturation` of the player, `target_use` of a target
    /// that was observed, `target_queries` of what Prometheus said of it, and `state`, from which
    /// [`Report::merge`] adds up what several processes measured.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let tally = &self.tally;
        let mut metrics = Map::new();
        let counter = |contains: &str, n: u64| {
            json!({
                "type": "counter",
                "contains": contains,
                "values": { "count": n, "rate": self.per_second(n) },
            })
        };
        metrics.insert("http_reqs".into(), counter("default", tally.sent()));
        metrics.insert("iterations".into(), counter("default", tally.iterations()));
        metrics.insert(
            "dropped_iterations".into(),
            counter("default", tally.dropped()),
        );
        metrics.insert("data_sent".into(), counter("data", tally.bytes_sent));
        metrics.insert(
            "data_received".into(),
            counter("data", tally.bytes_received),
        );
        metrics.insert(
            "http_req_failed".into(),
            rate(self.failed(), self.attempted()),
        );
        let (failed, calls) = tally.grpc_failed();
        metrics.insert("grpc_req_failed".into(), rate(failed, calls));
        let compared = tally.comparison.same + tally.comparison.different;
        metrics.insert(
            "status_as_recorded".into(),
            rate(tally.comparison.same, compared),
        );
        for (name, trend) in tally.trends.iter() {
            metrics.insert(name.into(), trend_json(trend));
        }
        let gauge = |value: f64| json!({ "type": "gauge", "contains": "default", "values": { "value": value } });
        metrics.insert(
            "connections_peak".into(),
            gauge(tally.peak_connections as f64),
        );
        metrics.insert("in_flight_peak".into(), gauge(tally.peak_in_flight as f64));
        metrics.insert("cpu_share".into(), gauge(self.cpu_share()));
        if self.vus_max > 0 {
            let Vus { last, least, most } = self.vus;
            for (name, value, min, max) in [
                ("vus", last, least, most),
                ("vus_max", self.vus_max, self.vus_max, self.vus_max),
            ] {
                let values = json!({ "value": value, "min": min, "max": max });
                let metric = json!({ "type": "gauge", "contains": "default", "values": values });
                metrics.insert(name.into(), metric);
            }
        }
        self.insert_thresholds(&mut metrics);
        let mut summary = json!({
            "metrics": metrics,
            "state": {
                "testRunDurationMs": millis(self.elapsed),
            },
            "tapedeck": self.own_json(),
        });
        shorten_numbers(&mut summary);
        summary
    }

    /// As k6 has them: `metrics.NAME.thresholds.EXPRESSION.ok`. A metric with tags is one of its
    /// own, with its parent's type, and with the values that thresholds asked for.
    fn insert_thresholds(&self, metrics: &mut Map<String, Value>) {
        for verdict in &self.thresholds {
            let parent = verdict.series.split('{').next().unwrap_or_default().trim();
            let copied = |name: &str| metrics.get(parent)?.get(name).cloned();
            let (kind, contains) = (copied("type"), copied("contains"));
            let metric = metrics
                .entry(verdict.series.clone())
                .or_insert_with(|| json!({ "type": kind, "contains": contains, "values": {} }));
            metric["values"][&verdict.aggregation] = verdict.value.into();
            metric["thresholds"][&verdict.expression] = json!({ "ok": verdict.ok });
        }
    }

    fn own_json(&self) -> Value {
        let tally = &self.tally;
        let named = |counts: &mut dyn Iterator<Item = (&'static str, u64)>| {
            counts
                .map(|(name, n)| (name.to_owned(), n.into()))
                .collect::<Map<String, Value>>()
        };
        let failures = tally.failures.iter().map(|(kind, n)| (kind.name(), n));
        let never_sent = tally.never_sent.iter().map(|(kind, n)| (kind.name(), n));
        let left_out = self.left_out.iter().map(|(kind, n)| (kind.name(), n));
        let statuses: BTreeMap<String, u64> = tally
            .statuses
            .iter()
            .map(|(status, n)| (status.to_string(), *n))
            .collect();
        let changes: Vec<Value> = tally
            .comparison
            .changes
            .iter()
            .map(|((recorded, now), n)| json!({ "recorded": recorded, "now": now, "count": n }))
            .collect();
        json!({
            "target": self.target,
            "speed": self.single_speed().map(|speed| speed.to_string()),
            "loop": if self.scenarios.iter().all(|s| s.is_open) { "open" } else { "closed" },
            "session_by": self.session_key.as_ref().map(ToString::to_string),
            "scenarios": self.scenarios_json(),
            "connection_use": match self.pooled { None => "recorded", Some(_) => "pooled" },
            "pool_size": self.pooled,
            "workers": self.workers,
            "stopped_early": self.stopped != Stop::Run,
            "planned_ms": millis(self.planned),
            "requests": {
                "recorded": self.recorded,
                "sent": tally.sent(),
                "answered": tally.answered(),
                "failed": tally.failures.total(),
                "never_sent": tally.never_sent.total(),
                "left_out": self.left_out.total(),
                "resent": tally.resent,
            },
            "statuses": statuses,
            "grpc_statuses": (tally.grpc.iter())
                .map(|(status, n)| (status.name().to_owned(), (*n).into()))
                .collect::<Map<String, Value>>(),
            "failures": named(&mut failures.into_iter()),
            "never_sent": named(&mut never_sent.into_iter()),
            "left_out": named(&mut left_out.into_iter()),
            "first_causes": tally.first_causes,
            "endpoints": self
                .by_endpoint()
                .into_iter()
                .map(|(name, signals)| signals.to_json(name, self.elapsed.as_secs_f64()))
                .collect::<Vec<_>>(),
            "comparison": {
                "same": tally.comparison.same,
                "different": tally.comparison.different,
                "unknown": tally.comparison.unknown,
                "changes": changes,
                "other_changes": tally.comparison.other_changes,
            },
            "saturation": {
                "cpu_seconds": self.cpu.as_secs_f64(),
                "polling_seconds": tally.polled.as_secs_f64(),
                "cpu_share": self.cpu_share(),
                "connections_opened": tally.connections,
                "connections_peak": tally.peak_connections,
                "in_flight_peak": tally.peak_in_flight,
            },
            "target_use": self.target_use,
            "target_queries": self.target_queries,
            "state": State::of(self),
        })
    }

    fn scenarios_json(&self) -> Vec<Value> {
        let seconds = self.elapsed.as_secs_f64();
        let nothing = ScenarioSignals::new();
        let one = |(index, plan): (usize, &ScenarioPlan)| {
            let signals = self.tally.scenarios.get(index).unwrap_or(&nothing);
            json!({
                "scenario": plan.name,
                "executor": plan.executor,
                "text": plan.text,
                "sessions": plan.sessions,
                "iterations": signals.iterations,
                "interrupted_iterations": signals.interrupted,
                "dropped_iterations": signals.dropped,
                "requests": signals.requests.to_json(&plan.name, seconds),
            })
        };
        self.scenarios.iter().enumerate().map(one).collect()
    }

    /// Of a run whose only scenario keeps the recorded instants.
    fn single_speed(&self) -> Option<Speed> {
        match self.scenarios.as_slice() {
            [only] => only.speed,
            _ => None,
        }
    }

    fn header(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (recorded, target) = (self.recorded, &self.target);
        writeln!(f, "Replay of {recorded} exchanges to {target}")?;
        let elapsed = Short(self.elapsed);
        match self.single_speed() {
            Some(speed @ Speed::Times(_)) => writeln!(
                f,
                "  {:<22}{speed} (open loop), {elapsed} for {} planned",
                "Speed",
                Short(self.planned)
            ),
            Some(Speed::Max) => writeln!(
                f,
                "  {:<22}max (closed loop, due when a connection is free), {elapsed}",
                "Speed"
            ),
            None => {
                writeln!(
                    f,
                    "  {:<22}{elapsed} for {} planned",
                    "Scenarios",
                    Short(self.planned)
                )?;
                self.scenarios_text(f)
            }
        }
    }

    fn scenarios_text(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nothing = ScenarioSignals::new();
        for (index, plan) in self.scenarios.iter().enumerate() {
            write!(f, "    {plan}")?;
            let signals = self.tally.scenarios.get(index).unwrap_or(&nothing);
            writeln!(
                f,
                "      {} iterations, {} interrupted, {} dropped; {} requests, p95 {}",
                signals.iterations,
                signals.interrupted,
                signals.dropped,
                signals.requests.sent,
                Short(signals.requests.duration.percentile(95.0)),
            )?;
        }
        match &self.session_key {
            Some(key) => writeln!(f, "    users are told apart by {key}"),
            None => Ok(()),
        }
    }

    fn per_second(&self, n: u64) -> f64 {
        ratio(n as f64, self.elapsed.as_secs_f64())
    }

    fn latency(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trends = &self.tally.trends;
        writeln!(
            f,
            "  {:<22}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "Latency", "avg", "p50", "p90", "p99", "p99.9", "max"
        )?;
        for (name, trend) in [
            ("from due time", &trends.http_req_duration),
            ("service time", &trends.service_time),
        ] {
            write!(f, "    {name:<20}{:>10}", Short(trend.mean()).to_string())?;
            for percent in [50.0, 90.0, 99.0, 99.9] {
                write!(f, "{:>10}", Short(trend.percentile(percent)).to_string())?;
            }
            writeln!(f, "{:>10}", Short(trend.max()).to_string())?;
        }
        Ok(())
    }

    fn endpoints(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// For people; the summary has them all.
        const SHOWN: usize = 20;
        let endpoints = self.by_endpoint();
        let names = endpoints.iter().take(SHOWN).map(|(name, _)| name);
        let width = names.map(|name| name.chars().count()).max().unwrap_or(0);
        let width = width.clamp(20, 60);
        let first = width + 2;
        writeln!(
            f,
            "  {:<first$}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "Endpoints", "count", "rate/s", "p50", "p95", "p99", "failed",
        )?;
        for (name, signals) in endpoints.iter().take(SHOWN) {
            let rate = self.per_second(signals.sent);
            write!(f, "    {name:<width$}{:>10}{rate:>10.1}", signals.sent)?;
            for percent in [50.0, 95.0, 99.0] {
                let value = Short(signals.duration.percentile(percent));
                write!(f, "{:>10}", value.to_string())?;
            }
            writeln!(f, "{:>10}", signals.failed)?;
        }
        if let Some(more) = endpoints.len().checked_sub(SHOWN + 1) {
            writeln!(f, "    and {} more", more + 1)?;
        }
        Ok(())
    }

    fn write_thresholds(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.thresholds.is_empty() {
            return Ok(());
        }
        writeln!(f, "  Thresholds")?;
        let mut series: Vec<&str> = Vec::new();
        for verdict in &self.thresholds {
            if !series.contains(&verdict.series.as_str()) {
                series.push(&verdict.series);
            }
        }
        for series in series {
            writeln!(f, "    {series}")?;
            for verdict in self.thresholds.iter().filter(|v| v.series == series) {
                writeln!(f, "      {verdict}")?;
            }
        }
        Ok(())
    }

    fn target_use(&self, target: &TargetUse, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "  {:<22}{}: {:.2} processors, {:.2} at most; {:.1} MiB at most",
            "Saturation of target",
            target.what,
            target.cpu_mean,
            target.cpu_max,
            target.memory_max as f64 / f64::from(1 << 20),
        )?;
        match target.waiting_mean {
            Some(waiting) => writeln!(f, "; waited {:.0} % of the time", 100.0 * waiting),
            None => writeln!(f),
        }
    }

    fn losses(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = &self.tally;
        let failures = tally.failures.iter().map(|(kind, n)| (kind.name(), n));
        let never_sent = tally.never_sent.iter().map(|(kind, n)| (kind.name(), n));
        for (title, kinds) in [
            ("Failed", failures.collect::<Vec<_>>()),
            ("Never sent", never_sent.collect()),
        ] {
            let total: u64 = kinds.iter().map(|(_, n)| n).sum();
            if total == 0 {
                continue;
            }
            writeln!(f, "  {title:<22}{total}")?;
            for (kind, n) in kinds.into_iter().filter(|(_, n)| *n > 0) {
                write!(f, "    {:<20}{n}", kind.replace('_', " "))?;
                match tally.first_causes.get(kind) {
                    Some(cause) => writeln!(f, "  (first: {cause})")?,
                    None => writeln!(f)?,
                }
            }
        }
        if self.left_out.total() > 0 {
            let kinds: Vec<_> = self
                .left_out
                .iter()
                .filter(|(_, n)| *n > 0)
                .map(|(kind, n)| format!("{n} {}", kind.name().replace('_', " ")))
                .collect();
            let total = self.left_out.total();
            writeln!(f, "  {:<22}{total}  ({})", "Left out", kinds.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = &self.tally;
        let (sent, answered) = (tally.sent(), tally.answered());
        self.header(f)?;
        writeln!(
            f,
            "  {:<22}{:.1} requests/s, {sent} sent, {answered} answered",
            "Throughput",
            self.per_second(sent),
        )?;
        self.latency(f)?;
        let succeeded = self.attempted() - self.failed();
        writeln!(
            f,
            "  {:<22}{:.2} % ({succeeded} of {} answered with 2xx or 3xx)",
            "Success rate",
            100.0 * ratio(succeeded as f64, self.attempted() as f64),
            self.attempted(),
        )?;
        let statuses: Vec<_> = tally
            .statuses
            .iter()
            .map(|(status, n)| format!("{status}: {n}"))
            .collect();
        if !statuses.is_empty() {
            writeln!(f, "  {:<22}{}", "Statuses", statuses.join(", "))?;
        }
        let calls: Vec<_> = tally
            .grpc
            .iter()
            .map(|(status, n)| format!("{}: {n}", status.name()))
            .collect();
        if !calls.is_empty() {
            writeln!(f, "  {:<22}{}", "gRPC calls", calls.join(", "))?;
        }
        let comparison = &tally.comparison;
        writeln!(
            f,
            "  {:<22}{} the same, {} different",
            "Against the recording", comparison.same, comparison.different
        )?;
        for ((recorded, now), n) in comparison.changes.iter().take(8) {
            writeln!(f, "    {:<20}{n}", format!("{recorded} became {now}"))?;
        }
        self.endpoints(f)?;
        self.losses(f)?;
        let lag = &tally.trends.schedule_lag;
        writeln!(
            f,
            "  {:<22}lag p99 {}, max {}; {:.0} % of a processor; {} connections, {} at once, {} requests in flight at most",
            "Saturation of player",
            Short(lag.percentile(99.0)),
            Short(lag.max()),
            100.0 * self.cpu_share(),
            tally.connections,
            tally.peak_connections,
            tally.peak_in_flight,
        )?;
        for target in &self.target_use {
            self.target_use(target, f)?;
        }
        for query in &self.target_queries {
            write!(f, "  {:<22}{}: ", "Query", query.query)?;
            match (query.mean, query.min, query.max) {
                (Some(mean), Some(min), Some(max)) => {
                    writeln!(f, "mean {mean:.4}, min {min:.4}, max {max:.4}")?;
                }
                _ => writeln!(f, "no number in {} answers", query.without)?,
            }
        }
        self.write_thresholds(f)?;
        if self.stopped != Stop::Run {
            writeln!(
                f,
                "  Stopped early: these results are of a part of the recording."
            )?;
        }
        Ok(())
    }
}

/// A duration with three digits and the unit that suits it.
struct Short(Duration);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        let (value, unit) = match seconds {
            1.0.. => (seconds, "s"),
            1e-3.. => (seconds * 1e3, "ms"),
            _ => (seconds * 1e6, "us"),
        };
        let digits = match value {
            100.0.. => 0,
            10.0.. => 1,
            _ => 2,
        };
        write!(f, "{value:.digits$}{unit}")
    }
}

/// As JavaScript, and so k6, writes numbers: 24, and not 24.0, wherever it comes from.
fn shorten_numbers(value: &mut Value) {
    /// Whole numbers beyond are not exact.
    const EXACT: f64 = (1_u64 << 53) as f64;
    match value {
        Value::Number(number) => {
            if let Some(whole) = number.as_f64().filter(|_| number.is_f64())
                && whole.fract() == 0.0
                && whole.abs() <= EXACT
            {
                *number = (whole as i64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(shorten_numbers),
        Value::Object(fields) => fields.values_mut().for_each(shorten_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

fn trend_json(trend: &Trend) -> Value {
    json!({
        "type": "trend",
        "contains": "time",
        "values": {
            "count": trend.count(),
            "avg": millis(trend.mean()),
            "min": millis(trend.min()),
            "med": millis(trend.percentile(50.0)),
            "max": millis(trend.max()),
            "p(90)": millis(trend.percentile(90.0)),
            "p(95)": millis(trend.percentile(95.0)),
            "p(99)": millis(trend.percentile(99.0)),
            "p(99.9)": millis(trend.percentile(99.9)),
        },
    })
}

/// k6 names those for which the statement holds `passes`, also in `http_req_failed`.
fn rate(passes: u64, of: u64) -> Value {
    json!({
        "type": "rate",
        "contains": "default",
        "values": {
            "rate": ratio(passes as f64, of as f64),
            "passes": passes,
            "fails": of.saturating_sub(passes),
        },
    })
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
