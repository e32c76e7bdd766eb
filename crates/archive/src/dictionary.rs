//! What small blocks have in common is kept once.
//!
//! A recording of little traffic is flushed each second, and its blocks hold an exchange or two: most of
//! each is what every other says, too. A dictionary that zstd trains on the first of them says it
//! for all that follow.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use zstd::zstd_safe::DDict;

use crate::error::Damage;
use crate::writer::Limits;

/// The first bytes of a dictionary (RFC 8878 section 5). Others, which zstd would take as they are, are
/// not used: they have no tables, which are half of what a small block gains.
const MAGIC: [u8; 4] = 0xec30_a437_u32.to_le_bytes();

/// A dictionary of an archive, made ready for decompression.
pub(crate) struct Dictionary(DDict<'static>);

impl Dictionary {
    pub(crate) fn new(bytes: &[u8]) -> Result<Self, Damage> {
        // Of fewer bytes, zstd takes no notice of the magic.
        if !bytes.starts_with(&MAGIC) || bytes.len() < 8 {
            return Err(Damage::Dictionary);
        }
        // Whether its tables are sound, zstd says here.
        DDict::try_create(bytes).map(Self).ok_or(Damage::Dictionary)
    }

    pub(crate) fn digested(&self) -> &DDict<'static> {
        &self.0
    }
}

impl fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dictionary")
    }
}

/// The dictionaries of a file that were used last, by where they lie.
#[derive(Debug, Default)]
pub(crate) struct Dictionaries(Mutex<Vec<(u64, Arc<Dictionary>)>>);

impl Dictionaries {
    /// At most, about 100 KiB each. A recording has one at a time; a merged archive has those of its
    /// parts, in turns.
    const KEPT: usize = 16;

    /// The dictionary that lies there, read where it is not at hand.
    pub(crate) fn get(
        &self,
        offset: u64,
        read: impl FnOnce() -> Result<Dictionary, Damage>,
    ) -> Result<Arc<Dictionary>, Damage> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().iter().find(|(at, _)| *at == offset).cloned();
        if let Some((_, known)) = known {
            return Ok(known);
        }
        let dictionary = Arc::new(read()?);
        let mut kept = lock();
        if kept.len() >= Self::KEPT {
            kept.remove(0);
        }
        kept.push((offset, Arc::clone(&dictionary)));
        Ok(dictionary)
    }
}

/// Collects small blocks, of which a dictionary is trained.
#[derive(Debug, Default)]
pub(crate) struct Trainer {
    samples: Vec<u8>,
    lens: Vec<usize>,
    /// Small blocks since the last dictionary.
    since: usize,
    /// The last dictionary.
    trained: Vec<u8>,
    /// No block was compressed with it yet.
    is_new: bool,
    /// There was something to learn from, be it in vain.
    has_learned: bool,
}

impl Trainer {
    /// Of each block, that much: what training takes grows with it, and the recorder waits meanwhile.
    const SAMPLE: usize = 4 << 10;
    /// After so many small blocks, an hour of them, another dictionary is trained: traffic changes.
    const RENEWED: usize = 3600;

    /// For the writer of the next segment, which begins with what this one knows.
    pub(crate) fn for_next(&self) -> Self {
        Self {
            trained: self.trained.clone(),
            is_new: !self.trained.is_empty(),
            has_learned: self.has_learned,
            since: self.since,
            ..Self::default()
        }
    }

    /// A dictionary that blocks are to be compressed with from now on. It is given once.
    pub(crate) fn ready(&mut self) -> Option<&[u8]> {
        std::mem::take(&mut self.is_new).then_some(&self.trained)
    }

    /// Takes a small block. Where there are enough of them, and they have enough in common, it makes a
    /// dictionary.
    pub(crate) fn block(&mut self, bytes: &[u8], limits: &Limits) {
        self.since += 1;
        let is_learning = !self.has_learned || self.since >= Self::RENEWED;
        if limits.dictionary == 0 || !is_learning {
            return;
        }
        let sample = bytes.get(..Self::SAMPLE).unwrap_or(bytes);
        self.samples.extend_from_slice(sample);
        self.lens.push(sample.len());
        if self.lens.len() < limits.learned_blocks {
            return;
        }
        let mut dictionary = Vec::with_capacity(limits.dictionary);
        let trained =
            zstd::zstd_safe::train_from_buffer(&mut dictionary, &self.samples, &self.lens);
        *self = if trained.is_ok() {
            Self {
                trained: dictionary,
                is_new: true,
                ..Self::default()
            }
        } else {
            // The next blocks may have more in common, in an hour.
            self.for_next()
        };
        self.has_learned = true;
        self.since = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        dictionary: 1 << 10,
        ..Limits::DEFAULT
    };

    fn block(n: usize) -> Vec<u8> {
        let text = format!("GET /reservations/{n}?seat={n} HTTP/1.1\r\nhost: shop.example\r\n");
        text.repeat(3).into_bytes()
    }

    #[test]
    fn enough_blocks_make_a_dictionary_and_an_hour_of_them_another() {
        let mut trainer = Trainer::default();
        let mut at = Vec::new();
        for n in 1..2 * (LIMITS.learned_blocks + Trainer::RENEWED) {
            trainer.block(&block(n), &LIMITS);
            if let Some(dictionary) = trainer.ready() {
                assert!(dictionary.len() <= 1 << 10);
                Dictionary::new(dictionary).unwrap();
                at.push(n);
            }
            assert!(trainer.lens.len() < LIMITS.learned_blocks);
        }
        let second = LIMITS.learned_blocks + Trainer::RENEWED + LIMITS.learned_blocks - 1;
        assert_eq!(at, [LIMITS.learned_blocks, second]);
        let mut next = trainer.for_next();
        assert_eq!(next.ready(), Some(trainer.trained.as_slice()));
        assert_eq!(next.ready(), None);
    }

    #[test]
    fn blocks_without_anything_in_common_make_none_and_do_no_harm() {
        let mut trainer = Trainer::default();
        for _ in 0..2 * LIMITS.learned_blocks {
            trainer.block(b"", &LIMITS);
            assert_eq!(trainer.ready(), None);
        }
        let mut trainer = Trainer::default();
        for n in 0..2 * LIMITS.learned_blocks {
            trainer.block(
                &block(n),
                &Limits {
                    dictionary: 0,
                    ..LIMITS
                },
            );
        }
        assert_eq!(trainer.ready(), None);
    }

    #[test]
    fn what_is_not_a_dictionary_is_none() {
        for bytes in [
            &b""[..],
            b"plain bytes that zstd would take",
            &MAGIC,
            &[&MAGIC[..], &[7; 300]].concat(),
        ] {
            assert_eq!(Dictionary::new(bytes).map(|_| ()), Err(Damage::Dictionary));
        }
    }

    #[test]
    fn the_dictionaries_that_are_kept_are_bounded() {
        let mut trainer = Trainer::default();
        (0..LIMITS.learned_blocks).for_each(|n| trainer.block(&block(n), &LIMITS));
        let found = trainer.ready().unwrap();
        let kept = Dictionaries::default();
        for offset in 0..100 {
            kept.get(offset, || Dictionary::new(found)).unwrap();
            kept.get(offset, || unreachable!()).unwrap();
            assert!(kept.0.lock().unwrap().len() <= Dictionaries::KEPT);
        }
        assert!(kept.get(100, || Err(Damage::Checksum)).is_err());
    }
}
