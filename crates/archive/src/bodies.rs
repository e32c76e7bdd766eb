//! Where bodies are put: with their record, in a body block, or where an equal one lies already.

use std::collections::HashMap;
use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use zeroize::Zeroizing;

use crate::block::builder::{BlockHandle, Location};
use crate::error::WriteError;
use crate::format::{ChunkKind, Codec};
use crate::keyed::Keyed;
use crate::output::{Chunk, Output};

/// The version of a body block: plain bytes.
pub(crate) const VERSION: u16 = 1;

/// The name of a body by its contents, within one [`BodyStore`].
pub(crate) type Name = u128;

/// Gives bodies their names.
///
/// What is recorded may come from an attacker: if two bodies could be made to have one name, the archive
/// would say something that was never sent. A hash that is strong in everybody's hands (BLAKE3) took an
/// eighth of the time of writing. Nobody sees a name, though, nor the key, and so less will do: GHASH, the
/// polynomial over GF(2^128) that authenticates in AES-GCM, under a key that is drawn for each writer
/// and forgotten with it. Two bodies of up to `n` blocks of 16 bytes have the same value under at most
/// `n` + 1 of the 2^128 keys, whatever is in them and however they were chosen.
///
/// A tag of AES-GCM over nothing but associated data is GHASH of these and a mask, which is the same for
/// the same nonce. That a nonce must not come twice protects tags that are shown; these never are.
struct Names(LessSafeKey);

