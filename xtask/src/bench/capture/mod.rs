//! `cargo xtask bench capture`: what recording live costs, beside `tcpdump -w`.
//!
//! Everything of a run is put into a control group of its own: nginx, whoever asks it, and whoever
//! records. The processor time of the group is everything that the run costs, the kernel's share
//! included, and not what else the machine does; the busy time of the whole machine stands beside
//! it, less that of the same machine at rest.

mod even;
mod group;
mod load;
mod observer;
mod tables;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use self::even::Even;
use self::group::Group;
use self::load::{Load, Outcome, SHAPES, Shape, nginx};
use self::observer::{Observer, Seen};
use super::calm::{Calm, Patience};
use super::processors::Processors;
use super::report;
use crate::packages;
use crate::shell::{cargo, run as run_command, say};

/// Where archives, captures and nginx's files go.
const FOLDER: &str = "target/bench";

const PROGRAM: &str = "target/release/tapedeck";

/// How long a recorder is left alone before it is asked for its memory at rest.
const SETTLE: Duration = Duration::from_millis(1_500);

#[derive(Debug, Parser)]
pub(crate) struct Capture {
    /// The length of a run, in seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Runs of each, of which the median counts; with nothing, three times as many
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Rounds of requests that come evenly, a second each, of which the median p99 counts
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    #[command(flatten)]
    patience: Patience,
    /// Only the loads whose name has this in it
    #[arg(long, default_value = "")]
    only: String,
    /// Measure the program that was built before
    #[arg(long)]
    no_build: bool,
    /// Put the tables into docs/benchmarks.md; of all loads only, as it replaces those that are there
    #[arg(long, conflicts_with = "only")]
    write: bool,
}

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) outcome: Outcome,
    pub(crate) seen: Seen,
    /// Processor time of the group.
    pub(crate) group: Duration,
    /// Busy time of the machine, less that at rest.
    pub(crate) machine: Duration,
}

/// What was measured under one load.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) shape: Shape,
    pub(crate) runs: Vec<(Observer, Vec<Run>)>,
    /// Latencies of requests that come evenly.
    pub(crate) even: Even,
}

pub(crate) fn run(args: &Capture) -> Result<()> {
    packages::ensure(packages::FOR_CAPTURE_BENCHMARKS)?;
    ensure!(packages::is_root(), "live capture is measured as root");
    if !args.no_build {
        build()?;
    }
    fs::create_dir_all(FOLDER)?;
    let load_before = report::load();
    let rest = at_rest()?;
    let mut calm = Calm::new(args.patience)?;
    let mut all = Vec::new();
    for shape in SHAPES {
        if shape.to_string().contains(&args.only) {
            let figures = measure(args, shape, rest, &mut calm)?;
            // At once: a later load may fail, and this took long.
            print(&tables::table(&figures));
            all.push(figures);
        }
    }
    let text = tables::markdown(&all, args, &load_before, rest, &calm.said());
    print(&text);
    if args.write {
        report::write("capture", &text)?;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the tables are this chore's result")]
fn print(text: &str) {
    println!("{text}");
}

fn build() -> Result<()> {
    run_command(&mut cargo(&[
        "build",
        "--release",
        "--quiet",
        "--package",
        "tapedeck",
        "--features",
        "libpcap",
    ]))
}

/// Cores that are busy while we do nothing.
fn at_rest() -> Result<f64> {
    let (before, begun) = (Processors::now()?, Instant::now());
    thread::sleep(Duration::from_secs(2));
    Ok(Processors::now()?.busy_since(&before).as_secs_f64() / begun.elapsed().as_secs_f64())
}

fn measure(args: &Capture, shape: Shape, rest: f64, calm: &mut Calm) -> Result<Figures> {
    let observers = Observer::ALL;
    let mut figures = Figures {
        shape,
        runs: observers.map(|observer| (observer, Vec::new())).to_vec(),
        even: Even::measure(shape, args.rounds, calm)?,
    };
    // In turn, so that what else the machine does meets all of them.
    for number in 0..args.runs.max(1) {
        for observer in Observer::ROUND {
            say(&format!("{shape}: {}, run {}", observer.name(), number + 1));
            let run = calm
                .run(|| once(shape, observer, args.seconds, rest))
                .with_context(|| format!("{shape}: {}", observer.name()))?;
            let of = figures.runs.iter_mut().find(|(of, _)| *of == observer);
            if let Some((_, runs)) = of {
                runs.push(run);
            }
        }
    }
    Ok(figures)
}

fn once(shape: Shape, observer: Observer, seconds: u64, rest: f64) -> Result<Run> {
    let group = Group::new()?;
    let nginx = nginx(&group)?;
    let mut watching = observer.start(&group, &nginx)?;
    if watching.is_recording() {
        thread::sleep(SETTLE);
    }
    let resident_at_rest = watching.resident_kib();
    let (time, busy, begun) = (group.processor_time()?, Processors::now()?, Instant::now());
    let outcome = Load::new(shape, seconds).run(&group, &nginx)?;
    // What a recorder has still to do belongs to it: until it has written everything.
    let seen = watching.stop(resident_at_rest)?;
    let elapsed = begun.elapsed().mul_f64(rest);
    Ok(Run {
        outcome,
        seen,
        group: group.processor_time()?.saturating_sub(time),
        machine: Processors::now()?.busy_since(&busy).saturating_sub(elapsed),
    })
}
