//! Cipher suites, keys, and the opening of single records.

use std::fmt;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{self, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{hkdf, hmac, tls_prf};
use tapedeck_model::Direction;

use crate::key_log::Secret;
use crate::records::Header;

/// The hash of a suite's key schedule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Hash {
    Sha1,
    Sha256,
    Sha384,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Bulk {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
    /// The key length, and the hash of the MAC.
    Cbc(usize, Hash),
}

/// A cipher suite that can be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Suite {
    bulk: Bulk,
    hash: Hash,
    pub(crate) tls13: bool,
}

impl Suite {
    /// The suite of that number in the registry of IANA. How the key was exchanged does not matter:
    /// the log holds what came of it.
    pub(crate) fn from_number(number: u16) -> Option<Self> {
        use Bulk::{Aes128Gcm, Aes256Gcm, Cbc, ChaCha20Poly1305};
        use Hash::{Sha1, Sha256, Sha384};
        let (bulk, hash) = match number {
            0x1301 | 0x009c | 0x009e | 0xc02b | 0xc02f => (Aes128Gcm, Sha256),
            0x1302 | 0x009d | 0x009f | 0xc02c | 0xc030 => (Aes256Gcm, Sha384),
            // Between parties that share a key beforehand (RFC 5487, RFC 8442).
            0x00a8 | 0x00aa | 0x00ac | 0xd001 => (Aes128Gcm, Sha256),
            0x00a9 | 0x00ab | 0x00ad | 0xd002 => (Aes256Gcm, Sha384),
            0x1303 | 0xcca8..=0xccae => (ChaCha20Poly1305, Sha256),
            0x002f | 0x0033 | 0xc009 | 0xc013 => (Cbc(16, Sha1), Sha256),
            0x0035 | 0x0039 | 0xc00a | 0xc014 => (Cbc(32, Sha1), Sha256),
            0x003c | 0x0067 | 0xc023 | 0xc027 => (Cbc(16, Sha256), Sha256),
            0x003d | 0x006b => (Cbc(32, Sha256), Sha256),
            0xc024 | 0xc028 => (Cbc(32, Sha384), Sha384),
            _ => return None,
        };
        Some(Self {
            bulk,
            hash,
            tls13: number >> 8 == 0x13,
        })
    }

    /// The bytes that every record adds to its content, where that does not depend on the content:
    /// the tag, and the type (TLS 1.3, without padding) or half of the nonce.
    pub(crate) const fn cost(self) -> Option<u64> {
        match (self.bulk, self.tls13) {
            (Bulk::Cbc(..), _) => None,
            (_, true) => Some(TAG as u64 + 1),
            (Bulk::ChaCha20Poly1305, false) => Some(TAG as u64),
            (Bulk::Aes128Gcm | Bulk::Aes256Gcm, false) => Some(TAG as u64 + 8),
        }
    }

    fn aead(self) -> Option<(&'static aead::Algorithm, usize)> {
        match self.bulk {
            Bulk::Aes128Gcm => Some((&aead::AES_128_GCM, 16)),
            Bulk::Aes256Gcm => Some((&aead::AES_256_GCM, 32)),
            Bulk::ChaCha20Poly1305 => Some((&aead::CHACHA20_POLY1305, 32)),
            Bulk::Cbc(..) => None,
        }
    }
}

/// Opens the records of one direction under one key.
pub(crate) struct Opener(How);

enum How {
    /// TLS 1.3; and ChaCha20-Poly1305 in TLS 1.2, which has the same nonce (RFC 7905).
    Implicit {
        key: LessSafeKey,
        iv: [u8; 12],
        tls13: bool,
    },
    /// AES-GCM in TLS 1.2: half of the nonce is in the record (RFC 5288).
    Explicit { key: LessSafeKey, salt: [u8; 4] },
    Cbc {
        key: Box<DecryptingKey>,
        mac: Box<hmac::Key>,
        encrypt_then_mac: bool,
    },
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener(..)")
    }
}

const TAG: usize = 16;
const BLOCK: usize = 16;

