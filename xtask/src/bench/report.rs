//! Tables for people.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use super::figures::{Bound, Figures};

const PAGE: &str = "docs/benchmarks.md";

/// How busy the machine is with other things.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}

/// The tables of all captures.
pub(crate) fn markdown(all: &[Figures], mib: u64, runs: usize, load: &str) -> String {
    let mut text = format!(
        "{}, one core; captures of {mib} MiB; median of {runs} runs; load average {load} before.\n",
        place(),
    );
    for figures in all {
        text.push_str(&table(figures));
    }
    text
}

fn table(figures: &Figures) -> String {
    const MIB: f64 = (1 << 20) as f64;
    let mut text = format!(
        "\n### {}\n\n| | CPU s | clock s | MiB/s | resident MiB |\n|---|--:|--:|--:|--:|\n",
        figures.kind.title
    );
    let mib = figures.capture_len as f64 / MIB;
    let rows = [("", 1.0, &figures.costs), (", 10 ×", 10.0, &figures.long)];
    for (suffix, times, costs) in rows {
        for (peer, cost) in costs {
            let cpu = cost.cpu.as_secs_f64();
            line(
                &mut text,
                format_args!(
                    "| {}{suffix} | {cpu:.2} | {:.2} | {:.0} | {:.0} |",
                    peer.name(),
                    cost.wall.as_secs_f64(),
                    mib * times / cpu.max(0.001),
                    cost.resident_kib as f64 / 1024.0,
                ),
            );
        }
    }
    line(
        &mut text,
        format_args!(
            "\nArchive {:.1} MiB, `zstd` {:.1} MiB, capture {mib:.1} MiB.\n",
            figures.archive_len as f64 / MIB,
            figures.zstd_len as f64 / MIB,
        ),
    );
    ratios(&mut text, &figures.bounds());
    text
}

/// A section of bounds.
pub(crate) fn bounds(text: &mut String, title: &str, bounds: &[Bound]) {
    line(text, format_args!("\n### {title}\n"));
    ratios(text, bounds);
}

fn ratios(text: &mut String, bounds: &[Bound]) {
    text.push_str("| ratio | measured | at most | aim | |\n|---|--:|--:|--:|---|\n");
    for bound in bounds {
        let verdict = if bound.measured > bound.at_most {
            "**over**"
        } else if bound.aim.is_some_and(|aim| bound.measured > aim) {
            "within"
        } else {
            "as aimed"
        };
        let aim = bound.aim.map_or_else(|| "–".to_owned(), ratio);
        line(
            text,
            format_args!(
                "| {} | {} | {} | {aim} | {verdict} |",
                bound.what,
                ratio(bound.measured),
                ratio(bound.at_most),
            ),
        );
    }
}

/// A ratio; those that are small are easier to read upside down.
fn ratio(value: f64) -> String {
    if value > 0.0 && value < 0.1 {
        format!("1/{:.0}", 1.0 / value)
    } else {
        format!("{value:.2}")
    }
}

/// Adds a line.
pub(crate) fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    writeln!(text, "{arguments}").unwrap_or_default();
}

/// Puts the tables of a benchmark between its markers on the page.
pub(crate) fn write(bench: &str, tables: &str) -> Result<()> {
    let page = fs::read_to_string(PAGE).with_context(|| format!("failed to read {PAGE}"))?;
    let page =
        replaced(&page, bench, tables).with_context(|| format!("{PAGE} has lost its markers"))?;
    fs::write(PAGE, page).with_context(|| format!("failed to write {PAGE}"))
}

fn replaced(page: &str, bench: &str, tables: &str) -> Option<String> {
    let begin = format!("<!-- cargo xtask bench {bench}: begin -->\n");
    let end = format!("<!-- cargo xtask bench {bench}: end -->");
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n{tables}\n{end}{after}"))
}

/// What was measured, and on what.
pub(crate) fn place() -> String {
    let commit = output("git", &["log", "-1", "--format=%h of %cs"]);
    format!("{commit} on {}", machine())
}

/// The processor and the kernel.
fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("an unknown processor", |(_, model)| model);
    format!(
        "{model} ({} cores), Linux {}",
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        output("uname", &["-r"])
    )
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_between_the_markers_is_replaced() {
        let marked = |name: &str, inner: &str| {
            format!(
                "<!-- cargo xtask bench {name}: begin -->\n{inner}\n<!-- cargo xtask bench {name}: end -->\n"
            )
        };
        let page = format!("# A\n{}{}B\n", marked("a", "old"), marked("b", "old"));
        let new = replaced(&page, "b", "new").unwrap();
        let expect = format!("# A\n{}{}B\n", marked("a", "old"), marked("b", "\nnew"));
        assert_eq!(new, expect);
        assert_eq!(replaced(&new, "b", "new"), Some(new.clone()));
        assert_eq!(replaced(&new, "c", "new"), None);
    }

    #[test]
    fn ratios_are_readable() {
        assert_eq!(ratio(0.01), "1/100");
        assert_eq!(ratio(1.0 / 40.0), "1/40");
        assert_eq!(ratio(2.345), "2.35");
        assert_eq!(ratio(0.0), "0.00");
    }
}
