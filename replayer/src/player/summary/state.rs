//! The form in which a summary carries what was measured.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::player::endpoints::{ScenarioSignals, Signals};
use crate::player::observe::TargetUse;
use crate::player::outcome::{Failure, NeverSent};
use crate::player::query::QueryUse;
use crate::player::report::{Report, ScenarioPlan};
use crate::player::schedule::LeftOut;
use crate::player::stop::Stop;
use crate::player::summary::TrendState;
use crate::player::tally::{Comparison, Tally};
use crate::player::threshold::{Verdict, VerdictReason};

/// Everything that was counted and measured in a run, as it stands in its summary.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub(crate) version: u32,
    pub(crate) target: String,
    pub(crate) scenarios: Vec<ScenarioState>,
    pub(crate) session_by: Option<String>,
    /// The fewest, the most.
    pub(crate) vus: (u64, u64),
    /// Those at the end; none: a version before this one wrote it.
    #[serde(default)]
    pub(crate) vus_last: Option<u64>,
    pub(crate) vus_max: u64,
    pub(crate) pool_size: Option<u32>,
    pub(crate) workers: u32,
    pub(crate) recorded: u64,
    pub(crate) left_out: BTreeMap<String, u64>,
    pub(crate) planned_ns: u64,
    pub(crate) elapsed_ns: u64,
    pub(crate) cpu_ns: u64,
    pub(crate) stopped_early: bool,
    pub(crate) tally: TallyState,
    pub(crate) endpoints: BTreeMap<String, SignalsState>,
    /// In the order in which they were given.
    pub(crate) thresholds: Vec<ThresholdState>,
    /// By the series that thresholds name: their values over the whole run.
    pub(crate) watched: BTreeMap<String, KeptState>,
    /// Every second, where there are thresholds over windows; none: there were too many.
    pub(crate) seconds: Option<Vec<SecondState>>,
    pub(crate) target_use: Vec<TargetUse>,
    #[serde(default)]
    pub(crate) target_queries: Vec<QueryUse>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TallyState {
    pub(crate) trends: BTreeMap<String, TrendState>,
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// By the names of gRPC.
    #[serde(default)]
    pub(crate) grpc: BTreeMap<String, u64>,
    pub(crate) failures: BTreeMap<String, u64>,
    pub(crate) never_sent: BTreeMap<String, u64>,
    pub(crate) first_causes: BTreeMap<String, String>,
    pub(crate) comparison: ComparisonState,
    pub(crate) resent: u64,
    pub(crate) connections: u64,
    pub(crate) peak_connections: u64,
    pub(crate) peak_in_flight: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    #[serde(default)]
    pub(crate) polled_ns: u64,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ComparisonState {
    pub(crate) same: u64,
    pub(crate) different: u64,
    pub(crate) unknown: u64,
    /// Recorded status, status now, how often.
    pub(crate) changes: Vec<(u16, u16, u64)>,
    pub(crate) other_changes: u64,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScenarioState {
    pub(crate) name: String,
    pub(crate) executor: String,
    pub(crate) text: String,
    pub(crate) is_open: bool,
    pub(crate) speed: Option<String>,
    pub(crate) start_ns: u64,
    pub(crate) graceful_stop_ns: u64,
    pub(crate) sessions: usize,
    pub(crate) exchanges: usize,
    pub(crate) timetable: Vec<(u64, String)>,
    pub(crate) requests: SignalsState,
    pub(crate) iterations: u64,
    pub(crate) interrupted: u64,
    pub(crate) dropped: u64,
    pub(crate) iteration_duration: TrendState,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignalsState {
    pub(crate) sent: u64,
    pub(crate) attempted: u64,
    pub(crate) failed: u64,
    pub(crate) duration: TrendState,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ThresholdState {
    /// As it is read.
    pub(crate) text: String,
    /// Whether any request of the run could be in its series.
    pub(crate) possible: bool,
    /// It ended the run.
    pub(crate) aborted: Option<AbortedState>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AbortedState {
    pub(crate) after_ns: u64,
    pub(crate) value: Option<f64>,
}

/// The values of one series.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum KeptState {
    Count(u64),
    Share { hits: u64, total: u64 },
    Trend(TrendState),
}

/// One second of a run, for the thresholds over windows.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecondState {
    /// It was cut short by the end of the run.
    pub(crate) is_cut: bool,
    pub(crate) watched: BTreeMap<String, KeptState>,
}

impl SecondState {
    /// The memory that it takes, about.
    pub(crate) fn size(&self) -> usize {
        let of = |(series, kept): (&String, &KeptState)| {
            let kept = match kept {
                KeptState::Trend(trend) => trend.histogram.len(),
                KeptState::Count(_) | KeptState::Share { .. } => 0,
            };
            series.len() + kept + 100
        };
        self.watched.iter().map(of).sum::<usize>() + 50
    }
}

impl State {
    /// A later one is refused: what it means is not known.
    pub(crate) const VERSION: u32 = 3;

    pub(crate) fn of(report: &Report) -> Self {
        let scenarios = report.scenarios.iter().enumerate();
        let nothing = ScenarioSignals::new();
        let endpoints = report.endpoints.iter().zip(&report.tally.endpoints);
        Self {
            version: Self::VERSION,
            target: report.target.clone(),
            scenarios: scenarios
                .map(|(index, plan)| {
                    let signals = report.tally.scenarios.get(index);
                    ScenarioState::of(plan, signals.unwrap_or(&nothing))
                })
                .collect(),
            session_by: report.session_key.as_ref().map(ToString::to_string),
            vus: (report.vus.least, report.vus.most),
            vus_last: Some(report.vus.last),
            vus_max: report.vus_max,
            pool_size: report.pooled,
            workers: report.workers,
            recorded: report.recorded,
            left_out: (report.left_out.iter())
                .map(|(kind, n): (LeftOut, u64)| (kind.name().to_owned(), n))
                .collect(),
            planned_ns: nanos(report.planned),
            elapsed_ns: nanos(report.elapsed),
            cpu_ns: nanos(report.cpu),
            stopped_early: report.stopped != Stop::Run,
            tally: TallyState::of(&report.tally),
            endpoints: endpoints
                .filter_map(|(name, signals)| {
                    let signals = signals.as_deref()?;
                    Some((name.clone(), SignalsState::of(signals)))
                })
                .collect(),
            thresholds: thresholds(report),
            watched: report.tally.watched.states().collect(),
            seconds: report.evidence.seconds.clone(),
            target_use: report.target_use.clone(),
            target_queries: report.target_queries.clone(),
        }
    }
}

fn thresholds(report: &Report) -> Vec<ThresholdState> {
    let watch = report.tally.watched.watch();
    let thresholds = watch.thresholds().iter().enumerate();
    thresholds
        .map(|(index, threshold)| ThresholdState {
            text: threshold.to_string(),
            possible: watch.is_threshold_possible(threshold),
            aborted: (report.evidence.aborted.as_ref())
                .filter(|(aborted, _)| *aborted == index)
                .and_then(|(_, verdict)| AbortedState::of(verdict)),
        })
        .collect()
}

impl AbortedState {
    fn of(verdict: &Verdict) -> Option<Self> {
        match verdict.reason {
            VerdictReason::Aborted(after) => Some(Self {
                after_ns: nanos(after),
                value: verdict.value,
            }),
            VerdictReason::Compared | VerdictReason::NoSamples | VerdictReason::Window(_) => None,
        }
    }
}

impl TallyState {
    fn of(tally: &Tally) -> Self {
        let failures = tally.failures.iter();
        let never_sent = tally.never_sent.iter();
        Self {
            trends: (tally.trends.iter())
                .map(|(name, trend)| (name.to_owned(), trend.to_state()))
                .collect(),
            statuses: tally.statuses.clone(),
            grpc: (tally.grpc.iter())
                .map(|(status, n)| (status.name().to_owned(), *n))
                .collect(),
            failures: failures
                .map(|(kind, n): (Failure, u64)| (kind.name().to_owned(), n))
                .collect(),
            never_sent: never_sent
                .map(|(kind, n): (NeverSent, u64)| (kind.name().to_owned(), n))
                .collect(),
            first_causes: (tally.first_causes.iter())
                .map(|(kind, cause)| ((*kind).to_owned(), cause.clone()))
                .collect(),
            comparison: ComparisonState::of(&tally.comparison),
            resent: tally.resent,
            connections: tally.connections,
            peak_connections: tally.peak_connections,
            peak_in_flight: tally.peak_in_flight,
            bytes_sent: tally.bytes_sent,
            bytes_received: tally.bytes_received,
            polled_ns: nanos(tally.polled),
        }
    }
}

impl ComparisonState {
    fn of(comparison: &Comparison) -> Self {
        let changes = comparison.changes.iter();
        Self {
            same: comparison.same,
            different: comparison.different,
            unknown: comparison.unknown,
            changes: changes
                .map(|((recorded, now), n)| (*recorded, *now, *n))
                .collect(),
            other_changes: comparison.other_changes,
        }
    }
}

impl ScenarioState {
    fn of(plan: &ScenarioPlan, signals: &ScenarioSignals) -> Self {
        let timetable = plan.timetable.iter();
        Self {
            name: plan.name.clone(),
            executor: plan.executor.clone(),
            text: plan.text.clone(),
            is_open: plan.is_open,
            speed: plan.speed.map(|speed| speed.to_string()),
            start_ns: nanos(plan.start),
            graceful_stop_ns: nanos(plan.graceful_stop),
            sessions: plan.sessions,
            exchanges: plan.exchanges,
            timetable: timetable
                .map(|(at, what)| (nanos(*at), what.clone()))
                .collect(),
            requests: SignalsState::of(&signals.requests),
            iterations: signals.iterations,
            interrupted: signals.interrupted,
            dropped: signals.dropped,
            iteration_duration: signals.iteration_duration.to_state(),
        }
    }
}

impl SignalsState {
    fn of(signals: &Signals) -> Self {
        Self {
            sent: signals.sent,
            attempted: signals.attempted,
            failed: signals.failed,
            duration: signals.duration.to_state(),
        }
    }
}

/// JSON is exact up to here: 104 days. What has no end is as long.
fn nanos(duration: Duration) -> u64 {
    const MOST: u64 = 1 << 53;
    u64::try_from(duration.as_nanos()).map_or(MOST, |nanos| nanos.min(MOST))
}
