//! `cargo xtask ebpf`: builds the kernel programs, and keeps the built object in the repository.
//!
//! The BPF target is a tier-3 target of rustc: `core` must be compiled for it, which needs a
//! compiler with its sources at hand, and the linker needs the LLVM of that compiler. Debian has
//! both as packages (`rustc-web`, `rust-web-src`, LLVM 22), beside whatever rustup installed.
//!
//! The object is committed, so that nobody needs all this to build Tapedeck. Beside it stands a
//! lock file with the hashes of the object and of all that it was built from, in the format of
//! `sha256sum --check`; `cargo xtask ebpf --check` and a test of the daemon refuse an object that
//! does not fit.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::shell::{self, cargo, command, line, say};

/// What is built.
const PROGRAMS: &str = "capture-ebpf/programs";
/// What decides how the object looks.
const SOURCES: [&str; 5] = [
    "capture-ebpf/abi/Cargo.toml",
    "capture-ebpf/abi/src",
    "capture-ebpf/programs/Cargo.lock",
    "capture-ebpf/programs/Cargo.toml",
    "capture-ebpf/programs/src",
];
/// Where the object is kept.
const OBJECT: &str = "capture-daemon/src/sources/ebpf/capture.bpf.o";
/// Where the hashes are kept.
const LOCK: &str = "capture-daemon/src/sources/ebpf/capture.bpf.lock";

const TARGET: &str = "bpfel-unknown-none";
const PACKAGES: [&str; 4] = [
    "rustc-web",
    "rust-web-src",
    "llvm-22-dev",
    "libclang-22-dev",
];
/// Debian's compiler, not the one that rustup puts into the path.
const RUSTC: &str = "/usr/bin/rustc";
const LLVM: &str = "/usr/lib/llvm-22";
const BPF_LINKER: &str = "0.13.0";

/// Build the kernel programs
#[derive(clap::Args, Debug)]
pub(crate) struct Ebpf {
    /// Only say whether the object in the repository fits the sources; needs no BPF toolchain
    #[arg(long)]
    check: bool,
}

/// Builds the object and its lock file; with `--check` only says whether they fit the sources.
pub(crate) fn run(args: &Ebpf) -> Result<()> {
    let root = fs::canonicalize(shell::root())?;
    let root = root.as_path();
    if args.check {
        return check_lock(root);
    }
    let object = build_with_tools(root)?;
    fs::copy(&object, root.join(OBJECT)).with_context(|| format!("cannot write {OBJECT}"))?;
    fs::write(root.join(LOCK), lock(root)?).with_context(|| format!("cannot write {LOCK}"))?;
    say(&format!("{OBJECT} and its lock file are up to date"));
    Ok(())
}

/// What came of building the object beside the one in the repository.
#[derive(Debug)]
pub(crate) enum Fresh {
    /// Its code and data are those of that one.
    Same,
    /// They are not: by another compiler perhaps.
    Other(PathBuf),
}

/// Builds the object and leaves the repository as it is.
pub(crate) fn fresh() -> Result<Fresh> {
    let root = fs::canonicalize(shell::root())?;
    let object = build_with_tools(&root)?;
    let read =
        |path: &Path| fs::read(path).with_context(|| format!("failed to read {}", path.display()));
    let (built, kept) = (read(&object)?, read(&root.join(OBJECT))?);
    match (loaded(&built), loaded(&kept)) {
        (Some(built), Some(kept)) if built == kept => Ok(Fresh::Same),
        _ => Ok(Fresh::Other(object)),
    }
}

/// The code and the data of an object (ELF, 64 bits, little endian) by the names of their sections: what the
/// kernel gets. The rest has the names of functions, and in these a hash of the folder that the sources
/// are in.
fn loaded(object: &[u8]) -> Option<BTreeMap<&[u8], &[u8]>> {
    /// `SHT_PROGBITS`.
    const CODE_OR_DATA: usize = 1;
    let number = |at: usize, len: usize| {
        let bytes = object.get(at..at.checked_add(len)?)?.iter().rev();
        Some(bytes.fold(0, |all, byte| all << 8 | usize::from(*byte)))
    };
    let (headers, size, count) = (number(0x28, 8)?, number(0x3a, 2)?, number(0x3c, 2)?);
    let header = |index: usize| headers.checked_add(index * size);
    let content = |header: usize| {
        let offset = number(header + 0x18, 8)?;
        object.get(offset..offset.checked_add(number(header + 0x20, 8)?)?)
    };
    let names = content(header(number(0x3e, 2)?)?)?;
    let mut sections = BTreeMap::new();
    for index in 0..count {
        let header = header(index)?;
        if number(header + 4, 4)? == CODE_OR_DATA {
            let name = names.get(number(header, 4)?..)?.split(|byte| *byte == 0);
            sections.insert(name.into_iter().next()?, content(header)?);
        }
    }
    Some(sections)
}

/// Calls `with` while that object is in the place of the one in the repository.
pub(crate) fn with_object<T>(object: &Path, with: impl FnOnce() -> Result<T>) -> Result<T> {
    let place = fs::canonicalize(shell::root())?.join(OBJECT);
    let kept = fs::read(&place).with_context(|| format!("failed to read {OBJECT}"))?;
    let replace = |bytes: &[u8]| {
        fs::write(&place, bytes).with_context(|| format!("failed to write {OBJECT}"))
    };
    replace(&fs::read(object).context("failed to read the object that was built")?)?;
    let done = with();
    replace(&kept)?;
    done
}