impl Opener {
    /// The keys of TLS 1.3 (RFC 8446 section 7.3).
    pub(crate) fn tls13(suite: Suite, secret: &Secret) -> Option<Self> {
        let (algorithm, key_len) = suite.aead()?;
        let (mut key, mut iv) = ([0; 32], [0; 12]);
        let key = key.get_mut(..key_len)?;
        expand(suite.hash, secret, b"key", key)?;
        expand(suite.hash, secret, b"iv", &mut iv)?;
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?);
        Some(Self(How::Implicit {
            key,
            iv,
            tls13: true,
        }))
    }

    /// The keys of TLS 1.2 (RFC 5246 section 6.3). `randoms`: the server's, then the client's.
    pub(crate) fn tls12(
        suite: Suite,
        master: &Secret,
        randoms: &[u8; 64],
        encrypt_then_mac: bool,
        direction: Direction,
    ) -> Option<Self> {
        let (mac_len, key_len, iv_len) = match suite.bulk {
            Bulk::Aes128Gcm => (0, 16, 4),
            Bulk::Aes256Gcm => (0, 32, 4),
            Bulk::ChaCha20Poly1305 => (0, 32, 12),
            Bulk::Cbc(key_len, hash) => (hash.hmac().tag_len(), key_len, 0),
        };
        let prf = match suite.hash {
            Hash::Sha1 | Hash::Sha256 => &tls_prf::P_SHA256,
            Hash::Sha384 => &tls_prf::P_SHA384,
        };
        let block = tls_prf::Secret::new(prf, master.as_bytes())
            .ok()?
            .derive(b"key expansion", randoms, 2 * (mac_len + key_len + iv_len))
            .ok()?;
        let mut rest = block.as_ref();
        // The block holds the client's, then the server's, of each kind in turn.
        let mut part = |len: usize| {
            let (client, behind) = rest.split_at_checked(len)?;
            let (server, behind) = behind.split_at_checked(len)?;
            rest = behind;
            Some(match direction {
                Direction::ToServer => client,
                Direction::ToClient => server,
            })
        };
        let (mac, key, iv) = (part(mac_len)?, part(key_len)?, part(iv_len)?);
        Some(Self(match suite.bulk {
            Bulk::Aes128Gcm | Bulk::Aes256Gcm | Bulk::ChaCha20Poly1305 => {
                let (algorithm, _) = suite.aead()?;
                let key = LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?);
                match iv.try_into() {
                    Ok(salt) => How::Explicit { key, salt },
                    Err(_) => How::Implicit {
                        key,
                        iv: iv.try_into().ok()?,
                        tls13: false,
                    },
                }
            }
            Bulk::Cbc(_, hash) => {
                let algorithm = if key_len == 16 {
                    &cipher::AES_128
                } else {
                    &cipher::AES_256
                };
                How::Cbc {
                    key: Box::new(
                        DecryptingKey::cbc(UnboundCipherKey::new(algorithm, key).ok()?).ok()?,
                    ),
                    mac: Box::new(hmac::Key::new(hash.hmac(), mac)),
                    encrypt_then_mac,
                }
            }
        }))
    }

    /// Opens a record under a sequence number: its plaintext replaces `out`, its content type is
    /// returned. `None`: not this key, or not this number.
    pub(crate) fn open(
        &self,
        seq: u64,
        header: Header,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<u8> {
        out.clear();
        match &self.0 {
            How::Implicit { key, iv, tls13 } => {
                let mut nonce = *iv;
                for (byte, seq) in nonce.iter_mut().skip(4).zip(seq.to_be_bytes()) {
                    *byte ^= seq;
                }
                let nonce = Nonce::assume_unique_for_key(nonce);
                out.extend_from_slice(payload);
                let len = if *tls13 {
                    open_aead(key, nonce, &header.bytes, out)?
                } else {
                    let len = payload.len().checked_sub(TAG)?;
                    open_aead(key, nonce, &additional(seq, header, len)?, out)?
                };
                out.truncate(len);
                if !*tls13 {
                    return Some(header.kind());
                }
                // The type is the last byte that is not padding (RFC 8446 section 5.4).
                let last = out.iter().rposition(|byte| *byte != 0)?;
                let kind = out.get(last).copied();
                out.truncate(last);
                kind
            }
            How::Explicit { key, salt } => {
                let (explicit, payload) = payload.split_first_chunk::<8>()?;
                let mut nonce = [0; 12];
                for (byte, from) in nonce.iter_mut().zip(salt.iter().chain(explicit)) {
                    *byte = *from;
                }
                out.extend_from_slice(payload);
                let len = payload.len().checked_sub(TAG)?;
                let nonce = Nonce::assume_unique_for_key(nonce);
                let len = open_aead(key, nonce, &additional(seq, header, len)?, out)?;
                out.truncate(len);
                Some(header.kind())
            }
            How::Cbc {
                key,
                mac,
                encrypt_then_mac,
            } => {
                if *encrypt_then_mac {
                    open_then_mac(key, mac, seq, header, payload, out)
                } else {
                    open_mac_then(key, mac, seq, header, payload, out)
                }
            }
        }
    }
}

