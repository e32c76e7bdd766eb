//! The most requests that may begin in a second, of all workers together: k6's `rps`.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Deals out the instants at which requests may begin, evenly.
#[derive(Debug)]
pub(crate) struct Cap {
    /// What the instants are counted from.
    base: Instant,
    /// Nanoseconds between two.
    every: u64,
    /// The next that nobody has.
    next: AtomicU64,
}

impl Cap {
    /// So many a second.
    pub(crate) fn new(base: Instant, per_second: NonZeroU64) -> Self {
        Self {
            base,
            every: 1_000_000_000 / per_second,
            next: AtomicU64::new(0),
        }
    }

    /// The next instant that nobody has, `now` or later. What was not used before is gone: nothing is made up for.
    pub(super) fn take(&self, now: Instant) -> Instant {
        let now = now.saturating_duration_since(self.base).as_nanos();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let later = |next: u64| Some(next.max(now).saturating_add(self.every));
        let next = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
        // It never refuses.
        let (Ok(next) | Err(next)) = next;
        self.base + Duration::from_nanos(next.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_spread_evenly_and_nothing_is_made_up_for() {
        let base = Instant::now();
        let cap = Cap::new(base, NonZeroU64::new(100).unwrap());
        let at = |millis| base + Duration::from_millis(millis);
        // Asked for, and given.
        for (now, given) in [
            (0, 0),
            (0, 10),
            (0, 20),
            (5, 30),
            (45, 45),
            (46, 55),
            (500, 500),
            (500, 510),
        ] {
            assert_eq!(cap.take(at(now)), at(given), "at {now} ms");
        }
    }
}
