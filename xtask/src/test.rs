//! Everything that is checked, in one command.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::ebpf::{self, Fresh};
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
    packages::ensure_stores();
    packages::ensure_kubernetes();
    if !args.no_lint {
        lint::run_available()?;
    }
    let programs = test_fresh_programs()?;
    let mut sum = cargo_test(&[])?;
    sum.merge(programs);
    // Far above, and among what tests print that are to fail inside, nobody finds it.
    if sum.failed > 0 {
        say(&format!(
            "what the tests that failed said:\n{}",
            sum.reasons
        ));
    }
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
    /// The tests that failed.
    names: BTreeSet<String>,
    /// What they printed.
    reasons: String,
    /// Whether that is being read.
    in_reasons: bool,
    succeeded: bool,
}

/// Builds the kernel programs from source. Where that gives the committed object, byte for byte, the tests
/// load both in one; else the tests on the real kernel are run with the new one first.
fn test_fresh_programs() -> Result<Sum> {
    let object = match ebpf::fresh() {
        Ok(Fresh::Same) => {
            say("the kernel programs were built from source: they are the committed ones");
            return Ok(Sum::nothing());
        }
        Ok(Fresh::Other(object)) => object,
        // The toolchain is not to be had everywhere, and nobody else needs it.
        Err(why) => {
            say(&format!(
                "the kernel programs were not built from source, the tests load the committed ones: {why:#}"
            ));
            return Ok(Sum::nothing());
        }
    };
    say("the kernel programs were built from source, and are not the committed ones: tested first");
    ebpf::with_object(&object, || cargo_test(&["--test", "live"]))
}

/// Runs the tests of the workspace, or only `some`, passes their output through, and adds up their results.
fn cargo_test(some: &[&str]) -> Result<Sum> {
    let features = if packages::has_libpcap() {
        &["--features", packages::WITH_LIBPCAP][..]
    } else {
        &[]
    };
    // One failed crate must not hide the others' results.
    // `--show-output` brings the reasons of skipped tests to light.
    let all = [&["test", "--workspace", "--no-fail-fast"], features, some].concat();
    let mut sum = listen(cargo(&[&all[..], &["--", "--show-output"]].concat()))?;
    sum.passed = sum.passed.saturating_sub(sum.marked_skipped);
    sum.skipped += sum.marked_skipped;
    // Each failure has a name unless a program died or did not build.
    if sum.failed > 0 && sum.failed == sum.names.len() as u64 {
        again(&all, &mut sum)?;
    }
    Ok(sum)
}

/// Runs what failed once more, one test at a time. Tests against real programs run beside others
/// on machines that do other things, too; a failure that was the machine's does not come back, and
/// one that does is a failure. What passes only now is named, so that somebody looks at it.
fn again(all: &[&str], sum: &mut Sum) -> Result<()> {
    let names: Vec<&str> = sum.names.iter().map(String::as_str).collect();
    say(&format!("failed, and run once more: {}", names.join(", ")));
    let only = ["--", "--show-output", "--test-threads=1", "--exact"];
    let second = listen(cargo(&[all, &only, &names].concat()))?;
    let skipped = second.marked_skipped;
    if second.succeeded && second.passed.saturating_sub(skipped) >= sum.failed {
        say(&format!("passed only alone: {}", names.join(", ")));
        sum.passed += sum.failed;
        sum.failed = 0;
        sum.succeeded = true;
    } else {
        sum.reasons.push_str("\nand alone:\n");
        sum.reasons.push_str(&second.reasons);
    }
    Ok(())
}

/// Runs a command of tests and passes its output through.
fn listen(mut command: Command) -> Result<Sum> {
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
    Ok(sum)
}

impl Sum {
    /// Of no run at all, which is none that failed.
    fn nothing() -> Self {
        Self {
            succeeded: true,
            ..Self::default()
        }
    }

    /// Adds the results of another run.
    fn merge(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.reasons.push_str(&other.reasons);
        self.succeeded &= other.succeeded;
    }

    /// Reads a line such as `test result: ok. 10 passed; 0 failed; 0 ignored; ...`. A test that
    /// cannot run here prints `skipped: REASON`, and passes.
    fn add(&mut self, text: &str) {
        if text.starts_with("skipped: ") {
            self.marked_skipped += 1;
        }
        let failed = text
            .strip_prefix("test ")
            .and_then(|t| t.strip_suffix(" ... FAILED"));
        self.names.extend(failed.map(str::to_owned));
        // `failures:`, for each of them `---- NAME stdout ----` and what it printed, `failures:` and their names.
        match text {
            "failures:" => self.in_reasons = !self.in_reasons,
            _ if self.in_reasons => {
                self.reasons.push_str(text);
                self.reasons.push('\n');
            }
            _ => {}
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
        sum.add("test a::c ... FAILED");
        assert_eq!((sum.passed, sum.failed, sum.skipped), (12, 3, 1));
        assert_eq!(Vec::from_iter(sum.names), ["a::c"]);
    }

    #[test]
    fn what_failed_is_kept_and_what_passed_is_not() {
        let mut sum = Sum::default();
        let said = "successes:\n\n---- a::b stdout ----\nfine\n\n\nsuccesses:\n    a::b\n\nfailures:\n\n\
                    ---- a::c stdout ----\nno such file\n\n\nfailures:\n    a::c\n\n\
                    test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
        said.lines().for_each(|line| sum.add(line));
        assert_eq!(sum.reasons.trim(), "---- a::c stdout ----\nno such file");
    }
}
