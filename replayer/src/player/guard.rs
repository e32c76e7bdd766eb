//! Looks at a run while it goes on: its users, its seconds, and whether a threshold ends it.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crate::player::plan::Plan;
use crate::player::resources::share_of;
use crate::player::scenario::{Executor, Scenario};
use crate::player::seconds::{SecondRow, Seconds, SoFar};
use crate::player::stop::StopFlag;
use crate::player::summary::Evidence;
use crate::player::threshold::{Verdict, VerdictReason};
use crate::player::watch::{Observed, Watch};
use crate::player::windows::Windows;
use crate::player::worker::{Cast, Live};

/// The users that were active, as seen several times a second.
#[derive(Debug, Default)]
pub(crate) struct VusSeen {
    last: Cell<u64>,
    least: Cell<Option<u64>>,
    most: Cell<u64>,
}

impl VusSeen {
    pub(crate) fn look(&self, now: u64) {
        self.last.set(now);
        self.least
            .set(Some(self.least.get().map_or(now, |least| least.min(now))));
        self.most.set(self.most.get().max(now));
    }

    pub(crate) const fn most(&self) -> u64 {
        self.most.get()
    }

    pub(crate) fn range(&self) -> (u64, u64) {
        (self.least.get().unwrap_or(0), self.most.get())
    }
}

/// Users that there are at most: those of arrivals as many as came to be.
pub(crate) fn vus_max(plan: &Plan, scenarios: &[Scenario]) -> u64 {
    let of = |(cast, scenario): (&Arc<Cast>, &Scenario)| match scenario.executor {
        Executor::ConstantArrivalRate { .. } | Executor::RampingArrivalRate { .. } => {
            u64::from(cast.allocated())
        }
        _ => scenario.executor.most_vus().into(),
    };
    plan.casts.iter().zip(scenarios).map(of).sum()
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
        observed.vus = vus.last.get();
        observed.vus_max = plan
            .casts
            .iter()
            .map(|cast| u64::from(cast.allocated()))
            .sum();
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
