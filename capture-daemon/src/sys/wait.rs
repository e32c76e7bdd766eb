//! Waiting for a descriptor.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// Waits until something can be read, or until the time is over.
pub(crate) fn wait_readable(fd: &OwnedFd, timeout: Duration) -> io::Result<()> {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let millis = timeout.as_millis().try_into().unwrap_or(libc::c_int::MAX);
    // SAFETY: one entry, which outlives the call.
    if unsafe { libc::poll(&raw mut poll, 1, millis) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(())
}
