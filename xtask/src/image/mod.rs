//! `cargo xtask image`: one OCI image with every program of Tapedeck, and nothing else.
//!
//! It is built from nothing (`FROM scratch`), so that no registry is needed. The programs are linked
//! dynamically, and the few shared objects that they name are copied from this machine: the resolver
//! of glibc wants to be dynamic, and the programs share one copy.

mod check;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::packages::{self, FOR_ARM64, FOR_IMAGE};
use crate::shell::{cargo, command, run, say};

/// Build the OCI image
#[derive(clap::Args, Debug)]
pub(crate) struct Image {
    /// The name of the image, with its tag
    #[arg(long, default_value = concat!("tapedeck:", env!("CARGO_PKG_VERSION")))]
    tag: String,
    /// Take the programs from this folder, and build none
    #[arg(long, value_name = "FOLDER")]
    binaries: Option<PathBuf>,
    /// For which machines; arm64 is cross-compiled, with the standard library that rustup has and the C compiler of
    /// Debian
    #[arg(long, value_enum, default_value = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" })]
    arch: Arch,
}

/// Machines that there are images for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    const HOST: Self = if cfg!(target_arch = "aarch64") {
        Self::Arm64
    } else {
        Self::Amd64
    };

    fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// `e_machine` of its ELF files.
    fn machine(self) -> u16 {
        match self {
            Self::Amd64 => 62,
            Self::Arm64 => 183,
        }
    }

    /// Whether this machine runs its programs.
    fn is_own(self) -> bool {
        self == Self::HOST
    }
}

/// What Rust and GNU call arm64.
const TRIPLE: &str = "aarch64-unknown-linux-gnu";
const GNU: &str = "aarch64-linux-gnu";

/// Where Debian puts the shared objects of arm64 on another machine, and where the loader looks for them at home.
const CROSS: &str = "/usr/aarch64-linux-gnu/lib";
const HOME: &str = "lib/aarch64-linux-gnu";

/// The programs, and the package of each.
const PROGRAMS: [(&str, &str); 3] = [
    ("tapedeck", "tapedeck"),
    ("tapedeckd", "tapedeckd"),
    ("tapedeck-controller", "tapedeck-controller"),
];

/// Where the files of the image are gathered, and where it lies as an OCI folder afterwards.
const ROOT: &str = "target/image/root";
const OCI: &str = "target/image/oci";

/// What the image may take, compressed: nodes pull it when they are new and busy.
const MOST_BYTES: u64 = 40 << 20;

const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Small files of the image: who its users are, and how names are resolved.
const FILES: [(&str, &str); 3] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/:/sbin/nologin\ntapedeck:x:65532:65532:tapedeck:/:/sbin/nologin\n",
    ),
    ("etc/group", "root:x:0:\ntapedeck:x:65532:\n"),
    ("etc/nsswitch.conf", "hosts: files dns\n"),
];

