//! Distinct strings, numbered.

use xxhash_rust::xxh3::xxh3_64;

/// Distinct strings in the order in which they came, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    /// Number + 1 of the string; 0: free. A power of two of places, at most half of them taken.
    /// A page takes few enough strings that ones made to collide cost little.
    slots: Vec<u32>,
    /// The strings that were asked for last: most of what a page names are a few, in turns.
    last: [u32; 4],
    pub(crate) ends: Vec<u32>,
    pub(crate) bytes: Vec<u8>,
}

impl Interner {
    /// The number of a string, and whether it is new.
    pub(crate) fn number(&mut self, string: &[u8]) -> (u64, bool) {
        let recent = self.last.iter().find(|number| {
            let number = **number as usize;
            number < self.ends.len() && self.string(number) == string
        });
        if let Some(number) = recent {
            return (u64::from(*number), false);
        }
        let (number, is_new) = self.look_up(string);
        self.last.rotate_right(1);
        if let Some(first) = self.last.first_mut() {
            *first = number as u32;
        }
        (number, is_new)
    }

    fn look_up(&mut self, string: &[u8]) -> (u64, bool) {
        if self.slots.len() < 2 * (self.ends.len() + 1) {
            self.grow();
        }
        let mask = self.slots.len() - 1;
        let mut slot = xxh3_64(string) as usize & mask;
        loop {
            match self.slots.get(slot).copied().unwrap_or(0) {
                0 => break,
                taken if self.string(taken as usize - 1) == string => {
                    return (u64::from(taken) - 1, false);
                }
                _ => slot = (slot + 1) & mask,
            }
        }
        self.bytes.extend_from_slice(string);
        self.ends.push(self.bytes.len() as u32);
        if let Some(free) = self.slots.get_mut(slot) {
            *free = self.ends.len() as u32;
        }
        (self.ends.len() as u64 - 1, true)
    }

    pub(crate) fn clear(&mut self) {
        self.slots.fill(0);
        self.ends.clear();
        self.bytes.clear();
    }

    fn string(&self, number: usize) -> &[u8] {
        let end = self.ends.get(number).copied().unwrap_or(0);
        let start = match number.checked_sub(1) {
            Some(before) => self.ends.get(before).copied().unwrap_or(0),
            None => 0,
        };
        self.bytes
            .get(start as usize..end as usize)
            .unwrap_or_default()
    }

    fn grow(&mut self) {
        let len = (2 * self.slots.len()).max(64);
        let mut slots = vec![0; len];
        for number in 0..self.ends.len() {
            let mut slot = xxh3_64(self.string(number)) as usize & (len - 1);
            while slots.get(slot).is_some_and(|taken| *taken != 0) {
                slot = (slot + 1) & (len - 1);
            }
            if let Some(free) = slots.get_mut(slot) {
                *free = number as u32 + 1;
            }
        }
        self.slots = slots;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_have_one_number() {
        let mut interner = Interner::default();
        for round in 0..3 {
            for n in 0..1000_u64 {
                let string = if n == 0 { String::new() } else { n.to_string() };
                assert_eq!(interner.number(string.as_bytes()), (n, round == 0));
            }
        }
        assert_eq!(interner.ends.len(), 1000);
        interner.clear();
        assert_eq!(interner.number(b"7"), (0, true));
    }
}
