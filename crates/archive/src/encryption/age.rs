//! A secret, wrapped for recipients: a small file of [age](https://age-encryption.org/v1), which the
//! program of that name opens, too. Only what archives need of it: X25519, and one piece of payload.
//!
//! ```text
//! age-encryption.org/v1
//! -> X25519 EPHEMERAL-SHARE        for each recipient; others are passed over
//! WRAPPED-FILE-KEY
//! --- MAC
//! nonce (16 bytes) | payload, encrypted
//! ```
//!
//! All of its cryptography is that of AWS-LC; what stands here is in which order it is called.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{hkdf, hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use zeroize::Zeroizing;

use super::keys::{Identity, Recipient};

/// What is wrapped.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// Why a wrapped secret could not be had.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WrapError {
    /// It is for other identities.
    #[error("it is encrypted to {recipients} others")]
    NotForUs {
        /// How many it is for.
        recipients: usize,
    },
    /// The wrapping contradicts itself.
    #[error("the wrapped key is damaged: {0}")]
    Damaged(&'static str),
}

const VERSION: &str = "age-encryption.org/v1\n";
/// A line of a body is full at this length; a shorter one ends the body.
const COLUMNS: usize = 64;
/// The longest header: that of 64 recipients has about 7 KiB. Each costs a reader an agreement for each
/// of its identities.
const MAX_HEADER: usize = 16 << 10;

/// Wraps a secret for each of the recipients.
pub(crate) fn wrap(secret: &Secret, recipients: &[Recipient]) -> Result<Vec<u8>, Unspecified> {
    let mut file_key = Zeroizing::new([0; 16]);
    rand::fill(&mut file_key[..])?;
    let mut header = String::from(VERSION);
    for recipient in recipients {
        let mut ephemeral = Zeroizing::new([0; 32]);
        rand::fill(&mut ephemeral[..])?;
        let ephemeral = PrivateKey::from_private_key(&X25519, &ephemeral[..])?;
        let share = ephemeral.compute_public_key()?;
        let key = agreed(&ephemeral, &recipient.0, share.as_ref(), &recipient.0)?;
        let mut body = file_key.to_vec();
        encrypt(&key, [0; 12], &mut body)?;
        header.push_str("-> X25519 ");
        STANDARD_NO_PAD.encode_string(share.as_ref(), &mut header);
        header.push('\n');
        STANDARD_NO_PAD.encode_string(&body, &mut header);
        header.push('\n');
    }
    header.push_str("---");
    let mac = hmac::sign(&mac_key(&file_key)?, header.as_bytes());
    header.push(' ');
    STANDARD_NO_PAD.encode_string(mac.as_ref(), &mut header);
    header.push('\n');

    let mut nonce = [0; 16];
    rand::fill(&mut nonce)?;
    let mut payload = secret.to_vec();
    encrypt(&payload_key(&file_key, &nonce)?, LAST_PIECE, &mut payload)?;
    let mut file = header.into_bytes();
    file.extend_from_slice(&nonce);
    file.extend_from_slice(&payload);
    Ok(file)
}

/// The secret, if one of the identities is among those that it was wrapped for.
pub(crate) fn unwrap(file: &[u8], identities: &[Identity]) -> Result<Secret, WrapError> {
    let header = Header::parse(file)?;
    let Some(file_key) = header.file_key(identities) else {
        return Err(WrapError::NotForUs {
            recipients: header.stanzas.len(),
        });
    };
    let failed = |_| WrapError::Damaged("its payload is not what was encrypted");
    let key = mac_key(&file_key).map_err(failed)?;
    hmac::verify(&key, header.authenticated, &header.mac)
        .map_err(|_| WrapError::Damaged("its header is not what was written"))?;
    let (nonce, payload) = header
        .payload
        .split_first_chunk::<16>()
        .ok_or(WrapError::Damaged("its payload is cut off"))?;
    let key = payload_key(&file_key, nonce).map_err(failed)?;
    let mut payload = Zeroizing::new(payload.to_vec());
    let secret = decrypt(&key, LAST_PIECE, &mut payload).map_err(failed)?;
    let secret = <[u8; 32]>::try_from(secret)
        .map_err(|_| WrapError::Damaged("its payload is no key of an archive"))?;
    Ok(Zeroizing::new(secret))
}

/// The header of a file, and what is behind it.
struct Header<'a> {
    /// Of each recipient that is an X25519 one: the ephemeral share and the wrapped file key.
    stanzas: Vec<([u8; 32], [u8; 32])>,
    /// What the MAC is of.
    authenticated: &'a [u8],
    mac: Vec<u8>,
    payload: &'a [u8],
}

