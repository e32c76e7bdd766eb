//! Thresholds that must hold over any stretch of a length, second by second.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::player::threshold::{Metric, Threshold, Verdict, VerdictReason};
use crate::player::watch::{Watch, Watched};

/// What one worker observed in one second of the run.
#[derive(Clone, Debug)]
pub(crate) struct Second {
    /// Counted from zero.
    pub(crate) number: u64,
    pub(crate) watched: Watched,
    /// It was cut short by the end of the run.
    pub(crate) is_cut: bool,
}

/// Adds up the seconds of all workers, and looks at every window as soon as it is whole.
pub(crate) struct Windows {
    watch: Arc<Watch>,
    workers: usize,
    /// Those of the longest window, the first is number `first`.
    seconds: VecDeque<Sum>,
    first: u64,
    /// The number of the next second to look at.
    next: u64,
    longest: u64,
    /// Of each threshold: the worst window so far.
    worst: Vec<Option<Verdict>>,
}

#[derive(Clone, Debug)]
struct Sum {
    watched: Watched,
    workers: usize,
    is_cut: bool,
}

impl Windows {
    pub(crate) fn new(watch: &Arc<Watch>, workers: usize) -> Self {
        let overs = watch
            .thresholds()
            .iter()
            .filter_map(|threshold| threshold.over);
        Self {
            watch: Arc::clone(watch),
            workers,
            seconds: VecDeque::new(),
            first: 0,
            next: 0,
            longest: overs.max().map_or(0, |longest| longest.as_secs()),
            worst: vec![None; watch.thresholds().len()],
        }
    }

    /// Takes in what a worker observed.
    pub(crate) fn add(&mut self, second: &Second) {
        let Some(index) = second.number.checked_sub(self.first) else {
            // A worker that was asleep for longer than the longest window.
            return;
        };
        while self.seconds.len() as u64 <= index {
            self.seconds.push_back(Sum {
                watched: Watched::coarse(&self.watch),
                workers: 0,
                is_cut: false,
            });
        }
        if let Some(sum) = self
            .seconds
            .get_mut(usize::try_from(index).unwrap_or(usize::MAX))
        {
            sum.watched.merge(&second.watched);
            sum.workers += 1;
            sum.is_cut |= second.is_cut;
        }
    }

    /// Looks at the windows that have become whole; at the end also at those that will not. Gives
    /// the first that fails of those that may end the run.
    pub(crate) fn look(&mut self, at_end: bool) -> Option<(usize, Verdict)> {
        let mut abort = None;
        while let Some(sum) = self.sum(self.next) {
            if sum.workers < self.workers && !at_end {
                break;
            }
            let is_cut = sum.is_cut;
            let found = self.look_at(is_cut);
            abort = abort.or(found);
            self.next += 1;
            while self.first + self.longest < self.next {
                self.seconds.pop_front();
                self.first += 1;
            }
        }
        abort
    }

    /// The verdict on a threshold over its worst window; `None`: no window was whole.
    pub(crate) fn verdict(&self, threshold: usize) -> Option<&Verdict> {
        self.worst.get(threshold)?.as_ref()
    }

    fn sum(&self, number: u64) -> Option<&Sum> {
        let index = number.checked_sub(self.first)?;
        self.seconds.get(usize::try_from(index).ok()?)
    }

    /// Looks at all windows that end with the next second.
    fn look_at(&mut self, is_cut: bool) -> Option<(usize, Verdict)> {
        let watch = Arc::clone(&self.watch);
        let mut abort = None;
        for (index, threshold) in watch.thresholds().iter().enumerate() {
            let Some(over) = threshold.over else { continue };
            let ends = self.next + 1;
            let Some(from) = ends.checked_sub(over.as_secs()) else {
                continue;
            };
            // What is counted would look too little in a second that was cut short.
            if is_cut && matches!(threshold.series.metric, Metric::Counter(_)) {
                continue;
            }
            let mut window = Watched::coarse(&watch);
            for number in from..ends {
                if let Some(sum) = self.sum(number) {
                    window.merge(&sum.watched);
                }
            }
            let mut verdict = watch.verdict_on(threshold, &window, over);
            if verdict.reason == VerdictReason::NoSamples {
                continue;
            }
            if !verdict.ok {
                verdict.reason = VerdictReason::Window(Duration::from_secs(from));
            }
            let late_enough = Duration::from_secs(ends) >= threshold.delay;
            if !verdict.ok && threshold.abort && late_enough && abort.is_none() {
                abort = Some((index, verdict.clone()));
            }
            if let Some(worst) = self.worst.get_mut(index)
                && worst
                    .as_ref()
                    .is_none_or(|worst| is_worse(threshold, &verdict, worst))
            {
                *worst = Some(verdict);
            }
        }
        abort
    }
}

