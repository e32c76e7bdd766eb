//! What the workers share of a scenario, and what each of them does for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::player::scenario::{Arrivals, Executor, Mix, Scenario, Sessions, Window};
use crate::player::schedule::Entry;
use crate::player::worker::queue::Queue;

/// A scenario on the stage: what its users are, shared by all workers.
#[derive(Debug)]
pub(crate) struct Cast {
    pub(super) index: u8,
    /// When it begins, counted from the start of the run.
    pub(super) start: Duration,
    /// When no more iterations begin, counted from its own start.
    pub(super) end: Duration,
    pub(super) graceful_stop: Duration,
    pub(super) think: Option<f64>,
    pub(super) sessions: Sessions,
    pub(super) mix: Mix,
    /// Iterations of each user.
    pub(super) quota: Option<u64>,
    /// Iterations of all together.
    shared: Option<u64>,
    /// Iterations that were given out.
    next: AtomicU64,
    pool: Pool,
}

/// The users of arrivals.
#[derive(Debug, Default)]
struct Pool {
    busy: AtomicU32,
    allocated: AtomicU32,
    /// Those that were there from the start.
    planned: u32,
    max: u32,
}

impl Cast {
    pub(crate) fn new(index: u8, scenario: &Scenario, sessions: Sessions, mix: Mix) -> Self {
        let (mut quota, mut shared, mut pool) = (None, None, Pool::default());
        match &scenario.executor {
            Executor::PerVuIterations { iterations, .. } => quota = Some(*iterations),
            Executor::SharedIterations { iterations, .. } => shared = Some(*iterations),
            Executor::ConstantArrivalRate {
                pre_allocated_vus,
                max_vus,
                ..
            }
            | Executor::RampingArrivalRate {
                pre_allocated_vus,
                max_vus,
                ..
            } => {
                pool.max = *max_vus;
                pool.allocated = AtomicU32::new(*pre_allocated_vus);
                pool.planned = *pre_allocated_vus;
            }
            Executor::Recorded { .. }
            | Executor::ConstantVus { .. }
            | Executor::RampingVus { .. } => {}
        }
        Self {
            index,
            start: scenario.start,
            end: scenario.executor.duration().unwrap_or(Duration::MAX),
            graceful_stop: scenario.graceful_stop,
            think: scenario.think,
            sessions,
            mix,
            quota,
            shared,
            next: AtomicU64::new(0),
            pool,
        }
    }

    /// The next iteration, counted from zero; `None`: all were given out.
    pub(super) fn next_iteration(&self) -> Option<u64> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.shared.is_none_or(|all| next < all).then_some(next)
    }

    /// Shared iterations that nobody took.
    pub(crate) fn left(&self) -> u64 {
        let taken = self.next.load(Ordering::Relaxed);
        self.shared.map_or(0, |all| all.saturating_sub(taken))
    }

    pub(crate) const fn index(&self) -> u8 {
        self.index
    }

    /// Takes a free user for an arrival. Where there is none the arrival is dropped, and one more
    /// user is there for the next, up to the most: as in k6.
    pub(super) fn take_user(&self) -> bool {
        let Pool {
            busy,
            allocated,
            max,
            ..
        } = &self.pool;
        let free = |busy: u32| (busy < allocated.load(Ordering::Relaxed)).then(|| busy + 1);
        let taken = busy.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free);
        if taken.is_err() {
            let more = |n: u32| (n < *max).then(|| n + 1);
            let grown = allocated.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
            // An error means that the most users are there already.
            grown.unwrap_or_default();
        }
        taken.is_ok()
    }

    pub(super) fn give_user_back(&self) {
        self.pool.busy.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many users arrivals have added to those that were planned.
    pub(crate) fn grown(&self) -> u32 {
        let allocated = self.pool.allocated.load(Ordering::Relaxed);
        allocated.saturating_sub(self.pool.planned)
    }
}

/// What one worker does for a scenario.
pub(crate) struct Part {
    pub(crate) cast: Arc<Cast>,
    pub(crate) work: Work,
    /// The connections that it may use: `first_lane..first_lane + lanes`.
    pub(crate) first_lane: u32,
    pub(crate) lanes: u32,
}

/// How it goes about it.
pub(crate) enum Work {
    /// Requests at their due times.
    Timed(Vec<Entry>),
    /// Requests as fast as the target answers: so many at once on each of so many lanes.
    Closed {
        queue: Arc<Queue>,
        lanes: u32,
        at_once: u32,
        /// Nothing is sent later.
        duration: Option<Duration>,
    },
    /// Users that begin again whenever they are done, within their windows.
    Users(Vec<Arc<[Window]>>),
    /// Iterations at their due times: every `n`th, beginning with the one of this worker.
    Arrivals {
        arrivals: Arrivals,
        n: u32,
        worker: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::player::scenario::PerTime;

    fn cast(executor: Executor) -> Cast {
        let scenario = Scenario::new("a", executor);
        let nobody = Sessions::default();
        let mix = Mix::new(&nobody, &[]);
        Cast::new(0, &scenario, nobody, mix)
    }

    #[test]
    fn an_arrival_without_a_free_user_makes_room_for_the_next() {
        let cast = cast(Executor::ConstantArrivalRate {
            rate: PerTime {
                n: 1,
                unit: Duration::from_secs(1),
            },
            duration: Duration::from_secs(1),
            pre_allocated_vus: 1,
            max_vus: 2,
        });
        let taken: Vec<_> = (0..4).map(|_| cast.take_user()).collect();
        assert_eq!(taken, [true, false, true, false]);
        assert_eq!(cast.grown(), 1);
        cast.give_user_back();
        assert!(cast.take_user());
    }

    #[test]
    fn shared_iterations_are_given_out_once() {
        let cast = cast(Executor::SharedIterations {
            vus: 2,
            iterations: 3,
            max_duration: Duration::from_secs(1),
        });
        assert_eq!(cast.left(), 3);
        let given: Vec<_> = (0..5).filter_map(|_| cast.next_iteration()).collect();
        assert_eq!(given, [0, 1, 2]);
        assert_eq!(cast.left(), 0);
    }
}