impl<'a> Header<'a> {
    fn parse(file: &'a [u8]) -> Result<Self, WrapError> {
        let damaged = |what| move || WrapError::Damaged(what);
        let mut lines = Lines { file, at: 0 };
        if lines.next() != VERSION.strip_suffix('\n') {
            return Err(WrapError::Damaged("it does not begin as an age file"));
        }
        let mut stanzas = Vec::new();
        let mac = loop {
            let begin = lines.at;
            let line = lines.next().ok_or_else(damaged("its header has no end"))?;
            if let Some(mac) = line.strip_prefix("--- ") {
                let mac = STANDARD_NO_PAD.decode(mac).ok();
                let mac = mac.ok_or_else(damaged("its MAC is no base64"))?;
                break (mac, begin + "---".len());
            }
            let arguments = line
                .strip_prefix("-> ")
                .ok_or_else(damaged("a line of its header is no stanza"))?;
            let mut body = Vec::new();
            loop {
                let line = lines.next().ok_or_else(damaged("a stanza has no end"))?;
                let decoded = STANDARD_NO_PAD.decode(line).ok();
                body.extend(decoded.ok_or_else(damaged("a stanza is no base64"))?);
                if line.len() < COLUMNS {
                    break;
                }
            }
            if let Some(share) = arguments.strip_prefix("X25519 ") {
                let share = STANDARD_NO_PAD.decode(share).ok();
                let share = share.and_then(|share| share.try_into().ok());
                let stanza = share.zip(body.try_into().ok());
                stanzas.push(stanza.ok_or_else(damaged("a stanza has another length"))?);
            }
        };
        let (mac, end) = mac;
        Ok(Self {
            stanzas,
            authenticated: file.get(..end).unwrap_or_default(),
            mac,
            payload: file.get(lines.at..).unwrap_or_default(),
        })
    }

    /// The key of the file, from the first stanza that one of the identities opens.
    fn file_key(&self, identities: &[Identity]) -> Option<Zeroizing<[u8; 16]>> {
        let pairs = identities
            .iter()
            .flat_map(|identity| self.stanzas.iter().map(move |stanza| (identity, stanza)));
        pairs.into_iter().find_map(|(identity, (share, body))| {
            let private = identity.private().ok()?;
            let recipient = identity.recipient()?;
            let key = agreed(&private, share, share, &recipient.0).ok()?;
            let mut body = Zeroizing::new(body.to_vec());
            let file_key = decrypt(&key, [0; 12], &mut body).ok()?;
            Some(Zeroizing::new(file_key.try_into().ok()?))
        })
    }
}

/// The lines of a header: text, each ended by a line feed.
struct Lines<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let rest = self.file.get(self.at..MAX_HEADER.min(self.file.len()))?;
        let len = rest.iter().position(|byte| *byte == b'\n')?;
        self.at += len + 1;
        std::str::from_utf8(rest.get(..len)?).ok()
    }
}

/// The nonce of the first piece of a payload that is the last one, too.
const LAST_PIECE: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// The key that wraps a file key: of the agreement between two keys, one of which is ephemeral.
fn agreed(
    ours: &PrivateKey,
    theirs: &[u8; 32],
    share: &[u8],
    recipient: &[u8; 32],
) -> Result<Secret, Unspecified> {
    let theirs = UnparsedPublicKey::new(&X25519, theirs);
    agreement::agree(ours, theirs, Unspecified, |shared| {
        // A point of small order: the secret would be one that everybody knows.
        if shared.iter().all(|byte| *byte == 0) {
            return Err(Unspecified);
        }
        let salt = [share, recipient].concat();
        derived(&salt, shared, b"age-encryption.org/v1/X25519")
    })
}

fn mac_key(file_key: &[u8; 16]) -> Result<hmac::Key, Unspecified> {
    let key = derived(&[], file_key, b"header")?;
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &key[..]))
}

fn payload_key(file_key: &[u8; 16], nonce: &[u8; 16]) -> Result<Secret, Unspecified> {
    derived(nonce, file_key, b"payload")
}

fn derived(salt: &[u8], secret: &[u8], purpose: &[u8]) -> Result<Secret, Unspecified> {
    let mut key = Zeroizing::new([0; 32]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(secret)
        .expand(&[purpose], hkdf::HKDF_SHA256)?
        .fill(&mut key[..])?;
    Ok(key)
}

fn encrypt(key: &Secret, nonce: [u8; 12], bytes: &mut Vec<u8>) -> Result<(), Unspecified> {
    let nonce = Nonce::assume_unique_for_key(nonce);
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key[..])?);
    key.seal_in_place_append_tag(nonce, Aad::empty(), bytes)
}

