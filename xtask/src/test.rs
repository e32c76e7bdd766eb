//! Everything that is checked, in one command.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::shell::{cargo, line, run, say};
use crate::{lint, packages};

#[derive(Debug, Parser)]
pub(crate) struct Test {
    /// Leave formatting and clippy out
    #[arg(long)]
    no_lint: bool,
}

pub(crate) fn run_tests(args: &Test) -> Result<()> {
    packages::ensure(packages::FOR_TESTS)?;
    packages::ensure_k6();
    packages::ensure_grpc();
    packages::ensure_clients();
    packages::ensure_moto();
    packages::ensure_kubernetes();
    if !args.no_lint {
        lint::run_available()?;
    }
    let sum = cargo_test()?;
    #[expect(
        clippy::print_stdout,
        reason = "the runner's summary is this chore's result"
    )]
    {
        println!(
            "{} passed, {} failed, {} skipped",
            sum.passed, sum.failed, sum.skipped
        );
    }
    ensure!(sum.failed == 0 && sum.succeeded, "tests failed");
    ensure!(sum.passed > 0, "no test ran");
    Ok(())
}

#[derive(Debug, Default)]
struct Sum {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Tests that passed because they could not run here.
    marked_skipped: u64,
    succeeded: bool,
}

/// Runs every test of the workspace, passes its output through, and adds up its results.
fn cargo_test() -> Result<Sum> {
    // One failed crate must not hide the others' results.
    // `--show-output` brings the reasons of skipped tests to light.
    let mut words = vec!["test", "--workspace", "--no-fail-fast"];
    if packages::has_libpcap() {
        words.extend(["--features", "tapedeckd/libpcap,tapedeck/libpcap"]);
    }
    words.extend(["--", "--show-output"]);
    let mut command = cargo(&words);
    say(&format!("$ {}", line(&command)));
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start cargo test")?;
    let mut sum = Sum::default();
    for text in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let text = text?;
        sum.add(&text);
        #[expect(
            clippy::print_stdout,
            reason = "the output of the tests is passed through"
        )]
        {
            println!("{text}");
        }
    }
    sum.succeeded = child.wait()?.success();
    sum.passed = sum.passed.saturating_sub(sum.marked_skipped);
    sum.skipped += sum.marked_skipped;
    Ok(sum)
}

impl Sum {
    /// Reads a line such as `test result: ok. 10 passed; 0 failed; 0 ignored; ...`. A test that
    /// cannot run here prints `skipped: REASON`, and passes.
    fn add(&mut self, text: &str) {
        if text.starts_with("skipped: ") {
            self.marked_skipped += 1;
        }
        let Some((_, counts)) = text
            .strip_prefix("test result: ")
            .and_then(|t| t.split_once(". "))
        else {
            return;
        };
        for part in counts.split("; ") {
            let Some((count, what)) = part.split_once(' ') else {
                continue;
            };
            let Ok(count) = count.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.skipped += count,
                _ => {}
            }
        }
    }
}

/// The golden cases are a test of `tapedeck`; blessing is an environment variable of it.
pub(crate) fn golden(bless: bool) -> Result<()> {
    let mut command = cargo(&[
        "test",
        "--quiet",
        "--package",
        "tapedeck",
        "--test",
        "golden",
        "--",
        "--nocapture",
    ]);
    if bless {
        command.env("TAPEDECK_BLESS", "1");
    }
    run(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_up() {
        let mut sum = Sum::default();
        sum.add("test result: ok. 10 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        sum.add("test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        sum.add("running 10 tests");
        sum.add("test a::b ... ok");
        assert_eq!((sum.passed, sum.failed, sum.skipped), (12, 3, 1));
    }
}
