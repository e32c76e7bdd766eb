//! Runs that the machine's host left alone.
//!
//! On a virtual machine somebody else has the processors now and then (steal, proc_stat(5)), and whoever sleeps and is
//! woken thousands of times a second loses far more by that than whoever only reckons: up to nine tenths, from one
//! second to the next. What is measured then is the host. So such a run is tried again, and what was taken is said.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;

/// Linux counts steal in hundredths of a second (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// A run of which less was taken is calm.
const CALM: f64 = 0.015;

/// How a run is kept from its host.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Patience {
    /// Try a run so often, until the host took less than 1.5 % of the processors; the calmest try counts
    #[arg(long, default_value_t = 3)]
    tries: u32,
    /// Keep the processors from halting, by programs that everybody goes before (`SCHED_IDLE`): where the host is slow
    /// to wake them. They make switching dearer, and the busy time of the machine means nothing beside them
    #[arg(long)]
    awake: bool,
}

/// Runs, and what the host took of those that count.
#[derive(Debug)]
pub(crate) struct Calm {
    patience: Patience,
    stolen: Vec<f64>,
    /// They end with it.
    _awake: Vec<Awake>,
}

impl Calm {
    pub(crate) fn new(patience: Patience) -> Result<Self> {
        let processors = processors(&stat()?);
        let awake = if patience.awake { processors } else { 0 };
        Ok(Self {
            patience,
            stolen: Vec::new(),
            _awake: (0..awake).map(Awake::start).collect::<Result<_>>()?,
        })
    }

    /// The calmest of so many tries, or the first that is calm.
    pub(crate) fn run<T>(&mut self, mut run: impl FnMut() -> Result<T>) -> Result<T> {
        let mut once = || {
            let before = Stolen::now()?;
            let outcome = run()?;
            Ok::<_, anyhow::Error>((Stolen::now()?.share_since(&before), outcome))
        };
        let mut best = once()?;
        for _ in 1..self.patience.tries {
            if best.0 < CALM {
                break;
            }
            let next = once()?;
            if next.0 < best.0 {
                best = next;
            }
        }
        self.stolen.push(best.0);
        Ok(best.1)
    }

    /// What was taken, for the head of a table.
    pub(crate) fn said(&self) -> String {
        let mut stolen = self.stolen.clone();
        stolen.sort_by(f64::total_cmp);
        let median = stolen.get(stolen.len() / 2).copied().unwrap_or(0.0);
        let most = stolen.last().copied().unwrap_or(0.0);
        let awake = if self.patience.awake {
            "; processors kept from halting"
        } else {
            ""
        };
        format!(
            "the host took {:.1} % of the processors in the median run, {:.1} % at most (the calmest of {} tries){awake}",
            median * 100.0,
            most * 100.0,
            self.patience.tries
        )
    }
}

/// A program that keeps a processor busy while nobody else wants it.
#[derive(Debug)]
struct Awake(Child);

impl Awake {
    fn start(processor: usize) -> Result<Self> {
        let child = Command::new("taskset")
            .args(["-c", &processor.to_string(), "chrt", "--idle", "0"])
            .args(["sh", "-c", "while :; do :; done"])
            .stdin(Stdio::null())
            .spawn();
        child.map(Self).context("failed to start taskset")
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// What the host has taken since the machine started, of all processors together.
struct Stolen {
    at: Instant,
    processors: usize,
    taken: Duration,
}

impl Stolen {
    fn now() -> Result<Self> {
        let stat = stat()?;
        Ok(Self {
            at: Instant::now(),
            processors: processors(&stat).max(1),
            taken: taken(&stat).context("/proc/stat is not as proc_stat(5) says")?,
        })
    }

    /// As a share of all the time that the processors had since then.
    fn share_since(&self, before: &Self) -> f64 {
        let all = self.at.duration_since(before.at).as_secs_f64() * self.processors as f64;
        let taken = self.taken.saturating_sub(before.taken);
        taken.as_secs_f64() / all.max(1e-9)
    }
}

fn stat() -> Result<String> {
    fs::read_to_string("/proc/stat").context("no /proc: not a Linux?")
}

fn processors(stat: &str) -> usize {
    let lines = stat.lines().skip(1);
    lines.take_while(|line| line.starts_with("cpu")).count()
}

/// The eighth number of the first line.
fn taken(stat: &str) -> Option<Duration> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: u32 = line.split_whitespace().nth(7)?.parse().ok()?;
    Some(TICK * ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_a_share_of_all_processors() {
        let stat = "cpu  1 2 3 4 5 6 7 800 0 0\ncpu0 1 1 1\ncpu1 1 1 1\nintr 1\n";
        assert_eq!((taken(stat), processors(stat)), (Some(TICK * 800), 2));
        assert_eq!(taken("intr 1"), None);
        let at = Instant::now();
        let stolen = |seconds, taken| Stolen {
            at: at + Duration::from_secs(seconds),
            processors: 2,
            taken: Duration::from_secs(taken),
        };
        let share = stolen(10, 105).share_since(&stolen(0, 100));
        assert!((share - 0.25).abs() < 1e-9);
        // Since a machine moved to another host the kernel may count less.
        assert!(stolen(10, 90).share_since(&stolen(0, 100)) < 1e-9);
    }

    #[test]
    fn a_run_is_tried_again_until_it_is_calm() {
        let patience = Patience {
            tries: 1,
            awake: false,
        };
        let mut calm = Calm::new(patience).unwrap();
        let mut runs = 0;
        let mut run = || {
            runs += 1;
            Ok(runs)
        };
        assert_eq!(calm.run(&mut run).unwrap(), 1);
        assert_eq!(calm.stolen.len(), 1);
        calm.run(|| anyhow::bail!("it failed"))
            .map(|(): ()| ())
            .unwrap_err();
        assert_eq!(calm.stolen.len(), 1);
    }
}
