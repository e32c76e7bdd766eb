//! When iterations are due that arrive at a rate.

use std::time::Duration;

use crate::player::scenario::executor::{Executor, PerTime, Stage};

/// The instants of all arrivals, counted from the start of the scenario, computed one by one: an
/// hour at 10,000 a second takes no memory.
///
/// As k6 has it: at a constant rate the first arrival is at once, and the n-th n intervals later, as
/// long as the duration has not passed. Over stages the n-th arrival, counted from one, is where
/// the area under the line of the rate reaches n.
#[derive(Clone, Debug)]
pub(crate) enum Arrivals {
    Constant {
        rate: PerTime,
        duration: Duration,
        next: u64,
    },
    Ramping {
        stages: std::vec::IntoIter<Slope>,
        /// The stage that is looked at; `None` behind the last.
        slope: Option<Slope>,
        /// Arrivals before this stage, as an area.
        before: f64,
        /// The next one, counted from one.
        next: u64,
    },
}

/// A stage with its beginning, in seconds and arrivals a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slope {
    start: f64,
    duration: f64,
    from: f64,
    to: f64,
}

impl Slope {
    fn area(&self) -> f64 {
        self.duration * f64::midpoint(self.from, self.to)
    }

    /// When the area since the beginning of the stage reaches this, counted from there.
    fn reaches(&self, area: f64) -> f64 {
        // from·x + (to−from)/(2·duration)·x² = area, solved so that nothing is lost where the rate
        // hardly changes.
        let change = (self.to - self.from) / self.duration;
        let root = (self.from * self.from + 2.0 * area * change)
            .max(0.0)
            .sqrt();
        2.0 * area / (self.from + root)
    }
}

impl Arrivals {
    /// Areas are sums of products of decimal numbers: an arrival on the end of a stage belongs to it.
    const ROUNDING: f64 = 1e-9;

    /// `None`: this executor has no arrivals.
    pub(crate) fn new(executor: &Executor) -> Option<Self> {
        match executor {
            Executor::ConstantArrivalRate { rate, duration, .. } => Some(Self::Constant {
                rate: *rate,
                duration: *duration,
                next: 0,
            }),
            Executor::RampingArrivalRate {
                start_rate, stages, ..
            } => {
                let mut stages = slopes(*start_rate, stages).into_iter();
                Some(Self::Ramping {
                    slope: stages.next(),
                    stages,
                    before: 0.0,
                    next: 1,
                })
            }
            Executor::Recorded { .. }
            | Executor::ConstantVus { .. }
            | Executor::RampingVus { .. }
            | Executor::PerVuIterations { .. }
            | Executor::SharedIterations { .. } => None,
        }
    }

    /// How many there are.
    pub(crate) fn total(executor: &Executor) -> u64 {
        match executor {
            Executor::ConstantArrivalRate { rate, duration, .. } => {
                let n = duration.as_nanos() * u128::from(rate.n);
                u64::try_from(n.div_ceil(rate.unit.as_nanos().max(1))).unwrap_or(u64::MAX)
            }
            Executor::RampingArrivalRate {
                start_rate, stages, ..
            } => {
                let area: f64 = slopes(*start_rate, stages).iter().map(Slope::area).sum();
                // Saturates, which is what is wanted.
                (area * (1.0 + Self::ROUNDING)).floor() as u64
            }
            Executor::Recorded { .. }
            | Executor::ConstantVus { .. }
            | Executor::RampingVus { .. }
            | Executor::PerVuIterations { .. }
            | Executor::SharedIterations { .. } => 0,
        }
    }
}

