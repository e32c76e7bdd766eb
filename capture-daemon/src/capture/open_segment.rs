//! The segment that is being written: whether its file is still there, and what goes with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tapedeck_archive::{Destination, SetEvent, WriteError};

/// How often the file is looked for: each look is one system call.
const LOOK: Duration = Duration::from_secs(1);

/// What is known of the open segment of a set. Where its folder is removed, every write to it goes on to
/// succeed, until it is to get its name: so it is looked for.
#[derive(Debug, Default)]
pub(crate) struct OpenSegment {
    folder: PathBuf,
    /// The hidden file; `None`: not a set, or not found.
    file: Option<PathBuf>,
    looked: Option<Instant>,
    /// Exchanges that it has.
    exchanges: u64,
    /// Those of them that are not on the disk for good.
    at_risk: u64,
}

impl OpenSegment {
    /// That of an output that was just begun.
    pub(crate) fn of(output: &Destination) -> Self {
        match output {
            Destination::Set(writer) => Self::in_folder(writer.folder()),
            Destination::File(_) => Self::default(),
        }
    }

    /// That of a writer in this folder that was just begun.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            file: hidden_file(folder),
            ..Self::default()
        }
    }

    /// It took an exchange.
    pub(crate) const fn took(&mut self) {
        self.exchanges += 1;
        self.at_risk += 1;
    }

    /// Looks for its file, once a second.
    ///
    /// # Errors
    ///
    /// When it was removed: what is written to it is lost.
    pub(crate) fn look(&mut self, now: Instant) -> Result<(), WriteError> {
        let is_recent = |at: Instant| {
            now.checked_duration_since(at)
                .is_none_or(|since| since < LOOK)
        };
        if self.looked.is_some_and(is_recent) {
            return Ok(());
        }
        self.looked = Some(now);
        match &self.file {
            Some(file) if is_gone(file) => Err(WriteError::Io {
                action: "go on with",
                path: file.clone(),
                source: io::Error::new(io::ErrorKind::NotFound, "it was removed meanwhile"),
            }),
            _ => Ok(()),
        }
    }

    /// The output's time passed: it wrote down all that it had (`is_safe`), and this happened to segments.
    pub(crate) fn ticked(&mut self, is_safe: bool, events: &[SetEvent]) {
        if events
            .iter()
            .any(|event| matches!(event, SetEvent::Sealed { .. }))
        {
            *self = Self {
                looked: self.looked,
                ..Self::in_folder(&self.folder)
            };
        } else if is_safe {
            self.at_risk = 0;
        }
    }

    /// Writing it failed. Returns how many of the exchanges that it took are lost: all, where it was removed,
    /// else those that it had not written down.
    pub(crate) fn fail(&mut self) -> u64 {
        let is_gone = self.file.as_deref().is_some_and(is_gone);
        let lost = if is_gone {
            self.exchanges
        } else {
            self.at_risk
        };
        *self = Self::default();
        lost
    }
}

/// Only where the file system says so: one that does not answer may have it still.
fn is_gone(file: &Path) -> bool {
    file.symlink_metadata()
        .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// The hidden file that was begun last: names begin with numbers of eight digits.
fn hidden_file(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let names = entries.map(|entry| entry.file_name()).filter(|name| {
        let name = name.as_encoded_bytes();
        name.starts_with(b".") && name.ends_with(b".tape.partial")
    });
    names.max().map(|name| folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_removed_is_missed_within_a_second_and_takes_everything_along() {
        let folder = tempfile::tempdir().unwrap();
        let file = |number| format!(".0000000{number}-20261121T061300Z.tape.partial");
        for number in [1, 3, 2] {
            fs::write(folder.path().join(file(number)), "").unwrap();
        }
        let start = Instant::now();
        let mut segment = OpenSegment::in_folder(folder.path());
        segment.took();
        segment.ticked(true, &[]);
        segment.took();
        // A leftover of another run is not the one.
        fs::remove_file(folder.path().join(file(1))).unwrap();
        segment.look(start).unwrap();
        fs::remove_file(folder.path().join(file(3))).unwrap();
        segment.look(start + LOOK / 2).unwrap();
        let error = segment.look(start + LOOK).unwrap_err();
        assert!(error.to_string().contains("00000003-"), "{error}");
        assert_eq!(segment.fail(), 2);
        assert_eq!(segment.fail(), 0);
    }

    #[test]
    fn what_was_written_down_outlives_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".00000001-x.tape.partial"), "").unwrap();
        let mut segment = OpenSegment::in_folder(folder.path());
        segment.took();
        segment.ticked(false, &[]);
        segment.took();
        segment.ticked(true, &[]);
        segment.took();
        assert_eq!(segment.fail(), 1);
    }
}
