use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tapedeck_archive::{Archive, Row};
use tapedeck_interchange::{header_text, rfc3339};
use tapedeck_model::{Ledger, Timestamp};

use super::Chosen;
use super::connections::{self, Sum};
use crate::args::{self, Format};
use crate::output;

pub(crate) fn run(args: &args::Stats) -> Result<ExitCode> {
    let archive = super::open(&args.archive, &args.identity)?;
    let chosen = Chosen::new(&archive, args.filter.as_ref());
    let mut stats = Stats::new(&archive);
    for row in chosen.rows() {
        stats.add(&row);
    }
    let mut report = stats.report();
    report.tls_unread = connections::sums(&archive)?;
    let mut out = BufWriter::new(io::stdout().lock());
    match args.format {
        Format::Table => table(&report, &mut out)?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut out, &report)?;
            writeln!(out)?;
        }
    }
    out.flush()?;
    chosen.finish()
}

/// Endpoints that are told apart; the rest is summed up in one line. Paths come from strangers.
const MAX_ENDPOINTS: usize = 1000;

struct Stats<'a> {
    ledger: &'a Ledger,
    endpoints: BTreeMap<String, Sums>,
    all: Sums,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
}

#[derive(Default)]
struct Sums {
    exchanges: u64,
    incomplete: u64,
    request_bytes: u64,
    response_bytes: u64,
    statuses: BTreeMap<u16, u64>,
    /// Nanoseconds.
    durations: Vec<u64>,
}

#[derive(Debug, Serialize)]
struct Report {
    /// RFC 3339; of the first byte of the first exchange, and the last byte of the last.
    first: Option<String>,
    last: Option<String>,
    #[serde(flatten)]
    all: Line,
    endpoints: Vec<Line>,
    tls_unread: Vec<Sum>,
    ledger: BTreeMap<&'static str, u64>,
    anomalies: BTreeMap<&'static str, u64>,
    #[serde(skip)]
    losses: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Line {
    #[serde(skip_serializing_if = "String::is_empty")]
    endpoint: String,
    exchanges: u64,
    incomplete: u64,
    request_body_bytes: u64,
    response_body_bytes: u64,
    statuses: BTreeMap<u16, u64>,
    /// Seconds, as all that follow.
    p50: Option<f64>,
    p95: Option<f64>,
    p99: Option<f64>,
    max: Option<f64>,
}

impl<'a> Stats<'a> {
    fn new(archive: &'a Archive) -> Self {
        Self {
            ledger: archive.ledger(),
            endpoints: BTreeMap::new(),
            all: Sums::default(),
            first: None,
            last: None,
        }
    }

    fn add(&mut self, row: &Row<'_>) {
        let begin = row.time();
        let end = begin.saturating_add(row.duration().unwrap_or_default());
        self.first = Some(self.first.map_or(begin, |first| first.min(begin)));
        self.last = Some(self.last.map_or(end, |last| last.max(end)));
        self.all.add(row);
        let name = endpoint(row);
        let known = self.endpoints.contains_key(&name) || self.endpoints.len() < MAX_ENDPOINTS;
        let name = if known { name } else { "(others)".to_owned() };
        self.endpoints.entry(name).or_default().add(row);
    }

