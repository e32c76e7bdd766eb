//! `tapedeckd`: records the HTTP traffic of a node. See `docs/configuration`.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tapedeckd::daemon::{self, Config};

/// Records the HTTP traffic of this node, as its configuration says.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    /// The configuration (YAML)
    #[arg(long, value_name = "FILE", required_unless_present = "schema")]
    config: Option<PathBuf>,
    /// Only say whether the configuration is valid
    #[arg(long, requires = "config")]
    check: bool,
    /// Print the JSON Schema of the configuration
    #[arg(long, conflicts_with = "config")]
    schema: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be gone; there is nobody else to tell.
            drop(writeln!(io::stderr(), "error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let Some(path) = &args.config else {
        writeln!(io::stdout(), "{:#}", Config::schema())?;
        return Ok(());
    };
    if !args.check {
        return daemon::run(path);
    }
    Config::read(path)?;
    writeln!(io::stdout(), "{} is valid", path.display())?;
    Ok(())
}
