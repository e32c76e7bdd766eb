//! The files that a replay writes.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tapedeck_archive::Archive;
use tapedeck_replayer::player::Report;

/// `--summary`: a file that was found to be writable before the run.
pub(super) struct Summary<'a> {
    path: &'a Path,
    /// Held, so that whoever reads a pipe does not take it to be over.
    _file: File,
}

impl<'a> Summary<'a> {
    /// What an earlier run wrote stays until there is something to replace it.
    pub(super) fn create(path: &'a Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).open(path);
        let _file =
            file.with_context(|| format!("failed to write the summary {}", path.display()))?;
        Ok(Self { path, _file })
    }

    pub(super) fn write(self, report: &Report) -> Result<()> {
        super::super::summary::write(self.path, report)
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
        let Some(path) = path else { continue };
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
