//! Fuzzing with libFuzzer, by the stable compiler.
//!
//! `cargo fuzz` wants a nightly compiler for its sanitizers. The core has no `unsafe` that they could
//! watch; what libFuzzer needs is the coverage counters, which are an LLVM pass that every compiler
//! has.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::shell::{cargo, command, run, say};

#[derive(Debug, Parser)]
pub(crate) struct Fuzz {
    /// The target, or all of them one after the other; `--list` names them
    target: Option<String>,
    /// Name the targets
    #[arg(long)]
    list: bool,
    /// How long, for each target
    #[arg(long, default_value_t = 60, value_name = "N")]
    seconds: u32,
    /// How many processes at once
    #[arg(long, default_value_t = 1, value_name = "N")]
    jobs: u32,
    /// Reduce the committed corpus, and what was found since, to inputs that each reach something
    /// that the others do not
    #[arg(long)]
    minimize: bool,
}

/// The counters that libFuzzer reads: as `cargo fuzz` asks for them.
const COVERAGE: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1 --cfg fuzzing";

/// Where the seeds are written.
const SEEDS: &str = "fuzz/target/seeds";
/// Longer inputs are slower, and show no more.
const MAX_LEN: u32 = 20 << 10;
/// A target that takes longer for one input hangs, as far as its user is concerned.
const SECONDS_FOR_ONE: u32 = 10;
/// A process that needs more has lost its limits; those of each target are tighter, and count what
/// Rust allocates.
const MEMORY_MIB: u32 = 1024;

pub(crate) fn run_fuzzer(args: &Fuzz) -> Result<()> {
    let all = targets()?;
    if args.list {
        all.iter().for_each(|name| say(name));
        return Ok(());
    }
    let chosen = match &args.target {
        None => all,
        Some(target) => {
            ensure!(
                all.contains(target),
                "no target {target:?}; there are {}",
                all.join(", ")
            );
            vec![target.clone()]
        }
    };
    build(&chosen)?;
    write_seeds(&chosen)?;
    let programs = programs()?;
    let mut broken = Vec::new();
    for target in &chosen {
        let program = programs.join(target);
        if args.minimize {
            minimize(target, &program)?;
        } else if let Err(error) = fuzz(target, &program, args) {
            say(&format!("{target}: {error:#}"));
            broken.push(target.as_str());
        }
    }
    ensure!(
        broken.is_empty(),
        "broken: {}; the inputs are in fuzz/artifacts: move each to fuzz/regressions/TARGET, so that \
         `cargo xtask test` runs it, and mend what it breaks",
        broken.join(", ")
    );
    Ok(())
}

/// The files of `fuzz/fuzz_targets`.
fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir("fuzz/fuzz_targets").context("failed to read fuzz/fuzz_targets")? {
        let path = entry?.path();
        names.extend(
            path.file_stem()
                .map(|stem| stem.to_string_lossy().into_owned()),
        );
    }
    names.sort();
    Ok(names)
}

/// Builds targets with coverage counters.
fn build(targets: &[String]) -> Result<()> {
    let host = host()?;
    // The triple keeps the flags from build scripts and macros.
    let mut build = cargo(&[
        "build",
        "--release",
        "--quiet",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--target-dir",
        "fuzz/target",
        "--target",
        &host,
    ]);
    let manifest =
        fs::read_to_string("fuzz/Cargo.toml").context("failed to read fuzz/Cargo.toml")?;
    if targets.iter().all(|target| is_of_core(&manifest, target)) {
        build.arg("--no-default-features");
    }
    for target in targets {
        build.args(["--bin", target]);
    }
    run(build.env("RUSTFLAGS", COVERAGE))
}

/// Whether a target feeds a reader of the core. Those of the player and the daemon require a feature, without which a
/// build is minutes shorter.
fn is_of_core(manifest: &str, target: &str) -> bool {
    let name = format!("name = \"{target}\"");
    let mut targets = manifest.split("[[bin]]").skip(1);
    targets.any(|bin| bin.lines().any(|line| line == name) && !bin.contains("required-features"))
}

