//! Recipients and identities, as people and the `age` program write them.

use std::fmt;

use aws_lc_rs::agreement::{PrivateKey, X25519};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Hrp};
use zeroize::Zeroizing;

use crate::provenance::Provenance;

/// Those who can read an archive: public keys, as in `age1...`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Recipients(Vec<Recipient>);

/// A public key.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Recipient(pub(crate) [u8; 32]);

/// Who reads: private keys, as in `AGE-SECRET-KEY-1...`. They are wiped from memory when dropped, and
/// never printed.
#[derive(Clone, Default)]
pub struct Identities(Vec<Identity>);

/// A private key.
#[derive(Clone)]
pub(crate) struct Identity(Zeroizing<[u8; 32]>);

/// Why a key could not be read. Its text is not in it: it may be a secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Another kind of recipient.
    #[error("it is not a recipient as `age-keygen` prints it (`age1...`)")]
    NotARecipient,
    /// A recipient that something else than X25519 is needed for.
    #[error("this program encrypts to `age1...` of X25519 only, not to SSH keys or plugins")]
    OtherRecipient,
    /// A secret where a public key belongs.
    #[error("that is a secret key; encrypt to the public one beside it (`age1...`)")]
    SecretAsRecipient,
    /// Another kind of identity.
    #[error("it is not an identity as `age-keygen` writes it (`AGE-SECRET-KEY-1...`)")]
    NotAnIdentity,
    /// An identity that a passphrase protects.
    #[error("the identity is itself encrypted: `age -d` opens it")]
    Protected,
    /// No key at all.
    #[error("there is no key in it")]
    None,
    /// Too many.
    #[error("there are more than {} keys", Recipients::MAX)]
    TooMany,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandomness,
}

impl From<Unspecified> for KeyError {
    fn from(_: Unspecified) -> Self {
        Self::NoRandomness
    }
}

/// What recipients begin with.
const RECIPIENT: Hrp = Hrp::parse_unchecked("age");
/// What identities begin with.
const IDENTITY: Hrp = Hrp::parse_unchecked("age-secret-key-");

impl Recipients {
    /// The most of them: each takes an archive about 110 bytes, twice, and its reader an agreement.
    pub const MAX: usize = 64;

    /// Reads recipients, one a line; empty lines and those that begin with `#` are passed over.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let recipients = keys(text).map(Recipient::parse);
        let mut recipients: Vec<Recipient> = recipients.collect::<Result<_, _>>()?;
        recipients.sort_unstable();
        recipients.dedup();
        match recipients.len() {
            0 => Err(KeyError::None),
            1..=Self::MAX => Ok(Self(recipients)),
            _ => Err(KeyError::TooMany),
        }
    }

    /// Both these and those.
    pub fn and(mut self, other: &Self) -> Result<Self, KeyError> {
        self.0.extend_from_slice(&other.0);
        self.0.sort_unstable();
        self.0.dedup();
        if self.0.len() <= Self::MAX {
            Ok(self)
        } else {
            Err(KeyError::TooMany)
        }
    }

    /// Those that an archive was encrypted to, as its provenance says. `None`: it was not encrypted.
    #[must_use]
    pub fn of(provenance: &Provenance) -> Option<Self> {
        Self::parse(&provenance.extra.get(ENCRYPTED_TO)?.replace(' ', "\n")).ok()
    }

    /// Notes them in a provenance, or that there are none.
    pub(crate) fn note(these: Option<&Self>, provenance: &mut Provenance) {
        provenance.extra.remove(ENCRYPTED_TO);
        if let Some(these) = these {
            let text = these.to_string();
            provenance.extra.insert(ENCRYPTED_TO.to_owned(), text);
        }
    }

    pub(crate) fn as_slice(&self) -> &[Recipient] {
        &self.0
    }
}

/// The name in the provenance under which an encrypted archive keeps its recipients, so that what is
/// made of it can be encrypted to the same.
const ENCRYPTED_TO: &str = "encrypted_to";

impl fmt::Display for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, recipient) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str(" ")?;
            }
            let text = bech32::encode::<Bech32>(RECIPIENT, &recipient.0);
            f.write_str(&text.map_err(|_| fmt::Error)?)?;
        }
        Ok(())
    }
}

impl Recipient {
    fn parse(text: &str) -> Result<Self, KeyError> {
        if text.starts_with("AGE-SECRET-KEY-") {
            return Err(KeyError::SecretAsRecipient);
        }
        match decode(RECIPIENT, text) {
            Some(key) => Ok(Self(*key)),
            None if text.starts_with("ssh-") || is_of_plugin(text) => Err(KeyError::OtherRecipient),
            None => Err(KeyError::NotARecipient),
        }
    }
}

/// `age1NAME1...`: the separator of bech32 is the last `1`.
fn is_of_plugin(text: &str) -> bool {
    text.strip_prefix("age1")
        .is_some_and(|rest| rest.contains('1'))
}

impl Identities {
    /// None: what reads archives that are not encrypted.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Makes one.
    pub fn generate() -> Result<Self, KeyError> {
        let mut key = Zeroizing::new([0; 32]);
        rand::fill(&mut key[..])?;
        Ok(Self(vec![Identity(key)]))
    }

