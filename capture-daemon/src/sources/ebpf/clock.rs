//! Wall-clock time for events that carry `CLOCK_BOOTTIME`.

use tapedeck_model::Timestamp;

use crate::sys::{self, Clock};

/// Converts the time since boot into wall-clock time.
///
/// Both clocks run at the same rate, as NTP slews both, so their difference changes only when the
/// wall clock is set. Measured values of it differ by the time a measurement takes: they replace
/// the one in use only when the clock was set, so that the times of one capture stay comparable to
/// the nanosecond.
#[derive(Debug)]
pub(super) struct WallClock {
    offset: i64,
}

/// A difference above this is a clock that was set, below it an imprecise measurement.
const SET: u64 = 1_000_000;

impl WallClock {
    pub(super) fn new() -> Self {
        Self { offset: measure() }
    }

    /// Measures again. Cheap; called about once a second.
    pub(super) fn refresh(&mut self) {
        self.adopt(measure());
    }

    pub(super) fn at(&self, since_boot: u64) -> Timestamp {
        Timestamp::from_nanos(since_boot.cast_signed().saturating_add(self.offset))
    }

    fn adopt(&mut self, offset: i64) {
        if offset.abs_diff(self.offset) > SET {
            self.offset = offset;
        }
    }
}

/// The difference between the clocks, from the one of some measurements that was interrupted
/// least.
fn measure() -> i64 {
    let once = |_| {
        let before = sys::now(Clock::Boot);
        let wall = sys::now(Clock::Wall);
        let after = sys::now(Clock::Boot);
        (after - before, wall - before - (after - before) / 2)
    };
    (0..5).map(once).min().map_or(0, |(_, offset)| offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_now_has_the_time_of_now() {
        let clock = WallClock::new();
        let before = sys::now(Clock::Wall);
        let at = clock.at(sys::now(Clock::Boot).cast_unsigned());
        let after = sys::now(Clock::Wall);
        let (early, late) = (before - SET.cast_signed(), after + SET.cast_signed());
        assert!((early..=late).contains(&at.as_nanos()));
    }

    #[test]
    fn only_a_clock_that_was_set_changes_the_offset() {
        let mut clock = WallClock { offset: 5_000_000 };
        clock.adopt(5_000_900);
        assert_eq!(clock.at(1), Timestamp::from_nanos(5_000_001));
        clock.adopt(-7_000_000);
        assert_eq!(clock.at(1), Timestamp::from_nanos(-6_999_999));
    }
}
