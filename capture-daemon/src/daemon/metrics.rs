//! What `/metrics` says: OpenMetrics text, written from one report a second.
//!
//! Every metric is in [`METRICS`], and `docs/metrics.md` is made from it. Labels have few values,
//! none of which comes from the wire.

use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::capture::Snapshot;

use super::governor::Usage;

/// What the daemon reports about itself.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it captures.
    pub backend: &'static str,
    /// Where the recording stands.
    pub snapshot: Snapshot,
    /// What it uses.
    pub usage: Usage,
    /// Whether new connections are recorded.
    pub admits: bool,
    /// Configurations read again, and those that were refused.
    pub reloads: (u64, u64),
    /// What became of segments.
    pub segments: Segments,
}

/// What became of segments.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Segments {
    /// Segments completed.
    pub sealed: u64,
    /// Segments of an interrupted run that were completed.
    pub resumed: u64,
    /// Segments deleted by retention.
    pub deleted: u64,
    /// Segments that could not be completed or deleted.
    pub failed: u64,
    /// Bytes of the segments completed.
    pub sealed_bytes: u64,
}

/// A metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name, without the suffix `_total` that its samples have where it is a counter.
    pub name: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// The label that its samples have.
    pub label: Option<&'static str>,
    /// What it counts.
    pub help: &'static str,
}

/// What kind a metric is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

macro_rules! metrics {
    ($($konst:ident = $kind:ident $name:literal $(by $label:literal)?, $help:literal;)*) => {
        $(const $konst: Metric = Metric {
            name: $name,
            kind: Kind::$kind,
            label: metrics!(@label $($label)?),
            help: $help,
        };)*

        /// Every metric, in the order of the output.
        pub const METRICS: &[Metric] = &[$($konst),*];
    };
    (@label) => { None };
    (@label $label:literal) => { Some($label) };
}

metrics! {
    BUILD = Gauge "tapedeck_build" by "version", "1; the version of the daemon.";
    BACKEND = Gauge "tapedeck_backend" by "backend", "1; how packets are captured.";
    UPTIME = Gauge "tapedeck_uptime_seconds", "Seconds since the recording began.";
    PACKETS = Counter "tapedeck_packets", "Packets that reached the daemon.";
    PAYLOAD = Counter "tapedeck_payload_bytes", "TCP payload bytes that reached the daemon.";
    CONNECTIONS = Counter "tapedeck_connections", "Connections that were seen.";
    REFUSED = Counter "tapedeck_connections_refused", "Connections that were not recorded, because the daemon was over its budget or a ring nearly full.";
    LEFT_OUT = Counter "tapedeck_packets_left_out", "Packets that the rules left out, or of refused connections, where the kernel counts them (ebpf).";
    EXCHANGES = Counter "tapedeck_exchanges", "Exchanges that were archived. One whose segment then fails or is removed before it is complete counts as not archived, too.";
    INCOMPLETE = Counter "tapedeck_exchanges_incomplete", "Exchanges found of which something is missing.";
    NOT_ARCHIVED = Counter "tapedeck_exchanges_not_archived" by "cause", "Exchanges that were found but are in no archive: no_archive (writing failed, or the open segment was removed), too_large (for any archive), own (of the control endpoint).";
    DROPS = Counter "tapedeck_packet_drops" by "cause", "Packets, or parts of long ones, that the kernel lost before the daemon saw them.";
    DROPPED_BYTES = Counter "tapedeck_dropped_payload_bytes", "Payload bytes of those, where the source knows.";
    GAP_BYTES = Counter "tapedeck_gap_bytes" by "cause", "Bytes missing in byte streams: lost (before the capture saw them), truncated (cut by the rules or the snapshot length), partial (given up because of a limit).";
    ANOMALIES = Counter "tapedeck_anomalies" by "anomaly", "Irregularities of the wire, by name (docs/anomalies.md).";
    LEDGER = Counter "tapedeck_ledger" by "counter", "Every counter of the loss ledger, by name.";
    QUEUE_USED = Gauge "tapedeck_queue_used_bytes" by "stream", "Bytes that wait in the ring between the kernel and the daemon (ebpf).";
    QUEUE_SIZE = Gauge "tapedeck_queue_size_bytes" by "stream", "Bytes that fit into it.";
    LAG = Gauge "tapedeck_lag_seconds", "Age of the packet that was read last.";
    ADMITS = Gauge "tapedeck_admits_connections", "1 while new connections are recorded, 0 while the daemon refuses them because it is over its budget; only ebpf can.";
    ARCHIVE_OK = Gauge "tapedeck_archive_writable", "1 while exchanges can be written, 0 while writing fails.";
    ARCHIVE_FAILURES = Counter "tapedeck_archive_failures", "How often writing failed.";
    SEGMENTS = Counter "tapedeck_segments" by "event", "What became of segments: sealed, resumed (completed after an interruption), deleted (by retention), failed.";
    SEGMENT_BYTES = Counter "tapedeck_segment_bytes", "Bytes of the segments that were sealed.";
    RELOADS = Counter "tapedeck_reloads" by "result", "Configurations that were read again: applied or refused.";
    CPU = Counter "tapedeck_cpu_seconds", "Processor time of the daemon.";
    MEMORY = Gauge "tapedeck_resident_bytes", "Resident memory of the daemon.";
}