/// Gathers the files, builds the image, and says what it weighs.
pub(crate) fn build(args: &Image) -> Result<()> {
    packages::ensure(FOR_IMAGE)?;
    ensure!(
        args.arch.is_own() || args.arch == Arch::Arm64,
        "an image for {} is built on such a machine only",
        args.arch.name()
    );
    if !args.arch.is_own() {
        packages::ensure(FOR_ARM64)?;
    }
    let binaries = match &args.binaries {
        Some(folder) => folder.clone(),
        None => build_programs(args.arch)?,
    };
    let root = Path::new(ROOT);
    if root.exists() {
        fs::remove_dir_all(root).with_context(|| format!("cannot empty {ROOT}"))?;
    }
    for (program, _) in PROGRAMS {
        let copy = root.join("usr/bin").join(program);
        put(&binaries.join(program), &copy)?;
        if args.arch.is_own() {
            run(command("strip", &["--strip-all"]).arg(&copy))?;
            for object in shared_objects(&copy)? {
                let below = object.strip_prefix("/").unwrap_or(&object);
                put(&object, &root.join(below))?;
            }
        } else {
            run(command(&format!("{GNU}-strip"), &["--strip-all"]).arg(&copy))?;
            put_foreign_objects(&copy, root)?;
        }
    }
    put(Path::new(CERTIFICATES), &root.join(&CERTIFICATES[1..]))?;
    put(
        Path::new("LICENSE"),
        &root.join("usr/share/doc/tapedeck/LICENSE"),
    )?;
    for (name, text) in FILES {
        fs::write(root.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    check::image(root, args.arch)?;
    // The same time for every file, so that the same files make the same layer.
    run(command("buildah", &["build", "--quiet", "--timestamp=0"])
        .args(["--isolation=chroot", "--file=deploy/image/Containerfile"])
        .arg(format!("--arch={}", args.arch.name()))
        .args(labels())
        .arg(format!("--tag={}", args.tag))
        .arg(ROOT))?;
    weigh(&args.tag)
}

fn build_programs(arch: Arch) -> Result<PathBuf> {
    let mut build = cargo(&["build", "--release", "--locked"]);
    let mut folder = PathBuf::from("target/release");
    if !arch.is_own() {
        run(&mut command("rustup", &["target", "add", TRIPLE])).context(
            "the standard library of Rust for arm64 is not here, and rustup cannot fetch it: build the programs where it \
             can, or on such a machine, and name their folder with --binaries",
        )?;
        cross(&mut build);
        folder = Path::new("target").join(TRIPLE).join("release");
    }
    for (program, package) in PROGRAMS {
        build.args(["--package", package, "--bin", program]);
    }
    run(&mut build)?;
    Ok(folder)
}

/// Compiles and links for arm64; some dependencies are in C.
fn cross(build: &mut Command) {
    build.args(["--target", TRIPLE]);
    let under = TRIPLE.replace('-', "_");
    for (variable, program) in [
        (format!("CC_{under}"), "gcc"),
        (format!("AR_{under}"), "ar"),
        (
            format!("CARGO_TARGET_{}_LINKER", under.to_uppercase()),
            "gcc",
        ),
    ] {
        build.env(variable, format!("{GNU}-{program}"));
    }
}

fn labels() -> [String; 4] {
    let label =
        |name: &str, value: &str| format!("--label=org.opencontainers.image.{name}={value}");
    [
        label("title", "Tapedeck"),
        label("version", env!("CARGO_PKG_VERSION")),
        label("licenses", "Apache-2.0"),
        label("source", env!("CARGO_PKG_REPOSITORY")),
    ]
}

/// Copies a file, links followed, and makes the folders above it.
fn put(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

/// The shared objects that a program is linked with, the loader among them.
fn shared_objects(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = command("ldd", &[])
        .arg(program)
        .output()
        .context("failed to start ldd")?;
    ensure!(
        output.status.success(),
        "ldd {} failed: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    parse_ldd(&String::from_utf8(output.stdout)?)
}

/// Reads lines such as `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f..)`; the loader has no
/// arrow, and what the kernel provides has no path.
fn parse_ldd(text: &str) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        if line.ends_with("not found") {
            bail!("a shared object is missing on this machine: {line}");
        }
        let place = line.split_once("=> ").map_or(line, |(_, place)| place);
        let path = place.split(" (").next().unwrap_or(place);
        if path.starts_with('/') {
            found.insert(PathBuf::from(path));
        }
    }
    Ok(found)
}

/// Copies what a program of arm64 is linked with, and what that is linked with in turn.
fn put_foreign_objects(program: &Path, root: &Path) -> Result<()> {
    let mut waiting = vec![program.to_owned()];
    while let Some(file) = waiting.pop() {
        let (loader, names) = check::headers(&file)?;
        let places = names
            .into_iter()
            .map(|name| (Path::new(HOME).join(&name), name))
            .chain(loader.and_then(|path| {
                let name = Path::new(&path).file_name()?.to_str()?.to_owned();
                Some((PathBuf::from(path.trim_start_matches('/')), name))
            }));
        for (place, name) in places {
            let to = root.join(place);
            if to.exists() {
                continue;
            }
            let from = Path::new(CROSS).join(name);
            put(&from, &to)?;
            waiting.push(from);
        }
    }
    Ok(())
}

/// Writes the image as an OCI folder, and holds its blobs, which are compressed there, to the bound.
fn weigh(tag: &str) -> Result<()> {
    if Path::new(OCI).exists() {
        fs::remove_dir_all(OCI).with_context(|| format!("cannot empty {OCI}"))?;
    }
    run(command("buildah", &["push", "--quiet"]).args([tag, &format!("oci:{OCI}:latest")]))?;
    let blobs = format!("{OCI}/blobs/sha256");
    let mut bytes = 0;
    for blob in fs::read_dir(&blobs).with_context(|| format!("cannot read {blobs}"))? {
        bytes += blob?.metadata()?.len();
    }
    let mib = bytes as f64 / f64::from(1 << 20);
    say(&format!("{tag}: {mib:.1} MiB compressed, in {OCI}"));
    ensure!(
        bytes <= MOST_BYTES,
        "{tag} is larger than {} MiB",
        MOST_BYTES >> 20
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ldd_prints_becomes_paths() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expect = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(
            parse_ldd(text).unwrap(),
            expect.into_iter().map(PathBuf::from).collect()
        );
        assert!(parse_ldd("\tlibx.so => not found\n").is_err());
        assert!(parse_ldd("\tstatically linked\n").unwrap().is_empty());
    }
}
