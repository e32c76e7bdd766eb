//! The figures of `bench replay`, and the bounds that hold for them.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::super::report;
use super::peers::{Memory, Outcome, Peer, Shape};

/// Everything that was measured.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) exchanges: u64,
    pub(super) floods: Vec<Flood>,
    pub(super) open: Vec<Open>,
    /// The p99 that each reports of a target that stalls, in milliseconds.
    pub(super) stalls: Vec<(Peer, f64)>,
    pub(super) memory: Option<Memory>,
    /// Of a run that goes on for long, and how many minutes that was.
    pub(super) soak: Option<(u64, Memory)>,
}

/// Runs of one program, as fast as it can.
#[derive(Debug)]
pub(super) struct Flood {
    pub(super) shape: Shape,
    pub(super) peer: Peer,
    pub(super) runs: Vec<Outcome>,
}

impl Flood {
    pub(super) const fn new(shape: Shape, peer: Peer) -> Self {
        Self {
            shape,
            peer,
            runs: Vec::new(),
        }
    }

    /// Requests a second.
    pub(super) fn rate(&self) -> f64 {
        median(self.runs.iter().map(|run| run.rate).collect())
    }

    /// Requests a second, as a multiple of another program's in the same round: what the machine does to one
    /// round, it mostly does to both.
    fn beside(&self, theirs: &Self) -> f64 {
        let rounds = self.runs.iter().zip(&theirs.runs);
        median(
            rounds
                .map(|(ours, theirs)| ours.rate / theirs.rate)
                .collect(),
        )
    }

    /// Seconds of processor time for a million requests.
    fn cpu(&self) -> f64 {
        let cpu = |run: &Outcome| run.sending() * 1e6 / run.requests;
        median(self.runs.iter().map(cpu).collect())
    }

    /// Of these, what went into looking for answers when there were none.
    fn polling(&self) -> f64 {
        let polling = |run: &Outcome| run.polling * 1e6 / run.requests;
        median(self.runs.iter().map(polling).collect())
    }

    /// Seconds of processor time before the first request.
    fn planning(&self) -> f64 {
        median(self.runs.iter().map(Outcome::planning).collect())
    }

    /// How much of its core the target took.
    fn target_busy(&self) -> f64 {
        median(self.runs.iter().map(|run| run.target_busy).collect())
    }