/// The content type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The report as text.
#[must_use]
pub fn render(report: &Report) -> String {
    let Report {
        backend,
        snapshot,
        usage,
        admits,
        reloads,
        segments,
    } = report;
    let Snapshot {
        elapsed,
        ledger,
        drops,
        output,
        queues,
        lag,
    } = snapshot;
    let mut text = Text(String::new());
    text.labelled(&BUILD, [(env!("CARGO_PKG_VERSION"), 1)]);
    text.labelled(&BACKEND, [(*backend, 1)]);
    text.value(&UPTIME, Seconds(*elapsed));
    text.value(&PACKETS, ledger.packets_seen);
    text.value(&PAYLOAD, ledger.payload_bytes_seen);
    text.value(&CONNECTIONS, ledger.connections);
    text.value(&REFUSED, ledger.connections_refused);
    text.value(&LEFT_OUT, drops.left_out);
    // A counter never goes down.
    text.value(&EXCHANGES, output.exchanges + output.taken_back);
    text.value(&INCOMPLETE, ledger.exchanges_incomplete);
    text.labelled(
        &NOT_ARCHIVED,
        [
            ("no_archive", output.lost),
            ("own", output.own),
            ("too_large", output.too_large),
        ],
    );
    text.labelled(&DROPS, drops.packets.iter().map(|(cause, n)| (*cause, *n)));
    text.value(&DROPPED_BYTES, drops.payload_bytes);
    text.labelled(
        &GAP_BYTES,
        [
            ("lost", ledger.gap_bytes_lost),
            ("partial", ledger.gap_bytes_partial),
            ("truncated", ledger.gap_bytes_truncated),
        ],
    );
    let anomalies = ledger.anomalies.iter();
    text.labelled(
        &ANOMALIES,
        anomalies.map(|(anomaly, n)| (anomaly.name(), *n)),
    );
    text.labelled(&LEDGER, ledger.counters());
    let streams = || queues.iter().enumerate();
    text.labelled(
        &QUEUE_USED,
        streams().map(|(index, queue)| (index, queue.used)),
    );
    text.labelled(
        &QUEUE_SIZE,
        streams().map(|(index, queue)| (index, queue.size)),
    );
    text.value(&LAG, Seconds(*lag));
    text.value(&ADMITS, u8::from(*admits));
    text.value(&ARCHIVE_OK, u8::from(output.failing.is_none()));
    text.value(&ARCHIVE_FAILURES, output.failures);
    text.labelled(
        &SEGMENTS,
        [
            ("deleted", segments.deleted),
            ("failed", segments.failed),
            ("resumed", segments.resumed),
            ("sealed", segments.sealed),
        ],
    );
    text.value(&SEGMENT_BYTES, segments.sealed_bytes);
    text.labelled(&RELOADS, [("applied", reloads.0), ("refused", reloads.1)]);
    text.value(&CPU, Seconds(usage.cpu));
    text.value(&MEMORY, usage.memory);
    text.0.push_str("# EOF\n");
    text.0
}

