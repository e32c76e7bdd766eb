//! How long an answer takes when requests come evenly.
//!
//! h2load sends what is due within 10 ms in one piece, and its latencies are those of such pieces, in which what a
//! recorder takes is lost. Our own player sends each request when it is due, whoever looks on.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::group::Group;
use super::load::{Shape, What, nginx};
use super::observer::Observer;
use super::{FOLDER, PROGRAM};
use crate::bench::calm::Calm;
use crate::bench::nginx::Nginx;
use crate::bench::random::numbers;
use crate::shell::{run, say};

/// How long requests are sent for.
const SECONDS: u64 = 1;

/// How long a recorder is left alone before that.
const SETTLE: Duration = Duration::from_millis(300);

/// Nobody twice: what the second differs from the first by is the machine's doing.
const ROUND: [Observer; 6] = [
    Observer::Nobody,
    Observer::Nobody,
    Observer::Tcpdump,
    Observer::Ebpf,
    Observer::AfPacket,
    Observer::Libpcap,
];

/// The 99th percentile of service time in each round, in milliseconds, in the order of [`ROUND`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Even(Vec<[f64; ROUND.len()]>);

/// Quartiles of a ratio.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Quartiles {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Even {
    /// Of one kind of load; nothing where none is at a rate, or over HTTP/2, whose answers wait for the delayed
    /// acknowledgment of the one before where streams are few.
    pub(super) fn measure(shape: Shape, rounds: usize, calm: &mut Calm) -> Result<Self> {
        let mut even = Self::default();
        let (Some(rate), What::Json | What::Body) = (shape.rate, shape.what) else {
            return Ok(even);
        };
        let group = Group::new()?;
        let nginx = nginx(&group)?;
        let archive = archive(shape.what)?;
        for number in 0..rounds {
            say(&format!("{shape}: evenly, round {}", number + 1));
            let mut round = [0.0; ROUND.len()];
            for place in drawn() {
                let observer = ROUND[place];
                let once = || {
                    let mut watching = observer.start(&group, &nginx)?;
                    thread::sleep(SETTLE);
                    let p99 = p99(&archive, &nginx, rate)?;
                    watching.stop(0)?;
                    Ok(p99)
                };
                round[place] = calm
                    .run(once)
                    .with_context(|| format!("{shape}: {}", observer.name()))?;
            }
            even.0.push(round);
        }
        Ok(even)
    }

    /// The median, in milliseconds; `None`: not measured.
    pub(super) fn p99(&self, observer: Observer) -> Option<f64> {
        let place = ROUND.iter().position(|of| *of == observer)?;
        Some(quartiles(self.0.iter().map(|round| round[place]))?.median)
    }

    /// Of each round, the p99 as a multiple of that with nothing; of nothing, the second's of the first.
    pub(super) fn ratio(&self, observer: Observer) -> Option<Quartiles> {
        let place = ROUND.iter().rposition(|of| *of == observer)?;
        quartiles(self.0.iter().map(|round| round[place] / round[0]))
    }
}

fn quartiles(values: impl Iterator<Item = f64>) -> Option<Quartiles> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |share: usize| values.get(values.len() * share / 4).copied();
    Some(Quartiles {
        low: at(1)?,
        median: at(2)?,
        high: at(3)?,
    })
}

/// The places of a round in an order that nobody chose, so that what the machine does in between meets all.
fn drawn() -> [usize; ROUND.len()] {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let mut numbers = numbers(now.as_nanos() as u64 | 1);
    let mut order = std::array::from_fn(|place| place);
    for last in (1..order.len()).rev() {
        let drawn = numbers.next().unwrap_or_default();
        order.swap(last, (drawn % (last as u64 + 1)) as usize);
    }
    order
}

/// An archive of the one request that is sent.
fn archive(what: What) -> Result<String> {
    let path = match what {
        What::Body => "body.bin",
        What::Json | What::H2 => "small.json",
    };
    let har = json!({ "log": { "version": "1.2", "creator": { "name": "xtask", "version": "1" }, "entries": [{
        "startedDateTime": "2026-01-01T00:00:00.000Z", "time": 1,
        "request": { "method": "GET", "url": format!("http://bench.example/{path}"), "httpVersion": "HTTP/1.1",
            "headers": [{ "name": "Host", "value": "bench.example" }], "queryString": [], "cookies": [],
            "headersSize": -1, "bodySize": 0 },
        "response": { "status": 200, "statusText": "OK", "httpVersion": "HTTP/1.1", "headers": [], "cookies": [],
            "content": { "size": 0, "mimeType": "application/json", "text": "" }, "redirectURL": "",
            "headersSize": -1, "bodySize": 0 },
        "cache": {}, "timings": { "send": 0, "wait": 1, "receive": 0 },
    }] } });
    let (from, to) = (format!("{FOLDER}/even.har"), format!("{FOLDER}/even.tape"));
    fs::write(&from, har.to_string())?;
    run(Command::new(PROGRAM).args(["import", "--force", "-o", &to, &from]))?;
    Ok(to)
}

fn p99(archive: &str, nginx: &Nginx, rate: u64) -> Result<f64> {
    let summary = format!("{FOLDER}/even.json");
    let target = format!("http://127.0.0.1:{}", nginx.http1);
    let output = Command::new(PROGRAM)
        .args(["replay", archive, "--target", &target, "--single"])
        .args(["--threads", "1", "--rate", &format!("{rate}/s")])
        .args(["--duration", &format!("{SECONDS}s"), "--summary", &summary])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "the player failed: {said}");
    let summary: Value = serde_json::from_slice(&fs::read(&summary)?)?;
    let answered = summary["tapedeck"]["requests"]["answered"].as_u64();
    ensure!(
        answered == Some(rate * SECONDS),
        "{answered:?} of {} requests were answered: {said}",
        rate * SECONDS
    );
    summary["metrics"]["service_time"]["values"]["p(99)"]
        .as_f64()
        .context("the player says no service time")
}

#[cfg(test)]
impl Even {
    /// Rounds that were measured elsewhere.
    pub(super) fn of(rounds: &[[f64; ROUND.len()]]) -> Self {
        Self(rounds.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_is_compared_with_itself() {
        // The machine is three times as slow in the second round, and eBPF twice as slow as nothing in both.
        let even = Even::of(&[
            [1.0, 1.1, 2.0, 2.0, 1.0, 1.0],
            [3.0, 2.7, 9.0, 6.0, 3.0, 3.0],
            [1.0, 1.0, 2.0, 2.0, 1.0, 1.0],
        ]);
        let of = |observer| even.ratio(observer).unwrap();
        assert!((of(Observer::Ebpf).median - 2.0).abs() < 1e-9);
        assert!((of(Observer::Ebpf).high - 2.0).abs() < 1e-9);
        assert!((of(Observer::Nobody).low - 0.9).abs() < 1e-9);
        assert!((of(Observer::Nobody).high - 1.1).abs() < 1e-9);
        assert_eq!(even.p99(Observer::Nobody), Some(1.0));
        assert_eq!(Even::default().p99(Observer::Nobody), None);
    }

    #[test]
    fn everybody_has_a_turn_in_each_round() {
        let mut order = drawn();
        order.sort_unstable();
        assert_eq!(order, [0, 1, 2, 3, 4, 5]);
    }
}
