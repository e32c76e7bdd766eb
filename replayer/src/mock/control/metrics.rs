//! `/metrics`: what a mock has done, as OpenMetrics text.

use std::fmt::Write as _;

use crate::mock::stats::Stats;

/// The content type of the text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A metric of a mock.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name, without the suffix `_total` that the samples of a counter have.
    pub name: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// What it counts.
    pub help: &'static str,
    value: fn(&Stats) -> u64,
}

/// Every metric, in the order of the output. Faults by rule follow them.
pub const METRICS: &[Metric] = &[
    counter(
        "tapedeck_mock_hits",
        "Requests answered from the archive.",
        |s| s.hits,
    ),
    counter(
        "tapedeck_mock_misses",
        "Requests that nothing recorded answers.",
        |s| s.misses,
    ),
    counter(
        "tapedeck_mock_passed",
        "Of the misses: requests passed on to an upstream.",
        |s| s.passed,
    ),
    counter(
        "tapedeck_mock_upstream_failures",
        "Of those: not answered by the upstream, or not to the end.",
        |s| s.upstream_failures,
    ),
    counter(
        "tapedeck_mock_dropped",
        "Exchanges that did not get into an archive, because they came faster than they could be written.",
        |s| {
            let archives = [&s.received, &s.recorded].into_iter().flatten();
            archives.map(|written| written.dropped).sum()
        },
    ),
    counter("tapedeck_mock_connections", "Connections accepted.", |s| {
        s.connections
    }),
    counter(
        "tapedeck_mock_connections_refused",
        "Connections refused because too many were open.",
        |s| s.connections_refused,
    ),
    counter(
        "tapedeck_mock_requests_refused",
        "Requests refused because they were malformed or too large.",
        |s| s.refused,
    ),
    counter(
        "tapedeck_mock_timeouts",
        "Connections closed because a limit of time was reached.",
        |s| s.timeouts,
    ),
    counter(
        "tapedeck_mock_overloads",
        "Requests refused because a limit of memory was reached.",
        |s| s.overloads,
    ),
    counter(
        "tapedeck_mock_unreadable",
        "Requests whose recorded answer could not be read from the archive.",
        |s| s.unreadable,
    ),
    counter(
        "tapedeck_mock_tls_failures",
        "TLS handshakes that failed.",
        |s| s.tls_failures.values().sum(),
    ),
    Metric {
        kind: "gauge",
        ..counter(
            "tapedeck_mock_cache_bytes",
            "Bytes of answers that are kept ready.",
            |s| s.cache_bytes as u64,
        )
    },
];

const fn counter(name: &'static str, help: &'static str, value: fn(&Stats) -> u64) -> Metric {
    Metric {
        name,
        kind: "counter",
        help,
        value,
    }
}

const FAULTS: &str = "tapedeck_mock_faults";

pub(super) fn render(stats: &Stats) -> String {
    let mut text = String::new();
    for metric in METRICS {
        let Metric {
            name,
            kind,
            help,
            value,
        } = metric;
        let suffix = if *kind == "counter" { "_total" } else { "" };
        // Writing to a string never fails.
        let _written = write!(
            text,
            "# TYPE {name} {kind}\n# HELP {name} {help}\n{name}{suffix} {}\n",
            value(stats)
        );
    }
    let _written = write!(
        text,
        "# TYPE {FAULTS} counter\n# HELP {FAULTS} Faults injected, by the name of their rule.\n"
    );
    for (rule, count) in &stats.faults {
        let _written = writeln!(text, "{FAULTS}_total{{rule=\"{}\"}} {count}", escaped(rule));
    }
    text.push_str("# EOF\n");
    text
}

/// A label value as OpenMetrics writes it.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
