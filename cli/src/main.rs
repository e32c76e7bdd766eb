//! `tapedeck`: records HTTP traffic, keeps it, and plays it back.
//!
//! This crate parses arguments, calls the libraries, and prints. Results go to standard output,
//! everything else to standard error.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod interrupt;
mod output;

use std::io;
use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;

/// Done, but something is wrong with the data or the run: it was said on standard error.
const FAILED: u8 = 1;

/// Wrong usage: clap's number, for what it cannot see.
const USAGE: u8 = 2;

/// A threshold failed: k6's number.
const THRESHOLD_FAILED: u8 = 99;

fn main() -> ExitCode {
    let args = match args::of_kubectl() {
        Some(command) => Args { command },
        None => Args::parse(),
    };
    let result = match args.command {
        Command::Record(args) => commands::record::run(&args),
        Command::Import(args) => commands::import::run(&args),
        Command::Ls(args) => commands::ls::run(&args),
        Command::Show(args) => commands::show::run(&args),
        Command::Stats(args) => commands::stats::run(&args),
        Command::Verify(args) => commands::verify::run(&args),
        Command::Sign(args) => commands::sign::run(&args),
        Command::Key(args) => commands::key::run(&args),
        Command::Recover(args) => commands::recover::run(&args),
        Command::Cut(args) => commands::cut::run(&args),
        Command::Merge(args) => commands::merge::run(&args),
        Command::Export(args) => commands::export::run(&args),
        Command::Replay(args) => commands::replay::run(&args),
        Command::Summary(args) => commands::summary::run(&args),
        Command::Mock(args) => commands::mock::run(&args),
        Command::Diff(args) => commands::diff::run(&args),
        Command::Ca(args) => commands::ca::run(&args),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Cluster(args) => commands::cluster::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::from(FAILED)
        }
    }
}

/// Whoever reads our output has seen enough (`tapedeck ls | head`): that is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        // JSON writers hide the cause from the chain.
        let json = cause.downcast_ref::<serde_json::Error>();
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        kind.or_else(|| json?.io_error_kind()) == Some(io::ErrorKind::BrokenPipe)
    })
}