fn decrypt<'b>(
    key: &Secret,
    nonce: [u8; 12],
    bytes: &'b mut [u8],
) -> Result<&'b [u8], Unspecified> {
    let nonce = Nonce::assume_unique_for_key(nonce);
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key[..])?);
    key.open_in_place(nonce, Aad::empty(), bytes).map(|it| &*it)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::{env, fs};

    use tempfile::tempdir;

    use super::*;
    use crate::encryption::keys::{Identities, Recipients};

    fn secret() -> Secret {
        Zeroizing::new(std::array::from_fn(|n| n as u8))
    }

    fn wrapped(to: &[&Identities]) -> Vec<u8> {
        let recipients: Vec<Recipient> = to
            .iter()
            .flat_map(|identities| identities.recipients().unwrap().as_slice().to_vec())
            .collect();
        wrap(&secret(), &recipients).unwrap()
    }

    #[test]
    fn each_recipient_opens_it_and_nobody_else() {
        let [a, b, c] = [(); 3].map(|()| Identities::generate().unwrap());
        let file = wrapped(&[&a, &b]);
        for identities in [&a, &b] {
            assert_eq!(unwrap(&file, identities.as_slice()), Ok(secret()));
        }
        let refused = unwrap(&file, c.as_slice());
        assert_eq!(refused, Err(WrapError::NotForUs { recipients: 2 }));
        let mut several = c;
        several.extend(b);
        assert_eq!(unwrap(&file, several.as_slice()), Ok(secret()));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let identity = Identities::generate().unwrap();
        let file = wrapped(&[&identity, &Identities::generate().unwrap()]);
        for place in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[place / 8] ^= 1 << (place % 8);
            assert!(unwrap(&damaged, identity.as_slice()).is_err(), "at {place}");
        }
        for len in 0..file.len() {
            let error = unwrap(&file[..len], identity.as_slice()).unwrap_err();
            assert!(matches!(error, WrapError::Damaged(_)), "{error} at {len}");
        }
        let mut longer = file;
        longer.push(0);
        assert!(unwrap(&longer, identity.as_slice()).is_err());
    }

    #[test]
    fn a_header_is_bounded() {
        let identity = Identities::generate().unwrap();
        let mut file = VERSION.as_bytes().to_vec();
        let line = [b'A'; COLUMNS];
        file.extend_from_slice(b"-> grease\n");
        while file.len() <= MAX_HEADER {
            file.extend_from_slice(&line);
            file.push(b'\n');
        }
        let error = unwrap(&file, identity.as_slice()).unwrap_err();
        assert_eq!(error, WrapError::Damaged("a stanza has no end"));
        // So many recipients fit.
        let most = [(); Recipients::MAX].map(|()| Identities::generate().unwrap());
        let file = wrapped(&most.each_ref());
        assert_eq!(
            unwrap(&file, most[Recipients::MAX - 1].as_slice()),
            Ok(secret())
        );
    }

    /// A share of small order makes an agreement that everybody knows.
    #[test]
    fn a_share_of_small_order_is_refused() {
        let identity = Identities::generate().unwrap();
        let private = identity.as_slice()[0].private().unwrap();
        let recipient = identity.as_slice()[0].recipient().unwrap();
        for share in [[0; 32], std::array::from_fn(|n| u8::from(n == 0))] {
            assert!(agreed(&private, &share, &share, &recipient.0).is_err());
        }
    }

    /// The real program, if it is there.
    fn age(program: &str, arguments: &[&str], folder: &Path) -> Option<bool> {
        let mut command = Command::new(program);
        let command = command.args(arguments).current_dir(folder);
        match command.stderr(Stdio::null()).status() {
            Ok(status) => Some(status.success()),
            Err(_) if env::var_os("TAPEDECK_REQUIRE_TOOLS").is_none_or(|one| one != "1") => {
                println!("skipped: {program} is not installed");
                None
            }
            Err(error) => panic!("{program}: {error}"),
        }
    }

    #[test]
    fn the_age_program_opens_ours_and_we_open_its() {
        let folder = tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let Some(made) = age("age-keygen", &["-o", "key.txt"], folder.path()) else {
            return;
        };
        assert!(made);
        let text = fs::read_to_string(at("key.txt")).unwrap();
        let identities = Identities::parse(&text).unwrap();
        let recipient = identities.recipients().unwrap().to_string();
        assert!(text.contains(&format!("# public key: {recipient}\n")));

        fs::write(
            at("ours.age"),
            wrapped(&[&Identities::generate().unwrap(), &identities]),
        )
        .unwrap();
        let arguments = ["-d", "-i", "key.txt", "-o", "ours", "ours.age"];
        assert_eq!(age("age", &arguments, folder.path()), Some(true));
        assert_eq!(fs::read(at("ours")).unwrap(), *secret());

        // With a recipient of another kind before ours.
        fs::write(at("plain"), *secret()).unwrap();
        let ssh =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN";
        let arguments = ["-r", ssh, "-r", &recipient, "-o", "theirs.age", "plain"];
        assert_eq!(age("age", &arguments, folder.path()), Some(true));
        let theirs = fs::read(at("theirs.age")).unwrap();
        assert_eq!(unwrap(&theirs, identities.as_slice()), Ok(secret()));
        let other = Identities::generate().unwrap();
        let refused = unwrap(&theirs, other.as_slice());
        assert_eq!(refused, Err(WrapError::NotForUs { recipients: 1 }));
    }
}
