//! The parts of an encrypted archive.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use rkyv::util::AlignedVec;
use zerocopy::{FromBytes, IntoBytes};
use zeroize::Zeroizing;

use super::age::{self, Secret, WrapError};
use super::keys::{Identities, Recipients};
use crate::error::Damage;
use crate::format::{InnerHeader, KEY_CONTEXT_LEN};

/// The key of one archive.
///
/// Each part is encrypted under it with a nonce of its own, drawn at random: a position or a count would
/// come again where an interrupted file is written on. NIST SP 800-38D allows 2^32 such parts under one
/// key; a file of that many would have 300 GiB of headers alone.
pub(crate) struct Cipher {
    key: LessSafeKey,
}

/// Bytes of a nonce, before the encrypted ones.
pub(crate) const NONCE_LEN: usize = 12;
/// Bytes of a tag, behind them.
pub(crate) const TAG_LEN: usize = 16;

impl Cipher {
    /// A new key, and how it is given to those who can read.
    pub(crate) fn generate(recipients: &Recipients) -> Result<(Self, Vec<u8>), Unspecified> {
        let mut secret: Secret = Zeroizing::new([0; 32]);
        rand::fill(&mut secret[..])?;
        let wrapped = age::wrap(&secret, recipients.as_slice())?;
        Ok((Self::new(&secret)?, wrapped))
    }

    /// The key that was wrapped.
    pub(crate) fn unwrap(wrapped: &[u8], identities: &Identities) -> Result<Self, WrapError> {
        let secret = age::unwrap(wrapped, identities.as_slice())?;
        Self::new(&secret).map_err(|_| WrapError::Damaged("its payload is no key of an archive"))
    }

    fn new(secret: &Secret) -> Result<Self, Unspecified> {
        let key = UnboundKey::new(&AES_256_GCM, &secret[..])?;
        Ok(Self {
            key: LessSafeKey::new(key),
        })
    }

    /// Encrypts what lies behind the first `start` bytes of the buffer, which are left as they are, and
    /// are authenticated as far as [`KEY_CONTEXT_LEN`]. Behind `start`, there is room for the nonce
    /// already.
    pub(crate) fn encrypt(&self, buffer: &mut Vec<u8>, start: usize) -> Result<(), Unspecified> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce)?;
        let (head, rest) = buffer.split_at_mut_checked(start).ok_or(Unspecified)?;
        let context = head.get(..KEY_CONTEXT_LEN).ok_or(Unspecified)?;
        let (place, plain) = rest.split_first_chunk_mut().ok_or(Unspecified)?;
        *place = nonce;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(context), plain)?;
        buffer.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens what [`Cipher::encrypt`] made of a part, into a buffer that is reused.
    pub(crate) fn decrypt(
        &self,
        context: &[u8],
        stored: &[u8],
        mut buffer: AlignedVec,
    ) -> Result<Opened, Damage> {
        let (nonce, rest) = stored.split_first_chunk().ok_or(Damage::Length)?;
        let (encrypted, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or(Damage::Length)?;
        let context = context.get(..KEY_CONTEXT_LEN).ok_or(Damage::Length)?;
        // No longer than the file.
        buffer.resize(encrypted.len(), 0);
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.key
            .open_separate_gather(nonce, Aad::from(context), encrypted, tag, &mut buffer)
            .map_err(|_| Damage::Forged)?;
        Opened::new(buffer)
    }
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher")
    }
}

/// A part that was decrypted.
#[derive(Debug)]
pub(crate) struct Opened {
    header: InnerHeader,
    buffer: AlignedVec,
    references_end: usize,
}

impl Opened {
    fn new(buffer: AlignedVec) -> Result<Self, Damage> {
        let (header, rest) = InnerHeader::read_from_prefix(&buffer).map_err(|_| Damage::Length)?;
        let references = header.n_references.get() as usize * 8;
        if references > rest.len() {
            return Err(Damage::Length);
        }
        Ok(Self {
            references_end: size_of::<InnerHeader>() + references,
            header,
            buffer,
        })
    }

    pub(crate) fn header(&self) -> &InnerHeader {
        &self.header
    }

    pub(crate) fn references(&self) -> &[u8] {
        let references = size_of::<InnerHeader>()..self.references_end;
        self.buffer.get(references).unwrap_or_default()
    }

    /// The payload. It begins at a multiple of 8 bytes, and where there are no references, of 16.
    pub(crate) fn stored(&self) -> &[u8] {
        self.buffer.get(self.references_end..).unwrap_or_default()
    }

    pub(crate) fn into_buffer(self) -> AlignedVec {
        self.buffer
    }
}

/// Puts a part together, to be encrypted: behind `start` bytes of the buffer, room for the nonce, the
/// inner header, and what follows it.
pub(crate) fn begin(buffer: &mut Vec<u8>, inner: &InnerHeader) {
    buffer.extend_from_slice(&[0; NONCE_LEN]);
    buffer.extend_from_slice(inner.as_bytes());
}

/// How much of the decrypted index may be held by the files of an archive, together.
///
/// Pages of the index are read in place. Those of an encrypted file have to be decrypted for that, and
/// stay: views into them go wherever the archive goes.
#[derive(Debug)]
pub(crate) struct Budget(AtomicU64);

impl Default for Budget {
    fn default() -> Self {
        Self::new(MAX_OPENED_INDEX)
    }
}

/// About 25 million exchanges.
const MAX_OPENED_INDEX: u64 = 1 << 30;

impl Budget {
    pub(crate) fn new(len: u64) -> Self {
        Self(AtomicU64::new(len))
    }

    /// Takes that many bytes; `false` where there are not so many left.
    pub(crate) fn take(&self, len: u64) -> bool {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(len)
            })
            .is_ok()
    }

    /// Gives bytes back.
    pub(crate) fn give(&self, len: u64) {
        self.0.fetch_add(len, Ordering::Relaxed);
    }
}
