//! Runs that the machine's host left alone.
//!
//! On a virtual machine somebody else has the processors now and then (steal, proc_stat(5)), and whoever sleeps and is
//! woken thousands of times a second loses far more by that than whoever only reckons: up to nine tenths, from one
//! second to the next. What is measured then is the host. So such a run is tried again, and what was taken is said.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use clap::Args;

use super::processors::Processors;

/// A run of which less was taken is calm.
const CALM: f64 = 0.015;

/// How a run is kept from its host.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Patience {
    /// Try a run so often, until the host took less than 1.5 % of the processors; the calmest try counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
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
        let processors = Processors::now()?.count;
        let awake = if patience.awake { processors } else { 0 };
        Ok(Self {
            patience,
            stolen: Vec::new(),
            _awake: (0..awake).map(Awake::start).collect::<Result<_>>()?,
        })
    }

    /// The calmest of so many tries, or the first that is calm.
    pub(crate) fn run<T>(&mut self, mut run: impl FnMut() -> Result<T>) -> Result<T> {
        let (stolen, outcome) = calmest(self.patience.tries, || {
            let before = Processors::now()?;
            let outcome = run()?;
            Ok((Processors::now()?.stolen_since(&before), outcome))
        })?;
        self.stolen.push(stolen);
        Ok(outcome)
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

/// Of so many tries, each with the share that was taken of it, the first that is calm, else the calmest.
fn calmest<T>(tries: u32, mut once: impl FnMut() -> Result<(f64, T)>) -> Result<(f64, T)> {
    let mut best = once()?;
    for _ in 1..tries {
        if best.0 < CALM {
            break;
        }
        let next = once()?;
        if next.0 < best.0 {
            best = next;
        }
    }
    Ok(best)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_tried_again_until_it_is_calm() {
        let check = |tries, taken: &[f64], expect: f64, runs| {
            let mut left = taken.iter();
            let mut ran = 0;
            let once = || {
                ran += 1;
                Ok((*left.next().unwrap(), ran))
            };
            let (share, _) = calmest(tries, once).unwrap();
            assert!((share - expect).abs() < 1e-9, "{share}");
            assert_eq!(ran, runs);
        };
        check(3, &[0.01], 0.01, 1);
        check(3, &[0.5, 0.2, 0.3], 0.2, 3);
        check(3, &[0.5, 0.0], 0.0, 2);
        check(1, &[0.5], 0.5, 1);
        calmest(3, || -> Result<(f64, ())> { anyhow::bail!("it failed") }).unwrap_err();
    }
}
