//! The secrets of sessions, in the format of `SSLKEYLOGFILE` (RFC 9850).

use std::collections::HashMap;
use std::fmt;
use std::sync::{PoisonError, RwLock};

/// The random of a ClientHello: the name of a session in a key log.
pub(crate) type ClientRandom = [u8; 32];

/// What a secret is for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Label {
    /// The master secret of TLS 1.2.
    Master,
    ClientEarly,
    ClientHandshake,
    ServerHandshake,
    ClientApplication,
    ServerApplication,
}

impl Label {
    fn from_name(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"CLIENT_RANDOM" => Self::Master,
            b"CLIENT_EARLY_TRAFFIC_SECRET" => Self::ClientEarly,
            b"CLIENT_HANDSHAKE_TRAFFIC_SECRET" => Self::ClientHandshake,
            b"SERVER_HANDSHAKE_TRAFFIC_SECRET" => Self::ServerHandshake,
            b"CLIENT_TRAFFIC_SECRET_0" => Self::ClientApplication,
            b"SERVER_TRAFFIC_SECRET_0" => Self::ServerApplication,
            _ => return None,
        })
    }
}

/// A secret of up to 48 bytes, the length of a SHA-384 digest and of a master secret.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) struct Secret {
    bytes: [u8; Self::MAX],
    len: usize,
}

impl Secret {
    const MAX: usize = 48;

    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        let mut secret = Self {
            bytes: [0; Self::MAX],
            len: bytes.len(),
        };
        secret.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(secret)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Secrets by session. Shared by the readers of all connections; more may be added at any time.
pub struct KeyLog {
    max_secrets: usize,
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    secrets: HashMap<(ClientRandom, Label), Secret>,
    ignored: u64,
    over_limit: u64,
}

impl KeyLog {
    /// An empty log that holds up to `max_secrets` (at most 140 bytes each; a TLS 1.3 session has
    /// four or five).
    #[must_use]
    pub fn new(max_secrets: usize) -> Self {
        Self {
            max_secrets,
            inner: RwLock::default(),
        }
    }

    /// Adds the secrets of a text of whole lines. Comments, empty lines and labels without use here
    /// are passed over, malformed lines are counted. The first secret for a session stays.
    pub fn add(&self, text: &[u8]) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        for line in text.split(|byte| *byte == b'\n') {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let mut words = line
                .split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty());
            let (Some(name), Some(random), Some(secret), None) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                inner.ignored += 1;
                continue;
            };
            let Some(label) = Label::from_name(name) else {
                continue;
            };
            let (mut session, mut bytes) = ([0; 32], [0; Secret::MAX]);
            let secret = match (unhex(random, &mut session), unhex(secret, &mut bytes)) {
                (Some(32), Some(len @ (32 | 48))) => bytes.get(..len).and_then(Secret::new),
                _ => None,
            };
            let Some(secret) = secret else {
                inner.ignored += 1;
                continue;
            };
            if inner.secrets.len() < self.max_secrets {
                inner.secrets.entry((session, label)).or_insert(secret);
            } else {
                inner.over_limit += 1;
            }
        }
    }

    /// How many secrets it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read(|inner| inner.secrets.len())
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lines that could not be read.
    #[must_use]
    pub fn malformed_lines(&self) -> u64 {
        self.read(|inner| inner.ignored)
    }

    /// Secrets that were left out because the log was full.
    #[must_use]
    pub fn over_limit(&self) -> u64 {
        self.read(|inner| inner.over_limit)
    }

    pub(crate) fn get(&self, random: &ClientRandom, label: Label) -> Option<Secret> {
        self.read(|inner| inner.secrets.get(&(*random, label)).copied())
    }

    fn read<T>(&self, what: impl FnOnce(&Inner) -> T) -> T {
        what(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for KeyLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyLog")
            .field("secrets", &self.len())
            .finish_non_exhaustive()
    }
}

/// Decodes hexadecimal digits, and says how many bytes they are; `None` where they are not, or too
/// many.
fn unhex(text: &[u8], out: &mut [u8]) -> Option<usize> {
    let (pairs, rest) = text.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let out = out.get_mut(..pairs.len())?;
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?;
    }
    Some(pairs.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_any_kind() {
        let random = "ab".repeat(32);
        let log = KeyLog::new(2);
        let text = format!(
            "# comment\r\n\r\nCLIENT_RANDOM {random} {}\r\nEXPORTER_SECRET {random} 00\n\
             CLIENT_RANDOM {random} {}\nCLIENT_RANDOM {random}\nCLIENT_RANDOM x y\n\
             CLIENT_TRAFFIC_SECRET_0  {random}\t{}\nSERVER_TRAFFIC_SECRET_0 {random} {}",
            "01".repeat(48),
            "02".repeat(48),
            "03".repeat(32),
            "04".repeat(32),
        );
        log.add(text.as_bytes());
        let get = |label| {
            log.get(&[0xab; 32], label)
                .map(|secret| secret.as_bytes().to_vec())
        };
        assert_eq!(get(Label::Master), Some(vec![1; 48]), "the first stays");
        assert_eq!(get(Label::ClientApplication), Some(vec![3; 32]));
        assert_eq!(get(Label::ServerApplication), None);
        assert_eq!(
            (log.len(), log.malformed_lines(), log.over_limit()),
            (2, 2, 1)
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let log = KeyLog::new(9);
        log.add(format!("CLIENT_RANDOM {} {}", "ab".repeat(32), "77".repeat(48)).as_bytes());
        let shown = format!("{log:?} {:?}", log.get(&[0xab; 32], Label::Master));
        assert!(!shown.contains("77") && !shown.contains("119"), "{shown}");
    }
}
