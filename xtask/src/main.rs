//! The project's chores. `cargo xtask help` lists them.

#![forbid(unsafe_code)]

mod bench;
mod demo;
mod ebpf;
mod fuzz;
mod image;
mod lint;
mod manifests;
mod packages;
mod shell;
mod test;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "The project's chores", max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Record a small service's traffic, replay it at 4x, and serve it as a mock
    Demo(demo::Demo),
    /// Install what is missing, run every check and test, print the sum
    Test(test::Test),
    /// Formatting and clippy
    Lint,
    /// The rules that ARCHITECTURE.md states
    Tidy,
    /// Compare every case of testdata/pcaps with what is expected of it
    Golden {
        /// Write what comes out as what is expected, then look at the difference with git
        #[arg(long)]
        bless: bool,
    },
    /// Measure, beside the peers
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Look for inputs that break a reader of foreign bytes
    Fuzz(fuzz::Fuzz),
    /// Build the kernel programs
    Ebpf(ebpf::Ebpf),
    /// Build the OCI image of all programs
    Image(image::Image),
    /// Render the resource definitions into the chart, and the chart into plain manifests
    Manifests(manifests::Manifests),
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without the back trace that returning it would print: the cause is outside of us.
            shell::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    std::env::set_current_dir(shell::root())?;
    match args.command {
        Command::Demo(args) => demo::run_demo(&args),
        Command::Test(args) => test::run_tests(&args),
        Command::Lint => lint::run_all(),
        Command::Tidy => tidy::run(),
        Command::Golden { bless } => test::golden(bless),
        Command::Bench(args) => bench::run(&args),
        Command::Fuzz(args) => fuzz::run_fuzzer(&args),
        Command::Ebpf(args) => ebpf::run(&args),
        Command::Image(args) => image::build(&args),
        Command::Manifests(args) => args.run(),
    }
}