fn is_worse(threshold: &Threshold, verdict: &Verdict, than: &Verdict) -> bool {
    if verdict.ok != than.ok {
        return !verdict.ok;
    }
    match (verdict.value, than.value) {
        (Some(value), Some(than)) => threshold.operator.is_worse(value, than),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::player::endpoints::Endpoints;
    use crate::player::scenario::{Executor, Scenario};
    use crate::player::schedule::Speed;

    fn watch(thresholds: &[&str]) -> Arc<Watch> {
        let thresholds: Vec<Threshold> = thresholds.iter().map(|t| t.parse().unwrap()).collect();
        let mut endpoints = Endpoints::new(Vec::new(), Vec::new());
        endpoints.id(b"GET", b"/");
        let executor = Executor::Recorded {
            speed: Speed::RECORDED,
            duration: None,
        };
        let scenarios = [Scenario::new("a", executor)];
        Arc::new(Watch::new(&thresholds, endpoints.labels(), &scenarios))
    }

    /// A second with so many iterations of so many milliseconds.
    fn second(watch: &Arc<Watch>, number: u64, n: u64, millis: u64) -> Second {
        let mut watched = Watched::coarse(watch);
        for _ in 0..n {
            watched.record_iteration(0, Duration::from_millis(millis));
        }
        Second {
            number,
            watched,
            is_cut: false,
        }
    }

    #[test]
    fn every_window_counts_and_the_worst_is_told() {
        let watch = watch(&[
            "iteration_duration: p(95)<100; over 2s",
            "iterations: rate>=4; over 2s",
        ]);
        let mut windows = Windows::new(&watch, 1);
        for (number, n, millis) in [
            (0, 100, 10),
            (1, 100, 10),
            (2, 4, 500),
            (3, 4, 10),
            (4, 100, 10),
        ] {
            windows.add(&second(&watch, number, n, millis));
            assert!(windows.look(false).is_none());
        }
        // Over 3 s to 4 s half of the iterations are slow, over the whole run hardly any.
        let slow = windows.verdict(0).unwrap();
        assert!(!slow.ok);
        assert_eq!(slow.reason, VerdictReason::Window(Duration::from_secs(2)));
        let rate = windows.verdict(1).unwrap();
        assert!(rate.ok);
        assert_eq!(rate.value.map(f64::to_bits), Some(4_f64.to_bits()));
    }

    #[test]
    fn a_window_waits_for_all_workers_and_may_end_the_run() {
        let watch = watch(&["iteration_duration: max<100; abort; over 1s"]);
        let mut windows = Windows::new(&watch, 2);
        windows.add(&second(&watch, 0, 1, 500));
        assert!(windows.look(false).is_none());
        windows.add(&second(&watch, 0, 1, 10));
        let (index, verdict) = windows.look(false).unwrap();
        assert_eq!(index, 0);
        assert!(verdict.value.is_some_and(|value| value >= 500.0));
    }

    #[test]
    fn a_second_that_was_cut_short_has_no_rate() {
        let watch = watch(&[
            "iterations: rate>=4; over 1s",
            "iteration_duration: max<100; over 1s",
        ]);
        let mut windows = Windows::new(&watch, 1);
        windows.add(&second(&watch, 0, 4, 10));
        let last = second(&watch, 1, 1, 500);
        windows.add(&Second {
            is_cut: true,
            ..last
        });
        windows.look(true);
        assert!(windows.verdict(0).unwrap().ok);
        assert!(!windows.verdict(1).unwrap().ok);
    }
}