    fn report(self) -> Report {
        let mut endpoints: Vec<_> = self
            .endpoints
            .into_iter()
            .map(|(name, sums)| sums.line(name))
            .collect();
        endpoints.sort_by(|a, b| {
            b.exchanges
                .cmp(&a.exchanges)
                .then(a.endpoint.cmp(&b.endpoint))
        });
        Report {
            first: self.first.map(rfc3339),
            last: self.last.map(rfc3339),
            all: self.all.line(String::new()),
            endpoints,
            tls_unread: Vec::new(),
            ledger: self.ledger.counters().collect(),
            anomalies: self
                .ledger
                .anomalies
                .iter()
                .map(|(anomaly, count)| (anomaly.name(), *count))
                .collect(),
            losses: output::losses(self.ledger),
        }
    }
}

impl Sums {
    fn add(&mut self, row: &Row<'_>) {
        self.exchanges += 1;
        self.incomplete += u64::from(!row.complete());
        self.request_bytes += row.request_body_len().unwrap_or_default();
        self.response_bytes += row.response_body_len().unwrap_or_default();
        if let Some(status) = row.status() {
            *self.statuses.entry(status).or_default() += 1;
        }
        if let Some(duration) = row.duration() {
            self.durations
                .push(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    fn line(mut self, endpoint: String) -> Line {
        self.durations.sort_unstable();
        let seconds = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64();
        let percentile = |percent: usize| {
            let last = self.durations.len().checked_sub(1)?;
            self.durations
                .get((last * percent).div_ceil(100))
                .map(|nanos| seconds(*nanos))
        };
        Line {
            endpoint,
            exchanges: self.exchanges,
            incomplete: self.incomplete,
            request_body_bytes: self.request_bytes,
            response_body_bytes: self.response_bytes,
            p50: percentile(50),
            p95: percentile(95),
            p99: percentile(99),
            max: percentile(100),
            statuses: self.statuses,
        }
    }
}

/// The method and the path with what looks like an id replaced: `GET /users/{id}`.
fn endpoint(row: &Row<'_>) -> String {
    let method = row.method().map_or_else(|| "?".into(), header_text);
    let path = row.endpoint().unwrap_or_else(|| "?".to_owned());
    format!("{} {path}", output::visible(&method))
}

fn table(report: &Report, out: &mut impl Write) -> Result<()> {
    writeln!(
        out,
        "{} exchanges, {} not whole, {} requests and {} responses in bodies",
        report.all.exchanges,
        report.all.incomplete,
        output::bytes(report.all.request_body_bytes),
        output::bytes(report.all.response_body_bytes),
    )?;
    if let (Some(first), Some(last)) = (&report.first, &report.last) {
        writeln!(out, "from {first} to {last}")?;
    }
    writeln!(out)?;
    let width = report
        .endpoints
        .iter()
        .map(|line| line.endpoint.chars().count())
        .max();
    let width = width.unwrap_or_default().clamp(8, 60);
    writeln!(
        out,
        "{:<width$}  {:>9}  {:>9}  {:>9}  {:>9}  STATUS",
        "ENDPOINT", "COUNT", "P50", "P95", "P99"
    )?;
    for line in &report.endpoints {
        let latency = |seconds: Option<f64>| {
            seconds.map_or_else(
                || "-".to_owned(),
                |s| output::duration(Duration::from_secs_f64(s)),
            )
        };
        let statuses: Vec<_> = line
            .statuses
            .iter()
            .map(|(status, count)| format!("{status}: {count}"))
            .collect();
        writeln!(
            out,
            "{:<width$}  {:>9}  {:>9}  {:>9}  {:>9}  {}",
            line.endpoint,
            line.exchanges,
            latency(line.p50),
            latency(line.p95),
            latency(line.p99),
            statuses.join(", "),
        )?;
    }
    writeln!(out)?;
    connections::summarise(&report.tls_unread, out)?;
    if report.losses.is_empty() {
        writeln!(out, "nothing was lost")?;
    }
    for loss in &report.losses {
        writeln!(out, "lost: {loss}")?;
    }
    for (anomaly, count) in &report.anomalies {
        writeln!(out, "odd:  {count} x {anomaly}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_values_that_were_there() {
        let sums = Sums {
            durations: (1..=100).map(|n| n * 1_000_000_000).collect(),
            ..Sums::default()
        };
        let line = sums.line(String::new());
        assert_eq!(
            (line.p50, line.p99, line.max),
            (Some(51.0), Some(100.0), Some(100.0))
        );
        assert_eq!(Sums::default().line(String::new()).p50, None);
    }
}
