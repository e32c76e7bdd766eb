//! Watching folders (inotify(7)).

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::Duration;

/// Watches folders for folders that are made in them, and for their own end.
#[derive(Debug)]
pub(crate) struct FolderWatch {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

/// What happened.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum FolderEvent {
    /// A folder was made in a watched one.
    Made {
        /// The id of the watched one.
        folder: i32,
        /// The name of the new one.
        name: OsString,
    },
    /// A watched folder is gone, and its id is free for another.
    Gone {
        /// Its id.
        folder: i32,
    },
    /// So much happened that the kernel forgot some of it.
    Missed,
}

/// The fixed part of an event.
const HEADER: usize = size_of::<libc::inotify_event>();

impl FolderWatch {
    /// Watches nothing yet.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointer.
        let fd = unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            fd,
            buffer: vec![0; 64 << 10],
        })
    }

    /// Watches a folder from now on, and returns its id: the same where it is watched already.
    pub(crate) fn add(&mut self, folder: &Path) -> io::Result<i32> {
        let path = CString::new(folder.as_os_str().as_bytes())?;
        let mask = libc::IN_CREATE | libc::IN_ONLYDIR | libc::IN_DELETE_SELF;
        // SAFETY: the path ends in a zero and outlives the call.
        let id = unsafe { libc::inotify_add_watch(self.fd.as_raw_fd(), path.as_ptr(), mask) };
        if id < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(id)
    }

    /// What has happened. Waits for something up to `timeout`.
    pub(crate) fn wait(&mut self, timeout: Duration) -> io::Result<Vec<FolderEvent>> {
        let mut poll = libc::pollfd {
            fd: self.fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let millis = timeout.as_millis().try_into().unwrap_or(libc::c_int::MAX);
        // SAFETY: one entry, which outlives the call.
        if unsafe { libc::poll(&raw mut poll, 1, millis) } < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::Interrupted => Ok(Vec::new()),
                _ => Err(error),
            };
        }
        // SAFETY: the buffer is as long as the call is told, and outlives it.
        let len = unsafe {
            libc::read(
                self.fd.as_raw_fd(),
                self.buffer.as_mut_ptr().cast(),
                self.buffer.len(),
            )
        };
        let Ok(len) = usize::try_from(len) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(Vec::new()),
                _ => Err(error),
            };
        };
        Ok(events(self.buffer.get(..len).unwrap_or_default()))
    }
}

/// The events in what the kernel wrote: the descriptor of the watch, a mask, a cookie, the length of
/// the name, and the name, filled up with zeros.
fn events(mut bytes: &[u8]) -> Vec<FolderEvent> {
    let mut events = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() {
        let [w0, w1, w2, w3, m0, m1, m2, m3, _, _, _, _, l0, l1, l2, l3] = *header;
        let folder = i32::from_ne_bytes([w0, w1, w2, w3]);
        let mask = u32::from_ne_bytes([m0, m1, m2, m3]);
        let len = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let Some((name, rest)) = rest.split_at_checked(len) else {
            break;
        };
        bytes = rest;
        if mask & libc::IN_Q_OVERFLOW != 0 {
            events.push(FolderEvent::Missed);
        } else if mask & libc::IN_IGNORED != 0 {
            events.push(FolderEvent::Gone { folder });
        } else if mask & libc::IN_CREATE != 0 && mask & libc::IN_ISDIR != 0 {
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            events.push(FolderEvent::Made {
                folder,
                name: OsString::from_vec(name.to_vec()),
            });
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn folders_that_come_and_go_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = FolderWatch::new().unwrap();
        let id = watch.add(folder.path()).unwrap();
        assert_eq!(watch.add(folder.path()).unwrap(), id);
        fs::write(folder.path().join("file"), "x").unwrap();
        let made = folder.path().join("made");
        fs::create_dir(&made).unwrap();
        let wait = Duration::from_secs(10);
        let name = OsString::from("made");
        assert_eq!(
            watch.wait(wait).unwrap(),
            [FolderEvent::Made { folder: id, name }]
        );
        let inner = watch.add(&made).unwrap();
        fs::remove_dir(&made).unwrap();
        assert_eq!(
            watch.wait(wait).unwrap(),
            [FolderEvent::Gone { folder: inner }]
        );
        assert!(watch.add(&made).is_err());
    }
}
