//! When each user of a scenario is active.

use std::sync::Arc;
use std::time::Duration;

use crate::player::scenario::executor::{Executor, Stage};

/// A time in which a user begins iterations, counted from the start of the scenario.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Window {
    pub(crate) from: Duration,
    /// No iteration begins from here on.
    pub(crate) until: Duration,
    /// An iteration that still runs here is interrupted.
    pub(crate) kill: Duration,
}

/// The windows of every user, the first user first; empty for executors without users of their
/// own.
pub(crate) fn windows(executor: &Executor, graceful_stop: Duration) -> Vec<Arc<[Window]>> {
    match executor {
        Executor::ConstantVus { vus, duration }
        | Executor::PerVuIterations {
            vus,
            max_duration: duration,
            ..
        }
        | Executor::SharedIterations {
            vus,
            max_duration: duration,
            ..
        } => {
            let window = Window {
                from: Duration::ZERO,
                until: *duration,
                kill: duration.saturating_add(graceful_stop),
            };
            let windows: Arc<[Window]> = Arc::new([window]);
            (0..*vus).map(|_| Arc::clone(&windows)).collect()
        }
        Executor::RampingVus {
            start_vus,
            stages,
            graceful_ramp_down,
        } => ramping(*start_vus, stages, *graceful_ramp_down, graceful_stop),
        Executor::Recorded { .. }
        | Executor::ConstantArrivalRate { .. }
        | Executor::RampingArrivalRate { .. } => Vec::new(),
    }
}

/// As k6 has it: user n is there while the line of the stages is at n or above, and the last to
/// come is the first to go: user n goes when the line has come down to n - 1.
fn ramping(
    start_vus: u32,
    stages: &[Stage],
    graceful_ramp_down: Duration,
    graceful_stop: Duration,
) -> Vec<Arc<[Window]>> {
    let mut users: Vec<Vec<(Duration, Duration)>> = vec![Vec::new(); start_vus as usize];
    // When each active user came; the last one is the last to come.
    let mut active: Vec<Duration> = vec![Duration::ZERO; start_vus as usize];
    let mut start = Duration::ZERO;
    for stage in stages {
        let from = active.len() as u64;
        let span = from.abs_diff(stage.target);
        for step in 1..=span {
            let at = start.saturating_add(fraction(stage.duration, step, span));
            if stage.target > from {
                active.push(at);
                if users.len() < active.len() {
                    users.push(Vec::new());
                }
            } else if let Some(came) = active.pop()
                && let Some(user) = users.get_mut(active.len())
                && came < at
            {
                user.push((came, at));
            }
        }
        start = start.saturating_add(stage.duration);
    }
    let end = start;
    for (user, came) in users.iter_mut().zip(&active) {
        if *came < end {
            user.push((*came, end));
        }
    }
    let stay = active.len();
    let finished = |(index, user): (usize, Vec<(Duration, Duration)>)| {
        let mut windows: Vec<Window> = user
            .into_iter()
            .map(|(from, until)| Window {
                from,
                until,
                kill: until
                    .saturating_add(graceful_ramp_down)
                    .min(end.saturating_add(graceful_stop)),
            })
            .collect();
        // The scenario's own grace is for those whom no ramp took away, not even one that ends with it.
        if index < stay
            && let Some(last) = windows.last_mut()
            && last.until == end
        {
            last.kill = end.saturating_add(graceful_stop);
        }
        // A user that is wanted again before its last iteration was interrupted goes on with it.
        for index in (1..windows.len()).rev() {
            let next = windows[index];
            if let Some(window) = windows.get_mut(index - 1)
                && next.from <= window.kill
            {
                window.kill = next.kill;
            }
        }
        windows.into()
    };
    users.into_iter().enumerate().map(finished).collect()
}

