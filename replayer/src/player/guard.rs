//! Looks at a run while it goes on: its users, its seconds, and whether a threshold ends it.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crate::player::plan::Plan;
use crate::player::report::Vus;
use crate::player::resources::share_of;
use crate::player::seconds::{SecondRow, Seconds, SoFar};
use crate::player::stop::StopFlag;
use crate::player::summary::Evidence;
use crate::player::threshold::{Verdict, VerdictReason};
use crate::player::watch::{Observed, Watch};
use crate::player::windows::Windows;
use crate::player::worker::Live;

/// The users that were active.
#[derive(Debug, Default)]
pub(crate) struct VusSeen {
    /// At the last whole second, and the fewest of all.
    sampled: Cell<Option<(u64, u64)>>,
    /// Of the next one.
    next: Cell<u64>,
    most: Cell<u64>,
}

impl VusSeen {
    /// Several times a second, as long as the run has users. As in k6, what is told is what there was at each whole
    /// second behind the first: before the start, and when all is over, there is nobody.
    pub(crate) fn look(&self, elapsed: Duration, now: u64) {
        self.most.set(self.most.get().max(now));
        let second = elapsed.as_secs();
        if second < self.next.get().max(1) {
            return;
        }
        self.next.set(second + 1);
        let least = self.sampled.get().map_or(now, |(_, least)| least.min(now));
        self.sampled.set(Some((now, least)));
    }

    /// A run that is shorter than a second had as many as it had at the most.
    pub(crate) fn range(&self) -> Vus {
        let most = self.most.get();
        let (last, least) = self.sampled.get().unwrap_or((most, most));
        Vus { last, least, most }
    }
}

/// Users that there were: those of arrivals as many as came to be.
pub(crate) fn vus_max(plan: &Plan) -> u64 {
    let grown: u64 = plan.casts.iter().map(|cast| u64::from(cast.grown())).sum();
    plan.users.saturating_add(grown)
}

/// Ends the run when a threshold says so.
pub(crate) struct Guard<'a> {
    watch: &'a Arc<Watch>,
    stop: &'a StopFlag,
    next: Duration,
    /// The threshold that ended the run, by its index.
    aborted: Option<(usize, Verdict)>,
    seconds: Seconds,
    so_far: Arc<SoFar>,
    windows: Windows,
}

impl<'a> Guard<'a> {
    /// k6's.
    const EVERY: Duration = Duration::from_secs(2);

    pub(crate) fn new(watch: &'a Arc<Watch>, stop: &'a StopFlag, workers: usize) -> Self {
        Self {
            watch,
            stop,
            next: Self::EVERY,
            aborted: None,
            seconds: Seconds::new(workers),
            so_far: Arc::new(SoFar::new()),
            windows: Windows::new(watch),
        }
    }

    pub(crate) fn look(
        &mut self,
        (elapsed, cpu): (Duration, Duration),
        live: &[Arc<Live>],
        vus: &VusSeen,
        plan: &Plan,
    ) {
        if !self.watch.aborts() || self.aborted.is_some() || elapsed < self.next {
            return;
        }
        self.next = elapsed + Self::EVERY;
        let mut observed = Observed::nothing(self.watch);
        for live in live {
            live.add_observed(&mut observed);
        }
        (observed.vus, observed.vus_max) = (vus.range().last, vus_max(plan));
        let share = share_of(cpu.saturating_sub(observed.polled), elapsed);
        if let Some((index, verdict)) = self.watch.abort(&observed, elapsed, share) {
            self.abort(index, verdict, elapsed);
        }
    }

    /// The seconds that have become whole.
    pub(crate) fn whole_seconds(
        &mut self,
        elapsed: Duration,
        live: &[Arc<Live>],
    ) -> Vec<SecondRow> {
        for second in live.iter().flat_map(|live| live.take_seconds()) {
            self.seconds.add(second);
        }
        let mut rows = Vec::new();
        while let Some(second) = self.seconds.next() {
            rows.push(second.tally.row(second.number));
            Arc::make_mut(&mut self.so_far).add(&second.tally);
            let failed = self.windows.push(second.tally.watched, second.is_cut);
            if let Some((index, verdict)) = failed {
                self.abort(index, verdict, elapsed);
            }
        }
        rows
    }

    /// All seconds that are over.
    pub(crate) fn so_far(&self) -> Arc<SoFar> {
        Arc::clone(&self.so_far)
    }

    fn abort(&mut self, index: usize, mut verdict: Verdict, elapsed: Duration) {
        if self.aborted.is_none() {
            verdict.reason = VerdictReason::Aborted(elapsed);
            self.aborted = Some((index, verdict));
            // As in k6, what is in flight is not awaited: the verdict stands.
            self.stop.stop();
            self.stop.stop();
        }
    }

    pub(crate) fn verdicts(
        self,
        observed: &Observed,
        elapsed: Duration,
        cpu: f64,
    ) -> (Vec<Verdict>, Evidence) {
        let aborted = self.aborted.as_ref();
        let verdicts = judged(self.watch, observed, elapsed, cpu, &self.windows, aborted);
        let evidence = Evidence {
            aborted: self.aborted,
            seconds: self.windows.into_history(),
        };
        (verdicts, evidence)
    }
}

/// The verdicts on a run. A threshold that has ended it failed, whatever came behind it.
pub(crate) fn judged(
    watch: &Watch,
    observed: &Observed,
    elapsed: Duration,
    cpu: f64,
    windows: &Windows,
    aborted: Option<&(usize, Verdict)>,
) -> Vec<Verdict> {
    let mut verdicts = watch.verdicts(observed, elapsed, cpu);
    // A run that is shorter than a window is one.
    for (index, verdict) in verdicts.iter_mut().enumerate() {
        if let Some(worst) = windows.verdict(index) {
            *verdict = worst.clone();
        }
    }
    if let Some((index, aborted)) = aborted
        && let Some(verdict) = verdicts.get_mut(*index)
    {
        *verdict = aborted.clone();
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_told_as_of_each_whole_second() {
        let seen = VusSeen::default();
        for (millis, now) in [(0, 0), (400, 9), (1100, 5), (1300, 3), (2050, 6), (2900, 1)] {
            seen.look(Duration::from_millis(millis), now);
        }
        let Vus { last, least, most } = seen.range();
        assert_eq!((last, least, most), (6, 5, 9));
        let short = VusSeen::default();
        for (millis, now) in [(0, 0), (400, 4)] {
            short.look(Duration::from_millis(millis), now);
        }
        let Vus { last, least, most } = short.range();
        assert_eq!((last, least, most), (4, 4, 4));
    }
}
