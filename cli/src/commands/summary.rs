//! `tapedeck summary`: what several replays say together.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use tapedeck_replayer::player::Report;

use super::replay::{is_stdout, print, verdict};
use crate::output;

#[derive(Debug, Parser)]
pub(crate) struct Summary {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Add up the summaries of replays that ran side by side: the outcome is that of one replay
    #[command(long_about = MERGE)]
    Merge(Merge),
}

const MERGE: &str = "\
Add up the summaries of replays that ran side by side: the outcome is that of one replay

Counts are added, distributions are merged as they were measured (not their percentiles), and the
thresholds are judged anew on the outcome, those over windows second by second. The replays are
taken to have begun together. Scenarios of one name, and the thresholds, must be the same.

Exit codes: 0 done, 1 failed, 99 a threshold does not hold of all of them together.";

#[derive(Debug, Parser)]
struct Merge {
    /// What `tapedeck replay --summary` wrote
    #[arg(required = true, value_name = "SUMMARY")]
    summaries: Vec<PathBuf>,
    /// Write the sum as a summary, too; - writes it to standard output, and the report to standard error
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// A summary of 200 endpoints and a day of windows has less.
const MAX_SUMMARY: u64 = 256 << 20;

pub(crate) fn run(args: &Summary) -> Result<ExitCode> {
    let What::Merge(args) = &args.what;
    let mut reports = Vec::new();
    for path in &args.summaries {
        let report =
            read(path).with_context(|| format!("failed to read the summary {}", path.display()))?;
        reports.push(report);
    }
    let report = Report::merge(reports).context("failed to add up the summaries")?;
    print(&report, args.output.as_deref())?;
    if let Some(path) = &args.output {
        write(path, &report)?;
    }
    Ok(verdict(&report))
}

fn read(path: &Path) -> Result<Report> {
    let mut text = String::new();
    let file = File::open(path)?;
    file.take(MAX_SUMMARY + 1).read_to_string(&mut text)?;
    let is_whole = text.len() as u64 <= MAX_SUMMARY;
    ensure!(is_whole, "it is longer than {}", output::bytes(MAX_SUMMARY));
    Ok(Report::from_summary(&text)?)
}

/// Writes a report in the shape of k6's `handleSummary`.
pub(super) fn write(path: &Path, report: &Report) -> Result<()> {
    let text = serde_json::to_string_pretty(&report.to_json())?;
    if is_stdout(path) {
        return output::print(text + "\n")
            .context("failed to write the summary to standard output");
    }
    fs::write(path, text + "\n")
        .with_context(|| format!("failed to write the summary {}", path.display()))
}
