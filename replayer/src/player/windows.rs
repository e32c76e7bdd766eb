//! Thresholds that must hold over any stretch of a length, second by second.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::player::summary::SecondState;
use crate::player::threshold::{Metric, Threshold, Verdict, VerdictReason};
use crate::player::watch::{Watch, Watched};

/// Looks at every window as soon as it is whole.
pub(crate) struct Windows {
    watch: Arc<Watch>,
    /// The last seconds, as many as the longest window has.
    seconds: VecDeque<Watched>,
    /// The number of the next one.
    next: u64,
    longest: usize,
    /// Of each threshold: the worst window so far.
    worst: Vec<Option<Verdict>>,
    history: Option<Vec<SecondState>>,
    history_size: usize,
}

impl Windows {
    /// What is kept of all seconds, so that several runs can be judged as one: a day of a threshold
    /// or two.
    const MAX_HISTORY: usize = 64 << 20;

    pub(crate) fn new(watch: &Arc<Watch>) -> Self {
        let overs = watch
            .thresholds()
            .iter()
            .filter_map(|threshold| threshold.over);
        let longest = overs.max().map_or(0, |longest| longest.as_secs());
        Self {
            watch: Arc::clone(watch),
            seconds: VecDeque::new(),
            next: 0,
            longest: usize::try_from(longest).unwrap_or(usize::MAX),
            worst: vec![None; watch.thresholds().len()],
            history: Some(Vec::new()),
            history_size: 0,
        }
    }

    /// Takes in the next second; gives the first threshold that fails of those that may end the
    /// run.
    pub(crate) fn push(&mut self, watched: Watched, is_cut: bool) -> Option<(usize, Verdict)> {
        if self.longest == 0 {
            return None;
        }
        self.remember(&watched, is_cut);
        if self.seconds.len() == self.longest {
            self.seconds.pop_front();
        }
        self.seconds.push_back(watched);
        self.next += 1;
        self.look(is_cut)
    }

    fn remember(&mut self, watched: &Watched, is_cut: bool) {
        let Some(history) = &mut self.history else {
            return;
        };
        let second = SecondState {
            is_cut,
            watched: watched.states_of_windows(),
        };
        self.history_size += second.size();
        history.push(second);
        if self.history_size > Self::MAX_HISTORY {
            self.history = None;
        }
    }

    /// All seconds; `None`: there were too many to keep.
    pub(crate) fn into_history(self) -> Option<Vec<SecondState>> {
        self.history
    }

    /// The verdict on a threshold over its worst window; `None`: no window was whole.
    pub(crate) fn verdict(&self, threshold: usize) -> Option<&Verdict> {
        self.worst.get(threshold)?.as_ref()
    }

    /// Looks at all windows that end with the last second.
    fn look(&mut self, is_cut: bool) -> Option<(usize, Verdict)> {
        let watch = Arc::clone(&self.watch);
        let mut abort = None;
        for (index, threshold) in watch.thresholds().iter().enumerate() {
            let Some(over) = threshold.over else { continue };
            let Some(from) = self.next.checked_sub(over.as_secs()) else {
                continue;
            };
            // What is counted would look too little in a second that was cut short.
            if is_cut && matches!(threshold.series.metric, Metric::Counter(_)) {
                continue;
            }
            let len = usize::try_from(over.as_secs()).unwrap_or(usize::MAX);
            let mut window = Watched::coarse(&watch);
            for second in self.seconds.iter().rev().take(len) {
                window.merge(second);
            }
            let mut verdict = watch.verdict_on(threshold, &window, over);
            if verdict.reason == VerdictReason::NoSamples {
                continue;
            }
            if !verdict.ok {
                verdict.reason = VerdictReason::Window(Duration::from_secs(from));
            }
            let late_enough = Duration::from_secs(self.next) >= threshold.delay;
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
    fn second(watch: &Arc<Watch>, n: u64, millis: u64) -> Watched {
        let mut watched = Watched::coarse(watch);
        for _ in 0..n {
            watched.record_iteration(0, Duration::from_millis(millis));
        }
        watched
    }

    #[test]
    fn every_window_counts_and_the_worst_is_told() {
        let watch = watch(&[
            "iteration_duration: p(95)<100; over 2s",
            "iterations: rate>=4; over 2s",
        ]);
        let mut windows = Windows::new(&watch);
        for (n, millis) in [(100, 10), (100, 10), (4, 500), (4, 10), (100, 10)] {
            assert!(windows.push(second(&watch, n, millis), false).is_none());
        }
        // From second 2 on half of the iterations are slow; over the whole run hardly any.
        let slow = windows.verdict(0).unwrap();
        assert!(!slow.ok);
        assert_eq!(slow.reason, VerdictReason::Window(Duration::from_secs(2)));
        let rate = windows.verdict(1).unwrap();
        assert!(rate.ok);
        assert_eq!(rate.value.map(f64::to_bits), Some(4_f64.to_bits()));
    }

    #[test]
    fn a_window_may_end_the_run() {
        let watch = watch(&["iteration_duration: max<100; abort; over 1s"]);
        let mut windows = Windows::new(&watch);
        assert!(windows.push(second(&watch, 1, 10), false).is_none());
        let (index, verdict) = windows.push(second(&watch, 1, 500), false).unwrap();
        assert_eq!(index, 0);
        assert!(verdict.value.is_some_and(|value| value >= 500.0));
    }

    #[test]
    fn a_second_that_was_cut_short_has_no_rate() {
        let watch = watch(&[
            "iterations: rate>=4; over 1s",
            "iteration_duration: max<100; over 1s",
        ]);
        let mut windows = Windows::new(&watch);
        windows.push(second(&watch, 4, 10), false);
        windows.push(second(&watch, 1, 500), true);
        assert!(windows.verdict(0).unwrap().ok);
        assert!(!windows.verdict(1).unwrap().ok);
    }
}
