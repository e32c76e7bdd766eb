//! The programs that send, and what each says of itself.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::super::measure::{self, Cost, pinned};
use super::FOLDER;
use crate::packages::{K6, OHA};
use crate::shell::has;

/// What the peers send, again and again: a request as those of the archive are, with as much in it for the target to
/// read.
const PATH: &str = "/api/v1/bookings/4711234?q=gallery+evening&page=17&session=8f14e45fceea167a";
/// See [`PATH`].
const FIELDS: [(&str, &str); 5] = [
    ("User-Agent", "crowd/2.4 (x86_64; linux)"),
    ("Accept", "application/json"),
    ("Accept-Encoding", "identity"),
    (
        "Authorization",
        "Bearer 6512bd43d9caa6e02c990b0a82652dcac20ad4d76fe97759aa27a0c99bff6710",
    ),
    ("X-Request-Id", "c51ce410-c124-410e-8db5-e4b97fc2af39"),
];

/// What is asked of a player.
pub(super) struct Load<'a> {
    pub(super) program: &'a Path,
    pub(super) archive: &'a str,
    pub(super) core: usize,
    pub(super) time: Duration,
    pub(super) shape: Shape,
    pub(super) url: String,
}

/// The shape of a load.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shape {
    /// Each connection sends its next request when it has the answer to its last.
    Http1 { connections: u32 },
    /// So many streams at once on each connection.
    Http2 { connections: u32, streams: u32 },
    /// Requests a second, whatever the target does.
    Rate { rate: u64 },
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http1 { connections } => write!(f, "HTTP/1.1, {connections} connections"),
            Self::Http2 {
                connections,
                streams,
            } => write!(f, "h2c, {connections} connections of {streams} streams"),
            Self::Rate { rate } => write!(f, "{rate} requests/s"),
        }
    }
}

/// A program that sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Peer {
    Tapedeck,
    Wrk,
    H2load,
    Hey,
    Oha,
    K6,
}

/// What one run gave.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    pub(super) requests: f64,
    pub(super) failed: f64,
    pub(super) rate: f64,
    pub(super) cost: Cost,
    /// Processor time from the first request on, in seconds, where the program tells: the player
    /// reads the whole index of its archive before.
    pub(super) sending: Option<f64>,
    /// Of that, what went into looking for answers when there were none, in seconds.
    pub(super) polling: f64,
    /// Of the latency, in milliseconds.
    pub(super) p99: Option<f64>,
    /// Processor time of the target over time, where it was looked at.
    pub(super) target_busy: f64,
}

impl Outcome {
    /// For how long it was sending: what it does before, and behind, is not part of it.
    pub(super) fn seconds(&self) -> f64 {
        self.requests / self.rate
    }

    /// Processor time of sending, in seconds.
    pub(super) fn sending(&self) -> f64 {
        let whole = self.cost.cpu.as_secs_f64();
        self.sending.unwrap_or(whole)
    }

    /// And that of what was before.
    pub(super) fn planning(&self) -> f64 {
        (self.cost.cpu.as_secs_f64() - self.sending()).max(0.0)
    }
}