impl Names {
    fn new() -> Result<Self, Unspecified> {
        let mut secret = Zeroizing::new([0; 32]);
        // From the kernel as it is: aws-lc's own generator gathers entropy for milliseconds before it gives
        // its first byte, which is much for a name that nobody sees.
        getrandom::fill(&mut secret[..]).map_err(|_| Unspecified)?;
        let key = UnboundKey::new(&AES_256_GCM, &secret[..])?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// `None` where it cannot be computed, which nothing is known to cause: the body is not shared then.
    fn of(&self, bytes: &[u8]) -> Option<Name> {
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(bytes), &mut []);
        let tag = <[u8; 16]>::try_from(tag.ok()?.as_ref()).ok()?;
        Some(Name::from_le_bytes(tag))
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

/// Body blocks under construction, and where recent bodies lie.
#[derive(Debug)]
pub(crate) struct BodyStore {
    /// Bytes that shrink, and bytes that do not (images, compressed and encrypted bodies): the
    /// latter are read straight from the mapped file.
    open: [OpenBlock; 2],
    recent: Recent,
    names: Names,
    block_len: usize,
    /// [`Limits::min_shared_body`](crate::Limits::min_shared_body).
    min_shared: usize,
    /// Bytes that were not stored again.
    pub(crate) deduplicated: u64,
}

#[derive(Debug, Default)]
struct OpenBlock {
    bytes: Vec<u8>,
    handle: BlockHandle,
}

/// Fewer bytes than this say nothing about how dense they are.
const MIN_DENSE: usize = 4 * SAMPLE;
/// Bytes of each of the four samples of a body.
const SAMPLE: usize = 256;

impl BodyStore {
    pub(crate) fn new(
        block_len: usize,
        min_shared: usize,
        remembered: usize,
    ) -> Result<Self, Unspecified> {
        Ok(Self {
            open: Default::default(),
            recent: Recent::new(remembered),
            names: Names::new()?,
            block_len,
            min_shared,
            deduplicated: 0,
        })
    }

    /// The name of these bytes, if they are worth one.
    pub(crate) fn name(&self, bytes: &[u8]) -> Option<Name> {
        if bytes.len() < self.min_shared {
            return None;
        }
        self.names.of(bytes)
    }

    /// Where bytes of that name lie already.
    pub(crate) fn find(&mut self, name: Name) -> Option<Location> {
        let found = self.recent.get(name)?;
        self.deduplicated += u64::from(found.len);
        Some(found)
    }

    /// Remembers where bytes of that name lie.
    pub(crate) fn remember(&mut self, name: Name, location: Location) {
        self.recent.insert(name, location);
    }

    /// Puts bytes into body blocks, unless equal ones are there already.
    pub(crate) fn store(
        &mut self,
        bytes: &[u8],
        output: &mut Output,
        pieces: &mut Vec<Location>,
    ) -> Result<(), WriteError> {
        for bytes in bytes.chunks(self.block_len) {
            let name = self.name(bytes);
            if let Some(found) = name.and_then(|name| self.find(name)) {
                pieces.push(found);
                continue;
            }
            let codec = if is_dense(bytes) {
                Codec::Raw
            } else {
                Codec::Zstd
            };
            let [raw, zstd] = &self.open;
            let open = if codec == Codec::Raw { raw } else { zstd };
            if open.bytes.len() + bytes.len() > self.block_len {
                self.write(codec, output)?;
            }
            let [raw, zstd] = &mut self.open;
            let open = if codec == Codec::Raw { raw } else { zstd };
            let location = Location {
                block: open.handle.clone(),
                start: open.bytes.len() as u32,
                len: bytes.len() as u32,
            };
            open.bytes.extend_from_slice(bytes);
            if let Some(name) = name {
                self.recent.insert(name, location.clone());
            }
            match pieces.last_mut() {
                Some(last) if last.continues_at(&location) => last.len += location.len,
                _ => pieces.push(location),
            }
        }
        Ok(())
    }

    /// Writes the open blocks.
    pub(crate) fn flush(&mut self, output: &mut Output) -> Result<(), WriteError> {
        self.write(Codec::Raw, output)?;
        self.write(Codec::Zstd, output)
    }

    fn write(&mut self, codec: Codec, output: &mut Output) -> Result<(), WriteError> {
        let [raw, zstd] = &mut self.open;
        let open = if codec == Codec::Raw { raw } else { zstd };
        if open.bytes.is_empty() {
            return Ok(());
        }
        let offset = output.chunk(Chunk {
            kind: ChunkKind::Bodies,
            version: VERSION,
            codec,
            first_row: 0,
            references: &[],
            payload: &open.bytes,
        })?;
        open.handle.written_at(offset);
        open.handle = BlockHandle::default();
        open.bytes.clear();
        Ok(())
    }
}

impl Location {
    /// Whether `next` begins where this ends, in the same block.
    fn continues_at(&self, next: &Self) -> bool {
        self.block.is(&next.block) && self.start.checked_add(self.len) == Some(next.start)
    }
}

/// A map of bounded size: two generations, the older of which is forgotten when the younger is
/// full. What is found is as good as new.
#[derive(Debug)]
struct Recent {
    young: HashMap<Name, Location, Keyed>,
    old: HashMap<Name, Location, Keyed>,
    limit: usize,
}

impl Recent {
    fn new(limit: usize) -> Self {
        Self {
            young: HashMap::default(),
            old: HashMap::default(),
            limit: limit.div_ceil(2),
        }
    }

    fn get(&mut self, name: Name) -> Option<Location> {
        if let Some(found) = self.young.get(&name) {
            return Some(found.clone());
        }
        let (name, found) = self.old.remove_entry(&name)?;
        self.insert(name, found.clone());
        Some(found)
    }

    fn insert(&mut self, name: Name, location: Location) {
        if self.young.len() >= self.limit {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(name, location);
    }
}

/// Whether bytes look compressed or encrypted: whether every byte value is about as frequent.
///
/// The sum of squared counts of 1024 random bytes is about 5,100; of base64, 17,000; of any text or
/// machine code, more.
pub(crate) fn is_dense(bytes: &[u8]) -> bool {
    if bytes.len() < MIN_DENSE {
        return false;
    }
    // Four samples, since a file begins with headers and an archive with names.
    let samples = || {
        let parts = bytes.chunks(bytes.len().div_ceil(4));
        parts.map(|part| part.get(..SAMPLE).unwrap_or(part))
    };
    // Half of random bytes have their highest bit set, of text hardly any: that is seen at once.
    let begin = samples().flat_map(|sample| sample.get(..SAMPLE / 4));
    let high = begin.map(|begin| begin.iter().map(|byte| u32::from(byte >> 7)).sum::<u32>());
    if high.sum::<u32>() < SAMPLE as u32 / 4 {
        return false;
    }
    let mut counts = [0_u32; 256];
    for byte in samples().flatten() {
        if let Some(count) = counts.get_mut(usize::from(*byte)) {
            *count += 1;
        }
    }
    counts.iter().map(|count| count * count).sum::<u32>() < 7_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_not_dense_and_noise_is() {
        let text = "GET /reservations/available/seat?date=2026-11-21 ".repeat(200);
        assert!(!is_dense(text.as_bytes()));
        let noise: Vec<u8> = (0_u64..1024)
            .flat_map(|n| xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes()).to_le_bytes())
            .collect();
        assert!(is_dense(&noise));
        assert!(!is_dense(&[]));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_used_stays() {
        let mut recent = Recent::new(8);
        let location = || Location {
            block: BlockHandle::default(),
            start: 0,
            len: 1,
        };
        for n in 0..100 {
            recent.insert(n, location());
            assert!(recent.get(0).is_some(), "used all the time");
            assert!(recent.young.len() + recent.old.len() <= 8);
        }
        assert!(recent.get(1).is_none());
    }

    #[test]
    fn names_tell_any_two_bodies_apart_and_differ_from_writer_to_writer() {
        let names = Names::new().unwrap();
        let body = vec![7; 5000];
        let name = names.of(&body).unwrap();
        assert_eq!(names.of(&body), Some(name));
        for place in [0, 15, 16, 2500, 4999] {
            let mut other = body.clone();
            other[place] ^= 1;
            assert_ne!(names.of(&other), Some(name));
        }
        // A block of zeros adds nothing to the polynomial; the length does.
        assert_ne!(names.of(&[0; 4096]), names.of(&[0; 4112]));
        assert_ne!(Names::new().unwrap().of(&body), Some(name));
    }
}
