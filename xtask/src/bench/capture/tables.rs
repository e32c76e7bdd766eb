//! Tables for people.

use std::fmt::Write as _;
use std::time::Duration;

use super::load::What;
use super::observer::Observer;
use super::{Capture, Figures, Run};
use crate::bench::report;

/// The bounds of issue 5.
const ADDED_AT_MOST: f64 = 2.0;
const P99_AT_MOST: f64 = 1.05;
/// The bound of which tcpdump's own figure says most about the machine.
const P99: &str = "p99 / with nothing";
const IDLE_MIB_AT_MOST: f64 = 64.0;
const BUSY_MIB_AT_MOST: f64 = 128.0;

/// The tables of all loads.
pub(super) fn markdown(
    all: &[Figures],
    args: &Capture,
    load: &str,
    rest: f64,
    stolen: &str,
) -> String {
    let mut text = format!(
        "{}; runs of {} s, the median of {}, in turn; p99 of HTTP/1.1 in {} rounds; load average {load} before, \
         {rest:.2} cores busy at rest; {stolen}.\n",
        report::place(),
        args.seconds,
        args.runs,
        args.rounds,
    );
    for figures in all {
        text.push_str(&table(figures));
    }
    text.push_str(&verdicts(all));
    text
}

/// The table of one load.
pub(super) fn table(figures: &Figures) -> String {
    let mut text = format!(
        "\n### {}\n\n| | served/s | CPU µs each | added | of `tcpdump`'s | machine µs each | p99 ms | archived | \
         lost | file bytes each | MiB idle, most |\n|---|--:|--:|--:|--:|--:|--:|---|---|--:|--:|\n",
        figures.shape
    );
    for (observer, runs) in &figures.runs {
        let of = |value: &dyn Fn(&Run) -> f64| median(runs.iter().map(value));
        let p99 = p99(figures, *observer).map_or_else(|| "–".to_owned(), |ms| format!("{ms:.2}"));
        let added = added(figures, *observer);
        let (added_text, share) = match (*observer, added) {
            (Observer::Nobody, _) | (_, None) => ("–".to_owned(), "–".to_owned()),
            (_, Some(added)) => (
                format!("{added:.1}"),
                ratio(figures, *observer).map_or_else(|| "–".to_owned(), |r| format!("{r:.2}")),
            ),
        };
        let (archived, lost) = losses(runs);
        line(
            &mut text,
            format_args!(
                "| {} | {:.0} | {:.1} | {added_text} | {share} | {:.1} | {p99} | {archived} | {lost} | {:.0} | {:.0}, {:.0} |",
                observer.name(),
                of(&|run| run.outcome.served as f64 / run.outcome.seconds),
                of(&group_each),
                of(&machine_each),
                of(&|run| run.seen.file_len as f64 / run.outcome.served.max(1) as f64),
                of(&|run| run.seen.resident_at_rest_kib as f64 / 1024.0),
                of(&|run| run.seen.resident_kib as f64 / 1024.0),
            ),
        );
    }
    if let Some(spread) = spread(figures) {
        line(&mut text, format_args!("\n{spread}"));
    }
    text
}

/// Processor time of everything in the run, in microseconds for each exchange.
fn group_each(run: &Run) -> f64 {
    run.group.as_secs_f64() * 1e6 / run.outcome.served.max(1) as f64
}

fn machine_each(run: &Run) -> f64 {
    run.machine.as_secs_f64() * 1e6 / run.outcome.served.max(1) as f64
}

/// What an observer adds to the cost of an exchange, in microseconds.
fn added(figures: &Figures, observer: Observer) -> Option<f64> {
    let each = |wanted| {
        let (_, runs) = figures
            .runs
            .iter()
            .find(|(observer, _)| *observer == wanted)?;
        Some(median(runs.iter().map(group_each)))
    };
    Some(each(observer)? - each(Observer::Nobody)?)
}

/// What an observer adds, as a share of what tcpdump adds; `None` where that is lost in the noise.
fn ratio(figures: &Figures, observer: Observer) -> Option<f64> {
    let theirs = added(figures, Observer::Tcpdump)?;
    (theirs > 0.5).then_some(added(figures, observer)? / theirs)
}

/// The median of the runs' p99, in milliseconds.
fn p99(figures: &Figures, observer: Observer) -> Option<f64> {
    figures.even.p99(observer).or_else(|| {
        let all = sorted_p99(figures, observer);
        all.get(all.len() / 2).copied()
    })
}

/// As h2load has it.
fn sorted_p99(figures: &Figures, observer: Observer) -> Vec<f64> {
    let runs = figures.runs.iter().filter(|(of, _)| *of == observer);
    let all = runs.flat_map(|(_, runs)| runs);
    let mut all: Vec<_> = all.filter_map(|run| run.outcome.p99).map(millis).collect();
    all.sort_by(f64::total_cmp);
    all
}