fn slopes(start_rate: PerTime, stages: &[Stage]) -> Vec<Slope> {
    let mut from = start_rate.per_second();
    let mut start = 0.0;
    let slope = |stage: &Stage| {
        let n = stage.target;
        let slope = Slope {
            start,
            duration: stage.duration.as_secs_f64(),
            from,
            to: PerTime { n, ..start_rate }.per_second(),
        };
        from = slope.to;
        start += slope.duration;
        slope
    };
    stages.iter().map(slope).collect()
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        match self {
            Self::Constant {
                rate,
                duration,
                next,
            } => {
                let nanos = u128::from(*next) * rate.unit.as_nanos() / u128::from(rate.n.max(1));
                let at = Duration::from_nanos(u64::try_from(nanos).ok()?);
                *next += 1;
                (at < *duration).then_some(at)
            }
            Self::Ramping {
                stages,
                slope,
                before,
                next,
            } => loop {
                let stage = (*slope)?;
                let area = *next as f64 - *before;
                if area <= stage.area() * (1.0 + Self::ROUNDING) {
                    *next += 1;
                    let within = stage.reaches(area).min(stage.duration);
                    return Duration::try_from_secs_f64(stage.start + within).ok();
                }
                *before += stage.area();
                *slope = stages.next();
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn per_second(n: u64) -> PerTime {
        let unit = Duration::from_secs(1);
        PerTime { n, unit }
    }

    fn constant(rate: PerTime, seconds: u64) -> Executor {
        Executor::ConstantArrivalRate {
            rate,
            duration: Duration::from_secs(seconds),
            pre_allocated_vus: 1,
            max_vus: 1,
        }
    }

    fn ramping(start: u64, stages: &[(u64, u64)]) -> Executor {
        let stage = |(seconds, target): &(u64, u64)| Stage {
            duration: Duration::from_secs(*seconds),
            target: *target,
        };
        Executor::RampingArrivalRate {
            start_rate: per_second(start),
            stages: stages.iter().map(stage).collect(),
            pre_allocated_vus: 1,
            max_vus: 1,
        }
    }

    #[track_caller]
    fn millis(executor: &Executor) -> Vec<u128> {
        let mut schedule = Arrivals::new(executor).unwrap();
        let arrivals: Vec<_> = schedule.by_ref().collect();
        // Workers ask again behind the end.
        assert_eq!(schedule.by_ref().take(3).count(), 0);
        assert_eq!(arrivals.len() as u64, Arrivals::total(executor));
        assert!(arrivals.is_sorted());
        arrivals.iter().map(Duration::as_millis).collect()
    }

    #[test]
    fn a_constant_rate_begins_at_once_and_keeps_its_distance() {
        assert_eq!(
            millis(&constant(per_second(4), 2)),
            [0, 250, 500, 750, 1000, 1250, 1500, 1750]
        );
        let unit = Duration::from_secs(60);
        assert_eq!(
            millis(&constant(PerTime { n: 90, unit }, 2)),
            [0, 666, 1333]
        );
        // A third cannot be written: the last of a day is still where it belongs.
        let last = Arrivals::new(&constant(per_second(3), 86_400))
            .unwrap()
            .last();
        assert_eq!(last.unwrap().as_nanos(), 86_399_666_666_666);
        assert_eq!(Arrivals::total(&constant(per_second(300), 3600)), 1_080_000);
    }

    #[test]
    fn over_stages_the_area_under_the_rate_counts() {
        // A constant stage: the first arrival has to be waited for.
        assert_eq!(millis(&ramping(4, &[(1, 4)])), [250, 500, 750, 1000]);
        // From nothing to 4 a second in 2 s: t²  = n.
        assert_eq!(millis(&ramping(0, &[(2, 4)])), [1000, 1414, 1732, 2000]);
        // And down again, as in a mirror.
        assert_eq!(
            millis(&ramping(0, &[(2, 4), (2, 0)])),
            [1000, 1414, 1732, 2000, 2267, 2585, 3000, 4000]
        );
        // A jump, a pause, and what a pause leaves of an arrival is not lost.
        assert_eq!(
            millis(&ramping(1, &[(1, 1), (0, 0), (5, 0), (0, 2), (1, 2)])),
            [1000, 6500, 7000]
        );
        assert_eq!(millis(&ramping(0, &[(5, 0)])), [0_u128; 0]);
    }

    #[test]
    fn rates_that_hardly_change_lose_no_precision() {
        let arrivals: Vec<_> = Arrivals::new(&ramping(1_000_000, &[(1, 1_000_001)]))
            .unwrap()
            .collect();
        assert_eq!(arrivals.len(), 1_000_000);
        let even = arrivals
            .iter()
            .zip(1_u64..)
            .all(|(at, n)| at.as_nanos().abs_diff(u128::from(n) * 1000) <= 1000);
        assert!(even);
    }
}