struct Text(String);

impl Text {
    fn value(&mut self, metric: &Metric, value: impl fmt::Display) {
        debug_assert!(metric.label.is_none(), "{}", metric.name);
        self.head(metric);
        self.line(format_args!("{}{} {value}", metric.name, suffix(metric)));
    }

    fn labelled<L: fmt::Display>(
        &mut self,
        metric: &Metric,
        values: impl IntoIterator<Item = (L, u64)>,
    ) {
        self.head(metric);
        let label = metric.label.unwrap_or("label");
        for (of, value) in values {
            self.line(format_args!(
                "{}{}{{{label}=\"{of}\"}} {value}",
                metric.name,
                suffix(metric)
            ));
        }
    }

    fn head(&mut self, metric: &Metric) {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.line(format_args!("# TYPE {} {kind}", metric.name));
        self.line(format_args!("# HELP {} {}", metric.name, metric.help));
    }

    fn line(&mut self, arguments: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        writeln!(self.0, "{arguments}").unwrap_or_default();
    }
}

const fn suffix(metric: &Metric) -> &'static str {
    match metric.kind {
        Kind::Counter => "_total",
        Kind::Gauge => "",
    }
}

struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_secs_f64().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use tapedeck_model::{Anomaly, Ledger};

    use super::*;
    use crate::capture::Stats;
    use crate::sources::{Drops, Queue};

    fn report() -> Report {
        let mut ledger = Ledger {
            packets_seen: 7,
            ..Ledger::default()
        };
        ledger.count(Anomaly::BareLf);
        let mut drops = Drops::default();
        drops.add("ring-full", 3);
        Report {
            backend: "ebpf",
            snapshot: Snapshot {
                elapsed: Duration::from_millis(1500),
                ledger,
                drops,
                output: Stats::default(),
                queues: vec![Queue { used: 1, size: 2 }],
                lag: Duration::ZERO,
            },
            usage: Usage::default(),
            admits: true,
            reloads: (2, 1),
            segments: Segments::default(),
        }
    }

    #[test]
    fn the_text_is_openmetrics() {
        let text = render(&report());
        assert!(text.ends_with("\n# EOF\n"));
        for line in [
            "# TYPE tapedeck_packets counter",
            "tapedeck_packets_total 7",
            "tapedeck_uptime_seconds 1.5",
            "tapedeck_packet_drops_total{cause=\"ring-full\"} 3",
            "tapedeck_anomalies_total{anomaly=\"http1-bare-lf\"} 1",
            "tapedeck_queue_used_bytes{stream=\"0\"} 1",
            "tapedeck_archive_writable 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        // Each family once, its samples right behind it.
        let families: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        let distinct: BTreeSet<_> = families.iter().collect();
        assert_eq!(distinct.len(), families.len());
        let names: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(families, names);
    }

    #[test]
    fn the_page_lists_every_metric() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        let page = std::fs::read_to_string(&path).unwrap();
        let (begin, end) = ("<!-- metrics: begin -->\n", "<!-- metrics: end -->");
        let (before, rest) = page.split_once(begin).unwrap();
        let (_, after) = rest.split_once(end).unwrap();
        let mut table = "\n| metric | label | what it counts |\n|---|---|---|\n".to_owned();
        for metric in METRICS {
            let label = metric
                .label
                .map_or(String::new(), |label| format!("`{label}`"));
            let name = format!("`{}{}`", metric.name, suffix(metric));
            writeln!(table, "| {name} | {label} | {} |", metric.help).unwrap();
        }
        table.push('\n');
        let made = format!("{before}{begin}{table}{end}{after}");
        if std::env::var_os("TAPEDECK_BLESS").is_some() {
            std::fs::write(&path, &made).unwrap();
            return;
        }
        assert!(page == made, "stale: run this test with TAPEDECK_BLESS=1");
    }
}
