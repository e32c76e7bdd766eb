//! Numbers drawn from a seed: what the crowd does and the ids that the service makes up.
//!
//! Not for secrets. A generator of its own (SplitMix64, <https://prng.di.unimi.it/splitmix64.c>)
//! keeps a seed's meaning the same when a dependency changes its algorithm.

use std::hash::{BuildHasher, RandomState};
use std::ops::RangeInclusive;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A sequence of numbers that a seed determines.
#[derive(Clone, Debug)]
pub struct Draw {
    state: u64,
}

impl Draw {
    /// The sequence of `seed` for the participant of number `index`: each has one of their own,
    /// so that what one draws does not depend on when the others draw.
    #[must_use]
    pub fn new(seed: u64, index: u64) -> Self {
        Self {
            state: seed ^ xxh3_64_with_seed(&index.to_le_bytes(), seed),
        }
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 where `end` is 0. The bias of the remainder is below 2^-32 for
    /// what is drawn here.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number().checked_rem(end).unwrap_or(0)
    }

    /// A number within `range`.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        let width = range.end().saturating_sub(*range.start()).saturating_add(1);
        range.start() + self.below(width)
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// The `nth` name that `owner` is given under `seed`, for the purpose `kind`: 128 bits.
///
/// It depends on nothing else, so a fresh instance with the same seed gives a user who asks for
/// the same things in the same order the same names.
#[must_use]
pub fn name(seed: u64, kind: &str, owner: &str, nth: u64) -> u128 {
    let text = format!("{kind}\0{owner}\0{nth}");
    let high = xxh3_64_with_seed(text.as_bytes(), seed);
    let low = xxh3_64_with_seed(text.as_bytes(), high);
    (u128::from(high) << 64) | u128::from(low)
}

/// A seed that differs from run to run.
#[must_use]
pub fn fresh_seed() -> u64 {
    RandomState::new().hash_one("concert")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_an_index_determine_the_sequence() {
        let take = |seed, index| {
            let mut draw = Draw::new(seed, index);
            [draw.number(), draw.number(), draw.number()]
        };
        assert_eq!(take(1, 2), take(1, 2));
        assert_ne!(take(1, 2), take(1, 3));
        assert_ne!(take(1, 2), take(2, 2));
    }

    #[test]
    fn ranges_are_kept() {
        let mut draw = Draw::new(7, 0);
        for _ in 0..1_000 {
            assert!((3..=5).contains(&draw.within(3..=5)));
            assert!(draw.below(4) < 4);
        }
        assert_eq!(draw.below(0), 0);
        assert_eq!(draw.within(9..=9), 9);
        assert!(draw.chance(100));
        assert!(!draw.chance(0));
    }

    #[test]
    fn names_differ_by_every_part() {
        let base = name(1, "token", "u", 0);
        assert_eq!(base, name(1, "token", "u", 0));
        for other in [
            name(2, "token", "u", 0),
            name(1, "reservation", "u", 0),
            name(1, "token", "v", 0),
            name(1, "token", "u", 1),
        ] {
            assert_ne!(base, other);
        }
    }
}