impl Peer {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tapedeck => "**`tapedeck replay`**",
            Self::Wrk => "`wrk`",
            Self::H2load => "`h2load`",
            Self::Hey => "`hey`",
            Self::Oha => "`oha`",
            Self::K6 => "`k6`",
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Self::Tapedeck => "tapedeck",
            Self::Wrk => "wrk",
            Self::H2load => "h2load",
            Self::Hey => "hey",
            Self::Oha => OHA,
            Self::K6 => "k6",
        }
    }

    pub(super) fn is_there(self) -> bool {
        match self {
            Self::Tapedeck => true,
            Self::K6 => Path::new(K6).join("bin/k6").exists(),
            Self::Oha => Path::new(OHA).exists(),
            _ => has(self.program()),
        }
    }

    /// Sends, and reads what the program says of it.
    pub(super) fn flood(self, load: &Load<'_>) -> Result<Outcome> {
        let (mut command, json) = self.command(load)?;
        let (cost, out) = measured(&mut command)?;
        let mut outcome = match self {
            Self::Tapedeck => ours(&read(&json)?)?,
            Self::K6 => k6(&read(&json)?)?,
            Self::Oha => oha(&serde_json::from_str(&out)?)?,
            Self::Wrk => wrk(&out)?,
            Self::H2load => h2load(&out)?,
            Self::Hey => hey(&out)?,
        };
        outcome.cost = cost;
        let seconds = load.time.as_secs_f64();
        if outcome.requests == 0.0 {
            outcome.requests = outcome.rate * seconds;
        }
        ensure!(
            outcome.requests > 0.0 && outcome.failed < outcome.requests / 100.0,
            "{}: {} requests, {} failed:\n{out}",
            self.name(),
            outcome.requests,
            outcome.failed,
        );
        Ok(outcome)
    }

    /// The command, and the file that it writes.
    fn command(self, load: &Load<'_>) -> Result<(Command, String)> {
        let json = format!("{FOLDER}/replay.json");
        let seconds = load.time.as_secs();
        let time = format!("{seconds}s");
        let url = format!("{}{PATH}", load.url.replace("h2c://", "http://"));
        let program = Path::new(self.program());
        let text = |n: u32| n.to_string();
        let mut command = match (self, load.shape) {
            (Self::Tapedeck, shape) => tapedeck(load, shape, &time, &json),
            (Self::Wrk, Shape::Http1 { connections }) => {
                let connections = text(connections);
                let args = ["-t1", "-c", &connections, "-d", &time, "--latency", &url];
                pinned(load.core, program, &args)
            }
            (Self::Hey, Shape::Http1 { connections }) => {
                let connections = text(connections);
                let args = ["-z", &time, "-c", &connections, "-cpus", "1", &url];
                pinned(load.core, program, &args)
            }
            (Self::Oha, Shape::Http1 { connections }) => {
                let connections = text(connections);
                let args = ["--no-tui", "--output-format", "json", "-z", &time, "-c"];
                pinned(
                    load.core,
                    program,
                    &[&args[..], &[&connections, &url]].concat(),
                )
            }
            (
                Self::H2load,
                Shape::Http2 {
                    connections,
                    streams,
                },
            ) => {
                let (connections, streams) = (text(connections), text(streams));
                let args = ["-t1", "-c", &connections, "-m", &streams, "-D"];
                let seconds = seconds.to_string();
                pinned(load.core, program, &[&args[..], &[&seconds, &url]].concat())
            }
            (Self::K6, shape) => {
                return Ok((k6_command(load, shape, &time, &json, &url)?, json));
            }
            (peer, shape) => bail!("{} has no way to send {shape}", peer.name()),
        };
        if self != Self::Tapedeck {
            for (name, value) in FIELDS {
                command.args(["-H", &format!("{name}: {value}")]);
            }
        }
        Ok((command, json))
    }
}

fn tapedeck(load: &Load<'_>, shape: Shape, time: &str, json: &str) -> Command {
    let mut command = pinned(load.core, load.program, &["replay", load.archive]);
    command.args(["--target", &load.url, "--single", "--duration", time]);
    command.args(["--summary", json]);
    match shape {
        Shape::Http1 { connections } => {
            let connections = connections.to_string();
            command.args(["--vus", &connections, "--max-connections", &connections])
        }
        Shape::Http2 {
            connections,
            streams,
        } => {
            let users = (connections * streams).to_string();
            command.args(["--vus", &users, "--connections", &connections.to_string()])
        }
        Shape::Rate { rate } => command.args(["--rate", &format!("{rate}/s")]),
    };
    command
}