/// Where the targets are built.
fn programs() -> Result<PathBuf> {
    Ok(Path::new("fuzz/target").join(host()?).join("release"))
}

/// Writes what the fuzzers begin with beside what is committed: pieces of the golden captures.
fn write_seeds(targets: &[String]) -> Result<()> {
    let mut seeds = cargo(&["run", "--quiet", "--package", "tapedeck-fuzzing"]);
    seeds
        .args(["--example", "seeds", "--", SEEDS])
        .args(targets);
    run(&mut seeds)
}

fn host() -> Result<String> {
    let output = command("rustc", &["-vV"])
        .output()
        .context("failed to start rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not name its host")?.to_owned())
}

/// Looks for inputs that break a target. What is found on the way stays in `fuzz/target/found`.
fn fuzz(target: &str, program: &Path, args: &Fuzz) -> Result<()> {
    let artifacts = format!("fuzz/artifacts/{target}/");
    fs::create_dir_all(&artifacts)?;
    let mut fuzzer = command(&program.to_string_lossy(), &[]);
    fuzzer.args(inputs(target)?).args(options(target));
    fuzzer.args([
        format!("-artifact_prefix={artifacts}"),
        format!("-max_total_time={}", args.seconds),
        "-print_final_stats=1".to_owned(),
    ]);
    if args.jobs > 1 {
        fuzzer.arg(format!("-fork={}", args.jobs));
    }
    run(&mut fuzzer)
}

/// Replaces the committed corpus by few inputs that reach as much.
fn minimize(target: &str, program: &Path) -> Result<()> {
    let committed = committed(target);
    let fewest = format!("fuzz/target/fewest/{target}");
    fs::create_dir_all(&fewest)?;
    for entry in fs::read_dir(&fewest)? {
        fs::remove_file(entry?.path())?;
    }
    let mut merge = command(&program.to_string_lossy(), &["-set_cover_merge=1", &fewest]);
    run(merge.args(inputs(target)?).args(options(target)))?;
    fs::remove_dir_all(&committed)?;
    fs::create_dir_all(&committed)?;
    for entry in fs::read_dir(&fewest)? {
        let path = entry?.path();
        let name = path.file_name().context("a file without a name")?;
        fs::copy(&path, Path::new(&committed).join(name))?;
    }
    Ok(())
}

/// The folders of a target's inputs. What a fuzzer finds goes into the first.
fn inputs(target: &str) -> Result<Vec<String>> {
    let folders = vec![
        format!("fuzz/target/found/{target}"),
        committed(target),
        format!("{SEEDS}/{target}"),
    ];
    for folder in &folders {
        fs::create_dir_all(folder).with_context(|| format!("failed to create {folder}"))?;
    }
    Ok(folders)
}

fn options(target: &str) -> Vec<String> {
    let mut options = vec![
        format!("-max_len={MAX_LEN}"),
        format!("-timeout={SECONDS_FOR_ONE}"),
        format!("-rss_limit_mb={MEMORY_MIB}"),
        "-verbosity=0".to_owned(),
    ];
    let dictionary = format!("fuzz/dictionaries/{target}.txt");
    if Path::new(&dictionary).exists() {
        options.push(format!("-dict={dictionary}"));
    }
    options
}

fn committed(target: &str) -> String {
    format!("fuzz/corpus/{target}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_the_core_need_no_programs() {
        let manifest = include_str!("../../fuzz/Cargo.toml");
        for target in ["archive", "filter", "http1", "key_log"] {
            assert!(is_of_core(manifest, target), "{target}");
        }
        for target in ["chaos", "configuration", "scenario", "unknown"] {
            assert!(!is_of_core(manifest, target), "{target}");
        }
    }
}
