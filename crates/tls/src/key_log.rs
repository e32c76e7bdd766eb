//! The secrets of sessions, in the format of `SSLKEYLOGFILE` (RFC 9850).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

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
    /// Whether each session that can be read has exactly one of them.
    const fn is_of_every_session(self) -> bool {
        matches!(self, Self::Master | Self::ClientApplication)
    }

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
    secrets: HashMap<(ClientRandom, Label), (Edition, Secret)>,
    edition: Edition,
}

/// How often something was added to a [`KeyLog`].
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Edition(u32);

/// What became of a text that was added to a [`KeyLog`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Added {
    /// The edition of the log that has it.
    pub edition: Edition,
    /// New sessions: those whose application data can be read now.
    pub sessions: u64,
    /// Secrets that were taken, or had been before.
    pub secrets: u64,
    /// Lines of the format whose secret is of no use here (exporters, other protocols).
    pub passed_over: u64,
    /// Lines that are not of the format.
    pub malformed: u64,
    /// Secrets that were left out because the log was full.
    pub over_limit: u64,
}

impl KeyLog {
    /// An empty log that holds up to `max_secrets` (at most 200 bytes each; a TLS 1.3 session has
    /// four or five).
    #[must_use]
    pub fn new(max_secrets: usize) -> Self {
        Self {
            max_secrets,
            inner: RwLock::default(),
        }
    }

    /// Adds the secrets of a text of whole lines. The first secret for a session stays.
    pub fn add(&self, text: &[u8]) -> Added {
        let inner = &mut *self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.edition.0 = inner.edition.0.saturating_add(1);
        let mut added = Added {
            edition: inner.edition,
            ..Added::default()
        };
        for line in text.split(|byte| *byte == b'\n') {
            match Line::parse(line) {
                Line::Empty => {}
                Line::Other => added.passed_over += 1,
                Line::Malformed => added.malformed += 1,
                Line::Secret(session, label, secret) => {
                    let full = inner.secrets.len() >= self.max_secrets;
                    match inner.secrets.entry((session, label)) {
                        Entry::Occupied(_) => added.secrets += 1,
                        Entry::Vacant(_) if full => added.over_limit += 1,
                        Entry::Vacant(place) => {
                            place.insert((inner.edition, secret));
                            added.secrets += 1;
                            added.sessions += u64::from(label.is_of_every_session());
                        }
                    }
                }
            }
        }
        added
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

    fn read<T>(&self, what: impl FnOnce(&Inner) -> T) -> T {
        what(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A [`KeyLog`] as it was at some point of a capture.
///
/// Threads that read a capture together share the log, and each moves its own view on where the
/// capture holds the secrets: what they find does not depend on which of them is ahead.
#[derive(Debug)]
pub struct Keys {
    log: Arc<KeyLog>,
    edition: AtomicU32,
}

impl Keys {
    /// A view of an empty log, whatever the log holds by now.
    #[must_use]
    pub const fn before_all(log: Arc<KeyLog>) -> Self {
        Self {
            log,
            edition: AtomicU32::new(0),
        }
    }

    /// A view of all that the log holds now.
    #[must_use]
    pub fn new(log: Arc<KeyLog>) -> Self {
        let Edition(edition) = log.read(|inner| inner.edition);
        Self {
            log,
            edition: edition.into(),
        }
    }

    /// From now on, that edition can be seen.
    pub fn advance(&self, edition: Edition) {
        self.edition.fetch_max(edition.0, Ordering::Relaxed);
    }

    pub(crate) fn get(&self, random: &ClientRandom, label: Label) -> Option<Secret> {
        let visible = Edition(self.edition.load(Ordering::Relaxed));
        let found = self
            .log
            .read(|inner| inner.secrets.get(&(*random, label)).copied());
        found
            .filter(|(edition, _)| *edition <= visible)
            .map(|(_, secret)| secret)
    }
}

/// What a line says.
enum Line {
    /// Nothing, or a comment.
    Empty,
    Secret(ClientRandom, Label, Secret),
    /// Something that is of no use here.
    Other,
    Malformed,
}

impl Line {
    fn parse(line: &[u8]) -> Self {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            return Self::Empty;
        }
        let mut words = line
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        let (Some(name), Some(random), Some(secret), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Self::Malformed;
        };
        let Some(label) = Label::from_name(name) else {
            let is_label = |byte: &u8| byte.is_ascii_uppercase() || b"0123456789_".contains(byte);
            let is_hex = |text: &[u8]| text.iter().all(u8::is_ascii_hexdigit);
            return if name.iter().all(is_label) && is_hex(random) && is_hex(secret) {
                Self::Other
            } else {
                Self::Malformed
            };
        };
        let (mut session, mut bytes) = ([0; 32], [0; Secret::MAX]);
        let secret = match (unhex(random, &mut session), unhex(secret, &mut bytes)) {
            (Some(32), Some(len @ (32 | 48))) => bytes.get(..len).and_then(Secret::new),
            _ => None,
        };
        secret.map_or(Self::Malformed, |secret| {
            Self::Secret(session, label, secret)
        })
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

    fn get(keys: &Keys, label: Label) -> Option<Vec<u8>> {
        let secret = keys.get(&[0xab; 32], label)?;
        Some(secret.as_bytes().to_vec())
    }

    #[test]
    fn lines_of_any_kind() {
        let random = "ab".repeat(32);
        let log = KeyLog::new(2);
        let text = format!(
            "# comment\r\n\r\nCLIENT_RANDOM {random} {}\r\nEXPORTER_SECRET {random} 00\n\
             CLIENT_RANDOM {random} {}\nCLIENT_RANDOM {random}\nCLIENT_RANDOM x y\n\
             CLIENT_TRAFFIC_SECRET_0  {random}\t{}\nSERVER_TRAFFIC_SECRET_0 {random} {}\n\
             dear diary today",
            "01".repeat(48),
            "02".repeat(48),
            "03".repeat(32),
            "04".repeat(32),
        );
        let added = log.add(text.as_bytes());
        let expected = Added {
            edition: Edition(1),
            sessions: 2,
            secrets: 3,
            passed_over: 1,
            malformed: 3,
            over_limit: 1,
        };
        assert_eq!(added, expected);
        assert_eq!(log.len(), 2);
        let keys = Keys::new(Arc::new(log));
        assert_eq!(get(&keys, Label::Master), Some(vec![1; 48]), "the first");
        assert_eq!(get(&keys, Label::ClientApplication), Some(vec![3; 32]));
        assert_eq!(get(&keys, Label::ServerApplication), None);
    }

    #[test]
    fn a_view_sees_what_it_was_told_of() {
        let log = Arc::new(KeyLog::new(9));
        let early = Keys::new(Arc::clone(&log));
        let line = format!("CLIENT_RANDOM {} {}", "ab".repeat(32), "77".repeat(48));
        let Added { edition, .. } = log.add(line.as_bytes());
        assert_eq!(get(&early, Label::Master), None);
        assert!(get(&Keys::new(log), Label::Master).is_some());
        early.advance(edition);
        assert!(get(&early, Label::Master).is_some());
    }

    #[test]
    fn secrets_are_not_shown() {
        let log = KeyLog::new(9);
        log.add(format!("CLIENT_RANDOM {} {}", "ab".repeat(32), "77".repeat(48)).as_bytes());
        let keys = Keys::new(Arc::new(log));
        let shown = format!("{keys:?} {:?}", keys.get(&[0xab; 32], Label::Master));
        assert!(!shown.contains("77") && !shown.contains("119"), "{shown}");
    }
}
