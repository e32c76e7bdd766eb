//! Benchmarks: our figures beside those of the peers, in one run on one machine.

mod figures;
mod measure;
mod report;
mod wire;

use anyhow::Result;
use clap::Subcommand;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// The wire engine and the import, beside tcpdump, tcpflow, tshark and zstd
    Wire(wire::Wire),
}

pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Wire(args) => wire::run(args),
    }
}
