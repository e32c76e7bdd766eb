use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, thread};

use anyhow::{Context, Result, bail};
use tapedeck_archive::{
    Destination, Provenance, Retention, SegmentedWriter, SetEvent, SetOptions, WriterOptions,
};
use tapedeckd::attribution::Node;
use tapedeckd::capture::{self, Backend, Ended, Options, Progress, Setup, Summary, Until};
use tapedeckd::sources::Policy;

use super::{connections, keys};
use crate::args;
use crate::output;

/// Where the kubelet's folders have the names of pods and containers.
const NODE_LOGS: &str = "/var/log";

pub(crate) fn run(args: &args::Record) -> Result<ExitCode> {
    let is_folder = is_folder(args)?;
    let key_logs = args.keylogs.iter().map(|path| open_key_log(path));
    let key_logs = key_logs.collect::<Result<Vec<_>>>()?;
    let options = options(args);
    let mut opened = capture::open(&options)?;
    for (backend, why) in &opened.passed_over {
        output::say(format_args!("{backend} is not possible here: {why}"));
    }
    let filter = options.describe_filter();
    let provenance = Provenance {
        source: format!("live, {}", opened.backend),
        capture_filter: filter.clone(),
        ..super::provenance()
    };
    let writer = destination(args, is_folder, provenance)?;
    // Before there are other threads: each has its own.
    capture::give_up_privileges(opened.backend, folder_of(&args.output))?;
    // This thread is still the only one.
    let stop = Arc::new(AtomicBool::new(false));
    let (signalled, here) = (Arc::clone(&stop), thread::current());
    let stopped = capture::on_stop(move || {
        signalled.store(true, Ordering::Release);
        here.unpark();
    });
    stopped.context("failed to wait for signals")?;
    let node = Node::of_this_machine(Path::new(NODE_LOGS)).map(Arc::new);
    if let Some(node) = &node {
        node.set_source(&mut opened);
    }

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
    let setup = Setup {
        attribution: node.map(|node| node as Arc<dyn capture::Attribution>),
        key_logs,
        nice: args.nice,
        ..Setup::default()
    };
    let summary = capture::run(opened, writer, setup, &until, &stop, &mut |progress| {
        bar.suspend(|| say_events(&progress.events));
        bar.set_message(line(progress));
    });
    bar.finish_and_clear();
    let summary =
        summary.with_context(|| format!("failed to record to {}", args.output.display()))?;
    Ok(report(args, &summary))
}

/// Opened before privileges are given up: it is somebody else's file.
fn open_key_log(path: &Path) -> Result<Arc<File>> {
    let failed = || {
        format!(
            "failed to open key log {}: it must be there before the recording begins; `touch` makes \
             an empty one",
            path.display()
        )
    };
    // Asked first: to open a FIFO waits for who writes to it, and it cannot be looked at twice.
    if !fs::metadata(path).with_context(failed)?.is_file() {
        bail!(
            "key log {} is no regular file: give one that the program writes (`SSLKEYLOGFILE`)",
            path.display()
        );
    }
    let file = File::open(path).with_context(failed)?;
    Ok(Arc::new(file))
}

/// Whether the output is a folder of segments: one that is there, or whose name ends in `/`. An error: what is only for
/// the one was asked for the other.
fn is_folder(args: &args::Record) -> Result<bool> {
    let output = &args.output;
    let is_folder = output.is_dir() || output.as_os_str().as_encoded_bytes().ends_with(b"/");
    if is_folder && args.force {
        bail!("--force is for a file: segments replace nothing");
    }
    let segments = &args.segments;
    let usual = SetOptions::new(Provenance::default());
    let of_folders = [
        (
            "--segment-size",
            segments.segment_size != usual.segment_size,
        ),
        ("--segment-age", segments.segment_age != usual.segment_age),
        ("--retain-size", segments.retain_size.is_some()),
        ("--retain-age", segments.retain_age.is_some()),
    ];
    let given = of_folders.iter().filter(|(_, is_given)| *is_given);
    let given: Vec<_> = given.map(|(option, _)| *option).collect();
    if !is_folder && !given.is_empty() {
        let verb = if given.len() == 1 { "is" } else { "are" };
        bail!(
            "{} {verb} for a folder of segments: -o {}/",
            given.join(" and "),
            output.display()
        );
    }
    Ok(is_folder)
}

