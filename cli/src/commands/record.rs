use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use tapedeck_archive::Provenance;
use tapedeckd::capture::{self, Backend, Ended, Options, Progress, Setup, Summary, Until};
use tapedeckd::sources::Policy;

use super::connections;
use crate::args;
use crate::interrupt::on_interrupt;
use crate::output;

pub(crate) fn run(args: &args::Record) -> Result<ExitCode> {
    let options = options(args);
    let opened = capture::open(&options)?;
    if let Some((backend, why)) = &opened.passed_over {
        let why = anyhow::Error::msg(why.to_string());
        output::say(format_args!("{backend} is not possible here: {why:#}"));
    }
    let filter = options.describe_filter();
    let provenance = Provenance {
        source: format!("live, {}", opened.backend),
        capture_filter: filter.clone(),
        ..super::provenance()
    };
    let writer = super::create(&args.output, provenance, args.force)?;

    let stop = Arc::new(AtomicBool::new(false));
    let signalled = Arc::clone(&stop);
    on_interrupt(move || signalled.store(true, Ordering::Release))?;

    let what = if filter.is_empty() {
        "everything".to_owned()
    } else {
        filter
    };
    output::say(format_args!(
        "recording {what} with {}; ctrl-c ends it",
        opened.backend
    ));
    let until = Until {
        duration: args.duration,
        exchanges: None,
    };
    let bar = output::message_line();
    let setup = Setup::default();
    let summary = capture::run(opened, writer, setup, &until, &stop, &mut |progress| {
        bar.set_message(line(progress));
    });
    bar.finish_and_clear();
    let summary =
        summary.with_context(|| format!("failed to record to {}", args.output.display()))?;
    Ok(report(args, &summary))
}

fn options(args: &args::Record) -> Options {
    Options {
        backend: match args.backend {
            args::Backend::Auto => Backend::Auto,
            args::Backend::Ebpf => Backend::Ebpf,
            args::Backend::AfPacket => Backend::AfPacket,
        },
        interface: args.interface.clone(),
        cgroup: args.cgroup.clone(),
        policy: Policy::only_ports(&args.ports),
        ..Options::default()
    }
}

fn line(progress: &Progress) -> String {
    format!(
        "{} s, {} packets, {} exchanges, {} packets lost",
        progress.elapsed.as_secs(),
        progress.packets,
        progress.exchanges,
        progress.dropped
    )
}

fn report(args: &args::Record, summary: &Summary) -> ExitCode {
    let ledger = &summary.ledger;
    output::say(format_args!(
        "{}: {} exchanges on {} connections from {} packets, {}",
        args.output.display(),
        summary.archive.exchanges,
        ledger.connections,
        ledger.packets_seen,
        output::bytes(summary.archive.file_len),
    ));
    for loss in output::losses(ledger) {
        output::warn(loss);
    }
    if summary.too_large > 0 {
        output::warn(format_args!(
            "{} exchanges were too large for the archive",
            summary.too_large
        ));
    }
    if let Some(unread) = connections::unread(ledger) {
        output::warn(unread);
    }
    if let Ended::SourceFailed(error) = &summary.ended {
        output::warn(format_args!(
            "the capture ended early: {error}; the archive holds what came before"
        ));
        return ExitCode::from(crate::FAILED);
    }
    ExitCode::SUCCESS
}
