//! `cargo xtask bench replay`.

mod peers;
mod tables;
mod targets;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use self::peers::{Load, Peer, Shape};
use self::tables::{Figures, Flood, Open};
use self::targets::{Arrivals, nginx};
use super::calm::{Calm, Patience};
use super::{measure, report};
use crate::packages;
use crate::shell::{cargo, run as run_command, say};

/// Where archives and what is made of them go.
const FOLDER: &str = "target/bench";
const TAPEDECK: &str = "target/release/tapedeck";

#[derive(Debug, Parser)]
pub(crate) struct Replay {
    /// Seconds of each run
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Runs of each program; the median counts
    #[arg(long, default_value_t = 3)]
    runs: usize,
    #[command(flatten)]
    patience: Patience,
    /// The core of the targets
    #[arg(long, default_value_t = 0)]
    target_core: usize,
    /// The core of the players
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Measure with that program as it is, instead of building it
    #[arg(long, value_name = "FILE")]
    program: Option<std::path::PathBuf>,
    /// Only that part
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Send for so many minutes, at a low rate, and look at the player's memory: nothing else
    #[arg(long, value_name = "MINUTES", conflicts_with_all = ["only", "write"])]
    soak: Option<u64>,
    /// Write the tables into docs/benchmarks.md; of all parts only, as it replaces those that are there
    #[arg(long, conflicts_with = "only")]
    write: bool,
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Part {
    /// HTTP/1.1, flat out
    Http1,
    /// HTTP/2, flat out
    Http2,
    /// A target that stalls
    Stall,
    /// 10,000 connections
    Connections,
}

pub(crate) fn run(args: &Replay) -> Result<()> {
    packages::ensure(packages::FOR_REPLAY_BENCHMARKS)?;
    packages::ensure_k6();
    packages::ensure_oha();
    build(args)?;
    fs::create_dir_all(FOLDER)?;
    let load_before = report::load();
    let archive = archive(args)?;
    let mut calm = Calm::new(args.patience)?;
    let mut figures = Figures {
        exchanges: archive.exchanges,
        ..Figures::default()
    };
    if let Some(minutes) = args.soak {
        figures.soak = Some((minutes, soak(args, &archive, minutes)?));
    } else {
        floods(args, &archive, &mut figures, &mut calm)?;
        if args.only.is_none() {
            open_loop(args, &archive, &mut figures, &mut calm)?;
        }
        if args.wants(Part::Stall) {
            stall(args, &archive, &mut figures)?;
        }
        if args.wants(Part::Connections) {
            many_connections(args, &archive, &mut figures)?;
        }
    }
    let text = tables::markdown(
        &figures,
        args.seconds,
        args.runs,
        &load_before,
        &calm.said(),
    );
    #[expect(clippy::print_stdout, reason = "the tables are this chore's result")]
    {
        println!("{text}");
    }
    if args.write {
        report::write("replay", &text)?;
    }
    Ok(())
}

fn build(args: &Replay) -> Result<()> {
    let release = ["build", "--release", "--quiet", "--package"];
    if args.program.is_none() {
        run_command(&mut cargo(&[&release[..], &["tapedeck"]].concat()))?;
    }
    let examples = [
        "xtask",
        "--example",
        "wire-captures",
        "--example",
        "arrivals",
    ];
    run_command(&mut cargo(&[&release[..], &examples].concat()))
}

/// What the player sends.
struct Archive {
    path: String,
    exchanges: u64,
}

/// An archive of 100,000 GETs and more, no two alike: those of the small calls of `bench wire`.
fn archive(args: &Replay) -> Result<Archive> {
    const MIB: u64 = 240;
    const AT_LEAST: u64 = 100_000;
    let pcap = format!("{FOLDER}/replay-calls.pcap");
    let path = format!("{FOLDER}/replay-calls.tape");
    let program = args.program();
    if !Path::new(&path).exists() {
        say("generating the recording");
        let status = std::process::Command::new("target/release/examples/wire-captures")
            .args(["calls", &(MIB << 20).to_string()])
            .stdout(fs::File::create(&pcap)?)
            .status()?;
        ensure!(status.success(), "the generator failed: {status}");
        let gets = ["--filter", "request.method == 'GET'"];
        let mut import = std::process::Command::new(program);
        run_command(import.args(["import", &pcap, "-o", &path]).args(gets))?;
        fs::remove_file(&pcap)?;
    }
    let stats = std::process::Command::new(program)
        .args(["stats", &path, "--format", "json"])
        .output()?;
    let stats: serde_json::Value = serde_json::from_slice(&stats.stdout)?;
    let exchanges = stats["exchanges"].as_u64();
    let exchanges = exchanges.context("`stats` says no number of exchanges")?;
    ensure!(exchanges >= AT_LEAST, "{exchanges} exchanges are too few");
    Ok(Archive { path, exchanges })
}

impl Replay {
    fn wants(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }

