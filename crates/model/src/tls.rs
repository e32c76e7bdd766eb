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
    /// The handshake ended before anything was said: with an alert of that number, or, where there
    /// was none, with the connection or the capture.
    HandshakeFailed(Option<u8>),
}

impl Unread {
    /// Every reason; that of a handshake without an alert.
    pub const ALL: [Self; 9] = [
        Self::NoKeys,
        Self::HandshakeNotSeen,
        Self::UnsupportedVersion,
        Self::UnsupportedSuite,
        Self::Renegotiation,
        Self::Malformed,
        Self::Desynchronised,
        Self::Limit,
        Self::HandshakeFailed(None),
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
            Self::HandshakeFailed(_) => "handshake-failed",
        }
    }

    /// The alert that ended the handshake, where one did.
    #[must_use]
    pub const fn alert(self) -> Option<u8> {
        match self {
            Self::HandshakeFailed(alert) => alert,
            _ => None,
        }
    }
}

/// The name of an alert (RFC 8446 section 6, and RFC 5246 section 7.2 for those before it).
#[must_use]
pub const fn alert_name(alert: u8) -> &'static str {
    match alert {
        0 => "close_notify",
        10 => "unexpected_message",
        20 => "bad_record_mac",
        22 => "record_overflow",
        40 => "handshake_failure",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        86 => "inappropriate_fallback",
        90 => "user_canceled",
        100 => "no_renegotiation",
        109 => "missing_extension",
        110 => "unsupported_extension",
        112 => "unrecognized_name",
        113 => "bad_certificate_status_response",
        115 => "unknown_psk_identity",
        116 => "certificate_required",
        120 => "no_application_protocol",
        _ => "unnamed",
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
