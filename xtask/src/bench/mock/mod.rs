//! `cargo xtask bench mock`.

mod clients;
mod servers;
mod tables;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use self::clients::{Outcome, Shape};
use self::servers::{Kind, Server};
use self::tables::{Figures, Start};
use super::report;
use crate::packages;
use crate::shell::{cargo, run as run_command, say};

/// Where archives and what is made of them go.
const FOLDER: &str = "target/bench";
const TAPEDECK: &str = "target/release/tapedeck";
const GENERATOR: &str = "target/release/examples/mock-archive";
/// Distinct recorded exchanges.
const EXCHANGES: u64 = 10_000;
/// mitmproxy takes milliseconds for each when it starts.
const FOR_MITMPROXY: u64 = 1000;

#[derive(Debug, Parser)]
pub(crate) struct Mock {
    /// Seconds of each run
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Runs of each server; the median counts
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// The core of the servers
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The core of the clients
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Measure with that program as it is, instead of building it
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// The largest archive whose start is timed
    #[arg(long, default_value_t = 1_000_000)]
    largest: u64,
    /// Write the tables into docs/benchmarks.md
    #[arg(long)]
    write: bool,
}

impl Mock {
    fn program(&self) -> &Path {
        self.program
            .as_deref()
            .unwrap_or_else(|| Path::new(TAPEDECK))
    }

    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// The recording as each server wants it.
pub(super) struct Stage {
    pub(super) program: PathBuf,
    pub(super) core: usize,
    pub(super) archive: String,
    pub(super) bodies: Vec<String>,
    /// The folder of a certificate authority.
    pub(super) ca: String,
}

pub(crate) fn run(args: &Mock) -> Result<()> {
    packages::ensure(packages::FOR_MOCK_BENCHMARKS)?;
    packages::ensure_wiremock();
    packages::ensure_python("mitmproxy", &["mitmproxy>=11,<13"]);
    build(args)?;
    fs::create_dir_all(FOLDER)?;
    let load = report::load();
    let stage = stage(args)?;
    let mut figures = Figures::default();
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_there()) {
        readiness(&stage, kind, args.runs, &mut figures)?;
    }
    for shape in Shape::ALL {
        floods(args, &stage, shape, &mut figures)?;
    }
    half_load(args, &stage, &mut figures)?;
    for exchanges in [EXCHANGES, 100_000, 1_000_000] {
        if exchanges <= args.largest {
            figures.starts.push(start(args, &stage, exchanges)?);
        }
    }
    let text = tables::markdown(&figures, args.seconds, args.runs, &load);
    #[expect(clippy::print_stdout, reason = "the tables are this chore's result")]
    {
        println!("{text}");
    }
    if args.write {
        report::write("mock", &text)?;
    }
    Ok(())
}

fn build(args: &Mock) -> Result<()> {
    let release = ["build", "--release", "--quiet", "--package"];
    if args.program.is_none() {
        run_command(&mut cargo(&[&release[..], &["tapedeck"]].concat()))?;
    }
    let example = ["xtask", "--example", "mock-archive"];
    if args.program.is_some() && Path::new(GENERATOR).exists() {
        return Ok(());
    }
    run_command(&mut cargo(&[&release[..], &example].concat()))
}

fn stage(args: &Mock) -> Result<Stage> {
    let (archive, bodies) = archive(EXCHANGES)?;
    let ca = format!("{FOLDER}/mock-ca");
    if !Path::new(&ca).join("ca.pem").exists() {
        let mut init = std::process::Command::new(args.program());
        run_command(
            init.args(["ca", "init", "--dir", &ca])
                .stdout(Stdio::null()),
        )?;
    }
    let bodies = fs::read_to_string(&bodies)?;
    let stage = Stage {
        program: args.program().to_owned(),
        core: args.server_core,
        archive,
        bodies: bodies.lines().map(str::to_owned).collect(),
        ca,
    };
    ensure!(
        stage.bodies.len() as u64 == EXCHANGES,
        "a torn list of bodies"
    );
    clients::write_inputs()?;
    Ok(stage)
}

