//! Benchmarks: our figures beside those of the peers, in one run on one machine.

mod archive;
mod calm;
mod capture;
mod figures;
mod measure;
mod mock;
mod nginx;
mod processors;
mod random;
mod replay;
mod report;
mod wire;

use anyhow::Result;
use clap::Subcommand;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// The archive: sizes and speeds beside zstd, gzip, jq and mitmproxy
    Archive(archive::Archive),
    /// The wire engine and the import, beside tcpdump, tcpflow, tshark and zstd
    Wire(wire::Wire),
    /// The player, beside wrk, h2load, hey, oha and k6
    Replay(replay::Replay),
    /// The mock, beside nginx, WireMock and mitmproxy
    Mock(mock::Mock),
    /// Recording live, beside tcpdump
    Capture(capture::Capture),
}

pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Archive(args) => archive::run(args),
        Bench::Wire(args) => wire::run(args),
        Bench::Replay(args) => replay::run(args),
        Bench::Mock(args) => mock::run(args),
        Bench::Capture(args) => capture::run(args),
    }
}
