//! `tapedeck-controller`: the controller of a cluster. See `docs/cluster.md`.

#![forbid(unsafe_code)]

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use tapedeck_cluster_store::Stores;
use tapedeck_controller::{Certificate, Settings, Timing, run};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::level_filters::LevelFilter;

/// Sums up what the nodes of a cluster record, and makes snapshots.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    /// Where health, metrics and snapshots are served
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// The stores of snapshots (YAML)
    #[arg(long, value_name = "FILE")]
    stores: Option<PathBuf>,
    /// A folder for archives on their way; it needs room for the parts of two snapshots
    #[arg(long, value_name = "FOLDER", default_value = "/scratch")]
    scratch: PathBuf,
    /// For how many seconds one of several controllers leads, unless it renews: when it dies, the next one
    /// begins after so long
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(2..=3600))]
    lease: u64,
    /// Serve by TLS, with the certificate in this Secret of Tapedeck's namespace; where it is empty, the controller
    /// makes one, and renews it
    #[arg(long, value_name = "NAME", conflicts_with_all = ["tls_certificate", "tls_key"])]
    tls_secret: Option<String>,
    /// Serve by TLS, with this certificate (PEM, with those above it); read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// The private key of --tls-certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// How much is logged
    #[arg(long, value_enum, default_value = "info")]
    log_level: Level,
    /// The name of this controller among several; else that in POD_NAME
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    /// Tapedeck's namespace; else that in POD_NAMESPACE, else tapedeck-system
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

fn main() -> ExitCode {
    match start(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be gone; there is nobody else to tell.
            drop(writeln!(io::stderr(), "error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Args) -> Result<()> {
    let level = match args.log_level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_writer(io::stderr)
        .with_max_level(level)
        .init();
    // Two providers are linked in some builds; without a choice the first connection would panic.
    // Another choice that was made before is as good.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let text = match &args.stores {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("failed to read {}", path.display()))?,
        None => "[]".to_owned(),
    };
    let stores = Stores::parse(&text).context("failed to read the stores")?;
    let settings = Settings {
        // Two of one name would both take themselves for the leader.
        identity: named(args.identity.as_ref(), "POD_NAME")
            .context("name it: --identity, or POD_NAME")?,
        namespace: named(args.namespace.as_ref(), "POD_NAMESPACE")
            .unwrap_or_else(|| "tapedeck-system".to_owned()),
        stores,
        environment: std::env::vars().collect(),
        scratch: args.scratch.clone(),
        timing: Timing::of(Duration::from_secs(args.lease)),
        certificate: certificate(args),
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start")?
        .block_on(work(args, settings))
}

fn certificate(args: &Args) -> Certificate {
    match (&args.tls_secret, &args.tls_certificate, &args.tls_key) {
        (Some(name), ..) => Certificate::Secret(name.clone()),
        (None, Some(certificate), Some(key)) => Certificate::Files {
            certificate: certificate.clone(),
            key: key.clone(),
        },
        _ => Certificate::None,
    }
}

fn named(argument: Option<&String>, variable: &str) -> Option<String> {
    argument
        .cloned()
        .or_else(|| std::env::var(variable).ok())
        .filter(|name| !name.is_empty())
}

async fn work(args: &Args, settings: Settings) -> Result<()> {
    let config = kube::Config::infer()
        .await
        .context("failed to find the API server")?;
    let client = kube::Client::try_from(config).context("failed to reach the API server")?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("failed to listen on {}", args.listen))?;
    let (stop, stopped) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).context("failed to wait for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to wait for signals")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.send_replace(true);
    });
    run(client, settings, listener, stopped).await
}
