//! Tables for people.

use std::time::Duration;

use super::super::report::{line, place};
use super::clients::{Outcome, Shape};
use super::servers::Kind;

/// What was measured.
#[derive(Default)]
pub(super) struct Figures {
    pub(super) ready: Vec<(Kind, Duration)>,
    pub(super) floods: Vec<(Shape, Kind, Outcome)>,
    /// Requests a second, and the 99th percentile in microseconds.
    pub(super) half: Vec<(Kind, u64, f64)>,
    pub(super) starts: Vec<Start>,
}

/// A start with an archive of some size.
pub(super) struct Start {
    pub(super) exchanges: u64,
    /// Bytes of the file.
    pub(super) file: u64,
    pub(super) ready: Duration,
    /// Anonymous memory, and what of it is answers kept ready.
    pub(super) anonymous: u64,
    pub(super) cache: u64,
}

impl Figures {
    pub(super) fn flood(&self, shape: Shape, kind: Kind) -> Option<&Outcome> {
        let found = self
            .floods
            .iter()
            .find(|(asked, who, _)| (*asked, *who) == (shape, kind));
        found.map(|(_, _, outcome)| outcome)
    }

    fn ready(&self, kind: Kind) -> Option<f64> {
        let found = self.ready.iter().find(|(who, _)| *who == kind);
        found.map(|(_, time)| time.as_secs_f64())
    }
}

/// A figure beside what is asked.
struct Bound {
    what: String,
    measured: f64,
    asked: f64,
    /// Whether more is better.
    at_least: bool,
}

pub(super) fn markdown(figures: &Figures, seconds: u64, runs: usize, load: &str) -> String {
    let mut text = format!(
        "{}; one core for the server, one for the client; 10,000 distinct recorded exchanges, chosen at \
         random; {seconds} s a run, median of {runs}; load average {load} before.\n",
        place()
    );
    for shape in Shape::ALL {
        line(&mut text, format_args!("\n### {}\n", shape.name()));
        text.push_str("| | requests/s | requests a CPU second |\n|---|--:|--:|\n");
        for (_, kind, outcome) in figures.floods.iter().filter(|(of, ..)| *of == shape) {
            line(
                &mut text,
                format_args!(
                    "| {} | {:.0} | {:.0} |",
                    kind.name(),
                    outcome.rate,
                    outcome.per_cpu()
                ),
            );
        }
    }
    text.push_str("\n### Half load, HTTP/1.1, and readiness\n\n| | requests/s | p99, µs | ready after, ms |\n|---|--:|--:|--:|\n");
    for (kind, ready) in &figures.ready {
        let half = figures.half.iter().find(|(who, ..)| who == kind);
        let none = || ("–".to_owned(), "–".to_owned());
        let (rate, p99) = half.map_or_else(none, |(_, rate, p99)| {
            (rate.to_string(), format!("{p99:.0}"))
        });
        line(
            &mut text,
            format_args!(
                "| {} | {rate} | {p99} | {:.0} |",
                kind.name(),
                ready.as_secs_f64() * 1e3
            ),
        );
    }
    text.push_str("\n### Starts by size of the archive\n\n| exchanges | file MiB | ready after, ms | anonymous MiB | of that answers kept ready | the rest, bytes an exchange |\n|--:|--:|--:|--:|--:|--:|\n");
    const MIB: f64 = (1 << 20) as f64;
    for start in &figures.starts {
        line(
            &mut text,
            format_args!(
                "| {} | {:.1} | {:.0} | {:.1} | {:.1} | {:.0} |",
                start.exchanges,
                start.file as f64 / MIB,
                start.ready.as_secs_f64() * 1e3,
                start.anonymous as f64 / MIB,
                start.cache as f64 / MIB,
                start.rest(),
            ),
        );
    }
    text.push_str("\n### Bounds\n\n| | measured | asked | |\n|---|--:|--:|---|\n");
    for bound in bounds(figures) {
        let (sign, holds) = if bound.at_least {
            ("at least", bound.measured >= bound.asked)
        } else {
            ("at most", bound.measured <= bound.asked)
        };
        line(
            &mut text,
            format_args!(
                "| {} | {:.2} | {sign} {} | {} |",
                bound.what,
                bound.measured,
                bound.asked,
                if holds { "holds" } else { "**does not hold**" }
            ),
        );
    }
    text
}

impl Start {
    /// What is neither the archive nor answers kept ready.
    fn rest(&self) -> f64 {
        self.anonymous.saturating_sub(self.cache) as f64 / self.exchanges.max(1) as f64
    }
}

fn bounds(figures: &Figures) -> Vec<Bound> {
    let mut bounds = Vec::new();
    let mut add = |what: String, measured: Option<f64>, asked: f64, at_least: bool| {
        if let Some(measured) = measured {
            bounds.push(Bound {
                what,
                measured,
                asked,
                at_least,
            });
        }
    };
    let ratio = |shape, kind, of: fn(&Outcome) -> f64| {
        let (ours, theirs) = (
            figures.flood(shape, Kind::Tapedeck)?,
            figures.flood(shape, kind)?,
        );
        Some(of(ours) / of(theirs))
    };
    for shape in Shape::ALL {
        let what = |how: &str| format!("{how} over nginx's: {}", shape.name());
        add(
            what("requests a CPU second"),
            ratio(shape, Kind::Nginx, Outcome::per_cpu),
            0.8,
            true,
        );
        add(
            what("requests/s"),
            ratio(shape, Kind::Nginx, |outcome| outcome.rate),
            0.8,
            true,
        );
    }
    for (kind, asked) in [(Kind::Wiremock, 20.0), (Kind::Mitmproxy, 50.0)] {
        let what = format!("requests a CPU second over those of {}", kind.name());
        add(
            what,
            ratio(Shape::Http1, kind, Outcome::per_cpu),
            asked,
            true,
        );
    }
    let p99 = |kind| {
        let found = figures.half.iter().find(|(who, ..)| *who == kind);
        found.map(|(_, _, p99)| *p99)
    };
    let latency = p99(Kind::Tapedeck).zip(p99(Kind::Nginx));
    let what = "p99 at half load over nginx's".to_owned();
    add(
        what,
        latency.map(|(ours, theirs)| ours / theirs),
        2.0,
        false,
    );
    let ready = figures
        .ready(Kind::Wiremock)
        .zip(figures.ready(Kind::Tapedeck));
    let what = "WireMock's time until it is ready over ours".to_owned();
    add(what, ready.map(|(theirs, ours)| theirs / ours), 50.0, true);
    if let (Some(small), Some(large)) = (figures.starts.first(), figures.starts.last()) {
        let per_byte = |start: &Start| start.ready.as_secs_f64() / start.file as f64;
        let what = "start time a byte, the largest archive over the smallest".to_owned();
        add(what, Some(per_byte(large) / per_byte(small)), 1.5, false);
        let what = format!("bytes of memory an exchange, of {}", large.exchanges);
        add(what, Some(large.rest()), 200.0, false);
    }
    bounds
}
