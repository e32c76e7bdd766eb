//! The executors, made of the fields of a scenario with k6's defaults.

use std::time::Duration;

use serde_saphyr::Spanned;

use super::{RawScenario, Time, of_stages};
use crate::player::scenario::executor::{Executor, PerTime, ScenarioError, Stage};
use crate::player::schedule::Speed;

pub(super) const NAMES: &str = "constant-vus, ramping-vus, per-vu-iterations, shared-iterations, \
                     constant-arrival-rate, ramping-arrival-rate, recorded";

pub(super) type Build = fn(&RawScenario) -> Result<Executor, ScenarioError>;

/// The fields of an executor, and how it is made of them, with k6's defaults.
pub(super) fn builder(name: &str) -> Option<(&'static [&'static str], Build)> {
    Some(match name {
        "constant-vus" => (&["vus", "duration"], |raw| {
            Ok(Executor::ConstantVus {
                vus: value_or(raw.vus.as_ref(), 1),
                duration: required(raw.duration.as_ref(), "duration")?.0,
            })
        }),
        "ramping-vus" => (&["startVUs", "stages", "gracefulRampDown"], |raw| {
            Ok(Executor::RampingVus {
                start_vus: value_or(raw.start_vus.as_ref(), 1),
                stages: stages_of(raw)?,
                graceful_ramp_down: time_or(
                    raw.graceful_ramp_down.as_ref(),
                    Executor::GRACEFUL_RAMP_DOWN,
                ),
            })
        }),
        "per-vu-iterations" => (&["vus", "iterations", "maxDuration"], |raw| {
            Ok(Executor::PerVuIterations {
                vus: value_or(raw.vus.as_ref(), 1),
                iterations: value_or(raw.iterations.as_ref(), 1),
                max_duration: time_or(raw.max_duration.as_ref(), Executor::MAX_DURATION),
            })
        }),
        "shared-iterations" => (&["vus", "iterations", "maxDuration"], |raw| {
            Ok(Executor::SharedIterations {
                vus: value_or(raw.vus.as_ref(), 1),
                iterations: value_or(raw.iterations.as_ref(), 1),
                max_duration: time_or(raw.max_duration.as_ref(), Executor::MAX_DURATION),
            })
        }),
        "constant-arrival-rate" => (
            &["rate", "timeUnit", "duration", "preAllocatedVUs", "maxVUs"],
            |raw| {
                let pre_allocated_vus = pre_allocated(raw)?;
                Ok(Executor::ConstantArrivalRate {
                    rate: PerTime {
                        n: *required(raw.rate.as_ref(), "rate")?,
                        unit: time_or(raw.time_unit.as_ref(), SECOND),
                    },
                    duration: required(raw.duration.as_ref(), "duration")?.0,
                    pre_allocated_vus,
                    max_vus: value_or(raw.max_vus.as_ref(), pre_allocated_vus),
                })
            },
        ),
        "ramping-arrival-rate" => (
            &[
                "startRate",
                "timeUnit",
                "stages",
                "preAllocatedVUs",
                "maxVUs",
            ],
            |raw| {
                let pre_allocated_vus = pre_allocated(raw)?;
                Ok(Executor::RampingArrivalRate {
                    start_rate: PerTime {
                        n: value_or(raw.start_rate.as_ref(), 0),
                        unit: time_or(raw.time_unit.as_ref(), SECOND),
                    },
                    stages: stages_of(raw)?,
                    pre_allocated_vus,
                    max_vus: value_or(raw.max_vus.as_ref(), pre_allocated_vus),
                })
            },
        ),
        "recorded" => (&["speed", "duration"], |raw| {
            let speed = match &raw.speed {
                None => Speed::RECORDED,
                Some(speed) => speed.value.0.parse().map_err(|error| ScenarioError {
                    field: "speed",
                    message: format!("{error}"),
                })?,
            };
            Ok(Executor::Recorded {
                speed,
                duration: raw.duration.as_ref().map(|time| time.value.0),
            })
        }),
        _ => return None,
    })
}

const SECOND: Duration = Duration::from_secs(1);

fn value_or<T: Copy>(value: Option<&Spanned<T>>, default: T) -> T {
    value.map_or(default, |value| value.value)
}

fn time_or(value: Option<&Spanned<Time>>, default: Duration) -> Duration {
    value.map_or(default, |value| value.value.0)
}

fn required<'a, T>(
    value: Option<&'a Spanned<T>>,
    field: &'static str,
) -> Result<&'a T, ScenarioError> {
    let message = "is missing".to_owned();
    let missing = || ScenarioError { field, message };
    value.map(|value| &value.value).ok_or_else(missing)
}

fn pre_allocated(raw: &RawScenario) -> Result<u32, ScenarioError> {
    required(raw.pre_allocated_vus.as_ref(), "preAllocatedVUs").copied()
}

fn stages_of(raw: &RawScenario) -> Result<Vec<Stage>, ScenarioError> {
    required(raw.stages.as_ref(), "stages").map(|stages| of_stages(stages))
}
