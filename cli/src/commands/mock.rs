use std::process::ExitCode;
use std::sync::{Arc, mpsc};

use anyhow::{Context, Result};
use tapedeck_replayer::mock::{Mock, Options, Repeat, Stats};

use crate::args;
use crate::interrupt::on_interrupt;
use crate::output;

/// Misses that are told one by one; the number of all is told, too.
const MISSES_SHOWN: usize = 10;

pub(crate) fn run(args: &args::Mock) -> Result<ExitCode> {
    let archive = Arc::new(super::open(&args.archive)?);
    let authority = super::ca::authority(args.ca.as_deref())?.map(Arc::new);
    let options = Options {
        authority: authority.clone(),
        listen: args.listen,
        latency: args.latency,
        repeat: args.repeat.into(),
        filter: args.filter.clone(),
        ..Options::default()
    };
    let (stop, stopped) = mpsc::channel();
    on_interrupt(move || stop.send(()).unwrap_or_default())?;
    let mock = Mock::start(archive, &options)
        .with_context(|| format!("failed to serve {}", args.archive.display()))?;
    let skipped = mock.stats().skipped;
    if skipped.total() > 0 {
        output::warn(format_args!("some exchanges are not served: {skipped}"));
    }
    // On standard output, because with port 0 this is the result that a script waits for.
    output::print(format_args!("listening on http://{}\n", mock.addr()))?;
    if authority.is_some() {
        output::say("TLS on the same port, for any server name");
    }

    stopped.recv().context("failed to wait for signals")?;
    let stats = mock.stop();
    tell(&stats);
    let missed = args.strict && stats.misses > 0;
    Ok(if missed {
        ExitCode::from(crate::FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

fn tell(stats: &Stats) {
    output::say(format_args!(
        "{} answered from the recording, {} without a recorded answer, {} refused",
        stats.hits, stats.misses, stats.refused
    ));
    if stats.tls_without_authority > 0 {
        output::warn(format_args!(
            "{} connections began with TLS, which needs a certificate authority: `tapedeck ca init`",
            stats.tls_without_authority
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

impl From<args::Repeat> for Repeat {
    fn from(repeat: args::Repeat) -> Self {
        match repeat {
            args::Repeat::Last => Self::Last,
            args::Repeat::Cycle => Self::Cycle,
            args::Repeat::Fail => Self::Fail,
        }
    }
}