/// An archive of so many exchanges, and the file with the bodies.
fn archive(exchanges: u64) -> Result<(String, String)> {
    let path = format!("{FOLDER}/mock-{exchanges}.tape");
    let bodies = format!("{path}.bodies");
    if !Path::new(&path).exists() {
        say(&format!("generating a recording of {exchanges} exchanges"));
        let status = std::process::Command::new(GENERATOR)
            .args([&exchanges.to_string(), &path])
            .stdout(fs::File::create(&bodies)?)
            .status()?;
        ensure!(status.success(), "the generator failed: {status}");
    }
    Ok((path, bodies))
}

/// How long it takes from the start of a server to its first answer.
fn readiness(stage: &Stage, kind: Kind, runs: usize, figures: &mut Figures) -> Result<()> {
    let mut times = Vec::new();
    for run in 0..runs {
        say(&format!("ready: {}, run {}", kind.name(), run + 1));
        let server = Server::start(kind, stage, &stage.archive)?;
        times.push(server.ready);
    }
    times.sort_unstable();
    let median = *times.get(times.len() / 2).context("no run")?;
    figures.ready.push((kind, median));
    Ok(())
}

/// As many requests as there can be.
fn floods(args: &Mock, stage: &Stage, shape: Shape, figures: &mut Figures) -> Result<()> {
    let there = Kind::ALL
        .into_iter()
        .filter(|kind| kind.is_there() && kind.serves(shape));
    let mut all: Vec<(Kind, Vec<Outcome>)> = there.map(|kind| (kind, Vec::new())).collect();
    // In turn, so that what else the machine does meets all of them.
    for run in 0..args.runs {
        for (kind, outcomes) in &mut all {
            say(&format!(
                "{}: {}, run {}",
                shape.name(),
                kind.name(),
                run + 1
            ));
            let server = Server::start(*kind, stage, &stage.archive)?;
            outcomes.push(clients::flood(&server, shape, args.core, args.time())?);
        }
    }
    for (kind, mut outcomes) in all {
        outcomes.sort_by(|a, b| a.per_cpu().total_cmp(&b.per_cpu()));
        let median = *outcomes.get(outcomes.len() / 2).context("no run")?;
        figures.floods.push((shape, kind, median));
    }
    Ok(())
}

/// Latency where there is time to spare.
fn half_load(args: &Mock, stage: &Stage, figures: &mut Figures) -> Result<()> {
    let slowest = [Kind::Tapedeck, Kind::Nginx]
        .iter()
        .filter_map(|kind| figures.flood(Shape::Http1, *kind))
        .map(|outcome| outcome.rate)
        .fold(f64::INFINITY, f64::min);
    let rate = (slowest / 2.0) as u64;
    for kind in [Kind::Tapedeck, Kind::Nginx] {
        let mut p99 = Vec::new();
        for run in 0..args.runs {
            say(&format!(
                "{rate} requests/s: {}, run {}",
                kind.name(),
                run + 1
            ));
            let server = Server::start(kind, stage, &stage.archive)?;
            p99.push(clients::latency(&server, rate, args.core, args.time())?);
        }
        p99.sort_by(f64::total_cmp);
        let median = *p99.get(p99.len() / 2).context("no run")?;
        figures.half.push((kind, rate, median));
    }
    Ok(())
}

/// How long a start takes, and what it leaves in memory.
fn start(args: &Mock, stage: &Stage, exchanges: u64) -> Result<Start> {
    let (path, _) = archive(exchanges)?;
    let mut times = Vec::new();
    let mut last = None;
    for run in 0..args.runs {
        say(&format!(
            "a start with {exchanges} exchanges, run {}",
            run + 1
        ));
        let server = Server::start(Kind::Tapedeck, stage, &path)?;
        times.push(server.ready);
        last = Some(server.settled_memory()?);
    }
    times.sort_unstable();
    let (anonymous, cache) = last.context("no run")?;
    Ok(Start {
        exchanges,
        file: file_len(&path)?,
        ready: *times.get(times.len() / 2).context("no run")?,
        anonymous,
        cache,
    })
}

/// How long an archive is. All of these are of one kind, so that their indexes are the same share of them.
fn file_len(path: &str) -> Result<u64> {
    Ok(fs::metadata(path)
        .with_context(|| format!("failed to look at {path}"))?
        .len())
}
