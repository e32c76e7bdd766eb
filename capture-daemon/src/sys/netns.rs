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

/// The cookie of this thread's network namespace, as BPF programs tell it with each packet; `None`
/// where the kernel has none (before Linux 5.14).
pub(crate) fn own_netns_cookie() -> Option<u64> {
    /// Missing in `libc` for some targets; the same number on all that this runs on.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers outlive the call, and `len` is the size of the number.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    (result == 0).then_some(cookie)
}