    /// Reads identities, one a line; empty lines and those that begin with `#` are passed over.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text.starts_with("age-encryption.org/") || text.starts_with("-----BEGIN AGE ENCRYPTED") {
            return Err(KeyError::Protected);
        }
        let identities = keys(text).map(|line| match decode(IDENTITY, line) {
            Some(key) => Ok(Identity(key)),
            None => Err(KeyError::NotAnIdentity),
        });
        let identities: Vec<Identity> = identities.collect::<Result<_, _>>()?;
        match identities.len() {
            0 => Err(KeyError::None),
            1..=Recipients::MAX => Ok(Self(identities)),
            _ => Err(KeyError::TooMany),
        }
    }

    /// Adds others.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those whose archives these open.
    pub fn recipients(&self) -> Result<Recipients, KeyError> {
        let recipients = self.0.iter().filter_map(Identity::recipient);
        Ok(Recipients(recipients.collect()))
    }

    /// The text of the file that [`Identities::parse`] reads: a secret.
    #[must_use]
    pub fn to_secret_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::new());
        for identity in &self.0 {
            if let Ok(line) = bech32::encode_upper::<Bech32>(IDENTITY, &identity.0[..]) {
                text.push_str(&Zeroizing::new(line));
                text.push('\n');
            }
        }
        text
    }

    pub(crate) fn as_slice(&self) -> &[Identity] {
        &self.0
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} identities", self.0.len())
    }
}

impl Identity {
    pub(crate) fn private(&self) -> Result<PrivateKey, Unspecified> {
        Ok(PrivateKey::from_private_key(&X25519, &self.0[..])?)
    }

    pub(crate) fn recipient(&self) -> Option<Recipient> {
        let public = self.private().ok()?.compute_public_key().ok()?;
        Some(Recipient(public.as_ref().try_into().ok()?))
    }
}

/// The lines of a text that are keys.
fn keys(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// The 32 bytes of a key with that beginning.
fn decode(hrp: Hrp, text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let parsed = CheckedHrpstring::new::<Bech32>(text).ok()?;
    let mut key = Zeroizing::new([0; 32]);
    let mut bytes = parsed.byte_iter();
    if parsed.hrp() != hrp || bytes.len() != key.len() {
        return None;
    }
    key.iter_mut()
        .zip(&mut bytes)
        .for_each(|(to, byte)| *to = byte);
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pair in the documentation of age.
    const SECRET: &str =
        "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";
    const PUBLIC: &str = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";

    #[test]
    fn keys_are_read_and_written_as_age_does() {
        let text = format!("# created: today\r\n# public key: {PUBLIC}\r\n\n{SECRET}\r\n");
        let identities = Identities::parse(&text).unwrap();
        assert_eq!(identities.recipients().unwrap().to_string(), PUBLIC);
        assert_eq!(*identities.to_secret_text(), format!("{SECRET}\n"));
        assert_eq!(Recipients::parse(PUBLIC).unwrap().to_string(), PUBLIC);
        let made = Identities::generate().unwrap();
        let text = made.to_secret_text();
        assert_eq!(
            Identities::parse(&text).unwrap().recipients(),
            made.recipients()
        );
    }

    #[test]
    fn secrets_are_not_printed() {
        let identities = Identities::parse(SECRET).unwrap();
        assert_eq!(format!("{identities:?}"), "1 identities");
    }

    #[test]
    fn mistakes_are_told_apart() {
        let recipient = |text: &str| Recipients::parse(text).unwrap_err();
        assert_eq!(recipient(SECRET), KeyError::SecretAsRecipient);
        assert_eq!(
            recipient("ssh-ed25519 AAAA me@here"),
            KeyError::OtherRecipient
        );
        assert_eq!(recipient("age1yubikey1qwt50d05n"), KeyError::OtherRecipient);
        assert_eq!(recipient("bob"), KeyError::NotARecipient);
        assert_eq!(recipient("# nobody\n\n"), KeyError::None);
        // A mistake in typing is found by the checksum.
        assert_eq!(
            recipient(&PUBLIC.replace("zvk", "zvq")),
            KeyError::NotARecipient
        );
        let identity = |text: &str| Identities::parse(text).unwrap_err();
        assert_eq!(identity(PUBLIC), KeyError::NotAnIdentity);
        assert_eq!(
            identity("age-encryption.org/v1\n-> scrypt"),
            KeyError::Protected
        );
        assert_eq!(identity(""), KeyError::None);
    }

    #[test]
    fn recipients_are_bounded_and_counted_once() {
        let many = |count| {
            let texts: Vec<String> = (0..count)
                .map(|_| {
                    Identities::generate()
                        .unwrap()
                        .recipients()
                        .unwrap()
                        .to_string()
                })
                .collect();
            Recipients::parse(&texts.join("\n"))
        };
        assert_eq!(many(Recipients::MAX + 1), Err(KeyError::TooMany));
        let most = many(Recipients::MAX).unwrap();
        assert_eq!(most.clone().and(&most).unwrap(), most);
        assert_eq!(most.and(&many(1).unwrap()), Err(KeyError::TooMany));
    }
}
