//! What is sent to: nginx, and a server that notes arrivals.

use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};

use super::super::measure::pinned;
use super::super::nginx::Nginx;
use super::FOLDER;

/// What it answers to everything.
const ANSWER: &str = "location / { return 200 ok; }";

/// nginx on a core, which answers everything with two bytes.
pub(super) fn nginx(core: usize) -> Result<Nginx> {
    let folder = Path::new(FOLDER).join("replay-nginx");
    Nginx::start(pinned(core, Path::new("nginx"), &[]), &folder, ANSWER)
}

/// The example `arrivals`.
pub(super) struct Arrivals {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
    port: u16,
}

impl Arrivals {
    pub(super) fn start(core: usize, stalls: bool) -> Result<Self> {
        let args: &[&str] = if stalls { &["--stall"] } else { &[] };
        let mut child = pinned(core, Path::new("target/release/examples/arrivals"), args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut out = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        out.read_line(&mut line)?;
        let port = line.trim().parse().context("the server says no port")?;
        Ok(Self { child, out, port })
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// When the requests came, since the first connection, in nanoseconds.
    pub(super) fn end(mut self) -> Result<Vec<u64>> {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.out.read_to_string(&mut text)?;
        ensure!(self.child.wait()?.success(), "the server failed");
        let lines = text.lines().map(str::parse::<u64>);
        Ok(lines.collect::<Result<_, _>>()?)
    }
}
