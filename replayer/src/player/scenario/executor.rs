//! The executors and their parameters.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tapedeck_filter::Filter;

use crate::player::duration::show;
use crate::player::scenario::arrivals::Arrivals;
use crate::player::schedule::Speed;

/// A load model with a name.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// In reports, and the value of the tag `scenario`.
    pub name: String,
    /// Who sends, and when.
    pub executor: Executor,
    /// When it begins, counted from the start of the run.
    pub start: Duration,
    /// How long iterations that run at its end may go on, and how long what is in flight is awaited
    /// when the run is stopped (the longest of all scenarios). [`Executor::Recorded`] uses it for a
    /// stop only: at its end, what it sent is ended by the timeout of requests.
    pub graceful_stop: Duration,
    /// Tags of all its requests, for thresholds.
    pub tags: BTreeMap<String, String>,
    /// Which exchanges it sends; `None`: all.
    pub filter: Option<Filter>,
    /// How often which; empty: in recorded order, all alike.
    pub weights: Vec<Weight>,
    /// What one iteration sends.
    pub iteration: Iteration,
    /// How fast recorded think time passes: 2 halves it. `None`: there is none.
    pub think: Option<f64>,
}

/// Who sends, and when. Names, parameters and meaning are those of k6.
#[derive(Clone, Debug, PartialEq)]
pub enum Executor {
    /// Every exchange at its recorded instant, or as fast as the target answers. An iteration is
    /// one exchange.
    Recorded {
        /// How fast.
        speed: Speed,
        /// Nothing is sent that is due later; `None`: everything.
        duration: Option<Duration>,
    },
    /// A number of users, each beginning again whenever it is done.
    ConstantVus {
        /// How many.
        vus: u32,
        /// For how long new iterations begin.
        duration: Duration,
    },
    /// The same with a number of users that changes.
    RampingVus {
        /// How many there are at the start.
        start_vus: u32,
        /// What becomes of their number.
        stages: Vec<Stage>,
        /// How long the iteration of a user that is no longer wanted may go on.
        graceful_ramp_down: Duration,
    },
    /// Every user does so many iterations.
    PerVuIterations {
        /// How many users.
        vus: u32,
        /// How many iterations each.
        iterations: u64,
        /// No iteration begins later.
        max_duration: Duration,
    },
    /// The users do so many iterations together.
    SharedIterations {
        /// How many users.
        vus: u32,
        /// How many iterations together.
        iterations: u64,
        /// No iteration begins later.
        max_duration: Duration,
    },
    /// Iterations begin at a constant rate, whatever the target does.
    ConstantArrivalRate {
        /// How many.
        rate: PerTime,
        /// For how long.
        duration: Duration,
        /// Users that are there from the start.
        pre_allocated_vus: u32,
        /// The most users. An iteration that is due when all are busy is dropped and counted.
        max_vus: u32,
    },
    /// The same with a rate that changes.
    RampingArrivalRate {
        /// The rate at the start, and the unit of time of the stages' targets.
        start_rate: PerTime,
        /// What becomes of the rate.
        stages: Vec<Stage>,
        /// Users that are there from the start.
        pre_allocated_vus: u32,
        /// The most users.
        max_vus: u32,
    },
}

/// A linear change to a target, within a time. Without time it is a jump.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stage {
    /// How long it takes.
    pub duration: Duration,
    /// Users, or iterations in a unit of time, at its end.
    pub target: u64,
}

/// So many in a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PerTime {
    /// How many.
    pub n: u64,
    /// In which time.
    pub unit: Duration,
}

/// What one iteration sends.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Iteration {
    /// The exchanges of one recorded user, in order, with think time between.
    #[default]
    Session,
    /// One exchange.
    Exchange,
}

/// Sessions that hold an exchange of this choice take part this often.
#[derive(Clone, Debug)]
pub struct Weight {
    /// Which.
    pub filter: Filter,
    /// The filter as it was written.
    pub text: String,
    /// How often, in relation to the other weights of the scenario.
    pub weight: u32,
}