fn k6_command(load: &Load<'_>, shape: Shape, time: &str, json: &str, url: &str) -> Result<Command> {
    const SCRIPT: &str = "import http from 'k6/http';
        export const options = JSON.parse(__ENV.OPTIONS);
        const params = { headers: JSON.parse(__ENV.FIELDS) };
        export default function () { http.get(__ENV.TARGET, params); }";
    let options = match shape {
        Shape::Http1 { connections } => serde_json::json!({ "vus": connections, "duration": time }),
        Shape::Rate { rate } => serde_json::json!({ "scenarios": { "rate": {
            "executor": "constant-arrival-rate", "rate": rate, "duration": time,
            "preAllocatedVUs": 100, "maxVUs": 1000,
        } } }),
        Shape::Http2 { .. } => bail!("k6 speaks no HTTP/2 without TLS"),
    };
    let script = format!("{FOLDER}/k6.js");
    fs::write(&script, SCRIPT)?;
    let program = Path::new(K6).join("bin/k6");
    let mut command = pinned(load.core, &program, &["run", "-q", "--no-usage-report"]);
    command.args(["--summary-export", json]);
    command.args(["-e", &format!("OPTIONS={options}")]);
    let fields: serde_json::Map<String, Value> = FIELDS
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let fields = Value::Object(fields);
    command.args(["-e", &format!("FIELDS={fields}")]);
    command.args(["-e", &format!("TARGET={url}"), &script]);
    Ok(command)
}

/// Runs a program, and keeps what it prints.
fn measured(command: &mut Command) -> Result<(Cost, String)> {
    let path = format!("{FOLDER}/replay.out");
    let out = fs::File::create(&path)?;
    let cost = measure::once_into(command, Stdio::from(out))?;
    Ok((cost, fs::read_to_string(&path)?))
}

fn read(path: &str) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("failed to read {path}"))?;
    Ok(serde_json::from_slice(&text)?)
}

fn number(json: &Value, pointer: &str) -> Result<f64> {
    let value = json.pointer(pointer).and_then(Value::as_f64);
    value.with_context(|| format!("{pointer} is missing"))
}

fn ours(json: &Value) -> Result<Outcome> {
    let sent = number(json, "/tapedeck/requests/sent")?;
    let answered = number(json, "/tapedeck/requests/answered")?;
    let never = number(json, "/tapedeck/requests/never_sent")?;
    Ok(Outcome {
        requests: sent,
        failed: sent - answered + never,
        rate: number(json, "/metrics/http_reqs/values/rate")?,
        sending: number(json, "/tapedeck/saturation/cpu_seconds").ok(),
        polling: number(json, "/tapedeck/saturation/polling_seconds").unwrap_or(0.0),
        p99: number(json, "/metrics/http_req_duration/values/p(99)").ok(),
        ..Outcome::default()
    })
}

fn k6(json: &Value) -> Result<Outcome> {
    Ok(Outcome {
        requests: number(json, "/metrics/http_reqs/count")?,
        failed: number(json, "/metrics/http_req_failed/passes").unwrap_or(0.0),
        rate: number(json, "/metrics/http_reqs/rate")?,
        ..Outcome::default()
    })
}

fn oha(json: &Value) -> Result<Outcome> {
    Ok(Outcome {
        rate: number(json, "/summary/requestsPerSec")?,
        ..Outcome::default()
    })
}

/// `12345 requests in 10.00s, 1.50MB read`, `Requests/sec: 1234.50`, `99% 1.23ms`.
fn wrk(out: &str) -> Result<Outcome> {
    let line = |with: &str| out.lines().map(str::trim).find(|line| line.contains(with));
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let requests = line(" requests in ").and_then(first);
    let rate = line("Requests/sec:").and_then(|line| line.split(':').nth(1));
    let p99 = line("99%").and_then(|line| line.split_whitespace().nth(1));
    Ok(Outcome {
        requests: requests.context("wrk says no requests")?.parse()?,
        rate: rate.context("wrk says no rate")?.trim().parse()?,
        p99: p99.and_then(millis),
        ..Outcome::default()
    })
}

/// `1.23ms`, `845.00us`, `1.02s`.
fn millis(text: &str) -> Option<f64> {
    for (unit, factor) in [("us", 1e-3), ("ms", 1.0), ("s", 1e3)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Some(number.parse::<f64>().ok()? * factor);
        }
    }
    None
}

