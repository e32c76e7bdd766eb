use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use anyhow::{Context, Result};
use tapedeck_archive::Archive;
use tapedeck_replayer::mock::chaos::{Chaos, OnFault};
use tapedeck_replayer::mock::{
    Mock, OnMiss, Options, Remedy, Repeat, Rules, Stats, Uncalled, Upstreams, Written,
};
use tapedeck_replayer::player::TlsOptions;

use crate::args;
use crate::interrupt::on_interrupt;
use crate::output;

/// Misses that are told one by one; the number of all is told, too.
const MISSES_SHOWN: usize = 10;
/// Rules for misses that are told.
const RULES_SHOWN: usize = 10;
/// Exchanges that nobody asked for that are told one by one.
const UNCALLED_SHOWN: usize = 20;

pub(crate) fn run(args: &args::Mock) -> Result<ExitCode> {
    let archive = Arc::new(super::open(&args.archive, &args.identity)?);
    if args.suggest {
        return suggest(archive, args);
    }
    let (chaos, rules) = match files(args) {
        Ok(read) => read,
        Err(error) => {
            output::error(&error);
            return Ok(ExitCode::from(crate::USAGE));
        }
    };
    if let Some(wrong) = contradiction(args) {
        output::error(&anyhow::anyhow!(wrong));
        return Ok(ExitCode::from(crate::USAGE));
    }
    let on_fault = args.chaos_log.as_deref().map(fault_log).transpose()?;
    let authority = super::ca::authority(args.ca.as_deref())?.map(Arc::new);
    let (stop, stopped) = mpsc::channel();
    let ask_to_stop = stop.clone();
    let options = Options {
        control: args.control,
        on_shutdown: Some(Arc::new(move || ask_to_stop.send(()).unwrap_or_default())),
        authority: authority.clone(),
        chaos,
        rules,
        on_fault,
        listen: args.listen,
        latency: args.latency,
        repeat: args.repeat.into(),
        filter: args.filter.clone(),
        on_miss: args.on_miss.into(),
        upstreams: upstreams(args)?,
        received: args.received.clone(),
        recorded: args.record.clone(),
        ..Options::default()
    };
    on_interrupt(move || stop.send(()).unwrap_or_default())?;
    let mut mock = Mock::start(archive, &options)
        .with_context(|| format!("failed to serve {}", super::named(&args.archive)))?;
    let skipped = mock.stats().skipped;
    if skipped.total() > 0 {
        output::warn(format_args!("some exchanges are not served: {skipped}"));
    }
    // On standard output, because with port 0 this is the result that a script waits for.
    let mut ports = format!("listening on http://{}\n", mock.addr());
    if let Some(control) = mock.control_addr() {
        ports.push_str(&format!("control port on http://{control}\n"));
    }
    output::print(format_args!("{ports}"))?;
    if authority.is_some() {
        output::say("TLS on the same port, for any server name");
    }

    stopped.recv().context("failed to wait for signals")?;
    mock.shut_down();
    let stats = mock.stats();
    tell(&stats);
    let unwritten = [
        (&stats.received, &args.received),
        (&stats.recorded, &args.record),
    ]
    .into_iter()
    .filter_map(|(written, path)| Some(tell_written(written.as_ref()?, path.as_deref()?)))
    .fold(false, |any, failed| any | failed);
    let missed = args.strict && stats.misses > 0;
    let uncalled = args.verify && tell_uncalled(&mock.uncalled(UNCALLED_SHOWN));
    Ok(if missed || uncalled || unwritten {
        ExitCode::from(crate::FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

/// What of the command line means nothing together.
fn contradiction(args: &args::Mock) -> Option<&'static str> {
    let asks = args.on_miss != args::OnMiss::Fail;
    if !asks && !args.upstream.is_empty() {
        return Some("--upstream needs --on-miss passthrough or --on-miss record");
    }
    match (args.on_miss, &args.record) {
        (args::OnMiss::Record, None) => Some("--on-miss record needs --record OUT.tape"),
        (args::OnMiss::Fail | args::OnMiss::Passthrough, Some(_)) => {
            Some("--record needs --on-miss record")
        }
        _ => None,
    }
}

fn upstreams(args: &args::Mock) -> Result<Upstreams> {
    let read = |path: &PathBuf| {
        fs::read(path).with_context(|| format!("failed to read {}", path.display()))
    };
    Ok(Upstreams {
        list: args.upstream.clone(),
        tls: TlsOptions {
            authorities: args.upstream_cacert.as_ref().map(read).transpose()?,
            ..TlsOptions::default()
        },
    })
}

/// Says what became of an archive, and whether it failed.
fn tell_written(written: &Written, path: &Path) -> bool {
    let path = path.display();
    output::say(format_args!("{} exchanges in {path}", written.exchanges));
    if written.dropped > 0 {
        output::warn(format_args!(
            "{} exchanges are not in {path}: they came faster than they could be written",
            written.dropped
        ));
    }
    if let Some(why) = &written.failed {
        output::warn(format_args!(
            "{path} is not finished: {why}; `tapedeck recover` gets what was written"
        ));
    }
    written.failed.is_some()
}

/// Says which recorded exchanges nobody asked for, and whether there are any.
fn tell_uncalled(uncalled: &Uncalled) -> bool {
    let Uncalled { total, listed } = uncalled;
    if *total == 0 {
        output::say("every recorded exchange was asked for");
        return false;
    }
    output::say(format_args!(
        "{total} recorded exchanges were never asked for"
    ));
    for (id, method, target) in listed {
        output::say(format_args!(
            "never asked for: {} {} (exchange {id})",
            output::visible(method),
            output::visible(target)
        ));
    }
    let rest = total.saturating_sub(listed.len() as u64);
    if rest > 0 {
        output::say(format_args!("... and {rest} more"));
    }
    true
}

fn tell(stats: &Stats) {
    output::say(format_args!(
        "{} answered from the recording, {} without a recorded answer, {} refused",
        stats.hits, stats.misses, stats.refused
    ));
    if stats.passed > 0 {
        output::say(format_args!(
            "{} of those without were passed on to an upstream, which failed to answer {}",
            stats.passed, stats.upstream_failures
        ));
    }
    if stats.tls_without_authority > 0 {
        output::warn(format_args!(
            "{} connections began with TLS, which needs a certificate authority: `tapedeck ca init`",
            stats.tls_without_authority
        ));
    }
    for (rule, count) in &stats.faults {
        output::say(format_args!(
            "fault {}: {count} times",
            output::visible(rule)
        ));
    }
    for (reason, count) in &stats.tls_failures {
        output::warn(format_args!(
            "{count} TLS handshakes failed: {}{}",
            output::visible(reason),
            advice(reason)
        ));
    }
    for miss in stats.missed.iter().take(MISSES_SHOWN) {
        output::say(format_args!("miss: {}", output::visible(&miss.to_string())));
    }
    if !stats.remedies.is_empty() {
        output::say("rules by which recorded requests would have answered; read before use:");
    }
    tell_rules(&stats.remedies);
}

/// Says the rules that would let the most requests through.
pub(crate) fn tell_rules(remedies: &[Remedy]) {
    if !remedies.is_empty() {
        output::say("rules:");
    }
    for remedy in remedies.iter().take(RULES_SHOWN) {
        for line in remedy.rule.lines() {
            output::say(output::visible(line));
        }
        output::say(format_args!("    # {} requests", remedy.requests));
    }
}

/// What the files that were named say.
fn files(args: &args::Mock) -> Result<(Option<Chaos>, Rules)> {
    let read = |path: &Path| {
        fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
    };
    let chaos = match &args.chaos {
        Some(path) => Some(
            Chaos::parse(&read(path)?)
                .with_context(|| format!("in the chaos file {}", path.display()))?,
        ),
        None => None,
    };
    Ok((chaos, rules(args.rules.as_deref())?))
}

/// What a rules file says; without one, that everything has to be equal.
pub(crate) fn rules(path: Option<&Path>) -> Result<Rules> {
    let Some(path) = path else {
        return Ok(Rules::default());
    };
    let text =
        fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    Rules::parse(&text).with_context(|| format!("in the rules file {}", path.display()))
}

/// Prints a rules file for what differs in every recorded request.
fn suggest(archive: Arc<Archive>, args: &args::Mock) -> Result<ExitCode> {
    let found = Rules::suggest(archive, args.filter.as_ref())
        .with_context(|| format!("failed to read {}", super::named(&args.archive)))?;
    if found.is_empty() {
        output::say("no field of the recorded requests looks volatile: no rules are needed");
        output::print("rules: []\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let rules: String = found.iter().map(ToString::to_string).collect();
    output::print(format_args!("rules:\n{rules}"))?;
    output::say("read it before you use it with --rules: a field may differ because it matters");
    Ok(ExitCode::SUCCESS)
}

/// Writes each fault down as it strikes: a mock that is killed has told all of them.
fn fault_log(path: &Path) -> Result<OnFault> {
    let file =
        File::create(path).with_context(|| format!("failed to create {}", path.display()))?;
    let file = Mutex::new(file);
    let failed = AtomicBool::new(false);
    let name = path.display().to_string();
    Ok(Arc::new(move |injected| {
        let mut line = serde_json::json!({
            "at_ms": injected.at.as_secs_f64() * 1e3,
            "fault": injected.rule,
            "exchange": injected.exchange,
            "nth": injected.nth,
            "what": injected.what,
        })
        .to_string();
        line.push('\n');
        let written = file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(line.as_bytes());
        if let Err(error) = written
            && !failed.swap(true, Ordering::Relaxed)
        {
            output::warn(format_args!(
                "failed to write {name}, which now misses faults: {error}"
            ));
        }
    }))
}

/// What to do about the failure that everybody meets first.
fn advice(reason: &str) -> &'static str {
    let untrusted = ["UnknownCA", "BadCertificate", "CertificateUnknown"];
    if untrusted.iter().any(|alert| reason.contains(alert)) {
        " (the client does not trust the certificate: `tapedeck ca trust` says how it will)"
    } else {
        ""
    }
}

impl From<args::OnMiss> for OnMiss {
    fn from(on_miss: args::OnMiss) -> Self {
        match on_miss {
            args::OnMiss::Fail => Self::Fail,
            args::OnMiss::Passthrough | args::OnMiss::Record => Self::Passthrough,
        }
    }
}

impl From<args::Repeat> for Repeat {
    fn from(repeat: args::Repeat) -> Self {
        match repeat {
            args::Repeat::Last => Self::Last,
            args::Repeat::Cycle => Self::Cycle,
            args::Repeat::Fail => Self::Fail,
        }
    }
}
