//! Reading the kernel's clocks.

use std::time::Duration;

/// One of the kernel's clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Clock {
    /// Nanoseconds since the machine was started, suspended time included; never set.
    Boot,
    /// Nanoseconds since the Unix epoch; people and NTP set it.
    Wall,
}

/// The processor time that this process took.
pub(crate) fn processor_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` outlives the call, and the clock exists on every kernel that runs this program.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    let nanos = time.tv_sec * 1_000_000_000 + time.tv_nsec;
    Duration::from_nanos(nanos.try_into().unwrap_or(0))
}

/// Reads a clock.
pub(crate) fn now(clock: Clock) -> i64 {
    let id = match clock {
        Clock::Boot => libc::CLOCK_BOOTTIME,
        Clock::Wall => libc::CLOCK_REALTIME,
    };
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` outlives the call. Both clocks exist on every kernel that runs this program,
    // so the call cannot fail.
    unsafe { libc::clock_gettime(id, &raw mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}
