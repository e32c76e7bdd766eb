//! Waiting until an instant, to the microsecond.
//!
//! tokio's timers tick once a millisecond, which at 4x is a tenth of the time between two requests
//! of a modest recording. A timerfd wakes the same event loop when the kernel's high-resolution
//! timer fires, and is not subject to the slack of poll timeouts.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A timer of one worker.
#[derive(Debug)]
pub(crate) struct PreciseTimer {
    timer: AsyncFd<OwnedFd>,
}

impl PreciseTimer {
    /// Needs the worker's runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        #[expect(
            deprecated,
            reason = "the safe constructor is unsound only for types whose descriptor may change \
                      or be closed; an OwnedFd keeps its own until it is dropped"
        )]
        let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
        Ok(Self { timer })
    }

    /// Returns at `deadline`, never before.
    pub(crate) async fn until(&self, deadline: Instant) -> io::Result<()> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            // Setting the timer also forgets expirations that nobody has read; readiness of an
            // earlier setting ends up in this loop again.
            timerfd_settime(
                self.timer.get_ref(),
                TimerfdTimerFlags::empty(),
                &Itimerspec {
                    it_interval: timespec(Duration::ZERO),
                    it_value: timespec(left),
                },
            )?;
            self.timer.readable().await?.clear_ready();
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_timer_is_never_early_and_can_be_set_again() {
        let timer = PreciseTimer::new().unwrap();
        for micros in [0, 1, 300, 2000] {
            let deadline = Instant::now() + Duration::from_micros(micros);
            timer.until(deadline).await.unwrap();
            assert!(Instant::now() >= deadline);
        }
        // A wait that is given up leaves nothing behind that would end the next one early.
        let long = Instant::now() + Duration::from_secs(3600);
        let soon = Instant::now() + Duration::from_millis(5);
        tokio::select! {
            _ = timer.until(long) => panic!("an hour cannot have passed"),
            () = tokio::time::sleep_until(soon.into()) => {}
        }
        let deadline = Instant::now() + Duration::from_millis(2);
        timer.until(deadline).await.unwrap();
        assert!(Instant::now() >= deadline);
    }
}
