//! The rules that ARCHITECTURE.md states, checked.
//!
//! Each rule is a function from the workspace to a list of complaints. `cargo xtask tidy` prints
//! them; the test below fails on any.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::shell::{cargo, root, say};

/// Which crates of the workspace each crate may use: the arrows of ARCHITECTURE.md.
const MAY_USE: &[(&str, &[&str])] = &[
    ("tapedeck-model", &[]),
    ("tapedeck-testkit", &["tapedeck-model"]),
    ("tapedeck-packet", &["tapedeck-model"]),
    ("tapedeck-reassembly", &["tapedeck-model"]),
    ("tapedeck-http1", &["tapedeck-model"]),
    ("tapedeck-http2", &["tapedeck-model"]),
    ("tapedeck-tls", &["tapedeck-model"]),
    (
        "tapedeck-exchange",
        &[
            "tapedeck-http1",
            "tapedeck-http2",
            "tapedeck-model",
            "tapedeck-packet",
            "tapedeck-reassembly",
            "tapedeck-tls",
        ],
    ),
    ("tapedeck-archive", &["tapedeck-model"]),
    ("tapedeck-filter", &["tapedeck-archive", "tapedeck-model"]),
    (
        "tapedeck-interchange",
        &["tapedeck-archive", "tapedeck-model"],
    ),
    (
        "tapedeck-fuzzing",
        &[
            "tapedeck-archive",
            "tapedeck-ebpf-abi",
            "tapedeck-exchange",
            "tapedeck-filter",
            "tapedeck-http1",
            "tapedeck-http2",
            "tapedeck-interchange",
            "tapedeck-model",
            "tapedeck-packet",
            "tapedeck-reassembly",
            "tapedeck-replayer",
            "tapedeck-testkit",
            "tapedeck-tls",
            "tapedeckd",
        ],
    ),
    ("tapedeck-ebpf-abi", &[]),
    (
        "tapedeckd",
        &[
            "tapedeck-archive",
            "tapedeck-cluster",
            "tapedeck-cluster-store",
            "tapedeck-ebpf-abi",
            "tapedeck-exchange",
            "tapedeck-model",
            "tapedeck-packet",
        ],
    ),
    (
        "tapedeck-replayer",
        &[
            "tapedeck-archive",
            "tapedeck-filter",
            "tapedeck-http2",
            "tapedeck-model",
        ],
    ),
    (
        "tapedeck",
        &[
            "tapedeck-archive",
            "tapedeck-cluster",
            "tapedeck-exchange",
            "tapedeck-filter",
            "tapedeck-interchange",
            "tapedeck-model",
            "tapedeck-packet",
            "tapedeck-replayer",
            "tapedeckd",
        ],
    ),
    ("tapedeck-cluster", &[]),
    (
        "tapedeck-controller",
        &[
            "tapedeck-archive",
            "tapedeck-cluster",
            "tapedeck-cluster-standin",
            "tapedeck-cluster-store",
            "tapedeck-filter",
            "tapedeck-model",
        ],
    ),
    ("tapedeck-cluster-standin", &["tapedeck-cluster"]),
    ("tapedeck-cluster-store", &[]),
    ("concert", &[]),
    ("xtask", &[]),
];

/// What the core must not know: crates that do I/O, run tasks, or talk to people.
const NOT_IN_CORE: [&str; 12] = [
    "anyhow", "aya", "clap", "h2", "hyper", "kube", "libc", "mio", "nix", "rustix", "socket2",
    "tokio",
];

/// Calls that bring the outside into the core.
const NOT_CALLED_IN_CORE: [&str; 5] = [
    "Instant::now",
    "SystemTime::now",
    "std::env::",
    "std::fs::",
    "std::process::",
];

/// What the core's tests use, and no program.
const FOR_TESTS: [&str; 2] = ["crates/fuzzing", "crates/testkit"];

/// `archive` writes and maps files: that is its edge.
const CORE_WITH_FILES: &str = "archive";

/// A file that a person can hold in the head. Tests at the end of a file do not count.
const MAX_LINES: usize = 1000;

pub(crate) fn run() -> Result<()> {
    let complaints = complaints()?;
    for complaint in &complaints {
        say(complaint);
    }
    ensure!(complaints.is_empty(), "{} complaints", complaints.len());
    say("tidy");
    Ok(())
}

fn complaints() -> Result<Vec<String>> {
    let packages = packages()?;
    let sources = sources()?;
    let mut complaints = dependencies(&packages);
    complaints.extend(manifests(&packages)?);
    complaints.extend(architecture(&packages)?);
    for (path, text) in &sources {
        complaints.extend(source(path, text));
    }
    Ok(complaints)
}

struct Package {
    name: String,
    manifest: PathBuf,
    /// Name and whether it is needed outside of tests.
    dependencies: Vec<(String, bool)>,
}

impl Package {
    fn is_core(&self) -> bool {
        self.manifest
            .components()
            .any(|part| part.as_os_str() == "crates")
    }
}

fn packages() -> Result<Vec<Package>> {
    let output = cargo(&[
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
        "--offline",
    ])
    .current_dir(root())
    .output()
    .context("failed to start cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata failed");
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"].as_array().context("no packages")?;
    Ok(packages
        .iter()
        .map(|package| Package {
            name: text(&package["name"]),
            manifest: PathBuf::from(text(&package["manifest_path"])),
            dependencies: package["dependencies"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|dependency| (text(&dependency["name"]), dependency["kind"] != "dev"))
                .collect(),
        })
        .collect())
}

