//! How the program speaks to people.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tapedeck_model::Ledger;

/// Says what went wrong, with every cause.
pub(crate) fn error(error: &anyhow::Error) {
    say(format_args!("error: {error:#}"));
}

/// Says something that people should know but that stops nothing.
pub(crate) fn warn(text: impl Display) {
    say(format_args!("warning: {text}"));
}

/// A result on standard output.
pub(crate) fn print(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{text}")?;
    out.flush()
}

/// A line on standard error.
pub(crate) fn say(text: impl Display) {
    // When standard error is gone there is nobody left to tell.
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// A progress bar in bytes; hidden where standard error is no terminal. `total` 0: unknown.
pub(crate) fn byte_progress(total: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = if total == 0 {
        "{spinner} {bytes} {bytes_per_sec} {msg}"
    } else {
        "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}"
    };
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = if total == 0 {
        ProgressBar::new_spinner()
    } else {
        ProgressBar::new(total)
    };
    bar.with_style(style)
}

/// A progress bar that counts; hidden where standard error is no terminal.
pub(crate) fn count_progress() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {elapsed} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

/// A bar that counts, with lines below it; hidden where standard error is no terminal.
pub(crate) fn live_view() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {elapsed}\n{msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

/// A line that says how something goes; hidden where standard error is no terminal.
pub(crate) fn message_line() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new_spinner().with_style(style)
}

/// A number of bytes for people: `17 B`, `1.5 KiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    for next in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A duration for people: three digits and a unit.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let (value, unit) = match seconds {
        s if s < 1e-3 => (s * 1e6, "us"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    let digits = if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {unit}")
}

/// The counters of a ledger that are losses, with what they count.
const LOSSES: [(&str, &str); 12] = [
    (
        "packets_dropped_by_kernel",
        "packets dropped by the kernel before we saw them",
    ),
    ("packets_truncated", "packets cut by the snapshot length"),
    (
        "packets_undecodable",
        "packets whose headers could not be read",
    ),
    ("packets_fragment", "IP fragments not put together"),
    ("gap_bytes", "bytes missing in byte streams"),
    (
        "connections_refused",
        "connections not recorded: there was too much to do",
    ),
    (
        "connections_evicted",
        "connections given up because of a limit",
    ),
    (
        "bytes_skipped",
        "bytes passed over to find the next message",
    ),
    (
        "tunnels_not_read",
        "tunnels too deep within others to be looked into",
    ),
    ("body_bytes_over_limit", "body bytes over the limit"),
    ("exchanges_incomplete", "exchanges not whole"),
    (
        "exchanges_dropped",
        "exchanges dropped: they came faster than they could be written, or there was no room for them",
    ),
];

/// What was lost, one line a cause; empty when nothing was.
pub(crate) fn losses(ledger: &Ledger) -> Vec<String> {
    LOSSES
        .iter()
        .filter_map(|(name, text)| {
            let count = ledger.counters().find(|(counter, _)| counter == name)?.1;
            (count > 0).then(|| format!("{count} {text}"))
        })
        .collect()
}

/// Text from the wire, made safe for a terminal: control characters (escape sequences among them)
/// are shown, not sent.
pub(crate) fn visible(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        assert_eq!(duration(Duration::from_nanos(1500)), "1.50 us");
        assert_eq!(duration(Duration::from_millis(250)), "250 ms");
        assert_eq!(duration(Duration::from_secs(12)), "12.0 s");
    }

    /// A counter that is new has to be one or the other.
    #[test]
    fn every_counter_is_a_loss_or_it_is_not() {
        const NO_LOSSES: [&str; 38] = [
            "packets_seen",
            "packets_not_tcp",
            "packets_joined",
            "segments",
            "payload_bytes_seen",
            "payload_bytes_delivered",
            "payload_bytes_duplicate",
            "payload_bytes_dropped",
            "gaps",
            "gap_bytes_lost",
            "gap_bytes_truncated",
            "gap_bytes_partial",
            "connections",
            "connections_midstream",
            "connections_given_up",
            "connections_tls",
            "tls_no_keys",
            "tls_handshake_not_seen",
            "tls_unsupported_version",
            "tls_unsupported_suite",
            "tls_renegotiation",
            "tls_malformed",
            "tls_desynchronised",
            "tls_limit",
            "tls_handshake_failed",
            "connections_not_http",
            "connections_empty",
            "tunnels",
            "bytes_tls",
            "bytes_tls_read",
            "bytes_tls_plain",
            "bytes_http",
            "bytes_tunnel",
            "bytes_not_http",
            "exchanges",
            "exchanges_not_chosen",
            "exchanges_without_response",
            "exchanges_without_request",
        ];
        let all: Vec<_> = Ledger::default().counters().map(|(name, _)| name).collect();
        let losses = LOSSES.iter().map(|(name, _)| *name);
        let mut told: Vec<_> = losses.chain(NO_LOSSES).collect();
        for name in &all {
            assert!(told.contains(name), "{name}");
        }
        told.sort_unstable();
        told.dedup();
        assert_eq!(told.len(), all.len());
    }

    #[test]
    fn what_was_refused_and_dropped_is_told() {
        let mut ledger = Ledger::default();
        assert!(losses(&ledger).is_empty());
        ledger.connections_refused = 5;
        ledger.exchanges_dropped = 9;
        let told = losses(&ledger);
        assert!(told[0].starts_with("5 connections not recorded"));
        assert!(told[1].starts_with("9 exchanges dropped"));
    }

    #[test]
    fn nothing_from_the_wire_controls_the_terminal() {
        assert_eq!(visible("a\x1b[31mb\u{9b}"), "a\u{fffd}[31mb\u{fffd}");
    }
}
