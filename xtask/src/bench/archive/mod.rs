//! `cargo xtask bench archive`.

mod figures;
mod tables;
mod traffic;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::Value;

use self::figures::{Index, OfTraffic};
use self::traffic::Traffic;
use super::measure::{self, Cost, pinned};
use super::report;
use crate::packages::{self, is_root};
use crate::shell::{cargo, has, line, run as run_command, say};

/// Where captures and what is made of them go.
const FOLDER: &str = "target/bench/archive";
/// Where programs of PyPI go.
const TOOLS: &str = "target/tools";
const FIGURES: &str = "target/release/examples/archive-figures";
const TAPEDECK: &str = "target/release/tapedeck";

/// How many exchanges the large index has, and the small one.
const MANY: u64 = 10_000_000;
const FEW: u64 = 10_000;

/// mitmproxy takes about ten milliseconds for each.
const FEW_FLOWS: u64 = 1_000;

#[derive(Debug, Parser)]
pub(crate) struct Archive {
    /// A tenth of the traffic, and an index of a tenth: coarse
    #[arg(long)]
    quick: bool,
    /// Scan an archive of 10 GiB instead of one of 1 GiB
    #[arg(long)]
    long: bool,
    /// Measure the programs that were built before
    #[arg(long)]
    no_build: bool,
    /// The core that everything measured runs on
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Write the tables into docs/benchmarks.md
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(args: &Archive) -> Result<()> {
    ensure!(is_root(), "capturing the traffic needs root");
    packages::ensure(packages::FOR_BENCHMARKS)?;
    packages::ensure_python("mitmproxy", &["mitmproxy>=11,<13"]);
    packages::ensure_python("grpcio", &["grpcio"]);
    if !args.no_build {
        build()?;
    }
    fs::create_dir_all(FOLDER)?;
    forget_interrupted(Path::new(FOLDER))?;
    let load = report::load();
    let bench = Bench { core: args.core };
    let mut all = Vec::new();
    for traffic in Traffic::ALL {
        let capture = traffic.capture(args.tenths())?;
        all.push(bench.measure(traffic, &capture)?);
    }
    let index = bench.index(args, &all)?;
    let text = tables::markdown(&all, &index, &load);
    #[expect(clippy::print_stdout, reason = "the tables are this chore's result")]
    {
        println!("{text}");
    }
    if args.write {
        report::write("archive", &text)?;
    }
    Ok(())
}

impl Archive {
    const fn tenths(&self) -> u32 {
        if self.quick { 1 } else { 10 }
    }
}

/// Removes what a run that was interrupted was writing: no writer touches what another one left.
fn forget_interrupted(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "partial") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn build() -> Result<()> {
    let programs = ["--package", "tapedeck", "--package", "concert"];
    let examples = ["--package", "xtask", "--examples"];
    for what in [&programs[..], &examples[..]] {
        let mut cargo = cargo(&["build", "--release", "--quiet"]);
        run_command(cargo.args(what))?;
    }
    Ok(())
}

struct Bench {
    core: usize,
}

impl Bench {
    fn measure(&self, traffic: Traffic, capture: &Path) -> Result<OfTraffic> {
        let name = traffic.name();
        let pcap = capture.to_str().context("a path that is not text")?;
        let file = |extension: &str| format!("{FOLDER}/{name}.{extension}");
        let [tape, zst, har, har_gz, flow, out] =
            ["tape", "zst", "har", "har.gz", "flow", "out.tape"].map(file);
        say(&format!("{name}: import, zstd, HAR"));
        self.cost(TAPEDECK, &["import", pcap, "-o", &tape, "--force"])?;
        self.cost("zstd", &["-3", "-T1", "-q", "-f", pcap, "-o", &zst])?;
        self.cost(TAPEDECK, &["export", "har", &tape, "-o", &har])?;
        self.gzip(&har, &har_gz)?;
        let har_import = self.cost(TAPEDECK, &["import", &har, "-o", &out, "--force"])?;
        say(&format!("{name}: writing, reading, copying"));
        let write = self.figures(&["write", &tape, &out])?;
        say(&format!("{name}: mitmproxy"));
        let few = format!("id < {FEW_FLOWS}");
        let sample = file("sample.har");
        self.cost(
            TAPEDECK,
            &["export", "har", &tape, "-o", &sample, "--filter", &few],
        )?;
        // The same number of bytes for each: flows are neither compressed nor told apart.
        let share = figures::number(&write, "exchanges") / FEW_FLOWS as f64;
        let flow_len = mitmproxy(&sample, &flow)?.map(|len| (len as f64 * share.max(1.0)) as u64);
        let figures = OfTraffic {
            traffic,
            pcap_len: len(pcap)?,
            zstd_len: len(&zst)?,
            har_len: len(&har)?,
            har_gzip_len: len(&har_gz)?,
            flow_len,
            archive_len: len(&tape)?,
            write,
            random: self.figures(&["random", &tape])?,
            copy: self.figures(&["copy", &tape, &out])?,
            har_import,
            encrypted: self.figures(&["encrypted", &tape, &out])?,
        };
        for path in [&zst, &har_gz, &flow, &sample] {
            // There may be no flow file.
            drop(fs::remove_file(path));
        }
        Ok(figures)
    }

