//! Formatting and clippy.

use anyhow::Result;

use crate::packages;
use crate::shell::{cargo, run, say};

const FORMATTING: &[&str] = &["fmt", "--all", "--check"];

/// What most people build: without libpcap.
const CLIPPY: &[&str] = &[
    "clippy",
    "--workspace",
    "--all-targets",
    "--quiet",
    "--",
    "-D",
    "warnings",
];

/// With what only the feature brings in. Of the whole workspace again: of a single package, cargo chooses fewer
/// features for what all depend on, and everything would be built once more for that.
const CLIPPY_LIBPCAP: &[&str] = &[
    "clippy",
    "--workspace",
    "--features",
    packages::WITH_LIBPCAP,
    "--all-targets",
    "--quiet",
    "--",
    "-D",
    "warnings",
];

fn commands() -> Vec<&'static [&'static str]> {
    let mut commands = vec![FORMATTING, CLIPPY];
    if packages::has_libpcap() {
        commands.push(CLIPPY_LIBPCAP);
    }
    commands
}

pub(crate) fn run_available() -> Result<()> {
    for args in commands() {
        let component = args.first().copied().unwrap_or_default();
        if cargo(&[component, "--version"])
            .output()
            .is_ok_and(|output| output.status.success())
        {
            run(&mut cargo(args))?;
        } else {
            say(&format!("cargo {component} is not installed: skipped"));
        }
    }
    Ok(())
}

pub(crate) fn run_all() -> Result<()> {
    commands()
        .into_iter()
        .try_for_each(|args| run(&mut cargo(args)))
}
