//! nginx, and whoever asks it.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::FOLDER;
use super::group::Group;
use crate::bench::nginx::Nginx;
use crate::bench::random::numbers;

/// Connections of a load at a fixed rate.
const CONNECTIONS: u64 = 16;

/// Requests at a time on a connection of HTTP/2.
const STREAMS: &str = "32";

/// A load that is not over this long after its time will not end.
const GRACE: u64 = 20;

/// What is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum What {
    /// 1 KiB of JSON over HTTP/1.1.
    Json,
    /// 1 MiB over HTTP/1.1.
    Body,
    /// 1 KiB of JSON over HTTP/2 without TLS.
    H2,
}

/// What is asked for, and how often.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Shape {
    pub(crate) what: What,
    /// Requests a second; `None`: as many as it takes.
    pub(crate) rate: Option<u64>,
}

const fn shape(what: What, rate: Option<u64>) -> Shape {
    Shape { what, rate }
}

pub(super) const SHAPES: [Shape; 11] = [
    shape(What::Json, Some(1_000)),
    shape(What::Json, Some(5_000)),
    shape(What::Json, Some(20_000)),
    shape(What::Json, None),
    shape(What::Body, Some(50)),
    shape(What::Body, Some(200)),
    shape(What::Body, None),
    shape(What::H2, Some(1_000)),
    shape(What::H2, Some(5_000)),
    shape(What::H2, Some(20_000)),
    shape(What::H2, None),
];

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            What::Json => "1 KiB JSON",
            What::Body => "1 MiB bodies",
            What::H2 => "1 KiB JSON over HTTP/2",
        };
        match self.rate {
            Some(rate) => write!(f, "{what}, {rate}/s"),
            None => write!(f, "{what}, flat out"),
        }
    }
}

/// What came of a load.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    /// Requests that were answered.
    pub(crate) served: u64,
    /// How long that took.
    pub(crate) seconds: f64,
    /// The 99th percentile of latency; flat out it is not asked for.
    pub(crate) p99: Option<Duration>,
}

/// A load to be run.
pub(super) struct Load {
    shape: Shape,
    seconds: u64,
}

impl Load {
    pub(super) const fn new(shape: Shape, seconds: u64) -> Self {
        Self { shape, seconds }
    }

    pub(super) fn run(&self, group: &Group, nginx: &Nginx) -> Result<Outcome> {
        match (self.shape.what, self.shape.rate) {
            (What::H2, None) => self.h2load_flat(group, nginx),
            (_, None) => self.wrk(group, nginx),
            (_, Some(rate)) => self.h2load(group, nginx, rate),
        }
    }

    fn url(&self, nginx: &Nginx) -> String {
        match self.shape.what {
            What::Json => format!("http://127.0.0.1:{}/small.json", nginx.http1),
            What::Body => format!("http://127.0.0.1:{}/body.bin", nginx.http1),
            What::H2 => format!("http://127.0.0.1:{}/small.json", nginx.h2c),
        }
    }

    fn h2load(&self, group: &Group, nginx: &Nginx, rate: u64) -> Result<Outcome> {
        let log = format!("{FOLDER}/latencies.tsv");
        let connections = CONNECTIONS.min(rate / 10);
        let asked = rate * self.seconds;
        let mut command = limited(group, "h2load", self.seconds);
        if self.shape.what == What::H2 {
            // With one stream a connection, each response waits 40 ms for the delayed acknowledgment of
            // the one before (Nagle's algorithm in nginx), and h2load falls behind its rate.
            command.args(["-m", STREAMS]);
        } else {
            command.arg("--h1");
        }
        command
            .args(["-t", "1", "-c", &connections.to_string()])
            .args(["-n", &asked.to_string()])
            .args(["--rps", &(rate as f64 / connections as f64).to_string()])
            .arg(format!("--log-file={log}"))
            .arg(self.url(nginx));
        let said = said(&mut command, self.seconds)?;
        let served = answered(&said).context("h2load says no count")?;
        ensure!(
            served == asked,
            "{served} of {asked} requests were answered"
        );
        let mut latencies = latencies(&fs::read_to_string(&log)?);
        fs::remove_file(&log)?;
        latencies.sort_unstable();
        let p99 = latencies.get(latencies.len() * 99 / 100).copied();
        Ok(Outcome {
            served,
            seconds: finished(&said).context("h2load says no time")?,
            p99: p99.map(Duration::from_micros),
        })
    }