    fn gzip(&self, from: &str, to: &str) -> Result<()> {
        let mut gzip = pinned(self.core, Path::new("gzip"), &["-6", "-c", from]);
        let status = gzip.stdout(File::create(to)?).status()?;
        ensure!(status.success(), "{} failed: {status}", line(&gzip));
        Ok(())
    }

    /// Filtering, opening, scanning.
    fn index(&self, args: &Archive, all: &[OfTraffic]) -> Result<Index> {
        let tape = |traffic: Traffic| format!("{FOLDER}/{}.tape", traffic.name());
        let concert = tape(Traffic::Concert);
        let (large, small) = (
            format!("{FOLDER}/large.tape"),
            format!("{FOLDER}/small.tape"),
        );
        let many = MANY / u64::from(10 / args.tenths());
        say(&format!("index: {many} exchanges"));
        self.figures(&["grow", &large, &many.to_string(), "0", &concert])?;
        self.figures(&["grow", &small, &FEW.to_string(), "0", &concert])?;
        let filter = self.figures(&["filter", &large, "response.status >= 400"])?;
        let open = self.figures(&["open", &small, &large])?;
        fs::remove_file(&large)?;
        say("index: jq");
        let har = format!("{FOLDER}/{}.har", Traffic::Concert.name());
        let program = "[.log.entries[] | select(.response.status >= 400)] | length";
        let jq = self.cost("jq", &[program, &har])?;
        let of_concert = all.first().context("nothing measured")?;
        let trickle = self.figures(&["trickle", &concert, &format!("{FOLDER}/out.tape")])?;
        let bytes: u64 = if args.long { 10 << 30 } else { 1 << 30 };
        say(&format!("scan: {} GiB", bytes >> 30));
        let archives = Traffic::ALL.map(tape);
        let mut grow = vec!["grow", &large, "0"];
        let bytes = bytes.to_string();
        grow.push(&bytes);
        grow.extend(archives.iter().map(String::as_str));
        self.figures(&grow)?;
        let scan = self.figures(&["scan", &large])?;
        for path in [&large, &small] {
            fs::remove_file(path)?;
        }
        Ok(Index {
            filter,
            open,
            scan,
            trickle,
            jq: jq.cpu.as_secs_f64(),
            jq_exchanges: figures::number(&of_concert.write, "exchanges"),
        })
    }

    fn cost(&self, program: &str, args: &[&str]) -> Result<Cost> {
        measure::once(&mut pinned(self.core, Path::new(program), args))
    }

    /// What the measuring program finds.
    fn figures(&self, args: &[&str]) -> Result<Value> {
        let mut command = pinned(self.core, Path::new(FIGURES), args);
        let output = command.stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "{} failed", line(&command));
        serde_json::from_slice(&output.stdout).context("what was measured is not JSON")
    }
}

/// How long mitmproxy's file of the same exchanges is. `None`: there is no mitmproxy.
fn mitmproxy(har: &str, flow: &str) -> Result<Option<u64>> {
    let program = format!("{TOOLS}/mitmproxy/bin/mitmdump");
    if !has("python3") || !Path::new(&program).exists() {
        return Ok(None);
    }
    let mut mitmdump = Command::new("python3");
    mitmdump
        .args([&program, "-q", "-n", "-r", har, "-w", flow])
        .env("PYTHONPATH", format!("{TOOLS}/mitmproxy"))
        .stdout(Stdio::null());
    let status = mitmdump.status()?;
    ensure!(status.success(), "{} failed: {status}", line(&mitmdump));
    len(flow).map(Some)
}

fn len(path: &str) -> Result<u64> {
    let metadata = fs::metadata(path).with_context(|| format!("failed to look at {path}"))?;
    Ok(metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_interrupted_run_left_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".out.tape.partial", "out.tape", "concert-10.pcap"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        forget_interrupted(folder.path()).unwrap();
        let names = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = names.map(|it| it.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["concert-10.pcap", "out.tape"]);
    }
}