/// What is wrong with the parameters of a scenario.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct ScenarioError {
    /// The parameter, by the name that it has in files.
    pub field: &'static str,
    /// What is wrong with it.
    pub message: String,
}

impl Scenario {
    /// k6's default.
    pub const GRACEFUL_STOP: Duration = Duration::from_secs(30);

    /// A scenario with k6's defaults.
    #[must_use]
    pub fn new(name: impl Into<String>, executor: Executor) -> Self {
        Self {
            name: name.into(),
            executor,
            start: Duration::ZERO,
            graceful_stop: Self::GRACEFUL_STOP,
            tags: BTreeMap::new(),
            filter: None,
            weights: Vec::new(),
            iteration: Iteration::Session,
            think: Some(1.0),
        }
    }

    /// Whether its iterations are the sessions of users.
    #[must_use]
    pub fn has_sessions(&self) -> bool {
        self.executor.most_vus() > 0 && self.iteration == Iteration::Session
    }

    /// When it ends at the latest, counted from the start of the run; `None`: that is up to the
    /// recording.
    #[must_use]
    pub fn end(&self) -> Option<Duration> {
        let duration = self.executor.duration()?;
        let end = self.start.saturating_add(duration);
        Some(end.saturating_add(self.graceful_stop))
    }
}

impl Executor {
    /// Everything at its recorded instant.
    pub const RECORDED: Self = Self::Recorded {
        speed: Speed::RECORDED,
        duration: None,
    };
    /// k6's default for `gracefulRampDown`.
    pub const GRACEFUL_RAMP_DOWN: Duration = Duration::from_secs(30);
    /// k6's default for `maxDuration`.
    pub const MAX_DURATION: Duration = Duration::from_secs(600);
    /// k6's least `duration`.
    pub const MIN_DURATION: Duration = Duration::from_secs(1);
    /// Users of one scenario: each is a task of about 2 KiB and a connection, and more than this
    /// have never been tried.
    pub const MAX_VUS: u32 = 100_000;
    /// Arrivals a second: further apart than the clock's nanoseconds by far, and more than one
    /// machine can send.
    pub const MAX_RATE: f64 = 10_000_000.0;
    /// Stages of one scenario: nobody writes more by hand.
    pub const MAX_STAGES: usize = 10_000;
    /// Iterations of one scenario: a million a second for eleven days. Those that did not begin are counted, and as many
    /// scenarios of as many runs still add up to what JSON says exactly.
    pub const MAX_ITERATIONS: u64 = 1_000_000_000_000;
    /// Users that start or stop within one scenario; each is an entry of its plan.
    pub const MAX_CHANGES: u64 = 4_000_000;

