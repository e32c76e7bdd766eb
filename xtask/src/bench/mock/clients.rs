//! The clients: each asks for recorded exchanges in an order without order.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::super::measure::pinned;
use super::servers::Server;
use super::{EXCHANGES, FOLDER, FOR_MITMPROXY};

/// What is asked, and how.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shape {
    Http1,
    Http2,
    Tls,
}

impl Shape {
    pub(super) const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Tls];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1, 64 connections (wrk)",
            Self::Http2 => "HTTP/2, 16 connections of 32 streams (h2load)",
            Self::Tls => "HTTP/1.1 over TLS 1.3, 64 connections (wrk)",
        }
    }
}

/// What one run gave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    pub(super) requests: f64,
    /// Requests a second.
    pub(super) rate: f64,
    /// Processor time of the server, in seconds.
    pub(super) cpu: f64,
}

impl Outcome {
    /// Requests a second of the server's processor time.
    pub(super) fn per_cpu(&self) -> f64 {
        self.requests / self.cpu.max(0.01)
    }
}

/// wrk's script, and h2load's list of addresses.
pub(super) fn write_inputs() -> Result<()> {
    for exchanges in [EXCHANGES, FOR_MITMPROXY] {
        let script = format!(
            "math.randomseed(7)\n\
             local asked = {{}}\n\
             for n = 0, {} do asked[n] = wrk.format('GET', '/items/' .. n) end\n\
             init = function()\n  for n = 0, {0} do asked[n] = wrk.format('GET', '/items/' .. n) end\nend\n\
             request = function() return asked[math.random(0, {0})] end\n\
             done = function(summary)\n  \
               local e = summary.errors\n  \
               print('TOLD ' .. summary.requests .. ' ' .. summary.duration .. ' ' ..\n    \
                 e.status)\nend\n",
            exchanges - 1
        );
        fs::write(script_path(exchanges), script)?;
    }
    Ok(())
}

fn script_path(exchanges: u64) -> String {
    format!("{FOLDER}/mock-{exchanges}.lua")
}

/// The addresses of all exchanges in an order that is as good as none: a step that has no factor in
/// common with their number.
fn uris(port: u16) -> Result<String> {
    let path = format!("{FOLDER}/mock-uris");
    let list: String = (0..EXCHANGES)
        .map(|n| format!("http://127.0.0.1:{port}/items/{}\n", n * 7919 % EXCHANGES))
        .collect();
    fs::write(&path, list)?;
    Ok(path)
}

/// As many requests as there can be.
pub(super) fn flood(server: &Server, shape: Shape, core: usize, time: Duration) -> Result<Outcome> {
    let run = |time: Duration| match shape {
        Shape::Http1 => wrk(
            server,
            &format!("http://127.0.0.1:{}", server.http1),
            core,
            time,
        ),
        Shape::Tls => wrk(
            server,
            &format!("https://127.0.0.1:{}", server.tls),
            core,
            time,
        ),
        Shape::Http2 => h2load(server, core, time),
    };
    // A JVM compiles what it runs often; the others do not mind.
    run(Duration::from_secs(2))?;
    let before = server.cpu()?;
    let (requests, seconds) = run(time)?;
    Ok(Outcome {
        requests,
        rate: requests / seconds,
        cpu: server.cpu()? - before,
    })
}

/// Requests, and seconds.
fn wrk(server: &Server, url: &str, core: usize, time: Duration) -> Result<(f64, f64)> {
    let seconds = format!("{}s", time.as_secs());
    let script = script_path(server.kind.exchanges());
    let args = [
        "-t1",
        "-c64",
        "--timeout",
        "20s",
        "-d",
        &seconds,
        "-s",
        &script,
        url,
    ];
    let said = output(&mut pinned(core, Path::new("wrk"), &args))?;
    let told = said
        .lines()
        .find_map(|line| line.strip_prefix("TOLD "))
        .context("wrk says nothing")?;
    let numbers: Vec<f64> = told.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [requests, micros, errors] = numbers[..] else {
        anyhow::bail!("wrk says {told}");
    };
    ensure!(
        errors == 0.0,
        "{}: {errors} wrong answers",
        server.kind.name()
    );
    Ok((requests, micros / 1e6))
}

fn h2load(server: &Server, core: usize, time: Duration) -> Result<(f64, f64)> {
    let uris = uris(server.h2c)?;
    let seconds = time.as_secs().to_string();
    let args = ["-t1", "-c16", "-m32", "-D", &seconds, "-i", &uris];
    let said = output(&mut pinned(core, Path::new("h2load"), &args))?;
    let counts = said
        .lines()
        .find_map(|line| line.strip_prefix("status codes: "))
        .context("h2load says no status codes")?;
    let ok: f64 = counts
        .split(' ')
        .next()
        .context("h2load says no status codes")?
        .parse()?;
    ensure!(
        counts.contains("0 4xx, 0 5xx"),
        "{}: {counts}",
        server.kind.name()
    );
    Ok((ok, time.as_secs_f64()))
}

/// The 99th percentile in microseconds, at that rate.
pub(super) fn latency(server: &Server, rate: u64, core: usize, time: Duration) -> Result<f64> {
    const CONNECTIONS: u64 = 16;
    let uris = uris(server.http1)?;
    let log = format!("{FOLDER}/mock-h2load.log");
    let rps = (rate / CONNECTIONS).to_string();
    let seconds = time.as_secs().to_string();
    let log_arg = format!("--log-file={log}");
    let args = [
        "--h1", "-t1", "-c16", "-D", &seconds, "--rps", &rps, "-i", &uris, &log_arg,
    ];
    fs::remove_file(&log).ok();
    output(&mut pinned(core, Path::new("h2load"), &args))?;
    // Start in microseconds, status, and how long it took in microseconds.
    let text = fs::read_to_string(&log).context("h2load wrote no log")?;
    let mut took: Vec<f64> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split('\t').skip(1);
            (fields.next()? == "200").then_some(())?;
            fields.next()?.parse().ok()
        })
        .collect();
    ensure!(!took.is_empty(), "h2load measured nothing");
    took.sort_by(f64::total_cmp);
    Ok(took[took.len() * 99 / 100])
}

fn output(command: &mut Command) -> Result<String> {
    let ran = command
        .output()
        .with_context(|| format!("failed to start {}", crate::shell::line(command)))?;
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    ensure!(
        ran.status.success(),
        "{} failed: {}{said}{}",
        crate::shell::line(command),
        ran.status,
        String::from_utf8_lossy(&ran.stderr)
    );
    Ok(said)
}
