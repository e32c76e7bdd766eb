//! How a replay looks while it goes on.

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::ProgressBar;
use tapedeck_replayer::player::{Progress, ScenarioPlan, SecondRow};

use crate::output;

/// A view of several lines on a terminal; elsewhere a line now and then, for the log of a pipeline.
pub(super) struct Live {
    bar: Option<ProgressBar>,
    next_line: Cell<Duration>,
    second: RefCell<Option<SecondRow>>,
}

impl Live {
    /// Often enough that a pipeline's log shows that something goes on.
    const LINE_EVERY: Duration = Duration::from_secs(10);

    pub(super) fn new() -> Self {
        Self {
            bar: Self::is_wanted().then(output::live_view),
            next_line: Cell::new(Self::LINE_EVERY),
            second: RefCell::default(),
        }
    }

    /// Whether somebody watches.
    pub(super) fn is_wanted() -> bool {
        io::stderr().is_terminal()
    }

    pub(super) fn show(&self, progress: &Progress) {
        if let Some(last) = progress.seconds.last() {
            self.second.replace(Some(*last));
        }
        match &self.bar {
            Some(bar) => on_bar(bar, progress, self.second.borrow().as_ref()),
            None => {
                if let Some(line) = self.quiet_line(progress) {
                    output::say(line);
                }
            }
        }
    }

    /// Where it is time for one.
    fn quiet_line(&self, progress: &Progress) -> Option<String> {
        let (elapsed, planned) = (progress.elapsed.as_secs(), progress.planned.as_secs());
        if progress.elapsed < self.next_line.get() {
            return None;
        }
        let every = Self::LINE_EVERY.as_secs();
        // At whole tens of seconds, however late the last one was.
        self.next_line
            .set(Duration::from_secs((elapsed / every + 1) * every));
        Some(format!("{elapsed}s of {planned}s: {}", numbers(progress)))
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn on_bar(bar: &ProgressBar, progress: &Progress, second: Option<&SecondRow>) {
    let (position, length) = match progress.total {
        Some(total) => (settled(progress), total),
        // Whoever repeats a recording is done when the time is over.
        None => (progress.elapsed.as_secs(), progress.planned.as_secs()),
    };
    bar.set_length(length);
    bar.set_position(position.min(length));
    bar.set_message(view(progress, second));
}

/// What stands below the bar.
fn view(progress: &Progress, second: Option<&SecondRow>) -> String {
    /// A terminal has few lines.
    const SCENARIOS: usize = 4;
    let mut lines = Vec::new();
    for plan in progress.scenarios.iter().take(SCENARIOS) {
        lines.push(format!(
            "  stage    {}: {}",
            plan.name,
            stage(plan, progress.elapsed)
        ));
    }
    lines.push(format!("  rate     {}", numbers(progress)));
    if let Some(second) = second {
        lines.push(latency(second));
        let lag = second
            .lag_p99
            .map_or_else(|| "unknown".to_owned(), output::duration);
        lines.push(format!(
            "  errors   {} failed in that second, {} never sent in all; the player's lag p99 {lag}",
            second.failed, progress.never_sent,
        ));
    }
    if let Some(target) = &progress.target {
        let waiting = target.waiting.map_or_else(String::new, |waiting| {
            format!(", waits {:.0} % of the time", 100.0 * waiting)
        });
        lines.push(format!(
            "  target   {:.2} processors, {}{waiting}",
            target.cpu,
            output::bytes(target.memory)
        ));
    }
    if let Some(number) = progress.target_query {
        lines.push(format!("  query    {number}"));
    }
    lines.join("\n")
}

fn latency(second: &SecondRow) -> String {
    let answered = format!("{} answered in second {}", second.answered, second.second);
    let Some(latency) = &second.latency else {
        return format!("  latency  unknown; {answered}");
    };
    let time = output::duration;
    format!(
        "  latency  p50 {}, p95 {}, p99 {}, max {}; {answered}",
        time(latency.p50),
        time(latency.p95),
        time(latency.p99),
        time(latency.max),
    )
}

/// What a scenario does at that time.
fn stage(plan: &ScenarioPlan, elapsed: Duration) -> String {
    let Some(own) = elapsed.checked_sub(plan.start) else {
        return format!("begins at {}", output::duration(plan.start));
    };
    let next = plan.timetable.iter().position(|(at, _)| *at > own);
    let (before, behind) = plan
        .timetable
        .split_at(next.unwrap_or(plan.timetable.len()));
    match (before.last(), behind.first()) {
        (Some((_, from)), Some((at, to))) => {
            format!("from {from} to {to} at {}", output::duration(*at))
        }
        (None, Some((at, to))) => format!("{}; {to} at {}", plan.text, output::duration(*at)),
        (Some((_, last)), None) => last.clone(),
        (None, None) => plan.text.clone(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_a_line_every_ten_seconds() {
        let live = Live {
            bar: None,
            next_line: Cell::new(Live::LINE_EVERY),
            second: RefCell::default(),
        };
        let at = |millis| Progress {
            elapsed: Duration::from_millis(millis),
            planned: Duration::from_secs(60),
            answered: millis / 10,
            ..Progress::default()
        };
        // The player looks up every 200 ms or so, and once it was busy with something else for long.
        let looks = (0..60_000)
            .step_by(210)
            .filter(|ms| !(19_000..33_000).contains(ms));
        let lines: Vec<String> = looks.filter_map(|ms| live.quiet_line(&at(ms))).collect();
        let begun = lines.iter().map(|line| line.split(':').next().unwrap());
        let begun: Vec<&str> = begun.collect();
        assert_eq!(
            begun,
            ["10s of 60s", "33s of 60s", "40s of 60s", "50s of 60s"]
        );
        assert_eq!(
            lines.first().unwrap(),
            "10s of 60s: 100/s, 0 in flight, 0 failed, 0 connections"
        );
    }

    #[test]
    fn the_stage_is_the_one_that_the_clock_is_in() {
        let second = Duration::from_secs;
        let plan = |timetable| ScenarioPlan {
            name: "a".to_owned(),
            executor: "ramping-vus".to_owned(),
            text: "users over 2 stages".to_owned(),
            is_open: false,
            speed: None,
            start: second(10),
            graceful_stop: Duration::ZERO,
            sessions: 1,
            exchanges: 1,
            timetable,
        };
        let ramp = plan(vec![
            (second(0), "1 VUs".to_owned()),
            (second(30), "100 VUs".to_owned()),
            (second(60), "0 VUs".to_owned()),
        ]);
        for (at, expect) in [
            (9, "begins at 10.0 s"),
            (10, "from 1 VUs to 100 VUs at 30.0 s"),
            (39, "from 1 VUs to 100 VUs at 30.0 s"),
            (40, "from 100 VUs to 0 VUs at 60.0 s"),
            (71, "0 VUs"),
        ] {
            assert_eq!(stage(&ramp, second(at)), expect, "{at}");
        }
        assert_eq!(stage(&plan(Vec::new()), second(11)), "users over 2 stages");
    }
}
