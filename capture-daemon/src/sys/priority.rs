//! Who goes first when no processor is free.

use std::io;
use std::time::Duration;

/// The longest that the kernel takes. On one processor with others, whoever wakes up and asks for a shorter
/// slice (all do that ask for none) runs at once, and not only at the next tick of the clock: what is
/// recorded does not wait for a batch of packets. How much we get is a matter of `nice` alone.
const SLICE: Duration = Duration::from_millis(100);

/// Lets this thread, and no other, step back behind those that are as they were: it wakes up without taking a
/// processor from anybody (`SCHED_BATCH`), gives it to whoever wakes up (a long slice, since Linux 6.12),
/// and of a busy one it gets the less the larger `nice` is, see nice(1).
pub(crate) fn step_back(nice: u8) -> io::Result<()> {
    let wanted = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_BATCH.cast_unsigned(),
        sched_flags: 0,
        sched_nice: nice.into(),
        sched_priority: 0,
        // Older kernels do not look at it for this policy.
        sched_runtime: SLICE.as_nanos() as u64,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the struct says how long it is and outlives the call; zero is the thread that calls.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says of this thread.
    fn now() -> libc::sched_attr {
        // SAFETY: plain numbers, for which zero is a value.
        let mut now: libc::sched_attr = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::sched_attr>();
        // SAFETY: the struct is of that size, and outlives the call.
        let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut now, size, 0) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        now
    }

    #[test]
    fn a_thread_steps_back_alone() {
        let before = now();
        let stepped = std::thread::spawn(|| {
            step_back(7).unwrap();
            now()
        });
        let stepped = stepped.join().unwrap();
        assert_eq!(stepped.sched_policy, libc::SCHED_BATCH as u32);
        assert_eq!(stepped.sched_nice, 7);
        // Linux before 6.12 tells nothing.
        if stepped.sched_runtime != 0 {
            assert_eq!(u128::from(stepped.sched_runtime), SLICE.as_nanos());
        }
        let after = now();
        assert_eq!(
            (after.sched_policy, after.sched_nice, after.sched_runtime),
            (before.sched_policy, before.sched_nice, before.sched_runtime)
        );
    }
}
