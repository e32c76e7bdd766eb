//! Doing something in another network namespace.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;

/// Runs `work` in the network namespace at `path` (`/proc/PID/ns/net`, `/run/netns/NAME`).
///
/// A namespace belongs to a thread, so `work` runs in one of its own, which then ends: this
/// thread's namespace never changes, whatever happens. A socket stays in the namespace in which it
/// was opened.
pub(crate) fn in_network_namespace<T: Send>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let namespace = File::open(path)?;
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            // SAFETY: the call takes no pointer. It changes this thread alone.
            if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            work()
        });
        match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
