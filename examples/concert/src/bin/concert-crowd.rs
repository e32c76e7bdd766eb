//! The crowd of the booking service.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use concert::crowd::{Crowd, Target, Version};

/// Visits a booking service as a crowd of users would, and prints what they saw.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The service, as http://HOST:PORT.
    #[arg(long)]
    target: String,
    /// How many users come. Each makes one visit on a connection of its own.
    #[arg(long, default_value_t = 50)]
    users: u64,
    /// Over how many seconds they come.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Determines who comes when and does what.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Speak HTTP/2 with prior knowledge instead of HTTP/1.1.
    #[arg(long)]
    http2: bool,
    /// How many seconds a call may take.
    #[arg(long, default_value_t = 10.0)]
    timeout: f64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let crowd = Crowd {
        users: args.users,
        arrivals: Duration::try_from_secs_f64(args.seconds)?,
        seed: args.seed,
        version: if args.http2 {
            Version::Http2
        } else {
            Version::Http1
        },
        patience: Duration::try_from_secs_f64(args.timeout)?,
    };
    let target = Target::resolve(&args.target).await?;
    let report = crowd.visit(&target).await;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        writeln!(out, "{report}")?;
    }
    Ok(if report.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
