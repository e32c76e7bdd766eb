//! How many users and connections a run has at once: scenarios come and go, and one that is over leaves room for
//! the next.

use std::time::Duration;

use crate::player::options::Options;
use crate::player::scenario::{Arrivals, Executor, Scenario, Window, windows};
use crate::player::schedule::{Schedule, Speed};

/// So many, from an instant until before another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    from: Duration,
    end: Duration,
    n: u64,
}

/// What a scenario needs of something; where it keeps recorded instants, with its schedule.
pub(crate) type Needs = fn(&Scenario, Option<&Schedule>) -> Vec<Span>;

/// The most that scenarios need at once.
pub(crate) fn most<'a>(
    scenarios: impl IntoIterator<Item = (&'a Scenario, Option<&'a Schedule>)>,
    needs: Needs,
) -> u64 {
    let scenarios: Vec<_> = scenarios.into_iter().collect();
    // Its stages say it, where a user more or less would be a span of its own.
    if let [(only, _)] = scenarios.as_slice()
        && matches!(only.executor, Executor::RampingVus { .. })
    {
        return only.executor.most_vus().into();
    }
    most_at_once(
        scenarios
            .iter()
            .flat_map(|(scenario, schedule)| needs(scenario, *schedule)),
    )
}

/// The most at once.
fn most_at_once(spans: impl IntoIterator<Item = Span>) -> u64 {
    // At one instant, what ends goes before what begins.
    let changes = spans
        .into_iter()
        .flat_map(|span| [(span.from, true, span.n), (span.end, false, span.n)]);
    let mut changes: Vec<(Duration, bool, u64)> = changes.collect();
    changes.sort_unstable();
    let (mut now, mut most) = (0_u64, 0);
    for (_, begins, n) in changes {
        now = match begins {
            true => now.saturating_add(n),
            false => now.saturating_sub(n),
        };
        most = most.max(now);
    }
    most
}

/// The users of a scenario, as long as each may be busy: so long they are reserved in k6, which knows as many before
/// the run as are in `preAllocatedVUs`.
pub(crate) fn users(scenario: &Scenario, _schedule: Option<&Schedule>) -> Vec<Span> {
    match &scenario.executor {
        Executor::Recorded { .. } => Vec::new(),
        Executor::RampingVus { .. } => of_windows(scenario, |window| window.kill),
        Executor::ConstantArrivalRate {
            pre_allocated_vus, ..
        }
        | Executor::RampingArrivalRate {
            pre_allocated_vus, ..
        } => whole(
            scenario,
            scenario.graceful_stop,
            (*pre_allocated_vus).into(),
        ),
        executor => whole(scenario, scenario.graceful_stop, executor.most_vus().into()),
    }
}

/// The connections that a scenario has at the least, where each user, or each recorded connection, has its own.
pub(crate) fn least_connections(scenario: &Scenario, schedule: Option<&Schedule>) -> Vec<Span> {
    match (&scenario.executor, schedule) {
        (Executor::Recorded { speed, .. }, Some(schedule)) => {
            vec![recorded(
                scenario,
                schedule,
                *speed,
                schedule.lanes_at_once(),
            )]
        }
        // An iteration for which nobody is free is dropped and counted: no need.
        (Executor::ConstantArrivalRate { .. } | Executor::RampingArrivalRate { .. }, _) => {
            Vec::new()
        }
        (Executor::RampingVus { .. }, _) => of_windows(scenario, |window| window.until),
        (executor, _) => whole(scenario, Duration::ZERO, executor.most_vus().into()),
    }
}

/// The connections that it may come to have where the target is slow.
pub(crate) fn most_connections(scenario: &Scenario, schedule: Option<&Schedule>) -> Vec<Span> {
    match (&scenario.executor, schedule) {
        // Over HTTP/1, what is due while all connections are taken opens another one.
        (Executor::Recorded { speed, .. }, Some(schedule)) => {
            vec![recorded(
                scenario,
                schedule,
                *speed,
                schedule.entries.len() as u64,
            )]
        }
        (Executor::ConstantArrivalRate { .. } | Executor::RampingArrivalRate { .. }, _) => {
            let users = u64::from(scenario.executor.most_vus());
            let users = users.min(Arrivals::total(&scenario.executor));
            whole(scenario, scenario.graceful_stop, users)
        }
        _ => users(scenario, schedule),
    }
}

fn recorded(scenario: &Scenario, schedule: &Schedule, speed: Speed, n: u64) -> Span {
    let (last, n) = match speed {
        Speed::Times(_) => (schedule.span(), n),
        Speed::Max => (
            scenario.executor.duration().unwrap_or(Duration::MAX),
            Options::MAX_SPEED_CONNECTIONS.get().into(),
        ),
    };
    let behind = Duration::from_nanos(1);
    Span {
        from: scenario.start,
        end: scenario.start.saturating_add(last).saturating_add(behind),
        n,
    }
}

