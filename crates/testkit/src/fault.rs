//! A seeded, deterministic source of bad luck.

/// A small generator of pseudo-random numbers (SplitMix64): equal seeds give equal sequences on
/// every platform and for ever, which a general-purpose crate does not promise.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that begins at `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; zero when `bound` is zero.
    pub const fn below(&mut self, bound: usize) -> usize {
        if bound == 0 {
            return 0;
        }
        // The modulo bias does not matter for tests.
        (self.next_u64() % bound as u64) as usize
    }

    /// True `percent` times out of a hundred.
    pub const fn chance(&mut self, percent: u8) -> bool {
        self.below(100) < percent as usize
    }

    /// That many pseudo-random bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next_u64().to_le_bytes()[0]).collect()
    }
}

/// What goes wrong on the way, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Items that vanish.
    pub loss: u8,
    /// Items that come twice; the second one up to `window` places later.
    pub duplicate: u8,
    /// Items that come late, by up to `window` places.
    pub reorder: u8,
    /// How many places late an item comes at most.
    pub window: usize,
}

impl Faults {
    /// The items as they arrive after these faults.
    pub fn inject<T: Clone>(self, rng: &mut Rng, items: &[T]) -> Vec<T> {
        let mut placed: Vec<(usize, T)> = Vec::with_capacity(items.len());
        for (place, item) in items.iter().enumerate() {
            if rng.chance(self.loss) {
                continue;
            }
            let late = if rng.chance(self.reorder) {
                rng.below(self.window + 1)
            } else {
                0
            };
            placed.push((place + late, item.clone()));
            if rng.chance(self.duplicate) {
                placed.push((place + rng.below(self.window + 1), item.clone()));
            }
        }
        // Stable: items of one place keep their order.
        placed.sort_by_key(|(place, _)| *place);
        placed.into_iter().map(|(_, item)| item).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_faults() {
        let items: Vec<u32> = (0..1000).collect();
        let faults = Faults {
            loss: 10,
            duplicate: 10,
            reorder: 10,
            window: 5,
        };
        let once = faults.inject(&mut Rng::new(7), &items);
        assert_eq!(once, faults.inject(&mut Rng::new(7), &items));
        assert_ne!(once, faults.inject(&mut Rng::new(8), &items));
        assert_ne!(once, items);
    }

    #[test]
    fn no_faults_change_nothing() {
        let items = [1, 2, 3];
        assert_eq!(Faults::default().inject(&mut Rng::new(1), &items), items);
    }
}
