//! The files that a replay writes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
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

/// A file that was found to be writable before the run.
///
/// What an earlier run wrote stays until there is something to replace it; and of a run that was refused, nothing is
/// left.
pub(super) struct Held<'a> {
    path: &'a Path,
    /// Open all the time, so that whoever reads a pipe does not take it to be over.
    file: File,
    is_new: bool,
}

impl<'a> Held<'a> {
    /// `what` it is to be, for errors.
    pub(super) fn open(path: &'a Path, what: &str) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let mut open = |new| options.create_new(new).open(path);
        let (file, is_new) = match open(true) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => (open(false), false),
            made => (made, true),
        };
        let file =
            file.with_context(|| format!("failed to write the {what} {}", path.display()))?;
        Ok(Self { path, file, is_new })
    }

    /// The file, without what an earlier run wrote.
    pub(super) fn emptied(&mut self) -> io::Result<&mut File> {
        // Pipes and terminals have no length.
        if self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        Ok(&mut self.file)
    }

    pub(super) const fn path(&self) -> &'a Path {
        self.path
    }

    pub(super) const fn file(&mut self) -> &mut File {
        &mut self.file
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let is_empty = self.file.metadata().is_ok_and(|found| found.len() == 0);
        if self.is_new && is_empty {
            // Where it cannot be removed it stays, and is empty.
            fs::remove_file(self.path).unwrap_or_default();
        }
    }
}

/// `--summary`.
pub(super) struct Summary<'a> {
    path: &'a Path,
    /// `None`: it is standard output.
    held: Option<Held<'a>>,
}

impl<'a> Summary<'a> {
    pub(super) fn create(path: &'a Path) -> Result<Self> {
        let held = match is_stdout(path) {
            true => None,
            false => Some(Held::open(path, "summary")?),
        };
        Ok(Self { path, held })
    }

    pub(super) fn write(self, report: &Report) -> Result<()> {
        let Self { path, held } = self;
        let written = super::super::summary::write(path, report);
        drop(held);
        written
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
