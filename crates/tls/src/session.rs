//! What both directions of a connection share: the outcome of the handshake.

use tapedeck_model::{Direction, Tls, TlsVersion, Unread};

use crate::cipher::{Opener, Suite, next_secret};
use crate::hello::{ClientHello, EncryptedExtensions, ServerHello};
use crate::key_log::{ClientRandom, Keys, Label, Secret};

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
    pub(crate) facts: Tls,
    pub(crate) early: Early,
    client_random: Option<ClientRandom>,
    server_random: [u8; 32],
    suite: Option<Suite>,
    encrypt_then_mac: bool,
}

impl Session {
    pub(crate) fn new() -> Self {
        Self {
            facts: Tls::default(),
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

    /// What a record adds to its content, where that is known.
    pub(crate) fn cost(&self) -> Option<u64> {
        self.suite.and_then(Suite::cost)
    }

    pub(crate) const fn is_tls13(&self) -> bool {
        matches!(self.facts.version, Some(TlsVersion::Tls13))
    }

    pub(crate) fn client_hello(&mut self, body: &[u8]) -> Result<(), Unread> {
        let hello = ClientHello::parse(body).ok_or(Unread::Malformed)?;
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
    pub(crate) fn server_hello(&mut self, body: &[u8]) -> Result<bool, Unread> {
        let hello = ServerHello::parse(body).ok_or(Unread::Malformed)?;
        let version = match hello.version {
            0x0303 => TlsVersion::Tls12,
            0x0304 => TlsVersion::Tls13,
            _ => return Err(Unread::UnsupportedVersion),
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
            .filter(|suite| !hello.compressed && suite.tls13 == (version == TlsVersion::Tls13))
            .ok_or(Unread::UnsupportedSuite)?;
        self.suite = Some(suite);
        self.server_random = hello.random;
        self.encrypt_then_mac = hello.encrypt_then_mac;
        self.facts.alpn = hello.alpn;
        Ok(true)
    }

    pub(crate) fn encrypted_extensions(&mut self, body: &[u8]) -> Result<(), Unread> {
        let extensions = EncryptedExtensions::parse(body).ok_or(Unread::Malformed)?;
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
        keys: &Keys,
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
        keys.get(&self.client_random?, label)
    }

    /// The key of a traffic secret of TLS 1.3.
    pub(crate) fn open_with(&self, secret: &Secret) -> Option<Opener> {
        Opener::tls13(self.suite?, secret)
    }

    pub(crate) fn next_secret(&self, secret: &Secret) -> Option<Secret> {
        next_secret(self.suite?, secret)
    }

    /// The key of a direction in TLS 1.2.
    pub(crate) fn open_tls12(&self, keys: &Keys, direction: Direction) -> Option<Opener> {
        let client_random = self.client_random?;
        let master = keys.get(&client_random, Label::Master)?;
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