fn build_with_tools(root: &Path) -> Result<PathBuf> {
    install_packages()?;
    let linker = install_linker(root)?;
    build(root, &linker)
}

fn check_lock(root: &Path) -> Result<()> {
    let kept =
        fs::read_to_string(root.join(LOCK)).with_context(|| format!("cannot read {LOCK}"))?;
    let current = lock(root)?;
    let changed: Vec<_> = current
        .lines()
        .filter(|line| !kept.lines().any(|other| other == *line))
        .filter_map(|line| line.split_once("  "))
        .map(|(_, path)| path)
        .collect();
    if kept != current {
        bail!(
            "{OBJECT} is stale: {} changed since it was built; run `cargo xtask ebpf`",
            if changed.is_empty() {
                "the list of its sources".to_owned()
            } else {
                changed.join(", ")
            }
        );
    }
    say(&format!("{OBJECT} is up to date"));
    Ok(())
}

/// The text of the lock file for the files as they are.
fn lock(root: &Path) -> Result<String> {
    let mut files = vec![PathBuf::from(OBJECT)];
    for source in SOURCES {
        collect(root, Path::new(source), &mut files)?;
    }
    let mut text = String::from(
        "# What capture.bpf.o was built from. Written by `cargo xtask ebpf`;\n\
         # `sha256sum --check` in the root of the repository reads it too.\n",
    );
    text.push_str(&output(
        Command::new("sha256sum").args(&files).current_dir(root),
    )?);
    Ok(text)
}

/// Adds the files at and below `path`, in the order of their names.
fn collect(root: &Path, path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let context = || format!("cannot read {}", path.display());
    if !root.join(path).is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let mut names = fs::read_dir(root.join(path))
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.file_name()))
                .collect::<Result<Vec<_>, _>>()
        })
        .with_context(context)?;
    names.sort();
    for name in names {
        collect(root, &path.join(name), files)?;
    }
    Ok(())
}

fn install_packages() -> Result<()> {
    if Path::new(RUSTC).exists()
        && Path::new("/usr/lib/rustlib/src/rust/library").exists()
        && Path::new(LLVM).join("bin/llvm-config").exists()
    {
        return Ok(());
    }
    let mut install = command("apt-get", &["install", "--yes", "--no-install-recommends"]);
    install
        .args(PACKAGES)
        .env("DEBIAN_FRONTEND", "noninteractive");
    shell::run(&mut install).with_context(|| {
        format!(
            "the BPF toolchain needs these Debian packages, installed as root: {}",
            PACKAGES.join(" ")
        )
    })
}

/// Installs bpf-linker below `target/`, built against Debian's LLVM, and returns its path.
fn install_linker(root: &Path) -> Result<PathBuf> {
    let tools = root.join("target/ebpf-tools");
    let linker = tools.join("bin/bpf-linker");
    let is_current = output(Command::new(&linker).arg("--version"))
        .is_ok_and(|version| version.split_whitespace().nth(1) == Some(BPF_LINKER));
    if is_current {
        return Ok(linker);
    }
    let mut install = cargo(&["install", "bpf-linker", "--locked", "--force"]);
    install
        .args(["--version", BPF_LINKER])
        .args(["--no-default-features", "--features", "llvm-22"])
        .arg("--root")
        .arg(&tools)
        .env("LLVM_PREFIX", LLVM)
        .env("CARGO_TARGET_DIR", tools.join("build"));
    shell::run(&mut install)?;
    Ok(linker)
}

fn build(root: &Path, linker: &Path) -> Result<PathBuf> {
    let target = root.join("target/ebpf");
    // Absolute paths would make the object depend on where the repository lies.
    let flags = [
        format!("--remap-path-prefix={}=", root.display()),
        format!("-Clinker={}", linker.display()),
    ];
    let mut build = cargo(&["build", "--release", "--locked"]);
    build
        .args(["-Z", "build-std=core", "--target", TARGET])
        .current_dir(root.join(PROGRAMS))
        .env("RUSTC", RUSTC)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    shell::run(&mut build)?;
    Ok(target.join(TARGET).join("release/capture"))
}

fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("failed to start {}", line(command)))?;
    ensure!(
        output.status.success(),
        "{} failed: {}",
        line(command),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_compared_by_what_is_loaded() {
        let object = fs::read(shell::root().join(OBJECT)).unwrap();
        let sections = loaded(&object).unwrap();
        let code = sections[&b"cgroup_skb/ingress"[..]];
        assert!(code.len() > 1_000 && sections.contains_key(&b".text"[..]));
        assert!(sections.contains_key(&b"maps"[..]));
        let at = code.as_ptr().addr() - object.as_ptr().addr();
        let changed = |at: usize| {
            let mut other = object.clone();
            other[at] ^= 1;
            other
        };
        assert!(loaded(&changed(at)).unwrap() != sections);
        let name = object
            .windows(10)
            .position(|part| part == b"of_cgroup\0")
            .unwrap();
        assert!(loaded(&changed(name)).unwrap() == sections);
        assert!(loaded(&object[..at]).is_none() && loaded(b"").is_none());
    }
}
