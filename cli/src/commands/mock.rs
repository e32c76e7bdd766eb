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
    let options = Options {
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
    for miss in stats.missed.iter().take(MISSES_SHOWN) {
        output::say(format_args!("miss: {}", output::visible(&miss.to_string())));
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