fn dependencies(packages: &[Package]) -> Vec<String> {
    let may_use: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    let ours: BTreeSet<_> = packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    let mut complaints = Vec::new();
    for package in packages {
        let Some(allowed) = may_use.get(package.name.as_str()) else {
            complaints.push(format!(
                "{}: a crate that xtask's tidy does not know: give it its place in MAY_USE and in \
                 ARCHITECTURE.md",
                package.name
            ));
            continue;
        };
        for (dependency, _) in package.dependencies.iter().filter(|(_, needed)| *needed) {
            if ours.contains(dependency.as_str()) && !allowed.contains(&dependency.as_str()) {
                complaints.push(format!("{} must not depend on {dependency}", package.name));
            }
            if package.is_core() && NOT_IN_CORE.contains(&dependency.as_str()) {
                complaints.push(format!(
                    "{} is core and must not know {dependency}",
                    package.name
                ));
            }
        }
    }
    complaints
}

fn manifests(packages: &[Package]) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for package in packages {
        let text = fs::read_to_string(&package.manifest)?;
        for needed in [
            "[lints]\nworkspace = true",
            "license.workspace = true",
            "description = \"",
        ] {
            if !text.contains(needed) {
                complaints.push(format!("{}: its Cargo.toml lacks `{needed}`", package.name));
            }
        }
    }
    Ok(complaints)
}

fn architecture(packages: &[Package]) -> Result<Vec<String>> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md"))?;
    let root = root().canonicalize()?;
    Ok(packages
        .iter()
        .filter_map(|package| {
            let folder = package
                .manifest
                .parent()?
                .strip_prefix(&root)
                .ok()?
                .to_str()?;
            (!text.contains(&format!("`{folder}`")))
                .then(|| format!("ARCHITECTURE.md has no line for `{folder}`"))
        })
        .collect())
}

/// The Rust sources that git knows, or will once they are added.
fn sources() -> Result<Vec<(PathBuf, String)>> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "*.rs",
        ])
        .current_dir(root())
        .output()
        .context("failed to start git")?;
    ensure!(output.status.success(), "git ls-files failed");
    let mut sources = Vec::new();
    for path in String::from_utf8(output.stdout)?.lines() {
        // A file that was removed but not yet committed is listed, too.
        if let Ok(text) = fs::read_to_string(root().join(path)) {
            sources.push((PathBuf::from(path), text));
        }
    }
    Ok(sources)
}

fn source(path: &Path, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let shown = path.display();
    let is_test = path.components().any(|part| {
        let part = part.as_os_str();
        part == "tests" || part == "tests.rs" || part == "examples" || part == "benches"
    });
    let code = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or(text);

    let is_root = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
    if is_root && !text.starts_with("//!") {
        complaints.push(format!(
            "{shown}: does not begin by saying what the crate does"
        ));
    }
    if !is_test && code.lines().count() > MAX_LINES {
        complaints.push(format!("{shown}: more than {MAX_LINES} lines of code"));
    }
    if text.lines().any(|line| line.ends_with([' ', '\t'])) {
        complaints.push(format!("{shown}: white space at the end of a line"));
    }
    let is_core = path.starts_with("crates") && !FOR_TESTS.iter().any(|kit| path.starts_with(kit));
    if is_core && !is_test {
        let has_files = path.starts_with(Path::new("crates").join(CORE_WITH_FILES));
        let comment = |line: &str| line.trim_start().starts_with("//");
        for call in NOT_CALLED_IN_CORE {
            let allowed = has_files && call == "std::fs::";
            if !allowed
                && code
                    .lines()
                    .any(|line| !comment(line) && line.contains(call))
            {
                complaints.push(format!("{shown}: the core must not use {call}"));
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        let complaints = complaints().unwrap();
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    }

    #[test]
    fn each_rule_can_fail() {
        let complain = |path: &str, text: &str| source(Path::new(path), text).join("\n");
        assert!(complain("crates/x/src/a.rs", "let t = Instant::now();\n").contains("Instant"));
        assert!(complain("crates/archive/src/a.rs", "std::fs::read(p)\n").is_empty());
        assert!(complain("crates/x/src/a.rs", "std::fs::read(p)\n").contains("std::fs"));
        assert!(complain("crates/fuzzing/src/a.rs", "std::fs::read(p)\n").is_empty());
        assert!(complain("crates/x/src/lib.rs", "mod a;\n").contains("does not begin"));
        assert!(complain("cli/src/a.rs", &"x\n".repeat(MAX_LINES + 1)).contains("more than"));
        assert!(complain("cli/src/a.rs", "x \n").contains("white space"));
        let package = |name: &str, uses: &str| Package {
            name: name.to_owned(),
            manifest: PathBuf::from("crates/x/Cargo.toml"),
            dependencies: vec![(uses.to_owned(), true)],
        };
        let with = |name, uses| {
            dependencies(&[package(name, uses), package("tapedeck-http1", "memchr")]).join("\n")
        };
        assert!(with("tapedeck-model", "tapedeck-http1").contains("must not depend"));
        assert!(with("tapedeck-model", "tokio").contains("must not know"));
        assert!(with("tapedeck-new", "serde").contains("does not know"));
        assert!(with("tapedeck-exchange", "tapedeck-http1").is_empty());
    }
}
