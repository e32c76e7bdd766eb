//! Numbers are looked up by a hash that is cheap, and different in every process.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;

/// A hash of numbers: one multiplication by a number that nobody knows, so that ids in a stranger's
/// archive cannot be chosen to collide. For keys of up to 64 bits; a longer one is hashed piece by piece.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keyed(u64);

impl Default for Keyed {
    fn default() -> Self {
        static KEY: OnceLock<u64> = OnceLock::new();
        Self(*KEY.get_or_init(|| RandomState::new().hash_one(()) | 1))
    }
}

impl BuildHasher for Keyed {
    type Hasher = Product;

    fn build_hasher(&self) -> Product {
        Product {
            key: self.0,
            hash: 0,
        }
    }
}

/// See [`Keyed`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    key: u64,
    hash: u64,
}

impl Hasher for Product {
    fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(8) {
            let piece = piece
                .iter()
                .fold(0, |all, byte| all << 8 | u64::from(*byte));
            self.write_u64(piece);
        }
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        let product = u128::from(self.hash ^ number) * u128::from(self.key);
        // Tables look at the lowest and at the highest bits of a hash.
        self.hash = product as u64 ^ (product >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.hash
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbers_that_follow_each_other_do_not_meet() {
        // Not one that is drawn: a few in a hundred are worse at this than most.
        let keyed = Keyed(0x9e37_79b9_7f4a_7c15);
        for step in [1, 1 << 20, 1 << 40, 1 << 57] {
            let hashes: Vec<u64> = (0..100_u64).map(|n| keyed.hash_one(n * step)).collect();
            let distinct = |shift: u32| {
                let ends: HashSet<u64> = hashes.iter().map(|hash| hash >> shift << 57).collect();
                ends.len()
            };
            // Of 128 places; 69 of them would be taken by chance.
            assert!(distinct(0) > 40 && distinct(57) > 40, "{step}: {hashes:x?}");
        }
    }

    #[test]
    fn longer_keys_are_hashed_in_full() {
        let keyed = Keyed::default();
        let hash = |key: u128| keyed.hash_one(key);
        assert_ne!(hash(1), hash(2));
        assert_ne!(hash(1 << 64), hash(2 << 64));
        assert_ne!(hash(1), hash(1 << 64 | 1));
    }
}