    /// The name in files.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Recorded { .. } => "recorded",
            Self::ConstantVus { .. } => "constant-vus",
            Self::RampingVus { .. } => "ramping-vus",
            Self::PerVuIterations { .. } => "per-vu-iterations",
            Self::SharedIterations { .. } => "shared-iterations",
            Self::ConstantArrivalRate { .. } => "constant-arrival-rate",
            Self::RampingArrivalRate { .. } => "ramping-arrival-rate",
        }
    }

    /// How long new iterations may begin; `None`: that is up to the recording.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        match self {
            Self::Recorded { duration, .. } => *duration,
            Self::ConstantVus { duration, .. } | Self::ConstantArrivalRate { duration, .. } => {
                Some(*duration)
            }
            Self::PerVuIterations { max_duration, .. }
            | Self::SharedIterations { max_duration, .. } => Some(*max_duration),
            Self::RampingVus { stages, .. } | Self::RampingArrivalRate { stages, .. } => {
                let durations = stages.iter().map(|stage| stage.duration);
                Some(durations.fold(Duration::ZERO, Duration::saturating_add))
            }
        }
    }

    /// How many iterations there are at the most; `None`: as many as the target lets there be.
    pub(crate) fn most_iterations(&self) -> Option<u64> {
        match self {
            Self::Recorded { .. } | Self::ConstantVus { .. } | Self::RampingVus { .. } => None,
            Self::PerVuIterations {
                vus, iterations, ..
            } => Some(u64::from(*vus).saturating_mul(*iterations)),
            Self::SharedIterations { iterations, .. } => Some(*iterations),
            Self::ConstantArrivalRate { .. } | Self::RampingArrivalRate { .. } => {
                Some(Arrivals::total(self))
            }
        }
    }

    /// The most users at once; 0 for [`Executor::Recorded`], which has none.
    #[must_use]
    pub fn most_vus(&self) -> u32 {
        match self {
            Self::Recorded { .. } => 0,
            Self::ConstantVus { vus, .. }
            | Self::PerVuIterations { vus, .. }
            | Self::SharedIterations { vus, .. } => *vus,
            Self::RampingVus {
                start_vus, stages, ..
            } => {
                let targets = stages.iter().map(|stage| stage.target);
                let most = targets.max().unwrap_or(0).max(u64::from(*start_vus));
                u32::try_from(most).unwrap_or(u32::MAX)
            }
            Self::ConstantArrivalRate { max_vus, .. }
            | Self::RampingArrivalRate { max_vus, .. } => *max_vus,
        }
    }

    /// Whether the target's slowness never moves the next iteration.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(
            self,
            Self::Recorded {
                speed: Speed::Times(_),
                ..
            } | Self::ConstantArrivalRate { .. }
                | Self::RampingArrivalRate { .. }
        )
    }

    /// What k6 would refuse, and what is beyond the limits.
    pub fn check(&self) -> Result<(), ScenarioError> {
        let fail = |field, message: String| Err(ScenarioError { field, message });
        let least_one = |field, n: u64| match n {
            0 => fail(field, "must be at least 1".to_owned()),
            _ => Ok(()),
        };
        if self.most_vus() > Self::MAX_VUS {
            let message = format!("at most {} users are supported", Self::MAX_VUS);
            return fail(self.vus_field(), message);
        }
        if let Self::PerVuIterations { .. } | Self::SharedIterations { .. } = self
            && self.most_iterations() > Some(Self::MAX_ITERATIONS)
        {
            let message = format!(
                "at most {} are supported, of all users",
                Self::MAX_ITERATIONS
            );
            return fail("iterations", message);
        }
        match self {
            Self::Recorded { .. } => Ok(()),
            Self::ConstantVus { vus, duration } => {
                least_one("vus", u64::from(*vus))?;
                long_enough(*duration)
            }
            Self::RampingVus {
                start_vus, stages, ..
            } => {
                check_stages(stages)?;
                let mut vus = u64::from(*start_vus);
                let mut changes = vus;
                for stage in stages {
                    changes = changes.saturating_add(vus.abs_diff(stage.target));
                    vus = stage.target;
                }
                if changes > Self::MAX_CHANGES {
                    let message =
                        format!("users start and stop more than {} times", Self::MAX_CHANGES);
                    return fail("stages", message);
                }
                if self.most_vus() == 0 {
                    return fail("stages", "there is never a user".to_owned());
                }
                Ok(())
            }
            Self::PerVuIterations {
                vus,
                iterations,
                max_duration,
            } => {
                least_one("vus", u64::from(*vus))?;
                least_one("iterations", *iterations)?;
                long_enough_for("maxDuration", *max_duration)
            }
            Self::SharedIterations {
                vus,
                iterations,
                max_duration,
            } => {
                least_one("vus", u64::from(*vus))?;
                if *iterations < u64::from(*vus) {
                    let message = format!("{iterations} is less than the number of VUs, {vus}");
                    return fail("iterations", message);
                }
                long_enough_for("maxDuration", *max_duration)
            }
            Self::ConstantArrivalRate {
                rate,
                duration,
                pre_allocated_vus,
                max_vus,
            } => {
                least_one("rate", rate.n)?;
                check_rate("rate", *rate)?;
                long_enough(*duration)?;
                check_pool(*pre_allocated_vus, *max_vus)
            }
            Self::RampingArrivalRate {
                start_rate,
                stages,
                pre_allocated_vus,
                max_vus,
            } => {
                check_stages(stages)?;
                check_rate("startRate", *start_rate)?;
                for stage in stages {
                    let n = stage.target;
                    check_rate("stages", PerTime { n, ..*start_rate })?;
                }
                check_pool(*pre_allocated_vus, *max_vus)
            }
        }
    }

    const fn vus_field(&self) -> &'static str {
        match self {
            Self::RampingVus { .. } => "stages",
            Self::ConstantArrivalRate { .. } | Self::RampingArrivalRate { .. } => "maxVUs",
            _ => "vus",
        }
    }
}

