//! `tapedeck replay`.

mod args;
mod metrics;
mod outputs;
mod series;
mod show;

use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use tapedeck_replayer::player::{
    self, Executor, FileOptions, Identity, Iteration, Limits, Options, Report, Reuse, RunError,
    Scenario, ScenarioError, StopFlag, TlsOptions,
};

pub(crate) use args::Replay;
pub(super) use outputs::{is_stdout, print};

use self::metrics::Metrics;
use self::outputs::Summary;
use self::series::Series;
use crate::interrupt::on_interrupt;
use crate::output;

pub(crate) fn run(args: &Replay) -> Result<ExitCode> {
    let mut options = options(args);
    let read = tls(args, &mut options).and_then(|()| match &args.scenario {
        Some(path) => read_file(path, &mut options),
        None => of_flags(args, &mut options),
    });
    let read = read.and_then(|()| check_users(args, &options));
    if let Err(error) = read {
        output::error(&error);
        return Ok(ExitCode::from(crate::USAGE));
    }
    if options.tls.insecure {
        output::warn(
            "certificates are not checked: whoever stands between can read and change all",
        );
    }
    let archive = Arc::new(super::open(&args.archive, &args.identity)?);
    let outputs = [
        ("--series", args.series.as_deref()),
        ("--summary", args.summary.as_deref()),
    ];
    if let Err(error) = outputs::check(&archive, &outputs) {
        output::error(&error);
        return Ok(ExitCode::from(crate::USAGE));
    }
    if args.dry_run {
        return match player::dry_run(archive, &options) {
            Ok(plan) => {
                plan.warnings.iter().for_each(output::warn);
                output::print(plan)?;
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => refused(args, error),
        };
    }

    let stop = StopFlag::new();
    let signalled = stop.clone();
    on_interrupt(move || {
        output::say("stopping: what is in flight may finish; once more to stop at once");
        signalled.stop();
    })?;

    let series = args.series.as_deref().map(Series::create).transpose()?;
    let summary = args.summary.as_deref().map(Summary::create).transpose()?;
    let metrics = args.metrics.map(Metrics::serve).transpose()?;
    let live = show::Live::new();
    let report = player::run(archive, &options, &stop, |progress| {
        if !progress.warnings.is_empty() {
            progress.warnings.iter().for_each(output::warn);
            return;
        }
        live.show(&progress);
        if let Some(series) = &series {
            series.add(&progress.seconds);
        }
        if let Some(metrics) = &metrics {
            metrics.show(&progress);
        }
    });
    live.end();
    let series = series.map_or(Ok(()), Series::end);
    let report = match report {
        Ok(report) => report,
        Err(error) => return refused(args, error),
    };
    // Each is told, whatever becomes of the others: there is no second run like this one.
    let summary = summary.map_or(Ok(()), |summary| summary.write(&report));
    let printed = print(&report, args.summary.as_deref());
    concluded(&report, [summary, series, printed])
}

/// The exit code; what could not be written matters less than a run that failed.
fn concluded(report: &Report, written: [Result<()>; 3]) -> Result<ExitCode> {
    let code = verdict(report);
    let failed = written.into_iter().filter_map(Result::err);
    // Whoever reads the report may have seen enough of it.
    let mut failed = failed.filter(|error| !crate::is_broken_pipe(error));
    if report.passed() && report.tally.answered() > 0 {
        return failed.next().map_or(Ok(code), Err);
    }
    failed.for_each(|error| output::error(&error));
    Ok(code)
}

fn refused(args: &Replay, error: RunError) -> Result<ExitCode> {
    let usage = matches!(
        error,
        RunError::UnknownTag { .. } | RunError::TooManyScenarios(_)
    );
    let error = anyhow::Error::new(error);
    if usage {
        output::error(&error);
        return Ok(ExitCode::from(crate::USAGE));
    }
    Err(error.context(format!("failed to replay {}", super::named(&args.archive))))
}

/// The exit code.
pub(super) fn verdict(report: &Report) -> ExitCode {
    if !report.passed() {
        let failed = report.thresholds.iter().filter(|verdict| !verdict.ok);
        output::say(format_args!("{} thresholds failed", failed.count()));
        return ExitCode::from(crate::THRESHOLD_FAILED);
    }
    // A run in which not one request was answered is no result.
    if report.tally.answered() == 0 {
        return ExitCode::from(crate::FAILED);
    }
    ExitCode::SUCCESS
}

fn options(args: &Replay) -> Options {
    Options {
        routes: args.routes.clone(),
        resolve: args.resolve.clone(),
        dns_ttl: args.dns_ttl,
        headers: args.headers.clone(),
        removed_headers: args.removed_headers.clone(),
        every_second: args.series.is_some() || args.metrics.is_some() || show::Live::is_wanted(),
        include_incomplete: args.include_incomplete,
        observe: args.observe.clone(),
        observe_query: args.observe_query.clone(),
        speed: args.speed,
        duration: args.duration,
        session_by: args.session_by.clone(),
        connections: args.connections.0,
        workers: args.threads.and_then(NonZeroU32::new),
        timeout: args.timeout,
        preserve_host: args.preserve_host,
        filter: args.filter.clone(),
        thresholds: args.thresholds.clone(),
        limits: Limits {
            connections: args.max_connections.get(),
            in_flight: args.max_in_flight.get(),
            ..Limits::default()
        },
        ..Options::new(args.target.clone())
    }
}

fn tls(args: &Replay, options: &mut Options) -> Result<()> {
    let read = |path: &PathBuf| {
        fs::read(path).with_context(|| format!("failed to read {}", path.display()))
    };
    options.tls = TlsOptions {
        authorities: args.cacert.as_ref().map(read).transpose()?,
        identity: match (&args.cert, &args.key) {
            (Some(cert), Some(key)) => Some(Identity {
                certificates: read(cert)?,
                key: read(key)?,
            }),
            _ => None,
        },
        insecure: args.insecure,
        http1_only: args.http1,
    };
    Ok(())
}

/// The common load models, from flags.
fn of_flags(args: &Replay, options: &mut Options) -> Result<()> {
    let stages = args.stages.as_ref().map(|stages| stages.0.clone());
    let executor = match args.rate {
        Some(rate) => Some(at_rate(args, rate.0, stages)?),
        None if args.vus.is_none() && args.iterations.is_none() && stages.is_none() => None,
        None => Executor::of_shortcuts(args.vus, args.duration, args.iterations, stages)
            .map_err(flag_error)?,
    };
    let scenario = executor.map(|executor| Scenario {
        think: args.think.map_or(Some(1.0), |think| think.0),
        iteration: if args.single {
            Iteration::Exchange
        } else {
            Iteration::Session
        },
        ..Scenario::new("default", executor)
    });
    options.scenarios.extend(scenario);
    Ok(())
}

/// What would have no effect is said: whoever gave it expects one.
fn check_users(args: &Replay, options: &Options) -> Result<()> {
    let has_users = |scenario: &Scenario| scenario.executor.most_vus() > 0;
    let needs = "--vus, --iterations, --stages or --rate";
    if args.scenario.is_none() && !options.scenarios.iter().any(has_users) {
        for (given, flag) in [(args.single, "--single"), (args.think.is_some(), "--think")] {
            anyhow::ensure!(
                !given,
                "{flag} is for users, and there are none: {needs} bring some"
            );
        }
    }
    // A file may have said it, where nobody did here: then it was looked at as it was read.
    let tells_apart = options.scenarios.iter().any(Scenario::has_sessions);
    anyhow::ensure!(
        args.session_by.is_none() || tells_apart,
        "--session-by is for users that send sessions, and there are none: {needs} bring some, as scenarios do"
    );
    Ok(())
}

fn at_rate(
    args: &Replay,
    rate: player::PerTime,
    stages: Option<Vec<player::Stage>>,
) -> Result<Executor> {
    // None of them costs anything before it is needed.
    let (pre_allocated_vus, max_vus) = (args.max_vus, args.max_vus);
    let executor = match (stages, args.duration) {
        (Some(stages), _) => Executor::RampingArrivalRate {
            start_rate: rate,
            stages,
            pre_allocated_vus,
            max_vus,
        },
        (None, Some(duration)) => Executor::ConstantArrivalRate {
            rate,
            duration,
            pre_allocated_vus,
            max_vus,
        },
        (None, None) => anyhow::bail!("--rate needs --duration, or --stages"),
    };
    executor.check().map_err(flag_error)?;
    Ok(executor)
}

/// The parameter, as the flag that it came from.
fn flag_error(error: ScenarioError) -> anyhow::Error {
    let flag = match error.field {
        "maxDuration" => "duration",
        "maxVUs" => "max-vus",
        "startVUs" => "vus",
        "startRate" => "rate",
        field => field,
    };
    anyhow::anyhow!("--{flag}: {}", error.message)
}

/// Load models and thresholds from a file; those of the command line come on top.
fn read_file(path: &Path, options: &mut Options) -> Result<()> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("failed to read the scenarios {}", path.display()))?;
    let file = FileOptions::parse(&text)
        .with_context(|| format!("failed to read the scenarios {}", path.display()))?;
    if !file.without_meaning.is_empty() {
        output::warn(format_args!(
            "{}: without a script these options have no meaning: {}",
            path.display(),
            file.without_meaning.join(", ")
        ));
    }
    if !file.without_values.is_empty() {
        output::warn(format_args!(
            "{}: thresholds on {} are left out: a replay has no such values",
            path.display(),
            file.without_values.join(", ")
        ));
    }
    options.scenarios = file.scenarios;
    let more = std::mem::replace(&mut options.thresholds, file.thresholds);
    options.thresholds.extend(more);
    options.session_by = options.session_by.take().or(file.session_by);
    options.min_iteration = file.min_iteration_duration;
    options.max_rate = file.rps;
    options.tls.insecure |= file.insecure;
    let agent = file
        .user_agent
        .map(|agent| ("User-Agent".to_owned(), agent));
    options.headers.extend(agent);
    options.reuse = match (file.no_connection_reuse, file.no_vu_connection_reuse) {
        (true, _) => Reuse::Never,
        (false, true) => Reuse::WithinIteration,
        (false, false) => Reuse::Always,
    };
    Ok(())
}
