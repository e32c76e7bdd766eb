//! `cargo xtask bench wire`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use super::figures::{Figures, Peer};
use super::measure::{self, pinned};
use super::report;
use crate::packages;
use crate::shell::{cargo, run as run_command, say};

/// Where captures and what is made of them go.
const FOLDER: &str = "target/bench";

#[derive(Debug, Parser)]
pub(crate) struct Wire {
    /// Size of each capture in MiB
    #[arg(long, default_value_t = 1024, conflicts_with = "quick")]
    size: u64,
    /// Captures of 128 MiB, for a first look; the times of the fast ones are coarse
    #[arg(long)]
    quick: bool,
    /// Also read captures of ten times the size, and compare the memory
    #[arg(long)]
    long: bool,
    /// Runs of each program; the median counts. tshark, slower by orders, runs once
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Leave tshark out, which takes most of the time
    #[arg(long)]
    no_tshark: bool,
    /// The core that everything runs on
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Write the tables into docs/benchmarks.md
    #[arg(long)]
    write: bool,
}

/// A capture to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    /// As the generator calls it.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// What tshark is asked for.
    tshark: [&'static str; 2],
}

pub(crate) const KINDS: [Kind; 3] = [
    Kind {
        name: "calls",
        title: "Small JSON calls over HTTP/1",
        tshark: ["http", "http.request.uri"],
    },
    Kind {
        name: "bodies",
        title: "Bodies of 1 MiB over HTTP/1",
        tshark: ["http", "http.request.uri"],
    },
    Kind {
        name: "streams",
        title: "A hundred interleaved HTTP/2 streams",
        tshark: ["http2", "http2.headers.path"],
    },
];

pub(crate) fn run(args: &Wire) -> Result<()> {
    packages::ensure(packages::FOR_BENCHMARKS)?;
    run_command(&mut cargo(&[
        "build",
        "--release",
        "--quiet",
        "--package",
        "tapedeck",
    ]))?;
    run_command(&mut cargo(&[
        "build",
        "--release",
        "--quiet",
        "--package",
        "tapedeck-exchange",
        "--example",
        "read",
        "--package",
        "xtask",
        "--example",
        "wire-captures",
    ]))?;
    fs::create_dir_all(FOLDER)?;
    let load = report::load();
    let mut all = Vec::new();
    for kind in KINDS {
        all.push(measure(args, kind)?);
    }
    let text = report::markdown(&all, args.mib(), args.runs, &load);
    #[expect(clippy::print_stdout, reason = "the tables are this chore's result")]
    {
        println!("{text}");
    }
    if args.write {
        report::write("wire", &text)?;
    }
    Ok(())
}

impl Wire {
    const fn mib(&self) -> u64 {
        if self.quick { 128 } else { self.size }
    }
}

fn measure(args: &Wire, kind: Kind) -> Result<Figures> {
    let capture = generate(kind, args.mib())?;
    let file = capture.to_str().context("a path that is not text")?;
    let [archive, zst, flows] =
        ["tape", "zst", "flows"].map(|extension| format!("{FOLDER}/{}.{extension}", kind.name));
    let mut figures = Figures::new(kind, fs::metadata(&capture)?.len());
    // Everything reads from memory, whoever is first.
    std::io::copy(&mut File::open(&capture)?, &mut std::io::sink())?;

    let mut peer = |peer: Peer, runs: usize, program: &str, arguments: &[&str]| -> Result<()> {
        say(&format!("{}: {}", kind.name, peer.name()));
        let cost = measure::median(runs, || pinned(args.core, Path::new(program), arguments))?;
        figures.costs.push((peer, cost));
        Ok(())
    };
    peer(
        Peer::Tcpdump,
        args.runs,
        "tcpdump",
        &["-r", file, "-w", "/dev/null"],
    )?;
    peer(
        Peer::Engine,
        args.runs,
        "target/release/examples/read",
        &[file],
    )?;
    peer(
        Peer::Import,
        args.runs,
        "target/release/tapedeck",
        &["import", file, "-o", &archive, "--force"],
    )?;
    peer(
        Peer::Zstd,
        args.runs,
        "zstd",
        &["-3", "-T1", "-q", "-f", file, "-o", &zst],
    )?;
    peer(Peer::Tcpflow, 1, "tcpflow", &["-o", &flows, "-r", file])?;
    fs::remove_dir_all(&flows).context("tcpflow wrote nothing")?;
    if !args.no_tshark {
        let [filter, field] = kind.tshark;
        let arguments = ["-r", file, "-Y", filter, "-T", "fields", "-e", field];
        peer(Peer::Tshark, 1, "tshark", &arguments)?;
    }
    figures.archive_len = fs::metadata(&archive)?.len();
    figures.zstd_len = fs::metadata(&zst)?.len();
    if args.long {
        long(args, kind, &mut figures)?;
    }
    for file in [&archive, &zst] {
        fs::remove_file(file)?;
    }
    Ok(figures)
}

/// Reads ten times as much, straight from the generator.
fn long(args: &Wire, kind: Kind, figures: &mut Figures) -> Result<()> {
    let archive = format!("{FOLDER}/{}-long.tape", kind.name);
    let readers: [(Peer, &str, &[&str]); 2] = [
        (Peer::Engine, "target/release/examples/read", &["-"]),
        (
            Peer::Import,
            "target/release/tapedeck",
            &["import", "-", "-o", &archive, "--force"],
        ),
    ];
    for (peer, program, arguments) in readers {
        say(&format!(
            "{}: {}, ten times as long",
            kind.name,
            peer.name()
        ));
        let mut generator = generator(kind.name, args.mib() * 10)
            .stdout(Stdio::piped())
            .spawn()?;
        let capture = generator.stdout.take().context("no output")?;
        let mut reader = pinned(args.core, Path::new(program), arguments);
        let cost = measure::once(reader.stdin(capture))?;
        ensure!(generator.wait()?.success(), "the generator failed");
        figures.long.push((peer, cost));
    }
    fs::remove_file(&archive)?;
    Ok(())
}

/// The capture, which is kept for the next run.
fn generate(kind: Kind, mib: u64) -> Result<PathBuf> {
    // A capture from another generator is another capture.
    let version = fs::metadata("target/release/examples/wire-captures")?.len();
    let path = PathBuf::from(format!("{FOLDER}/{}-{mib}-{version:x}.pcap", kind.name));
    if !path.exists() {
        say(&format!("{}: generating {mib} MiB", kind.name));
        let unfinished = path.with_extension("unfinished");
        let status = generator(kind.name, mib)
            .stdout(File::create(&unfinished)?)
            .status()?;
        ensure!(status.success(), "the generator failed: {status}");
        fs::rename(&unfinished, &path)?;
    }
    Ok(path)
}

/// The generator of a kind of captures, on its way to its standard output.
pub(crate) fn generator(kind: &str, mib: u64) -> Command {
    let mut command = Command::new("target/release/examples/wire-captures");
    command.arg(kind).arg((mib << 20).to_string());
    command
}
