//! What a run would do, for people.

use std::fmt;
use std::time::Duration;

use crate::player::duration::show;
use crate::player::options::Options;
use crate::player::plan::Plan;
use crate::player::report::ScenarioPlan;
use crate::player::scenario::{Arrivals, Executor, Scenario};
use crate::player::schedule::{LeftOutCounts, Topology};

/// The schedule of a run that was not begun.
#[derive(Clone, Debug)]
pub struct DryRun {
    /// Where the requests would go.
    pub target: String,
    /// The scenarios.
    pub scenarios: Vec<ScenarioPlan>,
    /// Exchanges in the archive.
    pub recorded: u64,
    /// Of these: not meant to be sent, and why.
    pub left_out: LeftOutCounts,
    /// When the last request or iteration would be due at the latest.
    pub planned: Duration,
    /// What tells users apart, and whether somebody asked for it.
    pub session_key: Option<(String, bool)>,
    /// Connections shared by all; `None`: as recorded, or one for each user.
    pub pooled: Option<u32>,
    /// Connections that are needed at once, at least.
    pub connections: u64,
}

impl DryRun {
    pub(crate) fn new(plan: &Plan, options: &Options, scenarios: &[Scenario]) -> Self {
        let key = plan.session_key.as_ref();
        Self {
            target: options.target.to_string(),
            scenarios: described(plan, scenarios),
            recorded: plan.recorded,
            left_out: plan.left_out.clone(),
            planned: plan.planned,
            session_key: key.map(|found| (found.key.to_string(), found.asked_for)),
            pooled: match plan.topology {
                Topology::Recorded => None,
                Topology::Pooled(connections) => Some(connections.get()),
            },
            connections: plan.connections,
        }
    }
}

pub(crate) fn described(plan: &Plan, scenarios: &[Scenario]) -> Vec<ScenarioPlan> {
    let describe = |(scenario, (sessions, exchanges)): (&Scenario, &(usize, usize))| {
        let speed = match scenario.executor {
            Executor::Recorded { speed, .. } => Some(speed),
            _ => None,
        };
        ScenarioPlan {
            name: scenario.name.clone(),
            executor: scenario.executor.name().to_owned(),
            text: scenario.executor.to_string(),
            is_open: scenario.executor.is_open(),
            speed,
            start: scenario.start,
            graceful_stop: scenario.graceful_stop,
            sessions: *sessions,
            exchanges: *exchanges,
            timetable: timetable(&scenario.executor),
        }
    };
    scenarios.iter().zip(&plan.sizes).map(describe).collect()
}

/// What holds from when on, in words.
fn timetable(executor: &Executor) -> Vec<(Duration, String)> {
    match executor {
        Executor::RampingVus {
            start_vus, stages, ..
        } => {
            let mut at = Duration::ZERO;
            let mut lines = vec![(at, format!("{start_vus} VUs"))];
            for stage in stages {
                at += stage.duration;
                lines.push((at, format!("{} VUs", stage.target)));
            }
            lines
        }
        Executor::RampingArrivalRate {
            start_rate, stages, ..
        } => {
            let unit = show(start_rate.unit);
            let total = Arrivals::total(executor);
            let mut at = Duration::ZERO;
            let mut lines = vec![(at, format!("{} iterations in {unit}", start_rate.n))];
            for stage in stages {
                at += stage.duration;
                lines.push((at, format!("{} iterations in {unit}", stage.target)));
            }
            lines.push((at, format!("end: {total} iterations were due")));
            lines
        }
        Executor::ConstantArrivalRate { duration, .. } => {
            let total = Arrivals::total(executor);
            vec![(*duration, format!("end: {total} iterations were due"))]
        }
        Executor::ConstantVus { .. }
        | Executor::PerVuIterations { .. }
        | Executor::SharedIterations { .. }
        | Executor::Recorded { .. } => Vec::new(),
    }
}

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Would send to {}, for {} at the most; {} exchanges are recorded, {} left out",
            self.target,
            show(round(self.planned)),
            self.recorded,
            self.left_out.total()
        )?;
        if let Some((key, asked_for)) = &self.session_key {
            let how = if *asked_for { "as asked" } else { "found" };
            writeln!(f, "  Sessions by {key} ({how})")?;
        }
        match self.pooled {
            Some(connections) => writeln!(f, "  {connections} connections, shared by all")?,
            None => writeln!(f, "  at least {} connections at once", self.connections)?,
        }
        for scenario in &self.scenarios {
            write!(f, "  {scenario}")?;
            for (at, what) in &scenario.timetable {
                writeln!(f, "    {:>10}  {what}", show(round(scenario.start + *at)))?;
            }
        }
        Ok(())
    }
}

/// Nobody reads the microseconds of a plan.
fn round(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
