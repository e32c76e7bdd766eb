//! What a run would do, for people.

use std::fmt;
use std::time::Duration;

use crate::player::duration::show;
use crate::player::options::Options;
use crate::player::plan::{Outline, Plan};
use crate::player::report::ScenarioPlan;
use crate::player::scenario::{Arrivals, Executor, Scenario};
use crate::player::schedule::{LeftOutCounts, Speed, Topology};

/// The schedule of a run that was not begun.
#[derive(Clone, Debug)]
pub struct DryRun {
    /// Where the requests would go.
    pub target: String,
    /// The scenarios.
    pub scenarios: Vec<DryScenario>,
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
    /// Those that there may be where the target is slow.
    pub most_connections: u64,
    /// Users that there are at once, without those that arrivals may add.
    pub users: u64,
    /// What this machine may turn out to be short of.
    pub warnings: Vec<String>,
}

/// One of its scenarios.
#[derive(Clone, Debug)]
pub struct DryScenario {
    /// What it does.
    pub plan: ScenarioPlan,
    /// When its last request or iteration would be due at the latest.
    pub end: Duration,
    /// How many iterations it has; `None`: as many as the target lets there be.
    pub iterations: Option<u64>,
    /// The users that it begins with, and has at the most; `None`: it has none.
    pub vus: Option<(u32, u32)>,
    /// Connections that it has at once, at the least, and where the target is slow; `None`: all scenarios share them.
    pub connections: Option<(u64, u64)>,
}

impl DryScenario {
    fn new(plan: ScenarioPlan, scenario: &Scenario, outline: &Outline, topology: Topology) -> Self {
        let most = scenario.executor.most_vus();
        let first = match scenario.executor {
            Executor::RampingVus { start_vus, .. } => start_vus,
            Executor::ConstantArrivalRate {
                pre_allocated_vus, ..
            }
            | Executor::RampingArrivalRate {
                pre_allocated_vus, ..
            } => pre_allocated_vus,
            _ => most,
        };
        Self {
            plan,
            end: outline.end,
            iterations: outline.iterations,
            vus: (most > 0).then_some((first, most)),
            connections: (topology == Topology::Recorded).then_some(outline.connections),
        }
    }
}

impl DryRun {
    pub(crate) fn new(
        plan: &Plan,
        options: &Options,
        scenarios: &[Scenario],
        warnings: Vec<String>,
    ) -> Self {
        let key = plan.session_key.as_ref();
        let topology = plan.topology;
        Self {
            target: options.target.to_string(),
            scenarios: described(plan, scenarios)
                .into_iter()
                .zip(scenarios)
                .zip(&plan.outlines)
                .map(|((plan, scenario), outline)| {
                    DryScenario::new(plan, scenario, outline, topology)
                })
                .collect(),
            recorded: plan.recorded,
            left_out: plan.left_out.clone(),
            planned: plan.planned,
            session_key: key.map(|found| (found.key.to_string(), found.asked_for)),
            pooled: match plan.topology {
                Topology::Recorded => None,
                Topology::Pooled(connections) => Some(connections.get()),
            },
            connections: plan.connections,
            most_connections: plan.most_connections,
            users: plan.users,
            warnings,
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
            "Would send to {}, for {} at the most; {} exchanges are recorded, {} left out{}",
            self.target,
            show(round(self.planned)),
            self.recorded,
            self.left_out.total(),
            causes(&self.left_out),
        )?;
        if let Some((key, asked_for)) = &self.session_key {
            let how = if *asked_for { "as asked" } else { "found" };
            writeln!(f, "  Sessions by {key} ({how})")?;
        }
        match self.pooled {
            Some(connections) => writeln!(f, "  {connections} connections, shared by all")?,
            None => writeln!(
                f,
                "  {} connections at once at the least, {} at the most",
                self.connections, self.most_connections
            )?,
        }
        if self.users > 0 {
            writeln!(
                f,
                "  {} VUs at once, without those that arrivals may add",
                self.users
            )?;
        }
        self.scenarios
            .iter()
            .try_for_each(|scenario| scenario.fmt(f))
    }
}

impl fmt::Display for DryScenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plan, end, .. } = self;
        write!(f, "  {plan}")?;
        write!(f, "    from {} ", show(round(plan.start)))?;
        match plan.speed {
            Some(Speed::Max) => f.write_str("on, as long as the target takes for all of it")?,
            Some(Speed::Times(_)) | None => write!(f, "to {}", show(round(*end)))?,
        }
        // What is recorded is awaited as long as requests may take, and no longer or shorter.
        if self.vus.is_some() {
            write!(f, ", gracefulStop {}", show(plan.graceful_stop))?;
        }
        match self.iterations {
            Some(iterations) => writeln!(f, "; {iterations} iterations")?,
            None => writeln!(f, "; as many iterations as the target lets there be")?,
        }
        match self.vus {
            Some((first, max)) if first < max => writeln!(f, "    {first} VUs, {max} at the most")?,
            Some((_, max)) => writeln!(f, "    {max} VUs")?,
            None => {}
        }
        if let Some((least, most)) = self.connections {
            writeln!(
                f,
                "    {least} connections at once at the least, {most} at the most"
            )?;
        }
        for (at, what) in &plan.timetable {
            writeln!(f, "    {:>10}  {what}", show(round(plan.start + *at)))?;
        }
        Ok(())
    }
}

/// ` (2 incomplete, 1 tunnel)`.
fn causes(left_out: &LeftOutCounts) -> String {
    let kinds = left_out.iter().filter(|(_, n)| *n > 0);
    let kinds = kinds.map(|(kind, n)| format!("{n} {}", kind.name().replace('_', " ")));
    match kinds.collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => none,
        kinds => format!(" ({kinds})"),
    }
}

/// Nobody reads the microseconds of a plan.
fn round(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
