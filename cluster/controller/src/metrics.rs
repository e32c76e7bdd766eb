//! What the controller tells about itself, for Prometheus.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// A value, by the name and the labels of its metric.
type Values = BTreeMap<(&'static str, String), u64>;

/// Name, kind, what it says.
const KNOWN: [(&str, &str, &str); 11] = [
    (
        "tapedeck_controller_leader",
        "gauge",
        "Whether this controller acts: 1, or waits: 0",
    ),
    (
        "tapedeck_controller_nodes",
        "gauge",
        "Nodes that have a report",
    ),
    (
        "tapedeck_controller_nodes_silent",
        "gauge",
        "Of these: nodes that have said nothing for a while",
    ),
    (
        "tapedeck_controller_not_understood",
        "gauge",
        "Objects that this controller does not understand, by resource: something newer wrote them",
    ),
    (
        "tapedeck_controller_pull_bytes_total",
        "counter",
        "Bytes of snapshots that were handed out",
    ),
    (
        "tapedeck_controller_recordings",
        "gauge",
        "Recordings, by the reason of their condition Ready",
    ),
    (
        "tapedeck_controller_snapshot_bytes_total",
        "counter",
        "Bytes of snapshots that were stored",
    ),
    (
        "tapedeck_controller_snapshot_failures_total",
        "counter",
        "Attempts to put a snapshot together, or to remove one, that did not work",
    ),
    (
        "tapedeck_controller_snapshots",
        "gauge",
        "Snapshots, by phase",
    ),
    (
        "tapedeck_controller_watch_failures_total",
        "counter",
        "Watches that broke, by resource",
    ),
    (
        "tapedeck_controller_writes_total",
        "counter",
        "Writes to the API server, by resource and result",
    ),
];

/// All values.
#[derive(Debug, Default)]
pub(crate) struct Metrics(Mutex<Values>);

impl Metrics {
    fn with(&self, act: impl FnOnce(&mut Values)) {
        // Numbers are whole whatever the panic of another thread was.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Counts; the labels are written as they appear: `kind="recording"`.
    pub(crate) fn add(&self, name: &'static str, labels: &str, count: u64) {
        self.with(|values| {
            let value = values.entry((name, labels.to_owned())).or_default();
            *value = value.saturating_add(count);
        });
    }

    /// Sets a gauge.
    pub(crate) fn set(&self, name: &'static str, value: u64) {
        self.with(|values| {
            values.insert((name, String::new()), value);
        });
    }

    /// Sets a gauge that is counted by a label: values that are not there any more are removed.
    pub(crate) fn set_by(&self, name: &'static str, label: &str, counts: &BTreeMap<String, u64>) {
        self.with(|values| {
            values.retain(|(known, _), _| *known != name);
            for (of, count) in counts {
                values.insert((name, format!("{label}=\"{of}\"")), *count);
            }
        });
    }

    /// In the text format.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        self.with(|values| {
            for (name, kind, help) in KNOWN {
                text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
                for ((_, labels), value) in values
                    .range((name, String::new())..)
                    .take_while(|((of, _), _)| *of == name)
                {
                    let line = match labels.as_str() {
                        "" => format!(
                            "{name} {value}
"
                        ),
                        labels => format!(
                            "{name}{{{labels}}} {value}
"
                        ),
                    };
                    text.push_str(&line);
                }
            }
        });
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_appear_below_their_names() {
        let metrics = Metrics::default();
        metrics.set("tapedeck_controller_leader", 1);
        metrics.add("tapedeck_controller_writes_total", "kind=\"a\"", 2);
        metrics.add("tapedeck_controller_writes_total", "kind=\"a\"", 3);
        let counts = BTreeMap::from([("Ready".to_owned(), 4)]);
        metrics.set_by("tapedeck_controller_snapshots", "phase", &counts);
        metrics.set_by(
            "tapedeck_controller_snapshots",
            "phase",
            &BTreeMap::from([("Failed".to_owned(), 1)]),
        );
        let text = metrics.text();
        assert!(text.contains("\ntapedeck_controller_leader 1\n"), "{text}");
        assert!(
            text.contains("\ntapedeck_controller_writes_total{kind=\"a\"} 5\n"),
            "{text}"
        );
        assert!(
            text.contains("\ntapedeck_controller_snapshots{phase=\"Failed\"} 1\n"),
            "{text}"
        );
        assert!(!text.contains("phase=\"Ready\""), "{text}");
    }
}