    fn h2load_flat(&self, group: &Group, nginx: &Nginx) -> Result<Outcome> {
        let mut command = limited(group, "h2load", self.seconds);
        command
            .args(["-t", "1", "-c", "8", "-m", STREAMS])
            .args(["-D", &self.seconds.to_string()])
            .arg(self.url(nginx));
        let said = said(&mut command, self.seconds)?;
        Ok(Outcome {
            served: answered(&said).context("h2load says no count")?,
            seconds: self.seconds as f64,
            p99: None,
        })
    }

    fn wrk(&self, group: &Group, nginx: &Nginx) -> Result<Outcome> {
        let connections = if self.shape.what == What::Body {
            "4"
        } else {
            "32"
        };
        let mut command = limited(group, "wrk", self.seconds);
        command
            .args(["-t", "1", "-c", connections])
            .arg(format!("-d{}s", self.seconds))
            .arg(self.url(nginx));
        let said = said(&mut command, self.seconds)?;
        let served = said.lines().find_map(|line| {
            let (count, _) = line.split_once(" requests in ")?;
            count.trim().parse().ok()
        });
        Ok(Outcome {
            served: served.context("wrk says no count")?,
            seconds: self.seconds as f64,
            p99: None,
        })
    }
}

/// What `timeout` ends with when it had to end its program.
const TIMED_OUT: i32 = 124;

/// A program of the group that ends in time.
fn limited(group: &Group, program: &str, seconds: u64) -> Command {
    let mut command = group.command("timeout");
    command.arg((seconds + GRACE).to_string()).arg(program);
    command
}

/// Runs a load to its end, which it must reach.
fn said(command: &mut Command, seconds: u64) -> Result<String> {
    let output = command.output().context("failed to start the load")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.code() != Some(TIMED_OUT),
        "the load did not end within {} s: {said}",
        seconds + GRACE
    );
    ensure!(output.status.success(), "the load failed: {said}");
    Ok(said)
}

/// `requests: 10 total, 10 started, 10 done, 10 succeeded, 0 failed, ...`
fn answered(said: &str) -> Option<u64> {
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("requests: "))?;
    let part = line.split(", ").find(|part| part.ends_with(" succeeded"))?;
    part.split(' ').next()?.parse().ok()
}

/// `finished in 2.01s, ...`
fn finished(said: &str) -> Option<f64> {
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("finished in "))?;
    let (time, _) = line.split_once(',')?;
    let unit = time.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = time.split_at(unit);
    let factor = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

/// The third column: microseconds until the end of the response.
fn latencies(log: &str) -> Vec<u64> {
    let of = |line: &str| line.split('\t').nth(2)?.parse().ok();
    log.lines().filter_map(of).collect()
}

/// nginx in the group, which serves files.
pub(super) fn nginx(group: &Group) -> Result<Nginx> {
    let folder = Path::new(FOLDER).join("capture-nginx");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("small.json"), json(1 << 10))?;
    fs::write(folder.join("body.bin"), noise(1 << 20))?;
    Nginx::start(group.command("nginx"), &folder, "")
}

/// JSON of about that length, as a service would say it.
fn json(len: usize) -> String {
    let mut text = String::from("{\"items\":[");
    let mut number = 0;
    while text.len() + 40 < len {
        let comma = if number == 0 { "" } else { "," };
        text.push_str(&format!(
            "{comma}{{\"id\":{number},\"name\":\"item {number}\"}}"
        ));
        number += 1;
    }
    text.push_str("]}");
    while text.len() < len {
        text.push('\n');
    }
    text
}

/// Bytes that do not compress, as images do not.
fn noise(len: usize) -> Vec<u8> {
    let numbers = numbers(0x9e37_79b9_7f4a_7c15);
    numbers.flat_map(u64::to_le_bytes).take(len).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_that_does_not_end_is_an_error() {
        let mut stuck = Command::new("timeout");
        stuck.args(["0.05", "sleep", "60"]);
        let error = said(&mut stuck, 5).unwrap_err().to_string();
        assert!(
            error.starts_with("the load did not end within 25 s"),
            "{error}"
        );
        assert_eq!(said(Command::new("echo").arg("done"), 5).unwrap(), "done\n");
    }

    #[test]
    fn what_h2load_says_is_read() {
        let said = "finished in 2.01s, 1992.15 req/s, 289.87KB/s\n\
                    requests: 4000 total, 4000 started, 4000 done, 3999 succeeded, 1 failed\n";
        assert_eq!(answered(said), Some(3_999));
        assert_eq!(finished(said), Some(2.01));
        assert_eq!(finished("finished in 500.00ms, x"), Some(0.5));
        assert_eq!(latencies("17\t200\t373\n18\t200\t4\nx\n"), [373, 4]);
        assert_eq!(json(1024).len(), 1024);
    }
}
