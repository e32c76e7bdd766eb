//! A time wheel: when to look at which connection again.

use tapedeck_model::Timestamp;

/// One deadline for each connection, in buckets of a quarter of a second.
///
/// The hot path never touches it: a packet only notes when its connection was last seen, and the
/// owner, when a deadline passes, works out the true one and schedules anew. All operations take
/// constant time; each connection has exactly one place.
#[derive(Debug)]
pub(crate) struct Wheel {
    first: Vec<u32>,
    /// A bit for each bucket that is not empty.
    occupied: [u64; BUCKETS / 64],
    links: Vec<Link>,
    /// The tick whose bucket was emptied last. Every entry lies in the `BUCKETS - 1` ticks behind.
    current: i64,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    before: u32,
    after: u32,
    bucket: u32,
}

/// 512 seconds; later deadlines are looked at then, and scheduled again.
const BUCKETS: usize = 2048;
const TICK_NANOS: i64 = 250_000_000;
const NONE: u32 = u32::MAX;

impl Wheel {
    pub(crate) fn new() -> Self {
        Self {
            first: vec![NONE; BUCKETS],
            occupied: [0; BUCKETS / 64],
            links: Vec::new(),
            current: 0,
        }
    }

    /// Begins to turn, or steps back with a clock that was set back: entries keep their buckets,
    /// and so are looked at within one turn.
    pub(crate) const fn set(&mut self, now: Timestamp) {
        self.current = tick(now);
    }

    /// Puts the slot where `deadline` is, from wherever it was. It comes up to a tick late and
    /// never early. Returns whether it lies in another bucket than before.
    pub(crate) fn schedule(&mut self, slot: u32, deadline: Timestamp) -> bool {
        let last = self.current.saturating_add(BUCKETS as i64 - 1);
        let due = tick(deadline)
            .saturating_add(1)
            .clamp(self.current.saturating_add(1), last);
        let bucket = due.rem_euclid(BUCKETS as i64) as u32;
        let before = self
            .links
            .get(slot as usize)
            .map_or(NONE, |link| link.bucket);
        if before == bucket {
            return false;
        }
        self.cancel(slot);
        if self.links.len() <= slot as usize {
            let empty = Link {
                before: NONE,
                after: NONE,
                bucket: NONE,
            };
            self.links.resize(slot as usize + 1, empty);
        }
        let after = std::mem::replace(&mut self.first[bucket as usize], slot);
        self.links[slot as usize] = Link {
            before: NONE,
            after,
            bucket,
        };
        if let Some(after) = self.links.get_mut(after as usize) {
            after.before = slot;
        }
        self.occupied[bucket as usize / 64] |= 1 << (bucket % 64);
        true
    }

    /// Takes the slot out.
    pub(crate) fn cancel(&mut self, slot: u32) {
        let Some(link) = self.links.get_mut(slot as usize) else {
            return;
        };
        let Link {
            before,
            after,
            bucket,
        } = *link;
        if bucket == NONE {
            return;
        }
        link.bucket = NONE;
        if let Some(after) = self.links.get_mut(after as usize) {
            after.before = before;
        }
        match self.links.get_mut(before as usize) {
            Some(before) => before.after = after,
            None => {
                self.first[bucket as usize] = after;
                if after == NONE {
                    self.occupied[bucket as usize / 64] &= !(1 << (bucket % 64));
                }
            }
        }
    }

    /// A slot whose deadline has passed. It stays where it is until it is scheduled or cancelled,
    /// which must happen before the next call.
    pub(crate) fn due(&mut self, now: Timestamp) -> Option<u32> {
        let now = tick(now);
        if now.saturating_sub(self.current) > BUCKETS as i64 {
            // One turn looks at every bucket.
            self.current = now - BUCKETS as i64;
        }
        while self.current < now {
            let first = self.first[(self.current + 1).rem_euclid(BUCKETS as i64) as usize];
            if first != NONE {
                return Some(first);
            }
            self.current += 1;
        }
        None
    }

    /// The slot whose deadline is nearest.
    pub(crate) fn nearest(&self) -> Option<u32> {
        self.nearest_tick()
            .map(|tick| self.first[tick.rem_euclid(BUCKETS as i64) as usize])
    }

    /// When [`due`](Self::due) will next have something to say.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        let nanos = self.nearest_tick()?.saturating_mul(TICK_NANOS);
        Some(Timestamp::from_nanos(nanos))
    }

    fn nearest_tick(&self) -> Option<i64> {
        let start = (self.current + 1).rem_euclid(BUCKETS as i64) as usize;
        let words = BUCKETS / 64;
        // One word more than there are: the first is looked at in two parts.
        (0..=words).find_map(|step| {
            let word = (start / 64 + step) % words;
            let mask = match step {
                0 => u64::MAX << (start % 64),
                last if last == words => !(u64::MAX << (start % 64)),
                _ => u64::MAX,
            };
            let bits = self.occupied[word] & mask;
            (bits != 0).then(|| {
                let bucket = (word * 64 + bits.trailing_zeros() as usize) as i64;
                let ahead = (bucket - start as i64).rem_euclid(BUCKETS as i64);
                self.current + 1 + ahead
            })
        })
    }
}

const fn tick(at: Timestamp) -> i64 {
    at.as_nanos().div_euclid(TICK_NANOS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    proptest! {
        /// Against a map: nothing comes early, nothing later than a tick, nothing is forgotten.
        #[test]
        fn deadlines_pass_in_time(
            start in -10_000_000_000_i64..10_000_000_000,
            steps in proptest::collection::vec((0_u32..20, 0_u64..600_000, 0_u64..20_000), 1..60),
        ) {
            let mut wheel = Wheel::new();
            let mut now = Timestamp::from_nanos(start);
            wheel.set(now);
            let mut model = BTreeMap::new();
            for (slot, delay, pass) in steps {
                let deadline = now.saturating_add(Duration::from_millis(delay));
                wheel.schedule(slot, deadline);
                model.insert(slot, deadline);
                prop_assert_eq!(wheel.nearest().is_some(), !model.is_empty());
                prop_assert!(wheel.next_deadline().is_some_and(|at| at > now));
                now = now.saturating_add(Duration::from_millis(pass));
                while let Some(slot) = wheel.due(now) {
                    let deadline = model[&slot];
                    if deadline <= now {
                        model.remove(&slot);
                        wheel.cancel(slot);
                    } else {
                        // Beyond the horizon: looked at, and put off.
                        prop_assert!(wheel.schedule(slot, deadline));
                    }
                }
                let slack = Duration::from_nanos(2 * TICK_NANOS as u64);
                for deadline in model.values() {
                    prop_assert!(deadline.saturating_add(slack) > now);
                }
            }
        }
    }
}
