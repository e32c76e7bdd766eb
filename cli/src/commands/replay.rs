use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use tapedeck_replayer::player::{self, Limits, Options, Progress, StopFlag};

use crate::args;
use crate::interrupt::on_interrupt;
use crate::output;

pub(crate) fn run(args: &args::Replay) -> Result<ExitCode> {
    let archive = Arc::new(super::open(&args.archive)?);
    let options = options(args);

    let stop = StopFlag::new();
    let signalled = stop.clone();
    on_interrupt(move || {
        output::say("stopping: what is in flight may finish; once more to stop at once");
        signalled.stop();
    })?;

    let bar = output::count_progress();
    let report = player::run(archive, &options, &stop, |progress| show(&bar, &progress));
    bar.finish_and_clear();
    let report = report.with_context(|| format!("failed to replay {}", args.archive.display()))?;

    output::print(format_args!("{report}"))?;
    if let Some(path) = &args.summary {
        let text = serde_json::to_string_pretty(&report.to_json())?;
        fs::write(path, text + "\n")
            .with_context(|| format!("failed to write the summary {}", path.display()))?;
    }
    if !report.passed() {
        let failed = report.thresholds.iter().filter(|verdict| !verdict.ok);
        output::say(format_args!("{} thresholds failed", failed.count()));
        return Ok(ExitCode::from(crate::THRESHOLD_FAILED));
    }
    // A run in which not one request was answered is no result.
    let failed = report.tally.answered() == 0;
    Ok(if failed {
        ExitCode::from(crate::FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

fn options(args: &args::Replay) -> Options {
    Options {
        speed: args.speed,
        connections: args.connections,
        timeout: args.timeout,
        preserve_host: args.preserve_host,
        filter: args.filter.clone(),
        thresholds: args.thresholds.clone(),

        limits: Limits {
            connections: args.max_connections.get(),
            ..Limits::default()
        },
        ..Options::new(args.target.clone())
    }
}

fn show(bar: &ProgressBar, progress: &Progress) {
    bar.set_length(progress.total);
    bar.set_position(progress.answered + progress.failed + progress.never_sent);
    let rate =
        progress.answered as f64 / progress.elapsed.max(Duration::from_millis(1)).as_secs_f64();
    bar.set_message(format!(
        "{rate:.0}/s, {} in flight, {} failed, {} connections",
        progress.in_flight,
        progress.failed + progress.never_sent,
        progress.connections
    ));
}
