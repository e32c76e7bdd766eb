//! The files that a replay writes.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tapedeck_archive::Archive;
use tapedeck_replayer::player::Report;

use crate::output;

/// Whether a path stands for standard output.
pub(in crate::commands) fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

/// Prints a report: on standard output, or beside it where the summary is there.
pub(in crate::commands) fn print(report: &Report, summary: Option<&Path>) -> Result<()> {
    if summary.is_some_and(is_stdout) {
        output::say(report.to_string().trim_end());
        return Ok(());
    }
    output::print(report).context("failed to print the report")
}

/// `--summary`: a file that was found to be writable before the run.
pub(super) struct Summary<'a> {
    path: &'a Path,
    /// Held, so that whoever reads a pipe does not take it to be over; `None`: it is standard output.
    held: Option<File>,
    /// Nobody needs it: it was made here, and nothing is in it.
    is_new: bool,
}

impl<'a> Summary<'a> {
    /// What an earlier run wrote stays until there is something to replace it.
    pub(super) fn create(path: &'a Path) -> Result<Self> {
        if is_stdout(path) {
            return Ok(Self {
                path,
                held: None,
                is_new: false,
            });
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let mut open = |new| options.create_new(new).open(path);
        let (file, is_new) = match open(true) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => (open(false), false),
            made => (made, true),
        };
        let held =
            file.with_context(|| format!("failed to write the summary {}", path.display()))?;
        Ok(Self {
            path,
            held: Some(held),
            is_new,
        })
    }

    pub(super) fn write(mut self, report: &Report) -> Result<()> {
        self.is_new = false;
        super::super::summary::write(self.path, report)
    }
}

/// A run that was refused has no summary.
impl Drop for Summary<'_> {
    fn drop(&mut self) {
        let is_empty = |file: &File| file.metadata().is_ok_and(|found| found.len() == 0);
        if self.is_new && self.held.as_ref().is_some_and(is_empty) {
            // Where it cannot be removed it stays, and is empty.
            fs::remove_file(self.path).unwrap_or_default();
        }
    }
}

/// Refuses to write over what is read, and two results into one file.
pub(super) fn check(archive: &Archive, outputs: &[(&str, Option<&Path>)]) -> Result<()> {
    let segments = archive.segments().map(|segment| segment.path);
    let left_out = archive.left_out().iter().map(|left_out| &*left_out.path);
    let mut taken: Vec<(Place, String)> = segments
        .chain(left_out)
        .filter_map(|path| Some((Place::of(path)?, format!("the archive {}", path.display()))))
        .collect();
    for (flag, path) in outputs {
        let Some(path) = path.filter(|path| !is_stdout(path)) else {
            continue;
        };
        let Some(place) = Place::of(path) else {
            continue;
        };
        if let Some((_, whose)) = taken.iter().find(|(other, _)| *other == place) {
            bail!("{flag} {} would write over {whose}", path.display());
        }
        taken.push((place, format!("what {flag} writes")));
    }
    Ok(())
}

/// What makes two paths the same file.
#[derive(Eq, PartialEq)]
enum Place {
    File {
        device: u64,
        inode: u64,
    },
    /// It does not exist yet.
    Path(PathBuf),
}

impl Place {
    /// `None`: a pipe or a device, which takes anything from anybody.
    fn of(path: &Path) -> Option<Self> {
        match fs::metadata(path) {
            Ok(found) if found.is_file() => Some(Self::File {
                device: found.dev(),
                inode: found.ino(),
            }),
            Ok(_) => None,
            Err(_) => {
                let folder = path
                    .parent()
                    .filter(|folder| !folder.as_os_str().is_empty());
                let folder = fs::canonicalize(folder.unwrap_or_else(|| Path::new(".")));
                let path = match (folder, path.file_name()) {
                    (Ok(folder), Some(name)) => folder.join(name),
                    _ => path.to_owned(),
                };
                Some(Self::Path(path))
            }
        }
    }
}
