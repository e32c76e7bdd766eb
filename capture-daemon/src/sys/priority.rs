//! Who goes first when no processor is free.

use std::io;

/// Lets this thread, and no other, step back behind those that are as they were: it wakes up without taking a
/// processor from anybody (`SCHED_BATCH`), and of a busy one it gets the less the larger `nice` is, see
/// nice(1).
pub(crate) fn step_back(nice: u8) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters outlive the call; zero is the thread that calls.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call takes numbers only. Linux, unlike POSIX, means the thread that calls by zero.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice.into()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