/// From the beginning of a scenario to its end.
fn whole(scenario: &Scenario, grace: Duration, n: u64) -> Vec<Span> {
    let duration = scenario.executor.duration().unwrap_or(Duration::MAX);
    let end = scenario
        .start
        .saturating_add(duration)
        .saturating_add(grace);
    vec![Span {
        from: scenario.start,
        end,
        n,
    }]
}

/// User by user, until `end` of each of its windows.
fn of_windows(scenario: &Scenario, end: fn(&Window) -> Duration) -> Vec<Span> {
    let mut spans = Vec::new();
    for windows in windows(&scenario.executor, scenario.graceful_stop) {
        let next = windows.iter().skip(1).map(|next| next.from);
        for (window, next) in windows.iter().zip(next.chain([Duration::MAX])) {
            spans.push(Span {
                from: scenario.start.saturating_add(window.from),
                // A user that is wanted again before it is gone is not another one.
                end: scenario.start.saturating_add(end(window).min(next)),
                n: 1,
            });
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::player::scenario::{PerTime, Stage};

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn at(start: u64, graceful_stop: u64, executor: Executor) -> Scenario {
        Scenario {
            start: seconds(start),
            graceful_stop: seconds(graceful_stop),
            ..Scenario::new("a", executor)
        }
    }

    fn constant(vus: u32, duration: u64) -> Executor {
        Executor::ConstantVus {
            vus,
            duration: seconds(duration),
        }
    }

    fn ramp(start_vus: u32, stages: &[(u64, u64)]) -> Executor {
        let stage = |(duration, target): &(u64, u64)| Stage {
            duration: seconds(*duration),
            target: *target,
        };
        Executor::RampingVus {
            start_vus,
            stages: stages.iter().map(stage).collect(),
            graceful_ramp_down: Duration::ZERO,
        }
    }

    fn rate(n: u64, pre_allocated_vus: u32, max_vus: u32) -> Executor {
        Executor::ConstantArrivalRate {
            rate: PerTime {
                n,
                unit: seconds(1),
            },
            duration: seconds(10),
            pre_allocated_vus,
            max_vus,
        }
    }

    /// Users, connections at the least, connections at the most.
    fn needs(scenarios: &[Scenario]) -> (u64, u64, u64) {
        let most = |needs| most(scenarios.iter().map(|scenario| (scenario, None)), needs);
        (most(users), most(least_connections), most(most_connections))
    }

    #[test]
    fn scenarios_that_follow_each_other_share_what_they_need() {
        let one = |start, grace| at(start, grace, constant(100, 10));
        assert_eq!(needs(&[one(0, 0), one(0, 0)]), (200, 200, 200));
        assert_eq!(needs(&[one(0, 0), one(10, 0)]), (100, 100, 100));
        // Within the grace of the first its users may still be busy, and need not be.
        assert_eq!(needs(&[one(0, 5), one(10, 5)]), (200, 100, 200));
        assert_eq!(needs(&[one(0, 5), one(15, 5)]), (100, 100, 100));
        // One ramps down while the other ramps up.
        let down = at(0, 0, ramp(10, &[(10, 0)]));
        let up = at(0, 0, ramp(0, &[(10, 10)]));
        let (users, connections, _) = needs(&[down, up]);
        assert!(
            (10..=11).contains(&users) && users == connections,
            "{users}"
        );
        let alone = at(0, 30, ramp(3, &[(10, 20), (1, 20), (0, 1), (5, 7)]));
        assert_eq!(needs(std::slice::from_ref(&alone)), (20, 20, 20));
        // They are wanted again before they are gone.
        let swinging = || Scenario {
            executor: Executor::RampingVus {
                start_vus: 3,
                stages: [3, 0, 3, 0]
                    .map(|target| Stage {
                        duration: seconds(1),
                        target,
                    })
                    .to_vec(),
                graceful_ramp_down: seconds(30),
            },
            ..at(0, 30, constant(1, 1))
        };
        assert_eq!(needs(&[swinging(), swinging()]), (6, 6, 6));
        let nobody = at(0, 0, ramp(0, &[(1, 0)]));
        assert_eq!(needs(&[alone, nobody]), (20, 20, 20));
        assert_eq!(needs(&[]), (0, 0, 0));
    }

    #[test]
    fn arrivals_need_nobody_and_may_need_all() {
        let arrivals = |n, pre, max| needs(&[at(0, 0, rate(n, pre, max))]);
        assert_eq!(arrivals(100, 7, 50), (7, 0, 50));
        // There are no more of them than arrive.
        assert_eq!(arrivals(1, 7, 5000), (7, 0, 10));
    }
}
