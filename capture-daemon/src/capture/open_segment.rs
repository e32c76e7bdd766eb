//! The segment that is being written: whether its file is still there, and what goes with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tapedeck_archive::{Destination, SetEvent, WriteError};
use tapedeck_model::Ledger;

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
    /// The ledger of the whole recording where this output began to tell: what came before, others tell.
    told_before: Ledger,
    /// The same where the segment began, and what it is by what is written down.
    begun: Ledger,
    written: Ledger,
}

impl OpenSegment {
    /// That of an output that was just begun.
    pub(crate) fn of(output: &Destination) -> Self {
        let mut segment = Self::default();
        segment.next_output(output);
        segment
    }

    /// Goes on in an output that was just begun.
    pub(crate) fn next_output(&mut self, output: &Destination) {
        if let Destination::Set(writer) = output {
            self.next_folder(writer.folder());
        }
    }

    /// Goes on with a writer in this folder that was just begun.
    pub(crate) fn next_folder(&mut self, folder: &Path) {
        folder.clone_into(&mut self.folder);
        self.file = hidden_file(folder);
    }

    /// What this output is to tell of the ledger of the whole recording.
    pub(crate) fn part(&self, whole: &Ledger) -> Ledger {
        whole.since(&self.told_before)
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

    /// The output's time passed: it wrote down all that it had, with this ledger of the whole recording, and
    /// this happened to segments.
    pub(crate) fn ticked(&mut self, written: Option<Ledger>, events: &[SetEvent]) {
        let Some(written) = written else { return };
        self.at_risk = 0;
        let is_sealed = |event: &SetEvent| matches!(event, SetEvent::Sealed { .. });
        if events.iter().any(is_sealed) {
            self.exchanges = 0;
            self.file = hidden_file(&self.folder);
            self.begun = written.clone();
        }
        self.written = written;
    }

    /// Writing it failed. Returns how many of the exchanges that it took are lost: all, where it was removed,
    /// else those that it had not written down. What its ledger does not tell, that of the next output does.
    pub(crate) fn fail(&mut self) -> u64 {
        let Self {
            file,
            exchanges,
            at_risk,
            begun,
            written,
            ..
        } = std::mem::take(self);
        let (lost, told) = if file.as_deref().is_some_and(is_gone) {
            (exchanges, begun)
        } else {
            (at_risk, written)
        };
        self.told_before = told.clone();
        self.begun = told.clone();
        self.written = told;
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
        let mut segment = OpenSegment::default();
        segment.next_folder(folder.path());
        segment.took();
        segment.ticked(Some(ledger(7)), &[]);
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
        assert_eq!(segment.part(&ledger(9)), ledger(9), "its ledger went along");
    }

    /// A ledger of so many segments.
    fn ledger(segments: u64) -> Ledger {
        Ledger {
            segments,
            ..Ledger::default()
        }
    }

    #[test]
    fn what_was_written_down_outlives_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".00000001-x.tape.partial"), "").unwrap();
        let mut segment = OpenSegment::default();
        segment.next_folder(folder.path());
        segment.took();
        segment.ticked(None, &[]);
        segment.took();
        segment.ticked(Some(ledger(7)), &[]);
        segment.took();
        assert_eq!(segment.fail(), 1);
        // And it is told once.
        segment.next_folder(folder.path());
        assert_eq!(segment.part(&ledger(9)), ledger(2));
        assert_eq!(segment.fail(), 0);
        assert_eq!(segment.part(&ledger(9)), ledger(2));
    }
}
