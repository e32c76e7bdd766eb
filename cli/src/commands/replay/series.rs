//! `--series`: a line for every second of the run.

use std::cell::RefCell;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tapedeck_replayer::player::SecondRow;

use super::outputs::Held;

/// A file that gets a line for every second: CSV where its name says so, else JSON.
pub(super) struct Series<'a> {
    csv: bool,
    state: RefCell<State<'a>>,
}

struct State<'a> {
    file: Held<'a>,
    /// There were rows.
    is_begun: bool,
    result: io::Result<()>,
}

impl<'a> Series<'a> {
    pub(super) fn create(path: &'a Path) -> Result<Self> {
        let state = State {
            file: Held::open(path, "series")?,
            is_begun: false,
            result: Ok(()),
        };
        Ok(Self {
            csv: path.extension().is_some_and(|extension| extension == "csv"),
            state: RefCell::new(state),
        })
    }

    pub(super) fn add(&self, rows: &[SecondRow]) {
        let mut state = self.state.borrow_mut();
        if !rows.is_empty() && state.result.is_ok() {
            state.result = self.write(&mut state, rows);
        }
    }

    fn write(&self, state: &mut State<'_>, rows: &[SecondRow]) -> io::Result<()> {
        if !state.is_begun {
            let file = state.file.emptied()?;
            state.is_begun = true;
            if self.csv {
                writeln!(file, "{CSV}")?;
            }
        }
        for row in rows {
            let line = if self.csv { csv(row) } else { json_line(row) };
            writeln!(state.file.file(), "{line}")?;
        }
        Ok(())
    }

    /// Whether all of it was written.
    pub(super) fn end(self) -> Result<()> {
        let State { file, result, .. } = self.state.into_inner();
        result.with_context(|| format!("failed to write the series {}", file.path().display()))
    }
}

const CSV: &str = "second,sent,answered,failed,never_sent,iterations,dropped_iterations,in_flight,\
                   connections,vus,p50_ms,p95_ms,p99_ms,max_ms,schedule_lag_p99_ms,\
                   target_cpu,target_memory_bytes,target_waiting,target_query";

fn csv(row: &SecondRow) -> String {
    let counts = [
        row.second,
        row.sent,
        row.answered,
        row.failed,
        row.never_sent,
        row.iterations,
        row.dropped,
        row.in_flight,
        row.connections,
        row.vus,
    ];
    let latency = row.latency.map(|it| [it.p50, it.p95, it.p99, it.max]);
    let times = latency.map_or([None; 4], |times| times.map(Some));
    let counts = counts.iter().map(u64::to_string);
    // Empty where there is none: 0 would be a very good one.
    let time =
        |time: Option<Duration>| time.map_or_else(String::new, |it| format!("{:.3}", millis(it)));
    let times = times.into_iter().chain([row.lag_p99]).map(time);
    // Empty where the target is not observed.
    let target = row.target.map(|target| (target.cpu, target.memory));
    let waiting = row.target.and_then(|target| target.waiting);
    let target = [
        target.map_or_else(String::new, |(cpu, _)| format!("{cpu:.3}")),
        target.map_or_else(String::new, |(_, memory)| memory.to_string()),
        waiting.map_or_else(String::new, |waiting| format!("{waiting:.3}")),
        row.target_query
            .map_or_else(String::new, |number| number.to_string()),
    ];
    let all = counts.chain(times).chain(target);
    all.collect::<Vec<_>>().join(",")
}

fn json_line(row: &SecondRow) -> String {
    json!({
        "second": row.second,
        "sent": row.sent,
        "answered": row.answered,
        "failed": row.failed,
        "never_sent": row.never_sent,
        "iterations": row.iterations,
        "dropped_iterations": row.dropped,
        "in_flight": row.in_flight,
        "connections": row.connections,
        "vus": row.vus,
        "http_req_duration": row.latency.map(|latency| json!({
            "p(50)": millis(latency.p50),
            "p(95)": millis(latency.p95),
            "p(99)": millis(latency.p99),
            "max": millis(latency.max),
        })),
        "schedule_lag": row.lag_p99.map(|lag| json!({ "p(99)": millis(lag) })),
        "target": row.target.map(|target| json!({
            "cpu": target.cpu,
            "memory_bytes": target.memory,
            "waiting": target.waiting,
        })),
        "target_query": row.target_query,
    })
    .to_string()
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tapedeck_replayer::player::SecondLatency;

    use super::*;

    #[test]
    fn a_second_without_answers_has_no_latency() {
        let stalled = SecondRow {
            sent: 20,
            ..SecondRow::default()
        };
        let column = |row: &SecondRow, name: &str| {
            let index = CSV.split(',').position(|column| column == name).unwrap();
            csv(row).split(',').nth(index).unwrap().to_owned()
        };
        let json = |row: &SecondRow| serde_json::from_str::<Value>(&json_line(row)).unwrap();
        for name in [
            "p50_ms",
            "p95_ms",
            "p99_ms",
            "max_ms",
            "schedule_lag_p99_ms",
        ] {
            assert_eq!(column(&stalled, name), "", "{name}");
        }
        assert_eq!(csv(&stalled).split(',').count(), CSV.split(',').count());
        assert_eq!(json(&stalled)["http_req_duration"], Value::Null);
        assert_eq!(json(&stalled)["schedule_lag"], Value::Null);

        let millis = Duration::from_millis;
        let answered = SecondRow {
            latency: Some(SecondLatency {
                p50: millis(1),
                p95: millis(2),
                p99: millis(3),
                max: millis(4),
            }),
            lag_p99: Some(Duration::ZERO),
            ..stalled
        };
        assert_eq!(column(&answered, "p99_ms"), "3.000");
        assert_eq!(column(&answered, "schedule_lag_p99_ms"), "0.000");
        assert_eq!(json(&answered)["http_req_duration"]["max"], 4.0);
    }
}