    fn resident(&self) -> f64 {
        let kib = self.runs.iter().map(|run| run.cost.resident_kib).max();
        kib.unwrap_or(0) as f64 / 1024.0
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Requests at a rate, as their target saw them.
#[derive(Debug)]
pub(super) struct Open {
    peer: Peer,
    rate: u64,
    planned: f64,
    arrived: f64,
    /// Of the deviation from the due times, in microseconds.
    p50: f64,
    p99: f64,
    cpu: f64,
}

impl Open {
    pub(super) fn new(
        peer: Peer,
        rate: u64,
        time: Duration,
        arrivals: &[u64],
        outcome: Outcome,
    ) -> Result<Self> {
        ensure!(!arrivals.is_empty(), "nothing arrived");
        let late = lateness(arrivals, rate);
        let at = |share: f64| {
            let index = (late.len() as f64 * share) as usize;
            late.get(index.min(late.len() - 1)).copied().unwrap_or(0) as f64 / 1e3
        };
        Ok(Self {
            peer,
            rate,
            planned: rate as f64 * time.as_secs_f64(),
            arrived: arrivals.len() as f64,
            p50: at(0.5),
            p99: at(0.99),
            cpu: outcome.sending() * 1e6 / outcome.requests,
        })
    }
}

/// How much later than due each request came, sorted. When the first was due nobody tells: no request
/// can come early, so that the one that came soonest gives the beginning.
fn lateness(arrivals: &[u64], rate: u64) -> Vec<u64> {
    let due = |n: usize| (n as u128 * 1_000_000_000 / u128::from(rate.max(1))) as i128;
    let offsets: Vec<i128> = arrivals
        .iter()
        .enumerate()
        .map(|(n, at)| i128::from(*at) - due(n))
        .collect();
    let soonest = offsets.iter().copied().min().unwrap_or(0);
    let late = offsets.iter().map(|offset| offset - soonest);
    let mut late: Vec<u64> = late.filter_map(|late| u64::try_from(late).ok()).collect();
    late.sort_unstable();
    late
}

/// A figure beside what is asked of it.
struct Bound {
    what: String,
    measured: f64,
    /// Whether it may not be less, or not more.
    at_least: bool,
    bound: f64,
}

impl Figures {
    pub(super) fn flood(&self, shape: Shape, peer: Peer) -> Option<&Flood> {
        let mut floods = self.floods.iter();
        floods.find(|flood| flood.shape == shape && flood.peer == peer)
    }

    /// The bounds of issue 6, as far as they were measured.
    fn bounds(&self) -> Vec<Bound> {
        let mut bounds = Vec::new();
        let ours = self.floods.iter().filter(|f| f.peer == Peer::Tapedeck);
        for ours in ours {
            let theirs = self.floods.iter().filter(|f| f.shape == ours.shape);
            for theirs in theirs.filter(|f| f.peer != Peer::Tapedeck) {
                let (shape, name) = (ours.shape, theirs.peer.name());
                let times = match theirs.peer {
                    Peer::K6 => 5.0,
                    Peer::Oha | Peer::Hey => 2.0,
                    _ => 1.0,
                };
                bounds.push(Bound {
                    what: format!(
                        "{shape}: requests/s / those of {name} (within a round, in the median {:.2})",
                        ours.beside(theirs)
                    ),
                    measured: ours.rate() / theirs.rate(),
                    at_least: true,
                    bound: times,
                });
            }
        }
        self.open_bounds(&mut bounds);
        for (peer, p99) in self.stalls.iter().filter(|(peer, _)| *peer != Peer::Wrk) {
            bounds.push(Bound {
                what: format!("a stall of 1 s each 10 s: p99 of {} in ms", peer.name()),
                measured: *p99,
                at_least: *peer == Peer::Tapedeck,
                bound: 500.0,
            });
        }
        if let Some(memory) = self.memory {
            memory_bounds("10,000 connections", memory, &mut bounds);
        }
        if let Some((minutes, memory)) = self.soak {
            memory_bounds(&format!("{minutes} minutes"), memory, &mut bounds);
        }
        bounds
    }

    fn open_bounds(&self, bounds: &mut Vec<Bound>) {
        for open in self.open.iter().filter(|open| open.peer == Peer::Tapedeck) {
            bounds.push(Bound {
                what: format!("{}/s: arrivals beside the plan, share missing", open.rate),
                measured: (1.0 - open.arrived / open.planned).abs(),
                at_least: false,
                bound: 0.001,
            });
            if let Some(k6) = self.open.iter().find(|open| open.peer == Peer::K6) {
                bounds.push(Bound {
                    what: format!(
                        "{}/s: p99 of the deviation / that of `k6` at {}/s",
                        open.rate, k6.rate
                    ),
                    measured: open.p99 / k6.p99,
                    at_least: false,
                    bound: 0.2,
                });
            }
        }
    }
}

fn memory_bounds(what: &str, memory: Memory, bounds: &mut Vec<Bound>) {
    bounds.push(Bound {
        what: format!("{what}: the most memory of its own in MiB"),
        measured: memory.first_half.max(memory.second_half),
        at_least: false,
        bound: 100.0,
    });
    bounds.push(Bound {
        what: format!("{what}: the most in the second half of the run / that in the first"),
        measured: memory.second_half / memory.first_half.max(0.1),
        at_least: false,
        bound: 1.05,
    });
}

/// The tables.
pub(super) fn markdown(
    figures: &Figures,
    seconds: u64,
    runs: usize,
    load: &str,
    stolen: &str,
) -> String {
    let mut text = format!(
        "{}; runs of {seconds} s, median of {runs}; an archive of {} distinct GETs; load average {load} before; {stolen}.\n",
        report::place(),
        figures.exchanges,
    );
    let mut shape = None;
    for flood in &figures.floods {
        if shape.replace(flood.shape) != Some(flood.shape) {
            line(
                &mut text,
                format_args!(
                    "\n### Flat out: {}\n\n| | requests/s | CPU s per million | of it polling | requests a CPU s, **ours** / its | CPU s before | resident MiB | target busy |\n|---|--:|--:|--:|--:|--:|--:|--:|",
                    flood.shape
                ),
            );
        }
        let ours = figures.flood(flood.shape, Peer::Tapedeck);
        line(
            &mut text,
            format_args!(
                "| {} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} % |",
                flood.peer.name(),
                flood.rate(),
                flood.cpu(),
                flood.polling(),
                ours.map_or(0.0, |ours| flood.cpu() / ours.cpu()),
                flood.planning(),
                flood.resident(),
                flood.target_busy() * 100.0,
            ),
        );
    }
    line(
        &mut text,
        format_args!(
            "\n### Open loop, as the target saw it\n\n| | rate | planned | arrived | late p50 us | late p99 us | CPU s per million |\n|---|--:|--:|--:|--:|--:|--:|"
        ),
    );
    for open in &figures.open {
        line(
            &mut text,
            format_args!(
                "| {} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} |",
                open.peer.name(),
                open.rate,
                open.planned,
                open.arrived,
                open.p50,
                open.p99,
                open.cpu
            ),
        );
    }
    if !figures.stalls.is_empty() {
        line(
            &mut text,
            format_args!("\n### A stall of 1 s each 10 s\n\n| | p99 ms |\n|---|--:|"),
        );
    }
    for (peer, p99) in &figures.stalls {
        line(&mut text, format_args!("| {} | {p99:.0} |", peer.name()));
    }
    line(
        &mut text,
        format_args!("\n### What was asked\n\n| | measured | bound | |\n|---|--:|--:|---|"),
    );
    for bound in figures.bounds() {
        let holds = match bound.at_least {
            true => bound.measured >= bound.bound,
            false => bound.measured <= bound.bound,
        };
        line(
            &mut text,
            format_args!(
                "| {} | {} | {} {} | {} |",
                bound.what,
                digits(bound.measured),
                if bound.at_least { "≥" } else { "≤" },
                bound.bound,
                if holds { "holds" } else { "**does not hold**" },
            ),
        );
    }
    text
}

fn digits(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        0.1.. => format!("{value:.2}"),
        _ => format!("{value:.5}"),
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    writeln!(text, "{arguments}").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_counts_from_the_request_that_came_soonest() {
        // Due each 100 ns; the first came 50 late, the third not at all late.
        let late = lateness(&[150, 210, 300, 420], 10_000_000);
        assert_eq!(late, [0, 10, 20, 50]);
        assert!(lateness(&[], 10).is_empty());
    }

    #[test]
    fn bounds_say_whether_they_hold() {
        let outcome = |rate: f64, cpu: u64| Outcome {
            requests: 1e6,
            rate,
            cost: super::super::super::measure::Cost {
                cpu: Duration::from_secs(cpu),
                ..Default::default()
            },
            ..Outcome::default()
        };
        let shape = Shape::Http1 { connections: 64 };
        let flood = |peer, rate, cpu| Flood {
            shape,
            peer,
            runs: vec![outcome(rate, cpu); 3],
        };
        let figures = Figures {
            floods: vec![flood(Peer::Tapedeck, 100.0, 10), flood(Peer::Wrk, 90.0, 5)],
            soak: Some((
                1,
                Memory {
                    first_half: 10.0,
                    second_half: 12.0,
                },
            )),
            ..Figures::default()
        };
        let text = markdown(&figures, 1, 3, "0", "nothing was taken");
        let of = |what: &str| text.lines().find(|line| line.contains(what)).unwrap();
        assert!(
            of("requests/s / those of `wrk` (within a round, in the median 1.11)")
                .ends_with("| 1.11 | ≥ 1 | holds |")
        );
        assert_eq!(
            of("| `wrk` |"),
            "| `wrk` | 90 | 5.00 | 0.00 | 0.50 | 0.00 | 0 | 0 % |"
        );
        assert!(of("the second half").ends_with("| 1.20 | ≤ 1.05 | **does not hold** |"));

        // The machine was slow in the second round; what is compared met the same machine.
        let runs = |rates: [f64; 3]| Flood {
            runs: rates.map(|rate| outcome(rate, 1)).to_vec(),
            ..flood(Peer::Wrk, 0.0, 1)
        };
        let ratio = runs([110.0, 55.0, 330.0]).beside(&runs([100.0, 50.0, 300.0]));
        assert!((ratio - 1.1).abs() < 1e-9);
    }
}
