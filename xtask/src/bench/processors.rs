//! The processors of the machine: how long they slept, and what its host took of them.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::measure::TICK;

/// What the kernel has counted since the machine started, of all processors together (`/proc/stat`, proc_stat(5)).
#[derive(Clone, Copy, Debug)]
pub(super) struct Processors {
    at: Instant,
    pub(super) count: usize,
    /// They had nothing to do, or waited for a disk.
    slept: Duration,
    /// Somebody else of the same host had them.
    stolen: Duration,
}

impl Processors {
    pub(super) fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("no /proc: not a Linux?")?;
        read(&stat, Instant::now()).context("/proc/stat is not as proc_stat(5) says")
    }

    /// The time in which they did something.
    ///
    /// All time but that in which they slept: the kernel measures their sleep from its beginning to its end, while
    /// it only samples, at each tick of its clock, who runs. What is over before the next tick, as all that a
    /// light load does, and what the tick itself wakes up, is counted far too low or far too high by that. What the
    /// hypervisor stole is known as exactly as sleep, and is nobody's work here.
    pub(super) fn busy_since(&self, before: &Self) -> Duration {
        let idle = (self.slept + self.stolen).saturating_sub(before.slept + before.stolen);
        self.all_since(before).saturating_sub(idle)
    }

    /// What the host took, as a share of all the time that they had.
    pub(super) fn stolen_since(&self, before: &Self) -> f64 {
        let taken = self.stolen.saturating_sub(before.stolen);
        taken.as_secs_f64() / self.all_since(before).as_secs_f64().max(1e-9)
    }

    fn all_since(&self, before: &Self) -> Duration {
        let elapsed = self.at.duration_since(before.at);
        elapsed.mul_f64(self.count as f64)
    }
}

/// The idle, iowait and steal of the first line; each processor has a line of its own behind it.
fn read(stat: &str, at: Instant) -> Option<Processors> {
    let mut lines = stat.lines();
    let line = lines.next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u32> = line
        .split_whitespace()
        .map_while(|n| n.parse().ok())
        .collect();
    let (idle, iowait, steal) = (ticks.get(3)?, ticks.get(4)?, ticks.get(7)?);
    let count = lines.take_while(|line| line.starts_with("cpu")).count();
    Some(Processors {
        at,
        count,
        slept: TICK * *idle + TICK * *iowait,
        stolen: TICK * *steal,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str =
        "cpu  1 20 30 4000 500 6 7 800 0 0\ncpu0 1 1 1 1 1 1 1 1\ncpu1 1 1\nintr 1\n";

    #[test]
    fn the_kernels_file_is_read() {
        let read_one = read(STAT, Instant::now()).unwrap();
        assert_eq!(read_one.count, 2);
        assert_eq!(read_one.slept, Duration::from_secs(45));
        assert_eq!(read_one.stolen, Duration::from_secs(8));
        assert!(read("intr 1\n", Instant::now()).is_none());
        assert!(read("cpu  1 20 30 4000 500 6 7\n", Instant::now()).is_none());
        Processors::now().unwrap();
    }

    #[test]
    fn busy_is_what_was_neither_slept_nor_stolen() {
        let begun = read(STAT, Instant::now()).unwrap();
        let later = |slept, stolen| Processors {
            at: begun.at + Duration::from_secs(10),
            count: 2,
            slept: begun.slept + Duration::from_secs(slept),
            stolen: begun.stolen + Duration::from_secs(stolen),
        };
        let seconds = Duration::from_secs;
        assert_eq!(later(7, 0).busy_since(&begun), seconds(13));
        assert_eq!(later(7, 5).busy_since(&begun), seconds(8));
        assert!((later(7, 5).stolen_since(&begun) - 0.25).abs() < 1e-9);
        // Two clocks: never less than nothing.
        assert_eq!(later(21, 0).busy_since(&begun), Duration::ZERO);
        // Since a machine moved to another host the kernel may count less.
        let moved = Processors {
            stolen: Duration::ZERO,
            ..later(7, 0)
        };
        assert!(moved.stolen_since(&begun) < 1e-9);
    }
}
