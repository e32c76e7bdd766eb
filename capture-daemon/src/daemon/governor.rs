//! Keeps the daemon within its budget.

use std::time::Duration;

/// What the daemon may use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Budget {
    /// Processor time, in cores.
    pub cpu: Option<f64>,
    /// Resident bytes.
    pub memory: Option<u64>,
}

/// What the daemon uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Processor time since the start.
    pub cpu: Duration,
    /// Resident bytes.
    pub memory: u64,
}

/// Decides whether new connections are recorded.
///
/// Over the budget they are not; those under way are. Whether it is over is seen over some seconds,
/// as one block to compress is a peak of its own; and it must be well below before new connections
/// are taken again, or it would change its mind every second.
#[derive(Debug)]
pub struct Governor {
    budget: Budget,
    last: Option<(Duration, Duration)>,
    /// Cores in use, smoothed.
    cores: f64,
    admits: bool,
}

/// Why new connections are not recorded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Over {
    /// Too much processor time.
    Cpu,
    /// Too much memory.
    Memory,
}

/// The weight of the last second in the mean of processor time: about four seconds count.
const WEIGHT: f64 = 0.25;

/// The share of the budget below which new connections are recorded again.
const RELIEF: f64 = 0.9;

impl Governor {
    /// A governor that admits everything until it sees a reason not to.
    #[must_use]
    pub const fn new(budget: Budget) -> Self {
        Self {
            budget,
            last: None,
            cores: 0.0,
            admits: true,
        }
    }

    /// Another budget, from now on.
    pub const fn set_budget(&mut self, budget: Budget) {
        self.budget = budget;
    }

    /// Whether new connections are recorded.
    #[must_use]
    pub const fn admits(&self) -> bool {
        self.admits
    }

    /// Looks at what is used, `elapsed` after the start. Returns what the budget is over by, where
    /// that is the reason that new connections are not recorded from now on.
    pub fn observe(&mut self, elapsed: Duration, usage: Usage) -> Option<Over> {
        if let Some((then, cpu)) = self.last {
            let wall = elapsed.saturating_sub(then).as_secs_f64();
            if wall > 0.0 {
                let cores = usage.cpu.saturating_sub(cpu).as_secs_f64() / wall;
                self.cores += (cores - self.cores) * WEIGHT;
            }
        }
        self.last = Some((elapsed, usage.cpu));
        let share = if self.admits { 1.0 } else { RELIEF };
        let over = if self.budget.cpu.is_some_and(|cpu| self.cores > cpu * share) {
            Some(Over::Cpu)
        } else if self
            .budget
            .memory
            .is_some_and(|memory| usage.memory as f64 > memory as f64 * share)
        {
            Some(Over::Memory)
        } else {
            None
        };
        self.admits = over.is_none();
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(cpu_ms: u64, memory: u64) -> Usage {
        Usage {
            cpu: Duration::from_millis(cpu_ms),
            memory,
        }
    }

    #[test]
    fn without_a_budget_everything_is_admitted() {
        let mut governor = Governor::new(Budget::default());
        for second in 0..10 {
            let over =
                governor.observe(Duration::from_secs(second), usage(second * 9_000, 1 << 40));
            assert_eq!(over, None);
        }
    }

    #[test]
    fn a_peak_is_no_overload_but_what_lasts_is() {
        let mut governor = Governor::new(Budget {
            cpu: Some(0.5),
            memory: None,
        });
        let mut cpu = 0;
        let mut second = 0;
        let mut observe = |governor: &mut Governor, took: u64| {
            cpu += took;
            second += 1;
            governor.observe(Duration::from_secs(second), usage(cpu, 0))
        };
        assert_eq!(observe(&mut governor, 0), None);
        assert_eq!(observe(&mut governor, 1_000), None, "one busy second");
        for _ in 0..4 {
            observe(&mut governor, 100);
        }
        let busy = (0..10).map(|_| observe(&mut governor, 1_000));
        assert!(busy.into_iter().any(|over| over == Some(Over::Cpu)));
        assert!(!governor.admits());
        // Just below the budget is not enough to begin again.
        for _ in 0..50 {
            assert_eq!(observe(&mut governor, 480), Some(Over::Cpu));
        }
        let calm = (0..10).map(|_| observe(&mut governor, 100)).last();
        assert_eq!(calm, Some(None));
        assert!(governor.admits());
    }

    #[test]
    fn memory_counts_at_once_and_a_new_budget_too() {
        let mut governor = Governor::new(Budget {
            cpu: None,
            memory: Some(100),
        });
        let at = Duration::from_secs;
        assert_eq!(governor.observe(at(1), usage(0, 100)), None);
        assert_eq!(governor.observe(at(2), usage(0, 101)), Some(Over::Memory));
        assert_eq!(governor.observe(at(3), usage(0, 95)), Some(Over::Memory));
        governor.set_budget(Budget {
            cpu: None,
            memory: Some(200),
        });
        assert_eq!(governor.observe(at(4), usage(0, 95)), None);
    }
}
