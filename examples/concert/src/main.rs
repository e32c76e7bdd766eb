//! The booking service.

use std::io::Write;
use std::net::SocketAddr;

use anyhow::Context;
use clap::Parser;
use concert::booking::Options;
use concert::{api, draw};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// A small concert-booking service, over HTTP/1.1 and HTTP/2 with prior knowledge on one port.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Where to listen. Port 0: any free one. The address is printed once it listens.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Seats of each date.
    #[arg(long, default_value_t = Options::default().seats)]
    seats: u32,
    /// Determines the tokens and ids that a user is given, so that two instances with the same
    /// seed give the same ones. Without it they differ from run to run.
    #[arg(long)]
    seed: Option<u64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    let address = listener.local_addr().context("no local address")?;
    writeln!(std::io::stdout(), "listening on http://{address}")?;
    let options = Options {
        seats: args.seats,
        seed: args.seed.unwrap_or_else(draw::fresh_seed),
        ..Options::default()
    };
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    api::serve(listener, options, stop)
        .await
        .context("the service failed")
}