fn fraction(whole: Duration, part: u64, of: u64) -> Duration {
    let nanos = whole.as_nanos().saturating_mul(part.into()) / u128::from(of.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn stages(stages: &[(u64, u64)]) -> Executor {
        ramp(1, stages)
    }

    fn ramp(start_vus: u32, stages: &[(u64, u64)]) -> Executor {
        let stage = |(millis, target): &(u64, u64)| Stage {
            duration: Duration::from_millis(*millis),
            target: *target,
        };
        Executor::RampingVus {
            start_vus,
            stages: stages.iter().map(stage).collect(),
            graceful_ramp_down: SECOND,
        }
    }

    /// `from-until/kill` in milliseconds, for each user.
    fn shown(executor: &Executor) -> Vec<String> {
        let show = |window: &Window| {
            let [from, until, kill] =
                [window.from, window.until, window.kill].map(|time| time.as_millis());
            format!("{from}-{until}/{kill}")
        };
        windows(executor, 3 * SECOND)
            .iter()
            .map(|user| user.iter().map(show).collect::<Vec<_>>().join(" "))
            .collect()
    }

    #[test]
    fn users_come_and_go_one_by_one_along_the_line() {
        // 1 to 4 in 3 s, then down to 0 in 4 s: every second one.
        assert_eq!(
            shown(&stages(&[(3000, 4), (4000, 0)])),
            [
                "0-7000/8000",
                "1000-6000/7000",
                "2000-5000/6000",
                "3000-4000/5000"
            ]
        );
    }

    #[test]
    fn jumps_and_plateaus() {
        assert_eq!(
            shown(&ramp(2, &[(0, 3), (2000, 3), (0, 1), (1000, 1)])),
            ["0-3000/6000", "0-2000/3000", "0-2000/3000"]
        );
        // Nobody at first: the first user comes when the line is at 1.
        assert_eq!(shown(&ramp(0, &[(1000, 2)])), ["500-1000/4000", ""]);
    }

    #[test]
    fn the_graceful_stop_is_for_those_who_stay_to_the_end() {
        let ends = |stages: &[(u64, u64)], ramp_down: u64, stop: u64| {
            let mut executor = ramp(1, stages);
            if let Executor::RampingVus {
                graceful_ramp_down, ..
            } = &mut executor
            {
                *graceful_ramp_down = Duration::from_secs(ramp_down);
            }
            let users = windows(&executor, Duration::from_secs(stop));
            let kills = users.iter().flat_map(|user| user.last());
            kills.map(|last| last.kill.as_millis()).collect::<Vec<_>>()
        };
        // As k6 ends them, with a server that never answers.
        assert_eq!(ends(&[(1000, 2), (1000, 0)], 0, 4), [2000, 1500]);
        assert_eq!(ends(&[(1000, 2), (1000, 2), (0, 0)], 1, 4), [3000, 3000]);
        assert_eq!(ends(&[(1000, 2), (1000, 1)], 0, 3), [5000, 2000]);
        // Whom a ramp took away, and who was wanted again at once, stays.
        assert_eq!(ends(&[(1000, 1), (0, 0), (0, 1)], 0, 3), [4000]);
        // Never longer than the scenario.
        assert_eq!(ends(&[(2000, 1), (0, 0)], 9, 4), [6000]);
    }

    #[test]
    fn whoever_is_wanted_again_soon_goes_on() {
        // The second user is gone from 1 s to 1.5 s, less than the grace of a second; and, later,
        // for two seconds.
        assert_eq!(
            shown(&ramp(
                2,
                &[
                    (1000, 2),
                    (0, 1),
                    (500, 1),
                    (0, 2),
                    (500, 2),
                    (0, 1),
                    (2000, 1),
                    (0, 2),
                    (1000, 2)
                ]
            )),
            ["0-5000/8000", "0-1000/3000 1500-2000/3000 4000-5000/8000"]
        );
    }

    #[test]
    fn all_other_users_are_there_all_the_time() {
        let executor = Executor::SharedIterations {
            vus: 2,
            iterations: 5,
            max_duration: 10 * SECOND,
        };
        assert_eq!(shown(&executor), ["0-10000/13000", "0-10000/13000"]);
    }

    #[test]
    fn the_number_of_users_follows_the_line() {
        // The issue's own example, shortened.
        let executor = ramp(
            1,
            &[
                (3000, 1),
                (500, 100),
                (6000, 300),
                (3000, 70),
                (6000, 25),
                (12000, 8),
                (1000, 0),
            ],
        );
        let users = windows(&executor, SECOND);
        assert_eq!(users.len(), 300);
        let at = |millis: u64| {
            let at = Duration::from_millis(millis);
            let active = |user: &&Arc<[Window]>| user.iter().any(|w| w.from <= at && at < w.until);
            users.iter().filter(active).count()
        };
        for (millis, expect) in [
            (0, 1),
            (2999, 1),
            (3500, 100),
            (6500, 200),
            (9500, 300),
            (12_500, 70),
            (18_500, 25),
            (30_500, 8),
            (31_499, 1),
        ] {
            assert_eq!(at(millis), expect, "{millis}");
        }
    }
}