/// `finished in 10.00s, 12345.60 req/s, 1.2MB/s`, `requests: 100 total, ..., 0 failed, ...`.
fn h2load(out: &str) -> Result<Outcome> {
    let rate = out.lines().find_map(|line| {
        let (before, _) = line.strip_prefix("finished in ")?.split_once(" req/s")?;
        before.rsplit(' ').next()?.parse().ok()
    });
    let counts = out.lines().find_map(|line| line.strip_prefix("requests: "));
    let of = |what: &str| {
        let mut parts = counts?.split(", ");
        parts.find_map(|part| part.strip_suffix(what)?.trim().parse().ok())
    };
    Ok(Outcome {
        requests: of("succeeded").context("h2load says no requests")?,
        failed: of("failed").unwrap_or(0.0),
        rate: rate.context("h2load says no rate")?,
        ..Outcome::default()
    })
}

/// `Requests/sec: 12345.6789`, with a tab.
fn hey(out: &str) -> Result<Outcome> {
    let rate = out.lines().find_map(|line| {
        let rate = line.trim().strip_prefix("Requests/sec:")?;
        rate.trim().parse().ok()
    });
    // `99% in 0.0012 secs`
    let p99 = out.lines().find_map(|line| {
        let seconds = line.trim().strip_prefix("99% in ")?.split(' ').next()?;
        Some(seconds.parse::<f64>().ok()? * 1e3)
    });
    Ok(Outcome {
        p99,
        rate: rate.context("hey says no rate")?,
        ..Outcome::default()
    })
}

/// Memory that is the player's own, in MiB.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    /// The most in the first half of a run.
    pub(super) first_half: f64,
    /// The most in the second half.
    pub(super) second_half: f64,
}

/// Runs the player, and looks at its anonymous memory: what maps the archive is the kernel's to keep
/// or drop.
pub(super) fn anonymous_memory(load: &Load<'_>) -> Result<Memory> {
    const LOOK_EVERY: Duration = Duration::from_millis(50);
    let json = format!("{FOLDER}/replay-memory.json");
    let time = format!("{}s", load.time.as_secs());
    let mut command = tapedeck(load, load.shape, &time, &json);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let begun = Instant::now();
    let mut memory = Memory::default();
    while child.try_wait()?.is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        if let Some(now) = rss_anon(&text) {
            let half = match begun.elapsed() < load.time / 2 {
                true => &mut memory.first_half,
                false => &mut memory.second_half,
            };
            *half = half.max(now);
        }
        thread::sleep(LOOK_EVERY);
    }
    ensure!(child.wait()?.success(), "the player failed");
    ours(&read(&json)?)?;
    Ok(memory)
}

/// In MiB.
fn rss_anon(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_peers_print_is_read() {
        let out = "  Latency Distribution\n     50%  600.00us\n     99%    1.20ms\n  950000 requests in 10.00s, 130.00MB read\nRequests/sec:  95000.12\n";
        let outcome = wrk(out).unwrap();
        assert_eq!((outcome.requests, outcome.rate), (950_000.0, 95_000.12));
        assert_eq!(outcome.p99, Some(1.2));
        assert_eq!(millis("1.02s"), Some(1020.0));
        let out = "finished in 10.00s, 155000.40 req/s, 5.00MB/s\nrequests: 1550004 total, 1550516 started, 1550004 done, 1550000 succeeded, 4 failed, 4 errored, 0 timeout\n";
        let outcome = h2load(out).unwrap();
        assert_eq!(
            (outcome.requests, outcome.failed, outcome.rate),
            (1_550_000.0, 4.0, 155_000.4)
        );
        let out = "Summary:\n  Requests/sec:\t23456.7891\nLatency distribution:\n  95% in 0.0010 secs\n  99% in 0.0012 secs\n";
        let outcome = hey(out).unwrap();
        assert_eq!((outcome.rate, outcome.p99), (23_456.789_1, Some(1.2)));
        assert!(wrk("").is_err() && h2load("").is_err() && hey("").is_err());
        assert_eq!(
            rss_anon("VmRSS:\t 9 kB\nRssAnon:\t    2048 kB\n"),
            Some(2.0)
        );
    }
}