/// The p99 of who looks on, as a multiple of that with nothing, and the most that nothing is of itself.
fn p99_ratio(figures: &Figures, observer: Observer) -> Option<(f64, f64)> {
    if let (Some(with), Some(again)) = (
        figures.even.ratio(observer),
        figures.even.ratio(Observer::Nobody),
    ) {
        return Some((with.median, again.high));
    }
    let nothing = p99(figures, Observer::Nobody)?.max(1e-6);
    let most = sorted_p99(figures, Observer::Nobody).last().copied()?;
    Some((p99(figures, observer)? / nothing, most / nothing))
}

/// How far runs with nothing are from each other.
fn spread(figures: &Figures) -> Option<String> {
    if figures.even.ratio(Observer::Nobody).is_some() {
        let mut text =
            "p99 by that with nothing in the same round, median and quartiles:".to_owned();
        for (observer, _) in &figures.runs {
            let ratio = figures.even.ratio(*observer)?;
            let name = match observer {
                Observer::Nobody => "nothing again",
                of => of.name(),
            };
            // Writing to a string does not fail.
            write!(
                text,
                " {name} {:.2} ({:.2} to {:.2}),",
                ratio.median, ratio.low, ratio.high
            )
            .unwrap_or_default();
        }
        text.pop();
        text.push('.');
        return Some(text);
    }
    let all = sorted_p99(figures, Observer::Nobody);
    let (low, high) = (all.first()?, all.last()?);
    Some(format!(
        "The runs with nothing had a p99 from {low:.2} to {high:.2} ms."
    ))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Exchanges archived of those that were served, over all runs, and what was said to be missing.
fn losses(runs: &[Run]) -> (String, String) {
    let counted: Vec<_> = runs
        .iter()
        .filter_map(|run| Some((run.seen.exchanges?, run.outcome.served)))
        .collect();
    let archived: u64 = counted.iter().map(|(archived, _)| archived).sum();
    let served: u64 = counted.iter().map(|(_, served)| served).sum();
    let archived = if counted.is_empty() {
        "–".to_owned()
    } else if archived == served {
        "all".to_owned()
    } else {
        format!("{archived} of {served}")
    };
    let mut lost: Vec<&str> = Vec::new();
    for said in runs.iter().flat_map(|run| &run.seen.lost) {
        lost.push(said);
    }
    lost.dedup();
    if lost.is_empty() {
        (archived, "nothing".to_owned())
    } else {
        (archived, lost.join("; "))
    }
}

/// Each bound, and whether it holds.
fn verdicts(all: &[Figures]) -> String {
    let mut text =
        "\n### Bounds\n\n| | | measured | `tcpdump`'s | bound | |\n|---|---|--:|--:|--:|---|\n"
            .to_owned();
    for figures in all {
        for (observer, runs) in &figures.runs {
            if matches!(observer, Observer::Nobody | Observer::Tcpdump) {
                continue;
            }
            for (what, measured, bound, verdict) in bounds(figures, *observer, runs) {
                let theirs = if what == P99 {
                    p99_ratio(figures, Observer::Tcpdump).map(|(ratio, _)| ratio)
                } else {
                    None
                };
                let theirs = theirs.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
                let verdict = match verdict {
                    Verdict::Holds => "holds",
                    Verdict::InTheSpread => "in the spread of nothing",
                    Verdict::Over => "**over**",
                };
                line(
                    &mut text,
                    format_args!(
                        "| {}, {} | {what} | {measured} | {theirs} | {bound} | {verdict} |",
                        figures.shape,
                        observer.name()
                    ),
                );
            }
        }
    }
    text
}

/// What, measured, the bound, and whether it holds.
type Bound = (&'static str, String, String, Verdict);

/// Whether a bound holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    Holds,
    /// It does not, but a run with nothing was no better: the machine's doing as well as ours.
    InTheSpread,
    Over,
}

impl From<bool> for Verdict {
    fn from(holds: bool) -> Self {
        if holds { Self::Holds } else { Self::Over }
    }
}

fn bounds(figures: &Figures, observer: Observer, runs: &[Run]) -> Vec<Bound> {
    let mut bounds = Vec::new();
    if figures.shape.rate.is_none() {
        bounds.extend(served_beside_tcpdump(figures, runs));
        return bounds;
    }
    let (archived, lost) = losses(runs);
    let is_whole = archived == "all" && lost == "nothing";
    let measured = if is_whole { "nothing".to_owned() } else { lost };
    bounds.push(("lost", measured, "nothing".to_owned(), is_whole.into()));
    if let Some(ratio) = ratio(figures, observer) {
        bounds.push((
            "CPU added / tcpdump's",
            format!("{ratio:.2}"),
            format!("{ADDED_AT_MOST:.2}"),
            (ratio <= ADDED_AT_MOST).into(),
        ));
    }
    if let Some((ratio, most)) = p99_ratio(figures, observer) {
        let verdict = if ratio > P99_AT_MOST && ratio <= most {
            Verdict::InTheSpread
        } else {
            (ratio <= P99_AT_MOST).into()
        };
        bounds.push((
            P99,
            format!("{ratio:.2}"),
            format!("{P99_AT_MOST:.2}"),
            verdict,
        ));
    }
    let most =
        |value: &dyn Fn(&Run) -> u64| runs.iter().map(value).max().unwrap_or(0) as f64 / 1024.0;
    let mut memory = |what, mib: f64, bound: f64| {
        bounds.push((
            what,
            format!("{mib:.0}"),
            format!("{bound:.0}"),
            (mib < bound).into(),
        ));
    };
    memory(
        "MiB idle",
        most(&|run| run.seen.resident_at_rest_kib),
        IDLE_MIB_AT_MOST,
    );
    if figures.shape.what == What::Json && figures.shape.rate == Some(20_000) {
        memory(
            "MiB at 20,000/s",
            most(&|run| run.seen.resident_kib),
            BUSY_MIB_AT_MOST,
        );
    }
    bounds
}

fn served_beside_tcpdump(figures: &Figures, runs: &[Run]) -> Option<Bound> {
    let served = |runs: &[Run]| {
        median(
            runs.iter()
                .map(|run| run.outcome.served as f64 / run.outcome.seconds),
        )
    };
    let (_, theirs) = figures.runs.iter().find(|(o, _)| *o == Observer::Tcpdump)?;
    let (ours, theirs) = (served(runs), served(theirs));
    Some((
        "served/s, at least tcpdump's",
        format!("{ours:.0}"),
        format!("{theirs:.0}"),
        (ours >= theirs).into(),
    ))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    writeln!(text, "{arguments}").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::super::even::Even;
    use super::super::load::{Outcome, Shape};
    use super::super::observer::Seen;
    use super::*;

    fn run(micros: u64, exchanges: Option<u64>) -> Run {
        Run {
            outcome: Outcome {
                served: 1_000,
                seconds: 1.0,
                p99: Some(Duration::from_micros(micros)),
            },
            seen: Seen {
                exchanges,
                ..Seen::default()
            },
            group: Duration::from_micros(micros * 1_000),
            machine: Duration::from_micros(micros * 1_000),
        }
    }

    #[test]
    fn bounds_compare_what_they_name() {
        let figures = Figures {
            shape: Shape {
                what: What::Json,
                rate: Some(1_000),
            },
            runs: vec![
                (Observer::Nobody, vec![run(100, None)]),
                (Observer::Tcpdump, vec![run(110, None)]),
                (Observer::Ebpf, vec![run(125, Some(1_000))]),
                (Observer::AfPacket, vec![run(104, Some(999))]),
            ],
            even: Even::default(),
        };
        assert_eq!(ratio(&figures, Observer::Ebpf), Some(2.5));
        let verdicts = |figures: &Figures, observer| -> Vec<_> {
            let (_, runs) = figures.runs.iter().find(|(of, _)| *of == observer).unwrap();
            let bounds = bounds(figures, observer, runs);
            bounds
                .iter()
                .map(|(what, _, _, verdict)| (*what, *verdict))
                .collect()
        };
        assert_eq!(
            verdicts(&figures, Observer::Ebpf),
            [
                ("lost", Verdict::Holds),
                ("CPU added / tcpdump's", Verdict::Over),
                ("p99 / with nothing", Verdict::Over),
                ("MiB idle", Verdict::Holds)
            ]
        );
        assert_eq!(
            verdicts(&figures, Observer::AfPacket)[..3],
            [
                ("lost", Verdict::Over),
                ("CPU added / tcpdump's", Verdict::Holds),
                ("p99 / with nothing", Verdict::Holds)
            ]
        );
        // One of three runs with nothing was as slow.
        let mut noisy = figures.clone();
        noisy.runs[0].1.extend([run(100, None), run(125, None)]);
        assert_eq!(
            verdicts(&noisy, Observer::Ebpf)[2],
            ("p99 / with nothing", Verdict::InTheSpread)
        );
        // Where requests came evenly as well, that counts, and each round by itself.
        let of = |round| Figures {
            even: Even::of(&[round; 4]),
            ..figures.clone()
        };
        assert_eq!(
            verdicts(&of([1.0, 1.02, 1.0, 1.04, 1.0, 1.0]), Observer::Ebpf)[2].1,
            Verdict::Holds
        );
        assert_eq!(
            verdicts(&of([1.0, 1.08, 1.0, 1.07, 1.0, 1.0]), Observer::Ebpf)[2].1,
            Verdict::InTheSpread
        );
        assert_eq!(
            verdicts(&of([1.0, 1.02, 1.0, 1.07, 1.0, 1.0]), Observer::Ebpf)[2].1,
            Verdict::Over
        );
    }
}
