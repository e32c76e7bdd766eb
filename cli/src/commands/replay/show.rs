//! How a replay looks while it goes on.

use std::cell::Cell;
use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::ProgressBar;
use tapedeck_replayer::player::Progress;

use crate::output;

/// A bar on a terminal; elsewhere a line now and then, for the log of a pipeline.
pub(super) struct Live {
    bar: Option<ProgressBar>,
    next_line: Cell<Duration>,
}

impl Live {
    /// Often enough that a pipeline's log shows that something goes on.
    const LINE_EVERY: Duration = Duration::from_secs(10);

    pub(super) fn new() -> Self {
        let bar = io::stderr().is_terminal().then(output::count_progress);
        Self {
            bar,
            next_line: Cell::new(Self::LINE_EVERY),
        }
    }

    pub(super) fn show(&self, progress: &Progress) {
        match &self.bar {
            Some(bar) => on_bar(bar, progress),
            None if progress.elapsed >= self.next_line.get() => {
                self.next_line.set(progress.elapsed + Self::LINE_EVERY);
                let (elapsed, planned) = (progress.elapsed.as_secs(), progress.planned.as_secs());
                output::say(format_args!(
                    "{elapsed}s of {planned}s: {}",
                    numbers(progress)
                ));
            }
            None => {}
        }
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn on_bar(bar: &ProgressBar, progress: &Progress) {
    let (position, length) = match progress.total {
        Some(total) => (settled(progress), total),
        // Whoever repeats a recording is done when the time is over.
        None => (progress.elapsed.as_secs(), progress.planned.as_secs()),
    };
    bar.set_length(length);
    bar.set_position(position.min(length));
    bar.set_message(numbers(progress));
}

const fn settled(progress: &Progress) -> u64 {
    progress.answered + progress.failed + progress.never_sent
}

fn numbers(progress: &Progress) -> String {
    let seconds = progress.elapsed.max(Duration::from_millis(1)).as_secs_f64();
    let rate = progress.answered as f64 / seconds;
    let vus = match progress.vus {
        0 => String::new(),
        vus => format!("{vus} VUs, "),
    };
    format!(
        "{rate:.0}/s, {vus}{} in flight, {} failed, {} connections",
        progress.in_flight,
        progress.failed + progress.never_sent,
        progress.connections
    )
}
