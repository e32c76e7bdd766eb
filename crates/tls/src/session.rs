//! What both directions of a connection share: the outcome of the handshake.

use tapedeck_model::Direction;

use crate::cipher::{Opener, Suite, next_secret};
use crate::hello::{ClientHello, EncryptedExtensions, ServerHello};
use crate::key_log::{ClientRandom, KeyLog, Label, Secret};

/// A version of TLS that can be read.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Version {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// Why a connection cannot be read, or no further.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Closed {
    /// The key log does not hold its secrets.
    NoKeys,
    /// Its handshake was before the capture, or was lost.
    HandshakeNotSeen,
    /// A version other than 1.2 and 1.3.
    UnsupportedVersion,
    /// A cipher suite that is not read, or compression.
    UnsupportedSuite,
    /// A second handshake within the first (TLS 1.2).
    Renegotiation,
    /// Not TLS, or against its rules.
    Malformed,
    /// Records do not open any more: a loss was too large, or the keys do not fit.
    Desynchronised,
    /// More than [`Limits::held_bytes`](crate::Limits::held_bytes) waited.
    Limit,
}

impl Closed {
    /// The reason for people and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoKeys => "no-keys",
            Self::HandshakeNotSeen => "handshake-not-seen",
            Self::UnsupportedVersion => "unsupported-version",
            Self::UnsupportedSuite => "unsupported-suite",
            Self::Renegotiation => "renegotiation",
            Self::Malformed => "malformed",
            Self::Desynchronised => "desynchronised",
            Self::Limit => "limit",
        }
    }
}

/// What a connection told of itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Facts {
    /// The name that the client asked for (SNI).
    pub server_name: Option<Vec<u8>>,
    /// The protocol that the server chose (ALPN). In TLS 1.3 it is encrypted.
    pub alpn: Option<Vec<u8>>,
    /// The version.
    pub version: Option<Version>,
    /// The cipher suite, by its number in IANA's registry.
    pub suite: Option<u16>,
    /// Why it is closed to us, once it is.
    pub closed: Option<Closed>,
}

/// Which keys protect a direction. They come in this order; not every connection has each.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Epoch {
    Plain,
    /// 0-RTT.
    Early,
    /// TLS 1.3 only.
    Handshake,
    Application,
}

/// What became of 0-RTT data.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Early {
    NotOffered,
    Undecided,
    Accepted,
    Rejected,
}

/// The outcome of the handshake so far.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) facts: Facts,
    pub(crate) early: Early,
    client_random: Option<ClientRandom>,
    server_random: [u8; 32],
    suite: Option<Suite>,
    encrypt_then_mac: bool,
}

impl Session {
    pub(crate) fn new() -> Self {
        Self {
            facts: Facts::default(),
            early: Early::NotOffered,
            client_random: None,
            server_random: [0; 32],
            suite: None,
            encrypt_then_mac: false,
        }
    }

    pub(crate) const fn client_is_known(&self) -> bool {
        self.client_random.is_some()
    }

    pub(crate) const fn is_tls13(&self) -> bool {
        matches!(self.facts.version, Some(Version::Tls13))
    }

    pub(crate) fn client_hello(&mut self, body: &[u8]) -> Result<(), Closed> {
        let hello = ClientHello::parse(body).ok_or(Closed::Malformed)?;
        self.early = match self.early {
            Early::Rejected => Early::Rejected,
            _ if hello.early_data => Early::Undecided,
            _ => Early::NotOffered,
        };
        self.client_random = Some(hello.random);
        self.facts.server_name = hello.server_name;
        Ok(())
    }

    /// Whether the handshake goes on with it: a HelloRetryRequest only asks for another
    /// ClientHello.
    pub(crate) fn server_hello(&mut self, body: &[u8]) -> Result<bool, Closed> {
        let hello = ServerHello::parse(body).ok_or(Closed::Malformed)?;
        let version = match hello.version {
            0x0303 => Version::Tls12,
            0x0304 => Version::Tls13,
            _ => return Err(Closed::UnsupportedVersion),
        };
        self.facts.version = Some(version);
        if hello.retry {
            // It refuses early data too (RFC 8446 section 4.2.10).
            if self.early == Early::Undecided {
                self.early = Early::Rejected;
            }
            return Ok(false);
        }
        self.facts.suite = Some(hello.suite);
        let suite = Suite::from_number(hello.suite)
            .filter(|suite| !hello.compressed && suite.tls13 == (version == Version::Tls13))
            .ok_or(Closed::UnsupportedSuite)?;
        self.suite = Some(suite);
        self.server_random = hello.random;
        self.encrypt_then_mac = hello.encrypt_then_mac;
        self.facts.alpn = hello.alpn;
        Ok(true)
    }

    pub(crate) fn encrypted_extensions(&mut self, body: &[u8]) -> Result<(), Closed> {
        let extensions = EncryptedExtensions::parse(body).ok_or(Closed::Malformed)?;
        self.facts.alpn = extensions.alpn;
        if self.early == Early::Undecided {
            self.early = if extensions.early_data {
                Early::Accepted
            } else {
                Early::Rejected
            };
        }
        Ok(())
    }

    /// The traffic secret that a direction has first in an epoch of TLS 1.3.
    pub(crate) fn traffic_secret(
        &self,
        log: &KeyLog,
        direction: Direction,
        epoch: Epoch,
    ) -> Option<Secret> {
        let label = match (direction, epoch) {
            (_, Epoch::Plain) | (Direction::ToClient, Epoch::Early) => return None,
            (Direction::ToServer, Epoch::Early) => Label::ClientEarly,
            (Direction::ToServer, Epoch::Handshake) => Label::ClientHandshake,
            (Direction::ToServer, Epoch::Application) => Label::ClientApplication,
            (Direction::ToClient, Epoch::Handshake) => Label::ServerHandshake,
            (Direction::ToClient, Epoch::Application) => Label::ServerApplication,
        };
        log.get(&self.client_random?, label)
    }

    /// The key of a traffic secret of TLS 1.3.
    pub(crate) fn open_with(&self, secret: &Secret) -> Option<Opener> {
        Opener::tls13(self.suite?, secret)
    }

    pub(crate) fn next_secret(&self, secret: &Secret) -> Option<Secret> {
        next_secret(self.suite?, secret)
    }

    /// The key of a direction in TLS 1.2.
    pub(crate) fn open_tls12(&self, log: &KeyLog, direction: Direction) -> Option<Opener> {
        let client_random = self.client_random?;
        let master = log.get(&client_random, Label::Master)?;
        let mut randoms = [0; 64];
        let parts = self.server_random.iter().chain(&client_random);
        for (byte, from) in randoms.iter_mut().zip(parts) {
            *byte = *from;
        }
        Opener::tls12(
            self.suite?,
            &master,
            &randoms,
            self.encrypt_then_mac,
            direction,
        )
    }
}
