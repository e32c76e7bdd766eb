//! What is deleted: whole sealed segments of one set, oldest first.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tapedeck_model::Timestamp;

use super::name::{name_of_partial, segment_number};
use super::writer::SetEvent;

/// How much of a set is kept. `None`: no bound.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Retention {
    /// Bytes of all segments together, the open one included. Where that alone is larger, it
    /// alone is kept.
    pub size: Option<u64>,
    /// A segment is kept this long after it was sealed.
    pub age: Option<Duration>,
}

/// A sealed segment of our set.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) path: PathBuf,
    pub(crate) len: u64,
    /// When it was sealed, by the clock of the writer.
    pub(crate) sealed: Timestamp,
}

/// Why a segment was deleted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    /// It was sealed longer ago than [`Retention::age`].
    Age,
    /// The set was larger than [`Retention::size`].
    Size,
}

/// The sealed segments of a set, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    kept: VecDeque<Kept>,
    /// The last one that could not be deleted, so that it is told once.
    stuck: Option<PathBuf>,
}

impl Shelf {
    pub(crate) fn push(&mut self, segment: Kept) {
        self.kept.push_back(segment);
    }

    /// Puts them in the order in which they were begun.
    pub(crate) fn sort(&mut self) {
        let number = |kept: &Kept| {
            let name = name_of_partial(&kept.path);
            segment_number(name.as_ref().unwrap_or(&kept.path))
        };
        self.kept.make_contiguous().sort_by_key(number);
    }

    /// Takes those out for which `is_wanted` says so.
    pub(crate) fn take(&mut self, mut is_wanted: impl FnMut(&Kept) -> bool) -> Vec<Kept> {
        let (taken, kept) = self.kept.drain(..).partition(|kept| is_wanted(kept));
        self.kept = kept;
        taken.into()
    }

    /// Deletes what is beyond the bounds, and tells.
    pub(crate) fn tidy(
        &mut self,
        retention: Retention,
        now: Timestamp,
        open_len: u64,
        events: &mut Vec<SetEvent>,
    ) {
        let mut total: u64 = self.kept.iter().map(|kept| kept.len).sum();
        total = total.saturating_add(open_len);
        while let Some(oldest) = self.kept.front() {
            let is_over = |bound: Option<u64>| bound.is_some_and(|bound| total > bound);
            let cause = if retention
                .age
                .is_some_and(|age| now.since(oldest.sealed) > age)
            {
                Cause::Age
            } else if is_over(retention.size) {
                Cause::Size
            } else {
                return;
            };
            match std::fs::remove_file(&oldest.path) {
                // Somebody else deleted it.
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    // The oldest goes first: the others wait for it.
                    if self.stuck.as_ref() != Some(&oldest.path) {
                        self.stuck = Some(oldest.path.clone());
                        let path = oldest.path.clone();
                        events.push(SetEvent::NotDeleted { path, error });
                    }
                    return;
                }
                Ok(()) | Err(_) => {}
            }
            total = total.saturating_sub(oldest.len);
            events.push(SetEvent::Deleted {
                path: oldest.path.clone(),
                len: oldest.len,
                cause,
            });
            self.kept.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::tempdir;

    use super::*;

    /// Ten segments of 10 bytes, sealed a minute after the other.
    fn shelf(folder: &std::path::Path) -> Shelf {
        let mut shelf = Shelf::default();
        for n in 0..10_i64 {
            let path = folder.join(n.to_string());
            fs::write(&path, [0; 10]).unwrap();
            shelf.push(Kept {
                path,
                len: 10,
                sealed: at(n),
            });
        }
        shelf
    }

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_nanos(minute * 60_000_000_000)
    }

    #[track_caller]
    fn check(size: Option<u64>, minutes: Option<u64>, now: i64, open_len: u64, left: u64) {
        let folder = tempdir().unwrap();
        let age = minutes.map(|minutes| Duration::from_secs(60 * minutes));
        let mut events = Vec::new();
        let mut shelf = shelf(folder.path());
        shelf.tidy(Retention { size, age }, at(now), open_len, &mut events);
        let files = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<u64> = files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .map(|name| name.parse().unwrap())
            .collect();
        names.sort_unstable();
        assert!(names.iter().copied().eq(10 - left..10), "{names:?}");
        assert_eq!(events.len() as u64, 10 - left);
        // Nothing more to do.
        shelf.tidy(Retention { size, age }, at(now), open_len, &mut events);
        assert_eq!(events.len() as u64, 10 - left);
    }

    #[test]
    fn the_oldest_go_first_and_no_more_than_must() {
        check(None, None, 1_000_000, u64::MAX, 10);
        check(Some(100), None, 0, 0, 10);
        check(Some(99), None, 0, 0, 9);
        check(Some(100), None, 0, 11, 8);
        check(Some(0), None, 0, 0, 0);
        check(Some(5), None, 0, 1_000, 0);
        check(None, Some(5), 9, 0, 6);
        check(None, Some(5), 100, 0, 0);
        check(Some(40), Some(5), 9, 0, 4);
        check(Some(80), Some(5), 9, 0, 6);
        // A clock that was set back deletes nothing.
        check(None, Some(5), -1_000_000, 0, 10);
    }

    #[test]
    fn what_cannot_be_deleted_is_told_once_and_tried_again() {
        let folder = tempdir().unwrap();
        let mut shelf = shelf(folder.path());
        let oldest = folder.path().join("0");
        fs::remove_file(&oldest).unwrap();
        fs::create_dir(&oldest).unwrap();
        let retention = Retention {
            size: Some(0),
            age: None,
        };
        let mut events = Vec::new();
        for _ in 0..3 {
            shelf.tidy(retention, at(0), 0, &mut events);
        }
        assert!(matches!(events[..], [SetEvent::NotDeleted { .. }]));
        fs::remove_dir(&oldest).unwrap();
        shelf.tidy(retention, at(0), 0, &mut events);
        assert_eq!(events.len(), 11);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