impl PerTime {
    /// A second's share.
    #[must_use]
    pub fn per_second(self) -> f64 {
        self.n as f64 / self.unit.as_secs_f64()
    }
}

fn long_enough(duration: Duration) -> Result<(), ScenarioError> {
    long_enough_for("duration", duration)
}

fn long_enough_for(field: &'static str, duration: Duration) -> Result<(), ScenarioError> {
    if duration < Executor::MIN_DURATION {
        let message = format!("{} is shorter than 1s", show(duration));
        return Err(ScenarioError { field, message });
    }
    Ok(())
}

fn check_stages(stages: &[Stage]) -> Result<(), ScenarioError> {
    let message = match stages.len() {
        0 => "at least one stage is needed".to_owned(),
        n if n > Executor::MAX_STAGES => format!("at most {} are supported", Executor::MAX_STAGES),
        _ => return Ok(()),
    };
    Err(ScenarioError {
        field: "stages",
        message,
    })
}

fn check_rate(field: &'static str, rate: PerTime) -> Result<(), ScenarioError> {
    let message = if rate.unit.is_zero() {
        return Err(ScenarioError {
            field: "timeUnit",
            message: "must be more than 0".to_owned(),
        });
    } else if rate.per_second() > Executor::MAX_RATE {
        format!("at most {} a second are supported", Executor::MAX_RATE)
    } else {
        return Ok(());
    };
    Err(ScenarioError { field, message })
}

fn check_pool(pre_allocated: u32, max: u32) -> Result<(), ScenarioError> {
    let (field, message) = if max == 0 {
        ("maxVUs", "must be at least 1".to_owned())
    } else if max < pre_allocated {
        let message = format!("{max} is less than preAllocatedVUs, {pre_allocated}");
        ("maxVUs", message)
    } else {
        return Ok(());
    };
    Err(ScenarioError { field, message })
}

impl fmt::Display for Executor {
    /// One line for people, in the manner of k6's list of scenarios.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recorded { speed, duration } => {
                write!(f, "as recorded at {speed}")?;
                match duration {
                    Some(duration) => write!(f, " for {}", show(*duration)),
                    None => Ok(()),
                }
            }
            Self::ConstantVus { vus, duration } => {
                write!(f, "{vus} looping VUs for {}", show(*duration))
            }
            Self::RampingVus { stages, .. } => write!(
                f,
                "up to {} looping VUs for {} over {} stages",
                self.most_vus(),
                show(self.duration().unwrap_or_default()),
                stages.len()
            ),
            Self::PerVuIterations {
                vus, iterations, ..
            } => write!(f, "{iterations} iterations for each of {vus} VUs"),
            Self::SharedIterations {
                vus, iterations, ..
            } => write!(f, "{iterations} iterations shared among {vus} VUs"),
            Self::ConstantArrivalRate {
                rate,
                duration,
                max_vus,
                ..
            } => write!(
                f,
                "{} iterations a second for {} (at most {max_vus} VUs)",
                rate.per_second(),
                show(*duration)
            ),
            Self::RampingArrivalRate {
                start_rate,
                stages,
                max_vus,
                ..
            } => {
                let most = stages.iter().map(|stage| stage.target).max();
                let n = most.unwrap_or(0).max(start_rate.n);
                let most = PerTime { n, ..*start_rate };
                write!(
                    f,
                    "up to {} iterations a second for {} over {} stages (at most {max_vus} VUs)",
                    most.per_second(),
                    show(self.duration().unwrap_or_default()),
                    stages.len()
                )
            }
        }
    }
}