/// A file, or a folder of segments.
fn destination(
    args: &args::Record,
    is_folder: bool,
    provenance: Provenance,
) -> Result<Destination> {
    let segments = &args.segments;
    let to = keys::recipients(&args.encryption)?;
    if !is_folder {
        return Ok(super::create(&args.output, provenance, args.force, to)?.into());
    }
    let mut options = SetOptions::new(provenance.clone());
    options.writer = WriterOptions::new(provenance);
    options.writer.encrypt_to = to;
    options.segment_size = segments.segment_size;
    options.segment_age = segments.segment_age;
    options.retention = Retention {
        size: segments.retain_size,
        age: segments.retain_age,
    };
    let (writer, events) = SegmentedWriter::create(&args.output, options)?;
    say_events(&events);
    Ok(writer.into())
}

/// Says what happened to the segments of a folder.
fn say_events(events: &[SetEvent]) {
    for event in events {
        match event {
            SetEvent::Recovered { path, summary } => output::say(format_args!(
                "{}: {} exchanges recovered of a recording that was interrupted",
                path.display(),
                summary.exchanges
            )),
            SetEvent::Sealed { path, summary } => output::say(format_args!(
                "{}: {} exchanges, {}",
                path.display(),
                summary.exchanges,
                output::bytes(summary.file_len)
            )),
            SetEvent::Empty { path } => output::say(format_args!(
                "{} held no exchange and is removed",
                path.display()
            )),
            SetEvent::Deleted { path, .. } => output::say(format_args!(
                "{} is deleted, as --retain-size and --retain-age say",
                path.display()
            )),
            SetEvent::NotRecovered { path, error } => output::warn(format_args!(
                "{} stays as it was interrupted: {error}",
                path.display()
            )),
            SetEvent::NotDeleted { path, error } => output::warn(format_args!(
                "{} is to be deleted and cannot be: {error}",
                path.display()
            )),
            _ => {}
        }
    }
}

/// Where files are made and renamed for this output.
fn folder_of(output: &Path) -> &Path {
    if output.is_dir() {
        return output;
    }
    match output.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

pub(super) fn backend(backend: args::Backend) -> Backend {
    match backend {
        args::Backend::Auto => Backend::Auto,
        args::Backend::Ebpf => Backend::Ebpf,
        args::Backend::AfPacket => Backend::AfPacket,
        args::Backend::Libpcap => Backend::Libpcap,
    }
}

fn options(args: &args::Record) -> Options {
    Options {
        backend: backend(args.backend),
        interface: args.interface.clone(),
        filter: args.packet_filter.clone(),
        cgroup: args.cgroup.clone(),
        policy: if args.sockets.is_empty() {
            Policy::only_ports(&args.ports)
        } else {
            Policy::only_sockets(&args.sockets)
        },
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
    say_events(&summary.events);
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn what_is_for_segments_is_refused_of_a_file_and_the_other_way_round() {
        let folder = tempfile::tempdir().unwrap();
        let ask = |output: &str, more: &[&str]| {
            let output = folder.path().join(output);
            let args = ["record", "-o", output.to_str().unwrap()];
            is_folder(&args::Record::parse_from(args.iter().chain(more)))
                .map_err(|error| error.to_string())
        };
        assert_eq!(ask("a.tape", &["--force"]), Ok(false));
        assert_eq!(ask("", &[]), Ok(true));
        assert_eq!(ask("new/", &["--segment-size", "1MiB"]), Ok(true));
        for option in ["--segment-size=1MiB", "--segment-age=1h", "--retain-age=1h"] {
            let said = ask("a.tape", &[option]).unwrap_err();
            let (name, _) = option.split_once('=').unwrap();
            assert!(
                said.starts_with(&format!("{name} is for a folder of segments: -o ")),
                "{said}"
            );
        }
        let both = ask("a.tape", &["--segment-size=1MiB", "--retain-size=1GiB"]);
        assert!(
            both.unwrap_err()
                .starts_with("--segment-size and --retain-size are for")
        );
        assert!(ask("new/", &["--force"]).is_err());
    }

    /// To open one waits for who writes to it, for ever.
    #[test]
    fn a_key_log_is_a_regular_file() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.unwrap().success());
        for path in [&fifo, folder.path()] {
            let said = open_key_log(path).unwrap_err().to_string();
            assert!(said.contains("no regular file"), "{said}");
        }
        let missing = open_key_log(&folder.path().join("none")).unwrap_err();
        assert!(missing.to_string().contains("`touch` makes"), "{missing}");
        fs::write(folder.path().join("log"), "").unwrap();
        open_key_log(&folder.path().join("log")).unwrap();
    }
}
