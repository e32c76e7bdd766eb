//! What is looked at before an image is made of a folder: each object in it is for the image's machine, what it is
//! linked with lies there, too, and the programs start with that alone.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::{Arch, PROGRAMS};
use crate::shell::{command, has, say};

/// An object, as its headers tell.
#[derive(Debug)]
struct Object {
    path: PathBuf,
    loader: Option<PathBuf>,
    /// Names of what it is linked with.
    needs: Vec<String>,
}

/// Looks at all objects below a folder, and runs the programs where something here can.
pub(super) fn image(root: &Path, arch: Arch) -> Result<()> {
    let objects = objects(root, arch)?;
    are_complete(root, &objects)?;
    say(&format!(
        "{} objects, all for {}, and all that they are linked with is there",
        objects.len(),
        arch.name()
    ));
    for (program, _) in PROGRAMS {
        let path = root.join("usr/bin").join(program);
        let object = objects.iter().find(|object| object.path == path);
        let object = object.with_context(|| format!("{} is no program", path.display()))?;
        let Some(mut start) = start(root, arch, &objects, object) else {
            say("the programs were not run: qemu-aarch64-static (qemu-user-static) is not here");
            return Ok(());
        };
        let output = start.arg("--version").output();
        let output = output.with_context(|| format!("cannot start {program}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success() && text.starts_with(program),
            "{program} --version, with the objects of the image: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        say(&format!("  {}", text.lines().next().unwrap_or_default()));
    }
    Ok(())
}

/// A program with the loader and the objects of the image, whatever this machine has.
fn start(root: &Path, arch: Arch, objects: &[Object], object: &Object) -> Option<Command> {
    if !arch.is_own() {
        let emulator = ["qemu-aarch64-static", "qemu-aarch64"];
        let emulator = emulator.into_iter().find(|program| has(program))?;
        let mut command = command(emulator, &["-L"]);
        command.arg(root).arg(&object.path);
        return Some(command);
    }
    let Some(loader) = &object.loader else {
        return Some(Command::new(&object.path));
    };
    let folders: BTreeSet<String> = objects
        .iter()
        .filter_map(|object| object.path.parent())
        .map(|folder| folder.display().to_string())
        .collect();
    let folders = Vec::from_iter(folders).join(":");
    let mut command = Command::new(root.join(below(loader)));
    command.args(["--library-path", &folders]).arg(&object.path);
    Some(command)
}

/// Every loader and every name that an object is linked with lies below the folder.
fn are_complete(root: &Path, objects: &[Object]) -> Result<()> {
    let there: BTreeSet<_> = objects
        .iter()
        .filter_map(|object| object.path.file_name()?.to_str())
        .collect();
    for object in objects {
        for name in &object.needs {
            ensure!(
                there.contains(name.as_str()),
                "{} is linked with {name}, which is not in the image",
                object.path.display()
            );
        }
        if let Some(loader) = &object.loader {
            ensure!(
                root.join(below(loader)).exists(),
                "{} is started by {}, which is not in the image",
                object.path.display(),
                loader.display()
            );
        }
    }
    Ok(())
}

/// The objects below a folder; one for another machine is an error.
fn objects(root: &Path, arch: Arch) -> Result<Vec<Object>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder);
        for entry in entries.with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let Some(machine) = machine(&bytes) else {
                continue;
            };
            if machine != arch.machine() {
                bail!("{} is not for {}", path.display(), arch.name());
            }
            let (loader, needs) = headers(&path)?;
            found.push(Object {
                path,
                loader: loader.map(PathBuf::from),
                needs,
            });
        }
    }
    Ok(found)
}

/// `e_machine` of an ELF file, which all of our machines write in little endian.
fn machine(bytes: &[u8]) -> Option<u16> {
    let rest = bytes.strip_prefix(b"\x7fELF")?;
    let low = *rest.get(14)?;
    let high = *rest.get(15)?;
    Some(u16::from_le_bytes([low, high]))
}

/// The loader that an object asks for, and the names of what it is linked with. No program of this machine may be able
/// to load it, so that its headers are read.
pub(super) fn headers(object: &Path) -> Result<(Option<String>, Vec<String>)> {
    let output = command("readelf", &["--wide", "-ld"])
        .arg(object)
        .output()
        .context("failed to start readelf")?;
    ensure!(
        output.status.success(),
        "readelf {} failed: {}",
        object.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(parse_readelf(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_readelf(text: &str) -> (Option<String>, Vec<String>) {
    let between = |line: &str, before: &str| {
        let (_, rest) = line.split_once(before)?;
        Some(rest.split(']').next()?.trim().to_owned())
    };
    let loader = text
        .lines()
        .find_map(|line| between(line, "[Requesting program interpreter:"));
    let names = text
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| between(line, "["))
        .collect();
    (loader, names)
}

/// A path of the image, as it is below a folder.
fn below(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{put, shared_objects};

    #[test]
    fn what_readelf_prints_becomes_names() {
        let text = "  INTERP  0x238 0x238\n\
                    \u{20}     [Requesting program interpreter: /lib/ld-linux-aarch64.so.1]\n\
                    \u{20}0x01 (NEEDED)  Shared library: [libgcc_s.so.1]\n\
                    \u{20}0x01 (NEEDED)  Shared library: [libc.so.6]\n\
                    \u{20}0x0e (SONAME)  Library soname: [libx.so]\n";
        let (loader, names) = parse_readelf(text);
        assert_eq!(loader.as_deref(), Some("/lib/ld-linux-aarch64.so.1"));
        assert_eq!(names, ["libgcc_s.so.1", "libc.so.6"]);
        assert_eq!(parse_readelf("nothing"), (None, Vec::new()));
    }

    /// This test itself stands for the programs: with all that it is linked with, without one of these, and with one of
    /// another machine.
    #[test]
    fn a_folder_that_is_not_a_whole_image_is_refused() {
        if !has("readelf") {
            println!("skipped: readelf is missing");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let own = std::env::current_exe().unwrap();
        let program = root.join("usr/bin/tapedeck");
        put(&own, &program).unwrap();
        let check = || are_complete(root, &objects(root, Arch::HOST)?);
        let refused = check().unwrap_err().to_string();
        assert!(refused.contains("which is not in the image"), "{refused}");
        let shared = shared_objects(&own).unwrap();
        for object in &shared {
            put(object, &root.join(below(object))).unwrap();
        }
        check().unwrap();

        let objects = objects(root, Arch::HOST).unwrap();
        let this = objects.iter().find(|object| object.path == program);
        let mut start = start(root, Arch::HOST, &objects, this.unwrap()).unwrap();
        let listed = start.arg("--list").output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(
            listed.contains("a_folder_that_is_not_a_whole_image"),
            "{listed}"
        );

        let c = shared.iter().find(|path| path.ends_with("libc.so.6"));
        let c = root.join(below(c.unwrap()));
        let mut bytes = fs::read(&c).unwrap();
        bytes[18..20].copy_from_slice(&8_u16.to_le_bytes());
        fs::write(&c, &bytes).unwrap();
        let refused = check().unwrap_err().to_string();
        assert!(refused.contains("libc.so.6 is not for"), "{refused}");
        fs::remove_file(&c).unwrap();
        let refused = check().unwrap_err().to_string();
        assert!(refused.contains("is linked with libc.so.6"), "{refused}");
    }
}
