//! What is kept on the node of all recordings together, and of those that nothing is written of any more.
//!
//! A recording that is written looks after its own segments; what is paused or has ended has nobody who does, and the disk
//! is one for all.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What is kept.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Keep {
    /// Bytes of the archives of all recordings; the oldest segments go first, whosever they are.
    pub size: Option<u64>,
    /// How long a segment is kept where its recording says nothing else.
    pub age: Option<Duration>,
}

/// A segment that was removed, or could not be.
#[derive(Debug)]
pub struct Removal {
    /// The segment.
    pub path: PathBuf,
    /// Its bytes.
    pub len: u64,
    /// Why it stays, where it does.
    pub failed: Option<std::io::Error>,
}

struct Segment {
    path: PathBuf,
    len: u64,
    sealed: SystemTime,
}

/// Removes what is not to be kept below the folder of recordings: segments that are sealed, the oldest first. `age` says
/// for the uid of a recording how long its segments are kept; `None`: nobody knows, or for ever. Gives the bytes that
/// are left, open segments included, and what was done.
pub fn tidy(
    recordings: &Path,
    size: Option<u64>,
    now: SystemTime,
    age: impl Fn(&str) -> Option<Duration>,
) -> (u64, Vec<Removal>) {
    let mut left = 0;
    let mut sealed = Vec::new();
    let mut removals = Vec::new();
    let folders = fs::read_dir(recordings).into_iter().flatten().flatten();
    for folder in folders {
        let age = folder.file_name().to_str().and_then(&age);
        let entries = fs::read_dir(folder.path()).into_iter().flatten().flatten();
        for entry in entries {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            left += metadata.len();
            let path = entry.path();
            // The open one is hidden, and ends otherwise.
            let is_sealed = path.extension().is_some_and(|of| of == "tape")
                && !entry.file_name().as_encoded_bytes().starts_with(b".");
            let Some(at) = metadata.modified().ok().filter(|_| is_sealed) else {
                continue;
            };
            let segment = Segment {
                path,
                len: metadata.len(),
                sealed: at,
            };
            let since = now.duration_since(at).unwrap_or_default();
            if age.is_some_and(|age| since > age) {
                remove(segment, &mut left, &mut removals);
            } else {
                sealed.push(segment);
            }
        }
    }
    sealed.sort_by(|a, b| (a.sealed, &a.path).cmp(&(b.sealed, &b.path)));
    for segment in sealed {
        if size.is_none_or(|size| left <= size) {
            break;
        }
        remove(segment, &mut left, &mut removals);
    }
    (left, removals)
}

fn remove(segment: Segment, left: &mut u64, removals: &mut Vec<Removal>) {
    let Segment { path, len, .. } = segment;
    let failed = match fs::remove_file(&path) {
        // Its own writer was faster.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        result => result.err(),
    };
    if failed.is_none() {
        *left = left.saturating_sub(len);
    }
    removals.push(Removal { path, len, failed });
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A recording's folder with segments of so many bytes, the last one a minute old, each other a minute older;
    /// and an open one.
    fn recording(recordings: &Path, uid: &str, lens: &[u64], now: SystemTime) {
        let folder = recordings.join(uid);
        fs::create_dir(&folder).unwrap();
        for (number, len) in lens.iter().enumerate() {
            let file = fs::File::create(folder.join(format!("{number:08}.tape"))).unwrap();
            file.set_len(*len).unwrap();
            let age = MINUTE * u32::try_from(lens.len() - number).unwrap();
            file.set_modified(now - age).unwrap();
        }
        fs::write(folder.join(".00000099.tape.partial"), [0; 10]).unwrap();
    }

    fn names(recordings: &Path, uid: &str) -> Vec<String> {
        let entries = fs::read_dir(recordings.join(uid)).unwrap().flatten();
        let mut names: Vec<_> = entries
            .map(|entry| entry.file_name().into_string().unwrap())
            .filter(|name| !name.starts_with('.'))
            .map(|name| name[7..8].to_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_oldest_goes_first_whosever_it_is_and_what_is_open_stays() {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        recording(folder.path(), "a", &[100, 100, 100], now);
        recording(folder.path(), "b", &[100, 100], now);
        let never = |_: &str| None;
        let (left, removals) = tidy(folder.path(), Some(520), now, never);
        assert_eq!((left, removals.len()), (520, 0));
        let (left, removals) = tidy(folder.path(), Some(319), now, never);
        assert_eq!((left, removals.len()), (220, 3));
        assert_eq!(names(folder.path(), "a"), ["2"]);
        assert_eq!(names(folder.path(), "b"), ["1"]);
        let (left, _) = tidy(folder.path(), Some(0), now, never);
        assert_eq!(left, 20, "what is open");
        assert_eq!(tidy(folder.path(), None, now, never).0, 20);
        assert_eq!(tidy(&folder.path().join("none"), Some(0), now, never).0, 0);
    }

    #[test]
    fn what_is_old_goes_where_its_recording_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        recording(folder.path(), "a", &[1, 1, 1], now);
        recording(folder.path(), "b", &[1, 1, 1], now);
        let age = |uid: &str| (uid == "a").then_some(MINUTE * 2);
        let (left, removals) = tidy(folder.path(), None, now, age);
        assert_eq!((left, removals.len()), (25, 1));
        assert_eq!(names(folder.path(), "a"), ["1", "2"]);
        assert_eq!(names(folder.path(), "b").len(), 3);
        // A clock that was set back makes nothing old.
        assert!(
            tidy(folder.path(), None, now - MINUTE * 100, age)
                .1
                .is_empty()
        );
    }
}