fn open_aead(key: &LessSafeKey, nonce: Nonce, aad: &[u8], data: &mut [u8]) -> Option<usize> {
    key.open_in_place(nonce, Aad::from(aad), data)
        .ok()
        .map(|plain| plain.len())
}

/// What TLS 1.2 authenticates beside the text (RFC 5246 section 6.2.3.3).
fn additional(seq: u64, header: Header, len: usize) -> Option<[u8; 13]> {
    let mut bytes = [0; 13];
    let [kind, major, minor, ..] = header.bytes;
    let [len_high, len_low] = u16::try_from(len).ok()?.to_be_bytes();
    let header = [kind, major, minor, len_high, len_low];
    for (byte, from) in bytes
        .iter_mut()
        .zip(seq.to_be_bytes().into_iter().chain(header))
    {
        *byte = from;
    }
    Some(bytes)
}

/// AES-CBC with encrypt-then-MAC (RFC 7366).
fn open_then_mac(
    key: &DecryptingKey,
    mac: &hmac::Key,
    seq: u64,
    header: Header,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Option<u8> {
    let len = payload.len().checked_sub(mac.algorithm().tag_len())?;
    let (sealed, tag) = payload.split_at_checked(len)?;
    let mut text = hmac::Context::with_key(mac);
    text.update(&additional(seq, header, len)?);
    text.update(sealed);
    if text.sign().as_ref() != tag {
        return None;
    }
    decrypt_cbc(key, sealed, out)?;
    Some(header.kind())
}

/// AES-CBC as it was first: the MAC is within (RFC 5246 section 6.2.3.2). The timing of the checks
/// tells nobody anything: no peer waits for us.
fn open_mac_then(
    key: &DecryptingKey,
    mac: &hmac::Key,
    seq: u64,
    header: Header,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Option<u8> {
    decrypt_cbc(key, payload, out)?;
    let len = out.len().checked_sub(mac.algorithm().tag_len())?;
    let (plain, tag) = out.split_at_checked(len)?;
    let mut text = hmac::Context::with_key(mac);
    text.update(&additional(seq, header, len)?);
    text.update(plain);
    if text.sign().as_ref() != tag {
        return None;
    }
    out.truncate(len);
    Some(header.kind())
}

/// Decrypts, and takes the padding off.
fn decrypt_cbc(key: &DecryptingKey, sealed: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (iv, text) = sealed.split_first_chunk::<BLOCK>()?;
    if text.is_empty() || !text.len().is_multiple_of(BLOCK) {
        return None;
    }
    out.extend_from_slice(text);
    key.decrypt(out, DecryptionContext::Iv128(FixedLength::from(*iv)))
        .ok()?;
    let padding = *out.last()?;
    let len = out.len().checked_sub(usize::from(padding) + 1)?;
    if out.get(len..)?.iter().any(|byte| *byte != padding) {
        return None;
    }
    out.truncate(len);
    Some(())
}

impl Hash {
    const fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
        }
    }
}

/// The traffic secret behind a KeyUpdate (RFC 8446 section 7.2).
pub(crate) fn next_secret(suite: Suite, secret: &Secret) -> Option<Secret> {
    let mut next = [0; 48];
    let next = next.get_mut(..secret.as_bytes().len())?;
    expand(suite.hash, secret, b"traffic upd", next)?;
    Secret::new(next)
}

/// HKDF-Expand-Label without a context (RFC 8446 section 7.1).
fn expand(hash: Hash, secret: &Secret, label: &[u8], out: &mut [u8]) -> Option<()> {
    struct Len(usize);
    impl hkdf::KeyType for Len {
        fn len(&self) -> usize {
            self.0
        }
    }
    let algorithm = match hash {
        Hash::Sha1 | Hash::Sha256 => hkdf::HKDF_SHA256,
        Hash::Sha384 => hkdf::HKDF_SHA384,
    };
    let out_len = u16::try_from(out.len()).ok()?.to_be_bytes();
    let label_len = [u8::try_from(b"tls13 ".len() + label.len()).ok()?];
    let info: [&[u8]; 5] = [&out_len, &label_len, b"tls13 ", label, &[0]];
    hkdf::Prk::new_less_safe(algorithm, secret.as_bytes())
        .expand(&info, Len(out.len()))
        .and_then(|okm| okm.fill(out))
        .ok()
}
