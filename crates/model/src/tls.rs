//! What a TLS connection told of itself, and why a connection could not be read.

use std::sync::Arc;

use crate::exchange::Connection;
use crate::flow::PerDirection;
use crate::time::Timestamp;

/// A version of TLS that can be read.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

impl TlsVersion {
    /// The version for people and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}

/// What the handshake of a connection told.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tls {
    /// The version.
    pub version: Option<TlsVersion>,
    /// The cipher suite, by its number in IANA's registry.
    pub suite: Option<u16>,
    /// The name that the client asked for (SNI, RFC 6066 section 3).
    pub server_name: Option<Vec<u8>>,
    /// The protocol that the server chose (ALPN, RFC 7301). In TLS 1.3 it is encrypted, and is
    /// known only with the keys.
    pub alpn: Option<Vec<u8>>,
}

/// Why a TLS connection could not be read, or no further.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Unread {
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
    /// More than a limit allowed had to wait for the handshake.
    Limit,
}

impl Unread {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::NoKeys,
        Self::HandshakeNotSeen,
        Self::UnsupportedVersion,
        Self::UnsupportedSuite,
        Self::Renegotiation,
        Self::Malformed,
        Self::Desynchronised,
        Self::Limit,
    ];

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

/// A TLS connection that was closed to us: it is listed, although nothing of it could be read, or
/// not all.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnreadConnection {
    /// The connection, with what its handshake told.
    pub connection: Arc<Connection>,
    /// When its last byte was seen.
    pub last_byte: Timestamp,
    /// Encrypted payload bytes of each direction, as TCP delivered them.
    pub bytes: PerDirection<u64>,
    /// Why.
    pub reason: Unread,
}