    fn program(&self) -> &Path {
        self.program
            .as_deref()
            .unwrap_or_else(|| Path::new(TAPEDECK))
    }

    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    fn load<'a>(&'a self, archive: &'a Archive, shape: Shape, url: String) -> Load<'a> {
        Load {
            program: self.program(),
            archive: &archive.path,
            core: self.core,
            time: self.time(),
            shape,
            url,
        }
    }
}

/// As many requests as there can be.
fn floods(args: &Replay, archive: &Archive, figures: &mut Figures, calm: &mut Calm) -> Result<()> {
    let nginx = nginx(args.target_core)?;
    for (part, shape, url, peers) in [
        (
            Part::Http1,
            Shape::Http1 { connections: 64 },
            format!("http://127.0.0.1:{}", nginx.http1),
            &[Peer::Tapedeck, Peer::Wrk, Peer::Hey, Peer::Oha, Peer::K6][..],
        ),
        (
            Part::Http2,
            Shape::Http2 {
                connections: 16,
                streams: 32,
            },
            format!("h2c://127.0.0.1:{}", nginx.h2c),
            &[Peer::Tapedeck, Peer::H2load],
        ),
    ] {
        if !args.wants(part) {
            continue;
        }
        let load = args.load(archive, shape, url);
        let there = peers.iter().filter(|peer| peer.is_there());
        let mut floods: Vec<Flood> = there.map(|peer| Flood::new(shape, *peer)).collect();
        // In turn, so that what else the machine does meets all of them.
        for run in 0..args.runs {
            for flood in &mut floods {
                say(&format!("{shape}: {}, run {}", flood.peer.name(), run + 1));
                let outcome = calm.run(|| {
                    let before = measure::cpu_of(nginx.worker()?)?;
                    let mut outcome = flood.peer.flood(&load)?;
                    let taken = measure::cpu_of(nginx.worker()?)?.saturating_sub(before);
                    outcome.target_busy = taken.as_secs_f64() / outcome.seconds();
                    Ok(outcome)
                })?;
                flood.runs.push(outcome);
            }
        }
        figures.floods.extend(floods);
    }
    Ok(())
}

/// Requests at a rate, and when they come.
fn open_loop(
    args: &Replay,
    archive: &Archive,
    figures: &mut Figures,
    calm: &mut Calm,
) -> Result<()> {
    let half = |peer: Peer| {
        let flood = figures.flood(Shape::Http1 { connections: 64 }, peer);
        flood.map(|flood| ((flood.rate() / 2.0) as u64).max(1))
    };
    let ours = half(Peer::Tapedeck).context("the player was not measured")?;
    let mut plans = vec![(Peer::Tapedeck, ours)];
    if let Some(theirs) = half(Peer::K6) {
        plans.extend([(Peer::K6, theirs), (Peer::Tapedeck, theirs)]);
    }
    for (peer, rate) in plans {
        say(&format!("open loop: {}, {rate}/s", peer.name()));
        let open = calm.run(|| {
            let target = Arrivals::start(args.target_core, false)?;
            let load = args.load(archive, Shape::Rate { rate }, target.url());
            let outcome = peer.flood(&load)?;
            Open::new(peer, rate, args.time(), &target.end()?, outcome)
        })?;
        figures.open.push(open);
    }
    Ok(())
}

/// A target that stops dead for a second of every ten: whose latency tells? hey says what it measured. wrk 4 puts values
/// between that it did not measure (`stats_correct` in its `main`), as many as it thinks that it would have sent: its p99
/// tells of the stall by that, so that nothing is asked of it.
fn stall(args: &Replay, archive: &Archive, figures: &mut Figures) -> Result<()> {
    for peer in [Peer::Tapedeck, Peer::Hey, Peer::Wrk] {
        say(&format!("a target that stalls: {}", peer.name()));
        let target = Arrivals::start(args.target_core, true)?;
        let shape = match peer {
            Peer::Hey | Peer::Wrk => Shape::Http1 { connections: 10 },
            _ => Shape::Rate { rate: 1000 },
        };
        let mut load = args.load(archive, shape, target.url());
        load.time = Duration::from_secs(20);
        let p99 = peer.flood(&load)?.p99;
        target.end()?;
        let p99 = p99.with_context(|| format!("{} says no p99", peer.name()))?;
        figures.stalls.push((peer, p99));
    }
    Ok(())
}

/// Memory of the player that is not the archive's.
fn many_connections(args: &Replay, archive: &Archive, figures: &mut Figures) -> Result<()> {
    const CONNECTIONS: u32 = 10_000;
    say("10,000 connections");
    let nginx = nginx(args.target_core)?;
    let shape = Shape::Http1 {
        connections: CONNECTIONS,
    };
    let mut load = args.load(archive, shape, format!("http://127.0.0.1:{}", nginx.http1));
    // By the middle of the run all of them must be open.
    load.time = args.time().max(Duration::from_secs(20));
    figures.memory = Some(peers::anonymous_memory(&load)?);
    Ok(())
}

/// The same of a run that goes on for long, at a rate that leaves the machine to others.
fn soak(args: &Replay, archive: &Archive, minutes: u64) -> Result<peers::Memory> {
    const RATE: u64 = 500;
    say(&format!("{minutes} minutes at {RATE}/s"));
    let nginx = nginx(args.target_core)?;
    let url = format!("http://127.0.0.1:{}", nginx.http1);
    let mut load = args.load(archive, Shape::Rate { rate: RATE }, url);
    load.time = Duration::from_secs(60 * minutes);
    peers::anonymous_memory(&load)
}
